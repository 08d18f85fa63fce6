//! Sessions: a group's events, each less than the gap behind another one. An event joins the open sessions of its group
//! that `[time, time + gap)` overlaps, which become one; where there is none it begins one, unless that would be over.
//!
//! An event costs a look at its group's open sessions, of which there is mostly one, and a place in a heap of the times at
//! which groups are looked at again, once a gap; a barrier costs a look at all sessions that are kept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::HashTable;

use super::bounds::Slots;
use super::change::{LateReason, LateRow, WindowChange};
use super::event::Event;
use super::groups::spread;
use super::operator::Shared;
use super::state::State;
use super::{AggregateKind, Rows};

/// Open sessions, and those that have ended and are not yet in the store.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    gap_ms: i64,
    groups: HashTable<Group>,
    /// When which groups are looked at again for sessions that have ended, by their hash.
    looks: BinaryHeap<Reverse<(i64, u64)>>,
    open: usize,
    ended: usize,
}

#[derive(Clone, Debug)]
struct Group {
    hash: u64,
    key: Arc<[u8]>,
    sessions: Vec<Session>,
    /// No open session ends before; the time of its look.
    look: Option<i64>,
}

#[derive(Clone, Debug)]
struct Session {
    start: i64,
    end: i64,
    state: State,
    /// Whether the watermark has passed its end.
    has_ended: bool,
    /// The epoch that touched it last.
    touched: u64,
    /// As what it, and what it was made of, may stand in the store.
    stored: Vec<(i64, i64)>,
    sent: Option<Sent>,
}

/// The last barrier that a session went out with.
#[derive(Clone, Copy, Debug)]
struct Sent {
    epoch: u64,
    span: (i64, i64),
    /// So many of what was stored it replaced.
    replaced: usize,
}

impl Sessions {
    pub(super) fn new(gap_ms: i64) -> Self {
        Self { gap_ms, groups: HashTable::new(), looks: BinaryHeap::new(), open: 0, ended: 0 }
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    /// How many have ended and wait for their commit.
    pub(super) fn ended(&self) -> usize {
        self.ended
    }

    /// Whether a session can have been this long.
    pub(super) fn is_session(&self, start: i64, end: i64) -> bool {
        end.saturating_sub(start) >= self.gap_ms
    }

    /// Puts back what a checkpoint has.
    pub(super) fn restore(
        &mut self,
        (start, end): (i64, i64),
        hash: u64,
        key: &Arc<[u8]>,
        state: State,
        slots: &mut Slots,
    ) {
        slots.enter(hash, key, &state);
        let session = Session { stored: vec![(start, end)], ..Session::new((start, end), state, 0) };
        self.begin(hash, key, session);
    }

    pub(super) fn apply(&mut self, shared: &mut Shared, rows: &Rows, epoch: u64) -> Vec<LateRow> {
        let kinds = Arc::clone(&shared.config.aggregates);
        let mut late = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            self.end(row.watermark, &mut shared.slots);
            let end = row.time.saturating_add(self.gap_ms);
            if shared.config.is_kept(end) {
                late.extend(shared.pass_kept(rows, index, end));
                continue;
            }
            let event = Event::of(rows, index, kinds.len());
            if self.take(&event, (row.time, end), row.watermark, (&mut shared.slots, &kinds), epoch) {
                shared.account.aggregated += 1;
            } else {
                late.push(LateRow { index, reason: LateReason::Ended { end, watermark: row.watermark } });
                shared.account.late += 1;
            }
        }
        self.end(rows.watermark, &mut shared.slots);
        late
    }

    /// Adds an event; whether it was not late.
    fn take(
        &mut self,
        event: &Event<'_>,
        span: (i64, i64),
        watermark: i64,
        (slots, kinds): (&mut Slots, &[AggregateKind]),
        epoch: u64,
    ) -> bool {
        if self.join(event, span, slots, epoch) {
            return true;
        }
        if span.1 <= watermark {
            return false;
        }
        let mut session = Session::new(span, State::new(kinds), epoch);
        if slots.has_room(event.hash) {
            slots.enter(event.hash, event.key, &session.state);
            slots.add(event, &mut session.state);
            self.begin(event.hash, event.key, session);
            return true;
        }
        let (hash, key) = slots.other(event.hash);
        let other = Event { hash, key: &key, ..*event };
        if !self.join(&other, span, slots, epoch) {
            slots.add(&other, &mut session.state);
            self.begin(hash, &key, session);
        }
        true
    }

