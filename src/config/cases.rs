//! `[[tests]]`: events in, rows and letters expected. `run` only checks their shape; `tidemill test` runs them.

use std::ops::Range;

use serde_json::{Map, Value};

use super::reader::{Section, Setting};
use super::report::Mistake;
use super::streams::Stream;
use super::{PipelineConfig, names};
use crate::event::{Format, LetterKind, parse_time_text};
use crate::window::WindowSpec;

/// The clock of a test that does not set it, 2100-01-01: behind all events, so that none is ahead of it.
const NOW_MS: i64 = 4_102_444_800_000;

/// Columns of each view, besides those of its pipeline.
const COLUMNS: [&str; 7] =
    ["window_start", "window_end", "window_start_ms", "closed", "partial", "other", "revised_at"];
/// Those of them that are times.
const TIMES: [&str; 3] = ["window_start", "window_end", "revised_at"];
const TIME: &str = "a time such as \"2026-11-21T12:00:00Z\"";
const ROW: &str = "a row: { path = \"/\", views = 2 }, or '{\"path\": null, \"views\": 2}'";
const LETTER: &str = "a letter: { kind = \"time\", reason = \"is missing\" }";

const KINDS: [LetterKind; 9] = [
    LetterKind::Decode,
    LetterKind::Time,
    LetterKind::Expression,
    LetterKind::Enrich,
    LetterKind::Group,
    LetterKind::Late,
    LetterKind::Ahead,
    LetterKind::Custom,
    LetterKind::Panic,
];

/// `[[tests]]`: what becomes of some events.
#[derive(Clone, Debug)]
pub struct TestConfig {
    /// What it tests.
    pub name: String,
    /// Where it begins in the file.
    pub line: usize,
    /// The pipeline.
    pub pipeline: String,
    /// The clock at the beginning, unix ms.
    pub now_ms: i64,
    /// In their order.
    pub steps: Vec<TestStep>,
}

/// A step of a test: events come in, time passes, then rows and letters are looked at.
#[derive(Clone, Debug)]
pub struct TestStep {
    /// Where it begins in the file.
    pub line: usize,
    /// Lines.
    pub events: Vec<String>,
    /// So much time passes behind them, in silence.
    pub advance_ms: i64,
    /// All rows of the pipeline's view; `None`: whatever they are.
    pub rows: Option<Vec<ExpectedRow>>,
    /// All letters of the pipeline and of its stream; `None`: whatever they are.
    pub letters: Option<Vec<ExpectedLetter>>,
}

/// A row of a view; columns that it does not name are not compared.
#[derive(Clone, Debug)]
pub struct ExpectedRow {
    /// Where it stands in the file.
    pub line: usize,
    /// Columns and their values, in the order of the file.
    pub fields: Vec<(String, serde_json::Value)>,
}

/// A letter; what it does not name is not compared.
#[derive(Clone, Debug)]
pub struct ExpectedLetter {
    /// Where it stands in the file.
    pub line: usize,
    /// Why it failed, in a word.
    pub kind: Option<&'static str>,
    /// A part of its stage.
    pub stage: Option<String>,
    /// A part of its reason.
    pub reason: Option<String>,
    /// A part of its line.
    pub event: Option<String>,
}

/// What a test's pipeline is, as far as it is known.
#[derive(Clone, Copy)]
struct Under<'p> {
    pipeline: Option<&'p PipelineConfig>,
    format: Option<Format>,
}

/// All tests, in the order of the file.
pub(super) fn read_tests(root: &mut Section<'_>, streams: &[Stream], pipelines: &[PipelineConfig]) -> Vec<TestConfig> {
    let tests = root.take("tests").and_then(|setting| setting.list("tables: [[tests]]")).unwrap_or_default();
    let named = root.take("pipelines").and_then(|setting| setting.section("tables: [pipelines.<name>]"));
    let named: Vec<&str> =
        named.map(|section| section.entries().iter().map(|entry| entry.key).collect()).unwrap_or_default();
    let mut read: Vec<TestConfig> = Vec::with_capacity(tests.len());
    for setting in tests {
        let Some(section) = setting.section("a table: [[tests]]") else { continue };
        let Some(test) = read_test(section, streams, (pipelines, &named)) else { continue };
        if let Some(other) = read.iter().find(|other| other.name == test.name) {
            let message = format!("the test of line {} has the name `{}`, too", other.line, test.name);
            setting.wrong(message, "a name of its own");
        }
        read.push(test);
    }
    read
}

