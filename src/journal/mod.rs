//! The journal: a stream's log on disk. Blocks in segments, written by one thread, fsynced in groups.

mod block;
mod extents;
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod inspect;
mod lock;
mod look;
mod reader;
mod recover;
mod repair;
mod scan;
mod segment;
mod space;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use crossbeam_channel::{Sender, TrySendError, bounded};
use parking_lot::Mutex;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::event::{Origin, Position, PositionRange};

pub use extents::Extents;
pub use inspect::{Damage, Inspection, inspect};
pub use lock::lock_dir;
pub use look::{Look, first_ingest_time, look};
pub use reader::Reader;
pub use repair::{Repaired, repair};

use recover::{recover, segment_bytes};
use writer::{Message, Shared, Writer};

/// Blocks that wait for the writer at most. Credit bounds their bytes long before.
const QUEUED_MAX: usize = 16 * 1024;

/// Makes a file's written bytes durable.
pub type SyncFile = Arc<dyn Fn(&File) -> io::Result<()> + Send + Sync>;

/// How a journal is kept.
#[derive(Clone)]
pub struct JournalOptions {
    /// Its own folder.
    pub dir: PathBuf,
    /// Whether what is told durable is fsynced (else only handed to the operating system).
    pub fsync: bool,
    /// At this size producers are held.
    pub limit_bytes: u64,
    /// Segments stay so long after all have them, within the limit.
    pub keep_ms: i64,
    /// Producers are held while the disk has less than this.
    pub min_free_bytes: u64,
    /// Makes written bytes durable; `File::sync_data` but for tests that hold it back.
    pub sync: SyncFile,
}

/// What one block holds. Its bytes never change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Raw lines with their line ends (`records` of them are not blank).
    Lines(Arc<Vec<u8>>),
    /// The beginning of a line over `max_line`, and its true length; one record.
    Overlong {
        /// What is kept of it.
        head: Arc<Vec<u8>>,
        /// Its length.
        len: u64,
    },
    /// The raw lines of an HTTP body, as they came: of those over `max_line`, which are no events, nothing is cut off.
    /// What the limit was then decides for ever.
    Body {
        /// The lines with their line ends; the last may lack its own.
        lines: Arc<Vec<u8>>,
        /// Bytes of a line.
        max_line: u64,
    },
    /// Letters of a pipeline on their way again (see `event::Replay`), one record each. They are numbered under their
    /// replay's name, which is the origin's producer.
    Replay {
        /// The letters, encoded.
        letters: Arc<Vec<u8>>,
        /// The revision of the pipeline's definition by which they count.
        revision: u64,
    },
    /// So many ms of silence have passed; one record.
    Tick {
        /// Since the tick before, or the last line.
        silence_ms: u32,
    },
    /// Records that were damaged and are gone; they hold no line. Only a repair writes it.
    Lost,
}

/// Records that are written and read as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its records.
    pub range: PositionRange,
    /// When the journal took them, unix ms.
    pub ingest_time: i64,
    /// Lines that are events, since the stream began, this block included.
    pub events: u64,
    /// Who sent the lines.
    pub origin: Origin,
    /// The producer's number of the last line, where there is a producer.
    pub producer_number: u64,
    /// The bytes.
    pub payload: Payload,
}

/// What is known of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The number of its last line.
    pub number: u64,
    /// Ingest time of its last line, unix ms.
    pub seen: i64,
}

/// How far a journal is, and how full.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The first position that it still holds (last + 1 where it holds none).
    pub first: Position,
    /// All up to here is written.
    pub written: Position,
    /// All up to here is durable (as `fsync` says).
    pub durable: Position,
    /// All up to here is fsynced, whatever `fsync` says (a flush waits for this).
    pub synced: Position,
    /// Bytes on disk.
    pub bytes: u64,
    /// Why producers are held, where they are.
    pub held: Option<Held>,
    /// The write or fsync that failed: nothing is acknowledged any more, the process should end with 74.
    pub failed: Option<String>,
}

/// Why producers are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// The journal has its limit.
    JournalFull,
    /// The disk has less than `min_free`.
    DiskFull,
}

/// A journal that cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// A block that was fsynced is damaged.
    #[error("{}: records from position {from} on are damaged, although they were fsynced; `doctor` shows and repairs", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The first position that is lost.
        from: Position,
    },
    /// Nothing tells which journal the only segment is of.
    #[error(
        "{}: neither its head nor any block can be read, and no other segment tells which journal it is of; it cannot be \
         repaired: restore it from a backup, or move it away and let the stream begin anew under another name",
        path.display()
    )]
    Hopeless {
        /// Which file.
        path: PathBuf,
    },
    /// A position that the journal no longer (or not yet) has.
    #[error("position {wanted} is not in the journal, which begins at {first}")]
    Missing {
        /// The position.
        wanted: Position,
        /// What the journal begins with.
        first: Position,
    },
    /// A block is as it was written, and yet holds nothing that can be read.
    #[error("a bug: the journal's records {from}..={upto} cannot be read")]
    Unreadable {
        /// Its first position.
        from: Position,
        /// Its last.
        upto: Position,
    },
    /// Made by a newer version.
    #[error("{}: made by a newer version of tidemill (format {found})", path.display())]
    Newer {
        /// Which file.
        path: PathBuf,
        /// Its format.
        found: u16,
    },
    /// Another process has the folder.
    #[error("{}: in use by another process; stop it, or give this one a `data_dir` of its own", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

