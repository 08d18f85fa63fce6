//! The line protocol without its socket: bytes in, actions out, in the order in which the client said them.
//!
//! Lines are rarely control lines and rarely over-long, so that a buffer costs one search for its last LF and one for
//! `\n@`, and goes on as it came. What is known about the bytes in the buffer is four offsets:
//!
//! ```text
//! 0 ..  start .. plain .. checked .. len     start: the first byte that is still to be looked at, a line's first
//!                                            plain: before it whole lines that are events
//!                                            checked: before it whole lines that fit `max_line`
//! ```

use memchr::{memchr, memmem, memrchr};

use super::control::{self, Control, ProtocolError};
use crate::config::Tokens;
use crate::limits::{CONTROL_LINE_BYTES_MAX, OVERLONG_LINE_KEPT_BYTES};

/// What a connection is held to.
#[derive(Clone, Debug)]
pub struct ProtocolConfig {
    /// Bytes of a line without its end.
    pub max_line: usize,
    /// Tokens of which the client must send one first; empty where none is wanted.
    pub tokens: Tokens,
    /// Bytes of one [`Action::Lines`], unless a single line is longer.
    pub batch_max: usize,
}

/// What the client wants, one thing after the other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Whole lines with their LF, neither control lines nor over-long ones; blank ones are among them.
    Lines(Vec<u8>),
    /// A line over `max_line`, after its end was seen.
    Overlong {
        /// Its first bytes.
        head: Vec<u8>,
        /// Its length without the line end.
        len: u64,
    },
    /// The client showed a token; if it is wrong, answer and close.
    Auth {
        /// Whether the token is one of the stream's.
        ok: bool,
    },
    /// The client gave its name; all lines after this are its.
    Producer(String),
    /// The client wants to know when all lines before this are durable.
    Sync(Option<String>),
    /// The client wants a sign of life.
    Ping,
    /// The client is told so; whether that is the end says [`ProtocolError::closes`].
    Error(ProtocolError),
}

/// One connection's bytes on their way to actions.
///
/// Read into [`space`](Self::space), take [`next`](Self::next) until it has nothing more, and once the client's side
/// is closed [`finish`](Self::finish).
#[derive(Debug)]
pub struct Protocol {
    max_line: usize,
    batch_max: usize,
    tokens: Tokens,
    control_line: memmem::Finder<'static>,
    buffer: Vec<u8>,
    start: usize,
    plain: usize,
    checked: usize,
    /// Before it is no LF that `checked` does not cover; else a line that comes byte by byte would be searched as often.
    searched: usize,
    passing: Option<Passing>,
    first_line: bool,
    authorized: bool,
    named: bool,
    closed: bool,
}

/// A line that is not kept, up to its LF.
#[derive(Debug)]
enum Passing {
    Overlong { head: Vec<u8>, len: u64, ends_in_cr: bool },
    Control,
}

enum Step {
    Act(Action),
    Again,
    NeedsMore,
}

impl Protocol {
    /// For a new connection.
    pub fn new(config: ProtocolConfig) -> Self {
        Self {
            max_line: config.max_line,
            batch_max: config.batch_max.max(1),
            authorized: config.tokens.is_empty(),
            tokens: config.tokens,
            control_line: memmem::Finder::new(b"\n@"),
            buffer: Vec::new(),
            start: 0,
            plain: 0,
            checked: 0,
            searched: 0,
            passing: None,
            first_line: true,
            named: false,
            closed: false,
        }
    }

    /// The buffer to read into: append to it, within its capacity, which has room for at least half a batch.
    pub fn space(&mut self) -> &mut Vec<u8> {
        self.drop_taken();
        let torn = self.buffer.len();
        let wanted = (2 * torn).min(self.max_line.saturating_add(self.batch_max)).max(torn + 1).max(self.batch_max);
        if self.buffer.capacity() < wanted {
            self.buffer.reserve_exact(wanted - torn);
        } else if self.buffer.capacity() > 2 * wanted {
            // What a long line needed is not what the next ones need.
            self.buffer.shrink_to(wanted);
        }
        &mut self.buffer
    }

    /// Gives back what the buffer does not need, for a connection that has nothing to read: idle ones hold nothing.
    pub fn release(&mut self) {
        self.drop_taken();
        self.buffer.shrink_to_fit();
    }

    /// Bytes that this connection holds.
    pub fn buffered(&self) -> usize {
        self.buffer.capacity()
    }

    /// Whether the client began a line and has not ended it.
    pub fn line_begun(&self) -> bool {
        self.passing.is_some() || self.start < self.buffer.len()
    }

