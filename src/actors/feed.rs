//! The feed of a pipeline: records in their order, from the recent batches while it keeps up, else from the journal.

use std::sync::Arc;

use super::guard::{Ended, Keeper};
use super::mailbox::Outlet;
use super::messages::{FlushDue, FlushReason, Records};
use super::recent::{Cursor, Next, Recent};
use super::stats::{PipelineState, PipelineStats};
use crate::event::{Batch, Decoded, Decoder, Position};
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
    /// Set when the daemon stops: flush when all up to there is read.
    pub drain: watch::Receiver<Option<Position>>,
}

impl Feed {
    /// Runs until the stage ends or the journal cannot be read.
    pub async fn run(mut self, position: Position, keeper: Keeper) {
        let cursor = self.recent.cursor(position);
        if let Err(error) = self.follow(&cursor).await {
            keeper.end(Ended::Broken(error.to_string()));
        }
    }

    async fn follow(&mut self, cursor: &Cursor) -> Result<(), JournalError> {
        let mut head = self.recent.head();
        let mut drained = false;
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
                    let drain = self.drain.borrow_and_update().is_some();
                    if drain && !drained {
                        drained = true;
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
        let mut reader = self.journal.reader(cursor.position());
        let mut position = cursor.position();
        loop {
            let (decoder, from) = (self.decoder.clone(), position);
            let read = tokio::task::spawn_blocking(move || {
                let batches = read_some(&mut reader, &decoder, from);
                (reader, batches)
            });
            // It cannot be cancelled, and a panic of the decoder ends this feed as it would end any other.
            let Ok((again, batches)) = read.await else { return Ok(false) };
            reader = again;
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

/// Blocks of about one batch's size, decoded. Those before `from` (a block is read whole) are left out.
fn read_some(reader: &mut Reader, decoder: &Decoder, from: Position) -> Result<Vec<Arc<Batch>>, JournalError> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    while bytes < BATCH_BYTES_MAX {
        let Some(block) = reader.next()? else { break };
        if block.range.upto <= from {
            continue;
        }
        let batch = cut(decode(block, decoder), from);
        bytes += batch.decoded.bytes.len();
        batches.push(Arc::new(batch));
    }
    Ok(batches)
}

/// A batch without its records up to a position: after a skip a pipeline may begin in the midst of one.
fn cut(mut batch: Batch, from: Position) -> Batch {
    let before = from.saturating_sub(batch.range.after);
    batch.decoded.skip(before as usize);
    batch.range.after += before;
    batch
}

/// The events of a stream up to a position: by the journal's count at the end of the block that holds the record, less
/// the events behind the record. The position may be that before the first record that the journal holds.
pub fn events_upto(journal: &Journal, decoder: &Decoder, position: Position) -> Result<u64, JournalError> {
    let first = journal.progress().borrow().first;
    let block = journal.block_at(position.max(first))?;
    let events = block.events;
    let behind = cut(decode(block, decoder), position).decoded;
    Ok(events - (behind.len() - behind.bad.len()) as u64)
}

/// A block of the journal, as the batch it was.
fn decode(block: Block, decoder: &Decoder) -> Batch {
    let Block { range, ingest_time, origin, payload, .. } = block;
    let (decoded, silence_ms, overlong) = match payload {
        Payload::Lines(bytes) => (decoder.decode(bytes), None, None),
        Payload::Overlong { head, len } => (decoder.overlong(head, len), None, Some(len)),
        Payload::Tick { silence_ms } => (Decoded::default(), Some(silence_ms), None),
    };
    Batch { range, ingest_time, decoded, origin, silence_ms, overlong }
}
