//! `dlq`: dead letters, the events that could not be processed.

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::{Map, Value};

use super::api::Daemon;
use super::error::CliError;
use super::table;
use crate::event::parse_time_text;

/// Dead letters, the events that could not be processed: list, show, replay, purge
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill dlq list                                   the newest of each stream
  tidemill dlq list --by-reason                       what fails most
  tidemill dlq list --pipeline revenue --kind expression
  tidemill dlq show web:1024:revenue                  one letter, with its whole line
  tidemill dlq replay --pipeline revenue --kind expression
  tidemill dlq replay web:1024:revenue                only this one
  tidemill dlq purge --pipeline revenue --before 2026-11-01T00:00:00Z")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows letters, the newest of each stream first, with the beginnings of their lines
    List(List),
    /// Shows one letter with its whole line
    Show(Show),
    /// Sends letters through their pipeline again: each counts once, in its own window, closed or not
    Replay(Replay),
    /// Deletes letters for good
    Purge(Purge),
}

/// Which letters.
#[derive(clap::Args)]
struct Which {
    /// Only this pipeline's; @stream: lines that could not be decoded
    #[arg(long)]
    pipeline: Option<String>,
    /// Only of this kind
    #[arg(long, value_parser = ["decode", "time", "expression", "enrich", "group", "late", "ahead", "custom", "panic"])]
    kind: Option<String>,
    /// Only those that failed before this: RFC 3339, or unix ms
    #[arg(long, value_parser = parse_before)]
    before: Option<i64>,
}

fn parse_before(text: &str) -> Result<i64, String> {
    let time = text.parse().ok().or_else(|| parse_time_text(text));
    time.ok_or_else(|| "a time such as 2026-11-01T00:00:00Z, or unix ms".to_owned())
}

impl Which {
    fn conditions(&self) -> Result<Vec<String>, CliError> {
        let mut conditions = Vec::new();
        if let Some(pipeline) = &self.pipeline {
            let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if !pipeline.strip_prefix('@').unwrap_or(pipeline).bytes().all(is_name) {
                let shown = table::escape(pipeline);
                return Err(CliError::Usage(format!(
                    "`{shown}` is no pipeline's name: those have a-z, 0-9 and _ only"
                )));
            }
            conditions.push(format!("pipeline={pipeline}"));
        }
        conditions.extend(self.kind.as_ref().map(|kind| format!("kind={kind}")));
        conditions.extend(self.before.map(|before| format!("before={before}")));
        Ok(conditions)
    }
}

#[derive(clap::Args)]
struct List {
    #[command(flatten)]
    which: Which,
    /// Letters, or reasons, at most
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    limit: u64,
    /// Goes on behind this letter: the last one of the page before
    #[arg(long, value_parser = parse_id)]
    after: Option<String>,
    /// How many letters have which reason, the most frequent first
    #[arg(long, conflicts_with = "after")]
    by_reason: bool,
    /// One JSON object a letter, or a reason
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(clap::Args)]
struct Show {
    /// Which one, as `list` shows it: stream:position:pipeline
    #[arg(value_parser = parse_id)]
    id: String,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(clap::Args)]
struct Purge {
    #[command(flatten)]
    which: Which,
    /// All there are
    #[arg(long, conflicts_with_all = ["pipeline", "kind", "before"])]
    all: bool,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(clap::Args)]
struct Replay {
    #[command(flatten)]
    which: Which,
    /// Only these, as `list` shows them: stream:position:pipeline
    #[arg(value_parser = parse_id)]
    ids: Vec<String>,
    /// At most so many, the oldest lines first
    #[arg(long)]
    limit: Option<u64>,
    /// All there are
    #[arg(long, conflicts_with_all = ["pipeline", "kind", "before", "ids"])]
    all: bool,
    #[command(flatten)]
    daemon: Daemon,
}

/// An id travels in a URL.
fn parse_id(text: &str) -> Result<String, String> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"_:@-".contains(&byte);
    let id: crate::store::LetterId = text.parse()?;
    if text.bytes().all(safe) { Ok(id.to_string()) } else { Err("an id has letters, digits and _ : @ only".to_owned()) }
}

/// Asks and prints.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let text = match &args.verb {
        Verb::List(list) => list.run()?,
        Verb::Show(show) => letter(&show.daemon.get(&format!("/api/v1/dead-letters/{}", show.id))?),
        Verb::Replay(replay) => replay.run()?,
        Verb::Purge(purge) => purge.run()?,
    };
    io::stdout().lock().write_all(text.as_bytes()).map_err(CliError::stdout)
}

