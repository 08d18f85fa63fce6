//! Bodies: received, inflated and decoded, each within its bounds. What is too much is refused before it is held.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{CONTENT_ENCODING, HeaderMap};
use actix_web::web;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::actors::KEPT_BYTES;
use crate::clock::Clock;
use crate::event::{Decoded, Decoder, piece_end};
use crate::limits::{BATCH_BYTES_MAX, HTTP_BODIES_BYTES_MAX, HTTP_BODY_BYTES_MAX, HTTP_BODY_TIMEOUT_MS};

/// Bodies that are inflated and decoded at the same time: the threads of TCP and pipelines go on meanwhile.
const DECODED_AT_ONCE: usize = 2;
/// Bytes that are inflated at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// The first room of a body whose length nobody said.
const ROOM_BYTES_MIN: usize = 4 * 1024;
/// A zstd frame may look back so far (a power of two): what the decoder holds besides the inflated bytes.
const ZSTD_WINDOW_LOG_MAX: u32 = HTTP_BODY_BYTES_MAX.ilog2();

/// Why a body was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// More than fits, as it came or inflated.
    #[error("a body has at most {} MiB after inflation: send the lines in several", HTTP_BODY_BYTES_MAX >> 20)]
    TooLarge,
    /// All bodies together have used up their memory.
    #[error("other bodies are on their way and fill the memory for them: send this one again later")]
    Busy,
    /// The client took too long.
    #[error("the body was not there within {} s", HTTP_BODY_TIMEOUT_MS / 1_000)]
    Slow,
    /// The client went away, or does not speak HTTP.
    #[error("the body did not come whole: {0}")]
    Torn(String),
    /// The encoding is none that is read here.
    #[error("Content-Encoding `{0}` is not taken: gzip, zstd and identity are")]
    Encoding(String),
    /// It is not what its encoding says.
    #[error("the body cannot be inflated: {0}")]
    Damaged(#[from] std::io::Error),
}

/// How a body is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Encoding {
    Identity,
    Gzip,
    Zstd,
}

impl Encoding {
    /// As the headers say.
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, BodyError> {
        let mut given = headers.get_all(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim());
        let Some(encoding) = given.next() else { return Ok(Self::Identity) };
        match (encoding.to_ascii_lowercase().as_str(), given.next()) {
            ("identity", None) => Ok(Self::Identity),
            ("gzip", None) => Ok(Self::Gzip),
            ("zstd", None) => Ok(Self::Zstd),
            (_, second) => {
                Err(BodyError::Encoding([Some(encoding), second].into_iter().flatten().collect::<Vec<_>>().join(", ")))
            }
        }
    }
}

/// The memory of all bodies that are under way.
#[derive(Clone)]
pub(super) struct Bodies {
    room: Arc<Semaphore>,
    decoding: Arc<Semaphore>,
}

/// Bytes, and the right to hold them.
#[derive(Debug)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    room: Room,
}

/// The right to hold bytes; grows, and is given back when it is dropped.
#[derive(Debug)]
pub(super) struct Room {
    all: Arc<Semaphore>,
    held: Vec<OwnedSemaphorePermit>,
}

/// Lines of a body, decoded.
#[derive(Debug)]
pub(super) struct Lines {
    pub bytes: Arc<Vec<u8>>,
    pub lines: u64,
    pub rejected: u64,
    /// `None` where they would hold too much.
    pub pieces: Option<Vec<Decoded>>,
}

impl Bodies {
    pub(super) fn new() -> Self {
        let room = Arc::new(Semaphore::new(HTTP_BODIES_BYTES_MAX));
        Self { room, decoding: Arc::new(Semaphore::new(DECODED_AT_ONCE)) }
    }

    fn buffer(&self) -> Buffer {
        Buffer { bytes: Vec::new(), room: Room { all: self.room.clone(), held: Vec::new() } }
    }

