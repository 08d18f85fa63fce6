//! A segment's file as it is written: whole pages, past the page cache where the file system allows it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, OFlags, fallocate, fcntl_getfl, fcntl_setfl};

/// The unit of writing: what `O_DIRECT` asks of memory, offset and length on every common device.
pub(super) const PAGE: usize = 4096;
/// Bytes that are staged for one write at most. Four times as much measured no faster, and each journal holds this much.
const STAGING_BYTES: u64 = 1024 * 1024;

/// A file, and the bytes that are to be written to it next. The last page is written padded with zeros, stays staged,
/// and is written again with more in it; bytes that were written never change.
pub(super) struct PageFile {
    file: File,
    direct: bool,
    size: u64,
    /// Where the staged bytes belong; a multiple of [`PAGE`].
    offset: u64,
    staged: usize,
    /// How many of the staged bytes are in the file, too.
    written: usize,
    staging: Staging,
}

impl PageFile {
    /// A file of `size` bytes, made or reused, from its beginning.
    pub(super) fn create(path: &Path, size: u64) -> io::Result<Self> {
        let file = open(path, true)?;
        reserve(&file, size)?;
        Self::from(file, size)
    }

    /// A file that ends at `end`, to go on there. What stands behind in that page is lost with the next write.
    pub(super) fn resume(path: &Path, end: u64) -> io::Result<Self> {
        let file = open(path, false)?;
        let size = file.metadata()?.len().max(end).next_multiple_of(PAGE as u64);
        file.set_len(size)?;
        let mut resumed = Self::from(file, size)?;
        resumed.offset = end - end % PAGE as u64;
        resumed.staged = (end - resumed.offset) as usize;
        resumed.written = resumed.staged;
        if resumed.staged > 0 {
            let Self { file, staging, offset, .. } = &mut resumed;
            file.read_exact_at(&mut staging.bytes()[..PAGE], *offset)?;
        }
        Ok(resumed)
    }

    fn from(file: File, size: u64) -> io::Result<Self> {
        let direct = set_direct(&file, true).is_ok();
        let staging = Staging::new(size.min(STAGING_BYTES).next_multiple_of(PAGE as u64) as usize);
        Ok(Self { file, direct, size, offset: 0, staged: 0, written: 0, staging })
    }

    /// Stages as many of the bytes as there is room for, and says how many.
    pub(super) fn stage(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.staging.bytes()[self.staged..];
        let count = bytes.len().min(room.len());
        room[..count].copy_from_slice(&bytes[..count]);
        self.staged += count;
        count
    }

    /// Whether a write must come before more can be staged.
    pub(super) fn is_full(&self) -> bool {
        self.staged == self.staging.len
    }

    /// Where the next staged byte will stand.
    pub(super) fn end(&self) -> u64 {
        self.offset + self.staged as u64
    }

    /// Bytes that fit behind the end.
    pub(super) fn room(&self) -> u64 {
        self.size.saturating_sub(self.end())
    }

    /// Whether it is written past the page cache.
    pub(super) fn direct(&self) -> bool {
        self.direct
    }

    /// The file, to sync it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Writes all that is staged. After an error nothing has changed, so that it can be called again.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.written == self.staged {
            return Ok(());
        }
        let padded = self.staged.next_multiple_of(PAGE);
        let pages = &mut self.staging.bytes()[..padded];
        pages[self.staged..].fill(0);
        match self.file.write_all_at(pages, self.offset) {
            // Some file systems take the flag and refuse the write.
            Err(error) if self.direct && error.kind() == io::ErrorKind::InvalidInput => {
                set_direct(&self.file, false)?;
                self.direct = false;
                self.file.write_all_at(pages, self.offset)?;
            }
            result => result?,
        }
        let whole = self.staged - self.staged % PAGE;
        pages.copy_within(whole..self.staged, 0);
        self.offset += whole as u64;
        self.staged -= whole;
        self.written = self.staged;
        Ok(())
    }

    /// Gives back what was reserved behind the end.
    pub(super) fn truncate(&mut self) -> io::Result<u64> {
        self.size = self.end().next_multiple_of(PAGE as u64);
        self.file.set_len(self.size)?;
        Ok(self.size)
    }
}

/// Memory that begins at a multiple of [`PAGE`], by taking a page more than it needs.
struct Staging {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Staging {
    fn new(len: usize) -> Self {
        let memory = vec![0; len + PAGE];
        let start = memory.as_ptr().align_offset(PAGE);
        Self { memory, start, len }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

fn open(path: &Path, create: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)
}

/// Takes the space now: overwriting it needs no new metadata, and a full disk shows here.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    if file.metadata()?.len() > size {
        file.set_len(size)?;
    }
    match fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => file.set_len(size),
        Err(error) => Err(error.into()),
    }
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::DIRECT, direct);
    Ok(fcntl_setfl(file, flags)?)
}

/// Makes names that were given, changed or taken away in a folder durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Whether the error says that the disk (or a quota) is used up.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_length_stand_one_behind_another_and_zeros_follow() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let mut file = PageFile::create(&path, 5 << 20).unwrap();
        let mut expected = Vec::new();
        for (index, len) in [1, 4095, 4096, 4097, 3 << 20, 0, 77].into_iter().enumerate() {
            let piece = vec![index as u8 + 1; len];
            let mut rest = &piece[..];
            while !rest.is_empty() {
                rest = &rest[file.stage(rest)..];
                if file.is_full() {
                    file.write().unwrap();
                }
            }
            expected.extend_from_slice(&piece);
            file.write().unwrap();
            assert_eq!(file.end(), expected.len() as u64);
        }
        drop(file);
        // Goes on in the middle of a page, as after a restart.
        let mut file = PageFile::resume(&path, expected.len() as u64).unwrap();
        file.stage(b"more");
        file.write().unwrap();
        expected.extend_from_slice(b"more");
        let found = std::fs::read(&path).unwrap();
        assert_eq!(found.len(), 5 << 20);
        assert!(found[..expected.len()] == expected[..]);
        assert!(found[expected.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(file.truncate().unwrap(), std::fs::metadata(&path).unwrap().len());
        assert!(std::fs::read(&path).unwrap()[..expected.len()] == expected[..]);
    }
}
