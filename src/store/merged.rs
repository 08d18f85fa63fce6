//! Rows of longer spans, made of the stored states of windows: `results?interval=1h&fill=0`.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::names::PERIOD;
use super::session::Session;
use super::{Definition, LivePlace, ResultRows, StateBytes, StoreError};
use crate::event::format_utc;
use crate::limits::RESULT_ROWS_MAX;
use crate::window::{Calendar, OTHER_ROW, Others, WindowSpec};

/// States that are read at once.
const PAGE: usize = 1_000;

/// Which spans.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interval {
    /// Of one length, in ms, aligned to the Unix epoch.
    Even(i64),
    /// By the calendar of the pipeline's windows.
    Calendar(Calendar),
}

/// Which rows to make.
#[derive(Clone)]
pub struct Merge {
    /// Of the pipeline as it is.
    pub definition: Arc<dyn Definition>,
    /// Of which spans; windows of the pipeline must tile it.
    pub interval: Interval,
    /// Only windows that begin at or after this, unix ms.
    pub from: Option<i64>,
    /// Only windows that begin before this, unix ms.
    pub to: Option<i64>,
    /// What aggregates show where a group has no window in a span between `from` and `to`; `None`: there is no row then.
    pub fill: Option<Value>,
    /// About so many rows, the latest spans first, and each span whole.
    pub limit: usize,
}

/// A stored state of a group in a window.
#[derive(Clone, Debug)]
pub(super) struct StateRow {
    /// Window start and end, and the hash of the group.
    pub(super) place: LivePlace,
    pub(super) group_key: Vec<u8>,
    pub(super) state: StateBytes,
    pub(super) partial: bool,
    pub(super) revised_at: Option<i64>,
}

/// A group in a span.
struct Merged {
    state: StateBytes,
    partial: bool,
    revised_at: Option<i64>,
}

type Groups = BTreeMap<Vec<u8>, Merged>;

impl Interval {
    fn span_of(self, time: i64) -> (i64, i64) {
        match self {
            Self::Even(length_ms) => {
                let start = time.saturating_sub(time.rem_euclid(length_ms));
                (start, start.saturating_add(length_ms))
            }
            Self::Calendar(calendar) => calendar.span_of(time),
        }
    }
}

/// Reads windows from the latest on, and merges those of one span.
pub(super) fn rows(session: &mut impl Session, merge: &Merge) -> Result<ResultRows, StoreError> {
    let pipeline = merge.definition.pipeline();
    let watermark = session.checkpoint(pipeline)?.watermark.unwrap_or(i64::MIN);
    let (mut rows, mut next, mut spans) = (Vec::new(), None, Vec::new());
    let (mut at, mut groups, mut ready) = (None, Groups::new(), 0);
    let mut behind: Option<LivePlace> = None;
    'pages: loop {
        let page = session.states(pipeline, (merge.from, merge.to), behind.as_ref(), PAGE)?;
        let is_last = page.len() < PAGE;
        behind = page.last().map(|row| row.place.clone());
        for row in page {
            let span = merge.interval.span_of(row.place.0);
            if at != Some(span) {
                ready += groups.len();
                spans.extend(at.map(|at| (at, std::mem::take(&mut groups))));
                if ready >= merge.limit && merge.fill.is_none() {
                    next = Some(span.1.min(merge.to.unwrap_or(i64::MAX)));
                    at = None;
                    break 'pages;
                }
                at = Some(span);
            }
            if merge.takes(&row) {
                add(merge, &mut groups, row)?;
            }
            if ready + groups.len() > RESULT_ROWS_MAX {
                return Err(too_many());
            }
        }
        if is_last {
            break;
        }
    }
    spans.extend(at.map(|at| (at, groups)));
    if let Some(fill) = &merge.fill {
        return filled(merge, spans, fill, watermark);
    }
    for (span, groups) in spans {
        rows.extend(shown(merge, span, &groups, watermark)?);
    }
    Ok(ResultRows { columns: columns(merge), rows, next })
}

impl Merge {
    /// Of windows that overlap only those count that lie side by side.
    fn takes(&self, row: &StateRow) -> bool {
        match self.definition.window() {
            Some(WindowSpec::Sliding { size_ms, .. }) => row.place.0.rem_euclid(size_ms) == 0,
            _ => true,
        }
    }
}

