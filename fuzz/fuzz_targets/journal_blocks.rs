//! A journal's files: what was written is read, what was changed is not; whatever is in a file, it is looked through,
//! repaired and opened, or refused.

#![no_main]

use std::path::Path;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use tidemill::clock::Clock;
use tidemill::event::{Format, Origin, PositionRange, Replay};
use tidemill::journal::fuzzing::{decode, encode, head, seal};
use tidemill::journal::{Block, Journal, JournalOptions, Payload, inspect, repair};

#[derive(Arbitrary, Debug)]
struct File<'a> {
    raw: &'a [u8],
    blocks: Vec<Piece<'a>>,
    producers: Vec<&'a str>,
    damage: Vec<(u16, u8)>,
    /// Blocks and heads whose CRCs are made good after the damage.
    sealed: u8,
    cut: Option<u16>,
    /// Of two segments, where the second begins.
    second: Option<u8>,
    on_disk: bool,
}

#[derive(Arbitrary, Debug)]
struct Piece<'a> {
    kind: u8,
    records: u8,
    producer: Option<&'a str>,
    replays: bool,
    peer: Option<&'a str>,
    number: u64,
    ingest_time: i64,
    synced: bool,
    detail: u64,
    bytes: &'a [u8],
}

fuzz_target!(|file: File<'_>| {
    // Arbitrary bytes, as they are and with the CRC that they should have.
    let _ = decode(file.raw);
    let mut raw = [&encode(&tick(), 0)[..32], file.raw].concat();
    let len = raw.len();
    seal(&mut raw, len);
    read(&raw);

    let blocks = blocks(&file.blocks);
    for (block, piece) in blocks.iter().zip(&file.blocks) {
        round_trip(block, piece, &file.damage);
    }
    if file.on_disk && !blocks.is_empty() {
        on_disk(&file, &blocks);
    }
});

fn tick() -> Block {
    let (range, payload) = (PositionRange::behind(0, 1), Payload::Tick { silence_ms: 1 });
    Block { range, ingest_time: 0, events: 0, origin: Origin::default(), producer_number: 0, payload }
}

/// What follows from a block that was read.
fn read(bytes: &[u8]) {
    let Some((block, len)) = decode(bytes) else { return };
    assert!(len <= bytes.len() && block.range.count() > 0);
    if let Payload::Replay { letters, revision } = &block.payload {
        let name = block.origin.producer.as_deref().unwrap_or("@replay/p");
        if let Some(replay) = Replay::decode(name, *revision, letters) {
            assert_eq!(replay.encode(), **letters);
        }
    }
}

fn blocks(pieces: &[Piece<'_>]) -> Vec<Block> {
    let mut after = 0;
    let block = |piece: &Piece<'_>| {
        let range = PositionRange::behind(after, u64::from(piece.records) + 1);
        after = range.upto;
        let bytes = Arc::new(piece.bytes.to_vec());
        let payload = match piece.kind % 6 {
            0 => Payload::Lines(bytes),
            1 => Payload::Overlong { head: bytes, len: piece.detail },
            2 => Payload::Body { lines: bytes, max_line: piece.detail },
            3 => Payload::Replay { letters: bytes, revision: piece.detail },
            4 => Payload::Tick { silence_ms: piece.detail as u32 },
            _ => Payload::Lost,
        };
        let producer =
            piece.producer.map(|name| if piece.replays { format!("@replay/{name}") } else { name.to_owned() });
        let origin = Origin { producer: producer.map(Arc::from), peer: piece.peer.map(Arc::from) };
        let events = range.upto;
        Block { range, ingest_time: piece.ingest_time, events, origin, producer_number: piece.number, payload }
    };
    pieces.iter().take(6).map(block).collect()
}

fn synced(block: &Block, piece: &Piece<'_>) -> u64 {
    if piece.synced { block.range.after } else { 0 }
}

