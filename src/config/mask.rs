//! Keeps secrets out of the lines that a report shows.

use std::ops::Range;

/// The same text, of the same length in bytes and characters, with all hidden that may be secret: what is assigned to a
/// key that ends in `token`, and passwords in URLs. It works on text, since the lines with mistakes may be no TOML.
pub(super) fn mask(text: &str) -> String {
    let mut secrets: Vec<Range<usize>> = Vec::new();
    for (at, _) in text.match_indices("token") {
        secrets.extend(assigned(text, at + "token".len()));
    }
    for (at, scheme) in text.match_indices("://") {
        let start = at + scheme.len();
        let end = until(text, start, |c| c.is_whitespace() || matches!(c, '/' | '"' | '\''));
        if let Some(host) = text[start..end].rfind('@')
            && let Some(colon) = text[start..start + host].find(':')
        {
            secrets.push(start + colon + 1..start + host);
        }
    }
    let is_secret = |at: usize| secrets.iter().any(|secret| secret.contains(&at));
    text.char_indices().map(|(at, c)| if is_secret(at) { hidden(c) } else { c }).collect()
}

/// The value behind a key that ends at `end`, if one is assigned there.
fn assigned(text: &str, end: usize) -> Option<Range<usize>> {
    let rest = text[end..].trim_start_matches(['"', '\'', ' ', '\t']).strip_prefix('=')?;
    let rest = rest.trim_start_matches([' ', '\t']);
    let start = text.len() - rest.len();
    let length = match rest.as_bytes() {
        [b'[', ..] => rest.find(']').unwrap_or(rest.len()),
        [b'"', b'"', b'"', ..] => rest[3..].find("\"\"\"").map_or(rest.len(), |found| found + 3),
        [b'\'', b'\'', b'\'', ..] => rest[3..].find("'''").map_or(rest.len(), |found| found + 3),
        [quote @ (b'"' | b'\''), ..] => {
            let line = rest.find('\n').unwrap_or(rest.len());
            // The last quote of the line: a quote inside may be escaped.
            rest[1..line].rfind(char::from(*quote)).map_or(line, |found| found + 1)
        }
        _ => rest.find('\n').unwrap_or(rest.len()),
    };
    Some(start..start + length)
}

fn until(text: &str, start: usize, stop: impl Fn(char) -> bool) -> usize {
    text[start..].find(stop).map_or(text.len(), |found| start + found)
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
    use super::mask;

    #[test]
    fn secrets_are_masked_and_keep_their_length() {
        assert_eq!(mask("token = \"gehé€𝄞\"\nx = 1"), "token = \"***\u{a4}\u{2022}\u{1f512}\"\nx = 1");
        assert_eq!(mask("read_token='abc'"), "read_token='***'");
        assert_eq!(mask("\"token\" = [\"ab\",\n 'cd'] # x"), "\"token\" = [\"**\",\n '**'] # x");
        assert_eq!(mask("token = \"\"\"a\nb\"\"\" # x"), "token = \"\"\"*\n*\"\"\" # x");
        assert_eq!(mask("token = \"a\\\"bc\" # x"), "token = \"**\"**\" # x");
        assert_eq!(mask("token = \"never closed\nx = 1"), "token = \"***** ******\nx = 1");
        assert_eq!(mask("url = \"postgres://me:pass@host/db\""), "url = \"postgres://me:****@host/db\"");
    }

    #[test]
    fn nothing_else_is_masked() {
        for text in ["token_file = \"a\"", "url = \"sqlite://a.db\"", "# a token is needed", "x = \"a:b@c\""] {
            assert_eq!(mask(text), text);
        }
    }
}
