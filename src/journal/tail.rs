//! What the journal knows as of its last block: events so far, ingest time, the producers and their numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Producer, block::u64_at};
use crate::event::is_replay_name;
use crate::limits::PRODUCER_FORGOTTEN_AFTER_MS;

/// The journal's knowledge as of its last block. Each segment begins with it, so that deleting old ones forgets nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    pub events: u64,
    pub last_ingest_time: Option<i64>,
    pub producers: HashMap<Arc<str>, Producer>,
}

impl Tail {
    /// Takes the next block's numbers.
    pub(super) fn take(&mut self, events: u64, ingest_time: i64, producer: Option<(&Arc<str>, u64)>) {
        self.events = events;
        self.last_ingest_time = Some(ingest_time);
        let Some((name, number)) = producer else { return };
        let now = Producer { number, seen: ingest_time };
        match self.producers.get_mut(name) {
            Some(known) => *known = now,
            None => drop(self.producers.insert(Arc::clone(name), now)),
        }
    }

    /// Forgets producers that sent nothing for long, by the journal's own time. What replays have numbered is never
    /// forgotten: a letter of the same number would be taken for one that the journal has.
    pub(super) fn forget_old_producers(&mut self) {
        let Some(now) = self.last_ingest_time else { return };
        let fresh = |producer: &Producer| now.saturating_sub(producer.seen) <= PRODUCER_FORGOTTEN_AFTER_MS;
        self.producers.retain(|name, producer| fresh(producer) || is_replay_name(name));
    }

    /// The table as bytes: number, seen, length and name of each.
    pub(super) fn encode_producers(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, producer) in &self.producers {
            out.extend_from_slice(&producer.number.to_le_bytes());
            out.extend_from_slice(&producer.seen.to_le_bytes());
            out.extend_from_slice(&(name.len() as u64).to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        out
    }

    /// Reads the table; `None` where it is none.
    pub(super) fn decode_producers(mut bytes: &[u8]) -> Option<HashMap<Arc<str>, Producer>> {
        let mut producers = HashMap::new();
        while !bytes.is_empty() {
            let (fixed, rest) = bytes.split_at_checked(24)?;
            let (name, rest) = rest.split_at_checked(usize::try_from(u64_at(fixed, 16)).ok()?)?;
            let producer = Producer { number: u64_at(fixed, 0), seen: u64_at(fixed, 8) as i64 };
            producers.insert(Arc::from(std::str::from_utf8(name).ok()?), producer);
            bytes = rest;
        }
        Some(producers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_as_it_was_written_and_refused_when_cut() {
        let mut tail = Tail::default();
        for (number, name) in ["", "a", "röhre/1"].into_iter().enumerate() {
            tail.take(number as u64, -7, Some((&Arc::from(name), number as u64)));
        }
        tail.take(9, -6, Some((&Arc::from("a"), 40)));
        let bytes = tail.encode_producers();
        let read = Tail::decode_producers(&bytes).unwrap();
        assert_eq!(read, tail.producers);
        assert_eq!(read["a"], Producer { number: 40, seen: -6 });
        assert_eq!(Tail::decode_producers(&bytes[..bytes.len() - 1]), None);
    }

    #[test]
    fn a_producer_is_forgotten_after_thirty_days_and_not_before() {
        let mut tail = Tail::default();
        tail.take(1, 0, Some((&Arc::from("old"), 1)));
        tail.take(1, 0, Some((&Arc::from("@replay/p"), 1)));
        tail.take(2, 1, Some((&Arc::from("edge"), 2)));
        tail.take(3, PRODUCER_FORGOTTEN_AFTER_MS + 1, None);
        tail.forget_old_producers();
        assert!(tail.producers.contains_key("edge"));
        assert!(tail.producers.contains_key("@replay/p"), "numbers of replays are kept for ever");
        assert!(!tail.producers.contains_key("old"));
    }
}
