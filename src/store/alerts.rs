//! Alerts, in the transaction of a flush: which rows are judged, and what follows.
//!
//! Each row is judged when its window is the next to close, and once more as it closed. So the rows of the window that
//! was the next to close at the last commit are judged as they are written; those of the windows that came after it,
//! one window after the other, whole, as the store has them then (some were written while their window was far ahead).
//! All that follows is said in sets, each of which may be said twice: nothing of alerts is kept in memory between two
//! flushes, and a flush that failed leaves nothing to be taken back.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;
use std::sync::Arc;

use tokio::sync::watch;

use super::image::{GroupHash, Key, RowImage};
use super::session::Session;
use super::{Definition, Flush, StateBytes, StoreError};
use crate::config::AlertConfig;
use crate::moments::is_sabotaged;
use crate::window::WindowSpec;

/// Rows that are judged at once.
const ROWS_AT_ONCE: usize = 1_000;
/// What a webhook has to be told.
pub(super) const FIRING: i64 = 1;
pub(super) const RESOLVED: i64 = 2;

/// What a flush is told of alerts.
#[derive(Clone, Default)]
pub struct AlertFlush {
    /// The watermark of its checkpoint.
    pub watermark: Option<i64>,
    /// Whether it is the first of its generation: the definition may be another one.
    pub first: bool,
    /// Who is told what fires.
    pub news: Option<Arc<AlertNews>>,
}

/// How many groups fire, by alert, as of the last commit; `None` where that is not known.
pub type Firing = Option<BTreeMap<String, u64>>;

/// Tells of changes in a pipeline's alerts. Whoever sends them reads them from the store.
pub struct AlertNews(watch::Sender<Firing>);

impl Default for AlertNews {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl AlertNews {
    /// A commit has changed something.
    pub fn changed(&self, firing: BTreeMap<String, u64>) {
        self.0.send_replace(Some(firing));
    }

    /// A commit may have changed something.
    pub(super) fn unknown(&self) {
        self.0.send_replace(None);
    }

    /// As it is, and as it changes.
    pub fn firing(&self) -> watch::Receiver<Firing> {
        self.0.subscribe()
    }
}

/// An alert that a webhook has not been told of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UntoldAlert {
    /// Of the group: part of its key.
    pub group_hash: Vec<u8>,
    /// Unix ms, by the watermark.
    pub fired_at: i64,
    /// Of the row on which it fired: unix ms.
    pub window_start: i64,
    /// Unix ms.
    pub window_end: i64,
    /// The fields of its group, as a JSON object.
    pub group: String,
    /// The values of the row on which it fired, as a JSON object.
    pub values: String,
    /// Unix ms, by the watermark; `None`: it is firing.
    pub resolved_at: Option<i64>,
    /// Whether it is not told that it fired.
    pub is_new: bool,
}

/// What a webhook was told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ToldAlert {
    /// Of the group.
    pub group_hash: Vec<u8>,
    /// Its other half.
    pub fired_at: i64,
    /// That it is resolved, and not that it fired.
    pub resolved: bool,
}

/// A row whose group an alert has something to do with.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub(super) key: Key,
    /// Its time, by the watermark.
    pub(super) at: i64,
}

/// Items as JSON, which both databases read as rows: window start, window end, group hash, time.
pub(super) fn list(items: &[Item]) -> String {
    let rows = items.iter().map(|Item { key, at }| (key.window_start, key.window_end, &key.group_hash[..], *at));
    list_of(rows)
}

pub(super) fn list_of<'a>(rows: impl Iterator<Item = (i64, i64, &'a [u8], i64)>) -> String {
    let mut text = String::from("[");
    for (start, end, hash, at) in rows {
        let comma = if text.len() > 1 { "," } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(text, "{comma}[{start},{end},\"{}\",{at}]", super::begin::hex(hash));
    }
    text.push(']');
    text
}

/// Of which rows groups still have one.
#[derive(Clone, Copy)]
pub(super) enum Span {
    /// Of this window.
    Window(i64, i64),
    /// Of sessions that end after this.
    OpenAt(i64),
}

/// A row as it is judged.
pub(super) struct Judged {
    pub(super) key: Key,
    pub(super) group_key: Arc<[u8]>,
    pub(super) state: StateBytes,
}

