//! `run`: the daemon.

use std::io::Write;
use std::path::{Path, PathBuf};

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::serve::{runtime, start, until_stopped};
use crate::{Mill, Reloads, Tidemill};

/// Runs the daemon until SIGTERM or Ctrl-C
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tidemill run tidemill.toml")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
    /// Writes the addresses as one line of JSON into this file (-: stdout), once lines are taken
    #[arg(long, value_name = "FILE")]
    ready: Option<PathBuf>,
    /// Window actors of each pipeline; results do not depend on it
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    window_actors: usize,
    /// Accepts what this start loses: the code that `tidemill plan` ends with
    #[arg(long, value_name = "CODE")]
    accept_plan: Option<String>,
}

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    crate::moments::arm().map_err(CliError::Usage)?;
    let mill = Tidemill::from_file(&args.config).map_err(|report| CliError::config(&report))?;
    let mut mill = mill.window_actors(args.window_actors);
    if let Some(code) = args.accept_plan {
        mill = mill.accept_plan(code);
    }
    let streams: Vec<String> = mill.config().streams.iter().map(|stream| stream.name.clone()).collect();
    runtime()?.block_on(async {
        let mill = start(mill).await?;
        for stream in &streams {
            if let Some(address) = mill.tcp_address(stream) {
                log::info!("stream {stream}: taking lines on {address}");
            }
        }
        log::info!("stats: http://{}/api/v1/stats", mill.http_address());
        if let Some(path) = &args.ready {
            tell(path, &mill, &streams)?;
        }
        let reloads = mill.reloads();
        until_stopped(mill, reload_on_hangup(reloads)).await
    })
}

/// SIGHUP: the config file is read again. What became of it is in the log; a plan that loses something is accepted over
/// HTTP alone, which can carry its code.
async fn reload_on_hangup(reloads: Reloads) {
    let Ok(mut hangup) = signal(SignalKind::hangup()) else { return std::future::pending().await };
    while hangup.recv().await.is_some() {
        let _ = reloads.reload(None).await;
    }
}

fn tell(path: &Path, mill: &Mill, streams: &[String]) -> Result<(), CliError> {
    let tcp: serde_json::Map<_, _> = streams
        .iter()
        .filter_map(|stream| Some((stream.clone(), mill.tcp_address(stream)?.to_string().into())))
        .collect();
    let line = format!("{}\n", serde_json::json!({ "http": mill.http_address().to_string(), "tcp": tcp }));
    let written = match path.to_str() {
        Some("-") => std::io::stdout().write_all(line.as_bytes()),
        _ => std::fs::write(path, line),
    };
    written.map_err(|error| CliError::Io { what: format!("cannot write {}", path.display()), error })
}
