//! The thread that writes: takes what is queued, writes it at once, fsyncs when that pays, and says how far it is.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, select};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::block::{block_bytes, encode_header, payload_bytes};
use super::extents::Extents;
use super::file::is_full;
use super::recover::{Closed, Current, Recovered, segment_bytes};
use super::segment::NewSegment;
use super::space::PAUSE;
use super::tail::Tail;
use super::{Block, JournalOptions, Progress};
use crate::clock::Clock;
use crate::event::{Position, PositionRange};
use crate::moments::{disk_does, is_sabotaged};

/// A block, and what is dropped when it is written.
pub(super) type Message = (Block, Box<dyn Send>);

/// Bytes of blocks that are taken as one group.
const GROUP_BYTES: u64 = 4 * 1024 * 1024;
/// Unsynced bytes at which nothing more is written before an fsync.
const SYNC_BYTES: u64 = 16 * 1024 * 1024;
/// The longest that a written block waits for its fsync while more come.
const SYNC_AFTER: Duration = Duration::from_millis(10);
/// The same where nobody is told "durable" by it: only a flush waits.
const SYNC_LAZILY_AFTER: Duration = Duration::from_millis(100);

/// What the journal's face and its writer both see.
#[derive(Default)]
pub(super) struct Shared {
    /// All up to here may go.
    pub released: AtomicU64,
    /// Nobody waits for what cannot be written.
    pub closing: AtomicBool,
    /// As of the last block that was taken for writing.
    pub tail: Mutex<Tail>,
    /// As of the last count of bytes.
    pub extents: Extents,
}

/// The writer's state. It alone touches the files.
pub(super) struct Writer {
    pub(super) options: JournalOptions,
    pub(super) clock: Clock,
    pub(super) shared: Arc<Shared>,
    input: Receiver<Message>,
    pub(super) woken: Receiver<()>,
    publish: watch::Sender<Progress>,
    pub(super) progress: Progress,
    journal: u64,
    pub(super) current: Current,
    pub(super) closed: VecDeque<Closed>,
    /// Size of the spare file, where there is one.
    pub(super) spare: Option<u64>,
    /// What was taken for writing: each block must follow it.
    taken: PositionRange,
    /// Tickets of what was taken and is not written.
    tickets: Vec<Box<dyn Send>>,
    header: Vec<u8>,
    unsynced_bytes: u64,
    /// When the first unsynced byte was written.
    unsynced_since: Duration,
    /// When, and after how many bytes, the disk was last asked for free space.
    pub(super) disk_asked: Option<Duration>,
    pub(super) bytes_since_asked: u64,
    /// Whether the disk lacks space, as of then or as a write said.
    pub(super) disk_full: bool,
}

/// Why the writer cannot go on.
pub(super) struct Failure(pub String);

impl Writer {
    pub(super) fn new(
        options: JournalOptions,
        clock: Clock,
        recovered: Recovered,
        shared: Arc<Shared>,
        (input, woken): (Receiver<Message>, Receiver<()>),
    ) -> (Self, watch::Receiver<Progress>) {
        let Recovered { id, closed, current, written, spare, .. } = recovered;
        let first = closed.front().map_or(current.first, |oldest| oldest.first);
        let progress = Progress { first, written, durable: written, synced: written, ..Progress::default() };
        let (publish, receiver) = watch::channel(progress.clone());
        let mut writer = Self {
            options,
            clock,
            shared,
            input,
            woken,
            publish,
            progress,
            journal: id,
            current,
            closed,
            spare,
            taken: PositionRange { after: 0, upto: written },
            tickets: Vec::new(),
            header: Vec::new(),
            unsynced_bytes: 0,
            unsynced_since: Duration::ZERO,
            disk_asked: None,
            bytes_since_asked: 0,
            disk_full: false,
        };
        writer.judge_space_at_start();
        writer.publish();
        (writer, receiver)
    }

