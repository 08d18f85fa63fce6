//! Reads rows of a pipeline's view.

use std::ops::Range;

use diesel::deserialize::{self, FromSql};
use diesel::prelude::*;
use diesel::row::{Field, NamedRow, Row};
use diesel::sql_query;
use diesel::sql_types::{BigInt, Double, Text};
use diesel::sqlite::{Sqlite, SqliteType, SqliteValue};
use serde_json::{Number, Value};

use super::plain::known_pipeline;
use crate::store::names::{first_group_column, flags, identifier, now_name};
use crate::store::{Query, ResultRows, StoreError};

/// A row of any shape: a view's columns follow the config, and SQLite knows the type of each value.
struct AnyRow(Vec<Value>);

impl QueryableByName<Sqlite> for AnyRow {
    fn build<'a>(row: &impl NamedRow<'a, Sqlite>) -> deserialize::Result<Self> {
        let mut values = Vec::with_capacity(row.field_count());
        for index in 0..row.field_count() {
            let Some(field) = Row::get(row, index) else { return Err("a row has fewer columns than it says".into()) };
            values.push(field.value().map_or(Ok(Value::Null), any_value)?);
        }
        Ok(Self(values))
    }
}

fn any_value(value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Value> {
    Ok(match value.value_type() {
        None => Value::Null,
        Some(SqliteType::Double | SqliteType::Float) => {
            Number::from_f64(<f64 as FromSql<Double, Sqlite>>::from_sql(value)?).map_or(Value::Null, Value::Number)
        }
        Some(SqliteType::SmallInt | SqliteType::Integer | SqliteType::Long) => {
            <i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?.into()
        }
        Some(SqliteType::Text | SqliteType::Binary) => <String as FromSql<Text, Sqlite>>::from_sql(value)?.into(),
    })
}

#[derive(QueryableByName)]
struct ColumnName {
    #[diesel(sql_type = Text)]
    name: String,
}

/// The latest windows first, then by group.
pub(super) fn rows(connection: &mut SqliteConnection, pipeline: &str, query: &Query) -> Result<ResultRows, StoreError> {
    // One transaction: columns and rows are of the same view, although another process may be making it anew.
    connection.transaction(|connection| {
        known_pipeline(connection, pipeline)?;
        let view = if query.now { now_name(pipeline) } else { pipeline.to_owned() };
        let columns: Vec<ColumnName> =
            sql_query("SELECT name FROM pragma_table_info(?) ORDER BY cid").bind::<Text, _>(&view).load(connection)?;
        let mut sql = format!("SELECT * FROM {} WHERE TRUE", identifier(&view));
        if let Some(from) = query.from {
            sql.push_str(&format!(" AND window_start_ms >= {from}"));
        }
        if let Some(to) = query.to {
            sql.push_str(&format!(" AND window_start_ms < {to}"));
        }
        sql.push_str(" ORDER BY window_start_ms DESC");
        let names = || columns.iter().map(|column| column.name.as_str());
        for column in columns.iter().skip(first_group_column(names())) {
            sql.push_str(&format!(", {}", identifier(&column.name)));
        }
        sql.push_str(&format!(" LIMIT {}", i64::try_from(query.limit).unwrap_or(i64::MAX)));
        let rows: Vec<AnyRow> = sql_query(sql).load(connection)?;
        let flags = flags(names());
        Ok(ResultRows {
            columns: columns.into_iter().map(|column| column.name).collect(),
            rows: rows.into_iter().map(|AnyRow(values)| with_flags(values, flags.clone())).collect(),
            next: None,
        })
    })
}

/// SQLite has no truth values: the flags of a row are 0 and 1 there.
fn with_flags(mut row: Vec<Value>, flags: Range<usize>) -> Vec<Value> {
    for value in &mut row[flags] {
        *value = Value::Bool(*value == 1);
    }
    row
}