    /// Adds an event to the open sessions of its group that it touches, which become one; whether there is one.
    fn join(&mut self, event: &Event<'_>, (start, end): (i64, i64), slots: &mut Slots, epoch: u64) -> bool {
        let is_joined = |other: &Session| !other.has_ended && other.start < end && start < other.end;
        let found = self.groups.find_mut(spread(event.hash), |group| group.is(event.hash, event.key));
        let Some(group) = found else { return false };
        let Some(first) = group.sessions.iter().position(is_joined) else { return false };
        let mut at = first + 1;
        while at < group.sessions.len() {
            if !is_joined(&group.sessions[at]) {
                at += 1;
                continue;
            }
            let other = group.sessions.swap_remove(at);
            let session = &mut group.sessions[first];
            slots.leave(event.hash, event.key, &other.state);
            slots.leave(event.hash, event.key, &session.state);
            session.join(other);
            slots.enter(event.hash, event.key, &session.state);
            self.open -= 1;
        }
        let session = &mut group.sessions[first];
        slots.add(event, &mut session.state);
        (session.start, session.end) = (session.start.min(start), session.end.max(end));
        session.touched = epoch;
        true
    }

    /// Sessions that end by then join nothing any more, and count no longer.
    fn end(&mut self, watermark: i64, slots: &mut Slots) {
        while let Some(Reverse((at, hash))) = self.looks.peek().copied()
            && at <= watermark
        {
            self.looks.pop();
            let is_due = |group: &Group| group.hash == hash && group.look == Some(at);
            let Some(group) = self.groups.find_mut(spread(hash), is_due) else { continue };
            for session in group.sessions.iter_mut().filter(|session| !session.has_ended && session.end <= watermark) {
                session.has_ended = true;
                slots.leave(hash, &group.key, &session.state);
                self.open -= 1;
                self.ended += 1;
            }
            group.look = group.sessions.iter().filter(|session| !session.has_ended).map(|session| session.end).min();
            self.looks.extend(group.look.map(|at| Reverse((at, hash))));
        }
    }

    /// Sessions that were touched after the last commit, as they are now, instead of what they were. Those that have ended,
    /// and are in the store, are forgotten.
    pub(super) fn changes(&mut self, shared: &Shared, epoch: u64, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        let Self { gap_ms, groups, ended, .. } = self;
        groups.retain(|group| {
            group.sessions.retain(|session| {
                let is_over = session.has_ended && session.touched <= committed;
                *ended -= usize::from(is_over);
                !is_over
            });
            for session in &mut group.sessions {
                session.commit(committed);
                if session.touched > committed {
                    session.emit(shared, *gap_ms, &group.key, emit);
                    session.sent =
                        Some(Sent { epoch, span: (session.start, session.end), replaced: session.stored.len() });
                }
            }
            !group.sessions.is_empty()
        });
    }

    fn begin(&mut self, hash: u64, key: &[u8], session: Session) {
        let make = || Group { hash, key: Arc::from(key), sessions: Vec::with_capacity(1), look: None };
        let group = self
            .groups
            .entry(spread(hash), |group| group.is(hash, key), |group| spread(group.hash))
            .or_insert_with(make)
            .into_mut();
        self.open += 1;
        if group.look.is_none_or(|look| session.end < look) {
            group.look = Some(session.end);
            self.looks.push(Reverse((session.end, hash)));
        }
        group.sessions.push(session);
    }
}

impl Group {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }
}

impl Session {
    fn new((start, end): (i64, i64), state: State, touched: u64) -> Self {
        Self { start, end, state, has_ended: false, touched, stored: Vec::new(), sent: None }
    }

    fn join(&mut self, other: Self) {
        self.state.merge(&other.state);
        (self.start, self.end) = (self.start.min(other.start), self.end.max(other.end));
        self.stored.extend(other.stored);
        // What the other one was sent as may be in the store, too.
        self.stored.extend(other.sent.map(|sent| sent.span));
    }

    /// As it is now, instead of what it was.
    fn emit(&self, shared: &Shared, gap_ms: i64, key: &Arc<[u8]>, emit: &mut dyn FnMut(WindowChange)) {
        for (window_start, window_end) in self.stored.iter().filter(|stored| **stored != (self.start, self.end)) {
            let (window_start, window_end) = (*window_start, *window_end);
            emit(WindowChange::Gone { window_start, window_end, group: Arc::clone(key) });
        }
        emit(WindowChange::Row {
            window_start: self.start,
            window_end: self.end,
            group: Arc::clone(key),
            state: self.state.to_bytes(),
            // An event less than the gap before may not have been read.
            partial: shared.config.first.is_partial(self.start.saturating_sub(gap_ms)),
        });
    }

    /// What was sent with an earlier epoch is what the store has, if that was committed.
    fn commit(&mut self, committed: u64) {
        if let Some(sent) = self.sent.take()
            && sent.epoch <= committed
        {
            self.stored.drain(..sent.replaced);
            self.stored.push(sent.span);
        }
    }
}
