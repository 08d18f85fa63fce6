//! The inputs of aggregates: what window actors add up.

use crate::config::AggregateConfig;
use crate::event::{Row, Span, Value};
use crate::expr::{ExprError, SqlType};
use crate::limits::{EXCERPT_BYTES_MAX, VALUE_TEXT_BYTES_MAX};
use crate::window::{AggregateKind, Input, Rows, hash_value};

/// The input of an aggregate. Whether the event counts is decided before the argument is computed.
pub(super) fn input(aggregate: &AggregateConfig, view: &dyn Row, rows: &mut Rows) -> Result<Input, ExprError> {
    if let Some(filter) = &aggregate.filter
        && !filter.is_true(view)?
    {
        return Ok(Input::Null);
    }
    let Some(expression) = &aggregate.input else { return Ok(Input::Bool(true)) };
    let value = expression.eval(view)?;
    let numbers_only = match aggregate.kind {
        AggregateKind::Count => return Ok(if value.is_null() { Input::Null } else { Input::Bool(true) }),
        AggregateKind::CountDistinct if value.is_null() => return Ok(Input::Null),
        AggregateKind::CountDistinct => return Ok(Input::Int(hash_value(&value, &mut rows.keys).cast_signed())),
        AggregateKind::Min | AggregateKind::Max => !matches!(expression.sql_type(), SqlType::Text | SqlType::Time),
        kind => kind.is_of_numbers(),
    };
    Ok(match value {
        Value::Null => Input::Null,
        Value::Int(value) => Input::Int(value),
        Value::Float(value) => Input::Float(value),
        _ if numbers_only => {
            let message = format!("takes numbers, not {} {}", value.type_name(), excerpt(&value));
            return Err(ExprError { expression: aggregate.kind.function().to_owned(), message });
        }
        Value::Bool(value) => Input::Bool(value),
        Value::Time(value) => Input::Time(value),
        Value::Text(text) => Input::Text(put(&text, &mut rows.arena)),
        Value::Json(text) => Input::Json(put(&text, &mut rows.arena)),
    })
}

fn put(text: &str, arena: &mut String) -> Span {
    let cut = &text[..text.floor_char_boundary(VALUE_TEXT_BYTES_MAX)];
    let start = arena.len() as u32;
    arena.push_str(cut);
    Span { start, len: cut.len() as u32 }
}

/// A value as a reason shows it.
pub(super) fn excerpt(value: &Value<'_>) -> String {
    let text = value.to_text().unwrap_or_default();
    let cut = &text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)];
    if matches!(value, Value::Text(_)) { format!("'{cut}'") } else { cut.to_owned() }
}