/// A test, over those pipelines that could be read, and those that the file names.
fn read_test(
    mut section: Section<'_>,
    streams: &[Stream],
    (pipelines, named): (&[PipelineConfig], &[&str]),
) -> Option<TestConfig> {
    let span = section.span.clone();
    let line = section.context.line_of(&span);
    let name = section.require("name", "name = \"errors are counted apart\"").and_then(|setting| {
        let name = setting.text("what it tests")?.value;
        if name.trim().is_empty() {
            setting.wrong(format!("`{}` is empty", setting.path), "what it tests");
        }
        Some(name)
    });
    let pipeline = section.require("pipeline", "pipeline = \"…\"").and_then(|setting| find(&setting, pipelines, named));
    let format = pipeline.and_then(|pipeline| {
        let stream = streams.iter().find(|stream| stream.config.name == pipeline.stream)?;
        Some(stream.config.format)
    });
    let under = Under { pipeline, format };
    let now_ms = section.take("now").and_then(|setting| read_time(&setting)).unwrap_or(NOW_MS);
    let given = section.take("steps");
    let own = read_step(&mut section, line, under);
    let mut steps = Vec::new();
    if let Some(given) = given {
        if !own.events.is_empty() || own.advance_ms > 0 {
            given.wrong(
                format!("`{}` beside `events` or `advance`: what comes first?", given.path),
                "all of them as steps",
            );
        }
        for setting in given.list("tables: [[tests.steps]]").unwrap_or_default() {
            let Some(mut section) = setting.section("a table: [[tests.steps]]") else { continue };
            let line = section.context.line_of(&section.span);
            steps.push(read_step(&mut section, line, under));
            section.finish();
        }
    }
    steps.push(own);
    if steps.iter().all(|step| step.rows.is_none() && step.letters.is_none()) {
        let mistake = Mistake::at(span, "this test expects nothing").expected("`rows` or `letters`").absence();
        section.context.note(mistake.help("`rows = []` says that there are none"));
    }
    section.finish();
    Some(TestConfig { name: name?, line, pipeline: pipeline?.name.clone(), now_ms, steps })
}

fn find<'p>(setting: &Setting<'_>, pipelines: &'p [PipelineConfig], named: &[&str]) -> Option<&'p PipelineConfig> {
    let text = setting.text("the name of a pipeline")?;
    if !named.contains(&text.value.as_str()) {
        let help = names::did_you_mean(&text.value, named.iter().copied())
            .unwrap_or_else(|| format!("the pipelines are: {}", named.join(", ")));
        let mistake = Mistake::at(text.span, format!("there is no pipeline `{}`", text.value));
        setting.context.note(mistake.expected("the name of a pipeline of this file").help(help).absence());
    }
    // One that could not be read has a mistake of its own.
    pipelines.iter().find(|pipeline| pipeline.name == text.value)
}

fn read_step(section: &mut Section<'_>, line: usize, under: Under<'_>) -> TestStep {
    let events = section.take("events").and_then(|setting| setting.list("a list of events")).unwrap_or_default();
    let events = events.iter().filter_map(|setting| read_event(setting, under)).collect();
    let advance_ms = section.take("advance").and_then(|setting| setting.duration(1)).unwrap_or(0);
    let rows = section.take("rows").and_then(|setting| setting.list("a list of rows"));
    let rows = rows.map(|rows| rows.iter().filter_map(|setting| read_row(setting, under)).collect());
    let letters = section.take("letters").and_then(|setting| setting.list("a list of letters"));
    let letters = letters.map(|letters| letters.iter().filter_map(read_letter).collect());
    TestStep { line, events, advance_ms, rows, letters }
}

