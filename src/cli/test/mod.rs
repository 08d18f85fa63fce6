//! `test`: runs the `[[tests]]` of a config. `steps` takes one through the actors, `compare` finds what is not as expected,
//! `diff` shows it.

mod compare;
mod diff;
mod steps;

use std::io::Write;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::error::CliError;
use super::table::escape;
use crate::config::{Config, StoreUrl, TestConfig, load};
use crate::store::Store;

/// Runs the tests of a config: events in, rows and letters expected
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill test tidemill.toml
  tidemill test tidemill.toml --filter late

A test is a [[tests]] of the config:

  [[tests]]
  name = \"errors are counted apart\"
  pipeline = \"page_views\"
  events = [
    '{\"ts\": \"2026-11-21T12:00:01Z\", \"path\": \"/\", \"status\": 200}',       # a line, as it would be sent
    { ts = \"2026-11-21T12:00:02Z\", path = \"/\", status = 500 },            # or a table
  ]
  rows = [{ path = \"/\", window_start = \"2026-11-21T12:00:00Z\", views = 2, errors = 1, closed = false }]
  letters = []

`rows` are all rows of the pipeline's view, in any order; columns that a row does not name are not compared; NULL needs
JSON: '{\"path\": null, \"views\": 1}'. Floats are equal within a billionth. `letters` are all letters of the pipeline and its
stream: `kind`, and parts of `stage`, `reason` and `event` (its line). Without `rows`, or `letters`, they are not looked at.

Steps let time pass: `advance` is silence behind the step's events, counted from there, which moves the clock and, beyond
`idle`, the watermark. `now` is the clock at the beginning (default 2100-01-01: behind all events).

  [[tests.steps]]
  events = [{ ts = \"2026-11-21T12:00:01Z\", path = \"/\" }]
  [[tests.steps]]
  advance = \"6m\"
  rows = [{ path = \"/\", closed = true }]

The daemon's actors run, over a store of their own and a clock turned by hand: the config's store, data_dir, addresses and
Redis are not touched. Exit code: 0 all passed, or there are none, 1 one failed, 64 --filter finds none, 78 the config.")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
    /// Only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
}

/// Runs them, side by side, and prints in the order of the file.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let is_chosen = |test: &&TestConfig| args.filter.as_ref().is_none_or(|filter| test.name.contains(filter));
    let tests: Vec<&TestConfig> = config.tests.iter().filter(is_chosen).collect();
    let file = escape(&args.config.display().to_string());
    if tests.is_empty() {
        return match &args.filter {
            Some(filter) => Err(CliError::Usage(format!("no test of {file} has `{}` in its name", escape(filter)))),
            None => print(&format!("{file} has no [[tests]]: `tidemill test --help` shows one\n")),
        };
    }
    let folder = tempfile::Builder::new().prefix("tidemill-test-").tempdir();
    let folder = folder.map_err(|error| CliError::Io { what: "cannot make a temporary folder".to_owned(), error })?;
    let results = all(&config, &tests, folder.path())?;
    let mut failed = 0;
    for (test, result) in tests.iter().zip(results) {
        let name = escape(&test.name);
        match result? {
            None => print(&format!("ok      {name}\n"))?,
            Some(failure) => {
                failed += 1;
                print(&format!("FAILED  {name} ({file}:{})\n{failure}\n", test.line))?;
            }
        }
    }
    let passed = tests.len() - failed;
    print(&format!("{passed} passed, {failed} failed\n"))?;
    match failed {
        0 => Ok(()),
        1 => Err(CliError::Check("1 test failed".to_owned())),
        _ => Err(CliError::Check(format!("{failed} tests failed"))),
    }
}

fn print(text: &str) -> Result<(), CliError> {
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::stdout)
}

type Outcome = Result<Option<String>, CliError>;

/// Each in a store of its own, which begins as a copy: tables are made once.
fn all(config: &Config, tests: &[&TestConfig], folder: &Path) -> Result<Vec<Outcome>, CliError> {
    let empty = folder.join("empty.db");
    Store::migrate(&StoreUrl::Sqlite(empty.clone())).map_err(|error| CliError::Unavailable(error.to_string()))?;
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(test) = tests.get(index) else { return };
            let result = one(config, test, &empty, &folder.join(format!("{index}.db")));
            results.lock().push((index, result));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(tests.len());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|(index, _)| *index);
    Ok(results.into_iter().map(|(_, result)| result).collect())
}

/// What is not as it expects, as text.
fn one(config: &Config, test: &TestConfig, empty: &Path, store: &Path) -> Outcome {
    let copied = std::fs::copy(empty, store);
    copied.map_err(|error| CliError::Io { what: format!("cannot write {}", store.display()), error })?;
    let Some(pipeline) = config.pipelines.iter().find(|pipeline| pipeline.name == test.pipeline) else {
        return Err(CliError::Bug(format!("no pipeline {}", test.pipeline)));
    };
    let seen = match steps::run(config, pipeline, test, store) {
        Ok(seen) => seen,
        Err(reason) => return Ok(Some(diff::indented(&escape(&reason)))),
    };
    let mut text = String::new();
    for (step, seen) in test.steps.iter().zip(seen) {
        let place = if test.steps.len() > 1 { format!("step of line {}, ", step.line) } else { String::new() };
        let place = format!("{place}pipeline {}", test.pipeline);
        let rows = step.rows.as_ref().map(|rows| diff::rows(&place, rows, &seen.rows, pipeline)).unwrap_or_default();
        // Events that are not in a row may have become letters, of which the test says nothing.
        let letters = match &step.letters {
            Some(letters) => diff::letters(&place, letters, &seen.letters),
            None if !rows.is_empty() => diff::letters(&place, &[], &seen.letters),
            None => String::new(),
        };
        text.push_str(&rows);
        text.push_str(&letters);
    }
    Ok((!text.is_empty()).then_some(text))
}
