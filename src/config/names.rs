//! Names: which are valid, and which one was meant.

/// Bytes of a name of a stream, pipeline, aggregate or group column.
const NAME_BYTES_MAX: usize = 48;

/// Names that a stream, pipeline, aggregate or group column cannot have: tables, and columns that each view has.
const RESERVED: [&str; 16] = [
    "pipelines",
    "window_results",
    "pane_states",
    "checkpoints",
    "dead_letters",
    "raw_events",
    "alerts",
    "window_start",
    "window_end",
    "window_start_ms",
    "period",
    "closed",
    "partial",
    "other",
    "revised_at",
    // Where diesel notes which migrations ran.
    "__diesel_schema_migrations",
];

/// Why a text cannot be the name of something, if it cannot.
pub(super) fn fault(name: &str) -> Option<String> {
    if !matches_pattern(name) {
        return Some("a name of the form [a-z_][a-z0-9_]{0,47}".to_owned());
    }
    // SQLite refuses tables and views whose names begin so.
    if RESERVED.contains(&name) || name.starts_with("sqlite_") {
        return Some("another name: this one is reserved for tidemill's own tables and columns".to_owned());
    }
    None
}

/// `[a-z_][a-z0-9_]{0,47}`
pub(super) fn matches_pattern(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|first| first.is_ascii_lowercase() || *first == b'_')
        && bytes.len() <= NAME_BYTES_MAX
        && bytes.iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_')
}

/// The name that was probably meant.
pub fn nearest<'a>(given: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = given.to_lowercase();
    let allowed = 1 + given.chars().count() / 4;
    valid
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&folded, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.chars().count())
        .min()
        .map(|(_, name)| name)
}

/// `nearest` as a question.
pub(super) fn did_you_mean<'a>(given: &str, valid: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(given, valid).map(|name| format!("did you mean `{name}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_contract() {
        for good in ["a", "_", "page_views", "x1", &"a".repeat(48)] {
            assert_eq!(fault(good), None, "{good}");
        }
        for bad in ["", "1a", "Page", "a-b", "a.b", "é", &"a".repeat(49), "alerts", "closed", "sqlite_x"] {
            assert!(fault(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn the_nearest_name_is_one_that_was_probably_meant() {
        let keys = ["delay", "idle", "late", "stream", "group_by"];
        assert_eq!(nearest("steam", keys), Some("stream"));
        assert_eq!(nearest("groupby", keys), Some("group_by"));
        assert_eq!(nearest("DELAY", keys), Some("delay"));
        assert_eq!(nearest("zzz", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
