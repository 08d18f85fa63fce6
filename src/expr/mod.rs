//! SQL expressions over events, parsed and bound when the config is read.

use std::ops::Range;

use std::sync::Arc;

use crate::event::{Field, Row, Step, Value};

mod bind;
mod bind_call;
mod calls;
mod cast;
mod dialect;
mod error;
mod eval;
mod functions;
mod like;
mod literal;
mod logic;
mod lower;
mod node;
mod parse;
mod path;
mod places;
#[cfg(test)]
mod tests;
mod tree;
mod types;

pub use error::{ExprError, SyntaxError};
pub use parse::{parse, parse_aggregate};
pub use path::elements;

/// The static type of an expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SqlType {
    /// Known only event by event: a bare field.
    Any,
    /// boolean
    Bool,
    /// bigint
    Int,
    /// double precision
    Float,
    /// A number, whole or not.
    Number,
    /// timestamp
    Time,
    /// text
    Text,
    /// json
    Json,
}

/// Where a name leads.
#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    /// The slot that holds it, as `Row::field` takes it.
    pub slot: usize,
    /// Steps into what the slot holds (where the slot is a computed object, and the name goes on).
    pub rest: Vec<Step>,
    /// Its static type.
    pub sql_type: SqlType,
}

/// Gives slots to names.
pub trait Scope {
    /// The slot of a field.
    ///
    /// # Errors
    /// Where there is no such name: the nearest one, if any.
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>>;

    /// The slot of what a field was one window before, as `previous(field)` asks; `None` where there is no such function.
    ///
    /// # Errors
    /// Where the field has none: why.
    fn previous(&mut self, _field: &Field) -> Option<Result<Resolved, String>> {
        None
    }
}

/// An expression that was parsed.
#[derive(Clone, Debug)]
pub struct Parsed {
    tree: tree::Tree,
}

/// What stands on the right side of an aggregate's name.
#[derive(Clone, Debug)]
pub enum AggregateText {
    /// `count(*)`, `sum(x) FILTER (WHERE …)` …
    Call {
        /// Lower case.
        function: String,
        /// Where the name stands.
        function_at: Range<usize>,
        /// Whether `DISTINCT` stands before the argument.
        distinct: bool,
        /// `*` gives none.
        arguments: Vec<Parsed>,
        /// Whether the argument is `*`.
        star: bool,
        /// `FILTER (WHERE …)`
        filter: Option<Parsed>,
    },
    /// An expression over other aggregates.
    Expression(Parsed),
}

/// An expression, ready to be evaluated.
#[derive(Clone, Debug)]
pub struct Expr {
    /// Shared, so that each actor can have its own at no cost.
    node: Arc<node::Node>,
    sql_type: SqlType,
}

impl Parsed {
    /// Gives slots to its names and checks its types.
    ///
    /// # Errors
    /// Where a name or function is unknown, or a type can never fit.
    pub fn bind(&self, scope: &mut dyn Scope) -> Result<Expr, SyntaxError> {
        let typed = bind::Binder { scope }.bind(&self.tree)?;
        // NULL alone is of every type.
        Ok(Expr { node: Arc::new(typed.node), sql_type: typed.sql_type.unwrap_or(SqlType::Any) })
    }

    /// The number that stands there, where it is nothing but one.
    pub fn number(&self) -> Option<f64> {
        match self.tree.form {
            tree::Form::Literal(Value::Int(int)) => Some(int as f64),
            tree::Form::Literal(Value::Float(float)) => Some(float),
            _ => None,
        }
    }

    /// Where it stands in the text.
    pub fn at(&self) -> Range<usize> {
        self.tree.at.clone()
    }
}

impl Expr {
    /// Its value for an event.
    ///
    /// # Errors
    /// Where SQL would fail: the part that failed, with the value.
    pub fn eval<'a>(&'a self, row: &'a dyn Row) -> Result<Value<'a>, ExprError> {
        eval::eval(&self.node, row)
    }

    /// Whether it is TRUE for an event, as a filter asks: not where it is FALSE or NULL.
    ///
    /// # Errors
    /// As `eval`, and where the value is neither true nor false.
    pub fn is_true(&self, row: &dyn Row) -> Result<bool, ExprError> {
        Ok(logic::truth(&self.node, row)? == Some(true))
    }

    /// Its static type.
    pub fn sql_type(&self) -> SqlType {
        self.sql_type
    }

    /// Its slot, where it is nothing but a bare name.
    pub fn slot(&self) -> Option<usize> {
        match self.node.kind {
            node::Kind::Slot(slot) => Some(slot),
            _ => None,
        }
    }
}
