//! `stats`: how the daemon is, once.

use std::io::{self, Write};

use comfy_table::Cell;
use serde_json::Value;

use super::api::Daemon;
use super::error::CliError;
use super::table::{self, cell, escape};

/// Shows how the daemon is: streams, pipelines, actors, and what holds it up
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill stats
  tidemill stats --json | jq '.pipelines[] | {name, lag_ms}'")]
pub(super) struct Args {
    /// The daemon's answer as it is
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let stats = args.daemon.get("/api/v1/stats")?;
    let text = if args.json { table::json_text(&stats) + "\n" } else { shown(&stats) };
    io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::stdout)
}

/// How a value of the stats is written.
#[derive(Clone, Copy)]
enum As {
    Plain,
    Bytes,
    Millis,
    Percent,
}

/// A column: its title, where its value is, and how it is written.
type Column = (&'static str, &'static str, As);

const STREAMS: &[Column] = &[
    ("stream", "/name", As::Plain),
    ("lines", "/lines", As::Plain),
    ("rejected", "/rejected", As::Plain),
    ("lines/s", "/rate_per_s", As::Plain),
    ("bytes", "/bytes", As::Bytes),
    ("connections", "/connections", As::Plain),
    ("producers", "/producers", As::Plain),
    ("durable", "/journal/durable", As::Plain),
    ("journal", "/journal/bytes", As::Bytes),
    ("limit", "/journal/limit_bytes", As::Bytes),
    ("pinned by", "/journal/pinned_by", As::Plain),
    ("held", "/journal/held", As::Plain),
    ("held for", "/held_ms", As::Millis),
];

const PIPELINES: &[Column] = &[
    ("pipeline", "/name", As::Plain),
    ("state", "/state", As::Plain),
    ("read", "/account/read", As::Plain),
    ("filtered", "/account/filtered", As::Plain),
    ("aggregated", "/account/aggregated", As::Plain),
    ("late", "/account/late", As::Plain),
    ("dead", "/account/dead", As::Plain),
    ("skipped", "/account/skipped", As::Plain),
    ("lag", "/lag_positions", As::Plain),
    ("of bytes", "/lag_bytes", As::Bytes),
    ("behind", "/lag_ms", As::Millis),
    ("windows", "/open_windows", As::Plain),
    ("groups", "/groups", As::Plain),
    ("state size", "/state_bytes", As::Bytes),
    ("other", "/other_events", As::Plain),
    ("flush", "/last_flush/duration_ms", As::Millis),
];

const ACTORS: &[Column] = &[
    ("actor", "/kind", As::Plain),
    ("of", "/name", As::Plain),
    ("state", "/state", As::Plain),
    ("mailbox", "/mailbox/bytes", As::Bytes),
    ("of at most", "/mailbox/capacity_bytes", As::Bytes),
    ("messages", "/mailbox/messages", As::Plain),
    ("processed", "/processed", As::Plain),
    ("failed", "/failed", As::Plain),
    ("busy", "/busy", As::Percent),
    ("waited", "/waited_ms", As::Millis),
    ("restarts", "/restarts", As::Plain),
    ("last error", "/last_error", As::Plain),
];

fn shown(stats: &Value) -> String {
    let mut text = format!(
        "tidemill {}, up {}\n",
        plain(stats.pointer("/version")),
        written(stats.pointer("/uptime_ms"), As::Millis)
    );
    match stats.pointer("/bottleneck") {
        Some(bottleneck) if !bottleneck.is_null() => {
            let [actor, pipeline, reason] =
                ["/actor", "/pipeline", "/reason"].map(|path| plain(bottleneck.pointer(path)));
            text.push_str(&format!("bottleneck: {actor} of {pipeline}: {reason}\n"));
        }
        _ => text.push_str("bottleneck: none\n"),
    }
    for (list, columns) in [("streams", STREAMS), ("pipelines", PIPELINES), ("actors", ACTORS)] {
        let rows = stats[list].as_array().map(Vec::as_slice).unwrap_or_default();
        let titles: Vec<&str> = columns.iter().map(|(title, ..)| *title).collect();
        let cells = rows.iter().map(|row| columns.iter().map(|column| cell_of(row, column)).collect());
        text.push_str(&format!("\n{}\n", table::table(&titles, cells)));
    }
    for pipeline in stats["pipelines"].as_array().into_iter().flatten() {
        if let Some(error) = pipeline["error"].as_str() {
            text.push_str(&format!("\n{}: {}\n", plain(pipeline.get("name")), escape(error)));
        }
    }
    if let Some(error) = stats.pointer("/redis/error").and_then(Value::as_str) {
        text.push_str(&format!("\nredis: {}\n", escape(error)));
    }
    text
}

