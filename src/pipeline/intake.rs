//! The intake of a stream: takes every line, makes letters of those that are no events.

use crate::event::{Account, Batch, Letter, LetterKind, Position, PositionError, PositionRange};

/// A pipeline without windows that owns the stream's decode letters.
pub struct IntakeOperator {
    range: PositionRange,
    account: Account,
}

impl IntakeOperator {
    /// Begins behind `position`.
    pub fn new(position: Position) -> Self {
        Self { range: PositionRange::behind(position, 0), account: Account::default() }
    }

    /// The last record's position.
    pub fn position(&self) -> Position {
        self.range.upto
    }

    /// Lines: read, of those good ones (as aggregated) and letters (as dead); since `new`.
    pub fn account(&self) -> Account {
        self.account
    }

    /// Takes a batch.
    ///
    /// # Errors
    /// Where the batch does not follow the one before.
    pub fn apply(&mut self, batch: &Batch) -> Result<Vec<Letter>, PositionError> {
        self.range.extend(batch.range)?;
        if batch.replay.is_some() {
            return Ok(Vec::new());
        }
        let (lines, bad) = (batch.decoded.len() as u64, batch.decoded.bad.len() as u64);
        self.account.read += lines;
        self.account.aggregated += lines - bad;
        self.account.dead += bad;
        Ok(batch
            .decoded
            .bad
            .iter()
            .map(|(row, error)| batch.letter(*row as usize, LetterKind::Decode, "decode", error.to_string()))
            .collect())
    }
}
