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

/// Letters under replay that are looked at at once.
pub(super) const LETTERS_AT_ONCE: i64 = 1_000;

/// Letters that are deleted at once because of their age.
pub(super) const PRUNED_AT_ONCE: i64 = 10_000;

// SQLite takes `$1` as a name; its numbers follow the order in which they come first, as they do here.

/// Counts the bytes of a pipeline's letters.
pub(super) const RECOUNT: &str = "UPDATE checkpoints SET letter_bytes = \
    (SELECT CAST(coalesce(sum(length(line) + $1), 0) AS bigint) FROM dead_letters \
     WHERE dead_letters.pipeline = $2 AND replay_number IS NULL) \
    WHERE pipeline = $2";

/// Deletes some of the oldest letters.
pub(super) const PRUNE: &str = "DELETE FROM dead_letters WHERE (stream, position, pipeline) IN \
    (SELECT stream, position, pipeline FROM dead_letters WHERE failed_at < $1 AND replay_number IS NULL LIMIT $2)";

/// Puts letters under replay in the order of their positions: those that nobody has replayed yet, nor could, since they
/// are no events.
pub(super) fn number_letters_sql(positions: Option<&[i64]>) -> String {
    let these = positions.map_or_else(String::new, |positions| {
        // The stores do not agree on an empty list; no line stands at 0.
        let positions: Vec<String> = std::iter::once(&0).chain(positions).map(i64::to_string).collect();
        format!("AND position IN ({})", positions.join(", "))
    });
    format!(
        "UPDATE dead_letters SET replay_number = chosen.number FROM \
         (SELECT position AS at, $1 + row_number() OVER (ORDER BY position) AS number FROM dead_letters \
          WHERE stream = $2 AND pipeline = $3 AND ($4 = '' OR kind = $4) AND kind <> 'decode' AND failed_at < $5 \
          AND replayed_at IS NULL AND replay_number IS NULL {these} ORDER BY position LIMIT $6) AS chosen \
         WHERE dead_letters.stream = $2 AND dead_letters.pipeline = $3 AND dead_letters.position = chosen.at"
    )
}

