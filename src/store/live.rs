//! Rows on their way to live values: what flushes have changed, of each row the newest. It is bounded: beyond that it holds
//! nothing, and whoever shows the rows reads those of open windows from the store.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::limits::LIVE_BYTES_MAX;

/// What a row costs besides its text.
const ROW_BYTES: usize = 128;

/// A row as it is, or one that is none any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LiveRow {
    /// Unix ms.
    pub window_start: i64,
    /// The fields of its group, as a JSON object.
    pub group: String,
    /// Its values, as a JSON object; `None`: its session goes on in another row.
    pub values: Option<String>,
}

/// Where a page of rows ended: window start, window end, hash of the group.
pub type LivePlace = (i64, i64, Vec<u8>);

/// Some rows of open windows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LivePage {
    /// The rows.
    pub rows: Vec<LiveRow>,
    /// Where it ended; `None`: there are no more.
    pub next: Option<LivePlace>,
    /// The watermark of the last commit.
    pub watermark: Option<i64>,
}

/// Changed rows, of which a newer replaces an older.
#[derive(Default)]
pub(super) struct Changed {
    rows: HashMap<(i64, String), Option<String>>,
    bytes: usize,
    /// More than there is room for: all of them are left out.
    over: bool,
}

impl Changed {
    pub(super) fn set(&mut self, window_start: i64, group: String, values: String) {
        self.put(window_start, group, Some(values));
    }

    /// A row goes. Where the same flush has another one that begins then, that is what its session has become.
    pub(super) fn gone(&mut self, window_start: i64, group: String) {
        if !self.rows.contains_key(&(window_start, group.clone())) {
            self.put(window_start, group, None);
        }
    }

    fn put(&mut self, window_start: i64, group: String, values: Option<String>) {
        if self.over {
            return;
        }
        let size = |values: &Option<String>| values.as_ref().map_or(0, String::len);
        self.bytes += size(&values);
        let key_bytes = group.len() + ROW_BYTES;
        match self.rows.entry((window_start, group)) {
            Entry::Occupied(mut row) => self.bytes -= size(&row.insert(values)),
            Entry::Vacant(row) => {
                row.insert(values);
                self.bytes += key_bytes;
            }
        }
        if self.bytes > LIVE_BYTES_MAX {
            *self = Self { over: true, ..Self::default() };
        }
    }

    fn add(&mut self, newer: Self) {
        self.over |= newer.over;
        for ((window_start, group), values) in newer.rows {
            self.put(window_start, group, values);
        }
        if self.over {
            *self = Self { over: true, ..Self::default() };
        }
    }
}

/// What one pipeline has committed, and nobody has shown yet. Whoever commits never waits for whoever shows.
pub struct LiveRows {
    waiting: Mutex<(Changed, Option<i64>)>,
    told: Arc<Notify>,
}

/// Rows that were taken to be shown.
pub struct Taken {
    /// The rows.
    pub rows: Vec<LiveRow>,
    /// The watermark of the commit up to which all is taken, where nothing is left.
    pub upto: Option<i64>,
}

impl LiveRows {
    /// Of a pipeline that has committed nothing yet; `told` hears of each commit.
    pub fn new(told: Arc<Notify>) -> Self {
        Self { waiting: Mutex::default(), told }
    }

    /// A flush is committed.
    pub(super) fn committed(&self, changed: Changed, watermark: Option<i64>) {
        {
            let mut waiting = self.waiting.lock();
            waiting.0.add(changed);
            waiting.1 = watermark;
        }
        self.told.notify_one();
    }

    /// A flush is committed, and what it has changed is not known any more.
    pub(super) fn lost(&self) {
        self.waiting.lock().0.add(Changed { over: true, ..Changed::default() });
        self.told.notify_one();
    }

    /// Forgets what waits: whoever shows begins to read all open rows.
    pub fn forget(&self) {
        self.waiting.lock().0 = Changed::default();
    }

    /// Whether rows have been left out, so that all open ones are to be read.
    pub fn is_over(&self) -> bool {
        self.waiting.lock().0.over
    }

