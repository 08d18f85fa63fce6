//! Lines to columns.

use std::ops::Range;
use std::sync::Arc;

use memchr::{memchr, memchr_iter, memrchr};

use super::influx::Points;
use super::json::{Sink, read_line};
use super::shape::{LINES_MIN, Shapes};
use super::wanted::Wanted;
use super::{Cell, Decoded, Fields, Span};
use crate::limits::OVERLONG_LINE_KEPT_BYTES;

/// Lines for which room is made at once: a batch of 256 KiB with lines of 64 bytes.
const LINES_EXPECTED_MAX: usize = 4_096;

/// What the lines of a stream are. It does not change: lines of the other format in its journal would be letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// JSON objects.
    #[default]
    Ndjson,
    /// Points of the Influx line protocol.
    Influx,
}

impl Format {
    /// Whether a line does not count: a blank one, and a comment of the Influx line protocol.
    pub fn ignores(self, line: &[u8]) -> bool {
        match line.iter().find(|byte| !matches!(byte, b' ' | b'\t' | b'\r')) {
            None => true,
            Some(first) => *first == b'#' && self == Self::Influx,
        }
    }
}

/// Why a line is no event.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not UTF-8, at this byte of the line, counted from 1.
    #[error("not UTF-8 at byte {0}")]
    Utf8(usize),
    /// Not JSON, or not as a whole.
    #[error("not JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("{0}, not a JSON object")]
    NotAnObject(&'static str),
    /// Nested too deep.
    #[error("nested more than 64 deep")]
    TooDeep,
    /// No point of the Influx line protocol: what is wrong, and at which byte of the line, counted from 1.
    #[error("not an Influx point: {what} at byte {at}")]
    Influx {
        /// In a few words.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// A line over `max_line`: its true length.
    #[error("the line has {0} bytes, more than max_line")]
    TooLong(u64),
}

/// Decodes lines into columns.
#[derive(Clone, Debug)]
pub struct Decoder {
    format: Format,
    fields: Arc<Fields>,
    parser: Parser,
}

#[derive(Clone, Debug)]
enum Parser {
    Ndjson(Arc<Wanted>),
    Influx(Arc<Points>),
}

impl Decoder {
    /// A decoder of JSON, for these fields.
    pub fn new(fields: Arc<Fields>) -> Self {
        Self::of(Format::Ndjson, fields)
    }

    /// A decoder of this format, for these fields.
    pub fn of(format: Format, fields: Arc<Fields>) -> Self {
        let parser = match format {
            Format::Ndjson => Parser::Ndjson(Arc::new(Wanted::new(&fields))),
            Format::Influx => Parser::Influx(Arc::new(Points::new(&fields))),
        };
        Self { format, fields, parser }
    }

    /// What it decodes.
    pub fn format(&self) -> Format {
        self.format
    }

    /// The fields that it decodes.
    pub fn fields(&self) -> &Arc<Fields> {
        &self.fields
    }

    /// Splits `bytes` (less than 2 GiB) into lines (LF or CRLF; blank ones and comments are ignored; the last may lack its LF)
    /// and decodes each.
    pub fn decode(&self, bytes: Arc<Vec<u8>>) -> Decoded {
        self.decode_within(bytes, usize::MAX)
    }

    /// The same, where lines of more than `max_line` bytes, which stand there whole, are no events.
    pub fn decode_within(&self, bytes: Arc<Vec<u8>>, max_line: usize) -> Decoded {
        let mut lines = split(&bytes, self.format);
        let mut columns: Vec<_> = self.fields.iter().map(|_| Vec::with_capacity(lines.len())).collect();
        let mut bad = Vec::new();
        let mut sink = Sink::new(&bytes, columns.len());
        let all = simdutf8::basic::from_utf8(&bytes).ok();
        let shaped = self.format == Format::Ndjson && all.is_some() && lines.len() >= LINES_MIN;
        let mut shapes = shaped.then(Shapes::default);
        for (row, line) in lines.iter_mut().enumerate() {
            let range = line.start as usize..(line.start + line.len) as usize;
            if range.len() > max_line {
                bad.push((row as u32, DecodeError::TooLong(range.len() as u64)));
                line.len = range.len().min(OVERLONG_LINE_KEPT_BYTES) as u32;
                columns.iter_mut().for_each(|column| column.push(Cell::Null));
                continue;
            }
            // Lines end beside an ASCII byte, so that no character is cut.
            let text = match all {
                Some(all) => Ok(&all[range]),
                None => utf8(&bytes[range]),
            };
            if let Err(error) = text.and_then(|text| self.read(text, shapes.as_mut(), &mut sink)) {
                sink.forget();
                bad.push((row as u32, error));
            }
            for (column, cell) in columns.iter_mut().zip(sink.finish()) {
                column.push(cell);
            }
        }
        let arena = sink.arena;
        Decoded { bytes, lines, arena, fields: self.fields.clone(), columns, bad }
    }

    /// By its shape, where it has one that is known, else by the parser.
    fn read<'a>(&self, line: &'a str, mut shapes: Option<&mut Shapes<'a>>, sink: &mut Sink) -> Result<(), DecodeError> {
        let wanted = match &self.parser {
            Parser::Ndjson(wanted) => wanted,
            Parser::Influx(points) => return points.read(line, sink),
        };
        if shapes.as_mut().is_some_and(|shapes| shapes.read(line, sink)) {
            return Ok(());
        }
        read_line(wanted, line, sink)?;
        if let Some(shapes) = shapes {
            shapes.learn(wanted, line);
        }
        Ok(())
    }
}