fn round_trip(block: &Block, piece: &Piece<'_>, damage: &[(u16, u8)]) {
    let good = encode(block, synced(block, piece));
    assert_eq!(decode(&good), Some((block.clone(), good.len())));
    assert_eq!(decode(&good[..good.len() - 1]), None);
    read(&good);
    for (at, change) in damage {
        let mut bytes = good.clone();
        let at = usize::from(*at) % bytes.len();
        bytes[at] ^= change;
        // Padding is nobody's.
        assert!(decode(&bytes).is_none_or(|(read, _)| read == *block), "byte {at} of {block:?}");
        let len = bytes.len();
        for len in len - 7..=len {
            seal(&mut bytes, len);
            read(&bytes);
        }
    }
}

/// Segments with damage: what can be read again after a repair is what was written.
fn on_disk(file: &File<'_>, blocks: &[Block]) {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a folder, best in memory");
    let mut damage = file.damage.iter().cycle().take(file.damage.len().min(8) * 2);
    let mut forged = false;
    let split = file.second.map_or(blocks.len(), |second| usize::from(second) % blocks.len());
    for (index, part) in
        [&blocks[..split], &blocks[split..]].into_iter().enumerate().filter(|(_, part)| !part.is_empty())
    {
        let first = part[0].range.after + 1;
        let previous = if index == 1 && split > 0 { 1 } else { 0 };
        let mut bytes = head(first, previous, &file.producers);
        for (block, piece) in part.iter().zip(&file.blocks[if index == 1 { split } else { 0 }..]) {
            let mut encoded = encode(block, synced(block, piece));
            if file.sealed & 1 != 0
                && let Some((at, change)) = damage.next()
            {
                let at = usize::from(*at) % encoded.len();
                encoded[at] ^= change;
                let len = encoded.len();
                seal(&mut encoded, len - usize::from(file.sealed >> 5));
                forged = true;
            }
            bytes.extend_from_slice(&encoded);
        }
        if let Some((at, change)) = damage.next() {
            let head = file.sealed & 2 != 0;
            let len = if head { 128 } else { bytes.len() };
            bytes[usize::from(*at) % len] ^= change;
            if head {
                seal(&mut bytes, 128);
                forged = true;
            }
        }
        if let Some(cut) = file.cut.filter(|_| file.sealed & 4 != 0) {
            bytes.truncate(bytes.len().saturating_sub(usize::from(cut)));
        }
        std::fs::write(folder.path().join(format!("{first:020}.seg")), bytes).expect("a file");
    }
    look_and_repair(folder.path(), blocks, forged);
}

fn look_and_repair(dir: &Path, blocks: &[Block], forged: bool) {
    let Ok(Some(_)) = inspect(dir, Format::Ndjson) else { return };
    if repair(dir, Format::Ndjson).is_err() {
        return;
    }
    // A head or a block that somebody made with the right CRC may say what it likes.
    if forged {
        let _ = inspect(dir, Format::Ndjson);
        if let Ok(journal) = Journal::open(options(dir), Clock::system()) {
            let mut reader = journal.reader(0);
            while let Ok(Some(_)) = reader.next() {}
        }
        return;
    }
    let inspection = inspect(dir, Format::Ndjson).expect("it was repaired").expect("it is there");
    assert_eq!(inspection.damage, []);
    let journal = Journal::open(options(dir), Clock::system()).expect("it was repaired");
    let mut reader = journal.reader(inspection.first - 1);
    let mut upto = inspection.first - 1;
    while let Some(block) = reader.next().expect("it was repaired") {
        assert_eq!(block.range.after, upto);
        upto = block.range.upto;
        assert!(block.payload == Payload::Lost || blocks.contains(&block), "{block:?}");
    }
    assert_eq!(upto, inspection.upto);
}

fn options(dir: &Path) -> JournalOptions {
    JournalOptions {
        dir: dir.to_owned(),
        fsync: false,
        limit_bytes: 8 << 20,
        keep_ms: 0,
        min_free_bytes: 0,
        sync: Arc::new(|_| Ok(())),
    }
}
