//! `torture`: a daemon under numbered events that is killed again and again, and a verdict about what is in its store.
//!
//! `lines` makes the events, `producers` bring them, `pipelines` says what must come of them; `daemon` and `store` are what
//! is broken, `rounds` breaks it, `verdict` looks at what is left.

mod daemon;
mod lines;
mod pipelines;
mod producers;
mod rounds;
mod store;
mod verdict;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use super::pace::Pace;
use super::serve::runtime;
use crate::clock::Clock;
use crate::moments;
use daemon::{Environment, Home, Started};
use lines::{Lines, MAIN};
use rounds::{Damage, Ground, Rounds};
use store::Store;
use verdict::{Tables, Verdict};

/// How often is looked at what is waited for.
const LOOK: Duration = Duration::from_millis(3);

/// Kills a daemon of its own again and again under numbered events, and checks that nothing is lost or counted twice
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill torture
  tidemill torture --rounds 200 --json
  tidemill torture --store postgres://user@localhost/test

In each round a daemon of its own, in a temporary folder, takes lines of four producers (three that resume where they are
told, one that repeats POSTs) and is killed by SIGKILL at a random moment; in between its store is held or cut off. What
the store holds at the end is compared with an undisturbed run of the same journal, with what the producers sent, and
with the account. In a database it makes a schema of its own, and drops it. Exit code 0: no difference; 1: there are, and
all is kept to be looked at.")]
pub(super) struct Args {
    /// How often the daemon is killed
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rounds: u64,
    /// Which lines, and which moments; the same again repeats a run as far as the machine does [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// `sqlite`, or the URL of a PostgreSQL database [default: sqlite]
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Kill at this named moment only, or at these (in test builds)
    #[arg(long, value_name = "NAME")]
    moment: Vec<String>,
    /// Prints the verdict as JSON
    #[arg(long)]
    json: bool,
}

/// Why it does not go on.
pub(super) enum Trouble {
    /// Ctrl-C, or SIGTERM.
    Interrupted,
    /// A promise is broken: that is the verdict.
    Broken(String),
    /// It cannot work here.
    Cli(CliError),
}

impl From<CliError> for Trouble {
    fn from(error: CliError) -> Self {
        Self::Cli(error)
    }
}

/// What all parts of a run share.
pub(super) struct Run {
    pub(super) pace: Pace,
    interrupted: Arc<AtomicBool>,
}

impl Run {
    fn new() -> Result<Self, CliError> {
        let cannot = |error| CliError::Io { what: "cannot wait".to_owned(), error };
        let interrupted = Arc::new(AtomicBool::new(false));
        let (runtime, told) = (runtime()?, interrupted.clone());
        std::thread::spawn(move || {
            let waited: io::Result<()> = runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate())?;
                let mut interrupt = signal(SignalKind::interrupt())?;
                tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
                Ok(())
            });
            // Without signals it ends as any program does.
            told.store(waited.is_ok(), Ordering::Relaxed);
        });
        Ok(Self { pace: Pace::new(Clock::system()).map_err(cannot)?, interrupted })
    }

    /// Looks again and again, at most so long; `None` where that was not enough.
    pub(super) fn wait<T>(&self, at_most: Duration, mut look: impl FnMut() -> Option<T>) -> Result<Option<T>, Trouble> {
        let until = self.pace.elapsed() + at_most;
        loop {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err(Trouble::Interrupted);
            }
            if let Some(found) = look() {
                return Ok(Some(found));
            }
            if self.pace.elapsed() >= until {
                return Ok(None);
            }
            self.pace.sleep(LOOK);
        }
    }
}

/// What a run came to.
struct Outcome {
    rounds: Rounds,
    verdict: Verdict,
    /// A promise that was broken before there was a verdict.
    broken: Option<String>,
    seconds: f64,
}

impl Outcome {
    fn is_clean(&self) -> bool {
        self.broken.is_none() && self.verdict.is_clean()
    }
}

/// Tortures, and says what came of it.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let moments = chosen_moments(&args.moment)?;
    let store = Store::new(args.store.as_deref())?;
    store.probe()?;
    let lines = Lines { seed: args.seed.unwrap_or_else(|| fastrand::u64(..) >> 16), rounds: args.rounds };
    let folder = tempfile::Builder::new().prefix("tidemill-torture-").tempdir();
    let folder = folder.map_err(|error| CliError::Io { what: "cannot make a temporary folder".to_owned(), error })?;
    let run = Run::new()?;
    let calm_store = store.another();
    let mut rounds = Rounds::new(lines, moments, !args.moment.is_empty());
    let bar = bar(args.rounds);
    let judged = judge(&run, &mut rounds, (&store, &calm_store), folder.path(), &bar);
    bar.finish_and_clear();
    let (verdict, broken) = match judged {
        Ok(verdict) => (verdict, None),
        Err(Trouble::Broken(why)) => (Verdict::default(), Some(why)),
        Err(trouble) => {
            // What went wrong is worth more than what could not be taken away after it.
            let _ = store.remove().and_then(|()| calm_store.remove());
            return Err(match trouble {
                Trouble::Cli(error) => error,
                _ => CliError::Unavailable("interrupted: there is no verdict".to_owned()),
            });
        }
    };
    let outcome = Outcome { rounds, verdict, broken, seconds: run.pace.elapsed().as_secs_f64() };
    report(&outcome, lines, &store, args.json).map_err(CliError::stdout)?;
    if outcome.is_clean() {
        return store.remove().and_then(|()| calm_store.remove());
    }
    let removals = [&store, &calm_store].into_iter().filter_map(Store::how_to_remove);
    let removals: String = removals.map(|how| format!("\n  {how};")).collect();
    let folder = folder.keep();
    let home = Home { folder: folder.join("tortured") };
    Err(CliError::Check(format!(
        "something is wrong, and all is kept in {}\n  log:    {}\n  store:  {}\n  again:  tidemill torture --seed {} --rounds \
         {}{removals}",
        folder.display(),
        home.log().display(),
        store.place(&home),
        lines.seed,
        lines.rounds
    )))
}