    /// A body as it comes, of the length that its client says.
    pub(super) async fn receive(
        &self,
        mut payload: web::Payload,
        length: Option<usize>,
        clock: &Clock,
    ) -> Result<Buffer, BodyError> {
        let mut buffer = self.buffer();
        if length.is_some_and(|length| length > HTTP_BODY_BYTES_MAX) {
            return Err(BodyError::TooLarge);
        }
        let deadline = clock.elapsed() + Duration::from_millis(HTTP_BODY_TIMEOUT_MS);
        loop {
            let chunk = tokio::select! {
                chunk = payload.next() => chunk,
                () = clock.sleep(deadline.saturating_sub(clock.elapsed())) => return Err(BodyError::Slow),
            };
            match chunk {
                None => return Ok(buffer),
                Some(Ok(chunk)) => buffer.push(&chunk)?,
                Some(Err(error)) => return Err(BodyError::Torn(error.to_string())),
            }
        }
    }

    /// Runs what takes long on a thread where nobody waits for it; a few at a time.
    pub(super) async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, BodyError> {
        let place = self.decoding.clone().acquire_owned().await;
        let done = web::block(move || {
            let _place = place;
            work()
        });
        done.await.map_err(|error| BodyError::Damaged(std::io::Error::other(error)))
    }
}

impl Buffer {
    fn push(&mut self, chunk: &[u8]) -> Result<(), BodyError> {
        let (needed, held) = (self.bytes.len() + chunk.len(), self.bytes.capacity());
        if needed > HTTP_BODY_BYTES_MAX {
            return Err(BodyError::TooLarge);
        }
        if needed > held {
            let capacity = needed.max(2 * held).clamp(ROOM_BYTES_MIN, HTTP_BODY_BYTES_MAX);
            self.room.take(capacity - held)?;
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(chunk);
        Ok(())
    }

    /// The same, inflated; never holds more than a body may have.
    pub(super) fn inflate(self, encoding: Encoding) -> Result<Self, BodyError> {
        let mut inflated = Self { bytes: Vec::new(), room: Room { all: self.room.all.clone(), held: Vec::new() } };
        match encoding {
            Encoding::Identity => return Ok(self),
            Encoding::Gzip => inflated.fill(flate2::bufread::MultiGzDecoder::new(&self.bytes[..]))?,
            Encoding::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(&self.bytes[..])?;
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                inflated.fill(decoder)?;
            }
        }
        Ok(inflated)
    }

    fn fill(&mut self, mut from: impl Read) -> Result<(), BodyError> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match from.read(&mut chunk)? {
                0 => return Ok(()),
                read => self.push(&chunk[..read])?,
            }
        }
    }

    /// The bytes, and the right to hold them.
    pub(super) fn into_parts(self) -> (Arc<Vec<u8>>, Room) {
        (Arc::new(self.bytes), self.room)
    }
}

impl Room {
    fn take(&mut self, bytes: usize) -> Result<(), BodyError> {
        let permits = u32::try_from(bytes).map_err(|_| BodyError::TooLarge)?;
        let room = self.all.clone().try_acquire_many_owned(permits).map_err(|_| BodyError::Busy)?;
        self.held.push(room);
        Ok(())
    }
}

impl Lines {
    /// Decodes a body, piece by piece.
    pub(super) fn decode(decoder: &Decoder, bytes: Arc<Vec<u8>>, max_line: usize) -> Self {
        if bytes.len() <= BATCH_BYTES_MAX {
            let decoded = decoder.decode_within(bytes.clone(), max_line);
            let (lines, rejected) = (decoded.len() as u64, decoded.bad.len() as u64);
            return Self { bytes, lines, rejected, pieces: Some(vec![decoded]) };
        }
        let (mut lines, mut rejected, mut at) = (0, 0, 0);
        let (mut pieces, mut held) = (Vec::new(), 0);
        while at < bytes.len() {
            let end = piece_end(&bytes, at, BATCH_BYTES_MAX);
            let decoded = decoder.decode_within(Arc::new(bytes[at..end].to_vec()), max_line);
            at = end;
            lines += decoded.len() as u64;
            rejected += decoded.bad.len() as u64;
            held += decoded.weight();
            if held > KEPT_BYTES {
                // Pipelines read them from the journal, a piece at a time.
                pieces = Vec::new();
            } else if !decoded.is_empty() {
                pieces.push(decoded);
            }
        }
        Self { bytes, lines, rejected, pieces: (held <= KEPT_BYTES).then_some(pieces) }
    }

