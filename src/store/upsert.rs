//! The two statements that a flush runs for each row and each pane.
//!
//! They are written out here because diesel's own `ON CONFLICT … DO UPDATE` is never kept as a prepared statement:
//! SQLite would parse it again for each row (measured: four times the time of a flush).

use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, RunQueryDsl, SqliteConnection};

/// Makes the row of a group in a window, or replaces it.
pub(super) struct UpsertRow<'a> {
    pub(super) pipeline: &'a str,
    pub(super) window_start: i64,
    pub(super) window_end: i64,
    pub(super) group_hash: &'a [u8],
    pub(super) group_key: &'a [u8],
    pub(super) group_values: &'a str,
    pub(super) result_values: &'a str,
    pub(super) events: i64,
    pub(super) partial: bool,
    pub(super) revised_at: Option<i64>,
    pub(super) state: &'a [u8],
}

impl QueryFragment<Sqlite> for UpsertRow<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql(
            "INSERT INTO window_results (pipeline, window_start, window_end, group_hash, group_key, group_values, \
             result_values, events, partial, revised_at, state) VALUES (",
        );
        out.push_bind_param::<Text, _>(self.pipeline)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.window_start)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.window_end)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.group_hash)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.group_key)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.group_values)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(self.result_values)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.events)?;
        out.push_sql(", ");
        out.push_bind_param::<Bool, _>(&self.partial)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<BigInt>, _>(&self.revised_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.state)?;
        out.push_sql(
            ") ON CONFLICT (pipeline, window_start, window_end, group_hash) DO UPDATE SET \
             result_values = excluded.result_values, events = excluded.events, partial = excluded.partial, \
             revised_at = excluded.revised_at, state = excluded.state",
        );
        Ok(())
    }
}

impl QueryId for UpsertRow<'_> {
    type QueryId = UpsertRow<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for UpsertRow<'_> {}

/// Makes the state of a group in a pane, or replaces it.
pub(super) struct UpsertPane<'a> {
    pub(super) pipeline: &'a str,
    pub(super) pane_start: i64,
    pub(super) group_hash: &'a [u8],
    pub(super) group_key: &'a [u8],
    pub(super) state: &'a [u8],
}

impl QueryFragment<Sqlite> for UpsertPane<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        out.push_sql("INSERT INTO pane_states (pipeline, pane_start, group_hash, group_key, state) VALUES (");
        out.push_bind_param::<Text, _>(self.pipeline)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.pane_start)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.group_hash)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.group_key)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(self.state)?;
        out.push_sql(") ON CONFLICT (pipeline, pane_start, group_hash) DO UPDATE SET state = excluded.state");
        Ok(())
    }
}

impl QueryId for UpsertPane<'_> {
    type QueryId = UpsertPane<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for UpsertPane<'_> {}
