//! Stages that look beyond the event's own columns: custom ones, `explode` and `enrich`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::custom::{Event, Outcome, StageError, SyncStage};
use super::input::excerpt;
use super::part::Part;
use super::stage::{Passed, Refusal, StageOperator, Staged, refusal};
use crate::config::{EnrichConfig, MissingKey, SlotSource};
use crate::event::{Field, LetterKind, Value};
use crate::expr::{Expr, elements};
use crate::limits::OUTPUTS_PER_EVENT_MAX;

/// After these pauses a transient error of a custom stage is tried again.
pub(super) const TRANSIENT_PAUSES: [Duration; 3] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(300)];

impl StageOperator {
    /// So many more events are made of a record, unless those are too many.
    fn makes(&mut self, part: &mut Part<'_>, events: usize) -> Result<(), String> {
        part.made = part.made.saturating_add(events);
        if part.made > OUTPUTS_PER_EVENT_MAX {
            return Err(format!("{} outputs of one event are more than {OUTPUTS_PER_EVENT_MAX}", part.made));
        }
        self.account.exploded += 1;
        self.trace_ends("exploded", Some(events));
        Ok(())
    }

    /// One event for each element of a list, which stands under the name of the list. NULL is a list of none.
    pub(super) fn explode(
        &mut self,
        part: &mut Part<'_>,
        stage: usize,
        (field, slot): (&Expr, usize),
        staged: &mut Staged,
    ) -> Result<Passed, Refusal> {
        let refused = |reason| Refusal { kind: LetterKind::Expression, stage: "explode".into(), reason };
        let elements = {
            let view = self.view(part);
            match field.eval(&view).map_err(|error| refusal("explode", &error))? {
                Value::Null => Vec::new(),
                Value::Json(text) => elements(&text).map_err(refused)?,
                other => return Err(refused(format!("takes a list, not {} {}", other.type_name(), excerpt(&other)))),
            }
        };
        self.makes(part, elements.len()).map_err(refused)?;
        let computed = self.computed.clone();
        for (index, element) in elements.into_iter().enumerate() {
            self.computed.clone_from(&computed);
            self.computed[slot] = Some(element);
            self.go_on(part, (stage, index), staged)?;
        }
        Ok(Passed::Yes)
    }

    /// Sets what the table has for the event's key; whether the event goes on.
    pub(super) fn enrich(&mut self, part: &Part<'_>, enrich: &EnrichConfig) -> Result<bool, Refusal> {
        let view = self.view(part);
        let key = enrich.on.eval(&view).map_err(|error| refusal("enrich", &error))?;
        let row = key.to_text().and_then(|key| enrich.table.get(&key));
        if row.is_none() {
            match enrich.missing {
                MissingKey::Null => {}
                MissingKey::Drop => return Ok(false),
                MissingKey::DeadLetter => {
                    let what = if key.is_null() { "no value".to_owned() } else { excerpt(&key) };
                    let reason = format!("{} has no row for {what} ({})", enrich.table.name, enrich.key);
                    return Err(Refusal { kind: LetterKind::Enrich, stage: "enrich".into(), reason });
                }
            }
        }
        // An empty field of a CSV file is NULL, as PostgreSQL's COPY reads it.
        let text = |column: usize| row.map(|row| &*row[column]).filter(|text| !text.is_empty());
        for (slot, column) in &enrich.take {
            self.computed[*slot] = Some(text(*column).map_or(Value::Null, |text| Value::Text(text.to_owned().into())));
        }
        Ok(true)
    }

    pub(super) fn many(
        &mut self,
        part: &mut Part<'_>,
        stage: usize,
        events: Vec<Event>,
        staged: &mut Staged,
    ) -> Result<Passed, Refusal> {
        self.makes(part, events.len()).map_err(|reason| Refusal {
            kind: LetterKind::Custom,
            stage: "custom".into(),
            reason,
        })?;
        for (index, event) in events.into_iter().enumerate() {
            self.take_event(&event);
            self.go_on(part, (stage, index), staged)?;
        }
        Ok(Passed::Yes)
    }

    /// Takes one of the events that a stage has made through the stages behind it.
    fn go_on(
        &mut self,
        part: &mut Part<'_>,
        (stage, index): (usize, usize),
        staged: &mut Staged,
    ) -> Result<(), Refusal> {
        self.account.made += 1;
        // At most 10,000 of a record.
        part.path.push(index as u32);
        let passed = self.stages(part, stage + 1, staged);
        part.path.pop();
        if let Passed::Filtered = passed? {
            self.account.filtered += 1;
        }
        Ok(())
    }

    pub(super) fn call(&self, custom: &SyncStage, name: &str, event: &mut Event) -> Result<Outcome, Refusal> {
        let refusal = |kind, reason| Refusal { kind, stage: format!("custom {name}"), reason };
        let mut pauses = TRANSIENT_PAUSES.iter();
        loop {
            let mut attempt = event.clone();
            match catch_unwind(AssertUnwindSafe(|| custom(&mut attempt))) {
                Ok(Ok(outcome)) => {
                    *event = attempt;
                    return Ok(outcome);
                }
                Ok(Err(StageError::Bad(reason))) => return Err(refusal(LetterKind::Custom, reason)),
                Ok(Err(StageError::Transient(reason))) => match pauses.next() {
                    Some(pause) => self.clock.block(*pause),
                    None => return Err(refusal(LetterKind::Custom, still_failing(&reason))),
                },
                Err(panic) => return Err(refusal(LetterKind::Panic, panic_text(&*panic))),
            }
        }
    }

    /// The event at hand with all fields of its line, for a custom stage.
    pub(super) fn event_of(&self, part: &Part<'_>) -> Event {
        // The line was found to be a JSON object; a number that serde_json does not take leaves it without fields.
        let mut event = Event::new(serde_json::from_slice(part.batch.decoded.line(part.row)).unwrap_or_default());
        for (source, value) in self.config.slots.iter().zip(&self.computed) {
            if let (SlotSource::Computed(name), Some(value)) = (source, value) {
                event.set(name.clone(), value.to_json());
            }
        }
        event
    }

    /// What a custom stage left becomes what all later expressions see.
    pub(super) fn take_event(&mut self, event: &Event) {
        for (source, slot) in self.config.slots.iter().zip(&mut self.computed) {
            *slot = Some(match source {
                SlotSource::Field(field) => event.value(field),
                SlotSource::Computed(name) => event.value(&Field::top(name.as_str())),
            });
        }
    }
}

pub(super) fn still_failing(reason: &str) -> String {
    format!("still failing after {} tries: {reason}", TRANSIENT_PAUSES.len() + 1)
}

pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panicked".to_owned())
}
