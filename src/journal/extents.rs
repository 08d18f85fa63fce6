//! Which positions lie in how many bytes: how much of a journal is behind a reader.

use std::sync::Arc;

use parking_lot::Mutex;

use crate::event::Position;

/// The positions and bytes of a journal's segments, as of the last write.
#[derive(Clone, Default)]
pub struct Extents(Arc<Mutex<Vec<Extent>>>);

/// One segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub first: Position,
    pub upto: Position,
    pub bytes: u64,
}

impl Extents {
    /// The segments, the oldest first.
    pub(super) fn set(&self, segments: impl Iterator<Item = Extent>) {
        let mut extents = self.0.lock();
        extents.clear();
        extents.extend(segments);
    }

    /// Bytes that the journal still holds of the records behind a position. Within one segment, records count as if
    /// they were of one size.
    pub fn bytes_behind(&self, position: Position) -> u64 {
        let behind = |extent: &Extent| {
            let records = (extent.upto + 1).saturating_sub(extent.first);
            let left = extent.upto.saturating_sub(position).min(records);
            if left == records { extent.bytes } else { scaled(extent.bytes, left, records) }
        };
        self.0.lock().iter().filter(|extent| extent.upto > position && extent.upto >= extent.first).map(behind).sum()
    }
}

/// A part of an amount, which is no more than the amount.
fn scaled(amount: u64, part: u64, whole: u64) -> u64 {
    let scaled = u128::from(amount) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(scaled).unwrap_or(amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_the_segments_behind_a_position() {
        let extents = Extents::default();
        assert_eq!(extents.bytes_behind(0), 0);
        let extent = |first, upto, bytes| Extent { first, upto, bytes };
        // The last segment has a head and no record yet.
        extents.set([extent(11, 20, 1_000), extent(21, 24, 400), extent(25, 24, 4_096)].into_iter());
        let behind = [0, 10, 15, 20, 23, 24, 99].map(|position| extents.bytes_behind(position));
        assert_eq!(behind, [1_400, 1_400, 900, 400, 100, 0, 0]);
    }
}
