//! The verdict: what the store holds, against an undisturbed run of the same journal, against what the producers sent,
//! and against the account.

use std::collections::BTreeMap;

use serde_json::Value;

use super::daemon::Home;
use super::lines::{Lines, MAIN};
use super::pipelines::{CROWDED, ESTIMATE, Expected, PIPELINES, replayed, row_key};
use super::store::Store;
use crate::cli::error::CliError;

/// Differences that are told in words.
const EXAMPLES: usize = 5;

const ROWS: &str = "SELECT pipeline || chr || window_start || chr || window_end || chr || CAST(group_values AS text) \
     || chr || CAST(result_values AS text) || chr || events || chr || CAST(partial AS text) || chr \
     || CAST(other AS text) || chr || coalesce(CAST(revised_at AS text), '-') AS r FROM {schema}window_results";
/// Without the clock's times.
const LETTERS: &str = "SELECT pipeline || chr || {line} || chr || stream || chr || position || chr || kind || chr \
     || stage || chr || reason || chr || coalesce(producer, '-') || chr || coalesce(peer, '-') || chr || attempts \
     || chr || CASE WHEN replayed_at IS NULL THEN 'left' ELSE 'counted' END AS r FROM {schema}dead_letters";
const ACCOUNTS: &str = "SELECT pipeline || chr || read || chr || made || chr || filtered || chr || aggregated || chr \
     || late || chr || dead || chr || exploded || chr || skipped || chr || partly_late || chr \
     || coalesce(CAST(watermark AS text), '-') AS r FROM {schema}checkpoints";
/// By the window that they fired for; when that was is the flushes' business.
const ALERTS: &str = "SELECT pipeline || ' ' || alert || ' ' || CAST(group_values AS text) || ' ' || window_start || ' ' \
     || window_end || chr || CASE WHEN resolved_at IS NULL THEN 'firing' ELSE 'resolved' END AS r FROM {schema}alerts";
const SEPARATOR: char = '\u{1f}';

/// What a store holds, under names that say which row it is.
#[derive(Default)]
pub(super) struct Tables {
    rows: BTreeMap<String, Row>,
    letters: BTreeMap<String, String>,
    /// How often a line is a letter that has not counted since, by pipeline and line.
    lines: BTreeMap<(String, Vec<u8>), u64>,
    accounts: BTreeMap<String, String>,
    /// How often each fired, and how it stands.
    alerts: BTreeMap<String, String>,
}

struct Row {
    pipeline: String,
    end: i64,
    values: BTreeMap<String, f64>,
    /// Values, events, partial, other, revised_at, as they are stored.
    stored: String,
}

/// What differs.
#[derive(Default, Debug)]
pub(super) struct Verdict {
    /// From an undisturbed run of the same journal.
    pub(super) undisturbed: u64,
    /// From what the producers sent.
    pub(super) sent: u64,
    /// Events that ended nowhere, or twice.
    pub(super) unaccounted: u64,
    /// The first of them, in words.
    pub(super) examples: Vec<String>,
    /// Rows and letters that were compared.
    pub(super) compared: u64,
}

impl Tables {
    /// Reads all of it.
    pub(super) fn read(store: &Store, home: &Home) -> Result<Self, CliError> {
        let mut tables = Self::default();
        let read = |query: &str| {
            store.read(home, &query.replace("chr", &format!("'{SEPARATOR}'"))).map(|rows| {
                rows.into_iter().map(|row| row.split(SEPARATOR).map(str::to_owned).collect::<Vec<_>>()).collect()
            })
        };
        let rows: Vec<Vec<String>> = read(ROWS)?;
        for row in rows {
            let (key, row) = parse_row(&row).ok_or_else(|| odd(&row))?;
            tables.rows.insert(key, row);
        }
        let letters: Vec<Vec<String>> = read(LETTERS)?;
        for letter in letters {
            let [pipeline, line, rest @ ..] = &letter[..] else { return Err(odd(&letter)) };
            let bytes = unhex(line).ok_or_else(|| odd(&letter))?;
            if rest.last().is_none_or(|fate| fate != "counted") {
                *tables.lines.entry((pipeline.clone(), bytes)).or_default() += 1;
            }
            tables.letters.insert(format!("{pipeline} {} {}", rest[0], rest[1]), letter.join(" "));
        }
        let accounts: Vec<Vec<String>> = read(ACCOUNTS)?;
        for account in accounts {
            tables.accounts.insert(account[0].clone(), account[1..].join(" "));
        }
        let alerts: Vec<Vec<String>> = read(ALERTS)?;
        for alert in alerts {
            let [key, state] = &alert[..] else { return Err(odd(&alert)) };
            let before = tables.alerts.insert(key.clone(), state.clone());
            if before.is_some() {
                tables.alerts.insert(key.clone(), "fired twice".to_owned());
            }
        }
        Ok(tables)
    }

    /// Only what the streams' own pipelines of one journal have made.
    pub(super) fn only_main(mut self) -> Self {
        let intake = format!("@{MAIN}");
        let is_main = |name: &str| {
            name == intake || PIPELINES.iter().any(|pipeline| pipeline.name == name && pipeline.stream == MAIN)
        };
        self.rows.retain(|_, row| is_main(&row.pipeline));
        self.letters.retain(|key, _| is_main(key.split(' ').next().unwrap_or_default()));
        self.accounts.retain(|name, _| is_main(name));
        self
    }
}