    /// Writes until the journal is dropped and all that it was given is written.
    pub(super) fn run(mut self) {
        if let Err(Failure(message)) = self.work() {
            log::error!("{}: {message}", self.options.dir.display());
            self.progress.failed = Some(message);
            self.publish();
            self.tickets.clear();
            // Whoever waits for credit must not hang; nothing is acknowledged.
            self.input.iter().for_each(drop);
        }
    }

    fn work(&mut self) -> Result<(), Failure> {
        self.make_room()?;
        self.publish();
        loop {
            match self.next_message() {
                Ok(message) => self.write_group(message)?,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            self.sync_if_due()?;
            self.make_room()?;
            self.publish();
        }
    }

    /// The next block; a timeout stands for "look around".
    fn next_message(&self) -> Result<Message, RecvTimeoutError> {
        let gone = |_| RecvTimeoutError::Disconnected;
        if !self.waits_for_time() {
            select! {
                recv(self.input) -> message => return message.map_err(gone),
                recv(self.woken) -> _ => return Err(RecvTimeoutError::Timeout),
            }
        }
        select! {
            recv(self.input) -> message => message.map_err(gone),
            recv(self.woken) -> _ => Err(RecvTimeoutError::Timeout),
            default(PAUSE) => Err(RecvTimeoutError::Timeout),
        }
    }

    /// Writes a block and what is queued behind it.
    fn write_group(&mut self, first: Message) -> Result<(), Failure> {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some((block, ticket)) = next {
            bytes += self.take(&block)?;
            self.tickets.push(ticket);
            next = if bytes < GROUP_BYTES { self.input.try_recv().ok() } else { None };
        }
        self.write_staged()?;
        self.written(self.taken.upto);
        Ok(())
    }

    /// Encodes a block into the current segment, or a new one.
    fn take(&mut self, block: &Block) -> Result<u64, Failure> {
        self.taken.extend(block.range).map_err(|error| Failure(error.to_string()))?;
        if block.range.is_empty() {
            return Ok(0);
        }
        if is_sabotaged("no-fsync-wait") {
            self.promise(block.range.upto);
        }
        let bytes = block_bytes(block);
        if bytes > self.current.file.room() {
            self.roll(block.range.after, bytes)?;
        }
        let mut header = std::mem::take(&mut self.header);
        encode_header(block, self.current.seal, self.progress.synced, &mut header);
        let payload = payload_bytes(&block.payload);
        let padding = bytes as usize - header.len() - payload.len();
        for piece in [&header[..], payload, &[0; 8][..padding]] {
            self.stage(piece)?;
        }
        self.header = header;
        let producer = block.origin.producer.as_ref().map(|name| (name, block.producer_number));
        self.shared.tail.lock().take(block.events, block.ingest_time, producer);
        if self.unsynced_bytes == 0 {
            self.unsynced_since = self.clock.elapsed();
        }
        self.unsynced_bytes += bytes;
        self.bytes_since_asked += bytes;
        Ok(bytes)
    }

    fn stage(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            bytes = &bytes[self.current.file.stage(bytes)..];
            if self.current.file.is_full() {
                self.write_staged()?;
            }
        }
        Ok(())
    }

    fn write_staged(&mut self) -> Result<(), Failure> {
        fail::fail_point!("journal-before-write");
        self.patiently("writing to the journal", |writer| {
            disk_does("journal-write")?;
            writer.current.file.write()
        })?;
        fail::fail_point!("journal-after-write");
        Ok(())
    }

    /// The fault `no-fsync-wait`: says that a block is durable before it is written, and lets those who wait for that go
    /// on. (Not waiting for the fsync alone is no fault that the end of a process can show.)
    fn promise(&mut self, upto: Position) {
        (self.progress.written, self.progress.durable, self.progress.synced) = (upto, upto, upto);
        self.publish();
        self.clock.block(Duration::from_millis(30));
    }

