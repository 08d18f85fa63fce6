//! What is seen of a pipeline's events besides their results: how much they are out of order, by which `delay` is chosen,
//! and which of the fields that it names none of them has.

use crate::config::{PipelineConfig, SlotSource, TimeConfig};
use crate::event::{Decoded, Field, Fields, Value, time_from_value};
use crate::window::{Distribution, Fraction};

/// Since the generation began.
#[derive(Clone, Debug)]
pub struct Observed {
    /// How far events came behind the greatest time before them, ms; those aside that came in order.
    disorder: Distribution,
    in_order: u64,
    greatest: i64,
    /// Fields that no event had, and their columns.
    unseen: Vec<(usize, Field)>,
}

/// How far events came behind the greatest time before them (that of an event ahead of the clock is the clock's), ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Disorder {
    /// Half of them no further than this.
    pub p50_ms: u64,
    /// 99 of 100 no further than this.
    pub p99_ms: u64,
    /// None further than this.
    pub max_ms: u64,
}

impl Observed {
    /// Of a pipeline that reads batches with these fields.
    pub(super) fn new(config: &PipelineConfig, fields: &Fields) -> Self {
        let unseen = config.slots.iter().filter_map(|slot| match slot {
            SlotSource::Field(field) => Some((fields.column(field)?, field.clone())),
            SlotSource::Computed(_) => None,
        });
        Self { disorder: Distribution::default(), in_order: 0, greatest: i64::MIN, unseen: unseen.collect() }
    }

    /// Looks for fields that were not seen before.
    pub(super) fn look(&mut self, decoded: &Decoded) {
        let has = |column: usize| (0..decoded.len()).any(|row| !matches!(decoded.value(column, row), Ok(Value::Null)));
        self.unseen.retain(|(column, _)| !has(*column));
    }

    /// An event with a usable time.
    pub(super) fn event(&mut self, time: i64) {
        if time >= self.greatest {
            self.greatest = time;
            self.in_order += 1;
        } else {
            self.disorder.add(self.greatest.saturating_sub(time), 1);
        }
    }

    /// `None` before any event.
    pub fn disorder(&self) -> Option<Disorder> {
        let mut all = self.disorder.clone();
        all.add(0, self.in_order);
        let at = |percent: f64| all.at(Fraction::new(percent / 100.0)?).map(|ms| ms.round() as u64);
        Some(Disorder { p50_ms: at(50.0)?, p99_ms: at(99.0)?, max_ms: all.greatest()? as u64 })
    }

    /// The fields that no event had, in the order in which the pipeline names them.
    pub fn never_seen(&self) -> Vec<String> {
        self.unseen.iter().map(|(_, field)| field.to_string()).collect()
    }
}

/// What events show of a pipeline that does not run: which of the fields that it names they have, and whether they have
/// a time.
pub struct Probe {
    observed: Observed,
    /// Where the time stands; `None` where it is the ingest time.
    time: Option<(usize, TimeConfig)>,
    without_time: u64,
}

impl Probe {
    /// Of a pipeline, over lines that are decoded with these fields, those of the pipeline among them.
    pub fn new(config: &PipelineConfig, fields: &Fields) -> Self {
        let column = |time: &TimeConfig| Some((fields.column(&time.field)?, time.clone()));
        let time = config.time.as_ref().and_then(column);
        Self { observed: Observed::new(config, fields), time, without_time: 0 }
    }

    /// Looks at lines.
    pub fn look(&mut self, decoded: &Decoded) {
        self.observed.look(decoded);
        let Some((column, time)) = &self.time else { return };
        let has_time = |row: usize| match decoded.value(*column, row) {
            Ok(Value::Null) => time.missing_is_ingest,
            Ok(value) => time_from_value(&value, time.unit).is_some(),
            Err(_) => false,
        };
        let mut bad = decoded.bad.iter().map(|(row, _)| *row as usize).peekable();
        let events = (0..decoded.len()).filter(|row| bad.next_if_eq(row).is_none());
        self.without_time += events.filter(|row| !has_time(*row)).count() as u64;
    }

    /// The fields that no event had, in the order in which the pipeline names them. That a point has no timestamp is no
    /// mistake of anybody.
    pub fn unseen(&self) -> impl Iterator<Item = &Field> {
        self.observed.unseen.iter().map(|(_, field)| field).filter(|field| **field != Field::timestamp())
    }

    /// Events without a usable time.
    pub fn without_time(&self) -> u64 {
        self.without_time
    }
}
