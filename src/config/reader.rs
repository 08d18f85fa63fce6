//! Walks a TOML table by hand, so that one pass finds all mistakes: every reader notes what is wrong and goes on.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::units;

use super::interpolate::interpolate;
use super::names;
use super::report::Mistake;

/// Longest duration a config can say, ms: a hundred years, far from where sums of times would overflow.
const DURATION_MAX_MS: i64 = 36_500 * 86_400_000;

/// What all readers of one file share.
pub(super) struct Context<'c> {
    /// The file, as it is.
    pub(super) text: &'c str,
    /// Relative paths begin here.
    pub(super) base: &'c Path,
    /// Environment variables.
    pub(super) env: &'c dyn Fn(&str) -> Option<String>,
    /// What was found.
    pub(super) mistakes: RefCell<Vec<Mistake>>,
}

impl Context<'_> {
    /// Notes a mistake.
    pub(super) fn note(&self, mistake: Mistake) {
        self.mistakes.borrow_mut().push(mistake);
    }

    /// Which line of the file that is, from 1.
    pub(super) fn line_of(&self, span: &Range<usize>) -> usize {
        let before = &self.text.as_bytes()[..span.start.min(self.text.len())];
        1 + before.iter().filter(|byte| **byte == b'\n').count()
    }
}

/// A table under a walk; `finish` finds the keys that nobody asked for.
pub(super) struct Section<'c> {
    pub(super) context: &'c Context<'c>,
    /// Its keys from the root, with a dot behind; empty for the root.
    path: String,
    /// Where it is named.
    pub(super) span: Range<usize>,
    table: &'c DeTable<'c>,
    known: Vec<&'static str>,
    /// Those of the known that are only refused with better words.
    refused: Vec<&'static str>,
}

impl<'c> Section<'c> {
    /// The whole file.
    pub(super) fn root(context: &'c Context<'c>, table: &'c DeTable<'c>) -> Self {
        Self { context, path: String::new(), span: 0..0, table, known: Vec::new(), refused: Vec::new() }
    }

    /// The value of a key, if it is there; the key is known from now on.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Setting<'c>> {
        self.known.push(key);
        let (name, value) = self.table.get_key_value(key)?;
        Some(self.setting(name, value))
    }

    /// The value of a key that must be there.
    pub(super) fn require(&mut self, key: &'static str, example: &str) -> Option<Setting<'c>> {
        let taken = self.take(key);
        if taken.is_none() {
            let place = self.path.trim_end_matches('.');
            let message = format!("`{key}` is missing in {place}");
            self.context.note(Mistake::at(self.span.clone(), message).expected(format!("`{example}`")).absence());
        }
        taken
    }

    /// Keys of the contract whose feature comes later: refused, never ignored.
    pub(super) fn later(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.refused.push(key);
            if let Some(setting) = self.take(key) {
                setting.not_available(&format!("`{}`", setting.path));
            }
        }
    }

    /// All of it in the order of the file, for tables whose keys are names.
    pub(super) fn entries(&self) -> Vec<Setting<'c>> {
        let mut entries: Vec<_> = self.table.iter().map(|(name, value)| self.setting(name, value)).collect();
        entries.sort_by_key(|setting| setting.key_span.start);
        entries
    }

    /// Reports the keys that are none.
    pub(super) fn finish(self) {
        for setting in self.entries() {
            if !self.known.contains(&setting.key) {
                let mut keys: Vec<_> = self.known.iter().filter(|key| !self.refused.contains(key)).copied().collect();
                keys.sort_unstable();
                let help = names::did_you_mean(setting.key, self.known.iter().copied())
                    .unwrap_or_else(|| format!("the keys here are: {}", keys.join(", ")));
                let message = format!("unknown key `{}`", setting.path);
                self.context.note(Mistake::at(setting.key_span, message).expected("a known key").help(help));
            }
        }
    }

    fn setting(&self, name: &'c Spanned<Cow<'c, str>>, value: &'c Spanned<DeValue<'c>>) -> Setting<'c> {
        let key = name.get_ref().as_ref();
        let path = format!("{}{key}", self.path);
        Setting { context: self.context, key, key_span: name.span(), path, value }
    }
}

/// A key with its value.
pub(super) struct Setting<'c> {
    pub(super) context: &'c Context<'c>,
    /// Its own name.
    pub(super) key: &'c str,
    pub(super) key_span: Range<usize>,
    /// Its name from the root, for messages.
    pub(super) path: String,
    value: &'c Spanned<DeValue<'c>>,
}

