//! An expression as it was written: its syntax is right, its names are not looked up yet.

use std::ops::Range;
use std::sync::Arc;

use crate::event::{Field, Value};

/// A part of an expression.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    pub form: Form,
    /// Where it stands in the text.
    pub at: Range<usize>,
    /// As it was written, for messages.
    pub sql: Arc<str>,
}

#[derive(Clone, Debug)]
pub(super) enum Form {
    Literal(Value<'static>),
    Name(Field),
    Negate(Box<Tree>),
    Not(Box<Tree>),
    Arithmetic(Arithmetic, Box<[Tree; 2]>),
    Compare(Comparison, Box<[Tree; 2]>),
    /// `IS [NOT] DISTINCT FROM`
    Distinct {
        negated: bool,
        sides: Box<[Tree; 2]>,
    },
    /// `a AND b AND c`, however long, is one level deep.
    Logic(Junction, Vec<Tree>),
    /// `a || b || c`
    Join(Vec<Tree>),
    Is {
        negated: bool,
        test: Test,
        of: Box<Tree>,
    },
    In {
        negated: bool,
        of: Box<Tree>,
        list: Vec<Tree>,
    },
    /// Value, least, greatest.
    Between {
        negated: bool,
        parts: Box<[Tree; 3]>,
    },
    Like(Like, Box<[Tree; 2]>),
    Case {
        operand: Option<Box<Tree>>,
        arms: Vec<[Tree; 2]>,
        otherwise: Option<Box<Tree>>,
    },
    Cast(Cast, Box<Tree>),
    /// Everything with parentheses: the name in lower case, and where it stands.
    Call {
        name: String,
        name_at: Range<usize>,
        arguments: Vec<Tree>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    /// `div(a, b)`: the quotient without its fraction.
    Quotient,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    /// Whether it asks for an order, which two types do not have.
    pub fn orders(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Junction {
    And,
    Or,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Test {
    Null,
    True,
    False,
}

/// The words around `LIKE`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Like {
    pub negated: bool,
    /// `ILIKE`
    pub any_case: bool,
    pub escape: Option<char>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Cast {
    pub target: Target,
    /// `TRY_CAST`: NULL instead of an error.
    pub lenient: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Target {
    Bool,
    Int,
    Float,
    Number,
    Time,
    Text,
}

impl Target {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bool => "boolean",
            Self::Int => "bigint",
            Self::Float => "double precision",
            Self::Number => "numeric",
            Self::Time => "timestamp",
            Self::Text => "text",
        }
    }
}
