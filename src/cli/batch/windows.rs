//! A config without a clock: time is the events' alone, and at the end every window closes.

use crate::config::{Config, PipelineConfig, StageConfig};
use crate::window::{CalendarUnit, WindowSpec};

const HOUR_MS: i64 = 3_600_000;
const DAY_MS: i64 = 24 * HOUR_MS;

/// Silence that closes the last windows of all pipelines of a stream.
pub(super) struct Closing {
    pub(super) stream: String,
    pub(super) silence_ms: i64,
}

/// Takes the streams that have files, and their pipelines; the ingest time of all lines is behind every event, so that
/// only `idle` is left to be taken out.
///
/// # Errors
/// Each pipeline that cannot do without a clock, or without the program that embeds it.
pub(super) fn without_clock(
    mut config: Config,
    has_files: impl Fn(&str) -> bool,
) -> Result<(Config, Vec<Closing>), Vec<String>> {
    config.streams.retain(|stream| has_files(&stream.name));
    config.pipelines.retain(|pipeline| has_files(&pipeline.stream));
    let mistakes: Vec<String> = config.pipelines.iter().flat_map(mistakes).collect();
    if !mistakes.is_empty() {
        return Err(mistakes);
    }
    for stream in &mut config.streams {
        // The files have them.
        stream.raw_events = None;
    }
    let mut closings = Vec::new();
    for stream in &config.streams {
        let own = || config.pipelines.iter().filter(|pipeline| pipeline.stream == stream.name);
        let silence_ms = own().map(closes_after).max().unwrap_or_default();
        closings.push(Closing { stream: stream.name.clone(), silence_ms });
    }
    for pipeline in &mut config.pipelines {
        if let Some(time) = &mut pipeline.time {
            time.missing_is_ingest = false;
        }
        // Each watermark goes on by what its own windows need and no further, or it would prune what is to be kept.
        let silence = closings.iter().find(|closing| closing.stream == pipeline.stream);
        pipeline.watermark.idle_ms = silence.map_or(0, |closing| closing.silence_ms) - closes_after(pipeline);
    }
    Ok((config, closings))
}

fn mistakes(pipeline: &PipelineConfig) -> Vec<String> {
    let name = &pipeline.name;
    let mut mistakes = Vec::new();
    if pipeline.time.is_none() {
        mistakes.push(format!(
            "pipeline {name} has no `time`: in a file, when a line comes in says nothing; add `time = \"…\"`, the field \
             that holds an event's time"
        ));
    }
    for stage in &pipeline.stages {
        if let StageConfig::Custom(stage) = stage {
            mistakes.push(format!(
                "pipeline {name} has the stage custom = \"{stage}\", which only the program that registers it can run"
            ));
        }
    }
    mistakes
}

/// So long behind its last event a pipeline's last window has closed.
fn closes_after(pipeline: &PipelineConfig) -> i64 {
    let longest = match pipeline.window {
        WindowSpec::Tumbling { size_ms } | WindowSpec::Sliding { size_ms, .. } => size_ms,
        WindowSpec::Session { gap_ms } => gap_ms,
        // Some have hours more, where clocks change.
        WindowSpec::Calendar(calendar) => match calendar.unit {
            CalendarUnit::Hour => DAY_MS,
            CalendarUnit::Day => 2 * DAY_MS,
            CalendarUnit::Week => 8 * DAY_MS,
            CalendarUnit::Month => 32 * DAY_MS,
        },
    };
    pipeline.watermark.delay_ms.saturating_add(longest)
}
