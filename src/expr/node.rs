//! An expression that is bound: every name is a slot, every function is known, every pattern is compiled.

use std::cmp::Ordering;
use std::sync::Arc;

use super::error::ExprError;
use super::functions::{MathFunction, Part, TextFunction, Unit};
use super::like::Pattern;
use super::tree::{Arithmetic, Cast, Comparison, Junction, Like, Test};
use crate::event::{Step, Value};

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: Kind,
    /// As it was written, for the reason of a letter.
    pub sql: Arc<str>,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Literal(Value<'static>),
    Slot(usize),
    /// Further into the JSON that a slot holds.
    Path {
        slot: usize,
        rest: Box<[Step]>,
    },
    About(About),
    Logic(Logic),
    Negate(Box<Node>),
    Arithmetic(Arithmetic, Box<[Node; 2]>),
    /// `a || b || c`
    Join(Box<[Node]>),
    Concat(Box<[Node]>),
    Case(Box<Case>),
    Cast(Cast, Box<Node>),
    Coalesce(Box<[Node]>),
    NullIf(Box<[Node; 2]>),
    /// `least` and `greatest`.
    Extreme(Ordering, Box<[Node]>),
    Text(TextFunction, Box<[Node]>),
    Math(MathFunction, Box<[Node]>),
    Trunc(Unit, Box<Node>),
    Extract(Part, Box<Node>),
}

/// What gives true, false or unknown.
#[derive(Clone, Debug)]
pub(super) enum Logic {
    Not(Box<Node>),
    Junction(Junction, Box<[Node]>),
    Compare(Comparison, Box<[Node; 2]>),
    Distinct {
        negated: bool,
        sides: Box<[Node; 2]>,
    },
    Is {
        negated: bool,
        test: Test,
        of: Box<Node>,
    },
    In {
        negated: bool,
        of: Box<Node>,
        list: Box<[Node]>,
    },
    Between {
        negated: bool,
        parts: Box<[Node; 3]>,
    },
    Like {
        negated: bool,
        text: Box<Node>,
        pattern: Pattern,
    },
    /// A pattern that is known only event by event.
    LikeComputed {
        like: Like,
        sides: Box<[Node; 2]>,
    },
    Regex {
        text: Box<Node>,
        regex: regex::Regex,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub operand: Option<Node>,
    pub arms: Box<[[Node; 2]]>,
    pub otherwise: Option<Node>,
}

/// What is not in the line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum About {
    EventTime,
    IngestTime,
    Position,
    Producer,
}

impl Node {
    /// The error of this part.
    pub fn error(&self, message: impl Into<String>) -> ExprError {
        ExprError { expression: self.sql.to_string(), message: message.into() }
    }
}
