//! What a flush tells whoever shows rows live, and what they read from the store instead.

use std::sync::Arc;

use serde_json::json;

use super::support::*;
use crate::store::{Change, Chunk, Flush, Flushed, LiveRow, LiveRows, StoreError, Taken};

/// A flush that tells `live`.
async fn flush(
    bench: &Bench,
    live: &Arc<LiveRows>,
    changes: Vec<Change>,
    watermark: i64,
    fence: crate::store::Fence,
) -> Result<Flushed, StoreError> {
    let (chunks, flush, reply) = a_flush(&by_path("hits"), fence, ROOMY);
    bench.store.flush(Flush { live: Some(live.clone()), ..flush });
    for change in changes {
        let _ = chunks.send(Chunk::Changes(vec![change], Box::new(())));
    }
    let _ = chunks.send(Chunk::Finish(at(10, watermark)));
    reply.await.unwrap()
}

/// Window start, path and views of each, ordered; no views where a row is gone.
fn short(rows: Vec<LiveRow>) -> Vec<(i64, String, Option<i64>)> {
    let mut rows: Vec<_> = rows
        .into_iter()
        .map(|row| {
            let group: serde_json::Value = serde_json::from_str(&row.group).unwrap();
            let values = row.values.map(|values| serde_json::from_str::<serde_json::Value>(&values).unwrap());
            let views = values.map(|values| values["views"].as_i64().unwrap());
            (row.window_start, group["path"].as_str().unwrap().to_owned(), views)
        })
        .collect();
    rows.sort();
    rows
}

fn a(path: &str) -> String {
    path.to_owned()
}

fn gone(start: i64, path: &str) -> Change {
    Change::Gone { window_start: start, window_end: start + 100, group: key(&json!([path])) }
}

on_both! {
    async fn whoever_shows_rows_hears_of_what_is_committed_and_of_nothing_else(bench: Bench) {
        let fence = bench.begin(&by_path("hits")).await.fence;
        let live = Arc::new(LiveRows::new(Arc::default()));
        let changes = vec![row(0, "/a", 2, 30), row(100, "/b", 1, 1), gone(100, "/b"), gone(200, "/c")];
        flush(&bench, &live, changes, 50, fence).await.unwrap();
        let Taken { rows, upto } = live.take(9);
        assert_eq!(short(rows), [(0, a("/a"), Some(2)), (100, a("/b"), Some(1)), (200, a("/c"), None)]);
        assert_eq!(upto, Some(50));
        // A correction is told as what it has made of the row.
        flush(&bench, &live, vec![late(0, "/a", 3, 1, 9)], 60, fence).await.unwrap();
        assert_eq!(short(live.take(9).rows), [(0, a("/a"), Some(5))]);
        let stranger = crate::store::Fence { writer: fence.writer ^ 1, ..fence };
        assert!(flush(&bench, &live, vec![row(0, "/a", 9, 9)], 70, stranger).await.is_err());
        let Taken { rows, upto } = live.take(9);
        assert_eq!((rows, upto, live.is_over()), (Vec::new(), Some(60), false));
    }

    async fn open_rows_are_read_in_pages_and_groups_by_when_their_windows_begin(bench: Bench) {
        let definition = by_path("hits");
        assert_eq!(bench.store.live_rows("hits", None, None, 2).await.unwrap().rows, [], "it is not there yet");
        let fence = bench.begin(&definition).await.fence;
        let mut changes = vec![row(0, "/closed", 1, 0)];
        changes.extend(["/a", "/b", "/c", "/d"].map(|path| row(100, path, 2, 0)));
        changes.push(row(150, "/e", 3, 0));
        bench.flush(&definition, fence, changes, at(10, 150)).await.unwrap();
        for (after, paths) in [(None, "/a /b /c /d /e"), (Some(99), "/a /b /c /closed /d /e"), (Some(200), "/e")] {
            let (mut place, mut found) = (None, Vec::new());
            loop {
                let page = bench.store.live_rows("hits", after, place, 2).await.unwrap();
                assert!(page.rows.len() <= 2 && page.watermark == Some(150));
                found.extend(short(page.rows).into_iter().map(|row| row.1));
                place = page.next;
                if place.is_none() {
                    break;
                }
            }
            found.sort();
            assert_eq!(found.join(" "), paths);
        }
        let mut groups = bench.store.live_groups("hits", vec![0, 150, 7]).await.unwrap();
        groups.sort();
        assert_eq!(groups, [(0, r#"{"path":"/closed"}"#.to_owned()), (150, r#"{"path":"/e"}"#.to_owned())]);
    }
}
