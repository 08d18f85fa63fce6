//! The window operator: what one window actor computes. The only file that knows all of the room.
//!
//! Close and late are decided between records, by the watermark that came with each, so that no result depends on where
//! a batch was cut, when a flush came, or how many operators share the groups. Changes are derived from marks: each
//! thing that changed keeps the epoch that last touched it, and goes out with every barrier until that epoch is
//! committed. So a flush that failed needs no undoing.

use std::sync::Arc;

use super::bounds::Slots;
use super::change::{FirstRecord, Gauges, LateReason, LateRow, Open, OperatorConfig, WindowChange};
use super::codec::StateError;
use super::corrections::Corrections;
use super::group::hash_key;
use super::panes::{Cut, Pane};
use super::session::Sessions;
use super::sliding::Sliding;
use super::state::State;
use super::tumbling::Tumbling;
use super::{LatePolicy, Rows, WindowSpec};
use crate::event::{Account, Position, PositionError, PositionRange};

/// Windows of the groups that belong to one window actor.
#[derive(Clone, Debug)]
pub struct Operator {
    range: PositionRange,
    shape: Shape,
    shared: Shared,
}

#[derive(Clone, Debug)]
enum Shape {
    Tumbling(Tumbling),
    Sliding(Sliding),
    Sessions(Sessions),
}

/// What all shapes of windows need.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) config: OperatorConfig,
    pub(super) watermark: i64,
    pub(super) account: Account,
    pub(super) corrections: Corrections,
    /// What is held in open windows.
    pub(super) slots: Slots,
}

impl Operator {
    /// Before any record.
    pub fn new(config: OperatorConfig) -> Self {
        let shape = match config.window {
            WindowSpec::Tumbling { size_ms } => Shape::Tumbling(Tumbling::new(Cut::Even(size_ms))),
            WindowSpec::Calendar(calendar) => Shape::Tumbling(Tumbling::new(Cut::Calendar(calendar))),
            WindowSpec::Session { gap_ms } => Shape::Sessions(Sessions::new(gap_ms)),
            WindowSpec::Sliding { size_ms, every_ms } => Shape::Sliding(Sliding::new(size_ms, every_ms)),
        };
        let (account, corrections) = (Account::default(), Corrections::default());
        let slots = Slots::new(config.bounds, &config.aggregates);
        let shared = Shared { config, watermark: i64::MIN, account, corrections, slots };
        Self { range: PositionRange::default(), shape, shared }
    }

    /// Stands behind the last record of a checkpoint (`i64::MIN`: no event before it).
    pub fn restore_position(&mut self, position: Position, watermark: i64) {
        self.range = PositionRange::behind(position, 0);
        self.shared.watermark = watermark;
        if let Shape::Sliding(sliding) = &mut self.shape {
            sliding.restore_watermark(watermark);
        }
    }

    /// Takes back a state of the checkpoint.
    ///
    /// # Errors
    /// Where it is no state of these aggregates and windows.
    pub fn restore(&mut self, open: Open<'_>) -> Result<(), StateError> {
        let Shared { config, slots, .. } = &mut self.shared;
        let decode = |state: &[u8]| State::decode(&config.aggregates, state);
        match (&mut self.shape, open) {
            (Shape::Tumbling(tumbling), Open::Row { window_start, window_end, group, state }) => {
                let span = tumbling.windows.span_of(window_start);
                if span != (window_start, window_end) {
                    return Err(StateError::Foreign("its window has another span"));
                }
                tumbling.windows.restore(span, hash_key(&group), group, decode(state)?, slots);
            }
            (Shape::Sliding(sliding), Open::Pane { pane_start, group, state }) => {
                let span = sliding.panes.span_of(pane_start);
                if span.0 != pane_start {
                    return Err(StateError::Foreign("its pane begins at another time"));
                }
                sliding.panes.restore(span, hash_key(&group), group, decode(state)?, slots);
            }
            (Shape::Sessions(sessions), Open::Row { window_start, window_end, group, state }) => {
                if !sessions.is_session(window_start, window_end) {
                    return Err(StateError::Foreign("its session is shorter than the gap"));
                }
                sessions.restore((window_start, window_end), hash_key(&group), &group, decode(state)?, slots);
            }
            // Made of the panes.
            (Shape::Sliding(_), Open::Row { .. }) => {}
            (Shape::Tumbling(_) | Shape::Sessions(_), Open::Pane { .. }) => {
                return Err(StateError::Foreign("it is a pane, and the windows are not sliding"));
            }
        }
        Ok(())
    }

