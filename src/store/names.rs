//! Names that both stores use in SQL.

use std::ops::Range;

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