    /// What comes next; `None` when that takes more bytes, and for ever after what closes the connection.
    #[expect(clippy::should_implement_trait, reason = "an end of it is none: more bytes bring more actions")]
    pub fn next(&mut self) -> Option<Action> {
        while !self.closed {
            let step = if self.passing.is_some() {
                self.pass()
            } else if self.start < self.plain {
                Step::Act(Action::Lines(self.take_lines()))
            } else if self.start == self.buffer.len() {
                self.drop_taken();
                Step::NeedsMore
            } else if self.first_line || !self.authorized {
                self.guarded_line()
            } else if self.buffer[self.start] == b'@' {
                self.control_line()
            } else {
                self.find_plain_lines()
            };
            match step {
                Step::Act(action) => return Some(action),
                Step::Again => {}
                Step::NeedsMore => return None,
            }
        }
        self.buffer.clear();
        None
    }

    /// The end of the client's side: what its last line comes to if no LF ended it. Take all of `next` before.
    ///
    /// Such a line counts only if the client closed cleanly and named no producer: one that named itself sends the
    /// line again, and a killed one looks just the same.
    pub fn finish(&mut self, clean: bool) -> Option<Action> {
        if !clean || self.named || !self.line_begun() {
            self.close();
            return None;
        }
        self.buffer.push(b'\n');
        let last = self.next();
        self.close();
        last
    }

    fn close(&mut self) {
        self.closed = true;
        self.passing = None;
        self.buffer = Vec::new();
        self.rebase(usize::MAX);
    }

    fn drop_taken(&mut self) {
        self.buffer.drain(..self.start);
        self.rebase(self.start);
    }

    /// The first `by` bytes of the buffer are gone.
    fn rebase(&mut self, by: usize) {
        for offset in [&mut self.start, &mut self.plain, &mut self.checked, &mut self.searched] {
            *offset = offset.saturating_sub(by);
        }
    }

    /// Where the line that begins at `start` has its LF.
    fn line_end(&mut self) -> Option<usize> {
        let from = self.start.max(self.searched);
        let found = memchr(b'\n', &self.buffer[from..]).map(|at| from + at);
        self.searched = found.unwrap_or(self.buffer.len());
        found
    }

    /// The first line, which may be HTTP, and lines before the client showed a token: one by one.
    fn guarded_line(&mut self) -> Step {
        if self.authorized && !self.buffer[self.start].is_ascii_uppercase() {
            self.first_line = false;
            return Step::Again;
        }
        let longest = if self.authorized { self.max_line } else { CONTROL_LINE_BYTES_MAX };
        let Some(end) = self.line_end() else {
            if !exceeds(&self.buffer[self.start..], longest) {
                return Step::NeedsMore;
            }
            self.first_line = false;
            return if self.authorized { Step::Again } else { self.refuse(ProtocolError::Unauthorized) };
        };
        let line = without_cr(&self.buffer[self.start..end]);
        if self.first_line && line.len() <= longest && control::is_http_request(line) {
            return self.refuse(ProtocolError::HttpRequest);
        }
        self.first_line = false;
        if self.authorized {
            return Step::Again;
        }
        if line.trim_ascii().is_empty() && line.len() <= longest {
            self.start = end + 1;
            return Step::Again;
        }
        match control::parse(line) {
            Ok(Control::Auth(token)) if line.len() <= longest => {
                let ok = self.is_token(token);
                self.start = end + 1;
                self.authorize(ok)
            }
            _ => self.refuse(ProtocolError::Unauthorized),
        }
    }

    fn refuse(&mut self, error: ProtocolError) -> Step {
        if error.closes() {
            self.close();
        }
        Step::Act(Action::Error(error))
    }

    fn authorize(&mut self, ok: bool) -> Step {
        if ok {
            self.authorized = true;
        } else {
            self.close();
        }
        Step::Act(Action::Auth { ok })
    }

    fn is_token(&self, said: &[u8]) -> bool {
        self.tokens.is_empty() || self.tokens.hold(said)
    }

    fn control_line(&mut self) -> Step {
        let Some(end) = self.line_end() else {
            if !exceeds(&self.buffer[self.start..], CONTROL_LINE_BYTES_MAX) {
                return Step::NeedsMore;
            }
            self.passing = Some(Passing::Control);
            return self.refuse(ProtocolError::ControlTooLong);
        };
        let line = without_cr(&self.buffer[self.start..end]);
        let said =
            if line.len() > CONTROL_LINE_BYTES_MAX { Err(ProtocolError::ControlTooLong) } else { control::parse(line) };
        self.start = end + 1;
        match said {
            Ok(Control::Auth(token)) => {
                let ok = self.is_token(token);
                self.authorize(ok)
            }
            Ok(Control::Producer(name)) => {
                self.named = true;
                Step::Act(Action::Producer(name.to_owned()))
            }
            Ok(Control::Sync(token)) => Step::Act(Action::Sync(token.map(str::to_owned))),
            Ok(Control::Ping) => Step::Act(Action::Ping),
            Err(error) => self.refuse(error),
        }
    }

