//! What is wrong with a file: every mistake with its place, shown in the file's own lines.

use std::fmt;
use std::ops::Range;

use ariadne::{Color, Config, IndexType, Label, ReportKind, Source};

/// One mistake in a config file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    /// From 1; 0 where there is no text to point at (the file cannot be read).
    pub line: usize,
    /// In characters, from 1; 0 where there is no text to point at.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was expected at that place.
    pub expected: Option<String>,
    /// What to do about it: the nearest valid name, the way around.
    pub help: Option<String>,
    /// Bytes of the file.
    span: Range<usize>,
}

/// All mistakes of a config file, in the order of its lines.
#[derive(Clone, Debug)]
pub struct Report {
    name: String,
    /// The file, secrets masked: its lines are shown beside the mistakes.
    text: String,
    diagnostics: Vec<Diagnostic>,
}

/// A mistake as it is found, before lines and columns are counted.
#[derive(Clone, Debug)]
pub(super) struct Mistake {
    span: Range<usize>,
    message: String,
    expected: Option<String>,
    help: Option<String>,
    absence: bool,
}

impl Mistake {
    /// A mistake at these bytes of the file.
    pub(super) fn at(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), expected: None, help: None, absence: false }
    }

    /// What was expected there.
    pub(super) fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// What to do about it.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What to do about it, where there is something.
    pub(super) fn help_if(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }

    /// Says that something is not there: no mistake of its own if the line that holds it cannot be read.
    pub(super) fn absence(mut self) -> Self {
        self.absence = true;
        self
    }
}

impl Report {
    /// A file that could not be read at all.
    pub(super) fn unreadable(name: &str, message: String, help: &str) -> Self {
        let help = Some(help.to_owned());
        let diagnostic = Diagnostic { line: 0, column: 0, message, expected: None, help, span: 0..0 };
        Self { name: name.to_owned(), text: String::new(), diagnostics: vec![diagnostic] }
    }

    /// Mistakes of TOML itself and of what the file says. A line that is no TOML is reported once, as that; and what
    /// seems to be missing may stand in such a line.
    pub(super) fn new(name: &str, masked: String, syntax: Vec<Mistake>, meaning: Vec<Mistake>) -> Self {
        let mut diagnostics: Vec<Diagnostic> = Vec::new();
        for mistake in syntax {
            let diagnostic = Diagnostic::new(&masked, mistake);
            if !diagnostics.iter().any(|other| other.line == diagnostic.line) {
                diagnostics.push(diagnostic);
            }
        }
        let broken: Vec<usize> = diagnostics.iter().map(|diagnostic| diagnostic.line).collect();
        for mistake in meaning {
            let doubtful = mistake.absence && !broken.is_empty();
            let diagnostic = Diagnostic::new(&masked, mistake);
            if !doubtful && !broken.contains(&diagnostic.line) && !diagnostics.contains(&diagnostic) {
                diagnostics.push(diagnostic);
            }
        }
        diagnostics.sort_by_key(|diagnostic| (diagnostic.span.start, diagnostic.span.end));
        Self { name: name.to_owned(), text: masked, diagnostics }
    }

    /// All mistakes, in the order of the file's lines.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// As people read it: for each mistake the place, the line itself, what was expected, the nearest valid name.
    pub fn render(&self, color: bool) -> String {
        let mut shown = String::new();
        for diagnostic in &self.diagnostics {
            shown.push_str(&self.render_one(diagnostic, color));
        }
        let count = self.diagnostics.len();
        let errors = if count == 1 { "1 error".to_owned() } else { format!("{count} errors") };
        shown.push_str(&format!("{}: {errors}\n", self.name));
        shown
    }

    fn render_one(&self, diagnostic: &Diagnostic, color: bool) -> String {
        let Some(span) = visible(&self.text, &diagnostic.span) else {
            return diagnostic.plain(&self.name);
        };
        let id = self.name.as_str();
        let label = diagnostic.expected.as_deref().map_or("here".to_owned(), |text| format!("expected {text}"));
        let config = Config::new().with_color(color).with_index_type(IndexType::Byte);
        let mut report = ariadne::Report::build(ReportKind::Error, (id, span.clone()))
            .with_config(config)
            .with_message(&diagnostic.message)
            .with_label(Label::new((id, span)).with_message(label).with_color(Color::Red));
        if let Some(help) = &diagnostic.help {
            report = report.with_help(help);
        }
        let mut bytes = Vec::new();
        match report.finish().write((id, Source::from(self.text.as_str())), &mut bytes) {
            Ok(()) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(_) => diagnostic.plain(&self.name),
        }
    }
}

/// The bytes to underline: at least one character; `None` in an empty file.
fn visible(text: &str, span: &Range<usize>) -> Option<Range<usize>> {
    let last = text.char_indices().next_back()?.0;
    let start = text.floor_char_boundary(span.start.min(last));
    let next = start + text[start..].chars().next()?.len_utf8();
    Some(start..text.ceil_char_boundary(span.end.min(text.len())).max(next))
}

impl Diagnostic {
    fn new(text: &str, mistake: Mistake) -> Self {
        let Mistake { span, message, expected, help, absence: _ } = mistake;
        let before = &text[..text.floor_char_boundary(span.start.min(text.len()))];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = 1 + before.bytes().filter(|byte| *byte == b'\n').count();
        let column = 1 + before[line_start..].chars().count();
        Self { line, column, message, expected, help, span }
    }

    /// Without the file's lines.
    fn plain(&self, name: &str) -> String {
        let place = if self.line == 0 { name.to_owned() } else { format!("{name}:{}:{}", self.line, self.column) };
        let expected = self.expected.as_ref().map(|expected| format!("; expected {expected}")).unwrap_or_default();
        let help = self.help.as_ref().map(|help| format!("\n  Help: {help}")).unwrap_or_default();
        format!("Error: {place}: {}{expected}{help}\n", self.message)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Report {}
