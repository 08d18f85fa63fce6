//! A segment: a file named after its first position, with a head that makes all segments before it dispensable.
//!
//! ```text
//!  0 magic   4 crc (of 8..128)   8 format (u16)   16 journal   24 salt   32 first   40 previous segment's first
//! 48 ingest time   56 events   64 table's length   72 table's crc   80 zeros   128 table of producers
//! ```
//!
//! Blocks begin at the next multiple of 4 KiB. A segment gets its name only when its head is fsynced, and only after
//! all of the segment before is: so a bad head, a hole between segments, or a bad block in any but the last is damage.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::JournalError;
use super::block::{Seal, crc_of, u64_at};
use super::file::{PAGE, PageFile, sync_dir};
use super::tail::Tail;
use crate::event::Position;

/// The format that this version writes. The layout of a head's first 16 bytes, and what its CRC covers, stay as they
/// are in all formats, so that an older version can tell a newer format from damage.
const FORMAT: u16 = 1;
const MAGIC: u32 = u32::from_le_bytes(*b"TMsg");
const FIXED_BYTES: usize = 128;
const NO_TIME: i64 = i64::MIN;
/// A deleted segment's file that waits for its next life.
const SPARE: &str = "spare";
/// A segment whose head is not durable yet.
const UNFINISHED: &str = "next.tmp";

/// What a segment's head says, but for the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub seal: Seal,
    /// The position of its first record.
    pub first: Position,
    /// The same of the segment before; 0 where there is none.
    pub previous: Position,
    pub last_ingest_time: Option<i64>,
    pub events: u64,
    table_len: usize,
    table_crc: u32,
}

/// The path of a segment.
pub(super) fn segment_path(dir: &Path, first: Position) -> PathBuf {
    dir.join(format!("{first:020}.seg"))
}

/// The path of the spare.
pub(super) fn spare_path(dir: &Path) -> PathBuf {
    dir.join(SPARE)
}

/// First positions of all segments in a folder, ascending.
pub(super) fn list(dir: &Path) -> io::Result<Vec<Position>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".seg")).filter(|digits| digits.len() == 20);
        found.extend(digits.and_then(|digits| digits.parse::<Position>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Proves that files can be made in the folder, and throws away what an earlier run did not finish.
pub(super) fn prove_writable(dir: &Path) -> io::Result<()> {
    let path = dir.join(UNFINISHED);
    File::create(&path)?;
    fs::remove_file(&path)
}

/// A random number, never 0, from the operating system's entropy: nobody can guess a salt.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish().max(1)
}

/// What a new segment begins with.
pub(super) struct NewSegment<'a> {
    pub dir: &'a Path,
    pub journal: u64,
    pub first: Position,
    pub previous: Position,
    pub tail: &'a Tail,
    /// Its size, unless head and first block need more.
    pub size: u64,
    /// Bytes of its first block.
    pub block: u64,
    /// Whether there is a spare to make it of.
    pub recycle: bool,
}

impl NewSegment<'_> {
    /// Makes the segment: its head is durable, and blocks can follow.
    ///
    /// # Errors
    /// As the file system says; nothing but an unfinished file or the spare is left then, and it can be tried again.
    pub(super) fn create(&self, sync: &dyn Fn(&File) -> io::Result<()>) -> io::Result<(Seal, PageFile)> {
        let seal = Seal { journal: self.journal, salt: random() };
        let head = self.encode(seal);
        let size = self.size.max(head.len() as u64 * 4).max(head.len() as u64 + self.block);
        let path = if self.recycle { spare_path(self.dir) } else { self.dir.join(UNFINISHED) };
        let made = fill(&path, size.next_multiple_of(PAGE as u64), &head).and_then(|file| {
            sync(file.file())?;
            fs::rename(&path, segment_path(self.dir, self.first))?;
            sync_dir(self.dir)?;
            Ok(file)
        });
        if made.is_err() && !self.recycle {
            // Its space may be what is missing. Where even this fails, the next start removes it.
            let _ = fs::remove_file(&path);
        }
        Ok((seal, made?))
    }

    /// The bytes of the head, up to the first block.
    pub(super) fn encode(&self, seal: Seal) -> Vec<u8> {
        let table = self.tail.encode_producers();
        let mut head = vec![0; FIXED_BYTES];
        head[..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[8..10].copy_from_slice(&FORMAT.to_le_bytes());
        let numbers = [
            seal.journal,
            seal.salt,
            self.first,
            self.previous,
            self.tail.last_ingest_time.unwrap_or(NO_TIME) as u64,
            self.tail.events,
            table.len() as u64,
            u64::from(crc_of(&table, &[])),
        ];
        for (index, number) in numbers.into_iter().enumerate() {
            head[16 + index * 8..24 + index * 8].copy_from_slice(&number.to_le_bytes());
        }
        let crc = crc_of(&head[8..], &[]);
        head[4..8].copy_from_slice(&crc.to_le_bytes());
        head.extend_from_slice(&table);
        head.resize(head.len().next_multiple_of(PAGE), 0);
        head
    }
}

/// Writes the head of a file that is a segment as soon as it is synced and has its name.
fn fill(path: &Path, size: u64, head: &[u8]) -> io::Result<PageFile> {
    let mut file = PageFile::create(path, size)?;
    let mut rest = head;
    while !rest.is_empty() {
        rest = &rest[file.stage(rest)..];
        file.write()?;
    }
    Ok(file)
}