fn cell_of(row: &Value, (_, path, kind): &Column) -> Cell {
    match (row.pointer(path), kind) {
        (Some(value), As::Plain) if !value.is_null() && !value.is_array() => cell(value),
        (value, kind) => Cell::new_owned(written(value, *kind)),
    }
}

fn plain(value: Option<&Value>) -> String {
    written(value, As::Plain)
}

/// What an older or a newer daemon does not say is "-".
fn written(value: Option<&Value>, kind: As) -> String {
    match (value, value.and_then(Value::as_f64), kind) {
        (None | Some(Value::Null), ..) => "-".to_owned(),
        (_, Some(bytes), As::Bytes) => bytes_of(bytes),
        (_, Some(millis), As::Millis) => time_of(millis),
        (_, Some(share), As::Percent) => format!("{:.0} %", share * 100.0),
        (Some(Value::String(text)), ..) => escape(text),
        (Some(Value::Array(items)), ..) if items.is_empty() => "-".to_owned(),
        (Some(Value::Array(items)), ..) => items.iter().map(|item| plain(Some(item))).collect::<Vec<_>>().join(", "),
        (Some(other), ..) => escape(&other.to_string()),
    }
}

/// Rounded, for reading.
fn bytes_of(bytes: f64) -> String {
    let mut rest = bytes;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if rest < 1024.0 {
            let digits = usize::from(unit != "B" && rest < 10.0);
            return format!("{rest:.digits$} {unit}");
        }
        rest /= 1024.0;
    }
    format!("{rest:.1} TiB")
}

/// Rounded, for reading.
fn time_of(millis: f64) -> String {
    let seconds = millis / 1000.0;
    match seconds {
        s if s < 1.0 => format!("{millis:.0} ms"),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn everything_is_named_and_what_is_missing_is_a_dash() {
        let stats = json!({
            "version": "0.1.0", "uptime_ms": 90_000,
            "bottleneck": {"actor": "stage", "pipeline": "views", "reason": "its mailbox is full"},
            "actors": [{"kind": "window", "name": "views", "busy": 0.934, "mailbox": {"bytes": 1_572_864}}],
            "streams": [{"name": "web", "lines": 12_345, "journal": {"durable": 12_344}, "held_ms": 250}],
            "pipelines": [{"name": "views", "account": {"read": 17}, "error": "no\x1bway", "lag_ms": null}],
            "redis": {"connected": false, "error": "it is away"},
        });
        let text = shown(&stats);
        for part in [
            "tidemill 0.1.0, up 90.0 s",
            "bottleneck: stage of views: its mailbox is full",
            "93 %",
            "1.5 MiB",
            "12345",
            "12344",
            "250 ms",
            "17",
            r"views: no\u{1b}way",
            "redis: it is away",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert!(!text.contains('\x1b') && !text.contains("null"), "{text}");
        let empty = shown(&json!({}));
        assert!(empty.starts_with("tidemill -, up -\nbottleneck: none\n"), "{empty}");
        assert!(["stream", "pipeline", "actor"].iter().all(|title| empty.contains(title)), "{empty}");
    }

    #[test]
    fn amounts_are_rounded() {
        assert_eq!(
            [0.0, 1023.0, 1024.0, 10_240.0, 5e9, 5e12].map(bytes_of).join(" "),
            "0 B 1023 B 1.0 KiB 10 KiB 4.7 GiB 4.5 TiB"
        );
        let times = [0.0, 999.0, 1_000.0, 119_000.0, 120_000.0, 7_200_000.0, 1e9].map(time_of).join(", ");
        assert_eq!(times, "0 ms, 999 ms, 1.0 s, 119.0 s, 2 min, 2.0 h, 11.6 d");
    }
}
