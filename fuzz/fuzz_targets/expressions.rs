//! Any text as an expression: read, bound and evaluated, or refused at a place inside it; a value has the static type.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tidemill::event::{Fault, Field, Position, Row, Value};
use tidemill::expr::{AggregateText, Expr, Parsed, Resolved, Scope, SqlType, SyntaxError, parse, parse_aggregate};
use tidemill::limits::EXPRESSION_TEXT_BYTES_MAX;

fuzz_target!(|text: &str| {
    if let Some(parsed) = held(text, parse(text)) {
        check(text, &parsed);
    }
    match held(text, parse_aggregate(text)) {
        Some(AggregateText::Call { function_at, arguments, filter, .. }) => {
            assert!(text.get(function_at).is_some());
            arguments.iter().chain(&filter).for_each(|part| check(text, part));
        }
        Some(AggregateText::Expression(parsed)) => check(text, &parsed),
        None => {}
    }
});

/// A refusal points into the text.
fn held<T>(text: &str, result: Result<T, SyntaxError>) -> Option<T> {
    result
        .map_err(|error| {
            assert!(text.get(error.at.clone()).is_some(), "{error} at {:?}", error.at);
            assert!(!error.message.is_empty());
        })
        .ok()
}

fn check(text: &str, parsed: &Parsed) {
    let Some(expr) = held(text, parsed.bind(&mut Names)) else { return };
    for turn in 0..KINDS {
        evaluate(&expr, &Event(turn));
    }
}

fn evaluate(expr: &Expr, event: &Event) {
    let result = expr.eval(event).map(Value::into_owned);
    let is_true = expr.is_true(event);
    match &result {
        Ok(value) => {
            assert!(fits(expr.sql_type(), value), "{:?} gave {value:?}", expr.sql_type());
            match value {
                Value::Null | Value::Bool(_) => assert_eq!(is_true, Ok(matches!(value, Value::Bool(true)))),
                _ => assert!(is_true.is_err()),
            }
            match value {
                Value::Float(value) => assert!(value.is_finite(), "sums take no {value}"),
                // A field's own text may be longer.
                Value::Text(text) => assert!(text.len() <= EXPRESSION_TEXT_BYTES_MAX && !text.contains('\0')),
                Value::Json(json) => assert!(serde_json::from_str::<serde_json::Value>(json).is_ok()),
                Value::Null | Value::Bool(_) | Value::Int(_) | Value::Time(_) => {}
            }
        }
        Err(error) => assert!(!error.message.is_empty()),
    }
    assert_eq!(format!("{result:?}"), format!("{:?}", expr.eval(event).map(Value::into_owned)));
}

fn fits(sql_type: SqlType, value: &Value<'_>) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => matches!(sql_type, SqlType::Any | SqlType::Bool),
        Value::Int(_) => matches!(sql_type, SqlType::Any | SqlType::Int | SqlType::Number),
        Value::Float(_) => matches!(sql_type, SqlType::Any | SqlType::Float | SqlType::Number),
        Value::Time(_) => matches!(sql_type, SqlType::Any | SqlType::Time),
        Value::Text(_) => matches!(sql_type, SqlType::Any | SqlType::Text),
        Value::Json(_) => matches!(sql_type, SqlType::Any | SqlType::Json),
    }
}

/// How many values a name has, one event after the other.
const KINDS: usize = 12;

/// Of a name's first letter: `i f t s j b` have one type, all others any.
struct Names;

impl Scope for Names {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        let root = field.root();
        let sql_type = match root.as_bytes().first() {
            None | Some(b'_') => return Err(Some("a".to_owned())),
            Some(b'i') => SqlType::Int,
            Some(b'f') => SqlType::Float,
            Some(b't') => SqlType::Time,
            Some(b's') => SqlType::Text,
            Some(b'j') => SqlType::Json,
            Some(b'b') => SqlType::Bool,
            Some(_) => SqlType::Any,
        };
        let slot = usize::from(root.as_bytes()[0]);
        Ok(Resolved { slot, rest: field.steps()[1..].to_vec(), sql_type })
    }
}

struct Event(usize);

impl Row for Event {
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault> {
        let turn = self.0 + slot;
        Ok(match slot as u8 {
            _ if self.0 == 0 => Value::Null,
            b'i' => Value::Int([0, 1, -1, i64::MAX, i64::MIN, 7][turn % 6]),
            b'f' => Value::Float([0.0, -0.0, 1.5, f64::MAX, f64::MIN_POSITIVE, -9.3e18][turn % 6]),
            b't' => Value::Time([0, -1, 253_402_300_799_999, -62_135_596_800_000, 1_700_000_000_123][turn % 5]),
            b's' => Value::text(["", "abc", "ä€𝄞%_\\", " 42 ", "-1e400", "2024-02-29T23:59:60Z"][turn % 6]),
            b'j' => Value::Json(
                [r#"{"a":[1,{"b":null}]}"#, "[]", r#"["\u00e9",1.5,18446744073709551616]"#][turn % 3].into(),
            ),
            b'b' => Value::Bool(turn.is_multiple_of(2)),
            _ => match turn % KINDS {
                0 => return Err(Fault::Surrogate),
                1 => Value::Bool(true),
                2 => Value::Int(i64::MIN),
                3 => Value::Int(40),
                4 => Value::Float(1e308),
                5 => Value::Float(-0.5),
                6 => Value::text("ß/İ?x=1&y=%41"),
                7 => Value::text("1e5"),
                8 => Value::Time(253_402_300_799_999),
                9 => Value::Json(r#"[{"a":"x"},2]"#.into()),
                10 => Value::Null,
                _ => Value::text("2024-10-27 02:30:00+02"),
            },
        })
    }

    fn event_time(&self) -> i64 {
        1_700_000_000_123
    }

    fn ingest_time(&self) -> i64 {
        1_700_000_005_000
    }

    fn position(&self) -> Position {
        u64::MAX
    }

    fn producer(&self) -> Option<&str> {
        Some("shop-1")
    }
}
