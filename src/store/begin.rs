//! What happens once when a pipeline starts: it is registered, its views are made, its fence is taken, and what it goes
//! on with is read; all in one transaction, so that nobody can write in between.

use std::fmt::Write;

use diesel::prelude::*;
use sha2::{Digest, Sha256};

use super::schema::{checkpoints, pane_states, pipelines, window_results};
use super::{Change, Checkpoint, Definition, Fence, Snapshot, StoreError, views};
use crate::event::Account;

/// How the names of intakes begin: they have no windows, hence no views.
const INTAKE: char = '@';

/// Waits for a transaction of a predecessor that is still open, and makes all its later ones fail.
pub(super) fn begin(
    connection: &mut SqliteConnection,
    definition: &dyn Definition,
    stream: &str,
) -> Result<Snapshot, StoreError> {
    let pipeline = definition.pipeline();
    connection.immediate_transaction(|connection| {
        register(connection, definition)?;
        if !pipeline.starts_with(INTAKE) {
            views::ensure(connection, definition)?;
        }
        let fence = take_fence(connection, pipeline, stream)?;
        let checkpoint = read_checkpoint(connection, pipeline)?;
        let mut open = open_rows(connection, pipeline, checkpoint.watermark)?;
        open.append(&mut panes(connection, pipeline)?);
        Ok(Snapshot { fence, checkpoint, open })
    })
}

fn register(connection: &mut SqliteConnection, definition: &dyn Definition) -> Result<(), StoreError> {
    let name = definition.pipeline();
    let text = definition.definition().to_string();
    let hash = hex(&Sha256::digest(&text));
    let stored: Option<String> =
        pipelines::table.find(name).select(pipelines::definition_hash).first(connection).optional()?;
    match stored {
        Some(stored) if stored == hash => {}
        Some(_) => {
            return Err(StoreError::Refused(format!(
                "pipeline {name:?} is defined otherwise in this store; changing a pipeline is not available yet: use a \
                 new name, or a new store"
            )));
        }
        None => {
            diesel::insert_into(pipelines::table)
                .values((
                    pipelines::name.eq(name),
                    pipelines::definition.eq(&text),
                    pipelines::definition_hash.eq(&hash),
                ))
                .execute(connection)?;
        }
    }
    Ok(())
}

fn take_fence(connection: &mut SqliteConnection, pipeline: &str, stream: &str) -> Result<Fence, StoreError> {
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

#[derive(Queryable, Selectable)]
#[diesel(table_name = checkpoints)]
struct CheckpointRow {
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

fn read_checkpoint(connection: &mut SqliteConnection, pipeline: &str) -> Result<Checkpoint, StoreError> {
    let row = checkpoints::table.find(pipeline).select(CheckpointRow::as_select()).first(connection)?;
    Ok(Checkpoint {
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
    })
}

/// Window start and end, group key, state, partial.
type OpenRow = (i64, i64, Vec<u8>, Vec<u8>, bool);

/// The rows of windows that end after the watermark, ordered.
fn open_rows(
    connection: &mut SqliteConnection,
    pipeline: &str,
    watermark: Option<i64>,
) -> Result<Vec<Change>, StoreError> {
    use window_results as results;
    let rows: Vec<OpenRow> = results::table
        .filter(results::pipeline.eq(pipeline))
        .filter(results::window_end.gt(watermark.unwrap_or(i64::MIN)))
        .order((results::window_end, results::window_start, results::group_hash))
        .select((results::window_start, results::window_end, results::group_key, results::state, results::partial))
        .load(connection)?;
    let change = |(window_start, window_end, group, state, partial): OpenRow| Change::Row {
        window_start,
        window_end,
        group: group.into(),
        state,
        partial,
    };
    Ok(rows.into_iter().map(change).collect())
}

fn panes(connection: &mut SqliteConnection, pipeline: &str) -> Result<Vec<Change>, StoreError> {
    let rows: Vec<(i64, Vec<u8>, Vec<u8>)> = pane_states::table
        .filter(pane_states::pipeline.eq(pipeline))
        .order((pane_states::pane_start, pane_states::group_hash))
        .select((pane_states::pane_start, pane_states::group_key, pane_states::state))
        .load(connection)?;
    let change =
        |(pane_start, group, state): (i64, Vec<u8>, Vec<u8>)| Change::Pane { pane_start, group: group.into(), state };
    Ok(rows.into_iter().map(change).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
