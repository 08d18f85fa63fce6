//! Opening the file and beginning a pipeline.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use serde_json::json;

use super::support::*;
use crate::config::StoreUrl;
use crate::store::{
    Beginning, Checkpoint, Course, Flushed, LetterFilter, Query, Registered, Replay, Store, StoreError,
};

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
    async fn a_pipeline_is_registered_once_as_it_was_defined(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, vec![], at(1, 1)).await.unwrap();
        let mut reordered = hits.clone();
        reordered.json = json!({"name": "hits", "of": "another file"});
        let again = bench.begin(&reordered).await;
        assert_eq!((again.definition, again.revision), (json!({"name": "hits"}), 1), "it goes on as it is");
        let [known] = bench.store.registered().await.unwrap().try_into().unwrap();
        assert_eq!((known.name.as_str(), known.revision, known.checkpoint.position), ("hits", 1, 1));
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
        let admit = Box::new(|_: Option<&Registered>, checkpoint: &Checkpoint| Err(format!("not behind {}", checkpoint.position)));
        let refused = bench.store.begin(Arc::new(hits.clone()), "web", admit).await.unwrap_err();
        assert_eq!(refused, StoreError::Refused("not behind 7".to_owned()));
        bench.flush(&hits, fence, vec![], at(8, 1)).await.unwrap();
    }

    async fn an_amended_definition_counts_from_there_on(bench: Bench) {
        let mut hits = by_path("hits");
        let of = |names: &[&str]| {
            let aggregates: Vec<_> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"aggregates": aggregates})
        };
        hits.json = of(&["views", "bytes"]);
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, vec![row(100, "/a", 1, 1), pane(150, "/a", 1)], at(7, 100)).await.unwrap();
        let amended = of(&["views", "bytes", "more"]);
        let course = Course::Amend(amended.clone());
        let snapshot = bench.store.begin(Arc::new(hits.clone()), "web", as_told(course)).await.unwrap();
        assert_eq!((snapshot.checkpoint.position, snapshot.revision, snapshot.open.len()), (7, 1, 2));
        assert_eq!(snapshot.definition, amended);
        assert_eq!(snapshot.added, [("more".to_owned(), 151)].into(), "whatever began before has none of it");
        let again = bench.begin(&hits).await;
        assert_eq!((again.definition, again.added), (amended, snapshot.added), "and stays so");
    }

    async fn a_new_revision_begins_with_its_first_commit(bench: Bench) {
        let (mut hits, other) = (by_path("hits"), by_path("other"));
        let fence = bench.begin(&hits).await.fence;
        let closed = [row(0, "/a", 1, 1), row(100, "/a", 2, 2), row(200, "/a", 3, 3), pane(200, "/a", 3)];
        let letters = [letter(2, b"x", "old"), letter(5, b"x", "again")];
        bench.flush(&hits, fence, closed.into_iter().chain(letters).collect(), at(7, 250)).await.unwrap();
        let filter = LetterFilter { pipeline: Some("hits".to_owned()), ..LetterFilter::default() };
        let replay = Replay { stream: "web".to_owned(), filter, positions: None, fence, behind: 0, limit: 9 };
        assert_eq!(bench.store.replay_letters(replay).await, Ok(Some(2)));
        let other_fence = bench.begin(&other).await.fence;
        bench.flush(&other, other_fence, vec![row(200, "/o", 1, 1), letter(5, b"x", "why")], at(7, 250)).await.unwrap();

        hits.json = json!({"name": "hits", "window": "other"});
        let course = || Course::Revise(Beginning { position: 3, kept_upto: Some(200) });
        let revise = async || bench.store.begin(Arc::new(hits.clone()), "web", as_told(course())).await.unwrap();
        let rows = || bench.ask_rows(&["window_start", "revision", "events"], "window_results WHERE pipeline = 'hits'");
        let before = (rows(), bench.rows("hits").await);
        revise().await;
        assert_eq!((rows(), bench.rows("hits").await), before, "until then the one before is whole");
        // It never came to a commit; the next start begins anew, too.
        let snapshot = revise().await;
        assert_eq!((snapshot.checkpoint.position, snapshot.checkpoint.watermark), (3, None));
        assert_eq!((snapshot.revision, snapshot.open.len(), snapshot.kept), (2, 0, Some((200, 7))));
        let (chunks, mut flush, answer) = a_flush(&hits, snapshot.fence, ROOMY);
        (flush.revision, flush.revise) = (snapshot.revision, snapshot.revise);
        bench.store.flush(flush);
        let changes = vec![row(300, "/new", 9, 9), letter(6, b"x", "new")];
        chunks.send(crate::store::Chunk::Changes(changes, Box::new(()))).unwrap();
        chunks.send(crate::store::Chunk::Finish(at(9, 40))).unwrap();
        assert_eq!(answer.await.unwrap(), Ok(Flushed { rows: 1, letters: 1, watermark: Some(40), ..Flushed::default() }));
        assert_eq!(rows(), "0|1|1; 100|1|2; 300|2|9", "200 was open");
        assert_eq!(bench.ask("SELECT count(*) FROM pane_states"), "0");
        let letters = bench.ask_rows(&["position", "replay_number"], "dead_letters WHERE pipeline = 'hits'");
        assert_eq!(letters, "2|; 6|", "5 is read again, and what was on its way is free");
        assert_eq!(bench.ask("SELECT count(*) FROM dead_letters WHERE pipeline = 'other'"), "1");
        let closed: Vec<_> = bench.rows("hits").await.iter().map(|row| (row[2].clone(), row[3].clone())).collect();
        let expected = [(300, false), (100, true), (0, true)].map(|(start, closed)| (json!(start), json!(closed)));
        assert_eq!(closed, expected, "rows of the older revision are closed, although the watermark begins anew");
        let now = bench.store.rows("hits", Query { now: true, limit: 9, ..Query::default() }).await.unwrap();
        assert_eq!(now.rows.len(), 0, "and none of them is the one next to close");
        let again = bench.begin(&hits).await;
        assert_eq!((again.revision, again.kept, again.revise), (2, Some((200, 7)), None));
        assert_eq!(again.open.len(), 1, "the older rows' states are of another definition");
    }

    async fn a_pipeline_may_go_on_in_another_journal(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let before = Checkpoint { journal_id: 5, first_position: 1, ..at(7, 250) };
        let changes = vec![row(200, "/a", 1, 1), letter(1, b"x", "old"), letter(5, b"x", "old")];
        bench.flush(&hits, fence, changes, before).await.unwrap();
        let course = Course::Adopt { journal_id: 6, position: 2 };
        let snapshot = bench.store.begin(Arc::new(hits.clone()), "web", as_told(course)).await.unwrap();
        let now = Checkpoint { journal_id: 6, position: 2, first_position: 0, ..before };
        assert_eq!((snapshot.checkpoint, snapshot.open.len()), (now, 1));
        assert_eq!(bench.ask_rows(&["position"], "dead_letters"), "1", "positions behind it come anew");
        assert_eq!(bench.begin(&hits).await.checkpoint, now);
    }

    async fn a_pipeline_that_is_dropped_leaves_nothing(bench: Bench) {
        for name in ["hits", "other"] {
            let hits = by_path(name);
            let fence = bench.begin(&hits).await.fence;
            let changes = vec![row(200, "/a", 1, 1), pane(200, "/a", 1), letter(1, b"x", "old")];
            bench.flush(&hits, fence, changes, at(7, 250)).await.unwrap();
        }
        bench.store.drop_pipeline("hits").await.unwrap();
        for table in ["window_results", "pane_states", "dead_letters", "checkpoints"] {
            assert_eq!(bench.ask_rows(&["pipeline"], table), "other", "{table}");
        }
        assert_eq!(bench.ask_rows(&["name"], "pipelines"), "other");
        bench.execute("CREATE TABLE hits (x int)");
        bench.execute("CREATE TABLE hits_now (x int)");
        assert_eq!(bench.rows("other").await.len(), 1);
        // What has the name of its view now is somebody else's.
        bench.store.drop_pipeline("hits").await.unwrap();
        assert_eq!(bench.ask("SELECT count(*) FROM hits"), "0");
    }
}
