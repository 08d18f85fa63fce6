//! Opens the files of a journal: checks that no segment is missing, cuts a torn tail, refuses damage before it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use memchr::memmem;

use super::block::{Header, SALT_AT, Seal};
use super::file::{PAGE, PageFile, sync_dir};
use super::scan::Scan;
use super::segment::{Head, NewSegment, list, prove_writable, random, segment_path, spare_path};
use super::tail::Tail;
use super::{JournalError, JournalOptions};
use crate::event::Position;
use crate::moments::is_sabotaged;

/// Bytes that are searched, or compared with zeros, at once.
const CHUNK_BYTES: usize = 1024 * 1024;

/// A segment that is written no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub first: Position,
    pub upto: Position,
    pub bytes: u64,
    /// Ingest time of its last block.
    pub last_ingest_time: i64,
}

/// The segment that is written.
pub(super) struct Current {
    pub seal: Seal,
    pub first: Position,
    pub file: PageFile,
}

/// A journal's files as they are after opening: all that they hold is written and fsynced.
pub(super) struct Recovered {
    pub id: u64,
    pub closed: VecDeque<Closed>,
    pub current: Current,
    pub written: Position,
    pub tail: Tail,
    /// The spare's size, where there is one.
    pub spare: Option<u64>,
}

/// Opens the journal in a folder that exists, or makes one there.
pub(super) fn recover(options: &JournalOptions, segment_bytes: u64) -> Result<Recovered, JournalError> {
    let dir = options.dir.as_path();
    let at_dir = JournalError::at(dir);
    prove_writable(dir).map_err(&at_dir)?;
    let spare = std::fs::metadata(spare_path(dir)).ok().map(|spare| spare.len());
    let mut recovered = match list(dir).map_err(&at_dir)?.as_slice() {
        [] => begin(options, segment_bytes)?,
        [old @ .., last] => {
            let closed = read_heads(dir, old, *last)?;
            resume(dir, closed, *last)?
        }
    };
    recovered.spare = spare;
    let path = segment_path(dir, recovered.current.first);
    (options.sync)(recovered.current.file.file()).map_err(JournalError::at(&path))?;
    sync_dir(dir).map_err(&at_dir)?;
    Ok(recovered)
}

/// A new journal.
fn begin(options: &JournalOptions, size: u64) -> Result<Recovered, JournalError> {
    let (id, tail) = (random(), Tail::default());
    let new = NewSegment {
        dir: &options.dir,
        journal: id,
        first: 1,
        previous: 0,
        tail: &tail,
        size,
        block: 0,
        recycle: false,
    };
    let (seal, file) = new.create(&*options.sync).map_err(JournalError::at(&options.dir))?;
    let current = Current { seal, first: 1, file };
    Ok(Recovered { id, closed: VecDeque::new(), current, written: 0, tail, spare: None })
}

/// Checks that all segments before the last follow one another. Their blocks are checked when they are read: all were
/// fsynced before the next segment began.
fn read_heads(dir: &Path, old: &[Position], last: Position) -> Result<VecDeque<Closed>, JournalError> {
    let mut closed: VecDeque<Closed> = VecDeque::new();
    let mut previous: Option<Head> = None;
    for first in old.iter().copied().chain([last]) {
        let path = segment_path(dir, first);
        let file = File::open(&path).map_err(JournalError::at(&path))?;
        let head = Head::read(&file, &path, first)?;
        if let Some(previous) = previous {
            if head.previous != previous.first || head.seal.journal != previous.seal.journal {
                let from = walk(&mut Scan::open(dir, previous.first)?, |_, _| ())? + 1;
                return Err(JournalError::Damaged { path, from });
            }
            let bytes = std::fs::metadata(segment_path(dir, previous.first)).map_err(JournalError::at(&path))?.len();
            // A segment that has a next one has a block, and so its next one has a time.
            let last_ingest_time = head.last_ingest_time.unwrap_or(i64::MIN);
            closed.push_back(Closed { first: previous.first, upto: first - 1, bytes, last_ingest_time });
        }
        previous = Some(head);
    }
    Ok(closed)
}

