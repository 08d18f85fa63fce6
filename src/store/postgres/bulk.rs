//! What a flush writes: one statement for all rows of a chunk, whose columns travel as arrays. Where rows are looked up, a
//! LATERAL query that cannot be flattened (OFFSET 0) makes it one look into the index for each: a planner that knows
//! nothing yet of a table joins the other way round, and reads all of the table for each row.

use std::collections::HashMap;

use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text};
use diesel::{QueryableByName, RunQueryDsl, sql_query};

use super::connection::Connection;
use crate::event::{Counted, Letter};
use crate::store::StoreError;
use crate::store::image::{Key, PaneImage, RowImage};
use crate::store::session::Stored;

/// A text of PostgreSQL holds no U+0000: it is shown as U+FFFD.
fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// The same, of a JSON text, where it is an escape: behind an even number of backslashes.
fn json(text: &str) -> String {
    const NUL: &str = "\\u0000";
    if !text.contains(NUL) {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(behind) = rest.strip_prefix(NUL) {
            out.push('\u{fffd}');
            rest = behind;
        } else {
            // An escape is a backslash and at least one ASCII character.
            out.push_str(&rest[..2]);
            rest = &rest[2..];
        }
    }
    out.push_str(rest);
    out
}

pub(super) fn put_rows(
    connection: &mut Connection,
    pipeline: &str,
    revision: u64,
    rows: &[RowImage],
) -> Result<(), StoreError> {
    let column = |of: fn(&RowImage) -> i64| rows.iter().map(of).collect::<Vec<i64>>();
    sql_query(
        "INSERT INTO window_results (pipeline, window_start, window_end, group_hash, group_key, group_values, \
         result_values, events, partial, revised_at, state, revision, other) \
         SELECT $1, s, e, h, k, g::json, r::json, n, p, v, t, $12, o \
         FROM unnest($2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $13) AS u (s, e, h, k, g, r, n, p, v, t, o) \
         ON CONFLICT (pipeline, window_start, window_end, group_hash) DO UPDATE SET \
         group_values = excluded.group_values, result_values = excluded.result_values, events = excluded.events, \
         partial = excluded.partial, revised_at = excluded.revised_at, state = excluded.state, \
         revision = excluded.revision",
    )
    .bind::<Text, _>(pipeline)
    .bind::<Array<BigInt>, _>(column(|row| row.key.window_start))
    .bind::<Array<BigInt>, _>(column(|row| row.key.window_end))
    .bind::<Array<Binary>, _>(rows.iter().map(|row| &row.key.group_hash[..]).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(rows.iter().map(|row| &row.group_key[..]).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| json(&row.group_values)).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(rows.iter().map(|row| json(&row.result_values)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(column(|row| row.events))
    .bind::<Array<Bool>, _>(rows.iter().map(|row| row.partial).collect::<Vec<_>>())
    .bind::<Array<Nullable<BigInt>>, _>(rows.iter().map(|row| row.revised_at).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(rows.iter().map(|row| &row.state[..]).collect::<Vec<_>>())
    .bind::<BigInt, _>(revision.cast_signed())
    .bind::<Array<Bool>, _>(rows.iter().map(|row| row.other).collect::<Vec<_>>())
    .execute(connection)?;
    Ok(())
}

pub(super) fn put_panes(connection: &mut Connection, pipeline: &str, panes: &[PaneImage]) -> Result<(), StoreError> {
    sql_query(
        "INSERT INTO pane_states (pipeline, pane_start, group_hash, group_key, state) \
         SELECT $1, s, h, k, t FROM unnest($2, $3, $4, $5) AS u (s, h, k, t) \
         ON CONFLICT (pipeline, pane_start, group_hash) DO UPDATE SET state = excluded.state",
    )
    .bind::<Text, _>(pipeline)
    .bind::<Array<BigInt>, _>(panes.iter().map(|pane| pane.pane_start).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(panes.iter().map(|pane| &pane.group_hash[..]).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(panes.iter().map(|pane| &pane.group_key[..]).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(panes.iter().map(|pane| &pane.state[..]).collect::<Vec<_>>())
    .execute(connection)?;
    Ok(())
}

pub(super) fn put_letters(
    connection: &mut Connection,
    stream: &str,
    pipeline: &str,
    letters: &[Letter],
    again: bool,
) -> Result<u64, StoreError> {
    let conflict = if again {
        "DO UPDATE SET kind = excluded.kind, stage = excluded.stage, reason = excluded.reason, \
         failed_at = excluded.failed_at, attempts = dead_letters.attempts + excluded.attempts, \
         replay_number = NULL, replayed_at = NULL"
    } else {
        "DO NOTHING"
    };
    let written = sql_query(format!(
        "INSERT INTO dead_letters (stream, position, pipeline, line, kind, stage, reason, producer, peer, failed_at, \
         attempts, ingested_at) \
         SELECT $1, n, $2, l, k, s, r, p, q, f, a, i \
         FROM unnest($3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS u (n, l, k, s, r, p, q, f, a, i) \
         ON CONFLICT (stream, position, pipeline) {conflict}"
    ))
    .bind::<Text, _>(stream)
    .bind::<Text, _>(pipeline)
    .bind::<Array<BigInt>, _>(letters.iter().map(|letter| letter.position.cast_signed()).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(letters.iter().map(|letter| &letter.line[..]).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(letters.iter().map(|letter| letter.kind.name()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(letters.iter().map(|letter| text(&letter.stage)).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(letters.iter().map(|letter| text(&letter.reason)).collect::<Vec<_>>())
    .bind::<Array<Nullable<Text>>, _>(
        letters.iter().map(|letter| letter.origin.producer.as_deref()).collect::<Vec<_>>(),
    )
    .bind::<Array<Nullable<Text>>, _>(letters.iter().map(|letter| letter.origin.peer.as_deref()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(letters.iter().map(|letter| letter.failed_at).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(letters.iter().map(|letter| i64::from(letter.attempts)).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(letters.iter().map(|letter| letter.ingest_time).collect::<Vec<_>>())
    .execute(connection)?;
    Ok(written as u64)
}

/// Those of one record, or of one batch of them, have one time.
pub(super) fn count_letters(
    connection: &mut Connection,
    stream: &str,
    pipeline: &str,
    counted: &[Counted],
) -> Result<(), StoreError> {
    for same in counted.chunk_by(|one, next| one.at == next.at) {
        let positions: Vec<i64> = same.iter().map(|letter| letter.position.cast_signed()).collect();
        // The bounds keep a planner that knows nothing yet of the table from looking through all of the stream's letters.
        sql_query(
            "UPDATE dead_letters SET replayed_at = $3, replay_number = NULL \
             WHERE stream = $1 AND pipeline = $2 AND position = ANY($4) AND position BETWEEN $5 AND $6",
        )
        .bind::<Text, _>(stream)
        .bind::<Text, _>(pipeline)
        .bind::<BigInt, _>(same[0].at)
        .bind::<Array<BigInt>, _>(&positions)
        .bind::<BigInt, _>(positions.iter().min().copied().unwrap_or_default())
        .bind::<BigInt, _>(positions.iter().max().copied().unwrap_or_default())
        .execute(connection)?;
    }
    Ok(())
}

#[derive(QueryableByName)]
struct StoredRow {
    #[diesel(sql_type = BigInt)]
    index: i64,
    #[diesel(sql_type = Binary)]
    state: Vec<u8>,
    #[diesel(sql_type = Bool)]
    partial: bool,
    #[diesel(sql_type = Nullable<BigInt>)]
    revised_at: Option<i64>,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

pub(super) fn delete_rows(connection: &mut Connection, pipeline: &str, keys: &[Key]) -> Result<(), StoreError> {
    sql_query(
        "DELETE FROM window_results WHERE ctid = ANY (ARRAY( \
         SELECT one.row FROM unnest($2, $3, $4) AS u (s, e, h), \
         LATERAL (SELECT w.ctid AS row FROM window_results w \
         WHERE w.pipeline = $1 AND w.window_start = u.s AND w.window_end = u.e AND w.group_hash = u.h OFFSET 0) AS one))",
    )
    .bind::<Text, _>(pipeline)
    .bind::<Array<BigInt>, _>(keys.iter().map(|key| key.window_start).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(keys.iter().map(|key| key.window_end).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(keys.iter().map(|key| &key.group_hash[..]).collect::<Vec<_>>())
    .execute(connection)?;
    Ok(())
}

pub(super) fn stored(
    connection: &mut Connection,
    pipeline: &str,
    keys: &[Key],
) -> Result<Vec<Option<Stored>>, StoreError> {
    let found: Vec<StoredRow> = sql_query(
        "SELECT u.i AS index, one.state, one.partial, one.revised_at, one.revision \
         FROM unnest($2, $3, $4) WITH ORDINALITY AS u (s, e, h, i), \
         LATERAL (SELECT w.state, w.partial, w.revised_at, w.revision FROM window_results w \
         WHERE w.pipeline = $1 AND w.window_start = u.s AND w.window_end = u.e AND w.group_hash = u.h OFFSET 0) AS one",
    )
    .bind::<Text, _>(pipeline)
    .bind::<Array<BigInt>, _>(keys.iter().map(|key| key.window_start).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(keys.iter().map(|key| key.window_end).collect::<Vec<_>>())
    .bind::<Array<Binary>, _>(keys.iter().map(|key| &key.group_hash[..]).collect::<Vec<_>>())
    .load(connection)?;
    let mut found: HashMap<usize, Stored> = found
        .into_iter()
        .map(|row| {
            let StoredRow { index, state, partial, revised_at, revision } = row;
            (index as usize, Stored { state, partial, revised_at, revision })
        })
        .collect();
    // Ordinality counts from 1.
    Ok((1..=keys.len()).map(|index| found.remove(&index)).collect())
}

#[cfg(test)]
mod tests {
    use super::json;

    #[test]
    fn only_an_escaped_nul_is_replaced() {
        for (given, kept) in [
            (r#"{"a":"\u0000b"}"#, "{\"a\":\"\u{fffd}b\"}"),
            (r#"{"a":"\\u0000"}"#, r#"{"a":"\\u0000"}"#),
            (r#"{"a":"\\\u0000\"\n"}"#, "{\"a\":\"\\\\\u{fffd}\\\"\\n\"}"),
            (r#"{"a":"ä\\u0000ä"}"#, r#"{"a":"ä\\u0000ä"}"#),
        ] {
            assert_eq!(json(given), kept);
        }
    }
}
