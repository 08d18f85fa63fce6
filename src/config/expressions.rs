//! From an expression's text to one that is bound to the slots of a pipeline.

use crate::event::{Field, Step, TimeUnit};
use crate::expr::{self, Expr, Parsed, Resolved, Scope, SqlType, SyntaxError};

use super::SlotSource;
use super::reader::{Context, Setting, Text};
use super::report::Mistake;

/// Gives slots to the names of a pipeline, stage by stage.
#[derive(Default)]
pub(super) struct StageScope {
    slots: Vec<SlotSource>,
    /// What `set` stages put into the event so far: name, slot, type.
    computed: Vec<(String, usize, SqlType)>,
}

impl StageScope {
    /// The slot of a field of the line, whatever stages make of its name.
    pub(super) fn field_slot(&mut self, field: &Field) -> usize {
        self.slot(SlotSource::Field(field.clone()))
    }

    /// From now on this name leads to what a `set` stage put there. A name that is set again keeps its slot.
    pub(super) fn set(&mut self, name: &str, sql_type: SqlType) -> usize {
        let slot = self.slot(SlotSource::Computed(name.to_owned()));
        self.computed.retain(|(other, _, _)| other != name);
        self.computed.push((name.to_owned(), slot, sql_type));
        slot
    }

    /// Where a name leads after all the stages so far.
    pub(super) fn find(&mut self, field: &Field) -> Resolved {
        let Some((_, slot, sql_type)) = self.computed.iter().find(|(name, _, _)| name == field.root()) else {
            return Resolved { slot: self.field_slot(field), rest: Vec::new(), sql_type: SqlType::Any };
        };
        let rest = field.steps()[1..].to_vec();
        let sql_type = if rest.is_empty() { *sql_type } else { SqlType::Any };
        Resolved { slot: *slot, rest, sql_type }
    }

    /// What fills each slot.
    pub(super) fn into_slots(self) -> Vec<SlotSource> {
        self.slots
    }

    fn slot(&mut self, source: SlotSource) -> usize {
        self.slots.iter().position(|other| *other == source).unwrap_or_else(|| {
            self.slots.push(source);
            self.slots.len() - 1
        })
    }
}

impl Scope for StageScope {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        Ok(self.find(field))
    }
}

/// Notes that a text is no expression, at the place inside the text.
pub(super) fn note_syntax(context: &Context<'_>, path: &str, text: &Text, error: SyntaxError) {
    let mistake = Mistake::at(text.place(&error.at), format!("`{path}`: {}", error.message));
    context.note(mistake.help_if(error.nearest.map(|name| format!("did you mean `{name}`?"))));
}

/// Parses the expression of a setting and binds it.
pub(super) fn read_expression(setting: &Setting<'_>, scope: &mut dyn Scope) -> Option<Expr> {
    let text = setting.text("an SQL expression in quotes")?;
    let bound = expr::parse(&text.value).and_then(|parsed| parsed.bind(scope));
    bound.map_err(|error| note_syntax(setting.context, &setting.path, &text, error)).ok()
}

/// Binds what a filter is made of: it must be true or false.
pub(super) fn bind_filter(parsed: &Parsed, scope: &mut dyn Scope, setting: &Setting<'_>, text: &Text) -> Option<Expr> {
    match parsed.bind(scope) {
        Ok(expr) => check_filter(setting, &expr).then_some(expr),
        Err(error) => {
            note_syntax(setting.context, &setting.path, text, error);
            None
        }
    }
}

/// Whether an expression can say which events to keep.
pub(super) fn check_filter(setting: &Setting<'_>, expr: &Expr) -> bool {
    let fits = matches!(expr.sql_type(), SqlType::Bool | SqlType::Any);
    if !fits {
        let message =
            format!("`{}`: a filter must be true or false, this is {}", setting.path, of_type(expr.sql_type()));
        setting.wrong(message, "a condition, such as \"status >= 500\"");
    }
    fits
}

/// A type, for messages.
pub(super) fn of_type(sql_type: SqlType) -> &'static str {
    match sql_type {
        SqlType::Any => "of a type that depends on the event",
        SqlType::Bool => "true or false",
        SqlType::Int | SqlType::Float | SqlType::Number => "a number",
        SqlType::Time => "a time",
        SqlType::Text => "text",
        SqlType::Json => "an object or a list",
    }
}

/// Units of times that are numbers.
pub(super) const TIME_UNITS: [(&str, TimeUnit); 4] =
    [("s", TimeUnit::Seconds), ("ms", TimeUnit::Millis), ("us", TimeUnit::Micros), ("ns", TimeUnit::Nanos)];

/// `time = "ts"` or `time = { field = "ts", unit = "ms" }`
pub(super) fn read_time(setting: &Setting<'_>) -> Option<(Field, Option<TimeUnit>)> {
    const EXPECTED: &str = "a field such as \"ts\", or { field = \"ts\", unit = \"ms\" }";
    if setting.is_text() {
        return Some((read_field(setting, EXPECTED)?, None));
    }
    let mut section = setting.section(EXPECTED)?;
    let field = section.require("field", "field = \"ts\"").and_then(|field| read_field(&field, EXPECTED));
    let unit = section.take("unit").and_then(|unit| unit.choice(&TIME_UNITS, &[]));
    section.finish();
    Some((field?, unit))
}

/// A path into the line: `ts`, `meta.ts`, `"odd name"`.
fn read_field(setting: &Setting<'_>, expected: &str) -> Option<Field> {
    let text = setting.text(expected)?;
    // The common case; the parser of expressions may know some of these words as SQL's own.
    if is_plain(&text.value) {
        return Some(Field::top(text.value));
    }
    let mut only = OnlyField(None);
    let bound = expr::parse(&text.value).and_then(|parsed| parsed.bind(&mut only));
    match (bound, only.0) {
        (Ok(expr), Some(field)) if expr.slot().is_some() => Some(field),
        _ => {
            let message = format!("`{}` is no field: `{}`", setting.path, text.value);
            let help = "write a path such as meta.ts; a name with other characters in double quotes: '\"@timestamp\"'";
            setting.context.note(Mistake::at(text.span, message).expected(expected).help(help));
            None
        }
    }
}

fn is_plain(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// Takes down the field that an expression names.
struct OnlyField(Option<Field>);

impl Scope for OnlyField {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        self.0 = Some(field.clone());
        Ok(Resolved { slot: 0, rest: Vec::<Step>::new(), sql_type: SqlType::Any })
    }
}
