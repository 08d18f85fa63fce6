//! One flush: fence, rows, panes, letters, corrections, account and checkpoint in one transaction.

use crossbeam_channel::Receiver;
use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::prelude::*;
use sha2::{Digest, Sha256};

use super::schema::{checkpoints, dead_letters, pane_states, window_results};
use super::upsert::{UpsertPane, UpsertRow};
use super::{Change, Checkpoint, Chunk, Definition, Fence, Flushed, StoreError};
use crate::event::Letter;

/// Bytes of the hash by which tables tell groups apart.
const GROUP_HASH_BYTES: usize = 16;

/// What a flush would have done, and the number of its commit: by it the row tells afterwards whether it was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    number: i64,
    flushed: Flushed,
}

/// Runs a flush to its end. Where it fails the caller must give up the connection, which rolls back; where `attempt` is
/// set as well, it was the commit itself that failed, and `settle` tells how it ended.
pub(super) fn run(
    connection: &mut SqliteConnection,
    definition: &dyn Definition,
    stream: &str,
    fence: Fence,
    chunks: &Receiver<Chunk>,
    attempt: &mut Option<Attempt>,
) -> Result<Flushed, StoreError> {
    AnsiTransactionManager::begin_transaction_sql(connection, "BEGIN IMMEDIATE")?;
    let number = hold_fence(connection, definition.pipeline(), fence)?;
    let mut writer = Writer {
        connection,
        definition,
        pipeline: definition.pipeline(),
        stream,
        corrections: Vec::new(),
        flushed: Flushed::default(),
    };
    let checkpoint = writer.write(chunks)?;
    writer.correct()?;
    let flushed = writer.flushed;
    save_checkpoint(connection, definition.pipeline(), &checkpoint)?;
    *attempt = Some(Attempt { number, flushed });
    AnsiTransactionManager::commit_transaction(connection)?;
    *attempt = None;
    Ok(flushed)
}

/// After a commit that failed: what it did, where it was done all the same.
pub(super) fn settle(
    connection: &mut SqliteConnection,
    pipeline: &str,
    attempt: Attempt,
) -> Result<Option<Flushed>, StoreError> {
    let commits: i64 = checkpoints::table.find(pipeline).select(checkpoints::commits).first(connection)?;
    Ok((commits >= attempt.number).then_some(attempt.flushed))
}

/// Counts the commit where the fence is still ours; its number.
fn hold_fence(connection: &mut SqliteConnection, pipeline: &str, fence: Fence) -> Result<i64, StoreError> {
    let ours = checkpoints::table
        .find(pipeline)
        .filter(checkpoints::epoch.eq(fence.epoch))
        .filter(checkpoints::writer.eq(fence.writer));
    let held = diesel::update(ours).set(checkpoints::commits.eq(checkpoints::commits + 1)).execute(connection)?;
    if held == 0 {
        return Err(StoreError::Fenced(pipeline.to_owned()));
    }
    Ok(checkpoints::table.find(pipeline).select(checkpoints::commits).first(connection)?)
}

fn save_checkpoint(
    connection: &mut SqliteConnection,
    pipeline: &str,
    checkpoint: &Checkpoint,
) -> Result<(), StoreError> {
    let account = &checkpoint.account;
    account.check().map_err(|(taken, ended)| {
        StoreError::Refused(format!(
            "a bug: the account of pipeline {pipeline:?} does not balance at position {}: {taken} events came in and \
             {ended} went out, so that nothing was written",
            checkpoint.position
        ))
    })?;
    diesel::update(checkpoints::table.find(pipeline))
        .set((
            checkpoints::journal_id.eq(checkpoint.journal_id.cast_signed()),
            checkpoints::position.eq(checkpoint.position.cast_signed()),
            checkpoints::watermark.eq(checkpoint.watermark),
            checkpoints::silence_ms.eq(checkpoint.silence_ms),
            checkpoints::first_position.eq(checkpoint.first_position.cast_signed()),
            checkpoints::first_ingest_time.eq(checkpoint.first_ingest_time),
            checkpoints::read.eq(account.read.cast_signed()),
            checkpoints::made.eq(account.made.cast_signed()),
            checkpoints::filtered.eq(account.filtered.cast_signed()),
            checkpoints::aggregated.eq(account.aggregated.cast_signed()),
            checkpoints::late.eq(account.late.cast_signed()),
            checkpoints::dead.eq(account.dead.cast_signed()),
            checkpoints::exploded.eq(account.exploded.cast_signed()),
            checkpoints::skipped.eq(account.skipped.cast_signed()),
            checkpoints::partly_late.eq(account.partly_late.cast_signed()),
        ))
        .execute(connection)?;
    Ok(())
}

/// Late events, kept until all rows of the flush are written: the row that they correct may be among them.
struct Correction {
    window: (i64, i64),
    group: std::sync::Arc<[u8]>,
    state: Vec<u8>,
    revised_at: i64,
    partial: bool,
}

/// A row as it will stand.
struct WindowState<'a> {
    window: (i64, i64),
    group: &'a [u8],
    state: &'a [u8],
    partial: bool,
    revised_at: Option<i64>,
}

#[derive(Insertable)]
#[diesel(table_name = dead_letters, treat_none_as_default_value = false)]
struct LetterRow<'a> {
    stream: &'a str,
    position: i64,
    pipeline: &'a str,
    line: &'a [u8],
    kind: &'a str,
    stage: &'a str,
    reason: &'a str,
    producer: Option<&'a str>,
    peer: Option<&'a str>,
    failed_at: i64,
}

