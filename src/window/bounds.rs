//! How much open windows may hold. Groups fall by their hash into slots, and each slot has its share of the groups and of
//! the bytes. Both are counted event by event, by a formula over the values: so what is beyond a share depends neither on
//! the number of window actors nor on cuts, flushes or restarts.
//!
//! Where a slot's share is used up, events of groups that are not in count in the slot's `other` state: a group of the
//! window under a key that no group has, which itself counts towards no share.

use std::sync::Arc;

use super::AggregateKind;
use super::event::Event;
use super::group::hash_key;
use super::state::State;

/// Groups fall into so many slots, where there may be many of them.
const SLOTS: u8 = 64;
/// With fewer groups than this, there is one slot: shares would be too small.
const ONE_SLOT_BELOW: u64 = 100_000;
/// Groups that are in may make a slot grow to so many times its share of bytes.
const OVERFULL: u64 = 2;

/// The first byte of the keys of `other` states; no group's key begins like this.
const OTHER: u8 = 0xff;

/// A key under which the flush stores the `other` states of all slots of a window, as one row.
pub const OTHER_ROW: [u8; 1] = [OTHER];

/// The limits of a pipeline's open windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    slots: u8,
    /// Of each slot.
    share: Usage,
}

/// What is held, or may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Groups, each as often as it is in a window (of sliding windows: in a pane).
    pub groups: u64,
    /// Bytes of their states, by the formula.
    pub bytes: u64,
}

impl Bounds {
    /// So many groups, and bytes of state, in all open windows together.
    pub fn new(max_groups: u64, state_limit: u64) -> Self {
        let slots = if max_groups < ONE_SLOT_BELOW { 1 } else { SLOTS };
        let share = |all: u64| (all / u64::from(slots)).max(1);
        Self { slots, share: Usage { groups: share(max_groups), bytes: share(state_limit) } }
    }

    #[cfg(test)]
    pub(super) fn of_shares(slots: u8, share: Usage) -> Self {
        Self { slots, share }
    }

    /// Which of `windows` window actors keeps a group of this hash. Only where it is kept depends on their number.
    pub fn window_of(&self, hash: u64, windows: usize) -> usize {
        usize::from(slot_of(hash, self.slots)) * windows / usize::from(self.slots)
    }

    /// The same of a key as it is stored, of an `other` state, too.
    pub fn window_of_key(&self, key: &[u8], windows: usize) -> usize {
        match OtherKey::read(key) {
            Some(other) => usize::from(other.slot) * windows / usize::from(other.slots),
            None => self.window_of(hash_key(key), windows),
        }
    }
}

/// The key of a slot's `other` state: it holds of how many slots it is one, so that a change of that is noticed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct OtherKey {
    slots: u8,
    slot: u8,
}

impl OtherKey {
    /// The slot of a stored key; `None` for that of a group.
    pub fn read(key: &[u8]) -> Option<Self> {
        match key {
            [OTHER, slots, slot] if slot < slots => Some(Self { slots: *slots, slot: *slot }),
            _ => None,
        }
    }

    /// Whether a group, by its key, falls into this slot.
    pub fn holds(self, group: &[u8]) -> bool {
        slot_of(hash_key(group), self.slots) == self.slot
    }

    /// The key.
    pub fn bytes(self) -> [u8; 3] {
        [OTHER, self.slots, self.slot]
    }
}

/// Whether a key is that of an `other` state.
pub(super) fn is_other(key: &[u8]) -> bool {
    key.first() == Some(&OTHER)
}

/// What the open windows of an operator hold, by slot.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    bounds: Bounds,
    /// Of a group's bytes: what is the same for all.
    fixed_bytes: u64,
    /// Whether there is something besides that and the key.
    grows: bool,
    used: Box<[Usage]>,
    all: Usage,
    /// Of each slot: the key of its `other` state, and the hash of that.
    others: Box<[(u64, Arc<[u8]>)]>,
    other_events: u64,
}

impl Slots {
    pub(super) fn new(bounds: Bounds, kinds: &[AggregateKind]) -> Self {
        let other = |slot| {
            let key = OtherKey { slots: bounds.slots, slot }.bytes();
            (hash_key(&key), Arc::from(key))
        };
        let used = vec![Usage::default(); usize::from(bounds.slots)].into();
        Self {
            bounds,
            fixed_bytes: State::fixed_bytes(kinds),
            grows: kinds.iter().any(|kind| kind.grows()),
            used,
            all: Usage::default(),
            others: (0..bounds.slots).map(other).collect(),
            other_events: 0,
        }
    }