    /// The same without the first `count` lines.
    pub(super) fn behind(self, count: u64, decoder: &Decoder, max_line: usize) -> Self {
        let rest = self.bytes[decoder.behind_lines(&self.bytes, count)..].to_vec();
        drop(self);
        Self::decode(decoder, Arc::new(rest), max_line)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use actix_web::http::header::HeaderValue;

    use super::*;
    use crate::event::Fields;

    fn packed(encoding: Encoding, bytes: &[u8]) -> Result<Vec<u8>, BodyError> {
        let mut buffer = Bodies::new().buffer();
        buffer.push(bytes)?;
        Ok(buffer.inflate(encoding)?.bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut file = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        file.write_all(bytes).unwrap();
        file.finish().unwrap()
    }

    #[test]
    fn packed_bodies_are_inflated_whole_or_refused() {
        let text = b"{\"a\":1}\n".repeat(50_000);
        let twice = [&text[..], &text].concat();
        for (encoding, packed_once) in
            [(Encoding::Gzip, gzip(&text)), (Encoding::Zstd, zstd::encode_all(&text[..], 3).unwrap())]
        {
            assert_eq!(packed(encoding, &packed_once).unwrap(), text);
            assert_eq!(packed(encoding, &[&packed_once[..], &packed_once].concat()).unwrap(), twice, "two members");
            for cut in [1, 5, packed_once.len() / 2, packed_once.len() - 1] {
                assert!(
                    matches!(packed(encoding, &packed_once[..cut]), Err(BodyError::Damaged(_))),
                    "{encoding:?} {cut}"
                );
            }
            assert!(matches!(packed(encoding, &text), Err(BodyError::Damaged(_))), "not packed at all");
        }
        let mut flipped = gzip(&text);
        let checksum = flipped.len() - 8;
        flipped[checksum] ^= 1;
        assert!(matches!(packed(Encoding::Gzip, &flipped), Err(BodyError::Damaged(_))));
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit_and_gives_its_room_back() {
        let zeros = vec![b' '; HTTP_BODY_BYTES_MAX + 1];
        for (encoding, bomb) in
            [(Encoding::Gzip, gzip(&zeros)), (Encoding::Zstd, zstd::encode_all(&zeros[..], 1).unwrap())]
        {
            assert!(bomb.len() < 100_000);
            let bodies = Bodies::new();
            let mut buffer = bodies.buffer();
            buffer.push(&bomb).unwrap();
            assert!(matches!(buffer.inflate(encoding), Err(BodyError::TooLarge)));
            assert_eq!(bodies.room.available_permits(), HTTP_BODIES_BYTES_MAX);
        }
        assert_eq!(packed(Encoding::Gzip, &gzip(&zeros[1..])).unwrap().len(), HTTP_BODY_BYTES_MAX);
    }

    /// A frame of one block of a few KiB whose 4,096 sequences repeat a byte 65,539 times and more: 256 MiB. A decoder that
    /// looks only at the size of what it has put out would make all of it at once.
    #[test]
    fn a_zstd_block_that_says_more_than_a_block_may_hold_is_refused() {
        let sequences = 4_096_u32;
        let mut block = vec![];
        // Literals: 4,096 times the same byte, with a header of three bytes.
        let literals = 1 | 3 << 2 | sequences << 4;
        block.extend_from_slice(&literals.to_le_bytes()[..3]);
        block.push(b' ');
        // Their number, then one code for each kind: one literal, the last offset again, a match of 65,539 and 16 bits.
        block.extend_from_slice(&[(sequences >> 8) as u8 + 128, sequences as u8, 0b0101_0100, 1, 0, 52]);
        block.extend(std::iter::repeat_n(0, 2 * sequences as usize));
        block.push(1);
        let header = 1 | 2 << 1 | (block.len() as u32) << 3;
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.extend_from_slice(&block);
        assert!(matches!(packed(Encoding::Zstd, &frame), Err(BodyError::Damaged(_))));
    }

    #[test]
    fn a_zstd_window_beyond_a_body_is_refused() {
        let frame = |exponent: u8| [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
        assert_eq!(packed(Encoding::Zstd, &frame(14)).unwrap(), b"");
        assert!(matches!(packed(Encoding::Zstd, &frame(15)), Err(BodyError::Damaged(_))));
    }

    #[test]
    fn bodies_share_their_memory() {
        let bodies = Bodies::new();
        let chunk = vec![0; 1 << 20];
        let fill = |mut buffer: Buffer| {
            for _ in 0..16 {
                buffer.push(&chunk).unwrap();
            }
            buffer
        };
        let full: Vec<_> = (0..4).map(|_| fill(bodies.buffer())).collect();
        assert!(matches!(bodies.buffer().push(b"x"), Err(BodyError::Busy)));
        let mut first = full.into_iter().next().unwrap();
        assert!(matches!(first.push(b"x"), Err(BodyError::TooLarge)));
        fill(bodies.buffer());
    }

    #[test]
    fn only_known_encodings_are_taken() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, HeaderValue::from_static(value));
            }
            Encoding::of(&headers).map_err(|error| error.to_string())
        };
        assert_eq!(of(&[]), Ok(Encoding::Identity));
        assert_eq!(
            (of(&["identity"]), of(&["GZip"]), of(&[" zstd "])),
            (Ok(Encoding::Identity), Ok(Encoding::Gzip), Ok(Encoding::Zstd))
        );
        for other in [&["br"][..], &["gzip, zstd"], &["gzip", "zstd"], &[""]] {
            assert!(of(other).unwrap_err().ends_with("gzip, zstd and identity are"), "{other:?}");
        }
    }

