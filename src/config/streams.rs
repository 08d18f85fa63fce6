//! `[streams.<name>]`

use crate::event::{Field, Format, TimeUnit};
use crate::units::format_size;

use super::address::{Listener, read_address};
use super::expressions::{TIME_UNITS, read_time};
use super::reader::{Section, Setting};
use super::report::Mistake;
use super::tokens::{Tokens, read_tokens};
use super::{Durability, RawEventsConfig, StreamConfig};

const JOURNAL_LIMIT_BYTES: u64 = 10 << 30;
const JOURNAL_LIMIT_MIN_BYTES: u64 = 1 << 20;
const JOURNAL_KEEP_MS: i64 = 86_400_000;
const RAW_RETAIN_MIN_MS: i64 = 1_000;
const MAX_LINE_BYTES: u64 = 1 << 20;
const MAX_LINE_MIN_BYTES: u64 = 64;
/// A longer line is a batch of its own; of this size a few still fit into memory side by side.
const MAX_LINE_MAX_BYTES: u64 = 64 << 20;

/// What a stream says for its pipelines; each may say otherwise.
#[derive(Clone, Debug, Default)]
pub(super) struct StreamDefaults {
    pub(super) time: Option<(Field, Option<TimeUnit>)>,
    /// The unit of its points' timestamps, which are the time where none is given.
    pub(super) timestamp: Option<TimeUnit>,
    pub(super) delay_ms: Option<i64>,
    pub(super) idle_ms: Option<i64>,
    pub(super) max_ahead_ms: Option<i64>,
}

/// A stream, and what belongs to it but not into it.
pub(super) struct Stream {
    pub(super) config: StreamConfig,
    pub(super) defaults: StreamDefaults,
    pub(super) listener: Option<Listener>,
}

/// All streams, in the order of the file; one with mistakes, too, so that what refers to it does not fail, too.
pub(super) fn read_streams(root: &mut Section<'_>) -> Vec<Stream> {
    let Some(setting) = root.take("streams") else {
        let mistake =
            Mistake::at(0..0, "there is no stream").expected("`[streams.<name>]` with `tcp = \"127.0.0.1:7600\"`");
        root.context.note(mistake.absence());
        return Vec::new();
    };
    let Some(section) = setting.section("tables: [streams.<name>]") else { return Vec::new() };
    let entries = section.entries();
    if entries.is_empty() {
        setting.wrong("there is no stream", "`[streams.<name>]` with `tcp = \"127.0.0.1:7600\"`");
    }
    let read = |entry: Setting<'_>| {
        entry.check_name("a stream");
        let section = entry.section("a table: [streams.<name>]")?;
        Some(read_stream(entry.key, section))
    };
    entries.into_iter().filter_map(read).collect()
}

fn read_stream(name: &str, mut section: Section<'_>) -> Stream {
    let listener = section.take("tcp").and_then(|setting| read_address(&setting));
    let (format, precision) = read_format(&mut section);
    let tokens = read_access(&mut section, listener.as_ref());
    let durabilities = [("fsync", Durability::Fsync), ("os", Durability::Os)];
    let durability = section.take("durability").and_then(|setting| setting.choice(&durabilities, &[]));
    let max_line = section
        .take("max_line")
        .and_then(|setting| setting.size(MAX_LINE_MIN_BYTES..=MAX_LINE_MAX_BYTES))
        .unwrap_or(MAX_LINE_BYTES);
    let journal_limit = read_journal_limit(&mut section, max_line);
    let journal_keep = section.take("journal_keep").and_then(|setting| setting.duration(0));
    let defaults = StreamDefaults {
        time: section.take("time").and_then(|setting| read_time(&setting)),
        timestamp: (format == Format::Influx).then_some(precision),
        delay_ms: section.take("delay").and_then(|setting| setting.duration(0)),
        idle_ms: section.take("idle").and_then(|setting| setting.duration(0)),
        max_ahead_ms: section.take("max_ahead").and_then(|setting| setting.duration(0)),
    };
    let raw_time = defaults.time.clone().or(defaults.timestamp.map(|unit| (Field::timestamp(), Some(unit))));
    let raw_events = read_raw_events(&mut section, raw_time);
    section.finish();
    let config = StreamConfig {
        name: name.to_owned(),
        tcp: listener.as_ref().map(|listener| listener.address),
        format,
        precision,
        tokens,
        durability: durability.unwrap_or(Durability::Fsync),
        journal_limit_bytes: journal_limit,
        journal_keep_ms: journal_keep.unwrap_or(JOURNAL_KEEP_MS),
        // At most 64 MiB, so that it fits.
        max_line_bytes: max_line as usize,
        raw_events,
    };
    Stream { config, defaults, listener }
}

