//! What windows are, computed without any cleverness: the judge of the property tests.

use std::collections::{BTreeMap, BTreeSet};

use num_bigint::BigInt;

use super::{
    AggregateKind, AggregateValue, Bounds, Fraction, LatePolicy, Usage, WatermarkSpec, WindowSpec, encode_value,
    hash_key, hash_value,
};
use crate::event::Value;

/// The aggregates of all property tests, and which input each takes.
pub(super) const KINDS: [AggregateKind; 17] = [
    AggregateKind::CountAll,
    AggregateKind::Count,
    AggregateKind::Sum,
    AggregateKind::Avg,
    AggregateKind::Min,
    AggregateKind::Max,
    AggregateKind::First,
    AggregateKind::Last,
    AggregateKind::Min,
    AggregateKind::Last,
    AggregateKind::CountDistinct,
    AggregateKind::CountDistinct,
    AggregateKind::Variance,
    AggregateKind::Stddev,
    AggregateKind::Quantile(Fraction::HALF),
    AggregateKind::Quantile(LEAST),
    AggregateKind::Quantile(NINE_TENTHS),
];
const LEAST: Fraction = fraction(0.0);
const NINE_TENTHS: Fraction = fraction(0.9);

const fn fraction(value: f64) -> Fraction {
    match Fraction::new(value) {
        Some(fraction) => fraction,
        None => panic!("no fraction"),
    }
}

/// One event, as a test makes it.
#[derive(Clone, Debug)]
pub(super) struct TestEvent {
    pub(super) time: i64,
    pub(super) group: u8,
    pub(super) kept: bool,
    pub(super) number: Value<'static>,
    pub(super) text: Value<'static>,
}

impl TestEvent {
    /// One for each of `KINDS`.
    pub(super) fn inputs(&self) -> Vec<Value<'static>> {
        let kept = if self.kept { Value::Bool(true) } else { Value::Null };
        let (number, text) = (&self.number, &self.text);
        let (n, t) = (|| number.clone(), || text.clone());
        vec![kept, n(), n(), n(), n(), n(), t(), n(), t(), t(), n(), t(), n(), n(), n(), n(), n()]
    }

    /// As a stage hands them on: hashes where they are to be counted.
    pub(super) fn given(&self) -> Vec<Value<'static>> {
        let given = |(kind, input): (&AggregateKind, Value<'static>)| match (kind, &input) {
            (AggregateKind::CountDistinct, Value::Null) => Value::Null,
            (AggregateKind::CountDistinct, value) => Value::Int(hash_value(value, &mut Vec::new()).cast_signed()),
            _ => input,
        };
        KINDS.iter().zip(self.inputs()).map(given).collect()
    }
}

/// One record, as a test makes it.
#[derive(Clone, Debug)]
pub(super) enum TestRecord {
    Event(TestEvent),
    Tick(u32),
    /// A line that is no event, but a line.
    Bad,
}

/// What a pipeline is told.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) window: WindowSpec,
    pub(super) late: LatePolicy,
    pub(super) watermark: WatermarkSpec,
    /// Position of the first record.
    pub(super) begin: u64,
    /// All times are multiples of it.
    pub(super) unit_ms: i64,
    /// So many slots, and groups in each.
    pub(super) slots: u8,
    pub(super) groups: u64,
    /// Bytes of each slot; the oracle knows no limit of them.
    pub(super) bytes: u64,
}

impl Plan {
    pub(super) fn bounds(&self) -> Bounds {
        Bounds::of_shares(self.slots, Usage { groups: self.groups, bytes: self.bytes })
    }

    /// The slot of a group, by the key that tests give it.
    fn slot_of(&self, group: u8) -> u8 {
        let mut key = Vec::new();
        encode_value(&Value::Int(i64::from(group)), &mut key);
        self.bounds().window_of(hash_key(&key), usize::from(self.slots)) as u8
    }

    /// What stands for the groups of a slot that there is no room for.
    fn other_of(&self, group: u8) -> u8 {
        OTHER + self.slot_of(group)
    }

    /// Whether one more group comes into its slot, where these are in windows already.
    fn has_room<'a>(&self, group: u8, there: impl Iterator<Item = &'a u8>) -> bool {
        let of_slot = there.filter(|other| **other < OTHER && self.slot_of(**other) == self.slot_of(group));
        (of_slot.count() as u64) < self.groups
    }
}

/// Groups from here on are `other` states, by their slot.
pub(super) const OTHER: u8 = 100;

