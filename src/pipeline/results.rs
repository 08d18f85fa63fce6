//! What the states of a pipeline show: values, expressions over aggregates, groups.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::alerts::AlertRow;
use crate::config::{AlertConfig, ColumnSource, ColumnType, PipelineConfig, StreamConfig};
use crate::event::{Fault, Format, Position, Row, Value};
use crate::expr::SqlType;
use crate::store::{Column, Definition, Registered};
use crate::window::{AggregateKind, AggregateValue, State, WindowSpec, decode_key};

/// A pipeline's results, as the store asks for them.
pub struct Results {
    config: PipelineConfig,
    kinds: Vec<AggregateKind>,
    /// Of each column: windows that begin before this, unix ms, have none of it.
    since: Vec<i64>,
}

impl Results {
    /// The results of a pipeline, of whose aggregates some were added later: windows that begin before then have none.
    pub fn new(config: PipelineConfig, added: &BTreeMap<String, i64>) -> Self {
        let kinds = config.aggregates.iter().map(|aggregate| aggregate.kind).collect();
        let since = |name: &String| added.get(name).copied().unwrap_or(i64::MIN);
        let since = config.columns.iter().map(|column| since(&column.name)).collect();
        Self { config, kinds, since }
    }

    fn state(&self, bytes: &[u8]) -> Result<State, String> {
        State::decode(&self.kinds, bytes).map_err(|error| error.to_string())
    }

    /// All columns of a state of a window that begins then. An expression that fails is NULL.
    fn columns_of(&self, state: &State, window_start: i64) -> Vec<AggregateValue> {
        let aggregates = state.values();
        let mut columns = vec![AggregateValue::Null; self.config.columns.len()];
        for &index in &self.config.evaluation {
            if window_start < self.since[index] {
                continue;
            }
            columns[index] = match &self.config.columns[index].source {
                ColumnSource::Aggregate(aggregate) => aggregates[*aggregate].clone(),
                ColumnSource::Expression(expression) => match expression.eval(&Columns(&columns)) {
                    Ok(value) => AggregateValue::Value(value.into_owned()),
                    Err(_) => AggregateValue::Null,
                },
            };
        }
        columns
    }

    fn json_of(&self, state: &State, window_start: i64) -> Json {
        let columns = self.columns_of(state, window_start);
        columns
            .iter()
            .map(|value| match value {
                AggregateValue::Null => Json::Null,
                AggregateValue::Value(value) => value.to_json(),
                AggregateValue::Whole(whole) => match i64::try_from(*whole) {
                    Ok(int) => int.into(),
                    Err(_) => whole.to_string().into(),
                },
            })
            .collect()
    }
}

/// As an expression over aggregates sees it.
pub(super) fn value_of(value: &AggregateValue) -> Value<'_> {
    match value {
        AggregateValue::Null => Value::Null,
        AggregateValue::Value(value) => value.borrowed(),
        AggregateValue::Whole(whole) => match i64::try_from(*whole) {
            Ok(int) => Value::Int(int),
            Err(_) => Value::Float(*whole as f64),
        },
    }
}

/// The columns that are known already, as an expression over aggregates sees them.
struct Columns<'a>(&'a [AggregateValue]);

impl Row for Columns<'_> {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        Ok(value_of(&self.0[slot]))
    }

    fn event_time(&self) -> i64 {
        0
    }

    fn ingest_time(&self) -> i64 {
        0
    }

    fn position(&self) -> Position {
        0
    }

    fn producer(&self) -> Option<&str> {
        None
    }
}

impl Definition for Results {
    fn pipeline(&self) -> &str {
        &self.config.name
    }

    fn columns(&self) -> Vec<Column> {
        let groups = self.config.group_by.iter().map(|group| {
            let sql_type = match group.sql_type {
                SqlType::Int => ColumnType::BigInt,
                SqlType::Float => ColumnType::Double,
                SqlType::Number => ColumnType::Numeric,
                SqlType::Bool => ColumnType::Bool,
                SqlType::Time => ColumnType::Time,
                SqlType::Any | SqlType::Text | SqlType::Json => ColumnType::Text,
            };
            Column { name: group.name.clone(), sql_type }
        });
        let values =
            self.config.columns.iter().map(|column| Column { name: column.name.clone(), sql_type: column.sql_type });
        groups.chain(values).collect()
    }

