//! What is not as expected, as people read it: `-` is expected, `+` is there.

use std::fmt::Write as _;

use serde_json::Value;

use super::super::table::{escape, json_text};
use super::compare::{Difference, compare, differing, is_letter};
use crate::config::{ExpectedLetter, ExpectedRow, PipelineConfig};
use crate::event::{format_utc, parse_time_text};
use crate::store::{ResultRows, StoredLetter};

const INDENT: &str = "        ";
/// What stands for a value that is not compared.
const ANY: &str = "·";
/// Columns that each view begins with.
const TIMES: [&str; 3] = ["window_start", "window_end", "revised_at"];
/// Characters of a letter's line.
const LINE_CHARS: usize = 60;

/// Each line under the name of the test.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("{INDENT}{line}\n")).collect()
}

/// Rows that are not as expected; nothing where all are.
pub(super) fn rows(place: &str, expected: &[ExpectedRow], there: &ResultRows, pipeline: &PipelineConfig) -> String {
    let unlike = |one: usize, other: usize| {
        let differing = differing(&expected[one], &there.columns, &there.rows[other]);
        let is_group = |name: &String| pipeline.group_by.iter().any(|group| group.name == *name);
        let related = differing.len() < expected[one].fields.len() && !differing.iter().any(is_group);
        related.then_some(differing.len())
    };
    let fits = |one: usize, other: usize| differing(&expected[one], &there.columns, &there.rows[other]).is_empty();
    let difference = compare(expected.len(), there.rows.len(), fits, unlike);
    if difference.is_none() {
        return String::new();
    }
    let columns = shown_columns(expected, there, pipeline);
    let mut lines = Lines::new(columns.iter().map(|index| escape(&there.columns[*index])));
    for (one, other) in &difference.differs {
        let wrong = differing(&expected[*one], &there.columns, &there.rows[*other]);
        let (mut wanted, mut is) = (Vec::new(), Vec::new());
        for index in &columns {
            let value = expected[*one].fields.iter().find(|(name, _)| *name == there.columns[*index]);
            let (left, right) =
                both(value.map(|(_, value)| value), &there.columns[*index], &there.rows[*other][*index]);
            wanted.push(left);
            is.push(right);
        }
        let marked = columns.iter().map(|index| wrong.contains(&there.columns[*index])).collect();
        lines.add('-', wanted, format!("expected (line {})", expected[*one].line));
        lines.add('+', is, "is there".to_owned());
        lines.mark(marked);
    }
    for one in &difference.missing {
        let value = |index: &usize| {
            let name = &there.columns[*index];
            let found = expected[*one].fields.iter().find(|(field, _)| field == name);
            found.map_or(ANY.to_owned(), |(_, value)| shown(name, value))
        };
        let said = format!("expected (line {}), but not there", expected[*one].line);
        lines.add('-', columns.iter().map(value).collect(), said);
    }
    for other in &difference.unexpected {
        let value = |index: &usize| shown(&there.columns[*index], &there.rows[*other][*index]);
        lines.add('+', columns.iter().map(value).collect(), "there, but not expected".to_owned());
    }
    head(place, "row", &difference, there.rows.len()) + &lines.text()
}

/// Letters that are not as expected; nothing where all are.
pub(super) fn letters(place: &str, expected: &[ExpectedLetter], there: &[StoredLetter]) -> String {
    let fits = |one: usize, other: usize| is_letter(&expected[one], &there[other]);
    let difference = compare(expected.len(), there.len(), fits, |_, _| None);
    if difference.is_none() {
        return String::new();
    }
    let mut lines = Lines::new(["kind", "stage", "event", "reason"].map(str::to_owned).into_iter());
    for one in &difference.missing {
        let ExpectedLetter { line, kind, stage, reason, event } = &expected[*one];
        let part = |part: &Option<String>| part.as_ref().map_or(ANY.to_owned(), |part| format!("…{}…", escape(part)));
        let cells = vec![kind.unwrap_or(ANY).to_owned(), part(stage), part(event), part(reason)];
        lines.add('-', cells, format!("expected (line {line}), but not there"));
    }
    for other in &difference.unexpected {
        let StoredLetter { kind, stage, reason, line, .. } = &there[*other];
        let mut event: String = line.chars().take(LINE_CHARS).collect();
        if event.len() < line.len() {
            event.push('…');
        }
        let cells = [kind, stage, &event, reason].map(|text| escape(text));
        lines.add('+', cells.to_vec(), "there, but not expected".to_owned());
    }
    head(place, "letter", &difference, there.len()) + &lines.text()
}

