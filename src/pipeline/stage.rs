//! The stage operator: from a batch of events to the rows of each window actor, and letters.

use std::sync::Arc;

use super::calls::Calls;
use super::custom::{CustomStage, Outcome, StageRegistry};
use super::input::{excerpt, input};
use super::observed::Observed;
use super::part::Part;
use super::tap::Taps;
use super::trace::Trace;
use crate::clock::Clock;
use crate::config::{PipelineConfig, SlotSource, StageConfig};
use crate::event::{
    Account, Batch, Counted, Fields, Letter, LetterKind, Position, PositionError, PositionRange, RawEvents, Replay,
    Row, Span, Value, format_utc, time_from_value,
};
use crate::expr::ExprError;
use crate::limits::GROUP_KEY_BYTES_MAX;
use crate::window::{Bounds, Rows, Watermark, WindowRow, encode_value, hash_key};

/// What a stage makes of a batch.
#[derive(Debug, Default)]
pub struct Staged {
    /// One for each window actor, also where it has no row.
    pub rows: Vec<Rows>,
    /// Events that failed.
    pub letters: Vec<Letter>,
    /// Letters that were replayed.
    pub counted: Vec<Counted>,
    /// Events that are kept as they came.
    pub raw: Option<Arc<RawEvents>>,
}

/// The stages, the watermark and the fan-out of one pipeline.
pub struct StageOperator {
    pub(super) config: Arc<PipelineConfig>,
    /// Of the definition: a replay counts only in that which it was made under.
    revision: u64,
    /// Column of the stream's batches for each slot; `None` for a computed one.
    pub(super) columns: Vec<Option<usize>>,
    pub(super) custom: Vec<Option<CustomStage>>,
    /// Whether a stage can make several events of one.
    makes_many: bool,
    /// Whether a stage waits for something.
    pub(super) waits: bool,
    pub(super) calls: Calls,
    windows: usize,
    bounds: Bounds,
    watermark: Watermark,
    range: PositionRange,
    pub(super) account: Account,
    observed: Observed,
    pub(super) clock: Clock,
    /// What stages have put into slots, for the event at hand; `None`: as in the line.
    pub(super) computed: Vec<Option<Value<'static>>>,
    /// Who watches.
    taps: Option<Arc<Taps>>,
    /// What becomes of the event at hand, where somebody watches it.
    pub(super) trace: Option<Box<Trace>>,
}

/// Why an event ends as a letter.
#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) kind: LetterKind,
    pub(super) stage: String,
    pub(super) reason: String,
}

/// How an event left the stages.
pub(super) enum Passed {
    Yes,
    Filtered,
}

