//! One flush: fence, rows, panes, letters, corrections, account and checkpoint in one transaction.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::image::{Key, PaneImage, RowImage, Shape};
use super::session::{Session, Stored};
use super::{Change, Checkpoint, Chunk, Definition, Fence, Flushed, StateBytes, StoreError};
use crate::event::Letter;
use crate::moments::is_sabotaged;

/// Corrections that are read, merged and written at once.
const CORRECTIONS_AT_ONCE: usize = 1_000;

/// What a flush would have done, and the number of its commit: by it the row tells afterwards whether it was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    number: i64,
    flushed: Flushed,
}

/// Runs a flush to its end. Where it fails the caller must give up the connection, which rolls back; where `attempt` is
/// set as well, it was the commit itself that failed, and `settle` tells how it ended.
pub(super) fn run(
    session: &mut impl Session,
    definition: &dyn Definition,
    stream: &str,
    fence: Fence,
    chunks: &Receiver<Chunk>,
    attempt: &mut Option<Attempt>,
) -> Result<Flushed, StoreError> {
    let pipeline = definition.pipeline();
    session.begin()?;
    let held = session.hold_fence(pipeline, fence)?;
    let number = held.ok_or_else(|| StoreError::Fenced(pipeline.to_owned()))?;
    fail::fail_point!("flush-begun");
    let mut writer = Writer {
        session,
        shape: Shape::new(definition),
        pipeline,
        stream,
        corrections: HashMap::new(),
        flushed: Flushed::default(),
    };
    let checkpoint = writer.write(chunks)?;
    writer.correct()?;
    let flushed = writer.flushed;
    check_account(pipeline, &checkpoint)?;
    if is_sabotaged("checkpoint-apart") {
        session.commit()?;
        session.begin()?;
    }
    fail::fail_point!("flush-before-checkpoint");
    session.save_checkpoint(pipeline, &checkpoint)?;
    *attempt = Some(Attempt { number, flushed });
    fail::fail_point!("flush-before-commit");
    session.commit()?;
    fail::fail_point!("flush-after-commit");
    *attempt = None;
    Ok(flushed)
}

/// After a commit that failed: what it did, where it was done all the same.
pub(super) fn settle(
    session: &mut impl Session,
    pipeline: &str,
    attempt: Attempt,
) -> Result<Option<Flushed>, StoreError> {
    Ok((session.commits(pipeline)? >= attempt.number).then_some(attempt.flushed))
}

fn check_account(pipeline: &str, checkpoint: &Checkpoint) -> Result<(), StoreError> {
    checkpoint.account.check().map_err(|(taken, ended)| {
        StoreError::Refused(format!(
            "a bug: the account of pipeline {pipeline:?} does not balance at position {}: {taken} events came in and \
             {ended} went out, so that nothing was written",
            checkpoint.position
        ))
    })
}

/// Late events of one row, kept until all rows of the flush are written: the row that they correct may be among them.
struct Correction {
    group: Arc<[u8]>,
    state: StateBytes,
    revised_at: i64,
    partial: bool,
}

/// The transaction that is open.
struct Writer<'a, S> {
    session: &'a mut S,
    shape: Shape<'a>,
    pipeline: &'a str,
    stream: &'a str,
    corrections: HashMap<Key, Correction>,
    flushed: Flushed,
}

/// What a chunk holds, by table.
#[derive(Default)]
struct Pending {
    rows: HashMap<Key, RowImage>,
    panes: HashMap<(i64, [u8; 16]), PaneImage>,
    letters: Vec<Letter>,
}