impl List {
    fn run(&self) -> Result<String, CliError> {
        let mut conditions = self.which.conditions()?;
        conditions.push(format!("limit={}", self.limit));
        conditions.extend(self.after.as_ref().map(|after| format!("after={after}")));
        conditions.extend(self.by_reason.then(|| "by=reason".to_owned()));
        let answer = self.daemon.get(&format!("/api/v1/dead-letters?{}", conditions.join("&")))?;
        let (what, columns): (_, &[&str]) = if self.by_reason {
            ("reasons", &["count", "pipeline", "kind", "stage", "reason", "last_position"])
        } else {
            ("letters", &["id", "kind", "stage", "reason", "attempts", "replayed_at", "line"])
        };
        let found = answer[what].as_array().map_or(&[] as &[Value], Vec::as_slice);
        if self.json {
            return Ok(found.iter().map(|one| table::json_text(one) + "\n").collect());
        }
        let rows = found.iter().map(|one| columns.iter().map(|column| table::cell(&short(&one[column]))).collect());
        let mut text = format!("{}\n", table::table(columns, rows));
        if let Some(next) = answer["next"].as_str() {
            text.push_str(&format!("there may be more: --after {}\n", table::escape(next)));
        }
        Ok(text)
    }
}

impl Replay {
    fn run(&self) -> Result<String, CliError> {
        if self.which.conditions()?.is_empty() && self.ids.is_empty() && !self.all {
            return Err(CliError::Usage("say which letters: ids, --pipeline, --kind, --before, or --all".to_owned()));
        }
        let mut body = Map::new();
        let mut put = |key: &str, value: Option<Value>| value.map(|value| body.insert(key.to_owned(), value));
        put("pipeline", self.which.pipeline.as_deref().map(Value::from));
        put("kind", self.which.kind.as_deref().map(Value::from));
        put("before", self.which.before.map(Value::from));
        put("ids", (!self.ids.is_empty()).then(|| self.ids.clone().into()));
        put("limit", self.limit.map(Value::from));
        let answer = self.daemon.post("/api/v1/dead-letters/replay", &Value::Object(body))?;
        Ok(replayed(&answer))
    }
}

fn replayed(answer: &Value) -> String {
    let list = |key: &str| answer[key].as_array().map_or(&[] as &[Value], Vec::as_slice);
    let text = |value: &Value| table::escape(value.as_str().unwrap_or("-"));
    let mut shown = String::new();
    for replay in list("replays") {
        let pipeline = text(&replay["pipeline"]);
        let list = format!("`tidemill dlq list --pipeline {pipeline}` shows what becomes of them");
        shown.push_str(&format!("{pipeline}: {} letters are on their way again; {list}\n", replay["letters"]));
    }
    for refused in list("refused") {
        shown.push_str(&format!("{}: none: {}\n", text(&refused["pipeline"]), text(&refused["message"])));
    }
    if shown.is_empty() { "no letters to replay\n".to_owned() } else { shown }
}

impl Purge {
    fn run(&self) -> Result<String, CliError> {
        let mut conditions = self.which.conditions()?;
        if self.all {
            conditions.push("all=true".to_owned());
        }
        if conditions.is_empty() {
            return Err(CliError::Usage("say which letters: --pipeline, --kind, --before, or --all".to_owned()));
        }
        let answer = self.daemon.delete(&format!("/api/v1/dead-letters?{}", conditions.join("&")))?;
        Ok(format!("{} letters purged\n", answer["purged"]))
    }
}

/// Characters of a text that a table shows.
const CELL_CHARS: usize = 60;

fn short(value: &Value) -> Value {
    match value.as_str() {
        Some(text) if text.chars().count() > CELL_CHARS => {
            text.chars().take(CELL_CHARS).chain(['…']).collect::<String>().into()
        }
        _ => value.clone(),
    }
}

/// One letter, a field a line.
fn letter(letter: &Value) -> String {
    let fields = ["id", "kind", "stage", "reason", "producer", "peer", "attempts", "failed_at", "replayed_at", "line"];
    let shown = |field: &str| match &letter[field] {
        Value::String(text) => table::escape(text),
        other => other.to_string(),
    };
    fields.iter().map(|field| format!("{field:<12} {}\n", shown(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::api::tests::answering;
    use super::*;

    #[test]
    fn conditions_travel_and_what_is_shown_cannot_steer_a_terminal() {
        let (daemon, asked) = answering(concat!(
            "HTTP/1.1 200 OK\r\nContent-Length: 93\r\n\r\n",
            r#"{"letters":[{"id":"web:7:p","kind":"late","reason":"\u001b[2J","line":"x"}],"next":"web:7:p"}"#
        ));
        let which = Which { pipeline: Some("@web".to_owned()), kind: None, before: Some(5) };
        let list = List { which, limit: 1, after: Some("web:9:p".to_owned()), by_reason: false, json: false, daemon };
        let shown = list.run().unwrap();
        let asked = asked.join().unwrap();
        assert!(asked.contains("GET /api/v1/dead-letters?pipeline=@web&before=5&limit=1&after=web:9:p "), "{asked}");
        assert!(shown.contains("web:7:p") && shown.contains("--after web:7:p") && !shown.contains('\u{1b}'), "{shown}");
    }

    #[test]
    fn a_purge_says_what_it_purges() {
        let (daemon, _) = answering("");
        let which = Which { pipeline: None, kind: None, before: None };
        assert_eq!(Purge { which, all: false, daemon }.run().unwrap_err().exit_code(), 64);
        assert_eq!(parse_before("1970-01-01T00:00:01Z"), Ok(1_000));
        assert!(parse_id("web:7:p").is_ok() && parse_id("web:7:p?x").is_err() && parse_id("web:p").is_err());
    }
}
