//! Sessions: a group's events, each less than the gap behind another one. An event joins the open sessions of its group
//! that `[time, time + gap)` overlaps, which become one; where there is none it begins one, unless that would be over.
//!
//! An event costs a look at its group's open sessions, of which there is mostly one; a barrier costs a look at all
//! sessions that are kept.

use std::sync::Arc;

use hashbrown::HashTable;

use super::change::{LateReason, LateRow, WindowChange};
use super::event::Event;
use super::groups::spread;
use super::operator::Shared;
use super::state::State;
use super::{AggregateKind, Rows};

/// Ended sessions are counted again when the watermark has gone on by this part of a gap.
const COUNTS_A_GAP: i64 = 8;

/// Open sessions, and those that have ended and are not yet in the store.
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    gap_ms: i64,
    groups: HashTable<Group>,
    gauges: SessionGauges,
    /// The watermark by which ended sessions were counted last.
    counted: i64,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SessionGauges {
    /// Open or not.
    pub(super) sessions: usize,
    /// Of those: ended, by the last count.
    pub(super) ended: usize,
    /// Bytes of their groups' keys.
    pub(super) key_bytes: usize,
}

#[derive(Clone, Debug)]
struct Group {
    hash: u64,
    key: Arc<[u8]>,
    sessions: Vec<Session>,
}

#[derive(Clone, Debug)]
struct Session {
    start: i64,
    end: i64,
    state: State,
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
        Self { gap_ms, groups: HashTable::new(), gauges: SessionGauges::default(), counted: i64::MIN }
    }

    pub(super) fn gauges(&self) -> SessionGauges {
        self.gauges
    }

    /// Whether a session can have been this long.
    pub(super) fn is_session(&self, start: i64, end: i64) -> bool {
        end.saturating_sub(start) >= self.gap_ms
    }

    /// Puts back what a checkpoint has.
    pub(super) fn restore(&mut self, (start, end): (i64, i64), hash: u64, key: &Arc<[u8]>, state: State) {
        let session = Session { start, end, state, touched: 0, stored: vec![(start, end)], sent: None };
        self.gauges.sessions += 1;
        self.group(hash, key).sessions.push(session);
    }

    pub(super) fn apply(&mut self, shared: &mut Shared, rows: &Rows, epoch: u64) -> Vec<LateRow> {
        let kinds = Arc::clone(&shared.config.aggregates);
        let mut late = Vec::new();
        for (index, row) in rows.rows.iter().enumerate() {
            let end = row.time.saturating_add(self.gap_ms);
            if shared.config.is_kept(end) {
                late.extend(shared.pass_kept(rows, index, end));
                continue;
            }
            let event = Event::of(rows, index, kinds.len());
            if self.take(&event, (row.time, end), row.watermark, &kinds, epoch) {
                shared.account.aggregated += 1;
            } else {
                late.push(LateRow { index, reason: LateReason::Ended { end, watermark: row.watermark } });
                shared.account.late += 1;
            }
        }
        if rows.watermark >= self.counted.saturating_add(self.gap_ms / COUNTS_A_GAP) {
            self.count(rows.watermark);
        }
        late
    }

    /// Adds an event; whether it was not late.
    fn take(
        &mut self,
        event: &Event<'_>,
        (start, end): (i64, i64),
        watermark: i64,
        kinds: &[AggregateKind],
        epoch: u64,
    ) -> bool {
        let is_joined = |other: &Session| other.end > watermark && other.start < end && start < other.end;
        let found = self.groups.find_mut(spread(event.hash), |group| group.is(event.hash, event.key));
        if let Some(group) = found
            && let Some(first) = group.sessions.iter().position(is_joined)
        {
            let mut at = first + 1;
            while at < group.sessions.len() {
                if is_joined(&group.sessions[at]) {
                    let other = group.sessions.swap_remove(at);
                    group.sessions[first].join(other);
                    self.gauges.sessions -= 1;
                } else {
                    at += 1;
                }
            }
            group.sessions[first].add(event, (start, end), epoch);
            return true;
        }
        if end <= watermark {
            return false;
        }
        let mut session =
            Session { start, end, state: State::new(kinds), touched: epoch, stored: Vec::new(), sent: None };
        session.add(event, (start, end), epoch);
        self.gauges.sessions += 1;
        self.group(event.hash, event.key).sessions.push(session);
        true
    }

    /// Sessions that were touched after the last commit, as they are now, instead of what they were. Those that have ended,
    /// and are in the store, are forgotten.
    pub(super) fn changes(&mut self, shared: &Shared, epoch: u64, committed: u64, emit: &mut dyn FnMut(WindowChange)) {
        let is_over = |session: &Session| session.touched <= committed && session.end <= shared.watermark;
        self.groups.retain(|group| {
            group.sessions.retain(|session| !is_over(session));
            !group.sessions.is_empty()
        });
        let gap_ms = self.gap_ms;
        for group in &mut self.groups {
            for session in &mut group.sessions {
                session.commit(committed);
                if session.touched <= committed {
                    continue;
                }
                let span = (session.start, session.end);
                for gone in session.stored.iter().filter(|stored| **stored != span) {
                    let (window_start, window_end) = *gone;
                    emit(WindowChange::Gone { window_start, window_end, group: Arc::clone(&group.key) });
                }
                emit(WindowChange::Row {
                    window_start: session.start,
                    window_end: session.end,
                    group: Arc::clone(&group.key),
                    state: session.state.to_bytes(),
                    // An event less than the gap before may not have been read.
                    partial: shared.config.first.is_partial(session.start.saturating_sub(gap_ms)),
                });
                session.sent = Some(Sent { epoch, span, replaced: session.stored.len() });
            }
        }
        self.count(shared.watermark);
    }

    fn count(&mut self, watermark: i64) {
        let mut gauges = SessionGauges::default();
        for group in &self.groups {
            gauges.sessions += group.sessions.len();
            gauges.ended += group.sessions.iter().filter(|session| session.end <= watermark).count();
            gauges.key_bytes += group.key.len();
        }
        (self.gauges, self.counted) = (gauges, watermark);
    }

    fn group(&mut self, hash: u64, key: &[u8]) -> &mut Group {
        let make = || Group { hash, key: Arc::from(key), sessions: Vec::with_capacity(1) };
        self.groups
            .entry(spread(hash), |group| group.is(hash, key), |group| spread(group.hash))
            .or_insert_with(make)
            .into_mut()
    }
}

impl Group {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }
}

impl Session {
    fn add(&mut self, event: &Event<'_>, (start, end): (i64, i64), epoch: u64) {
        self.state.add(event.inputs, event.arena, event.at);
        (self.start, self.end) = (self.start.min(start), self.end.max(end));
        self.touched = epoch;
    }

    fn join(&mut self, other: Self) {
        self.state.merge(&other.state);
        (self.start, self.end) = (self.start.min(other.start), self.end.max(other.end));
        self.stored.extend(other.stored);
        // What the other one was sent as may be in the store, too.
        self.stored.extend(other.sent.map(|sent| sent.span));
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
