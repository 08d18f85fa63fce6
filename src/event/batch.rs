//! Batches: events as columns over one shared buffer of lines.

use std::borrow::Cow;
use std::sync::Arc;

use super::{DecodeError, Fields, Letter, LetterKind, Position, PositionRange, Replay, Replayed, Value};
use crate::limits::{OVERLONG_LINE_KEPT_BYTES, PRODUCER_NAME_BYTES_MAX};

/// A piece of a batch's text: below the length of `bytes` a piece of the lines, from there on of the arena (text whose
/// escapes were resolved).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// Where it begins.
    pub start: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// What a field of an event can hold that is no value. It is an error only where the field is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// U+0000, which no SQL text holds.
    #[error("text with U+0000 cannot be used")]
    Nul,
    /// Half of a surrogate pair.
    #[error("text with a lone surrogate cannot be used")]
    Surrogate,
    /// A number beyond 64 bits, or beyond the floats.
    #[error("the number is out of range")]
    Range,
}

/// One field of one event.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Cell {
    /// Missing or null.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text, escapes resolved.
    Text(Span),
    /// An array or object, as it stands in the line.
    Json(Span),
    /// No value: an error where it is used.
    Invalid(Fault),
}

/// Who sent a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Origin {
    /// The producer's name, where it gave one.
    pub producer: Option<Arc<str>>,
    /// The peer's address.
    pub peer: Option<Arc<str>>,
}

/// Whether a producer can have this name.
pub fn is_producer_name(name: &str) -> bool {
    (1..=PRODUCER_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
}

/// Lines, decoded: one row a line, in their order; bad lines hold NULL in every column.
#[derive(Clone, Debug, Default)]
pub struct Decoded {
    /// The raw lines, with their line ends.
    pub bytes: Arc<Vec<u8>>,
    /// Where each line stands in `bytes`, without its line end. Blank lines are no lines.
    pub lines: Vec<Span>,
    /// Text that is not in `bytes` as it should be.
    pub arena: String,
    /// The fields that were decoded.
    pub fields: Arc<Fields>,
    /// `columns[column][row]`.
    pub columns: Vec<Vec<Cell>>,
    /// The lines that are no events: row (ascending) and why.
    pub bad: Vec<(u32, DecodeError)>,
}

/// Records of a stream in their order: decoded lines with positions, letters of a replay, or a tick (no lines).
#[derive(Clone, Debug)]
pub struct Batch {
    /// The records. Row `i` has position `range.after + 1 + i`.
    pub range: PositionRange,
    /// When the journal took them, unix ms.
    pub ingest_time: i64,
    /// The lines; empty for a tick.
    pub decoded: Decoded,
    /// Who sent them.
    pub origin: Origin,
    /// For a tick: how many ms of silence it tells of.
    pub silence_ms: Option<u32>,
    /// True length of the line, where the record is a line over `max_line` of which only the beginning is kept.
    pub overlong: Option<u64>,
    /// Where the records are letters on their way again: what was so of them before.
    pub replay: Option<Arc<Replay>>,
}

impl Decoded {
    /// How many lines there are, bad ones included.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Takes the first rows away.
    pub fn skip(&mut self, rows: usize) {
        let rows = rows.min(self.lines.len());
        self.lines.drain(..rows);
        for column in &mut self.columns {
            column.drain(..rows);
        }
        self.bad.retain_mut(|(row, _)| {
            let kept = *row as usize >= rows;
            *row = row.saturating_sub(rows as u32);
            kept
        });
    }

    /// The raw line of a row.
    pub fn line(&self, row: usize) -> &[u8] {
        let span = self.lines[row];
        &self.bytes[span.start as usize..(span.start + span.len) as usize]
    }

    /// The text of a span.
    pub fn text(&self, span: Span) -> &str {
        let (start, len) = (span.start as usize, span.len as usize);
        match start.checked_sub(self.bytes.len()) {
            Some(start) => &self.arena[start..start + len],
            // The decoder makes spans only of lines that it found to be UTF-8, so that the default is never taken.
            None => simdutf8::basic::from_utf8(&self.bytes[start..start + len]).unwrap_or_default(),
        }
    }

    /// The value in a column of a row.
    ///
    /// # Errors
    /// Where the line holds something there that is no value.
    pub fn value(&self, column: usize, row: usize) -> Result<Value<'_>, Fault> {
        Ok(match self.columns[column][row] {
            Cell::Null => Value::Null,
            Cell::Bool(value) => Value::Bool(value),
            Cell::Int(value) => Value::Int(value),
            Cell::Float(value) => Value::Float(value),
            Cell::Text(span) => Value::Text(Cow::Borrowed(self.text(span))),
            Cell::Json(span) => Value::Json(Cow::Borrowed(self.text(span))),
            Cell::Invalid(fault) => return Err(fault),
        })
    }

    /// Bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        self.bytes.capacity()
            + self.arena.capacity()
            + self.lines.capacity() * size_of::<Span>()
            + self.columns.iter().map(|column| column.capacity() * size_of::<Cell>()).sum::<usize>()
    }
}

impl Batch {
    /// The position of a row.
    pub fn record(&self, row: usize) -> Position {
        self.range.after + 1 + row as u64
    }

    /// The position of a row's line: of a replayed one that where it stood first.
    pub fn position(&self, row: usize) -> Position {
        self.replayed(row).map_or_else(|| self.record(row), |letter| letter.position)
    }

    /// When the journal took a row's line, unix ms: of a replayed one when it came first.
    pub fn line_ingest_time(&self, row: usize) -> i64 {
        self.replayed(row).map_or(self.ingest_time, |letter| letter.ingest_time)
    }

    /// Who sent a row's line.
    pub fn line_origin(&self, row: usize) -> &Origin {
        self.replayed(row).map_or(&self.origin, |letter| &letter.origin)
    }

    /// The letter that a row is, in a replay.
    pub fn replayed(&self, row: usize) -> Option<&Replayed> {
        self.replay.as_ref().map(|replay| &replay.letters[row])
    }

    /// How many of its rows are events of the stream. Letters that come again are none.
    pub fn events(&self) -> u64 {
        if self.replay.is_some() { 0 } else { (self.decoded.len() - self.decoded.bad.len()) as u64 }
    }

    /// A letter about a row.
    pub fn letter(&self, row: usize, kind: LetterKind, stage: &str, reason: String) -> Letter {
        let line = self.decoded.line(row);
        let kept = if self.overlong.is_some() { line.len().min(OVERLONG_LINE_KEPT_BYTES) } else { line.len() };
        Letter {
            position: self.position(row),
            line: line[..kept].to_vec(),
            kind,
            stage: stage.to_owned(),
            reason,
            ingest_time: self.line_ingest_time(row),
            failed_at: self.ingest_time,
            origin: self.line_origin(row).clone(),
            record: self.record(row),
            attempts: 1,
            again: self.replay.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn producers_have_plain_names() {
        for name in ["", "with space", "ümlaut", "semi;colon", &"x".repeat(129)] {
            assert!(!is_producer_name(name), "{name}");
        }
        assert!(is_producer_name(&"x".repeat(128)) && is_producer_name("send:a.ndjson/09-Z"));
    }
}
