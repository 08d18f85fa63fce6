//! Where a config names fields that events do not have.

use std::cell::RefCell;
use std::ops::Range;
use std::path::Path;

use toml::de::DeTable;

use super::mask::mask;
use super::names;
use super::reader::{Context, Section, Setting, Text};
use super::report::{Mistake, Report};
use crate::event::Field;
use crate::expr::{self, AggregateText, Parsed, Resolved, Scope, SqlType};

/// A field that a pipeline names, and none of some events has.
#[derive(Clone, Debug)]
pub struct Unseen<'e> {
    /// The pipeline.
    pub pipeline: &'e str,
    /// The field.
    pub field: &'e Field,
    /// What is said of it.
    pub message: String,
    /// Names that the events have.
    pub names: &'e [String],
}

/// These fields as mistakes of the config that was read from this file, each where its pipeline names it first.
///
/// # Errors
/// Where the file cannot be read again.
pub fn unseen(path: &Path, unseen: &[Unseen<'_>]) -> std::io::Result<Report> {
    let text = std::fs::read_to_string(path)?;
    let (table, _) = DeTable::parse_recoverable(&text);
    let env = |variable: &str| std::env::var(variable).ok();
    let base = path.parent().unwrap_or(Path::new(""));
    let context = Context { text: &text, base, env: &env, mistakes: RefCell::default() };
    let mistake = |unseen: &Unseen<'_>| {
        let root = Section::root(&context, table.get_ref());
        let place = first_use(root, unseen.pipeline, unseen.field).unwrap_or(0..0);
        let field = unseen.field.to_string();
        let help = names::did_you_mean(&field, unseen.names.iter().map(String::as_str));
        Mistake::at(place, unseen.message.clone()).expected("a field that events have").help_if(help)
    };
    let mistakes = unseen.iter().map(mistake).collect();
    Ok(Report::new(&path.display().to_string(), mask(&text, table.get_ref()), Vec::new(), mistakes))
}

/// Where a pipeline names a field first, in the order of an event's way; else the pipeline's own place.
fn first_use(mut root: Section<'_>, pipeline: &str, field: &Field) -> Option<Range<usize>> {
    let streams = root.take("streams");
    let pipelines = root.take("pipelines")?.section("")?.entries();
    let own = pipelines.into_iter().find(|entry| entry.key == pipeline)?;
    let mut section = own.section("")?;
    let mut settings = Vec::new();
    // What it has not, its stream has.
    let stream = section.take("stream").and_then(|stream| stream.text(""));
    let of_stream = || {
        let streams = streams.as_ref()?.section("")?.entries();
        let stream = streams.into_iter().find(|entry| stream.as_ref().is_some_and(|own| own.value == entry.key))?;
        stream.section("")?.take("time")
    };
    settings.extend(section.take("time").or_else(of_stream));
    settings.extend(["stages", "group_by", "aggregates"].into_iter().filter_map(|key| section.take(key)));
    let found = settings.iter().find_map(|setting| find(setting, field));
    Some(found.unwrap_or(own.key_span))
}

/// In a text, or the texts within.
fn find(setting: &Setting<'_>, field: &Field) -> Option<Range<usize>> {
    if setting.is_text() {
        return find_in(&setting.text("")?, field);
    }
    let within = if setting.is_list() { setting.list("") } else { setting.section("").map(|table| table.entries()) };
    within?.iter().find_map(|setting| find(setting, field))
}

fn find_in(text: &Text, field: &Field) -> Option<Range<usize>> {
    // A name need be no expression: SQL has words of its own.
    if text.value == field.to_string() || *field == Field::top(text.value.as_str()) {
        return Some(text.span.clone());
    }
    let parts: Vec<Parsed> = match expr::parse_aggregate(&text.value).ok()? {
        AggregateText::Expression(parsed) => vec![parsed],
        AggregateText::Call { arguments, filter, .. } => arguments.into_iter().chain(filter).collect(),
    };
    parts.iter().find_map(|part| {
        let mut sought = Sought { field, found: false };
        let refused = part.bind(&mut sought).err()?;
        sought.found.then(|| text.place(&refused.at))
    })
}

/// Refuses one field, so that the refusal says where it stands.
struct Sought<'f> {
    field: &'f Field,
    found: bool,
}

impl Scope for Sought<'_> {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        if field == self.field {
            self.found = true;
            return Err(None);
        }
        Ok(Resolved { slot: 0, rest: Vec::new(), sql_type: SqlType::Any })
    }
}
