//! The pipelines that are tortured, and what they must make of the lines: by plain arithmetic over the lines as they were
//! made, which uses nothing that the daemon uses. Whatever the order in which lines come, these are the right rows: late
//! lines correct closed windows, and no value depends on order.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::lines::{BRIEF, Event, Lines, MAIN};

/// One pipeline: its config, and the same in plain functions.
pub(super) struct Pipeline {
    pub(super) name: &'static str,
    pub(super) stream: &'static str,
    config: &'static str,
    /// What becomes of late events.
    late: Late,
    /// A piece of its config, and what it is from the middle of the rounds on: a new revision.
    mended: Option<(&'static str, &'static str)>,
    windows: Windows,
    fate: fn(&Event) -> Fate,
    group: fn(&Event) -> BTreeMap<&'static str, Value>,
    values: fn(&Sums) -> BTreeMap<&'static str, f64>,
}

/// What becomes of late events.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Late {
    /// They correct their windows.
    Update,
    /// They are letters, which are replayed.
    Replayed,
    /// None is late: it waits long enough.
    None,
}

/// Which windows an event belongs to.
#[derive(Clone, Copy)]
enum Windows {
    /// Those of a length that begin at every multiple of a distance, and so much later.
    Even { size_ms: i64, every_ms: i64, shift_ms: i64 },
    /// Its group's events that are less than this apart.
    Session { gap_ms: i64 },
}

impl Windows {
    const fn every(size_ms: i64, every_ms: i64) -> Self {
        Self::Even { size_ms, every_ms, shift_ms: 0 }
    }
}

/// What becomes of an event.
enum Fate {
    Counts,
    Filtered,
    Letter,
}

/// All that is added up of a window's group.
#[derive(Default)]
struct Sums {
    count: i64,
    numbers: i64,
    squares: i64,
    load_quarters: i64,
    most: i64,
    amount: i64,
    /// Of ten seconds: the same for all events of one.
    slot: i64,
    kinds: BTreeSet<&'static str>,
}

impl Sums {
    fn add(&mut self, event: &Event) {
        self.count += 1;
        self.numbers += event.number;
        self.squares += event.number * event.number;
        self.load_quarters += event.load_quarters;
        self.most = self.most.max(event.number);
        self.amount += event.amount.unwrap_or(0);
        self.slot = event.time.div_euclid(10_000);
        self.kinds.insert(event.kind);
    }

    /// Of a sample: one event has none.
    fn variance(&self) -> Option<f64> {
        let [count, numbers, squares] = [self.count, self.numbers, self.squares].map(i128::from);
        let above = count * squares - numbers * numbers;
        (count > 1).then(|| above as f64 / (count * (count - 1)) as f64)
    }

    fn load(&self) -> f64 {
        self.load_quarters as f64 / 4.0
    }
}

/// It has more groups than room: which of them are in depends on the order in which lines came, so that against what was
/// sent all rows of a window, the one of the others included, are one.
pub(super) const CROWDED: &str = "crowded";

/// A value of this kind of name is an estimate, which no plain arithmetic gives: it is compared with the undisturbed run.
pub(super) const ESTIMATE: &str = "about_";

