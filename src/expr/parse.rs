//! Text to a tree: sqlparser reads it, then what it made is measured and taken over.

use std::ops::Range;

use sqlparser::ast as sql;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, Tokenizer};

use super::dialect::Dialect;
use super::error::SyntaxError;
use super::functions;
use super::lower::Lowering;
use super::places::Places;
use super::{AggregateText, Parsed};
use crate::limits::{EXPRESSION_DEPTH_MAX, EXPRESSION_TOKENS_MAX};

/// Parses an expression.
///
/// # Errors
/// Where it is none.
pub fn parse(text: &str) -> Result<Parsed, SyntaxError> {
    let (expr, places) = read(text)?;
    Ok(Parsed { tree: Lowering::new(&places).expression(&expr)? })
}

/// Parses what stands on the right side of an aggregate's name. A call of what is no function of expressions is an
/// aggregate's, whether there is such an aggregate or not.
///
/// # Errors
/// Where it is neither a call nor an expression.
pub fn parse_aggregate(text: &str) -> Result<AggregateText, SyntaxError> {
    let (expr, places) = read(text)?;
    let lowering = Lowering::new(&places);
    match &expr {
        sql::Expr::Function(call) if !functions::is_known(&call.name.to_string().to_ascii_lowercase()) => {
            lowering.aggregate(call)
        }
        _ => Ok(AggregateText::Expression(Parsed { tree: lowering.expression(&expr)? })),
    }
}

fn read(text: &str) -> Result<(sql::Expr, Places<'_>), SyntaxError> {
    let tokens = Tokenizer::new(&Dialect, text)
        .tokenize_with_location()
        .map_err(|error| SyntaxError::new(lower_first(&error.message), &rest_from(text, error.location)))?;
    let places = Places::new(text, &tokens);
    if places.len() == 0 {
        return Err(SyntaxError::new("an expression is missing", &(0..text.len())));
    }
    if places.len() > EXPRESSION_TOKENS_MAX {
        let message = format!("the expression has {} words and signs, more than {EXPRESSION_TOKENS_MAX}", places.len());
        return Err(SyntaxError::new(message, &places.whole()));
    }
    // The tree is measured exactly when it is lowered; a level of it never costs the parser more than two of its own.
    let mut parser =
        Parser::new(&Dialect).with_recursion_limit(2 * EXPRESSION_DEPTH_MAX).with_tokens_with_locations(tokens);
    let expr = parser.parse_expr().map_err(|error| explain(error, &places))?;
    let next = parser.peek_token();
    if next.token != Token::EOF {
        let at = places.token(next.span.start);
        let message = format!("unexpected `{}` after the end of the expression", places.text(&at));
        return Err(SyntaxError::new(message, &at));
    }
    Ok((expr, places))
}

/// The parser's error, whose place is only in its text.
fn explain(error: ParserError, places: &Places<'_>) -> SyntaxError {
    let text = match error {
        ParserError::RecursionLimitExceeded => return too_deep(&places.whole()),
        ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
    };
    let (message, at) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, location(place).map_or(places.whole(), |place| places.token(place))),
        None => (text.as_str(), if text.ends_with("EOF") { places.end() } else { places.whole() }),
    };
    let message = match message.strip_prefix("Expected: ").and_then(|message| message.split_once(", found: ")) {
        Some((expected, "EOF")) => format!("expected {expected} before the end"),
        Some((expected, found)) => format!("expected {expected} instead of `{found}`"),
        None => lower_first(message),
    };
    SyntaxError::new(message, &at)
}

pub(super) fn too_deep(at: &Range<usize>) -> SyntaxError {
    SyntaxError::new(format!("the expression is nested more than {EXPRESSION_DEPTH_MAX} deep"), at)
}

/// `3, Column: 14`
fn location(text: &str) -> Option<Location> {
    let (line, column) = text.split_once(", Column: ")?;
    Some(Location { line: line.parse().ok()?, column: column.parse().ok()? })
}

/// From a location to the end, for what began there and does not end.
fn rest_from(text: &str, location: Location) -> Range<usize> {
    super::places::byte(text, location)..text.len()
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_lowercase().chain(chars).collect())
}