    /// Says which record the pipeline read first, where that was not known before.
    pub fn set_first(&mut self, first: FirstRecord) {
        self.shared.config.first = first;
    }

    /// Takes the records that follow; they belong to `epoch`, the one of the barrier to come. Returns the events that
    /// are too late to be corrected.
    ///
    /// # Errors
    /// Where a record is missing or comes twice; nothing was taken then.
    pub fn apply(&mut self, rows: &Rows, epoch: u64) -> Result<Vec<LateRow>, PositionError> {
        self.range.extend(rows.range)?;
        let late = match &mut self.shape {
            Shape::Tumbling(tumbling) => tumbling.apply(&mut self.shared, rows, epoch),
            Shape::Sliding(sliding) => sliding.apply(&mut self.shared, rows, epoch),
            Shape::Sessions(sessions) => sessions.apply(&mut self.shared, rows, epoch),
        };
        self.shared.watermark = self.shared.watermark.max(rows.watermark);
        Ok(late)
    }

    /// At the barrier of `epoch`: everything that changed since the epoch `committed` was committed, rows before
    /// corrections.
    pub fn changes(&mut self, epoch: u64, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        self.shared.corrections.commit(committed);
        match &mut self.shape {
            Shape::Tumbling(tumbling) => tumbling.changes(&self.shared, committed, emit),
            Shape::Sliding(sliding) => sliding.changes(&self.shared, epoch, committed, emit),
            Shape::Sessions(sessions) => sessions.changes(&self.shared, epoch, committed, emit),
        }
        self.shared.emit_corrections(emit);
    }

    /// Where the events ended that this operator was given: `aggregated`, `late`, `partly_late`. An event is partly
    /// late where some of its windows were closed and some open.
    pub fn account(&self) -> Account {
        self.shared.account
    }

    /// The watermark behind the last record; `i64::MIN` before any event.
    pub fn watermark(&self) -> i64 {
        self.shared.watermark
    }

    /// How full it is.
    pub fn gauges(&self) -> Gauges {
        // Rows of closed sliding windows are bytes already; blocks are states besides.
        let (open_windows, closed_rows, states, bytes) = match &self.shape {
            Shape::Tumbling(Tumbling { windows }) => {
                let open = windows.open(self.shared.watermark);
                let closed = groups(windows.all()) - groups(open);
                (open.len(), closed, closed, 0)
            }
            Shape::Sliding(sliding) => {
                let (rows, bytes) = sliding.waiting();
                (sliding.panes.all().len(), rows, sliding.blocks.groups(), bytes)
            }
            Shape::Sessions(sessions) => (sessions.open(), sessions.ended(), sessions.ended(), 0),
        };
        let (slots, corrections) = (&self.shared.slots, &self.shared.corrections);
        let used = slots.all();
        let fixed = State::fixed_bytes(&self.shared.config.aggregates) as usize;
        Gauges {
            open_windows,
            groups: used.groups as usize,
            closed_rows,
            corrections: corrections.len(),
            state_bytes: used.bytes as usize + fixed * (states + corrections.len()) + corrections.key_bytes() + bytes,
            other_events: slots.other_events(),
            is_overfull: slots.is_overfull(),
        }
    }
}

fn groups(panes: &[Pane]) -> usize {
    panes.iter().map(|pane| pane.groups.len()).sum()
}

impl Shared {
    /// What becomes of late events among these.
    pub(super) fn late(&self, rows: &Rows) -> LatePolicy {
        match rows.batch.replay {
            Some(_) => LatePolicy::Update { correct_for_ms: self.config.correct_for_ms },
            None => self.config.late,
        }
    }