    /// How far from `start` on, which is no control line, the buffer holds nothing but events.
    fn find_plain_lines(&mut self) -> Step {
        if self.start >= self.checked {
            let from = self.start.max(self.searched);
            let Some(last) = memrchr(b'\n', &self.buffer[from..]) else {
                self.searched = self.buffer.len();
                if !exceeds(&self.buffer[self.start..], self.max_line) {
                    return Step::NeedsMore;
                }
                self.passing = Some(Passing::Overlong { head: Vec::new(), len: 0, ends_in_cr: false });
                return Step::Again;
            };
            self.checked = self.lines_that_fit(from + last + 1);
            if self.checked == self.start {
                self.passing = Some(Passing::Overlong { head: Vec::new(), len: 0, ends_in_cr: false });
                return Step::Again;
            }
        }
        self.plain = match self.control_line.find(&self.buffer[self.start..self.checked]) {
            Some(at) => self.start + at + 1,
            None => self.checked,
        };
        Step::Again
    }

    /// The end of the lines from `start` on, up to the LF before `end`, of which none is over-long.
    fn lines_that_fit(&self, end: usize) -> usize {
        let longest = self.max_line.saturating_add(1);
        let mut at = self.start;
        while end - at > longest {
            // Lines that end within a line's greatest length cannot be longer.
            if let Some(lf) = memrchr(b'\n', &self.buffer[at..at + longest]) {
                at += lf + 1;
                continue;
            }
            let Some(lf) = memchr(b'\n', &self.buffer[at..end]) else { return at };
            if without_cr(&self.buffer[at..at + lf]).len() > self.max_line {
                return at;
            }
            at += lf + 1;
        }
        end
    }

    /// Lets more of a line pass that is not kept.
    fn pass(&mut self) -> Step {
        let rest = &self.buffer[self.start..];
        let end = memchr(b'\n', rest);
        let part = &rest[..end.unwrap_or(rest.len())];
        if let Some(Passing::Overlong { head, len, ends_in_cr }) = &mut self.passing
            && !part.is_empty()
        {
            let room = OVERLONG_LINE_KEPT_BYTES - head.len();
            head.extend_from_slice(&part[..part.len().min(room)]);
            *len += part.len() as u64;
            *ends_in_cr = part.ends_with(b"\r");
        }
        self.start += part.len() + usize::from(end.is_some());
        if end.is_none() {
            self.drop_taken();
            return Step::NeedsMore;
        }
        match self.passing.take() {
            Some(Passing::Overlong { mut head, mut len, ends_in_cr }) => {
                len -= u64::from(ends_in_cr);
                // The CR of a line that is shorter than what is kept.
                head.truncate(usize::try_from(len).unwrap_or(usize::MAX));
                Step::Act(Action::Overlong { head, len })
            }
            Some(Passing::Control) | None => Step::Again,
        }
    }

    /// Takes a batch of the plain lines: in the buffer they came in, if they are most of it, and fill it well enough
    /// that its capacity is not lent to them for nothing.
    fn take_lines(&mut self) -> Vec<u8> {
        let end = self.batch_end();
        let (taken, rest) = (end - self.start, self.buffer.len() - end);
        if self.start > 0 || taken < rest || taken < self.buffer.capacity() / 4 {
            let lines = self.buffer[self.start..end].to_vec();
            self.start = end;
            return lines;
        }
        let mut next = Vec::new();
        if rest > 0 {
            next.reserve_exact(self.batch_max.max(2 * rest));
            next.extend_from_slice(&self.buffer[end..]);
        }
        self.buffer.truncate(end);
        self.start = end;
        self.rebase(end);
        std::mem::replace(&mut self.buffer, next)
    }

    fn batch_end(&self) -> usize {
        let most = self.start + self.batch_max;
        if self.plain <= most {
            return self.plain;
        }
        match memrchr(b'\n', &self.buffer[self.start..most]) {
            Some(lf) => self.start + lf + 1,
            None => memchr(b'\n', &self.buffer[most..self.plain]).map_or(self.plain, |lf| most + lf + 1),
        }
    }
}

/// Whether a line whose end has not come yet is longer than `max`, whatever comes.
fn exceeds(torn: &[u8], max: usize) -> bool {
    torn.len() > max + usize::from(torn.ends_with(b"\r"))
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
