//! `pipeline`: takes hold of one pipeline.

use std::io::{self, Write};

use clap::Subcommand;
use serde_json::{Value, json};

use super::api::Daemon;
use super::error::CliError;
use super::table::escape;

/// Takes hold of one pipeline of a running daemon: pause, resume, skip, drop
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill pipeline pause page_views
  tidemill pipeline skip page_views --to 120345
  tidemill pipeline resume page_views
  tidemill pipeline drop page_views                  deletes its rows, letters and views")]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Stops it behind its last commit; the journal keeps what follows, and a restart of the daemon runs it again
    Pause(Target),
    /// Lets a paused or refused pipeline go on from its checkpoint
    Resume(Target),
    /// Moves a paused or refused pipeline over events, which are counted as skipped, and leaves it paused
    Skip(Skip),
    /// Deletes all rows, letters and views of a pipeline that is stopped, or that the config no longer has
    Drop(Target),
}

#[derive(clap::Args)]
struct Target {
    /// The pipeline's name (of a stream's intake: @stream, which can only be resumed)
    pipeline: String,
    #[command(flatten)]
    daemon: Daemon,
}

#[derive(clap::Args)]
struct Skip {
    #[command(flatten)]
    target: Target,
    /// The last position that is skipped, or `end`: the journal's last
    #[arg(long, value_parser = parse_to)]
    to: To,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum To {
    Position(u64),
    End,
}

fn parse_to(text: &str) -> Result<To, String> {
    match text.parse() {
        Ok(position) => Ok(To::Position(position)),
        Err(_) if text == "end" => Ok(To::End),
        Err(_) => Err("a position (a whole number) or `end`".to_owned()),
    }
}

/// Asks and says how it stands.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let answer = match &args.verb {
        Verb::Pause(target) => target.post("pause", &Value::Null)?,
        Verb::Resume(target) => target.post("resume", &Value::Null)?,
        Verb::Drop(target) => target.daemon.delete(&format!("/api/v1/pipelines/{}", target.name()?))?,
        Verb::Skip(Skip { target, to: To::Position(to) }) => target.post("skip", &json!({ "to": to }))?,
        Verb::Skip(Skip { target, to: To::End }) => target.post("skip", &json!({ "to": "end" }))?,
    };
    io::stdout().lock().write_all(shown(&answer).as_bytes()).map_err(CliError::stdout)
}

impl Target {
    /// The pipeline's name, which travels in a path.
    fn name(&self) -> Result<&str, CliError> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let name = self.pipeline.strip_prefix('@').unwrap_or(&self.pipeline);
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(CliError::Usage(format!(
                "`{}` is no pipeline's name: those have a-z, 0-9 and _ only",
                escape(&self.pipeline)
            )));
        }
        Ok(&self.pipeline)
    }

    fn post(&self, verb: &str, body: &Value) -> Result<Value, CliError> {
        self.daemon.post(&format!("/api/v1/pipelines/{}/{verb}", self.name()?), body)
    }
}

fn shown(answer: &Value) -> String {
    let text = |key: &str| escape(answer[key].as_str().unwrap_or("-"));
    let mut shown = format!("{}: {} at position {}", text("pipeline"), text("state"), answer["position"]);
    if let Some(skipped) = answer["skipped"].as_u64() {
        shown.push_str(&format!(", {skipped} events skipped"));
    }
    if let Some(lost) = answer["uncounted_positions"].as_u64() {
        shown.push_str(&format!(", and {lost} positions that the journal had lost, whose events are not counted"));
    }
    if answer["error"].is_string() {
        shown.push_str(&format!("\n{}", text("error")));
    }
    shown.push('\n');
    shown
}

#[cfg(test)]
mod tests {
    use super::super::api::tests::answering;
    use super::*;

    #[test]
    fn asks_for_what_was_said_and_says_how_it_stands() {
        let (daemon, asked) = answering("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        let target = Target { pipeline: "page_views".to_owned(), daemon };
        run(&Args { verb: Verb::Skip(Skip { target, to: To::End }) }).unwrap();
        let asked = asked.join().unwrap();
        assert!(asked.starts_with("POST /api/v1/pipelines/page_views/skip HTTP/1.1"), "{asked}");
        assert!(asked.ends_with(r#"{"to":"end"}"#), "{asked}");
        let answer = json!({"pipeline": "p", "state": "paused", "position": 7, "error": "a\u{1b}b", "skipped": 3});
        assert_eq!(shown(&answer), "p: paused at position 7, 3 events skipped\na\\u{1b}b\n");
    }

    #[test]
    fn a_name_cannot_be_a_path() {
        for name in ["../stats", "a/b", "@", "a?b"] {
            let (daemon, _) = answering("");
            let target = Target { pipeline: name.to_owned(), daemon };
            assert_eq!(run(&Args { verb: Verb::Pause(target) }).unwrap_err().exit_code(), 64);
        }
        assert_eq!((parse_to("7"), parse_to("end")), (Ok(To::Position(7)), Ok(To::End)));
        assert!(parse_to("-1").is_err() && parse_to("END").is_err());
    }
}
