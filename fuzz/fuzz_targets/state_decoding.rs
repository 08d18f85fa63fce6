//! Stored bytes as states, keys, rows and panes: read or refused; what is read is written as it was, merges and shows.

#![no_main]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tidemill::config::{PipelineConfig, parse};
use tidemill::event::{Batch, Decoded, Origin, PositionRange, Span, TIME_MAX_MS, TIME_MIN_MS, Value};
use tidemill::pipeline::Results;
use tidemill::store::Definition;
use tidemill::window::{
    AggregateKind, Bounds, EventOrder, FirstRecord, Input, LatePolicy, Open, Operator, OperatorConfig, Rows, State,
    WindowChange, WindowRow, WindowSpec, decode_key, encode_value, hash_key,
};

const CONFIG: &str = r#"
[streams.web]
[pipelines.p]
stream = "web"
group_by = ["a", "b"]
window = { sliding = "20s", every = "10s" }
[pipelines.p.aggregates]
events = "count(*)"
n = "count(x)"
total = "sum(x)"
mean = "avg(x)"
least = "min(x)"
greatest = "max(x)"
opening = "first(x)"
closing = "last(x)"
rate = "total / events + n"
shown = "coalesce(opening, least, mean) || ' of ' || greatest"
"#;

static PIPELINE: LazyLock<PipelineConfig> = LazyLock::new(|| {
    let config = parse(CONFIG, "fuzz", Path::new("/"), &|_| None).unwrap_or_else(|report| panic!("{report}"));
    config.pipelines.into_iter().next().expect("there is one")
});
static RESULTS: LazyLock<Results> = LazyLock::new(|| Results::new(PIPELINE.clone(), &BTreeMap::new()));

#[derive(Arbitrary, Debug)]
struct Stored<'a> {
    key: &'a [u8],
    states: [&'a [u8]; 2],
    sliding: bool,
    replays: bool,
    /// Places of the stored states.
    places: [(i64, i64); 2],
    watermark: i64,
    first: (u64, i64, u32),
    rows: Vec<Event>,
    inputs: Vec<(Fuzzed, u8, u16, u8)>,
}

#[derive(Arbitrary, Debug)]
struct Event {
    time: i64,
    watermark: u32,
    value: Fuzzed,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Fuzzed {
    Null,
    Int(i64),
    Float(f64),
    Small(i8),
}

fuzz_target!(|stored: Stored<'_>| {
    key(stored.key);
    let kinds: Vec<AggregateKind> = PIPELINE.aggregates.iter().map(|aggregate| aggregate.kind).collect();
    let states: Vec<State> = stored.states.iter().filter_map(|bytes| state(&kinds, bytes)).collect();
    if let [a, b] = &states[..] {
        merged(&kinds, a, b);
    }
    law(&kinds, &stored.inputs);
    operator(&kinds, &stored, &states);
});

/// What is read of a key makes the same key again, once its values have their one form.
fn key(bytes: &[u8]) {
    let _ = RESULTS.group(bytes);
    let Ok(values) = decode_key(bytes) else { return };
    let write = |values: &[Value<'_>]| {
        let mut key = Vec::new();
        values.iter().for_each(|value| encode_value(value, &mut key));
        key
    };
    let once = write(&values);
    let again = write(&decode_key(&once).expect("it was written here"));
    assert_eq!(again, once);
    assert_eq!(hash_key(&again), hash_key(&once));
}

fn state(kinds: &[AggregateKind], bytes: &[u8]) -> Option<State> {
    let state = State::decode(kinds, bytes);
    let shown = RESULTS.values(bytes, 0);
    assert_eq!(state.is_ok(), shown.is_ok());
    let state = state.ok()?;
    let once = state.to_bytes();
    assert!(once.len() <= bytes.len() + 64 * kinds.len(), "{} bytes of {}", once.len(), bytes.len());
    let again = State::decode(kinds, &once).expect("it was written here");
    assert_eq!(again.to_bytes(), once);
    assert_eq!(values(&again), values(&state));
    assert_eq!(RESULTS.values(&once, 0), shown);
    Some(state)
}

fn values(state: &State) -> String {
    format!("{} {:?}", state.events, state.values())
}

fn merged(kinds: &[AggregateKind], a: &State, b: &State) {
    let mut ab = a.clone();
    ab.merge(b);
    let bytes = RESULTS.merge(&a.to_bytes(), &b.to_bytes()).expect("both are states");
    assert_eq!(bytes, ab.to_bytes());
    let read = State::decode(kinds, &bytes).expect("it was written here");
    assert_eq!(values(&read), values(&ab));
}

