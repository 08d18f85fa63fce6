//! The store's tables: made and brought up to date by embedded migrations, never touched where they are newer.

use std::collections::HashSet;
use std::path::Path;

use diesel::migration::{Migration, MigrationSource};
use diesel::sql_types::{BigInt, Text};
use diesel::sqlite::Sqlite;
use diesel::{QueryableByName, RunQueryDsl, SqliteConnection, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::store::error::migration_failed as failed;
use crate::store::{Standing, StoreError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/sqlite");

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Brings the tables up to date, or says why it may not. One transaction holds off another process that does the same.
pub(super) fn migrate(connection: &mut SqliteConnection, path: &Path, allowed: bool) -> Result<(), StoreError> {
    connection.immediate_transaction(|connection| {
        let known = known()?;
        let applied = if was_migrated(connection)? { applied(connection)? } else { HashSet::new() };
        if let Some(newer) = applied.difference(&known).max() {
            return Err(StoreError::Schema(format!(
                "the tables in {} were made by a newer tidemill (schema {newer}): run that version or a newer one, or \
                 name another file in [store] url",
                path.display()
            )));
        }
        if known.is_subset(&applied) {
            return Ok(());
        }
        if !allowed {
            return Err(StoreError::Schema(format!(
                "{} lacks tables that this version needs, and `migrate = false` forbids to make them: run `tidemill \
                 migrate CONFIG`",
                path.display()
            )));
        }
        connection.run_pending_migrations(MIGRATIONS).map_err(failed)?;
        Ok(())
    })
}

/// How the tables stand to this version, without a change.
pub(super) fn standing(connection: &mut SqliteConnection) -> Result<Standing, StoreError> {
    if !was_migrated(connection)? {
        return Ok(Standing::Missing);
    }
    let applied: Vec<Version> = sql_query("SELECT version FROM __diesel_schema_migrations").load(connection)?;
    Ok(Standing::of(&known()?, applied.into_iter().map(|row| row.version).collect()))
}

fn known() -> Result<HashSet<String>, StoreError> {
    let known = MigrationSource::<Sqlite>::migrations(&MIGRATIONS).map_err(failed)?;
    Ok(known.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// Asked first, since diesel makes its own table where it is missing.
fn was_migrated(connection: &mut SqliteConnection) -> Result<bool, StoreError> {
    let table = "SELECT count(*) AS count FROM sqlite_master WHERE name = '__diesel_schema_migrations'";
    let Count { count } = sql_query(table).get_result(connection)?;
    Ok(count > 0)
}

fn applied(connection: &mut SqliteConnection) -> Result<HashSet<String>, StoreError> {
    let versions = connection.applied_migrations().map_err(failed)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}
