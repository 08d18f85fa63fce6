//! The daemon under torture: a process of this very program.

use std::fs::File;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::{Run, Trouble};
use crate::cli::error::CliError;

/// So long a daemon may take to start, to commit what it was given, to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// So long a replay may take.
const REPLAY_PATIENCE: Duration = Duration::from_secs(30);
/// Lines of its log that are shown where it did not start.
const LOG_LINES: usize = 8;
/// The signal.
pub(super) const KILL: i32 = 9;

/// A folder with a config, a journal and perhaps a store.
pub(super) struct Home {
    pub(super) folder: PathBuf,
}

/// What the environment of a daemon says.
#[derive(Default)]
pub(super) struct Environment {
    /// Where it ends itself.
    pub(super) moment: Option<(&'static str, u64)>,
    /// How wrong its clock is, ms: at first, and then.
    pub(super) clock: Option<(i64, i64)>,
    /// Window actors a pipeline; 0: as it likes.
    pub(super) window_actors: u64,
    /// Without a fault, whatever our own environment says.
    pub(super) sound: bool,
}

/// A running daemon. Dropping it kills it.
pub(super) struct Daemon {
    child: Child,
    http: String,
    tcp: Value,
}

/// How a start ended.
pub(super) enum Started {
    Ready(Daemon),
    /// It was killed before it was ready.
    Killed,
}

impl Home {
    /// Makes it.
    pub(super) fn new(folder: PathBuf, config: &str) -> Result<Self, CliError> {
        let home = Self { folder };
        std::fs::create_dir_all(&home.folder).map_err(|error| home.unusable(error))?;
        home.change(config)?;
        Ok(home)
    }

    /// What its next daemon does.
    pub(super) fn change(&self, config: &str) -> Result<(), CliError> {
        let config = format!("{config}\n[http]\nlisten = \"127.0.0.1:0\"\n");
        std::fs::write(self.config(), config).map_err(|error| self.unusable(error))
    }

    pub(super) fn config(&self) -> PathBuf {
        self.folder.join("tidemill.toml")
    }

    /// The journal of a stream.
    pub(super) fn journal(&self, stream: &str) -> PathBuf {
        self.folder.join("data/journal").join(stream)
    }

    pub(super) fn log(&self) -> PathBuf {
        self.folder.join("daemon.log")
    }

    pub(super) fn unusable(&self, error: std::io::Error) -> CliError {
        CliError::Io { what: self.folder.display().to_string(), error }
    }

    /// Starts a daemon and waits until it takes lines, or is no more.
    pub(super) fn start(&self, run: &Run, environment: &Environment) -> Result<Started, Trouble> {
        let ready = self.folder.join("ready");
        // There is none before the first start.
        let _ = std::fs::remove_file(&ready);
        let mut child = self
            .command(&ready, environment)
            .and_then(|mut command| command.spawn())
            .map_err(|error| CliError::Io { what: "cannot start a daemon".to_owned(), error })?;
        let waited = run.wait(PATIENCE, || {
            // In this order: one that was ready may have ended since.
            let said = read_ready(&ready);
            match child.try_wait() {
                Ok(Some(status)) => Some(Err(status)),
                _ => said.map(Ok),
            }
        });
        match waited {
            Ok(Some(Ok(ready))) => {
                let http = ready["http"].as_str().unwrap_or_default().to_owned();
                Ok(Started::Ready(Daemon { child, http, tcp: ready["tcp"].clone() }))
            }
            Ok(Some(Err(status))) if status.signal() == Some(KILL) => Ok(Started::Killed),
            Ok(Some(Err(status))) => {
                Err(Trouble::Broken(format!("the daemon does not start again ({status}): {}", self.last_words())))
            }
            ended => {
                kill(&mut child);
                ended?;
                let words = self.last_words();
                Err(Trouble::Broken(format!("the daemon is not ready after {} s: {words}", PATIENCE.as_secs())))
            }
        }
    }

    fn command(&self, ready: &Path, environment: &Environment) -> std::io::Result<Command> {
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("run").arg(self.config()).arg("--ready").arg(ready);
        // In a group of its own, so that a Ctrl-C in the terminal is for us alone: we end it then.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).process_group(0);
        command.env_remove("TIDEMILL_MOMENT").env_remove("TIDEMILL_CLOCK");
        if environment.window_actors > 0 {
            command.arg("--window-actors").arg(environment.window_actors.to_string());
        }
        if let Some((name, pass)) = environment.moment {
            command.env("TIDEMILL_MOMENT", format!("{name}:{pass}"));
        }
        if let Some((before, after)) = environment.clock {
            command.env("TIDEMILL_CLOCK", format!("{before}:{after}"));
        }
        if environment.sound {
            command.env_remove("TIDEMILL_SABOTAGE");
        }
        Ok(command)
    }

