//! The embedded store: SQLite, in one file.

mod alerts;
mod connection;
mod migrate;
mod plain;
mod plain_letters;
mod query;
mod raw;
mod upsert;
mod views;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use diesel::connection::{AnsiTransactionManager, TransactionManager};
use diesel::prelude::*;
use diesel::upsert::excluded;

use super::alerts::AlertTables;
use super::image::{Key, PaneImage, RowImage};
use super::merged::StateRow;
use super::schema::{checkpoints, dead_letters, window_results};
use super::session::{Access, Database, Session, Stored};
use super::{
    Change, Checkpoint, Definition, Fence, Kept, LetterFilter, LetterId, LetterReason, LivePage, LivePlace, Query,
    Registered, Replay, ResultRows, Revision, Standing, StoreError, StoredLetter,
};
use crate::event::{Counted, Letter, Position, RawEvents, Replayed};
use crate::limits::LETTER_LINE_SHOWN_BYTES;
use upsert::{UpsertPane, UpsertRow};

/// A row's own address, and how it is one of some.
const ROW_ID: &str = "rowid";
const ROW_IN: (&str, &str) = ("rowid IN (", ")");

/// A list of `alerts::Item` as rows.
const LIST: &str = "(SELECT value->>0 AS s, value->>1 AS e, unhex(value->>2) AS h, value->>3 AS t \
                    FROM json_each(LIST)) AS l";
/// Behind it: the row of each.
const LISTED_ROWS: &str = " CROSS JOIN window_results w ON w.pipeline = $1 AND w.window_start = l.s \
                           AND w.window_end = l.e AND w.group_hash = l.h";

/// The time, unix ms, as SQL.
const NOW_MS: &str = "CAST(unixepoch('subsec') * 1000 AS INTEGER)";

/// A file.
#[derive(Clone)]
pub(super) struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// Neither opens nor makes it.
    pub(super) fn new(path: &Path) -> Result<Self, StoreError> {
        let path = std::path::absolute(path)
            .map_err(|error| StoreError::Refused(format!("{} is no path: {error}", path.display())))?;
        Ok(Self { path })
    }
}

impl Database for Sqlite {
    type Session = SqliteSession;

    fn connect(&self, access: Access, migrate: bool) -> Result<SqliteSession, StoreError> {
        let mut connection = connection::connect(&self.path, access).map_err(|error| at(&self.path, error))?;
        if access == Access::Write {
            migrate::migrate(&mut connection, &self.path, migrate).map_err(|error| at(&self.path, error))?;
        }
        Ok(SqliteSession { connection })
    }
}

/// SQLite's messages do not name the file.
fn at(path: &Path, error: StoreError) -> StoreError {
    let name = path.display().to_string();
    let named = |message: String| if message.contains(&name) { message } else { format!("{name}: {message}") };
    match error {
        StoreError::Away(message) => StoreError::Away(named(message)),
        StoreError::Refused(message) => StoreError::Refused(named(message)),
        error => error,
    }
}

/// A connection to the file.
pub(super) struct SqliteSession {
    pub(super) connection: SqliteConnection,
}

#[derive(Insertable)]
#[diesel(table_name = dead_letters, treat_none_as_default_value = false)]
struct LetterRow<'a> {
    stream: &'a str,
    position: i64,
    pipeline: &'a str,
    line: &'a [u8],
    kind: &'a str,
    stage: &'a str,
    reason: &'a str,
    producer: Option<&'a str>,
    peer: Option<&'a str>,
    failed_at: i64,
    attempts: i64,
    ingested_at: i64,
}

impl Session for SqliteSession {
    fn standing(&mut self) -> Result<Standing, StoreError> {
        migrate::standing(&mut self.connection)
    }

    fn checkpoints(&mut self) -> Result<Vec<Kept>, StoreError> {
        plain::all_checkpoints(&mut self.connection)
    }

