//! What a start, a flush and a query ask of a database. Each store answers with its own SQL.

use std::sync::Arc;

use super::alerts::AlertTables;
use super::handle::Replay;
use super::image::{Key, PaneImage, RowImage};
use super::merged::StateRow;
use super::{
    Change, Checkpoint, Definition, Fence, Kept, LetterFilter, LetterId, LetterReason, LivePage, LivePlace, Query,
    Registered, ResultRows, Revision, Standing, StateBytes, StoreError, StoredLetter,
};
use crate::event::{Counted, Letter, Position, RawEvents, Replayed};

/// Whether a connection may write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    /// One that flushes.
    Write,
    /// One that answers queries.
    Read,
}

/// Where a database is, and how it is reached.
pub(super) trait Database: Clone + Send + 'static {
    /// A connection.
    type Session: Session;

    /// Connects; a writing connection also brings the tables up to date where `migrate` says so.
    fn connect(&self, access: Access, migrate: bool) -> Result<Self::Session, StoreError>;
}

/// What is stored of a group in a window, for a correction.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) state: StateBytes,
    pub(super) partial: bool,
    pub(super) revised_at: Option<i64>,
    pub(super) revision: i64,
}

/// One connection. After an error it is dropped, which rolls back whatever was open.
pub(super) trait Session: AlertTables {
    /// What an error really is, by what only the connection knows.
    fn judge(&self, error: StoreError) -> StoreError {
        error
    }

    /// How the tables stand to this version.
    fn standing(&mut self) -> Result<Standing, StoreError>;
    /// All checkpoints.
    fn checkpoints(&mut self) -> Result<Vec<Kept>, StoreError>;

    /// Opens a transaction that writes.
    fn begin(&mut self) -> Result<(), StoreError>;
    /// Ends it.
    fn commit(&mut self) -> Result<(), StoreError>;

    /// A pipeline as it is registered; all but its checkpoint's journal may be read before its fence is taken.
    fn registered(&mut self, pipeline: &str) -> Result<Option<Registered>, StoreError>;
    /// All pipelines that are registered, intakes included, ordered.
    fn all_registered(&mut self) -> Result<Vec<Registered>, StoreError>;
    /// How many rows a pipeline has.
    fn count_rows(&mut self, pipeline: &str) -> Result<u64, StoreError>;
    /// Gives a pipeline another definition, and notes its added aggregates (JSON).
    fn amend(&mut self, pipeline: &str, definition: &str, hash: &str, added: &str) -> Result<(), StoreError>;
    /// Gives a pipeline another definition as a new revision, and deletes what that makes anew.
    fn revise(&mut self, pipeline: &str, definition: &str, hash: &str, revision: Revision) -> Result<(), StoreError>;
    /// Up to when windows are of an older revision, and where that one had come to.
    fn kept(&mut self, pipeline: &str) -> Result<Option<(i64, Position)>, StoreError>;
    /// The latest begin of a window, or pane, that has a row.
    fn last_window_start(&mut self, pipeline: &str) -> Result<Option<i64>, StoreError>;
    /// Deletes the letters behind a position.
    fn forget_letters(&mut self, pipeline: &str, position: Position) -> Result<(), StoreError>;
    /// Deletes all there is of a pipeline, views included.
    fn drop_pipeline(&mut self, pipeline: &str) -> Result<(), StoreError>;
    /// Registers a pipeline.
    fn register(&mut self, pipeline: &str, definition: &str, hash: &str) -> Result<(), StoreError>;
    /// Makes both views, or makes them anew where they have changed. What is not ours is never touched.
    fn ensure_views(&mut self, definition: &dyn Definition) -> Result<(), StoreError>;
    /// Waits for a transaction of a predecessor that is still open, and makes all its later ones fail.
    fn take_fence(&mut self, pipeline: &str, stream: &str) -> Result<Fence, StoreError>;
    /// The checkpoint.
    fn checkpoint(&mut self, pipeline: &str) -> Result<Checkpoint, StoreError>;
    /// The rows of windows that end after this, ordered.
    fn open_rows(&mut self, pipeline: &str, after: i64) -> Result<Vec<Change>, StoreError>;
    /// Rows of windows that end after this (`None`: after the watermark), behind a place.
    fn live_rows(
        &mut self,
        pipeline: &str,
        after: Option<i64>,
        behind: Option<&LivePlace>,
        limit: usize,
    ) -> Result<LivePage, StoreError>;
    /// The groups that have rows in windows that begin at one of these.
    fn live_groups(&mut self, pipeline: &str, starts: &[i64]) -> Result<Vec<(i64, String)>, StoreError>;
    /// States of the current revision, of windows that begin in a span, the latest first, behind a place.
    fn states(
        &mut self,
        pipeline: &str,
        span: (Option<i64>, Option<i64>),
        behind: Option<&LivePlace>,
        limit: usize,
    ) -> Result<Vec<StateRow>, StoreError>;
    /// All panes, ordered.
    fn panes(&mut self, pipeline: &str) -> Result<Vec<Change>, StoreError>;

