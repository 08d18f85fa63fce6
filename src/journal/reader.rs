//! Reads blocks in order, over all segments, while the writer goes on.

use std::path::{Path, PathBuf};

use tokio::sync::watch;

use super::scan::Scan;
use super::segment::{list, segment_path};
use super::{Block, JournalError, Progress};
use crate::event::{Position, PositionRange};

/// Reads blocks in order.
pub struct Reader {
    dir: PathBuf,
    progress: watch::Receiver<Progress>,
    /// What was read; empty until the first block is.
    passed: PositionRange,
    /// The segment that is read. `None`: to be found.
    scan: Option<Scan>,
    /// How far the journal was written when the scan's buffer was filled: what it holds beyond may have changed since.
    filled: Position,
}

impl Reader {
    pub(super) fn new(dir: PathBuf, progress: watch::Receiver<Progress>, after: Position) -> Self {
        Self { dir, progress, passed: PositionRange::behind(after, 0), scan: None, filled: 0 }
    }

    /// The next block that is written, or `None` where there is none yet. The first block may begin before the
    /// position asked for (a block is read whole).
    ///
    /// # Errors
    /// Where the position is gone, or the block damaged.
    #[expect(clippy::should_implement_trait, reason = "it can fail, and none now does not mean none later")]
    pub fn next(&mut self) -> Result<Option<Block>, JournalError> {
        let wanted = self.passed.upto + 1;
        let (first, written) = self.holds();
        if wanted > written {
            return Ok(None);
        }
        if wanted < first && self.scan.is_none() {
            return Err(JournalError::Missing { wanted, first });
        }
        let block = self.read(wanted, written);
        // A segment that was deleted, or is being written over, while it was read: not damaged, but gone.
        let (first, _) = self.holds();
        match block {
            Err(_) if wanted < first => Err(JournalError::Missing { wanted, first }),
            block => block.map(Some),
        }
    }

    /// What the journal holds: its first and its last position.
    fn holds(&self) -> (Position, Position) {
        let progress = self.progress.borrow();
        (progress.first, progress.written)
    }

    /// The block that holds the wanted position, which is written.
    fn read(&mut self, wanted: Position, written: Position) -> Result<Block, JournalError> {
        let mut scan = match self.scan.take() {
            Some(scan) => scan,
            None => self.find(wanted)?,
        };
        if self.filled < wanted {
            scan.forget();
            self.filled = written;
        }
        loop {
            let Some((header, bytes)) = scan.peek()? else {
                scan = self.follow(scan, wanted)?;
                continue;
            };
            if header.range.upto >= wanted {
                let block = header.to_block(bytes);
                self.pass(block.range, &scan.path)?;
                scan.skip(&header);
                self.scan = Some(scan);
                return Ok(block);
            }
            scan.skip(&header);
        }
    }

    /// Takes a block's range, which must follow the one before; the first need only hold the position asked for.
    fn pass(&mut self, range: PositionRange, path: &Path) -> Result<(), JournalError> {
        let from = self.passed.upto + 1;
        if self.passed.is_empty() && range.after < from {
            self.passed = PositionRange::behind(range.after, 0);
        }
        self.passed.extend(range).map_err(|_| JournalError::Damaged { path: path.to_owned(), from })
    }

    /// The segment that holds a position.
    fn find(&self, wanted: Position) -> Result<Scan, JournalError> {
        let segments = list(&self.dir).map_err(JournalError::at(&self.dir))?;
        match segments.iter().rfind(|first| **first <= wanted) {
            Some(first) => Scan::open(&self.dir, *first),
            None => Err(JournalError::Damaged { path: segment_path(&self.dir, wanted), from: wanted }),
        }
    }

    /// The segment behind one that has no further block; it must begin with the position that is wanted.
    fn follow(&self, scan: Scan, wanted: Position) -> Result<Scan, JournalError> {
        if wanted == scan.head.first || !segment_path(&self.dir, wanted).exists() {
            return Err(JournalError::Damaged { path: scan.path, from: wanted });
        }
        Scan::open(&self.dir, wanted)
    }
}
