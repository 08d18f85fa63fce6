//! Space: which segments may go, and when producers are held.

use std::fs;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Held;
use super::extents::Extent;
use super::file::sync_dir;
use super::recover::Closed;
use super::segment::{segment_path, spare_path};
use super::writer::{Failure, Writer};

/// How long, and for how many bytes, an answer about the disk's free space holds.
const ASK_DISK_AFTER: Duration = Duration::from_secs(1);
const ASK_DISK_BYTES: u64 = 16 * 1024 * 1024;
/// Pause between attempts while the disk is full, and between looks at what only time changes.
pub(super) const PAUSE: Duration = Duration::from_millis(250);

impl Writer {
    /// Deletes segments that may go, and says whether producers are held.
    pub(super) fn make_room(&mut self) -> Result<(), Failure> {
        self.judge_space()?;
        self.delete_released()?;
        // What fills the journal is in the segment that is written, and all have it: without a new segment it would
        // stay full, and nobody could write so that one begins.
        if self.progress.held == Some(Held::JournalFull) && self.current_may_go() {
            self.roll(self.progress.written, 0)?;
            self.delete_released()?;
        }
        Ok(())
    }

    /// The disk is full: holds producers, takes what may go, and waits a moment.
    pub(super) fn wait_for_space(&mut self, error: &io::Error) -> Result<(), Failure> {
        if !self.disk_full {
            log::warn!("{}: {error}; producers are held until there is space", self.options.dir.display());
        }
        self.disk_full = true;
        self.progress.held = Some(Held::DiskFull);
        self.publish();
        self.delete_released()?;
        // Woken, or not: it is tried again.
        let _ = self.woken.recv_timeout(PAUSE);
        Ok(())
    }

    /// Whether something may change although nobody says so.
    pub(super) fn waits_for_time(&self) -> bool {
        self.disk_full || self.oldest_released().is_some()
    }

    /// Counts bytes and asks the disk, and holds producers accordingly.
    pub(super) fn judge_space(&mut self) -> Result<(), Failure> {
        self.ask_disk();
        self.count_bytes();
        let short = self.disk_full || self.progress.bytes >= self.options.limit_bytes;
        if short && self.spare.is_some() {
            self.remove("spare journal segment", |writer| fs::remove_file(spare_path(&writer.options.dir)))?;
            self.spare = None;
            self.count_bytes();
        }
        self.hold();
        Ok(())
    }

    /// How much space there is when the journal is opened.
    pub(super) fn judge_space_at_start(&mut self) {
        self.ask_disk();
        self.count_bytes();
        self.hold();
    }

    fn hold(&mut self) {
        let full = self.progress.bytes >= self.options.limit_bytes;
        self.progress.held = if full { Some(Held::JournalFull) } else { self.disk_full.then_some(Held::DiskFull) };
    }

    /// Bytes on disk, but for what is reserved and empty.
    pub(super) fn count_bytes(&mut self) {
        let closed: u64 = self.closed.iter().map(|segment| segment.bytes).sum();
        self.progress.bytes = closed + self.current.file.end() + self.spare.unwrap_or(0);
        let current = Extent { first: self.current.first, upto: self.progress.written, bytes: self.current.file.end() };
        let closed =
            self.closed.iter().map(|closed| Extent { first: closed.first, upto: closed.upto, bytes: closed.bytes });
        self.shared.extents.set(closed.chain([current]));
    }

    /// Looks whether the disk has `min_free`, now and then, and each time while it has not.
    fn ask_disk(&mut self) {
        let now = self.clock.elapsed();
        let fresh = self.disk_asked.is_some_and(|asked| now.saturating_sub(asked) < ASK_DISK_AFTER);
        if fresh && self.bytes_since_asked < ASK_DISK_BYTES && !self.disk_full {
            return;
        }
        self.disk_asked = Some(now);
        self.bytes_since_asked = 0;
        // A disk that does not answer is not known to be full; a write will tell.
        self.disk_full = rustix::fs::statvfs(&self.options.dir)
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < self.options.min_free_bytes);
    }

    /// Deletes the oldest segments, as far as all have them, when they are old enough or space is short.
    fn delete_released(&mut self) -> Result<(), Failure> {
        while let Some(oldest) = self.oldest_released() {
            let age = self.clock.wall_ms().saturating_sub(oldest.last_ingest_time);
            if age < self.options.keep_ms && self.progress.held.is_none() {
                break;
            }
            self.closed.pop_front();
            // First said, then done: a reader that finds nothing there knows why.
            self.progress.first = self.closed.front().map_or(self.current.first, |segment| segment.first);
            self.publish();
            self.delete(oldest)?;
            self.judge_space()?;
        }
        Ok(())
    }

    /// Deletes a segment, or keeps its file for the next one: writing over it is cheaper than a new file.
    fn delete(&mut self, segment: Closed) -> Result<(), Failure> {
        let roomy = self.progress.held.is_none() && self.progress.bytes <= self.options.limit_bytes / 2;
        let recycle = roomy && self.spare.is_none();
        fail::fail_point!("segment-before-delete");
        self.remove("old journal segment", |writer| {
            let dir = &writer.options.dir;
            let path = segment_path(dir, segment.first);
            if recycle { fs::rename(path, spare_path(dir)) } else { fs::remove_file(path) }
        })?;
        fail::fail_point!("segment-after-delete");
        if recycle {
            self.spare = Some(segment.bytes);
        }
        Ok(())
    }

    /// Takes a file away, durably: after a power loss there is no hole among the segments, and none is overwritten
    /// under its old name.
    fn remove(&mut self, what: &str, how: impl Fn(&Self) -> io::Result<()>) -> Result<(), Failure> {
        let removed = match how(self) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => sync_dir(&self.options.dir),
        };
        removed.map_err(|error| self.failure(&format!("removing the {what}"), &error))
    }

    fn oldest_released(&self) -> Option<Closed> {
        let released = self.shared.released.load(Ordering::Acquire);
        self.closed.front().copied().filter(|oldest| oldest.upto <= released)
    }

    /// Whether the current segment has records, and all of them are released.
    fn current_may_go(&self) -> bool {
        let written = self.progress.written;
        written >= self.current.first && written <= self.shared.released.load(Ordering::Acquire)
    }
}
