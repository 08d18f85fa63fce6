//! What a stage hands to a window actor: the events of one batch that belong to it.

use std::sync::Arc;

use crate::event::{Batch, PositionRange, Span, Value};

/// One input of an aggregate, computed by the stage. FILTER is decided already: what it leaves out is `Null`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Input {
    /// Skipped.
    #[default]
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// Unix ms.
    Time(i64),
    /// Text in the rows' arena.
    Text(Span),
    /// JSON text in the rows' arena.
    Json(Span),
}

impl Input {
    /// As a value that borrows its text.
    pub fn value(self, arena: &str) -> Value<'_> {
        let text = |span: Span| &arena[span.start as usize..(span.start + span.len) as usize];
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Float(value) => Value::Float(value),
            Self::Time(value) => Value::Time(value),
            Self::Text(span) => Value::Text(text(span).into()),
            Self::Json(span) => Value::Json(text(span).into()),
        }
    }
}

/// One event, on its way into a window.
#[derive(Clone, Copy, Debug)]
pub struct WindowRow {
    /// Row in the batch (for position, raw line).
    pub row: u32,
    /// Which of the outputs of that record it is, from 0.
    pub ordinal: u32,
    /// Event time, unix ms.
    pub time: i64,
    /// The watermark that was true before this event.
    pub watermark: i64,
    /// Hash of the group's key.
    pub hash: u64,
    /// Where the group's encoded key stands in `keys`.
    pub key: Span,
}

/// The events of one batch that belong to one window actor, in order; perhaps none.
#[derive(Clone, Debug)]
pub struct Rows {
    /// All records of the batch, whether they have a row or not.
    pub range: PositionRange,
    /// Where the events come from.
    pub batch: Arc<Batch>,
    /// The events.
    pub rows: Vec<WindowRow>,
    /// `inputs[i * aggregates + a]` is the input of aggregate `a` for `rows[i]`.
    pub inputs: Vec<Input>,
    /// Encoded group keys (see `window::group`).
    pub keys: Vec<u8>,
    /// Text of the inputs.
    pub arena: String,
    /// The watermark behind the last record; `i64::MIN` before any event.
    pub watermark: i64,
}

impl Rows {
    /// Bytes that it holds in memory, without the batch that it shares.
    pub fn weight(&self) -> usize {
        self.rows.capacity() * size_of::<WindowRow>()
            + self.inputs.capacity() * size_of::<Input>()
            + self.keys.capacity()
            + self.arena.capacity()
    }
}
