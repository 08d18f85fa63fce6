//! Operators against the oracle: any events, any cuts, any number of operators, any flushes, failed ones and restarts.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::oracle::{self, KINDS, Outcome, Plan, ResultRow, TestEvent, TestRecord};
use super::*;
use crate::event::{Account, Batch, Decoded, Origin, PositionRange, Span, Value};

/// What a store keeps, and how it takes a flush.
#[derive(Clone, Default)]
struct FakeStore {
    rows: BTreeMap<(i64, i64, Arc<[u8]>), StoredRow>,
    panes: BTreeMap<(i64, Arc<[u8]>), Vec<u8>>,
    position: u64,
    watermark: Option<i64>,
    silence_ms: i64,
    first: FirstRecord,
    account: Account,
    late: Vec<u64>,
}

#[derive(Clone)]
struct StoredRow {
    state: Vec<u8>,
    revised_at: Option<i64>,
    partial: bool,
}

impl FakeStore {
    fn write(&mut self, changes: Vec<WindowChange>) {
        let (corrections, others): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| matches!(change, WindowChange::Correction { .. }));
        for change in others.into_iter().chain(corrections) {
            match change {
                WindowChange::Row { window_start, window_end, group, state, partial } => {
                    let row = StoredRow { state, revised_at: None, partial };
                    let before = self.rows.insert((window_start, window_end, group), row);
                    assert!(before.is_none_or(|row| row.revised_at.is_none()), "a row replaces its corrections");
                }
                WindowChange::Correction { window_start, window_end, mut group, state, revised_at, partial } => {
                    let window = |group: &Arc<[u8]>| (window_start, window_end, Arc::clone(group));
                    if !self.rows.contains_key(&window(&group)) {
                        let of_window =
                            self.rows.keys().filter(|(start, end, _)| (*start, *end) == (window_start, window_end));
                        let is_other = |key: &&Arc<[u8]>| OtherKey::read(key).is_some_and(|other| other.holds(&group));
                        group = of_window.map(|(.., key)| key).find(is_other).cloned().unwrap_or(group);
                    }
                    let fresh = StoredRow { state: Vec::new(), revised_at: None, partial };
                    let row = self.rows.entry((window_start, window_end, group)).or_insert(fresh);
                    let mut merged = State::decode(&KINDS, &state).unwrap();
                    if !row.state.is_empty() {
                        merged.merge(&State::decode(&KINDS, &row.state).unwrap());
                    }
                    row.state = merged.to_bytes();
                    row.revised_at = row.revised_at.max(Some(revised_at));
                }
                WindowChange::Gone { window_start, window_end, group } => {
                    self.rows.remove(&(window_start, window_end, group));
                }
                WindowChange::Pane { pane_start, group, state } => {
                    self.panes.insert((pane_start, group), state);
                }
                WindowChange::PanesBefore(bound) => self.panes.retain(|(start, _), _| *start >= bound),
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let group = |key: &[u8]| match OtherKey::read(key) {
            Some(other) => oracle::OTHER + other.bytes()[2],
            None => match decode_key(key).unwrap()[..] {
                [Value::Int(group)] => group as u8,
                _ => panic!("no key of this test"),
            },
        };
        let rows = self.rows.iter().map(|((start, end, key), row)| {
            let state = State::decode(&KINDS, &row.state).unwrap();
            let values = state.values().iter().map(oracle::show).collect();
            let (revised_at, partial) = (row.revised_at, row.partial);
            ((*start, *end, group(key)), ResultRow { events: state.events, values, revised_at, partial })
        });
        let panes = self
            .panes
            .iter()
            .map(|((start, key), state)| ((*start, group(key)), State::decode(&KINDS, state).unwrap().events));
        let mut late = self.late.clone();
        late.sort_unstable();
        Outcome {
            rows: rows.collect(),
            panes: panes.collect(),
            late,
            aggregated: self.account.aggregated,
            partly_late: self.account.partly_late,
            watermark: self.watermark,
        }
    }
}

/// What happens between two records.
#[derive(Clone, Copy, Debug)]
enum Action {
    Nothing,
    Cut,
    Flush,
    FailedFlush,
    Crash,
}

/// A stage, its window operators, and the flush: as the actors run them.
struct Mill<'a> {
    plan: &'a Plan,
    records: &'a [(i64, TestRecord)],
    operators: Vec<Operator>,
    watermark: Watermark,
    position: u64,
    epoch: u64,
    committed: u64,
    first: FirstRecord,
    late: Vec<u64>,
    store: FakeStore,
}

