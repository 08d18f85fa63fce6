//! Opening the file and beginning a pipeline.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::json;

use super::support::*;
use crate::config::StoreUrl;
use crate::store::{Checkpoint, Query, Store, StoreError};

on_both! {
    async fn a_pipeline_begins_with_its_checkpoint_its_open_rows_and_its_panes(bench: Bench) {
        let (hits, other) = (by_path("hits"), by_path("other"));
        let first = bench.begin(&hits).await;
        assert_eq!((first.checkpoint, first.open.len()), (Checkpoint::default(), 0));
        let changes = vec![
            row(0, "/closed", 1, 1),
            row(100, "/b", 2, 2),
            row(100, "/a", 3, 3),
            row(200, "/a", 4, 4),
            pane(100, "/a", 3),
        ];
        bench.flush(&hits, first.fence, changes.clone(), at(7, 100)).await.unwrap();
        let other_fence = bench.begin(&other).await.fence;
        bench.flush(&other, other_fence, vec![row(100, "/other", 1, 1), pane(100, "/other", 1)], at(7, 100)).await.unwrap();

        let again = bench.begin(&hits).await;
        assert_eq!(again.fence.epoch, first.fence.epoch + 1);
        assert_eq!(again.checkpoint, at(7, 100));
        assert_eq!(again.open.len(), 4);
        for change in &changes[1..] {
            assert!(again.open.contains(change), "{change:?} is missing in {:?}", again.open);
        }
        assert_eq!(again.open[3], changes[4]);
    }
}

on_both! {
    async fn an_intake_begins_without_views(bench: Bench) {
        let mut intake = by_path("@web");
        intake.groups.clear();
        let fence = bench.begin(&intake).await.fence;
        bench.flush(&intake, fence, vec![letter(3, b"{", "no JSON")], at(3, 0)).await.unwrap();
        let views = if bench.is_postgres() {
            "SELECT count(*) FROM pg_views WHERE schemaname = current_schema()"
        } else {
            "SELECT count(*) FROM sqlite_master WHERE type = 'view'"
        };
        assert_eq!(bench.ask(views), "0");
        assert_eq!(bench.ask("SELECT pipeline || position FROM dead_letters"), "@web3");
        assert_eq!(bench.begin(&intake).await.checkpoint.position, 3);
    }
}

on_both! {
    async fn a_definition_that_differs_is_refused_and_takes_no_fence(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let mut changed = hits.clone();
        changed.json = json!({"name": "hits", "window": "1m"});
        let refused = bench.store.begin(Arc::new(changed), "web", anyone()).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Refused(why) if why.contains("not available yet: use a new name")),
            "{refused}"
        );
        bench.flush(&hits, fence, vec![], at(1, 1)).await.unwrap();
        let now = crate::clock::Clock::system().wall_ms();
        let stored = format!(
            "SELECT name || definition || revision || length(definition_hash) FROM pipelines \
             WHERE first_seen_at = changed_at AND abs(first_seen_at - {now}) < 60000"
        );
        assert_eq!(bench.ask(&stored), r#"hits{"name":"hits"}164"#);
    }
}

on_both! {
    async fn a_view_whose_text_has_changed_is_made_anew_and_else_left_alone(bench: Bench) {
        let hits = by_path("hits");
        bench.begin(&hits).await;
        // SQLite counts each change of its schema; PostgreSQL numbers each view.
        let version = || {
            let postgres = "SELECT oid FROM pg_class WHERE relname = 'hits' AND relnamespace = current_schema()::regnamespace";
            bench.ask(if bench.is_postgres() { postgres } else { "SELECT schema_version FROM pragma_schema_version" })
        };
        let before = version();
        bench.begin(&hits).await;
        assert_eq!(version(), before);

        let old = if bench.is_postgres() {
            "DROP VIEW hits; CREATE VIEW hits AS SELECT 1 AS old; \
             COMMENT ON VIEW hits IS 'made by tidemill for pipeline hits: 0123'"
        } else {
            "DROP VIEW hits; CREATE VIEW hits AS /* made by tidemill for pipeline hits */ SELECT 1 AS old"
        };
        bench.execute(old);
        bench.begin(&hits).await;
        assert_ne!(version(), before);
        let columns = bench.store.rows("hits", Query { limit: 0, ..Query::default() }).await.unwrap().columns;
        assert_eq!(columns.len(), 10);
    }
}