impl<'c> Setting<'c> {
    /// Where the value stands.
    pub(super) fn span(&self) -> Range<usize> {
        self.value.span()
    }

    /// Notes a mistake at the value.
    pub(super) fn wrong(&self, message: impl Into<String>, expected: impl Into<String>) {
        self.context.note(Mistake::at(self.span(), message).expected(expected));
    }

    /// Notes that this comes in a later version.
    pub(super) fn not_available(&self, what: &str) {
        let mistake = Mistake::at(self.key_span.clone(), format!("{what} is not available yet"));
        self.context.note(mistake.help("leave it out: it comes in a later version"));
    }

    /// Checks the name that a key gives.
    pub(super) fn check_name(&self, of: &str) {
        if let Some(expected) = names::fault(self.key) {
            let message = format!("`{}` cannot be the name of {of}", self.key);
            self.context.note(Mistake::at(self.key_span.clone(), message).expected(expected));
        }
    }

    fn wrong_type(&self, expected: &str) {
        let message = format!("`{}` cannot be {}", self.path, type_name(self.value.get_ref()));
        self.wrong(message, expected);
    }

    /// Whether it is a string, not yet interpolated.
    pub(super) fn is_text(&self) -> bool {
        self.value.get_ref().is_str()
    }

    /// Whether it is a list.
    pub(super) fn is_list(&self) -> bool {
        self.value.get_ref().is_array()
    }

    /// A string, its variables replaced.
    pub(super) fn text(&self, expected: &str) -> Option<Text> {
        let DeValue::String(raw) = self.value.get_ref() else {
            self.wrong_type(expected);
            return None;
        };
        let span = self.span();
        let exact = exact_start(&self.context.text[span.clone()], raw).map(|start| span.start + start);
        match interpolate(raw, self.context.env) {
            Ok(value) => {
                let start = exact.filter(|_| value == raw.as_ref());
                Some(Text { value, span, start })
            }
            Err(faults) => {
                let raw = Text { value: raw.clone().into_owned(), span, start: exact };
                for fault in faults {
                    let message = format!("`{}`: {}", self.path, fault.message);
                    self.context.note(Mistake::at(raw.place(&fault.at), message).help(fault.help));
                }
                None
            }
        }
    }

