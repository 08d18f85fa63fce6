//! One event, as a window sees it.

use super::aggregate::EventOrder;
use super::{Input, Rows};

/// What is added to a state, and where that stands.
pub(super) struct Event<'a> {
    pub(super) hash: u64,
    pub(super) key: &'a [u8],
    pub(super) inputs: &'a [Input],
    pub(super) arena: &'a str,
    pub(super) at: EventOrder,
    pub(super) ingest_time: i64,
}

impl<'a> Event<'a> {
    /// The event of a row, where each row has so many inputs.
    pub(super) fn of(rows: &'a Rows, index: usize, aggregates: usize) -> Self {
        let row = &rows.rows[index];
        let key = row.key.start as usize..(row.key.start + row.key.len) as usize;
        Self {
            hash: row.hash,
            key: &rows.keys[key],
            inputs: &rows.inputs[index * aggregates..(index + 1) * aggregates],
            arena: &rows.arena,
            at: EventOrder { time: row.time, position: rows.batch.position(row.row as usize), ordinal: row.ordinal },
            ingest_time: rows.batch.ingest_time,
        }
    }
}