/// A new kind of pipeline is one more entry.
pub(super) const PIPELINES: [Pipeline; 9] = [
    Pipeline {
        name: "tumbling",
        stream: MAIN,
        config: r#"
group_by = ["producer", "kind"]
window = { tumbling = "10s" }
[pipelines.tumbling.aggregates]
events = "count(*)"
numbers = "sum(n)"
squares = "sum(n * n)"
load = "sum(load)"
mean = "avg(load)"
most = "max(n)"
slot = "min(div(ts, 10000))"
[pipelines.tumbling.alerts]
busy = { when = "events >= 50 AND slot - 2 * div(slot, 2) = 0" }
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::every(10_000, 10_000),
        fate: |_| Fate::Counts,
        group: |event| [("producer", json!(event.producer)), ("kind", json!(event.kind))].into(),
        // The alert: a count only grows, and no two windows in a row can have it; so it is the same one, whether it fires
        // while its window is open or when that closes.
        values: |sums| {
            [
                ("events", sums.count as f64),
                ("numbers", sums.numbers as f64),
                ("squares", sums.squares as f64),
                ("load", sums.load()),
                ("mean", sums.load() / sums.count as f64),
                ("most", sums.most as f64),
                ("slot", sums.slot as f64),
            ]
            .into()
        },
    },
    Pipeline {
        name: "sliding",
        stream: MAIN,
        config: r#"
group_by = ["producer"]
window = { sliding = "1m", every = "10s" }
[pipelines.sliding.aggregates]
events = "count(*)"
numbers = "sum(n)"
load = "sum(load)"
kinds = "count(distinct kind)"
spread = "variance(n)"
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::every(60_000, 10_000),
        fate: |_| Fate::Counts,
        group: |event| [("producer", json!(event.producer))].into(),
        values: |sums| {
            let mut values = BTreeMap::from([
                ("events", sums.count as f64),
                ("numbers", sums.numbers as f64),
                ("load", sums.load()),
                ("kinds", sums.kinds.len() as f64),
            ]);
            values.extend(sums.variance().map(|variance| ("spread", variance)));
            values
        },
    },
    Pipeline {
        name: "letters",
        stream: MAIN,
        config: r#"
group_by = ["kind"]
window = { tumbling = "30s" }
aggregates = { events = "count(*)", numbers = "sum(n)", amount = "sum(amount)" }
[[pipelines.letters.stages]]
filter = "kind <> 'z'"
[[pipelines.letters.stages]]
set = { amount = "CAST(amount AS bigint)" }
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::every(30_000, 30_000),
        fate: |event| match (event.kind, event.amount) {
            ("z", _) => Fate::Filtered,
            (_, None) => Fate::Letter,
            _ => Fate::Counts,
        },
        group: |event| [("kind", json!(event.kind))].into(),
        values: |sums| {
            [("events", sums.count as f64), ("numbers", sums.numbers as f64), ("amount", sums.amount as f64)].into()
        },
    },
    Pipeline {
        name: "replayed",
        stream: MAIN,
        config: r#"
group_by = ["producer"]
window = { tumbling = "20s" }
aggregates = { events = "count(*)", numbers = "sum(n)", squares = "sum(n * n)" }
"#,
        late: Late::Replayed,
        mended: None,
        windows: Windows::every(20_000, 20_000),
        fate: |_| Fate::Counts,
        group: |event| [("producer", json!(event.producer))].into(),
        values: |sums| {
            let squares = sums.squares as f64;
            [("events", sums.count as f64), ("numbers", sums.numbers as f64), ("squares", squares)].into()
        },
    },
    Pipeline {
        name: "mended",
        stream: MAIN,
        config: r#"
group_by = ["kind"]
window = { tumbling = "10s" }
aggregates = { events = "count(*)", numbers = "sum(n)", amount = "sum(CAST(amount AS bigint))" }
"#,
        late: Late::Update,
        mended: Some(("CAST(amount AS bigint)", "coalesce(TRY_CAST(amount AS bigint), 0)")),
        windows: Windows::every(10_000, 10_000),
        fate: |_| Fate::Counts,
        group: |event| [("kind", json!(event.kind))].into(),
        values: |sums| {
            [("events", sums.count as f64), ("numbers", sums.numbers as f64), ("amount", sums.amount as f64)].into()
        },
    },
    Pipeline {
        name: "sessions",
        stream: MAIN,
        config: r#"
group_by = ["producer", "kind"]
window = { session = "500ms" }
aggregates = { events = "count(*)", numbers = "sum(n)", most = "max(n)" }
"#,
        late: Late::None,
        mended: None,
        windows: Windows::Session { gap_ms: 500 },
        fate: |_| Fate::Counts,
        group: |event| [("producer", json!(event.producer)), ("kind", json!(event.kind))].into(),
        values: |sums| {
            let most = sums.most as f64;
            [("events", sums.count as f64), ("numbers", sums.numbers as f64), ("most", most)].into()
        },
    },
    Pipeline {
        name: CROWDED,
        stream: MAIN,
        config: r#"
group_by = ["bucket"]
window = { tumbling = "10s" }
max_groups = 50
aggregates = { events = "count(*)", numbers = "sum(n)" }
[[pipelines.crowded.stages]]
set = { bucket = "n % 40" }
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::every(10_000, 10_000),
        fate: |_| Fate::Counts,
        group: |_| BTreeMap::new(),
        values: |sums| [("events", sums.count as f64), ("numbers", sums.numbers as f64)].into(),
    },
    Pipeline {
        name: "hours",
        stream: MAIN,
        config: r#"
window = { calendar = "hour", timezone = "Asia/Kolkata" }
[pipelines.hours.aggregates]
events = "count(*)"
numbers = "sum(n)"
about_numbers = "count(distinct n)"
about_median = "median(n)"
about_load = "quantile(load, 0.9)"
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::Even { size_ms: 3_600_000, every_ms: 3_600_000, shift_ms: 1_800_000 },
        fate: |_| Fate::Counts,
        group: |_| BTreeMap::new(),
        values: |sums| [("events", sums.count as f64), ("numbers", sums.numbers as f64)].into(),
    },
    Pipeline {
        name: "short",
        stream: BRIEF,
        config: r#"
window = { tumbling = "10s" }
aggregates = { events = "count(*)", numbers = "sum(n)", squares = "sum(n * n)" }
"#,
        late: Late::Update,
        mended: None,
        windows: Windows::every(10_000, 10_000),
        fate: |_| Fate::Counts,
        group: |_| BTreeMap::new(),
        values: |sums| {
            let squares = sums.squares as f64;
            [("events", sums.count as f64), ("numbers", sums.numbers as f64), ("squares", squares)].into()
        },
    },
];

