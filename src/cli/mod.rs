//! The command line: one file a verb, none of which knows another. What several verbs need lies beside them: `api` (the
//! daemon's HTTP), `table` (what people see), `files`, `lines` and `progress` (files and how far they are read), `pace` (waiting),
//! `shop` (made-up traffic), `error` (exit codes).

mod api;
mod batch;
mod completions;
mod demo;
mod dlq;
mod doctor;
mod error;
mod files;
mod generate;
mod lines;
mod logging;
mod migrate;
mod pace;
mod pipeline;
mod plan;
mod progress;
mod query;
mod run;
mod send;
mod serve;
mod shop;
mod stats;
mod table;
mod tap;
mod test;
mod torture;
mod validate;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use error::{CliError, EXIT_USAGE};

/// Turns a stream of events into windowed numbers in a database: live, exactly once, from one binary.
#[derive(Parser)]
#[command(
    name = "tidemill",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  tidemill demo
  tidemill test tidemill.toml
  tidemill run tidemill.toml
  tidemill generate --rate 1000 | tidemill send 127.0.0.1:7600
  tidemill query page_views --now
  tidemill stats"
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// How log lines on stderr look; RUST_LOG says which (default: info)
    #[arg(long, global = true, value_enum, default_value = "text")]
    log_format: logging::LogFormat,
}

#[derive(Subcommand)]
enum Verb {
    Run(run::Args),
    Demo(demo::Args),
    Validate(validate::Args),
    Test(test::Args),
    Plan(plan::Args),
    Migrate(migrate::Args),
    Batch(batch::Args),
    Send(send::Args),
    Generate(generate::Args),
    Query(query::Args),
    Dlq(dlq::Args),
    Stats(stats::Args),
    Tap(tap::Args),
    Pipeline(pipeline::Args),
    Doctor(doctor::Args),
    Torture(torture::Args),
    Completions(completions::Args),
}

/// Runs the program: reads the arguments, does what they say, and answers with a code of sysexits.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            // Nobody is left to tell that help could not be printed.
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    logging::start(cli.log_format);
    match dispatch(cli.verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !error.is_silent() {
                tell(&error);
            }
            ExitCode::from(error.exit_code())
        }
    }
}

/// To whoever typed the verb; a log may go elsewhere.
#[expect(clippy::print_stderr, reason = "the one place where a verb says why it failed")]
fn tell(error: &CliError) {
    eprintln!("tidemill: {error}");
}

fn dispatch(verb: Verb) -> Result<(), CliError> {
    match verb {
        Verb::Run(args) => run::run(args),
        Verb::Demo(args) => demo::run(args),
        Verb::Validate(args) => validate::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Plan(args) => plan::run(&args),
        Verb::Migrate(args) => migrate::run(&args),
        Verb::Batch(args) => batch::run(args),
        Verb::Send(args) => send::run(args),
        Verb::Generate(args) => generate::run(args),
        Verb::Query(args) => query::run(&args),
        Verb::Dlq(args) => dlq::run(&args),
        Verb::Stats(args) => stats::run(&args),
        Verb::Tap(args) => tap::run(&args),
        Verb::Pipeline(args) => pipeline::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Torture(args) => torture::run(&args),
        Verb::Completions(args) => completions::run(&args, Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_shows_an_example() {
        let command = Cli::command();
        for verb in command.get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = format!("tidemill {}", verb.get_name());
            assert!(help.contains(&shown), "the help of `{}` has no example", verb.get_name());
            assert!(verb.get_about().is_some(), "`{}` says not what it does", verb.get_name());
        }
        command.debug_assert();
    }
}
