//! What goes into a window operator and what comes out of it, besides events.

use std::sync::Arc;

use super::{AggregateKind, Bounds, LatePolicy, WindowSpec};
use crate::event::{Position, format_utc};
use crate::units::format_duration;

/// What a window operator computes.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Over which spans of time.
    pub window: WindowSpec,
    /// What becomes of late events.
    pub late: LatePolicy,
    /// So long after its end (by the watermark) a closed window can be corrected by a replayed letter, whatever becomes of
    /// late events.
    pub correct_for_ms: i64,
    /// Windows that end until then are of an older revision, which had come to that position: they stay as they are.
    pub kept: Option<(i64, Position)>,
    /// Of each group.
    pub aggregates: Arc<[AggregateKind]>,
    /// Where the pipeline began to read.
    pub first: FirstRecord,
    /// How much open windows may hold.
    pub bounds: Bounds,
}

/// The first record that a pipeline read: it decides which windows the pipeline sees whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FirstRecord {
    /// Its position; 0 where nothing was read yet.
    pub position: Position,
    /// Its ingest time, unix ms.
    pub ingest_time: i64,
    /// How far event times may be ahead of ingest times: no earlier record has an event of a later window.
    pub max_ahead_ms: i64,
}

impl FirstRecord {
    /// Whether records before the first may have had events of a window that begins then.
    pub fn is_partial(&self, window_start: i64) -> bool {
        self.position != 1 && (self.position == 0 || window_start < self.ingest_time.saturating_add(self.max_ahead_ms))
    }
}

/// What a checkpoint has of a window operator.
#[derive(Clone, Debug)]
pub enum Open<'a> {
    /// A group of a window that was open. Of sliding windows it says nothing that the panes do not.
    Row {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
        /// Encoded.
        state: &'a [u8],
    },
    /// A group of a pane.
    Pane {
        /// Unix ms.
        pane_start: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
        /// Encoded.
        state: &'a [u8],
    },
}

/// What a flush has to write. A correction is merged into what is stored, after all rows of the flush; anything else
/// replaces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WindowChange {
    /// A group's state in a window.
    Row {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
        /// Encoded.
        state: Vec<u8>,
        /// Whether the pipeline may not have seen the window whole.
        partial: bool,
    },
    /// A row is none any more: its session goes on, or is part of another one.
    Gone {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
    },
    /// Late events of a group in a closed window.
    Correction {
        /// Unix ms.
        window_start: i64,
        /// Unix ms.
        window_end: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
        /// Only the late events, encoded.
        state: Vec<u8>,
        /// The greatest ingest time among them, unix ms.
        revised_at: i64,
        /// Whether the pipeline may not have seen the window whole.
        partial: bool,
    },
    /// A group's state in a pane.
    Pane {
        /// Unix ms.
        pane_start: i64,
        /// Its encoded key.
        group: Arc<[u8]>,
        /// Encoded.
        state: Vec<u8>,
    },
    /// Panes that begin before this are needed no more.
    PanesBefore(i64),
}

/// An event that came too late to be corrected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LateRow {
    /// Index in `Rows::rows`.
    pub index: usize,
    /// Why.
    pub reason: LateReason,
}

impl OperatorConfig {
    /// Whether a window is of an older revision.
    pub(super) fn is_kept(&self, window_end: i64) -> bool {
        self.kept.is_some_and(|(upto, _)| window_end <= upto)
    }

    /// Whether the older revision has seen a record.
    pub(super) fn was_seen(&self, record: Position) -> bool {
        self.kept.is_some_and(|(_, position)| record <= position)
    }
}

/// Why a late event was not corrected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LateReason {
    /// The pipeline does not correct closed windows.
    #[error(
        "its window closed at {}, when the watermark was at {} already; `late = \"update\"` corrects closed windows",
        format_utc(*window_end), format_utc(*watermark)
    )]
    Closed {
        /// End of its (last) window, unix ms.
        window_end: i64,
        /// Before the event, unix ms.
        watermark: i64,
    },
    /// No open session is near enough.
    #[error(
        "its session would have ended at {}, when the watermark was at {} already; sessions are not corrected",
        format_utc(*end), format_utc(*watermark)
    )]
    Ended {
        /// Unix ms.
        end: i64,
        /// Before the event, unix ms.
        watermark: i64,
    },
    /// Its window has the results of an older definition of the pipeline.
    #[error("its window, up to {}, has the results of an older revision of the pipeline, which stay", format_utc(*window_end))]
    Kept {
        /// End of its (last) window, unix ms.
        window_end: i64,
    },
    /// The pipeline corrects closed windows, but not as old a one.
    #[error(
        "its window closed at {}, more than `correct_for` ({}) before the watermark, {}",
        format_utc(*window_end), format_duration(*correct_for_ms), format_utc(*watermark)
    )]
    BeyondCorrectFor {
        /// End of its (last) window, unix ms.
        window_end: i64,
        /// Before the event, unix ms.
        watermark: i64,
        /// So long after its end a window can be corrected.
        correct_for_ms: i64,
    },
}

/// How full a window operator is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    /// Open windows that have groups; of sliding windows the panes, of sessions each one.
    pub open_windows: usize,
    /// Groups in them, those aside that are among the others.
    pub groups: usize,
    /// Rows of closed windows that wait for their commit.
    pub closed_rows: usize,
    /// Corrections that wait for their commit.
    pub corrections: usize,
    /// Bytes of all that, about.
    pub state_bytes: usize,
    /// Events that count among the others, since their groups had no room.
    pub other_events: u64,
    /// Whether groups that are in have made a slot grow to twice its share of bytes: it should take no more.
    pub is_overfull: bool,
}
