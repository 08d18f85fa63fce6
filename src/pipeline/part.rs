//! One event on its way through the stages, and how expressions see it.

use std::sync::Arc;

use super::stage::StageOperator;
use crate::event::{Batch, Fault, Position, Row, Value};

impl StageOperator {
    /// The event at hand, as it is behind the stages so far.
    pub(super) fn view<'a>(&'a self, part: &'a Part<'_>) -> View<'a> {
        View { operator: self, batch: part.batch, row: part.row, time: part.time }
    }
}

/// One event on its way, or one of those that a stage made of it.
pub(super) struct Part<'a> {
    pub(super) batch: &'a Arc<Batch>,
    pub(super) row: usize,
    pub(super) time: i64,
    /// The watermark that was true before its record.
    pub(super) watermark: i64,
    /// How many parts went into windows before it.
    pub(super) ordinal: u32,
    /// How many events stages have made of the record.
    pub(super) made: usize,
    /// Which of the events that a stage made it is, and of those another one made of that.
    pub(super) path: Vec<u32>,
}

impl<'a> Part<'a> {
    pub(super) fn new(batch: &'a Arc<Batch>, row: usize, time: i64, watermark: i64) -> Self {
        Self { batch, row, time, watermark, ordinal: 0, made: 0, path: Vec::new() }
    }
}

/// The event at hand, as expressions see it.
pub(super) struct View<'a> {
    operator: &'a StageOperator,
    batch: &'a Batch,
    row: usize,
    time: i64,
}

impl Row for View<'_> {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        match (&self.operator.computed[slot], self.operator.columns[slot]) {
            (Some(value), _) => Ok(value.borrowed()),
            (None, Some(column)) => self.batch.decoded.value(column, self.row),
            (None, None) => Ok(Value::Null),
        }
    }

    fn event_time(&self) -> i64 {
        self.time
    }

    fn ingest_time(&self) -> i64 {
        self.batch.line_ingest_time(self.row)
    }

    fn position(&self) -> Position {
        self.batch.position(self.row)
    }

    fn producer(&self) -> Option<&str> {
        self.batch.line_origin(self.row).producer.as_deref()
    }
}
