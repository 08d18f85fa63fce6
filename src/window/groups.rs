//! The groups of one span of time, found by the hash that came with the event.

use std::sync::Arc;

use hashbrown::HashTable;

/// One group, and what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Group<T> {
    pub(super) hash: u64,
    pub(super) key: Arc<[u8]>,
    pub(super) kept: T,
}

/// Groups in the order in which they came. None is ever removed: the span goes as a whole.
#[derive(Clone, Debug)]
pub(super) struct Groups<T> {
    index: HashTable<u32>,
    groups: Vec<Group<T>>,
    key_bytes: usize,
}

impl<T> Default for Groups<T> {
    fn default() -> Self {
        Self { index: HashTable::new(), groups: Vec::new(), key_bytes: 0 }
    }
}

impl<T> Groups<T> {
    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Bytes of all keys.
    pub(super) fn key_bytes(&self) -> usize {
        self.key_bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Group<T>> {
        self.groups.iter()
    }

    pub(super) fn get(&self, slot: u32) -> &Group<T> {
        &self.groups[slot as usize]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Group<T> {
        &mut self.groups[slot as usize]
    }

    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.find(spread(hash), |slot| self.get(*slot).is(hash, key)).copied()
    }

    /// Puts a group in that is not there yet.
    pub(super) fn insert(&mut self, hash: u64, key: Arc<[u8]>, kept: T) -> u32 {
        // Four billion groups of one span would be hundreds of GiB.
        let slot = self.groups.len() as u32;
        self.key_bytes += key.len();
        self.groups.push(Group { hash, key, kept });
        let groups = &self.groups;
        self.index.insert_unique(spread(hash), slot, |slot| spread(groups[*slot as usize].hash));
        slot
    }

    /// The group of this key; where there is none yet, one that is made.
    pub(super) fn slot(&mut self, hash: u64, key: &[u8], make: impl FnOnce() -> T) -> u32 {
        match self.find(hash, key) {
            Some(slot) => slot,
            None => self.insert(hash, Arc::from(key), make()),
        }
    }
}

impl<T> Group<T> {
    fn is(&self, hash: u64, key: &[u8]) -> bool {
        self.hash == hash && *self.key == *key
    }
}

/// The outermost bits of the hash chose the actor and are the same for all groups here: the table begins in the middle.
pub(super) fn spread(hash: u64) -> u64 {
    hash.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_one_hash_stay_apart() {
        let mut groups = Groups::default();
        let slots = [b"a", b"b", b"a"].map(|key| groups.slot(7, key, || ()));
        assert_eq!((slots, groups.len(), groups.key_bytes()), ([0, 1, 0], 2, 2));
        assert_eq!((groups.find(7, b"b"), groups.find(7, b"c"), groups.find(8, b"b")), (Some(1), None, None));
    }
}
