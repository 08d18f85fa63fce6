//! Alerts by the rows that flushes leave in their table.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::json;

use super::support::*;
use crate::config::{AlertConfig, Webhook};
use crate::store::{
    AlertFlush, AlertNews, Beginning, Change, Chunk, Course, Fence, Flush, Snapshot, StoreError, ToldAlert,
};
use crate::window::WindowSpec;

/// Fires on ten events and more (see `Definitions::holds`); somebody is told.
fn alert(name: &str) -> AlertConfig {
    struct Nothing;
    impl crate::expr::Scope for Nothing {
        fn resolve(&mut self, _: &crate::event::Field) -> Result<crate::expr::Resolved, Option<String>> {
            Err(None)
        }
    }
    let when = crate::expr::parse("true").unwrap().bind(&mut Nothing).unwrap();
    let webhook = Webhook { url: "http://h/secret".into(), shown: "http://h/***".into() };
    let (name, text) = (name.to_owned(), "views >= 10".to_owned());
    AlertConfig { name, when, text, asks_previous: false, for_ms: 0, webhook: Some(webhook) }
}

/// Windows of 100 ms.
fn hits(alerts: Vec<AlertConfig>) -> Definitions {
    Definitions { alerts, window: Some(WindowSpec::Tumbling { size_ms: 100 }), ..by_path("hits") }
}

/// A generation of a pipeline.
struct Mill<'b> {
    bench: &'b Bench,
    definition: Definitions,
    fence: Fence,
    revision: u64,
    revise: Option<crate::store::Revision>,
    first: bool,
    news: Arc<AlertNews>,
}

impl<'b> Mill<'b> {
    async fn begin(bench: &'b Bench, definition: &Definitions) -> Self {
        Self::begin_as(bench, definition, Course::GoOn).await
    }

    async fn begin_as(bench: &'b Bench, definition: &Definitions, course: Course) -> Self {
        let begun = bench.store.begin(Arc::new(definition.clone()), "web", as_told(course)).await.unwrap();
        let Snapshot { fence, revision, revise, firing, .. } = begun;
        let news = Arc::new(AlertNews::default());
        news.changed(firing);
        Self { bench, definition: definition.clone(), fence, revision, revise, first: true, news }
    }

    /// One flush, in chunks of one change; whether it is brought to its end.
    async fn flush_to(&mut self, changes: Vec<Change>, watermark: i64, end: bool) -> Result<(), StoreError> {
        let (chunks, flush, reply) = a_flush(&self.definition, self.fence, ROOMY);
        let alerts = AlertFlush { watermark: Some(watermark), first: self.first, news: Some(self.news.clone()) };
        let (revision, revise) = (self.revision, self.revise);
        self.bench.store.flush(Flush { alerts, revision, revise, ..flush });
        for change in changes {
            let _ = chunks.send(Chunk::Changes(vec![change], Box::new(())));
        }
        if end {
            let _ = chunks.send(Chunk::Finish(at(10, watermark)));
        }
        drop(chunks);
        reply.await.unwrap()?;
        (self.first, self.revise) = (false, None);
        Ok(())
    }

    async fn flush(&mut self, changes: Vec<Change>, watermark: i64) {
        self.flush_to(changes, watermark, true).await.unwrap();
    }

    /// Of each alert: when it fired, its group, its window's begin, when it was resolved, and what is to be told.
    fn alerts(&self) -> String {
        let columns = ["fired_at", "group_values->>'path'", "window_start", "resolved_at", "untold"];
        self.bench.ask_rows(&columns, "alerts WHERE alert = 'busy'")
    }

    fn firing(&self) -> BTreeMap<String, u64> {
        self.news.firing().borrow().clone().unwrap()
    }
}

fn busy(count: u64) -> BTreeMap<String, u64> {
    [("busy".to_owned(), count)].into_iter().filter(|(_, count)| *count > 0).collect()
}

