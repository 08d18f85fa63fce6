//! `migrate`: the store's tables.

use std::io::Write;
use std::path::PathBuf;

use super::error::CliError;
use crate::config::load;
use crate::store::{Store, StoreError};

/// Makes the store's tables or brings them up to date, and does nothing else (for `migrate = false`)
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tidemill migrate tidemill.toml")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
}

/// Migrates.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let url = &config.store.url;
    Store::migrate(url).map_err(|error| match error {
        StoreError::Away(_) => CliError::Unavailable(format!("{url}: {error}")),
        error => CliError::Config(format!("{url}: {error}")),
    })?;
    writeln!(std::io::stdout(), "the tables in {url} are up to date").map_err(CliError::stdout)
}
