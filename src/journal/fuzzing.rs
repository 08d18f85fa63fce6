//! A journal's bytes by themselves, for `fuzz/`: in no other build.

use super::Block;
use super::block::{HEADER_BYTES, Header, Seal, crc_of, encode_header, payload_bytes};
use super::segment::NewSegment;
use super::tail::Tail;
use crate::event::Position;

/// A journal's identity, a segment's salt.
const SEAL: Seal = Seal { journal: 7, salt: 9 };

/// The bytes of a block, padding included.
pub fn encode(block: &Block, synced: Position) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(block, SEAL, synced, &mut bytes);
    bytes.extend_from_slice(payload_bytes(&block.payload));
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// The block that the bytes begin with, and how many are its.
pub fn decode(bytes: &[u8]) -> Option<(Block, usize)> {
    let header = Header::decode(bytes.first_chunk::<HEADER_BYTES>()?, SEAL)?;
    let block = bytes.get(..header.block_bytes())?;
    header.intact(block).then(|| (header.to_block(block), block.len()))
}

/// What a segment begins with, where each of these producers has sent one line.
pub fn head(first: Position, previous: Position, producers: &[&str]) -> Vec<u8> {
    let mut tail = Tail::default();
    for name in producers {
        tail.take(1, 0, Some((&(*name).into(), 1)));
    }
    let dir = "".as_ref();
    NewSegment { dir, journal: SEAL.journal, first, previous, tail: &tail, size: 0, block: 0, recycle: false }
        .encode(SEAL)
}

/// Makes the first bytes good again after a change, so that what is behind their CRC is reached.
pub fn seal(bytes: &mut [u8], len: usize) {
    if let Some(bytes) = bytes.get_mut(..len).filter(|bytes| bytes.len() > 8) {
        let crc = crc_of(&bytes[8..], &[]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    }
}
