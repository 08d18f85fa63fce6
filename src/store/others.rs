//! The `other` rows of a flush: each slot's state replaces what the row has of that slot.

use std::collections::HashMap;

use super::image::{Key, RowImage, Shape};
use super::session::{Session, Stored};
use super::{StateBytes, StoreError};
use crate::window::{OTHER_ROW, OtherKey, Others};

/// Start and end, unix ms.
type Span = (i64, i64);

/// A slot's new state; `None`: it has none any more.
type New = (OtherKey, Option<StateBytes>);

/// One window's row.
pub(super) struct OtherRow {
    pub(super) slots: Others,
    partial: bool,
    pub(super) revised_at: Option<i64>,
    is_stored: bool,
    pub(super) has_changed: bool,
}

/// New states of slots, until they are written.
#[derive(Default)]
pub(super) struct Pending {
    windows: HashMap<Span, (Vec<New>, bool)>,
    pub(super) bytes: usize,
}

impl Pending {
    /// A slot's state in a window; `None`: it has none there any more.
    pub(super) fn set(&mut self, window: Span, key: OtherKey, state: Option<StateBytes>, partial: bool) {
        self.bytes += state.as_ref().map_or(0, Vec::len) + size_of::<(Span, OtherKey, StateBytes)>();
        let (slots, is_partial) = self.windows.entry(window).or_default();
        *is_partial |= partial;
        slots.push((key, state));
    }
}

/// Puts new states into their rows.
pub(super) fn apply(
    session: &mut impl Session,
    shape: &Shape<'_>,
    pending: Pending,
) -> Result<HashMap<Span, OtherRow>, StoreError> {
    let mut rows = read(session, shape, pending.windows.keys().copied().collect())?;
    for (window, (slots, partial)) in pending.windows {
        let fresh =
            || OtherRow { slots: Others::default(), partial, revised_at: None, is_stored: false, has_changed: true };
        let row = rows.entry(window).or_insert_with(fresh);
        row.has_changed = true;
        slots.into_iter().for_each(|(key, state)| row.slots.set(key, state));
    }
    Ok(rows)
}

/// The rows of those windows that have one.
pub(super) fn read(
    session: &mut impl Session,
    shape: &Shape<'_>,
    windows: Vec<Span>,
) -> Result<HashMap<Span, OtherRow>, StoreError> {
    if windows.is_empty() {
        return Ok(HashMap::new());
    }
    let keys: Vec<Key> = windows.iter().map(|window| Key::new(*window, &OTHER_ROW)).collect();
    let stored = session.stored(shape.definition.pipeline(), &keys)?;
    let mut rows = HashMap::new();
    for (window, stored) in windows.into_iter().zip(stored) {
        let Some(Stored { state, partial, revised_at, .. }) = stored else { continue };
        let slots = Others::decode(&state);
        let slots = slots.map_err(|why| shape.unreadable("`other` state", window, &why.to_string()))?;
        rows.insert(window, OtherRow { slots, partial, revised_at, is_stored: true, has_changed: false });
    }
    Ok(rows)
}

/// The rows that have changed, and the keys of those that are none any more.
pub(super) fn images(
    shape: &Shape<'_>,
    rows: HashMap<Span, OtherRow>,
) -> Result<(Vec<RowImage>, Vec<Key>), StoreError> {
    let (mut images, mut gone) = (Vec::new(), Vec::new());
    for (window, row) in rows.into_iter().filter(|(_, row)| row.has_changed) {
        let OtherRow { slots, partial, revised_at, is_stored, .. } = row;
        if !slots.is_empty() {
            images.push(shape.other_row(window, &slots, partial, revised_at)?);
        } else if is_stored {
            gone.push(Key::new(window, &OTHER_ROW));
        }
    }
    Ok((images, gone))
}