/// `format` and `precision`: what the lines are, and the unit of a point's timestamp.
fn read_format(section: &mut Section<'_>) -> (Format, TimeUnit) {
    let formats = [("ndjson", Format::Ndjson), ("influx", Format::Influx)];
    let format = section.take("format").map_or(Some(Format::Ndjson), |setting| setting.choice(&formats, &[]));
    let setting = section.take("precision");
    let precision = setting.as_ref().and_then(|setting| setting.choice(&TIME_UNITS, &[]));
    if let (Some(setting), Some(Format::Ndjson)) = (setting, format) {
        let message = format!("`{}` is the unit of an Influx point's timestamp: lines of JSON have none", setting.path);
        let mistake = Mistake::at(setting.key_span.clone(), message).expected("`format = \"influx\"` beside it");
        let help = "the unit of a field is part of `time`: `time = { field = \"ts\", unit = \"ms\" }`";
        section.context.note(mistake.help(help));
    }
    (format.unwrap_or_default(), precision.unwrap_or(TimeUnit::Nanos))
}

/// `raw_events = { retain = "30d" }`
fn read_raw_events(section: &mut Section<'_>, time: Option<(Field, Option<TimeUnit>)>) -> Option<RawEventsConfig> {
    let mut section = section.take("raw_events")?.section("{ retain = \"30d\" }")?;
    // Without it the table would grow without end.
    let retain = section.require("retain", "retain = \"30d\"").and_then(|retain| retain.duration(RAW_RETAIN_MIN_MS));
    section.finish();
    Some(RawEventsConfig { retain_ms: retain?, time })
}

fn read_journal_limit(section: &mut Section<'_>, max_line: u64) -> u64 {
    let Some(setting) = section.take("journal_limit") else { return JOURNAL_LIMIT_BYTES };
    let Some(limit) = setting.size(JOURNAL_LIMIT_MIN_BYTES..=1 << 50) else { return JOURNAL_LIMIT_BYTES };
    if limit < max_line {
        let message = format!("`{}` has no room for one line of `max_line`", setting.path);
        setting.wrong(message, format!("at least {}", format_size(max_line)));
    }
    limit
}

/// `token`, `token_file` and `open`: who may put events into the stream.
fn read_access(section: &mut Section<'_>, listener: Option<&Listener>) -> Tokens {
    let (tokens, given) = read_tokens(section, "token", "token_file");
    let open = section.take("open");
    let is_open = open.as_ref().and_then(Setting::flag) == Some(true);
    match (&open, &given) {
        (Some(open), Some(token)) if is_open => {
            open.wrong(
                format!("`{}` says that no token is wanted, `{}` gives one", open.path, token.path),
                "one of them",
            );
        }
        (_, None) if !is_open => check_reach(section, listener),
        _ => {}
    }
    tokens
}

/// A stream that other machines can reach says who may use it.
fn check_reach(section: &Section<'_>, listener: Option<&Listener>) {
    let Some(Listener { address, path, span: Some(span) }) = listener else { return };
    if !address.ip().is_loopback() {
        let message = format!("`{path}` is beyond loopback ({}), which needs a token", address.ip());
        let mistake = Mistake::at(span.clone(), message).expected("a loopback address, or a `token` beside it");
        let help =
            "add `token = \"${NAME}\"`, or `open = true` if anyone who reaches it may put events into this stream";
        section.context.note(mistake.help(help));
    }
}
