//! The intake of a stream: takes every line, makes letters of those that are no events, keeps the others where the stream
//! says so.

use std::sync::Arc;

use super::Staged;
use super::tap::Taps;
use super::trace::Trace;
use crate::config::RawEventsConfig;
use crate::event::{
    Account, Batch, Fields, LetterKind, Position, PositionError, PositionRange, RawEvent, RawEvents, TimeUnit,
    time_from_value,
};

/// A pipeline without windows that owns the stream's decode letters and raw events.
pub struct IntakeOperator {
    range: PositionRange,
    account: Account,
    raw: Option<RawTime>,
    taps: Option<Arc<Taps>>,
}

/// Raw events are kept; where their time stands.
struct RawTime(Option<(usize, Option<TimeUnit>)>);

impl IntakeOperator {
    /// Begins behind `position`; of a stream whose batches have these fields.
    pub fn new(position: Position, raw: Option<&RawEventsConfig>, fields: &Fields) -> Self {
        let column = |raw: &RawEventsConfig| {
            let (field, unit) = raw.time.as_ref()?;
            Some((fields.column(field)?, *unit))
        };
        let raw = raw.map(|raw| RawTime(column(raw)));
        Self { range: PositionRange::behind(position, 0), account: Account::default(), raw, taps: None }
    }

    /// The same, with those who watch.
    #[must_use]
    pub fn watched(self, taps: Arc<Taps>) -> Self {
        Self { taps: Some(taps), ..self }
    }

    /// The last record's position.
    pub fn position(&self) -> Position {
        self.range.upto
    }

    /// Lines: read, of those good ones (as aggregated) and letters (as dead); since `new`.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// Where the batch does not follow the one before.
    pub fn apply(&mut self, batch: &Batch) -> Result<Staged, PositionError> {
        self.range.extend(batch.range)?;
        self.show(batch);
        if batch.replay.is_some() {
            return Ok(Staged::default());
        }
        let (lines, bad) = (batch.decoded.len() as u64, batch.decoded.bad.len() as u64);
        self.account.read += lines;
        self.account.aggregated += lines - bad;
        self.account.dead += bad;
        let letter =
            |(row, error): &(u32, _)| batch.letter(*row as usize, LetterKind::Decode, "decode", format!("{error}"));
        let letters = batch.decoded.bad.iter().map(letter).collect();
        let raw = self.raw.as_ref().and_then(|raw| raw.events(batch));
        Ok(Staged { letters, raw, ..Staged::default() })
    }

    /// To those who watch.
    fn show(&self, batch: &Batch) {
        let Some(mut sample) = self.taps.as_ref().and_then(|taps| taps.sample(batch.decoded.len())) else { return };
        let bad = &batch.decoded.bad;
        for row in 0..batch.decoded.len() {
            if sample.wants(row) {
                let why = bad.binary_search_by_key(&(row as u32), |(bad, _)| *bad).ok().map(|index| &bad[index].1);
                sample.give(row, &Trace::new(batch, row, why));
            }
        }
    }
}

impl RawTime {
    /// The lines of a batch that are events; what is none is a letter already.
    fn events(&self, batch: &Batch) -> Option<Arc<RawEvents>> {
        let decoded = &batch.decoded;
        let mut bad = decoded.bad.iter().map(|(row, _)| *row as usize).peekable();
        let rows = (0..decoded.len()).filter(|row| bad.next_if_eq(row).is_none());
        let event = |row: usize| RawEvent {
            position: batch.position(row),
            event_time: self.time(batch, row),
            line: decoded.lines[row],
        };
        let events: Vec<_> = rows.map(event).collect();
        let (bytes, ingest_time) = (decoded.bytes.clone(), batch.ingest_time);
        (!events.is_empty()).then(|| Arc::new(RawEvents { bytes, ingest_time, events }))
    }

    fn time(&self, batch: &Batch, row: usize) -> Option<i64> {
        let (column, unit) = self.0?;
        time_from_value(&batch.decoded.value(column, row).ok()?, unit)
    }
}
