//! The statements that both stores run alike, by diesel's query builder: whoever calls `plain_tables!` with the type of a
//! connection gets them as functions. (A macro, because diesel's types name the database: as generic functions each
//! would need a page of bounds.)

use diesel::prelude::*;

use super::schema::checkpoints;
use super::{Account, Checkpoint};

#[derive(Queryable, Selectable, AsChangeset)]
#[diesel(table_name = checkpoints, treat_none_as_null = true)]
pub(super) struct CheckpointRow {
    journal_id: i64,
    position: i64,
    watermark: Option<i64>,
    silence_ms: i64,
    first_position: i64,
    first_ingest_time: i64,
    read: i64,
    made: i64,
    filtered: i64,
    aggregated: i64,
    late: i64,
    dead: i64,
    exploded: i64,
    skipped: i64,
    partly_late: i64,
}

impl From<&Checkpoint> for CheckpointRow {
    fn from(checkpoint: &Checkpoint) -> Self {
        let account = &checkpoint.account;
        Self {
            journal_id: checkpoint.journal_id.cast_signed(),
            position: checkpoint.position.cast_signed(),
            watermark: checkpoint.watermark,
            silence_ms: checkpoint.silence_ms,
            first_position: checkpoint.first_position.cast_signed(),
            first_ingest_time: checkpoint.first_ingest_time,
            read: account.read.cast_signed(),
            made: account.made.cast_signed(),
            filtered: account.filtered.cast_signed(),
            aggregated: account.aggregated.cast_signed(),
            late: account.late.cast_signed(),
            dead: account.dead.cast_signed(),
            exploded: account.exploded.cast_signed(),
            skipped: account.skipped.cast_signed(),
            partly_late: account.partly_late.cast_signed(),
        }
    }
}

impl From<CheckpointRow> for Checkpoint {
    fn from(row: CheckpointRow) -> Self {
        Self {
            journal_id: row.journal_id.cast_unsigned(),
            position: row.position.cast_unsigned(),
            watermark: row.watermark,
            silence_ms: row.silence_ms,
            first_position: row.first_position.cast_unsigned(),
            first_ingest_time: row.first_ingest_time,
            account: Account {
                read: row.read.cast_unsigned(),
                made: row.made.cast_unsigned(),
                filtered: row.filtered.cast_unsigned(),
                aggregated: row.aggregated.cast_unsigned(),
                late: row.late.cast_unsigned(),
                dead: row.dead.cast_unsigned(),
                exploded: row.exploded.cast_unsigned(),
                skipped: row.skipped.cast_unsigned(),
                partly_late: row.partly_late.cast_unsigned(),
            },
        }
    }
}

#[diesel::declare_sql_function]
extern "SQL" {
    /// The bytes from a place (1 is the first) on, at most so many.
    fn substr(
        bytes: diesel::sql_types::Binary,
        from: diesel::sql_types::Integer,
        count: diesel::sql_types::Integer,
    ) -> diesel::sql_types::Binary;

    /// How many bytes.
    fn length(bytes: diesel::sql_types::Binary) -> diesel::sql_types::Integer;
}

