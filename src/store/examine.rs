//! A look at a store from outside: how its tables stand to this version, and which checkpoints it keeps.

use std::collections::HashSet;

use super::StoreError;
use super::session::{Access, Database, Line, Session};
use crate::event::Position;

/// How a store's tables stand to this version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There are none.
    Missing,
    /// An older version made them.
    Older,
    /// They are this version's.
    Current,
    /// A newer version made them, with this schema.
    Newer(String),
}

impl Standing {
    /// By the versions of migrations that this program knows, and those that were applied.
    pub(super) fn of(known: &HashSet<String>, applied: HashSet<String>) -> Self {
        match applied.difference(known).max() {
            Some(newer) => Self::Newer(newer.clone()),
            None if known.is_subset(&applied) => Self::Current,
            None => Self::Older,
        }
    }
}

/// A checkpoint, as far as a journal is concerned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    /// Whose; `@<stream>` of a stream's intake.
    pub pipeline: String,
    /// The stream.
    pub stream: String,
    /// Of which journal; 0 before the first commit.
    pub journal_id: u64,
    /// Up to where.
    pub position: Position,
}

/// What a look at a store shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examined {
    /// Its tables.
    pub standing: Standing,
    /// By name.
    pub checkpoints: Vec<Kept>,
}

impl Examined {
    /// Of a store that is not there yet.
    pub(super) fn nothing() -> Self {
        Self { standing: Standing::Missing, checkpoints: Vec::new() }
    }
}

pub(super) fn examine<D: Database>(database: &D) -> Result<Examined, StoreError> {
    Line::new(database.clone(), Access::Read, false).run(|session| {
        let standing = session.standing()?;
        let checkpoints = if standing == Standing::Missing { Vec::new() } else { session.checkpoints()? };
        Ok(Examined { standing, checkpoints })
    })
}
