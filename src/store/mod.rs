//! The store: one transaction moves results, state, letters, account and checkpoint.
//!
//! This file is what every store takes and gives, as plain data. `handle` is the way in; `begin` is a pipeline's start
//! and `commit` the transaction of a flush, the same for each database; `session` is what they ask of one, and `sqlite`
//! and `postgres` are the answers.

mod alerts;
mod begin;
mod commit;
mod error;
mod examine;
mod handle;
mod image;
mod letters;
mod live;
mod merged;
mod names;
mod others;
mod plain;
mod plain_alerts;
mod plain_letters;
mod postgres;
mod replay;
mod schema;
mod session;
mod sqlite;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam_channel::Receiver;
use tokio::sync::oneshot;

use crate::event::{Account, Counted, Letter, Position, RawEvents};
use crate::window::WindowSpec;

pub use alerts::{AlertFlush, AlertNews, Firing, ToldAlert, UntoldAlert};
pub use error::StoreError;
pub use examine::{Examined, Kept, Standing};
pub use handle::{Replay, Store};
pub use letters::{LetterFilter, LetterId, LetterReason, StoredLetter};
pub use live::{LivePage, LivePlace, LiveRow, LiveRows, Taken};
pub use merged::{Interval, Merge};
pub(crate) use postgres::tls_connector;

use crate::config::{AlertConfig, LetterLimit};
use letters::LETTER_BYTES;

/// The private state of one group in one window or pane, encoded (versioned and mergeable; see `window`).
pub type StateBytes = Vec<u8>;

/// What a store must know to show and to merge a pipeline's states; the pipeline room implements it.
pub trait Definition: Send + Sync {
    /// The pipeline's name.
    fn pipeline(&self) -> &str;
    /// Group columns, then value columns, as the view shows them.
    fn columns(&self) -> Vec<Column>;
    /// How many of them are group columns.
    fn group_columns(&self) -> usize;
    /// The values of the state as a JSON array, in the order of the value columns; and how many events it holds. The
    /// window begins then, unix ms.
    ///
    /// # Errors
    /// Where the bytes are no state of this pipeline.
    fn values(&self, state: &[u8], window_start: i64) -> Result<(serde_json::Value, u64), String>;
    /// The values of no event at all (for `…_now` with an empty `group_by`).
    fn empty_values(&self) -> serde_json::Value;
    /// Merges two states.
    ///
    /// # Errors
    /// Where the bytes are no state of this pipeline.
    fn merge(&self, a: &[u8], b: &[u8]) -> Result<StateBytes, String>;
    /// A group's fields as a JSON array, from its encoded key.
    ///
    /// # Errors
    /// Where the bytes are no key.
    fn group(&self, key: &[u8]) -> Result<serde_json::Value, String>;
    /// Its windows; `None` where it has none, as an intake.
    fn window(&self) -> Option<WindowSpec>;
    /// The definition as JSON, secrets masked.
    fn definition(&self) -> &serde_json::Value;
    /// Its alerts.
    fn alerts(&self) -> &[AlertConfig] {
        &[]
    }
    /// Which of its alerts hold for a row: for the state of a group in a window that begins then. With the same group's
    /// state one window earlier and when that one began, where there is one.
    ///
    /// # Errors
    /// Where the bytes are no states, or no key, of this pipeline.
    fn holds(
        &self,
        _state: &[u8],
        _window_start: i64,
        _group: &[u8],
        _previous: Option<(i64, &[u8])>,
    ) -> Result<Vec<bool>, String> {
        Ok(Vec::new())
    }
    /// How long rows stay behind the end of their window, by the watermark, ms; `None`: for ever.
    fn retain_ms(&self) -> Option<i64> {
        None
    }
    /// How long a stream's raw events stay, ms by their ingest time; of its intake, where it keeps them.
    fn raw_retain_ms(&self) -> Option<i64> {
        None
    }
}

/// A column of a pipeline's view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type.
    pub sql_type: crate::config::ColumnType,
}