fn chosen_moments(names: &[String]) -> Result<Vec<&'static str>, CliError> {
    if !moments::are_built_in() {
        return match names {
            [] => Ok(Vec::new()),
            _ => Err(CliError::Usage(
                "--moment: named moments are not in this build: only a test build has them (`cargo test`)".to_owned(),
            )),
        };
    }
    let known = |name: &String| {
        let found = moments::MOMENTS.iter().find(|known| *known == name).copied();
        found.ok_or_else(|| CliError::Usage(format!("--moment {name}: it is one of {}", moments::MOMENTS.join(" "))))
    };
    if names.is_empty() { Ok(moments::MOMENTS.to_vec()) } else { names.iter().map(known).collect() }
}

fn judge(
    run: &Run,
    rounds: &mut Rounds,
    (store, calm_store): (&Store, &Store),
    folder: &Path,
    bar: &ProgressBar,
) -> Result<Verdict, Trouble> {
    let config =
        |is_mended| format!("{}flush_every = \"30ms\"\n{}", store.section(), pipelines::config(true, is_mended));
    let home = Home::new(folder.join("tortured"), &config(false))?;
    rounds.run(Ground { run, home: &home, store }, &config(true), bar)?;
    bar.set_message("an undisturbed run of the same journal");
    let config = format!("{}{}", calm_store.section(), pipelines::config(false, true));
    let calm = Home::new(folder.join("calm"), &config)?;
    copy(&home.journal(MAIN), &calm.journal(MAIN)).map_err(|error| calm.unusable(error))?;
    match calm.start(run, &Environment { sound: true, ..Environment::default() })? {
        Started::Killed => return Err(Trouble::Broken("somebody has killed the undisturbed daemon".to_owned())),
        Started::Ready(mut daemon) => {
            daemon.settle(run)?;
            daemon.stop(run)?;
        }
    }
    let tortured = Tables::read(store, &home)?;
    let calm = Tables::read(calm_store, &calm)?.only_main();
    Ok(Verdict::of(tortured, &calm, rounds.lines))
}

/// A folder of files.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        std::fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}

fn bar(rounds: u64) -> ProgressBar {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(rounds) } else { ProgressBar::hidden() };
    // The template is right, and without it a bar has a style, too.
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} rounds {eta} {msg}");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn report(outcome: &Outcome, lines: Lines, store: &Store, as_json: bool) -> io::Result<()> {
    let Outcome { rounds, verdict, broken, seconds } = outcome;
    let Damage { kills, hits, holds, cuts, clock_steps, interrupted, .. } = &rounds.damage;
    let sent: u64 = lines::PRODUCERS.iter().map(|producer| lines.all(producer)).sum();
    let mut out = io::stdout().lock();
    if as_json {
        let hits: BTreeMap<_, _> = hits.iter().collect();
        let json = json!({
            "ok": outcome.is_clean(), "broken": broken, "rounds": rounds.done, "kills": kills, "moments": hits,
            "interrupted_sends": interrupted, "store": store.kind(), "store_held": holds, "store_cut": cuts,
            "clock_steps": clock_steps, "lines": sent, "compared": verdict.compared,
            "differences": verdict.undisturbed + verdict.sent, "differences_undisturbed": verdict.undisturbed,
            "differences_sent": verdict.sent, "unaccounted": verdict.unaccounted, "examples": verdict.examples,
            "seed": lines.seed, "seconds": (seconds * 10.0).round() / 10.0,
        });
        return writeln!(out, "{json}");
    }
    let at_moments: u64 = hits.values().sum();
    writeln!(
        out,
        "{} rounds in {seconds:.0} s: {kills} kills ({at_moments} at named moments), {interrupted} producers interrupted, \
         the store held {holds} times and cut off {cuts} times, {clock_steps} steps of the clock; seed {}",
        rounds.done, lines.seed
    )?;
    if !moments::are_built_in() {
        writeln!(out, "  (named moments and steps of the clock are not in this build: only a test build has them)")?;
    }
    if let Some(broken) = broken {
        return writeln!(out, "broken: {}", super::table::escape(broken));
    }
    writeln!(
        out,
        "{sent} lines; {} rows and letters compared\n  {} differ from an undisturbed run of the same journal\n  {} differ \
         from what the producers sent\n  {} events are not accounted for",
        verdict.compared, verdict.undisturbed, verdict.sent, verdict.unaccounted
    )?;
    for example in &verdict.examples {
        writeln!(out, "  - {}", super::table::escape(example))?;
    }
    writeln!(out, "{}", if outcome.is_clean() { "nothing lost, nothing twice" } else { "NOT as it must be" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_tortured_is_a_usage_error() {
        let other = |store: &str| Store::new(Some(store)).err().map(|error| error.exit_code());
        assert_eq!(other("mysql://x"), Some(64));
        assert_eq!(other("postgres://h/db?sslmode=perhaps"), Some(78));
        assert_eq!(chosen_moments(&["lunch".to_owned()]).unwrap_err().exit_code(), 64);
        assert!(Store::new(None).is_ok() && chosen_moments(&[]).is_ok());
    }
}
