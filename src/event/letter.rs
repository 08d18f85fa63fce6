//! Dead letters: events that could not be processed, kept with the reason.

use super::{Origin, Position};

/// Why an event became a letter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LetterKind {
    /// The line is no event.
    Decode,
    /// The event has no usable time.
    Time,
    /// An expression failed on it.
    Expression,
    /// A look-up found nothing for it.
    Enrich,
    /// Its group key cannot be used.
    Group,
    /// Its window had closed.
    Late,
    /// Its time is too far ahead of the ingest time.
    Ahead,
    /// A custom stage refused it.
    Custom,
    /// A custom stage panicked on it.
    Panic,
}

impl LetterKind {
    /// The word that tables and APIs show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Time => "time",
            Self::Expression => "expression",
            Self::Enrich => "enrich",
            Self::Group => "group",
            Self::Late => "late",
            Self::Ahead => "ahead",
            Self::Custom => "custom",
            Self::Panic => "panic",
        }
    }
}

/// An event that could not be processed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Letter {
    /// Where its record stands.
    pub position: Position,
    /// The raw line (of an over-long one its first bytes).
    pub line: Vec<u8>,
    /// Why.
    pub kind: LetterKind,
    /// The stage that refused it, as it stands in the config: `filter`, `set`, `custom geo`, `window` …
    pub stage: String,
    /// What happened, for a person.
    pub reason: String,
    /// When the journal took it first, unix ms.
    pub ingest_time: i64,
    /// When the journal took what failed now, the line or its replay, unix ms.
    pub failed_at: i64,
    /// Who sent it.
    pub origin: Origin,
    /// The record that failed: that of the line, or of its (last) replay.
    pub record: Position,
    /// How often it failed since the last commit.
    pub attempts: u32,
    /// Whether it is in the store already: all those failures were replays.
    pub again: bool,
}

/// A letter that was replayed. It has counted, unless a letter about the same record says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counted {
    /// Where its line stood first.
    pub position: Position,
    /// The record of its replay.
    pub record: Position,
    /// When the journal took that, unix ms.
    pub at: i64,
}

impl Letter {
    /// Bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.line.len() + self.stage.len() + self.reason.len()
    }

    /// Takes another letter about the same line: of the same record (another output of the event is late, too), or of
    /// another.
    pub fn merge(&mut self, other: Letter) {
        if other.record == self.record {
            return;
        }
        let (attempts, again) = (self.attempts + other.attempts, self.again && other.again);
        if other.record > self.record {
            *self = other;
        }
        (self.attempts, self.again) = (attempts, again);
    }
}
