//! Whether alerts hold for a row: pure, over its columns, its group, and its columns one window before.

use crate::config::AlertConfig;
use crate::event::{Fault, Position, Row, Value};
use crate::window::AggregateValue;

use super::results::value_of;

/// What the condition of an alert sees.
pub(super) struct AlertRow<'a> {
    pub(super) columns: &'a [AggregateValue],
    pub(super) group: &'a [Value<'a>],
    /// Of the same group, one window earlier; empty where there is no such row.
    pub(super) previous: &'a [AggregateValue],
}

impl AlertRow<'_> {
    /// Whether an alert's condition is TRUE here. One that fails is NULL, as in an expression over aggregates.
    pub(super) fn holds(&self, alert: &AlertConfig) -> bool {
        alert.when.is_true(self).unwrap_or(false)
    }
}

impl Row for AlertRow<'_> {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        let of_group = slot.checked_sub(self.columns.len());
        let of_previous = of_group.and_then(|slot| slot.checked_sub(self.group.len()));
        Ok(match (of_group, of_previous) {
            (None, _) => value_of(&self.columns[slot]),
            (Some(slot), None) => self.group[slot].borrowed(),
            (_, Some(slot)) => self.previous.get(slot).map_or(Value::Null, value_of),
        })
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