    /// True or false.
    pub(super) fn flag(&self) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_type("true or false");
        }
        flag
    }

    /// Anything, as JSON: a date or time is its text.
    pub(super) fn json(&self) -> Option<serde_json::Value> {
        let json: serde_json::Value = match self.value.get_ref() {
            DeValue::String(_) => self.text("a string")?.value.into(),
            DeValue::Integer(whole) => i64::from_str_radix(whole.as_str(), whole.radix()).ok().into(),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok().into(),
            DeValue::Boolean(flag) => (*flag).into(),
            DeValue::Datetime(time) => time.to_string().into(),
            DeValue::Array(_) => {
                let elements = self.list("a list")?;
                elements.iter().map(Self::json).collect::<Option<Vec<_>>>()?.into()
            }
            DeValue::Table(_) => {
                let entries = self.section("a table")?.entries();
                let entries = entries.iter().map(|entry| Some((entry.key.to_owned(), entry.json()?)));
                entries.collect::<Option<serde_json::Map<_, _>>>()?.into()
            }
        };
        // TOML has no NULL: only a number can have become one, which JSON does not have.
        if json.is_null() {
            self.wrong(format!("`{}` is a number that JSON does not have", self.path), "a number of 64 bits");
            return None;
        }
        Some(json)
    }

    /// A duration of at least so many ms, in ms.
    pub(super) fn duration(&self, min_ms: i64) -> Option<i64> {
        const EXPECTED: &str = "a duration such as \"250ms\", \"5s\", \"10m\", \"24h\" or \"7d\"";
        let text = self.text(EXPECTED)?;
        let Some(duration) = units::parse_duration(text.value.trim()) else {
            self.wrong(format!("`{}` is no duration: `{}`", self.path, text.value), EXPECTED);
            return None;
        };
        if duration < min_ms || duration > DURATION_MAX_MS {
            let (least, most) = (units::format_duration(min_ms), units::format_duration(DURATION_MAX_MS));
            self.wrong(format!("`{}` is out of range", self.path), format!("a duration from {least} to {most}"));
            return None;
        }
        Some(duration)
    }

    /// A whole number.
    pub(super) fn whole(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let expected = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = self.value.get_ref() else {
            self.wrong_type(&expected);
            return None;
        };
        let value = u64::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.wrong(format!("`{}` is out of range: {}", self.path, number.as_str()), expected);
        }
        value
    }

    /// A size in bytes.
    pub(super) fn size(&self, range: RangeInclusive<u64>) -> Option<u64> {
        const EXPECTED: &str = "a size such as \"64KiB\", \"256MiB\" or \"1GiB\"";
        let text = self.text(EXPECTED)?;
        let Some(size) = units::parse_size(text.value.trim()) else {
            self.wrong(format!("`{}` is no size: `{}`", self.path, text.value), EXPECTED);
            return None;
        };
        if !range.contains(&size) {
            let (least, most) = (units::format_size(*range.start()), units::format_size(*range.end()));
            self.wrong(format!("`{}` is out of range", self.path), format!("a size from {least} to {most}"));
            return None;
        }
        Some(size)
    }

    /// One of a few words; those of `later` are refused as not available yet.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], later: &[&str]) -> Option<T> {
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let expected = words.join(" or ");
        let text = self.text(&expected)?;
        if let Some((_, chosen)) = choices.iter().find(|(word, _)| *word == text.value) {
            return Some(*chosen);
        }
        if later.contains(&text.value.as_str()) {
            self.wrong(format!("`{} = \"{}\"` is not available yet", self.path, text.value), expected);
        } else {
            let help = names::did_you_mean(&text.value, choices.iter().map(|(word, _)| *word));
            let message = format!("`{}` cannot be `{}`", self.path, text.value);
            self.context.note(Mistake::at(self.span(), message).expected(expected).help_if(help));
        }
        None
    }

    /// A table.
    pub(super) fn section(&self, expected: &str) -> Option<Section<'c>> {
        let DeValue::Table(table) = self.value.get_ref() else {
            self.wrong_type(expected);
            return None;
        };
        let path = format!("{}.", self.path);
        let (span, known, refused) = (self.key_span.clone(), Vec::new(), Vec::new());
        Some(Section { context: self.context, path, span, table, known, refused })
    }

    /// The elements of a list, each under the name of the list.
    pub(super) fn list(&self, expected: &str) -> Option<Vec<Setting<'c>>> {
        let DeValue::Array(array) = self.value.get_ref() else {
            self.wrong_type(expected);
            return None;
        };
        let element = |(index, value): (usize, &'c Spanned<DeValue<'c>>)| Setting {
            context: self.context,
            key: self.key,
            key_span: value.span(),
            path: format!("{}[{index}]", self.path),
            value,
        };
        Some(array.iter().enumerate().map(element).collect())
    }
}

/// A string of the file.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// Its value, variables replaced.
    pub(super) value: String,
    /// The whole of it in the file, quotes included.
    pub(super) span: Range<usize>,
    /// Where the value begins in the file; `None` unless it stands there byte for byte.
    start: Option<usize>,
}

impl Text {
    /// What stands for a text that could not be read.
    pub(super) fn missing(span: Range<usize>) -> Self {
        Self { value: String::new(), span, start: None }
    }

    /// Bytes of the value as bytes of the file; the whole string, where escapes or variables stand between the two.
    pub(super) fn place(&self, at: &Range<usize>) -> Range<usize> {
        match self.start {
            Some(start) if at.start <= at.end && at.end <= self.value.len() => start + at.start..start + at.end,
            _ => self.span.clone(),
        }
    }
}

/// Where a string's value begins in its source with quotes, if it stands there byte for byte.
fn exact_start(source: &str, value: &str) -> Option<usize> {
    let long = source.starts_with("\"\"\"") || source.starts_with("'''");
    let quotes = if long { 3 } else { 1 };
    let inner = source.get(quotes..source.len().checked_sub(quotes)?)?;
    // The line end right behind long quotes is not part of the value.
    let skipped = match inner.as_bytes() {
        [b'\n', ..] if long => 1,
        [b'\r', b'\n', ..] if long => 2,
        _ => 0,
    };
    (inner[skipped..] == *value).then_some(quotes + skipped)
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) | DeValue::Float(_) => "a number",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

#[cfg(test)]
mod tests {
    use super::exact_start;

    #[test]
    fn a_value_is_found_in_its_source_only_byte_for_byte() {
        assert_eq!(exact_start("\"ab\"", "ab"), Some(1));
        assert_eq!(exact_start("'a\\b'", "a\\b"), Some(1));
        assert_eq!(exact_start("\"\"\"\nab\"\"\"", "ab"), Some(4));
        assert_eq!(exact_start("\"\"\"ab\"\"\"", "ab"), Some(3));
        assert_eq!(exact_start("\"a\\tb\"", "a\tb"), None);
        assert_eq!(exact_start("\"\"", ""), Some(1));
    }
}
