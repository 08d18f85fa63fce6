//! Windows side by side: each event has one, which is open or closed.

use std::sync::Arc;

use super::change::{LateReason, LateRow, WindowChange};
use super::event::Event;
use super::operator::Shared;
use super::panes::{Cut, Panes};
use super::{LatePolicy, Rows};

/// Each window is one pane.
#[derive(Clone, Debug)]
pub(super) struct Tumbling {
    pub(super) windows: Panes,
}

impl Tumbling {
    pub(super) fn new(cut: Cut) -> Self {
        Self { windows: Panes::new(cut) }
    }

    pub(super) fn apply(&mut self, shared: &mut Shared, rows: &Rows, epoch: u64) -> Vec<LateRow> {
        let kinds = Arc::clone(&shared.config.aggregates);
        let policy = shared.late(rows);
        let mut late = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            self.windows.end(row.watermark, &mut shared.slots);
            let span = self.windows.span_of(row.time);
            let window_end = span.1;
            let event = Event::of(rows, index, kinds.len());
            if shared.config.is_kept(window_end) {
                late.extend(shared.pass_kept(rows, index, window_end));
            } else if window_end > row.watermark {
                self.windows.add(span, &event, (&mut shared.slots, &kinds), epoch);
                shared.account.aggregated += 1;
            } else if policy.correctable_from(row.watermark).is_some_and(|from| window_end >= from) {
                shared.corrections.add(span, &event, &kinds, epoch);
                shared.account.aggregated += 1;
            } else {
                late.push(LateRow { index, reason: policy.reason(window_end, row.watermark) });
                shared.account.late += 1;
            }
        }
        self.windows.end(rows.watermark, &mut shared.slots);
        late
    }

    /// All groups that were touched after the last commit. Windows that are closed, and in the store, are forgotten.
    pub(super) fn changes(&mut self, shared: &Shared, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        self.windows.commit(committed);
        self.windows.retain(|window| window.end > shared.watermark || !window.is_clean());
        for window in self.windows.all() {
            for group in window.dirty() {
                emit(shared.row((window.start, window.end), &group.key, group.kept.state.to_bytes()));
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