/// A line as it would be sent, or a table that becomes one.
fn read_event(setting: &Setting<'_>, under: Under<'_>) -> Option<String> {
    const EVENT: &str = "a line: '{\"ts\": …}', or a table: { ts = … }";
    if setting.is_text() {
        return Some(setting.text(EVENT)?.value);
    }
    if under.format == Some(Format::Influx) {
        setting.wrong("an event of an Influx stream is a point", "a line: 'cpu,host=a usage=0.5 1700000000000000000'");
        return None;
    }
    // Only to say what is wrong with another type.
    setting.section(EVENT)?;
    Some(setting.json()?.to_string())
}

fn read_time(setting: &Setting<'_>) -> Option<i64> {
    let value = setting.json()?;
    let time = value.as_str().and_then(parse_time_text);
    if time.is_none() {
        setting.wrong(format!("`{}` is no time: {value}", setting.path), TIME);
    }
    time
}

fn read_row(setting: &Setting<'_>, under: Under<'_>) -> Option<ExpectedRow> {
    let fields = read_object(setting)?;
    for (field, value, span) in &fields {
        check_field(setting, (field, value, span), under.pipeline?);
    }
    let line = setting.context.line_of(&setting.span());
    Some(ExpectedRow { line, fields: fields.into_iter().map(|(name, value, _)| (name, value)).collect() })
}

type Fields = Vec<(String, Value, Range<usize>)>;

/// A row as a table, or as JSON, which has a NULL.
fn read_object(setting: &Setting<'_>) -> Option<Fields> {
    if !setting.is_text() {
        let entries = setting.section(ROW)?.entries();
        return entries.into_iter().map(|entry| Some((entry.key.to_owned(), entry.json()?, entry.span()))).collect();
    }
    let text = setting.text(ROW)?;
    match serde_json::from_str::<Map<String, Value>>(&text.value) {
        Ok(object) => Some(object.into_iter().map(|(name, value)| (name, value, text.span.clone())).collect()),
        Err(error) => {
            setting.wrong(format!("`{}` is no JSON object: {error}", setting.path), ROW);
            None
        }
    }
}

fn check_field(setting: &Setting<'_>, (field, value, span): (&str, &Value, &Range<usize>), pipeline: &PipelineConfig) {
    let period = matches!(pipeline.window, WindowSpec::Calendar(_)).then_some("period");
    let groups = pipeline.group_by.iter().map(|group| group.name.as_str());
    let values = pipeline.columns.iter().map(|column| column.name.as_str());
    let known: Vec<&str> = groups.chain(values).chain(COLUMNS).chain(period).collect();
    if !known.contains(&field) {
        let message = format!("pipeline `{}` has no column `{field}`", pipeline.name);
        let help = names::did_you_mean(field, known.iter().copied())
            .unwrap_or_else(|| format!("its columns are: {}", known.join(", ")));
        setting.context.note(Mistake::at(span.clone(), message).expected("a column of its view").help(help));
    } else if TIMES.contains(&field) && !value.is_null() && value.as_str().and_then(parse_time_text).is_none() {
        setting.context.note(Mistake::at(span.clone(), format!("`{field}` is no time: {value}")).expected(TIME));
    }
}

fn read_letter(setting: &Setting<'_>) -> Option<ExpectedLetter> {
    let mut section = setting.section(LETTER)?;
    let kinds = KINDS.map(|kind| (kind.name(), kind));
    let kind = section.take("kind").and_then(|setting| setting.choice(&kinds, &[])).map(LetterKind::name);
    let mut part =
        |key| section.take(key).and_then(|setting| setting.text("a part of its text")).map(|text| text.value);
    let (stage, reason, event) = (part("stage"), part("reason"), part("event"));
    let line = setting.context.line_of(&setting.span());
    section.finish();
    Some(ExpectedLetter { line, kind, stage, reason, event })
}
