//! Functions on text. What changes nothing copies nothing.

use std::borrow::Cow;
use std::ops::Range;

use super::super::error::{ExprError, describe};
use super::super::eval::eval;
use super::super::node::Node;
use crate::event::{Row, Value};
use crate::limits::EXPRESSION_TEXT_BYTES_MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in super::super) enum TextFunction {
    Lower,
    Upper,
    Trim,
    TrimStart,
    TrimEnd,
    Length,
    Substr,
    SplitPart,
    Replace,
}

/// A function of text for an event; NULL where an argument is.
pub(in super::super) fn text<'a>(
    function: TextFunction,
    call: &'a Node,
    arguments: &'a [Node],
    row: &'a dyn Row,
) -> Result<Value<'a>, ExprError> {
    // All arguments are computed before one of them decides: NULL hides no error.
    let mut values = [Value::Null, Value::Null, Value::Null];
    for (value, argument) in values.iter_mut().zip(arguments) {
        *value = eval(argument, row)?;
    }
    if values[..arguments.len()].iter().any(Value::is_null) {
        return Ok(Value::Null);
    }
    let [first, second, third] = values;
    let text = need_text(call, first)?;
    let made = match function {
        TextFunction::Length => return Ok(Value::Int(text.chars().count() as i64)),
        TextFunction::Lower => lower(text),
        TextFunction::Upper => upper(text),
        TextFunction::Trim | TextFunction::TrimStart | TextFunction::TrimEnd => {
            let characters = if arguments.len() == 2 { need_text(call, second)? } else { Cow::Borrowed(" ") };
            trim(function, text, &characters)
        }
        TextFunction::Substr => {
            let count = if arguments.len() == 3 { Some(need_whole(call, &third)?) } else { None };
            if count.is_some_and(i64::is_negative) {
                return Err(call.error(format!("the count is negative: {}", describe(&third))));
            }
            substr(text, need_whole(call, &second)?, count)
        }
        TextFunction::SplitPart => match need_whole(call, &third)? {
            0 => return Err(call.error("parts are counted from 1, from the end with -1; there is no part 0")),
            number => split_part(text, &need_text(call, second)?, number),
        },
        TextFunction::Replace => return replace(call, text, &need_text(call, second)?, &need_text(call, third)?),
    };
    fits(call, made.len())?;
    Ok(Value::Text(made))
}

/// The texts of values, one behind the other; a NULL is passed over (`concat`) or makes all NULL (`||`).
pub(in super::super) fn join<'a>(
    call: &'a Node,
    parts: &'a [Node],
    skip_nulls: bool,
    row: &'a dyn Row,
) -> Result<Value<'a>, ExprError> {
    let mut joined = String::new();
    let mut is_null = false;
    for part in parts {
        let value = eval(part, row)?;
        match value.to_text() {
            None => is_null |= !skip_nulls,
            Some(text) => {
                fits(call, joined.len() + text.len())?;
                joined.push_str(&text);
            }
        }
    }
    Ok(if is_null { Value::Null } else { Value::Text(Cow::Owned(joined)) })
}

fn need_text<'a>(call: &Node, value: Value<'a>) -> Result<Cow<'a, str>, ExprError> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(call.error(format!("text is needed, not {}; CAST makes it text", describe(&other)))),
    }
}

fn need_whole(call: &Node, value: &Value<'_>) -> Result<i64, ExprError> {
    match value {
        Value::Int(number) => Ok(*number),
        other => Err(call.error(format!("a whole number is needed, not {}", describe(other)))),
    }
}

fn fits(call: &Node, length: usize) -> Result<(), ExprError> {
    if length <= EXPRESSION_TEXT_BYTES_MAX {
        return Ok(());
    }
    Err(call.error(format!("the text would have {length} bytes, more than {EXPRESSION_TEXT_BYTES_MAX}")))
}

fn lower(text: Cow<'_, str>) -> Cow<'_, str> {
    let same = |c: char| {
        let mut lower = c.to_lowercase();
        lower.next() == Some(c) && lower.next().is_none()
    };
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase()) || text.chars().all(same) {
        return text;
    }
    Cow::Owned(text.to_lowercase())
}

fn upper(text: Cow<'_, str>) -> Cow<'_, str> {
    let same = |c: char| {
        let mut upper = c.to_uppercase();
        upper.next() == Some(c) && upper.next().is_none()
    };
    if text.bytes().all(|b| b.is_ascii() && !b.is_ascii_lowercase()) || text.chars().all(same) {
        return text;
    }
    Cow::Owned(text.to_uppercase())
}

/// A part of a text: borrowed from what is borrowed.
fn part(text: Cow<'_, str>, range: Range<usize>) -> Cow<'_, str> {
    match text {
        _ if range == (0..text.len()) => text,
        Cow::Borrowed(text) => Cow::Borrowed(&text[range]),
        Cow::Owned(text) => Cow::Owned(text[range].to_owned()),
    }
}

fn trim<'a>(function: TextFunction, text: Cow<'a, str>, characters: &str) -> Cow<'a, str> {
    let unwanted = |c: char| characters.contains(c);
    let mut range = 0..text.len();
    if function != TextFunction::TrimEnd {
        range.start = text.len() - text.trim_start_matches(unwanted).len();
    }
    if function != TextFunction::TrimStart {
        range.end = range.start + text[range.start..].trim_end_matches(unwanted).len();
    }
    part(text, range)
}

/// As in PostgreSQL: characters are counted from 1, and those before the first count, too.
fn substr(text: Cow<'_, str>, from: i64, count: Option<i64>) -> Cow<'_, str> {
    let byte = |text: &str, character: i64| {
        let index = usize::try_from(character.saturating_sub(1)).unwrap_or(0);
        text.char_indices().nth(index).map_or(text.len(), |(byte, _)| byte)
    };
    let end = count.map_or(i64::MAX, |count| from.saturating_add(count));
    let range = byte(&text, from)..byte(&text, end.max(from));
    part(text, range)
}

/// Part `number`, from the end where it is negative; empty where there is no such part.
fn split_part<'a>(text: Cow<'a, str>, separator: &str, number: i64) -> Cow<'a, str> {
    let range = part_range(&text, separator, number).unwrap_or(0..0);
    part(text, range)
}

fn part_range(text: &str, separator: &str, number: i64) -> Option<Range<usize>> {
    if separator.is_empty() {
        return matches!(number, 1 | -1).then_some(0..text.len());
    }
    let index = match number {
        1.. => number - 1,
        _ => text.matches(separator).count() as i64 + 1 + number,
    };
    let mut ends = text.match_indices(separator).map(|(at, _)| at).chain([text.len()]);
    let mut start = 0;
    for _ in 0..u64::try_from(index).ok()? {
        start = ends.next()? + separator.len();
    }
    Some(start..ends.next()?)
}

fn replace<'a>(call: &Node, text: Cow<'a, str>, old: &str, new: &str) -> Result<Value<'a>, ExprError> {
    let count = if old.is_empty() { 0 } else { text.matches(old).count() };
    if count == 0 {
        fits(call, text.len())?;
        return Ok(Value::Text(text));
    }
    // Measured before it is made: a short line could otherwise ask for gigabytes.
    fits(call, (text.len() - count * old.len()).saturating_add(count.saturating_mul(new.len())))?;
    Ok(Value::Text(Cow::Owned(text.replace(old, new))))
}
