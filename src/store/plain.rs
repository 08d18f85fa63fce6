//! The statements that both stores run alike, by diesel's query builder: whoever calls `plain_tables!` with the type of a
//! connection gets them as functions. (A macro, because diesel's types name the database: as generic functions each
//! would need a page of bounds.)

use diesel::prelude::*;

use super::schema::checkpoints;
use super::{Account, Checkpoint, Registered, StoreError};

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

/// A pipeline as it is read: name, definition, revision, added.
pub(super) type RegisteredTuple = (String, String, i64, String);

pub(super) fn read_registered(
    (name, definition, revision, added): RegisteredTuple,
    checkpoint: Checkpoint,
) -> Result<Registered, StoreError> {
    let unreadable =
        |error| StoreError::Refused(format!("what pipeline {name:?} is defined by cannot be read: {error}"));
    let definition = serde_json::from_str(&definition).map_err(unreadable)?;
    let added = serde_json::from_str(&added).map_err(unreadable)?;
    Ok(Registered { name, definition, revision: revision.cast_unsigned(), added, checkpoint })
}

macro_rules! plain_tables {
    ($Connection:ty) => {
        use diesel::prelude::*;

        use diesel::dsl::{max, min, sql};
        use diesel::sql_types::BigInt;

        use super::plain_letters::{forget_letters, free_letters};
        use crate::event::Position;
        use crate::store::merged::StateRow;
        use crate::store::plain::{CheckpointRow, RegisteredTuple, read_registered};
        use crate::store::schema::{checkpoints, dead_letters, pane_states, pipelines, window_results};
        use crate::store::session::{open_pane, open_row};
        use crate::store::{
            Beginning, Change, Checkpoint, Fence, Kept, LivePage, LivePlace, LiveRow, Registered, Revision, StoreError,
        };

        pub(super) fn registered(
            connection: &mut $Connection,
            pipeline: &str,
        ) -> Result<Option<Registered>, StoreError> {
            let row: Option<RegisteredTuple> = pipelines::table
                .find(pipeline)
                .select((pipelines::name, pipelines::definition, pipelines::revision, pipelines::added))
                .first(connection)
                .optional()?;
            row.map(|row| read_registered(row, checkpoint(connection, pipeline)?)).transpose()
        }

        pub(super) fn all_registered(connection: &mut $Connection) -> Result<Vec<Registered>, StoreError> {
            let rows: Vec<(RegisteredTuple, CheckpointRow)> = pipelines::table
                .inner_join(checkpoints::table.on(checkpoints::pipeline.eq(pipelines::name)))
                .order(pipelines::name)
                .select((
                    (pipelines::name, pipelines::definition, pipelines::revision, pipelines::added),
                    CheckpointRow::as_select(),
                ))
                .load(connection)?;
            rows.into_iter().map(|(row, checkpoint)| read_registered(row, checkpoint.into())).collect()
        }

        pub(super) fn count_rows(connection: &mut $Connection, pipeline: &str) -> Result<u64, StoreError> {
            let rows = window_results::table.filter(window_results::pipeline.eq(pipeline)).count();
            Ok(rows.get_result::<i64>(connection)?.cast_unsigned())
        }

        pub(super) fn amend(
            connection: &mut $Connection,
            pipeline: &str,
            definition: &str,
            hash: &str,
            added: &str,
        ) -> Result<(), StoreError> {
            let row = (
                pipelines::definition.eq(definition),
                pipelines::definition_hash.eq(hash),
                pipelines::added.eq(added),
                pipelines::changed_at.eq(sql::<BigInt>(super::NOW_MS)),
            );
            diesel::update(pipelines::table.find(pipeline)).set(row).execute(connection)?;
            Ok(())
        }

        pub(super) fn revise(
            connection: &mut $Connection,
            pipeline: &str,
            definition: &str,
            hash: &str,
            revision: Revision,
        ) -> Result<(), StoreError> {
            amend(connection, pipeline, definition, hash, "{}")?;
            let Beginning { position, kept_upto } = revision.beginning;
            diesel::update(pipelines::table.find(pipeline))
                .set(pipelines::revision.eq(revision.number.cast_signed()))
                .execute(connection)?;
            let anew = window_results::table
                .filter(window_results::pipeline.eq(pipeline))
                .filter(window_results::window_end.gt(kept_upto.unwrap_or(i64::MIN)));
            diesel::delete(anew).execute(connection)?;
            delete_panes(connection, pipeline, i64::MAX)?;
            forget_letters(connection, pipeline, position)?;
            // What was on its way was made for the revision before.
            free_letters(connection, pipeline, u64::MAX >> 1)?;
            let kept_position = revision.kept_position.cast_signed();
            diesel::update(checkpoints::table.find(pipeline))
                .set((checkpoints::kept_upto.eq(kept_upto), checkpoints::kept_position.eq(kept_position)))
                .execute(connection)?;
            Ok(())
        }

        pub(super) fn kept(
            connection: &mut $Connection,
            pipeline: &str,
        ) -> Result<Option<(i64, Position)>, StoreError> {
            let (upto, position): (Option<i64>, i64) = checkpoints::table
                .find(pipeline)
                .select((checkpoints::kept_upto, checkpoints::kept_position))
                .first(connection)?;
            Ok(upto.map(|upto| (upto, position.cast_unsigned())))
        }

        pub(super) fn last_window_start(
            connection: &mut $Connection,
            pipeline: &str,
        ) -> Result<Option<i64>, StoreError> {
            use {pane_states as panes, window_results as results};
            let rows = results::table.filter(results::pipeline.eq(pipeline)).select(max(results::window_start));
            let panes = panes::table.filter(panes::pipeline.eq(pipeline)).select(max(panes::pane_start));
            let last: Option<i64> = rows.first(connection)?;
            Ok(last.max(panes.first(connection)?))
        }

        pub(super) fn drop_pipeline(connection: &mut $Connection, pipeline: &str) -> Result<(), StoreError> {
            let results = window_results::table.filter(window_results::pipeline.eq(pipeline));
            diesel::delete(results).execute(connection)?;
            delete_panes(connection, pipeline, i64::MAX)?;
            let letters = dead_letters::table.filter(dead_letters::pipeline.eq(pipeline));
            diesel::delete(letters).execute(connection)?;
            diesel::delete(checkpoints::table.find(pipeline)).execute(connection)?;
            diesel::delete(pipelines::table.find(pipeline)).execute(connection)?;
            Ok(())
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
            after: i64,
        ) -> Result<Vec<Change>, StoreError> {
            use window_results as results;
            let rows: Vec<$crate::store::session::OpenRow> = results::table
                .filter(results::pipeline.eq(pipeline))
                .filter(results::window_end.gt(after))
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

        pub(super) fn live_rows(
            connection: &mut $Connection,
            pipeline: &str,
            after: Option<i64>,
            behind: Option<&LivePlace>,
            limit: usize,
        ) -> Result<LivePage, StoreError> {
            use window_results as results;
            let watermark: Option<Option<i64>> =
                checkpoints::table.find(pipeline).select(checkpoints::watermark).first(connection).optional()?;
            let watermark = watermark.flatten();
            let nothing = LivePage { rows: Vec::new(), next: None, watermark };
            let Some(after) = after.or(watermark) else { return Ok(nothing) };
            let of_groups = results::table.filter(results::pipeline.eq(pipeline)).filter(results::other.eq(false));
            let shown = of_groups.filter(results::window_end.gt(after));
            let first = match behind {
                Some((start, ..)) => Some(*start),
                None => shown.select(min(results::window_start)).first(connection)?,
            };
            let Some(first) = first else { return Ok(nothing) };
            let (start, end, hash) = behind.cloned().unwrap_or((first, i64::MIN, Vec::new()));
            // In the order of the primary key, so that a page costs what it holds, however many rows a window has.
            let rows: Vec<(LivePlace, String, String)> = shown
                .filter(results::window_start.ge(first))
                .filter(
                    results::window_start
                        .gt(start)
                        .or(results::window_end.gt(end))
                        .or(results::window_end.eq(end).and(results::group_hash.gt(hash))),
                )
                .order((results::window_start, results::window_end, results::group_hash))
                .limit(limit as i64)
                .select((
                    (results::window_start, results::window_end, results::group_hash),
                    results::group_values,
                    results::result_values,
                ))
                .load(connection)?;
            let next = (rows.len() == limit).then(|| rows.last().map(|row| row.0.clone())).flatten();
            let row = |((window_start, ..), group, values): (LivePlace, _, _)| LiveRow {
                window_start,
                group,
                values: Some(values),
            };
            Ok(LivePage { rows: rows.into_iter().map(row).collect(), next, watermark })
        }

        pub(super) fn live_groups(
            connection: &mut $Connection,
            pipeline: &str,
            starts: &[i64],
        ) -> Result<Vec<(i64, String)>, StoreError> {
            use window_results as results;
            Ok(results::table
                .filter(results::pipeline.eq(pipeline))
                .filter(results::other.eq(false))
                .filter(results::window_start.eq_any(starts.to_vec()))
                .select((results::window_start, results::group_values))
                .load(connection)?)
        }

        pub(super) fn states(
            connection: &mut $Connection,
            pipeline: &str,
            (from, to): (Option<i64>, Option<i64>),
            behind: Option<&LivePlace>,
            limit: usize,
        ) -> Result<Vec<StateRow>, StoreError> {
            use window_results as results;
            let revision = pipelines::table.find(pipeline).select(pipelines::revision);
            let Some(revision) = revision.first::<i64>(connection).optional()? else { return Ok(Vec::new()) };
            let (start, end, hash) = behind.cloned().unwrap_or((i64::MAX, i64::MAX, Vec::new()));
            // In the order of the primary key.
            let rows: Vec<(LivePlace, Vec<u8>, Vec<u8>, bool, Option<i64>)> = results::table
                .filter(results::pipeline.eq(pipeline))
                .filter(results::revision.eq(revision))
                .filter(results::window_start.ge(from.unwrap_or(i64::MIN)))
                .filter(results::window_start.lt(to.unwrap_or(i64::MAX)))
                .filter(results::window_start.le(start))
                .filter(
                    results::window_start
                        .lt(start)
                        .or(results::window_end.lt(end))
                        .or(results::window_end.eq(end).and(results::group_hash.lt(hash))),
                )
                .order((results::window_start.desc(), results::window_end.desc(), results::group_hash.desc()))
                .limit(limit as i64)
                .select((
                    (results::window_start, results::window_end, results::group_hash),
                    results::group_key,
                    results::state,
                    results::partial,
                    results::revised_at,
                ))
                .load(connection)?;
            let row = |(place, group_key, state, partial, revised_at)| StateRow {
                place,
                group_key,
                state,
                partial,
                revised_at,
            };
            Ok(rows.into_iter().map(row).collect())
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

        /// The oldest rows of windows that end until then, at most so many.
        pub(super) fn prune_rows(
            connection: &mut $Connection,
            pipeline: &str,
            upto: i64,
            at_most: u64,
        ) -> Result<(), StoreError> {
            let (before, behind) = super::ROW_IN;
            // SQLite takes `$1` as a name; its numbers follow the order in which they come first, as they do here.
            let sql = format!(
                "DELETE FROM window_results WHERE {before}SELECT {} FROM window_results \
                 WHERE pipeline = $1 AND window_end <= $2 ORDER BY window_end LIMIT $3{behind}",
                super::ROW_ID
            );
            diesel::sql_query(sql)
                .bind::<diesel::sql_types::Text, _>(pipeline)
                .bind::<diesel::sql_types::BigInt, _>(upto)
                .bind::<diesel::sql_types::BigInt, _>(at_most.cast_signed())
                .execute(connection)?;
            Ok(())
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

        pub(super) fn lock_fence(
            connection: &mut $Connection,
            pipeline: &str,
            fence: Fence,
        ) -> Result<bool, StoreError> {
            let ours = checkpoints::table
                .find(pipeline)
                .filter(checkpoints::epoch.eq(fence.epoch))
                .filter(checkpoints::writer.eq(fence.writer));
            Ok(diesel::update(ours).set(checkpoints::writer.eq(fence.writer)).execute(connection)? > 0)
        }

        /// Whether a pipeline of this name is registered, and else what to answer.
        pub(super) fn known_pipeline(connection: &mut $Connection, name: &str) -> Result<(), StoreError> {
            let known: Vec<String> = pipelines::table.select(pipelines::name).load(connection)?;
            $crate::store::known(known, name)
        }
    };
}

pub(super) use plain_tables;
