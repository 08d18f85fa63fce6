//! `tap`: events as they pass.

use std::fmt::Write as _;
use std::io::{self, BufRead, Write};

use serde_json::{Map, Value};
use tokio::signal::unix::{SignalKind, signal};

use super::api::Daemon;
use super::error::CliError;
use super::table::{escape, json_text};
use crate::config::nearest;

/// Shows sampled events of a stream or a pipeline as they pass, and what each stage makes of them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill tap page_views                            where do my events go?
  tidemill tap @web                                  lines as the stream takes them, and why some are rejected
  tidemill tap page_views --limit 1000 --rate 100 --json | jq -r .outcome | sort | uniq -c

NAME is a pipeline or a stream; where both have this name, it is the pipeline, and @NAME the stream.

Of each batch that passes so many events are shown as the rate allows, evenly over the batch. Nothing waits for a tap: what
is not read in time is dropped, and said to be. Whether an event is late is said by the watermark before it. Results are
not touched. With --json, lines {\"tap\": …} between the events say how many passed, were shown and dropped.

Exit code: 0 at the limit and at Ctrl-C, 69 where the daemon does not answer or ends the tap, or has no such name.")]
pub(super) struct Args {
    /// A pipeline or a stream
    name: String,
    /// Events a second at most
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rate: u32,
    /// Ends after so many events
    #[arg(long)]
    limit: Option<u64>,
    /// Each event as one line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// Watches and prints.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let path = path(&args.daemon.get("/api/v1/stats")?, &args.name)?;
    end_at_interrupt()?;
    let lines = args.daemon.lines(&format!("{path}?rate={}", args.rate))?;
    show(lines, args, &mut io::stdout().lock(), &mut io::stderr().lock())
}

/// Where events of this name are to be had.
fn path(stats: &Value, name: &str) -> Result<String, CliError> {
    let names = |of: &str| -> Vec<&str> {
        let all = stats[of].as_array().into_iter().flatten();
        all.filter_map(|one| one["name"].as_str()).filter(|name| !name.starts_with('@')).collect()
    };
    let (pipelines, streams) = (names("pipelines"), names("streams"));
    if pipelines.contains(&name) {
        return Ok(format!("/api/v1/pipelines/{name}/tap"));
    }
    let stream = name.strip_prefix('@').unwrap_or(name);
    if streams.contains(&stream) {
        return Ok(format!("/api/v1/streams/{stream}/tap"));
    }
    let help = match nearest(stream, pipelines.iter().chain(&streams).copied()) {
        Some(nearest) => format!("did you mean `{}`?", escape(nearest)),
        None => {
            let list = |names: Vec<&str>| escape(&names.join(", "));
            format!("there are the pipelines {} and the streams {}", list(pipelines), list(streams))
        }
    };
    Err(CliError::Unavailable(format!("there is no pipeline or stream `{}`: {help}", escape(name))))
}

/// What was printed was printed whole: there is nothing to bring to an end.
fn end_at_interrupt() -> Result<(), CliError> {
    let failed = |error| CliError::Io { what: "cannot wait for signals".to_owned(), error };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let interrupt = {
        let _runtime = runtime.enter();
        signal(SignalKind::interrupt())
    };
    let mut interrupt = interrupt.map_err(failed)?;
    std::thread::spawn(move || {
        if runtime.block_on(interrupt.recv()).is_some() {
            std::process::exit(0);
        }
    });
    Ok(())
}

/// Prints events until there are enough, or no more; how the watch stands goes to `aside` where it is news.
fn show(lines: impl BufRead, args: &Args, out: &mut impl Write, aside: &mut impl Write) -> Result<(), CliError> {
    let mut standing = Standing::default();
    let mut events = 0;
    for line in lines.lines() {
        // The daemon is gone.
        let Ok(line) = line else { break };
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            return Err(CliError::Bug("the daemon has sent a line that is no JSON".to_owned()));
        };
        let is_word = value.get("tap").is_some();
        let text = match (args.json, is_word) {
            (true, _) => json_text(&value) + "\n",
            (false, true) => String::new(),
            (false, false) => block(&value),
        };
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::stdout)?;
        if is_word {
            if let Some(why) = value["tap"]["ended"].as_str() {
                return Err(CliError::Unavailable(escape(why)));
            }
            if let Some(news) = standing.news(&value["tap"]).filter(|_| !args.json) {
                // Nobody may be there to be told.
                let _ = writeln!(aside, "{news}");
            }
            continue;
        }
        events += 1;
        if args.limit.is_some_and(|limit| events >= limit) {
            return Ok(());
        }
    }
    Err(CliError::Unavailable("the daemon has ended the tap: does it still run? `tidemill stats` tells".to_owned()))
}