/// Finds the end of the last segment, and makes it ready to be written on.
fn resume(dir: &Path, closed: VecDeque<Closed>, last: Position) -> Result<Recovered, JournalError> {
    let mut scan = Scan::open(dir, last)?;
    let mut tail = scan.head.tail(&scan.file, &scan.path)?;
    let written = walk(&mut scan, |header, block| {
        let origin = header.origin(block);
        let producer = origin.producer.as_ref().map(|name| (name, header.producer_number));
        let producer = producer.filter(|_| !is_sabotaged("numbers-in-heads-only"));
        tail.take(header.events, header.ingest_time, producer);
    })?;
    let end = scan.at();
    cut(&mut scan, end, written)?;
    let file = PageFile::resume(&scan.path, end).map_err(JournalError::at(&scan.path))?;
    let current = Current { seal: scan.head.seal, first: last, file };
    Ok(Recovered { id: scan.head.seal.journal, closed, current, written, tail, spare: None })
}

/// Goes through a segment's blocks as far as they are good, and says with which position that ends.
pub(super) fn walk(scan: &mut Scan, mut each: impl FnMut(&Header, &[u8])) -> Result<Position, JournalError> {
    let mut upto = scan.head.first - 1;
    while let Some((header, block)) = scan.peek()? {
        if header.range.after != upto {
            break;
        }
        each(&header, block);
        upto = header.range.upto;
        scan.skip(&header);
    }
    Ok(upto)
}

/// Makes sure that nothing behind the end is ever taken for a block again: what is torn goes, unless a block there says
/// that it was fsynced.
fn cut(scan: &mut Scan, end: u64, written: Position) -> Result<(), JournalError> {
    let mut torn = false;
    for at in seals(&scan.file, end, scan.head.seal.salt).map_err(JournalError::at(&scan.path))? {
        torn = true;
        scan.seek(at);
        let witness = |header: &Header| header.range.after >= written && header.synced > written;
        if scan.peek()?.is_some_and(|(header, _)| witness(&header)) {
            return Err(JournalError::Damaged { path: scan.path.clone(), from: written + 1 });
        }
    }
    if torn {
        log::warn!("{}: cut off a torn end behind position {written}", scan.path.display());
        erase(&scan.path, end).map_err(JournalError::at(&scan.path))?;
    }
    Ok(())
}

/// Where headers of this segment may stand from an offset on, whole or not.
pub(super) fn seals(file: &File, from: u64, salt: u64) -> io::Result<Vec<u64>> {
    let salt = salt.to_le_bytes();
    let finder = memmem::Finder::new(&salt);
    let mut found = Vec::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = from;
    loop {
        let count = read_up_to(file, &mut chunk, at)?;
        let salts = finder.find_iter(&chunk[..count]).map(|hit| at + hit as u64);
        found.extend(salts.filter_map(|salt| salt.checked_sub(SALT_AT as u64)).filter(|at| *at >= from && at % 8 == 0));
        if count < chunk.len() {
            return Ok(found);
        }
        at += (count - (salt.len() - 1)) as u64;
    }
}

/// Writes zeros over all that is not zero from an offset on.
fn erase(path: &Path, from: u64) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let zeros = vec![0; CHUNK_BYTES];
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut at = from;
    loop {
        let count = read_up_to(&file, &mut chunk, at)?;
        if chunk[..count] != zeros[..count] {
            file.write_all_at(&zeros[..count], at)?;
        }
        at += count as u64;
        if count < chunk.len() {
            return file.sync_data();
        }
    }
}

/// Reads a whole buffer, or up to the end of the file.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Segment size for a journal of a limit: an eighth, so that old lines can go in pieces, within what is handy.
pub(super) fn segment_bytes(limit: u64) -> u64 {
    (limit / 8).clamp(1024 * 1024, 64 * 1024 * 1024).next_multiple_of(PAGE as u64)
}