on_both! {
    async fn an_alert_is_one_row_from_firing_to_resolved(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 9, 0), row(0, "/b", 99, 0)], 20).await;
        assert_eq!(mill.alerts(), "20|/b|0||1");
        assert_eq!(mill.firing(), busy(1));
        mill.flush(vec![row(0, "/a", 10, 0), row(0, "/b", 100, 0)], 50).await;
        mill.flush(vec![row(0, "/a", 11, 0)], 50).await;
        assert_eq!(mill.alerts(), "20|/b|0||1; 50|/a|0||1");
        // In the next window it still holds for one of them.
        mill.flush(vec![row(100, "/a", 10, 0), row(100, "/b", 1, 0)], 140).await;
        assert_eq!(mill.alerts(), "20|/b|0|140|3; 50|/a|0||1");
        assert_eq!(mill.firing(), busy(1));
        let told = bench.ask("SELECT result_values->>'views' FROM alerts WHERE fired_at = 20");
        assert_eq!(told, "99", "values are those on which it fired");
    }

    async fn what_closes_in_one_flush_is_judged_window_by_window(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        let rows = |path: &str, counts: &[i64]| -> Vec<Change> {
            let at = |(index, count): (usize, &i64)| row(100 * index as i64, path, *count, 0);
            counts.iter().enumerate().filter(|(_, count)| **count > 0).map(at).collect()
        };
        // Written long before their windows are the next to close, and not again.
        let ahead = [rows("/a", &[10, 1, 10, 10, 1]), rows("/b", &[1, 10, 0, 10, 0])].concat();
        mill.flush(ahead, -50).await;
        assert_eq!(mill.alerts(), "NULL", "none of them is next to close");
        mill.flush(vec![], 420).await;
        assert_eq!(mill.alerts(), "99|/a|0|199|3; 199|/b|100|299|3; 299|/a|200|420|3; 399|/b|300|420|3");
        assert_eq!(mill.firing(), busy(0));
    }

    async fn a_group_without_a_row_is_resolved(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 10, 0), row(500, "/a", 10, 0)], 90).await;
        assert_eq!(mill.alerts(), "90|/a|0||1");
        // No window has a row, until one of the same group.
        mill.flush(vec![], 520).await;
        assert_eq!(mill.alerts(), "90|/a|0|199|3; 520|/a|500||1");
        mill.flush(vec![row(600, "/b", 1, 0)], 600).await;
        assert_eq!(mill.alerts(), "90|/a|0|199|3; 520|/a|500|600|3");
    }

    async fn for_one_window_it_fires_once(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 10, 0)], 10).await;
        mill.flush(vec![row(0, "/a", 1, 0)], 20).await;
        mill.flush(vec![row(0, "/a", 10, 0)], 30).await;
        assert_eq!(mill.alerts(), "10|/a|0|20|3");
        mill.flush(vec![], 100).await;
        mill.flush(vec![row(100, "/a", 10, 0)], 100).await;
        assert_eq!(mill.alerts(), "10|/a|0|20|3; 100|/a|100||1");
        // The closed row of another one comes when its alert is resolved: the next window has no row of it.
        mill.flush(vec![row(100, "/b", 10, 0)], 205).await;
        assert_eq!(mill.alerts(), "10|/a|0|20|3; 100|/a|100|205|3; 199|/b|100|205|3");
    }

    async fn late_events_neither_fire_nor_resolve(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 9, 0)], 90).await;
        mill.flush(vec![late(0, "/a", 5, 0, 1)], 150).await;
        assert_eq!(bench.sums("hits").await, [(0, "/a".to_owned(), 14, 0)]);
        // Closed and corrected in one flush.
        mill.flush(vec![row(100, "/a", 9, 0), late(100, "/a", 5, 0, 1)], 250).await;
        assert_eq!(mill.alerts(), "NULL");
    }

    async fn a_condition_must_hold_for_so_long(bench: Bench) {
        let definition = hits(vec![AlertConfig { for_ms: 150, ..alert("busy") }]);
        let mut mill = Mill::begin(&bench, &definition).await;
        mill.flush(vec![row(0, "/a", 10, 0), row(0, "/b", 10, 0), row(0, "/c", 10, 0)], 30).await;
        mill.flush(vec![row(0, "/b", 1, 0)], 60).await;
        mill.flush(vec![row(0, "/b", 10, 0), row(100, "/a", 10, 0), row(100, "/b", 10, 0)], 120).await;
        assert_eq!(mill.alerts(), "NULL");
        // A restart neither forgets nor begins again.
        let mut mill = Mill::begin(&bench, &definition).await;
        mill.flush(vec![], 179).await;
        assert_eq!(mill.alerts(), "NULL");
        mill.flush(vec![], 180).await;
        assert_eq!(mill.alerts(), "180|/a|100||1", "without another event of it");
        // Held since 99, the end of the window before: the group had a row then.
        mill.flush(vec![row(200, "/a", 10, 0), row(200, "/b", 10, 0)], 248).await;
        assert_eq!(mill.alerts(), "180|/a|100||1");
        mill.flush(vec![], 249).await;
        assert_eq!(mill.alerts(), "180|/a|100||1; 249|/b|200||1");
        mill.flush(vec![row(200, "/a", 1, 0)], 250).await;
        mill.flush(vec![row(200, "/a", 10, 0)], 251).await;
        mill.flush(vec![row(300, "/a", 10, 0)], 399).await;
        assert_eq!(mill.alerts(), "180|/a|100|250|3; 249|/b|200|399|3");
        mill.flush(vec![row(400, "/a", 10, 0)], 401).await;
        assert_eq!(mill.alerts(), "180|/a|100|250|3; 249|/b|200|399|3; 401|/a|400||1");
    }

    async fn a_flush_that_fails_leaves_nothing_and_comes_again(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 10, 0)], 10).await;
        let next = || vec![row(0, "/b", 10, 0), row(100, "/b", 1, 0)];
        for _ in 0..2 {
            assert_eq!(mill.flush_to(next(), 130, false).await, Err(StoreError::GivenUp));
            assert_eq!(mill.alerts(), "10|/a|0||1");
            assert_eq!(mill.firing(), busy(1));
        }
        mill.flush(next(), 130).await;
        mill.flush(next(), 130).await;
        assert_eq!(mill.alerts(), "10|/a|0|130|3; 99|/b|0|130|3");
        // Another generation judges the open window once more.
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![], 130).await;
        mill.flush(vec![row(100, "/a", 10, 0)], 130).await;
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        assert_eq!(mill.firing(), busy(1));
        mill.flush(vec![], 130).await;
        assert_eq!(mill.alerts(), "10|/a|0|130|3; 99|/b|0|130|3; 130|/a|100||1");
    }

    async fn a_fenced_writer_fires_nothing(bench: Bench) {
        let mut old = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        let mut new = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        let refused = old.flush_to(vec![row(0, "/a", 10, 0)], 10, true).await;
        assert!(matches!(refused, Err(StoreError::Fenced(_))), "{refused:?}");
        assert_eq!(old.alerts(), "NULL");
        new.flush(vec![row(0, "/a", 10, 0)], 20).await;
        assert_eq!(new.alerts(), "20|/a|0||1");
    }

    async fn other_alerts_from_the_next_commit_on(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![])).await;
        mill.flush(vec![row(0, "/a", 10, 0)], 10).await;
        assert_eq!(mill.alerts(), "NULL");
        // A new one judges what is there already.
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy"), alert("other")])).await;
        mill.flush(vec![], 20).await;
        assert_eq!(mill.alerts(), "20|/a|0||1");
        // Without a webhook nobody is told any more.
        let mut mill = Mill::begin(&bench, &hits(vec![AlertConfig { webhook: None, ..alert("busy") }])).await;
        mill.flush(vec![], 30).await;
        assert_eq!(mill.alerts(), "20|/a|0||0");
        assert_eq!(bench.ask_rows(&["fired_at", "resolved_at", "untold"], "alerts WHERE alert = 'other'"), "20|20|0");
        let mut mill = Mill::begin(&bench, &hits(vec![])).await;
        mill.flush(vec![], 40).await;
        assert_eq!(mill.alerts(), "20|/a|0|30|0");
    }

    async fn a_new_revision_resolves_and_fires_for_no_window_twice(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 10, 0), row(0, "/b", 9, 0)], 99).await;
        mill.flush(vec![row(100, "/a", 10, 0)], 150).await;
        assert_eq!(mill.alerts(), "99|/a|0||1");
        let anew = Course::Revise(Beginning { position: 0, kept_upto: None });
        let mut mill = Mill::begin_as(&bench, &hits(vec![alert("busy")]), anew).await;
        let again = vec![row(0, "/a", 10, 0), row(0, "/b", 10, 0), row(100, "/a", 10, 0)];
        mill.flush(again, 160).await;
        assert_eq!(mill.alerts(), "99|/a|0|150|3; 99|/b|0|160|3; 160|/a|100||1");
    }

    async fn the_window_before_can_be_asked_for(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![AlertConfig { asks_previous: true, ..alert("busy") }])).await;
        mill.flush(vec![row(0, "/a", 5, 0), row(0, "/b", 5, 0)], 50).await;
        assert_eq!(mill.alerts(), "NULL", "there is none before");
        mill.flush(vec![row(100, "/a", 6, 0), row(100, "/b", 5, 0), row(200, "/a", 7, 0), row(200, "/b", 6, 0)], 150).await;
        assert_eq!(mill.alerts(), "150|/a|100||1");
        mill.flush(vec![row(200, "/c", 7, 0)], 230).await;
        assert_eq!(mill.alerts(), "150|/a|100||1; 230|/b|200||1");
        mill.flush(vec![row(400, "/a", 9, 0)], 430).await;
        assert_eq!(mill.alerts(), "150|/a|100|399|3; 230|/b|200|399|3", "one window is not there");
    }

    async fn sliding_windows_follow_one_another(bench: Bench) {
        let window = Some(WindowSpec::Sliding { size_ms: 100, every_ms: 20 });
        let mut mill = Mill::begin(&bench, &Definitions { window, ..hits(vec![alert("busy")]) }).await;
        mill.flush(vec![row(-40, "/a", 10, 0)], 45).await;
        assert_eq!(mill.alerts(), "45|/a|-40||1");
        mill.flush(vec![row(-20, "/a", 10, 0), row(0, "/a", 10, 0)], 85).await;
        assert_eq!(mill.alerts(), "45|/a|-40||1", "it goes on");
        mill.flush(vec![row(20, "/a", 9, 0), row(40, "/a", 10, 0)], 125).await;
        assert_eq!(mill.alerts(), "45|/a|-40|119|3; 125|/a|40||1");
    }

    async fn a_session_is_a_window_of_its_group(bench: Bench) {
        let window = Some(WindowSpec::Session { gap_ms: 100 });
        let mut mill = Mill::begin(&bench, &Definitions { window, ..hits(vec![alert("busy")]) }).await;
        let session = |start: i64, end: i64, path: &str, count: i64| Change::Row {
            window_start: start,
            window_end: end,
            group: key(&json!([path])),
            state: state(count, 0),
            partial: false,
        };
        let gone = |start: i64, end: i64| {
            Change::Gone { window_start: start, window_end: end, group: key(&json!(["/a"])) }
        };
        mill.flush(vec![session(0, 110, "/a", 10), session(0, 150, "/b", 10)], 5).await;
        assert_eq!(mill.alerts(), "5|/a|0||1; 5|/b|0||1");
        mill.flush(vec![gone(0, 110), session(0, 190, "/a", 20)], 90).await;
        assert_eq!(mill.alerts(), "5|/a|0||1; 5|/b|0||1");
        mill.flush(vec![session(300, 400, "/a", 1)], 160).await;
        assert_eq!(mill.alerts(), "5|/a|0|160|3; 5|/b|0|160|3", "one has ended, the other's next does not hold");
        // Begun and ended between two flushes.
        mill.flush(vec![session(500, 600, "/c", 11)], 700).await;
        assert_eq!(mill.alerts(), "5|/a|0|160|3; 5|/b|0|160|3; 599|/c|500|700|3");
    }

    async fn what_was_told_is_not_told_again(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        mill.flush(vec![row(0, "/a", 10, 0), row(0, "/b", 10, 0)], 10).await;
        let untold = |limit| bench.store.untold_alerts("hits", "busy", limit);
        assert_eq!(untold(1).await.unwrap().len(), 1);
        let both = untold(9).await.unwrap();
        assert!(both.iter().all(|alert| alert.is_new && alert.resolved_at.is_none()), "{both:?}");
        let group: serde_json::Value = serde_json::from_str(&both[0].group).unwrap();
        let told = |index: usize, resolved| {
            let (group_hash, fired_at) = (both[index].group_hash.clone(), both[index].fired_at);
            vec![ToldAlert { group_hash, fired_at, resolved }]
        };
        bench.store.alerts_told("hits", "busy", told(0, false)).await.unwrap();
        assert_eq!(untold(9).await.unwrap(), both[1..]);
        // Resolved while it is told that it fired.
        mill.flush(vec![], 110).await;
        bench.store.alerts_told("hits", "busy", told(1, false)).await.unwrap();
        let resolved = untold(9).await.unwrap();
        assert_eq!(resolved.iter().map(|alert| (alert.is_new, alert.resolved_at)).collect::<Vec<_>>(), [(false, Some(110)); 2]);
        bench.store.alerts_told("hits", "busy", told(0, true)).await.unwrap();
        bench.store.alerts_told("hits", "busy", told(0, true)).await.unwrap();
        let left = untold(9).await.unwrap();
        assert_eq!(left.len(), 1);
        assert_ne!(serde_json::from_str::<serde_json::Value>(&left[0].group).unwrap(), group);
    }

    async fn old_ones_go_with_the_rows_and_all_with_the_pipeline(bench: Bench) {
        let definition = Definitions { retain_ms: Some(200), ..hits(vec![alert("busy"), AlertConfig { for_ms: 9, ..alert("slow") }]) };
        let mut mill = Mill::begin(&bench, &definition).await;
        mill.flush(vec![row(0, "/a", 10, 0)], 50).await;
        mill.flush(vec![row(100, "/b", 10, 0)], 150).await;
        mill.flush(vec![row(200, "/b", 10, 0)], 299).await;
        assert_eq!(mill.alerts(), "50|/a|0|150|3; 150|/b|100||1");
        mill.flush(vec![row(300, "/b", 10, 0)], 310).await;
        // What is old goes behind a flush: the next job comes after it.
        mill.flush(vec![], 310).await;
        assert_eq!(mill.alerts(), "150|/b|100||1");
        mill.flush(vec![row(400, "/b", 10, 0)], 410).await;
        mill.flush(vec![], 410).await;
        assert_eq!(mill.alerts(), "150|/b|100||1", "one that fires stays");
        assert_ne!(bench.ask("SELECT count(*) FROM alert_conditions"), "0");
        bench.store.drop_pipeline("hits").await.unwrap();
        assert_eq!(bench.ask("SELECT count(*) FROM alerts"), "0");
        assert_eq!(bench.ask("SELECT count(*) FROM alert_conditions"), "0");
    }

    async fn many_groups_are_judged_in_pages(bench: Bench) {
        let mut mill = Mill::begin(&bench, &hits(vec![alert("busy")])).await;
        let rows = |start: i64, count: i64| (0..2_500).map(|index| row(start, &format!("/{index}"), count, 0)).collect();
        mill.flush(rows(100, 10), 0).await;
        mill.flush(vec![], 150).await;
        assert_eq!(mill.firing(), busy(2_500));
        mill.flush(rows(200, 1), 150).await;
        mill.flush(vec![], 250).await;
        assert_eq!(mill.firing(), busy(0));
        assert_eq!(bench.ask("SELECT count(*) FROM alerts WHERE fired_at = 150 AND resolved_at = 250"), "2500");
    }
}
