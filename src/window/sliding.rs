//! Windows that overlap, made of panes: an event goes into one pane, and a window is the merge of its panes, or of the
//! blocks that they were merged to before (`blocks`).

use std::sync::Arc;

use super::blocks::Blocks;
use super::change::{LateRow, WindowChange};
use super::event::Event;
use super::groups::Groups;
use super::operator::Shared;
use super::panes::{Cut, Pane, Panes};
use super::state::State;
use super::{AggregateKind, LatePolicy, Rows};

/// Panes, and the rows of windows that closed.
#[derive(Clone, Debug)]
pub(super) struct Sliding {
    size_ms: i64,
    every_ms: i64,
    pub(super) panes: Panes,
    pub(super) blocks: Blocks,
    /// Made between the two records where their window closed, kept until they are in the store.
    closed: Vec<ClosedWindow>,
    /// End of the next window to close: the least above the watermark.
    next_end: i64,
    /// The last epoch in which panes were dropped.
    dropped: Option<u64>,
    /// The last barrier, and which window was the next to close there.
    shown: Option<(u64, i64)>,
    /// Which window was the next to close at the last commit: all its rows are in the store as they were then.
    committed_end: Option<i64>,
}

#[derive(Clone, Debug)]
struct ClosedWindow {
    start: i64,
    epoch: u64,
    rows: Vec<(Arc<[u8]>, Vec<u8>)>,
}

/// What becomes of an event in the windows that it came too late for.
enum Lateness {
    /// All its windows are open.
    None,
    /// Some are open.
    Partly,
    /// None is open, but some were corrected.
    Corrected,
    /// None is open or corrected.
    Whole,
}

impl Sliding {
    pub(super) fn new(size_ms: i64, every_ms: i64) -> Self {
        Self {
            size_ms,
            every_ms,
            panes: Panes::new(Cut::Even(every_ms)),
            blocks: Blocks::new(every_ms, size_ms / every_ms),
            closed: Vec::new(),
            next_end: i64::MIN,
            dropped: None,
            shown: None,
            committed_end: None,
        }
    }

    /// Stands where a checkpoint stood.
    pub(super) fn restore_watermark(&mut self, watermark: i64) {
        self.next_end = self.end_after(watermark);
        self.committed_end = Some(self.next_end);
    }

