//! A block's bytes: a fixed header, the origin's names, the payload. Little endian; blocks begin at multiples of 8.
//!
//! ```text
//!  0 magic   4 crc (of all behind it)   8 payload length   16 journal   24 salt   32 after   40 records   48 events
//! 56 ingest time   64 synced   72 producer's number   80 detail   88 kind   89 flags   90 producer len   92 peer len
//! 94 zeros  96 producer, peer, payload, zeros up to a multiple of 8
//! ```
//!
//! The salt is a random number that the segment's head gives: what stands in the file from an earlier life of a
//! recycled segment, or in a line that somebody sent, is never taken for a block of this segment.

use std::sync::Arc;

use crc_fast::{CrcAlgorithm, Digest};

use super::{Block, Payload};
use crate::event::{Origin, Position, PositionRange};

/// Bytes of the fixed part.
pub(super) const HEADER_BYTES: usize = 96;
/// Where the salt stands in the header.
pub(super) const SALT_AT: usize = 24;
const MAGIC: u32 = u32::from_le_bytes(*b"TMbl");
const CRC_FROM: usize = 8;
const LINES: u8 = 1;
const OVERLONG: u8 = 2;
const TICK: u8 = 3;
const BODY: u8 = 4;
const REPLAY: u8 = 5;
const LOST: u8 = 6;
const HAS_PRODUCER: u8 = 1;
const HAS_PEER: u8 = 2;

/// What a segment's blocks have in common: blocks of another one are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    /// The journal's identity.
    pub journal: u64,
    /// The segment's random number.
    pub salt: u64,
}

/// A block without its payload's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub range: PositionRange,
    pub events: u64,
    pub ingest_time: i64,
    /// All up to here was fsynced when the block was made: its witness against damage before it.
    pub synced: Position,
    pub producer_number: u64,
    kind: u8,
    flags: u8,
    detail: u64,
    producer_len: usize,
    peer_len: usize,
    payload_len: usize,
}

/// Bytes that a block takes in a segment.
pub(super) fn block_bytes(block: &Block) -> u64 {
    let names = name_len(block.origin.producer.as_deref()) + name_len(block.origin.peer.as_deref());
    (HEADER_BYTES + names + payload_bytes(&block.payload).len()).next_multiple_of(8) as u64
}

/// The bytes of a payload as they stand in the block.
pub(super) fn payload_bytes(payload: &Payload) -> &[u8] {
    match payload {
        Payload::Lines(bytes)
        | Payload::Overlong { head: bytes, .. }
        | Payload::Body { lines: bytes, .. }
        | Payload::Replay { letters: bytes, .. } => bytes,
        Payload::Tick { .. } | Payload::Lost => &[],
    }
}