impl Head {
    /// Reads and checks a head, without its table.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or newer than this version.
    pub(super) fn read(file: &File, path: &Path, first: Position) -> Result<Self, JournalError> {
        let damaged = || JournalError::Damaged { path: path.to_owned(), from: first };
        let mut bytes = [0; FIXED_BYTES];
        match file.read_exact_at(&mut bytes, 0) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged()),
            result => result.map_err(JournalError::at(path))?,
        }
        if bytes[..4] != MAGIC.to_le_bytes() || bytes[4..8] != crc_of(&bytes[8..], &[]).to_le_bytes() {
            return Err(damaged());
        }
        let format = u16::from_le_bytes([bytes[8], bytes[9]]);
        if format != FORMAT {
            return Err(JournalError::Newer { path: path.to_owned(), found: format });
        }
        let number = |index: usize| u64_at(&bytes, 16 + index * 8);
        let head = Self {
            seal: Seal { journal: number(0), salt: number(1) },
            first: number(2),
            previous: number(3),
            last_ingest_time: Some(number(4) as i64).filter(|time| *time != NO_TIME),
            events: number(5),
            table_len: usize::try_from(number(6))
                .ok()
                .filter(|len| *len <= isize::MAX as usize / 2)
                .ok_or_else(damaged)?,
            table_crc: number(7) as u32,
        };
        if head.first == first { Ok(head) } else { Err(damaged()) }
    }

    /// What stands in for a head that is damaged, as far as the rest tells it.
    pub(super) fn stand_in(seal: Seal, first: Position, previous: Position) -> Self {
        Self { seal, first, previous, last_ingest_time: None, events: 0, table_len: 0, table_crc: 0 }
    }

    /// Where its first block begins.
    pub(super) fn blocks_at(&self) -> u64 {
        (FIXED_BYTES + self.table_len).next_multiple_of(PAGE) as u64
    }

    /// What the journal knew when the segment began.
    ///
    /// # Errors
    /// Where the table cannot be read or is damaged.
    pub(super) fn tail(&self, file: &File, path: &Path) -> Result<Tail, JournalError> {
        // A table that the file has no room for is not there, however long it says it is.
        let there = file.metadata().is_ok_and(|file| file.len() >= (FIXED_BYTES + self.table_len) as u64);
        let mut table = vec![0; if there { self.table_len } else { 0 }];
        let read = file.read_exact_at(&mut table, FIXED_BYTES as u64);
        let intact = there && read.is_ok() && crc_of(&table, &[]) == self.table_crc;
        let producers = intact.then(|| Tail::decode_producers(&table)).flatten();
        let Some(producers) = producers else {
            return Err(JournalError::Damaged { path: path.to_owned(), from: self.first });
        };
        Ok(Tail { events: self.events, last_ingest_time: self.last_ingest_time, producers })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn make(dir: &Path, producers: usize) -> (Seal, Tail) {
        let mut tail = Tail::default();
        for number in 0..producers {
            tail.take(number as u64, 5, Some((&Arc::from(format!("producer-{number}")), number as u64)));
        }
        let new =
            NewSegment { dir, journal: 3, first: 7, previous: 2, tail: &tail, size: 1 << 20, block: 0, recycle: false };
        let (seal, _) = new.create(&File::sync_data).unwrap();
        (seal, tail)
    }

    #[test]
    fn a_head_gives_back_what_the_journal_knew() {
        let dir = tempfile::tempdir().unwrap();
        for producers in [0, 1, 10_000] {
            let (seal, tail) = make(dir.path(), producers);
            assert_eq!(list(dir.path()).unwrap(), [7]);
            let path = segment_path(dir.path(), 7);
            let file = File::open(&path).unwrap();
            let head = Head::read(&file, &path, 7).unwrap();
            assert_eq!((head.seal, head.first, head.previous), (seal, 7, 2));
            assert_eq!(head.tail(&file, &path).unwrap(), tail);
            assert!(head.blocks_at() as usize >= FIXED_BYTES + producers * 24 && head.blocks_at().is_multiple_of(4096));
        }
    }

    #[test]
    fn a_damaged_head_is_refused_and_a_newer_one_named() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), 3);
        let path = segment_path(dir.path(), 7);
        let good = fs::read(&path).unwrap();
        let read = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let file = File::open(&path).unwrap();
            Head::read(&file, &path, 7).and_then(|head| head.tail(&file, &path))
        };
        for at in 0..FIXED_BYTES + 3 * 24 {
            let mut bytes = good.clone();
            bytes[at] ^= 4;
            assert!(matches!(read(&bytes), Err(JournalError::Damaged { from: 7, .. })), "byte {at}");
        }
        assert!(matches!(read(&good[..100]), Err(JournalError::Damaged { .. })));
        for len in [1 << 40, u64::MAX] {
            let mut long = good.clone();
            long[64..72].copy_from_slice(&u64::to_le_bytes(len));
            let crc = crc_of(&long[8..FIXED_BYTES], &[]);
            long[4..8].copy_from_slice(&crc.to_le_bytes());
            assert!(matches!(read(&long), Err(JournalError::Damaged { .. })), "a table of {len} bytes");
        }
        let mut newer = good;
        newer[8] = 2;
        let crc = crc_of(&newer[8..FIXED_BYTES], &[]);
        newer[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(read(&newer), Err(JournalError::Newer { found: 2, .. })));
    }
}
