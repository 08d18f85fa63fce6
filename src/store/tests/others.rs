//! The groups for which there was no room: one row a window, made of the states of the slots.

use std::sync::Arc;

use serde_json::{Value, json};

use super::support::{Bench, at, by_path, key, late, row, state};
use crate::store::Change;
use crate::window::Bounds;

/// Which of 64 slots a path falls into.
fn slot(path: &str) -> u8 {
    Bounds::new(1_000_000, 1 << 30).window_of_key(&key(&json!([path])), 64) as u8
}

fn other(slot: u8) -> Arc<[u8]> {
    Arc::from([0xff, 64, slot])
}

fn other_row(start: i64, slot: u8, count: i64, sum: i64) -> Change {
    let group = other(slot);
    Change::Row { window_start: start, window_end: start + 100, group, state: state(count, sum), partial: false }
}

/// `[window_start_ms, other, revised_at, path, views, bytes]` of each row.
async fn shown(bench: &Bench) -> Vec<String> {
    let rows = bench.rows("hits").await;
    let mut rows: Vec<_> =
        rows.iter().map(|row| Value::from([&row[2..3], &row[5..]].concat().to_vec()).to_string()).collect();
    rows.sort();
    rows
}

on_both! {
    async fn slots_of_a_window_are_one_row_and_each_is_replaced_by_itself(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let first = vec![other_row(0, 3, 2, 20), other_row(0, 9, 5, 50), row(0, "/a", 1, 1), other_row(100, 3, 1, 1)];
        bench.flush(&definition, fence, first, at(1, 50)).await.unwrap();
        let a = "[0,false,null,\"/a\",1,1]";
        assert_eq!(shown(&bench).await, [a, "[0,true,null,null,7,70]", "[100,true,null,null,1,1]"]);
        bench.flush(&definition, fence, vec![other_row(0, 3, 4, 40)], at(2, 50)).await.unwrap();
        assert_eq!(shown(&bench).await, [a, "[0,true,null,null,9,90]", "[100,true,null,null,1,1]"]);
        // A session's other state goes where the session has become a longer one.
        let gone = |start: i64, slot| Change::Gone { window_start: start, window_end: start + 100, group: other(slot) };
        bench.flush(&definition, fence, vec![gone(0, 9), gone(100, 3), other_row(200, 3, 1, 1)], at(3, 50)).await.unwrap();
        assert_eq!(shown(&bench).await, [a, "[0,true,null,null,4,40]", "[200,true,null,null,1,1]"]);
        let page = bench.store.live_rows("hits", Some(0), None, 10).await.unwrap();
        assert_eq!(page.rows.len(), 1, "live values are of groups");
    }
}

on_both! {
    async fn a_late_event_without_a_row_goes_to_the_other_state_of_its_slot_where_that_exists(bench: Bench) {
        let definition = by_path("hits");
        let fence = bench.begin(&definition).await.fence;
        let paths: Vec<String> = (0..100).map(|path| format!("/{path}")).collect();
        let inside = &paths[0];
        let outside = paths.iter().find(|path| slot(path) != slot(inside)).unwrap();
        let rows = vec![other_row(0, slot(inside), 2, 20), row(0, "/a", 1, 1)];
        bench.flush(&definition, fence, rows, at(1, 150)).await.unwrap();
        let corrections = vec![late(0, inside, 1, 5, 900), late(0, outside, 1, 7, 800), late(100, inside, 1, 3, 700)];
        bench.flush(&definition, fence, corrections, at(2, 250)).await.unwrap();
        let revised = |ms: i64| format!("\"1970-01-01 00:00:00.{ms}\"");
        let expected = [
            format!("[0,false,{},\"{outside}\",1,7]", revised(800)),
            "[0,false,null,\"/a\",1,1]".to_owned(),
            format!("[0,true,{},null,3,25]", revised(900)),
            format!("[100,false,{},\"{inside}\",1,3]", revised(700)),
        ];
        assert_eq!(shown(&bench).await, expected);
        // In the flush that makes the row, too.
        let both = vec![late(200, inside, 1, 5, 950), other_row(200, slot(inside), 1, 1)];
        bench.flush(&definition, fence, both, at(3, 350)).await.unwrap();
        assert_eq!(shown(&bench).await[4..], [format!("[200,true,{},null,2,6]", revised(950))]);
        // What a start reads has the states of the slots.
        let open = bench.begin(&definition).await.open;
        assert!(open.is_empty(), "{open:?}");
    }
}
