//! A walk over the tree for each event. Fields and literals are borrowed, so that comparing them copies nothing.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::cast::cast;
use super::error::{ExprError, describe};
use super::functions;
use super::logic::{equal, truth, unordered};
use super::node::{About, Case, Kind, Node};
use super::path;
use crate::event::{Row, Value};

type Outcome<'a> = Result<Value<'a>, ExprError>;

/// The value of a part.
pub(super) fn eval<'a>(node: &'a Node, row: &'a dyn Row) -> Outcome<'a> {
    match &node.kind {
        Kind::Literal(value) => Ok(borrow(value)),
        Kind::Slot(slot) => row.field(*slot).map_err(|fault| node.error(fault.to_string())),
        Kind::Path { slot, rest } => {
            let whole = row.field(*slot).map_err(|fault| node.error(fault.to_string()))?;
            path::step_into(node, &whole, rest)
        }
        Kind::About(about) => Ok(about_row(*about, row)),
        Kind::Logic(_) => Ok(truth(node, row)?.map_or(Value::Null, Value::Bool)),
        Kind::Negate(of) => functions::negate(node, &eval(of, row)?),
        Kind::Arithmetic(operation, sides) => {
            let (left, right) = (eval(&sides[0], row)?, eval(&sides[1], row)?);
            functions::arithmetic(*operation, node, &left, &right)
        }
        Kind::Join(parts) => functions::join(node, parts, false, row),
        Kind::Concat(parts) => functions::join(node, parts, true, row),
        Kind::Case(case) => eval_case(case, row),
        Kind::Cast(how, of) => match cast(eval(of, row)?, how.target) {
            Ok(value) => Ok(value),
            Err(_) if how.lenient => Ok(Value::Null),
            Err(message) => Err(node.error(message)),
        },
        Kind::Coalesce(parts) => {
            for part in parts {
                let value = eval(part, row)?;
                if !value.is_null() {
                    return Ok(value);
                }
            }
            Ok(Value::Null)
        }
        Kind::NullIf(sides) => {
            let (left, right) = (eval(&sides[0], row)?, eval(&sides[1], row)?);
            Ok(if equal(&left, &right) == Some(true) { Value::Null } else { left })
        }
        Kind::Extreme(which, parts) => extreme(node, *which, parts, row),
        Kind::Text(function, arguments) => functions::text(*function, node, arguments, row),
        Kind::Math(function, arguments) => functions::math(*function, node, arguments, row),
        Kind::Trunc(unit, of) => functions::trunc(*unit, node, &eval(of, row)?),
        Kind::Extract(part, of) => functions::extract(*part, node, &eval(of, row)?),
    }
}

fn borrow<'a>(value: &'a Value<'static>) -> Value<'a> {
    match value {
        Value::Null => Value::Null,
        Value::Bool(value) => Value::Bool(*value),
        Value::Int(value) => Value::Int(*value),
        Value::Float(value) => Value::Float(*value),
        Value::Time(value) => Value::Time(*value),
        Value::Text(value) => Value::Text(Cow::Borrowed(value)),
        Value::Json(value) => Value::Json(Cow::Borrowed(value)),
    }
}

fn about_row(about: About, row: &dyn Row) -> Value<'_> {
    match about {
        About::EventTime => Value::Time(row.event_time()),
        About::IngestTime => Value::Time(row.ingest_time()),
        // No stream lives long enough for the difference.
        About::Position => Value::Int(i64::try_from(row.position()).unwrap_or(i64::MAX)),
        About::Producer => row.producer().map_or(Value::Null, Value::text),
    }
}

fn eval_case<'a>(case: &'a Case, row: &'a dyn Row) -> Outcome<'a> {
    let operand = case.operand.as_ref().map(|operand| eval(operand, row)).transpose()?;
    for [when, then] in &case.arms {
        let fits = match &operand {
            Some(operand) => equal(operand, &eval(when, row)?),
            None => truth(when, row)?,
        };
        if fits == Some(true) {
            return eval(then, row);
        }
    }
    case.otherwise.as_ref().map_or(Ok(Value::Null), |otherwise| eval(otherwise, row))
}

/// The least or greatest value that is not NULL.
fn extreme<'a>(node: &'a Node, which: Ordering, parts: &'a [Node], row: &'a dyn Row) -> Outcome<'a> {
    let mut best = Value::Null;
    for part in parts {
        let value = eval(part, row)?;
        if best.is_null() {
            best = value;
        } else if !value.is_null() {
            match value.compare(&best) {
                Some(order) if order == which => best = value,
                Some(_) => {}
                None => return Err(unordered(node, &best, &value)),
            }
        }
    }
    Ok(best)
}

/// True, false or unknown; anything else is an error.
pub(super) fn condition(node: &Node, value: &Value<'_>) -> Result<Option<bool>, ExprError> {
    match value {
        Value::Null => Ok(None),
        Value::Bool(value) => Ok(Some(*value)),
        other => Err(node.error(format!("a condition is true or false, not {}", describe(other)))),
    }
}
