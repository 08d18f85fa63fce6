//! Tables of expressions: what stands in a row, what comes out.

use super::*;
use crate::event::{Fault, Position};

mod oracle;
mod syntax;
mod values;

/// A row of fixed values; slots are handed out in the order of `FIELDS`.
pub(super) struct TestRow;

/// Every field that tests use, and what it holds.
pub(super) fn field(name: &str) -> Option<Result<Value<'static>, Fault>> {
    Some(Ok(match name {
        "nothing" => Value::Null,
        "yes" => Value::Bool(true),
        "no" => Value::Bool(false),
        "status" => Value::Int(200),
        "zero" => Value::Int(0),
        "big" => Value::Int(i64::MAX),
        "small" => Value::Int(i64::MIN),
        "half" => Value::Float(0.5),
        "huge" => Value::Float(1e308),
        "url" => Value::text("/Shop/Item?id=7&x=ä"),
        "word" => Value::text("abc"),
        "Word" => Value::text("another field"),
        "digits" => Value::text(" 42 "),
        "user.country" => Value::text("DE"),
        "items[0].sku" => Value::text("A-1"),
        "\"odd name\".\"a\"\"b\"" => Value::text("odd"),
        "list" => Value::Json(r#"[{"sku":"B-2","n":3,"f":1.5,"deep":{"x":[true,null]}},"text"]"#.into()),
        "at" => Value::Time(1_700_000_000_123),
        "broken" => return Some(Err(Fault::Surrogate)),
        _ => return None,
    }))
}

const FIELDS: [&str; 19] = [
    "nothing",
    "yes",
    "no",
    "status",
    "zero",
    "big",
    "small",
    "half",
    "huge",
    "url",
    "word",
    "Word",
    "digits",
    "user.country",
    "items[0].sku",
    "\"odd name\".\"a\"\"b\"",
    "list",
    "at",
    "broken",
];

impl Row for TestRow {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        field(FIELDS[slot]).expect("the scope gives out no other slots")
    }

    fn event_time(&self) -> i64 {
        1_700_000_000_123
    }

    fn ingest_time(&self) -> i64 {
        1_700_000_005_000
    }

    fn position(&self) -> Position {
        7
    }

    fn producer(&self) -> Option<&str> {
        Some("shop-1")
    }
}

/// Knows `FIELDS`; what lies in `list` is reached by the rest of the path, and `at` is known to be a timestamp.
pub(super) struct TestScope;

impl Scope for TestScope {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        let find = |name: &str| FIELDS.iter().position(|known| *known == name);
        if let Some(slot) = find(&field.to_string()) {
            let sql_type = if FIELDS[slot] == "at" { SqlType::Time } else { SqlType::Any };
            return Ok(Resolved { slot, rest: Vec::new(), sql_type });
        }
        if let Some(slot) = find(field.root()).filter(|slot| FIELDS[*slot] == "list" || FIELDS[*slot] == "word") {
            return Ok(Resolved { slot, rest: field.steps()[1..].to_vec(), sql_type: SqlType::Json });
        }
        Err((field.root() == "statsu").then(|| "status".to_owned()))
    }
}

pub(super) fn bind(text: &str) -> Result<Expr, SyntaxError> {
    parse(text)?.bind(&mut TestScope)
}

/// The value of an expression for `TestRow`, or its error as a letter shows it.
pub(super) fn run(text: &str) -> Result<Value<'static>, String> {
    let expr = bind(text).unwrap_or_else(|error| panic!("{text}: {error} at {:?}", error.at));
    expr.eval(&TestRow).map(Value::into_owned).map_err(|error| error.to_string())
}

/// Type and value, so that 1 is not 1.0.
pub(super) fn show(value: &Value<'_>) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Float(value) => format!("{value:?}"),
        Value::Text(text) => format!("'{text}'"),
        Value::Time(ms) => format!("@{ms}"),
        Value::Json(text) => format!("json {text}"),
        Value::Int(value) => value.to_string(),
        Value::Bool(value) => value.to_string(),
    }
}

/// Checks lines of `expression => value`; an error is `!` and its text.
pub(super) fn check(table: &str) {
    let mut failed = Vec::new();
    let mut checked = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (text, expected) = line.rsplit_once(" => ").unwrap_or_else(|| panic!("no expectation: {line}"));
        let found = match run(text) {
            Ok(value) => show(&value),
            Err(message) => format!("! {message}"),
        };
        checked += 1;
        if found != expected {
            failed.push(format!("{text}\n  expected {expected}\n  found    {found}"));
        }
    }
    assert!(checked > 0 && failed.is_empty(), "{} of {checked} failed\n{}", failed.len(), failed.join("\n"));
}
