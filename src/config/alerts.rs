//! `[pipelines.<name>.alerts]`: conditions over a pipeline's rows, and who is told of them.

use std::fmt;

use serde_json::json;
use sha2::{Digest, Sha256};
use ureq::http::Uri;

use crate::event::Field;
use crate::expr::{self, Expr, Resolved, Scope, SqlType};
use crate::units::format_duration;
use crate::window::WindowSpec;

use super::expressions::{note_syntax, of_type};
use super::names;
use super::reader::{Section, Setting};
use super::{ColumnConfig, ColumnType, GroupConfig};

const EXAMPLE: &str = "a table, such as { when = \"error_rate > 0.05\", webhook = \"https://…\" }";
const WEBHOOK: &str = "a URL such as \"https://hooks.example.org/…\"";

/// One alert of a pipeline.
#[derive(Clone, Debug)]
pub struct AlertConfig {
    /// Its name.
    pub name: String,
    /// What must be TRUE for it. Its slots: the columns, then the group's fields, then the columns one window before.
    pub when: Expr,
    /// The same as the file says it.
    pub text: String,
    /// Whether it asks for the window before.
    pub asks_previous: bool,
    /// It fires when the condition has held so long, by the watermark.
    pub for_ms: i64,
    /// Who is told; `None`: it is a row of the table and no more.
    pub webhook: Option<Webhook>,
}

/// Where alerts are sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    /// With its secrets: for whoever sends, and nobody else.
    pub url: String,
    /// Scheme and host, and a hash by which it is told from others.
    pub shown: String,
}

impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Webhook").field(&self.shown).finish()
    }
}

impl AlertConfig {
    /// For the definition.
    pub(super) fn definition(&self) -> serde_json::Value {
        json!({
            "for": format_duration(self.for_ms),
            "webhook": self.webhook.as_ref().map(|webhook| &webhook.shown),
            "when": self.text,
        })
    }
}

/// All of them, in the order of the file. Where the aggregates are not `are_whole`, names are missing that are no mistake
/// of an alert.
pub(super) fn read_alerts(
    section: &mut Section<'_>,
    columns: &[ColumnConfig],
    groups: &[GroupConfig],
    window: Option<WindowSpec>,
    are_whole: bool,
) -> Vec<AlertConfig> {
    let Some(setting) = section.take("alerts") else { return Vec::new() };
    let Some(table) = setting.section("a table of alerts, each with a `when`") else { return Vec::new() };
    let read = |entry: &Setting<'_>| {
        entry.check_name("an alert");
        let mut section = entry.section(EXAMPLE)?;
        let when = section.require("when", "when = \"error_rate > 0.05\"");
        let when = when.and_then(|setting| read_when(&setting, AlertScope::new(columns, groups, window), are_whole));
        let for_ms = section.take("for").map_or(Some(0), |setting| setting.duration(0));
        let webhook = section.take("webhook").map(|setting| read_webhook(&setting));
        section.finish();
        let (when, text, asks_previous) = when?;
        let name = entry.key.to_owned();
        Some(AlertConfig { name, when, text, asks_previous, for_ms: for_ms?, webhook: webhook.flatten() })
    };
    table.entries().iter().filter_map(read).collect()
}

fn read_when(setting: &Setting<'_>, mut scope: AlertScope<'_>, are_whole: bool) -> Option<(Expr, String, bool)> {
    let text = setting.text("a condition in quotes, such as \"error_rate > 0.05\"")?;
    match expr::parse(&text.value).and_then(|parsed| parsed.bind(&mut scope)) {
        Err(error) if !are_whole && error.message.starts_with("unknown name") => None,
        Err(mut error) => {
            if error.nearest.is_none() && error.message.starts_with("unknown name") {
                let names: Vec<&str> = scope.names.iter().map(|(name, _)| *name).collect();
                error.message = format!(
                    "{} (names here are aggregates and fields of the group: {})",
                    error.message,
                    names.join(", ")
                );
            }
            note_syntax(setting.context, &setting.path, &text, error);
            None
        }
        Ok(when) if !matches!(when.sql_type(), SqlType::Bool | SqlType::Any) => {
            let message = format!("`{}` must be true or false, this is {}", setting.path, of_type(when.sql_type()));
            setting.wrong(message, "a condition, such as \"error_rate > 0.05\"");
            None
        }
        Ok(when) => Some((when, text.value, scope.asks_previous)),
    }
}

