//! What became of one event: as it was before the first stage, behind each of them, and at the end. Only events that
//! somebody watches are traced, on the way that all take.

use serde::Serialize;
use serde_json::{Map, Value as Json};

use super::part::Part;
use super::stage::{Refusal, StageOperator};
use crate::config::{SlotSource, StageConfig};
use crate::event::{Batch, DecodeError, Fault, Row, Value, format_utc};
use crate::limits::{TAP_EVENT_BYTES_MAX, TAP_VALUE_BYTES_MAX};
use crate::window::WindowSpec;

/// What a step costs besides its values.
const STEP_BYTES: usize = 128;

/// An event, and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct Trace {
    position: u64,
    ingest_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    producer: Option<String>,
    /// A letter that comes again.
    #[serde(skip_serializing_if = "is_false")]
    replayed: bool,
    line: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<String>,
    /// The one that was true before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<String>,
    /// Those that the pipeline names, before the first stage.
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Json>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    steps: Vec<Step>,
    /// Steps that there was no room for.
    #[serde(skip_serializing_if = "is_zero")]
    steps_left_out: usize,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    letter: Option<Why>,
    /// What all fields were before the stage at hand.
    #[serde(skip)]
    before: Vec<Json>,
    /// Whether the step at hand was left out.
    #[serde(skip)]
    is_full: bool,
    #[serde(skip)]
    bytes: usize,
}

/// Why an event is none, or is a letter.
#[derive(Debug, Serialize)]
struct Why {
    kind: &'static str,
    stage: String,
    reason: String,
}

/// One stage, or the window behind them.
#[derive(Debug, Default, Serialize)]
struct Step {
    /// Which of the events that `explode` or a custom stage has made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    part: Vec<u32>,
    /// Its number in the config, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<usize>,
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    text: String,
    outcome: &'static str,
    /// How many events it has made.
    #[serde(skip_serializing_if = "Option::is_none")]
    into: Option<usize>,
    /// What it has set.
    #[serde(skip_serializing_if = "Map::is_empty")]
    set: Map<String, Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<[String; 2]>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    group: Map<String, Json>,
    /// What aggregates are given.
    #[serde(skip_serializing_if = "Map::is_empty")]
    inputs: Map<String, Json>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &usize) -> bool {
    *count == 0
}

impl Trace {
    /// Of a row of a batch, which may be no event. What it ends as is not known yet; a line of a stream is taken.
    pub(super) fn new(batch: &Batch, row: usize, bad: Option<&DecodeError>) -> Self {
        let line = batch.decoded.line(row);
        let shown = &line[..line.len().min(TAP_VALUE_BYTES_MAX)];
        let cut = if shown.len() < line.len() { "…" } else { "" };
        let line = format!("{}{cut}", String::from_utf8_lossy(shown));
        Self {
            position: batch.position(row),
            ingest_time: format_utc(batch.line_ingest_time(row)),
            producer: batch.line_origin(row).producer.as_deref().map(str::to_owned),
            replayed: batch.replay.is_some(),
            bytes: line.len(),
            line,
            event_time: None,
            watermark: None,
            fields: Map::new(),
            steps: Vec::new(),
            steps_left_out: 0,
            outcome: if bad.is_some() { "rejected" } else { "taken" },
            letter: bad.map(|error| Why { kind: "decode", stage: "decode".to_owned(), reason: error.to_string() }),
            before: Vec::new(),
            is_full: false,
        }
    }

    /// It is a letter.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        let Refusal { kind, stage, reason } = refusal;
        self.outcome = "letter";
        self.letter = Some(Why { kind: kind.name(), stage: stage.clone(), reason: reason.clone() });
    }

    /// How it ends, as far as it is known. Events that a stage has made of it end each for itself.
    fn ends(&mut self, outcome: &'static str) {
        if self.outcome != "exploded" {
            self.outcome = outcome;
        }
    }

    /// Begins a step, unless there is no room for it.
    fn begin(&mut self, step: Step) {
        self.is_full = self.bytes > TAP_EVENT_BYTES_MAX;
        if self.is_full {
            self.steps_left_out += 1;
            return;
        }
        self.bytes += STEP_BYTES + step.text.len();
        self.steps.push(step);
    }

    /// The step at hand, where there was room for it.
    fn step(&mut self) -> Option<&mut Step> {
        if self.is_full { None } else { self.steps.last_mut() }
    }

    /// Values by name, as far as there is room.
    fn note(&mut self, values: impl IntoIterator<Item = (String, Json)>) -> Map<String, Json> {
        let mut noted = Map::new();
        for (name, value) in values {
            if self.bytes > TAP_EVENT_BYTES_MAX {
                break;
            }
            self.bytes += name.len() + value.as_str().map_or(16, str::len);
            noted.insert(name, value);
        }
        noted
    }
}

/// A value, cut where it is long.
fn shown(value: Result<Value<'_>, Fault>) -> Json {
    match value {
        Ok(Value::Text(text) | Value::Json(text)) if text.len() > TAP_VALUE_BYTES_MAX => {
            format!("{}…", &text[..text.floor_char_boundary(TAP_VALUE_BYTES_MAX)]).into()
        }
        Ok(Value::Json(text)) => serde_json::from_str(&text).unwrap_or_else(|_| text.into()),
        Ok(value) => value.to_json(),
        Err(fault) => format!("({fault})").into(),
    }
}