/// One row to be written by a flush.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// The state of a group in a window as it is now: replaces what is stored.
    Row {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Encoded.
        group: Arc<[u8]>,
        /// Encoded.
        state: StateBytes,
        /// Whether the pipeline may not have seen the window whole.
        partial: bool,
    },
    /// A group has no row of this window any more.
    Gone {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Encoded.
        group: Arc<[u8]>,
    },
    /// Late events of a closed window, to be merged into what is stored (after the rows of the same flush).
    Correction {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Encoded.
        group: Arc<[u8]>,
        /// Only the late events, encoded.
        state: StateBytes,
        /// The greatest ingest time among them, unix ms.
        revised_at: i64,
        /// Whether the pipeline may not have seen the window whole (where it makes the row).
        partial: bool,
    },
    /// The state of a group in an open pane of a sliding window: replaces what is stored.
    Pane {
        /// Unix ms.
        pane_start: i64,
        /// Encoded.
        group: Arc<[u8]>,
        /// Encoded.
        state: StateBytes,
    },
    /// Panes that begin before this are needed no more.
    PanesBefore(i64),
    /// A dead letter, new or again.
    Letter(Letter),
    /// A letter that was replayed and has counted; behind all letters of the same flush.
    Counted(Counted),
    /// Letters under replay up to this number will not be read any more: they are as before.
    FreeLetters {
        /// Inclusive.
        upto_number: u64,
    },
    /// Events as they came, of a stream that keeps them.
    Raw(Arc<RawEvents>),
}

/// Up to where a pipeline's effects are in the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checkpoint {
    /// The journal that the position is of; 0 before the first commit.
    pub journal_id: u64,
    /// All records up to it.
    pub position: Position,
    /// `None` before any event.
    pub watermark: Option<i64>,
    /// Silence so far, ms.
    pub silence_ms: i64,
    /// Position and ingest time of the first record it read (for `partial`); 0 before any.
    pub first_position: Position,
    /// Unix ms.
    pub first_ingest_time: i64,
    /// Where each event ended.
    pub account: Account,
}

/// The right to write a pipeline's rows: held by the last that took it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fence {
    /// Rises with each taker.
    pub epoch: i64,
    /// Random.
    pub writer: i64,
}

/// What a pipeline begins with: one snapshot, read after the fence was taken.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The right to write.
    pub fence: Fence,
    /// Where it goes on.
    pub checkpoint: Checkpoint,
    /// Rows of windows that were open at the checkpoint (`window_end` > watermark): `Change::Row`; and all panes:
    /// `Change::Pane`.
    pub open: Vec<Change>,
    /// Of the definition, from 1 on.
    pub revision: u64,
    /// The definition, its aggregates in the order in which states hold them.
    pub definition: serde_json::Value,
    /// Aggregates that were added later (see `Registered`).
    pub added: BTreeMap<String, i64>,
    /// Windows that end until then are of an older revision, which had come to that position.
    pub kept: Option<(i64, Position)>,
    /// Where this revision has no commit yet.
    pub revise: Option<Revision>,
    /// How many of its letters are under replay.
    pub under_replay: u64,
    /// How many groups fire, by alert.
    pub firing: BTreeMap<String, u64>,
}

/// A pipeline as the store knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct Registered {
    /// Its name.
    pub name: String,
    /// Its definition, its aggregates in the order in which states hold them.
    pub definition: serde_json::Value,
    /// How often it has begun anew, and once more.
    pub revision: u64,
    /// Aggregates that were added later: windows that begin before this, unix ms, have none of them.
    pub added: BTreeMap<String, i64>,
    /// Up to where it has come.
    pub checkpoint: Checkpoint,
}

/// How a pipeline begins.
#[derive(Clone, PartialEq, Debug)]
pub enum Course {
    /// As it is; one that is new is registered.
    GoOn,
    /// With another definition from here on, whose aggregates are in the order in which states hold them.
    Amend(serde_json::Value),
    /// Behind this position of this journal, although records before it were never read, or it is another journal.
    Adopt {
        /// The journal.
        journal_id: u64,
        /// All up to it is passed over.
        position: Position,
    },
    /// Anew, as another revision.
    Revise(Beginning),
}

