//! `validate`: reads a config, says all that is wrong, or all that applies.

use std::io::Write;
use std::path::PathBuf;

use super::error::CliError;
use crate::actors::memory_bytes;
use crate::config::{describe, load};

/// Checks a config: prints what applies (exit code 0), or all that is wrong (78)
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tidemill validate tidemill.toml")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
}

/// Prints every setting with the defaults that apply, or every error.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let text = describe(&config, memory_bytes(&config, 1));
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::stdout)
}
