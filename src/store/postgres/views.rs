//! The two typed views of a pipeline, as SQLite's are. No cast in them can fail: what does not fit a type becomes NULL.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text};
use sha2::{Digest, Sha256};

use super::connection::Connection;
use crate::config::ColumnType;
use crate::store::begin::hex;
use crate::store::names::{
    empty_values, identifier, kept_upto, literal, newest_sessions, now_name, select_list, watermark,
};
use crate::store::{Column, Definition, StoreError};

#[derive(QueryableByName)]
struct Object {
    #[diesel(sql_type = Text)]
    kind: String,
    #[diesel(sql_type = Nullable<Text>)]
    comment: Option<String>,
}

/// Makes both views, or makes them anew where their text has changed. What is not ours is never touched.
pub(super) fn ensure(connection: &mut Connection, schema: &str, definition: &dyn Definition) -> Result<(), StoreError> {
    let pipeline = definition.pipeline();
    for (name, text) in [(pipeline.to_owned(), view(definition)), (now_name(pipeline), now_view(definition))] {
        // The server keeps a view's meaning, not its text: the comment tells whether that has changed.
        let marker = format!("{}{}", marker(pipeline), hex(&Sha256::digest(&text)));
        let there: Option<Object> = sql_query(
            "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'r' THEN 'table' WHEN 'm' THEN 'materialized view' \
             ELSE 'relation' END AS kind, obj_description(c.oid, 'pg_class') AS comment \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
        )
        .bind::<Text, _>(schema)
        .bind::<Text, _>(&name)
        .get_result(connection)
        .optional()?;
        match there {
            None => {}
            Some(there) if there.comment.as_ref() == Some(&marker) => continue,
            Some(Object { kind, comment: Some(old) }) if kind == "view" && old.starts_with(&self::marker(pipeline)) => {
                sql_query(format!("DROP VIEW {}", identifier(&name))).execute(connection)?;
            }
            Some(Object { kind, .. }) => {
                return Err(StoreError::Refused(format!(
                    "the store has a {kind} {name:?} already that is not pipeline {pipeline:?}'s, which needs that name \
                     for a view: rename the pipeline, or rename or drop the {kind}"
                )));
            }
        }
        sql_query(text).execute(connection)?;
        sql_query(format!("COMMENT ON VIEW {} IS {}", identifier(&name), literal(&marker))).execute(connection)?;
    }
    Ok(())
}

/// Takes both views away, where they are the pipeline's.
pub(super) fn remove(connection: &mut Connection, schema: &str, pipeline: &str) -> Result<(), StoreError> {
    for name in [pipeline.to_owned(), now_name(pipeline)] {
        let ours: Option<Object> = sql_query(
            "SELECT 'view' AS kind, obj_description(c.oid, 'pg_class') AS comment \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'v'",
        )
        .bind::<Text, _>(schema)
        .bind::<Text, _>(&name)
        .get_result(connection)
        .optional()?;
        if ours.is_some_and(|view| view.comment.is_some_and(|comment| comment.starts_with(&marker(pipeline)))) {
            sql_query(format!("DROP VIEW {}", identifier(&name))).execute(connection)?;
        }
    }
    Ok(())
}

/// By this a view is known for the pipeline's.
fn marker(pipeline: &str) -> String {
    format!("made by tidemill for pipeline {pipeline}: ")
}

fn view(definition: &dyn Definition) -> String {
    let pipeline = definition.pipeline();
    format!(
        "CREATE VIEW {} AS\nSELECT\n{}\nFROM window_results\nWHERE pipeline = {}",
        identifier(pipeline),
        columns(definition),
        literal(pipeline)
    )
}

fn now_view(definition: &dyn Definition) -> String {
    let pipeline = definition.pipeline();
    let whose = literal(pipeline);
    let (watermark, kept) = (watermark(pipeline), kept_upto(pipeline));
    let next = format!(
        "SELECT min(window_end) FROM window_results\n    \
         WHERE pipeline = {whose} AND window_end > {watermark} AND window_start <= {watermark}\n    \
         AND window_end > coalesce({kept}, window_end - 1)"
    );
    let shown = newest_sessions(definition).unwrap_or_else(|| {
        format!("pipeline = {whose} AND window_start <= {watermark} AND window_end = (\n    {next})")
    });
    let mut source = format!(
        "  SELECT window_start, window_end, partial, other, revised_at, group_values, result_values\n  \
         FROM window_results\n  WHERE {shown}"
    );
    if definition.group_columns() == 0 {
        let empty = empty_values(definition);
        source.push_str(&format!(
            "\n  UNION ALL\n  SELECT NULL::bigint, NULL::bigint, false, false, NULL::bigint, '{{}}'::json, {empty}::json\n  \
             WHERE NOT EXISTS (SELECT 1 FROM window_results WHERE {shown})"
        ));
    }
    format!(
        "CREATE VIEW {} AS\nSELECT\n{}\nFROM (\n{source}\n) AS next",
        identifier(&now_name(pipeline)),
        columns(definition)
    )
}

fn columns(definition: &dyn Definition) -> String {
    select_list(definition, time, typed, "false")
}

/// Milliseconds of a day.
const DAY: &str = "86400000";

/// Unix ms as timestamptz. By days and the rest of one, since an interval is multiplied as a float.
fn time(ms: &str) -> String {
    format!(
        "((timestamp 'epoch' + make_interval(days => ({ms} / {DAY})::int) \
         + ({ms} % {DAY}) * interval '1 millisecond') AT TIME ZONE 'UTC')"
    )
}

/// A value of a JSON object, as the column's static type.
fn typed(object: &str, column: &Column) -> String {
    let name = literal(&column.name);
    let kind = format!("json_typeof({object} -> {name})");
    let value = format!("({object} ->> {name})");
    let digits = format!("{kind} = 'string' AND {value} ~ '^-?[0-9]{{1,60}}$'");
    match column.sql_type {
        // Text as it is; of all else its JSON: 200, true, {"a":1}.
        ColumnType::Text => value,
        ColumnType::BigInt => format!(
            "CASE WHEN {kind} = 'number' THEN CASE WHEN trunc({value}::numeric) \
             BETWEEN -9223372036854775808 AND 9223372036854775807 THEN trunc({value}::numeric)::bigint END END"
        ),
        // Whole numbers beyond 64 bits come as text of digits.
        ColumnType::Numeric => format!("CASE WHEN {kind} = 'number' OR {digits} THEN {value}::numeric END"),
        ColumnType::Double => format!("CASE WHEN {kind} = 'number' OR {digits} THEN {value}::double precision END"),
        ColumnType::Bool => format!("CASE WHEN {kind} = 'boolean' THEN {value}::boolean END"),
        // By parts, each of which is digits: even the 31st of February becomes a day.
        ColumnType::Time => {
            let part = |from: u8, length: u8| format!("substr({value}, {from}, {length})::int");
            format!(
                "CASE WHEN {value} ~ '^\\d{{4}}-\\d\\d-\\d\\d \\d\\d:\\d\\d:\\d\\d(\\.\\d{{1,6}})?$' THEN \
                 (timestamp '0001-01-01' + make_interval({} - 1, {} - 1, 0, {} - 1, {}, {}, \
                 substr({value}, 18)::double precision)) AT TIME ZONE 'UTC' END",
                part(1, 4),
                part(6, 2),
                part(9, 2),
                part(12, 2),
                part(15, 2)
            )
        }
    }
}
