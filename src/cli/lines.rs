//! Files and stdin as chunks of whole lines that count: what is blank or a comment is left out, so that a line's number
//! here is its number there.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use memchr::{memchr, memrchr};

use super::error::CliError;
use crate::event::Format;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;
/// A line beyond this is no line: what is sent is certainly something else, and memory must end somewhere.
const LINE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Whole lines, each with its LF, none of them blank.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
}

/// What cannot be sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum InputError {
    #[error("cannot read {input}: {error}")]
    Read { input: Arc<str>, error: io::Error },
    #[error(
        "{input}, line {line} begins with `@`: that is a control line of the protocol and no event; lines before it may \
         have been sent, nothing from it on"
    )]
    ControlLine { input: Arc<str>, line: u64 },
    #[error("{input}, line {line} is longer than 64 MiB: is it a text file with one event a line?")]
    LongLine { input: Arc<str>, line: u64 },
}

impl From<InputError> for CliError {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Read { input, error } => Self::Io { what: format!("cannot read {input}"), error },
            _ => Self::Usage(error.to_string()),
        }
    }
}

/// One source.
pub(super) struct Lines {
    name: Arc<str>,
    reader: Box<dyn Read + Send>,
    /// The beginning of a line whose end was not read yet.
    torn: Vec<u8>,
    /// Lines before, blank ones included: as an editor counts.
    lines_read: u64,
    /// What it holds, by its first line: which lines are comments depends on it.
    format: Option<Format>,
    /// Whether a line may begin with `@`, which is an event for whoever does not speak the protocol.
    takes_control_lines: bool,
    ended: bool,
}

impl Lines {
    /// Standard input.
    pub(super) fn stdin() -> Self {
        Self::new("stdin", Box::new(io::stdin()))
    }

    /// A file, inflated if its name ends in `.gz` or `.zst`; counts the bytes read from it.
    pub(super) fn open(path: &Path, bytes_read: Arc<AtomicU64>) -> Result<Self, InputError> {
        let name = path.display().to_string();
        let failed = |error| InputError::Read { input: name.as_str().into(), error };
        let file = File::open(path).map_err(failed)?;
        let file = BufReader::with_capacity(CHUNK_BYTES, Counting { inner: file, bytes: bytes_read });
        let reader: Box<dyn Read + Send> = match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Box::new(MultiGzDecoder::new(file)),
            Some("zst") => Box::new(zstd::Decoder::with_buffer(file).map_err(failed)?),
            _ => Box::new(file),
        };
        Ok(Self::new(&name, reader))
    }

    /// Any source under this name.
    pub(super) fn new(name: &str, reader: Box<dyn Read + Send>) -> Self {
        Self {
            name: name.into(),
            reader,
            torn: Vec::new(),
            lines_read: 0,
            format: None,
            takes_control_lines: false,
            ended: false,
        }
    }

    /// With lines that begin with `@`.
    pub(super) fn with_control_lines(self) -> Self {
        Self { takes_control_lines: true, ..self }
    }

    /// The first line that is sent, or nothing; for a source that is read for this alone.
    pub(super) fn first_line(&mut self) -> Result<Vec<u8>, InputError> {
        let mut first = self.next_chunk()?.map(|chunk| chunk.bytes).unwrap_or_default();
        let end = memchr(b'\n', &first).unwrap_or(first.len());
        first.truncate(end);
        Ok(first)
    }

    /// The next lines, as soon as there are some; `None` at the end.
    pub(super) fn next_chunk(&mut self) -> Result<Option<Chunk>, InputError> {
        while !self.ended {
            let mut bytes = std::mem::take(&mut self.torn);
            let kept = bytes.len();
            bytes.resize(kept + CHUNK_BYTES, 0);
            let read = self.read(&mut bytes[kept..])?;
            bytes.truncate(kept + read);
            if read == 0 {
                self.ended = true;
                if !bytes.is_empty() {
                    bytes.push(b'\n');
                }
            }
            let from = if self.ended { 0 } else { kept };
            let Some(last) = memrchr(b'\n', &bytes[from..]) else {
                if bytes.len() > LINE_BYTES_MAX {
                    return Err(InputError::LongLine { input: self.name.clone(), line: self.lines_read + 1 });
                }
                self.torn = bytes;
                continue;
            };
            self.torn = bytes.split_off(from + last + 1);
            let chunk = self.checked(bytes)?;
            if chunk.lines > 0 {
                return Ok(Some(chunk));
            }
        }
        Ok(None)
    }

    fn read(&mut self, into: &mut [u8]) -> Result<usize, InputError> {
        loop {
            match self.reader.read(into) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(InputError::Read { input: self.name.clone(), error }),
                Ok(read) => return Ok(read),
            }
        }
    }

    /// Counts lines, refuses control lines and leaves out blank ones and comments.
    fn checked(&mut self, mut bytes: Vec<u8>) -> Result<Chunk, InputError> {
        let (mut start, mut lines, mut kept) = (0, 0, 0);
        while let Some(lf) = memchr(b'\n', &bytes[start..]).map(|at| start + at) {
            self.lines_read += 1;
            if bytes[start] == b'@' && !self.takes_control_lines {
                return Err(InputError::ControlLine { input: self.name.clone(), line: self.lines_read });
            }
            // Most lines show with their first byte that they are not blank.
            let first = match bytes[start] {
                first if first > b' ' => Some(first),
                _ => bytes[start..lf].trim_ascii_start().first().copied(),
            };
            if first.is_some_and(|first| !self.is_comment(first)) {
                if kept < start {
                    bytes.copy_within(start..=lf, kept);
                }
                kept += lf + 1 - start;
                lines += 1;
            }
            start = lf + 1;
        }
        bytes.truncate(kept);
        Ok(Chunk { bytes, lines })
    }

    /// Whether a line that begins so is a comment, which an Influx stream does not count.
    fn is_comment(&mut self, first: u8) -> bool {
        let format = self.format.get_or_insert(if first == b'{' { Format::Ndjson } else { Format::Influx });
        first == b'#' && *format == Format::Influx
    }
}