/// What alerts ask of a database.
pub(super) trait AlertTables {
    /// Whether any fires, or may in some time.
    fn has_alerts(&mut self, pipeline: &str) -> Result<bool, StoreError>;
    /// Resolves those that are none of `kept`, forgets conditions that are none of `waiting`, and what would have been
    /// told of those that are none of `told`. Whether something fires no more.
    fn keep_alerts(
        &mut self,
        pipeline: &str,
        kept: &[&str],
        waiting: &[&str],
        told: &[&str],
        at: i64,
    ) -> Result<bool, StoreError>;
    /// Fires on rows, where it does not fire already and has not fired for that window before; how many.
    fn fire(&mut self, pipeline: &str, alert: &AlertConfig, items: &[Item]) -> Result<usize, StoreError>;
    /// Notes since when its condition holds for groups, where that is not noted already.
    fn note_condition(&mut self, pipeline: &str, alert: &AlertConfig, items: &[Item]) -> Result<(), StoreError>;
    /// Fires for the groups whose condition has held since then, on their rows of a span; how many.
    fn fire_due(
        &mut self,
        pipeline: &str,
        alert: &AlertConfig,
        span: Span,
        revision: i64,
        due: i64,
        at: i64,
    ) -> Result<usize, StoreError>;
    /// Resolves it for groups, and forgets their conditions; how many fired.
    fn end_alerts(
        &mut self,
        pipeline: &str,
        alert: &AlertConfig,
        groups: &[GroupHash],
        at: i64,
    ) -> Result<usize, StoreError>;
    /// The same for all groups that have no row of a span.
    fn end_missing(
        &mut self,
        pipeline: &str,
        alert: &AlertConfig,
        span: Span,
        revision: i64,
        at: i64,
    ) -> Result<usize, StoreError>;
    /// The windows that have rows, end after one time and begin until another, in their order.
    fn windows_between(
        &mut self,
        pipeline: &str,
        revision: i64,
        after: i64,
        upto: i64,
    ) -> Result<Vec<(i64, i64)>, StoreError>;
    /// Rows of a window, in the order of their groups' hashes, behind one of them.
    fn window_page(
        &mut self,
        pipeline: &str,
        revision: i64,
        window: (i64, i64),
        behind: Option<GroupHash>,
        limit: usize,
    ) -> Result<Vec<Judged>, StoreError>;
    /// How many groups fire, by alert.
    fn firing(&mut self, pipeline: &str) -> Result<BTreeMap<String, u64>, StoreError>;
    /// The oldest of which its webhook has not been told all.
    fn untold(&mut self, pipeline: &str, alert: &str, limit: usize) -> Result<Vec<UntoldAlert>, StoreError>;
    /// Notes what was told.
    fn told(&mut self, pipeline: &str, alert: &str, told: &[ToldAlert]) -> Result<(), StoreError>;
    /// Deletes the oldest that are resolved, of windows that end until then; at most so many.
    fn prune_alerts(&mut self, pipeline: &str, upto: i64, at_most: u64) -> Result<(), StoreError>;
    /// Deletes all of a pipeline's.
    fn drop_alerts(&mut self, pipeline: &str) -> Result<(), StoreError>;
}

/// The alerts of a transaction that is open.
pub(super) struct Alerts<'a> {
    definition: &'a dyn Definition,
    spec: WindowSpec,
    revision: u64,
    /// As it will be.
    watermark: i64,
    /// The window that was next to close at the last commit: its rows are judged as they are written.
    current: Option<(i64, i64)>,
    /// The last window that was judged whole.
    last: Option<(i64, i64)>,
    /// Whether something fires, or may in some time.
    live: bool,
    changed: bool,
}

impl<'a> Alerts<'a> {
    /// `None` where nothing is to be judged. What a definition before this one left firing is resolved.
    pub(super) fn begin(session: &mut impl Session, flush: &'a Flush) -> Result<Option<Self>, StoreError> {
        let definition = &*flush.definition;
        let (Some(spec), alerts) = (definition.window(), definition.alerts()) else { return Ok(None) };
        let AlertFlush { watermark, first, .. } = flush.alerts;
        let first = first || flush.revise.is_some();
        if alerts.is_empty() && !first {
            return Ok(None);
        }
        let pipeline = definition.pipeline();
        let before = session.checkpoint(pipeline)?.watermark;
        let mut changed = false;
        if first {
            let names = |of: fn(&AlertConfig) -> bool| -> Vec<&str> {
                alerts.iter().filter(|alert| of(alert)).map(|alert| alert.name.as_str()).collect()
            };
            let is_new = flush.revise.is_some();
            let (kept, waiting) =
                if is_new { (Vec::new(), Vec::new()) } else { (names(|_| true), names(|alert| alert.for_ms > 0)) };
            let told = names(|alert| alert.webhook.is_some());
            changed = session.keep_alerts(pipeline, &kept, &waiting, &told, before.unwrap_or_default())?;
        }
        let Some(watermark) = watermark.filter(|_| !alerts.is_empty()) else { return Ok(None) };
        let before = before.filter(|_| flush.revise.is_none());
        let current = before.and_then(|before| spec.next_to_close(before));
        // What was judged by another definition is judged again.
        let (current, last) = match current {
            Some(current) if first => (None, spec.before(current)),
            current => (current, current),
        };
        let live = session.has_alerts(pipeline)?;
        Ok(Some(Self { definition, spec, revision: flush.revision, watermark, current, last, live, changed }))
    }

