//! Names and pieces of views that both stores use in SQL.

use std::ops::Range;

use super::image::object;
use super::{Column, Definition};
use crate::config::ColumnType;
use crate::window::WindowSpec;

/// What a window of the calendar is called: a column of its view, kept beside the fields of the group.
pub(super) const PERIOD: &str = "period";

/// The columns that each view begins with: where among them those are that are true or false.
pub(super) fn flags<'a>(mut columns: impl Iterator<Item = &'a str>) -> Range<usize> {
    let closed = columns.position(|column| column == "closed").unwrap_or_default();
    closed..closed + 3
}

/// Where the columns of the group begin, behind those that each view begins with.
pub(super) fn first_group_column<'a>(columns: impl Iterator<Item = &'a str>) -> usize {
    flags(columns).end + 1
}

/// The name of the view of the window next to close.
pub(super) fn now_name(pipeline: &str) -> String {
    format!("{pipeline}_now")
}

/// A name as SQL, whatever it holds.
pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// NULL before any event, which closes no window and opens none.
pub(super) fn watermark(pipeline: &str) -> String {
    format!("(SELECT watermark FROM checkpoints WHERE pipeline = {})", literal(pipeline))
}

/// Until when windows are of an older revision, and closed.
pub(super) fn kept_upto(pipeline: &str) -> String {
    format!("(SELECT kept_upto FROM checkpoints WHERE pipeline = {})", literal(pipeline))
}

/// Of sessions the newest of each group that is open, as SQL; of a definition whose windows are sessions.
pub(super) fn newest_sessions(definition: &dyn Definition) -> Option<String> {
    let Some(WindowSpec::Session { .. }) = definition.window() else { return None };
    let pipeline = definition.pipeline();
    let (whose, watermark, kept) = (literal(pipeline), watermark(pipeline), kept_upto(pipeline));
    Some(format!(
        "pipeline = {whose} AND (window_end, group_hash) IN (\n    \
         SELECT max(window_end), group_hash FROM window_results\n    \
         WHERE pipeline = {whose} AND window_end > {watermark} AND window_end > coalesce({kept}, window_end - 1)\n    \
         GROUP BY group_hash)"
    ))
}

/// What a view selects: the fixed columns, then the groups' and the values'. A store tells how it shows a time, a value as
/// its type, and what is false there.
pub(super) fn select_list(
    definition: &dyn Definition,
    time: fn(&str) -> String,
    typed: fn(&str, &Column) -> String,
    no: &str,
) -> String {
    let pipeline = definition.pipeline();
    let closed = format!(
        "(coalesce(window_end <= {}, {no}) OR coalesce(window_end <= {}, {no}))",
        watermark(pipeline),
        kept_upto(pipeline)
    );
    let mut fixed = vec![
        (time("window_start"), "window_start"),
        (time("window_end"), "window_end"),
        ("window_start".to_owned(), "window_start_ms"),
        (closed, "closed"),
        ("partial".to_owned(), "partial"),
        ("other".to_owned(), "other"),
        (time("revised_at"), "revised_at"),
    ];
    if let Some(WindowSpec::Calendar(_)) = definition.window() {
        let period = Column { name: PERIOD.to_owned(), sql_type: ColumnType::Text };
        fixed.insert(3, (typed("group_values", &period), PERIOD));
    }
    let groups = definition.group_columns();
    let own = definition.columns().into_iter().enumerate().map(|(index, column)| {
        let object = if index < groups { "group_values" } else { "result_values" };
        (typed(object, &column), column.name)
    });
    let fixed = fixed.into_iter().map(|(value, name)| (value, name.to_owned()));
    let lines: Vec<String> =
        fixed.chain(own).map(|(value, name)| format!("  {value} AS {}", identifier(&name))).collect();
    lines.join(",\n")
}

/// The values of no event at all, as SQL; of a definition without groups.
pub(super) fn empty_values(definition: &dyn Definition) -> String {
    let names: Vec<String> = definition.columns().into_iter().map(|column| column.name).collect();
    literal(&object(&names, &definition.empty_values()))
}
