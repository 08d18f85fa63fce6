//! Windows side by side: each event has one, which is open or closed.

use std::sync::Arc;

use super::change::{LateReason, LateRow, WindowChange};
use super::event::Event;
use super::operator::Shared;
use super::panes::Panes;
use super::{LatePolicy, Rows};

/// Each window is one pane.
#[derive(Clone, Debug)]
pub(super) struct Tumbling {
    size_ms: i64,
    pub(super) windows: Panes,
}

impl Tumbling {
    pub(super) fn new(size_ms: i64) -> Self {
        Self { size_ms, windows: Panes::new(size_ms) }
    }

    pub(super) fn end_of(&self, window_start: i64) -> i64 {
        window_start.saturating_add(self.size_ms)
    }

    /// Windows that begin then or later are open.
    pub(super) fn open_from(&self, watermark: i64) -> i64 {
        watermark.saturating_sub(self.size_ms).saturating_add(1)
    }

    pub(super) fn apply(&mut self, shared: &mut Shared, rows: &Rows, epoch: u64) -> Vec<LateRow> {
        let kinds = Arc::clone(&shared.config.aggregates);
        let policy = shared.late(rows);
        let mut late = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            let start = self.windows.start_of(row.time);
            let window_end = self.end_of(start);
            let event = Event::of(rows, index, kinds.len());
            if shared.config.is_kept(window_end) {
                late.extend(shared.pass_kept(rows, index, window_end));
            } else if window_end > row.watermark {
                self.windows.add(start, &event, &kinds, epoch);
                shared.account.aggregated += 1;
            } else if policy.correctable_from(row.watermark).is_some_and(|from| window_end >= from) {
                shared.corrections.add(start, &event, &kinds, epoch);
                shared.account.aggregated += 1;
            } else {
                late.push(LateRow { index, reason: policy.reason(window_end, row.watermark) });
                shared.account.late += 1;
            }
        }
        late
    }

    /// All groups that were touched after the last commit. Windows that are closed, and in the store, are forgotten.
    pub(super) fn changes(&mut self, shared: &Shared, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        self.windows.commit(committed);
        let size_ms = self.size_ms;
        self.windows.retain(|window| window.start.saturating_add(size_ms) > shared.watermark || !window.is_clean());
        for window in self.windows.all() {
            for group in window.dirty() {
                emit(shared.row(window.start, size_ms, &group.key, group.kept.state.to_bytes()));
            }
        }
    }
}

impl LatePolicy {
    /// The least end of a window that late events still correct; `None` where they correct none.
    pub(super) fn correctable_from(self, watermark: i64) -> Option<i64> {
        match self {
            Self::Update { correct_for_ms } => Some(watermark.saturating_sub(correct_for_ms)),
            Self::DeadLetter | Self::Drop => None,
        }
    }

    /// Why this policy leaves an event uncorrected.
    pub(super) fn reason(self, window_end: i64, watermark: i64) -> LateReason {
        match self {
            Self::Update { correct_for_ms } => LateReason::BeyondCorrectFor { window_end, watermark, correct_for_ms },
            Self::DeadLetter | Self::Drop => LateReason::Closed { window_end, watermark },
        }
    }
}