    #[test]
    fn pieces_are_the_whole() {
        let decoder = Decoder::new(Arc::new(Fields::new([])));
        let long = format!("{{\"long\":\"{}\"}}\r\n", "x".repeat(5_000));
        let mut body = Vec::new();
        for round in 0..400 {
            body.extend_from_slice(b"{\"a\":1}\n \n\r\nno json\n");
            body.extend_from_slice(if round % 2 == 0 { long.as_bytes() } else { b"@sync\n" });
        }
        body.extend_from_slice(b"{\"last\":1}");
        assert!(body.len() > 3 * BATCH_BYTES_MAX);
        let whole = decoder.decode_within(Arc::new(body.clone()), 4_999);
        assert_eq!((whole.len(), whole.bad.len()), (1_201, 800));
        let lines = Lines::decode(&decoder, Arc::new(body.clone()), 4_999);
        assert_eq!((lines.lines, lines.rejected), (1_201, 800));
        let rows = |pieces: &[Decoded]| -> Vec<Vec<u8>> {
            pieces.iter().flat_map(|piece| (0..piece.len()).map(|row| piece.line(row).to_vec())).collect()
        };
        let all = rows(&[whole]);
        assert_eq!(rows(lines.pieces.as_ref().unwrap()), all);
        for count in [0, 1, 2, 3, 601, 1_200, 1_201, 2_000] {
            let rest = Lines::decode(&decoder, Arc::new(body.clone()), 4_999).behind(count, &decoder, 4_999);
            assert_eq!(rows(&rest.pieces.unwrap()), all[all.len().min(count as usize)..], "{count}");
        }
        let small = Lines::decode(&decoder, Arc::new(b"{}\n".repeat(1 << 20)), 100);
        assert!(small.pieces.is_none() && small.lines == 1 << 20, "lines that weigh more than their bytes");
    }
}
