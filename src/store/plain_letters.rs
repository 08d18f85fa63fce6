//! The statements about dead letters that both stores run alike: as `plain_tables!`, for the type of a connection.

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

/// Deletes some of the oldest letters; `these` compares a row's own address with those that it is followed by.
pub(super) fn prune_sql(row_id: &str, these: (&str, &str)) -> String {
    let (before, behind) = these;
    format!(
        "DELETE FROM dead_letters WHERE {before}SELECT {row_id} FROM dead_letters \
         WHERE failed_at < $1 AND replay_number IS NULL LIMIT $2{behind}"
    )
}

/// Puts letters under replay in the order of their positions: those that nobody has replayed yet, nor could, since they
/// are no events. Rows are found again by their own address: a planner that knows nothing yet of the table would look
/// through all of it for each of them.
pub(super) fn number_letters_sql(row_id: &str, positions: Option<&[i64]>) -> String {
    let these = positions.map_or_else(String::new, |positions| {
        // The stores do not agree on an empty list; no line stands at 0.
        let positions: Vec<String> = std::iter::once(&0).chain(positions).map(i64::to_string).collect();
        format!("AND position IN ({})", positions.join(", "))
    });
    format!(
        "UPDATE dead_letters SET replay_number = chosen.number FROM \
         (SELECT {row_id} AS at, $1 + row_number() OVER (ORDER BY position) AS number FROM dead_letters \
          WHERE stream = $2 AND pipeline = $3 AND ($4 = '' OR kind = $4) AND kind <> 'decode' AND failed_at < $5 \
          AND replayed_at IS NULL AND replay_number IS NULL {these} ORDER BY position LIMIT $6) AS chosen \
         WHERE dead_letters.{row_id} = chosen.at"
    )
}

macro_rules! letter_tables {
    ($Connection:ty) => {
        use diesel::prelude::*;

        use diesel::dsl::{count_star, max};
        use diesel::sql_query;
        use diesel::sql_types::{BigInt, Text};

        use crate::event::{Position, Replayed};
        use crate::store::letters::{LetterTuple, ReplayTuple, replayed};
        use crate::store::plain_letters::{
            LETTERS_AT_ONCE, PRUNED_AT_ONCE, RECOUNT, length, number_letters_sql, prune_sql, substr,
        };
        use crate::store::schema::{checkpoints, dead_letters};
        use crate::store::{LETTER_BYTES, LetterFilter, LetterId, LetterReason, Replay, StoreError, StoredLetter};

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

        pub(super) fn last_replay_number(connection: &mut $Connection, pipeline: &str) -> Result<u64, StoreError> {
            let number = checkpoints::table.find(pipeline).select(checkpoints::replay_number);
            Ok(number.first::<i64>(connection)?.cast_unsigned())
        }

        pub(super) fn note_replay_number(
            connection: &mut $Connection,
            pipeline: &str,
            number: u64,
        ) -> Result<(), StoreError> {
            diesel::update(checkpoints::table.find(pipeline))
                .set(checkpoints::replay_number.eq(number.cast_signed()))
                .execute(connection)?;
            Ok(())
        }

        pub(super) fn number_letters(connection: &mut $Connection, replay: &Replay) -> Result<u64, StoreError> {
            let filter = &replay.filter;
            let numbered = sql_query(number_letters_sql(super::ROW_ID, replay.positions.as_deref()))
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
            Ok(sql_query(prune_sql(super::ROW_ID, super::ROW_IN))
                .bind::<BigInt, _>(before)
                .bind::<BigInt, _>(PRUNED_AT_ONCE)
                .execute(connection)? as u64)
        }

        fn is(yes: bool) -> diesel::dsl::AsExprOf<bool, diesel::sql_types::Bool> {
            yes.into_sql::<diesel::sql_types::Bool>()
        }
    };
}

pub(super) use letter_tables;
