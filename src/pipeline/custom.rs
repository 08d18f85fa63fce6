//! Stages written in Rust by the embedding program.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use serde_json::{Map, Value as Json};

use crate::event::{Field, Step, Value};

/// One event, as a custom stage sees it: all fields of its line, and what the stages before it have set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    fields: Map<String, Json>,
}

impl Event {
    /// An event with these fields.
    pub fn new(fields: Map<String, Json>) -> Self {
        Self { fields }
    }

    /// A field, by its name.
    pub fn get(&self, name: &str) -> Option<&Json> {
        self.fields.get(name)
    }

    /// Sets a field.
    pub fn set(&mut self, name: impl Into<String>, value: impl Into<Json>) {
        self.fields.insert(name.into(), value.into());
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &str) -> Option<Json> {
        self.fields.remove(name)
    }

    /// What a path leads to, as an expression sees it.
    pub(super) fn value(&self, field: &Field) -> Value<'static> {
        let mut steps = field.steps().iter();
        let Some(Step::Key(root)) = steps.next() else { return Value::Null };
        let mut at = self.fields.get(root);
        for step in steps {
            at = at.and_then(|value| match step {
                Step::Key(key) => value.get(key),
                Step::Index(index) => value.get(index),
            });
        }
        at.map_or(Value::Null, from_json)
    }
}

fn from_json(json: &Json) -> Value<'static> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(int) => Value::Int(int),
            None => number.as_f64().map_or(Value::Null, Value::Float),
        },
        Json::String(text) => Value::Text(text.clone().into()),
        Json::Array(_) | Json::Object(_) => Value::Json(json.to_string().into()),
    }
}

/// What becomes of an event that a custom stage took.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It goes on, as the stage left it.
    Keep,
    /// It ends here, and counts as filtered.
    Drop,
    /// These go on in its place.
    Many(Vec<Event>),
}

/// Why a custom stage could not do its work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// It may work in a moment: tried again after 100, 200 and 300 ms, then a letter.
    #[error("{0}")]
    Transient(String),
    /// It never will: a letter.
    #[error("{0}")]
    Bad(String),
}

/// A stage written in Rust. It must be a function of its event for results to be repeatable.
#[derive(Clone)]
pub enum CustomStage {
    /// One that answers at once.
    Sync(SyncStage),
    /// One that waits for something.
    Async(AsyncStage),
}

/// What it makes of an event, in place.
pub type SyncStage = Arc<dyn Fn(&mut Event) -> Result<Outcome, StageError> + Send + Sync>;

/// The event as the stage left it, and what becomes of it.
type Answered = LocalBoxFuture<'static, (Event, Result<Outcome, StageError>)>;

/// A stage that waits for something; its futures stay on the pipeline's thread.
#[derive(Clone)]
pub struct AsyncStage {
    pub(super) at_once: usize,
    pub(super) call: Arc<dyn Fn(Event) -> Answered + Send + Sync>,
}

impl AsyncStage {
    /// A stage that takes so many events at once, at least one.
    pub fn new<F>(at_once: usize, stage: F) -> Self
    where
        F: AsyncFn(&mut Event) -> Result<Outcome, StageError> + Send + Sync + 'static,
    {
        let stage = Arc::new(stage);
        let call = move |mut event: Event| -> Answered {
            let stage = stage.clone();
            Box::pin(async move {
                let outcome = stage(&mut event).await;
                (event, outcome)
            })
        };
        Self { at_once: at_once.max(1), call: Arc::new(call) }
    }
}

/// The stages that the embedding program registered, by name.
pub type StageRegistry = HashMap<String, CustomStage>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_through_objects_and_arrays() {
        let fields: Map<String, Json> =
            serde_json::from_str(r#"{"items":[{"sku":"a"},{"sku":7}],"n":1.5,"big":18446744073709551615}"#).unwrap();
        let event = Event::new(fields);
        let sku = |index| {
            let steps = vec![Step::Key("items".into()), Step::Index(index), Step::Key("sku".into())];
            event.value(&Field::new(steps).unwrap())
        };
        assert!(matches!(sku(0), Value::Text(text) if text == "a"));
        assert!(matches!(sku(1), Value::Int(7)));
        assert!(sku(2).is_null());
        assert!(matches!(event.value(&Field::top("n")), Value::Float(n) if n == 1.5));
        assert!(matches!(event.value(&Field::top("items")), Value::Json(text) if text.starts_with("[{")));
    }
}
