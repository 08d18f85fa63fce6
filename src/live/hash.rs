//! How a row is named in Redis, and what its hash holds.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use crate::actors::LiveFeed;
use crate::store::LiveRow;

/// What stands for a group's field that is NULL. No text is written so: U+0000 cannot be in one.
const NULL: &str = "%00";

/// Where the keys of a row are published.
pub(super) fn channel(pipeline: &str) -> String {
    format!("tidemill:{pipeline}")
}

/// The key of a group in a window: `tidemill:<pipeline>:<window start, unix ms>:<group values joined by ":">`. Without
/// `group_by` it ends with the colon.
pub(super) fn key(feed: &LiveFeed, window_start: i64, group: &str) -> String {
    let mut key = format!("{}:{window_start}:", channel(&feed.pipeline));
    let group = object(group);
    for (index, name) in feed.group_by.iter().enumerate() {
        if index > 0 {
            key.push(':');
        }
        match group.get(name).and_then(text) {
            Some(text) => percent_encode(&text, &mut key),
            None => key.push_str(NULL),
        }
    }
    key
}

/// When the window of a key begins, unix ms.
pub(super) fn window_start(pipeline: &str, key: &str) -> Option<i64> {
    let rest = key.strip_prefix(&channel(pipeline))?.strip_prefix(':')?;
    rest.split_once(':')?.0.parse().ok()
}

/// The fields of a row's hash: its aggregates, but for those that are NULL. A row that is none any more has none.
pub(super) fn fields(row: &LiveRow) -> Vec<(String, String)> {
    let values = row.values.as_deref().map(object).unwrap_or_default();
    values.into_iter().filter_map(|(name, value)| Some((name, text(&value)?))).collect()
}

/// What the store has made is an object.
fn object(json: &str) -> Map<String, Value> {
    serde_json::from_str(json).unwrap_or_default()
}

/// Text as it is, of all else its JSON; NULL is none.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        other => Some(other.to_string()),
    }
}

/// All but the unreserved characters of RFC 3986.
fn percent_encode(text: &str, into: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(into, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::LiveRows;

    fn feed(group_by: &[&str]) -> LiveFeed {
        LiveFeed {
            pipeline: "p".to_owned(),
            group_by: group_by.iter().map(|name| (*name).to_owned()).collect(),
            sessions: false,
            ttl_ms: 1,
            rows: Arc::new(LiveRows::new(Arc::default())),
        }
    }

    #[test]
    fn a_key_tells_groups_apart_and_can_be_taken_to_pieces() {
        let two = feed(&["path", "host"]);
        for (group, ends) in [
            (r#"{"path":"/a b:c%?é","host":"x-1_2.~"}"#, "%2Fa%20b%3Ac%25%3F%C3%A9:x-1_2.~"),
            (r#"{"host":200,"path":true}"#, "true:200"),
            (r#"{"path":null,"host":""}"#, "%00:"),
            (r#"{"path":"","host":null}"#, ":%00"),
            (r#"{"path":"%00","host":1.5}"#, "%2500:1.5"),
        ] {
            assert_eq!(key(&two, -5, group), format!("tidemill:p:-5:{ends}"));
        }
        // The period of a calendar window is no field of the group.
        assert_eq!(key(&feed(&[]), 60_000, r#"{"period":"2026-11"}"#), "tidemill:p:60000:");
        assert_eq!(window_start("p", "tidemill:p:-5:a:b"), Some(-5));
        for other in ["tidemill:q:5:", "tidemill:p:x:", "tidemill:p:5", "tidemill:pp:5:"] {
            assert_eq!(window_start("p", other), None, "{other}");
        }
    }

    #[test]
    fn a_hash_holds_each_aggregate_that_is_not_null() {
        let values = r#"{"n":3,"avg":0.1,"last":"a\"b","max":null,"big":"123456789012345678901","is":false}"#;
        let mut row = LiveRow { window_start: 0, group: "{}".to_owned(), values: Some(values.to_owned()) };
        let mut shown = fields(&row);
        shown.sort();
        let shown: Vec<_> = shown.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected =
            [("avg", "0.1"), ("big", "123456789012345678901"), ("is", "false"), ("last", "a\"b"), ("n", "3")];
        assert_eq!(shown, expected);
        row.values = None;
        assert!(fields(&row).is_empty());
    }
}
