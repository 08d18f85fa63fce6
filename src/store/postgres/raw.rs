//! Raw events: a partition a stream, below it one a day of ingest.
//!
//! Partitions are made and dropped in short transactions of their own, so that no flush waits for another's. One is made
//! apart and then attached, which lets others write meanwhile. Flushes write into the day's partition by its name: the
//! transaction may be older than that partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Datelike, NaiveDate};
use diesel::connection::{Connection as _, SimpleConnection};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::connection::{self, Connection};
use super::{Postgres, PostgresSession};
use crate::event::RawEvents;
use crate::store::StoreError;
use crate::store::names::{identifier, literal};
use crate::store::session::Access;

const DAY_MS: i64 = 86_400_000;

/// Two that make partitions wait for each other by this advisory lock, and by the schema's hash: "tmraw" in ASCII.
const LOCK: i64 = 0x74_6d72_6177;

/// Partitions that are known to be there, of the stream that the transaction is about.
pub(super) type Days = BTreeSet<i64>;

#[derive(QueryableByName)]
struct There {
    #[diesel(sql_type = Bool)]
    there: bool,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// No name of a pipeline has a `$`, so that no view is in the way; with a stream's longest name it has 61 bytes of the 63.
fn of_stream(stream: &str) -> String {
    format!("raw${stream}")
}

fn of_day(stream: &str, day: i64) -> Result<String, StoreError> {
    let date = day.checked_mul(DAY_MS).and_then(DateTime::from_timestamp_millis);
    let date = date.filter(|date| (1..=9999).contains(&date.year()));
    let date = date.ok_or_else(|| StoreError::Refused(format!("day {day} of ingest is in no calendar's year")))?;
    Ok(format!("{}${}", of_stream(stream), date.format("%Y%m%d")))
}

/// The day that a partition is named after.
fn day_of(name: &str) -> Option<i64> {
    let date = NaiveDate::parse_from_str(name.rsplit('$').next()?, "%Y%m%d").ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis() / DAY_MS)
}

/// One statement a day for all of a chunk.
pub(super) fn put(session: &mut PostgresSession, stream: &str, raw: &[Arc<RawEvents>]) -> Result<(), StoreError> {
    let mut days: BTreeMap<i64, Vec<&RawEvents>> = BTreeMap::new();
    for batch in raw {
        days.entry(batch.ingest_time.div_euclid(DAY_MS)).or_default().push(batch);
    }
    for (day, batches) in days {
        if session.raw_days.insert(day) {
            ensure(session, stream, day)?;
        }
        insert(&mut session.connection, stream, &of_day(stream, day)?, &batches)?;
    }
    Ok(())
}

