//! One line of the Influx line protocol (v2): judged as a whole, its wanted values taken, in one pass.
//!
//! ```text
//! weather,location=us\ midwest,season=summer temperature=82,humidity=71i 1465839830100400200
//! measurement tags                           fields                      timestamp
//! ```
//!
//! A backslash before a character that has a meaning where it stands, or before another backslash, takes the meaning
//! away; before any other it is a backslash.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

use super::json::Sink;
use super::{Cell, DecodeError, Fault, Field, Fields, Step};

/// The name under which an event holds what its point measures.
const MEASUREMENT: &str = "measurement";
/// What stands before a tag's name where a field has that name, too.
const TAG: &str = "tag";

/// What is wanted of points.
#[derive(Debug)]
pub(super) struct Points {
    /// Names, and their columns.
    columns: Vec<(Box<str>, usize)>,
    /// Tags that are wanted where something else has their name, too.
    hidden: Vec<(Box<str>, usize)>,
    timestamp: Option<usize>,
}

impl Points {
    pub fn new(fields: &Fields) -> Self {
        let (mut columns, mut hidden) = (Vec::new(), Vec::new());
        for (column, field) in fields.iter().enumerate() {
            // `tag.host` is a path; and as a name, "tag.host".
            let tag = match field.steps() {
                [Step::Key(name)] => {
                    columns.push((name.as_str().into(), column));
                    name.strip_prefix(TAG).and_then(|name| name.strip_prefix('.'))
                }
                [Step::Key(tag), Step::Key(name)] if tag == TAG => Some(name.as_str()),
                // Values of points have nothing within.
                _ => None,
            };
            hidden.extend(tag.map(|tag| (tag.into(), column)));
        }
        Self { columns, hidden, timestamp: fields.column(&Field::timestamp()) }
    }

    fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().find(|(wanted, _)| **wanted == *name).map(|(_, column)| *column)
    }

    fn hidden(&self, name: &str) -> impl Iterator<Item = (usize, usize)> {
        let wanted = self.hidden.iter().enumerate().filter(move |(_, (wanted, _))| **wanted == *name);
        wanted.map(|(index, (_, column))| (index, *column))
    }

    /// Judges a line and takes its wanted values; the verdict depends on nothing but the line.
    ///
    /// # Errors
    /// Why it is no point; `sink` may hold a part of it then.
    pub fn read(&self, line: &str, sink: &mut Sink) -> Result<(), DecodeError> {
        let mut reader = Reader { points: self, line, at: 0, sink, tags: vec![Cell::Null; self.hidden.len()] };
        reader.skip_blanks();
        reader.measurement()?;
        while reader.passes(b',') {
            reader.tag()?;
        }
        reader.blanks("a blank and a field are expected")?;
        reader.field()?;
        while reader.passes(b',') {
            reader.field()?;
        }
        if reader.at < line.len() {
            reader.blanks("`,` or a blank is expected behind a field's value")?;
            reader.timestamp()?;
        }
        Ok(())
    }
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A piece of the line, as it stands there.
#[derive(Clone, Copy)]
struct Piece<'a> {
    text: &'a str,
    /// What may be escaped in it, if there is a backslash.
    escapes: Option<&'static [u8]>,
}

/// In a measurement.
const OF_MEASUREMENT: &[u8] = b"\\, ";
/// In names of tags and fields, and in values of tags.
const OF_NAME: &[u8] = b"\\, =";
/// In a text.
const OF_TEXT: &[u8] = b"\\\"";

struct Reader<'a, 's> {
    points: &'a Points,
    line: &'a str,
    at: usize,
    sink: &'s mut Sink,
    /// The values of `Points::hidden`, for when a field of the name comes.
    tags: Vec<Cell>,
}