/// Writes header and names into `out` (cleared before); payload and padding follow them in the segment.
pub(super) fn encode_header(block: &Block, seal: Seal, synced: Position, out: &mut Vec<u8>) {
    let producer = truncated(block.origin.producer.as_deref());
    let peer = truncated(block.origin.peer.as_deref());
    let payload = payload_bytes(&block.payload);
    let (kind, detail) = match &block.payload {
        Payload::Lines(_) => (LINES, 0),
        Payload::Overlong { len, .. } => (OVERLONG, *len),
        Payload::Body { max_line, .. } => (BODY, *max_line),
        Payload::Replay { revision, .. } => (REPLAY, *revision),
        Payload::Tick { silence_ms } => (TICK, u64::from(*silence_ms)),
        Payload::Lost => (LOST, 0),
    };
    let flags = if block.origin.producer.is_some() { HAS_PRODUCER } else { 0 }
        | if block.origin.peer.is_some() { HAS_PEER } else { 0 };
    out.clear();
    out.extend_from_slice(&MAGIC.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let numbers = [
        payload.len() as u64,
        seal.journal,
        seal.salt,
        block.range.after,
        block.range.count(),
        block.events,
        block.ingest_time as u64,
        synced,
        block.producer_number,
        detail,
    ];
    for number in numbers {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&(producer.len() as u16).to_le_bytes());
    out.extend_from_slice(&(peer.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(producer);
    out.extend_from_slice(peer);
    let crc = crc_of(&out[CRC_FROM..], payload);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
}

impl Header {
    /// Reads the fixed part; `None` where no block of this segment stands. Only [`Header::intact`] proves it.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES], seal: Seal) -> Option<Self> {
        let number = |at: usize| u64_at(bytes, at);
        if bytes[..4] != MAGIC.to_le_bytes() || number(16) != seal.journal || number(SALT_AT) != seal.salt {
            return None;
        }
        let (after, records) = (number(32), number(40));
        if records == 0 {
            return None;
        }
        Some(Self {
            range: PositionRange { after, upto: after.checked_add(records)? },
            events: number(48),
            ingest_time: number(56) as i64,
            synced: number(64),
            producer_number: number(72),
            detail: number(80),
            kind: matches!(bytes[88], LINES | OVERLONG | TICK | BODY | REPLAY | LOST).then_some(bytes[88])?,
            flags: bytes[89],
            producer_len: usize::from(u16::from_le_bytes([bytes[90], bytes[91]])),
            peer_len: usize::from(u16::from_le_bytes([bytes[92], bytes[93]])),
            payload_len: usize::try_from(number(8)).ok().filter(|len| *len <= isize::MAX as usize / 2)?,
        })
    }

    /// Bytes of the whole block, padding included.
    pub(super) fn block_bytes(&self) -> usize {
        (self.payload_start() + self.payload_len).next_multiple_of(8)
    }

    /// Whether the bytes (of the whole block) are those that were written.
    pub(super) fn intact(&self, block: &[u8]) -> bool {
        let end = self.payload_start() + self.payload_len;
        crc_of(&block[CRC_FROM..end], &[]).to_le_bytes() == block[4..8]
    }

    /// Whether its records are gone.
    pub(super) fn is_lost(&self) -> bool {
        self.kind == LOST
    }

    /// The first block of any segment that stands in the bytes of a file, by its own word for its seal: where the
    /// segment's head is damaged, its blocks tell the salt.
    pub(super) fn unsealed(bytes: &[u8; HEADER_BYTES]) -> Option<(Self, Seal)> {
        let seal = Seal { journal: u64_at(bytes, 16), salt: u64_at(bytes, SALT_AT) };
        Some((Self::decode(bytes, seal)?, seal))
    }

    /// Who sent it, from the bytes of the whole block.
    pub(super) fn origin(&self, block: &[u8]) -> Origin {
        let name = |flag: u8, from: usize, len: usize| {
            (self.flags & flag != 0).then(|| Arc::from(String::from_utf8_lossy(&block[from..from + len])))
        };
        Origin {
            producer: name(HAS_PRODUCER, HEADER_BYTES, self.producer_len),
            peer: name(HAS_PEER, HEADER_BYTES + self.producer_len, self.peer_len),
        }
    }

    /// The block, from its bytes.
    pub(super) fn to_block(&self, block: &[u8]) -> Block {
        let start = self.payload_start();
        let bytes = || Arc::new(block[start..start + self.payload_len].to_vec());
        let payload = match self.kind {
            OVERLONG => Payload::Overlong { head: bytes(), len: self.detail },
            TICK => Payload::Tick { silence_ms: self.detail as u32 },
            BODY => Payload::Body { lines: bytes(), max_line: self.detail },
            REPLAY => Payload::Replay { letters: bytes(), revision: self.detail },
            LOST => Payload::Lost,
            _ => Payload::Lines(bytes()),
        };
        Block {
            range: self.range,
            ingest_time: self.ingest_time,
            events: self.events,
            origin: self.origin(block),
            producer_number: self.producer_number,
            payload,
        }
    }

    fn payload_start(&self) -> usize {
        HEADER_BYTES + self.producer_len + self.peer_len
    }
}

/// CRC-32C of two pieces that follow one another.
pub(super) fn crc_of(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(payload);
    digest.finalize() as u32
}

/// The little-endian number at an offset.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

/// Names are bounded far below this at the edge; the length's two bytes must hold whatever comes.
fn truncated(name: Option<&str>) -> &[u8] {
    let bytes = name.unwrap_or_default().as_bytes();
    &bytes[..bytes.len().min(usize::from(u16::MAX))]
}

fn name_len(name: Option<&str>) -> usize {
    truncated(name).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEAL: Seal = Seal { journal: 7, salt: 9 };

    fn block(payload: Payload, producer: Option<&str>) -> Block {
        Block {
            range: PositionRange { after: 10, upto: 12 },
            ingest_time: -5,
            events: 11,
            origin: Origin { producer: producer.map(Arc::from), peer: Some(Arc::from("")) },
            producer_number: 3,
            payload,
        }
    }

    fn bytes(block: &Block) -> Vec<u8> {
        let mut out = Vec::new();
        encode_header(block, SEAL, 8, &mut out);
        out.extend_from_slice(payload_bytes(&block.payload));
        out.resize(out.len().next_multiple_of(8), 0);
        out
    }

    #[test]
    fn every_kind_of_block_is_read_as_it_was_written() {
        let payloads = [
            Payload::Lines(Arc::new(b"a\nb\n".to_vec())),
            Payload::Overlong { head: Arc::new(vec![1; 100]), len: u64::MAX },
            Payload::Tick { silence_ms: u32::MAX },
            Payload::Body { lines: Arc::new(b"a\nb".to_vec()), max_line: 1 << 40 },
            Payload::Replay { letters: Arc::new(vec![7; 9]), revision: 3 },
            Payload::Lost,
        ];
        for payload in payloads {
            for producer in [None, Some(""), Some("röhre/1")] {
                let block = block(payload.clone(), producer);
                let bytes = bytes(&block);
                assert_eq!(bytes.len() as u64, block_bytes(&block));
                let header = Header::decode(bytes.first_chunk().unwrap(), SEAL).unwrap();
                assert_eq!((header.block_bytes(), header.synced), (bytes.len(), 8));
                assert!(header.intact(&bytes));
                assert_eq!(header.to_block(&bytes), block);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_seen_wherever_it_is() {
        let block = block(Payload::Lines(Arc::new(b"hello\nyou\n".to_vec())), Some("p"));
        let good = bytes(&block);
        let end = HEADER_BYTES + 1 + 10;
        for bit in 0..end * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let header = Header::decode(bytes.first_chunk().unwrap(), SEAL);
            let whole = header.filter(|header| header.block_bytes() <= bytes.len());
            assert!(!whole.is_some_and(|header| header.intact(&bytes)), "bit {bit}");
        }
    }

    #[test]
    fn a_block_of_another_journal_or_another_life_of_the_segment_is_none() {
        let bytes = bytes(&block(Payload::Tick { silence_ms: 1 }, None));
        let fixed = bytes.first_chunk().unwrap();
        assert!(Header::decode(fixed, SEAL).is_some());
        assert!(Header::decode(fixed, Seal { journal: 8, ..SEAL }).is_none());
        assert!(Header::decode(fixed, Seal { salt: 8, ..SEAL }).is_none());
    }
}
