//! The life of a generation, inside the process.

use std::sync::atomic::Ordering;

use super::*;
use crate::actors::tests::{PANIC_ALWAYS, PANIC_AT};

fn config(folder: &Path) -> String {
    format!(
        r#"
        data_dir = {folder:?}
        [store]
        flush_every = "10ms"
        [http]
        listen = "127.0.0.1:0"
        [streams.web]
        [pipelines.hurt]
        stream = "web"
        time = "ts"
        group_by = ["path"]
        window = {{ tumbling = "10s" }}
        aggregates = {{ hits = "count(*)", total = "sum(n)" }}
        "#
    )
}

async fn rows(folder: &Path, panic_at: u64) -> (Vec<Vec<serde_json::Value>>, serde_json::Value) {
    PANIC_AT.store(panic_at, Ordering::SeqCst);
    let mill = Tidemill::from_str(&config(folder)).unwrap().window_actors(2).start().await.unwrap();
    let web = mill.stream("web").unwrap();
    let hurt = mill.pipeline("hurt").unwrap();
    for part in 0..20_u64 {
        for index in part * 50..part * 50 + 50 {
            let ts = 1_431_855_000_000 + index * 137 % 60_000;
            web.send(format!(r#"{{"ts": {ts}, "path": "/{}", "n": {index}}}"#, index % 7)).await.unwrap();
        }
        web.synced().await.unwrap();
        let mut committed = hurt.committed();
        committed.wait_for(|position| *position >= part * 50 + 50).await.unwrap();
    }
    let stats = serde_json::from_str(&mill.stats().unwrap()).unwrap();
    let mut rows = hurt.rows(Query { limit: 10_000, ..Query::default() }).await.unwrap();
    mill.shutdown().await;
    // Ingest times are the clock's.
    let revised_at = rows.columns.iter().position(|column| column == "revised_at").unwrap();
    rows.rows.iter_mut().for_each(|row| drop(row.remove(revised_at)));
    assert_eq!(PANIC_AT.load(Ordering::SeqCst), 0, "the panic happened");
    (rows.rows, stats)
}

#[tokio::test(flavor = "current_thread")]
async fn a_panic_in_a_window_rebuilds_its_pipeline_and_changes_no_row() {
    let (calm, hurt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (expected, _) = rows(calm.path(), 0).await;
    assert_eq!(expected.len(), 42);
    let (rebuilt, stats) = rows(hurt.path(), 521).await;
    assert_eq!(rebuilt, expected);
    let restarts = |kind: &str, name: &str| {
        let actors = stats["actors"].as_array().unwrap();
        let actor = actors.iter().find(|actor| actor["kind"] == kind && actor["name"] == name).unwrap();
        actor["restarts"].as_u64().unwrap()
    };
    assert_eq!((restarts("window", "hurt/1"), restarts("stage", "hurt")), (1, 1));
    assert_eq!((restarts("stage", "@web"), restarts("ingest", "web")), (0, 0), "its neighbours did not notice");
}

/// What the stats say of the pipeline.
fn seen(mill: &Mill) -> serde_json::Value {
    let stats: serde_json::Value = serde_json::from_str(&mill.stats().unwrap()).unwrap();
    stats["pipelines"].as_array().unwrap().iter().find(|pipeline| pipeline["name"] == "hurt").unwrap().clone()
}

/// Lets the daemon's threads do what they can until a condition holds.
async fn until(what: &str, mill: &Mill, mut condition: impl FnMut(&serde_json::Value) -> bool) {
    for _ in 0..100_000 {
        if condition(&seen(mill)) {
            return;
        }
        Clock::system().sleep(Duration::from_millis(1)).await;
    }
    panic!("waited for {what}: {}", seen(mill));
}

async fn order(mill: &Mill, verb: &'static str) -> serde_json::Value {
    let url = format!("http://{}/api/v1/pipelines/hurt/{verb}", mill.http_address());
    let post = tokio::task::spawn_blocking(move || ureq::post(url).send("").unwrap().body_mut().read_to_string());
    serde_json::from_str(&post.await.unwrap().unwrap()).unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn a_pipeline_that_dies_three_times_at_one_place_is_paused_and_can_be_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let mill = Tidemill::from_str(&config(folder.path())).unwrap().start().await.unwrap();
    let web = mill.stream("web").unwrap();
    PANIC_ALWAYS.store(true, Ordering::SeqCst);
    web.send(r#"{"ts": 1431855000000, "path": "/panic", "n": 1}"#).await.unwrap();
    web.synced().await.unwrap();
    until("the third death", &mill, |seen| seen["state"] == "paused").await;
    let error = seen(&mill)["error"].as_str().unwrap().to_owned();
    assert!(error.ends_with("it died 3 times behind position 0"), "{error}");
    PANIC_ALWAYS.store(false, Ordering::SeqCst);
    assert_eq!(order(&mill, "resume").await["error"], serde_json::Value::Null);
    until("the commit", &mill, |seen| seen["account"]["aggregated"] == 1).await;
    mill.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn lag_is_the_age_of_the_oldest_record_that_is_not_committed() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_431_855_000_000);
    let mill = Tidemill::from_str(&config(folder.path())).unwrap().clock(clock.clone()).start().await.unwrap();
    let web = mill.stream("web").unwrap();
    let line = r#"{"ts": 1431855000000, "path": "/", "n": 1}"#;
    let lag = |seen: &serde_json::Value| (seen["lag_positions"].as_u64().unwrap(), seen["lag_ms"].as_i64().unwrap());
    web.send(line).await.unwrap();
    web.synced().await.unwrap();
    until("the first record", &mill, |seen| lag(seen) == (1, 0)).await;
    // Less than the flush's timer, which stands still.
    clock.advance(Duration::from_millis(7));
    until("its age", &mill, |seen| lag(seen) == (1, 7)).await;
    web.send(line).await.unwrap();
    web.synced().await.unwrap();
    until("the second record", &mill, |seen| lag(seen) == (2, 7)).await;
    assert_eq!(seen(&mill)["state"], "running");
    clock.advance(Duration::from_millis(3));
    until("the flush", &mill, |seen| lag(seen) == (0, 0)).await;
    mill.shutdown().await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_daemon_that_stops_ends_the_pause_behind_a_failed_flush() {
    use diesel::connection::{Connection, SimpleConnection};
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(1_431_855_000_000);
    let mill = Tidemill::from_str(&config(folder.path())).unwrap().clock(clock.clone()).start().await.unwrap();
    let web = mill.stream("web").unwrap();
    let database = folder.path().join("tidemill.db");
    let mut locked = diesel::SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    locked.batch_execute("PRAGMA busy_timeout = 60000; BEGIN IMMEDIATE").unwrap();
    web.send(r#"{"ts": 1431855000000, "path": "/", "n": 1}"#).await.unwrap();
    web.synced().await.unwrap();
    until("the record", &mill, |seen| seen["lag_positions"] == 1 && seen["state"] == "running").await;
    clock.advance(Duration::from_millis(10));
    until("the failed flush", &mill, |seen| seen["error"].as_str().is_some_and(|error| error.contains("locked"))).await;
    locked.batch_execute("ROLLBACK").unwrap();
    // The clock stands, so that neither the pause nor the drain would ever end by themselves.
    mill.shutdown().await;
    let mill = Tidemill::from_str(&config(folder.path())).unwrap().start().await.unwrap();
    assert_eq!(seen(&mill)["account"]["aggregated"], 1, "it was committed when the daemon stopped");
    mill.shutdown().await;
}
