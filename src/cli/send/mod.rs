//! `send`: files or stdin to a stream. `connection` is the socket, `delivery` brings chunks of whole lines over it, exactly
//! once where the sender has a name.

mod connection;
mod delivery;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::error::CliError;
use super::lines::{Chunk, InputError, Lines};
use super::pace::Pace;
use super::progress::Progress;
use crate::clock::Clock;
use crate::event::is_producer_name;
use crate::units;
use delivery::{Delivery, DeliveryError, Outcome, Target};

/// How long a named sender tries to get back to its stream, unless told.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Chunks that are read ahead.
const CHUNKS_AHEAD: usize = 4;

/// Sends stdin or files (also .gz and .zst) to a stream, line by line
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill send 127.0.0.1:7600 access.ndjson      again after a break: it goes on where it stopped
  tidemill generate --rate 1000 | tidemill send 127.0.0.1:7600
  zcat *.gz | tidemill send 127.0.0.1:7600 --producer import-2026

A sender with a producer's name sends each line exactly once, through crashes on both sides: the daemon says how many
lines of this name it has, and the sender skips so many. So the input of a name must be the same each time, from its
first line on; it may only have grown. A file's name is `send:<file name>:<hash of its first line>` unless --producer
says another. Blank lines are not sent, nor, where the first line is no JSON object, those that begin with `#`: comments
of the Influx line protocol. It ends when all is durable.")]
pub(super) struct Args {
    /// Where the stream listens: its `tcp`
    #[arg(value_name = "ADDR")]
    address: String,
    /// Files in their order, `-` for stdin [default: stdin]
    files: Vec<PathBuf>,
    /// Name of all that is sent, as one: resumes where the daemon says
    #[arg(long)]
    producer: Option<String>,
    /// The stream's token, or the daemon's
    #[arg(long, env = "TIDEMILL_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// How long to try to get back to the daemon, for senders with a name, like 5s or 10m [default: 30s]
    #[arg(long, value_parser = retry_for)]
    retry_for: Option<Duration>,
    /// Prints the counts as JSON
    #[arg(long)]
    json: bool,
}

fn retry_for(text: &str) -> Result<Duration, String> {
    let ms = units::parse_duration(text).and_then(|ms| u64::try_from(ms).ok());
    ms.map(Duration::from_millis).ok_or_else(|| "it is a duration like 500ms, 30s or 10m".to_owned())
}

/// Sends all and says what became of it.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    if args.token.as_ref().is_some_and(|token| token.contains(['\r', '\n'])) {
        return Err(CliError::Usage("a token is one line".to_owned()));
    }
    let pace =
        Pace::new(Clock::system()).map_err(|error| CliError::Io { what: "cannot set a timer".to_owned(), error })?;
    let bytes_read = Arc::new(AtomicU64::new(0));
    let jobs = jobs(&args, &bytes_read)?;
    let progress = Progress::new(jobs.iter().map(|job| job.bytes).sum(), bytes_read);
    let mut done = Vec::with_capacity(jobs.len());
    for job in jobs {
        let target = Target {
            address: args.address.clone(),
            token: args.token.clone(),
            producer: job.producer.clone(),
            retry_for: args.retry_for.unwrap_or(RETRY_FOR),
        };
        let delivery = Delivery::new(target, read_ahead(job.sources), &pace);
        let outcome = delivery.run(&mut |lines| progress.show(lines)).map_err(|error| {
            progress.end();
            failure(error)
        })?;
        done.push((job.producer, outcome));
    }
    progress.end();
    report(&done, args.json).map_err(CliError::stdout)
}

/// What goes to the stream under one name, or none.
struct Job {
    producer: Option<String>,
    sources: Vec<Lines>,
    /// As far as it is known beforehand.
    bytes: u64,
}