fn add(merge: &Merge, groups: &mut Groups, row: StateRow) -> Result<(), StoreError> {
    let StateRow { group_key, state, partial, revised_at, .. } = row;
    let refused = |why: String| StoreError::Refused(format!("a bug: a stored state cannot be read: {why}"));
    let states: Vec<StateBytes> = match *group_key == OTHER_ROW {
        true => {
            let others = Others::decode(&state).map_err(|why| refused(why.to_string()))?;
            others.iter().map(|(_, state)| state.clone()).collect()
        }
        false => vec![state],
    };
    for state in states {
        match groups.get_mut(&group_key) {
            Some(merged) => {
                merged.state = merge.definition.merge(&merged.state, &state).map_err(refused)?;
                merged.partial |= partial;
                merged.revised_at = merged.revised_at.max(revised_at);
            }
            None => drop(groups.insert(group_key.clone(), Merged { state, partial, revised_at })),
        }
    }
    Ok(())
}

fn columns(merge: &Merge) -> Vec<String> {
    let mut columns = vec!["window_start", "window_end", "window_start_ms"];
    if let Interval::Calendar(_) = merge.interval {
        columns.push(PERIOD);
    }
    columns.extend(["closed", "partial", "other", "revised_at"]);
    let own = merge.definition.columns().into_iter().map(|column| column.name);
    columns.into_iter().map(str::to_owned).chain(own).collect()
}

/// The rows of a span, by group.
fn shown(merge: &Merge, span: (i64, i64), groups: &Groups, watermark: i64) -> Result<Vec<Vec<Value>>, StoreError> {
    let refused = |why: String| StoreError::Refused(format!("a bug: a stored state cannot be read: {why}"));
    let mut rows = Vec::with_capacity(groups.len());
    for (key, merged) in groups {
        let (values, _) = merge.definition.values(&merged.state, span.0).map_err(refused)?;
        let revised_at = merged.revised_at.map(format_utc);
        rows.push(row(merge, span, key, (merged.partial, revised_at.into()), values, watermark)?);
    }
    sort(&mut rows);
    Ok(rows)
}

fn row(
    merge: &Merge,
    span: (i64, i64),
    key: &[u8],
    (partial, revised_at): (bool, Value),
    values: Value,
    watermark: i64,
) -> Result<Vec<Value>, StoreError> {
    let is_other = *key == OTHER_ROW;
    let group = match is_other {
        true => json!(vec![Value::Null; merge.definition.group_columns()]),
        false => merge.definition.group(key).map_err(StoreError::Refused)?,
    };
    let mut row = vec![format_utc(span.0).into(), format_utc(span.1).into(), span.0.into()];
    if let Interval::Calendar(calendar) = merge.interval {
        row.push(calendar.period(span.0).into());
    }
    row.extend([(span.1 <= watermark).into(), partial.into(), is_other.into(), revised_at]);
    for list in [group, values] {
        if let Value::Array(list) = list {
            row.extend(list);
        }
    }
    Ok(row)
}

/// By the group's fields as text, NULL first.
fn sort(rows: &mut [Vec<Value>]) {
    rows.sort_by_cached_key(|row| {
        row.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned)).collect::<Vec<_>>()
    });
}

/// Each group that is in some span has a row in each.
fn filled(
    merge: &Merge,
    spans: Vec<((i64, i64), Groups)>,
    fill: &Value,
    watermark: i64,
) -> Result<ResultRows, StoreError> {
    let mut keys: Vec<Vec<u8>> = spans.iter().flat_map(|(_, groups)| groups.keys().cloned()).collect();
    keys.sort();
    keys.dedup();
    if keys.is_empty() && merge.definition.group_columns() == 0 {
        keys.push(Vec::new());
    }
    let aggregates = merge.definition.columns().len() - merge.definition.group_columns();
    let mut there: BTreeMap<(i64, i64), Groups> = spans.into_iter().collect();
    let (Some(from), Some(to)) = (merge.from, merge.to) else { return Err(too_many()) };
    let (mut rows, mut at) = (Vec::new(), from);
    while at < to && !keys.is_empty() {
        let span = merge.interval.span_of(at);
        let groups = there.remove(&span).unwrap_or_default();
        let mut of_span = shown(merge, span, &groups, watermark)?;
        for key in keys.iter().filter(|key| !groups.contains_key(*key)) {
            let values = Value::Array(vec![fill.clone(); aggregates]);
            of_span.push(row(merge, span, key, (false, Value::Null), values, watermark)?);
        }
        sort(&mut of_span);
        rows.push(of_span);
        if rows.len() * keys.len() > RESULT_ROWS_MAX {
            return Err(too_many());
        }
        at = span.1;
    }
    // The latest first, as without `fill`.
    rows.reverse();
    Ok(ResultRows { columns: columns(merge), rows: rows.into_iter().flatten().collect(), next: None })
}

fn too_many() -> StoreError {
    StoreError::TooMuch(format!(
        "this would be more than {RESULT_ROWS_MAX} rows: ask for a shorter time (`from`, `to`) or a longer `interval`"
    ))
}