    /// How many rows wait.
    pub fn len(&self) -> usize {
        self.waiting.lock().0.rows.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the rows that wait.
    pub fn take(&self, at_most: usize) -> Taken {
        let mut waiting = self.waiting.lock();
        let (changed, watermark) = &mut *waiting;
        let rows = changed.rows.extract_if(|_, _| true).take(at_most);
        let rows: Vec<_> =
            rows.map(|((window_start, group), values)| LiveRow { window_start, group, values }).collect();
        let bytes = |row: &LiveRow| ROW_BYTES + row.group.len() + row.values.as_ref().map_or(0, String::len);
        changed.bytes -= rows.iter().map(bytes).sum::<usize>();
        let upto = watermark.filter(|_| changed.rows.is_empty() && !changed.over);
        Taken { rows, upto }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> LiveRows {
        LiveRows::new(Arc::default())
    }

    fn changed(rows: &[(i64, &str, Option<&str>)]) -> Changed {
        let mut changed = Changed::default();
        for (window_start, group, values) in rows {
            match values {
                Some(values) => changed.set(*window_start, (*group).to_owned(), (*values).to_owned()),
                None => changed.gone(*window_start, (*group).to_owned()),
            }
        }
        changed
    }

    fn taken(rows: &LiveRows, at_most: usize) -> (Vec<(i64, Option<String>)>, Option<i64>) {
        let Taken { rows, upto } = rows.take(at_most);
        let mut rows: Vec<_> = rows.into_iter().map(|row| (row.window_start, row.values)).collect();
        rows.sort();
        (rows, upto)
    }

    #[test]
    fn a_newer_row_replaces_an_older_and_what_is_left_is_told() {
        let live = rows();
        live.committed(changed(&[(1, "a", Some("old")), (2, "a", Some("x"))]), Some(5));
        live.committed(changed(&[(1, "a", Some("new"))]), Some(6));
        assert_eq!(live.len(), 2);
        let all = live.waiting.lock().0.bytes;
        let (first, upto) = taken(&live, 1);
        assert_eq!((first.len(), upto), (1, None), "one is left");
        let (second, upto) = taken(&live, 1);
        assert_eq!((second.len(), upto), (1, Some(6)));
        let mut both = [first, second].concat();
        both.sort();
        assert!(all > 0 && live.waiting.lock().0.bytes == 0);
        assert_eq!(both, [(1, Some("new".to_owned())), (2, Some("x".to_owned()))]);
    }

    #[test]
    fn of_a_session_that_grew_its_row_stays_whichever_comes_first() {
        for order in [[Some("v"), None], [None, Some("v")]] {
            let live = rows();
            live.committed(changed(&order.map(|values| (1, "a", values))), None);
            assert_eq!(taken(&live, 9).0, [(1, Some("v".to_owned()))]);
        }
        // In another flush it is one that begins elsewhere.
        let live = rows();
        live.committed(changed(&[(1, "a", Some("v"))]), None);
        live.committed(changed(&[(1, "a", None)]), None);
        assert_eq!(taken(&live, 9).0, [(1, None)]);
    }

    #[test]
    fn beyond_its_bound_it_holds_nothing_until_all_is_read_again() {
        let live = rows();
        let value = "v".repeat(1_000);
        let mut flushes = 0;
        while !live.is_over() {
            let group = format!("g{flushes}");
            live.committed(changed(&[(1, &group, Some(&value))]), Some(1));
            assert!(live.waiting.lock().0.bytes <= LIVE_BYTES_MAX);
            flushes += 1;
        }
        assert!(flushes > LIVE_BYTES_MAX / 1_400, "{flushes}");
        live.committed(changed(&[(2, "late", Some("v"))]), Some(2));
        assert!(live.is_empty() && live.is_over());
        assert_eq!(taken(&live, 9), (Vec::new(), None), "what was left out is not shown");
        live.forget();
        live.committed(changed(&[(3, "after", Some("v"))]), Some(3));
        assert_eq!(taken(&live, 9), (vec![(3, Some("v".to_owned()))], Some(3)));
        live.lost();
        assert!(live.is_over());
    }

    #[test]
    fn the_same_rows_again_and_again_need_no_more_room() {
        let live = rows();
        for _ in 0..3 * LIVE_BYTES_MAX / 1_000 {
            live.committed(changed(&[(1, "a", Some(&"v".repeat(1_000)))]), Some(1));
        }
        assert!(!live.is_over() && live.len() == 1);
    }
}