    /// Counts the commit where the fence is still ours; its number.
    fn hold_fence(&mut self, pipeline: &str, fence: Fence) -> Result<Option<i64>, StoreError>;
    /// Writes rows, or replaces them; no key is twice among them.
    fn put_rows(&mut self, pipeline: &str, revision: u64, rows: &[RowImage]) -> Result<(), StoreError>;
    /// Writes panes, or replaces them; no key is twice among them.
    fn put_panes(&mut self, pipeline: &str, panes: &[PaneImage]) -> Result<(), StoreError>;
    /// Deletes the panes that begin before this.
    fn delete_panes(&mut self, pipeline: &str, before: i64) -> Result<(), StoreError>;
    /// Deletes the oldest rows of windows that end until then, at most so many.
    fn prune_rows(&mut self, pipeline: &str, upto: i64, at_most: u64) -> Result<(), StoreError>;
    /// Deletes rows, those of them that are there.
    fn delete_rows(&mut self, pipeline: &str, keys: &[Key]) -> Result<(), StoreError>;
    /// Writes letters that are new, or such that are there already, and failed again. A line is one letter at most: what
    /// is there already is this one. How many were written.
    fn put_letters(&mut self, stream: &str, pipeline: &str, letters: &[Letter], again: bool)
    -> Result<u64, StoreError>;
    /// Notes that letters were replayed and have counted.
    fn count_letters(&mut self, stream: &str, pipeline: &str, counted: &[Counted]) -> Result<(), StoreError>;
    /// Takes letters out of their replay, up to a number.
    fn free_letters(&mut self, pipeline: &str, upto_number: u64) -> Result<(), StoreError>;
    /// Bytes of a pipeline's letters, as they were last counted.
    fn letter_bytes(&mut self, pipeline: &str) -> Result<i64, StoreError>;
    /// The pipelines that may have letters, ordered.
    fn letter_owners(&mut self) -> Result<Vec<String>, StoreError>;
    /// Counts them anew.
    fn recount_letters(&mut self, pipeline: &str) -> Result<(), StoreError>;
    /// Adds to their bytes, and to the number of those that were not kept.
    fn add_letters(&mut self, pipeline: &str, bytes: i64, discarded: i64) -> Result<(), StoreError>;
    /// How many letters are under replay.
    fn under_replay(&mut self, pipeline: &str) -> Result<i64, StoreError>;
    /// Whether the fence is still ours; it stays so until this transaction ends.
    fn lock_fence(&mut self, pipeline: &str, fence: Fence) -> Result<bool, StoreError>;
    /// The last number that a letter of a pipeline had under replay.
    fn last_replay_number(&mut self, pipeline: &str) -> Result<u64, StoreError>;
    /// Notes it.
    fn note_replay_number(&mut self, pipeline: &str, number: u64) -> Result<(), StoreError>;
    /// Puts letters under replay, numbered in the order of their positions; how many.
    fn number_letters(&mut self, replay: &Replay) -> Result<u64, StoreError>;
    /// The letters under replay behind a number, as many as come to about so many bytes, at least one.
    fn numbered_letters(
        &mut self,
        pipeline: &str,
        behind: u64,
        bytes: usize,
    ) -> Result<Vec<(u64, Replayed)>, StoreError>;
    /// Deletes some of the letters that failed before this and are not under replay; how many.
    fn prune_letters(&mut self, before: i64) -> Result<u64, StoreError>;
    /// Writes raw events; one that is there already is this one.
    fn put_raw(&mut self, stream: &str, raw: &[Arc<RawEvents>]) -> Result<(), StoreError>;
    /// Outside of any transaction: deletes raw events that the journal took before this, the oldest first, at most so
    /// many (or whole days).
    fn prune_raw(&mut self, stream: &str, before: i64, at_most: u64) -> Result<(), StoreError>;
    /// What is stored under these keys, in their order.
    fn stored(&mut self, pipeline: &str, keys: &[Key]) -> Result<Vec<Option<Stored>>, StoreError>;
    /// Writes the checkpoint.
    fn save_checkpoint(&mut self, pipeline: &str, checkpoint: &Checkpoint) -> Result<(), StoreError>;
    /// The number of the last commit, once no transaction of this pipeline is under way.
    fn commits(&mut self, pipeline: &str) -> Result<i64, StoreError>;

