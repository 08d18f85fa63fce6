//! Letters that are put under replay, or deleted: each in one transaction that also counts what is left.

use super::handle::Replay;
use super::session::Session;
use super::{LetterFilter, StoreError};

/// Puts letters under replay, unless others of their pipeline are. How many.
pub(super) fn number(session: &mut impl Session, replay: &Replay) -> Result<Option<u64>, StoreError> {
    let pipeline = replay.filter.pipeline.as_deref().unwrap_or_default();
    session.begin()?;
    if !session.lock_fence(pipeline, replay.fence)? {
        return Err(StoreError::Fenced(pipeline.to_owned()));
    }
    if session.under_replay(pipeline)? > 0 {
        session.commit()?;
        return Ok(None);
    }
    // Whoever asked may have looked at the journal before the last letters were in it.
    let behind = replay.behind.max(session.last_replay_number(pipeline)?);
    let numbered = session.number_letters(&Replay { behind, ..replay.clone() })?;
    session.note_replay_number(pipeline, behind + numbered)?;
    session.recount_letters(pipeline)?;
    session.commit()?;
    fail::fail_point!("replay-numbered");
    Ok(Some(numbered))
}

/// Deletes letters that are not under replay. How many.
pub(super) fn purge(session: &mut impl Session, filter: &LetterFilter) -> Result<u64, StoreError> {
    session.begin()?;
    let purged = session.purge_letters(filter)?;
    recount(session, filter.pipeline.as_deref())?;
    session.commit()?;
    Ok(purged)
}

/// Deletes some letters that failed before this. How many.
pub(super) fn prune(session: &mut impl Session, before: i64) -> Result<u64, StoreError> {
    session.begin()?;
    let pruned = session.prune_letters(before)?;
    if pruned > 0 {
        recount(session, None)?;
    }
    session.commit()?;
    Ok(pruned)
}

fn recount(session: &mut impl Session, pipeline: Option<&str>) -> Result<(), StoreError> {
    match pipeline {
        Some(pipeline) => session.recount_letters(pipeline),
        None => session.letter_owners()?.iter().try_for_each(|owner| session.recount_letters(owner)),
    }
}
