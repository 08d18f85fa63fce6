//! The two statements that a flush runs for each row and each pane.
//!
//! They are written out here because diesel's own `ON CONFLICT … DO UPDATE` is never kept as a prepared statement:
//! SQLite would parse it again for each row (measured: four times the time of a flush).

use diesel::query_builder::{AstPass, QueryFragment, QueryId};
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};
use diesel::sqlite::Sqlite;
use diesel::{QueryResult, RunQueryDsl, SqliteConnection};

use crate::store::image::{PaneImage, RowImage};

/// Makes the row of a group in a window, or replaces it.
pub(super) struct UpsertRow<'a> {
    pub(super) pipeline: &'a str,
    pub(super) revision: i64,
    pub(super) row: &'a RowImage,
}

impl QueryFragment<Sqlite> for UpsertRow<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let row = self.row;
        out.push_sql(
            "INSERT INTO window_results (pipeline, window_start, window_end, group_hash, group_key, group_values, \
             result_values, events, other, partial, revised_at, state, revision) VALUES (",
        );
        out.push_bind_param::<Text, _>(self.pipeline)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&row.key.window_start)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&row.key.window_end)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&row.key.group_hash[..])?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&row.group_key[..])?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(&row.group_values)?;
        out.push_sql(", ");
        out.push_bind_param::<Text, _>(&row.result_values)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&row.events)?;
        out.push_sql(", ");
        out.push_bind_param::<Bool, _>(&row.other)?;
        out.push_sql(", ");
        out.push_bind_param::<Bool, _>(&row.partial)?;
        out.push_sql(", ");
        out.push_bind_param::<Nullable<BigInt>, _>(&row.revised_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&row.state)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&self.revision)?;
        out.push_sql(
            ") ON CONFLICT (pipeline, window_start, window_end, group_hash) DO UPDATE SET \
             group_values = excluded.group_values, result_values = excluded.result_values, events = excluded.events, \
             partial = excluded.partial, revised_at = excluded.revised_at, state = excluded.state, \
             revision = excluded.revision",
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
    pub(super) pane: &'a PaneImage,
}

impl QueryFragment<Sqlite> for UpsertPane<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Sqlite>) -> QueryResult<()> {
        let pane = self.pane;
        out.push_sql("INSERT INTO pane_states (pipeline, pane_start, group_hash, group_key, state) VALUES (");
        out.push_bind_param::<Text, _>(self.pipeline)?;
        out.push_sql(", ");
        out.push_bind_param::<BigInt, _>(&pane.pane_start)?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&pane.group_hash[..])?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&pane.group_key[..])?;
        out.push_sql(", ");
        out.push_bind_param::<Binary, _>(&pane.state)?;
        out.push_sql(") ON CONFLICT (pipeline, pane_start, group_hash) DO UPDATE SET state = excluded.state");
        Ok(())
    }
}

impl QueryId for UpsertPane<'_> {
    type QueryId = UpsertPane<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl RunQueryDsl<SqliteConnection> for UpsertPane<'_> {}
