//! What a client may say besides events: control lines, and the one thing that is never right, an HTTP request.

use crate::event::is_producer_name;
use crate::limits::{CONTROL_LINE_BYTES_MAX, EXCERPT_BYTES_MAX};

/// What the server says no to, before any line has a position.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The stream has a token, and the client did something else first.
    #[error("this stream wants `@auth <token>` before anything else")]
    Unauthorized,
    /// No control line of the protocol; holds an excerpt that is safe to show.
    #[error(
        "`{0}` is none of `@auth <token>`, `@producer <name>`, `@sync [token]`, `@ping`; an event never begins with @"
    )]
    UnknownCommand(String),
    /// A name that producers cannot have.
    #[error("a producer's name is 1 to 128 letters, digits and `._:/-`")]
    BadProducer,
    /// Somebody pointed a browser or an HTTP client at the port for lines.
    #[error("this port takes lines, not HTTP")]
    HttpRequest,
    /// A control line that cannot be one.
    #[error("a control line has at most {CONTROL_LINE_BYTES_MAX} bytes; an event never begins with @")]
    ControlTooLong,
}

impl ProtocolError {
    /// The word that programs go by.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthorized => "unauthorized",
            Self::UnknownCommand(_) => "unknown_command",
            Self::BadProducer => "bad_producer",
            Self::HttpRequest => "http_request",
            Self::ControlTooLong => "too_long",
        }
    }

    /// Whether the connection ends with it.
    pub fn closes(&self) -> bool {
        matches!(self, Self::Unauthorized | Self::HttpRequest)
    }
}

/// A control line, understood.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Control<'a> {
    Auth(&'a [u8]),
    Producer(&'a str),
    Sync(Option<&'a str>),
    Ping,
}

/// Reads a control line (without its line end).
pub(super) fn parse(line: &[u8]) -> Result<Control<'_>, ProtocolError> {
    let line = line.trim_ascii_end();
    let (verb, rest) = match memchr::memchr(b' ', line) {
        Some(at) => (&line[..at], line[at..].trim_ascii_start()),
        None => (line, &line[line.len()..]),
    };
    match verb {
        b"@auth" => Ok(Control::Auth(rest)),
        b"@producer" => match std::str::from_utf8(rest) {
            Ok(name) if is_producer_name(name) => Ok(Control::Producer(name)),
            _ => Err(ProtocolError::BadProducer),
        },
        b"@sync" if rest.is_empty() => Ok(Control::Sync(None)),
        // A token of two words could not be told from the counts in the answer.
        b"@sync" => match std::str::from_utf8(rest) {
            Ok(token) if !token.contains(char::is_whitespace) => Ok(Control::Sync(Some(token))),
            _ => Err(unknown(line)),
        },
        b"@ping" if rest.is_empty() => Ok(Control::Ping),
        _ => Err(unknown(line)),
    }
}

fn unknown(line: &[u8]) -> ProtocolError {
    let shown = &line[..line.len().min(EXCERPT_BYTES_MAX)];
    let mut excerpt: String = String::from_utf8_lossy(shown).chars().flat_map(char::escape_debug).collect();
    if shown.len() < line.len() {
        excerpt.push('…');
    }
    ProtocolError::UnknownCommand(excerpt)
}

/// Whether a first line is an HTTP request line: `METHOD SP path SP HTTP/…`.
pub(super) fn is_http_request(line: &[u8]) -> bool {
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(path), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return false;
    };
    !method.is_empty() && method.iter().all(u8::is_ascii_uppercase) && !path.is_empty() && version.starts_with(b"HTTP/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_lines_are_understood() {
        assert_eq!(parse(b"@auth  two words "), Ok(Control::Auth(b"two words")));
        assert_eq!(parse(b"@auth"), Ok(Control::Auth(b"")));
        assert_eq!(parse(b"@producer web-1/a.b:c"), Ok(Control::Producer("web-1/a.b:c")));
        assert_eq!(parse(b"@sync"), Ok(Control::Sync(None)));
        assert_eq!(parse(b"@sync 17"), Ok(Control::Sync(Some("17"))));
        assert_eq!(parse("@sync grün".as_bytes()), Ok(Control::Sync(Some("grün"))));
        assert_eq!(parse(b"@ping"), Ok(Control::Ping));
    }

    #[test]
    fn what_is_no_control_line_is_named() {
        for line in [&b"@"[..], b"@pings", b"@ping now", b"@sync a b", b"@sync \xff", b"@Sync", b"@sync\t1"] {
            assert!(matches!(parse(line), Err(ProtocolError::UnknownCommand(_))), "{}", line.escape_ascii());
        }
        let Err(error) = parse(b"@\x1b[2J \xff") else { panic!("accepted") };
        assert!(error.to_string().starts_with("`@\\u{1b}[2J \u{fffd}`"), "{error}");
        let Err(ProtocolError::UnknownCommand(excerpt)) = parse(&[b'@'; 300]) else { panic!("accepted") };
        assert_eq!(excerpt, "@".repeat(200) + "…");
    }

    #[test]
    fn http_requests_are_seen() {
        for line in ["GET / HTTP/1.1", "POST /api?x=1 HTTP/1.0", "PRI * HTTP/2.0"] {
            assert!(is_http_request(line.as_bytes()), "{line}");
        }
        for line in ["GET /", "get / HTTP/1.1", "GET  HTTP/1.1", "GET / HTTP/1.1 x", "{\"a\":\"GET / HTTP/1.1\"}", ""] {
            assert!(!is_http_request(line.as_bytes()), "{line}");
        }
    }
}