impl<'a> Mill<'a> {
    fn new(plan: &'a Plan, records: &'a [(i64, TestRecord)], operators: usize) -> Self {
        let max_ahead_ms = plan.watermark.max_ahead_ms;
        let store = FakeStore {
            position: plan.begin - 1,
            first: FirstRecord { max_ahead_ms, ..FirstRecord::default() },
            ..FakeStore::default()
        };
        let mut mill = Self {
            plan,
            records,
            operators: Vec::new(),
            watermark: Watermark::new(plan.watermark),
            position: 0,
            epoch: 1,
            committed: 0,
            first: FirstRecord::default(),
            late: Vec::new(),
            store,
        };
        mill.restart(operators);
        mill
    }

    /// A new generation, from the checkpoint.
    fn restart(&mut self, operators: usize) {
        let store = &self.store;
        self.watermark = Watermark::restore(self.plan.watermark, store.watermark, store.silence_ms);
        (self.position, self.first, self.late) = (store.position, store.first, Vec::new());
        let config = OperatorConfig {
            window: self.plan.window,
            late: self.plan.late,
            correct_for_ms: 0,
            kept: None,
            aggregates: KINDS.to_vec().into(),
            first: store.first,
            bounds: self.plan.bounds(),
        };
        self.operators = (0..operators).map(|_| Operator::new(config.clone())).collect();
        for operator in &mut self.operators {
            operator.restore_position(store.position, self.watermark.value());
        }
        for ((start, end, key), row) in store.rows.iter().filter(|((_, end, _), _)| *end > self.watermark.value()) {
            let (window_start, window_end) = (*start, *end);
            let open = Open::Row { window_start, window_end, group: Arc::clone(key), state: &row.state };
            self.operators[self.plan.bounds().window_of_key(key, operators)].restore(open).unwrap();
        }
        for ((start, key), state) in &store.panes {
            let open = Open::Pane { pane_start: *start, group: Arc::clone(key), state };
            self.operators[self.plan.bounds().window_of_key(key, operators)].restore(open).unwrap();
        }
    }

    fn flush(&mut self, succeeds: bool) {
        let mut changes = Vec::new();
        for operator in &mut self.operators {
            operator.changes(self.epoch, self.committed, &mut |change| changes.push(change));
            assert_eq!(operator.watermark(), self.watermark.value());
        }
        if succeeds {
            self.store.write(changes);
            self.store.position = self.position;
            self.store.watermark = self.watermark.checkpoint();
            self.store.silence_ms = self.watermark.silence_ms();
            self.store.first = self.first;
            // What an account of this generation counts already is in the one before: only the new part is added.
            self.store.late.append(&mut self.late);
            self.committed = self.epoch;
        }
        self.epoch += 1;
    }

    /// Hands the operators the records up to `upto`, as one batch.
    fn feed(&mut self, upto: u64) {
        if upto == self.position {
            return;
        }
        let range = PositionRange { after: self.position, upto };
        let index = |position: u64| (position - self.plan.begin) as usize;
        let records = &self.records[index(self.position + 1)..index(upto + 1)];
        let ingest_time = records[0].0;
        if self.first.position == 0 {
            self.first = FirstRecord { position: range.after + 1, ingest_time, ..self.first };
            self.operators.iter_mut().for_each(|operator| operator.set_first(self.first));
        }
        let batch = Arc::new(test_batch(range, ingest_time));
        let mut rows: Vec<Rows> = self.operators.iter().map(|_| empty_rows(&batch)).collect();
        for (row, (ingest, record)) in records.iter().enumerate() {
            assert_eq!(*ingest, ingest_time);
            match record {
                TestRecord::Tick(ms) => self.watermark.tick(*ms),
                TestRecord::Bad => self.watermark.line(),
                TestRecord::Event(event) => {
                    self.watermark.line();
                    if self.watermark.is_ahead(event.time, ingest_time) {
                        continue;
                    }
                    push(&mut rows, row as u32, event, self.watermark.value(), self.plan.bounds());
                    self.watermark.observe(event.time, ingest_time);
                }
            }
        }
        for (operator, mut rows) in self.operators.iter_mut().zip(rows) {
            rows.watermark = self.watermark.value();
            let before = operator.account();
            for late in operator.apply(&rows, self.epoch).unwrap() {
                self.late.push(batch.position(rows.rows[late.index].row as usize));
            }
            let given = rows.rows.len() as u64;
            let after = operator.account();
            assert_eq!(after.aggregated + after.late, before.aggregated + before.late + given);
        }
        self.position = upto;
    }

