//! Steps into JSON that an earlier stage made, which the decoder could not look into.

use std::borrow::Cow;

use serde_json::Value as Json;

use super::error::ExprError;
use super::node::Node;
use crate::event::{Fault, Step, Value};

/// What lies at the end of the steps; NULL where the way does not lead on.
pub(super) fn step_into<'a>(node: &Node, whole: &Value<'_>, steps: &[Step]) -> Result<Value<'a>, ExprError> {
    let Value::Json(text) = whole else { return Ok(Value::Null) };
    let json = serde_json::from_str::<Json>(text).map_err(|error| node.error(format!("cannot be read: {error}")))?;
    let end = steps.iter().try_fold(json, |json, step| match (step, json) {
        (Step::Key(key), Json::Object(mut object)) => object.remove(key),
        (Step::Index(index), Json::Array(mut array)) if *index < array.len() => Some(array.swap_remove(*index)),
        _ => None,
    });
    end.map_or(Ok(Value::Null), value).map_err(|fault| node.error(fault.to_string()))
}

/// The elements of a list, as values.
///
/// # Errors
/// Where the JSON is no list, or holds what is no value.
pub fn elements(text: &str) -> Result<Vec<Value<'static>>, String> {
    match serde_json::from_str(text) {
        Ok(Json::Array(elements)) => {
            elements.into_iter().map(|element| value(element).map_err(|fault| fault.to_string())).collect()
        }
        Ok(_) => Err("takes a list, not an object".to_owned()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

fn value<'a>(json: Json) -> Result<Value<'a>, Fault> {
    Ok(match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(value),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::Int(whole),
            (None, Some(float)) if number.is_f64() && float.is_finite() => Value::Float(float),
            _ => return Err(Fault::Range),
        },
        Json::String(text) if text.contains('\0') => return Err(Fault::Nul),
        Json::String(text) => Value::Text(Cow::Owned(text)),
        array_or_object => Value::Json(Cow::Owned(array_or_object.to_string())),
    })
}
