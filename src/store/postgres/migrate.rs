//! The store's schema and tables: made and brought up to date by embedded migrations, never touched where they are newer.

use std::collections::HashSet;

use diesel::connection::Connection as _;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::connection::Connection;
use crate::config::PostgresConfig;
use crate::store::error::migration_failed as failed;
use crate::store::names::identifier;
use crate::store::{Standing, StoreError};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations/postgres");

/// Two that migrate at once wait for each other by this advisory lock: "tidemill" in ASCII.
const LOCK: i64 = 0x7469_6465_6d69_6c6c;

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

/// Brings the tables up to date, or says why it may not.
pub(super) fn migrate(connection: &mut Connection, schema: &str, allowed: bool) -> Result<(), StoreError> {
    connection.transaction(|connection| {
        sql_query("SELECT pg_advisory_xact_lock($1)").bind::<BigInt, _>(LOCK).execute(connection)?;
        let known = known()?;
        let applied = if was_migrated(connection, schema)? { applied(connection)? } else { HashSet::new() };
        if let Some(newer) = applied.difference(&known).max() {
            return Err(StoreError::Schema(format!(
                "the tables in schema {schema:?} were made by a newer tidemill (schema {newer}): run that version or a \
                 newer one, or name another `schema` in [store]"
            )));
        }
        if known.is_subset(&applied) {
            return Ok(());
        }
        if !allowed {
            return Err(StoreError::Schema(format!(
                "schema {schema:?} lacks tables that this version needs, and `migrate = false` forbids to make them: run \
                 `tidemill migrate CONFIG`"
            )));
        }
        if !count(connection, "SELECT count(*) AS count FROM pg_namespace WHERE nspname = $1", schema)? {
            sql_query(format!("CREATE SCHEMA {}", identifier(schema))).execute(connection)?;
        }
        connection.run_pending_migrations(MIGRATIONS).map_err(failed)?;
        Ok(())
    })
}

/// How the tables stand to this version, without a change.
pub(super) fn standing(connection: &mut Connection, schema: &str) -> Result<Standing, StoreError> {
    if !was_migrated(connection, schema)? {
        return Ok(Standing::Missing);
    }
    let applied: Vec<Version> = sql_query("SELECT version::text FROM __diesel_schema_migrations").load(connection)?;
    Ok(Standing::of(&known()?, applied.into_iter().map(|row| row.version).collect()))
}

fn known() -> Result<HashSet<String>, StoreError> {
    let known = MigrationSource::<Pg>::migrations(&MIGRATIONS).map_err(failed)?;
    Ok(known.iter().map(|migration| migration.name().version().to_string()).collect())
}

/// What to do about it.
pub(super) fn explained(error: StoreError, config: &PostgresConfig) -> StoreError {
    // A schema that somebody else made counts as none (3F000) for whom may not use it.
    let lacks_rights =
        |message: &str| ["(SQLSTATE 42501)", "(SQLSTATE 3F000)"].iter().any(|code| message.contains(code));
    match error {
        StoreError::Refused(message) if lacks_rights(&message) => StoreError::Schema(format!(
            "{}: {message}; this user may not make the tables: GRANT CREATE ON DATABASE to it, or let another user run \
             `tidemill migrate CONFIG` and grant it ALL on schema {:?} and on all of its tables",
            config.shown, config.schema
        )),
        StoreError::Refused(message) => StoreError::Refused(format!("{}: {message}", config.shown)),
        StoreError::Away(message) => StoreError::Away(format!("{}: {message}", config.shown)),
        error => error,
    }
}

/// Asked first, since diesel makes its own table where it is missing.
fn was_migrated(connection: &mut Connection, schema: &str) -> Result<bool, StoreError> {
    let table = "SELECT count(*) AS count FROM pg_tables \
                 WHERE schemaname = $1 AND tablename = '__diesel_schema_migrations'";
    count(connection, table, schema)
}

fn count(connection: &mut Connection, sql: &str, schema: &str) -> Result<bool, StoreError> {
    let Count { count } = sql_query(sql).bind::<Text, _>(schema).get_result(connection)?;
    Ok(count > 0)
}

fn applied(connection: &mut Connection) -> Result<HashSet<String>, StoreError> {
    let versions = connection.applied_migrations().map_err(failed)?;
    Ok(versions.iter().map(ToString::to_string).collect())
}
