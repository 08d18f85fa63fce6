//! `[[pipelines.<name>.stages]]` and `group_by`: what happens to an event before the window.

use serde_json::json;

use crate::event::Field;
use crate::expr::SqlType;

use super::enrich::read_enrich;
use super::expressions::{StageScope, check_filter, read_expression};
use super::names;
use super::reader::{Section, Setting};
use super::report::Mistake;
use super::{GroupConfig, StageConfig};

const STAGE: &str = "a table with one key: filter, set, enrich, explode or custom";

/// The stages in their order, and their texts for the definition.
pub(super) fn read_stages(section: &mut Section<'_>, scope: &mut StageScope) -> (Vec<StageConfig>, serde_json::Value) {
    let Some(setting) = section.take("stages") else { return (Vec::new(), json!([])) };
    let elements = setting.list("[[…stages]] tables, each with one key").unwrap_or_default();
    let (stages, texts): (Vec<_>, Vec<_>) = elements.iter().filter_map(|element| read_stage(element, scope)).unzip();
    (stages, texts.into())
}

fn read_stage(element: &Setting<'_>, scope: &mut StageScope) -> Option<(StageConfig, serde_json::Value)> {
    let mut section = element.section(STAGE)?;
    let keys = section.entries();
    if keys.len() != 1 {
        let names: Vec<_> = keys.iter().map(|key| key.key).collect();
        let what = if names.is_empty() { "no key".to_owned() } else { format!("the keys {}", names.join(", ")) };
        let place = keys.get(1).map_or(element.span(), |second| second.key_span.clone());
        let mistake = Mistake::at(place, format!("`{}` has {what}", element.path)).expected(STAGE);
        element.context.note(mistake.help("one step is one stage: give each its own [[…stages]]"));
    }
    let filter = section.take("filter").and_then(|setting| read_filter(&setting, scope));
    let set = section.take("set").and_then(|setting| read_set(&setting, scope));
    let custom = section.take("custom").and_then(|setting| read_custom(&setting));
    let explode = section.take("explode").and_then(|setting| read_explode(&setting, scope));
    let enrich = section.take("enrich").and_then(|setting| read_enrich(&setting, scope));
    section.finish();
    filter.or(set).or(custom).or(explode).or(enrich)
}

fn read_filter(setting: &Setting<'_>, scope: &mut StageScope) -> Option<(StageConfig, serde_json::Value)> {
    let text = setting.text("an SQL expression in quotes")?.value;
    let expr = read_expression(setting, scope)?;
    check_filter(setting, &expr).then_some((StageConfig::Filter(expr), json!({ "filter": text })))
}

/// The right sides see the event as it came in, so that all are bound before any name is set.
fn read_set(setting: &Setting<'_>, scope: &mut StageScope) -> Option<(StageConfig, serde_json::Value)> {
    const EXPECTED: &str = "a table such as { path = \"lower(url)\" }";
    let entries = setting.section(EXPECTED)?.entries();
    if entries.is_empty() {
        setting.wrong(format!("`{}` sets nothing", setting.path), EXPECTED);
    }
    let mut texts = serde_json::Map::new();
    let mut bound = Vec::new();
    for entry in entries {
        if let Some(expr) = read_expression(&entry, scope) {
            let text = entry.text(EXPECTED)?.value;
            texts.insert(entry.key.to_owned(), text.into());
            bound.push((entry.key, Some(expr)));
        } else {
            bound.push((entry.key, None));
        }
    }
    // A name whose expression is wrong is set all the same, so that those who use it are not wrong, too.
    let set = |(name, expr): (&str, Option<crate::expr::Expr>)| {
        let slot = scope.set(name, expr.as_ref().map_or(SqlType::Any, crate::expr::Expr::sql_type));
        expr.map(|expr| (slot, expr))
    };
    let slots = bound.into_iter().filter_map(set).collect();
    Some((StageConfig::Set(slots), json!({ "set": texts })))
}

/// Each element takes the place of the list.
fn read_explode(setting: &Setting<'_>, scope: &mut StageScope) -> Option<(StageConfig, serde_json::Value)> {
    let text = setting.text("the name of a field that holds a list")?;
    let field = read_expression(setting, scope)?;
    // Elements stand under a name of their own, which a path is not.
    if field.slot().is_none() {
        let message = format!("`{}` is no field: `{}`", setting.path, text.value);
        let help = "bring it to a name with a stage before: set = { items = 'order.items' }";
        setting.context.note(Mistake::at(text.span, message).expected("the name of a field").help(help));
        return None;
    }
    let name = text.value.trim().trim_matches('"');
    let slot = scope.set(name, SqlType::Any);
    Some((StageConfig::Explode { field, slot }, json!({ "explode": text.value })))
}

fn read_custom(setting: &Setting<'_>) -> Option<(StageConfig, serde_json::Value)> {
    const EXPECTED: &str = "the name under which the program registered the stage";
    let name = setting.text(EXPECTED)?.value;
    if name.is_empty() {
        setting.wrong(format!("`{}` is empty", setting.path), EXPECTED);
        return None;
    }
    Some((StageConfig::Custom(name.clone()), json!({ "custom": name })))
}

/// The fields that groups are told apart by, as they are after the stages.
pub(super) fn read_groups(section: &mut Section<'_>, scope: &mut StageScope) -> Vec<GroupConfig> {
    const EXPECTED: &str = "a list of fields, such as [\"path\"]";
    let elements = section.take("group_by").and_then(|setting| setting.list(EXPECTED)).unwrap_or_default();
    let mut groups: Vec<GroupConfig> = Vec::new();
    for element in elements {
        let Some(name) = element.text(EXPECTED).map(|text| text.value) else { continue };
        if let Some(expected) = names::fault(&name) {
            let message = format!("`{name}` cannot be the name of a group column");
            let mistake = Mistake::at(element.span(), message).expected(expected);
            element.context.note(mistake.help(bring_by_set(&name)));
        } else if groups.iter().any(|group| group.name == name) {
            element.wrong(format!("`{name}` is there twice"), "each field once");
        } else {
            let found = scope.find(&Field::top(name.as_str()));
            groups.push(GroupConfig { name, slot: found.slot, sql_type: found.sql_type });
        }
    }
    groups
}

/// How to bring a nested or oddly named field to a name that a column can have.
fn bring_by_set(name: &str) -> String {
    let letters = name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "_");
    let mut plain = letters.trim_matches('_').to_owned();
    if names::fault(&plain).is_some() {
        plain = format!("the_{plain}");
    }
    if names::fault(&plain).is_some() {
        "plain_name".clone_into(&mut plain);
    }
    let is_path = name.split('.').all(|step| {
        step.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            && step.bytes().next().is_some_and(|first| !first.is_ascii_digit())
    });
    let source = if is_path { name.to_owned() } else { format!("\"{name}\"") };
    format!("bring it to such a name with a stage: set = {{ {plain} = '{source}' }}")
}