    /// The end of its log, on one line.
    pub(super) fn last_words(&self) -> String {
        let log = std::fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let mut lines: Vec<&str> = log.lines().rev().take(LOG_LINES).collect();
        lines.reverse();
        lines.join(" · ")
    }
}

fn read_ready(path: &Path) -> Option<Value> {
    let text = std::fs::read_to_string(path).ok().filter(|text| text.ends_with('\n'))?;
    serde_json::from_str(&text).ok()
}

fn kill(child: &mut Child) {
    // It may have ended by itself.
    let _ = child.kill();
    let _ = child.wait();
}

impl Daemon {
    /// Where a stream takes lines.
    pub(super) fn tcp(&self, stream: &str) -> String {
        self.tcp[stream].as_str().unwrap_or_default().to_owned()
    }

    /// Where it answers.
    pub(super) fn http(&self) -> &str {
        &self.http
    }

    /// How it ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// `kill -9`.
    pub(super) fn kill(&mut self) {
        kill(&mut self.child);
    }

    /// SIGTERM; it must drain, and end well.
    pub(super) fn stop(mut self, run: &Run) -> Result<(), Trouble> {
        // It may have ended by itself, which is seen below.
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        match run.wait(PATIENCE, || self.ended())? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(Trouble::Broken(format!("the daemon did not stop well: {status}"))),
            None => Err(Trouble::Broken(format!("the daemon does not stop within {} s", PATIENCE.as_secs()))),
        }
    }

    /// Puts all letters of a pipeline under replay that are not; how many. `None` where it does not do that now.
    pub(super) fn replay(&self, pipeline: &str) -> Option<u64> {
        let body = serde_json::json!({ "pipeline": pipeline }).to_string();
        let mut answer = agent().post(format!("http://{}/api/v1/dead-letters/replay", self.http)).send(body).ok()?;
        let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()?;
        let replays = answer["replays"].as_array()?;
        Some(replays.iter().filter_map(|replay| replay["letters"].as_u64()).sum())
    }

    /// Replays letters of a pipeline until there is none left.
    pub(super) fn replay_all(&mut self, run: &Run, pipeline: &str) -> Result<(), Trouble> {
        let left =
            run.wait(REPLAY_PATIENCE, || (self.ended().is_some() || self.replay(pipeline) == Some(0)).then_some(()))?;
        left.ok_or_else(|| Trouble::Broken(format!("letters of {pipeline} are still under replay")))
    }

    /// Waits until all pipelines have committed all that was taken.
    pub(super) fn settle(&mut self, run: &Run) -> Result<(), Trouble> {
        let mut last = String::new();
        let settled = run.wait(PATIENCE, || {
            if let Some(status) = self.ended() {
                return Some(Err(format!("the daemon ended by itself: {status}")));
            }
            let stats = stats(&self.http)?;
            let behind = behind(&stats);
            last = behind.join(", ");
            behind.is_empty().then_some(Ok(()))
        })?;
        match settled {
            Some(Ok(())) => Ok(()),
            Some(Err(why)) => Err(Trouble::Broken(why)),
            None => Err(Trouble::Broken(format!("not committed after {} s: {last}", PATIENCE.as_secs()))),
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).proxy(None).build().into()
}

fn stats(http: &str) -> Option<Value> {
    let mut answer = agent().get(format!("http://{http}/api/v1/stats")).call().ok()?;
    serde_json::from_str(&answer.body_mut().read_to_string().ok()?).ok()
}

/// Pipelines that have not committed all of their streams.
fn behind(stats: &Value) -> Vec<String> {
    let all = |what: &str| stats[what].as_array().cloned().unwrap_or_default();
    let streams = all("streams");
    let is_behind = |pipeline: &Value| {
        let stream = streams.iter().find(|stream| stream["name"] == pipeline["stream"])?;
        let (last, position) = (stream["journal"]["last"].as_u64()?, pipeline["position"].as_u64()?);
        let (name, state) = (pipeline["name"].as_str()?, pipeline["state"].as_str()?);
        (position < last).then(|| format!("{name} is {state} at {position} of {last} {}", pipeline["error"]))
    };
    all("pipelines").iter().filter_map(is_behind).collect()
}
