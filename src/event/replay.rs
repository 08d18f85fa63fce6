//! Letters on their way again: a record of the journal holds some of one pipeline, each with what was so of its line when
//! it came first.

use std::sync::Arc;

use super::{Batch, Decoded, Decoder, Origin, Position, PositionRange};

/// How the names begin under which replays number their letters: no producer can have such a name.
const NAME: &str = "@replay/";

/// The name under which a pipeline's replays number their letters. Never forgotten.
pub fn replay_name(pipeline: &str) -> String {
    format!("{NAME}{pipeline}")
}

/// Whether a producer's name is that of a pipeline's replays.
pub fn is_replay_name(name: &str) -> bool {
    name.starts_with(NAME)
}

/// Letters of one pipeline, which all others pass over.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replay {
    /// Whose.
    pub pipeline: Arc<str>,
    /// The revision of its definition by which they count, and no other.
    pub revision: u64,
    /// One a record.
    pub letters: Vec<Replayed>,
}

/// One letter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Replayed {
    /// Where its line stood first.
    pub position: Position,
    /// When the journal took it first, unix ms.
    pub ingest_time: i64,
    /// Who sent it.
    pub origin: Origin,
    /// The raw line.
    pub line: Vec<u8>,
}

impl Replay {
    /// The letters as bytes, to be kept in the journal. Numbers are little-endian; texts have a length before
    /// them, which is one too great, so that 0 is none.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for letter in &self.letters {
            out.extend_from_slice(&letter.position.to_le_bytes());
            out.extend_from_slice(&letter.ingest_time.to_le_bytes());
            put(letter.origin.producer.as_deref().map(str::as_bytes), &mut out);
            put(letter.origin.peer.as_deref().map(str::as_bytes), &mut out);
            put(Some(&letter.line), &mut out);
        }
        out
    }

    /// Reads them back. `None` where the bytes are no letters, or the name is not that of a pipeline's replays.
    pub fn decode(name: &str, revision: u64, mut bytes: &[u8]) -> Option<Self> {
        let pipeline = Arc::from(name.strip_prefix(NAME)?);
        let mut letters = Vec::new();
        while !bytes.is_empty() {
            let position = u64::from_le_bytes(take(&mut bytes)?);
            let ingest_time = i64::from_le_bytes(take(&mut bytes)?);
            let producer = get_text(&mut bytes)?;
            let peer = get_text(&mut bytes)?;
            let line = get(&mut bytes)??.to_vec();
            letters.push(Replayed { position, ingest_time, origin: Origin { producer, peer }, line });
        }
        Some(Self { pipeline, revision, letters })
    }

    /// The lines, decoded: one row a letter.
    pub fn decoded(&self, decoder: &Decoder) -> Decoded {
        let mut lines = Vec::with_capacity(self.letters.iter().map(|letter| letter.line.len() + 1).sum());
        for letter in &self.letters {
            let start = lines.len();
            lines.extend_from_slice(&letter.line);
            // A line that somebody has edited in the store is still one line, and counts.
            for byte in &mut lines[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
            if decoder.format().ignores(&lines[start..]) {
                lines.truncate(start);
                lines.extend_from_slice(b"null");
            }
            lines.push(b'\n');
        }
        decoder.decode(Arc::new(lines))
    }

    /// The batch of a record that stands there, without its first letters.
    pub fn batch(
        mut self,
        mut decoded: Decoded,
        mut range: PositionRange,
        ingest_time: i64,
        origin: Origin,
        skip: u64,
    ) -> Batch {
        let skip = skip.min(self.letters.len() as u64);
        self.letters.drain(..skip as usize);
        decoded.skip(skip as usize);
        range.after += skip;
        Batch { range, ingest_time, decoded, origin, silence_ms: None, overlong: None, replay: Some(Arc::new(self)) }
    }
}

impl Replayed {
    /// Bytes that it holds in memory.
    pub fn weight(&self) -> usize {
        size_of::<Self>() + self.line.len()
    }
}

fn put(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    let len = bytes.map_or(0, |bytes| bytes.len() as u64 + 1);
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(bytes.unwrap_or_default());
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

fn get<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let Some(len) = u64::from_le_bytes(take(bytes)?).checked_sub(1) else { return Some(None) };
    let (taken, rest) = bytes.split_at_checked(usize::try_from(len).ok()?)?;
    *bytes = rest;
    Some(Some(taken))
}

fn get_text(bytes: &mut &[u8]) -> Option<Option<Arc<str>>> {
    let Some(text) = get(bytes)? else { return Some(None) };
    Some(Some(Arc::from(std::str::from_utf8(text).ok()?)))
}

#[cfg(test)]
mod tests {
    use super::super::{Fields, is_producer_name};
    use super::*;

    fn letter(line: &str) -> Replayed {
        let origin = Origin { producer: Some(Arc::from("röhre")), peer: None };
        Replayed { position: 7, ingest_time: -1, origin, line: line.into() }
    }

    fn replay(letters: Vec<Replayed>) -> Replay {
        Replay { pipeline: Arc::from("p"), revision: 2, letters }
    }

    #[test]
    fn letters_are_read_as_they_were_written_and_refused_when_cut() {
        let nobody = Replayed { origin: Origin::default(), ..letter("x") };
        let replay = replay(vec![letter("{}"), letter(""), nobody]);
        let bytes = replay.encode();
        assert_eq!(Replay::decode(&replay_name("p"), 2, &bytes), Some(replay));
        assert_eq!(Replay::decode("p", 2, &bytes), None);
        let cut = (0..bytes.len()).filter(|len| Replay::decode("@replay/p", 2, &bytes[..*len]).is_some()).count();
        assert_eq!(cut, 3, "cut before a letter, nowhere else");
    }

    #[test]
    fn each_letter_is_one_row_whatever_its_line_holds() {
        let lines = ["{\"a\":\n1}", " \r\n", "", "{}\n{}", "{\"a\":2}"];
        let replay = replay(lines.map(letter).to_vec());
        let decoded = replay.decoded(&Decoder::new(Arc::new(Fields::default())));
        assert_eq!(decoded.len(), 5);
        assert_eq!(decoded.bad.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2, 3]);
        let batch = replay.batch(decoded, PositionRange::behind(100, 5), 9, Origin::default(), 4);
        assert_eq!((batch.range, batch.decoded.len()), (PositionRange::behind(104, 1), 1));
        assert_eq!((batch.position(0), batch.line_ingest_time(0)), (7, -1));
    }

    #[test]
    fn no_producer_has_the_name_of_a_replay() {
        assert!(is_replay_name(&replay_name("p")) && !is_producer_name(&replay_name("p")));
    }
}