/// A row of the results, its values as text, floats by their bits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct ResultRow {
    pub(super) events: u64,
    pub(super) values: Vec<String>,
    pub(super) revised_at: Option<i64>,
    pub(super) partial: bool,
}

/// All that a run has to show at its end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Outcome {
    /// By start and end, and group.
    pub(super) rows: BTreeMap<(i64, i64, u8), ResultRow>,
    /// Events in each pane that is still needed.
    pub(super) panes: BTreeMap<(i64, u8), u64>,
    pub(super) late: Vec<u64>,
    pub(super) aggregated: u64,
    pub(super) partly_late: u64,
    pub(super) watermark: Option<i64>,
}

type Members = Vec<(u64, TestEvent)>;

/// Event by event: for each window that an event belongs to, whether it is in.
pub(super) fn run(plan: &Plan, records: &[(i64, TestRecord)]) -> Outcome {
    let (size, every, shift) = match plan.window {
        WindowSpec::Tumbling { size_ms } => (size_ms, size_ms, 0),
        WindowSpec::Sliding { size_ms, every_ms } => (size_ms, every_ms, 0),
        WindowSpec::Session { gap_ms } => return run_sessions(plan, gap_ms, records),
        // Hours of Kolkata, whose clocks are five hours and a half ahead and were not set anew in these years; what clocks
        // can do besides is tested apart.
        WindowSpec::Calendar(_) => (3_600_000, 3_600_000, 1_800_000),
    };
    let correct_for = match plan.late {
        LatePolicy::Update { correct_for_ms } => Some(correct_for_ms),
        LatePolicy::DeadLetter | LatePolicy::Drop => None,
    };
    let mut outcome = Outcome::default();
    let mut windows: BTreeMap<(i64, u8), (Members, Option<i64>)> = BTreeMap::new();
    let mut panes: BTreeMap<(i64, u8), u64> = BTreeMap::new();
    let mut held: BTreeSet<(i64, u8)> = BTreeSet::new();
    let watermark = each_event(plan, records, |position, ingest, event, before| {
        let pane = event.time - (event.time - shift).rem_euclid(every);
        let of_event = (0..size / every).map(|back| pane - back * every);
        let (mut open, mut closed, mut corrected) = (0, 0, 0);
        // An event goes into one pane, as its group or as one of the others; all its open windows have it as that.
        let mut group = event.group;
        if pane + size > before && !held.contains(&(pane, group)) {
            held.retain(|(start, _)| start + size > before);
            if plan.has_room(group, held.iter().map(|(_, group)| group)) {
                held.insert((pane, group));
            } else {
                group = plan.other_of(group);
            }
        }
        for start in of_event {
            let late = before >= start + size;
            if late && correct_for.is_none_or(|correct_for| before > start + size + correct_for) {
                closed += 1;
                continue;
            }
            let late_group =
                if windows.contains_key(&(start, event.group)) { event.group } else { plan.other_of(event.group) };
            let late_group = if windows.contains_key(&(start, late_group)) { late_group } else { event.group };
            let (members, revised_at) = windows.entry((start, if late { late_group } else { group })).or_default();
            members.push((position, event.clone()));
            if late {
                corrected += 1;
                *revised_at = (*revised_at).max(Some(ingest));
            } else {
                open += 1;
            }
        }
        if open + corrected == 0 {
            outcome.late.push(position);
        } else {
            outcome.aggregated += 1;
        }
        if open > 0 {
            outcome.partly_late += u64::from(closed + corrected > 0);
            *panes.entry((pane, group)).or_default() += 1;
        }
    });
    let last = watermark.unwrap_or(i64::MIN);
    let first_ingest = records.first().map_or(0, |(ingest, _)| *ingest);
    for ((start, group), (members, revised_at)) in windows {
        let next_to_close = start + size > last && start + size <= last.saturating_add(every);
        if start + size <= last
            || next_to_close
            || matches!(plan.window, WindowSpec::Tumbling { .. } | WindowSpec::Calendar(_))
        {
            let (events, values) = (members.len() as u64, values(&members));
            let partial = plan.begin != 1 && start < first_ingest + plan.watermark.max_ahead_ms;
            outcome.rows.insert((start, start + size, group), ResultRow { events, values, revised_at, partial });
        }
    }
    if let WindowSpec::Sliding { .. } = plan.window {
        outcome.panes = panes.into_iter().filter(|((start, _), _)| start + size > last).collect();
    }
    outcome.watermark = watermark;
    outcome
}

