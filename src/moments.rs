//! Named moments: places in the code at which the project's own crash test kills the process, six faults that it must
//! notice, and two by which a disk fails. They are points of the crate `fail`, and in builds without its feature
//! `failpoints` there is nothing at those places: only a test build has them.
//!
//! In a test build the daemon looks at its environment once, at its start:
//!
//! | variable | does |
//! | --- | --- |
//! | `TIDEMILL_MOMENT=<name>:<n>` | the n-th pass of that moment ends the process by SIGKILL |
//! | `TIDEMILL_SABOTAGE=<name>` | this fault is in |
//! | `TIDEMILL_BAD_DISK=<name>:<n>` | the n-th pass of that operation fails with EIO, and no other |
//! | `TIDEMILL_CLOCK=<a>:<b>` | the wall clock is `a` ms wrong, and `b` ms as soon as the daemon has run for a while |

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// All moments, in the order of an event's way.
pub const MOMENTS: [&str; 30] = [
    // A generation's start: the transaction that takes the fence, and the actors that are built then.
    "fence-before-commit",
    "fence-after-commit",
    "generation-built",
    // The journal's writer.
    "journal-before-write",
    "journal-after-write",
    "journal-before-fsync",
    "journal-after-fsync",
    "segment-before-change",
    "segment-between-files",
    "segment-after-change",
    "segment-before-delete",
    "segment-after-delete",
    // A pipeline has read the journal up to the recent batches.
    "rejoin",
    // The stage's barrier, before the first window has it and after DeadLetter has it; DeadLetter has all of them.
    "barrier-before",
    "barrier-after",
    "barrier-aligned",
    // A flush, part by part.
    "flush-begun",
    "flush-gone",
    "flush-rows",
    "flush-panes",
    "flush-letters",
    "flush-alerts",
    "flush-corrections",
    "flush-before-checkpoint",
    "flush-before-commit",
    "flush-after-commit",
    "flush-told",
    // A replay's halves: letters have their numbers, Ingest has given them their positions; and a flush that covers them.
    "replay-numbered",
    "replay-taken",
    "flush-counted",
];

/// All faults: what each breaks is said where it is.
pub const SABOTAGES: [&str; 6] = [
    "checkpoint-apart",
    "barrier-before-letters",
    "no-fsync-wait",
    "numbers-in-heads-only",
    "corrections-twice",
    "alerts-of-open-rows",
];

/// What a disk can fail at.
const BAD_DISK_AT: [&str; 2] = ["journal-write", "journal-fsync"];

const MOMENT: &str = "TIDEMILL_MOMENT";
const SABOTAGE: &str = "TIDEMILL_SABOTAGE";
const BAD_DISK: &str = "TIDEMILL_BAD_DISK";
const CLOCK: &str = "TIDEMILL_CLOCK";
/// So long a daemon has run when its clock steps.
const STEP_AFTER: Duration = Duration::from_millis(150);

/// Whether this build has moments and faults.
pub const fn are_built_in() -> bool {
    fail::has_failpoints()
}

/// Whether a fault is in; never in a normal build, whose compiler then leaves out what follows from it.
#[inline]
pub fn is_sabotaged(name: &str) -> bool {
    let _ = name;
    fail::fail_point!(name, |_| true);
    false
}

/// Whether the disk does it, as far as the environment says.
///
/// # Errors
/// EIO, where this is the pass that fails.
pub fn disk_does(name: &str) -> std::io::Result<()> {
    let _ = name;
    fail::fail_point!(name, |_| Err(rustix::io::Errno::IO.into()));
    Ok(())
}

/// A name of the list and a number: `<name>:<n>`.
fn parse<'t>(variable: &str, text: &'t str, names: &[&str]) -> Result<(&'t str, u64), String> {
    let parsed = text.split_once(':').and_then(|(name, pass)| Some((name, pass.parse::<u64>().ok()?)));
    let wrong = || format!("{variable}={text}: it is one of {}, `:`, and a number", names.join(" "));
    parsed.filter(|(name, _)| names.contains(name)).ok_or_else(wrong)
}

/// Arms what the environment asks for.
///
/// # Errors
/// Where it names what there is not.
pub fn arm() -> Result<(), String> {
    if !are_built_in() {
        return Ok(());
    }
    if let Ok(moment) = std::env::var(MOMENT) {
        let (name, pass) = parse(MOMENT, &moment, &MOMENTS)?;
        let passes = AtomicU64::new(0);
        fail::cfg_callback(name, move || {
            if passes.fetch_add(1, Ordering::Relaxed) + 1 >= pass {
                end();
            }
        })?;
    }
    if let Ok(name) = std::env::var(SABOTAGE) {
        if !SABOTAGES.contains(&name.as_str()) {
            return Err(format!("{SABOTAGE}={name}: it is one of {}", SABOTAGES.join(" ")));
        }
        fail::cfg(name, "return")?;
    }
    if let Ok(operation) = std::env::var(BAD_DISK) {
        let (name, pass) = parse(BAD_DISK, &operation, &BAD_DISK_AT)?;
        fail::cfg(name, &format!("{}*off->1*return", pass.saturating_sub(1)))?;
    }
    Ok(())
}

/// SIGKILL to itself: nothing unwinds, no buffer is written.
fn end() {
    // It cannot fail, and nothing after it runs.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

/// How wrong the wall clock is: at first, and once the process has run for so long.
#[derive(Clone, Copy)]
pub struct Steps {
    before_ms: i64,
    after_ms: i64,
}

impl Steps {
    /// As the environment says; `None` in a normal build.
    pub fn from_env() -> Option<Self> {
        if !are_built_in() {
            return None;
        }
        let text = std::env::var(CLOCK).ok()?;
        let (before, after) = text.split_once(':')?;
        Some(Self { before_ms: before.parse().ok()?, after_ms: after.parse().ok()? })
    }

    /// How wrong it is after so long, ms.
    pub fn at(self, elapsed: Duration) -> i64 {
        if elapsed < STEP_AFTER { self.before_ms } else { self.after_ms }
    }
}
