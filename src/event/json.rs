//! One line of JSON: judged as a whole, its wanted values taken, by sonic-rs.
//!
//! What sonic-rs 0.5.10 leaves to us: it recurses without a bound over values that are skipped (so `nested_too_deep`
//! comes first), does not look at the digits of `\u` there (`check_escapes`), and rejects a name with a lone surrogate
//! unless it is told to be lossy. So each wanted value is taken as its raw text and decoded here.

use std::fmt;

use memchr::memchr;
use serde::Deserializer as _;
use serde::de::{Deserialize, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sonic_rs::{Deserializer, LazyValue};

use super::escape::{Escapes, check_escapes, fault_within, unescape};
use super::wanted::Wanted;
use super::{Cell, DecodeError, Fault, Span};
use crate::limits::JSON_DEPTH_MAX;

/// Takes the values of one line after the other.
pub(super) struct Sink {
    /// The values of the line at hand, one a column.
    pub row: Vec<Cell>,
    /// Text whose escapes were resolved.
    pub arena: String,
    /// How much of the arena belongs to lines that are done.
    kept: usize,
    /// Address of the batch's first byte, by which a value's place in the batch is known.
    base: usize,
    /// Length of the batch: where the arena's spans begin.
    len: usize,
    /// The escapes of the line at hand.
    escapes: Escapes,
}

impl Sink {
    /// For lines of these bytes.
    pub fn new(bytes: &[u8], columns: usize) -> Self {
        Self {
            row: vec![Cell::Null; columns],
            arena: String::new(),
            kept: 0,
            base: bytes.as_ptr().addr(),
            len: bytes.len(),
            escapes: Escapes::None,
        }
    }

    /// Says which escapes the line at hand has.
    pub fn set_escapes(&mut self, escapes: Escapes) {
        self.escapes = escapes;
    }

    /// Hands over the row of a good line; what follows belongs to the next one.
    pub fn finish(&mut self) -> impl Iterator<Item = Cell> {
        self.kept = self.arena.len();
        self.row.iter_mut().map(std::mem::take)
    }

    /// Forgets what the line at hand left.
    pub fn forget(&mut self) {
        self.row.fill(Cell::Null);
        self.arena.truncate(self.kept);
    }

    /// Takes the raw text of a wanted value, and what is wanted within it.
    fn take(&mut self, wanted: &Wanted, raw: &str) -> sonic_rs::Result<()> {
        // Of duplicate names the last counts, with all that is below it.
        for column in &wanted.below {
            self.row[*column] = Cell::Null;
        }
        if let Some(column) = wanted.column {
            self.row[column] = self.cell(raw);
        }
        match raw.as_bytes().first() {
            Some(b'{') if wanted.has_members() => {
                parser(raw, self.escapes).deserialize_map(Members { wanted, sink: self })
            }
            Some(b'[') if wanted.has_elements() => {
                parser(raw, self.escapes).deserialize_seq(Elements { wanted, sink: self })
            }
            _ => Ok(()),
        }
    }

    /// The value of JSON text that is known to be some.
    pub fn cell(&mut self, raw: &str) -> Cell {
        match raw.as_bytes() {
            [b'n', ..] => Cell::Null,
            [b't', ..] => Cell::Bool(true),
            [b'f', ..] => Cell::Bool(false),
            [b'"', .., b'"'] => self.text(&raw[1..raw.len() - 1]),
            [b'{' | b'[', ..] => fault_within(raw).map_or_else(|| Cell::Json(self.span(raw)), Cell::Invalid),
            _ => number(raw),
        }
    }

    /// The value of a string, given without its quotes.
    fn text(&mut self, string: &str) -> Cell {
        if self.escapes == Escapes::None || memchr(b'\\', string.as_bytes()).is_none() {
            return Cell::Text(self.span(string));
        }
        let mut fault = None;
        let text = self.append(|arena| fault = unescape(string, arena).err());
        fault.map_or(text, Cell::Invalid)
    }

    /// Text that is not in the batch as it should be, put into the arena.
    pub fn append(&mut self, write: impl FnOnce(&mut String)) -> Cell {
        let before = self.arena.len();
        write(&mut self.arena);
        Cell::Text(Span { start: (self.len + before) as u32, len: (self.arena.len() - before) as u32 })
    }

    /// Where a piece of the batch stands. sonic-rs copies only strings with escapes, of which no place is asked for.
    pub fn span(&self, piece: &str) -> Span {
        Span { start: (piece.as_ptr().addr() - self.base) as u32, len: piece.len() as u32 }
    }
}

/// The value of a number that follows JSON's grammar: whole if it has neither point nor exponent. `-0` is 0, `-0.0` is
/// a float.
fn number(raw: &str) -> Cell {
    if raw.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') {
        return raw.parse().map_or(Cell::Invalid(Fault::Range), Cell::Int);
    }
    match raw.parse::<f64>() {
        Ok(value) if value.is_finite() => Cell::Float(value),
        _ => Cell::Invalid(Fault::Range),
    }
}

