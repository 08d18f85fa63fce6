//! A look at a journal's files from outside, also while a daemon writes them: where it begins and ends.

use std::path::Path;

use super::JournalError;
use super::recover::walk;
use super::scan::Scan;
use super::segment::list;
use crate::event::Position;

/// What a journal has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Its identity.
    pub id: u64,
    /// Its first position (last + 1 where it has none).
    pub first: Position,
    /// Its last position, as far as its blocks are whole.
    pub last: Position,
}

/// Looks at the journal in a folder; `None` where there is none.
///
/// # Errors
/// Where its files cannot be read.
pub fn look(dir: &Path) -> Result<Option<Look>, JournalError> {
    let segments = match list(dir) {
        Ok(segments) => segments,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::at(dir)(error)),
    };
    let (Some(first), Some(last)) = (segments.first().copied(), segments.last().copied()) else { return Ok(None) };
    let mut newest = Scan::open(dir, last)?;
    let last = walk(&mut newest, |_, _| ())?;
    Ok(Some(Look { id: newest.head.seal.journal, first, last }))
}

/// Ingest time of a journal's first record, unix ms. `None` where there is none, or it cannot be read, which whoever reads
/// on from there is told.
pub fn first_ingest_time(dir: &Path) -> Option<i64> {
    let first = list(dir).ok()?.first().copied()?;
    let mut oldest = Scan::open(dir, first).ok()?;
    oldest.peek().ok()?.map(|(header, _)| header.ingest_time)
}