impl Decoder {
    /// The beginning of a line over `max_line`, and its true length: one row that is no event; none, if it
    /// is a comment.
    pub fn overlong(&self, head: Arc<Vec<u8>>, len: u64) -> Decoded {
        if self.format == Format::Influx && self.format.ignores(&head) {
            return Decoded { fields: self.fields.clone(), ..Decoded::default() };
        }
        let lines = vec![Span { start: 0, len: head.len() as u32 }];
        let columns = vec![vec![Cell::Null]; self.fields.len()];
        let bad = vec![(0, DecodeError::TooLong(len))];
        Decoded { bytes: head, lines, arena: String::new(), fields: self.fields.clone(), columns, bad }
    }

    /// Where the line behind the first `count` lines begins; those that are ignored are not counted.
    pub fn behind_lines(&self, bytes: &[u8], count: u64) -> usize {
        let Some(last) = count.checked_sub(1).and_then(|last| usize::try_from(last).ok()) else { return 0 };
        let end = each_line(bytes, self.format).nth(last).map_or(bytes.len(), |line| line.end);
        memchr(b'\n', &bytes[end..]).map_or(bytes.len(), |lf| end + lf + 1)
    }
}

/// Whether a line is JSON that is an event, whichever fields are asked for.
///
/// # Errors
/// Why it is none.
pub fn decodable(line: &[u8]) -> Result<(), DecodeError> {
    read_line(&Wanted::default(), utf8(line)?, &mut Sink::new(line, 0))
}

fn utf8(line: &[u8]) -> Result<&str, DecodeError> {
    simdutf8::compat::from_utf8(line).map_err(|error| DecodeError::Utf8(error.valid_up_to() + 1))
}

/// The lines that count, without their line ends.
fn split(bytes: &[u8], format: Format) -> Vec<Span> {
    let mut lines = Vec::new();
    for line in each_line(bytes, format) {
        if lines.is_empty() {
            // Lines of a batch are much alike; if not, nobody shall make us reserve much.
            lines.reserve((bytes.len() / (line.len() + 1) + 1).min(LINES_EXPECTED_MAX));
        }
        lines.push(Span { start: line.start as u32, len: line.len() as u32 });
    }
    lines
}

/// Where the lines that count stand, without their line ends.
fn each_line(bytes: &[u8], format: Format) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    memchr_iter(b'\n', bytes).chain([bytes.len()]).filter_map(move |end| {
        let line = &bytes[start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let range = start..start + line.len();
        start = end + 1;
        (!format.ignores(line)).then_some(range)
    })
}

/// The end of a piece of whole lines that begins at `start`: of at most `most` bytes, unless its one line is longer.
pub fn piece_end(bytes: &[u8], start: usize, most: usize) -> usize {
    let rest = &bytes[start..];
    if rest.len() <= most {
        return bytes.len();
    }
    match memrchr(b'\n', &rest[..most]) {
        Some(lf) => start + lf + 1,
        None => memchr(b'\n', &rest[most..]).map_or(bytes.len(), |lf| start + most + lf + 1),
    }
}