impl JournalError {
    /// What the operating system said of a file.
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), source }
    }
}

/// A stream's journal, opened. Dropping it ends the writer thread after what it was given is written.
pub struct Journal {
    id: u64,
    direct: bool,
    dir: PathBuf,
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    /// `None` only while it is dropped, which is how the writer learns that nothing more comes.
    blocks: Option<Sender<Message>>,
    /// Makes the writer look at `shared`.
    wake: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Opens or makes the journal: cuts a torn tail, refuses damage before it, starts the writer thread.
    ///
    /// # Errors
    /// Where files cannot be used or are damaged.
    pub fn open(options: JournalOptions, clock: Clock) -> Result<Self, JournalError> {
        lock::make_dir(&options.dir)?;
        let dir = options.dir.clone();
        let recovered = recover(&options, segment_bytes(options.limit_bytes))?;
        let (id, direct) = (recovered.id, recovered.current.file.direct());
        let shared = Arc::new(Shared { tail: Mutex::new(recovered.tail.clone()), ..Shared::default() });
        let (blocks, input) = bounded(QUEUED_MAX);
        let (wake, woken) = bounded(1);
        let (writer, progress) = Writer::new(options, clock, recovered, Arc::clone(&shared), (input, woken));
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let thread = std::thread::Builder::new()
            .name(format!("journal {name}"))
            .spawn(move || writer.run())
            .map_err(JournalError::at(&dir))?;
        Ok(Self { id, direct, dir, shared, progress, blocks: Some(blocks), wake, thread: Some(thread) })
    }

    /// Its random identity; never 0.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether it is written past the page cache, as of its opening.
    pub fn direct(&self) -> bool {
        self.direct
    }

    /// What it has now.
    pub fn look(&self) -> Look {
        let progress = self.progress.borrow();
        Look { id: self.id, first: progress.first, last: progress.written }
    }

    /// Ingest time of its first record, unix ms (see [`first_ingest_time`]). Blocking.
    pub fn first_ingest_time(&self) -> Option<i64> {
        first_ingest_time(&self.dir)
    }

    /// Lines that are events since the stream began, as of the last block.
    pub fn events(&self) -> u64 {
        self.shared.tail.lock().events
    }

    /// The ingest time of the last block, unix ms.
    pub fn last_ingest_time(&self) -> Option<i64> {
        self.shared.tail.lock().last_ingest_time
    }

    /// All producers as of the last block.
    pub fn producers(&self) -> Vec<(Arc<str>, Producer)> {
        let tail = self.shared.tail.lock();
        tail.producers.iter().map(|(name, producer)| (Arc::clone(name), *producer)).collect()
    }

    /// The number of a producer's last line as of the last block; 0 where it is not known.
    pub fn number(&self, producer: &str) -> u64 {
        self.shared.tail.lock().producers.get(producer).map_or(0, |producer| producer.number)
    }

    /// Queues a block. Never waits: whoever appends has taken credit before, and `ticket` (that credit) is dropped when
    /// the block is written.
    pub fn append(&self, block: Block, ticket: Box<dyn Send>) {
        let Some(blocks) = &self.blocks else { return };
        // Full only where credit does not bound the count. Waiting is right then: order is kept, and the writer never
        // waits for whoever appends. Closed only where the writer is gone, which `progress` says.
        if let Err(TrySendError::Full(message)) = blocks.try_send((block, ticket)) {
            let _ = blocks.send(message);
        }
    }

    /// How far it is. Changes after every write, fsync and deletion.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// All up to here may go, segment by segment, and nothing behind it: of what is still there, a later call can claim
    /// more.
    pub fn release(&self, upto: Position) {
        self.shared.released.store(upto, Ordering::Release);
        // Full: it is about to look anyway.
        let _ = self.wake.try_send(());
    }

    /// Which positions lie in how many bytes, as it changes.
    pub fn extents(&self) -> Extents {
        self.shared.extents.clone()
    }

    /// The block that holds a record; its `events` are those of the stream up to its end. Blocking.
    ///
    /// # Errors
    /// Where the journal does not hold the record (any more), or it is damaged.
    pub fn block_at(&self, position: Position) -> Result<Block, JournalError> {
        let block = self.reader(position.saturating_sub(1)).next()?;
        let first = self.progress.borrow().first;
        block.ok_or(JournalError::Missing { wanted: position, first })
    }

    /// A reader that begins behind `after`. Blocking: for a thread of its own.
    pub fn reader(&self, after: Position) -> Reader {
        Reader::new(self.dir.clone(), self.progress.clone(), after)
    }
}

/// Waits until all up to there is durable. False where it never will be: nothing is acknowledged after a failed fsync.
pub async fn durable(progress: &mut watch::Receiver<Progress>, position: Position) -> bool {
    let done = |progress: &Progress| progress.durable >= position || progress.failed.is_some();
    progress.wait_for(done).await.is_ok_and(|progress| progress.durable >= position)
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::Release);
        self.blocks = None;
        let _ = self.wake.try_send(());
        if let Some(thread) = self.thread.take() {
            // A panic there was published as `failed`.
            let _ = thread.join();
        }
    }
}
