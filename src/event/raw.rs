//! Raw events: lines as they came, for the store.

use std::sync::Arc;

use super::{Position, Span};

/// A line that is an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawEvent {
    /// Where it stands in its stream.
    pub position: Position,
    /// Unix ms; `None` where the stream has no time of its own, or the line none that can be read.
    pub event_time: Option<i64>,
    /// Where the line stands in the bytes.
    pub line: Span,
}

/// The events of a batch, which share its buffer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawEvents {
    /// The lines.
    pub bytes: Arc<Vec<u8>>,
    /// When the journal took them, unix ms.
    pub ingest_time: i64,
    /// In the order of their positions.
    pub events: Vec<RawEvent>,
}

impl RawEvents {
    /// The bytes of a line, without its line end.
    pub fn line(&self, event: &RawEvent) -> &[u8] {
        let start = event.line.start as usize;
        &self.bytes[start..start + event.line.len as usize]
    }

    /// Bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.bytes.capacity() + self.events.capacity() * size_of::<RawEvent>()
    }
}
