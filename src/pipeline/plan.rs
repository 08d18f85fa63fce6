//! What a start does to a pipeline whose definition has changed: nothing, an amendment that keeps its results, or a new
//! revision that begins anew.

use std::collections::HashMap;
use std::fmt;

use serde_json::Value as Json;
use sha2::{Digest, Sha256};

use crate::config::{Config, PipelineConfig, Start, stored_window};
use crate::event::{Position, PositionRange, format_utc};
use crate::journal::{Look, first_ingest_time};
use crate::store::{Beginning, Registered};

/// Keys of a definition that may change without a new revision: all before the next commit goes by the old, all after it
/// by the new.
const KEPT: [&str; 14] = [
    "alerts",
    "correct_for",
    "delay",
    "idle",
    "late",
    "max_ahead",
    "max_behind",
    "max_groups",
    "missing_time",
    "redis",
    "retain",
    "start",
    "state_limit",
    "tables",
];

/// What tells a definition from the one that is stored.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Difference {
    /// Keys that have changed and keep the results, in the order of the alphabet.
    pub kept: Vec<String>,
    /// Aggregates that are new.
    pub added: Vec<String>,
    /// Keys that have changed and make a new revision.
    pub revised: Vec<String>,
}

impl Difference {
    /// Of two definitions, as the config makes them.
    pub fn between(stored: &Json, now: &Json) -> Self {
        let mut found = Self::default();
        for key in keys(stored, now) {
            let (before, after) = (&stored[key], &now[key]);
            if key == "aggregates" {
                match added(before, after) {
                    Some(added) => found.added = added,
                    None => found.revised.push(key.to_owned()),
                }
            } else if before != after {
                if KEPT.contains(&key) { &mut found.kept } else { &mut found.revised }.push(key.to_owned());
            }
        }
        found
    }

    /// Whether the stored results cannot be gone on with.
    pub fn is_revision(&self) -> bool {
        !self.revised.is_empty()
    }

    /// Whether nothing has changed but perhaps the order of the aggregates.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// The keys of either, ordered.
fn keys<'a>(stored: &'a Json, now: &'a Json) -> Vec<&'a str> {
    let of = |json: &'a Json| json.as_object().into_iter().flat_map(|object| object.keys().map(String::as_str));
    let mut keys: Vec<&str> = of(stored).chain(of(now)).collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// The names of aggregates that are new, where all that were there are there unchanged.
fn added(before: &Json, after: &Json) -> Option<Vec<String>> {
    let (before, after) = (before.as_array()?, after.as_array()?);
    before.iter().all(|one| after.contains(one)).then(|| {
        let new = after.iter().filter(|one| !before.contains(one));
        new.map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
    })
}

/// A definition with its aggregates in the order of the stored one, and what is new behind them: states hold them in this
/// order, whatever the order of the file.
pub fn in_stored_order(stored: &Json, now: &Json) -> Json {
    let mut ordered = now.clone();
    if let (Some(before), Some(after)) = (stored["aggregates"].as_array(), ordered["aggregates"].as_array_mut()) {
        after.sort_by_key(|one| before.iter().position(|other| other == one).unwrap_or(before.len()));
    }
    ordered
}

/// Input that a checkpoint needs and the journal does not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Missing {
    /// It is another journal.
    Other {
        /// The checkpoint's position, in the journal that is gone.
        at: Position,
    },
    /// It ends before the checkpoint: an older copy.
    Older {
        /// The checkpoint's position.
        at: Position,
        /// The journal's last.
        last: Position,
    },
    /// It has lost what follows the checkpoint.
    Gap {
        /// The checkpoint's position.
        at: Position,
        /// The journal's first.
        first: Position,
        /// The journal's last.
        last: Position,
    },
}

impl Missing {
    /// Of a checkpoint at this position of a journal (0: it is new).
    pub fn of(journal_id: u64, at: Position, journal: &Look) -> Option<Self> {
        let Look { id, first, last } = *journal;
        match journal_id {
            0 => None,
            of if of != id => Some(Self::Other { at }),
            _ if at > last => Some(Self::Older { at, last }),
            _ if at + 1 < first => Some(Self::Gap { at, first, last }),
            _ => None,
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { at } => write!(
                f,
                "its checkpoint is at position {at} of another journal than the one in data_dir; restore that one"
            ),
            Self::Older { at, last } => write!(
                f,
                "its checkpoint is at position {at}, but the journal ends at {last}; restore the newer journal"
            ),
            Self::Gap { at, first, last } => {
                let gap = PositionRange { after: *at, upto: first - 1 };
                write!(
                    f,
                    "its checkpoint is at position {at}, but the journal holds {first}..={last}: positions {gap} are missing"
                )
            }
        }
    }
}

/// What a start does to one pipeline.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// It is new, and begins behind this position.
    New(Position),
    /// It goes on.
    GoOn,
    /// It goes on by another definition.
    Amend(Difference),
    /// It begins anew.
    Revise(Difference, Beginning),
    /// It cannot go on as it is.
    Missing(Missing),
}

