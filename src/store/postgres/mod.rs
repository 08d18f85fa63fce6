//! PostgreSQL, by diesel-async.
//!
//! Each of the store's threads drives its own connection, as diesel's synchronous interface over an asynchronous
//! connection: a flush waits for chunks and for the server in turn, and nothing else runs on its thread.

mod alerts;
mod bulk;
mod connection;
mod migrate;
mod plain;
mod plain_letters;
mod query;
mod raw;
mod sqlstate;
mod tls;
mod views;

use std::sync::Arc;

use diesel::connection::TransactionManager;
use diesel::prelude::*;

use super::alerts::AlertTables;
use super::image::{Key, PaneImage, RowImage};
use super::merged::StateRow;
use super::schema::checkpoints;
use super::session::{Access, Database, Session, Stored};
use super::{
    Change, Checkpoint, Definition, Fence, Kept, LetterFilter, LetterId, LetterReason, LivePage, LivePlace, Query,
    Registered, Replay, ResultRows, Revision, Standing, StoreError, StoredLetter,
};
use crate::config::PostgresConfig;
use crate::event::{Counted, Letter, Position, RawEvents, Replayed};
use crate::limits::LETTER_LINE_SHOWN_BYTES;
use connection::Connection;
use sqlstate::LastState;
pub(crate) use tls::connector as tls_connector;

/// A row's own address, and how it is one of some.
const ROW_ID: &str = "ctid";
const ROW_IN: (&str, &str) = ("ctid = ANY(ARRAY(", "))");

/// A list of `alerts::Item` as rows.
const LIST: &str = "(SELECT (j->>0)::bigint AS s, (j->>1)::bigint AS e, decode(j->>2, 'hex') AS h, \
                    (j->>3)::bigint AS t FROM json_array_elements(LIST::json) AS x (j)) AS l";
/// Behind it: the row of each. As in `bulk`, one look into the index for each.
const LISTED_ROWS: &str = ", LATERAL (SELECT w.group_values, w.result_values FROM window_results w \
                           WHERE w.pipeline = $1 AND w.window_start = l.s AND w.window_end = l.e \
                           AND w.group_hash = l.h OFFSET 0) AS w";

/// The time, unix ms, as SQL.
const NOW_MS: &str = "(extract(epoch FROM now()) * 1000)::bigint";

/// A database, and how it is reached.
#[derive(Clone)]
pub(super) struct Postgres {
    config: Arc<PostgresConfig>,
    tls: Option<tokio_postgres_rustls::MakeRustlsConnect>,
}

impl Postgres {
    /// Does not connect.
    pub(super) fn new(config: &PostgresConfig) -> Result<Self, StoreError> {
        Ok(Self { config: Arc::new(config.clone()), tls: tls::connector(config)? })
    }
}

impl Database for Postgres {
    type Session = PostgresSession;

    fn connect(&self, access: Access, migrate: bool) -> Result<PostgresSession, StoreError> {
        let (mut connection, state) = connection::connect(&self.config, self.tls.as_ref(), access)?;
        if access == Access::Write {
            let done = migrate::migrate(&mut connection, &self.config.schema, migrate);
            done.map_err(|error| migrate::explained(state.judge(error), &self.config))?;
        }
        let (database, schema) = (self.clone(), self.config.schema.clone());
        Ok(PostgresSession { connection, state, schema, database, raw_days: raw::Days::new() })
    }
}

/// A connection to a database.
pub(super) struct PostgresSession {
    connection: Connection,
    state: LastState,
    schema: String,
    database: Postgres,
    raw_days: raw::Days,
}

impl Session for PostgresSession {
    fn judge(&self, error: StoreError) -> StoreError {
        match self.state.judge(error) {
            StoreError::Refused(message) if message.ends_with("(SQLSTATE 42501)") => StoreError::Refused(format!(
                "{message}; this user needs ALL on schema {:?} and on all of its tables: GRANT both",
                self.schema
            )),
            error => error,
        }
    }

    fn standing(&mut self) -> Result<Standing, StoreError> {
        self.state.clear();
        migrate::standing(&mut self.connection, &self.schema)
    }

    fn checkpoints(&mut self) -> Result<Vec<Kept>, StoreError> {
        plain::all_checkpoints(&mut self.connection)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.state.clear();
        self.raw_days.clear();
        Ok(<Connection as diesel::Connection>::TransactionManager::begin_transaction(&mut self.connection)?)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(<Connection as diesel::Connection>::TransactionManager::commit_transaction(&mut self.connection)?)
    }

    fn registered(&mut self, pipeline: &str) -> Result<Option<Registered>, StoreError> {
        plain::registered(&mut self.connection, pipeline)
    }

