//! Rows as they stand in tables: made from states once, for whichever store.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Definition, StateBytes, StoreError};
use crate::store::names::PERIOD;
use crate::window::{OTHER_ROW, Others, WindowSpec};

/// Bytes of the hash by which tables tell groups apart.
const GROUP_HASH_BYTES: usize = 16;

/// The hash of a group's encoded key.
pub(super) type GroupHash = [u8; GROUP_HASH_BYTES];

/// A group in a window.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Key {
    pub(super) window_start: i64,
    pub(super) window_end: i64,
    pub(super) group_hash: GroupHash,
}

impl Key {
    pub(super) fn new((window_start, window_end): (i64, i64), group: &[u8]) -> Self {
        Self { window_start, window_end, group_hash: group_hash(group) }
    }
}

/// A row of `window_results`.
#[derive(Debug)]
pub(super) struct RowImage {
    pub(super) key: Key,
    pub(super) group_key: Arc<[u8]>,
    pub(super) group_values: String,
    pub(super) result_values: String,
    pub(super) events: i64,
    pub(super) partial: bool,
    /// Of the groups for which there was no room.
    pub(super) other: bool,
    pub(super) revised_at: Option<i64>,
    pub(super) state: StateBytes,
}

/// A row of `pane_states`.
#[derive(Debug)]
pub(super) struct PaneImage {
    pub(super) pane_start: i64,
    pub(super) group_hash: GroupHash,
    pub(super) group_key: Arc<[u8]>,
    pub(super) state: StateBytes,
}

impl PaneImage {
    pub(super) fn new(pane_start: i64, group_key: Arc<[u8]>, state: StateBytes) -> Self {
        Self { pane_start, group_hash: group_hash(&group_key), group_key, state }
    }
}

/// A pipeline's definition with the names of its columns, which rows are written by.
pub(super) struct Shape<'a> {
    pub(super) definition: &'a dyn Definition,
    groups: Vec<String>,
    values: Vec<String>,
}

impl<'a> Shape<'a> {
    pub(super) fn new(definition: &'a dyn Definition) -> Self {
        let mut groups: Vec<String> = definition.columns().into_iter().map(|column| column.name).collect();
        let values = groups.split_off(definition.group_columns());
        if let Some(WindowSpec::Calendar(_)) = definition.window() {
            groups.push(PERIOD.to_owned());
        }
        Self { definition, groups, values }
    }

    /// The row of a group in a window.
    pub(super) fn row(
        &self,
        window: (i64, i64),
        group_key: Arc<[u8]>,
        state: StateBytes,
        partial: bool,
        revised_at: Option<i64>,
    ) -> Result<RowImage, StoreError> {
        let group_values = self.group(window, &group_key)?;
        let (values, events) =
            self.definition.values(&state, window.0).map_err(|why| self.unreadable("state", window, &why))?;
        Ok(RowImage {
            key: Key::new(window, &group_key),
            group_key,
            group_values,
            result_values: object(&self.values, &values),
            events: events.cast_signed(),
            partial,
            other: false,
            revised_at,
            state,
        })
    }

    /// The row of the groups of a window for which there was no room: it shows the states of all slots together.
    pub(super) fn other_row(
        &self,
        window: (i64, i64),
        slots: &Others,
        partial: bool,
        revised_at: Option<i64>,
    ) -> Result<RowImage, StoreError> {
        let unreadable = |why: String| self.unreadable("`other` state", window, &why);
        let mut merged: Option<StateBytes> = None;
        for (_, state) in slots.iter() {
            merged = Some(match merged {
                None => state.clone(),
                Some(merged) => self.definition.merge(&merged, state).map_err(unreadable)?,
            });
        }
        let merged = merged.unwrap_or_default();
        let row = self.row(window, Arc::from(OTHER_ROW), merged, partial, revised_at)?;
        Ok(RowImage { other: true, state: slots.to_bytes(), ..row })
    }

    /// The fields of a group in a window, as a JSON object.
    pub(super) fn group(&self, window: (i64, i64), group_key: &[u8]) -> Result<String, StoreError> {
        let mut group = match group_key {
            group_key if *group_key == OTHER_ROW => Value::Array(vec![Value::Null; self.definition.group_columns()]),
            group_key => self.definition.group(group_key).map_err(|why| self.unreadable("group", window, &why))?,
        };
        if let (Some(WindowSpec::Calendar(calendar)), Value::Array(fields)) = (self.definition.window(), &mut group) {
            fields.push(calendar.period(window.0).into());
        }
        Ok(object(&self.groups, &group))
    }

    pub(super) fn unreadable(&self, what: &str, window: (i64, i64), why: &str) -> StoreError {
        StoreError::Refused(format!(
            "a bug: the {what} of a row of pipeline {:?}, window {} to {} (unix ms), cannot be read: {why}",
            self.definition.pipeline(),
            window.0,
            window.1
        ))
    }
}

/// A JSON object of these names. Rows hold names, so that a row of an older definition still shows what it has.
pub(super) fn object(names: &[String], values: &Value) -> String {
    let mut text = String::from("{");
    let values = values.as_array().map_or(&[] as &[Value], Vec::as_slice);
    for (index, (name, value)) in names.iter().zip(values).enumerate() {
        if index > 0 {
            text.push(',');
        }
        // Names are plain words, which JSON writes as they are.
        text.push('"');
        text.push_str(name);
        text.push_str("\":");
        text.push_str(&value.to_string());
    }
    text.push('}');
    text
}

fn group_hash(key: &[u8]) -> GroupHash {
    let mut hash = [0; GROUP_HASH_BYTES];
    hash.copy_from_slice(&Sha256::digest(key)[..GROUP_HASH_BYTES]);
    hash
}
