//! One call of an aggregate: `sum(bytes) FILTER (WHERE status < 500)`.

use std::ops::Range;

use crate::expr::{AggregateText, Expr, Parsed, SqlType};
use crate::window::{AggregateKind, Fraction};

use super::ColumnType;
use super::aggregates::call_column;
use super::expressions::{StageScope, bind_filter, note_syntax, of_type};
use super::names;
use super::reader::{Setting, Text};
use super::report::Mistake;

/// Aggregates by the names that SQL gives them.
const FUNCTIONS: [(&str, AggregateKind); 11] = [
    ("count", AggregateKind::Count),
    ("sum", AggregateKind::Sum),
    ("avg", AggregateKind::Avg),
    ("min", AggregateKind::Min),
    ("max", AggregateKind::Max),
    ("stddev", AggregateKind::Stddev),
    ("variance", AggregateKind::Variance),
    ("first", AggregateKind::First),
    ("last", AggregateKind::Last),
    // Until its second argument is read.
    (QUANTILE, AggregateKind::Quantile(Fraction::HALF)),
    ("median", AggregateKind::Quantile(Fraction::HALF)),
];

const QUANTILE: &str = "quantile";

/// An aggregate, bound.
pub(super) struct Call {
    pub(super) kind: AggregateKind,
    pub(super) input: Option<Expr>,
    pub(super) filter: Option<Expr>,
    /// Its type where an expression uses it.
    pub(super) sql_type: SqlType,
    /// Its type in the view.
    pub(super) column: ColumnType,
}

/// Notes a mistake at bytes of the text.
fn wrong(setting: &Setting<'_>, text: &Text, at: &Range<usize>, message: String, expected: &str) {
    let message = format!("`{}`: {message}", setting.path);
    setting.context.note(Mistake::at(text.place(at), message).expected(expected));
}

/// Checks and binds a call.
pub(super) fn read_call(
    setting: &Setting<'_>,
    text: &Text,
    call: AggregateText,
    scope: &mut StageScope,
) -> Option<Call> {
    let AggregateText::Call { function, function_at, distinct, arguments, star, filter } = call else { return None };
    let found = find_function(setting, text, &function, &function_at);
    // The filter is bound whatever comes of the call, so that its mistakes are found in the same pass.
    let filter = filter.map(|parsed| bind_filter(&parsed, scope, setting, text));
    let kind = match (found?, distinct, star) {
        (kind, false, _) => kind,
        (AggregateKind::Count, true, false) => AggregateKind::CountDistinct,
        (_, true, _) => {
            let message = format!("`{function}(DISTINCT {})` is no aggregate", if star { "*" } else { "…" });
            wrong(setting, text, &function_at, message, "an aggregate without DISTINCT, or `count(DISTINCT x)`");
            return None;
        }
    };
    let (kind, argument) = match (kind, star, arguments.as_slice()) {
        (AggregateKind::Count, true, _) => (Some(AggregateKind::CountAll), None),
        (_, false, [argument, fraction]) if function == QUANTILE => {
            (read_fraction(setting, text, fraction).map(AggregateKind::Quantile), Some(argument))
        }
        (kind, false, [argument]) if function != QUANTILE => (Some(kind), Some(argument)),
        _ => {
            let given = match arguments.len() {
                _ if star => "`*`".to_owned(),
                1 => "one argument".to_owned(),
                count => format!("{count} arguments"),
            };
            let expected =
                if function == QUANTILE { "a number and a literal: `quantile(x, 0.95)`" } else { "one argument" };
            wrong(setting, text, &function_at, format!("`{function}` cannot take {given}"), expected);
            return None;
        }
    };
    let input = match argument.map(|argument| argument.bind(scope)) {
        Some(bound) => Some(bound.map_err(|error| note_syntax(setting.context, &setting.path, text, error)).ok()?),
        None => None,
    };
    let kind = kind?;
    let of = input.as_ref().map_or(SqlType::Any, Expr::sql_type);
    if !takes(kind, of) {
        let expected = if kind.is_of_numbers() { "a number" } else { "a number, a time, or text (CAST … AS text)" };
        let at = function_at.start..text.value.len();
        wrong(setting, text, &at, format!("`{function}` cannot take {}", of_type(of)), expected);
        return None;
    }
    let filter = match filter {
        Some(bound) => Some(bound?),
        None => None,
    };
    Some(Call { kind, input, filter, sql_type: result_type(kind, of), column: call_column(kind, of) })
}

fn find_function(setting: &Setting<'_>, text: &Text, function: &str, at: &Range<usize>) -> Option<AggregateKind> {
    if let Some((_, kind)) = FUNCTIONS.iter().find(|(name, _)| *name == function) {
        return Some(*kind);
    }
    let names = || FUNCTIONS.iter().map(|(name, _)| *name);
    let help = names::did_you_mean(function, names())
        .unwrap_or_else(|| format!("the aggregates are: {}", names().collect::<Vec<_>>().join(", ")));
    let message = format!("`{}`: there is no aggregate `{function}`", setting.path);
    let mistake = Mistake::at(text.place(at), message).expected("an aggregate, or an expression over others");
    setting.context.note(mistake.help(help));
    None
}

/// The second argument of `quantile`.
fn read_fraction(setting: &Setting<'_>, text: &Text, argument: &Parsed) -> Option<Fraction> {
    let fraction = argument.number().and_then(Fraction::new);
    if fraction.is_none() {
        let message = format!("the second argument of `{QUANTILE}` is no literal from 0 to 1");
        wrong(setting, text, &argument.at(), message, "such as 0.95, of the value that 95 % do not exceed");
    }
    fraction
}

/// Whether an aggregate can take values of this type; of `Any` each event's value is looked at.
fn takes(kind: AggregateKind, of: SqlType) -> bool {
    match kind {
        kind if kind.is_of_numbers() => {
            matches!(of, SqlType::Any | SqlType::Int | SqlType::Float | SqlType::Number)
        }
        AggregateKind::Min | AggregateKind::Max => !matches!(of, SqlType::Bool | SqlType::Json),
        _ => true,
    }
}

/// The type of an aggregate's value.
fn result_type(kind: AggregateKind, of: SqlType) -> SqlType {
    match kind {
        AggregateKind::CountAll | AggregateKind::Count | AggregateKind::CountDistinct => SqlType::Int,
        AggregateKind::Avg | AggregateKind::Variance | AggregateKind::Stddev | AggregateKind::Quantile(_) => {
            SqlType::Float
        }
        AggregateKind::Sum => {
            if of == SqlType::Float {
                SqlType::Float
            } else {
                SqlType::Number
            }
        }
        // Unless it is text or a time by its type, each value is a number.
        AggregateKind::Min | AggregateKind::Max => {
            if of == SqlType::Any {
                SqlType::Number
            } else {
                of
            }
        }
        AggregateKind::First | AggregateKind::Last => of,
    }
}
