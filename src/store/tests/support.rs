//! A small definition (a count and a sum of whole numbers), and short words for what tests do again and again.

use std::path::PathBuf;
use std::sync::Arc;

use crossbeam_channel::{Sender, unbounded};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::postgres;
use crate::config::{AlertConfig, AtLimit, ColumnType, LetterLimit, PostgresConfig, PostgresTls, StoreUrl};
use crate::event::{Account, Letter, LetterKind, Origin};
use crate::store::{
    Admit, AlertFlush, Change, Checkpoint, Chunk, Column, Course, Definition, Fence, Flush, Flushed, Query, Snapshot,
    Store, StoreError,
};
use crate::window::WindowSpec;

/// `count(*)` and `sum(n)` by one text field, unless it says otherwise. A state is the count and the sum, unless
/// `raw` tells the values from it.
#[derive(Clone)]
pub(super) struct Definitions {
    pub name: String,
    pub groups: Vec<(String, ColumnType)>,
    pub results: Vec<(String, ColumnType)>,
    pub raw: Option<fn(&[u8]) -> Value>,
    pub json: Value,
    pub raw_retain_ms: Option<i64>,
    pub window: Option<WindowSpec>,
    pub alerts: Vec<AlertConfig>,
    pub retain_ms: Option<i64>,
}

pub(super) fn by_path(name: &str) -> Definitions {
    Definitions {
        name: name.to_owned(),
        groups: vec![("path".to_owned(), ColumnType::Text)],
        results: vec![("views".to_owned(), ColumnType::BigInt), ("bytes".to_owned(), ColumnType::Numeric)],
        raw: None,
        json: json!({"name": name}),
        raw_retain_ms: None,
        window: Some(WindowSpec::Tumbling { size_ms: 60_000 }),
        alerts: Vec::new(),
        retain_ms: None,
    }
}

pub(super) fn state(count: i64, sum: i64) -> Vec<u8> {
    [count.to_le_bytes(), sum.to_le_bytes()].concat()
}

fn parts(state: &[u8]) -> Result<(i64, i64), String> {
    let (count, sum) = state.split_at_checked(8).ok_or("too short")?;
    let number = |bytes: &[u8]| bytes.try_into().map(i64::from_le_bytes).map_err(|_| "not 16 bytes".to_owned());
    Ok((number(count)?, number(sum)?))
}

impl Definition for Definitions {
    fn pipeline(&self) -> &str {
        &self.name
    }
    fn columns(&self) -> Vec<Column> {
        let all = self.groups.iter().chain(&self.results);
        all.map(|(name, sql_type)| Column { name: name.clone(), sql_type: *sql_type }).collect()
    }
    fn group_columns(&self) -> usize {
        self.groups.len()
    }
    fn values(&self, state: &[u8], _: i64) -> Result<(Value, u64), String> {
        if let Some(raw) = self.raw {
            return Ok((raw(state), 1));
        }
        let (count, sum) = parts(state)?;
        assert_ne!(count, -1, "a state that panics");
        Ok((json!([count, sum]), count.cast_unsigned()))
    }
    fn empty_values(&self) -> Value {
        json!([0, null])
    }
    fn merge(&self, a: &[u8], b: &[u8]) -> Result<Vec<u8>, String> {
        let (a, b) = (parts(a)?, parts(b)?);
        Ok(state(a.0 + b.0, a.1 + b.1))
    }
    fn group(&self, key: &[u8]) -> Result<Value, String> {
        serde_json::from_slice(key).map_err(|error| error.to_string())
    }
    fn window(&self) -> Option<WindowSpec> {
        self.window
    }
    fn definition(&self) -> &Value {
        &self.json
    }
    fn alerts(&self) -> &[AlertConfig] {
        &self.alerts
    }
    /// Where there are at least ten events; of one that asks for the window before, more than there.
    fn holds(&self, state: &[u8], _: i64, _: &[u8], previous: Option<(i64, &[u8])>) -> Result<Vec<bool>, String> {
        let count = parts(state)?.0;
        let before = previous.map(|(_, state)| parts(state)).transpose()?;
        let holds = |alert: &AlertConfig| match alert.asks_previous {
            true => before.is_some_and(|(before, _)| count > before),
            false => count >= 10,
        };
        Ok(self.alerts.iter().map(holds).collect())
    }
    fn retain_ms(&self) -> Option<i64> {
        self.retain_ms
    }
    fn raw_retain_ms(&self) -> Option<i64> {
        self.raw_retain_ms
    }
}

