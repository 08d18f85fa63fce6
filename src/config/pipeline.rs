//! `[pipelines.<name>]`

use serde_json::json;

use crate::event::{Field, TimeUnit};
use crate::units::{format_duration, format_size};
use crate::window::{LatePolicy, WatermarkSpec, WindowSpec};

use super::aggregates::read_aggregates;
use super::alerts::read_alerts;
use super::expressions::{StageScope, read_time};
use super::names;
use super::reader::{Section, Setting};
use super::redis::read_live;
use super::report::Mistake;
use super::stages::{read_groups, read_stages};
use super::streams::{Stream, StreamDefaults};
use super::windows::{read_window, window_definition};
use super::{PipelineConfig, StageConfig, Start, TimeConfig};

const DELAY_MS: i64 = 5_000;
const IDLE_MS: i64 = 30_000;
const CORRECT_FOR_MS: i64 = 86_400_000;
const MAX_AHEAD_MS: i64 = 3_600_000;

/// Keys of the contract whose feature comes later.
const LATER: [&str; 1] = ["metrics"];
const MAX_GROUPS: u64 = 1_000_000;
const STATE_LIMIT_BYTES: u64 = 512 << 20;
/// Less than a segment of a journal is not worth to be behind by.
const MAX_BEHIND_MIN_BYTES: u64 = 1 << 20;

/// All pipelines, in the order of the file.
pub(super) fn read_pipelines(root: &mut Section<'_>, streams: &[Stream], has_redis: bool) -> Vec<PipelineConfig> {
    let Some(section) = root.take("pipelines").and_then(|setting| setting.section("tables: [pipelines.<name>]")) else {
        return Vec::new();
    };
    let entries = section.entries();
    for entry in &entries {
        entry.check_name("a pipeline");
        let base = entry.key.strip_suffix("_now");
        if let Some(other) = entries.iter().find(|other| Some(other.key) == base) {
            let message = format!("`{}` is the name of a view of the pipeline `{}`", entry.key, other.key);
            let mistake = Mistake::at(entry.key_span.clone(), message).expected("another name");
            entry.context.note(mistake.help("each pipeline x has the views x and x_now"));
        }
    }
    let read = |entry: &Setting<'_>| {
        let section = entry.section("a table: [pipelines.<name>]")?;
        read_pipeline(entry.key, section, streams, has_redis)
    };
    entries.iter().filter_map(read).collect()
}