    /// All up to here is written: says so, and gives the tickets back.
    fn written(&mut self, upto: Position) {
        self.progress.written = upto;
        if !self.options.fsync {
            self.progress.durable = upto;
        }
        self.count_bytes();
        self.publish();
        self.tickets.clear();
    }

    /// Ends the current segment behind `upto`, durably, and begins the next, in which `block` bytes have room.
    pub(super) fn roll(&mut self, upto: Position, block: u64) -> Result<(), Failure> {
        self.write_staged()?;
        // Said before the next segment is there: on a full disk that may wait until somebody has read this one.
        self.written(upto);
        self.sync()?;
        fail::fail_point!("segment-before-change");
        let mut tail = self.shared.tail.lock().clone();
        tail.forget_old_producers();
        // One without a record gives its name and its place to the next, for which it had no room.
        let is_empty = upto < self.current.first;
        let before = self.closed.back().map_or(0, |segment| segment.first);
        let previous = if is_empty { before } else { self.current.first };
        let (seal, file) = self.patiently("beginning a journal segment", |writer| {
            let new = NewSegment {
                dir: &writer.options.dir,
                journal: writer.journal,
                first: upto + 1,
                previous,
                tail: &tail,
                size: segment_bytes(writer.options.limit_bytes),
                block,
                recycle: writer.spare.is_some(),
            };
            new.create(&*writer.options.sync)
        })?;
        self.spare = None;
        fail::fail_point!("segment-between-files");
        let last_ingest_time = tail.last_ingest_time.unwrap_or(i64::MIN);
        *self.shared.tail.lock() = tail;
        let mut old = std::mem::replace(&mut self.current, Current { seal, first: upto + 1, file });
        if !is_empty {
            let bytes = old.file.truncate().map_err(|error| self.failure("ending a journal segment", &error))?;
            self.closed.push_back(Closed { first: old.first, upto, bytes, last_ingest_time });
        }
        self.count_bytes();
        fail::fail_point!("segment-after-change");
        Ok(())
    }

    /// Does it again while the disk is full; producers are held meanwhile. Any other error is the end.
    fn patiently<T>(&mut self, doing: &str, mut attempt: impl FnMut(&mut Self) -> io::Result<T>) -> Result<T, Failure> {
        loop {
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(error) if is_full(&error) && !self.shared.closing.load(Ordering::Acquire) => {
                    self.wait_for_space(&error)?;
                }
                Err(error) => return Err(self.failure(doing, &error)),
            }
        }
    }

    fn sync_if_due(&mut self) -> Result<(), Failure> {
        let patience = if self.options.fsync { SYNC_AFTER } else { SYNC_LAZILY_AFTER };
        let due = self.input.is_empty()
            || self.unsynced_bytes >= SYNC_BYTES
            || self.clock.elapsed().saturating_sub(self.unsynced_since) >= patience;
        if due { self.sync() } else { Ok(()) }
    }

    /// Makes all that is written durable, and says so.
    fn sync(&mut self) -> Result<(), Failure> {
        if self.unsynced_bytes == 0 {
            return Ok(());
        }
        fail::fail_point!("journal-before-fsync");
        let synced = disk_does("journal-fsync").and_then(|()| (self.options.sync)(self.current.file.file()));
        synced.map_err(|error| self.failure("fsync of the journal", &error))?;
        fail::fail_point!("journal-after-fsync");
        self.unsynced_bytes = 0;
        self.progress.durable = self.progress.written;
        self.progress.synced = self.progress.written;
        self.publish();
        Ok(())
    }

    pub(super) fn failure(&self, doing: &str, error: &io::Error) -> Failure {
        Failure(format!("{doing} failed behind position {}: {error}", self.progress.synced))
    }

    /// Tells those who watch, if anything changed.
    pub(super) fn publish(&self) {
        if *self.publish.borrow() != self.progress {
            self.publish.send_replace(self.progress.clone());
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.progress.failed = Some("the journal's writer panicked".to_owned());
            self.publish();
        }
    }
}