    fn group_columns(&self) -> usize {
        self.config.group_by.len()
    }

    fn values(&self, state: &[u8], window_start: i64) -> Result<(Json, u64), String> {
        let state = self.state(state)?;
        Ok((self.json_of(&state, window_start), state.events))
    }

    fn empty_values(&self) -> Json {
        self.json_of(&State::new(&self.kinds), i64::MAX)
    }

    fn merge(&self, a: &[u8], b: &[u8]) -> Result<Vec<u8>, String> {
        let mut merged = self.state(a)?;
        merged.merge(&self.state(b)?);
        let mut bytes = Vec::with_capacity(a.len());
        merged.encode(&mut bytes);
        Ok(bytes)
    }

    fn group(&self, key: &[u8]) -> Result<Json, String> {
        let values = decode_key(key).map_err(|error| error.to_string())?;
        Ok(values.iter().map(Value::to_json).collect())
    }

    fn alerts(&self) -> &[AlertConfig] {
        &self.config.alerts
    }

    fn holds(
        &self,
        state: &[u8],
        window_start: i64,
        group: &[u8],
        previous: Option<(i64, &[u8])>,
    ) -> Result<Vec<bool>, String> {
        let columns = self.columns_of(&self.state(state)?, window_start);
        let previous = match previous {
            Some((window_start, state)) => self.columns_of(&self.state(state)?, window_start),
            None => Vec::new(),
        };
        let group = decode_key(group).map_err(|error| error.to_string())?;
        let row = AlertRow { columns: &columns, group: &group, previous: &previous };
        Ok(self.config.alerts.iter().map(|alert| row.holds(alert)).collect())
    }

    fn window(&self) -> Option<WindowSpec> {
        Some(self.config.window)
    }

    fn retain_ms(&self) -> Option<i64> {
        self.config.retain_ms
    }

    fn definition(&self) -> &Json {
        &self.config.definition
    }
}

/// The intake of a stream: it has letters and a checkpoint, but no windows.
pub struct IntakeResults {
    name: String,
    definition: Json,
    raw_retain_ms: Option<i64>,
}

impl IntakeResults {
    /// The intake of a stream. Its name cannot be that of a pipeline. Its raw events stay so long in the store; that is no
    /// part of its definition: it may change at every start.
    pub fn new(stream: &str, format: Format, raw_retain_ms: Option<i64>) -> Self {
        Self { name: format!("@{stream}"), definition: intake_definition(stream, format), raw_retain_ms }
    }

    /// Whether a stream is of the format that it has been of, as the store knows.
    ///
    /// # Errors
    /// What has changed, and what to do.
    pub fn check_format(stream: &StreamConfig, registered: &[Registered]) -> Result<(), String> {
        let (name, own) = (format!("@{}", stream.name), intake_definition(&stream.name, stream.format));
        match registered.iter().any(|intake| intake.name == name && intake.definition != own) {
            false => Ok(()),
            true => Err(format!(
                "stream {}: its `format` has changed, and its journal holds lines of the old one: a stream keeps its format; \
                 take the change back, and give the other lines a stream of another name",
                stream.name
            )),
        }
    }
}

fn intake_definition(stream: &str, format: Format) -> Json {
    match format {
        Format::Ndjson => serde_json::json!({ "intake": stream }),
        Format::Influx => serde_json::json!({ "format": "influx", "intake": stream }),
    }
}

impl Definition for IntakeResults {
    fn pipeline(&self) -> &str {
        &self.name
    }

    fn columns(&self) -> Vec<Column> {
        Vec::new()
    }

    fn group_columns(&self) -> usize {
        0
    }

    fn values(&self, _state: &[u8], _window_start: i64) -> Result<(Json, u64), String> {
        Err("an intake has no windows".to_owned())
    }

    fn empty_values(&self) -> Json {
        Json::Array(Vec::new())
    }

    fn merge(&self, _a: &[u8], _b: &[u8]) -> Result<Vec<u8>, String> {
        Err("an intake has no windows".to_owned())
    }

    fn group(&self, _key: &[u8]) -> Result<Json, String> {
        Err("an intake has no groups".to_owned())
    }

    fn raw_retain_ms(&self) -> Option<i64> {
        self.raw_retain_ms
    }

    fn window(&self) -> Option<WindowSpec> {
        None
    }

    fn definition(&self) -> &Json {
        &self.definition
    }
}
