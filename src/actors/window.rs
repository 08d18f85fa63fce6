//! Window, N a pipeline generation. Owns the state of its share of the groups. Takes rows and barriers; sends late events
//! to DeadLetter, then its barrier there, then what has changed to Flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};

use super::guard::{Ended, Guard, Keeper};
use super::mailbox::{Inlet, Outlet, Parcel};
use super::messages::{Barrier, Changes, Letters, Share, WindowBarrier, WindowRows, change_weight};
use super::stats::ActorStats;
use crate::clock::Clock;
use crate::event::{Letter, LetterKind, PositionError, format_utc};
use crate::limits::BATCH_BYTES_MAX;
use crate::store::Change;
use crate::window::{Gauges, LatePolicy, LateRow, Operator, WindowChange};

/// About what a group's closed row or correction holds.
const CHANGE_BYTES: usize = 256;

/// See the module's documentation.
pub struct Window {
    operator: Operator,
    index: usize,
    late: LatePolicy,
    letters: Outlet<Letters>,
    dead_letter: Outlet<WindowBarrier>,
    flush: Outlet<Changes>,
    /// Bytes that wait for a commit: of all windows, and this one's share of them.
    open_bytes: Arc<AtomicU64>,
    own_open_bytes: u64,
    clock: Clock,
    stats: Arc<ActorStats>,
    keeper: Keeper,
    _guard: Guard,
    _inlets: Vec<Inlet>,
}

/// The sending side.
pub struct WindowOutput {
    pub letters: Outlet<Letters>,
    pub dead_letter: Outlet<WindowBarrier>,
    pub flush: Outlet<Changes>,
    pub open_bytes: Arc<AtomicU64>,
    pub stats: Arc<ActorStats>,
    pub keeper: Keeper,
}

impl Window {
    pub fn new(
        operator: Operator,
        index: usize,
        late: LatePolicy,
        output: WindowOutput,
        clock: Clock,
        inlets: Vec<Inlet>,
    ) -> Self {
        let WindowOutput { letters, dead_letter, flush, open_bytes, stats, keeper } = output;
        let guard = keeper.guard(format!("window {index}"));
        Self {
            operator,
            index,
            late,
            letters,
            dead_letter,
            flush,
            open_bytes,
            own_open_bytes: 0,
            clock,
            stats,
            keeper,
            _guard: guard,
            _inlets: inlets,
        }
    }

    /// Takes rows; the letters about late ones.
    fn take(&mut self, message: &WindowRows) -> Result<Vec<Letter>, PositionError> {
        let began = self.clock.elapsed();
        #[cfg(test)]
        super::tests::sabotage(message);
        self.operator.set_first(message.first);
        let late = self.operator.apply(&message.rows, message.epoch)?;
        let letters = match self.late {
            // Of a letter that was replayed and is late again it must be known.
            LatePolicy::Drop if message.rows.batch.replay.is_none() => Vec::new(),
            _ => late.iter().map(|late| letter(message, late)).collect(),
        };
        if self.note_open_bytes().is_overfull {
            let message = "the groups of open windows have grown to twice their share of `state_limit`; raise it and start or \
                           reload, or see which aggregate keeps so much (text, distinct values, bins of quantiles)";
            self.keeper.end(Ended::Paused(message.to_owned()));
        }
        self.stats.failed(late.len() as u64);
        self.stats.handled(message.rows.rows.len() as u64, self.clock.elapsed().saturating_sub(began));
        Ok(letters)
    }

    /// What has changed since the last commit, in pieces.
    fn pieces(&mut self, barrier: &Barrier) -> Vec<Changes> {
        let began = self.clock.elapsed();
        let (part, mut pieces, mut changes, mut bytes) = (self.index, Vec::new(), Vec::new(), 0);
        self.operator.changes(barrier.epoch, barrier.committed, &mut |change| {
            let change = stored(change);
            bytes += change_weight(&change);
            changes.push(change);
            if bytes >= BATCH_BYTES_MAX {
                bytes = 0;
                let changes = std::mem::take(&mut changes);
                pieces.push(Changes { barrier: barrier.clone(), part, changes, last: None });
            }
        });
        let gauges = self.note_open_bytes();
        let last = Some(Share {
            account: self.operator.account(),
            open_windows: gauges.open_windows as u64,
            groups: gauges.groups as u64,
            state_bytes: gauges.state_bytes as u64,
            other_events: gauges.other_events,
            letter_bytes: 0,
        });
        pieces.push(Changes { barrier: barrier.clone(), part, changes, last });
        self.stats.handled(0, self.clock.elapsed().saturating_sub(began));
        pieces
    }

    fn note_open_bytes(&mut self) -> Gauges {
        let gauges = self.operator.gauges();
        let bytes = ((gauges.closed_rows + gauges.corrections) * CHANGE_BYTES) as u64;
        self.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.open_bytes.fetch_sub(self.own_open_bytes, Ordering::Relaxed);
        self.own_open_bytes = bytes;
        gauges
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.open_bytes.fetch_sub(self.own_open_bytes, Ordering::Relaxed);
    }
}

fn letter(message: &WindowRows, late: &LateRow) -> Letter {
    let row = &message.rows.rows[late.index];
    let reason = format!(
        "event time {}: {}; the watermark was at {}",
        format_utc(row.time),
        late.reason,
        format_utc(row.watermark)
    );
    message.rows.batch.letter(row.row as usize, LetterKind::Late, "window", reason)
}

fn stored(change: WindowChange) -> Change {
    match change {
        WindowChange::Row { window_start, window_end, group, state, partial } => {
            Change::Row { window_start, window_end, group, state, partial }
        }
        WindowChange::Gone { window_start, window_end, group } => Change::Gone { window_start, window_end, group },
        WindowChange::Correction { window_start, window_end, group, state, revised_at, partial } => {
            Change::Correction { window_start, window_end, group, state, revised_at, partial }
        }
        WindowChange::Pane { pane_start, group, state } => Change::Pane { pane_start, group, state },
        WindowChange::PanesBefore(bound) => Change::PanesBefore(bound),
    }
}

impl Actor for Window {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<WindowRows>> for Window {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<WindowRows>, _: &mut Context<Self>) -> Self::Result {
        let taken = self.take(&parcel.message);
        let epoch = parcel.message.epoch;
        let (letters_to, keeper) = (self.letters.clone(), self.keeper.clone());
        let send = async move {
            match taken {
                Ok(letters) if letters.is_empty() => {}
                // Where DeadLetter has ended, the generation has.
                Ok(letters) => drop(letters_to.send(Letters { letters, counted: Vec::new(), raw: None, epoch }).await),
                Err(error) => keeper.end(Ended::Broken(error.to_string())),
            }
            drop(parcel);
        };
        AtomicResponse::new(Box::pin(send.into_actor(self).map(|(), _, _| ())))
    }
}

impl Handler<Parcel<Barrier>> for Window {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Barrier>, _: &mut Context<Self>) -> Self::Result {
        let barrier = parcel.message;
        let pieces = self.pieces(&barrier);
        let (dead_letter, flush) = (self.dead_letter.clone(), self.flush.clone());
        let send = async move {
            // Where one of them has ended, the generation has.
            if dead_letter.send(WindowBarrier(barrier)).await.is_err() {
                return;
            }
            for piece in pieces {
                if flush.send(piece).await.is_err() {
                    return;
                }
            }
        };
        AtomicResponse::new(Box::pin(send.into_actor(self).map(|(), _, _| ())))
    }
}