fn head(place: &str, what: &str, difference: &Difference, there: usize) -> String {
    let Difference { differs, missing, unexpected } = difference;
    let right = there - differs.len() - unexpected.len();
    let counts = [
        (differs.len(), "not as expected"),
        (missing.len(), "missing"),
        (unexpected.len(), "not expected"),
        (right, "as expected"),
    ];
    let said: Vec<String> = counts.iter().filter(|(count, _)| *count > 0).map(|(n, is)| format!("{n} {is}")).collect();
    indented(&format!("{place}, {what}s: {}", said.join(", ")))
}

/// The window's start, the groups, and what the expected rows name; all values, where they name nothing.
fn shown_columns(expected: &[ExpectedRow], there: &ResultRows, pipeline: &PipelineConfig) -> Vec<usize> {
    let mut named = expected.iter().flat_map(|row| &row.fields).map(|(name, _)| name.as_str()).collect::<Vec<_>>();
    named.extend(pipeline.group_by.iter().map(|group| group.name.as_str()));
    named.push("window_start");
    if expected.is_empty() {
        named.extend(pipeline.columns.iter().map(|column| column.name.as_str()));
    }
    (0..there.columns.len()).filter(|index| named.contains(&there.columns[*index].as_str())).collect()
}

fn shown(column: &str, value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::String(text) => match parse_time_text(text) {
            // As the view writes it, so that two times can be compared by eye.
            Some(ms) if TIMES.contains(&column) => format_utc(ms),
            _ => escape(text),
        },
        Value::Number(number) if matches!(column, "closed" | "partial" | "other") => number.to_string(),
        other => json_text(other),
    }
}

/// What is expected and what is there; where they look the same and are not, as JSON.
fn both(wanted: Option<&Value>, column: &str, is: &Value) -> (String, String) {
    let Some(wanted) = wanted else { return (ANY.to_owned(), shown(column, is)) };
    let (left, right) = (shown(column, wanted), shown(column, is));
    if left == right && wanted != is && !TIMES.contains(&column) {
        return (json_text(wanted), json_text(is));
    }
    (left, right)
}

/// A table whose columns are aligned, with signs before its lines and words behind them.
struct Lines {
    head: Vec<String>,
    lines: Vec<Line>,
}

enum Line {
    Row(char, Vec<String>, String),
    Marks(Vec<bool>),
}

impl Lines {
    fn new(head: impl Iterator<Item = String>) -> Self {
        Self { head: head.collect(), lines: Vec::new() }
    }

    fn add(&mut self, sign: char, cells: Vec<String>, said: String) {
        self.lines.push(Line::Row(sign, cells, said));
    }

    /// Points at cells of the line before.
    fn mark(&mut self, cells: Vec<bool>) {
        self.lines.push(Line::Marks(cells));
    }

    fn text(&self) -> String {
        let mut widths: Vec<usize> = self.head.iter().map(|cell| cell.chars().count()).collect();
        for line in &self.lines {
            if let Line::Row(_, cells, _) = line {
                for (width, cell) in widths.iter_mut().zip(cells) {
                    *width = (*width).max(cell.chars().count());
                }
            }
        }
        let mut text = String::new();
        let mut put = |sign: char, cells: &[String], said: &str| {
            let mut line = format!("{INDENT}{sign} ");
            for (cell, width) in cells.iter().zip(&widths) {
                // Writing to a text cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            line.push_str(said);
            text.push_str(line.trim_end());
            text.push('\n');
        };
        put(' ', &self.head, "");
        for line in &self.lines {
            match line {
                Line::Row(sign, cells, said) => put(*sign, cells, said),
                Line::Marks(marks) => {
                    let marks: Vec<String> = marks
                        .iter()
                        .zip(&widths)
                        .map(|(mark, width)| if *mark { "^" } else { "" }.repeat(*width))
                        .collect();
                    put(' ', &marks, "");
                }
            }
        }
        text
    }
}
