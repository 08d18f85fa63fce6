//! Rows as people and spreadsheets read them. Text in them comes from events, that is from strangers: it must not be
//! able to steer a terminal or to be a formula.

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table};
use serde_json::Value;

/// Text with everything that could steer a terminal spelt out: `\u{1b}`.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unsafe(c) {
            escaped.extend(c.escape_unicode());
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// Control characters, and those that turn the direction of what follows.
fn is_unsafe(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value as a cell shows it.
pub(super) fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::new("NULL"),
        Value::String(text) => Cell::new_owned(escape(text)),
        Value::Number(_) => Cell::new(value).set_alignment(CellAlignment::Right),
        other => Cell::new_owned(escape(&other.to_string())),
    }
}

/// A table that fits the terminal.
pub(super) fn table<H: AsRef<str>>(columns: &[H], rows: impl IntoIterator<Item = Vec<Cell>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|column| Cell::new_owned(escape(column.as_ref()))));
    table.add_rows(rows);
    table
}

/// One record of CSV (RFC 4180) with its line end; NULL is empty, an empty text is `""`.
pub(super) fn csv_record<'a>(fields: impl IntoIterator<Item = &'a Value>) -> String {
    let fields: Vec<String> = fields.into_iter().map(csv_field).collect();
    fields.join(",") + "\r\n"
}

fn csv_field(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => csv_text(text),
        Value::Array(_) | Value::Object(_) => csv_text(&value.to_string()),
        plain => plain.to_string(),
    }
}

fn csv_text(text: &str) -> String {
    // A spreadsheet would compute such a text; an apostrophe before it makes it text again.
    let is_formula =
        text.len() > 1 && text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    let guard = if is_formula { "'" } else { "" };
    if text.is_empty() || text.contains(['"', ',', '\r', '\n']) {
        format!("\"{guard}{}\"", text.replace('"', "\"\""))
    } else {
        format!("{guard}{text}")
    }
}

/// A row as one JSON object, its keys in the order of the columns.
pub(super) fn json_object(columns: &[String], row: &[Value]) -> String {
    let mut object = String::from("{");
    for (index, (column, value)) in columns.iter().zip(row).enumerate() {
        if index > 0 {
            object.push(',');
        }
        object.push_str(&json_text(&Value::from(column.as_str())));
        object.push(':');
        object.push_str(&json_text(value));
    }
    object.push('}');
    object
}

/// JSON that is safe on a terminal: what JSON itself leaves as it is, is escaped, too.
pub(super) fn json_text(value: &Value) -> String {
    let mut safe = String::new();
    for c in value.to_string().chars() {
        if is_unsafe(c) {
            safe.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            safe.push(c);
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn text_cannot_steer_a_terminal() {
        assert_eq!(escape("grün\x1b[2J\u{9b}1m\u{202e}\n"), r"grün\u{1b}[2J\u{9b}1m\u{202e}\u{a}");
        assert_eq!(json_text(&json!("\x1b\u{9b}ü\u{202e}")), r#""\u001b\u009bü\u202e""#);
        let shown = table(&["na\x07me"], [vec![cell(&json!("a\x1b[31m"))]]).to_string();
        assert!(!shown.contains(['\x1b', '\x07']) && shown.contains(r"a\u{1b}[31m"), "{shown}");
    }

    #[test]
    fn csv_is_rfc_4180() {
        let row = json!(["a,b", "say \"hi\"", "two\r\nlines", "", null, 1.5, true, {"k": 1}, "plain"]);
        let record = csv_record(row.as_array().unwrap_or(&Vec::new()));
        let expected = "\"a,b\",\"say \"\"hi\"\"\",\"two\r\nlines\",\"\",,1.5,true,\"{\"\"k\"\":1}\",plain\r\n";
        assert_eq!(record, expected);
    }

    #[test]
    fn a_spreadsheet_computes_nothing() {
        let row = json!(["=1+1", "@SUM(A1),x", "-", "-5", "+3.5e2", "-x"]);
        let record = csv_record(row.as_array().unwrap_or(&Vec::new()));
        assert_eq!(record, "'=1+1,\"'@SUM(A1),x\",-,-5,+3.5e2,'-x\r\n");
    }

    #[test]
    fn objects_keep_the_order_of_the_columns() {
        let columns = ["window_start", "path", "a\"b"].map(str::to_owned);
        let object = json_object(&columns, &[json!("2026-01-01"), json!(null), json!(3)]);
        assert_eq!(object, r#"{"window_start":"2026-01-01","path":null,"a\"b":3}"#);
    }
}
