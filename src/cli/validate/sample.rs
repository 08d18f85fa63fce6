//! A config held against events: which fields they do not have.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::error::CliError;
use super::super::files::{Input, inputs};
use super::super::table::escape;
use crate::config::{Config, PipelineConfig, StageConfig, StreamConfig, Unseen, unseen};
use crate::event::{Decoded, Decoder, Fields, Format};
use crate::pipeline::Probe;

/// Events whose names are taken down, as what may have been meant.
const NAMED_EVENTS: u64 = 10_000;
/// Names that are taken down.
const NAMES_MAX: usize = 10_000;
/// So deep names within names are taken down.
const DEPTH: usize = 4;

/// Reads the files, says what was seen.
pub(super) fn run(path: &Path, config: &Config, given: &[String]) -> Result<(), CliError> {
    let inputs = inputs("--sample", given, config)?;
    let mut text = String::new();
    let mut seen = Vec::new();
    for stream in &config.streams {
        let files: Vec<&Input> = inputs.iter().filter(|input| input.stream == stream.name).collect();
        if files.is_empty() {
            let _ = writeln!(text, "stream {}: no file, its pipelines are not checked", stream.name);
            continue;
        }
        let mut sample = Sample::new(stream, config);
        for file in files {
            sample.read(file)?;
        }
        text.push_str(&sample.text());
        seen.push(sample);
    }
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::stdout)?;
    if let Some(empty) = seen.iter().find(|sample| sample.events == 0) {
        return Err(CliError::Config(format!("there is no event for stream {}", empty.stream.name)));
    }
    let names: Vec<Vec<String>> = seen.iter().map(|sample| sample.names.iter().cloned().collect()).collect();
    let missing: Vec<Unseen<'_>> = seen.iter().zip(&names).flat_map(|(sample, names)| sample.missing(names)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let failed = |error| CliError::Io { what: format!("cannot read {}", path.display()), error };
    Err(CliError::config(&unseen(path, &missing).map_err(failed)?))
}

/// What a stream's files show.
struct Sample<'c> {
    stream: &'c StreamConfig,
    decoder: Decoder,
    pipelines: Vec<(&'c PipelineConfig, Probe)>,
    events: u64,
    rejected: u64,
    /// File and reason of the first line that is no event.
    first_rejected: Option<String>,
    names: BTreeSet<String>,
}

impl<'c> Sample<'c> {
    fn new(stream: &'c StreamConfig, config: &'c Config) -> Self {
        let own = || config.pipelines.iter().filter(|pipeline| pipeline.stream == stream.name);
        let fields = Arc::new(Fields::new(own().flat_map(PipelineConfig::fields)));
        Self {
            stream,
            pipelines: own().map(|pipeline| (pipeline, Probe::new(pipeline, &fields))).collect(),
            decoder: Decoder::of(stream.format, fields),
            events: 0,
            rejected: 0,
            first_rejected: None,
            names: BTreeSet::new(),
        }
    }

    fn read(&mut self, file: &Input) -> Result<(), CliError> {
        let mut lines = file.open(Arc::default())?;
        while let Some(chunk) = lines.next_chunk()? {
            let decoded = self.decoder.decode_within(Arc::new(chunk.bytes), self.stream.max_line_bytes);
            self.take_names(&decoded);
            if let (None, Some((row, error))) = (&self.first_rejected, decoded.bad.first()) {
                let line = self.events + self.rejected + u64::from(*row) + 1;
                self.first_rejected = Some(format!("{} (line {line} of those that count): {error}", file.name));
            }
            self.rejected += decoded.bad.len() as u64;
            self.events += (decoded.len() - decoded.bad.len()) as u64;
            for (_, probe) in &mut self.pipelines {
                probe.look(&decoded);
            }
        }
        Ok(())
    }

    /// Which names the first events have.
    fn take_names(&mut self, decoded: &Decoded) {
        let left = NAMED_EVENTS.saturating_sub(self.events + self.rejected);
        for row in 0..decoded.len().min(usize::try_from(left).unwrap_or(usize::MAX)) {
            let line = decoded.line(row);
            match self.stream.format {
                Format::Ndjson => {
                    if let Ok(event) = serde_json::from_slice(line) {
                        names_within(&event, "", DEPTH, &mut self.names);
                    }
                }
                Format::Influx => self.names.extend(names_of_point(&String::from_utf8_lossy(line))),
            }
            if self.names.len() >= NAMES_MAX {
                return;
            }
        }
    }

    fn text(&self) -> String {
        let (name, events, rejected) = (&self.stream.name, self.events, self.rejected);
        let mut text = format!("stream {name}: {events} events, {rejected} lines that are none\n");
        if let Some(first) = &self.first_rejected {
            let _ = writeln!(text, "  the first of them: {}", escape(first));
        }
        for (pipeline, probe) in &self.pipelines {
            let missing: Vec<String> = probe.unseen().map(ToString::to_string).collect();
            let seen = match &missing[..] {
                [] => "each field is in some event".to_owned(),
                missing if has_custom(pipeline) => {
                    format!("in no event, unless a custom stage sets it: {}", missing.join(", "))
                }
                missing => format!("in no event: {}", missing.join(", ")),
            };
            let _ = write!(text, "pipeline {}: {}", pipeline.name, escape(&seen));
            let _ = writeln!(text, "; {} events without a usable time", probe.without_time());
        }
        text
    }

    /// Fields that nothing can set.
    fn missing<'s>(&'s self, names: &'s [String]) -> impl Iterator<Item = Unseen<'s>> {
        let certain = self.pipelines.iter().filter(|(pipeline, _)| !has_custom(pipeline));
        certain.flat_map(move |(pipeline, probe)| {
            probe.unseen().map(move |field| Unseen {
                pipeline: &pipeline.name,
                field,
                message: format!(
                    "pipeline `{}`: none of {} events has the field `{field}`",
                    pipeline.name, self.events
                ),
                names,
            })
        })
    }
}

fn has_custom(pipeline: &PipelineConfig) -> bool {
    pipeline.stages.iter().any(|stage| matches!(stage, StageConfig::Custom(_)))
}

/// `user`, `user.country`: as a config names them.
fn names_within(event: &Map<String, Value>, path: &str, depth: usize, names: &mut BTreeSet<String>) {
    for (name, value) in event {
        if names.len() >= NAMES_MAX {
            return;
        }
        let name = format!("{path}{name}");
        if let (Value::Object(within), Some(depth @ 1..)) = (value, depth.checked_sub(1)) {
            names_within(within, &format!("{name}."), depth, names);
        }
        // What is null is in no event.
        if !value.is_null() {
            names.insert(name);
        }
    }
}

/// Names of a point's tags and fields, as far as they are plain.
fn names_of_point(line: &str) -> Vec<String> {
    let plain = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let keys = line.split([',', ' ']).filter_map(|part| part.split_once('=')).map(|(name, _)| name);
    keys.filter(|name| plain(name)).chain(["measurement"]).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_events() {
        let mut names = BTreeSet::new();
        let event = serde_json::from_str(r#"{"a":1,"user":{"id":2,"none":null},"b":null}"#).unwrap();
        names_within(&event, "", DEPTH, &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "user", "user.id"]);
        let point = names_of_point("weather,city=us temp=82,hum=71i 1465839830100400200");
        assert_eq!(point, ["city", "temp", "hum", "measurement"]);
    }
}
