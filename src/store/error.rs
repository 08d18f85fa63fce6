//! What a store answers when it does not do what it is asked: away, or refused.

use diesel::result::{DatabaseErrorKind, Error};

use crate::units::format_size;

/// What a store answers when it does not do what it is asked.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// Busy, read-only, disk full: wait and try again; never the events' fault.
    #[error("the store is away: {0}")]
    Away(String),
    /// Anything else: the pipeline stops, with the store's message.
    #[error("the store refuses: {0}")]
    Refused(String),
    /// Another has taken the fence.
    #[error("fenced: another writer has taken over pipeline {0:?}")]
    Fenced(String),
    /// There is no room for a pipeline's letters, and it shall wait for some.
    #[error(
        "its dead letters have reached their limit, {}: `tidemill dlq replay --pipeline {pipeline}` or `tidemill dlq purge \
         --pipeline {pipeline}` makes room, then `tidemill pipeline resume {pipeline}` goes on",
        format_size(*limit)
    )]
    LettersFull {
        /// Whose.
        pipeline: String,
        /// Bytes.
        limit: u64,
    },
    /// A question whose answer would be too long.
    #[error("{0}")]
    TooMuch(String),
    /// The flush was given up before its end (its pipeline ended).
    #[error("the flush was given up")]
    GivenUp,
    /// A commit failed and the checkpoint could not be read back either: the flush may be in the store or not, so that
    /// it must not be sent again. The pipeline begins anew from what the store then shows.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// Its tables are newer than this program, or are not there and may not be made.
    #[error("{0}")]
    Schema(String),
}

/// The texts of SQLite's result codes BUSY, LOCKED, PROTOCOL, READONLY, FULL, IOERR, CANTOPEN, NOMEM, INTERRUPT, PERM:
/// diesel hands on the text, not the code. They are compared as a whole, so that no event can smuggle one in.
const AWAY: [&str; 11] = [
    "database is locked",
    "database table is locked",
    "database schema is locked: main",
    "locking protocol",
    "attempt to write a readonly database",
    "database or disk is full",
    "disk i/o error",
    "unable to open database file",
    "out of memory",
    "interrupted",
    "access permission denied",
];

impl StoreError {
    /// Away or refused, by what SQLite said.
    pub(super) fn from_message(message: String) -> Self {
        if AWAY.iter().any(|away| message.eq_ignore_ascii_case(away)) {
            Self::Away(message)
        } else {
            Self::Refused(message)
        }
    }
}

impl From<Error> for StoreError {
    fn from(error: Error) -> Self {
        match error {
            Error::DatabaseError(
                DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::SerializationFailure
                | DatabaseErrorKind::ReadOnlyTransaction,
                information,
            ) => Self::Away(information.message().to_owned()),
            // The transaction is over, since an error before was not minded: the server has ended it.
            Error::BrokenTransactionManager => Self::Away("the connection broke".to_owned()),
            Error::RollbackErrorOnCommit { commit_error, .. } => Self::from(*commit_error),
            Error::DatabaseError(_, information) => Self::from_message(information.message().to_owned()),
            error => Self::Refused(error.to_string()),
        }
    }
}

/// What a migration's error holds.
pub(super) fn migration_failed(error: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    match error.downcast::<Error>() {
        Ok(error) => StoreError::from(*error),
        // A migration's error keeps the store's message only as the end of its text.
        Err(error) => {
            let text = error.to_string();
            let message = text.rsplit_once(" with: ").map_or(text.as_str(), |(_, message)| message);
            StoreError::from_message(message.to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(message: &str) -> StoreError {
        let kind = diesel::result::DatabaseErrorKind::Unknown;
        StoreError::from(Error::DatabaseError(kind, Box::new(message.to_owned())))
    }

    #[test]
    fn what_passes_by_itself_is_away_and_all_else_is_refused() {
        for message in ["database is locked", "disk I/O error", "database or disk is full", "out of memory"] {
            assert_eq!(said(message), StoreError::Away(message.to_owned()));
        }
        for message in ["no such table: checkpoints", "malformed JSON", "no such column: disk I/O error"] {
            assert_eq!(said(message), StoreError::Refused(message.to_owned()));
        }
    }
}
