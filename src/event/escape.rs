//! Escapes of JSON strings, and the texts that no store holds.

use memchr::{memchr, memchr2};

use super::Fault;

/// What the backslashes of a line stand for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Escapes {
    /// There is no backslash.
    None,
    /// Each escape stands for a character.
    Characters,
    /// At least one is half of a surrogate pair.
    LoneSurrogate,
}

enum Escape {
    Character(char),
    LoneSurrogate,
}

/// Checks each escape of a line, since sonic-rs 0.5.10 skips the four bytes behind `\u` unseen, be it a quote. Needs no
/// knowledge of strings: outside of them a backslash is no JSON.
///
/// # Errors
/// Where the first escape is that JSON does not know.
pub(super) fn check_escapes(line: &[u8]) -> Result<Escapes, usize> {
    let mut found = Escapes::None;
    let mut at = 0;
    while let Some(next) = memchr(b'\\', &line[at..]) {
        at += next;
        let Some((escape, len)) = read_escape(&line[at..]) else { return Err(at) };
        match escape {
            Escape::LoneSurrogate => found = Escapes::LoneSurrogate,
            Escape::Character(_) if found == Escapes::None => found = Escapes::Characters,
            Escape::Character(_) => {}
        }
        at += len;
    }
    Ok(found)
}

/// Adds the text of a JSON string (without its quotes) to `arena`, its escapes resolved; of text that cannot be used it
/// leaves nothing there.
///
/// # Errors
/// What the text holds that cannot be used.
pub(super) fn unescape(string: &str, arena: &mut String) -> Result<(), Fault> {
    let before = arena.len();
    let mut rest = string;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        let fault = match read_escape(&rest.as_bytes()[at..]) {
            Some((Escape::Character('\0'), _)) => Fault::Nul,
            Some((Escape::Character(character), len)) => {
                arena.push_str(&rest[..at]);
                arena.push(character);
                rest = &rest[at + len..];
                continue;
            }
            // No escape at all cannot be here: those of the whole line were checked.
            Some((Escape::LoneSurrogate, _)) | None => Fault::Surrogate,
        };
        arena.truncate(before);
        return Err(fault);
    }
    arena.push_str(rest);
    Ok(())
}

/// What an array or object holds, at any depth, that neither a store nor a JSON parser takes: U+0000, a lone surrogate,
/// a number beyond the floats. (Whole numbers beyond 64 bits stay what they are.)
pub(super) fn fault_within(json: &str) -> Option<Fault> {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => match string_end(bytes, at + 1) {
                Ok(end) => at = end,
                Err(fault) => return Some(fault),
            },
            b'-' | b'0'..=b'9' => {
                let number = &json[at..at + number_len(&bytes[at..])];
                if number.parse::<f64>().is_ok_and(f64::is_infinite) {
                    return Some(Fault::Range);
                }
                at += number.len();
            }
            _ => at += 1,
        }
    }
    None
}

/// Where a string ends (behind its quote) whose text begins at `at`.
fn string_end(json: &[u8], mut at: usize) -> Result<usize, Fault> {
    while let Some(next) = memchr2(b'"', b'\\', &json[at..]) {
        at += next;
        if json[at] == b'"' {
            return Ok(at + 1);
        }
        match read_escape(&json[at..]) {
            Some((Escape::Character('\0'), _)) => return Err(Fault::Nul),
            Some((Escape::Character(_), len)) => at += len,
            Some((Escape::LoneSurrogate, _)) | None => return Err(Fault::Surrogate),
        }
    }
    Ok(json.len())
}

/// How many bytes from here on belong to a number.
fn number_len(json: &[u8]) -> usize {
    json.iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')).count()
}

/// The escape that begins with the first byte, a backslash, and its length; `None` where JSON knows no such escape.
fn read_escape(bytes: &[u8]) -> Option<(Escape, usize)> {
    let character = match bytes.get(1)? {
        byte @ (b'"' | b'\\' | b'/') => char::from(*byte),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => return read_unicode(bytes),
        _ => return None,
    };
    Some((Escape::Character(character), 2))
}

/// `\uXXXX`, or two of them that are one character.
fn read_unicode(bytes: &[u8]) -> Option<(Escape, usize)> {
    let first = read_hex(bytes.get(2..6)?)?;
    if let Some(character) = char::from_u32(first) {
        return Some((Escape::Character(character), 6));
    }
    let second = bytes.get(6..12).filter(|next| next.starts_with(b"\\u")).and_then(|next| read_hex(&next[2..]));
    let pair = match second {
        Some(second @ 0xDC00..0xE000) if first < 0xDC00 => {
            char::from_u32(0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00))
        }
        _ => None,
    };
    Some(pair.map_or((Escape::LoneSurrogate, 6), |character| (Escape::Character(character), 12)))
}

fn read_hex(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(string: &str) -> Result<String, Fault> {
        let mut arena = "before".to_owned();
        let done = unescape(string, &mut arena);
        let added = arena.strip_prefix("before").map(str::to_owned);
        assert!(done.is_ok() || added.as_deref() == Some(""), "a fault leaves nothing behind");
        done.map(|()| added.unwrap_or_default())
    }

    #[test]
    fn each_escape_stands_for_its_character() {
        assert_eq!(text(r#"a\"b\\c\/d\be\ff\ng\rh\ti"#).unwrap(), "a\"b\\c/d\u{8}e\u{c}f\ng\rh\ti");
        assert_eq!(text(r"\u00e9\u20AC \ud83d\ude00!").unwrap(), "é€ 😀!");
        assert_eq!(text("é \\n €").unwrap(), "é \n €");
    }

    #[test]
    fn text_that_no_store_holds_is_a_fault() {
        assert_eq!(text(r"a\u0000b"), Err(Fault::Nul));
        for lone in [r"\ud83d", r"\ude00", r"\ud83dx", r"\ud83d\n", r"\ud83d\u0041", r"\ude00\ud83d", r"\ud83d\ud83d"] {
            assert_eq!(text(lone), Err(Fault::Surrogate), "{lone}");
        }
    }

    #[test]
    fn escapes_that_json_does_not_know_are_found_where_they_stand() {
        for (line, at) in [
            (r#""\x""#, 1),
            (r#""\'""#, 1),
            (r#""ab\u12""#, 3),
            (r#""\u12g4""#, 1),
            (r#""\u+123""#, 1),
            (r#""\\\ud83d\u12""#, 9),
            (r#""\"#, 1),
            (r#""\u123"#, 1),
            ("\"\\\u{e9}\"", 1),
        ] {
            assert_eq!(check_escapes(line.as_bytes()), Err(at), "{line}");
        }
        assert_eq!(check_escapes(br#""plain""#), Ok(Escapes::None));
        assert_eq!(check_escapes(br#""\\\"\ud83d\ude00""#), Ok(Escapes::Characters));
        assert_eq!(check_escapes(br#""\n\ud83d\n""#), Ok(Escapes::LoneSurrogate));
    }

    #[test]
    fn faults_are_found_at_any_depth() {
        assert_eq!(fault_within(r#"{"a":[1,-2.5e3,"x\"\\",{"1e400":true}],"b":18446744073709551616}"#), None);
        assert_eq!(fault_within(r#"[["\u0000"]]"#), Some(Fault::Nul));
        assert_eq!(fault_within(r#"{"a\ud800":1}"#), Some(Fault::Surrogate));
        assert_eq!(fault_within(r#"[{"a":[-1E400]}]"#), Some(Fault::Range));
        assert_eq!(fault_within(&format!("[{}]", "9".repeat(400))), Some(Fault::Range));
    }
}
