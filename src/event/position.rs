//! Positions: where a record stands in its stream.

use std::fmt;

/// Where a record stands in its stream. The first record has position 1; 0 is "before all records".
pub type Position = u64;

/// The records `after + 1 ..= upto`. Whoever takes records in order extends such a range, so that a lost or repeated
/// batch is a loud error at the next one, never a wrong number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PositionRange {
    /// The last position before the range.
    pub after: Position,
    /// The last position of the range; equal to `after` where it is empty.
    pub upto: Position,
}

/// A range that does not follow the one before it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("records {next} do not follow position {upto}: {}", if next.after > *upto { "a hole" } else { "an overlap" })]
pub struct PositionError {
    /// Where the records before ended.
    pub upto: Position,
    /// What came instead of what follows.
    pub next: PositionRange,
}

impl PositionRange {
    /// `count` records behind `after`.
    pub fn behind(after: Position, count: u64) -> Self {
        Self { after, upto: after + count }
    }

    /// How many records the range holds.
    pub fn count(&self) -> u64 {
        self.upto - self.after
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.upto == self.after
    }

    /// Takes the range that follows.
    ///
    /// # Errors
    /// Where `next` leaves a hole or repeats a record.
    pub fn extend(&mut self, next: PositionRange) -> Result<(), PositionError> {
        if next.after != self.upto {
            return Err(PositionError { upto: self.upto, next });
        }
        self.upto = next.upto;
        Ok(())
    }
}

impl fmt::Display for PositionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..={}", self.after + 1, self.upto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_what_follows_and_refuses_holes_and_overlaps() {
        let mut range = PositionRange::behind(0, 5);
        range.extend(PositionRange::behind(5, 2)).unwrap();
        assert_eq!(range, PositionRange { after: 0, upto: 7 });
        let hole = range.extend(PositionRange::behind(8, 1)).unwrap_err();
        assert_eq!(hole.to_string(), "records 9..=9 do not follow position 7: a hole");
        let overlap = range.extend(PositionRange::behind(6, 3)).unwrap_err();
        assert!(overlap.to_string().ends_with("an overlap"));
        assert_eq!(range.upto, 7);
    }
}
