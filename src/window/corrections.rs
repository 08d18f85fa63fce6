//! Corrections: the small states of late events, which the next flush merges into the stored rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::AggregateKind;
use super::event::Event;
use super::groups::{Group, Groups};
use super::state::State;

/// The late events of one group in one closed window.
#[derive(Clone, Debug)]
pub(super) struct Correction {
    pub(super) state: State,
    /// The greatest ingest time among them.
    pub(super) revised_at: i64,
}

/// By the window's start and end.
type Windows = BTreeMap<(i64, i64), Groups<Correction>>;

/// Takes a window's start and end, and what late events make of a group in it.
type Emit<'a> = dyn FnMut((i64, i64), &Group<Correction>) + 'a;

/// By epoch, since what a commit has merged must never be merged again, and what it has not must come again.
#[derive(Clone, Debug, Default)]
pub(super) struct Corrections {
    /// In the order of epochs.
    epochs: Vec<(u64, Windows)>,
}

impl Corrections {
    /// Adds a late event to the window of this span.
    pub(super) fn add(&mut self, window: (i64, i64), event: &Event<'_>, kinds: &[AggregateKind], epoch: u64) {
        let groups = self.epoch(epoch).entry(window).or_default();
        let make = || Correction { state: State::new(kinds), revised_at: i64::MIN };
        let slot = groups.slot(event.hash, event.key, make);
        let correction = &mut groups.get_mut(slot).kept;
        correction.state.add(event.inputs, event.arena, event.at);
        correction.revised_at = correction.revised_at.max(event.ingest_time);
    }

    /// What earlier epochs corrected is in the store.
    pub(super) fn commit(&mut self, committed: u64) {
        self.epochs.retain(|(epoch, _)| *epoch > committed);
    }

    /// All corrections that are not committed, each with its window's span; merged over the epochs.
    pub(super) fn emit(&self, emit: &mut Emit<'_>) {
        let Some(((_, first), others)) = self.epochs.split_first() else { return };
        if others.is_empty() {
            return emit_windows(first, emit);
        }
        let mut merged = first.clone();
        for (_, windows) in others {
            for (span, groups) in windows {
                merge_groups(merged.entry(*span).or_default(), groups);
            }
        }
        emit_windows(&merged, emit);
    }

    /// How many groups of windows have corrections.
    pub(super) fn len(&self) -> usize {
        self.epochs.iter().flat_map(|(_, windows)| windows.values()).map(Groups::len).sum()
    }

    /// Bytes of their keys.
    pub(super) fn key_bytes(&self) -> usize {
        self.epochs.iter().flat_map(|(_, windows)| windows.values()).map(Groups::key_bytes).sum()
    }

    fn epoch(&mut self, epoch: u64) -> &mut Windows {
        if self.epochs.last().is_none_or(|(last, _)| *last != epoch) {
            self.epochs.push((epoch, Windows::new()));
        }
        let last = self.epochs.len() - 1;
        &mut self.epochs[last].1
    }
}

fn emit_windows(windows: &Windows, emit: &mut Emit<'_>) {
    for (span, groups) in windows {
        for group in groups.iter() {
            emit(*span, group);
        }
    }
}

fn merge_groups(own: &mut Groups<Correction>, other: &Groups<Correction>) {
    for group in other.iter() {
        match own.find(group.hash, &group.key) {
            Some(slot) => {
                let kept = &mut own.get_mut(slot).kept;
                kept.state.merge(&group.kept.state);
                kept.revised_at = kept.revised_at.max(group.kept.revised_at);
            }
            None => {
                own.insert(group.hash, Arc::clone(&group.key), group.kept.clone());
            }
        }
    }
}
