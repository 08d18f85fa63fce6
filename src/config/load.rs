//! From a file to a config, or to all its mistakes.

use std::cell::RefCell;
use std::path::Path;

use toml::de::DeTable;

use super::Config;
use super::address::check_clashes;
use super::cases::read_tests;
use super::mask::mask;
use super::pipeline::read_pipelines;
use super::reader::{Context, Section};
use super::redis::read_redis;
use super::report::{Mistake, Report};
use super::settings::{read_data, read_dead_letters, read_http, read_shutdown_timeout, read_store};
use super::streams::read_streams;

/// Reads a config file, with the process's environment; relative paths begin at its folder.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Report> {
    let name = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| {
        let help = "give the path of a TOML file that this user can read";
        Report::unreadable(&name, format!("cannot read the config: {error}"), help)
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count();
        let message = format!("line {line} of the config is not UTF-8");
        Report::unreadable(&name, message, "save the file as UTF-8")
    })?;
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&text, &name, base, &|variable| std::env::var(variable).ok())
}

/// Reads a config from its text. `name` is what mistakes call it, `base` is where relative paths begin, `env` gives
/// environment variables.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(text: &str, name: &str, base: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Report> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let syntax = syntax_mistakes(&errors);
    let context = Context { text, base, env, mistakes: RefCell::default() };
    let config = read_config(Section::root(&context, table.get_ref()));
    let meaning = context.mistakes.into_inner();
    if syntax.is_empty() && meaning.is_empty() {
        return Ok(config);
    }
    Err(Report::new(name, mask(text, table.get_ref()), syntax, meaning))
}

/// Mistakes of TOML itself.
fn syntax_mistakes(errors: &[toml::de::Error]) -> Vec<Mistake> {
    let is_unclosed =
        |error: &toml::de::Error| matches!(description(error), "unclosed array" | "unclosed inline table");
    let first_in_brackets = errors.iter().position(is_in_brackets);
    // Behind a bracket that nobody closed, all lines to the end are wrong: only the first says something.
    let said = match first_in_brackets {
        Some(first) if errors.iter().any(is_unclosed) => &errors[..=first],
        _ => errors,
    };
    let mistake = |error: &toml::de::Error| {
        let help = is_in_brackets(error).then(|| "is a `]`, a `}` or a comma missing before it?".to_owned());
        let message = format!("this is no TOML: {}", error.message());
        Mistake::at(error.span().unwrap_or(0..0), message).help_if(help)
    };
    said.iter().map(mistake).collect()
}

/// What went wrong, without what was expected.
fn description(error: &toml::de::Error) -> &str {
    error.message().split(',').next().unwrap_or_default()
}

/// Whether the parser was in a list or an inline table.
fn is_in_brackets(error: &toml::de::Error) -> bool {
    let words = ["array elements", "in array", "inline table", "key-value pairs"];
    let description = description(error);
    description == "unclosed array" || words.iter().any(|words| description.contains(words))
}

/// All of the file; with mistakes, the result has gaps and is not used.
fn read_config(mut root: Section<'_>) -> Config {
    let (data_dir, min_free_bytes) = read_data(&mut root);
    let shutdown_timeout_ms = read_shutdown_timeout(&mut root);
    let store = read_store(&mut root, &data_dir);
    let (http, http_listener) = read_http(&mut root);
    let (redis, has_redis) = read_redis(&mut root);
    let dead_letters = read_dead_letters(&mut root);
    let mut streams = read_streams(&mut root);
    let pipelines = read_pipelines(&mut root, &streams, has_redis);
    let tests = read_tests(&mut root, &streams, &pipelines);
    let listeners: Vec<_> =
        std::iter::once(http_listener).chain(streams.iter_mut().filter_map(|stream| stream.listener.take())).collect();
    check_clashes(root.context, &listeners);
    root.finish();
    let streams = streams.into_iter().map(|stream| stream.config).collect();
    Config {
        data_dir,
        min_free_bytes,
        shutdown_timeout_ms,
        store,
        http,
        redis,
        dead_letters,
        streams,
        pipelines,
        tests,
    }
}
