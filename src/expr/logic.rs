//! SQL's three-valued logic: true, false, and `None` for unknown.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::error::{ExprError, describe};
use super::eval::{condition, eval};
use super::like::Pattern;
use super::node::{Kind, Logic, Node};
use super::tree::{Comparison, Junction, Like, Test};
use crate::event::{Row, Value};

type Truth = Result<Option<bool>, ExprError>;

/// Whether a part is true.
pub(super) fn truth<'a>(node: &'a Node, row: &'a dyn Row) -> Truth {
    let Kind::Logic(logic) = &node.kind else { return condition(node, &eval(node, row)?) };
    match logic {
        Logic::Not(of) => Ok(truth(of, row)?.map(|truth| !truth)),
        Logic::Junction(junction, parts) => chain(*junction, parts, row),
        Logic::Compare(comparison, sides) => {
            let (left, right) = (eval(&sides[0], row)?, eval(&sides[1], row)?);
            compare(node, *comparison, &left, &right)
        }
        Logic::Distinct { negated, sides } => {
            let (left, right) = (eval(&sides[0], row)?, eval(&sides[1], row)?);
            let same = equal(&left, &right).unwrap_or(left.is_null() && right.is_null());
            Ok(Some(same == *negated))
        }
        Logic::Is { negated, test, of } => {
            let holds = match test {
                Test::Null => eval(of, row)?.is_null(),
                Test::True => truth(of, row)? == Some(true),
                Test::False => truth(of, row)? == Some(false),
            };
            Ok(Some(holds != *negated))
        }
        Logic::In { negated, of, list } => Ok(is_in(&eval(of, row)?, list, row)?.map(|found| found != *negated)),
        Logic::Between { negated, parts } => {
            let value = eval(&parts[0], row)?;
            let (low, high) = (eval(&parts[1], row)?, eval(&parts[2], row)?);
            let above = compare(node, Comparison::GreaterOrEqual, &value, &low)?;
            let below = compare(node, Comparison::LessOrEqual, &value, &high)?;
            let within = match (above, below) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (Some(true), Some(true)) => Some(true),
                _ => None,
            };
            Ok(within.map(|within| within != *negated))
        }
        Logic::Like { negated, text, pattern } => {
            let text = need_text(node, eval(text, row)?)?;
            Ok(text.map(|text| pattern.matches(&text) != *negated))
        }
        Logic::LikeComputed { like, sides } => like_computed(node, *like, sides, row),
        Logic::Regex { text, regex } => {
            let text = need_text(node, eval(text, row)?)?;
            Ok(text.map(|text| regex.is_match(&text)))
        }
    }
}

/// AND and OR, from left to right: the first that decides ends it.
fn chain<'a>(junction: Junction, parts: &'a [Node], row: &'a dyn Row) -> Truth {
    let decides = junction == Junction::Or;
    let mut result = Some(!decides);
    for part in parts {
        match truth(part, row)? {
            Some(truth) if truth == decides => return Ok(Some(decides)),
            Some(_) => {}
            None => result = None,
        }
    }
    Ok(result)
}

/// Whether type and value are the same; unknown where one is NULL.
pub(super) fn equal(left: &Value<'_>, right: &Value<'_>) -> Option<bool> {
    if left.is_null() || right.is_null() {
        return None;
    }
    Some(left.compare(right) == Some(Ordering::Equal))
}

fn compare(node: &Node, comparison: Comparison, left: &Value<'_>, right: &Value<'_>) -> Truth {
    match comparison {
        Comparison::Equal => return Ok(equal(left, right)),
        Comparison::NotEqual => return Ok(equal(left, right).map(|equal| !equal)),
        _ if left.is_null() || right.is_null() => return Ok(None),
        _ => {}
    }
    let Some(order) = left.compare(right) else { return Err(unordered(node, left, right)) };
    Ok(Some(match comparison {
        Comparison::Less => order.is_lt(),
        Comparison::LessOrEqual => order.is_le(),
        Comparison::Greater => order.is_gt(),
        _ => order.is_ge(),
    }))
}

/// The error of two values whose types differ.
pub(super) fn unordered(node: &Node, left: &Value<'_>, right: &Value<'_>) -> ExprError {
    node.error(format!("{} and {} have no order; CAST one of them", describe(left), describe(right)))
}

fn is_in<'a>(value: &Value<'a>, list: &'a [Node], row: &'a dyn Row) -> Truth {
    let mut result = Some(false);
    for part in list {
        match equal(value, &eval(part, row)?) {
            Some(true) => return Ok(Some(true)),
            Some(false) => {}
            None => result = None,
        }
    }
    Ok(result)
}

fn like_computed<'a>(node: &'a Node, like: Like, sides: &'a [Node; 2], row: &'a dyn Row) -> Truth {
    let text = need_text(node, eval(&sides[0], row)?)?;
    let pattern = need_text(node, eval(&sides[1], row)?)?;
    let (Some(text), Some(pattern)) = (text, pattern) else { return Ok(None) };
    match Pattern::new(&pattern, like.any_case, like.escape) {
        Some(pattern) => Ok(Some(pattern.matches(&text) != like.negated)),
        None => {
            Err(node.error(format!("the pattern {} ends with the escape character", describe(&Value::Text(pattern)))))
        }
    }
}

fn need_text<'a>(node: &Node, value: Value<'a>) -> Result<Option<Cow<'a, str>>, ExprError> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => Ok(Some(text)),
        other => Err(node.error(format!("text is needed, not {}; CAST makes it text", describe(&other)))),
    }
}