macro_rules! plain_tables {
    ($Connection:ty) => {
        use diesel::prelude::*;

        use diesel::dsl::{count_star, max, sql};

        use diesel::sql_query;
        use diesel::sql_types::{BigInt, Text};

        use crate::event::{Position, Replayed};
        use crate::store::letters::{LetterTuple, ReplayTuple, replayed};
        use crate::store::plain::{
            CheckpointRow, LETTERS_AT_ONCE, PRUNE, PRUNED_AT_ONCE, RECOUNT, RegisteredTuple, length,
            number_letters_sql, read_registered, substr,
        };
        use crate::store::schema::{checkpoints, dead_letters, pane_states, pipelines, window_results};
        use crate::store::session::{open_pane, open_row};
        use crate::store::{
            Beginning, Change, Checkpoint, Fence, Kept, LETTER_BYTES, LetterFilter, LetterId, LetterReason, Registered,
            Replay, Revision, StoreError, StoredLetter,
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

        pub(super) fn forget_letters(
            connection: &mut $Connection,
            pipeline: &str,
            position: Position,
        ) -> Result<(), StoreError> {
            let these = dead_letters::table
                .filter(dead_letters::pipeline.eq(pipeline))
                .filter(dead_letters::position.gt(position.cast_signed()));
            diesel::delete(these).execute(connection)?;
            Ok(())
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
                    letters::replay_number,
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
                .filter(letters::failed_at.lt(filter.before.unwrap_or(i64::MAX)))
                .filter(letters::replay_number.is_null());
            Ok(diesel::delete(these).execute(connection)? as u64)
        }

        pub(super) fn free_letters(
            connection: &mut $Connection,
            pipeline: &str,
            upto_number: u64,
        ) -> Result<(), StoreError> {
            use dead_letters as letters;
            let these = letters::table
                .filter(letters::pipeline.eq(pipeline))
                .filter(letters::replay_number.le(upto_number.cast_signed()));
            diesel::update(these).set(letters::replay_number.eq(None::<i64>)).execute(connection)?;
            Ok(())
        }

        pub(super) fn letter_bytes(connection: &mut $Connection, pipeline: &str) -> Result<i64, StoreError> {
            Ok(checkpoints::table.find(pipeline).select(checkpoints::letter_bytes).first(connection)?)
        }

        pub(super) fn letter_owners(connection: &mut $Connection) -> Result<Vec<String>, StoreError> {
            let owners = checkpoints::table.order(checkpoints::pipeline).select(checkpoints::pipeline);
            Ok(owners.load(connection)?)
        }

        pub(super) fn recount_letters(connection: &mut $Connection, pipeline: &str) -> Result<(), StoreError> {
            sql_query(RECOUNT)
                .bind::<BigInt, _>(LETTER_BYTES.cast_signed())
                .bind::<Text, _>(pipeline)
                .execute(connection)?;
            Ok(())
        }

        pub(super) fn add_letters(
            connection: &mut $Connection,
            pipeline: &str,
            bytes: i64,
            discarded: i64,
        ) -> Result<(), StoreError> {
            diesel::update(checkpoints::table.find(pipeline))
                .set((
                    checkpoints::letter_bytes.eq(checkpoints::letter_bytes + bytes),
                    checkpoints::letters_discarded.eq(checkpoints::letters_discarded + discarded),
                ))
                .execute(connection)?;
            Ok(())
        }

        pub(super) fn under_replay(connection: &mut $Connection, pipeline: &str) -> Result<i64, StoreError> {
            use dead_letters as letters;
            let these =
                letters::table.filter(letters::pipeline.eq(pipeline)).filter(letters::replay_number.is_not_null());
            Ok(these.count().get_result(connection)?)
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

        pub(super) fn number_letters(connection: &mut $Connection, replay: &Replay) -> Result<u64, StoreError> {
            let filter = &replay.filter;
            let numbered = sql_query(number_letters_sql(replay.positions.as_deref()))
                .bind::<BigInt, _>(replay.behind.cast_signed())
                .bind::<Text, _>(&replay.stream)
                .bind::<Text, _>(filter.pipeline.as_deref().unwrap_or_default())
                .bind::<Text, _>(filter.kind.as_deref().unwrap_or_default())
                .bind::<BigInt, _>(filter.before.unwrap_or(i64::MAX))
                .bind::<BigInt, _>(i64::try_from(replay.limit).unwrap_or(i64::MAX))
                .execute(connection)?;
            Ok(numbered as u64)
        }

        pub(super) fn numbered_letters(
            connection: &mut $Connection,
            pipeline: &str,
            behind: u64,
            bytes: usize,
        ) -> Result<Vec<(u64, Replayed)>, StoreError> {
            use dead_letters as letters;
            let behind = behind.cast_signed();
            let these = letters::table
                .filter(letters::pipeline.eq(pipeline))
                .filter(letters::replay_number.gt(behind))
                .order(letters::replay_number);
            let lengths: Vec<(Option<i64>, i32)> = these
                .limit(LETTERS_AT_ONCE)
                .select((letters::replay_number, length(letters::line)))
                .load(connection)?;
            let mut total = 0;
            let some = lengths.iter().take_while(|(_, length)| {
                let first = total == 0;
                total += *length as usize + LETTER_BYTES as usize;
                first || total <= bytes
            });
            let Some(Some(upto)) = some.last().map(|(number, _)| *number) else { return Ok(Vec::new()) };
            let rows: Vec<ReplayTuple> = these
                .filter(letters::replay_number.le(upto))
                .select((
                    letters::replay_number,
                    letters::position,
                    letters::ingested_at,
                    letters::producer,
                    letters::peer,
                    letters::line,
                ))
                .load(connection)?;
            Ok(rows.into_iter().map(replayed).collect())
        }

        pub(super) fn prune_letters(connection: &mut $Connection, before: i64) -> Result<u64, StoreError> {
            Ok(sql_query(PRUNE).bind::<BigInt, _>(before).bind::<BigInt, _>(PRUNED_AT_ONCE).execute(connection)? as u64)
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
