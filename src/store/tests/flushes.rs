//! One transaction: all of it, or nothing; by who holds the fence.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use diesel::connection::{Connection, SimpleConnection};
use serde_json::{Value, json};

use super::support::*;
use crate::config::StoreUrl;
use crate::event::Account;
use crate::store::postgres::Postgres;
use crate::store::session::{Access, Database, Session};
use crate::store::sqlite::Sqlite;
use crate::store::{Checkpoint, Chunk, Flushed, Store, StoreError, begin, commit};

on_both! {
    async fn a_flush_moves_rows_panes_letters_account_and_checkpoint_together(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let checkpoint = Checkpoint {
            journal_id: u64::MAX - 1,
            position: 42,
            watermark: Some(-5),
            silence_ms: 7,
            first_position: 3,
            first_ingest_time: 1_234,
            account: Account {
                read: 20,
                made: 7,
                filtered: 1,
                aggregated: 12,
                late: 2,
                dead: 3,
                exploded: 4,
                skipped: 5,
                partly_late: 6,
            },
        };
        let changes = vec![row(0, "/a", 2, 30), pane(0, "/a", 2), letter(9, b"{bad\xff\0", "why"), row(0, "/b", 1, -4)];
        let flushed = bench.flush(&definition, fence, changes, checkpoint).await;
        assert_eq!(
            flushed,
            Ok(Flushed { rows: 2, letters: 1, watermark: checkpoint.watermark, ..Flushed::default() })
        );

        assert_eq!(bench.sums("hits").await, [(0, "/a".to_owned(), 2, 30), (0, "/b".to_owned(), 1, -4)]);
        assert_eq!(bench.ask("SELECT string_agg(concat(events, length(group_hash)), ' ' ORDER BY events DESC) FROM window_results"), "216 116");
        let hex = if bench.is_postgres() { "upper(encode(line, 'hex'))" } else { "hex(line)" };
        let letters = format!(
            "SELECT concat(stream, position, pipeline, {hex}, kind, stage, reason, producer, coalesce(peer, '-'), \
             attempts, failed_at, coalesce(replayed_at, -1)) FROM dead_letters"
        );
        assert_eq!(bench.ask(&letters), "web9hits7B626164FF00expressionfilterwhyp-1-11700-1");
        let again = bench.begin(&definition).await;
        assert_eq!(again.checkpoint, checkpoint);
        let account = "SELECT concat_ws(' ', read, made, filtered, aggregated, late, dead, exploded, \
                       skipped, partly_late) FROM checkpoints";
        assert_eq!(bench.ask(account), "20 7 1 12 2 3 4 5 6");
    }
}

on_both! {
    async fn the_same_flush_twice_leaves_what_it_leaves_once(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        for _ in 0..2 {
            let changes = vec![row(0, "/a", 2, 30), pane(0, "/a", 2), letter(9, b"x", "why")];
            bench.flush(&definition, fence, changes, at(10, 50)).await.unwrap();
        }
        assert_eq!(bench.sums("hits").await, [(0, "/a".to_owned(), 2, 30)]);
        assert_eq!(bench.ask("SELECT count(*) FROM pane_states"), "1");
        assert_eq!(bench.ask("SELECT concat(count(*), max(attempts)) FROM dead_letters"), "11");
    }
}

on_both! {
    async fn a_flush_that_is_given_up_leaves_nothing_and_the_next_one_works(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let open = open_flush(&bench.store, &definition, fence);
        open.chunks.send(Chunk::Changes(vec![row(0, "/a", 1, 1), letter(1, b"x", "y")], Box::new(()))).unwrap();
        drop(open.chunks);
        assert_eq!(open.reply.await.unwrap(), Err(StoreError::GivenUp));
        assert!(bench.sums("hits").await.is_empty());
        assert_eq!(bench.ask("SELECT count(*) FROM dead_letters"), "0");

        bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], at(1, 1)).await.unwrap();
        assert_eq!(bench.sums("hits").await.len(), 1);
    }
}

on_both! {
    async fn who_begins_last_holds_the_fence_also_over_another_handle(bench: Bench) {
        let definition = by_path("hits");
        let other = Store::open(&bench.url, false).unwrap();
        let old = bench.begin(&definition).await.fence;
        let new = other.begin(Arc::new(definition.clone()), "web", anyone()).await.unwrap().fence;
        assert_eq!(new.epoch, old.epoch + 1);
        assert_ne!(new.writer, old.writer);

        let fenced = bench.flush(&definition, old, vec![row(0, "/a", 1, 1)], at(1, 1)).await;
        assert_eq!(fenced, Err(StoreError::Fenced("hits".to_owned())));
        let mut forged = new;
        forged.writer ^= 1;
        let fenced = bench.flush(&definition, forged, vec![row(0, "/a", 1, 1)], at(1, 1)).await;
        assert_eq!(fenced, Err(StoreError::Fenced("hits".to_owned())));
        assert!(bench.sums("hits").await.is_empty());
        bench.flush(&definition, new, vec![row(0, "/a", 1, 1)], at(1, 1)).await.unwrap();
        assert_eq!(bench.sums("hits").await.len(), 1);
    }
}

