//! The account: where each event that a pipeline read has ended.

use serde::Serialize;

/// Counts of events since the pipeline began. `read + made = filtered + aggregated + late + dead + exploded + skipped`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Account {
    /// Events decoded from the stream.
    pub read: u64,
    /// Outputs of `explode` and of a custom stage's `Many`.
    pub made: u64,
    /// Dropped by a filter, a custom stage or `missing = "drop"`.
    pub filtered: u64,
    /// In a window, or in the correction of one.
    pub aggregated: u64,
    /// Late and not corrected.
    pub late: u64,
    /// Letters of any other kind.
    pub dead: u64,
    /// Taken apart into those that were made.
    pub exploded: u64,
    /// Passed over on purpose.
    pub skipped: u64,
    /// Of `aggregated`: late for some of their sliding windows.
    pub partly_late: u64,
}

impl Account {
    /// Adds another part.
    pub fn add(&mut self, other: &Account) {
        self.read += other.read;
        self.made += other.made;
        self.filtered += other.filtered;
        self.aggregated += other.aggregated;
        self.late += other.late;
        self.dead += other.dead;
        self.exploded += other.exploded;
        self.skipped += other.skipped;
        self.partly_late += other.partly_late;
    }

    /// Whether each event that came in went out once: what came in, what went out.
    ///
    /// # Errors
    /// Where it does not balance: both sums.
    pub fn check(&self) -> Result<(), (u64, u64)> {
        let taken = self.read + self.made;
        let ended = self.filtered + self.aggregated + self.late + self.dead + self.exploded + self.skipped;
        if taken == ended { Ok(()) } else { Err((taken, ended)) }
    }
}
