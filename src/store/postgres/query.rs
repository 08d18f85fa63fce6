//! Reads rows of a pipeline's view.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use serde_json::{Map, Value};

use super::connection::Connection;
use super::plain::known_pipeline;
use crate::store::names::{first_group_column, identifier, literal, now_name};
use crate::store::{Query, ResultRows, StoreError};

#[derive(QueryableByName)]
struct ColumnOfView {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    kind: String,
}

#[derive(QueryableByName)]
struct AsJson {
    #[diesel(sql_type = Text)]
    row: String,
}

/// The latest windows first, then by group.
pub(super) fn rows(
    connection: &mut Connection,
    schema: &str,
    pipeline: &str,
    query: &Query,
) -> Result<ResultRows, StoreError> {
    known_pipeline(connection, pipeline)?;
    let view = if query.now { now_name(pipeline) } else { pipeline.to_owned() };
    let relation = format!("{}.{}", identifier(schema), identifier(&view));
    let columns: Vec<ColumnOfView> = sql_query(
        "SELECT attname::text AS name, format_type(atttypid, NULL) AS kind FROM pg_attribute \
         WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
    )
    .bind::<Text, _>(&relation)
    .load(connection)?;
    let rows: Vec<AsJson> = sql_query(select(&relation, &columns, query)).load(connection)?;
    let columns: Vec<String> = columns.into_iter().map(|column| column.name).collect();
    let parse = |row: AsJson| {
        let row: Result<Map<String, Value>, _> = serde_json::from_str(&row.row);
        let mut row = row.map_err(|error| StoreError::Refused(format!("a row is no JSON: {error}")))?;
        Ok(columns.iter().map(|column| row.remove(column).unwrap_or_default()).collect())
    };
    let rows = rows.into_iter().map(parse).collect::<Result<_, StoreError>>()?;
    Ok(ResultRows { columns, rows, next: None })
}

fn select(relation: &str, columns: &[ColumnOfView], query: &Query) -> String {
    let values: Vec<String> = columns.iter().map(shown).collect();
    let mut sql =
        format!("SELECT row_to_json(q)::text AS row FROM (SELECT {} FROM {relation} WHERE true", values.join(", "));
    if let Some(from) = query.from {
        sql.push_str(&format!(" AND window_start_ms >= {from}"));
    }
    if let Some(to) = query.to {
        sql.push_str(&format!(" AND window_start_ms < {to}"));
    }
    sql.push_str(" ORDER BY window_start_ms DESC NULLS LAST");
    let first = first_group_column(columns.iter().map(|column| column.name.as_str()));
    for column in columns.iter().skip(first) {
        // By bytes, as SQLite orders, and not by the database's language.
        let collation = if column.kind == "text" { " COLLATE \"C\"" } else { "" };
        sql.push_str(&format!(", {}{collation} NULLS FIRST", identifier(&column.name)));
    }
    sql.push_str(&format!(" LIMIT {}) AS q", i64::try_from(query.limit).unwrap_or(i64::MAX)));
    sql
}

/// Times look as SQLite shows them.
fn shown(column: &ColumnOfView) -> String {
    let name = identifier(&column.name);
    if column.kind != "timestamp with time zone" {
        return name;
    }
    let text = |format: &str| format!("to_char({name} AT TIME ZONE 'UTC', {})", literal(format));
    format!(
        "CASE WHEN date_trunc('second', {name}) = {name} THEN {} ELSE {} END AS {name}",
        text("YYYY-MM-DD HH24:MI:SS"),
        text("YYYY-MM-DD HH24:MI:SS.MS")
    )
}