/// The law of aggregates, through the store and back: an order, a cut and a merge change nothing.
fn law(kinds: &[AggregateKind], inputs: &[(Fuzzed, u8, u16, u8)]) {
    let (mut whole, mut parts) = (State::new(kinds), vec![State::new(kinds); 3]);
    for (index, (value, time, _, part)) in inputs.iter().enumerate() {
        let row = vec![value.input(); kinds.len()];
        let at = EventOrder { time: i64::from(*time), position: index as u64, ordinal: 0 };
        whole.add(&of_kinds(kinds, &row), "", at);
        parts[usize::from(*part) % 3].add(&of_kinds(kinds, &row), "", at);
    }
    let read = |state: &State| State::decode(kinds, &state.to_bytes()).expect("it was written here");
    for order in [[0, 1, 2], [2, 0, 1], [1, 2, 0]] {
        let mut merged = read(&parts[order[0]]);
        merged.merge(&read(&parts[order[1]]));
        merged = read(&merged);
        merged.merge(&parts[order[2]]);
        assert_eq!(values(&merged), values(&whole));
    }
}

fn of_kinds(kinds: &[AggregateKind], row: &[Input]) -> Vec<Input> {
    let of = |(kind, input): (&AggregateKind, &Input)| match kind {
        AggregateKind::CountAll => Input::Bool(true),
        _ => *input,
    };
    kinds.iter().zip(row).map(of).collect()
}

impl Fuzzed {
    fn input(self) -> Input {
        match self {
            Self::Int(value) => Input::Int(value),
            Self::Small(value) => Input::Int(i64::from(value)),
            Self::Float(value) if value.is_finite() => Input::Float(value),
            Self::Null | Self::Float(_) => Input::Null,
        }
    }
}

/// A checkpoint of any rows and panes is taken or refused, and what follows ends somewhere.
fn operator(kinds: &[AggregateKind], stored: &Stored<'_>, states: &[State]) {
    let window = if stored.sliding {
        WindowSpec::Sliding { size_ms: 20, every_ms: 10 }
    } else {
        WindowSpec::Tumbling { size_ms: 10 }
    };
    let late = if stored.replays { LatePolicy::DeadLetter } else { LatePolicy::Update { correct_for_ms: 1_000 } };
    let (position, ingest_time, max_ahead) = stored.first;
    let first = FirstRecord { position, ingest_time, max_ahead_ms: i64::from(max_ahead) };
    let kept = stored.replays.then_some((stored.watermark, position));
    let bounds = Bounds::new(1 + u64::from(max_ahead % 8), 1 << 20);
    let config = OperatorConfig { window, late, correct_for_ms: 1_000, kept, aggregates: kinds.into(), first, bounds };
    let mut operator = Operator::new(config);
    operator.restore_position(0, stored.watermark);
    let group: Arc<[u8]> = stored.key.into();
    for ((bytes, (start, end)), state) in stored.states.iter().zip(stored.places).zip(states) {
        let good = state.to_bytes();
        // By themselves, places are seldom where windows begin.
        for (start, end) in [
            (start, end),
            (start.div_euclid(10).saturating_mul(10), start.div_euclid(10).saturating_mul(10).saturating_add(10)),
        ] {
            let _ = operator.restore(Open::Row {
                window_start: start,
                window_end: end,
                group: group.clone(),
                state: bytes,
            });
            let _ = operator.restore(Open::Pane { pane_start: start, group: group.clone(), state: &good });
        }
    }
    let mut written = 0;
    let mut emit = |change: WindowChange| {
        if let WindowChange::Row { state, .. }
        | WindowChange::Correction { state, .. }
        | WindowChange::Pane { state, .. } = &change
        {
            State::decode(kinds, state).expect("it was written here");
        }
        written += 1;
    };
    operator.changes(1, 0, &mut emit);
    let rows = rows(kinds, stored, operator.watermark());
    let given = rows.rows.len() as u64;
    let late = operator.apply(&rows, 2).expect("the first records follow").len() as u64;
    let account = operator.account();
    assert_eq!(account.aggregated + account.late + account.skipped, given);
    assert_eq!(account.late, late);
    operator.changes(2, 1, &mut emit);
    operator.changes(3, 2, &mut emit);
    operator.gauges();
    assert!(written <= 16 * (stored.rows.len() + 8));
}

fn rows(kinds: &[AggregateKind], stored: &Stored<'_>, mut watermark: i64) -> Rows {
    let range = PositionRange::behind(0, stored.rows.len() as u64);
    let batch = Batch {
        range,
        ingest_time: 5,
        decoded: Decoded::default(),
        origin: Origin::default(),
        silence_ms: None,
        overlong: None,
        replay: None,
    };
    let mut rows = Rows {
        range,
        batch: Arc::new(batch),
        rows: Vec::new(),
        inputs: Vec::new(),
        keys: stored.key.to_vec(),
        arena: String::new(),
        watermark,
    };
    let key = Span { start: 0, len: stored.key.len() as u32 };
    for (row, event) in (0..).zip(&stored.rows) {
        let time = event.time.clamp(TIME_MIN_MS, TIME_MAX_MS);
        rows.rows.push(WindowRow { row, ordinal: 0, time, watermark, hash: hash_key(stored.key), key });
        rows.inputs.extend(of_kinds(kinds, &vec![event.value.input(); kinds.len()]));
        watermark = watermark.max(time.saturating_sub(i64::from(event.watermark)));
    }
    rows.watermark = watermark;
    rows
}