/// Pipelines whose letters are replayed until none is left.
pub(super) fn replayed() -> impl Iterator<Item = &'static str> {
    PIPELINES.iter().filter(|pipeline| pipeline.late == Late::Replayed).map(|pipeline| pipeline.name)
}

/// The streams and pipelines of a daemon under torture; of the one that only reads again, those of [`MAIN`].
pub(super) fn config(all: bool, is_mended: bool) -> String {
    let mut text = format!(
        "[streams.{MAIN}]\ntcp = \"127.0.0.1:0\"\njournal_limit = \"64GiB\"\njournal_keep = \"3650d\"\n\
         [streams.{BRIEF}]\ntcp = \"127.0.0.1:0\"\ndurability = \"os\"\njournal_limit = \"8MiB\"\n\
         journal_keep = \"0s\"\n"
    );
    for pipeline in PIPELINES.iter().filter(|pipeline| all || pipeline.stream == MAIN) {
        let (late, delay) = match pipeline.late {
            Late::Update => ("update", "2s"),
            Late::Replayed => ("dead_letter", "2s"),
            // As late as any line may be: producers fall behind one another. Only the closing lines are beyond it.
            Late::None => ("dead_letter", "11h"),
        };
        let own = match pipeline.mended {
            Some((from, to)) if is_mended => pipeline.config.replace(from, to),
            _ => pipeline.config.to_owned(),
        };
        text.push_str(&format!(
            "[pipelines.{}]\nstream = \"{}\"\ntime = \"ts\"\ndelay = \"{delay}\"\nidle = \"1d\"\nlate = \"{late}\"\n\
             correct_for = \"3650d\"{own}",
            pipeline.name, pipeline.stream
        ));
    }
    text
}

/// What the store must hold: values by pipeline, window and group; letters by pipeline and line; read events by pipeline.
#[derive(Default)]
pub(super) struct Expected {
    pub(super) rows: BTreeMap<String, BTreeMap<String, f64>>,
    pub(super) letters: BTreeMap<(String, Vec<u8>), u64>,
    pub(super) read: BTreeMap<String, i64>,
}

/// The name of a row: pipeline, window, group.
pub(super) fn row_key(pipeline: &str, start: i64, end: i64, group: &BTreeMap<String, Value>) -> String {
    // A map of texts and values is JSON.
    format!("{pipeline} {start} {end} {}", serde_json::to_string(group).unwrap_or_default())
}

