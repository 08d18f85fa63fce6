//! Raw events: a plain table, from which old ones go by the flush.

use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, RunQueryDsl, SqliteConnection, sql_query};

use crate::event::{RawEvent, RawEvents};
use crate::store::StoreError;

/// Makes the row of an event, unless it is there. (Written out for the same reason as `upsert`.)
struct InsertRaw<'a> {
    stream: &'a str,
    position: i64,
    event: &'a RawEvent,
    batch: &'a RawEvents,
}

impl QueryFragment<Sqlite> for InsertRaw<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("INSERT OR IGNORE INTO raw_events (stream, position, ingest_time, event_time, line) VALUES (");
        out.push_bind_param::<Text, _>(self.stream)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.position)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.batch.ingest_time)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<BigInt>, _>(&self.event.event_time)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.batch.line(self.event))?;
        out.push_sql(")");
        Ok(())
    }
}

impl QueryId for InsertRaw<'_> {
    type QueryId = InsertRaw<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for InsertRaw<'_> {}

pub(super) fn put(connection: &mut SqliteConnection, stream: &str, batch: &RawEvents) -> Result<(), StoreError> {
    for event in &batch.events {
        InsertRaw { stream, position: event.position.cast_signed(), event, batch }.execute(connection)?;
    }
    Ok(())
}

/// The oldest that the journal took before this, at most so many.
pub(super) fn prune(
    connection: &mut SqliteConnection,
    stream: &str,
    before: i64,
    at_most: u64,
) -> Result<(), StoreError> {
    sql_query(
        "DELETE FROM raw_events WHERE rowid IN (SELECT rowid FROM raw_events WHERE stream = ? AND ingest_time < ? \
         ORDER BY ingest_time LIMIT ?)",
    )
    .bind::<Text, _>(stream)
    .bind::<BigInt, _>(before)
    .bind::<BigInt, _>(at_most.cast_signed())
    .execute(connection)?;
    Ok(())
}
