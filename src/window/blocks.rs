//! Merged panes. Of a sliding window's panes those that have closed are merged in blocks of four, those in blocks of four
//! blocks, and so on, aligned to the epoch: the base intervals of Arasu and Widom (2004, "Resource Sharing in Continuous
//! Sliding-Window Aggregates"), with four children instead of two.
//!
//! A window of `n` panes is at most `6 log4 n` blocks and panes (an hour by the second: 36, on average 18), and as many
//! merges a group. Each pane is merged into its blocks once, when a window first needs them: one merge a group and level.
//! The blocks take a third of the panes' bytes besides. A late event is added to the blocks that hold its pane.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AggregateKind;
use super::event::Event;
use super::groups::Groups;
use super::panes::{Pane, Panes};
use super::state::State;

/// Children of a block.
const FAN: i64 = 4;

/// The blocks of panes, by level (from blocks of four panes on) and place.
#[derive(Clone, Debug)]
pub(super) struct Blocks {
    every_ms: i64,
    levels: Vec<BTreeMap<i64, Groups<State>>>,
}

/// A piece of a window.
pub(super) enum Part<'a> {
    Block(&'a Groups<State>),
    Pane(&'a Pane),
}

impl Blocks {
    /// For windows of so many panes.
    pub(super) fn new(every_ms: i64, panes: i64) -> Self {
        // A block that fills a window is never part of the next one.
        let levels = (1..).take_while(|level| FAN.pow(*level) < panes).count();
        Self { every_ms, levels: vec![BTreeMap::new(); levels] }
    }

    /// Groups in all blocks.
    pub(super) fn groups(&self) -> usize {
        self.levels.iter().flat_map(BTreeMap::values).map(Groups::len).sum()
    }

    /// Adds a late event: its pane has closed.
    pub(super) fn add(&mut self, pane_start: i64, event: &Event<'_>, kinds: &[AggregateKind]) {
        let mut place = pane_start.div_euclid(self.every_ms);
        for level in &mut self.levels {
            place = place.div_euclid(FAN);
            if let Some(groups) = level.get_mut(&place) {
                let slot = groups.slot(event.hash, event.key, || State::new(kinds));
                groups.get_mut(slot).kept.add(event.inputs, event.arena, event.at);
            }
        }
    }

    /// Forgets blocks that begin before: no window needs them any more.
    pub(super) fn forget_before(&mut self, start: i64) {
        let mut place = start.div_euclid(self.every_ms);
        for level in &mut self.levels {
            place = -(-place).div_euclid(FAN);
            *level = level.split_off(&place);
        }
    }

    /// What the panes from `from` to `to` are made of. Those up to `closed` have closed.
    pub(super) fn cover<'a>(&'a mut self, panes: &'a Panes, from: i64, to: i64, closed: i64) -> Vec<Part<'a>> {
        let mut chosen: Vec<(usize, i64)> = Vec::new();
        let Some(first) = panes.between(from, to).first() else { return Vec::new() };
        let mut place = first.start.div_euclid(self.every_ms);
        let end = to.div_euclid(self.every_ms);
        let closed = closed.div_euclid(self.every_ms).min(end);
        while place < end {
            let fits = |level: &u32| place.rem_euclid(FAN.pow(*level)) == 0 && place + FAN.pow(*level) <= closed;
            let level = (1..=self.levels.len() as u32).take_while(fits).last().unwrap_or(0);
            let length = FAN.pow(level);
            if level > 0 {
                self.merge(panes, level as usize, place / length);
            }
            chosen.push((level as usize, place.div_euclid(length)));
            place += length;
        }
        let mut parts = Vec::with_capacity(chosen.len());
        for (level, place) in chosen {
            match level {
                0 => parts.extend(self.pane(panes, place).map(Part::Pane)),
                _ => parts.extend(self.levels[level - 1].get(&place).map(Part::Block)),
            }
        }
        parts
    }

    /// Makes a block, and those it is made of, where they are not there yet.
    fn merge(&mut self, panes: &Panes, level: usize, place: i64) {
        if self.levels[level - 1].contains_key(&place) {
            return;
        }
        let mut merged = Groups::default();
        for child in place * FAN..(place + 1) * FAN {
            if level == 1 {
                self.pane(panes, child).into_iter().for_each(|pane| Part::Pane(pane).merge_into(&mut merged));
            } else {
                self.merge(panes, level - 1, child);
                let block = self.levels[level - 2].get(&child);
                block.into_iter().for_each(|block| Part::Block(block).merge_into(&mut merged));
            }
        }
        self.levels[level - 1].insert(place, merged);
    }

    fn pane<'a>(&self, panes: &'a Panes, place: i64) -> Option<&'a Pane> {
        let start = place * self.every_ms;
        panes.between(start, start + 1).first()
    }
}

impl Part<'_> {
    /// Adds its groups to others.
    pub(super) fn merge_into(&self, merged: &mut Groups<State>) {
        match self {
            Self::Block(groups) => groups.iter().for_each(|group| add(merged, group.hash, &group.key, &group.kept)),
            Self::Pane(pane) => {
                pane.groups.iter().for_each(|group| add(merged, group.hash, &group.key, &group.kept.state));
            }
        }
    }

    /// Adds one of its groups, where it has that.
    pub(super) fn merge_one_into(&self, hash: u64, key: &Arc<[u8]>, merged: &mut Groups<State>) {
        let state = match self {
            Self::Block(groups) => groups.find(hash, key).map(|slot| &groups.get(slot).kept),
            Self::Pane(pane) => pane.groups.find(hash, key).map(|slot| &pane.groups.get(slot).kept.state),
        };
        state.into_iter().for_each(|state| add(merged, hash, key, state));
    }
}

fn add(merged: &mut Groups<State>, hash: u64, key: &Arc<[u8]>, state: &State) {
    match merged.find(hash, key) {
        Some(slot) => merged.get_mut(slot).kept.merge(state),
        None => {
            merged.insert(hash, Arc::clone(key), state.clone());
        }
    }
}