/// Hands on each event that counts, with its position, its ingest time and the watermark before it; the last watermark.
fn each_event(
    plan: &Plan,
    records: &[(i64, TestRecord)],
    mut take: impl FnMut(u64, i64, &TestEvent, i64),
) -> Option<i64> {
    let (mut watermark, mut silence) = (None::<i64>, 0);
    for (position, (ingest, record)) in (plan.begin..).zip(records) {
        let event = match record {
            TestRecord::Tick(ms) => {
                for _ in 0..i64::from(*ms) / plan.unit_ms {
                    silence += plan.unit_ms;
                    if silence > plan.watermark.idle_ms {
                        watermark = watermark.map(|value| value + plan.unit_ms);
                    }
                }
                continue;
            }
            TestRecord::Bad => {
                silence = 0;
                continue;
            }
            TestRecord::Event(event) => event,
        };
        silence = 0;
        if event.time - ingest > plan.watermark.max_ahead_ms {
            continue;
        }
        take(position, *ingest, event, watermark.unwrap_or(i64::MIN));
        watermark = watermark.max(Some(event.time.min(*ingest) - plan.watermark.delay_ms));
    }
    watermark
}

/// Sessions as sets of events: where one starts and ends follows from those.
fn run_sessions(plan: &Plan, gap: i64, records: &[(i64, TestRecord)]) -> Outcome {
    let start = |members: &Members| members.iter().map(|(_, event)| event.time).min().unwrap();
    let end = |members: &Members| members.iter().map(|(_, event)| event.time).max().unwrap() + gap;
    let mut outcome = Outcome::default();
    let mut sessions: Vec<(u8, Members)> = Vec::new();
    outcome.watermark = each_event(plan, records, |position, _, event, before| {
        let joins = |wanted: u8, (group, members): &(u8, Members)| {
            *group == wanted && end(members) > before && start(members) < event.time + gap && event.time < end(members)
        };
        let mut group = event.group;
        if !sessions.iter().any(|session| joins(group, session)) {
            if event.time + gap <= before {
                outcome.late.push(position);
                return;
            }
            let open = sessions.iter().filter(|(_, members)| end(members) > before);
            if !plan.has_room(group, open.map(|(group, _)| group)) {
                group = plan.other_of(group);
            }
        }
        outcome.aggregated += 1;
        let (joined, others): (Vec<_>, Vec<_>) = sessions.drain(..).partition(|session| joins(group, session));
        sessions = others;
        let mut members: Members = joined.into_iter().flat_map(|(_, members)| members).collect();
        members.push((position, event.clone()));
        sessions.push((group, members));
    });
    let first_ingest = records.first().map_or(0, |(ingest, _)| *ingest);
    for (group, members) in sessions {
        let (start, end) = (start(&members), end(&members));
        let partial = plan.begin != 1 && start - gap < first_ingest + plan.watermark.max_ahead_ms;
        let (events, values) = (members.len() as u64, values(&members));
        let row = ResultRow { events, values, revised_at: None, partial };
        assert!(outcome.rows.insert((start, end, group), row).is_none());
    }
    outcome
}

/// The values of all aggregates of `KINDS` over these events.
pub(super) fn values(members: &[(u64, TestEvent)]) -> Vec<String> {
    let inputs: Vec<Vec<Value<'static>>> = members.iter().map(|(_, event)| event.inputs()).collect();
    let order = |member: &usize| (members[*member].1.time, members[*member].0);
    KINDS
        .iter()
        .enumerate()
        .map(|(column, kind)| {
            let given: Vec<usize> = (0..members.len()).filter(|member| !inputs[*member][column].is_null()).collect();
            let values: Vec<&Value<'static>> = given.iter().map(|member| &inputs[*member][column]).collect();
            let pick = |member: Option<&usize>| member.map_or(String::from("null"), |m| show_kept(&inputs[*m][column]));
            match kind {
                AggregateKind::CountAll | AggregateKind::Count => format!("int {}", values.len()),
                AggregateKind::Sum => sum(&values),
                AggregateKind::Avg => avg(&values),
                AggregateKind::Min => sorted(&values).first().map_or(String::from("null"), |value| show_kept(value)),
                AggregateKind::Max => greatest(&sorted(&values)),
                AggregateKind::First => pick(given.iter().min_by_key(|member| order(member))),
                AggregateKind::Last => pick(given.iter().max_by_key(|member| order(member))),
                AggregateKind::CountDistinct => format!("int {}", distinct(&values)),
                AggregateKind::Variance => shown(variance(&values)),
                AggregateKind::Stddev => shown(stddev(&values)),
                AggregateKind::Quantile(fraction) => shown(quantile(&values, fraction.value())),
            }
        })
        .collect()
}

