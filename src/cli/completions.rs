//! `completions`: what a shell needs to complete verbs and options.

use std::io::Write;

use clap_complete::Shell;

use super::error::CliError;

/// Prints the completions of a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill completions bash > ~/.local/share/bash-completion/completions/tidemill
  tidemill completions zsh > \"${fpath[1]}/_tidemill\"
  tidemill completions fish > ~/.config/fish/completions/tidemill.fish")]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints them; of all the verbs of the program.
pub(super) fn run(args: &Args, mut program: clap::Command) -> Result<(), CliError> {
    // It panics where it cannot write: a text takes all.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut program, "tidemill", &mut script);
    std::io::stdout().write_all(&script).map_err(CliError::stdout)
}
