//! Panes: the smallest slices of event time that state is kept for (of tumbling windows: the windows themselves; in the
//! sense of Li et al. 2005, not one firing of a window).

use std::sync::Arc;

use super::bounds::Slots;
use super::event::Event;
use super::groups::{Group, Groups};
use super::state::State;
use super::{AggregateKind, Calendar};

/// A group's state, and the epoch that touched it last.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) touched: u64,
    pub(super) state: State,
}

/// How event time is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Into slices of one length, in ms, also before 1970.
    Even(i64),
    Calendar(Calendar),
}

impl Cut {
    /// The slice that a time falls into.
    fn span_of(&self, time: i64) -> (i64, i64) {
        match self {
            Self::Even(length_ms) => {
                let start = time.saturating_sub(time.rem_euclid(*length_ms));
                (start, start.saturating_add(*length_ms))
            }
            Self::Calendar(calendar) => calendar.span_of(time),
        }
    }
}

/// One slice of event time.
#[derive(Clone, Debug)]
pub(super) struct Pane {
    pub(super) start: i64,
    pub(super) end: i64,
    pub(super) groups: Groups<Kept>,
    /// Whether its groups count among those of open windows.
    counts: bool,
    /// The groups that were touched after the last commit, so that a barrier costs what changed.
    dirty: Vec<u32>,
}

/// All panes that are kept, in the order of time.
#[derive(Clone, Debug)]
pub(super) struct Panes {
    cut: Cut,
    panes: Vec<Pane>,
    /// Where the last event went: the next one mostly goes there, too.
    last: usize,
    last_span: (i64, i64),
    /// The least end of those that count.
    next_end: i64,
    committed: u64,
}

impl Panes {
    pub(super) fn new(cut: Cut) -> Self {
        Self { cut, panes: Vec::new(), last: 0, last_span: (0, 0), next_end: i64::MAX, committed: 0 }
    }

    /// The span of the pane that an event time falls into: `[start, end)`.
    pub(super) fn span_of(&mut self, time: i64) -> (i64, i64) {
        if !(self.last_span.0..self.last_span.1).contains(&time) {
            self.last_span = self.cut.span_of(time);
        }
        self.last_span
    }

    /// Panes that end behind a watermark.
    pub(super) fn open(&self, watermark: i64) -> &[Pane] {
        &self.panes[self.panes.partition_point(|pane| pane.end <= watermark)..]
    }

    /// The panes that begin in `[from, to)`.
    pub(super) fn between(&self, from: i64, to: i64) -> &[Pane] {
        let first = self.panes.partition_point(|pane| pane.start < from);
        let end = self.panes.partition_point(|pane| pane.start < to);
        &self.panes[first..end.max(first)]
    }

    pub(super) fn all(&self) -> &[Pane] {
        &self.panes
    }

    /// Adds an event to the pane of this span; hash and key by which it is there, if it is so among the others.
    pub(super) fn add(
        &mut self,
        span: (i64, i64),
        event: &Event<'_>,
        (slots, kinds): (&mut Slots, &[AggregateKind]),
        epoch: u64,
    ) -> Option<(u64, Arc<[u8]>)> {
        let committed = self.committed;
        self.pane(span).add(event, (slots, kinds), epoch, committed)
    }

    /// Puts back what a checkpoint has.
    pub(super) fn restore(&mut self, span: (i64, i64), hash: u64, key: Arc<[u8]>, state: State, slots: &mut Slots) {
        let groups = &mut self.pane(span).groups;
        slots.enter(hash, &key, &state);
        match groups.find(hash, &key) {
            Some(place) => {
                let kept = &mut groups.get_mut(place).kept;
                slots.leave(hash, &key, &kept.state);
                kept.state = state;
            }
            None => {
                groups.insert(hash, key, Kept { touched: 0, state });
            }
        }
    }

    /// Panes that have ended by then count no longer.
    pub(super) fn end(&mut self, upto: i64, slots: &mut Slots) {
        if upto < self.next_end {
            return;
        }
        self.next_end = i64::MAX;
        for pane in self.panes.iter_mut().filter(|pane| pane.counts) {
            if pane.end > upto {
                self.next_end = self.next_end.min(pane.end);
                continue;
            }
            pane.counts = false;
            pane.groups.iter().for_each(|group| slots.leave(group.hash, &group.key, &group.kept.state));
        }
    }

    /// What earlier epochs touched is in the store.
    pub(super) fn commit(&mut self, committed: u64) {
        self.committed = committed;
        for pane in &mut self.panes {
            let groups = &pane.groups;
            pane.dirty.retain(|slot| groups.get(*slot).kept.touched > committed);
        }
    }

    /// Forgets panes.
    pub(super) fn retain(&mut self, keep: impl FnMut(&Pane) -> bool) {
        self.panes.retain(keep);
    }

    fn pane(&mut self, (start, end): (i64, i64)) -> &mut Pane {
        if self.panes.get(self.last).is_none_or(|pane| pane.start != start) {
            self.last = self.panes.binary_search_by_key(&start, |pane| pane.start).unwrap_or_else(|place| {
                let pane = Pane { start, end, groups: Groups::default(), counts: true, dirty: Vec::new() };
                self.panes.insert(place, pane);
                self.next_end = self.next_end.min(end);
                place
            });
        }
        &mut self.panes[self.last]
    }
}

impl Pane {
    /// The groups that were touched after the last commit.
    pub(super) fn dirty(&self) -> impl Iterator<Item = &Group<Kept>> {
        self.dirty.iter().map(|slot| self.groups.get(*slot))
    }

    /// Whether all of it is in the store.
    pub(super) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    fn add(
        &mut self,
        event: &Event<'_>,
        (slots, kinds): (&mut Slots, &[AggregateKind]),
        epoch: u64,
        committed: u64,
    ) -> Option<(u64, Arc<[u8]>)> {
        let found = self.groups.find(event.hash, event.key);
        if found.is_none() && !slots.has_room(event.hash) {
            let (hash, key) = slots.other(event.hash);
            let place = self.groups.slot(hash, &key, || Kept::new(kinds));
            self.groups.get_mut(place).kept.state.add(event.inputs, event.arena, event.at);
            self.touch(place, epoch, committed);
            return Some((hash, key));
        }
        let place = found.unwrap_or_else(|| {
            let kept = Kept::new(kinds);
            slots.enter(event.hash, event.key, &kept.state);
            self.groups.insert(event.hash, Arc::from(event.key), kept)
        });
        slots.add(event, &mut self.groups.get_mut(place).kept.state);
        self.touch(place, epoch, committed);
        None
    }

    fn touch(&mut self, place: u32, epoch: u64, committed: u64) {
        let kept = &mut self.groups.get_mut(place).kept;
        if kept.touched <= committed {
            self.dirty.push(place);
        }
        kept.touched = epoch;
    }
}

impl Kept {
    fn new(kinds: &[AggregateKind]) -> Self {
        Self { touched: 0, state: State::new(kinds) }
    }
}