    fn all_registered(&mut self) -> Result<Vec<Registered>, StoreError> {
        self.state.clear();
        plain::all_registered(&mut self.connection)
    }

    fn count_rows(&mut self, pipeline: &str) -> Result<u64, StoreError> {
        self.state.clear();
        plain::count_rows(&mut self.connection, pipeline)
    }

    fn amend(&mut self, pipeline: &str, definition: &str, hash: &str, added: &str) -> Result<(), StoreError> {
        plain::amend(&mut self.connection, pipeline, definition, hash, added)
    }

    fn revise(&mut self, pipeline: &str, definition: &str, hash: &str, revision: Revision) -> Result<(), StoreError> {
        plain::revise(&mut self.connection, pipeline, definition, hash, revision)
    }

    fn kept(&mut self, pipeline: &str) -> Result<Option<(i64, Position)>, StoreError> {
        plain::kept(&mut self.connection, pipeline)
    }

    fn last_window_start(&mut self, pipeline: &str) -> Result<Option<i64>, StoreError> {
        plain::last_window_start(&mut self.connection, pipeline)
    }

    fn forget_letters(&mut self, pipeline: &str, position: Position) -> Result<(), StoreError> {
        plain_letters::forget_letters(&mut self.connection, pipeline, position)
    }

    fn drop_pipeline(&mut self, pipeline: &str) -> Result<(), StoreError> {
        plain::drop_pipeline(&mut self.connection, pipeline)?;
        self.drop_alerts(pipeline)?;
        views::remove(&mut self.connection, &self.schema, pipeline)
    }

    fn register(&mut self, pipeline: &str, definition: &str, hash: &str) -> Result<(), StoreError> {
        plain::register(&mut self.connection, pipeline, definition, hash)
    }

    fn ensure_views(&mut self, definition: &dyn Definition) -> Result<(), StoreError> {
        views::ensure(&mut self.connection, &self.schema, definition)
    }

    fn take_fence(&mut self, pipeline: &str, stream: &str) -> Result<Fence, StoreError> {
        plain::take_fence(&mut self.connection, pipeline, stream)
    }

    fn checkpoint(&mut self, pipeline: &str) -> Result<Checkpoint, StoreError> {
        plain::checkpoint(&mut self.connection, pipeline)
    }

    fn open_rows(&mut self, pipeline: &str, after: i64) -> Result<Vec<Change>, StoreError> {
        plain::open_rows(&mut self.connection, pipeline, after)
    }

    fn live_rows(
        &mut self,
        pipeline: &str,
        after: Option<i64>,
        behind: Option<&LivePlace>,
        limit: usize,
    ) -> Result<LivePage, StoreError> {
        plain::live_rows(&mut self.connection, pipeline, after, behind, limit)
    }

    fn states(
        &mut self,
        pipeline: &str,
        span: (Option<i64>, Option<i64>),
        behind: Option<&LivePlace>,
        limit: usize,
    ) -> Result<Vec<StateRow>, StoreError> {
        plain::states(&mut self.connection, pipeline, span, behind, limit)
    }

    fn live_groups(&mut self, pipeline: &str, starts: &[i64]) -> Result<Vec<(i64, String)>, StoreError> {
        plain::live_groups(&mut self.connection, pipeline, starts)
    }

    fn panes(&mut self, pipeline: &str) -> Result<Vec<Change>, StoreError> {
        plain::panes(&mut self.connection, pipeline)
    }

    fn hold_fence(&mut self, pipeline: &str, fence: Fence) -> Result<Option<i64>, StoreError> {
        plain::hold_fence(&mut self.connection, pipeline, fence)
    }

    fn put_rows(&mut self, pipeline: &str, revision: u64, rows: &[RowImage]) -> Result<(), StoreError> {
        bulk::put_rows(&mut self.connection, pipeline, revision, rows)
    }

    fn put_panes(&mut self, pipeline: &str, panes: &[PaneImage]) -> Result<(), StoreError> {
        bulk::put_panes(&mut self.connection, pipeline, panes)
    }

    fn delete_panes(&mut self, pipeline: &str, before: i64) -> Result<(), StoreError> {
        plain::delete_panes(&mut self.connection, pipeline, before)
    }

    fn prune_rows(&mut self, pipeline: &str, upto: i64, at_most: u64) -> Result<(), StoreError> {
        plain::prune_rows(&mut self.connection, pipeline, upto, at_most)
    }

    fn delete_rows(&mut self, pipeline: &str, keys: &[Key]) -> Result<(), StoreError> {
        bulk::delete_rows(&mut self.connection, pipeline, keys)
    }