impl Expected {
    /// Of all lines.
    pub(super) fn of(lines: Lines) -> Self {
        let mut expected = Self::default();
        for stream in [MAIN, BRIEF] {
            let mut read = 0;
            for (producer, number) in lines.of(stream) {
                read += 1;
                if lines.event(producer, number).is_none() {
                    expected.letter(&format!("@{stream}"), lines.text(producer, number));
                }
            }
            expected.read.insert(format!("@{stream}"), read);
        }
        for pipeline in &PIPELINES {
            expected.pipeline(pipeline, lines);
        }
        expected
    }

    fn letter(&mut self, pipeline: &str, line: String) {
        *self.letters.entry((pipeline.to_owned(), line.into_bytes())).or_default() += 1;
    }

    fn pipeline(&mut self, pipeline: &Pipeline, lines: Lines) {
        // By the group's text: values have no order.
        let mut groups: BTreeMap<String, (BTreeMap<String, Value>, Vec<Event>)> = BTreeMap::new();
        let mut read = 0;
        for (producer, number) in lines.of(pipeline.stream) {
            let Some(event) = lines.event(producer, number) else { continue };
            read += 1;
            match (pipeline.fate)(&event) {
                Fate::Filtered => continue,
                Fate::Letter => {
                    self.letter(pipeline.name, lines.text(producer, number));
                    continue;
                }
                Fate::Counts => {}
            }
            let group: BTreeMap<_, _> =
                (pipeline.group)(&event).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            groups.entry(format!("{group:?}")).or_insert_with(|| (group, Vec::new())).1.push(event);
        }
        self.read.insert(pipeline.name.to_owned(), read);
        for (group, events) in groups.into_values() {
            for ((start, end), sums) in pipeline.windows.of(events) {
                if end <= lines.closed_upto() {
                    let values = (pipeline.values)(&sums).into_iter();
                    let values = values.map(|(name, value)| (name.to_owned(), value)).collect();
                    self.rows.insert(row_key(pipeline.name, start, end, &group), values);
                }
            }
        }
    }
}

impl Windows {
    /// The windows of a group's events, each with what it adds up to.
    fn of(self, mut events: Vec<Event>) -> Vec<((i64, i64), Sums)> {
        let mut windows: Vec<((i64, i64), Sums)> = Vec::new();
        match self {
            Self::Session { gap_ms } => {
                events.sort_by_key(|event| event.time);
                for event in &events {
                    match windows.last_mut().filter(|((_, end), _)| event.time < *end) {
                        Some(((_, end), sums)) => {
                            *end = event.time + gap_ms;
                            sums.add(event);
                        }
                        None => {
                            let mut sums = Sums::default();
                            sums.add(event);
                            windows.push(((event.time, event.time + gap_ms), sums));
                        }
                    }
                }
            }
            Self::Even { size_ms, every_ms, shift_ms } => {
                let mut sums: BTreeMap<i64, Sums> = BTreeMap::new();
                for event in &events {
                    let last = (event.time - shift_ms).div_euclid(every_ms) * every_ms + shift_ms;
                    for back in 0..size_ms / every_ms {
                        sums.entry(last - back * every_ms).or_default().add(event);
                    }
                }
                windows.extend(sums.into_iter().map(|(start, sums)| ((start, start + size_ms), sums)));
            }
        }
        windows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sliding_window_is_as_many_times_there_as_it_slides() {
        let lines = Lines { seed: 1, rounds: 1 };
        let expected = Expected::of(lines);
        let events = |name: &str| -> f64 {
            let of = expected.rows.iter().filter(|(key, _)| key.starts_with(name));
            of.map(|(_, values)| values["events"]).sum()
        };
        // But for the three closing lines, whose windows are open at the end.
        assert_eq!(events("tumbling"), (expected.read["tumbling"] - 3) as f64);
        assert_eq!(events("sliding"), 6.0 * events("tumbling"));
        let decode = expected.letters.keys().filter(|(pipeline, _)| pipeline == "@main").count() as i64;
        assert_eq!(expected.read["@main"], expected.read["tumbling"] + decode);
        assert!(decode > 10 && expected.letters.keys().any(|(pipeline, _)| pipeline == "letters"));
    }

    #[test]
    fn the_config_is_one() {
        for (all, is_mended) in [(true, false), (true, true), (false, true)] {
            let text = config(all, is_mended);
            crate::config::parse(&text, "torture", std::path::Path::new("."), &|_| None).unwrap();
        }
    }
}