/// A value as text, floats by their bits.
pub(super) fn show(value: &AggregateValue) -> String {
    match value {
        AggregateValue::Null => String::from("null"),
        AggregateValue::Whole(value) => format!("int {value}"),
        AggregateValue::Value(Value::Int(value)) => format!("int {value}"),
        AggregateValue::Value(Value::Float(value)) => format!("float {:x}", value.to_bits()),
        AggregateValue::Value(Value::Text(text)) => format!("text {text}"),
        AggregateValue::Value(value) => format!("{value:?}"),
    }
}

fn show_kept(value: &Value<'_>) -> String {
    match value {
        Value::Text(text) => format!("text {}", kept_text(text)),
        Value::Float(float) if *float == 0.0 => show(&AggregateValue::Value(Value::Float(0.0))),
        value => show(&AggregateValue::Value(value.clone().into_owned())),
    }
}

fn kept_text(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars() {
        if kept.len() + character.len_utf8() > 1024 {
            break;
        }
        kept.push(character);
    }
    kept
}

/// Numbers of tests fit a float exactly where they are whole; of two that are equal the whole one comes first.
fn sorted<'a>(values: &[&'a Value<'static>]) -> Vec<&'a Value<'static>> {
    let mut values = values.to_vec();
    values.sort_by(|a, b| match (a, b) {
        (Value::Text(a), Value::Text(b)) => kept_text(a).cmp(&kept_text(b)),
        _ => number(a).total_cmp(&number(b)).then(is_float(a).cmp(&is_float(b))),
    });
    values
}