impl<'a> Reader<'a, '_> {
    fn wrong<T>(&self, what: &'static str) -> Result<T, DecodeError> {
        Err(DecodeError::Influx { what, at: self.at + 1 })
    }

    fn peek(&self) -> Option<u8> {
        self.line.as_bytes().get(self.at).copied()
    }

    fn passes(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn skip_blanks(&mut self) {
        while self.peek().is_some_and(is_blank) {
            self.at += 1;
        }
    }

    fn blanks(&mut self, or_else: &'static str) -> Result<(), DecodeError> {
        if self.peek() != Some(b' ') {
            return self.wrong(or_else);
        }
        self.skip_blanks();
        Ok(())
    }

    fn measurement(&mut self) -> Result<(), DecodeError> {
        let piece = self.piece(OF_MEASUREMENT, "a measurement is expected")?;
        if let Some(column) = self.points.column(MEASUREMENT) {
            self.sink.row[column] = self.text(piece);
        }
        Ok(())
    }

    fn tag(&mut self) -> Result<(), DecodeError> {
        let name = self.name("the name of a tag is expected", "`=` is expected behind the name of a tag")?;
        let value = self.piece(OF_NAME, "the value of a tag is expected")?;
        if self.peek() == Some(b'=') {
            return self.wrong("`=` in the value of a tag needs a backslash");
        }
        let points = self.points;
        let is_taken = *name == *MEASUREMENT;
        if let Some(column) = points.column(&name).filter(|_| !is_taken) {
            self.sink.row[column] = self.text(value);
        }
        for (index, column) in points.hidden(&name) {
            self.tags[index] = self.text(value);
            if is_taken {
                self.sink.row[column] = self.tags[index];
            }
        }
        Ok(())
    }

    fn field(&mut self) -> Result<(), DecodeError> {
        let name = self.name("the name of a field is expected", "`=` is expected behind the name of a field")?;
        let points = self.points;
        let column = points.column(&name);
        let value = if self.passes(b'"') { self.quoted(column)? } else { self.scalar(column)? };
        if let Some(column) = column {
            self.sink.row[column] = value;
        }
        for (index, column) in points.hidden(&name) {
            // A field can be called `tag.host`, too: where names clash the field wins.
            if self.sink.row[column] == Cell::Null {
                self.sink.row[column] = self.tags[index];
            }
        }
        Ok(())
    }

    fn timestamp(&mut self) -> Result<(), DecodeError> {
        let rest = self.line[self.at..].trim_end_matches([' ', '\t']);
        if !rest.is_empty() {
            let digits = rest.strip_prefix('-').unwrap_or(rest);
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return self.wrong("a timestamp, which is a whole number, is expected");
            }
            if let Some(column) = self.points.timestamp {
                self.sink.row[column] = whole(rest);
            }
        }
        Ok(())
    }

    /// What is there up to the next `,`, `=` or blank that has a meaning; something must be.
    fn piece(&mut self, escapes: &'static [u8], or_else: &'static str) -> Result<Piece<'a>, DecodeError> {
        let bytes = self.line.as_bytes();
        let (start, mut escaped) = (self.at, None);
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' if self.at + 1 == bytes.len() => return self.wrong("nothing follows the backslash"),
                b'\\' => {
                    escaped = Some(escapes);
                    // What no backslash belongs to is looked at for itself.
                    self.at += 1 + usize::from(escapes.contains(&bytes[self.at + 1]));
                }
                byte if escapes.contains(&byte) => break,
                _ => self.at += 1,
            }
        }
        if self.at == start {
            self.wrong(or_else)
        } else {
            Ok(Piece { text: &self.line[start..self.at], escapes: escaped })
        }
    }

    /// A name, and the `=` behind it.
    fn name(&mut self, or_else: &'static str, no_value: &'static str) -> Result<Cow<'a, str>, DecodeError> {
        let name = self.piece(OF_NAME, or_else)?;
        if self.passes(b'=') { Ok(name.resolved()) } else { self.wrong(no_value) }
    }

    /// The value of a text, behind its first quote.
    fn quoted(&mut self, wanted: Option<usize>) -> Result<Cell, DecodeError> {
        let bytes = self.line.as_bytes();
        let (start, mut escapes) = (self.at, None);
        while let Some(next) = memchr2(b'"', b'\\', &bytes[self.at..]) {
            self.at += next;
            if bytes[self.at] == b'"' {
                let text = &self.line[start..self.at];
                self.at += 1;
                return Ok(wanted.map_or(Cell::Null, |_| self.text(Piece { text, escapes })));
            }
            escapes = Some(OF_TEXT);
            self.at += 1 + usize::from(bytes.get(self.at + 1).is_some_and(|next| OF_TEXT.contains(next)));
        }
        self.at = start - 1;
        self.wrong("a text without its second quote begins")
    }

    /// The value of a number or a boolean.
    fn scalar(&mut self, wanted: Option<usize>) -> Result<Cell, DecodeError> {
        let rest = &self.line[self.at..];
        let raw = &rest[..memchr2(b',', b' ', rest.as_bytes()).unwrap_or(rest.len())];
        let Some(kind) = Kind::of(raw) else {
            return self.wrong("a number, a boolean or a text in double quotes is expected");
        };
        self.at += raw.len();
        Ok(wanted.map_or(Cell::Null, |_| kind.cell(raw)))
    }

    fn text(&mut self, piece: Piece<'_>) -> Cell {
        if memchr(0, piece.text.as_bytes()).is_some() {
            return Cell::Invalid(Fault::Nul);
        }
        match piece.escapes {
            None => Cell::Text(self.sink.span(piece.text)),
            Some(escapes) => self.sink.append(|arena| resolve(piece.text, escapes, arena)),
        }
    }
}

