//! Whole files in, configs or diagnostics out.

mod alerts;
mod good;
mod mistakes;
mod shown;

use std::path::Path;

use super::{Config, PipelineConfig, Report, parse};

/// The environment of these tests.
fn env(name: &str) -> Option<String> {
    match name {
        "TOKEN" => Some("0123456789abcdef".to_owned()),
        "PORT" => Some("7611".to_owned()),
        "MIN_STATUS" => Some("500".to_owned()),
        _ => None,
    }
}

fn read(text: &str) -> Result<Config, Report> {
    parse(text, "mill.toml", Path::new("/etc/mill"), &env)
}

/// A file that must be right.
fn good(text: &str) -> Config {
    read(text).unwrap_or_else(|report| panic!("{report}"))
}

const SMALLEST: &str = r#"
[streams.web]
tcp = "127.0.0.1:7600"

[pipelines.page_views]
stream = "web"
time = "ts"
group_by = ["path"]
window = { tumbling = "5m" }
aggregates = { views = "count(*)" }
"#;

/// A pipeline with these lines beside what every pipeline needs.
fn with(lines: &str) -> String {
    format!("[streams.web]\n[pipelines.p]\nstream = \"web\"\nwindow = {{ tumbling = \"5m\" }}\n{lines}\n")
}

/// A pipeline of these stages, grouped by `path`.
fn staged(stages: &str) -> PipelineConfig {
    let text = with(&format!("group_by = [\"path\"]\naggregates = {{ n = \"count(*)\" }}\nstages = [{stages}]"));
    good(&text).pipelines.remove(0)
}

/// A pipeline of these aggregates.
fn aggregated(aggregates: &str) -> PipelineConfig {
    good(&with(&format!("[pipelines.p.aggregates]\n{aggregates}"))).pipelines.remove(0)
}

/// Each mistake as `line:column message | expected | help`.
fn mistakes(text: &str) -> Vec<String> {
    let report = match read(text) {
        Ok(_) => return Vec::new(),
        Err(report) => report,
    };
    let part = |part: &Option<String>| part.as_ref().map(|part| format!(" | {part}")).unwrap_or_default();
    report
        .diagnostics()
        .iter()
        .map(|d| format!("{}:{} {}{}{}", d.line, d.column, d.message, part(&d.expected), part(&d.help)))
        .collect()
}