    /// All records, with these actions between them; then everything is flushed.
    fn run(mut self, actions: &[Action], operators: usize) -> Outcome {
        let last = self.plan.begin - 1 + self.records.len() as u64;
        let mut actions = actions.iter().copied();
        let (mut base, mut next) = (Account::default(), self.position);
        while next < last {
            next += 1;
            let action = actions.next().unwrap_or(Action::Nothing);
            let record = &self.records[(next - self.plan.begin) as usize];
            let follows = self.records.get((next + 1 - self.plan.begin) as usize);
            let tick = |record: &TestRecord| matches!(record, TestRecord::Tick(_));
            let alone = tick(&record.1) || follows.is_none_or(|follows| follows.0 != record.0 || tick(&follows.1));
            if alone || !matches!(action, Action::Nothing) {
                self.feed(next);
            }
            match action {
                Action::Nothing | Action::Cut => {}
                Action::Flush => {
                    self.flush(true);
                    self.store.account = self.account(base);
                }
                Action::FailedFlush => self.flush(false),
                Action::Crash => {
                    self.restart(operators);
                    base = self.store.account;
                    next = self.position;
                }
            }
        }
        self.feed(last);
        self.flush(true);
        self.store.account = self.account(base);
        // What is in the store comes no more.
        self.operators.iter_mut().for_each(|operator| {
            operator.changes(self.epoch, self.committed, &mut |change| panic!("{change:?} again"));
        });
        self.store.outcome()
    }

    fn account(&self, mut base: Account) -> Account {
        self.operators.iter().for_each(|operator| base.add(&operator.account()));
        assert_eq!(base.late, self.store.late.len() as u64);
        base
    }
}

pub(super) fn test_batch(range: PositionRange, ingest_time: i64) -> Batch {
    let (decoded, origin) = (Decoded::default(), Origin::default());
    Batch { range, ingest_time, decoded, origin, silence_ms: None, overlong: None, replay: None }
}

pub(super) fn empty_rows(batch: &Arc<Batch>) -> Rows {
    Rows {
        range: batch.range,
        batch: Arc::clone(batch),
        rows: Vec::new(),
        inputs: Vec::new(),
        keys: Vec::new(),
        arena: String::new(),
        watermark: i64::MIN,
    }
}

fn push(rows: &mut [Rows], row: u32, event: &TestEvent, watermark: i64, bounds: Bounds) {
    let mut key = Vec::new();
    encode_value(&Value::Int(i64::from(event.group)), &mut key);
    let owner = bounds.window_of_key(&key, rows.len());
    push_row(&mut rows[owner], row, event.time, watermark, &key, &event.given());
}

pub(super) fn push_row(rows: &mut Rows, row: u32, time: i64, watermark: i64, key: &[u8], inputs: &[Value<'_>]) {
    let span = Span { start: rows.keys.len() as u32, len: key.len() as u32 };
    rows.keys.extend_from_slice(key);
    rows.rows.push(WindowRow { row, ordinal: 0, time, watermark, hash: hash_key(key), key: span });
    for value in inputs {
        let input = input(value, &mut rows.arena);
        rows.inputs.push(input);
    }
}

fn input(value: &Value<'_>, arena: &mut String) -> Input {
    match value {
        Value::Null => Input::Null,
        Value::Bool(value) => Input::Bool(*value),
        Value::Int(value) => Input::Int(*value),
        Value::Float(value) => Input::Float(*value),
        Value::Text(text) => {
            let span = Span { start: arena.len() as u32, len: text.len() as u32 };
            arena.push_str(text);
            Input::Text(span)
        }
        Value::Time(_) | Value::Json(_) => panic!("no input of this test"),
    }
}

fn numbers() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        2 => Just(Value::Null),
        6 => (-20..20_i64).prop_map(Value::Int),
        6 => (-40..40_i64).prop_map(|eighths| Value::Float(eighths as f64 / 8.0)),
        4 => (-1e9..1e9_f64).prop_map(Value::Float),
        1 => Just(Value::Float(-0.0)),
        1 => any::<f64>().prop_filter("small enough to sum", |x| x.abs() < 1e290).prop_map(Value::Float),
    ]
}

