//! A daemon inside a verb: how it starts, how signals stop it, and which exit code says why it did not.

use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

use super::error::CliError;
use crate::actors::SystemError;
use crate::journal::JournalError;
use crate::store::StoreError;
use crate::{Mill, StartError, Tidemill};

/// A runtime for the verb's own waiting; the daemon brings its own threads.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, CliError> {
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    built.map_err(|error| CliError::Io { what: "cannot make a runtime".to_owned(), error })
}

/// Starts it.
pub(super) async fn start(mill: Tidemill) -> Result<Mill, CliError> {
    mill.start().await.map_err(start_failure)
}

/// Which exit code says why it did not start.
pub(super) fn start_failure(error: StartError) -> CliError {
    let text = error.to_string();
    match error {
        StartError::Config(_) | StartError::Stage(_) => CliError::Config(text),
        StartError::Listen { .. } => CliError::Unavailable(text),
        StartError::Ended => CliError::Bug(text),
        StartError::System(error) => match error {
            SystemError::Refused(_) | SystemError::Plan(_) | SystemError::Journal(JournalError::Newer { .. }) => {
                CliError::Config(text)
            }
            SystemError::Store { source: StoreError::Away(_), .. }
            | SystemError::Journal(JournalError::InUse { .. }) => CliError::Unavailable(text),
            SystemError::Store { .. } => CliError::Config(text),
            SystemError::Journal(_) => CliError::Journal(text),
        },
    }
}

/// Waits for SIGTERM, Ctrl-C or `done`, then drains; a second signal ends the process at once. A failed journal ends it,
/// too: nothing is acknowledged after that.
pub(super) async fn until_stopped(mill: Mill, done: impl Future<Output = ()>) -> Result<(), CliError> {
    let signals = |error| CliError::Io { what: "cannot wait for signals".to_owned(), error };
    let mut terminate = signal(SignalKind::terminate()).map_err(signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = done => {}
        reason = mill.failed() => return Err(CliError::Journal(format!("the journal failed: {reason}"))),
    }
    log::info!("stopping: what was taken is being flushed (a second signal ends it at once)");
    tokio::select! {
        () = mill.shutdown() => Ok(()),
        _ = terminate.recv() => Err(CliError::Unavailable("ended before all was flushed".to_owned())),
        _ = interrupt.recv() => Err(CliError::Unavailable("ended before all was flushed".to_owned())),
    }
}
