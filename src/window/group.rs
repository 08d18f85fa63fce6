//! Group keys: bytes that are equal if and only if type and value of all fields are.

use std::borrow::Cow;

use serde_json::Number;
use xxhash_rust::xxh3::xxh3_64;

use super::codec::{Reader, StateError, write_value};
use crate::event::Value;

const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

/// Appends one field of a group's key. `200` and `200.0` are one value, as are a missing field and null; arrays and
/// objects are equal whatever the order of their members and the blanks between them.
pub fn encode_value(value: &Value<'_>, out: &mut Vec<u8>) {
    match value {
        Value::Float(float) => write_value(&canonical_number(*float), out),
        Value::Json(text) => write_value(&Value::Json(canonical_json(text)), out),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Time(_) | Value::Text(_) => write_value(value, out),
    }
}

/// The fields of a group's key.
///
/// # Errors
/// Where the bytes are no key.
pub fn decode_key(key: &[u8]) -> Result<Vec<Value<'static>>, StateError> {
    let mut reader = Reader::new(key);
    let mut values = Vec::new();
    while !reader.is_at_end() {
        values.push(reader.value()?);
    }
    Ok(values)
}

/// The hash of a group's key (XXH3, 64 bits), by which groups fall into slots: never to be changed, since what of the
/// groups beyond a slot's share is in a stored row depends on it.
pub fn hash_key(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// A whole number where it is one of 64 bits; so `-0.0` is 0.
fn canonical_number(float: f64) -> Value<'static> {
    if float.trunc() == float && (-TWO_63..TWO_63).contains(&float) {
        Value::Int(float as i64)
    } else {
        Value::Float(float)
    }
}

/// JSON that serde_json refuses (a number or a depth beyond its limits, a lone surrogate) stands for itself.
fn canonical_json(text: &str) -> Cow<'_, str> {
    match serde_json::from_str(text) {
        Ok(json) => {
            let mut out = String::with_capacity(text.len());
            write_json(&json, &mut out);
            Cow::Owned(out)
        }
        Err(_) => Cow::Borrowed(text),
    }
}

/// Sorts here, since serde_json's own maps keep the order of the text if any crate of the build asks for that.
fn write_json(json: &serde_json::Value, out: &mut String) {
    match json {
        serde_json::Value::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_json(element, out);
            }
            out.push(']');
        }
        serde_json::Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by_key(|(name, _)| *name);
            out.push('{');
            for (index, (name, member)) in members.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&serde_json::Value::from(name.as_str()).to_string());
                out.push(':');
                write_json(member, out);
            }
            out.push('}');
        }
        serde_json::Value::Number(number) => out.push_str(&canonical_json_number(number)),
        serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::String(_) => {
            out.push_str(&json.to_string());
        }
    }
}

fn canonical_json_number(number: &Number) -> String {
    match number.as_f64() {
        Some(float) if number.is_f64() => match canonical_number(float) {
            Value::Int(int) => int.to_string(),
            _ if float.trunc() == float && (TWO_63..TWO_64).contains(&float) => (float as u64).to_string(),
            _ => number.to_string(),
        },
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(values: &[Value<'_>]) -> Vec<u8> {
        let mut key = Vec::new();
        for value in values {
            encode_value(value, &mut key);
        }
        key
    }

    fn json(text: &str) -> Vec<u8> {
        key(&[Value::Json(text.into())])
    }

    #[test]
    fn keys_are_equal_if_type_and_value_are() {
        assert_eq!(key(&[Value::Int(200)]), key(&[Value::Float(200.0)]));
        assert_eq!(key(&[Value::Int(0)]), key(&[Value::Float(-0.0)]));
        assert_eq!(key(&[Value::Int(i64::MIN)]), key(&[Value::Float(-TWO_63)]));
        assert_ne!(key(&[Value::Int(i64::MAX)]), key(&[Value::Float(TWO_63)]));
        assert_ne!(key(&[Value::Int(200)]), key(&[Value::text("200")]));
        assert_ne!(key(&[Value::Int(200)]), key(&[Value::Time(200)]));
        assert_ne!(key(&[Value::Float(0.1)]), key(&[Value::Float(0.2)]));
        assert_ne!(key(&[Value::Null]), key(&[Value::text("")]));
        assert_ne!(key(&[Value::Bool(true)]), key(&[Value::Bool(false)]));
        assert_ne!(key(&[Value::text("{}")]), json("{}"));
    }

    #[test]
    fn where_a_field_ends_cannot_be_forged() {
        assert_ne!(key(&[Value::text("a"), Value::text("b")]), key(&[Value::text("a\u{6}\u{1}b")]));
        assert_ne!(key(&[Value::text("ab"), Value::text("")]), key(&[Value::text("a"), Value::text("b")]));
        assert_ne!(key(&[Value::Null, Value::Int(1)]), key(&[Value::Int(1), Value::Null]));
    }

    #[test]
    fn json_is_equal_whatever_its_order_blanks_and_escapes() {
        assert_eq!(
            json(r#"{"b": [1, 2.0],"a":{"d":null,"c":"x"}}"#),
            json(r#"{"a":{"c":"\u0078","d":null},"b":[1.0,2]}"#)
        );
        assert_ne!(json("[1,2]"), json("[2,1]"));
        assert_ne!(json(r#"["1"]"#), json("[1]"));
        assert_eq!(json("[18446744073709549568]"), json("[1.8446744073709549568e19]"));
        assert_eq!(json("[-0.0]"), json("[0]"));
        assert_eq!(decode_key(&json("[1e400]")).unwrap()[0].to_text().unwrap(), "[1e400]");
    }

    #[test]
    fn keys_read_back_and_bytes_that_are_none_are_refused() {
        let long = "ü".repeat(300);
        let values =
            [Value::Null, Value::Bool(true), Value::Int(-7), Value::Float(0.5), Value::Time(-1), Value::text(&long)];
        let bytes = key(&values);
        assert_eq!(format!("{:?}", decode_key(&bytes).unwrap()), format!("{values:?}"));
        assert!(decode_key(&[]).unwrap().is_empty());
        assert!(decode_key(&bytes[..bytes.len() - 1]).is_err());
        assert!(decode_key(&[6, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, b'x']).is_err());
        assert!(decode_key(&[6, 1, 0xff]).is_err());
        assert!(decode_key(&[9]).is_err());
    }

    #[test]
    fn the_hash_is_for_ever() {
        // Of no bytes, as the specification of XXH3 has it.
        assert_eq!(hash_key(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(hash_key(&key(&[Value::text("/index.html"), Value::Int(200)])), 5_870_661_698_725_257_946);
    }
}
