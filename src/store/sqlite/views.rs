//! The two typed views of a pipeline: `<name>` with all rows, `<name>_now` with those of the window next to close.
//!
//! Rows hold their group and their values as JSON, so that a table's shape never follows a config; the view gives each
//! column its name and its static type. No cast in it can fail: what does not fit a type becomes NULL.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text};

use crate::config::ColumnType;
use crate::store::names::{
    empty_values, identifier, kept_upto, literal, newest_sessions, now_name, select_list, watermark,
};
use crate::store::{Column, Definition, StoreError};

#[derive(QueryableByName)]
struct Object {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Text>)]
    text: Option<String>,
}

/// Makes both views, or makes them anew where their text has changed. What is not ours is never touched.
pub(super) fn ensure(connection: &mut SqliteConnection, definition: &dyn Definition) -> Result<(), StoreError> {
    let pipeline = definition.pipeline();
    for (name, text) in [(pipeline.to_owned(), view(definition)), (now_name(pipeline), now_view(definition))] {
        // SQLite's names do not tell case apart.
        let there: Option<Object> = sql_query(
            "SELECT name, type AS kind, sql AS text FROM sqlite_master WHERE name = ? COLLATE NOCASE LIMIT 1",
        )
        .bind::<Text, _>(&name)
        .get_result(connection)
        .optional()?;
        match there {
            None => {}
            Some(there) if there.text.as_ref() == Some(&text) => continue,
            Some(Object { kind, text: Some(old), .. }) if kind == "view" && old.contains(&marker(pipeline)) => {
                sql_query(format!("DROP VIEW {}", identifier(&name))).execute(connection)?;
            }
            Some(Object { name: there, kind, .. }) => {
                return Err(StoreError::Refused(format!(
                    "the store has a {kind} {there:?} already that is not pipeline {pipeline:?}'s, which needs that \
                     name for a view: rename the pipeline, or rename or drop the {kind}"
                )));
            }
        }
        sql_query(text).execute(connection)?;
    }
    Ok(())
}

/// Takes both views away, where they are the pipeline's.
pub(super) fn remove(connection: &mut SqliteConnection, pipeline: &str) -> Result<(), StoreError> {
    for name in [pipeline.to_owned(), now_name(pipeline)] {
        let ours: Option<Object> = sql_query(
            "SELECT name, type AS kind, sql AS text FROM sqlite_master WHERE type = 'view' AND name = ? LIMIT 1",
        )
        .bind::<Text, _>(&name)
        .get_result(connection)
        .optional()?;
        if ours.is_some_and(|view| view.text.is_some_and(|text| text.contains(&marker(pipeline)))) {
            sql_query(format!("DROP VIEW {}", identifier(&name))).execute(connection)?;
        }
    }
    Ok(())
}

/// By this a view is known for the pipeline's.
fn marker(pipeline: &str) -> String {
    format!("/* made by tidemill for pipeline {pipeline} */")
}

fn view(definition: &dyn Definition) -> String {
    let pipeline = definition.pipeline();
    format!(
        "CREATE VIEW {} AS {}\nSELECT\n{}\nFROM window_results\nWHERE pipeline = {}",
        identifier(pipeline),
        marker(pipeline),
        columns(definition),
        literal(pipeline)
    )
}

fn now_view(definition: &dyn Definition) -> String {
    let pipeline = definition.pipeline();
    let whose = literal(pipeline);
    let (watermark, kept) = (watermark(pipeline), kept_upto(pipeline));
    // The plus keeps SQLite from walking all windows that have begun, which are all there ever were.
    let next = format!(
        "SELECT min(window_end) FROM window_results\n    \
         WHERE pipeline = {whose} AND window_end > {watermark} AND +window_start <= {watermark}\n    \
         AND window_end > coalesce({kept}, window_end - 1)"
    );
    let shown = newest_sessions(definition).unwrap_or_else(|| {
        format!("pipeline = {whose} AND +window_start <= {watermark} AND window_end = (\n    {next})")
    });
    let mut source = format!(
        "  SELECT window_start, window_end, partial, other, revised_at, group_values, result_values\n  \
         FROM window_results\n  WHERE {shown}"
    );
    if definition.group_columns() == 0 {
        let empty = empty_values(definition);
        source.push_str(&format!(
            "\n  UNION ALL\n  SELECT NULL, NULL, 0, 0, NULL, '{{}}', {empty}\n  \
             WHERE NOT EXISTS (SELECT 1 FROM window_results WHERE {shown})"
        ));
    }
    format!(
        "CREATE VIEW {} AS {}\nSELECT\n{}\nFROM (\n{source}\n)",
        identifier(&now_name(pipeline)),
        marker(pipeline),
        columns(definition)
    )
}

fn columns(definition: &dyn Definition) -> String {
    select_list(definition, time_text, typed, "0")
}

/// Unix ms as `YYYY-MM-DD HH:MM:SS[.mmm]`, UTC; also before 1970, where `%` is negative.
fn time_text(ms: &str) -> String {
    let rest = format!("({ms} % 1000 + 1000) % 1000");
    format!(
        "datetime(({ms} - {rest}) / 1000, 'unixepoch') || \
         CASE {ms} % 1000 WHEN 0 THEN '' ELSE printf('.%03d', {rest}) END"
    )
}

/// A value of a JSON object, as the column's static type.
fn typed(object: &str, column: &Column) -> String {
    let path = literal(&format!("$.\"{}\"", column.name));
    let kind = format!("json_type({object}, {path})");
    let value = format!("json_extract({object}, {path})");
    match column.sql_type {
        // Text as it is; of all else its JSON: 200, true, {"a":1}.
        ColumnType::Text => {
            format!("CASE {kind} WHEN 'text' THEN {value} WHEN 'null' THEN NULL ELSE {object} -> {path} END")
        }
        ColumnType::BigInt => format!("CASE WHEN {kind} IN ('integer', 'real') THEN CAST({value} AS INTEGER) END"),
        // Whole numbers beyond 64 bits come as text of digits.
        ColumnType::Numeric => {
            format!(
                "CASE WHEN {kind} IN ('integer', 'real') THEN {value} WHEN {kind} = 'text' THEN CAST({value} AS REAL) END"
            )
        }
        ColumnType::Double => format!("CASE WHEN {kind} IN ('integer', 'real', 'text') THEN CAST({value} AS REAL) END"),
        ColumnType::Bool => format!("CASE {kind} WHEN 'true' THEN 1 WHEN 'false' THEN 0 END"),
        ColumnType::Time => {
            format!("CASE {kind} WHEN 'integer' THEN {} WHEN 'text' THEN {value} END", time_text(&value))
        }
    }
}