/// Counts what is read from a file, before it is inflated: that is what its size is known of.
struct Counting<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(into)?;
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// Gives a few bytes at a time.
    struct Dribble(Vec<u8>, usize);

    impl Read for Dribble {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(self.0.len()).min(into.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0.drain(..count);
            Ok(count)
        }
    }

    fn all(mut lines: Lines) -> Result<(Vec<u8>, u64), InputError> {
        let (mut bytes, mut count) = (Vec::new(), 0);
        while let Some(chunk) = lines.next_chunk()? {
            assert_eq!(chunk.bytes.iter().filter(|byte| **byte == b'\n').count() as u64, chunk.lines);
            bytes.extend(chunk.bytes);
            count += chunk.lines;
        }
        Ok((bytes, count))
    }

    fn dribble(text: &str, step: usize) -> Lines {
        Lines::new("it", Box::new(Dribble(text.as_bytes().to_vec(), step)))
    }

    #[test]
    fn lines_are_whole_and_blank_ones_are_left_out() {
        let text = "\n{\"a\":1}\r\n \t\r\n {}\n\n\nlast\r";
        for step in [1, 3, 1_000] {
            let (bytes, count) = all(dribble(text, step)).unwrap();
            assert_eq!((String::from_utf8(bytes).unwrap().as_str(), count), ("{\"a\":1}\r\n {}\nlast\r\n", 3));
        }
        assert_eq!(all(dribble("\n \n", 1)).unwrap(), (Vec::new(), 0));
        assert_eq!(dribble("\n\n{\"x\": 1}\n{}", 2).first_line().unwrap(), b"{\"x\": 1}");
    }

    #[test]
    fn comments_are_left_out_unless_the_first_line_is_json() {
        let points = "# a\n\n #b\ncpu v=1\n# c\ncpu v=2\n";
        let json = " {}\n# no comment, but a letter\n";
        for step in [1, 1_000] {
            let (bytes, count) = all(dribble(points, step)).unwrap();
            assert_eq!((String::from_utf8(bytes).unwrap().as_str(), count), ("cpu v=1\ncpu v=2\n", 2));
            assert_eq!(all(dribble(json, step)).unwrap(), (json.as_bytes().to_vec(), 2));
        }
    }

    #[test]
    fn a_control_line_is_refused_by_its_number() {
        for step in [1, 1_000] {
            let error = all(dribble("{}\n\n{}\n@sync\n", step)).unwrap_err();
            assert!(error.to_string().starts_with("it, line 4 begins with `@`"), "{error}");
        }
        assert_eq!(all(dribble(" @ is fine\n", 1)).unwrap().1, 1);
    }

    #[test]
    fn packed_files_are_inflated_whole() {
        let folder = tempfile::tempdir().unwrap();
        let text: String = (0..20_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        let (first, second) = text.split_at(text.len() / 2);

        let gz = folder.path().join("a.gz");
        let mut file = File::create(&gz).unwrap();
        for part in [first, second] {
            let mut member = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            member.write_all(part.as_bytes()).unwrap();
            member.finish().unwrap();
        }

        let zst = folder.path().join("a.zst");
        let frame = |part: &str| zstd::encode_all(part.as_bytes(), 1).unwrap();
        let skippable = [&0x184d_2a50u32.to_le_bytes()[..], &3u32.to_le_bytes(), b"xyz"].concat();
        let packed = [frame(first), skippable, frame(second)].concat();
        std::fs::write(&zst, &packed).unwrap();

        for path in [&gz, &zst] {
            let (bytes, count) = all(Lines::open(path, Arc::default()).unwrap()).unwrap();
            assert!(bytes == text.as_bytes() && count == 20_000, "{} gave {count} lines", path.display());
        }

        std::fs::write(&zst, &packed[..packed.len() - 7]).unwrap();
        let error = all(Lines::open(&zst, Arc::default()).unwrap()).unwrap_err();
        assert!(matches!(error, InputError::Read { .. }), "{error}");
    }
}
