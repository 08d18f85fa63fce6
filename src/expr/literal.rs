//! What stands in an expression as it is: values, the names of types, the sign after ESCAPE.

use std::borrow::Cow;
use std::ops::Range;

use sqlparser::ast::{self as sql, DataType, ExactNumberInfo, TimezoneInfo};

use super::error::SyntaxError;
use super::tree::{Form, Target, Tree};
use crate::event::Value;

/// The value of a literal, with the minus before it.
pub(super) fn value(literal: &sql::Value, negative: bool, at: &Range<usize>) -> Result<Value<'static>, SyntaxError> {
    match literal {
        sql::Value::Number(digits, false) => number(digits, negative, at),
        sql::Value::SingleQuotedString(text) if text.contains('\0') => {
            Err(SyntaxError::new("text cannot hold U+0000", at))
        }
        sql::Value::SingleQuotedString(text) => Ok(Value::Text(Cow::Owned(text.clone()))),
        sql::Value::Boolean(value) => Ok(Value::Bool(*value)),
        sql::Value::Null => Ok(Value::Null),
        sql::Value::Placeholder(_) => Err(SyntaxError::new("placeholders are not available in an expression", at)),
        _ => Err(SyntaxError::new("text is written 'like this', a number like 42, 0.5 or 1e3", at)),
    }
}

fn number(digits: &str, negative: bool, at: &Range<usize>) -> Result<Value<'static>, SyntaxError> {
    let signed = if negative { Cow::Owned(format!("-{digits}")) } else { Cow::Borrowed(digits) };
    if digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return signed.parse().map(Value::Int).map_err(|_| SyntaxError::new("a whole number has at most 64 bits", at));
    }
    match signed.parse::<f64>() {
        // Adding zero takes the sign off a zero.
        Ok(value) if value.is_finite() => Ok(Value::Float(value + 0.0)),
        _ => Err(SyntaxError::new("the number is out of range", at)),
    }
}

/// The sign after ESCAPE; none where it is `''`.
pub(super) fn escape(tree: &Tree) -> Result<Option<char>, SyntaxError> {
    if let Form::Literal(Value::Text(text)) = &tree.form {
        let mut chars = text.chars();
        if let (first, None) = (chars.next(), chars.next()) {
            return Ok(first);
        }
    }
    Err(SyntaxError::new("ESCAPE takes one character: `LIKE '50!%' ESCAPE '!'`", &tree.at))
}

/// What CAST makes.
pub(super) fn target(data_type: &DataType, at: &Range<usize>) -> Result<Target, SyntaxError> {
    Ok(match data_type {
        DataType::BigInt(None)
        | DataType::Int(None)
        | DataType::Integer(None)
        | DataType::Int8(None)
        | DataType::Int64 => Target::Int,
        DataType::DoublePrecision
        | DataType::Double(ExactNumberInfo::None)
        | DataType::Float(ExactNumberInfo::None)
        | DataType::Float8
        | DataType::Float64 => Target::Float,
        DataType::Numeric(ExactNumberInfo::None) | DataType::Decimal(ExactNumberInfo::None) => Target::Number,
        DataType::Numeric(_) | DataType::Decimal(_) => {
            return Err(SyntaxError::new("numeric has no precision here; use round(x, digits)", at));
        }
        DataType::Text | DataType::Varchar(None) | DataType::CharacterVarying(None) | DataType::String(None) => {
            Target::Text
        }
        DataType::Varchar(_) | DataType::CharacterVarying(_) => {
            return Err(SyntaxError::new("text has no length here; use substr(x, 1, length)", at));
        }
        DataType::Boolean | DataType::Bool => Target::Bool,
        DataType::Timestamp(None, TimezoneInfo::None | TimezoneInfo::Tz | TimezoneInfo::WithTimeZone) => Target::Time,
        _ => {
            let known = "bigint, double precision, numeric, text, boolean, timestamp";
            let message = format!("there is no type {} here; there are {known}", data_type.to_string().to_lowercase());
            return Err(SyntaxError::new(message, at));
        }
    })
}
