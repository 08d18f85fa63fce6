//! The log of the program, on stderr: text, or one JSON object a line.

use std::io::Write;

use env_logger::{Builder, Env};
use serde_json::json;

/// How log lines look.
#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Installs the logger.
pub(super) fn start(format: LogFormat) {
    let mut builder = Builder::from_env(Env::default().default_filter_or("info,actix_server=warn"));
    if matches!(format, LogFormat::Json) {
        builder.format(|out, record| {
            let line = json!({
                "time": out.timestamp_millis().to_string(),
                "level": record.level().as_str(),
                "target": record.target(),
                "message": record.args().to_string(),
            });
            writeln!(out, "{line}")
        });
    }
    // An embedding test may have one already, and it is as good as this one.
    let _ = builder.try_init();
}