    /// Whether a group that is not in a window may come in.
    pub(super) fn has_room(&self, hash: u64) -> bool {
        let (used, share) = (&self.used[self.slot(hash)], &self.bounds.share);
        used.groups < share.groups && used.bytes < share.bytes
    }

    /// Hash and key under which an event of a group counts that may not.
    pub(super) fn other(&mut self, hash: u64) -> (u64, Arc<[u8]>) {
        self.other_events += 1;
        self.others[self.slot(hash)].clone()
    }

    /// A group has come into a window; `other` states are not counted.
    pub(super) fn enter(&mut self, hash: u64, key: &[u8], state: &State) {
        let bytes = self.bytes(key, state);
        self.change(hash, key, |used| {
            used.groups += 1;
            used.bytes += bytes;
        });
    }

    /// A group's window is none of the open ones any more.
    pub(super) fn leave(&mut self, hash: u64, key: &[u8], state: &State) {
        let bytes = self.bytes(key, state);
        self.change(hash, key, |used| {
            used.groups -= 1;
            used.bytes -= bytes;
        });
    }

    /// Adds an event to the state of a group that is in.
    pub(super) fn add(&mut self, event: &Event<'_>, state: &mut State) {
        let before = if self.grows { state.varying_bytes() } else { 0 };
        state.add(event.inputs, event.arena, event.at);
        if self.grows {
            let after = state.varying_bytes();
            self.change(event.hash, event.key, |used| used.bytes = used.bytes + after - before);
        }
    }

    fn bytes(&self, key: &[u8], state: &State) -> u64 {
        self.fixed_bytes + key.len() as u64 + if self.grows { state.varying_bytes() } else { 0 }
    }

    fn change(&mut self, hash: u64, key: &[u8], change: impl Fn(&mut Usage)) {
        if !is_other(key) {
            let slot = self.slot(hash);
            change(&mut self.used[slot]);
            change(&mut self.all);
        }
    }

    /// What all slots hold.
    pub(super) fn all(&self) -> Usage {
        self.all
    }

    /// Events of groups that had no room.
    pub(super) fn other_events(&self) -> u64 {
        self.other_events
    }

    /// Whether groups that are in have made a slot grow to twice its share.
    pub(super) fn is_overfull(&self) -> bool {
        self.used.iter().any(|used| used.bytes > self.bounds.share.bytes.saturating_mul(OVERFULL))
    }

    fn slot(&self, hash: u64) -> usize {
        usize::from(slot_of(hash, self.bounds.slots))
    }
}

/// By the outermost bits; what is below them finds the group in its table.
fn slot_of(hash: u64, slots: u8) -> u8 {
    ((u128::from(hash) * u128::from(slots)) >> 64) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_groups_have_one_slot_and_many_have_64() {
        assert_eq!(Bounds::new(99_999, 1_000), Bounds { slots: 1, share: Usage { groups: 99_999, bytes: 1_000 } });
        assert_eq!(Bounds::new(200_000, 64_000), Bounds { slots: 64, share: Usage { groups: 3_125, bytes: 1_000 } });
    }

    #[test]
    fn each_slot_has_one_window_whatever_their_number_and_its_other_state_has_the_same() {
        for (slots, windows) in [(1, 1), (1, 4), (64, 1), (64, 2), (64, 3), (64, 4)] {
            let bounds = Bounds::of_shares(slots, Usage::default());
            let mut slots = Slots::new(bounds, &[]);
            let mut seen = vec![0; windows];
            for group in 0..1_000_u32 {
                let key = group.to_le_bytes();
                let (_, other) = slots.other(hash_key(&key));
                let window = bounds.window_of(hash_key(&key), windows);
                assert_eq!(bounds.window_of_key(&key, windows), window);
                assert_eq!(bounds.window_of_key(&other, windows), window);
                assert!(OtherKey::read(&other).unwrap().holds(&key));
                seen[window] += 1;
            }
            let busy = if slots.bounds.slots == 1 { 1 } else { windows };
            assert_eq!(seen.iter().filter(|count| **count > 1_000 / 5).count(), busy, "{seen:?}");
        }
    }

    #[test]
    fn no_other_key_is_that_of_a_group() {
        assert!(super::super::decode_key(&OTHER_ROW).is_err());
        for not_of_a_slot in [&OTHER_ROW[..], &[OTHER, 64], &[OTHER, 64, 64], &[OTHER, 1, 0, 0], &[1, 64, 3], &[]] {
            assert_eq!(OtherKey::read(not_of_a_slot), None);
        }
    }
}
