//! A connection to the file.

use std::fs::{DirBuilder, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{Connection, QueryableByName, RunQueryDsl, SqliteConnection, sql_query};

use crate::store::StoreError;
use crate::store::session::Access;

/// Waits for another writer, commits to the disk itself, keeps at most 16 MiB of pages in memory, moves the log into
/// the file by 16 MiB (a flush of many rows then does so at most once), gives back the space of a log that grew long.
const SETTINGS: &str = "PRAGMA busy_timeout = 5000; PRAGMA synchronous = FULL; PRAGMA foreign_keys = OFF; \
     PRAGMA cache_size = -16384; PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864;";

#[derive(QueryableByName)]
struct JournalMode {
    #[diesel(sql_type = Text)]
    journal_mode: String,
}

pub(super) fn connect(path: &Path, access: Access) -> Result<SqliteConnection, StoreError> {
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