impl StageOperator {
    /// A traced event is about to enter the stages.
    pub(super) fn trace_enters(&mut self, part: &Part<'_>) {
        let Some(mut trace) = self.trace.take() else { return };
        let view = self.view(part);
        trace.event_time = Some(format_utc(part.time));
        trace.watermark = (part.watermark > i64::MIN).then(|| format_utc(part.watermark));
        let fields = self.config.slots.iter().enumerate().filter_map(|(slot, source)| match source {
            SlotSource::Field(_) => Some((self.slot_name(slot), shown(view.field(slot)))),
            SlotSource::Computed(_) => None,
        });
        trace.fields = trace.note(fields);
        self.trace = Some(trace);
    }

    /// It is about to be taken by a stage.
    pub(super) fn trace_stage(&mut self, part: &Part<'_>, index: usize) {
        let Some(mut trace) = self.trace.take() else { return };
        let definition = self.config.definition["stages"][index].as_object().and_then(|stage| stage.iter().next());
        let (kind, text) = match definition {
            Some((kind, Json::String(text))) => (kind.clone(), text.clone()),
            Some((kind, other)) => (kind.clone(), other.to_string()),
            None => ("stage".to_owned(), String::new()),
        };
        let text = shown(Ok(Value::text(&text))).as_str().unwrap_or_default().to_owned();
        let (part_path, stage) = (part.path.clone(), Some(index + 1));
        // Until it is known to have passed.
        trace.begin(Step { part: part_path, stage, kind, text, outcome: "failed", ..Step::default() });
        trace.before = if trace.is_full { Vec::new() } else { self.all_slots(part) };
        self.trace = Some(trace);
    }

    /// It has passed the stage.
    pub(super) fn trace_passed(&mut self, part: &Part<'_>, stage: &StageConfig) {
        let Some(mut trace) = self.trace.take() else { return };
        let before = std::mem::take(&mut trace.before);
        if !trace.is_full {
            let sets = |slot: usize| match stage {
                StageConfig::Set(set) => set.iter().any(|(own, _)| *own == slot),
                StageConfig::Enrich(enrich) => enrich.take.iter().any(|(own, _)| *own == slot),
                _ => false,
            };
            let behind = self.all_slots(part).into_iter().zip(before).enumerate();
            let changed = behind.filter(|(slot, (behind, before))| sets(*slot) || behind != before);
            let set = trace.note(changed.map(|(slot, (behind, _))| (self.slot_name(slot), behind)));
            if let Some(step) = trace.step() {
                step.outcome = "passed";
                step.set = set;
            }
        }
        self.trace = Some(trace);
    }

    /// It ends at the stage at hand, or other events go on in its place.
    pub(super) fn trace_ends(&mut self, outcome: &'static str, into: Option<usize>) {
        let Some(trace) = &mut self.trace else { return };
        trace.ends(outcome);
        if let Some(step) = trace.step() {
            step.outcome = outcome;
            step.into = into;
        }
    }

    /// It is about to be handed to its window.
    pub(super) fn trace_window(&mut self, part: &Part<'_>) {
        if let Some(trace) = &mut self.trace {
            let (part, kind) = (part.path.clone(), "window".to_owned());
            trace.begin(Step { part, kind, outcome: "failed", ..Step::default() });
        }
    }

    /// It is handed to its window, which decides the rest: what that will be, as far as it is known here.
    pub(super) fn trace_handed(&mut self, part: &Part<'_>) {
        let Some(mut trace) = self.trace.take() else { return };
        let view = self.view(part);
        let groups = self.config.group_by.iter();
        let group = trace.note(groups.map(|group| (group.name.clone(), shown(view.field(group.slot)))));
        let inputs = self.config.aggregates.iter().map(|aggregate| {
            let counts = aggregate.filter.as_ref().is_none_or(|filter| filter.is_true(&view).unwrap_or(false));
            let input = match &aggregate.input {
                _ if !counts => Json::Null,
                None => true.into(),
                // It was evaluated a moment ago: it has a value.
                Some(input) => input.eval(&view).map_or(Json::Null, |value| shown(Ok(value))),
            };
            (aggregate.name.clone(), input)
        });
        let inputs = trace.note(inputs);
        let window = self.config.window.next_to_close(part.time);
        let outcome = self.outcome_of(part);
        trace.ends(outcome);
        if let Some(step) = trace.step() {
            step.outcome = outcome;
            step.window = window.map(|(start, end)| [format_utc(start), format_utc(end)]);
            (step.group, step.inputs) = (group, inputs);
        }
        self.trace = Some(trace);
    }

    /// Whether its windows have closed, by the watermark before it.
    fn outcome_of(&self, part: &Part<'_>) -> &'static str {
        let window = self.config.window;
        let closed = |end: i64| end <= part.watermark;
        if let WindowSpec::Session { gap_ms } = window {
            return if closed(part.time.saturating_add(gap_ms)) {
                "late unless its session is open"
            } else {
                "aggregated"
            };
        }
        match (window.next_to_close(part.time), window.end_of_last_before(part.time.saturating_add(1))) {
            (_, Some(last)) if closed(last) => "late",
            (Some((_, first)), _) if closed(first) => "partly late",
            _ => "aggregated",
        }
    }

    fn all_slots(&self, part: &Part<'_>) -> Vec<Json> {
        let view = self.view(part);
        (0..self.config.slots.len()).map(|slot| shown(view.field(slot))).collect()
    }

    fn slot_name(&self, slot: usize) -> String {
        match &self.config.slots[slot] {
            SlotSource::Field(field) if field.root().is_empty() => "timestamp".to_owned(),
            SlotSource::Field(field) => field.to_string(),
            SlotSource::Computed(name) => name.clone(),
        }
    }
}
