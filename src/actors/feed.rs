//! The feed of a pipeline: records in their order, from the recent batches while it keeps up, else from the journal.

use std::sync::Arc;

use super::guard::{Ended, Keeper};
use super::mailbox::Outlet;
use super::messages::{FlushDue, FlushReason, Records};
use super::recent::{Cursor, Next, Recent};
use super::stats::{PipelineState, PipelineStats};
use crate::event::{Batch, Decoded, Decoder, Position, PositionRange, Replay, piece_end};
use crate::journal::{Block, Journal, JournalError, Payload, Reader};
use crate::limits::BATCH_BYTES_MAX;
use tokio::sync::watch;

/// Where a pipeline's records come from.
pub struct Feed {
    pub journal: Arc<Journal>,
    pub recent: Arc<Recent>,
    pub decoder: Decoder,
    pub to: Outlet<Records>,
    pub flush: Outlet<FlushDue>,
    pub stats: Arc<PipelineStats>,
    /// Set when the daemon stops, or somebody waits for a commit: flush when all up to there is read.
    pub drain: watch::Receiver<Option<Position>>,
}

impl Feed {
    /// Runs until the stage ends or the journal cannot be read.
    pub async fn run(mut self, position: Position, keeper: Keeper) {
        let cursor = self.recent.cursor(position, self.decoder.fields().len());
        if let Err(error) = self.follow(&cursor).await {
            keeper.end(Ended::Broken(error.to_string()));
        }
    }

    async fn follow(&mut self, cursor: &Cursor) -> Result<(), JournalError> {
        let mut head = self.recent.head();
        let mut drained = None;
        loop {
            head.mark_unchanged();
            match self.recent.next(cursor) {
                Next::Batch(batch) => {
                    self.state(PipelineState::Running);
                    if self.to.send(Records(batch)).await.is_err() {
                        return Ok(());
                    }
                }
                Next::Gone => {
                    self.state(PipelineState::Behind);
                    if !self.read_journal(cursor).await? {
                        return Ok(());
                    }
                }
                Next::Head => {
                    self.state(PipelineState::Running);
                    let drain = *self.drain.borrow_and_update();
                    if drain != drained {
                        drained = drain;
                        if self.flush.send(FlushDue(FlushReason::Drain)).await.is_err() {
                            return Ok(());
                        }
                    }
                    tokio::select! {
                        changed = head.changed() => if changed.is_err() { return Ok(()) },
                        changed = self.drain.changed() => if changed.is_err() { return Ok(()) },
                    }
                }
            }
        }
    }

    /// Reads the journal until the recent batches have what follows. False where the stage has ended.
    async fn read_journal(&self, cursor: &Cursor) -> Result<bool, JournalError> {
        let mut progress = self.journal.progress();
        let mut source = Source { reader: self.journal.reader(cursor.position()), body: None };
        let mut position = cursor.position();
        loop {
            let (decoder, from) = (self.decoder.clone(), position);
            let read = tokio::task::spawn_blocking(move || {
                let batches = source.read_some(&decoder, from);
                (source, batches)
            });
            // It cannot be cancelled, and a panic of the decoder ends this feed as it would end any other.
            let Ok((again, batches)) = read.await else { return Ok(false) };
            source = again;
            let batches = batches?;
            if batches.is_empty() {
                // The batches that are to be read next are given out, but not written yet.
                if progress.wait_for(|progress| progress.written > position).await.is_err() {
                    return Ok(false);
                }
                continue;
            }
            for batch in batches {
                position = batch.range.upto;
                if self.to.send(Records(batch)).await.is_err() {
                    return Ok(false);
                }
                self.recent.advance(cursor, position);
            }
            if self.recent.has_next(cursor) {
                fail::fail_point!("rejoin");
                return Ok(true);
            }
        }
    }

    fn state(&self, state: PipelineState) {
        let mut view = self.stats.inner.lock();
        if matches!(view.state, PipelineState::Starting | PipelineState::Running | PipelineState::Behind) {
            view.state = state;
        }
    }
}

/// The journal, read by about one batch's size at a time.
struct Source {
    reader: Reader,
    /// A body of which more is to be read.
    body: Option<Body>,
}

/// A block of the journal.
enum Opened {
    /// As the batch it was.
    Batch(Batch),
    /// To be read in pieces.
    Body(Body),
}

/// The rest of an HTTP body: its block may hold far more than a batch, and memory shall not depend on it.
struct Body {
    block: Block,
    lines: Arc<Vec<u8>>,
    max_line: usize,
    /// Bytes that were read.
    at: usize,
}

