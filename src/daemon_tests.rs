//! The life of a generation, inside the process.

use std::sync::atomic::Ordering;

use super::*;
use crate::actors::tests::PANIC_AT;

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
