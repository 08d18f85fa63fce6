//! Static types: what can be known of an expression before any event.

use super::SqlType;
use super::error::SyntaxError;
use super::functions::Takes;
use super::node::Node;
use super::tree::{Target, Tree};
use crate::event::Value;

/// A bound part, with what is known of its type; `None` is NULL itself, which is of every type.
pub(super) struct Typed {
    pub node: Node,
    pub sql_type: Option<SqlType>,
}

/// Types whose values can be compared and ordered with each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Bool,
    Number,
    Time,
    Text,
    Json,
}

fn family(sql_type: Option<SqlType>) -> Option<Family> {
    Some(match sql_type? {
        SqlType::Any => return None,
        SqlType::Bool => Family::Bool,
        SqlType::Int | SqlType::Float | SqlType::Number => Family::Number,
        SqlType::Time => Family::Time,
        SqlType::Text => Family::Text,
        SqlType::Json => Family::Json,
    })
}

/// As messages name it.
fn name(sql_type: SqlType) -> &'static str {
    match sql_type {
        SqlType::Any => "any type",
        SqlType::Bool => "boolean",
        SqlType::Int => "bigint",
        SqlType::Float => "double precision",
        SqlType::Number => "a number",
        SqlType::Time => "timestamp",
        SqlType::Text => "text",
        SqlType::Json => "json",
    }
}

pub(super) fn of_literal(value: &Value<'_>) -> Option<SqlType> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(_) => SqlType::Bool,
        Value::Int(_) => SqlType::Int,
        Value::Float(_) => SqlType::Float,
        Value::Time(_) => SqlType::Time,
        Value::Text(_) => SqlType::Text,
        Value::Json(_) => SqlType::Json,
    })
}

pub(super) fn of_target(target: Target) -> SqlType {
    match target {
        Target::Bool => SqlType::Bool,
        Target::Int => SqlType::Int,
        Target::Float => SqlType::Float,
        Target::Number => SqlType::Number,
        Target::Time => SqlType::Time,
        Target::Text => SqlType::Text,
    }
}

/// The type of a value that is one of several.
pub(super) fn unify(types: impl IntoIterator<Item = Option<SqlType>>) -> Option<SqlType> {
    types.into_iter().flatten().reduce(|a, b| match (a, b) {
        _ if a == b => a,
        _ if family(Some(a)) == Some(Family::Number) && family(Some(b)) == Some(Family::Number) => SqlType::Number,
        _ => SqlType::Any,
    })
}

/// The type of what is computed from numbers.
pub(super) fn arithmetic(types: &[Option<SqlType>]) -> SqlType {
    let is = |sql_type: SqlType| move |given: &Option<SqlType>| *given == Some(sql_type);
    match types {
        _ if types.iter().any(is(SqlType::Float)) => SqlType::Float,
        _ if types.iter().all(is(SqlType::Int)) => SqlType::Int,
        _ => SqlType::Number,
    }
}

/// Refuses to order what never has an order.
pub(super) fn check_order(whole: &Tree, parts: &[Typed]) -> Result<(), SyntaxError> {
    let mut known = parts.iter().filter_map(|part| family(part.sql_type).zip(part.sql_type));
    let Some((first, first_type)) = known.next() else { return Ok(()) };
    let Some((_, other)) = known.find(|(family, _)| *family != first) else { return Ok(()) };
    let message = format!("{} and {} have no order; CAST one of them", name(first_type), name(other));
    Err(SyntaxError::new(message, &whole.at))
}

/// Refuses a condition that is never true or false.
pub(super) fn check_condition(tree: &Tree, sql_type: Option<SqlType>) -> Result<(), SyntaxError> {
    match sql_type {
        None | Some(SqlType::Any | SqlType::Bool) => Ok(()),
        Some(other) => {
            Err(SyntaxError::new(format!("a condition is true or false, this is {}", name(other)), &tree.at))
        }
    }
}

/// Refuses an operand that is never a number. Text is left to the event: its letter names the value.
pub(super) fn check_operand(tree: &Tree, sql_type: Option<SqlType>) -> Result<(), SyntaxError> {
    match family(sql_type) {
        None | Some(Family::Number | Family::Text) => Ok(()),
        Some(_) => Err(SyntaxError::new(format!("arithmetic takes numbers, not {}", of(sql_type)), &tree.at)),
    }
}

/// Refuses an argument that never fits.
pub(super) fn check_argument(
    tree: &Tree,
    takes: Takes,
    sql_type: Option<SqlType>,
    usage: &str,
) -> Result<(), SyntaxError> {
    let fits = match takes {
        Takes::Any => true,
        Takes::Text => matches!(family(sql_type), None | Some(Family::Text)),
        Takes::Number => matches!(family(sql_type), None | Some(Family::Number)),
        Takes::Whole => matches!(sql_type, None | Some(SqlType::Any | SqlType::Int | SqlType::Number)),
        Takes::Time => matches!(family(sql_type), None | Some(Family::Time)),
    };
    let wanted = match takes {
        _ if fits => return Ok(()),
        Takes::Any => "anything",
        Takes::Text => "text",
        Takes::Number => "a number",
        Takes::Whole => "a whole number",
        Takes::Time => "a timestamp",
    };
    Err(SyntaxError::new(format!("{usage} takes {wanted} here, not {}; CAST it", of(sql_type)), &tree.at))
}

/// Refuses a CAST that never succeeds.
pub(super) fn check_cast(tree: &Tree, sql_type: Option<SqlType>, target: Target) -> Result<(), SyntaxError> {
    let fits = match (family(sql_type), target) {
        (None | Some(Family::Text), _) | (_, Target::Text) => true,
        (Some(Family::Bool), Target::Bool | Target::Int | Target::Number) => true,
        (Some(Family::Number), Target::Bool) => sql_type != Some(SqlType::Float),
        (Some(Family::Number), _) | (Some(Family::Time), Target::Time) => true,
        _ => false,
    };
    if fits {
        return Ok(());
    }
    Err(SyntaxError::new(format!("{} cannot become {}", of(sql_type), target.name()), &tree.at))
}

fn of(sql_type: Option<SqlType>) -> &'static str {
    sql_type.map_or("NULL", name)
}