/// Judges a line and takes its wanted values; the verdict depends on nothing but the line.
///
/// # Errors
/// Why it is no event; `sink` may hold a part of it then.
pub(super) fn read_line(wanted: &Wanted, line: &str, sink: &mut Sink) -> Result<(), DecodeError> {
    if nested_too_deep(line.as_bytes()) {
        return Err(DecodeError::TooDeep);
    }
    let escapes = check_escapes(line.as_bytes())
        .map_err(|at| DecodeError::Json(format!("an escape that JSON does not know at column {}", at + 1)))?;
    sink.set_escapes(escapes);
    let mut parser = parser(line, escapes);
    if let Some(kind) = kind_unless_object(line) {
        let whole = IgnoredAny::deserialize(&mut parser).and_then(|_| parser.end());
        return Err(whole.map_or_else(json_error, |()| DecodeError::NotAnObject(kind)));
    }
    parser.deserialize_map(Members { wanted, sink }).and_then(|()| parser.end()).map_err(json_error)
}

fn parser(text: &str, escapes: Escapes) -> Deserializer<sonic_rs::Read<'_>> {
    let parser = Deserializer::from_str(text);
    if escapes == Escapes::LoneSurrogate { parser.utf8_lossy() } else { parser }
}

/// What a line is that is not an object, for messages.
fn kind_unless_object(line: &str) -> Option<&'static str> {
    match line.trim_start_matches([' ', '\t', '\r', '\n']).as_bytes().first() {
        Some(b'{') => None,
        Some(b'[') => Some("an array"),
        Some(b'"') => Some("text"),
        Some(b't' | b'f') => Some("a boolean"),
        Some(b'n') => Some("null"),
        _ => Some("a number"),
    }
}

/// Whether brackets are open deeper than may be. Most lines have too few of them for that, which is seen quickly.
fn nested_too_deep(line: &[u8]) -> bool {
    let brackets: usize = line
        .chunks(usize::from(u8::MAX))
        // `[` and `{` differ in the bit 0x20 only; counted in bytes, many at once.
        .map(|chunk| usize::from(chunk.iter().map(|byte| u8::from(byte | 0x20 == b'{')).sum::<u8>()))
        .sum();
    brackets > JSON_DEPTH_MAX && depth_exceeds(line, JSON_DEPTH_MAX)
}

/// The same, exactly: brackets in strings do not count.
fn depth_exceeds(line: &[u8], max: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in line {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > max {
            return true;
        }
    }
    false
}

/// sonic-rs' message, which has four lines and speaks of line 1, in a few words.
fn json_error(error: sonic_rs::Error) -> DecodeError {
    if error.is_eof() {
        return DecodeError::Json("the line ends too early".to_owned());
    }
    let message = error.to_string();
    let what = message.split(" at line ").next().unwrap_or_default();
    let what = what.replace("this character to be ", "").replace("either ", "").replace("a '", "'");
    let what = what.replace(" while parsing", "").replace("Expected", "expected").replace("Invalid", "invalid");
    DecodeError::Json(format!("{what} at column {}", error.offset() + 1))
}

/// Walks an object.
struct Members<'a> {
    wanted: &'a Wanted,
    sink: &'a mut Sink,
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let lossy = self.sink.escapes == Escapes::LoneSurrogate;
        while let Some(wanted) = map.next_key_seed(Name { wanted: self.wanted, lossy })? {
            match wanted {
                Some(wanted) => {
                    let value: LazyValue<'de> = map.next_value()?;
                    self.sink.take(wanted, value.as_raw_str()).map_err(A::Error::custom)?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// Walks an array.
struct Elements<'a> {
    wanted: &'a Wanted,
    sink: &'a mut Sink,
}

impl<'de> Visitor<'de> for Elements<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for index in 0.. {
            let Some(wanted) = self.wanted.element(index) else {
                match seq.next_element::<IgnoredAny>()? {
                    Some(_) => continue,
                    None => break,
                }
            };
            let Some(value) = seq.next_element::<LazyValue<'de>>()? else { break };
            self.sink.take(wanted, value.as_raw_str()).map_err(A::Error::custom)?;
        }
        Ok(())
    }
}

/// Finds what is wanted of the member with a name.
struct Name<'a> {
    wanted: &'a Wanted,
    /// Whether lone surrogates were replaced: such a name equals none.
    lossy: bool,
}

impl<'de, 'a> DeserializeSeed<'de> for Name<'a> {
    type Value = Option<&'a Wanted>;

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<Self::Value, D::Error> {
        parser.deserialize_str(self)
    }
}

impl<'de, 'a> Visitor<'de> for Name<'a> {
    type Value = Option<&'a Wanted>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(self.wanted.member(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(if self.lossy && name.contains('\u{FFFD}') { None } else { self.wanted.member(name) })
    }
}