impl Source {
    /// The batches behind `from`, which may lie within a block.
    fn read_some(&mut self, decoder: &Decoder, mut from: Position) -> Result<Vec<Arc<Batch>>, JournalError> {
        let mut batches = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH_BYTES_MAX {
            let batch = match self.body.take() {
                Some(mut body) => body.piece(decoder, from).inspect(|_| self.body = Some(body)),
                None => match self.reader.next()? {
                    None => break,
                    Some(block) if block.range.upto <= from => None,
                    Some(block) => match open(block, decoder, from)? {
                        Opened::Batch(batch) => Some(batch),
                        Opened::Body(body) => {
                            self.body = Some(body);
                            None
                        }
                    },
                },
            };
            if let Some(batch) = batch {
                bytes += batch.decoded.bytes.len();
                from = batch.range.upto;
                batches.push(Arc::new(batch));
            }
        }
        Ok(batches)
    }
}

/// A block without its records up to a position: after a skip a pipeline may begin in the midst of one.
fn open(block: Block, decoder: &Decoder, from: Position) -> Result<Opened, JournalError> {
    let before = from.saturating_sub(block.range.after);
    let (mut decoded, silence_ms, overlong) = match &block.payload {
        Payload::Lines(bytes) => (decoder.decode(bytes.clone()), None, None),
        Payload::Overlong { head, len } => (decoder.overlong(head.clone(), *len), None, Some(*len)),
        Payload::Tick { silence_ms } => (Decoded::default(), Some(*silence_ms), None),
        Payload::Lost => {
            log::warn!("positions {} were damaged in the journal: they hold nothing any more", block.range);
            (Decoded::default(), None, None)
        }
        Payload::Replay { letters, revision } => {
            let name = block.origin.producer.as_deref().unwrap_or_default();
            let replay = Replay::decode(name, *revision, letters)
                .filter(|replay| replay.letters.len() as u64 == block.range.count())
                .ok_or(JournalError::Unreadable { from: block.range.after + 1, upto: block.range.upto })?;
            let decoded = replay.decoded(decoder);
            let Block { range, ingest_time, origin, .. } = block;
            return Ok(Opened::Batch(replay.batch(decoded, range, ingest_time, origin, before)));
        }
        Payload::Body { lines, max_line } => {
            let at = decoder.behind_lines(lines, before);
            let (lines, max_line) = (lines.clone(), usize::try_from(*max_line).unwrap_or(usize::MAX));
            return Ok(Opened::Body(Body { block, lines, max_line, at }));
        }
    };
    let Block { mut range, ingest_time, origin, .. } = block;
    decoded.skip(before as usize);
    range.after += before;
    Ok(Opened::Batch(Batch { range, ingest_time, decoded, origin, silence_ms, overlong, replay: None }))
}

impl Body {
    /// The next lines, which begin behind `from`; `None` at the end.
    fn piece(&mut self, decoder: &Decoder, from: Position) -> Option<Batch> {
        while self.at < self.lines.len() {
            let end = piece_end(&self.lines, self.at, BATCH_BYTES_MAX);
            let bytes = Arc::new(self.lines[self.at..end].to_vec());
            self.at = end;
            let decoded = decoder.decode_within(bytes, self.max_line);
            if !decoded.is_empty() {
                let range = PositionRange::behind(from, decoded.len() as u64);
                let (ingest_time, origin) = (self.block.ingest_time, self.block.origin.clone());
                let (silence_ms, overlong, replay) = (None, None, None);
                return Some(Batch { range, ingest_time, decoded, origin, silence_ms, overlong, replay });
            }
        }
        None
    }
}

/// The events of a stream up to a position: by the journal's count at the end of the block that holds the record, less
/// the events behind the record. The position may be that before the first record that the journal holds.
pub fn events_upto(journal: &Journal, decoder: &Decoder, position: Position) -> Result<u64, JournalError> {
    let first = journal.progress().borrow().first;
    let block = journal.block_at(position.max(first))?;
    let (events, mut from) = (block.events, position.max(block.range.after));
    let mut behind = 0;
    match open(block, decoder, from)? {
        Opened::Batch(batch) => behind += batch.events(),
        Opened::Body(mut body) => {
            while let Some(batch) = body.piece(decoder, from) {
                behind += batch.events();
                from = batch.range.upto;
            }
        }
    }
    Ok(events - behind)
}