on_both! {
    async fn corrections_merge_into_the_rows_of_this_flush_and_of_earlier_ones_and_make_missing_ones(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        // The correction comes before the row that it corrects.
        let first =
            vec![late(0, "/a", 1, 5, 900), row(0, "/a", 2, 30), late(0, "/a", 1, 6, 800), late(0, "/new", 1, 7, 850)];
        let flushed = bench.flush(&definition, fence, first, at(10, 150)).await.unwrap();
        assert_eq!(flushed.rows, 3);
        assert_eq!(bench.sums("hits").await, [(0, "/a".to_owned(), 4, 41), (0, "/new".to_owned(), 1, 7)]);

        bench.flush(&definition, fence, vec![late(0, "/a", 10, 100, 61_001)], at(11, 160)).await.unwrap();
        bench.flush(&definition, fence, vec![late(0, "/a", 20, 200, 700)], at(12, 170)).await.unwrap();
        let rows = bench.rows("hits").await;
        // partial, revised_at: the row's own, and the greatest.
        assert_eq!(
            rows[0][3..],
            [json!(true), json!(false), json!(false), json!("1970-01-01 00:01:01.001"), json!("/a"), json!(34), json!(341)]
        );
        assert_eq!(rows[1][4..7], [json!(true), json!(false), json!("1970-01-01 00:00:00.850")]);
        assert_eq!(bench.ask("SELECT string_agg(concat(events), ',' ORDER BY events) FROM window_results"), "1,34");
    }
}

on_both! {
    async fn an_account_that_does_not_balance_is_refused_and_nothing_written(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let lost = Checkpoint { account: account(3, 1, 1, 0), ..at(3, 1) };
        let refused = bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], lost).await;
        assert!(
            matches!(&refused, Err(StoreError::Refused(why)) if why.contains("3 events came in and 2 went out")),
            "{refused:?}"
        );
        assert!(bench.sums("hits").await.is_empty());
        let whole = Checkpoint { account: account(3, 1, 1, 1), ..at(3, 1) };
        bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], whole).await.unwrap();
    }
}

on_both! {
    async fn panes_before_go_and_those_of_others_stay(bench: Bench) {
        let (hits, other) = (by_path("hits"), by_path("other"));
        let fence = bench.begin(&hits).await.fence;
        let other_fence = bench.begin(&other).await.fence;
        bench.flush(&other, other_fence, vec![pane(0, "/a", 1)], at(1, 1)).await.unwrap();
        let panes = vec![pane(0, "/a", 1), pane(10, "/a", 2), pane(20, "/b", 3)];
        bench.flush(&hits, fence, panes, at(1, 1)).await.unwrap();
        let after = vec![crate::store::Change::PanesBefore(20)];
        bench.flush(&hits, fence, after, at(2, 40)).await.unwrap();
        let left = "SELECT string_agg(concat(pipeline, pane_start), ' ' ORDER BY pipeline) FROM pane_states";
        assert_eq!(bench.ask(left), "hits20 other0");
    }
}

on_both! {
    async fn queries_do_not_wait_for_an_open_flush_nor_see_it(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], at(1, 1)).await.unwrap();
        let open = open_flush(&bench.store, &definition, fence);
        let written = Arc::new(AtomicUsize::new(0));
        open.chunks.send(Chunk::Changes(vec![row(0, "/a", 9, 9)], Box::new(Credit(written.clone())))).unwrap();
        // Credit comes home as soon as the chunk is written, not with the commit.
        while written.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert_eq!(bench.sums("hits").await[0].2, 1);
        open.chunks.send(Chunk::Finish(at(2, 2))).unwrap();
        open.reply.await.unwrap().unwrap();
        assert_eq!(bench.sums("hits").await[0].2, 9);
    }
}

struct Credit(Arc<AtomicUsize>);

impl Drop for Credit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

on_both! {
    async fn a_panic_or_a_state_that_is_none_fails_its_own_flush_only(bench: Bench) {
        let (bad, good) = (by_path("bad"), by_path("good"));
        let bad_fence = bench.begin(&bad).await.fence;
        let good_fence = bench.begin(&good).await.fence;
        let torn = crate::store::Change::Row {
            window_start: 0,
            window_end: 100,
            group: key(&json!(["/a"])),
            state: vec![1],
            partial: false,
        };
        for (changes, says) in [(vec![row(0, "/a", -1, 0)], "a state that panics"), (vec![torn], "too short")] {
            let refused = bench.flush(&bad, bad_fence, changes, at(1, 1)).await;
            assert!(matches!(&refused, Err(StoreError::Refused(why)) if why.contains(says)), "{refused:?}");
            bench.flush(&good, good_fence, vec![row(0, "/a", 1, 1)], at(1, 1)).await.unwrap();
        }
        assert!(bench.rows("bad").await.is_empty());
        assert_eq!(bench.rows("good").await.len(), 1);
    }
}