/// What a start does to a pipeline.
///
/// The journal's first ingest time is asked for only where a new revision must know it: that reads the disk.
pub fn step(
    config: &PipelineConfig,
    journal: &Look,
    first_ingest_time: &dyn Fn() -> Option<i64>,
    registered: Option<&Registered>,
) -> Step {
    let begin = match config.start {
        Start::Earliest => journal.first - 1,
        Start::Now => journal.last,
    };
    let Some(registered) = registered else { return Step::New(begin) };
    let difference = Difference::between(&registered.definition, &config.definition);
    if difference.is_revision() {
        let kept_upto = kept_upto(config, first_ingest_time, registered, begin);
        return Step::Revise(difference, Beginning { position: begin, kept_upto });
    }
    match Missing::of(registered.checkpoint.journal_id, registered.checkpoint.position, journal) {
        Some(missing) => Step::Missing(missing),
        None if difference.is_none() => Step::GoOn,
        None => Step::Amend(difference),
    }
}

/// Until when windows keep the rows of the revision before: those that had closed, and that the new one does not see
/// whole. `None` where it sees all there ever was.
fn kept_upto(
    config: &PipelineConfig,
    first_ingest_time: &dyn Fn() -> Option<i64>,
    registered: &Registered,
    begin: Position,
) -> Option<i64> {
    let watermark = registered.checkpoint.watermark?;
    if begin == 0 {
        return None;
    }
    let first = if config.start == Start::Earliest { first_ingest_time() } else { None };
    // Without one, what it reads first comes later than all that has closed.
    let whole_from = first.map_or(i64::MAX, |first| first.saturating_add(config.watermark.max_ahead_ms));
    let window = stored_window(&registered.definition)?;
    Some(match window.end_of_last_before(whole_from) {
        Some(end) => watermark.min(end),
        // Of a session it is not known when it began.
        None => watermark,
    })
}

/// What a start with a config does to all that is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    pipeline: String,
    /// `None`: it is in the store and not in the config.
    step: Option<Step>,
    /// Whether something is lost by it.
    loses: bool,
    /// By which the code tells this plan from others.
    hash: String,
}

impl Plan {
    /// Of a config, what the store knows, and the streams' journals. Pipelines that a running daemon need not touch go on.
    pub fn of(
        config: &Config,
        registered: &[Registered],
        journals: &HashMap<String, Look>,
        is_touched: &dyn Fn(&str) -> bool,
    ) -> Self {
        let configs = &config.pipelines;
        let known = |name: &str| registered.iter().find(|registered| registered.name == name);
        let mut entries = Vec::new();
        for (stream, journal) in journals {
            let pipeline = format!("@{stream}");
            let checkpoint = known(&pipeline).map(|intake| intake.checkpoint);
            let missing = checkpoint.filter(|_| is_touched(&pipeline));
            let missing = missing.and_then(|at| Missing::of(at.journal_id, at.position, journal));
            if let Some(missing) = missing {
                entries.push(Entry { pipeline, step: Some(Step::Missing(missing)), loses: true, hash: String::new() });
            }
        }
        for pipeline in configs {
            let Some(journal) = journals.get(&pipeline.stream) else { continue };
            let first_ingest_time = || first_ingest_time(&config.journal_dir(&pipeline.stream));
            let step = match is_touched(&pipeline.name) {
                true => step(pipeline, journal, &first_ingest_time, known(&pipeline.name)),
                false => Step::GoOn,
            };
            let loses = match &step {
                Step::New(_) | Step::GoOn | Step::Amend(_) => false,
                Step::Revise(_, beginning) => beginning.position > 0,
                // It is stopped until somebody skips: that is what `max_behind` says.
                Step::Missing(Missing::Gap { .. }) => pipeline.max_behind_bytes.is_none(),
                Step::Missing(_) => true,
            };
            let (pipeline, hash) = (pipeline.name.clone(), pipeline.definition.to_string());
            entries.push(Entry { pipeline, step: Some(step), loses, hash });
        }
        for removed in registered.iter().filter(|registered| !registered.name.starts_with('@')) {
            if !configs.iter().any(|config| config.name == removed.name) {
                let (pipeline, hash) = (removed.name.clone(), String::new());
                entries.push(Entry { pipeline, step: None, loses: false, hash });
            }
        }
        entries.sort_by(|a, b| a.pipeline.cmp(&b.pipeline));
        Self { entries }
    }

