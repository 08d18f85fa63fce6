//! The state of one group in one window or pane: versioned bytes that later versions read, and that merge.

use super::aggregate::{AggregateState, AggregateValue, EventOrder};
use super::codec::{Reader, StateError, write_varint};
use super::{AggregateKind, Input};

/// The first byte of an encoded state.
const FORMAT: u8 = 1;
/// About what a group takes besides its key and its aggregates: places in tables with the room that they keep, the
/// allocations of key and state, the events' count.
const GROUP_BYTES: u64 = 176;

/// What is known of a group's events.
#[derive(Clone, Debug)]
pub struct State {
    /// How many there are.
    pub events: u64,
    aggregates: Box<[AggregateState]>,
}

impl State {
    /// Of no event.
    pub fn new(kinds: &[AggregateKind]) -> Self {
        Self { events: 0, aggregates: kinds.iter().map(|kind| AggregateState::new(*kind)).collect() }
    }

    /// Adds an event: its inputs, one for each aggregate, with the text that they point into.
    pub fn add(&mut self, inputs: &[Input], arena: &str, at: EventOrder) {
        debug_assert_eq!(inputs.len(), self.aggregates.len());
        self.events = self.events.saturating_add(1);
        for (aggregate, input) in self.aggregates.iter_mut().zip(inputs) {
            aggregate.add(*input, arena, at);
        }
    }

    /// Merges the state of other events, of the same aggregates.
    pub fn merge(&mut self, other: &Self) {
        debug_assert_eq!(other.aggregates.len(), self.aggregates.len());
        self.events = self.events.saturating_add(other.events);
        for (own, other) in self.aggregates.iter_mut().zip(&other.aggregates) {
            own.merge(other);
        }
    }

    /// Appends the state's bytes. Equal multisets of events give equal values, not always equal bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(FORMAT);
        write_varint(u128::from(self.events), out);
        write_varint(self.aggregates.len() as u128, out);
        for aggregate in &self.aggregates {
            aggregate.encode(out);
        }
    }

    /// Reads what `encode` wrote.
    ///
    /// # Errors
    /// Where the bytes are of a newer version, of other aggregates, or no state at all.
    pub fn decode(kinds: &[AggregateKind], bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader::new(bytes);
        match reader.byte()? {
            FORMAT => {}
            0 => return Err(reader.damaged("no state begins like this")),
            found => return Err(StateError::Newer { found, known: FORMAT }),
        }
        let events = reader.count()?;
        let stored = reader.count()?;
        let stored = usize::try_from(stored).ok().filter(|stored| *stored <= kinds.len());
        let stored = stored.ok_or(StateError::Foreign("it has more aggregates"))?;
        let (there, added) = kinds.split_at(stored);
        let there = there.iter().map(|kind| AggregateState::decode(*kind, &mut reader));
        // Those that were added since have seen nothing.
        let added = added.iter().map(|kind| Ok(AggregateState::new(*kind)));
        let aggregates = there.chain(added).collect::<Result<_, _>>()?;
        if !reader.is_at_end() {
            return Err(reader.damaged("it goes on behind its end"));
        }
        Ok(Self { events, aggregates })
    }

    /// The aggregates' values.
    pub fn values(&self) -> Vec<AggregateValue> {
        self.aggregates.iter().map(AggregateState::value).collect()
    }

    /// The state's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut bytes);
        bytes
    }

    /// Bytes that a state of these aggregates takes at least, in memory, with what its group costs besides its key. Part of
    /// the formula by which groups are counted: it says what is fixed; text, distinct values and bins come besides.
    pub fn fixed_bytes(kinds: &[AggregateKind]) -> u64 {
        let heap = |kind: &AggregateKind| match kind {
            AggregateKind::CountAll | AggregateKind::Count => 0,
            AggregateKind::Sum | AggregateKind::Avg => 64,
            AggregateKind::Min | AggregateKind::Max => 48,
            AggregateKind::First | AggregateKind::Last => 80,
            AggregateKind::CountDistinct => 48,
            AggregateKind::Variance | AggregateKind::Stddev => 144,
            AggregateKind::Quantile(_) => 96,
        };
        GROUP_BYTES + kinds.iter().map(|kind| size_of::<AggregateState>() as u64 + heap(kind)).sum::<u64>()
    }

    /// Bytes of text, distinct values and bins: a function of the events, as the values are.
    pub(super) fn varying_bytes(&self) -> u64 {
        self.aggregates.iter().map(AggregateState::varying_bytes).sum()
    }
}