/// A store of its own: a file in a folder, or a schema.
pub(super) struct Bench {
    pub folder: TempDir,
    pub url: StoreUrl,
    pub store: Store,
}

impl Bench {
    pub fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(folder.path().join("mill/t.db"));
        let store = Store::open(&url, true).unwrap();
        Self { folder, url, store }
    }

    pub fn postgres() -> Self {
        let url = StoreUrl::Postgres(Box::new(postgres_config(&postgres::shared().url())));
        let store = Store::open(&url, true).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), url, store }
    }

    pub fn is_postgres(&self) -> bool {
        matches!(self.url, StoreUrl::Postgres(_))
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("mill/t.db")
    }

    /// Runs SQL over another connection, as a user's own tools would.
    pub fn execute(&self, sql: &str) {
        match &self.url {
            StoreUrl::Sqlite(path) => {
                SqliteConnection::establish(path.to_str().unwrap()).unwrap().batch_execute(sql).unwrap();
            }
            StoreUrl::Postgres(config) => {
                postgres::shared().psql(&format!("SET search_path TO {};\n{sql}", config.schema));
            }
        }
    }

    /// One value of one row, as text.
    pub fn ask(&self, sql: &str) -> String {
        self.ask_behind("", sql)
    }

    /// Columns of rows: `|` between columns, NULL is empty, `; ` between rows, which come in the order of the first column.
    pub fn ask_rows(&self, columns: &[&str], from: &str) -> String {
        let columns: Vec<_> = columns.iter().map(|column| format!("coalesce(CAST({column} AS TEXT), '')")).collect();
        let first = columns[0].replace("coalesce(CAST(", "").replace(" AS TEXT), '')", "");
        self.ask(&format!("SELECT string_agg({}, '; ' ORDER BY {first}) FROM {from}", columns.join(" || '|' || ")))
    }

    /// The same, behind a statement of PostgreSQL's.
    pub fn ask_behind(&self, first: &str, sql: &str) -> String {
        #[derive(QueryableByName)]
        struct Answer {
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
            answer: Option<String>,
        }
        let sql = format!("SELECT coalesce(CAST(({sql}) AS TEXT), 'NULL') AS answer");
        match &self.url {
            StoreUrl::Sqlite(path) => {
                let mut connection = SqliteConnection::establish(path.to_str().unwrap()).unwrap();
                let answer: Answer = diesel::sql_query(sql).get_result(&mut connection).unwrap();
                answer.answer.unwrap()
            }
            StoreUrl::Postgres(config) => {
                postgres::shared().psql(&format!("SET search_path TO {}; {first} {sql}", config.schema))
            }
        }
    }

    pub async fn begin(&self, definition: &Definitions) -> Snapshot {
        self.store.begin(Arc::new(definition.clone()), "web", anyone()).await.unwrap()
    }

    /// A whole flush.
    pub async fn flush(
        &self,
        definition: &Definitions,
        fence: Fence,
        changes: Vec<Change>,
        checkpoint: Checkpoint,
    ) -> Result<Flushed, StoreError> {
        self.flush_within(definition, fence, ROOMY, changes, checkpoint).await
    }

    /// One flush of a pipeline that may keep so many letters.
    pub async fn flush_within(
        &self,
        definition: &Definitions,
        fence: Fence,
        letters: LetterLimit,
        changes: Vec<Change>,
        checkpoint: Checkpoint,
    ) -> Result<Flushed, StoreError> {
        let (chunks, flush, reply) = a_flush(definition, fence, letters);
        self.store.flush(flush);
        // A flush that failed already takes nothing more: its reply says why.
        let _ = chunks.send(Chunk::Changes(changes, Box::new(())));
        let _ = chunks.send(Chunk::Finish(checkpoint));
        reply.await.unwrap()
    }

    /// Begins, flushes once and shows the view.
    pub async fn shown(&self, definition: &Definitions, changes: Vec<Change>, watermark: i64) -> Vec<Vec<Value>> {
        let fence = self.begin(definition).await.fence;
        self.flush(definition, fence, changes, at(10, watermark)).await.unwrap();
        self.rows(&definition.name).await
    }

    pub async fn rows(&self, pipeline: &str) -> Vec<Vec<Value>> {
        self.store.rows(pipeline, Query { limit: 100, ..Query::default() }).await.unwrap().rows
    }

    pub async fn now(&self, pipeline: &str) -> Vec<Vec<Value>> {
        self.store.rows(pipeline, Query { now: true, limit: 100, ..Query::default() }).await.unwrap().rows
    }

    /// `[window_start_ms, path, views, bytes]` of each row, oldest first.
    pub async fn sums(&self, pipeline: &str) -> Vec<(i64, String, i64, i64)> {
        let rows = self.rows(pipeline).await;
        let int = |value: &Value| value.as_i64().unwrap();
        let short =
            |row: &Vec<Value>| (int(&row[2]), row[7].as_str().unwrap_or("NULL").to_owned(), int(&row[8]), int(&row[9]));
        let mut short: Vec<_> = rows.iter().map(short).collect();
        short.sort();
        short
    }
}

