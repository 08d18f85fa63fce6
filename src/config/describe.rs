//! What `validate` prints: every setting, with every default that applies.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use super::pipeline::{late_name, missing_time, unit_name};
use super::windows::window_definition;
use super::{AtLimit, Config, Durability, PipelineConfig, Start, StoreUrl, StreamConfig, Tokens};
use crate::event::{Field, Format, TimeUnit};
use crate::limits::{CONNECTION_BUFFERS_BYTES_MAX, HTTP_BODIES_BYTES_MAX, LIVE_BYTES_MAX};
use crate::units::{format_duration, format_size};

/// So many times its `state_limit` a pipeline's windows may take: groups that are in may grow to twice of it, blocks of
/// sliding windows take a third of that besides, and a flush takes what has changed once more.
const STATE_TIMES: u64 = 4;

/// The config as TOML, with every default that applies, secrets masked; and the sum of its memory limits, of which
/// `mailbox_bytes` are the mailboxes'.
pub fn describe(config: &Config, mailbox_bytes: u64) -> String {
    let mut out = Writer(String::new());
    out.line("data_dir", quoted(&config.data_dir.to_string_lossy()));
    out.size("min_free", config.min_free_bytes);
    out.duration("shutdown_timeout", config.shutdown_timeout_ms);
    out.head("[store]");
    out.line("url", quoted(&config.store.url.to_string()));
    if let StoreUrl::Postgres(postgres) = &config.store.url {
        out.line("schema", quoted(&postgres.schema));
    }
    out.duration("flush_every", config.store.flush_every_ms);
    out.line("migrate", config.store.migrate.to_string());
    out.head("[http]");
    out.line("listen", address(config.http.listen));
    out.tokens("token", &config.http.tokens);
    out.tokens("read_token", &config.http.read_tokens);
    let hosts: Vec<_> = config.http.hosts.iter().map(|host| quoted(host)).collect();
    out.line("hosts", format!("[{}]", hosts.join(", ")));
    if let Some(redis) = &config.redis {
        out.head("[redis]");
        out.line("url", quoted(&redis.shown));
    }
    out.head("[dead_letters]");
    out.size("limit", config.dead_letters.letters.bytes);
    out.duration("retain", config.dead_letters.retain_ms);
    let beyond = match config.dead_letters.letters.beyond {
        AtLimit::Discard => "discard",
        AtLimit::Pause => "pause",
    };
    out.line("at_limit", quoted(beyond));
    for stream in &config.streams {
        describe_stream(&mut out, stream);
    }
    for pipeline in &config.pipelines {
        describe_pipeline(&mut out, pipeline);
    }
    let live = config.pipelines.iter().filter(|pipeline| pipeline.redis_ttl_ms.is_some()).count() as u64;
    let state_bytes = config.pipelines.iter().map(|pipeline| STATE_TIMES * pipeline.state_limit_bytes).sum();
    describe_memory(&mut out, config.streams.len() as u64, live, (mailbox_bytes, state_bytes));
    out.0
}

/// Lines of TOML.
struct Writer(String);

impl Writer {
    fn head(&mut self, head: &str) {
        self.0.push('\n');
        self.0.push_str(head);
        self.0.push('\n');
    }

    fn line(&mut self, key: &str, value: impl AsRef<str>) {
        self.0.push_str(key);
        self.0.push_str(" = ");
        self.0.push_str(value.as_ref());
        self.0.push('\n');
    }

    fn duration(&mut self, key: &str, ms: i64) {
        self.line(key, quoted(&format_duration(ms)));
    }

    /// Whether there are tokens, and how many: no more is known of them here.
    fn tokens(&mut self, key: &str, tokens: &Tokens) {
        match tokens.len() {
            0 => {}
            1 => self.line(key, quoted("***")),
            count => self.line(key, format!("[{}]", vec![quoted("***"); count].join(", "))),
        }
    }

    fn size(&mut self, key: &str, bytes: u64) {
        self.line(key, quoted(&format_size(bytes)));
    }
}

fn describe_stream(out: &mut Writer, stream: &StreamConfig) {
    out.head(&format!("[streams.{}]", stream.name));
    if let Some(tcp) = stream.tcp {
        out.line("tcp", address(tcp));
    }
    match stream.format {
        Format::Ndjson => out.line("format", quoted("ndjson")),
        Format::Influx => {
            out.line("format", quoted("influx"));
            out.line("precision", quoted(unit_name(stream.precision)));
        }
    }
    out.tokens("token", &stream.tokens);
    if stream.tokens.is_empty() {
        // Without a token, only a stream that says so is beyond loopback.
        let open = stream.tcp.is_some_and(|tcp| !tcp.ip().is_loopback());
        out.line("open", open.to_string());
    }
    let durability = match stream.durability {
        Durability::Fsync => "fsync",
        Durability::Os => "os",
    };
    out.line("durability", quoted(durability));
    out.size("journal_limit", stream.journal_limit_bytes);
    out.duration("journal_keep", stream.journal_keep_ms);
    out.size("max_line", stream.max_line_bytes as u64);
    if let Some(raw) = &stream.raw_events {
        out.line("raw_events", format!("{{ retain = {} }}", quoted(&format_duration(raw.retain_ms))));
        if let Some((field, unit)) = raw.time.as_ref().filter(|(field, _)| *field != Field::timestamp()) {
            out.line("time", time(field, *unit));
        }
    }
}

