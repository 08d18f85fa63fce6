//! `doctor`: looks at everything that a daemon stands on, changes nothing, and says what to do next; `--repair` makes a
//! damaged journal readable again.

mod journals;
mod machine;
mod owner;
mod store;

use std::io::Write;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::{Value, json};

use super::error::CliError;
use super::table::escape;
use crate::config::load;
use owner::Owner;

/// Checks journal, store, disk, ports and clock: one line each (exit code 0: nothing failed, 1: something did)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill doctor tidemill.toml
  tidemill doctor tidemill.toml --repair   # with the daemon stopped: damaged files are kept beside the mended ones")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
    /// Makes a damaged journal readable again; the positions that are lost are named
    #[arg(long)]
    repair: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    Warning,
    Failed,
}

/// One line.
#[derive(Debug, Serialize)]
struct Check {
    check: String,
    verdict: Verdict,
    says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    details: Value,
}

impl Check {
    fn new(check: impl Into<String>, verdict: Verdict, says: impl Into<String>) -> Self {
        Self { check: check.into(), verdict, says: says.into(), next: None, details: Value::Null }
    }

    fn ok(check: impl Into<String>, says: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, says)
    }

    fn warning(check: impl Into<String>, says: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, says).with_next(next)
    }

    fn failed(check: impl Into<String>, says: impl Into<String>, next: impl Into<String>) -> Self {
        Self::new(check, Verdict::Failed, says).with_next(next)
    }

    fn with_next(self, next: impl Into<String>) -> Self {
        Self { next: Some(next.into()), ..self }
    }

    fn with_details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    fn line(&self) -> String {
        let verdict = match self.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "failed",
        };
        let next = self.next.as_ref().map(|next| format!("; next: {next}")).unwrap_or_default();
        format!("{verdict:<8} {}: {}{}", escape(&self.check), escape(&self.says), escape(&next))
    }
}

/// Looks, and says what it saw.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let (owner, check) = Owner::of(&config.data_dir);
    let mut checks = vec![check];
    // Before the journals: a daemon that runs goes on, and no checkpoint may look as if it were ahead of its journal.
    let (check, kept) = store::look(&config.store);
    checks.push(check);
    let mut journals = Vec::new();
    for stream in &config.streams {
        let dir = config.data_dir.join("journal").join(&stream.name);
        let (found, mut of_stream) = journals::look((&stream.name, stream.format), &dir, &owner, args.repair, &kept);
        checks.append(&mut of_stream);
        journals.push((stream.name.as_str(), found));
    }
    checks.extend(store::compare(&config, &kept, &journals));
    checks.push(machine::disk(&config));
    checks.extend(machine::ports(&config, &owner));
    let newest = journals.iter().filter_map(|(_, found)| found.as_ref()?.last_ingest_time).max();
    checks.push(machine::clock(newest));
    print(&checks, args.json).map_err(CliError::stdout)?;
    match checks.iter().filter(|check| check.verdict == Verdict::Failed).count() {
        0 => Ok(()),
        failed => Err(CliError::Check(format!("{failed} of {} checks failed", checks.len()))),
    }
}

fn print(checks: &[Check], as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    if as_json {
        let failed = checks.iter().filter(|check| check.verdict == Verdict::Failed).count();
        return writeln!(out, "{}", json!({ "failed": failed, "checks": checks }));
    }
    checks.iter().try_for_each(|check| writeln!(out, "{}", check.line()))
}