macro_rules! plain_tables {
    ($Connection:ty) => {
        use diesel::prelude::*;

        use diesel::dsl::{count_star, max};

        use crate::store::letters::LetterTuple;
        use crate::store::plain::{CheckpointRow, length, substr};
        use crate::store::schema::{checkpoints, dead_letters, pane_states, pipelines, window_results};
        use crate::store::session::{open_pane, open_row};
        use crate::store::{
            Change, Checkpoint, Fence, Kept, LetterFilter, LetterId, LetterReason, StoreError, StoredLetter,
        };

        pub(super) fn definition_hash(
            connection: &mut $Connection,
            pipeline: &str,
        ) -> Result<Option<String>, StoreError> {
            let hash = pipelines::table.find(pipeline).select(pipelines::definition_hash);
            Ok(hash.first(connection).optional()?)
        }

        pub(super) fn register(
            connection: &mut $Connection,
            pipeline: &str,
            definition: &str,
            hash: &str,
        ) -> Result<(), StoreError> {
            let row = (
                pipelines::name.eq(pipeline),
                pipelines::definition.eq(definition),
                pipelines::definition_hash.eq(hash),
            );
            diesel::insert_into(pipelines::table).values(row).execute(connection)?;
            Ok(())
        }

        pub(super) fn take_fence(
            connection: &mut $Connection,
            pipeline: &str,
            stream: &str,
        ) -> Result<Fence, StoreError> {
            let writer = fastrand::i64(..);
            diesel::insert_into(checkpoints::table)
                .values((checkpoints::pipeline.eq(pipeline), checkpoints::stream.eq(stream)))
                .on_conflict(checkpoints::pipeline)
                .do_nothing()
                .execute(connection)?;
            diesel::update(checkpoints::table.find(pipeline))
                .set((checkpoints::epoch.eq(checkpoints::epoch + 1), checkpoints::writer.eq(writer)))
                .execute(connection)?;
            let epoch = checkpoints::table.find(pipeline).select(checkpoints::epoch).first(connection)?;
            Ok(Fence { epoch, writer })
        }

        pub(super) fn checkpoint(connection: &mut $Connection, pipeline: &str) -> Result<Checkpoint, StoreError> {
            let row = checkpoints::table.find(pipeline).select(CheckpointRow::as_select()).first(connection)?;
            Ok(row.into())
        }

        pub(super) fn all_checkpoints(connection: &mut $Connection) -> Result<Vec<Kept>, StoreError> {
            let rows: Vec<(String, String, i64, i64)> = checkpoints::table
                .order(checkpoints::pipeline)
                .select((checkpoints::pipeline, checkpoints::stream, checkpoints::journal_id, checkpoints::position))
                .load(connection)?;
            let kept = |(pipeline, stream, journal_id, position): (_, _, i64, i64)| Kept {
                pipeline,
                stream,
                journal_id: journal_id.cast_unsigned(),
                position: position.cast_unsigned(),
            };
            Ok(rows.into_iter().map(kept).collect())
        }

        pub(super) fn open_rows(
            connection: &mut $Connection,
            pipeline: &str,
            watermark: Option<i64>,
        ) -> Result<Vec<Change>, StoreError> {
            use window_results as results;
            let rows: Vec<$crate::store::session::OpenRow> = results::table
                .filter(results::pipeline.eq(pipeline))
                .filter(results::window_end.gt(watermark.unwrap_or(i64::MIN)))
                .order((results::window_end, results::window_start, results::group_hash))
                .select((
                    results::window_start,
                    results::window_end,
                    results::group_key,
                    results::state,
                    results::partial,
                ))
                .load(connection)?;
            Ok(rows.into_iter().map(open_row).collect())
        }

        pub(super) fn panes(connection: &mut $Connection, pipeline: &str) -> Result<Vec<Change>, StoreError> {
            let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = pane_states::table
                .filter(pane_states::pipeline.eq(pipeline))
                .order((pane_states::pane_start, pane_states::group_hash))
                .select((pane_states::pane_start, pane_states::group_key, pane_states::state))
                .load(connection)?;
            Ok(rows.into_iter().map(open_pane).collect())
        }

        pub(super) fn hold_fence(
            connection: &mut $Connection,
            pipeline: &str,
            fence: Fence,
        ) -> Result<Option<i64>, StoreError> {
            let ours = checkpoints::table
                .find(pipeline)
                .filter(checkpoints::epoch.eq(fence.epoch))
                .filter(checkpoints::writer.eq(fence.writer));
            let held =
                diesel::update(ours).set(checkpoints::commits.eq(checkpoints::commits + 1)).execute(connection)?;
            if held == 0 {
                return Ok(None);
            }
            Ok(Some(checkpoints::table.find(pipeline).select(checkpoints::commits).first(connection)?))
        }

        pub(super) fn delete_panes(
            connection: &mut $Connection,
            pipeline: &str,
            before: i64,
        ) -> Result<(), StoreError> {
            let old = pane_states::table
                .filter(pane_states::pipeline.eq(pipeline))
                .filter(pane_states::pane_start.lt(before));
            diesel::delete(old).execute(connection)?;
            Ok(())
        }

        pub(super) fn save_checkpoint(
            connection: &mut $Connection,
            pipeline: &str,
            checkpoint: &Checkpoint,
        ) -> Result<(), StoreError> {
            diesel::update(checkpoints::table.find(pipeline))
                .set(CheckpointRow::from(checkpoint))
                .execute(connection)?;
            Ok(())
        }

        /// Letters of a filter, the latest positions of each stream first, with at most so many bytes of their lines.
        pub(super) fn letters(
            connection: &mut $Connection,
            filter: &LetterFilter,
            after: Option<&LetterId>,
            line_bytes: i32,
            limit: i64,
        ) -> Result<Vec<StoredLetter>, StoreError> {
            use dead_letters as letters;
            let behind = after.cloned().unwrap_or(LetterId {
                stream: String::new(),
                position: i64::MAX,
                pipeline: String::new(),
            });
            let rows: Vec<LetterTuple> = letters::table
                .filter(
                    letters::pipeline
                        .eq(filter.pipeline.as_deref().unwrap_or_default())
                        .or(is(filter.pipeline.is_none())),
                )
                .filter(letters::kind.eq(filter.kind.as_deref().unwrap_or_default()).or(is(filter.kind.is_none())))
                .filter(letters::failed_at.lt(filter.before.unwrap_or(i64::MAX)))
                .filter(
                    letters::stream.gt(&behind.stream).or(letters::stream.eq(&behind.stream).and(
                        letters::position
                            .lt(behind.position)
                            .or(letters::position.eq(behind.position).and(letters::pipeline.gt(&behind.pipeline))),
                    )),
                )
                .order((letters::stream, letters::position.desc(), letters::pipeline))
                .limit(limit)
                .select((
                    letters::stream,
                    letters::position,
                    letters::pipeline,
                    letters::kind,
                    letters::stage,
                    letters::reason,
                    letters::producer,
                    letters::peer,
                    letters::attempts,
                    letters::failed_at,
                    letters::replayed_at,
                    substr(letters::line, 1, line_bytes),
                    length(letters::line),
                ))
                .load(connection)?;
            Ok(rows.into_iter().map(StoredLetter::from).collect())
        }

        /// One letter, whole.
        pub(super) fn letter(connection: &mut $Connection, id: &LetterId) -> Result<Option<StoredLetter>, StoreError> {
            let before = LetterId { position: id.position.saturating_add(1), pipeline: String::new(), ..id.clone() };
            let filter = LetterFilter { pipeline: Some(id.pipeline.clone()), ..LetterFilter::default() };
            let found = letters(connection, &filter, Some(&before), i32::MAX, 1)?;
            Ok(found.into_iter().find(|letter| letter.position == id.position && letter.stream == id.stream))
        }

        /// How many letters have which reason, the most frequent first.
        pub(super) fn letter_reasons(
            connection: &mut $Connection,
            filter: &LetterFilter,
            limit: i64,
        ) -> Result<Vec<LetterReason>, StoreError> {
            use dead_letters as letters;
            let rows: Vec<(String, String, String, String, i64, Option<i64>)> = letters::table
                .filter(
                    letters::pipeline
                        .eq(filter.pipeline.as_deref().unwrap_or_default())
                        .or(is(filter.pipeline.is_none())),
                )
                .filter(letters::kind.eq(filter.kind.as_deref().unwrap_or_default()).or(is(filter.kind.is_none())))
                .filter(letters::failed_at.lt(filter.before.unwrap_or(i64::MAX)))
                .group_by((letters::pipeline, letters::kind, letters::stage, letters::reason))
                .order((count_star().desc(), letters::pipeline, letters::kind, letters::stage, letters::reason))
                .limit(limit)
                .select((
                    letters::pipeline,
                    letters::kind,
                    letters::stage,
                    letters::reason,
                    count_star(),
                    max(letters::position),
                ))
                .load(connection)?;
            let reason = |(pipeline, kind, stage, reason, count, last_position)| LetterReason {
                pipeline,
                kind,
                stage,
                reason,
                count,
                last_position,
            };
            Ok(rows.into_iter().map(reason).collect())
        }

        /// Deletes letters; how many.
        pub(super) fn purge_letters(connection: &mut $Connection, filter: &LetterFilter) -> Result<u64, StoreError> {
            use dead_letters as letters;
            let these = letters::table
                .filter(
                    letters::pipeline
                        .eq(filter.pipeline.as_deref().unwrap_or_default())
                        .or(is(filter.pipeline.is_none())),
                )
                .filter(letters::kind.eq(filter.kind.as_deref().unwrap_or_default()).or(is(filter.kind.is_none())))
                .filter(letters::failed_at.lt(filter.before.unwrap_or(i64::MAX)));
            Ok(diesel::delete(these).execute(connection)? as u64)
        }

        fn is(yes: bool) -> diesel::dsl::AsExprOf<bool, diesel::sql_types::Bool> {
            yes.into_sql::<diesel::sql_types::Bool>()
        }

        /// Whether a pipeline of this name is registered, and else what to answer.
        pub(super) fn known_pipeline(connection: &mut $Connection, name: &str) -> Result<(), StoreError> {
            let known: Vec<String> = pipelines::table.select(pipelines::name).load(connection)?;
            $crate::store::known(known, name)
        }
    };
}

pub(super) use plain_tables;