fn greatest(sorted: &[&Value<'static>]) -> String {
    let Some(last) = sorted.last() else { return String::from("null") };
    let equal = sorted.iter().find(|value| number(value) == number(last));
    show_kept(equal.unwrap_or(last))
}

fn number(value: &Value<'_>) -> f64 {
    match value {
        Value::Int(int) => *int as f64,
        Value::Float(float) => *float + 0.0,
        value => panic!("{value:?} is no number"),
    }
}

fn is_float(value: &Value<'_>) -> bool {
    matches!(value, Value::Float(_))
}

fn parts(values: &[&Value<'static>]) -> (Vec<f64>, Vec<i64>) {
    let floats = values.iter().filter(|value| is_float(value)).map(|value| number(value)).collect();
    let ints = values.iter().filter_map(|value| if let Value::Int(int) = value { Some(*int) } else { None }).collect();
    (floats, ints)
}

fn sum(values: &[&Value<'static>]) -> String {
    let (floats, ints) = parts(values);
    match (floats.is_empty(), ints.is_empty()) {
        (true, true) => String::from("null"),
        (true, false) => format!("int {}", ints.iter().map(|int| i128::from(*int)).sum::<i128>()),
        (false, _) => format!("float {:x}", shewchuk(&floats, &ints).to_bits()),
    }
}

fn avg(values: &[&Value<'static>]) -> String {
    let (floats, ints) = parts(values);
    if values.is_empty() {
        return String::from("null");
    }
    format!("float {:x}", (shewchuk(&floats, &ints) / values.len() as f64).to_bits())
}

fn shown(value: Option<f64>) -> String {
    value.map_or(String::from("null"), |value| format!("float {:x}", value.to_bits()))
}

fn distinct(values: &[&Value<'static>]) -> usize {
    let name = |value: &Value<'static>| match value {
        Value::Text(text) => format!("text {text}"),
        value => format!("{:?}", number(value)),
    };
    values.iter().map(|value| name(value)).collect::<BTreeSet<_>>().len()
}

/// The bin of a float is found by doubling and halving.
fn quantile(values: &[&Value<'static>], fraction: f64) -> Option<f64> {
    let sorted: Vec<f64> = sorted(values).into_iter().map(number).collect();
    let value = *sorted.get((fraction * sorted.len().checked_sub(1)? as f64).floor() as usize)?;
    let (mut magnitude, mut scale) = (value.abs(), 1.0);
    if magnitude == 0.0 {
        return Some(0.0);
    }
    while magnitude >= 2.0 {
        (magnitude, scale) = (magnitude / 2.0, scale * 2.0);
    }
    while magnitude < 1.0 {
        (magnitude, scale) = (magnitude * 2.0, scale / 2.0);
    }
    let middle = ((magnitude * 64.0).floor() + 0.5) / 64.0 * scale * value.signum();
    Some(middle.max(sorted[0]).min(sorted[sorted.len() - 1]))
}

/// The variance of a sample as a fraction of whole numbers, all in units of 2⁻²¹⁴⁸.
fn exact_variance(values: &[&Value<'static>]) -> Option<(BigInt, BigInt)> {
    let whole = |value: &&Value<'static>| match value {
        Value::Int(int) => BigInt::from(*int) << 1074,
        value => {
            let (mut float, mut exponent) = (number(value), 0);
            while float.fract() != 0.0 {
                (float, exponent) = (float * 2.0, exponent + 1);
            }
            let digits = format!("{float:.0}").parse::<BigInt>().unwrap();
            digits << (1074 - exponent)
        }
    };
    let count = BigInt::from(values.len());
    let below: BigInt = &count - 1;
    let whole: Vec<BigInt> = values.iter().map(whole).collect();
    let sum: BigInt = whole.iter().sum();
    let squares: BigInt = whole.iter().map(|value| value * value).sum();
    (values.len() > 1).then(|| (&count * squares - &sum * &sum, count * below))
}

/// The nearest float, if it is a normal one, and 2 to a power that it is to be multiplied by.
fn nearest((above, below): (BigInt, BigInt)) -> (f64, i32) {
    // 80 bits of the quotient at least, whose last one says whether there is more.
    let shift = 80 + below.bits() as i32 - above.bits() as i32;
    let (above, below) = if shift > 0 { (above << shift, below) } else { (above, below << -shift) };
    let quotient = &above / &below;
    let rest = u32::from(&quotient * &below != above);
    let bits: u128 = (quotient << 1_u32 | BigInt::from(rest)).try_into().unwrap();
    (bits as f64, -shift - 1 - 2148)
}

/// Rounded once at most.
fn power(mut float: f64, mut exponent: i32) -> Option<f64> {
    while exponent > 0 {
        (float, exponent) = (float * 2.0, exponent - 1);
    }
    while exponent < 0 && float >= 2.0 * f64::MIN_POSITIVE {
        (float, exponent) = (float / 2.0, exponent + 1);
    }
    let rest = (exponent..0).fold(1.0, |rest, _| rest / 2.0);
    (float * rest).is_finite().then_some(float * rest)
}

pub(super) fn variance(values: &[&Value<'static>]) -> Option<f64> {
    let exact = exact_variance(values)?;
    let (float, exponent) = nearest(exact);
    power(float, exponent)
}

pub(super) fn stddev(values: &[&Value<'static>]) -> Option<f64> {
    let (float, exponent) = nearest(exact_variance(values)?);
    let (float, exponent) = if exponent % 2 == 0 { (float, exponent) } else { (float * 2.0, exponent - 1) };
    power(float.sqrt(), exponent / 2)
}

/// The exact sum, rounded once: Shewchuk's growing expansions with the last step of Python's `fsum`.
pub(super) fn shewchuk(floats: &[f64], ints: &[i64]) -> f64 {
    let mut partials: Vec<f64> = Vec::new();
    let halves = ints.iter().flat_map(|int| [(int >> 32) as f64 * 4_294_967_296.0, (int & 0xffff_ffff) as f64]);
    for mut x in floats.iter().copied().chain(halves) {
        let mut next = Vec::new();
        for mut y in partials {
            if x.abs() < y.abs() {
                (x, y) = (y, x);
            }
            let high = x + y;
            let low = y - (high - x);
            if low != 0.0 {
                next.push(low);
            }
            x = high;
        }
        next.push(x);
        partials = next;
    }
    let Some(mut high) = partials.pop() else { return 0.0 };
    let mut low = 0.0;
    while let Some(y) = partials.pop() {
        let x = high;
        high = x + y;
        low = y - (high - x);
        if low != 0.0 {
            break;
        }
    }
    // Half-way cases: what is left decides.
    if let Some(rest) = partials.last()
        && low != 0.0
        && (low < 0.0) == (*rest < 0.0)
    {
        let y = low * 2.0;
        let x = high + y;
        if y == x - high {
            high = x;
        }
    }
    high + 0.0
}