fn read_pipeline(name: &str, mut section: Section<'_>, streams: &[Stream], has_redis: bool) -> Option<PipelineConfig> {
    let stream = section.require("stream", "stream = \"…\"").and_then(|setting| find_stream(&setting, streams));
    let defaults = stream.map(|stream| stream.defaults.clone()).unwrap_or_default();
    let mut scope = StageScope::default();
    let time = read_pipeline_time(&mut section, &defaults, &mut scope);
    let (stages, stage_texts) = read_stages(&mut section, &mut scope);
    let group_by = read_groups(&mut section, &mut scope);
    let window = section.require("window", "window = { tumbling = \"5m\" }").and_then(|setting| read_window(&setting));
    let watermark = read_watermark(&mut section, &defaults);
    let retain_ms = section.take("retain").and_then(|setting| setting.duration(1));
    let (late, correct_for_ms) = read_late(&mut section, window, retain_ms);
    let max_behind = read_max_behind(&mut section, stream);
    let max_groups = section.take("max_groups").and_then(|setting| setting.whole(1..=1 << 32)).unwrap_or(MAX_GROUPS);
    let state_limit = section.take("state_limit").and_then(|setting| setting.size(1 << 20..=1 << 40));
    let state_limit_bytes = state_limit.unwrap_or(STATE_LIMIT_BYTES);
    let redis_ttl_ms = read_live(&mut section, has_redis);
    let starts = [("earliest", Start::Earliest), ("now", Start::Now)];
    let start = section.take("start").and_then(|setting| setting.choice(&starts, &[])).unwrap_or(Start::Earliest);
    let results = read_aggregates(&mut section, &mut scope, &group_by);
    let are_whole = results.columns.len() == results.texts.len();
    let alerts = read_alerts(&mut section, &results.columns, &group_by, window, are_whole);
    section.later(&LATER);
    section.finish();
    let (stream, window) = (stream?.config.name.clone(), window?);
    let groups: Vec<&str> = group_by.iter().map(|group| group.name.as_str()).collect();
    // Keys in alphabetical order, so that the text does not depend on how the JSON library orders them.
    let mut definition = json!({
        "aggregates": results.texts,
        "correct_for": format_duration(correct_for_ms),
        "delay": format_duration(watermark.delay_ms),
        "group_by": groups,
        "idle": format_duration(watermark.idle_ms),
        "late": late_name(late),
        "max_ahead": format_duration(watermark.max_ahead_ms),
        "max_behind": max_behind.map(format_size),
        "max_groups": max_groups.to_string(),
        "missing_time": time.as_ref().map(|time| missing_time(time)),
        "redis": redis_ttl_ms.map(|ttl| json!({ "ttl": format_duration(ttl) })),
        "retain": retain_ms.map(format_duration),
        "stages": stage_texts,
        "start": if start == Start::Now { "now" } else { "earliest" },
        "state_limit": format_size(state_limit_bytes),
        "stream": stream,
        "time": time.as_ref().map(time_definition),
        "window": window_definition(window),
    });
    let tables = stages.iter().filter_map(|stage| match stage {
        StageConfig::Enrich(enrich) => Some((enrich.table.name.clone(), enrich.table.hash.clone().into())),
        _ => None,
    });
    let tables: serde_json::Map<String, serde_json::Value> = tables.collect();
    if !tables.is_empty() {
        definition["tables"] = tables.into();
    }
    if !alerts.is_empty() {
        let alerts = alerts.iter().map(|alert| (alert.name.clone(), alert.definition()));
        definition["alerts"] = alerts.collect::<serde_json::Map<_, _>>().into();
    }
    Some(PipelineConfig {
        name: name.to_owned(),
        stream,
        slots: scope.into_slots(),
        time,
        stages,
        group_by,
        window,
        watermark,
        late,
        correct_for_ms,
        retain_ms,
        start,
        max_behind_bytes: max_behind,
        max_groups,
        state_limit_bytes,
        redis_ttl_ms,
        aggregates: results.aggregates,
        columns: results.columns,
        evaluation: results.evaluation,
        alerts,
        definition,
    })
}

fn find_stream<'s>(setting: &Setting<'_>, streams: &'s [Stream]) -> Option<&'s Stream> {
    let text = setting.text("the name of a stream")?;
    let found = streams.iter().find(|stream| stream.config.name == text.value);
    if found.is_none() {
        let names = streams.iter().map(|stream| stream.config.name.as_str());
        let help = names::did_you_mean(&text.value, names.clone()).unwrap_or_else(|| {
            let names: Vec<_> = names.collect();
            format!("the streams are: {}", names.join(", "))
        });
        let mistake = Mistake::at(text.span, format!("there is no stream `{}`", text.value));
        let mistake = mistake.expected("the name of a stream of this file").help(help);
        // If no stream could be read at all, that is the mistake.
        setting.context.note(if streams.is_empty() { mistake.absence() } else { mistake });
    }
    found
}

