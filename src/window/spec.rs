//! What a config can say about windows.

use super::Calendar;

/// Which spans of event time an aggregate covers: half-open, in ms, aligned to the Unix epoch unless something else says
/// where they begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WindowSpec {
    /// Windows side by side.
    Tumbling {
        /// Length.
        size_ms: i64,
    },
    /// Windows that overlap; `size_ms` is a multiple of `every_ms`.
    Sliding {
        /// Length.
        size_ms: i64,
        /// Distance of two windows' starts, and length of a pane.
        every_ms: i64,
    },
    /// Each group's events that are close to one another.
    Session {
        /// So long behind its last event a session ends.
        gap_ms: i64,
    },
    /// By a time zone's clocks.
    Calendar(Calendar),
}

impl WindowSpec {
    /// The latest end of a window that begins before a time; `None` for sessions, which may end whenever.
    pub fn end_of_last_before(&self, time: i64) -> Option<i64> {
        let last = time.saturating_sub(1);
        match self {
            Self::Tumbling { size_ms: every_ms } => {
                Some(last.saturating_sub(last.rem_euclid(*every_ms)).saturating_add(*every_ms))
            }
            Self::Sliding { size_ms, every_ms } => {
                Some(last.saturating_sub(last.rem_euclid(*every_ms)).saturating_add(*size_ms))
            }
            Self::Calendar(calendar) => Some(calendar.span_of(last).1),
            Self::Session { .. } => None,
        }
    }

    /// The window that is next to close at a watermark: the one that it is in, of sliding windows the first of those.
    /// `None` for sessions, of which each group has its own.
    pub fn next_to_close(&self, watermark: i64) -> Option<(i64, i64)> {
        match self {
            Self::Tumbling { size_ms } => {
                let start = watermark.saturating_sub(watermark.rem_euclid(*size_ms));
                Some((start, start.saturating_add(*size_ms)))
            }
            Self::Sliding { size_ms, every_ms } => {
                let end = watermark.saturating_sub(watermark.rem_euclid(*every_ms)).saturating_add(*every_ms);
                Some((end.saturating_sub(*size_ms), end))
            }
            Self::Calendar(calendar) => Some(calendar.span_of(watermark)),
            Self::Session { .. } => None,
        }
    }

    /// The window one earlier in the sequence; `None` for sessions.
    pub fn before(&self, (start, end): (i64, i64)) -> Option<(i64, i64)> {
        match self {
            Self::Tumbling { size_ms } => Some((start.saturating_sub(*size_ms), start)),
            Self::Sliding { every_ms, .. } => Some((start.saturating_sub(*every_ms), end.saturating_sub(*every_ms))),
            Self::Calendar(calendar) => Some(calendar.span_of(start.saturating_sub(1))),
            Self::Session { .. } => None,
        }
    }
}

/// How a pipeline tells what it has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatermarkSpec {
    /// How much disorder to wait for.
    pub delay_ms: i64,
    /// After so much silence the watermark goes on by itself.
    pub idle_ms: i64,
    /// Event times further ahead of the ingest time are letters.
    pub max_ahead_ms: i64,
}

/// What becomes of an event whose window has closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LatePolicy {
    /// It corrects the closed window, within `correct_for` of the window's end.
    Update {
        /// So long after its end (by the watermark) a closed window can be corrected.
        correct_for_ms: i64,
    },
    /// It is a letter.
    DeadLetter,
    /// It is counted and gone.
    Drop,
}

/// What is computed of a group's events. NULL inputs are skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AggregateKind {
    /// `count(*)`: the input is TRUE where the event counts (its FILTER), else NULL.
    CountAll,
    /// `count(x)`
    Count,
    /// `count(distinct x)`: the input is the hash of the value (`hash_value`), as a whole number.
    CountDistinct,
    /// `sum(x)`
    Sum,
    /// `avg(x)`
    Avg,
    /// `min(x)`
    Min,
    /// `max(x)`
    Max,
    /// `first(x)`: of the least (event time, position).
    First,
    /// `last(x)`: of the greatest (event time, position).
    Last,
    /// `variance(x)`, of a sample.
    Variance,
    /// `stddev(x)`, of a sample.
    Stddev,
    /// `quantile(x, q)`; of a half also `median(x)`.
    Quantile(Fraction),
}

/// A number from 0 to 1.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Fraction(f64);

/// It is never NaN.
impl Eq for Fraction {}

impl Fraction {
    /// A half.
    pub const HALF: Self = Self(0.5);

    /// `None` where the number is not from 0 to 1.
    pub const fn new(value: f64) -> Option<Self> {
        if 0.0 <= value && value <= 1.0 { Some(Self(value)) } else { None }
    }

    /// The number.
    pub fn value(self) -> f64 {
        self.0
    }
}

impl AggregateKind {
    /// As SQL calls it.
    pub fn function(self) -> &'static str {
        match self {
            Self::CountAll | Self::Count | Self::CountDistinct => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
            Self::First => "first",
            Self::Last => "last",
            Self::Variance => "variance",
            Self::Stddev => "stddev",
            Self::Quantile(_) => "quantile",
        }
    }

    /// Whether its state grows with its inputs.
    pub(super) fn grows(self) -> bool {
        match self {
            Self::Min | Self::Max | Self::First | Self::Last | Self::CountDistinct | Self::Quantile(_) => true,
            Self::CountAll | Self::Count | Self::Sum | Self::Avg | Self::Variance | Self::Stddev => false,
        }
    }

    /// Whether it computes with its inputs, so that they must be numbers.
    pub fn is_of_numbers(self) -> bool {
        matches!(self, Self::Sum | Self::Avg | Self::Variance | Self::Stddev | Self::Quantile(_))
    }
}
