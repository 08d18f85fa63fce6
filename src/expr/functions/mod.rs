//! The functions by name: what they take, and what they are.

mod math;
mod text;
mod time;

pub(super) use math::{MathFunction, arithmetic, math, negate};
pub(super) use text::{TextFunction, join, text};
pub(super) use time::{Part, Unit, extract, trunc};

use std::cmp::Ordering;

use super::node::About;
use super::tree::Arithmetic;

/// The names that mean an aggregate, and never a function of one event.
pub(super) const AGGREGATES: [&str; 11] =
    ["count", "sum", "avg", "min", "max", "stddev", "variance", "first", "last", "quantile", "median"];

/// What a name before parentheses means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    Text(TextFunction),
    Math(MathFunction),
    Arithmetic(Arithmetic),
    About(About),
    Extreme(Ordering),
    Concat,
    Coalesce,
    NullIf,
    RegexpLike,
    DateTrunc,
    Extract,
}

/// What an argument has to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Takes {
    Any,
    Text,
    Number,
    Whole,
    Time,
}

/// One function.
pub(super) struct Signature {
    pub name: &'static str,
    pub function: Function,
    /// The arguments; all beyond are as the last one.
    pub takes: &'static [Takes],
    pub least: usize,
    pub most: usize,
    /// How it is written, for messages.
    pub usage: &'static str,
}

/// The function of this name, in lower case.
pub(super) fn find(name: &str) -> Option<&'static Signature> {
    SIGNATURES.iter().find(|signature| signature.name == name)
}

/// Whether a name, in lower case, is a function of one event.
pub(super) fn is_known(name: &str) -> bool {
    find(name).is_some()
}

/// All names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    SIGNATURES.iter().map(|signature| signature.name)
}

const fn of(
    name: &'static str,
    function: Function,
    takes: &'static [Takes],
    (least, most): (usize, usize),
    usage: &'static str,
) -> Signature {
    Signature { name, function, takes, least, most, usage }
}

use Takes::{Any, Number, Text, Time, Whole};

static SIGNATURES: [Signature; 27] = [
    of("lower", Function::Text(TextFunction::Lower), &[Text], (1, 1), "lower(text)"),
    of("upper", Function::Text(TextFunction::Upper), &[Text], (1, 1), "upper(text)"),
    of("trim", Function::Text(TextFunction::Trim), &[Text], (1, 2), "trim(text) or trim(both 'xy' from text)"),
    of("ltrim", Function::Text(TextFunction::TrimStart), &[Text], (1, 2), "ltrim(text [, characters])"),
    of("rtrim", Function::Text(TextFunction::TrimEnd), &[Text], (1, 2), "rtrim(text [, characters])"),
    of("length", Function::Text(TextFunction::Length), &[Text], (1, 1), "length(text)"),
    of("substr", Function::Text(TextFunction::Substr), &[Text, Whole], (2, 3), "substr(text, from [, count])"),
    of("split_part", Function::Text(TextFunction::SplitPart), &[Text, Text, Whole], (3, 3), SPLIT_PART),
    of("replace", Function::Text(TextFunction::Replace), &[Text], (3, 3), "replace(text, old, new)"),
    of("concat", Function::Concat, &[Any], (1, usize::MAX), "concat(a, b, …)"),
    of("regexp_like", Function::RegexpLike, &[Text], (2, 3), "regexp_like(text, 'pattern' [, 'i'])"),
    of("coalesce", Function::Coalesce, &[Any], (1, usize::MAX), "coalesce(a, b, …)"),
    of("nullif", Function::NullIf, &[Any], (2, 2), "nullif(a, b)"),
    of("least", Function::Extreme(Ordering::Less), &[Any], (1, usize::MAX), "least(a, b, …)"),
    of("greatest", Function::Extreme(Ordering::Greater), &[Any], (1, usize::MAX), "greatest(a, b, …)"),
    of("abs", Function::Math(MathFunction::Abs), &[Number], (1, 1), "abs(number)"),
    of("round", Function::Math(MathFunction::Round), &[Number, Whole], (1, 2), "round(number [, digits])"),
    of("floor", Function::Math(MathFunction::Floor), &[Number], (1, 1), "floor(number)"),
    of("ceil", Function::Math(MathFunction::Ceil), &[Number], (1, 1), "ceil(number)"),
    of("div", Function::Arithmetic(Arithmetic::Quotient), &[Number], (2, 2), "div(a, b)"),
    of("mod", Function::Arithmetic(Arithmetic::Remainder), &[Number], (2, 2), "mod(a, b)"),
    of("date_trunc", Function::DateTrunc, &[Text, Time], (2, 2), "date_trunc('hour', timestamp)"),
    of("extract", Function::Extract, &[Text, Time], (2, 2), "extract(hour FROM timestamp)"),
    of("event_time", Function::About(About::EventTime), &[], (0, 0), "event_time()"),
    of("ingest_time", Function::About(About::IngestTime), &[], (0, 0), "ingest_time()"),
    of("position", Function::About(About::Position), &[], (0, 0), "position()"),
    of("producer", Function::About(About::Producer), &[], (0, 0), "producer()"),
];

const SPLIT_PART: &str = "split_part(text, separator, number)";
