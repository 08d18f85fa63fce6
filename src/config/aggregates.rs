//! `[pipelines.<name>.aggregates]`: what window actors keep, what the results show, and how one leads to the other.

use serde_json::json;

use crate::event::Field;
use crate::expr::{self, AggregateText, Parsed, Resolved, Scope, SqlType};
use crate::window::AggregateKind;

use super::calls::{Call, read_call};
use super::expressions::{StageScope, note_syntax};
use super::names;
use super::reader::{Section, Setting, Text};
use super::report::Mistake;
use super::{AggregateConfig, ColumnConfig, ColumnSource, ColumnType, GroupConfig};

const EXAMPLE: &str = "aggregates = { events = \"count(*)\" }";

/// What a pipeline computes of its groups.
#[derive(Default)]
pub(super) struct Results {
    pub(super) aggregates: Vec<AggregateConfig>,
    pub(super) columns: Vec<ColumnConfig>,
    /// The columns in an order in which each expression comes behind those that it needs.
    pub(super) evaluation: Vec<usize>,
    /// Names and texts in the order of the file, for the definition.
    pub(super) texts: Vec<serde_json::Value>,
}

/// A column on its way.
struct Draft<'c> {
    setting: Setting<'c>,
    text: Text,
    /// Its type where other columns use it.
    sql_type: SqlType,
    content: Content,
}

enum Content {
    Call(Box<Call>),
    Expression {
        parsed: Parsed,
        needs: Vec<usize>,
        bound: Option<expr::Expr>,
    },
    /// Its mistake is noted; it stays, so that those who use it are not wrong, too.
    Broken,
}

/// Reads and binds all of them; calls see the event as it is behind the stages.
pub(super) fn read_aggregates(section: &mut Section<'_>, scope: &mut StageScope, groups: &[GroupConfig]) -> Results {
    let Some(setting) = section.require("aggregates", EXAMPLE) else { return Results::default() };
    let Some(table) = setting.section("a table, such as { events = \"count(*)\" }") else { return Results::default() };
    let entries = table.entries();
    if entries.is_empty() {
        setting.wrong(format!("`{}` has no aggregate", setting.path), format!("at least one: `{EXAMPLE}`"));
    }
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    for entry in entries {
        check_column_name(&entry, groups);
        drafts.push(read_draft(entry, scope));
    }
    find_needs(&mut drafts);
    let evaluation = order(&mut drafts);
    bind_expressions(&mut drafts, &evaluation);
    finish(drafts, evaluation)
}

fn check_column_name(entry: &Setting<'_>, groups: &[GroupConfig]) {
    entry.check_name("an aggregate");
    if groups.iter().any(|group| group.name == entry.key) {
        let message = format!("`{}` is a field of `group_by`, too", entry.key);
        let mistake = Mistake::at(entry.key_span.clone(), message).expected("a name of its own");
        entry.context.note(mistake.help("both are columns of one view"));
    }
}

fn read_draft<'c>(setting: Setting<'c>, scope: &mut StageScope) -> Draft<'c> {
    let broken = |text: Text, setting| Draft { setting, text, sql_type: SqlType::Any, content: Content::Broken };
    let Some(text) = setting.text("an aggregate in quotes, such as \"count(*)\"") else {
        return broken(Text::missing(setting.span()), setting);
    };
    let content = match expr::parse_aggregate(&text.value) {
        Ok(AggregateText::Expression(parsed)) => Content::Expression { parsed, needs: Vec::new(), bound: None },
        Ok(call @ AggregateText::Call { .. }) => match read_call(&setting, &text, call, scope) {
            Some(call) => Content::Call(Box::new(call)),
            None => Content::Broken,
        },
        Err(error) => {
            note_syntax(setting.context, &setting.path, &text, error);
            Content::Broken
        }
    };
    let sql_type = if let Content::Call(call) = &content { call.sql_type } else { SqlType::Any };
    Draft { setting, text, sql_type, content }
}

/// Leads names to columns, and takes down which ones are used.
struct ColumnScope<'s> {
    columns: &'s [(&'s str, SqlType)],
    used: Vec<usize>,
}

impl Scope for ColumnScope<'_> {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        let Some(slot) = self.columns.iter().position(|(name, _)| *name == field.root()) else {
            let names = self.columns.iter().map(|(name, _)| *name);
            return Err(names::nearest(field.root(), names).map(str::to_owned));
        };
        self.used.push(slot);
        let rest = field.steps()[1..].to_vec();
        let sql_type = if rest.is_empty() { self.columns[slot].1 } else { SqlType::Any };
        Ok(Resolved { slot, rest, sql_type })
    }
}

/// Binds an expression over aggregates; notes what is wrong with it.
fn bind_draft(draft: &Draft<'_>, parsed: &Parsed, scope: &mut ColumnScope<'_>) -> Option<expr::Expr> {
    match parsed.bind(scope) {
        Ok(bound) => Some(bound),
        Err(mut error) => {
            if error.nearest.is_none() {
                let names: Vec<_> = scope.columns.iter().map(|(name, _)| *name).collect();
                error.message = format!("{} (names here are aggregates: {})", error.message, names.join(", "));
            }
            note_syntax(draft.setting.context, &draft.setting.path, &draft.text, error);
            None
        }
    }
}