impl StageOperator {
    /// The operator of a pipeline that reads batches with these fields, begins behind `position`, and feeds `windows`
    /// window actors. A custom stage that nobody registered is refused by name.
    ///
    /// # Errors
    /// The name of a custom stage that is not registered.
    pub fn new(
        (config, revision): (Arc<PipelineConfig>, u64),
        fields: &Fields,
        registry: &StageRegistry,
        windows: usize,
        position: Position,
        watermark: Watermark,
        clock: Clock,
    ) -> Result<Self, String> {
        let columns = config
            .slots
            .iter()
            .map(|source| match source {
                SlotSource::Field(field) => fields.column(field),
                SlotSource::Computed(_) => None,
            })
            .collect();
        let custom = config
            .stages
            .iter()
            .map(|stage| match stage {
                StageConfig::Custom(name) => registry.get(name).cloned().map(Some).ok_or_else(|| name.clone()),
                _ => Ok(None),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let computed = vec![None; config.slots.len()];
        let makes_many = |stage: &StageConfig| matches!(stage, StageConfig::Custom(_) | StageConfig::Explode { .. });
        Ok(Self {
            makes_many: config.stages.iter().any(makes_many),
            waits: custom.iter().any(|custom| matches!(custom, Some(CustomStage::Async(_)))),
            calls: Calls::default(),
            bounds: config.bounds(),
            observed: Observed::new(&config, fields),
            config,
            revision,
            columns,
            custom,
            windows,
            watermark,
            range: PositionRange::behind(position, 0),
            account: Account::default(),
            clock,
            computed,
            taps: None,
            trace: None,
        })
    }

    /// The same, with those who watch.
    #[must_use]
    pub fn watched(self, taps: Arc<Taps>) -> Self {
        Self { taps: Some(taps), ..self }
    }

    /// The watermark behind the last record.
    pub fn watermark(&self) -> &Watermark {
        &self.watermark
    }

    /// The last record's position.
    pub fn position(&self) -> Position {
        self.range.upto
    }

    /// What was seen of the events, since `new`.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Its part of the account: read, made, filtered, dead, exploded; since `new`.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// Where the batch does not follow the one before.
    pub fn apply(&mut self, batch: &Arc<Batch>) -> Result<Staged, PositionError> {
        self.range.extend(batch.range)?;
        let mut staged = Staged { rows: self.empty_rows(batch), ..Staged::default() };
        if let Some(silence_ms) = batch.silence_ms {
            self.watermark.tick(silence_ms);
        }
        if self.takes(batch) {
            self.events(batch, &mut staged);
            self.forget_answers();
        }
        for rows in &mut staged.rows {
            rows.watermark = self.watermark.value();
        }
        Ok(staged)
    }

    /// Whether its events are of this pipeline: letters that come again may be another one's.
    pub(super) fn takes(&self, batch: &Batch) -> bool {
        let owns = |replay: &Arc<Replay>| *replay.pipeline == *self.config.name && replay.revision == self.revision;
        batch.replay.as_ref().is_none_or(owns)
    }

    fn events(&mut self, batch: &Arc<Batch>, staged: &mut Staged) {
        self.observed.look(&batch.decoded);
        let mut bad = batch.decoded.bad.iter().peekable();
        let mut sample = self.taps.as_ref().and_then(|taps| taps.sample(batch.decoded.len()));
        for row in 0..batch.decoded.len() {
            let bad = bad.next_if(|(bad, _)| *bad == row as u32);
            if sample.as_ref().is_some_and(|sample| sample.wants(row)) {
                self.trace = Some(Box::new(Trace::new(batch, row, bad.map(|(_, error)| error))));
            }
            if batch.replay.is_some() {
                let (position, record) = (batch.position(row), batch.record(row));
                staged.counted.push(Counted { position, record, at: batch.ingest_time });
            }
            match bad {
                None => self.event(batch, row, staged),
                // Of a line of the stream the intake makes the letter.
                Some(_) if batch.replay.is_none() => {}
                Some((_, error)) => {
                    self.account.read += 1;
                    let (kind, stage, reason) = (LetterKind::Decode, "decode".into(), error.to_string());
                    self.refuse(batch, row, Refusal { kind, stage, reason }, staged);
                }
            }
            if let (Some(sample), Some(trace)) = (&mut sample, self.trace.take()) {
                sample.give(row, &trace);
            }
        }
    }

    pub(super) fn empty_rows(&self, batch: &Arc<Batch>) -> Vec<Rows> {
        let expected = batch.decoded.len() / self.windows + 1;
        (0..self.windows)
            .map(|_| Rows {
                range: batch.range,
                batch: batch.clone(),
                rows: Vec::with_capacity(expected),
                inputs: Vec::with_capacity(expected * self.config.aggregates.len()),
                keys: Vec::with_capacity(expected * 8),
                arena: String::new(),
                watermark: i64::MIN,
            })
            .collect()
    }

    fn event(&mut self, batch: &Arc<Batch>, row: usize, staged: &mut Staged) {
        self.account.read += 1;
        // A letter that comes again says nothing about how far the stream is.
        let replayed = batch.replay.is_some();
        if !replayed {
            self.watermark.line();
        }
        let before = self.watermark.value();
        let time = match self.event_time(batch, row) {
            Ok(time) => time,
            Err(refusal) => return self.refuse(batch, row, refusal, staged),
        };
        if self.watermark.is_ahead(time, batch.ingest_time) {
            let reason = format!(
                "event time {} is more than max_ahead beyond its ingest time {}",
                format_utc(time),
                format_utc(batch.ingest_time)
            );
            return self.refuse(batch, row, Refusal { kind: LetterKind::Ahead, stage: "time".into(), reason }, staged);
        }
        if !replayed {
            self.watermark.observe(time, batch.ingest_time);
            self.observed.event(time.min(batch.ingest_time));
        }

        // An event fails whole: what its parts have left behind is taken back.
        let account = self.account;
        let many = self.makes_many;
        let marks: Vec<_> = if many { staged.rows.iter().map(mark).collect() } else { Vec::new() };
        let mut part = Part::new(batch, row, time, before);
        if self.trace.is_some() {
            self.trace_enters(&part);
        }
        let passed = self.stages(&mut part, 0, staged);
        self.forget_computed();
        match passed {
            Ok(Passed::Yes) => {}
            Ok(Passed::Filtered) => self.account.filtered += 1,
            Err(refusal) => {
                self.account = account;
                for (rows, mark) in staged.rows.iter_mut().zip(marks) {
                    rows.rows.truncate(mark.0);
                    rows.inputs.truncate(mark.1);
                    rows.keys.truncate(mark.2);
                    rows.arena.truncate(mark.3);
                }
                self.refuse(batch, row, refusal, staged);
            }
        }
    }

    /// The event at hand is done with.
    pub(super) fn forget_computed(&mut self) {
        self.computed.fill(None);
    }

    fn refuse(&mut self, batch: &Batch, row: usize, refusal: Refusal, staged: &mut Staged) {
        self.account.dead += 1;
        if let Some(trace) = &mut self.trace {
            trace.refused(&refusal);
        }
        staged.letters.push(batch.letter(row, refusal.kind, &refusal.stage, refusal.reason));
    }

    pub(super) fn event_time(&self, batch: &Batch, row: usize) -> Result<i64, Refusal> {
        let Some(time) = &self.config.time else { return Ok(batch.line_ingest_time(row)) };
        let refusal = |reason| {
            let name = if time.of_point { "the point's timestamp".to_owned() } else { time.field.to_string() };
            Err(Refusal { kind: LetterKind::Time, stage: "time".into(), reason: format!("{name}{reason}") })
        };
        match self.columns[time.slot].map_or(Ok(Value::Null), |column| batch.decoded.value(column, row)) {
            Ok(Value::Null) if time.missing_is_ingest => Ok(batch.line_ingest_time(row)),
            Ok(Value::Null) => refusal(" is missing".to_owned()),
            Ok(value) => match time_from_value(&value, time.unit) {
                Some(time) => Ok(time),
                None => refusal(format!(" is no time in the years 1 to 9999: {}", excerpt(&value))),
            },
            Err(fault) => refusal(format!(": {fault}")),
        }
    }

    /// Takes the event at hand through the stages from `first` on, then into its window's rows.
    pub(super) fn stages(&mut self, part: &mut Part<'_>, first: usize, staged: &mut Staged) -> Result<Passed, Refusal> {
        let config = self.config.clone();
        let is_traced = self.trace.is_some();
        for (index, stage) in config.stages.iter().enumerate().skip(first) {
            if is_traced {
                self.trace_stage(part, index);
            }
            if let Some(ended) = self.stage(part, (index, stage), staged)? {
                if is_traced && matches!(ended, Passed::Filtered) {
                    self.trace_ends("filtered", None);
                }
                return Ok(ended);
            }
            if is_traced {
                self.trace_passed(part, stage);
            }
        }
        if is_traced {
            self.trace_window(part);
        }
        self.hand_over(part, staged)?;
        if is_traced {
            self.trace_handed(part);
        }
        Ok(Passed::Yes)
    }

    /// One stage; `None` where the event at hand goes on.
    fn stage(
        &mut self,
        part: &mut Part<'_>,
        (index, stage): (usize, &StageConfig),
        staged: &mut Staged,
    ) -> Result<Option<Passed>, Refusal> {
        match stage {
            StageConfig::Filter(expression) => {
                let view = self.view(part);
                if !expression.is_true(&view).map_err(|error| refusal("filter", &error))? {
                    return Ok(Some(Passed::Filtered));
                }
            }
            StageConfig::Set(slots) => {
                let view = self.view(part);
                let values = slots
                    .iter()
                    .map(|(slot, expression)| Ok((*slot, expression.eval(&view)?.into_owned())))
                    .collect::<Result<Vec<_>, ExprError>>()
                    .map_err(|error| refusal("set", &error))?;
                for (slot, value) in values {
                    self.computed[slot] = Some(value);
                }
            }
            StageConfig::Custom(name) => {
                let Some(custom) = self.custom[index].clone() else { return Ok(None) };
                let mut event = self.event_of(part);
                let outcome = match &custom {
                    CustomStage::Sync(custom) if !self.waits => self.call(custom, name, &mut event)?,
                    custom => self.call_or_wait(custom, name, (part, index), &mut event)?,
                };
                match outcome {
                    Outcome::Keep => self.take_event(&event),
                    Outcome::Drop => return Ok(Some(Passed::Filtered)),
                    Outcome::Many(events) => return self.many(part, index, events, staged).map(Some),
                }
            }
            StageConfig::Explode { field, slot } => {
                return self.explode(part, index, (field, *slot), staged).map(Some);
            }
            StageConfig::Enrich(enrich) => {
                if !self.enrich(part, enrich)? {
                    return Ok(Some(Passed::Filtered));
                }
            }
        }
        Ok(None)
    }

    fn hand_over(&mut self, part: &mut Part<'_>, staged: &mut Staged) -> Result<(), Refusal> {
        // The key is encoded behind those of the first window's rows, and moved where its hash sends it.
        let start = staged.rows[0].keys.len();
        let mut key = std::mem::take(&mut staged.rows[0].keys);
        let encoded = self.encode_group(part, &mut key);
        let hash = hash_key(&key[start..]);
        let window = self.bounds.window_of(hash, self.windows);
        staged.rows[0].keys = key;
        if let Err(refusal) = encoded {
            staged.rows[0].keys.truncate(start);
            return Err(refusal);
        }
        let len = staged.rows[0].keys.len() - start;
        if window > 0 {
            let (first, others) = staged.rows.split_at_mut(1);
            others[window - 1].keys.extend_from_slice(&first[0].keys[start..]);
            first[0].keys.truncate(start);
        }
        let rows = &mut staged.rows[window];
        let (inputs, arena) = (rows.inputs.len(), rows.arena.len());
        if let Err(refusal) = self.inputs(part, rows) {
            rows.inputs.truncate(inputs);
            rows.arena.truncate(arena);
            rows.keys.truncate(rows.keys.len() - len);
            return Err(refusal);
        }
        let key = Span { start: (rows.keys.len() - len) as u32, len: len as u32 };
        rows.rows.push(WindowRow {
            row: part.row as u32,
            ordinal: part.ordinal,
            time: part.time,
            watermark: part.watermark,
            hash,
            key,
        });
        part.ordinal += 1;
        Ok(())
    }

    fn encode_group(&self, part: &Part<'_>, key: &mut Vec<u8>) -> Result<(), Refusal> {
        let start = key.len();
        let refusal = |reason| Refusal { kind: LetterKind::Group, stage: "group_by".into(), reason };
        let view = self.view(part);
        for group in &self.config.group_by {
            let value = view.field(group.slot).map_err(|fault| refusal(format!("{}: {fault}", group.name)))?;
            encode_value(&value, key);
        }
        let len = key.len() - start;
        if len > GROUP_KEY_BYTES_MAX {
            return Err(refusal(format!("the group's key has {len} bytes, more than {GROUP_KEY_BYTES_MAX}")));
        }
        Ok(())
    }

    fn inputs(&self, part: &Part<'_>, rows: &mut Rows) -> Result<(), Refusal> {
        let view = self.view(part);
        for aggregate in &self.config.aggregates {
            let input = input(aggregate, &view, rows).map_err(|error| Refusal {
                kind: LetterKind::Expression,
                stage: format!("aggregate {}", aggregate.name),
                reason: error.to_string(),
            })?;
            rows.inputs.push(input);
        }
        Ok(())
    }
}

fn mark(rows: &Rows) -> (usize, usize, usize, usize) {
    (rows.rows.len(), rows.inputs.len(), rows.keys.len(), rows.arena.len())
}

pub(super) fn refusal(stage: &str, error: &ExprError) -> Refusal {
    Refusal { kind: LetterKind::Expression, stage: stage.to_owned(), reason: error.to_string() }
}
