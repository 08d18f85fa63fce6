//! Shapes: most lines of a batch equal an earlier one except for their scalars, and are read by that likeness, without
//! a parser.
//!
//! A shape is what stands between the scalars of a line that the parser accepted. A line that has the same pieces in
//! the same places, with a plain string, a number or a literal word in each gap, is JSON of the same structure; so
//! it is accepted with no more checks. Of any other line nothing is said: only the parser rejects. Shapes live as long
//! as their batch, so that what came before changes nothing but speed.

use super::escape::Escapes;
use super::json::Sink;
use super::wanted::Wanted;

/// Shapes that are known of one batch.
const SHAPES_MAX: usize = 8;
/// Scalars of a shape; longer lines are left to the parser.
const GAPS_MAX: usize = 256;
/// Lines that may fit no shape, beyond as many as fitted one, before the batch is left to the parser: hostile lines
/// must not cost much more than it alone.
const MISSES_MAX: usize = 16;
/// Batches with fewer lines are not worth it.
pub(super) const LINES_MIN: usize = 8;

/// The shapes of a batch.
#[derive(Default)]
pub(super) struct Shapes<'a> {
    known: Vec<Shape<'a>>,
    /// The one that fitted last: the next line is likely to be of it, too.
    latest: usize,
    hits: usize,
    misses: usize,
}

struct Shape<'a> {
    gaps: Vec<Gap<'a>>,
    /// What stands behind the last scalar.
    tail: &'a [u8],
}

/// One scalar.
struct Gap<'a> {
    /// What stands before it.
    before: &'a [u8],
    /// Where its value goes.
    column: Option<usize>,
}

impl<'a> Shapes<'a> {
    /// Takes the values of a line that has one of the shapes; `false` says nothing about the line, and leaves nothing.
    pub fn read(&mut self, line: &str, sink: &mut Sink) -> bool {
        if self.known.is_empty() || self.misses > self.hits + MISSES_MAX {
            return false;
        }
        let others = (0..self.known.len()).filter(|index| *index != self.latest);
        for index in [self.latest].into_iter().chain(others) {
            if self.known[index].read(line, sink) {
                self.latest = index;
                self.hits += 1;
                return true;
            }
        }
        self.misses += 1;
        false
    }

    /// Learns from a line that the parser accepted.
    pub fn learn(&mut self, wanted: &Wanted, line: &'a str) {
        if self.known.len() == SHAPES_MAX || self.misses > self.hits + MISSES_MAX {
            return;
        }
        if let Some(shape) = Shape::of(wanted, line.as_bytes()) {
            self.latest = self.known.len();
            self.known.push(shape);
        } else {
            // Learning costs, too.
            self.misses += 1;
        }
    }
}

impl<'a> Shape<'a> {
    /// The shape of a line that is known to be a JSON object; `None` where it holds what only the parser knows to read.
    fn of(wanted: &Wanted, line: &'a [u8]) -> Option<Self> {
        let mut walk = Walk { line, at: 0, behind: 0, gaps: Vec::new() };
        walk.value(Some(wanted))?;
        Some(Self { gaps: walk.gaps, tail: &line[walk.behind..] })
    }

    fn read(&self, line: &str, sink: &mut Sink) -> bool {
        // A line with an escape has no shape.
        sink.set_escapes(Escapes::None);
        let fits = self.fill(line, sink);
        if !fits {
            sink.forget();
        }
        fits
    }

    fn fill(&self, line: &str, sink: &mut Sink) -> bool {
        let mut rest = line;
        for gap in &self.gaps {
            let Some(scalar) = rest.as_bytes().strip_prefix(gap.before).and_then(scalar_len) else { return false };
            let end = gap.before.len() + scalar;
            if let Some(column) = gap.column {
                sink.row[column] = sink.cell(&rest[gap.before.len()..end]);
            }
            rest = &rest[end..];
        }
        rest.as_bytes() == self.tail
    }
}

/// Learns one shape.
struct Walk<'a> {
    line: &'a [u8],
    at: usize,
    /// Where the last gap ended.
    behind: usize,
    gaps: Vec<Gap<'a>>,
}

impl<'a> Walk<'a> {
    fn value(&mut self, wanted: Option<&Wanted>) -> Option<()> {
        match self.next()? {
            // An array or object that is wanted whole is no matter of scalars.
            b'{' | b'[' if wanted.is_some_and(|wanted| wanted.column.is_some()) => None,
            b'{' => self.members(wanted),
            b'[' => self.elements(wanted),
            _ => self.scalar(wanted.and_then(|wanted| wanted.column)),
        }
    }

    fn members(&mut self, wanted: Option<&Wanted>) -> Option<()> {
        let mut seen: Vec<&[u8]> = Vec::new();
        self.at += 1;
        loop {
            match self.next()? {
                b'"' => {
                    let len = string_len(&self.line[self.at..])?;
                    let name = &self.line[self.at + 1..self.at + len - 1];
                    self.at += len;
                    let member = wanted.and_then(|wanted| wanted.member(str::from_utf8(name).ok()?));
                    if member.is_some() {
                        // Which of them counts is the parser's knowledge.
                        if seen.contains(&name) {
                            return None;
                        }
                        seen.push(name);
                    }
                    self.next().filter(|byte| *byte == b':')?;
                    self.at += 1;
                    self.value(member)?;
                }
                b',' => self.at += 1,
                _ => break,
            }
        }
        self.at += 1;
        Some(())
    }

