//! PostgreSQL, by diesel-async.
//!
//! Each of the store's threads drives its own connection, as diesel's synchronous interface over an asynchronous
//! connection: a flush waits for chunks and for the server in turn, and nothing else runs on its thread.

mod bulk;
mod connection;
mod migrate;
mod plain;
mod query;
mod sqlstate;
mod tls;
mod views;

use std::sync::Arc;

use diesel::connection::TransactionManager;
use diesel::prelude::*;

use super::image::{Key, PaneImage, RowImage};
use super::schema::checkpoints;
use super::session::{Access, Database, Session, Stored};
use super::{
    Change, Checkpoint, Definition, Fence, LetterFilter, LetterId, LetterReason, Query, ResultRows, StoreError,
    StoredLetter,
};
use crate::config::PostgresConfig;
use crate::event::Letter;
use crate::limits::LETTER_LINE_SHOWN_BYTES;
use connection::Connection;
use sqlstate::LastState;
pub(crate) use tls::connector as tls_connector;

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
        Ok(PostgresSession { connection, state, schema: self.config.schema.clone() })
    }
}

/// A connection to a database.
pub(super) struct PostgresSession {
    connection: Connection,
    state: LastState,
    schema: String,
}

impl Session for PostgresSession {
    fn judge(&self, error: StoreError) -> StoreError {
        self.state.judge(error)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        self.state.clear();
        Ok(<Connection as diesel::Connection>::TransactionManager::begin_transaction(&mut self.connection)?)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(<Connection as diesel::Connection>::TransactionManager::commit_transaction(&mut self.connection)?)
    }

    fn definition_hash(&mut self, pipeline: &str) -> Result<Option<String>, StoreError> {
        plain::definition_hash(&mut self.connection, pipeline)
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

    fn open_rows(&mut self, pipeline: &str, watermark: Option<i64>) -> Result<Vec<Change>, StoreError> {
        plain::open_rows(&mut self.connection, pipeline, watermark)
    }

    fn panes(&mut self, pipeline: &str) -> Result<Vec<Change>, StoreError> {
        plain::panes(&mut self.connection, pipeline)
    }

    fn hold_fence(&mut self, pipeline: &str, fence: Fence) -> Result<Option<i64>, StoreError> {
        plain::hold_fence(&mut self.connection, pipeline, fence)
    }

    fn put_rows(&mut self, pipeline: &str, rows: &[RowImage]) -> Result<(), StoreError> {
        bulk::put_rows(&mut self.connection, pipeline, rows)
    }

    fn put_panes(&mut self, pipeline: &str, panes: &[PaneImage]) -> Result<(), StoreError> {
        bulk::put_panes(&mut self.connection, pipeline, panes)
    }

    fn delete_panes(&mut self, pipeline: &str, before: i64) -> Result<(), StoreError> {
        plain::delete_panes(&mut self.connection, pipeline, before)
    }

    fn put_letters(&mut self, stream: &str, pipeline: &str, letters: &[Letter]) -> Result<u64, StoreError> {
        bulk::put_letters(&mut self.connection, stream, pipeline, letters)
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
        plain::letters(&mut self.connection, filter, after, LETTER_LINE_SHOWN_BYTES, limit)
    }

    fn letter(&mut self, id: &LetterId) -> Result<Option<StoredLetter>, StoreError> {
        self.state.clear();
        plain::letter(&mut self.connection, id)
    }

    fn letter_reasons(&mut self, filter: &LetterFilter, limit: i64) -> Result<Vec<LetterReason>, StoreError> {
        self.state.clear();
        plain::letter_reasons(&mut self.connection, filter, limit)
    }

    fn purge_letters(&mut self, filter: &LetterFilter) -> Result<u64, StoreError> {
        self.state.clear();
        plain::purge_letters(&mut self.connection, filter)
    }

    fn rows(&mut self, pipeline: &str, query: &Query) -> Result<ResultRows, StoreError> {
        self.state.clear();
        query::rows(&mut self.connection, &self.schema, pipeline, query)
    }
}
