//! One call of an aggregate: `sum(bytes) FILTER (WHERE status < 500)`.

use std::ops::Range;

use crate::expr::{AggregateText, Expr, SqlType};
use crate::window::AggregateKind;

use super::ColumnType;
use super::aggregates::call_column;
use super::expressions::{StageScope, bind_filter, note_syntax, of_type};
use super::names;
use super::reader::{Setting, Text};
use super::report::Mistake;

/// Aggregates by the names that SQL gives them.
const FUNCTIONS: [(&str, AggregateKind); 7] = [
    ("count", AggregateKind::Count),
    ("sum", AggregateKind::Sum),
    ("avg", AggregateKind::Avg),
    ("min", AggregateKind::Min),
    ("max", AggregateKind::Max),
    ("first", AggregateKind::First),
    ("last", AggregateKind::Last),
];

/// Aggregates of the contract that come later.
const LATER: [&str; 4] = ["stddev", "variance", "quantile", "median"];

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
    let kind = found?;
    if distinct {
        let what = if kind == AggregateKind::Count { " is not available yet" } else { " is no aggregate" };
        wrong(setting, text, &function_at, format!("`{function}(DISTINCT …)`{what}"), "an aggregate without DISTINCT");
        return None;
    }
    let (kind, input) = match (kind, star, arguments.as_slice()) {
        (AggregateKind::Count, true, _) => (AggregateKind::CountAll, None),
        (kind, false, [argument]) => {
            let bound = argument.bind(scope).map_err(|error| note_syntax(setting.context, &setting.path, text, error));
            (kind, Some(bound.ok()?))
        }
        _ => {
            let given = if star { "`*`".to_owned() } else { format!("{} arguments", arguments.len()) };
            wrong(setting, text, &function_at, format!("`{function}` cannot take {given}"), "one argument");
            return None;
        }
    };
    let of = input.as_ref().map_or(SqlType::Any, Expr::sql_type);
    if !takes(kind, of) {
        let expected = match kind {
            AggregateKind::Sum | AggregateKind::Avg => "a number",
            _ => "a number, a time, or text (CAST … AS text)",
        };
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
    if LATER.contains(&function) {
        let available: Vec<_> = FUNCTIONS.iter().map(|(name, _)| *name).collect();
        wrong(setting, text, at, format!("`{function}` is not available yet"), &available.join(", "));
        return None;
    }
    let names = || FUNCTIONS.iter().map(|(name, _)| *name).chain(LATER);
    let help = names::did_you_mean(function, names())
        .unwrap_or_else(|| format!("the aggregates are: {}", names().collect::<Vec<_>>().join(", ")));
    let message = format!("`{}`: there is no aggregate `{function}`", setting.path);
    let mistake = Mistake::at(text.place(at), message).expected("an aggregate, or an expression over others");
    setting.context.note(mistake.help(help));
    None
}

/// Whether an aggregate can take values of this type; of `Any` each event's value is looked at.
fn takes(kind: AggregateKind, of: SqlType) -> bool {
    match kind {
        AggregateKind::Sum | AggregateKind::Avg => {
            matches!(of, SqlType::Any | SqlType::Int | SqlType::Float | SqlType::Number)
        }
        AggregateKind::Min | AggregateKind::Max => !matches!(of, SqlType::Bool | SqlType::Json),
        AggregateKind::CountAll | AggregateKind::Count | AggregateKind::First | AggregateKind::Last => true,
    }
}

/// The type of an aggregate's value.
fn result_type(kind: AggregateKind, of: SqlType) -> SqlType {
    match kind {
        AggregateKind::CountAll | AggregateKind::Count => SqlType::Int,
        AggregateKind::Avg => SqlType::Float,
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