/// Finds which columns each expression needs, before any of their types is known.
fn find_needs(drafts: &mut [Draft<'_>]) {
    let mut found = Vec::new();
    let columns: Vec<_> = drafts.iter().map(|draft| (draft.setting.key, SqlType::Any)).collect();
    for (index, draft) in drafts.iter().enumerate() {
        if let Content::Expression { parsed, .. } = &draft.content {
            let mut scope = ColumnScope { columns: &columns, used: Vec::new() };
            let is_bound = bind_draft(draft, parsed, &mut scope).is_some();
            found.push((index, is_bound.then_some(scope.used)));
        }
    }
    for (index, used) in found {
        match (&mut drafts[index].content, used) {
            (Content::Expression { needs, .. }, Some(used)) => *needs = used,
            (content, _) => *content = Content::Broken,
        }
    }
}

/// An order in which each expression comes behind those that it needs. What needs itself is reported and broken.
fn order(drafts: &mut [Draft<'_>]) -> Vec<usize> {
    let mut order: Vec<usize> = Vec::with_capacity(drafts.len());
    let mut left: Vec<usize> = (0..drafts.len()).collect();
    while !left.is_empty() {
        let ready = left.iter().position(|index| needs(&drafts[*index]).iter().all(|need| order.contains(need)));
        if let Some(at) = ready {
            order.push(left.remove(at));
        } else {
            let cycle = find_cycle(drafts, &left);
            let first = &drafts[cycle[0]];
            let path: Vec<&str> = cycle.iter().chain([&cycle[0]]).map(|index| drafts[*index].setting.key).collect();
            let message = format!("`{}` needs itself: {}", first.setting.path, path.join(" -> "));
            first.setting.wrong(message, "an expression over other aggregates");
            for index in cycle {
                drafts[index].content = Content::Broken;
            }
        }
    }
    order
}

fn needs<'d>(draft: &'d Draft<'_>) -> &'d [usize] {
    if let Content::Expression { needs, .. } = &draft.content { needs } else { &[] }
}

/// A cycle among expressions of which each needs another one of them; it begins with the one that the file has first.
fn find_cycle(drafts: &[Draft<'_>], left: &[usize]) -> Vec<usize> {
    let mut path = vec![left[0]];
    loop {
        let last = path[path.len() - 1];
        // Each of `left` needs one of `left`, or it would be ready.
        let next = needs(&drafts[last]).iter().copied().find(|need| left.contains(need)).unwrap_or(last);
        if let Some(from) = path.iter().position(|index| *index == next) {
            let mut cycle = path.split_off(from);
            let first = (0..cycle.len()).min_by_key(|at| cycle[*at]).unwrap_or(0);
            cycle.rotate_left(first);
            return cycle;
        }
        path.push(next);
    }
}

/// Binds each expression when the types of those that it needs are known.
fn bind_expressions(drafts: &mut [Draft<'_>], evaluation: &[usize]) {
    for index in evaluation {
        let columns: Vec<_> = drafts.iter().map(|draft| (draft.setting.key, draft.sql_type)).collect();
        let Content::Expression { parsed, .. } = &drafts[*index].content else { continue };
        let found = bind_draft(&drafts[*index], parsed, &mut ColumnScope { columns: &columns, used: Vec::new() });
        match (found, &mut drafts[*index]) {
            (Some(expr), Draft { sql_type, content: Content::Expression { bound, .. }, .. }) => {
                *sql_type = expr.sql_type();
                *bound = Some(expr);
            }
            (_, draft) => draft.content = Content::Broken,
        }
    }
}

/// Where a column is broken, so is the config, and the result is never seen.
fn finish(drafts: Vec<Draft<'_>>, evaluation: Vec<usize>) -> Results {
    let mut results = Results { evaluation, ..Results::default() };
    for draft in drafts {
        let name = draft.setting.key.to_owned();
        results.texts.push(json!({ "expression": draft.text.value, "name": name }));
        let (sql_type, source) = match draft.content {
            Content::Call(call) => {
                let Call { kind, input, filter, column, .. } = *call;
                results.aggregates.push(AggregateConfig { name: name.clone(), kind, input, filter });
                (column, ColumnSource::Aggregate(results.aggregates.len() - 1))
            }
            Content::Expression { bound: Some(expr), .. } => {
                (expression_column(draft.sql_type), ColumnSource::Expression(expr))
            }
            Content::Expression { .. } | Content::Broken => continue,
        };
        results.columns.push(ColumnConfig { name, sql_type, source });
    }
    results
}

/// The column of an expression over aggregates.
fn expression_column(sql_type: SqlType) -> ColumnType {
    match sql_type {
        SqlType::Int | SqlType::Float | SqlType::Number => ColumnType::Double,
        SqlType::Bool => ColumnType::Bool,
        SqlType::Time => ColumnType::Time,
        // Text takes whatever it is: no cast in a view can fail.
        SqlType::Text | SqlType::Json | SqlType::Any => ColumnType::Text,
    }
}

/// The column of an aggregate of values of this type.
pub(super) fn call_column(kind: AggregateKind, of: SqlType) -> ColumnType {
    match kind {
        AggregateKind::CountAll | AggregateKind::Count | AggregateKind::CountDistinct => ColumnType::BigInt,
        AggregateKind::Avg | AggregateKind::Variance | AggregateKind::Stddev | AggregateKind::Quantile(_) => {
            ColumnType::Double
        }
        AggregateKind::Sum | AggregateKind::Min | AggregateKind::Max => match of {
            SqlType::Float => ColumnType::Double,
            SqlType::Text => ColumnType::Text,
            SqlType::Time => ColumnType::Time,
            _ => ColumnType::Numeric,
        },
        AggregateKind::First | AggregateKind::Last => match of {
            SqlType::Int => ColumnType::BigInt,
            SqlType::Number => ColumnType::Numeric,
            SqlType::Float => ColumnType::Double,
            SqlType::Bool => ColumnType::Bool,
            SqlType::Time => ColumnType::Time,
            SqlType::Any | SqlType::Text | SqlType::Json => ColumnType::Text,
        },
    }
}
