//! Any text as a config: read or reported, every place inside it, no secret shown, and what `validate` prints is a config
//! that says the same.

#![no_main]

use std::ops::Range;
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use tidemill::config::{Config, Report, describe, parse};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Goes into every secret; nothing says it by itself.
const MARK: &str = "Xq7Zk9Wv";
const TOKEN: &str = "0123456789abcdef";

fuzz_target!(|text: &str| {
    // Files whose contents are asked for are not what this is about.
    if text.contains("_file") {
        return;
    }
    check(text);
    for at in secrets(text) {
        let marked = format!("{}{MARK}{}", &text[..at], &text[at..]);
        let said = match read(&marked) {
            Ok(config) => format!("{config:?}{}", describe(&config, 0)),
            Err(report) => report.render(false),
        };
        assert!(!said.contains(MARK), "{marked}\n{said}");
    }
});

fn read(text: &str) -> Result<Config, Report> {
    let env = |name: &str| (name == "TOKEN").then(|| TOKEN.to_owned());
    parse(text, "mill.toml", Path::new("/etc/mill"), &env)
}

fn check(text: &str) {
    match read(text) {
        Ok(config) => {
            let described = describe(&config, 0);
            // A default may hold what would be a variable if it were read again.
            if described.contains("${") {
                return;
            }
            let again: Vec<String> = described.lines().map(shown).collect();
            let again = again.join("\n");
            let again = read(&again).unwrap_or_else(|report| panic!("{report}\n{described}"));
            assert_eq!(describe(&again, 0), described);
            let definitions =
                |config: &Config| config.pipelines.iter().map(|p| p.definition.clone()).collect::<Vec<_>>();
            assert_eq!(definitions(&again), definitions(&config));
        }
        Err(report) => {
            assert!(!report.diagnostics().is_empty());
            let lines: Vec<_> = text.split('\n').collect();
            for diagnostic in report.diagnostics() {
                let line = lines.get(diagnostic.line - 1).expect("a line of the file");
                assert!((1..=line.chars().count() + 1).contains(&diagnostic.column), "{diagnostic:?}");
            }
            let shown = report.render(false);
            assert!(shown.contains("mill.toml:"));
            assert_eq!(report.to_string(), shown);
            report.render(true);
        }
    }
}

/// A line of a description, with tokens again.
fn shown(line: &str) -> String {
    let tokens = line.starts_with("token = ") || line.starts_with("read_token = ");
    if tokens { line.replace("***", TOKEN) } else { line.to_owned() }
}

/// Places inside secrets: ends of tokens, and of passwords in the store's URL.
fn secrets(text: &str) -> Vec<usize> {
    let (table, _) = DeTable::parse_recoverable(text);
    let table = table.get_ref();
    let mut found = Vec::new();
    let sections = ["http", "streams"].iter().filter_map(|name| table.get(*name)?.get_ref().as_table());
    let sections: Vec<_> = sections.collect();
    let nested = sections.iter().flat_map(|section| section.values()).filter_map(|value| value.get_ref().as_table());
    for section in sections.iter().copied().chain(nested) {
        for key in ["token", "read_token"] {
            let Some(value) = section.get(key) else { continue };
            match value.get_ref() {
                DeValue::Array(list) => found.extend(list.iter().filter_map(|one| inside(text, one)).map(|at| at.end)),
                _ => found.extend(inside(text, value).map(|at| at.end)),
            }
        }
    }
    let url = table.get("store").and_then(|store| store.get_ref().as_table()?.get("url"));
    if let Some(at) = url.and_then(|url| inside(text, url)) {
        found.extend(text[at.clone()].match_indices('@').map(|(mark, _)| at.start + mark).filter(|mark| {
            let marked = format!("{}{MARK}{}", &text[at.start..*mark], &text[*mark..at.end]);
            is_password(&marked)
        }));
        found.extend(is_password(&format!("{}{MARK}", &text[at.clone()])).then_some(at.end));
    }
    found
}

/// Whether the mark is in what the driver takes for the password.
fn is_password(url: &str) -> bool {
    let config = url.parse::<tokio_postgres::Config>().ok();
    let password = config.as_ref().and_then(|config| config.get_password()).unwrap_or_default();
    let holds = |part: &[u8]| part.windows(MARK.len()).any(|piece| piece == MARK.as_bytes());
    holds(password)
}

/// Where a string stands in the file, without its quotes.
fn inside(text: &str, value: &Spanned<DeValue<'_>>) -> Option<Range<usize>> {
    value.get_ref().as_str()?;
    let span = value.span();
    let source = text.get(span.clone())?;
    let quotes = if source.starts_with("\"\"\"") || source.starts_with("'''") { 3 } else { 1 };
    let at = span.start + quotes..span.end.checked_sub(quotes)?;
    // A backslash before it, or a variable around it, would make something else of it.
    let inner = text.get(at.clone())?;
    (!inner.ends_with('\\') && !inner.contains("${")).then_some(at)
}
