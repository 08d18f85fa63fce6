//! Values: what a field, an expression or an aggregate can be.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::{Fault, Position, format_utc};

/// A value as SQL sees it. Equal if type and value are: `200 = 200.0`, never `'200'`.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// Missing, or JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number of 64 bits.
    Int(i64),
    /// A finite float.
    Float(f64),
    /// A moment, unix ms (from `event_time()`, `CAST(… AS timestamp)`, `date_trunc`).
    Time(i64),
    /// Text.
    Text(Cow<'a, str>),
    /// An array or an object, as its JSON text.
    Json(Cow<'a, str>),
}

impl<'a> Value<'a> {
    /// Text that is borrowed.
    pub fn text(text: &'a str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The same value, its text borrowed.
    pub fn borrowed(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(*value),
            Self::Int(value) => Value::Int(*value),
            Self::Float(value) => Value::Float(*value),
            Self::Time(value) => Value::Time(*value),
            Self::Text(value) => Value::Text(Cow::Borrowed(value)),
            Self::Json(value) => Value::Json(Cow::Borrowed(value)),
        }
    }

    /// The same value, owning its text.
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Float(value) => Value::Float(value),
            Self::Time(value) => Value::Time(value),
            Self::Text(value) => Value::Text(Cow::Owned(value.into_owned())),
            Self::Json(value) => Value::Json(Cow::Owned(value.into_owned())),
        }
    }

    /// The name of its type, for messages.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "boolean",
            Self::Int(_) => "bigint",
            Self::Float(_) => "double precision",
            Self::Time(_) => "timestamp",
            Self::Text(_) => "text",
            Self::Json(_) => "json",
        }
    }

    /// As text: what `CAST(… AS text)` gives; `None` for NULL.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::Null => return None,
            Self::Bool(value) => Cow::Borrowed(if *value { "true" } else { "false" }),
            Self::Int(value) => Cow::Owned(value.to_string()),
            Self::Float(value) => Cow::Owned(float_text(*value)),
            Self::Time(value) => Cow::Owned(format_utc(*value)),
            Self::Text(value) | Self::Json(value) => Cow::Borrowed(value),
        })
    }

    /// As JSON, as the store and the API show it.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(value) => (*value).into(),
            Self::Int(value) => (*value).into(),
            Self::Float(value) => (*value).into(),
            Self::Time(value) => format_utc(*value).into(),
            Self::Text(value) => value.as_ref().into(),
            Self::Json(value) => serde_json::from_str(value).unwrap_or(serde_json::Value::Null),
        }
    }

    /// Orders two values of one type (whole numbers and floats are one type: numbers).
    /// `None` where either is NULL or the types differ.
    pub fn compare(&self, other: &Value<'_>) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Value::Int(b)) | (Self::Time(a), Value::Time(b)) => Some(a.cmp(b)),
            (Self::Float(a), Value::Float(b)) => a.partial_cmp(b),
            (Self::Int(a), Value::Float(b)) => compare_int_float(*a, *b),
            (Self::Float(a), Value::Int(b)) => compare_int_float(*b, *a).map(Ordering::reverse),
            (Self::Text(a), Value::Text(b)) | (Self::Json(a), Value::Json(b)) => Some(a.as_ref().cmp(b.as_ref())),
            _ => None,
        }
    }
}

/// Exactly, where `i64 as f64` would round.
fn compare_int_float(int: i64, float: f64) -> Option<Ordering> {
    if float.is_nan() {
        return None;
    }
    if float >= 9_223_372_036_854_775_808.0 {
        return Some(Ordering::Less);
    }
    if float < -9_223_372_036_854_775_808.0 {
        return Some(Ordering::Greater);
    }
    let whole = float.trunc();
    Some(int.cmp(&(whole as i64)).then_with(|| 0.0_f64.partial_cmp(&(float - whole)).unwrap_or(Ordering::Equal)))
}

/// The shortest text that reads back as the same float.
fn float_text(value: f64) -> String {
    let text = format!("{value:?}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// One event, as expressions see it.
pub trait Row {
    /// The value in a slot that the binder gave out.
    ///
    /// # Errors
    /// Where the line holds something there that is no value (U+0000, a lone surrogate, a number out of range).
    fn field(&self, slot: usize) -> Result<Value<'_>, Fault>;
    /// Event time, unix ms.
    fn event_time(&self) -> i64;
    /// Ingest time, unix ms.
    fn ingest_time(&self) -> i64;
    /// Its record's position.
    fn position(&self) -> Position;
    /// Its producer's name.
    fn producer(&self) -> Option<&str>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_and_floats_compare_exactly() {
        let big = Value::Int(9_007_199_254_740_993);
        assert_eq!(big.compare(&Value::Float(9_007_199_254_740_992.0)), Some(Ordering::Greater));
        assert_eq!(Value::Int(200).compare(&Value::Float(200.0)), Some(Ordering::Equal));
        assert_eq!(Value::Int(i64::MAX).compare(&Value::Float(9.3e18)), Some(Ordering::Less));
        assert_eq!(Value::Float(-0.5).compare(&Value::Int(0)), Some(Ordering::Less));
        assert_eq!(Value::Int(-1).compare(&Value::Float(-1.5)), Some(Ordering::Greater));
        assert_eq!(Value::Int(200).compare(&Value::text("200")), None);
    }
}
