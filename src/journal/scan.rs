//! Walks through the blocks of one segment, checking each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::JournalError;
use super::block::{HEADER_BYTES, Header, Seal};
use super::segment::{Head, segment_path};
use crate::event::Position;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 256 * 1024;

/// A segment that is read from its beginning. Holds a chunk, or one block where that is longer.
pub(super) struct Scan {
    pub path: PathBuf,
    pub file: File,
    pub head: Head,
    /// Where `buffer` stands in the file.
    offset: u64,
    buffer: Vec<u8>,
    /// Where the next block begins in `buffer`.
    next: usize,
}

impl Scan {
    /// Opens a segment and checks its head.
    ///
    /// # Errors
    /// Where it cannot be read, is damaged, or newer than this version.
    pub(super) fn open(dir: &Path, first: Position) -> Result<Self, JournalError> {
        let path = segment_path(dir, first);
        let file = File::open(&path).map_err(JournalError::at(&path))?;
        let head = Head::read(&file, &path, first)?;
        let offset = head.blocks_at();
        Ok(Self { path, file, head, offset, buffer: Vec::new(), next: 0 })
    }

    /// A segment whose head is damaged, from an offset on.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub(super) fn without_head(path: PathBuf, head: Head, offset: u64) -> Result<Self, JournalError> {
        let file = File::open(&path).map_err(JournalError::at(&path))?;
        Ok(Self { path, file, head, offset, buffer: Vec::new(), next: 0 })
    }

    /// The segment's seal.
    pub(super) fn seal(&self) -> Seal {
        self.head.seal
    }

    /// Where the next block begins in the file.
    pub(super) fn at(&self) -> u64 {
        self.offset + self.next as u64
    }

    /// Goes to an offset.
    pub(super) fn seek(&mut self, offset: u64) {
        match offset.checked_sub(self.offset).filter(|ahead| *ahead <= self.buffer.len() as u64) {
            Some(ahead) => self.next = ahead as usize,
            None => {
                (self.offset, self.next) = (offset, 0);
                self.buffer.clear();
            }
        }
    }

    /// Forgets what was read ahead, because it may have changed.
    pub(super) fn forget(&mut self) {
        (self.offset, self.next) = (self.at(), 0);
        self.buffer.clear();
    }

    /// The whole and undamaged block that stands here, with its bytes; `None` where there is none. Stays there.
    ///
    /// # Errors
    /// Where the file cannot be read.
    pub(super) fn peek(&mut self) -> Result<Option<(Header, &[u8])>, JournalError> {
        if !self.hold(HEADER_BYTES)? {
            return Ok(None);
        }
        let Some(header) = self.buffer[self.next..].first_chunk().and_then(|bytes| Header::decode(bytes, self.seal()))
        else {
            return Ok(None);
        };
        let len = header.block_bytes();
        if !self.hold(len)? {
            return Ok(None);
        }
        let block = &self.buffer[self.next..self.next + len];
        Ok(header.intact(block).then_some((header, block)))
    }

    /// Goes on behind the block that [`Scan::peek`] gave.
    pub(super) fn skip(&mut self, header: &Header) {
        self.next += header.block_bytes();
    }

    /// Reads until so many bytes are there from the next block on; false where the file ends before.
    fn hold(&mut self, len: usize) -> Result<bool, JournalError> {
        if self.buffer.len() - self.next >= len {
            return Ok(true);
        }
        let file_len = self.file.metadata().map_err(JournalError::at(&self.path))?.len();
        if self.at().saturating_add(len as u64) > file_len {
            return Ok(false);
        }
        self.buffer.drain(..self.next);
        self.offset += self.next as u64;
        self.next = 0;
        let mut filled = self.buffer.len();
        self.buffer.shrink_to(len.max(CHUNK_BYTES));
        self.buffer.resize(len.max(CHUNK_BYTES), 0);
        while filled < len {
            match self.file.read_at(&mut self.buffer[filled..], self.offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(JournalError::at(&self.path)(error)),
            }
        }
        self.buffer.truncate(filled);
        Ok(filled >= len)
    }
}