/// Event time is read before the stages: always a field of the line, whatever `set` makes of its name.
fn read_pipeline_time(
    section: &mut Section<'_>,
    defaults: &StreamDefaults,
    scope: &mut StageScope,
) -> Option<TimeConfig> {
    let words = [("dead_letter", false), ("ingest", true)];
    let missing = section.take("missing_time").and_then(|setting| setting.choice(&words, &[]));
    let given = match section.take("time") {
        Some(setting) => Some(read_time(&setting)?),
        None => defaults.time.clone(),
    };
    let of_point = given.is_none();
    let (field, unit) = given.or(defaults.timestamp.map(|unit| (Field::timestamp(), Some(unit))))?;
    // A point need not have a timestamp.
    let missing_is_ingest = of_point || missing.unwrap_or(false);
    Some(TimeConfig { slot: scope.field_slot(&field), field, unit, missing_is_ingest, of_point })
}

fn read_watermark(section: &mut Section<'_>, defaults: &StreamDefaults) -> WatermarkSpec {
    let mut read = |key, of_stream: Option<i64>, default| {
        section.take(key).and_then(|setting| setting.duration(0)).or(of_stream).unwrap_or(default)
    };
    WatermarkSpec {
        delay_ms: read("delay", defaults.delay_ms, DELAY_MS),
        idle_ms: read("idle", defaults.idle_ms, IDLE_MS),
        max_ahead_ms: read("max_ahead", defaults.max_ahead_ms, MAX_AHEAD_MS),
    }
}

/// A row that is not there any more cannot be corrected.
fn read_late(section: &mut Section<'_>, window: Option<WindowSpec>, retain_ms: Option<i64>) -> (LatePolicy, i64) {
    let is_session = matches!(window, Some(WindowSpec::Session { .. }));
    let correct_for = section.take("correct_for").and_then(|setting| setting.duration(0));
    let correct_for_ms = correct_for.unwrap_or(CORRECT_FOR_MS).min(retain_ms.unwrap_or(i64::MAX));
    let update = LatePolicy::Update { correct_for_ms };
    let policies = [("update", update), ("dead_letter", LatePolicy::DeadLetter), ("drop", LatePolicy::Drop)];
    let setting = section.take("late");
    let late = setting.as_ref().and_then(|setting| setting.choice(&policies, &[]));
    if let (Some(setting), Some(LatePolicy::Update { .. }), true) = (&setting, late, is_session) {
        let message = format!("`{}` cannot be `update` with sessions, which are not corrected", setting.path);
        setting.wrong(message, "\"dead_letter\" or \"drop\"");
    }
    let default = if is_session { LatePolicy::DeadLetter } else { update };
    (late.unwrap_or(default), correct_for_ms)
}

fn read_max_behind(section: &mut Section<'_>, stream: Option<&Stream>) -> Option<u64> {
    let setting = section.take("max_behind")?;
    let bytes = setting.size(MAX_BEHIND_MIN_BYTES..=1 << 50)?;
    let limit = stream?.config.journal_limit_bytes;
    if bytes >= limit {
        let message =
            format!("`{}` is not below the `journal_limit` of its stream: it would never apply", setting.path);
        setting.wrong(message, format!("less than {}", format_size(limit)));
        return None;
    }
    Some(bytes)
}

/// As a config writes it.
pub(super) fn missing_time(time: &TimeConfig) -> &'static str {
    if time.missing_is_ingest { "ingest" } else { "dead_letter" }
}

fn time_definition(time: &TimeConfig) -> serde_json::Value {
    if time.of_point {
        return json!({ "timestamp": time.unit.map(unit_name) });
    }
    json!({ "field": time.field.to_string(), "unit": time.unit.map(unit_name) })
}

/// As a config writes it.
pub(super) fn unit_name(unit: TimeUnit) -> &'static str {
    match unit {
        TimeUnit::Seconds => "s",
        TimeUnit::Millis => "ms",
        TimeUnit::Micros => "us",
        TimeUnit::Nanos => "ns",
    }
}

/// As a config writes it.
pub(super) fn late_name(late: LatePolicy) -> &'static str {
    match late {
        LatePolicy::Update { .. } => "update",
        LatePolicy::DeadLetter => "dead_letter",
        LatePolicy::Drop => "drop",
    }
}