    /// Whether something is lost by it, so that it must be accepted.
    pub fn loses(&self) -> bool {
        self.entries.iter().any(|entry| entry.loses)
    }

    /// By which it is accepted: that of another plan is another one.
    pub fn code(&self) -> String {
        let mut digest = Sha256::new();
        for entry in self.entries.iter().filter(|entry| entry.loses) {
            let lost = match &entry.step {
                Some(Step::Missing(missing)) => missing.to_string(),
                // Where the journal begins moves on; what is lost is the same.
                _ => String::new(),
            };
            digest.update(format!("{}\n{}\n{lost}\n", entry.pipeline, entry.hash));
        }
        digest.finalize()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Entry { pipeline, step, .. } in &self.entries {
            match step {
                None => {
                    writeln!(f, "{pipeline}: removed: rows and views stay until `tidemill pipeline drop {pipeline}`")?;
                }
                Some(Step::New(position)) => writeln!(f, "{pipeline}: new: begins behind position {position}")?,
                Some(Step::GoOn) => writeln!(f, "{pipeline}: goes on")?,
                Some(Step::Amend(difference)) => {
                    let added = difference.added.iter().map(|name| format!("aggregate {name} is added"));
                    let changed = difference.kept.iter().map(|key| format!("{key} changes"));
                    let all: Vec<String> = changed.chain(added).collect();
                    writeln!(f, "{pipeline}: kept: {}; from the next commit on", all.join(", "))?;
                }
                Some(Step::Revise(difference, beginning)) => {
                    let keys = difference.revised.join(", ");
                    let position = beginning.position;
                    write!(f, "{pipeline}: new revision ({keys}): begins behind position {position}")?;
                    match beginning.kept_upto {
                        None => writeln!(f, " and makes all its rows anew")?,
                        Some(upto) => writeln!(
                            f,
                            "; rows of windows that end after {} are made anew from what the journal has, older ones stay",
                            format_utc(upto)
                        )?,
                    }
                }
                Some(Step::Missing(missing)) => writeln!(f, "{pipeline}: missing input: {missing}")?,
            }
        }
        if self.loses() {
            writeln!(f, "something is lost by this; `--accept-plan {}` accepts it", self.code())
        } else {
            writeln!(f, "nothing is lost by this (plan {})", self.code())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(delay: &str, aggregates: &[(&str, &str)]) -> Json {
        let aggregates: Vec<Json> =
            aggregates.iter().map(|(name, text)| json!({ "expression": text, "name": name })).collect();
        json!({ "aggregates": aggregates, "delay": delay, "late": "drop", "window": { "tumbling": "1m" } })
    }

    const COUNT: (&str, &str) = ("n", "count(*)");
    const SUM: (&str, &str) = ("s", "sum(x)");

    #[test]
    fn what_keeps_the_results_is_told_from_what_does_not() {
        let stored = definition("5s", &[COUNT, SUM]);
        let to = |now: Json| Difference::between(&stored, &now);
        assert!(to(stored.clone()).is_none());
        assert!(to(definition("5s", &[SUM, COUNT])).is_none(), "their order is no matter");
        let delay = to(definition("0s", &[COUNT, SUM]));
        assert_eq!((delay.kept.as_slice(), delay.is_revision()), ([String::from("delay")].as_slice(), false));
        let more = to(definition("5s", &[("a", "avg(x)"), COUNT, SUM]));
        assert_eq!((more.added.as_slice(), more.is_revision()), ([String::from("a")].as_slice(), false));
        for changed in [
            definition("5s", &[COUNT]),
            definition("5s", &[COUNT, ("s", "sum(y)")]),
            definition("5s", &[COUNT, ("t", "sum(x)")]),
        ] {
            assert_eq!(to(changed).revised, ["aggregates"]);
        }
        let mut other = definition("0s", &[COUNT, SUM]);
        other["window"] = json!({ "tumbling": "2m" });
        other["group_by"] = json!(["path"]);
        assert_eq!(to(other).revised, ["group_by", "window"]);
    }

    #[test]
    fn states_keep_their_order() {
        let stored = definition("5s", &[SUM, COUNT]);
        let now = definition("1s", &[("a", "avg(x)"), COUNT, SUM]);
        let ordered = in_stored_order(&stored, &now);
        assert_eq!(ordered, definition("1s", &[SUM, COUNT, ("a", "avg(x)")]));
        assert_eq!(in_stored_order(&ordered, &ordered), ordered);
    }
}
