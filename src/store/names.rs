//! Names and pieces of views that both stores use in SQL.

use std::ops::Range;

use super::image::object;
use super::{Column, Definition};

/// The columns that each view begins with.
pub(super) const FIXED: [&str; 7] =
    ["window_start", "window_end", "window_start_ms", "closed", "partial", "other", "revised_at"];

/// Those of them that are true or false.
pub(super) const FLAGS: Range<usize> = 3..6;

/// Behind the fixed columns come the groups'.
pub(super) const FIRST_GROUP_COLUMN: usize = FIXED.len();

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
    let fixed = [
        time("window_start"),
        time("window_end"),
        "window_start".to_owned(),
        closed,
        "partial".to_owned(),
        "other".to_owned(),
        time("revised_at"),
    ];
    let groups = definition.group_columns();
    let own = definition.columns().into_iter().enumerate().map(|(index, column)| {
        let object = if index < groups { "group_values" } else { "result_values" };
        (typed(object, &column), column.name)
    });
    let fixed = fixed.into_iter().zip(FIXED.map(str::to_owned));
    let lines: Vec<String> =
        fixed.chain(own).map(|(value, name)| format!("  {value} AS {}", identifier(&name))).collect();
    lines.join(",\n")
}

/// The values of no event at all, as SQL; of a definition without groups.
pub(super) fn empty_values(definition: &dyn Definition) -> String {
    let names: Vec<String> = definition.columns().into_iter().map(|column| column.name).collect();
    literal(&object(&names, &definition.empty_values()))
}