impl<S: Session> Writer<'_, S> {
    /// Writes chunks as they come; the new checkpoint ends them.
    fn write(&mut self, chunks: &Receiver<Chunk>) -> Result<Checkpoint, StoreError> {
        loop {
            match chunks.recv() {
                Ok(Chunk::Changes(changes, credit)) => {
                    let mut pending = Pending::default();
                    for change in changes {
                        self.take(change, &mut pending)?;
                    }
                    self.put(pending)?;
                    drop(credit);
                }
                Ok(Chunk::Finish(checkpoint)) => return Ok(checkpoint),
                Err(_) => return Err(StoreError::GivenUp),
            }
        }
    }

    fn take(&mut self, change: Change, pending: &mut Pending) -> Result<(), StoreError> {
        match change {
            Change::Row { window_start, window_end, group, state, partial } => {
                let row = self.shape.row((window_start, window_end), group, state, partial, None)?;
                pending.rows.insert(row.key, row);
            }
            Change::Correction { window_start, window_end, group, state, revised_at, partial } => {
                self.keep((window_start, window_end), Correction { group, state, revised_at, partial })?;
            }
            Change::Pane { pane_start, group, state } => {
                let pane = PaneImage::new(pane_start, group, state);
                pending.panes.insert((pane_start, pane.group_hash), pane);
            }
            Change::PanesBefore(before) => {
                self.put(std::mem::take(pending))?;
                self.session.delete_panes(self.pipeline, before)?;
            }
            Change::Letter(letter) => pending.letters.push(letter),
        }
        Ok(())
    }

    fn put(&mut self, pending: Pending) -> Result<(), StoreError> {
        let Pending { rows, panes, letters } = pending;
        if !rows.is_empty() {
            self.put_rows(&rows.into_values().collect::<Vec<_>>())?;
            fail::fail_point!("flush-rows");
        }
        if !panes.is_empty() {
            self.session.put_panes(self.pipeline, &panes.into_values().collect::<Vec<_>>())?;
            fail::fail_point!("flush-panes");
        }
        if !letters.is_empty() {
            self.flushed.letters += self.session.put_letters(self.stream, self.pipeline, &letters)?;
            fail::fail_point!("flush-letters");
        }
        Ok(())
    }

    fn put_rows(&mut self, rows: &[RowImage]) -> Result<(), StoreError> {
        self.session.put_rows(self.pipeline, rows)?;
        self.flushed.rows += rows.len() as u64;
        Ok(())
    }

    fn keep(&mut self, window: (i64, i64), late: Correction) -> Result<(), StoreError> {
        match self.corrections.entry(Key::new(window, &late.group)) {
            Entry::Vacant(entry) => {
                entry.insert(late);
            }
            Entry::Occupied(mut entry) => {
                let kept = entry.get_mut();
                let merged = self.shape.definition.merge(&kept.state, &late.state);
                kept.state = merged.map_err(|why| self.shape.unreadable("late state", window, &why))?;
                kept.revised_at = kept.revised_at.max(late.revised_at);
            }
        }
        Ok(())
    }

    /// Merges the late events into their rows; where there is no row they make it.
    fn correct(&mut self) -> Result<(), StoreError> {
        let all: Vec<(Key, Correction)> = std::mem::take(&mut self.corrections).into_iter().collect();
        let mut all = all.into_iter();
        loop {
            let some: Vec<_> = all.by_ref().take(CORRECTIONS_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            let keys: Vec<Key> = some.iter().map(|(key, _)| *key).collect();
            let stored = self.session.stored(self.pipeline, &keys)?;
            let merged = some.into_iter().zip(stored).map(|((key, late), stored)| self.merge(key, late, stored));
            let rows = merged.collect::<Result<Vec<_>, _>>()?;
            self.put_rows(&rows)?;
            fail::fail_point!("flush-corrections");
        }
    }

    fn merge(&self, key: Key, late: Correction, stored: Option<Stored>) -> Result<RowImage, StoreError> {
        let window = (key.window_start, key.window_end);
        let Some(stored) = stored else {
            return self.shape.row(window, late.group, late.state, late.partial, Some(late.revised_at));
        };
        let again = if is_sabotaged("corrections-twice") {
            self.shape.definition.merge(&stored.state, &late.state).ok()
        } else {
            None
        };
        let merged = self.shape.definition.merge(again.as_ref().unwrap_or(&stored.state), &late.state);
        let state = merged.map_err(|why| self.shape.unreadable("stored or late state", window, &why))?;
        let revised_at = stored.revised_at.map_or(late.revised_at, |before| before.max(late.revised_at));
        self.shape.row(window, late.group, state, stored.partial, Some(revised_at))
    }
}