fn odd(row: &[String]) -> CliError {
    CliError::Bug(format!("the store has a row that cannot be read: {}", row.join(" ")))
}

fn parse_row(row: &[String]) -> Option<(String, Row)> {
    let [pipeline, start, end, group, values, rest @ ..] = row else { return None };
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    let mut group: BTreeMap<String, Value> = serde_json::from_str(group).ok()?;
    // What a calendar calls the window: it begins when it begins.
    group.remove("period");
    let read: BTreeMap<String, Value> = serde_json::from_str(values).ok()?;
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.parse().ok());
    let there = read.into_iter().filter(|(name, value)| !value.is_null() && !name.starts_with(ESTIMATE));
    // What is no number is none that is expected.
    let of = there.map(|(name, value)| (name, number(&value).unwrap_or(f64::NAN))).collect();
    let stored = format!("{values} {}", rest.join(" "));
    Some((row_key(pipeline, start, end, &group), Row { pipeline: pipeline.clone(), end, values: of, stored }))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(pair).collect()
}

impl Verdict {
    /// Of a store, that of the undisturbed run, and all that was sent.
    pub(super) fn of(tortured: Tables, calm: &Tables, lines: Lines) -> Self {
        let mut verdict = Self::default();
        let expected = Expected::of(lines);
        verdict.against_sent(&tortured, &expected, lines);
        verdict.against_account(&tortured, &expected);
        let tortured = tortured.only_main();
        let stored = |tables: &Tables| -> BTreeMap<String, String> {
            tables.rows.iter().map(|(key, row)| (key.clone(), row.stored.clone())).collect()
        };
        let mut differ = 0;
        for (what, tortured, calm) in [
            ("row", stored(&tortured), stored(calm)),
            ("letter", tortured.letters, calm.letters.clone()),
            ("account", tortured.accounts, calm.accounts.clone()),
            ("alert", tortured.alerts, calm.alerts.clone()),
        ] {
            differ += verdict.compare(&format!("undisturbed, {what}"), &tortured, &calm, |a, b| a == b);
        }
        verdict.undisturbed = differ;
        verdict
    }

    fn against_sent(&mut self, tortured: &Tables, expected: &Expected, lines: Lines) {
        let closed = tortured.rows.iter().filter(|(_, row)| row.end <= lines.closed_upto());
        let mut of_windows: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for (key, row) in closed {
            let mut words = key.splitn(4, ' ');
            match words.next() {
                Some(CROWDED) => {
                    let window: Vec<&str> = words.take(2).collect();
                    let sums = of_windows.entry(format!("{CROWDED} {} {{}}", window.join(" "))).or_default();
                    row.values.iter().for_each(|(name, value)| *sums.entry(name.clone()).or_default() += value);
                }
                _ => drop(of_windows.insert(key.clone(), row.values.clone())),
            }
        }
        let closed = of_windows;
        self.sent += self.compare("sent, row", &closed, &expected.rows, |a, b| a == b);
        let text = |letters: &BTreeMap<(String, Vec<u8>), u64>| -> BTreeMap<String, u64> {
            let name = |(pipeline, line): &(String, Vec<u8>)| format!("{pipeline} {}", String::from_utf8_lossy(line));
            letters.iter().map(|(letter, count)| (name(letter), *count)).collect()
        };
        self.sent += self.compare("sent, letter", &text(&tortured.lines), &text(&expected.letters), |a, b| a == b);
    }

    /// Counts what is not the same on both sides.
    fn compare<V: std::fmt::Debug>(
        &mut self,
        what: &str,
        found: &BTreeMap<String, V>,
        right: &BTreeMap<String, V>,
        same: impl Fn(&V, &V) -> bool,
    ) -> u64 {
        let mut differ = 0;
        for key in found.keys().chain(right.keys().filter(|key| !found.contains_key(*key))) {
            self.compared += 1;
            let (found, right) = (found.get(key), right.get(key));
            if !matches!((found, right), (Some(found), Some(right)) if same(found, right)) {
                differ += 1;
                let shown = |value: Option<&V>| value.map_or("not there".to_owned(), |value| format!("{value:?}"));
                self.tell(format!("{what} {key}: {}, right is {}", shown(found), shown(right)));
            }
        }
        differ
    }

    /// read + made = filtered + aggregated + late + dead + exploded + skipped, and read is what was sent.
    fn against_account(&mut self, tortured: &Tables, expected: &Expected) {
        for (pipeline, read) in &expected.read {
            let Some(account) = tortured.accounts.get(pipeline) else {
                self.unaccounted += read.unsigned_abs();
                self.tell(format!("account {pipeline}: not there"));
                continue;
            };
            let counts: Vec<i64> = account.split(' ').take(8).map(|count| count.parse().unwrap_or(0)).collect();
            let [taken, made, ended @ ..] = &counts[..] else { continue };
            // Where late events are letters, each is read again, and counts then.
            let again = if replayed().any(|name| name == pipeline) { ended[2] } else { 0 };
            let lost =
                (taken + made - ended.iter().sum::<i64>()).unsigned_abs() + (taken - again - read).unsigned_abs();
            self.unaccounted += lost;
            if lost > 0 {
                self.tell(format!("account {pipeline}: {account}, where {read} events were sent"));
            }
        }
    }

    fn tell(&mut self, example: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(example.chars().take(400).collect());
        }
    }

    /// Whether nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.undisturbed + self.sent + self.unaccounted == 0
    }
}
