//! A connection to the file: how it is made, and how it is kept through failures.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};

use super::StoreError;

/// Waits for another writer, commits to the disk itself, keeps at most 16 MiB of pages in memory, moves the log into
/// the file by 16 MiB (a flush of many rows then does so at most once), gives back the space of a log that grew long.
const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
     PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864;";

/// Whether a connection may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// The one that flushes.
    Write,
    /// Those that answer queries.
    Read,
}

/// One thread's connection. After a failure it is closed, which rolls back whatever was open, and the next job makes a
/// new one: no error can leave half a transaction behind, and a disk that was away is found again.
pub(super) struct Line {
    path: PathBuf,
    access: Access,
    connection: Option<SqliteConnection>,
}

#[derive(QueryableByName)]
struct JournalMode {
    #[diesel(sql_type = Text)]
    journal_mode: String,
}

impl Line {
    /// Connects when the first job comes.
    pub(super) fn new(path: PathBuf, access: Access) -> Self {
        Self { path, access, connection: None }
    }

    /// Runs a job. A panic (a bug in a pipeline's states, say) fails this job and no other.
    pub(super) fn run<T>(
        &mut self,
        job: impl FnOnce(&mut SqliteConnection) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.path, self.access)?,
        };
        // The connection goes in by value: where the job fails it is closed in there, and nobody sees it again.
        let done = catch_unwind(AssertUnwindSafe(move || job(&mut connection).map(|value| (value, connection))));
        let (value, connection) = done.unwrap_or_else(|panic| Err(panicked(&*panic)))?;
        self.connection = Some(connection);
        Ok(value)
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StoreError {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    StoreError::Refused(format!("a bug: the store panicked: {}", said.unwrap_or("it does not say why")))
}

fn connect(path: &Path, access: Access) -> Result<SqliteConnection, StoreError> {
    make_file(path)?;
    // An absolute path begins with a slash, so that SQLite takes none of it for a URI or for a name such as `:memory:`.
    let Some(name) = path.to_str().filter(|name| name.starts_with('/')) else {
        return Err(StoreError::Refused(format!("the store's path {} is not UTF-8", path.display())));
    };
    let mut connection = SqliteConnection::establish(name).map_err(|error| match error {
        diesel::ConnectionError::BadConnection(message) => StoreError::from_message(message),
        error => StoreError::Refused(error.to_string()),
    })?;
    connection.batch_execute(SETTINGS)?;
    let JournalMode { journal_mode } = sql_query("PRAGMA journal_mode = WAL").get_result(&mut connection)?;
    if journal_mode != "wal" {
        return Err(StoreError::Refused(format!(
            "{} cannot have a write-ahead log (its journal mode is {journal_mode}): put the store on a local disk",
            path.display()
        )));
    }
    if access == Access::Read {
        connection.batch_execute("PRAGMA query_only = ON")?;
    }
    Ok(connection)
}

/// Only the owner may read the file; SQLite gives its log the same mode.
fn make_file(path: &Path) -> Result<(), StoreError> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot open {}: {error}", path.display());
        match error.kind() {
            ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::Interrupted
            | ErrorKind::StaleNetworkFileHandle => StoreError::Away(message),
            _ => StoreError::Refused(message),
        }
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(failed)?;
    Ok(())
}