#[tokio::test]
async fn a_table_or_a_view_of_somebody_else_is_never_touched() {
    for (foreign, says) in [
        ("CREATE TABLE hits (x)", "has a table \"hits\" already"),
        ("CREATE TABLE Hits_Now (x)", "has a table \"Hits_Now\" already"),
        ("CREATE VIEW hits AS SELECT 1 AS x", "has a view \"hits\" already"),
    ] {
        let bench = Bench::sqlite();
        bench.execute(foreign);
        let refused = bench.store.begin(Arc::new(by_path("hits")), "web", anyone()).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Refused(why) if why.contains(says)), "{refused}");
        let sql = format!("SELECT count(*) FROM sqlite_master WHERE sql = '{foreign}'");
        assert_eq!(bench.ask(&sql), "1");
        assert_eq!(bench.ask("SELECT count(*) FROM checkpoints"), "0", "nothing of the refused start stays");
    }
    // The view of one pipeline's window next to close is not another pipeline's.
    let bench = Bench::sqlite();
    bench.begin(&by_path("hits")).await;
    let refused = bench.store.begin(Arc::new(by_path("hits_now")), "web", anyone()).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Refused(why) if why.contains("not pipeline \"hits_now\"'s")), "{refused}");
}

#[tokio::test]
async fn the_file_is_for_its_owner_only() {
    let bench = Bench::sqlite();
    bench.begin(&by_path("hits")).await;
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&bench.path()), 0o600);
    assert_eq!(mode(&bench.path().with_extension("db-wal")), 0o600);
    assert_eq!(mode(bench.path().parent().unwrap()), 0o700);
    assert_eq!(bench.ask("SELECT journal_mode FROM pragma_journal_mode"), "wal");
}

#[test]
fn tables_are_made_only_where_that_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let refused = Store::open(&StoreUrl::Sqlite(path.clone()), false).err().unwrap();
    assert!(matches!(&refused, StoreError::Schema(why) if why.contains("tidemill migrate CONFIG")), "{refused}");
    assert!(refused.to_string().contains("t.db"), "{refused}");
    Store::open(&StoreUrl::Sqlite(path.clone()), true).unwrap();
    Store::open(&StoreUrl::Sqlite(path), false).unwrap();
}

#[test]
fn tables_of_a_newer_version_are_refused_whatever_migrate_says() {
    for (bench, migrate) in
        [(Bench::sqlite(), true), (Bench::sqlite(), false), (Bench::postgres(), true), (Bench::postgres(), false)]
    {
        bench.execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('9999')");
        let refused = Store::open(&bench.url, migrate).err().unwrap();
        assert!(
            matches!(&refused, StoreError::Schema(why) if why.contains("newer tidemill (schema 9999)")),
            "{refused}"
        );
    }
}

#[test]
fn many_may_open_a_new_file_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.db");
    let opened: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..4).map(|_| scope.spawn(|| Store::open(&StoreUrl::Sqlite(path.clone()), true).map(drop))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for opened in opened {
        // Away is an answer: whoever starts waits and tries again.
        assert!(matches!(opened, Ok(()) | Err(StoreError::Away(_))), "{opened:?}");
    }
    Store::open(&StoreUrl::Sqlite(path), true).unwrap();
}

#[test]
fn a_path_that_cannot_be_a_store_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "not a database, although it is a file of more than some bytes. ".repeat(20)).unwrap();
    for path in [folder.path().to_owned(), text.clone(), text.join("t.db")] {
        let refused = Store::open(&StoreUrl::Sqlite(path.clone()), true).err().unwrap();
        let says = refused.to_string();
        assert!(matches!(refused, StoreError::Refused(_)), "{says}");
        assert!(says.contains(path.file_name().unwrap().to_str().unwrap()), "{says}");
    }
    assert!(std::fs::read_to_string(text).unwrap().starts_with("not a database"));
}

on_both! {
    async fn an_unknown_pipeline_is_answered_with_the_nearest(bench: Bench) {
        let query = || Query { limit: 1, ..Query::default() };
        let nothing = bench.store.rows("hits", query()).await.unwrap_err();
        assert_eq!(nothing.to_string(), "the store refuses: the store has no pipeline \"hits\"; it has none yet");
        for name in ["page_views", "revenue", "errors", "sessions"] {
            bench.begin(&by_path(name)).await;
        }
        bench.begin(&by_path("@web")).await;
        for name in ["page_view", "@web", "checkpoints", "page_views_now", "\"; --"] {
            let unknown = bench.store.rows(name, query()).await.unwrap_err().to_string();
            assert!(unknown.contains("has no pipeline"), "{unknown}");
            assert!(!unknown.contains("@web,"), "{unknown}");
        }
        let unknown = bench.store.rows("page_view", query()).await.unwrap_err().to_string();
        assert!(unknown.contains("nearest: page_views, "), "{unknown}");
        assert!(bench.rows("page_views").await.is_empty());
    }
}

on_both! {
    async fn who_is_not_admitted_takes_no_fence(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, vec![], at(7, 1)).await.unwrap();
        let admit = Box::new(|checkpoint: &Checkpoint| Err(format!("not behind {}", checkpoint.position)));
        let refused = bench.store.begin(Arc::new(hits.clone()), "web", admit).await.unwrap_err();
        assert_eq!(refused, StoreError::Refused("not behind 7".to_owned()));
        bench.flush(&hits, fence, vec![], at(8, 1)).await.unwrap();
    }
}