impl<'a> Piece<'a> {
    fn resolved(self) -> Cow<'a, str> {
        let Some(escapes) = self.escapes else { return Cow::Borrowed(self.text) };
        let mut resolved = String::with_capacity(self.text.len());
        resolve(self.text, escapes, &mut resolved);
        Cow::Owned(resolved)
    }
}

/// Adds a text to `out`, without the backslashes that escape something.
fn resolve(text: &str, escapes: &[u8], out: &mut String) {
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match rest.as_bytes().first().filter(|next| escapes.contains(next)) {
            Some(next) => {
                out.push(char::from(*next));
                rest = &rest[1..];
            }
            None => out.push('\\'),
        }
    }
    out.push_str(rest);
}

/// What a value without quotes is.
enum Kind {
    Bool(bool),
    Int,
    Float,
}

impl Kind {
    fn of(raw: &str) -> Option<Self> {
        match raw {
            "t" | "T" | "true" | "True" | "TRUE" => return Some(Self::Bool(true)),
            "f" | "F" | "false" | "False" | "FALSE" => return Some(Self::Bool(false)),
            _ => {}
        }
        let (number, is_int) = match raw.as_bytes().last()? {
            b'i' => (raw[..raw.len() - 1].strip_prefix('-').unwrap_or(&raw[..raw.len() - 1]), true),
            b'u' => (&raw[..raw.len() - 1], true),
            _ => (raw, false),
        };
        match is_int {
            true => (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(Self::Int),
            false => is_float(number).then_some(Self::Float),
        }
    }

    fn cell(self, raw: &str) -> Cell {
        match self {
            Self::Bool(value) => Cell::Bool(value),
            Self::Int => whole(&raw[..raw.len() - 1]),
            Self::Float => match raw.parse::<f64>() {
                Ok(value) if value.is_finite() => Cell::Float(value),
                _ => Cell::Invalid(Fault::Range),
            },
        }
    }
}

/// Digits, perhaps behind a minus.
fn whole(raw: &str) -> Cell {
    raw.parse().map_or(Cell::Invalid(Fault::Range), Cell::Int)
}

/// As Go writes and reads them: `1`, `-1.5`, `.5`, `1.`, `1e5`, `-1.25E-3`. There is no NaN, and nothing infinite.
fn is_float(raw: &str) -> bool {
    let unsigned = raw.strip_prefix('-').unwrap_or(raw);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent.strip_prefix(['+', '-']).unwrap_or(exponent))),
        None => (unsigned, None),
    };
    let (int, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let has_digits = !(int.is_empty() && fraction.is_empty());
    has_digits && digits(int) && digits(fraction) && exponent.is_none_or(|text| !text.is_empty() && digits(text))
}