    fn begin(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::begin_transaction_sql(&mut self.connection, "BEGIN IMMEDIATE")?)
    }

    fn commit(&mut self) -> Result<(), StoreError> {
        Ok(AnsiTransactionManager::commit_transaction(&mut self.connection)?)
    }

    fn registered(&mut self, pipeline: &str) -> Result<Option<Registered>, StoreError> {
        plain::registered(&mut self.connection, pipeline)
    }

    fn all_registered(&mut self) -> Result<Vec<Registered>, StoreError> {
        plain::all_registered(&mut self.connection)
    }

    fn count_rows(&mut self, pipeline: &str) -> Result<u64, StoreError> {
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
        views::remove(&mut self.connection, pipeline)
    }

    fn register(&mut self, pipeline: &str, definition: &str, hash: &str) -> Result<(), StoreError> {
        plain::register(&mut self.connection, pipeline, definition, hash)
    }

    fn ensure_views(&mut self, definition: &dyn Definition) -> Result<(), StoreError> {
        views::ensure(&mut self.connection, definition)
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
        for row in rows {
            UpsertRow { pipeline, revision: revision.cast_signed(), row }.execute(&mut self.connection)?;
        }
        Ok(())
    }

    fn put_panes(&mut self, pipeline: &str, panes: &[PaneImage]) -> Result<(), StoreError> {
        for pane in panes {
            UpsertPane { pipeline, pane }.execute(&mut self.connection)?;
        }
        Ok(())
    }

    fn delete_panes(&mut self, pipeline: &str, before: i64) -> Result<(), StoreError> {
        plain::delete_panes(&mut self.connection, pipeline, before)
    }

    fn prune_rows(&mut self, pipeline: &str, upto: i64, at_most: u64) -> Result<(), StoreError> {
        plain::prune_rows(&mut self.connection, pipeline, upto, at_most)
    }

    fn delete_rows(&mut self, pipeline: &str, keys: &[Key]) -> Result<(), StoreError> {
        for key in keys {
            let row = (pipeline, key.window_start, key.window_end, &key.group_hash[..]);
            diesel::delete(window_results::table.find(row)).execute(&mut self.connection)?;
        }
        Ok(())
    }

    fn put_letters(
        &mut self,
        stream: &str,
        pipeline: &str,
        letters: &[Letter],
        again: bool,
    ) -> Result<u64, StoreError> {
        let mut written = 0;
        for letter in letters {
            let row = LetterRow {
                stream,
                position: letter.position.cast_signed(),
                pipeline,
                line: &letter.line,
                kind: letter.kind.name(),
                stage: &letter.stage,
                reason: &letter.reason,
                producer: letter.origin.producer.as_deref(),
                peer: letter.origin.peer.as_deref(),
                failed_at: letter.failed_at,
                attempts: i64::from(letter.attempts),
                ingested_at: letter.ingest_time,
            };
            use dead_letters as table;
            let insert = diesel::insert_into(table::table).values(row).on_conflict((
                table::stream,
                table::position,
                table::pipeline,
            ));
            written += if again {
                let failed = (
                    table::kind.eq(excluded(table::kind)),
                    table::stage.eq(excluded(table::stage)),
                    table::reason.eq(excluded(table::reason)),
                    table::failed_at.eq(excluded(table::failed_at)),
                    table::attempts.eq(table::attempts + excluded(table::attempts)),
                    table::replay_number.eq(None::<i64>),
                    table::replayed_at.eq(None::<i64>),
                );
                insert.do_update().set(failed).execute(&mut self.connection)?
            } else {
                insert.do_nothing().execute(&mut self.connection)?
            };
        }
        Ok(written as u64)
    }

    fn count_letters(&mut self, stream: &str, pipeline: &str, counted: &[Counted]) -> Result<(), StoreError> {
        for letter in counted {
            diesel::update(dead_letters::table.find((stream, letter.position.cast_signed(), pipeline)))
                .set((dead_letters::replayed_at.eq(letter.at), dead_letters::replay_number.eq(None::<i64>)))
                .execute(&mut self.connection)?;
        }
        Ok(())
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
        plain_letters::numbered_letters(&mut self.connection, pipeline, behind, bytes)
    }

    fn prune_letters(&mut self, before: i64) -> Result<u64, StoreError> {
        plain_letters::prune_letters(&mut self.connection, before)
    }

    fn put_raw(&mut self, stream: &str, raw: &[Arc<RawEvents>]) -> Result<(), StoreError> {
        raw.iter().try_for_each(|batch| raw::put(&mut self.connection, stream, batch))
    }

    fn prune_raw(&mut self, stream: &str, before: i64, at_most: u64) -> Result<(), StoreError> {
        raw::prune(&mut self.connection, stream, before, at_most)
    }

    fn stored(&mut self, pipeline: &str, keys: &[Key]) -> Result<Vec<Option<Stored>>, StoreError> {
        let one = |key: &Key| {
            let found: Option<(Vec<u8>, bool, Option<i64>, i64)> = window_results::table
                .find((pipeline, key.window_start, key.window_end, &key.group_hash[..]))
                .select((
                    window_results::state,
                    window_results::partial,
                    window_results::revised_at,
                    window_results::revision,
                ))
                .first(&mut self.connection)
                .optional()?;
            Ok(found.map(|(state, partial, revised_at, revision)| Stored { state, partial, revised_at, revision }))
        };
        keys.iter().map(one).collect()
    }

    fn save_checkpoint(&mut self, pipeline: &str, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        plain::save_checkpoint(&mut self.connection, pipeline, checkpoint)
    }

    fn commits(&mut self, pipeline: &str) -> Result<i64, StoreError> {
        Ok(checkpoints::table.find(pipeline).select(checkpoints::commits).first(&mut self.connection)?)
    }

    fn letters(
        &mut self,
        filter: &LetterFilter,
        after: Option<&LetterId>,
        limit: i64,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        plain_letters::letters(&mut self.connection, filter, after, LETTER_LINE_SHOWN_BYTES, limit)
    }

    fn letter(&mut self, id: &LetterId) -> Result<Option<StoredLetter>, StoreError> {
        plain_letters::letter(&mut self.connection, id)
    }

    fn letter_reasons(&mut self, filter: &LetterFilter, limit: i64) -> Result<Vec<LetterReason>, StoreError> {
        plain_letters::letter_reasons(&mut self.connection, filter, limit)
    }

    fn purge_letters(&mut self, filter: &LetterFilter) -> Result<u64, StoreError> {
        plain_letters::purge_letters(&mut self.connection, filter)
    }

    fn rows(&mut self, pipeline: &str, query: &Query) -> Result<ResultRows, StoreError> {
        query::rows(&mut self.connection, pipeline, query)
    }
}
