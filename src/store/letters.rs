//! Dead letters, as a person looks for them.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::Serialize;

use crate::event::{Origin, Replayed};

/// Which letter: the key of its row, written `stream:position:pipeline`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LetterId {
    /// The stream.
    pub stream: String,
    /// Where the line stands in it.
    pub position: i64,
    /// The pipeline that could not process it; `@<stream>` where no pipeline could have.
    pub pipeline: String,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.stream, self.position, self.pipeline)
    }
}

impl FromStr for LetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no letter's id: those look like web:1024:page_views");
        let mut parts = text.splitn(3, ':');
        let (Some(stream), Some(position), Some(pipeline)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(wrong());
        };
        let position = position.parse().map_err(|_| wrong())?;
        Ok(Self { stream: stream.to_owned(), position, pipeline: pipeline.to_owned() })
    }
}

/// Which letters.
#[derive(Clone, Default, Debug)]
pub struct LetterFilter {
    /// Only this pipeline's (`@<stream>`: lines that could not be decoded).
    pub pipeline: Option<String>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Only those that failed before this, unix ms.
    pub before: Option<i64>,
}

/// What a letter counts for, besides the bytes of its line.
pub(super) const LETTER_BYTES: u64 = 200;

/// A dead letter, as it is stored.
#[derive(Clone, Debug, Serialize)]
pub struct StoredLetter {
    /// `stream:position:pipeline`.
    pub id: String,
    /// The stream.
    pub stream: String,
    /// Where the line stands in it.
    pub position: i64,
    /// The pipeline that could not process it.
    pub pipeline: String,
    /// Why, in a word.
    pub kind: String,
    /// Where in the pipeline.
    pub stage: String,
    /// Why, with the expression and the value.
    pub reason: String,
    /// Who sent it.
    pub producer: Option<String>,
    /// From where.
    pub peer: Option<String>,
    /// How often it was tried.
    pub attempts: i64,
    /// Unix ms.
    pub failed_at: i64,
    /// Unix ms; `None` until a replay of it has counted.
    pub replayed_at: Option<i64>,
    /// Whether it is on its way again.
    pub under_replay: bool,
    /// The line, or its beginning; what is not UTF-8 is shown as U+FFFD.
    pub line: String,
    /// Bytes of the whole line as it is kept.
    pub line_bytes: i32,
}

/// Letters of one reason.
#[derive(Clone, Debug, Serialize)]
pub struct LetterReason {
    /// The pipeline.
    pub pipeline: String,
    /// Why, in a word.
    pub kind: String,
    /// Where in the pipeline.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: i64,
    /// The position of the last one.
    pub last_position: Option<i64>,
}

/// A row as it is read: key, kind, stage, reason, producer, peer, attempts, failed_at, replayed_at, line, its length, number
/// under which it is replayed.
pub(super) type LetterTuple = (
    String,
    i64,
    String,
    String,
    String,
    String,
    Option<String>,
    Option<String>,
    i64,
    i64,
    Option<i64>,
    Vec<u8>,
    i32,
    Option<i64>,
);

/// A letter under replay as it is read: number, position, ingested_at, producer, peer, line.
pub(super) type ReplayTuple = (Option<i64>, i64, i64, Option<String>, Option<String>, Vec<u8>);

/// A letter under replay with its number.
pub(super) fn replayed((number, position, ingest_time, producer, peer, line): ReplayTuple) -> (u64, Replayed) {
    let origin = Origin { producer: producer.map(Arc::from), peer: peer.map(Arc::from) };
    let letter = Replayed { position: position.cast_unsigned(), ingest_time, origin, line };
    (number.unwrap_or_default().cast_unsigned(), letter)
}

impl From<LetterTuple> for StoredLetter {
    fn from(row: LetterTuple) -> Self {
        let (stream, position, pipeline, kind, stage, reason, producer, peer, attempts, failed_at, ..) = row;
        let (replayed_at, line, line_bytes) = (row.10, String::from_utf8_lossy(&row.11).into_owned(), row.12);
        let id = format!("{stream}:{position}:{pipeline}");
        Self {
            id,
            stream,
            position,
            pipeline,
            kind,
            stage,
            reason,
            producer,
            peer,
            attempts,
            failed_at,
            replayed_at,
            under_replay: row.13.is_some(),
            line,
            line_bytes,
        }
    }
}