/// Admits every checkpoint.
pub(super) fn as_told(course: Course) -> Admit {
    Box::new(|_, _| Ok(course))
}

pub(super) fn anyone() -> Admit {
    Box::new(|_, _| Ok(Course::GoOn))
}

/// A schema of the shared server.
pub(super) fn postgres_config(url: &str) -> PostgresConfig {
    PostgresConfig {
        connect: url.parse().unwrap(),
        tls: PostgresTls::Disable,
        schema: postgres::unique_schema(),
        shown: url.to_owned(),
    }
}

/// A flush that waits for its chunks.
pub(super) struct OpenFlush {
    pub chunks: Sender<Chunk>,
    pub reply: oneshot::Receiver<Result<Flushed, StoreError>>,
}

/// Room for whatever a test writes.
pub(super) const ROOMY: LetterLimit = LetterLimit { bytes: 1 << 30, beyond: AtLimit::Discard };

/// A flush, with where its chunks go in and its answer comes out.
pub(super) fn a_flush(
    definition: &Definitions,
    fence: Fence,
    letters: LetterLimit,
) -> (Sender<Chunk>, Flush, oneshot::Receiver<Result<Flushed, StoreError>>) {
    let (chunks, receiver) = unbounded();
    let (reply, answer) = oneshot::channel();
    let definition = Arc::new(definition.clone());
    (
        chunks,
        Flush {
            definition,
            stream: "web".to_owned(),
            fence,
            revision: 1,
            revise: None,
            letters,
            live: None,
            alerts: AlertFlush::default(),
            chunks: receiver,
            reply,
        },
        answer,
    )
}

pub(super) fn open_flush(store: &Store, definition: &Definitions, fence: Fence) -> OpenFlush {
    open_flush_of("web", store, definition, fence)
}

pub(super) fn open_flush_of(stream: &str, store: &Store, definition: &Definitions, fence: Fence) -> OpenFlush {
    let (chunks, flush, reply) = a_flush(definition, fence, ROOMY);
    store.flush(Flush { stream: stream.to_owned(), ..flush });
    OpenFlush { chunks, reply }
}

pub(super) fn at(position: u64, watermark: i64) -> Checkpoint {
    Checkpoint { position, watermark: Some(watermark), ..Checkpoint::default() }
}

pub(super) fn account(read: u64, filtered: u64, aggregated: u64, dead: u64) -> Account {
    Account { read, filtered, aggregated, dead, ..Account::default() }
}

pub(super) fn key(group: &Value) -> Arc<[u8]> {
    group.to_string().into_bytes().into()
}

/// The state of `/path` in the 100 ms from `start`.
pub(super) fn row(start: i64, path: &str, count: i64, sum: i64) -> Change {
    Change::Row {
        window_start: start,
        window_end: start + 100,
        group: key(&json!([path])),
        state: state(count, sum),
        partial: false,
    }
}

pub(super) fn late(start: i64, path: &str, count: i64, sum: i64, revised_at: i64) -> Change {
    Change::Correction {
        window_start: start,
        window_end: start + 100,
        group: key(&json!([path])),
        state: state(count, sum),
        revised_at,
        partial: true,
    }
}

pub(super) fn pane(start: i64, path: &str, count: i64) -> Change {
    Change::Pane { pane_start: start, group: key(&json!([path])), state: state(count, 0) }
}

pub(super) fn letter(position: u64, line: &[u8], reason: &str) -> Change {
    Change::Letter(Letter {
        position,
        line: line.to_vec(),
        kind: LetterKind::Expression,
        stage: "filter".to_owned(),
        reason: reason.to_owned(),
        ingest_time: 1_700,
        failed_at: 1_700,
        record: position,
        attempts: 1,
        again: false,
        origin: Origin { producer: Some("p-1".into()), peer: None },
    })
}