/// The transaction that is open.
struct Writer<'a> {
    connection: &'a mut SqliteConnection,
    definition: &'a dyn Definition,
    pipeline: &'a str,
    stream: &'a str,
    corrections: Vec<Correction>,
    flushed: Flushed,
}

impl Writer<'_> {
    /// Writes chunks as they come; the new checkpoint ends them.
    fn write(&mut self, chunks: &Receiver<Chunk>) -> Result<Checkpoint, StoreError> {
        loop {
            match chunks.recv() {
                Ok(Chunk::Changes(changes, credit)) => {
                    changes.into_iter().try_for_each(|change| self.apply(change))?;
                    drop(credit);
                }
                Ok(Chunk::Finish(checkpoint)) => return Ok(checkpoint),
                Err(_) => return Err(StoreError::GivenUp),
            }
        }
    }

    fn apply(&mut self, change: Change) -> Result<(), StoreError> {
        match change {
            Change::Row { window_start, window_end, group, state, partial } => {
                let window = (window_start, window_end);
                self.put_row(&WindowState { window, group: &group, state: &state, partial, revised_at: None })
            }
            Change::Correction { window_start, window_end, group, state, revised_at, partial } => {
                let window = (window_start, window_end);
                self.corrections.push(Correction { window, group, state, revised_at, partial });
                Ok(())
            }
            Change::Pane { pane_start, group, state } => self.put_pane(pane_start, &group, &state),
            Change::PanesBefore(before) => {
                let old = pane_states::table
                    .filter(pane_states::pipeline.eq(self.pipeline))
                    .filter(pane_states::pane_start.lt(before));
                diesel::delete(old).execute(self.connection)?;
                Ok(())
            }
            Change::Letter(letter) => self.put_letter(&letter),
        }
    }

    /// Replaces what is stored of a group in a window.
    fn put_row(&mut self, row: &WindowState<'_>) -> Result<(), StoreError> {
        let group = self.definition.group(row.group).map_err(|why| self.unreadable("group", row.window, &why))?;
        let (values, events) =
            self.definition.values(row.state).map_err(|why| self.unreadable("state", row.window, &why))?;
        let hash = group_hash_of(row.group);
        let row = UpsertRow {
            pipeline: self.pipeline,
            window_start: row.window.0,
            window_end: row.window.1,
            group_hash: &hash,
            group_key: row.group,
            group_values: &group.to_string(),
            result_values: &values.to_string(),
            events: events.cast_signed(),
            partial: row.partial,
            revised_at: row.revised_at,
            state: row.state,
        };
        row.execute(self.connection)?;
        self.flushed.rows += 1;
        Ok(())
    }

    fn put_pane(&mut self, pane_start: i64, group: &[u8], state: &[u8]) -> Result<(), StoreError> {
        let group_hash = &group_hash_of(group);
        let pane = UpsertPane { pipeline: self.pipeline, pane_start, group_hash, group_key: group, state };
        pane.execute(self.connection)?;
        Ok(())
    }

    /// A line is one letter at most: what is there already is this one.
    fn put_letter(&mut self, letter: &Letter) -> Result<(), StoreError> {
        let row = LetterRow {
            stream: self.stream,
            position: letter.position.cast_signed(),
            pipeline: self.pipeline,
            line: &letter.line,
            kind: letter.kind.name(),
            stage: &letter.stage,
            reason: &letter.reason,
            producer: letter.origin.producer.as_deref(),
            peer: letter.origin.peer.as_deref(),
            failed_at: letter.ingest_time,
        };
        let written = diesel::insert_into(dead_letters::table)
            .values(row)
            .on_conflict((dead_letters::stream, dead_letters::position, dead_letters::pipeline))
            .do_nothing()
            .execute(self.connection)?;
        self.flushed.letters += written as u64;
        Ok(())
    }

    /// Merges the late events into their rows, in the order in which they came; where there is no row they make it.
    fn correct(&mut self) -> Result<(), StoreError> {
        for late in std::mem::take(&mut self.corrections) {
            let hash = group_hash_of(&late.group);
            let stored: Option<(Vec<u8>, bool, Option<i64>)> = window_results::table
                .find((self.pipeline, late.window.0, late.window.1, &hash[..]))
                .select((window_results::state, window_results::partial, window_results::revised_at))
                .first(self.connection)
                .optional()?;
            let (state, partial, revised_at) = match stored {
                None => (late.state, late.partial, late.revised_at),
                Some((stored, partial, before)) => {
                    let merged = self
                        .definition
                        .merge(&stored, &late.state)
                        .map_err(|why| self.unreadable("stored or late state", late.window, &why))?;
                    (merged, partial, before.map_or(late.revised_at, |before| before.max(late.revised_at)))
                }
            };
            let revised_at = Some(revised_at);
            self.put_row(&WindowState { window: late.window, group: &late.group, state: &state, partial, revised_at })?;
        }
        Ok(())
    }

    fn unreadable(&self, what: &str, window: (i64, i64), why: &str) -> StoreError {
        StoreError::Refused(format!(
            "a bug: the {what} of a row of pipeline {:?}, window {} to {} (unix ms), cannot be read: {why}",
            self.pipeline, window.0, window.1
        ))
    }
}

fn group_hash_of(key: &[u8]) -> [u8; GROUP_HASH_BYTES] {
    let mut hash = [0; GROUP_HASH_BYTES];
    hash.copy_from_slice(&Sha256::digest(key)[..GROUP_HASH_BYTES]);
    hash
}