fn texts() -> impl Strategy<Value = Value<'static>> {
    prop_oneof![
        2 => Just(Value::Null),
        8 => "[a-c]{0,2}".prop_map(|text| Value::Text(text.into())),
        1 => (1020..1030_usize).prop_map(|len| Value::Text(format!("{}ü€", "b".repeat(len)).into())),
    ]
}

fn events(times: std::ops::Range<i64>) -> impl Strategy<Value = TestEvent> {
    (times, 0..5_u8, any::<bool>(), numbers(), texts()).prop_map(|(time, group, kept, number, text)| TestEvent {
        time,
        group,
        kept,
        number,
        text,
    })
}

/// The same with other times.
fn stretched(records: Vec<(i64, TestRecord)>, unit_ms: i64) -> Vec<(i64, TestRecord)> {
    let stretched = |record| match record {
        TestRecord::Event(event) => TestRecord::Event(TestEvent { time: event.time * unit_ms, ..event }),
        TestRecord::Tick(ms) => TestRecord::Tick(ms * unit_ms as u32),
        TestRecord::Bad => TestRecord::Bad,
    };
    records.into_iter().map(|(ingest, record)| (ingest * unit_ms, stretched(record))).collect()
}

/// Blocks of records with an ingest time each; event times lie around it, with long jumps now and then.
fn records() -> impl Strategy<Value = Vec<(i64, TestRecord)>> {
    let record = prop_oneof![
        12 => events(-60..25).prop_map(TestRecord::Event),
        1 => events(-400..60).prop_map(TestRecord::Event),
        1 => (1..40_u32).prop_map(TestRecord::Tick),
        1 => Just(TestRecord::Bad),
    ];
    let jump = prop_oneof![30 => 0..12_i64, 1 => 100..2_000_i64];
    prop::collection::vec((jump, prop::collection::vec(record, 1..7)), 0..14).prop_map(|blocks| {
        let mut ingest = -70;
        let mut records = Vec::new();
        for (jump, block) in blocks {
            ingest += jump;
            for mut record in block {
                if let TestRecord::Event(event) = &mut record {
                    event.time += ingest;
                }
                records.push((ingest, record));
            }
        }
        records
    })
}