    fn has_sessions(&self) -> bool {
        matches!(self.spec, WindowSpec::Session { .. })
    }

    /// The time of what happens on a row: the watermark, but within the part of the window in which it is the next to
    /// close. So no two windows of a group have the same.
    fn time_in(&self, window: (i64, i64)) -> i64 {
        let from = self.spec.before(window).map_or(i64::MIN, |(_, end)| end);
        self.watermark.max(from).min(window.1.saturating_sub(1))
    }

    /// Rows were written.
    pub(super) fn written(&mut self, session: &mut impl Session, rows: &[RowImage]) -> Result<(), StoreError> {
        let has_sessions = self.has_sessions();
        let window = |row: &&RowImage| (row.key.window_start, row.key.window_end);
        let judged = rows.iter().filter(|row| has_sessions || Some(window(row)) == self.current);
        let mut judged: Vec<Judged> = judged
            .map(|row| Judged { key: row.key, group_key: row.group_key.clone(), state: row.state.clone() })
            .collect();
        judged.sort_by_key(|row| (row.key.window_start, row.key.group_hash));
        // One session of a group after the other: what the last one says counts.
        while !judged.is_empty() {
            let mut groups = HashSet::new();
            let (now, later): (Vec<_>, Vec<_>) = judged.into_iter().partition(|row| groups.insert(row.key.group_hash));
            self.judge(session, &now)?;
            judged = later;
        }
        Ok(())
    }

