//! CAST: from any type to any other that can hold it, by PostgreSQL's rules.

use std::borrow::Cow;

use super::error::describe;
use super::tree::Target;
use crate::event::{TIME_MAX_MS, TIME_MIN_MS, Value, parse_time_text, time_from_value};

/// The value as another type.
///
/// # Errors
/// What does not fit, as a message.
pub(super) fn cast<'a>(value: Value<'a>, target: Target) -> Result<Value<'a>, String> {
    let result = match (target, &value) {
        (_, Value::Null) => Some(Value::Null),
        (Target::Text, Value::Text(_)) => return Ok(value),
        (Target::Text, Value::Json(_)) => return Ok(json_text(value)),
        (Target::Text, _) => value.to_text().map(|text| Value::Text(Cow::Owned(text.into_owned()))),
        (Target::Bool, _) => boolean(&value).map(Value::Bool),
        (Target::Int, _) => return whole(&value).map(Value::Int),
        (Target::Float, Value::Int(whole)) => Some(Value::Float(*whole as f64)),
        (Target::Float, Value::Float(float)) => Some(Value::Float(*float)),
        (Target::Float, Value::Text(text)) => return finite(text.trim_ascii(), &value).map(Value::Float),
        (Target::Number, Value::Float(float)) => Some(Value::Float(*float)),
        (Target::Number, Value::Text(text)) => return number(text.trim_ascii(), &value),
        (Target::Number, _) => return whole(&value).map(Value::Int),
        (Target::Time, _) => time(&value).map(Value::Time),
        (Target::Float, _) => None,
    };
    result.ok_or_else(|| format!("{} is no {}", describe(&value), target.name()))
}

fn json_text(value: Value<'_>) -> Value<'_> {
    match value {
        Value::Json(text) => Value::Text(text),
        other => other,
    }
}

/// Whether a text is true or false: any beginning of PostgreSQL's words that fits only one of them.
fn boolean(value: &Value<'_>) -> Option<bool> {
    let text = match value {
        Value::Bool(value) => return Some(*value),
        Value::Int(value) => return Some(*value != 0),
        Value::Text(text) => text.trim_ascii().to_ascii_lowercase(),
        _ => return None,
    };
    let begins = |word: &str| !text.is_empty() && word.starts_with(&text);
    match text.as_str() {
        "1" | "on" => Some(true),
        "0" | "of" | "off" => Some(false),
        _ if begins("true") || begins("yes") => Some(true),
        _ if begins("false") || begins("no") => Some(false),
        _ => None,
    }
}

fn whole(value: &Value<'_>) -> Result<i64, String> {
    match value {
        Value::Bool(value) => Ok(i64::from(*value)),
        Value::Int(value) => Ok(*value),
        Value::Float(float) => {
            let rounded = float.round_ties_even();
            // Both bounds are powers of two, so that floats hold them exactly.
            let fits = (-9_223_372_036_854_775_808.0..9_223_372_036_854_775_808.0).contains(&rounded);
            if fits { Ok(rounded as i64) } else { Err(format!("{} is out of range for bigint", describe(value))) }
        }
        Value::Text(text) => {
            let digits = text.trim_ascii();
            let parsed = digits.parse().ok();
            parsed.ok_or_else(|| match is_whole(digits) {
                true => format!("{} is out of range for bigint", describe(value)),
                false => format!("{} is no bigint", describe(value)),
            })
        }
        _ => Err(format!("{} is no bigint", describe(value))),
    }
}

/// A whole number where the text is one, else a float. A whole number beyond 64 bits is no float in disguise.
fn number<'a>(text: &str, value: &Value<'_>) -> Result<Value<'a>, String> {
    if is_whole(text) {
        return whole(value).map(Value::Int);
    }
    finite(text, value).map(Value::Float)
}

fn finite(text: &str, value: &Value<'_>) -> Result<f64, String> {
    match text.parse::<f64>() {
        // Adding zero takes the sign off a zero.
        Ok(float) if float.is_finite() => Ok(float + 0.0),
        // A text that is too large parses to infinity.
        Ok(_) if text.bytes().any(|byte| byte.is_ascii_digit()) => {
            Err(format!("{} is out of range for double precision", describe(value)))
        }
        _ => Err(format!("{} is no finite number", describe(value))),
    }
}

/// Whether a text is a sign and digits.
fn is_whole(text: &str) -> bool {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn time(value: &Value<'_>) -> Option<i64> {
    let ms = match value {
        Value::Time(ms) => return Some(*ms),
        Value::Text(text) => parse_time_text(text.trim_ascii())?,
        Value::Int(_) | Value::Float(_) => time_from_value(value, None)?,
        _ => return None,
    };
    (TIME_MIN_MS..=TIME_MAX_MS).contains(&ms).then_some(ms)
}
