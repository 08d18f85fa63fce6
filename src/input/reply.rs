//! What the server says: the same words written by the server and read by `send`.

use std::borrow::Cow;
use std::fmt;

use super::ProtocolError;

/// One line from the server; `Display` gives it without its LF.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// `@auth` was right.
    Ok,
    /// So many lines of this producer are durable; it goes on with the next.
    Resume(u64),
    /// All lines before the `@sync` are durable; the counts are the connection's.
    Synced {
        /// What the client gave with its `@sync`.
        token: Option<String>,
        /// Lines that were decoded.
        accepted: u64,
        /// Lines that became letters at once.
        rejected: u64,
    },
    /// Still there.
    Pong,
    /// What went wrong.
    Error {
        /// The word that programs go by.
        code: Cow<'static, str>,
        /// What people read; may be empty.
        text: String,
    },
}

impl Reply {
    /// An error that says all with its code.
    pub fn error(code: &'static str) -> Self {
        Self::Error { code: Cow::Borrowed(code), text: String::new() }
    }

    /// Reads a reply (without its LF); `None` if it is none.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim_ascii_end();
        if let Some(error) = line.strip_prefix("@error ") {
            let (code, text) = error.split_once(' ').unwrap_or((error, ""));
            return Some(Self::Error { code: Cow::Owned(code.to_owned()), text: text.to_owned() });
        }
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["@ok"] => Some(Self::Ok),
            ["@ok", durable] => Some(Self::Resume(durable.parse().ok()?)),
            ["@synced", accepted, rejected] => {
                Some(Self::Synced { token: None, accepted: accepted.parse().ok()?, rejected: rejected.parse().ok()? })
            }
            ["@synced", token, accepted, rejected] => Some(Self::Synced {
                token: Some(token.to_owned()),
                accepted: accepted.parse().ok()?,
                rejected: rejected.parse().ok()?,
            }),
            ["@pong"] => Some(Self::Pong),
            _ => None,
        }
    }
}

impl From<&ProtocolError> for Reply {
    fn from(error: &ProtocolError) -> Self {
        match error {
            // The contract gives these two to the word.
            ProtocolError::Unauthorized | ProtocolError::HttpRequest => Self::error(error.code()),
            _ => Self::Error { code: Cow::Borrowed(error.code()), text: error.to_string() },
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("@ok"),
            Self::Resume(durable) => write!(f, "@ok {durable}"),
            Self::Synced { token: Some(token), accepted, rejected } => {
                write!(f, "@synced {token} {accepted} {rejected}")
            }
            Self::Synced { token: None, accepted, rejected } => write!(f, "@synced {accepted} {rejected}"),
            Self::Pong => f.write_str("@pong"),
            Self::Error { code, text } if text.is_empty() => write!(f, "@error {code}"),
            Self::Error { code, text } => write!(f, "@error {code} {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_the_contract_s_lines_and_read_back() {
        let synced = |token: Option<&str>| Reply::Synced { token: token.map(str::to_owned), accepted: 7, rejected: 1 };
        for (reply, line) in [
            (Reply::Ok, "@ok"),
            (Reply::Resume(0), "@ok 0"),
            (synced(None), "@synced 7 1"),
            (synced(Some("t-1")), "@synced t-1 7 1"),
            (Reply::Pong, "@pong"),
            (Reply::from(&ProtocolError::Unauthorized), "@error unauthorized"),
            (Reply::from(&ProtocolError::HttpRequest), "@error http_request"),
            (Reply::error("producer_replaced"), "@error producer_replaced"),
            (
                Reply::from(&ProtocolError::BadProducer),
                "@error bad_producer a producer's name is 1 to 128 letters, digits and `._:/-`",
            ),
        ] {
            assert_eq!(reply.to_string(), line);
            assert_eq!(Reply::parse(line.as_bytes()), Some(reply));
        }
        for line in ["", "ok", "@ok -1", "@synced 1", "@synced a b", "@pong 1", "{}"] {
            assert_eq!(Reply::parse(line.as_bytes()), None, "{line}");
        }
    }
}