/// No message repeats the URL, since it may hold a secret.
fn read_webhook(setting: &Setting<'_>) -> Option<Webhook> {
    let url = setting.text(WEBHOOK)?.value;
    let parsed = url.parse::<Uri>().ok();
    let host = parsed.as_ref().and_then(|uri| uri.authority()).map(|authority| {
        let text = authority.as_str();
        text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned()
    });
    let scheme = parsed.as_ref().and_then(|uri| uri.scheme_str()).filter(|scheme| ["http", "https"].contains(scheme));
    let (Some(host), Some(scheme)) = (host.filter(|host| !host.is_empty()), scheme) else {
        setting.wrong(format!("`{}` is no URL that can be posted to", setting.path), WEBHOOK);
        return None;
    };
    let hash: String = Sha256::digest(&url)[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    let shown = format!("{scheme}://{host}/***#{hash}");
    Some(Webhook { url, shown })
}

/// Leads names to columns and fields of the group.
struct AlertScope<'c> {
    names: Vec<(&'c str, SqlType)>,
    /// So many of them are columns.
    columns: usize,
    has_sessions: bool,
    asks_previous: bool,
}

impl<'c> AlertScope<'c> {
    fn new(columns: &'c [ColumnConfig], groups: &'c [GroupConfig], window: Option<WindowSpec>) -> Self {
        let names = columns.iter().map(|column| (column.name.as_str(), sql_type(column.sql_type)));
        let names = names.chain(groups.iter().map(|group| (group.name.as_str(), group.sql_type)));
        Self {
            names: names.collect(),
            columns: columns.len(),
            has_sessions: matches!(window, Some(WindowSpec::Session { .. })),
            asks_previous: false,
        }
    }
}

impl Scope for AlertScope<'_> {
    fn resolve(&mut self, field: &Field) -> Result<Resolved, Option<String>> {
        let Some(slot) = self.names.iter().position(|(name, _)| *name == field.root()) else {
            let names = self.names.iter().map(|(name, _)| *name);
            return Err(names::nearest(field.root(), names).map(str::to_owned));
        };
        let rest = field.steps()[1..].to_vec();
        let sql_type = if rest.is_empty() { self.names[slot].1 } else { SqlType::Any };
        Ok(Resolved { slot, rest, sql_type })
    }

    fn previous(&mut self, field: &Field) -> Option<Result<Resolved, String>> {
        if self.has_sessions {
            return Some(Err("sessions have no window before: previous() is for the others".to_owned()));
        }
        let names = &self.names[..self.columns];
        let Some(column) = names.iter().position(|(name, _)| *name == field.root()) else {
            return Some(Err(format!("previous() takes an aggregate; there is none called {field}")));
        };
        self.asks_previous = true;
        let rest = field.steps()[1..].to_vec();
        let sql_type = if rest.is_empty() { names[column].1 } else { SqlType::Any };
        Some(Ok(Resolved { slot: self.names.len() + column, rest, sql_type }))
    }
}

/// What is known of a column's values where an expression uses them.
fn sql_type(column: ColumnType) -> SqlType {
    match column {
        // Text takes whatever it is.
        ColumnType::Text => SqlType::Any,
        ColumnType::BigInt => SqlType::Int,
        ColumnType::Numeric => SqlType::Number,
        ColumnType::Double => SqlType::Float,
        ColumnType::Bool => SqlType::Bool,
        ColumnType::Time => SqlType::Time,
    }
}