fn jobs(args: &Args, bytes_read: &Arc<AtomicU64>) -> Result<Vec<Job>, CliError> {
    if let Some(name) = args.producer.as_deref().filter(|name| !is_producer_name(name)) {
        return Err(CliError::Usage(format!(
            "--producer `{}`: a producer's name is 1 to 128 letters, digits and `._:/-`",
            super::table::escape(name)
        )));
    }
    let stdin = [PathBuf::from("-")];
    let files = if args.files.is_empty() { &stdin[..] } else { &args.files };
    let mut jobs: Vec<Job> = Vec::with_capacity(files.len());
    for path in files {
        let is_stdin = path == Path::new("-");
        let source = || if is_stdin { Ok(Lines::stdin()) } else { Lines::open(path, bytes_read.clone()) };
        let bytes = if is_stdin { 0 } else { std::fs::metadata(path).map_or(0, |metadata| metadata.len()) };
        let lines = source().map_err(CliError::from)?;
        match (&args.producer, jobs.first_mut()) {
            (Some(_), Some(job)) => {
                job.sources.push(lines);
                job.bytes += bytes;
                continue;
            }
            (Some(name), None) => jobs.push(Job { producer: Some(name.clone()), sources: vec![lines], bytes }),
            (None, _) if is_stdin => jobs.push(Job { producer: None, sources: vec![lines], bytes }),
            (None, _) => {
                let mut probe = Lines::open(path, Arc::default()).map_err(CliError::from)?;
                let name = producer_of(path, &probe.first_line().map_err(CliError::from)?);
                if jobs.iter().any(|job| job.producer.as_ref() == Some(&name)) {
                    return Err(CliError::Usage(format!(
                        "{}: another file has this name and this first line, and would be taken for it; send them apart \
                         with --producer NAME",
                        path.display()
                    )));
                }
                jobs.push(Job { producer: Some(name), sources: vec![lines], bytes });
            }
        }
    }
    Ok(jobs)
}

/// The name of a file's producer. Its first line is part of it: tomorrow's log has the name of today's, and must not be
/// taken for lines that are there already.
fn producer_of(path: &Path, first_line: &[u8]) -> String {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().map(allowed).take(100).collect();
    let hash: String = Sha256::digest(first_line).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("send:{name}:{hash}")
}

/// Reads on a thread of its own, so that a terminal or a pipe that says nothing does not keep replies waiting.
fn read_ahead(sources: Vec<Lines>) -> crossbeam_channel::Receiver<Result<Chunk, InputError>> {
    let (chunks, received) = crossbeam_channel::bounded(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        for mut source in sources {
            while let Some(chunk) = source.next_chunk().transpose() {
                let failed = chunk.is_err();
                if chunks.send(chunk).is_err() || failed {
                    return;
                }
            }
        }
    });
    received
}

fn failure(error: DeliveryError) -> CliError {
    match error {
        DeliveryError::Input(error) => CliError::from(error),
        DeliveryError::OtherInput { .. } => CliError::Usage(error.to_string()),
        _ => CliError::Unavailable(error.to_string()),
    }
}

fn report(done: &[(Option<String>, Outcome)], as_json: bool) -> io::Result<()> {
    let total = done.iter().fold(Outcome::default(), |sum, (_, outcome)| sum + *outcome);
    let mut out = io::stdout().lock();
    if as_json {
        let inputs: Vec<Value> = done.iter().map(|(name, outcome)| counts(name.as_deref(), *outcome)).collect();
        let mut all = counts(None, total);
        all["inputs"] = inputs.into();
        return writeln!(out, "{all}");
    }
    for (name, outcome) in done {
        let Outcome { accepted, rejected, skipped, unreported } = outcome;
        let name = name.as_deref().map(|name| format!("{name}: ")).unwrap_or_default();
        write!(out, "{name}{accepted} accepted, {rejected} rejected")?;
        if *skipped > 0 {
            write!(out, ", {skipped} were durable before")?;
        }
        if *unreported > 0 {
            write!(out, ", {unreported} more are durable (the connection broke before they were counted)")?;
        }
        writeln!(out)?;
    }
    Ok(())
}

fn counts(producer: Option<&str>, outcome: Outcome) -> Value {
    let Outcome { accepted, rejected, skipped, unreported } = outcome;
    let lines = accepted + rejected + skipped + unreported;
    json!({
        "producer": producer, "lines": lines, "accepted": accepted, "rejected": rejected, "skipped": skipped,
        "unreported": unreported,
    })
}

#[cfg(test)]
mod tests;
