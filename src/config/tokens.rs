//! Tokens: who may do what.

use std::fmt;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::reader::{Section, Setting};
use super::settings::read_secret_file;

/// Characters of a token at least.
const TOKEN_MIN_CHARS: usize = 16;
/// Two, so that a token can be replaced without a moment in which neither works.
const TOKENS_MAX: usize = 2;
const TOKENS: &str = "a token of at least 16 characters, or a list of two";

/// Tokens of which a client must show one. Only their digests are kept: nothing that shows a config can show a token, and
/// the time that a comparison takes tells nothing of them, not even their lengths.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tokens(Vec<[u8; 32]>);

impl Tokens {
    /// Whether none is wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether this is one of them. It is compared with each, in constant time, whatever equals.
    pub fn hold(&self, said: &[u8]) -> bool {
        let said: [u8; 32] = Sha256::digest(said).into();
        self.0.iter().fold(Choice::from(0), |held, token| held | token.ct_eq(&said)).into()
    }

    /// Those of both.
    pub fn and(&self, others: &Self) -> Self {
        Self(self.0.iter().chain(&others.0).copied().collect())
    }
}

impl<T: AsRef<str>> FromIterator<T> for Tokens {
    fn from_iter<I: IntoIterator<Item = T>>(tokens: I) -> Self {
        Self(tokens.into_iter().map(|token| Sha256::digest(token.as_ref()).into()).collect())
    }
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tokens({})", self.len())
    }
}

/// The tokens of two keys, of which one may be given: the tokens themselves, and a file that holds them. With the setting
/// that gave them.
pub(super) fn read_tokens<'c>(
    section: &mut Section<'c>,
    key: &'static str,
    file_key: &'static str,
) -> (Tokens, Option<Setting<'c>>) {
    let given = section.take(key);
    let file = section.take(file_key);
    if let (Some(_), Some(file)) = (&given, &file) {
        file.wrong(format!("both `{key}` and `{file_key}` are given"), "one of them");
    }
    let tokens = match (&given, &file) {
        (Some(given), _) => tokens_of(given),
        (None, Some(file)) => tokens_of_file(file),
        (None, None) => Vec::new(),
    };
    (tokens.into_iter().collect(), given.or(file))
}

fn tokens_of(setting: &Setting<'_>) -> Vec<String> {
    if !setting.is_list() {
        return read_token(setting).into_iter().collect();
    }
    let tokens = setting.list(TOKENS).unwrap_or_default();
    if tokens.is_empty() || tokens.len() > TOKENS_MAX {
        setting.wrong(format!("`{}` has {} tokens", setting.path, tokens.len()), TOKENS);
    }
    tokens.iter().filter_map(read_token).collect()
}

fn read_token(setting: &Setting<'_>) -> Option<String> {
    let token = setting.text(TOKENS)?.value;
    check_token(setting, &token).then_some(token)
}

/// One token a line.
fn tokens_of_file(setting: &Setting<'_>) -> Vec<String> {
    let Some(text) = read_secret_file(setting) else { return Vec::new() };
    let tokens: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if tokens.is_empty() || tokens.len() > TOKENS_MAX {
        setting.wrong(format!("`{}` has {} tokens", setting.path, tokens.len()), "a file with one token, or two lines");
    }
    tokens.into_iter().filter(|token| check_token(setting, token)).collect()
}

/// No message repeats a token.
fn check_token(setting: &Setting<'_>, token: &str) -> bool {
    let count = token.chars().count();
    if count < TOKEN_MIN_CHARS {
        setting.wrong(format!("the token of `{}` is too short: {count} characters", setting.path), TOKENS);
        return false;
    }
    // `@auth <token>` is one line, and a header has no other characters.
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        setting.wrong(format!("the token of `{}` holds a blank or is not ASCII", setting.path), TOKENS);
        return false;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_held_and_nothing_else() {
        let tokens = Tokens::from_iter(["0123456789abcdef", "fedcba9876543210"]);
        assert!(tokens.hold(b"0123456789abcdef") && tokens.hold(b"fedcba9876543210"));
        for other in
            ["", "0123456789abcde", "0123456789abcdefg", "0123456789ABCDEF", "0123456789abcdeffedcba9876543210"]
        {
            assert!(!tokens.hold(other.as_bytes()), "{other}");
        }
        assert!(!Tokens::default().hold(b""));
        let all = Tokens::from_iter(["x"]).and(&tokens);
        assert!(all.hold(b"x") && all.hold(b"fedcba9876543210") && all.len() == 3);
        assert_eq!(format!("{tokens:?}"), "Tokens(2)");
    }
}