/// What was last said of the watch.
#[derive(Default)]
struct Standing {
    state: String,
    dropped: u64,
}

impl Standing {
    /// What is new: a pipeline that does not run, events that were dropped.
    fn news(&mut self, word: &Value) -> Option<String> {
        let state = escape(word["state"].as_str().unwrap_or_default());
        let dropped = word["dropped"].as_u64().unwrap_or_default();
        let mut news = Vec::new();
        if state != self.state && (state != "running" || !self.state.is_empty()) {
            news.push(format!("it is {state}"));
        }
        if dropped > self.dropped {
            news.push(format!("{} events were not read in time and dropped", dropped - self.dropped));
        }
        (self.state, self.dropped) = (state, dropped);
        (!news.is_empty()).then(|| format!("tap: {}", news.join("; ")))
    }
}

/// An event as people read it.
fn block(event: &Value) -> String {
    let text = |value: &Value| escape(value.as_str().unwrap_or_default());
    let mut block = format!("#{} {}", event["position"], text(&event["ingest_time"]));
    if event["producer"].is_string() {
        let _ = write!(block, " from {}", text(&event["producer"]));
    }
    if event["replayed"] == true {
        block.push_str(", a letter that comes again");
    }
    let _ = writeln!(block, "\n  {}", text(&event["line"]));
    if event["event_time"].is_string() {
        let watermark = if event["watermark"].is_string() { text(&event["watermark"]) } else { "-".to_owned() };
        let _ = writeln!(block, "  time {}, watermark {watermark}", text(&event["event_time"]));
    }
    if let Some(fields) = event["fields"].as_object() {
        let _ = writeln!(block, "  fields {}", list(fields));
    }
    for step in event["steps"].as_array().into_iter().flatten() {
        let _ = writeln!(block, "  {}", shown_step(step));
    }
    if let Some(count) = event["steps_left_out"].as_u64() {
        let _ = writeln!(block, "  … and {count} steps more");
    }
    let _ = write!(block, "  = {}", text(&event["outcome"]));
    if let Some(letter) = event["letter"].as_object() {
        let part = |key: &str| letter.get(key).map(text).unwrap_or_default();
        let _ = write!(block, " ({}) in {}: {}", part("kind"), part("stage"), part("reason"));
    }
    block.push_str("\n\n");
    block
}

fn shown_step(step: &Value) -> String {
    let text = |key: &str| escape(step[key].as_str().unwrap_or_default());
    let part: Vec<String> = step["part"].as_array().into_iter().flatten().map(Value::to_string).collect();
    let mut shown = if part.is_empty() { String::new() } else { format!("[{}] ", part.join(".")) };
    match step["stage"].as_u64() {
        Some(stage) => {
            let _ = write!(shown, "{stage} {} {}: {}", text("kind"), text("text"), text("outcome"));
        }
        None => {
            let _ = write!(shown, "{}: {}", text("kind"), text("outcome"));
        }
    }
    if let Some(into) = step["into"].as_u64() {
        let _ = write!(shown, " into {into}");
    }
    if let [Some(start), Some(end)] = [0, 1].map(|index| step["window"][index].as_str()) {
        let _ = write!(shown, ", {} to {}", escape(start), escape(end));
    }
    for (key, before) in [("set", "; "), ("group", "; group "), ("inputs", "; inputs ")] {
        if let Some(values) = step[key].as_object() {
            let _ = write!(shown, "{before}{}", list(values));
        }
    }
    shown
}