fn describe_pipeline(out: &mut Writer, pipeline: &PipelineConfig) {
    out.head(&format!("[pipelines.{}]", pipeline.name));
    out.line("stream", quoted(&pipeline.stream));
    match &pipeline.time {
        None => out.0.push_str("# no time: event time is the ingest time\n"),
        Some(config) if config.of_point => {
            out.0.push_str("# no time: event time is the point's own timestamp, else the ingest time\n");
        }
        Some(config) => {
            out.line("time", time(&config.field, config.unit));
            out.line("missing_time", quoted(missing_time(config)));
        }
    }
    let groups: Vec<_> = pipeline.group_by.iter().map(|group| quoted(&group.name)).collect();
    out.line("group_by", format!("[{}]", groups.join(", ")));
    out.line("window", inline(&window_definition(pipeline.window)));
    out.duration("delay", pipeline.watermark.delay_ms);
    out.duration("idle", pipeline.watermark.idle_ms);
    out.line("late", quoted(late_name(pipeline.late)));
    out.duration("correct_for", pipeline.correct_for_ms);
    out.duration("max_ahead", pipeline.watermark.max_ahead_ms);
    if let Some(retain_ms) = pipeline.retain_ms {
        out.duration("retain", retain_ms);
    }
    let start = match pipeline.start {
        Start::Earliest => "earliest",
        Start::Now => "now",
    };
    out.line("start", quoted(start));
    if let Some(bytes) = pipeline.max_behind_bytes {
        out.size("max_behind", bytes);
    }
    out.line("max_groups", pipeline.max_groups.to_string());
    out.size("state_limit", pipeline.state_limit_bytes);
    if let Some(ttl) = pipeline.redis_ttl_ms {
        out.line("redis", format!("{{ ttl = {} }}", quoted(&format_duration(ttl))));
    }
    for stage in list(&pipeline.definition["stages"]) {
        out.head(&format!("[[pipelines.{}.stages]]", pipeline.name));
        for (key, value) in stage.as_object().into_iter().flatten() {
            out.line(key, inline(value));
        }
    }
    out.head(&format!("[pipelines.{}.aggregates]", pipeline.name));
    for aggregate in list(&pipeline.definition["aggregates"]) {
        out.line(aggregate["name"].as_str().unwrap_or_default(), inline(&aggregate["expression"]));
    }
    if !pipeline.alerts.is_empty() {
        out.head(&format!("[pipelines.{}.alerts]", pipeline.name));
    }
    for alert in &pipeline.alerts {
        let webhook = alert.webhook.as_ref().map(|webhook| format!(", webhook = {}", quoted(&webhook.shown)));
        let (when, for_) = (quoted(&alert.text), quoted(&format_duration(alert.for_ms)));
        out.line(&alert.name, format!("{{ when = {when}, for = {for_}{} }}", webhook.unwrap_or_default()));
    }
}

fn describe_memory(out: &mut Writer, streams: u64, live: u64, (mailbox_bytes, state_bytes): (u64, u64)) {
    let buffers = CONNECTION_BUFFERS_BYTES_MAX as u64;
    let bodies = HTTP_BODIES_BYTES_MAX as u64;
    // Those that wait, and those of a flush that is not committed yet.
    let rows = 2 * LIVE_BYTES_MAX as u64;
    let sum = mailbox_bytes + streams * buffers + bodies + live * rows + state_bytes;
    let live = match live {
        0 => String::new(),
        live => format!(" + live rows {} times {live} (pipelines with `redis`)", format_size(rows)),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(
        out.0,
        "\n# memory limits: mailboxes {} + connection buffers {} times {streams} (streams) + HTTP bodies {}{live} + open \
         windows {} ({STATE_TIMES} times each `state_limit`) = {}",
        format_size(mailbox_bytes),
        format_size(buffers),
        format_size(bodies),
        format_size(state_bytes),
        format_size(sum),
    );
}

fn time(field: &Field, unit: Option<TimeUnit>) -> String {
    let field = quoted(&field.to_string());
    match unit {
        None => field,
        Some(unit) => format!("{{ field = {field}, unit = \"{}\" }}", unit_name(unit)),
    }
}

fn address(address: SocketAddr) -> String {
    quoted(&address.to_string())
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A value of a definition as TOML: a string, or a list or table of such.
fn inline(value: &Value) -> String {
    match value {
        Value::Object(entries) => {
            let entries: Vec<_> =
                entries.iter().map(|(key, value)| format!("{} = {}", bare(key), inline(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(elements) => format!("[{}]", elements.iter().map(inline).collect::<Vec<_>>().join(", ")),
        other => quoted(other.as_str().unwrap_or_default()),
    }
}

/// A key, in quotes where TOML wants them.
fn bare(key: &str) -> String {
    let is_bare =
        !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_bare { key.to_owned() } else { quoted(key) }
}

/// A string of TOML.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}
