//! Keeps secrets out of the lines that a report shows.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The same text, of the same length in bytes and characters, with all hidden that may be secret: what is assigned to a
/// key that ends in `token` or is a `webhook`, and passwords in URLs. It goes by what the parser made of the text, and by the text itself,
/// since the lines with mistakes may be no TOML.
pub(super) fn mask(text: &str, table: &DeTable<'_>) -> String {
    let mut secrets: Vec<Range<usize>> = Vec::new();
    read_tokens(table, &mut secrets);
    for key in SECRET_KEYS {
        secrets.extend(text.match_indices(key).filter_map(|(at, _)| assigned(text, at + key.len())));
    }
    for (at, scheme) in text.match_indices("://") {
        let begin =
            text[..at].trim_end_matches(|c: char| c.is_ascii_alphanumeric()).trim_end_matches(['"', '\'']).len();
        let (start, end) = (at + scheme.len(), begin + value_len(&text[begin..]));
        let url = text.get(start..end).unwrap_or_default();
        // A password that should have been percent-encoded may hold anything.
        if let Some(host) = url.rfind('@')
            && let Some(colon) = url[..host].find(':')
        {
            secrets.push(start + colon + 1..start + host);
        }
        for (at, key) in url.match_indices("password=") {
            let from = at + key.len();
            secrets.push(start + from..start + url[from..].find('&').map_or(url.len(), |found| from + found));
        }
    }
    let is_secret = |at: usize| secrets.iter().any(|secret| secret.contains(&at));
    text.char_indices().map(|(at, c)| if is_secret(at) { hidden(c) } else { c }).collect()
}

/// What the names of keys end with that hold secrets.
const SECRET_KEYS: [&str; 2] = ["token", "webhook"];

fn is_secret_key(name: &str) -> bool {
    SECRET_KEYS.iter().any(|key| name.ends_with(key))
}

/// What the parser took for tokens.
fn read_tokens(table: &DeTable<'_>, secrets: &mut Vec<Range<usize>>) {
    for (name, value) in table {
        match value.get_ref() {
            DeValue::Array(list) if is_secret_key(name.get_ref()) => secrets.extend(list.iter().map(Spanned::span)),
            DeValue::Table(table) => read_tokens(table, secrets),
            _ if is_secret_key(name.get_ref()) => secrets.push(value.span()),
            _ => {}
        }
    }
}

/// The value behind a key that ends at `end`, if one is assigned there.
fn assigned(text: &str, end: usize) -> Option<Range<usize>> {
    let rest = text[end..].trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=')?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let start = text.len() - rest.len();
    let length = if rest.starts_with('[') { rest.find(']').unwrap_or(rest.len()) } else { value_len(rest) };
    Some(start..start + length)
}

/// The length of the value that the text begins with, quotes included.
fn value_len(rest: &str) -> usize {
    match rest.as_bytes() {
        [b'"', b'"', b'"', ..] => rest[3..].find("\"\"\"").map_or(rest.len(), |found| found + 6),
        [b'\'', b'\'', b'\'', ..] => rest[3..].find("'''").map_or(rest.len(), |found| found + 6),
        [quote @ (b'"' | b'\''), ..] => {
            let line = rest.find('\n').unwrap_or(rest.len());
            // The last quote of the line: a quote inside may be escaped.
            rest[1..line].rfind(char::from(*quote)).map_or(line, |found| found + 2)
        }
        _ => rest.find('\n').unwrap_or(rest.len()),
    }
}

/// What is shown instead: of the same length, so that lines and columns behind it stay right. Blanks, quotes, brackets
/// and commas stay, so that the line can still be read as what it is.
fn hidden(c: char) -> char {
    match (c, c.len_utf8()) {
        (' ' | '\t' | '\r' | '\n' | '"' | '\'' | '[' | ']' | ',', _) => c,
        (_, 1) => '*',
        (_, 2) => '\u{a4}',
        (_, 3) => '\u{2022}',
        _ => '\u{1f512}',
    }
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    fn mask(text: &str) -> String {
        super::mask(text, DeTable::parse_recoverable(text).0.get_ref())
    }

    #[test]
    fn secrets_are_masked_and_keep_their_length() {
        assert_eq!(mask("token = \"gehé€𝄞\"\nx = 1"), "token = \"***\u{a4}\u{2022}\u{1f512}\"\nx = 1");
        assert_eq!(mask("read_token='abc'"), "read_token='***'");
        assert_eq!(mask("a = { webhook = \"x://y/z\" }"), "a = { webhook = \"*******\" }");
        assert_eq!(mask("\"token\" = [\"ab\",\n 'cd'] # x"), "\"token\" = [\"**\",\n '**'] # x");
        assert_eq!(mask("token = [\"a]b\", 'c'] # x"), "token = [\"*]*\", '*'] # x");
        assert_eq!(mask("token = [\"a\", [1],\n\"b\",\n= \"c\"]"), "token = [\"*\", [*],\n\"*\",\n= \"*\"]");
        assert_eq!(mask("\"tok\\u0065n\" = 'ab'"), "\"tok\\u0065n\" = '**'");
        assert_eq!(mask("token = \"\"\"a\nb\"\"\" # x"), "token = \"\"\"*\n*\"\"\" # x");
        assert_eq!(mask("token = \"a\\\"bc\" # x"), "token = \"**\"**\" # x");
        assert_eq!(mask("token = \"never closed\nx = 1"), "token = \"***** ******\nx = 1");
        assert_eq!(mask("url = \"postgres://me:pass@host/db\""), "url = \"postgres://me:****@host/db\"");
        assert_eq!(mask("url = 'postgres://me:/?\"@ @host/db' # x"), "url = 'postgres://me:**\"* @host/db' # x");
        assert_eq!(mask("url = \"\"\"x://me:a\nb@h\"\"\""), "url = \"\"\"x://me:*\n*@h\"\"\"");
        assert_eq!(mask("url = 'x://h/db?password=ab&user=me'"), "url = 'x://h/db?password=**&user=me'");
    }

    #[test]
    fn nothing_else_is_masked() {
        for text in ["token_file = \"a\"", "url = \"sqlite://a.db\"", "# a token is needed", "x = \"a:b@c\""] {
            assert_eq!(mask(text), text);
        }
    }
}