fn insert(
    connection: &mut Connection,
    stream: &str,
    partition: &str,
    batches: &[&RawEvents],
) -> Result<(), StoreError> {
    let events = || batches.iter().flat_map(|batch| batch.events.iter().map(move |event| (*batch, event)));
    sql_query(format!(
        "INSERT INTO {} (stream, position, ingest_time, event_time, line) \
         SELECT $1, n, i, e, l FROM unnest($2, $3, $4, $5) AS u (n, i, e, l) ON CONFLICT DO NOTHING",
        identifier(partition)
    ))
    .bind::<Text, _>(stream)
    .bind::<Array<BigInt>, _>(events().map(|(_, event)| event.position.cast_signed()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(events().map(|(batch, _)| batch.ingest_time).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(events().map(|(_, event)| event.event_time).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(events().map(|(batch, event)| batch.line(event)).collect::<Vec<_>>())
    .execute(connection)?;
    Ok(())
}

/// Makes the day's partition where it is missing; and the next day's, which can wait.
fn ensure(session: &mut PostgresSession, stream: &str, day: i64) -> Result<(), StoreError> {
    for (day, can_wait) in [(day, false), (day + 1, true)] {
        let name = of_day(stream, day)?;
        if is_there(&mut session.connection, &name)? {
            continue;
        }
        match make(&session.database, stream, &name, day) {
            Err(error) if can_wait => log::warn!("the partition {name} for tomorrow's raw events: {error}"),
            made => made?,
        }
    }
    Ok(())
}

fn is_there(connection: &mut Connection, name: &str) -> Result<bool, StoreError> {
    let regclass = sql_query("SELECT to_regclass($1) IS NOT NULL AS there").bind::<Text, _>(identifier(name));
    let There { there } = regclass.get_result(connection)?;
    Ok(there)
}

/// Makes a partition, and that of the stream where it is the first, over a connection of its own.
fn make(database: &Postgres, stream: &str, name: &str, day: i64) -> Result<(), StoreError> {
    let (mut connection, state) = connection::connect(&database.config, database.tls.as_ref(), Access::Write)?;
    let made = connection.transaction(|connection| {
        // Nobody shall queue for long behind one that waits.
        connection.batch_execute("SET LOCAL lock_timeout = '2s'")?;
        sql_query("SELECT pg_advisory_xact_lock($1 + hashtext($2))")
            .bind::<BigInt, _>(LOCK)
            .bind::<Text, _>(&database.config.schema)
            .execute(connection)?;
        let root = identifier(&of_stream(stream));
        if !is_there(connection, &of_stream(stream))? {
            connection.batch_execute(&format!(
                "CREATE TABLE {root} (LIKE raw_events) PARTITION BY RANGE (ingest_time); \
                 ALTER TABLE raw_events ATTACH PARTITION {root} FOR VALUES IN ({})",
                literal(stream)
            ))?;
        }
        if !is_there(connection, name)? {
            let (name, from, to) = (identifier(name), day * DAY_MS, (day + 1) * DAY_MS);
            connection.batch_execute(&format!(
                "CREATE TABLE {name} (LIKE raw_events); \
                 ALTER TABLE {root} ATTACH PARTITION {name} FOR VALUES FROM ({from}) TO ({to})"
            ))?;
        }
        Ok(())
    });
    made.map_err(|error| state.judge(error))
}

/// Drops the partitions of days that ended before this. One that somebody reads stays until the next time: whoever waited
/// for it would hold up all who come behind.
pub(super) fn prune(session: &mut PostgresSession, stream: &str, before: i64) -> Result<(), StoreError> {
    session.state.clear();
    let root = identifier(&of_stream(stream));
    let partitions: Vec<Name> = sql_query(
        "SELECT relname::text AS name FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
         WHERE inhparent = to_regclass($1) ORDER BY relname",
    )
    .bind::<Text, _>(&root)
    .load(&mut session.connection)?;
    for Name { name } in partitions {
        if day_of(&name).is_none_or(|day| (day + 1) * DAY_MS > before) {
            continue;
        }
        let dropped = session.connection.transaction(|connection| {
            let day = identifier(&name);
            let sql = format!(
                "LOCK TABLE ONLY {root} IN ACCESS EXCLUSIVE MODE NOWAIT; LOCK TABLE {day} IN ACCESS EXCLUSIVE MODE NOWAIT; \
                 ALTER TABLE {root} DETACH PARTITION {day}; DROP TABLE {day}"
            );
            Ok(connection.batch_execute(&sql)?)
        });
        match dropped.map_err(|error| session.state.judge(error)) {
            Err(StoreError::Away(reason)) => log::debug!("the old partition {name} stays for now: {reason}"),
            dropped => dropped?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_named_after_its_day() {
        for (day, name) in [(0, "raw$web$19700101"), (-1, "raw$web$19691231"), (20_778, "raw$web$20261121")] {
            assert_eq!(of_day("web", day).unwrap(), name);
            assert_eq!(day_of(name), Some(day));
        }
        assert_eq!(of_day(&"s".repeat(48), 20_778).unwrap().len(), 61);
        assert!(of_day("web", i64::MAX / DAY_MS + 1).is_err() && of_day("web", 4_000_000).is_err());
        assert_eq!(day_of("raw$web"), None);
    }
}