    /// Letters of a filter, the latest positions of each stream first, behind one of them.
    fn letters(
        &mut self,
        filter: &LetterFilter,
        after: Option<&LetterId>,
        limit: i64,
    ) -> Result<Vec<StoredLetter>, StoreError>;
    /// One letter, whole.
    fn letter(&mut self, id: &LetterId) -> Result<Option<StoredLetter>, StoreError>;
    /// How many letters have which reason, the most frequent first.
    fn letter_reasons(&mut self, filter: &LetterFilter, limit: i64) -> Result<Vec<LetterReason>, StoreError>;
    /// Deletes letters; how many.
    fn purge_letters(&mut self, filter: &LetterFilter) -> Result<u64, StoreError>;

    /// Rows of a pipeline's view: the latest windows first, then by group.
    fn rows(&mut self, pipeline: &str, query: &Query) -> Result<ResultRows, StoreError>;
}

/// One thread's connection. After a failure it is closed, which rolls back whatever was open, and the next job makes a
/// new one: no error can leave half a transaction behind, and a store that was away is found again.
pub(super) struct Line<D: Database> {
    database: D,
    access: Access,
    migrate: bool,
    session: Option<D::Session>,
}

impl<D: Database> Line<D> {
    /// Connects when the first job comes.
    pub(super) fn new(database: D, access: Access, migrate: bool) -> Self {
        Self { database, access, migrate, session: None }
    }

    /// Runs a job. A panic (a bug in a pipeline's states, say) fails this job and no other.
    pub(super) fn run<T>(
        &mut self,
        job: impl FnOnce(&mut D::Session) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.database.connect(self.access, self.migrate)?,
        };
        // The session goes in by value: where the job fails it is closed in there, and nobody sees it again.
        let work = move || match job(&mut session) {
            Ok(value) => Ok((value, session)),
            Err(error) => Err(session.judge(error)),
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        let (value, session) = done.unwrap_or_else(|panic| Err(panicked(&*panic)))?;
        self.session = Some(session);
        Ok(value)
    }

    /// Runs a job that changes nothing. A connection that has waited since the last one may have been closed meanwhile:
    /// then it is asked again over a new one.
    pub(super) fn ask<T>(&mut self, job: impl Fn(&mut D::Session) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let waited = self.session.is_some();
        match self.run(&job) {
            Err(StoreError::Away(_)) if waited => self.run(job),
            answer => answer,
        }
    }
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> StoreError {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    StoreError::Refused(format!("a bug: the store panicked: {}", said.unwrap_or("it does not say why")))
}

/// A row of an open window, as a start reads it: window start and end, group key, state, partial.
pub(super) type OpenRow = (i64, i64, Vec<u8>, Vec<u8>, bool);

pub(super) fn open_row((window_start, window_end, group, state, partial): OpenRow) -> Change {
    Change::Row { window_start, window_end, group: Arc::from(group), state, partial }
}

pub(super) fn open_pane((pane_start, group, state): (i64, Vec<u8>, Vec<u8>)) -> Change {
    Change::Pane { pane_start, group: Arc::from(group), state }
}