    fn elements(&mut self, wanted: Option<&Wanted>) -> Option<()> {
        self.at += 1;
        let mut index = 0;
        loop {
            match self.next()? {
                b']' => break,
                b',' => {
                    self.at += 1;
                    index += 1;
                }
                _ => self.value(wanted.and_then(|wanted| wanted.element(index)))?,
            }
        }
        self.at += 1;
        Some(())
    }

    fn scalar(&mut self, column: Option<usize>) -> Option<()> {
        if self.gaps.len() == GAPS_MAX {
            return None;
        }
        let len = scalar_len(&self.line[self.at..])?;
        self.gaps.push(Gap { before: &self.line[self.behind..self.at], column });
        self.at += len;
        self.behind = self.at;
        Some(())
    }

    /// The next byte that is no blank.
    fn next(&mut self) -> Option<u8> {
        while matches!(self.line.get(self.at)?, b' ' | b'\t' | b'\r' | b'\n') {
            self.at += 1;
        }
        self.line.get(self.at).copied()
    }
}

/// The length of the scalar that the bytes begin with, if it is a string without escapes, a number or a literal word.
fn scalar_len(bytes: &[u8]) -> Option<usize> {
    match bytes.first()? {
        b'"' => string_len(bytes),
        b'-' | b'0'..=b'9' => number_len(bytes),
        b't' => bytes.starts_with(b"true").then_some(4),
        b'f' => bytes.starts_with(b"false").then_some(5),
        b'n' => bytes.starts_with(b"null").then_some(4),
        _ => None,
    }
}

/// The length of a string with its quotes, unless it holds a backslash or a control byte.
fn string_len(bytes: &[u8]) -> Option<usize> {
    let mut at = 1;
    while let Some(word) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let found = first_stop(u64::from_le_bytes(*word));
        at += found;
        if found < 8 {
            return (bytes[at] == b'"').then_some(at + 1);
        }
    }
    at += bytes.get(at..)?.iter().position(|byte| matches!(byte, b'"' | b'\\' | ..b' '))?;
    (bytes[at] == b'"').then_some(at + 1)
}

/// Where in eight bytes the first quote, backslash or control byte stands; 8 where there is none.
///
/// The usual test of all bytes at once ("does any equal zero, is any less than 32"): it can be wrong only about bytes
/// behind the first that it finds.
fn first_stop(word: u64) -> usize {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word & HIGH;
    let quote = below(word ^ (ONES * u64::from(b'"')), 1);
    let backslash = below(word ^ (ONES * u64::from(b'\\')), 1);
    ((quote | backslash | below(word, u64::from(b' '))).trailing_zeros() / 8) as usize
}

/// The length of a number by JSON's grammar.
fn number_len(bytes: &[u8]) -> Option<usize> {
    let digits =
        |from: usize| bytes.get(from..).map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    at += match bytes.get(at)? {
        b'0' => 1,
        _ => Some(digits(at)).filter(|count| *count > 0)?,
    };
    if bytes.get(at) == Some(&b'.') {
        at += 1 + Some(digits(at + 1)).filter(|count| *count > 0)?;
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        at += Some(digits(at)).filter(|count| *count > 0)?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_end_at_their_quote_and_hold_nothing_that_needs_a_parser() {
        for filler in 0..40 {
            let text = "é".repeat(filler / 2) + &"x".repeat(filler);
            let len = text.len();
            assert_eq!(string_len(format!("\"{text}\"").as_bytes()), Some(len + 2));
            assert_eq!(string_len(format!("\"{text}\",\"\\\n").as_bytes()), Some(len + 2));
            for stop in ["\\", "\n", "\0", "\u{1f}", "\\\"", "\u{1}\"", ""] {
                assert_eq!(string_len(format!("\"{text}{stop}").as_bytes()), None, "{filler} {stop:?}");
                assert_eq!(string_len(format!("\"{text}{stop}\\").as_bytes()), None, "{filler} {stop:?}");
            }
        }
        for byte in (b' '..=u8::MAX).filter(|byte| !matches!(byte, b'"' | b'\\')) {
            assert_eq!(string_len(&[&b"\""[..], &[byte; 19], b"\"...."].concat()), Some(21), "{byte}");
        }
    }

    #[test]
    fn numbers_follow_the_grammar() {
        for number in ["0", "-0", "7", "-12345678901234567890", "0.5", "1.25e10", "1E-5", "0e+0", "-1.0E5"] {
            assert_eq!(number_len(number.as_bytes()), Some(number.len()), "{number}");
            assert_eq!(number_len(format!("{number},1").as_bytes()), Some(number.len()), "{number}");
        }
        for wrong in ["-", "1.", "1.e5", "1e", "1e+", "-x", "-.5"] {
            assert_eq!(number_len(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(number_len(b"01"), Some(1), "what follows will not fit");
    }
}
