//! Files that are given to a verb, and which of them is of which stream.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::CliError;
use super::lines::{InputError, Lines};
use crate::config::Config;

/// A file, or stdin, and the stream that its lines are of.
pub(super) struct Input {
    pub(super) stream: String,
    /// As it was given.
    pub(super) name: String,
    /// As far as it is known beforehand.
    pub(super) bytes: u64,
}

impl Input {
    /// Its lines. A line that begins with `@` is an event, or a letter: nobody speaks the protocol here.
    pub(super) fn open(&self, read: Arc<AtomicU64>) -> Result<Lines, InputError> {
        let lines = if self.name == "-" { Ok(Lines::stdin()) } else { Lines::open(Path::new(&self.name), read) };
        lines.map(Lines::with_control_lines)
    }
}

/// All that an option was given, in this order; each can be read.
pub(super) fn inputs(option: &str, given: &[String], config: &Config) -> Result<Vec<Input>, CliError> {
    let mut inputs = Vec::with_capacity(given.len());
    for given in given {
        let (stream, name) = assign(option, given, config)?;
        let mut input = Input { stream, name, bytes: 0 };
        if input.name != "-" {
            let path = PathBuf::from(&input.name);
            let failed = |error| CliError::Io { what: format!("cannot read {}", path.display()), error };
            let metadata = std::fs::metadata(&path).map_err(failed)?;
            if metadata.is_dir() {
                return Err(CliError::Usage(format!("{} is a folder: {option} takes files", path.display())));
            }
            input.bytes = metadata.len();
            // A pipe can be opened once: it is told later where that fails.
            if metadata.is_file() {
                input.open(Arc::default())?;
            }
        }
        inputs.push(input);
    }
    if inputs.iter().filter(|input| input.name == "-").count() > 1 {
        return Err(CliError::Usage(format!("{option} takes stdin (`-`) once")));
    }
    Ok(inputs)
}

fn assign(option: &str, given: &str, config: &Config) -> Result<(String, String), CliError> {
    let names: Vec<&str> = config.streams.iter().map(|stream| stream.name.as_str()).collect();
    if let Some((stream, name)) = given.split_once('=')
        && names.contains(&stream)
    {
        return Ok((stream.to_owned(), name.to_owned()));
    }
    match names[..] {
        [only] => Ok((only.to_owned(), given.to_owned())),
        _ => Err(CliError::Usage(format!(
            "{option} {}: of which stream is it? Say STREAM={} with one of: {}",
            super::table::escape(given),
            super::table::escape(given.split_once('=').map_or(given, |(_, name)| name)),
            names.join(", ")
        ))),
    }
}
