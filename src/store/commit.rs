//! One flush: fence, rows, panes, letters, raw events, corrections, account and checkpoint in one transaction.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::alerts::Alerts;
use super::begin;
use super::image::{Key, PaneImage, RowImage, Shape};
use super::live::Changed;
use super::others::{self, OtherRow};
use super::session::{Session, Stored};
use super::{Change, Checkpoint, Chunk, Definition, Flush, Flushed, LETTER_BYTES, StateBytes, StoreError};
use crate::config::{AtLimit, LetterLimit};
use crate::event::{Counted, Letter, RawEvents};
use crate::moments::is_sabotaged;
use crate::window::OtherKey;

/// Bytes of new states of `other` rows that are held until they are written.
const OTHERS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Corrections that are read, merged and written at once.
const CORRECTIONS_AT_ONCE: usize = 1_000;
/// Old rows and raw events that are deleted behind a flush, besides twice as many as it has written.
const PRUNED_AT_ONCE: u64 = 10_000;

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
    flush: &Flush,
    attempt: &mut Option<Attempt>,
) -> Result<Flushed, StoreError> {
    let definition = &*flush.definition;
    let pipeline = definition.pipeline();
    session.begin()?;
    let held = session.hold_fence(pipeline, flush.fence)?;
    let number = held.ok_or_else(|| StoreError::Fenced(pipeline.to_owned()))?;
    fail::fail_point!("flush-begun");
    if let Some(revision) = flush.revise {
        begin::first_commit(session, definition, revision)?;
    }
    let alerts = Alerts::begin(session, flush)?;
    let mut writer = Writer {
        session,
        alerts,
        shape: Shape::new(definition),
        pipeline,
        revision: flush.revision,
        stream: &flush.stream,
        limit: flush.letters,
        letter_bytes: None,
        kept_bytes: 0,
        recount: false,
        corrections: HashMap::new(),
        others: others::Pending::default(),
        changed: flush.live.as_ref().map(|_| Changed::default()),
        flushed: Flushed::default(),
    };
    let checkpoint = writer.write(&flush.chunks)?;
    writer.put_others()?;
    let firing = writer.judge(flush)?;
    writer.correct()?;
    writer.note_letters()?;
    let flushed = Flushed { watermark: checkpoint.watermark, ..writer.flushed };
    let changed = writer.changed;
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
    if let (Some(live), Some(changed)) = (&flush.live, changed) {
        live.committed(changed, checkpoint.watermark);
    }
    if let (Some(news), Some(firing)) = (&flush.alerts.news, firing) {
        news.changed(firing);
    }
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

/// After a flush, and no part of it: what is older than it stays goes; raw events by the newest of the flush, rows by the
/// watermark. Whoever writes so many can have twice as many and some more deleted, so that they do not pile up.
pub(super) fn prune(
    session: &mut impl Session,
    definition: &dyn Definition,
    stream: &str,
    flushed: Flushed,
) -> Result<(), StoreError> {
    if let (Some(retain_ms), Some(newest)) = (definition.raw_retain_ms(), flushed.raw_time) {
        session.prune_raw(stream, newest.saturating_sub(retain_ms), 2 * flushed.raw_events + PRUNED_AT_ONCE)?;
    }
    if let (Some(retain_ms), Some(watermark)) = (definition.retain_ms(), flushed.watermark) {
        let upto = watermark.saturating_sub(retain_ms);
        session.prune_rows(definition.pipeline(), upto, 2 * flushed.rows + PRUNED_AT_ONCE)?;
        session.prune_alerts(definition.pipeline(), upto, 2 * flushed.rows + PRUNED_AT_ONCE)?;
    }
    Ok(())
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
    /// Where rows are to be judged.
    alerts: Option<Alerts<'a>>,
    shape: Shape<'a>,
    pipeline: &'a str,
    revision: u64,
    stream: &'a str,
    limit: LetterLimit,
    /// Bytes of the letters that were there before; asked for when there is one to be kept.
    letter_bytes: Option<u64>,
    /// Bytes of those that this flush has added.
    kept_bytes: u64,
    /// Whether letters have changed that were there.
    recount: bool,
    corrections: HashMap<Key, Correction>,
    others: others::Pending,
    /// Rows for whoever shows them live.
    changed: Option<Changed>,
    flushed: Flushed,
}

fn letter_bytes(letter: &Letter) -> u64 {
    letter.line.len() as u64 + LETTER_BYTES
}

/// What a chunk holds, by table.
#[derive(Default)]
struct Pending {
    gone: Vec<Key>,
    rows: HashMap<Key, RowImage>,
    panes: HashMap<(i64, [u8; 16]), PaneImage>,
    letters: Vec<Letter>,
    again: Vec<Letter>,
    counted: Vec<Counted>,
    raw: Vec<Arc<RawEvents>>,
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
                    if self.others.bytes >= OTHERS_BYTES_MAX {
                        self.put_others()?;
                    }
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
                if let Some(key) = OtherKey::read(&group) {
                    self.others.set((window_start, window_end), key, Some(state), partial);
                    return Ok(());
                }
                let row = self.shape.row((window_start, window_end), group, state, partial, None)?;
                pending.rows.insert(row.key, row);
            }
            Change::Gone { window_start, window_end, group } => {
                if let Some(key) = OtherKey::read(&group) {
                    self.others.set((window_start, window_end), key, None, false);
                    return Ok(());
                }
                if let Some(changed) = &mut self.changed {
                    changed.gone(window_start, self.shape.group((window_start, window_end), &group)?);
                }
                pending.gone.push(Key::new((window_start, window_end), &group));
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
            Change::Letter(letter) if letter.again => pending.again.push(letter),
            Change::Letter(letter) => pending.letters.push(letter),
            Change::Counted(counted) => pending.counted.push(counted),
            Change::FreeLetters { upto_number } => {
                self.session.free_letters(self.pipeline, upto_number)?;
                self.recount = true;
            }
            Change::Raw(raw) => pending.raw.push(raw),
        }
        Ok(())
    }

    fn put(&mut self, pending: Pending) -> Result<(), StoreError> {
        let Pending { gone, rows, panes, letters, again, counted, raw } = pending;
        // No row of a flush is one that goes: a session never becomes again what it was.
        if !gone.is_empty() {
            self.session.delete_rows(self.pipeline, &gone)?;
            fail::fail_point!("flush-gone");
        }
        if !rows.is_empty() {
            let rows: Vec<_> = rows.into_values().collect();
            self.put_rows(&rows)?;
            if let Some(alerts) = &mut self.alerts {
                alerts.written(self.session, &rows)?;
            }
            fail::fail_point!("flush-rows");
        }
        if !panes.is_empty() {
            self.session.put_panes(self.pipeline, &panes.into_values().collect::<Vec<_>>())?;
            fail::fail_point!("flush-panes");
        }
        if !letters.is_empty() {
            self.put_letters(letters)?;
            fail::fail_point!("flush-letters");
        }
        if !again.is_empty() {
            self.flushed.letters += self.session.put_letters(self.stream, self.pipeline, &again, true)?;
            self.flushed.replayed += again.len() as u64;
            self.recount = true;
        }
        if !counted.is_empty() {
            self.session.count_letters(self.stream, self.pipeline, &counted)?;
            fail::fail_point!("flush-counted");
            self.flushed.replayed += counted.len() as u64;
            self.recount = true;
        }
        if !raw.is_empty() {
            self.session.put_raw(self.stream, &raw)?;
            self.flushed.raw_events += raw.iter().map(|raw| raw.events.len() as u64).sum::<u64>();
            self.flushed.raw_time = self.flushed.raw_time.max(raw.iter().map(|raw| raw.ingest_time).max());
        }
        Ok(())
    }

    /// Keeps as many letters as there is room for.
    fn put_letters(&mut self, mut letters: Vec<Letter>) -> Result<(), StoreError> {
        let before = match self.letter_bytes {
            Some(before) => before,
            None => self.session.letter_bytes(self.pipeline)?.cast_unsigned(),
        };
        self.letter_bytes = Some(before);
        match self.limit.beyond {
            // One flush may go beyond it, so that there is always one that can be committed.
            AtLimit::Pause if before >= self.limit.bytes => {
                return Err(StoreError::LettersFull { pipeline: self.pipeline.to_owned(), limit: self.limit.bytes });
            }
            AtLimit::Pause => self.kept_bytes += letters.iter().map(letter_bytes).sum::<u64>(),
            AtLimit::Discard => {
                let all = letters.len();
                letters.retain(|letter| {
                    let bytes = letter_bytes(letter);
                    let kept = before + self.kept_bytes + bytes <= self.limit.bytes;
                    self.kept_bytes += if kept { bytes } else { 0 };
                    kept
                });
                self.flushed.discarded += (all - letters.len()) as u64;
            }
        }
        if letters.is_empty() {
            return Ok(());
        }
        let written = self.session.put_letters(self.stream, self.pipeline, &letters, false)?;
        self.recount |= written < letters.len() as u64;
        self.flushed.letters += written;
        Ok(())
    }

    /// Alerts, before late events correct the rows of closed windows: what a row was when it closed counts. How many
    /// groups fire, where that is news.
    fn judge(&mut self, flush: &Flush) -> Result<Option<BTreeMap<String, u64>>, StoreError> {
        let Some(alerts) = self.alerts.take() else { return Ok(None) };
        let is_known = flush.alerts.news.as_ref().is_none_or(|news| news.firing().borrow().is_some());
        let firing = alerts.finish(self.session, is_known)?;
        fail::fail_point!("flush-alerts");
        Ok(firing)
    }

    fn note_letters(&mut self) -> Result<(), StoreError> {
        let (kept, discarded) = (self.kept_bytes.cast_signed(), self.flushed.discarded.cast_signed());
        if kept > 0 || discarded > 0 {
            self.session.add_letters(self.pipeline, kept, discarded)?;
        }
        if self.recount {
            self.session.recount_letters(self.pipeline)?;
        }
        Ok(())
    }

    fn put_rows(&mut self, rows: &[RowImage]) -> Result<(), StoreError> {
        self.session.put_rows(self.pipeline, self.revision, rows)?;
        self.flushed.rows += rows.len() as u64;
        if let Some(changed) = &mut self.changed {
            for row in rows.iter().filter(|row| !row.other) {
                changed.set(row.key.window_start, row.group_values.clone(), row.result_values.clone());
            }
        }
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

    /// Writes the `other` rows of which states of slots have changed.
    fn put_others(&mut self) -> Result<(), StoreError> {
        let pending = std::mem::take(&mut self.others);
        let rows = others::apply(self.session, &self.shape, pending)?;
        self.put_other_rows(rows)
    }

    fn put_other_rows(&mut self, rows: HashMap<(i64, i64), OtherRow>) -> Result<(), StoreError> {
        let (rows, gone) = others::images(&self.shape, rows)?;
        if !gone.is_empty() {
            self.session.delete_rows(self.pipeline, &gone)?;
        }
        if !rows.is_empty() {
            self.put_rows(&rows)?;
            fail::fail_point!("flush-others");
        }
        Ok(())
    }

    /// Merges the late events into their rows. Where there is no row, they go to the `other` state of their slot in that
    /// window, and where there is none either they make the row.
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
            let rowless = keys.iter().zip(&stored).filter(|(_, stored)| stored.is_none());
            let windows: HashSet<_> = rowless.map(|(key, _)| (key.window_start, key.window_end)).collect();
            let mut others = others::read(self.session, &self.shape, windows.into_iter().collect())?;
            let mut rows = Vec::with_capacity(some.len());
            for ((key, late), stored) in some.into_iter().zip(stored) {
                let window = (key.window_start, key.window_end);
                let other = others.get_mut(&window).filter(|_| stored.is_none());
                if !other.map_or(Ok(false), |other| self.merge_other(window, &late, other))? {
                    rows.push(self.merge(key, late, stored)?);
                }
            }
            self.put_rows(&rows)?;
            self.put_other_rows(others)?;
            fail::fail_point!("flush-corrections");
        }
    }

    /// Whether the late events' slot has an `other` state in their window, which then has them.
    fn merge_other(&self, window: (i64, i64), late: &Correction, other: &mut OtherRow) -> Result<bool, StoreError> {
        let Some(state) = other.slots.of_group(&late.group) else { return Ok(false) };
        let merged = self.shape.definition.merge(state, &late.state);
        *state = merged.map_err(|why| self.shape.unreadable("`other` or late state", window, &why))?;
        other.revised_at = other.revised_at.max(Some(late.revised_at));
        other.has_changed = true;
        Ok(true)
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