fn plans() -> impl Strategy<Value = Plan> {
    let kolkata = Calendar { unit: CalendarUnit::Hour, zone: chrono_tz::Asia::Kolkata };
    let window = prop_oneof![
        Just(WindowSpec::Calendar(kolkata)),
        (1..40_i64).prop_map(|size_ms| WindowSpec::Tumbling { size_ms }),
        (1..30_i64).prop_map(|gap_ms| WindowSpec::Session { gap_ms }),
        (1..3_i64, 5..70_i64).prop_map(|(every_ms, count)| WindowSpec::Sliding { size_ms: every_ms * count, every_ms }),
        (1..12_i64, 1..6_i64).prop_map(|(every_ms, count)| WindowSpec::Sliding { size_ms: every_ms * count, every_ms }),
    ];
    let late = prop_oneof![
        3 => (0..80_i64).prop_map(|correct_for_ms| LatePolicy::Update { correct_for_ms }),
        1 => Just(LatePolicy::DeadLetter),
        1 => Just(LatePolicy::Drop),
    ];
    let watermark = (0..30_i64, 0..30_i64, 0..40_i64).prop_map(|(delay_ms, idle_ms, max_ahead_ms)| WatermarkSpec {
        delay_ms,
        idle_ms,
        max_ahead_ms,
    });
    let begin = prop_oneof![Just(1_u64), 2..100_u64];
    let slots = (prop_oneof![Just(1_u8), 2..6_u8], prop_oneof![2 => Just(1_000_u64), 3 => 1..8_u64]);
    (window, late, watermark, begin, slots).prop_map(|(window, late, watermark, begin, (slots, groups))| {
        // Six of them are an hour.
        let unit_ms = if matches!(window, WindowSpec::Calendar(_)) { 600_000 } else { 1 };
        let late = match late {
            LatePolicy::Update { correct_for_ms } => LatePolicy::Update { correct_for_ms: correct_for_ms * unit_ms },
            late => late,
        };
        let watermark = WatermarkSpec {
            delay_ms: watermark.delay_ms * unit_ms,
            idle_ms: watermark.idle_ms * unit_ms,
            max_ahead_ms: watermark.max_ahead_ms * unit_ms,
        };
        Plan { window, late, watermark, begin, unit_ms, slots, groups, bytes: u64::MAX }
    })
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let action = prop_oneof![
        8 => Just(Action::Nothing),
        3 => Just(Action::Cut),
        2 => Just(Action::Flush),
        2 => Just(Action::FailedFlush),
        1 => Just(Action::Crash),
    ];
    prop::collection::vec(action, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn results_equal_the_oracles_whatever_the_cuts_operators_flushes_and_restarts(
        plan in plans(),
        records in records(),
        operators in 1..5_usize,
        actions in actions(),
    ) {
        let records = stretched(records, plan.unit_ms);
        let outcome = Mill::new(&plan, &records, operators).run(&actions, operators);
        prop_assert_eq!(outcome, oracle::run(&plan, &records));
    }

    #[test]
    fn what_is_beyond_the_bytes_depends_on_no_cut_operator_flush_or_restart(
        plan in plans(),
        bytes in 3_000..40_000_u64,
        records in records(),
        operators in 2..5_usize,
        actions in actions(),
    ) {
        let (plan, records) = (Plan { bytes, ..plan }, stretched(records, plan.unit_ms));
        let calm = Mill::new(&plan, &records, 1).run(&[], 1);
        prop_assert_eq!(Mill::new(&plan, &records, operators).run(&actions, operators), calm);
    }

    #[test]
    fn aggregates_depend_on_nothing_but_their_events(
        events in prop::collection::vec(events(-50..50), 0..30),
        order in prop::collection::vec(any::<(u64, u8)>(), 30),
    ) {
        let members: Vec<(u64, TestEvent)> = (1..).zip(events).collect();
        let mut shuffled: Vec<_> = members.iter().zip(&order).collect();
        shuffled.sort_by_key(|(_, (place, _))| *place);
        let mut parts = vec![State::new(&KINDS); 5];
        for ((position, event), (_, part)) in shuffled {
            let mut arena = String::from("before");
            let inputs: Vec<Input> = event.given().iter().map(|value| input(value, &mut arena)).collect();
            let at = EventOrder { time: event.time, position: *position, ordinal: 0 };
            parts[usize::from(*part) % 5].add(&inputs, &arena, at);
        }
        while parts.len() > 1 {
            let place = order[parts.len()].1 as usize % parts.len();
            let part = State::decode(&KINDS, &parts.swap_remove(place).to_bytes()).unwrap();
            let place = order[parts.len() + 10].1 as usize % parts.len();
            parts[place].merge(&part);
        }
        prop_assert_eq!(parts[0].events, members.len() as u64);
        let values: Vec<String> = parts[0].values().iter().map(oracle::show).collect();
        prop_assert_eq!(values, oracle::values(&members));
    }

    #[test]
    fn bytes_that_were_changed_are_an_error_or_another_state_never_a_panic(
        event in events(-50..50),
        changes in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut state = State::new(&KINDS);
        let mut arena = String::new();
        let inputs: Vec<Input> = event.given().iter().map(|value| input(value, &mut arena)).collect();
        state.add(&inputs, &arena, EventOrder { time: event.time, position: 1, ordinal: 0 });
        let mut bytes = state.to_bytes();
        prop_assert!(State::decode(&KINDS, &bytes[..cut.index(bytes.len())]).is_err());
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Ok(other) = State::decode(&KINDS, &bytes) {
            state.merge(&other);
            prop_assert_eq!(state.values().len(), KINDS.len());
        }
    }
}
