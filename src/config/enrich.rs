//! `enrich` of a stage: a CSV file whose rows are found by a key.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use serde_json::json;
use sha2::{Digest, Sha256};

use super::expressions::{StageScope, read_expression};
use super::names;
use super::reader::{Setting, Text};
use super::report::Mistake;
use super::{EnrichConfig, MissingKey, StageConfig};
use crate::expr::SqlType;
use crate::limits::ENRICH_TABLE_BYTES_MAX;
use crate::units::format_size;

const EXPECTED: &str = "{ table = \"campaigns.csv\", on = \"ad_id\", take = [\"campaign_id\"] }";

/// The rows of a CSV file, by their key.
pub struct EnrichTable {
    /// The file's name, as the config gives it.
    pub name: String,
    /// Of its content: SHA-256 in hexadecimal digits.
    pub hash: String,
    rows: HashMap<Box<str>, Box<[Box<str>]>>,
}

impl EnrichTable {
    /// The taken columns of the row of a key.
    pub fn get(&self, key: &str) -> Option<&[Box<str>]> {
        self.rows.get(key).map(|row| &**row)
    }
}

impl fmt::Debug for EnrichTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EnrichTable({}, {} rows)", self.name, self.rows.len())
    }
}

pub(super) fn read_enrich(setting: &Setting<'_>, scope: &mut StageScope) -> Option<(StageConfig, serde_json::Value)> {
    let mut section = setting.section(EXPECTED)?;
    let file = section.require("table", "table = \"campaigns.csv\"");
    let on = section.require("on", "on = \"ad_id\"");
    let take = section.require("take", "take = [\"campaign_id\"]");
    let words = [("dead_letter", MissingKey::DeadLetter), ("null", MissingKey::Null), ("drop", MissingKey::Drop)];
    let missing = section.take("missing").and_then(|setting| setting.choice(&words, &[]));
    let missing = missing.unwrap_or(MissingKey::DeadLetter);
    section.finish();

    let key = on.as_ref().and_then(|on| on.text("a field of the event, and a column of the table"));
    let on = on.and_then(|on| read_expression(&on, scope));
    let taken = take.as_ref().and_then(|take| take.list("a list of columns, such as [\"campaign_id\"]"));
    let taken: Option<Vec<Text>> = taken.and_then(|columns| {
        let texts: Vec<_> = columns.iter().filter_map(|column| column.text("the name of a column")).collect();
        (texts.len() == columns.len()).then_some(texts)
    });
    // What is taken has its name even where the table is wrong, so that those who use it are not wrong, too.
    let slots: Vec<usize> = taken.iter().flatten().map(|column| scope.set(&column.value, SqlType::Text)).collect();
    let (file, key, taken) = (file?, key?, taken?);
    if taken.is_empty() {
        setting.wrong(format!("`{}` takes no column", setting.path), EXPECTED);
        return None;
    }
    let table = read_table(&file, &key, &taken)?;
    let definition = json!({ "enrich": {
        "missing": words.iter().find(|(_, word)| *word == missing).map(|(word, _)| word),
        "on": key.value,
        "table": table.name,
        "take": taken.iter().map(|column| &column.value).collect::<Vec<_>>(),
    }});
    let take = slots.into_iter().enumerate().map(|(column, slot)| (slot, column)).collect();
    Some((
        StageConfig::Enrich(EnrichConfig { table: Arc::new(table), key: key.value, on: on?, take, missing }),
        definition,
    ))
}

/// The table, or what is wrong with it, at the place of the config that asks for it.
fn read_table(setting: &Setting<'_>, key: &Text, taken: &[Text]) -> Option<EnrichTable> {
    let name = setting.text("the path of a CSV file")?;
    let wrong = |message: String, expected: &str| {
        setting.context.note(Mistake::at(name.span.clone(), message).expected(expected));
    };
    let path = setting.context.base.join(&name.value);
    let size = std::fs::metadata(&path).map(|metadata| metadata.len());
    let content = match size {
        Ok(size) if size > ENRICH_TABLE_BYTES_MAX => {
            let (size, most) = (format_size(size), format_size(ENRICH_TABLE_BYTES_MAX));
            wrong(format!("the table `{}` has {size}", name.value), &format!("at most {most}"));
            return None;
        }
        Ok(_) => std::fs::read(&path),
        Err(error) => Err(error),
    };
    let content = match content {
        Ok(content) => content,
        Err(error) => {
            wrong(format!("cannot read the table `{}`: {error}", name.value), "a CSV file with a line of column names");
            return None;
        }
    };
    let hash = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut reader = csv::Reader::from_reader(content.as_slice());
    let rows = (|| {
        let header =
            reader.headers().map_err(|error| wrong(format!("`{}`: {error}", name.value), "UTF-8")).ok()?.clone();
        let column = |wanted: &Text| {
            let found = header.iter().position(|column| column == wanted.value);
            if found.is_none() {
                let message = format!("the table `{}` has no column `{}`", name.value, wanted.value);
                let help = names::did_you_mean(&wanted.value, header.iter());
                let expected = format!("one of {}", header.iter().collect::<Vec<_>>().join(", "));
                setting.context.note(Mistake::at(wanted.span.clone(), message).expected(expected).help_if(help));
            }
            found
        };
        let on = column(key);
        let found: Vec<_> = taken.iter().map(column).collect();
        let (on, taken) = (on?, found.into_iter().collect::<Option<Vec<usize>>>()?);
        let mut rows: HashMap<Box<str>, Box<[Box<str>]>> = HashMap::new();
        for record in reader.records() {
            let record =
                record.map_err(|error| wrong(format!("`{}`: {error}", name.value), "rows of one length")).ok()?;
            match rows.entry(record[on].into()) {
                Entry::Vacant(place) => drop(place.insert(taken.iter().map(|column| record[*column].into()).collect())),
                Entry::Occupied(there) => {
                    let line = record.position().map_or(0, csv::Position::line);
                    let message =
                        format!("line {line} of the table `{}` has the key `{}` once more", name.value, there.key());
                    wrong(message, "each key once");
                    return None;
                }
            }
        }
        Some(rows)
    })();
    Some(EnrichTable { name: name.value.clone(), hash, rows: rows? })
}