on_both! {
    async fn a_flush_that_failed_gives_all_credit_back_while_more_is_sent(bench: Bench) {
        let definition = by_path("hits");
        let mut fence = bench.begin(&definition).await.fence;
        fence.epoch += 1;
        let open = open_flush(&bench.store, &definition, fence);
        let home = Arc::new(AtomicUsize::new(0));
        let chunk = || Chunk::Changes(vec![row(0, "/a", 1, 1)], Box::new(Credit(home.clone())));
        (0..100).for_each(|_| open.chunks.send(chunk()).unwrap());
        open.reply.await.unwrap().unwrap_err();
        (0..100).for_each(|_| open.chunks.send(chunk()).unwrap());
        while home.load(Ordering::SeqCst) < 200 {
            std::thread::yield_now();
        }
    }
}

#[tokio::test]
async fn a_store_that_another_writer_holds_is_away_and_comes_back() {
    let bench = Bench::sqlite();
    let definition = by_path("hits");
    let fence = bench.begin(&definition).await.fence;
    let mut other = diesel::SqliteConnection::establish(bench.path().to_str().unwrap()).unwrap();
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    let away = bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], at(1, 1)).await;
    assert_eq!(away, Err(StoreError::Away("database is locked".to_owned())));
    other.batch_execute("ROLLBACK").unwrap();
    bench.flush(&definition, fence, vec![row(0, "/a", 1, 1)], at(1, 1)).await.unwrap();
    assert_eq!(bench.sums("hits").await.len(), 1);
}

/// A deferred constraint fails at COMMIT: the one error that comes only there without a broken disk or network.
fn settles<S: Session>(bench: &Bench, connect: impl Fn() -> S) {
    let definition = by_path("hits");
    let fence = begin::begin(&mut connect(), &definition, "web", anyone()).unwrap().fence;
    let run = |session: &mut S, position| {
        let (sender, flush, _) = a_flush(&definition, fence, ROOMY);
        sender.send(Chunk::Changes(vec![row(0, "/a", 1, 1)], Box::new(()))).unwrap();
        sender.send(Chunk::Finish(at(position, 1))).unwrap();
        let mut attempt = None;
        (commit::run(session, &flush, &mut attempt), attempt)
    };
    let (failed, attempt) = run(&mut connect(), 13);
    failed.unwrap_err();
    let attempt = attempt.expect("the commit was tried");
    assert_eq!(commit::settle(&mut connect(), "hits", attempt), Ok(None));
    assert_eq!(bench.ask("SELECT count(*) FROM window_results"), "0");

    let (done, none) = run(&mut connect(), 14);
    let flushed = Flushed { rows: 1, watermark: Some(1), ..Flushed::default() };
    assert_eq!((done, none.is_none()), (Ok(flushed), true));
    // As if the answer to that one had been lost.
    assert_eq!(commit::settle(&mut connect(), "hits", attempt), Ok(Some(flushed)));
}

#[test]
fn an_unknown_outcome_is_settled_by_the_number_of_the_commit() {
    let bench = Bench::sqlite();
    bench.execute(
        "CREATE TABLE p (id INTEGER PRIMARY KEY); CREATE TABLE c (p REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
         CREATE TRIGGER t AFTER UPDATE OF position ON checkpoints WHEN new.position = 13 \
         BEGIN INSERT INTO c VALUES (1); END;",
    );
    settles(&bench, || {
        let mut session = Sqlite::new(&bench.path()).unwrap().connect(Access::Write, false).unwrap();
        session.connection.batch_execute("PRAGMA foreign_keys = ON").unwrap();
        session
    });

    let bench = Bench::postgres();
    bench.execute(
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p DEFERRABLE INITIALLY DEFERRED); \
         CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO c VALUES (1); RETURN NULL; END'; \
         CREATE TRIGGER t AFTER UPDATE OF position ON checkpoints FOR EACH ROW WHEN (new.position = 13) \
         EXECUTE FUNCTION t();",
    );
    let StoreUrl::Postgres(config) = &bench.url else { unreachable!() };
    settles(&bench, || Postgres::new(config).unwrap().connect(Access::Write, false).unwrap());
}

on_both! {
    async fn twenty_thousand_rows_in_one_flush_are_all_there(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let paths: Vec<String> = (0..20_000).map(|index| format!("/path/{index}")).collect();
        for round in 1..=2 {
            let changes = paths.iter().map(|path| row(0, path, round, round)).collect();
            let flushed = bench.flush(&definition, fence, changes, at(round.cast_unsigned(), 1)).await.unwrap();
            assert_eq!(flushed.rows, 20_000);
        }
        assert_eq!(bench.ask("SELECT concat(count(*), ' ', sum(views)) FROM hits"), "20000 40000");
        let limited: Vec<Vec<Value>> = bench.rows("hits").await;
        assert_eq!(limited.len(), 100);
    }
}