fn list(values: &Map<String, Value>) -> String {
    let values: Vec<String> =
        values.iter().map(|(name, value)| format!("{} = {}", escape(name), json_text(value))).collect();
    values.join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn shown(lines: &str, arguments: &[&str]) -> (Result<(), CliError>, String, String) {
        let arguments = ["tap", "x"].iter().chain(arguments);
        let args = Command::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).args;
        let (mut out, mut aside) = (Vec::new(), Vec::new());
        let result = show(lines.as_bytes(), &args, &mut out, &mut aside);
        (result, String::from_utf8(out).unwrap(), String::from_utf8(aside).unwrap())
    }

    #[test]
    fn a_name_is_a_pipeline_or_a_stream() {
        let stats =
            json!({ "pipelines": [{ "name": "@web" }, { "name": "page_views" }], "streams": [{ "name": "web" }] });
        assert_eq!(path(&stats, "page_views").unwrap(), "/api/v1/pipelines/page_views/tap");
        assert_eq!(path(&stats, "web").unwrap(), "/api/v1/streams/web/tap");
        assert_eq!(path(&stats, "@web").unwrap(), "/api/v1/streams/web/tap");
        let error = path(&stats, "page_view").unwrap_err();
        assert!(error.exit_code() == 69 && error.to_string().ends_with("did you mean `page_views`?"), "{error}");
        assert!(path(&stats, "../x").unwrap_err().to_string().contains("the streams web"));
    }

    #[test]
    fn an_event_is_a_block_that_cannot_steer_a_terminal() {
        let event = json!({
            "position": 7, "ingest_time": "2026-01-01 00:00:00", "line": "{\"a\":\"\u{1b}[2J\"}", "outcome": "letter",
            "fields": { "a": "\u{1b}[2J" }, "letter": { "kind": "time", "stage": "time", "reason": "ts is missing" },
            "steps": [{ "part": [0, 2], "stage": 1, "kind": "set", "text": "{}", "outcome": "passed", "set": { "n": 1 } }],
        });
        let lines = format!("{event}\n{event}\n");
        let (result, out, _) = shown(&lines, &["--limit", "1"]);
        assert!(result.is_ok());
        let expected = "#7 2026-01-01 00:00:00\n  {\"a\":\"\\u{1b}[2J\"}\n  fields a = \"\\u001b[2J\"\n  \
                        [0.2] 1 set {}: passed; n = 1\n  = letter (time) in time: ts is missing\n\n";
        assert_eq!(out, expected);
        let (result, out, _) = shown(&lines, &["--json"]);
        assert_eq!((result.unwrap_err().exit_code(), out.lines().count()), (69, 2));
    }

    #[test]
    fn what_was_dropped_is_said_once_and_the_end_is_said() {
        let word =
            |dropped: u64, state: &str| format!("{}\n", json!({ "tap": { "dropped": dropped, "state": state } }));
        let ended = "{\"tap\":{\"ended\":\"the daemon stops\"}}\n";
        let lines = [word(0, "running"), word(3, "running"), word(3, "running"), word(3, "paused"), ended.to_owned()];
        let (result, out, aside) = shown(&lines.concat(), &[]);
        assert_eq!(out, "");
        assert_eq!(aside, "tap: 3 events were not read in time and dropped\ntap: it is paused\n");
        let error = result.unwrap_err();
        assert_eq!((error.exit_code(), error.to_string().as_str()), (69, "the daemon stops"));
    }
}