    fn put_letters(
        &mut self,
        stream: &str,
        pipeline: &str,
        letters: &[Letter],
        again: bool,
    ) -> Result<u64, StoreError> {
        bulk::put_letters(&mut self.connection, stream, pipeline, letters, again)
    }

    fn count_letters(&mut self, stream: &str, pipeline: &str, counted: &[Counted]) -> Result<(), StoreError> {
        bulk::count_letters(&mut self.connection, stream, pipeline, counted)
    }

    fn free_letters(&mut self, pipeline: &str, upto_number: u64) -> Result<(), StoreError> {
        plain_letters::free_letters(&mut self.connection, pipeline, upto_number)
    }

    fn letter_bytes(&mut self, pipeline: &str) -> Result<i64, StoreError> {
        plain_letters::letter_bytes(&mut self.connection, pipeline)
    }

    fn letter_owners(&mut self) -> Result<Vec<String>, StoreError> {
        plain_letters::letter_owners(&mut self.connection)
    }

    fn recount_letters(&mut self, pipeline: &str) -> Result<(), StoreError> {
        plain_letters::recount_letters(&mut self.connection, pipeline)
    }

    fn add_letters(&mut self, pipeline: &str, bytes: i64, discarded: i64) -> Result<(), StoreError> {
        plain_letters::add_letters(&mut self.connection, pipeline, bytes, discarded)
    }

    fn under_replay(&mut self, pipeline: &str) -> Result<i64, StoreError> {
        plain_letters::under_replay(&mut self.connection, pipeline)
    }

    fn lock_fence(&mut self, pipeline: &str, fence: Fence) -> Result<bool, StoreError> {
        plain::lock_fence(&mut self.connection, pipeline, fence)
    }

    fn last_replay_number(&mut self, pipeline: &str) -> Result<u64, StoreError> {
        plain_letters::last_replay_number(&mut self.connection, pipeline)
    }

    fn note_replay_number(&mut self, pipeline: &str, number: u64) -> Result<(), StoreError> {
        plain_letters::note_replay_number(&mut self.connection, pipeline, number)
    }

    fn number_letters(&mut self, replay: &Replay) -> Result<u64, StoreError> {
        plain_letters::number_letters(&mut self.connection, replay)
    }

    fn numbered_letters(
        &mut self,
        pipeline: &str,
        behind: u64,
        bytes: usize,
    ) -> Result<Vec<(u64, Replayed)>, StoreError> {
        self.state.clear();
        plain_letters::numbered_letters(&mut self.connection, pipeline, behind, bytes)
    }

    fn prune_letters(&mut self, before: i64) -> Result<u64, StoreError> {
        plain_letters::prune_letters(&mut self.connection, before)
    }

    fn put_raw(&mut self, stream: &str, raw: &[Arc<RawEvents>]) -> Result<(), StoreError> {
        raw::put(self, stream, raw)
    }

    fn prune_raw(&mut self, stream: &str, before: i64, _at_most: u64) -> Result<(), StoreError> {
        raw::prune(self, stream, before)
    }

    fn stored(&mut self, pipeline: &str, keys: &[Key]) -> Result<Vec<Option<Stored>>, StoreError> {
        bulk::stored(&mut self.connection, pipeline, keys)
    }

    fn save_checkpoint(&mut self, pipeline: &str, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        plain::save_checkpoint(&mut self.connection, pipeline, checkpoint)
    }

    /// The lock waits for a COMMIT that the server may still be working at, although its answer never came.
    fn commits(&mut self, pipeline: &str) -> Result<i64, StoreError> {
        self.state.clear();
        let number = checkpoints::table.find(pipeline).select(checkpoints::commits).for_update();
        Ok(number.first(&mut self.connection)?)
    }

    fn letters(
        &mut self,
        filter: &LetterFilter,
        after: Option<&LetterId>,
        limit: i64,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        self.state.clear();
        plain_letters::letters(&mut self.connection, filter, after, LETTER_LINE_SHOWN_BYTES, limit)
    }

    fn letter(&mut self, id: &LetterId) -> Result<Option<StoredLetter>, StoreError> {
        self.state.clear();
        plain_letters::letter(&mut self.connection, id)
    }

    fn letter_reasons(&mut self, filter: &LetterFilter, limit: i64) -> Result<Vec<LetterReason>, StoreError> {
        self.state.clear();
        plain_letters::letter_reasons(&mut self.connection, filter, limit)
    }

    fn purge_letters(&mut self, filter: &LetterFilter) -> Result<u64, StoreError> {
        plain_letters::purge_letters(&mut self.connection, filter)
    }

    fn rows(&mut self, pipeline: &str, query: &Query) -> Result<ResultRows, StoreError> {
        self.state.clear();
        query::rows(&mut self.connection, &self.schema, pipeline, query)
    }
}