    /// All rows are written: the windows that have become the next to close, or have closed. How many groups fire,
    /// where that has changed.
    pub(super) fn finish(
        mut self,
        session: &mut impl Session,
        is_known: bool,
    ) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
        match self.spec.next_to_close(self.watermark) {
            None => {
                let span = Span::OpenAt(self.watermark);
                self.end_missing(session, span, self.watermark)?;
                self.fire_due(session, span, self.watermark)?;
            }
            Some(next) => self.go_on_to(session, next)?,
        }
        if !self.changed && is_known {
            return Ok(None);
        }
        session.firing(self.definition.pipeline()).map(Some)
    }

    fn go_on_to(&mut self, session: &mut impl Session, next: (i64, i64)) -> Result<(), StoreError> {
        if let Some(current) = self.current {
            self.fire_due(session, Span::Window(current.0, current.1), self.time_in(current))?;
        }
        let after = self.last.map_or(i64::MIN, |(_, end)| end);
        if next.1 <= after {
            return Ok(());
        }
        let (pipeline, revision) = (self.definition.pipeline(), self.revision.cast_signed());
        let mut windows = session.windows_between(pipeline, revision, after, self.watermark)?;
        if is_sabotaged("alerts-of-open-rows") {
            windows.clear();
        }
        if windows.last() != Some(&next) {
            windows.push(next);
        }
        for window in windows {
            let following = self.last.and_then(|(_, end)| self.spec.next_to_close(end));
            if let Some(empty) = following.filter(|following| *following != window) {
                // No group has a row in it.
                self.end_missing(session, Span::Window(empty.0, empty.1), self.time_in(empty))?;
            }
            self.judge_whole(session, window)?;
            let (span, at) = (Span::Window(window.0, window.1), self.time_in(window));
            self.end_missing(session, span, at)?;
            self.fire_due(session, span, at)?;
            self.last = Some(window);
        }
        Ok(())
    }

    fn judge_whole(&mut self, session: &mut impl Session, window: (i64, i64)) -> Result<(), StoreError> {
        let (pipeline, revision) = (self.definition.pipeline(), self.revision.cast_signed());
        let mut behind = None;
        loop {
            let page = session.window_page(pipeline, revision, window, behind, ROWS_AT_ONCE)?;
            self.judge(session, &page)?;
            if page.len() < ROWS_AT_ONCE {
                return Ok(());
            }
            behind = page.last().map(|row| row.key.group_hash);
        }
    }

    /// Judges rows of which no group has two.
    fn judge(&mut self, session: &mut impl Session, rows: &[Judged]) -> Result<(), StoreError> {
        let (pipeline, alerts) = (self.definition.pipeline(), self.definition.alerts());
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let previous = self.previous(session, rows)?;
            let mut held: Vec<Vec<Item>> = vec![Vec::new(); alerts.len()];
            let mut not: Vec<Vec<GroupHash>> = vec![Vec::new(); alerts.len()];
            for (row, previous) in rows.iter().zip(&previous) {
                let start = row.key.window_start;
                let previous = previous.as_ref().map(|(start, state)| (*start, state.as_slice()));
                let holds = self.definition.holds(&row.state, start, &row.group_key, previous);
                let holds = holds.map_err(|why| unreadable(pipeline, row.key, &why))?;
                let at = self.time_in((start, row.key.window_end));
                for (alert, holds) in holds.into_iter().enumerate() {
                    match holds {
                        true => held[alert].push(Item { key: row.key, at }),
                        false => not[alert].push(row.key.group_hash),
                    }
                }
            }
            for (alert, (held, not)) in alerts.iter().zip(held.into_iter().zip(not)) {
                if self.live && !not.is_empty() {
                    let at = rows.iter().map(|row| self.time_in((row.key.window_start, row.key.window_end))).max();
                    self.changed |= session.end_alerts(pipeline, alert, &not, at.unwrap_or(self.watermark))? > 0;
                }
                if held.is_empty() {
                    continue;
                }
                self.live = true;
                if alert.for_ms == 0 {
                    self.changed |= session.fire(pipeline, alert, &held)? > 0;
                } else {
                    session.note_condition(pipeline, alert, &held)?;
                }
            }
        }
        Ok(())
    }

    /// The states of the same groups one window earlier, and when that began; where an alert asks for them.
    fn previous(
        &self,
        session: &mut impl Session,
        rows: &[Judged],
    ) -> Result<Vec<Option<(i64, StateBytes)>>, StoreError> {
        let before = |row: &Judged| self.spec.before((row.key.window_start, row.key.window_end));
        if !self.definition.alerts().iter().any(|alert| alert.asks_previous) {
            return Ok(vec![None; rows.len()]);
        }
        let key = |row: &Judged| {
            let (window_start, window_end) = before(row).unwrap_or_default();
            Key { window_start, window_end, ..row.key }
        };
        let keys: Vec<Key> = rows.iter().map(key).collect();
        let stored = session.stored(self.definition.pipeline(), &keys)?;
        let of = |(key, stored): (&Key, Option<super::session::Stored>)| {
            // The state of an older revision may be of other aggregates.
            let stored = stored.filter(|stored| stored.revision == self.revision.cast_signed());
            stored.map(|stored| (key.window_start, stored.state))
        };
        Ok(keys.iter().zip(stored).map(of).collect())
    }

    fn end_missing(&mut self, session: &mut impl Session, span: Span, at: i64) -> Result<(), StoreError> {
        if !self.live {
            return Ok(());
        }
        let (pipeline, revision) = (self.definition.pipeline(), self.revision.cast_signed());
        for alert in self.definition.alerts() {
            self.changed |= session.end_missing(pipeline, alert, span, revision, at)? > 0;
        }
        Ok(())
    }

    fn fire_due(&mut self, session: &mut impl Session, span: Span, at: i64) -> Result<(), StoreError> {
        let (pipeline, revision) = (self.definition.pipeline(), self.revision.cast_signed());
        for alert in self.definition.alerts().iter().filter(|alert| self.live && alert.for_ms > 0) {
            let due = at.saturating_sub(alert.for_ms);
            self.changed |= session.fire_due(pipeline, alert, span, revision, due, at)? > 0;
        }
        Ok(())
    }
}

fn unreadable(pipeline: &str, key: Key, why: &str) -> StoreError {
    StoreError::Refused(format!(
        "a bug: a row of pipeline {pipeline:?}, window {} to {} (unix ms), cannot be judged: {why}",
        key.window_start, key.window_end
    ))
}
