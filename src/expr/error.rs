//! The two ways an expression can fail: when it is read, and on an event.

use std::borrow::Cow;
use std::ops::Range;

use crate::event::Value;
use crate::limits::EXCERPT_BYTES_MAX;

/// A text that is no expression, or one that cannot be bound.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// What is wrong, what was expected.
    pub message: String,
    /// Where, as bytes of the expression's text.
    pub at: Range<usize>,
    /// A valid name near the one that was given.
    pub nearest: Option<String>,
}

impl SyntaxError {
    pub(super) fn new(message: impl Into<String>, at: &Range<usize>) -> Self {
        Self { message: message.into(), at: at.clone(), nearest: None }
    }
}

/// An expression that failed on an event.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{expression}: {message}")]
pub struct ExprError {
    /// The part that failed, as SQL.
    pub expression: String,
    /// What happened, with the value.
    pub message: String,
}

/// The text, cut to what a reason shows.
pub(super) fn excerpt(text: &str) -> Cow<'_, str> {
    if text.len() <= EXCERPT_BYTES_MAX {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", &text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)]))
}

/// A value and its type, as a reason shows them.
pub(super) fn describe(value: &Value<'_>) -> String {
    match (value, value.to_text()) {
        (_, None) => "NULL".to_owned(),
        (Value::Text(_), Some(text)) => format!("'{}' (text)", excerpt(&text)),
        (_, Some(text)) => format!("{} ({})", excerpt(&text), value.type_name()),
    }
}

/// The name that was probably meant: at most every third letter differs.
pub(super) fn nearest<'n>(name: &str, names: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let close = names.into_iter().map(|known| (strsim::damerau_levenshtein(name, known), known)).min()?;
    (close.0 <= name.chars().count().div_ceil(3)).then(|| close.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_cut_between_characters() {
        let text = describe(&Value::text(&"é".repeat(101)));
        assert_eq!(text, format!("'{}…' (text)", "é".repeat(100)));
        let text = describe(&Value::text(&format!("x{}", "é".repeat(101))));
        assert_eq!(text, format!("'x{}…' (text)", "é".repeat(99)));
        assert_eq!(describe(&Value::Int(200)), "200 (bigint)");
        assert_eq!(describe(&Value::Null), "NULL");
    }

    #[test]
    fn only_a_name_that_is_close_is_offered() {
        assert_eq!(nearest("lowre", ["lower", "upper"]), Some("lower".to_owned()));
        assert_eq!(nearest("sqrt", ["lower", "upper", "substr"]), None);
    }
}