    /// An event whose windows are all of an older revision: that one has counted it, or it is late.
    pub(super) fn pass_kept(&mut self, rows: &Rows, index: usize, window_end: i64) -> Option<LateRow> {
        if self.config.was_seen(rows.batch.record(rows.rows[index].row as usize)) {
            self.account.skipped += 1;
            return None;
        }
        self.account.late += 1;
        Some(LateRow { index, reason: LateReason::Kept { window_end } })
    }

    pub(super) fn row(
        &self,
        (window_start, window_end): (i64, i64),
        group: &Arc<[u8]>,
        state: Vec<u8>,
    ) -> WindowChange {
        WindowChange::Row {
            window_start,
            window_end,
            group: Arc::clone(group),
            state,
            partial: self.config.first.is_partial(window_start),
        }
    }

    fn emit_corrections(&self, emit: &mut dyn FnMut(WindowChange)) {
        self.corrections.emit(&mut |(window_start, window_end), group| {
            emit(WindowChange::Correction {
                window_start,
                window_end,
                group: Arc::clone(&group.key),
                state: group.kept.state.to_bytes(),
                revised_at: group.kept.revised_at,
                partial: self.config.first.is_partial(window_start),
            });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{empty_rows, push_row, test_batch};
    use super::super::{AggregateKind, AggregateValue, Bounds, LateReason};
    use super::*;
    use crate::event::Value;

    const FIRST: FirstRecord = FirstRecord { position: 1, ingest_time: 0, max_ahead_ms: 0 };
    const TEN: WindowSpec = WindowSpec::Tumbling { size_ms: 10 };
    const TWENTY_BY_TEN: WindowSpec = WindowSpec::Sliding { size_ms: 20, every_ms: 10 };

    fn operator(window: WindowSpec, late: LatePolicy) -> Operator {
        let aggregates = [AggregateKind::CountAll].into();
        Operator::new(OperatorConfig {
            window,
            late,
            correct_for_ms: 30,
            kept: None,
            aggregates,
            first: FIRST,
            bounds: Bounds::new(1_000_000, 1 << 30),
        })
    }

    /// One batch behind `after`: for each event its time and the watermark before it.
    fn rows(after: u64, events: &[(i64, i64)], watermark: i64) -> Rows {
        let batch = Arc::new(test_batch(PositionRange::behind(after, events.len() as u64), 1_000));
        let mut rows = empty_rows(&batch);
        for (row, (time, before)) in (0..).zip(events) {
            push_row(&mut rows, row, *time, *before, b"\x00", &[Value::Bool(true)]);
        }
        rows.watermark = watermark;
        rows
    }

    /// What a barrier emits, one line a change.
    fn changes(operator: &mut Operator, epoch: u64, committed: u64) -> Vec<String> {
        let mut lines = Vec::new();
        let count = |state: &[u8]| match State::decode(&[AggregateKind::CountAll], state).unwrap().values()[..] {
            [AggregateValue::Value(Value::Int(count))] => count,
            _ => panic!("a count is a number"),
        };
        operator.changes(epoch, committed, &mut |change| {
            lines.push(match change {
                WindowChange::Row { window_start, window_end, state, .. } => {
                    format!("row {window_start}..{window_end} = {}", count(&state))
                }
                WindowChange::Correction { window_start, window_end, state, revised_at, .. } => {
                    format!("correction {window_start}..{window_end} + {} at {revised_at}", count(&state))
                }
                WindowChange::Pane { pane_start, state, .. } => format!("pane {pane_start} = {}", count(&state)),
                WindowChange::PanesBefore(bound) => format!("panes before {bound}"),
                WindowChange::Gone { window_start, window_end, .. } => format!("gone {window_start}..{window_end}"),
            });
        });
        lines
    }

    #[test]
    fn records_that_do_not_follow_are_refused_and_change_nothing() {
        let mut operator = operator(TEN, LatePolicy::Drop);
        operator.restore_position(4, i64::MIN);
        operator.apply(&rows(4, &[(5, i64::MIN)], 5), 1).unwrap();
        assert!(operator.apply(&rows(6, &[(5, 5)], 5), 1).is_err());
        assert!(operator.apply(&rows(4, &[(5, 5)], 5), 1).is_err());
        assert_eq!((operator.account().aggregated, operator.watermark()), (1, 5));
        operator.apply(&rows(5, &[], 7), 1).unwrap();
        assert_eq!(changes(&mut operator, 1, 0), ["row 0..10 = 1"]);
        assert_eq!(operator.watermark(), 7);
    }

    #[test]
    fn each_event_is_late_by_the_watermark_before_it_not_by_the_batchs() {
        let mut operator = operator(TEN, LatePolicy::Update { correct_for_ms: 30 });
        let late = operator.apply(&rows(0, &[(3, 0), (25, 3), (4, 10), (5, 40), (6, 41)], 41), 1).unwrap();
        let reason = LateReason::BeyondCorrectFor { window_end: 10, watermark: 41, correct_for_ms: 30 };
        assert_eq!(late, [LateRow { index: 4, reason }]);
        let account = operator.account();
        assert_eq!((account.aggregated, account.late), (4, 1));
        let lines = ["row 0..10 = 1", "row 20..30 = 1", "correction 0..10 + 2 at 1000"];
        assert_eq!(changes(&mut operator, 1, 0), lines);
        assert_eq!(changes(&mut operator, 2, 0), lines, "the flush failed");
        assert_eq!(changes(&mut operator, 3, 2), [""; 0]);
        assert_eq!(operator.gauges(), Gauges::default(), "nothing is kept of closed windows");
    }

    #[test]
    fn a_closed_sliding_row_is_made_before_the_events_that_follow() {
        let mut operator = operator(TWENTY_BY_TEN, LatePolicy::DeadLetter);
        operator.apply(&rows(0, &[(1, 0), (2, 10), (3, 20)], 20), 1).unwrap();
        assert_eq!(operator.account().partly_late, 1);
        assert_eq!(changes(&mut operator, 1, 0), ["panes before 10", "row -10..10 = 1", "row 0..20 = 2"]);
        assert_eq!(operator.account().late, 1);
    }

    #[test]
    fn of_open_sliding_windows_the_next_to_close_is_shown_and_shown_anew_when_it_changes() {
        let mut operator = operator(TWENTY_BY_TEN, LatePolicy::Drop);
        operator.apply(&rows(0, &[(5, 0), (15, 0)], 5), 1).unwrap();
        assert_eq!(changes(&mut operator, 1, 0), ["pane 0 = 1", "pane 10 = 1", "row -10..10 = 1"]);
        operator.apply(&rows(2, &[], 6), 2).unwrap();
        assert_eq!(changes(&mut operator, 2, 1), [""; 0]);
        operator.apply(&rows(2, &[], 10), 3).unwrap();
        assert_eq!(changes(&mut operator, 3, 2), ["row -10..10 = 1", "row 0..20 = 2"]);
        assert_eq!(changes(&mut operator, 4, 2), ["row -10..10 = 1", "row 0..20 = 2"], "the flush failed");
        operator.apply(&rows(2, &[(16, 10)], 10), 5).unwrap();
        assert_eq!(changes(&mut operator, 5, 4), ["pane 10 = 2", "row 0..20 = 3"]);
    }

    #[test]
    fn what_a_checkpoint_had_does_not_come_again() {
        let (state, group) = (State::new(&[AggregateKind::CountAll]).to_bytes(), Arc::from(&[0_u8][..]));
        let mut operator = operator(TWENTY_BY_TEN, LatePolicy::Drop);
        operator.restore_position(9, 12);
        operator.restore(Open::Pane { pane_start: 10, group, state: &state }).unwrap();
        assert_eq!(changes(&mut operator, 1, 0), [""; 0]);
        operator.apply(&rows(9, &[(13, 12)], 12), 2).unwrap();
        assert_eq!(changes(&mut operator, 2, 0), ["pane 10 = 1", "row 0..20 = 1"]);
    }

    #[test]
    fn a_watermark_may_jump_over_a_million_years_of_empty_windows() {
        let mut operator = operator(TWENTY_BY_TEN, LatePolicy::Drop);
        let far = 31_536_000_000_000_000;
        operator.apply(&rows(0, &[(-5, i64::MIN), (far + 5, -5)], far), 1).unwrap();
        let lines = changes(&mut operator, 1, 0);
        assert_eq!(
            lines[..3],
            [format!("panes before {}", far - 10), format!("pane {far} = 1"), "row -20..0 = 1".into()]
        );
        assert_eq!(lines[3..], ["row -10..10 = 1".into(), format!("row {}..{} = 1", far - 10, far + 10)]);
    }

    #[test]
    fn windows_of_an_older_revision_stay_as_they_are() {
        let config = |window| OperatorConfig {
            kept: Some((20, 2)),
            ..operator(window, LatePolicy::Update { correct_for_ms: 1_000 }).shared.config
        };
        // Of the kept windows only: seen by the older revision, then not. The last ones have a window of their own.
        let events = [(15, i64::MIN), (15, 15), (15, 40), (21, 40), (35, 40)];
        let mut tumbling = Operator::new(config(TEN));
        let late = tumbling.apply(&rows(0, &events, 40), 1).unwrap();
        let kept = |index| LateRow { index, reason: LateReason::Kept { window_end: 20 } };
        assert_eq!(late, [kept(2)]);
        let account = tumbling.account();
        assert_eq!((account.skipped, account.late, account.aggregated), (2, 1, 2));
        assert_eq!(changes(&mut tumbling, 1, 0), ["correction 20..30 + 1 at 1000", "correction 30..40 + 1 at 1000"]);
        // 15 lies in 0..20, which is kept, and in 10..30, which is not.
        let mut sliding = Operator::new(config(TWENTY_BY_TEN));
        let late = sliding.apply(&rows(0, &[(5, i64::MIN), (15, 0), (5, 0), (15, 45)], 45), 1).unwrap();
        assert_eq!(late, [kept(2)]);
        let account = sliding.account();
        assert_eq!((account.skipped, account.late, account.aggregated), (1, 1, 2));
        let lines = ["panes before 30", "row 10..30 = 1", "correction 10..30 + 1 at 1000"];
        assert_eq!(changes(&mut sliding, 1, 0), lines);
    }

    #[test]
    fn windows_before_the_first_record_are_partial() {
        let first = FirstRecord { position: 7, ingest_time: 100, max_ahead_ms: 50 };
        assert!(first.is_partial(149));
        assert!(!first.is_partial(150));
        assert!(!FirstRecord { position: 1, ..first }.is_partial(i64::MIN));
        assert!(FirstRecord::default().is_partial(0), "nothing was read yet");
    }

    #[test]
    fn states_of_another_definition_are_refused() {
        let mut tumbling = operator(TEN, LatePolicy::Drop);
        let mut sliding = operator(TWENTY_BY_TEN, LatePolicy::Drop);
        let state = State::new(&[AggregateKind::CountAll]).to_bytes();
        let row = |window_start, window_end, state| Open::Row { window_start, window_end, group: [0].into(), state };
        let pane = |pane_start, state| Open::Pane { pane_start, group: [0].into(), state };
        assert_eq!(tumbling.restore(row(0, 10, &state)), Ok(()));
        assert!(tumbling.restore(row(0, 20, &state)).is_err());
        assert!(tumbling.restore(row(5, 15, &state)).is_err());
        assert!(tumbling.restore(pane(0, &state)).is_err());
        assert_eq!(sliding.restore(row(0, 20, b"")), Ok(()));
        assert_eq!(sliding.restore(pane(0, &state)), Ok(()));
        assert!(sliding.restore(pane(5, &state)).is_err());
        let newer = StateError::Newer { found: 9, known: 1 };
        assert_eq!(sliding.restore(pane(0, &[9, 0, 0])), Err(newer));
        let other = State::new(&[AggregateKind::Count]).to_bytes();
        assert!(matches!(tumbling.restore(row(0, 10, &other)), Err(StateError::Foreign(_))));
    }

    #[test]
    fn gauges_count_what_is_kept() {
        let mut operator = operator(TEN, LatePolicy::Update { correct_for_ms: 100 });
        operator.apply(&rows(0, &[(1, 0), (11, 0), (21, 0), (2, 15)], 15), 1).unwrap();
        let gauges = operator.gauges();
        assert_eq!((gauges.open_windows, gauges.groups), (2, 2));
        assert_eq!((gauges.closed_rows, gauges.corrections), (1, 1));
        assert!(gauges.state_bytes > 4 * size_of::<State>());
    }
}
