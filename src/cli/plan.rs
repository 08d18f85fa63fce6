//! `plan`: what a start with a config does to what is stored.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use super::error::CliError;
use crate::config::{Config, load};
use crate::journal::{Look, look};
use crate::pipeline::Plan;
use crate::store::{Store, StoreError};

/// Says what a start with this config does to what is stored, and changes nothing
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill plan tidemill.toml
  tidemill run tidemill.toml --accept-plan 1a2b3c4d       where it says that something is lost")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
}

/// Compares config, store and journals, and prints.
pub(super) fn run(args: &Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let url = &config.store.url;
    let registered = Store::registered_at(url).map_err(|error| match error {
        StoreError::Away(_) => CliError::Unavailable(format!("{url}: {error}")),
        error => CliError::Config(format!("{url}: {error}; `tidemill migrate` brings its tables up to date")),
    })?;
    let plan = Plan::of(&config, &registered, &journals(&config)?, &|_| true);
    std::io::stdout().write_all(plan.to_string().as_bytes()).map_err(CliError::stdout)
}

/// What the journals have; one that is not there yet begins with position 1.
fn journals(config: &Config) -> Result<HashMap<String, Look>, CliError> {
    let look = |name: &String| {
        let found = look(&config.journal_dir(name)).map_err(|error| CliError::Journal(error.to_string()))?;
        Ok((name.clone(), found.unwrap_or(Look { id: 0, first: 1, last: 0 })))
    };
    config.streams.iter().map(|stream| look(&stream.name)).collect()
}
