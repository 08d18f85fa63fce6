//! `validate`: reads a config, says all that is wrong, or all that applies; `sample` holds it against events.

mod sample;

use std::io::Write;
use std::path::PathBuf;

use super::error::CliError;
use crate::actors::memory_bytes;
use crate::config::{describe, load};

/// Checks a config: prints what applies (exit code 0), or all that is wrong (78)
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill validate tidemill.toml
  tidemill validate tidemill.toml --sample access.ndjson
  tidemill validate shop.toml --sample web=access.ndjson.gz orders=orders.ndjson.zst

With --sample it reads files of events instead, whole, and says which of the fields that a pipeline names no event has, and
where the config names them first; how many lines are no events; how many events have no usable time. Where a config has
several streams, each file is given as STREAM=FILE; pipelines of streams without a file are not checked.

Exit code: 0 the config is valid (and each field is in some event), 78 it is not (or a field is in none; after a custom
stage, which may set it, that is only said), 64 a file of events is given wrongly, 74 it cannot be read.")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
    /// Files of events (also .gz and .zst, `-` for stdin), or STREAM=FILE where there are several streams
    #[arg(long, num_args = 1.., value_name = "FILES")]
    sample: Vec<String>,
}

/// Prints every setting with the defaults that apply, or every error.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    if !args.sample.is_empty() {
        return sample::run(&args.config, &config, &args.sample);
    }
    let text = describe(&config, memory_bytes(&config, 1));
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::stdout)
}