    pub(super) fn apply(&mut self, shared: &mut Shared, rows: &Rows, epoch: u64) -> Vec<LateRow> {
        let kinds = Arc::clone(&shared.config.aggregates);
        let policy = shared.late(rows);
        let mut late = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            self.advance(shared, row.watermark, epoch);
            let event = Event::of(rows, index, kinds.len());
            let span = self.panes.span_of(row.time);
            let pane = span.0;
            let last_end = pane.saturating_add(self.size_ms);
            if shared.config.is_kept(last_end) {
                late.extend(shared.pass_kept(rows, index, last_end));
                continue;
            }
            match self.correct(shared, policy, (pane, row.watermark), &event, &kinds, epoch) {
                Lateness::None => {
                    self.panes.add(span, &event, (&mut shared.slots, &kinds), epoch);
                    shared.account.aggregated += 1;
                }
                Lateness::Partly => {
                    let other = self.panes.add(span, &event, (&mut shared.slots, &kinds), epoch);
                    let event = match &other {
                        Some((hash, key)) => Event { hash: *hash, key, ..event },
                        None => event,
                    };
                    self.blocks.add(pane, &event, &kinds);
                    shared.account.aggregated += 1;
                    shared.account.partly_late += 1;
                }
                Lateness::Corrected => shared.account.aggregated += 1,
                Lateness::Whole => {
                    late.push(LateRow { index, reason: policy.reason(last_end, row.watermark) });
                    shared.account.late += 1;
                }
            }
        }
        self.advance(shared, rows.watermark, epoch);
        late
    }

    pub(super) fn changes(&mut self, shared: &Shared, epoch: u64, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        self.commit(committed);
        if self.dropped.is_some() {
            emit(WindowChange::PanesBefore(self.needed_from()));
        }
        for pane in self.panes.all() {
            for group in pane.dirty() {
                let state = group.kept.state.to_bytes();
                emit(WindowChange::Pane { pane_start: pane.start, group: Arc::clone(&group.key), state });
            }
        }
        for window in &self.closed {
            for (group, state) in &window.rows {
                emit(shared.row((window.start, window.start + self.size_ms), group, state.clone()));
            }
        }
        let start = self.needed_from();
        let shown_end = if shared.config.is_kept(self.next_end) { start } else { self.next_end };
        let only_changed = self.committed_end == Some(self.next_end);
        let closed = self.next_end.saturating_sub(self.every_ms);
        for group in self.merged(start, shown_end, closed, only_changed).iter() {
            emit(shared.row((start, self.next_end), &group.key, group.kept.to_bytes()));
        }
        self.shown = Some((epoch, self.next_end));
    }

    /// Rows of closed windows that wait for their commit, and their bytes.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let rows = self.closed.iter().flat_map(|window| &window.rows);
        rows.fold((0, 0), |(count, bytes), (group, state)| (count + 1, bytes + group.len() + state.len()))
    }

    fn commit(&mut self, committed: u64) {
        self.panes.commit(committed);
        self.closed.retain(|window| window.epoch > committed);
        self.dropped = self.dropped.filter(|epoch| *epoch > committed);
        if let Some((epoch, end)) = self.shown
            && epoch <= committed
        {
            self.committed_end = Some(end);
        }
    }

    /// Corrects the closed windows of a pane.
    fn correct(
        &self,
        shared: &mut Shared,
        policy: LatePolicy,
        (pane, watermark): (i64, i64),
        event: &Event<'_>,
        kinds: &[AggregateKind],
        epoch: u64,
    ) -> Lateness {
        let first_end = pane.saturating_add(self.every_ms);
        if first_end > watermark {
            return Lateness::None;
        }
        let last_end = pane.saturating_add(self.size_ms);
        let open = last_end > watermark;
        let Some(from) = policy.correctable_from(watermark) else {
            return if open { Lateness::Partly } else { Lateness::Whole };
        };
        let mut corrected = false;
        let mut end = first_end.max(self.end_after(from.saturating_sub(1)));
        while end <= last_end.min(watermark) {
            if shared.config.is_kept(end) {
                end += self.every_ms;
                continue;
            }
            shared.corrections.add((end - self.size_ms, end), event, kinds, epoch);
            corrected = true;
            end += self.every_ms;
        }
        match (open, corrected) {
            (true, _) => Lateness::Partly,
            (false, true) => Lateness::Corrected,
            (false, false) => Lateness::Whole,
        }
    }

    /// Closes the windows that end at or before the watermark: between the record before and the one to come.
    fn advance(&mut self, shared: &mut Shared, watermark: i64, epoch: u64) {
        if watermark < self.next_end {
            return;
        }
        let next_end = self.end_after(watermark);
        let mut end = self.next_end;
        // Only windows that have a pane: the watermark may jump over years.
        while let Some(pane) = self.panes.between(end.saturating_sub(self.size_ms), next_end).first() {
            end = end.max(pane.start + self.every_ms);
            if end >= next_end {
                break;
            }
            if shared.config.is_kept(end) {
                end += self.every_ms;
                continue;
            }
            let start = end - self.size_ms;
            let merged = self.merged(start, end, end, false);
            let rows = merged.iter().map(|group| (Arc::clone(&group.key), group.kept.to_bytes())).collect();
            self.closed.push(ClosedWindow { start, epoch, rows });
            end += self.every_ms;
        }
        self.next_end = next_end;
        let (needed_from, before) = (self.needed_from(), self.panes.all().len());
        self.panes.end(needed_from, &mut shared.slots);
        self.panes.retain(|pane| pane.start >= needed_from);
        self.blocks.forget_before(needed_from);
        if self.panes.all().len() < before {
            self.dropped = Some(epoch);
        }
    }

    /// The states of the groups in these panes, of which those up to `closed` have closed; perhaps only of those groups that
    /// were touched in one of them after the last commit.
    fn merged(&mut self, start: i64, end: i64, closed: i64, only_changed: bool) -> Groups<State> {
        let mut merged: Groups<State> = Groups::default();
        let parts = self.blocks.cover(&self.panes, start, end, closed);
        if !only_changed {
            parts.iter().for_each(|part| part.merge_into(&mut merged));
            return merged;
        }
        for changed in self.panes.between(start, end).iter().flat_map(Pane::dirty) {
            if merged.find(changed.hash, &changed.key).is_none() {
                parts.iter().for_each(|part| part.merge_one_into(changed.hash, &changed.key, &mut merged));
            }
        }
        merged
    }

    /// Begin of the next window to close: no open window needs an earlier pane.
    fn needed_from(&self) -> i64 {
        self.next_end.saturating_sub(self.size_ms)
    }

    /// The least end of a window above the watermark.
    fn end_after(&self, watermark: i64) -> i64 {
        (watermark.div_euclid(self.every_ms) + 1).saturating_mul(self.every_ms)
    }
}