/// Where a new revision begins, and what it leaves alone.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Beginning {
    /// It reads what is behind this position.
    pub position: Position,
    /// Windows that end until then keep the rows of the revision before: they had closed, and it does not see them whole.
    pub kept_upto: Option<i64>,
}

/// A revision that begins with its first commit: until then the one before is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Revision {
    /// Its number.
    pub number: u64,
    /// Where it begins.
    pub beginning: Beginning,
    /// Where the one before had come to.
    pub kept_position: Position,
}

/// Whether and how a pipeline may begin. Asked before its fence is taken for good: a daemon that must not run (its journal
/// is another one) stops nobody else.
pub type Admit = Box<dyn FnOnce(Option<&Registered>, &Checkpoint) -> Result<Course, String> + Send>;

/// One transaction of one pipeline. Chunks come through the channel until its senders are gone; `finish` must have been
/// sent as the last message, or nothing is committed.
pub struct Flush {
    /// Whose.
    pub definition: Arc<dyn Definition>,
    /// The stream.
    pub stream: String,
    /// The right to write.
    pub fence: Fence,
    /// Of the definition.
    pub revision: u64,
    /// Where it is the first of that revision.
    pub revise: Option<Revision>,
    /// How many letters are kept.
    pub letters: LetterLimit,
    /// Who is told of the rows that it has changed.
    pub live: Option<Arc<LiveRows>>,
    /// What alerts need.
    pub alerts: AlertFlush,
    /// What is written.
    pub chunks: Receiver<Chunk>,
    /// How it ended.
    pub reply: oneshot::Sender<Result<Flushed, StoreError>>,
}

/// A piece of a flush.
pub enum Chunk {
    /// Rows; the second part (credit) is dropped when they are written.
    Changes(Vec<Change>, Box<dyn Send>),
    /// All is there: the new checkpoint. Commit.
    Finish(Checkpoint),
}

/// What a flush did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Flushed {
    /// Rows written.
    pub rows: u64,
    /// Letters written.
    pub letters: u64,
    /// Letters that were not kept, since there is no room for them.
    pub discarded: u64,
    /// Letters whose replay has come to its end, one way or the other.
    pub replayed: u64,
    /// Raw events written.
    pub raw_events: u64,
    /// The greatest ingest time among them, unix ms.
    pub raw_time: Option<i64>,
    /// The watermark of the new checkpoint.
    pub watermark: Option<i64>,
}

/// Which rows of a pipeline's view to read.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// Only the window that is next to close.
    pub now: bool,
    /// Only windows that begin at or after this, unix ms.
    pub from: Option<i64>,
    /// Only windows that begin before this, unix ms.
    pub to: Option<i64>,
    /// At most so many rows (the latest windows first).
    pub limit: usize,
}

/// Rows of a view.
#[derive(Clone, PartialEq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct ResultRows {
    /// The view's columns.
    pub columns: Vec<String>,
    /// One array a row.
    pub rows: Vec<Vec<serde_json::Value>>,
    /// Of merged rows: `to` of the question for those that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<i64>,
}

/// Names that an answer to an unknown one offers.
const NEAREST_NAMES: usize = 3;

/// Whether a pipeline is among those that a store knows, and else which come nearest.
fn known(mut known: Vec<String>, name: &str) -> Result<(), StoreError> {
    known.retain(|known| !known.starts_with(begin::INTAKE));
    if known.iter().any(|known| known == name) {
        return Ok(());
    }
    known.sort_by_cached_key(|known| (strsim::osa_distance(known, name), known.clone()));
    known.truncate(NEAREST_NAMES);
    let hint = match known.as_slice() {
        [] => "it has none yet".to_owned(),
        known => format!("nearest: {}", known.join(", ")),
    };
    Err(StoreError::Refused(format!("the store has no pipeline {name:?}; {hint}")))
}
