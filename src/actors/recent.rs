//! The recent batches of a stream, in memory, for the pipelines that keep up. Whoever falls behind reads the journal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::event::{Batch, Position};

/// Bytes of batches that are kept.
pub const KEPT_BYTES: usize = 8 * 1024 * 1024;

/// The recent batches of one stream. Ingest puts them in and never waits here for longer than a moment.
pub struct Recent {
    inner: Mutex<Inner>,
    head: watch::Sender<Position>,
    moved: Notify,
}

struct Inner {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    upto: Position,
    cursors: Vec<Arc<Cursor>>,
}

/// How far one reader is.
pub struct Cursor {
    position: AtomicU64,
    /// So many fields it needs of each batch.
    fields: usize,
    live: AtomicBool,
}

/// What a reader gets.
pub enum Next {
    /// The batch that follows.
    Batch(Arc<Batch>),
    /// There is none yet.
    Head,
    /// It is no longer here, or was decoded before a reload that asks for more fields: read the journal.
    Gone,
}

impl Recent {
    /// Begins behind the last record of the journal.
    pub fn new(upto: Position) -> Self {
        let inner = Inner { batches: VecDeque::new(), bytes: 0, upto, cursors: Vec::new() };
        Self { inner: Mutex::new(inner), head: watch::channel(upto).0, moved: Notify::new() }
    }

    /// A reader that begins behind `position`; not live until it has read from here.
    pub fn cursor(&self, position: Position, fields: usize) -> Arc<Cursor> {
        let cursor = Arc::new(Cursor { position: AtomicU64::new(position), fields, live: AtomicBool::new(false) });
        self.inner.lock().cursors.push(cursor.clone());
        cursor
    }

    /// The last position.
    pub fn head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }

    /// Puts a batch in; the oldest leave, whether all have read them or not.
    pub fn push(&self, batch: Arc<Batch>) {
        let mut inner = self.inner.lock();
        inner.bytes += batch.decoded.weight();
        inner.upto = batch.range.upto;
        inner.batches.push_back(batch);
        while inner.bytes > KEPT_BYTES && inner.batches.len() > 1 {
            if let Some(oldest) = inner.batches.pop_front() {
                inner.bytes -= oldest.decoded.weight();
            }
        }
        let upto = inner.upto;
        drop(inner);
        self.head.send_replace(upto);
    }

    /// Goes on behind records that are only in the journal: whoever wants them reads them there.
    pub fn pass(&self, upto: Position) {
        self.inner.lock().upto = upto;
        self.head.send_replace(upto);
    }

    /// Whether a push would take away what a reader that keeps up has not read.
    pub fn would_leave_behind(&self) -> bool {
        let mut inner = self.inner.lock();
        // A reader that has ended holds its cursor no more.
        inner.cursors.retain(|cursor| Arc::strong_count(cursor) > 1);
        let Some(oldest) = inner.batches.front() else { return false };
        inner.bytes > KEPT_BYTES * 3 / 4
            && inner.cursors.iter().any(|cursor| {
                cursor.live.load(Ordering::Relaxed) && cursor.position.load(Ordering::Relaxed) < oldest.range.upto
            })
    }

    /// Waits until a reader has moved.
    pub async fn moved(&self) {
        self.moved.notified().await;
    }

    /// The batch behind the cursor's position; moves it.
    pub fn next(&self, cursor: &Cursor) -> Next {
        let position = cursor.position.load(Ordering::Relaxed);
        let inner = self.inner.lock();
        // A reader of the journal may be before the batches, which come a moment after their blocks.
        if position >= inner.upto {
            cursor.live.store(true, Ordering::Relaxed);
            return Next::Head;
        }
        let batch = inner.behind(position, cursor).cloned();
        drop(inner);
        cursor.live.store(batch.is_some(), Ordering::Relaxed);
        let Some(batch) = batch else { return Next::Gone };
        self.advance(cursor, batch.range.upto);
        Next::Batch(batch)
    }

    /// Whether `next` would not send the reader to the journal.
    pub fn has_next(&self, cursor: &Cursor) -> bool {
        let position = cursor.position.load(Ordering::Relaxed);
        let inner = self.inner.lock();
        position >= inner.upto || inner.behind(position, cursor).is_some()
    }

    /// Moves a cursor over records that its reader had from the journal.
    pub fn advance(&self, cursor: &Cursor, upto: Position) {
        cursor.position.store(upto, Ordering::Relaxed);
        self.moved.notify_one();
    }
}

impl Inner {
    /// The batch that begins behind a position, where a reader can read it.
    fn behind(&self, position: Position, cursor: &Cursor) -> Option<&Arc<Batch>> {
        let index = self.batches.partition_point(|batch| batch.range.after < position);
        self.batches.get(index).filter(|batch| batch.range.after == position && cursor.can_read(batch))
    }
}

impl Cursor {
    /// A tick has no fields; fields are only ever added behind those that there are.
    fn can_read(&self, batch: &Batch) -> bool {
        batch.decoded.is_empty() || batch.decoded.fields.len() >= self.fields
    }

    /// The last position it has read.
    pub fn position(&self) -> Position {
        self.position.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Decoded, Decoder, Field, Fields, Origin, PositionRange};

    fn batch(after: u64, bytes: usize) -> Arc<Batch> {
        let decoded = Decoded { bytes: Arc::new(Vec::with_capacity(bytes)), ..Decoded::default() };
        let range = PositionRange::behind(after, 1);
        let origin = Origin::default();
        Arc::new(Batch { range, ingest_time: 0, decoded, origin, silence_ms: None, overlong: None, replay: None })
    }

    #[test]
    fn a_reader_gets_each_batch_once_and_is_sent_to_the_journal_when_it_lags() {
        let recent = Recent::new(0);
        let cursor = recent.cursor(0, 0);
        assert!(matches!(recent.next(&cursor), Next::Head));
        recent.push(batch(0, 10));
        recent.push(batch(1, 10));
        assert!(matches!(recent.next(&cursor), Next::Batch(b) if b.range.upto == 1));
        assert!(!recent.would_leave_behind());
        recent.push(batch(2, KEPT_BYTES));
        assert!(matches!(recent.next(&cursor), Next::Gone), "the second batch made room for the third");
        assert!(!cursor.live.load(Ordering::Relaxed));
        recent.advance(&cursor, 2);
        assert!(matches!(recent.next(&cursor), Next::Batch(b) if b.range.upto == 3));
        assert!(matches!(recent.next(&cursor), Next::Head));
    }

    #[test]
    fn records_that_were_passed_are_read_from_the_journal() {
        let recent = Recent::new(0);
        let cursor = recent.cursor(0, 0);
        recent.push(batch(0, 10));
        recent.pass(5);
        recent.push(batch(5, 10));
        assert!(matches!(recent.next(&cursor), Next::Batch(b) if b.range.upto == 1));
        for position in 1..5 {
            recent.advance(&cursor, position);
            assert!(matches!(recent.next(&cursor), Next::Gone), "{position}");
            assert!(!recent.has_next(&cursor), "{position}");
        }
        recent.advance(&cursor, 5);
        assert!(recent.has_next(&cursor));
        assert!(matches!(recent.next(&cursor), Next::Batch(b) if b.range.upto == 6));
        assert_eq!(*recent.head().borrow(), 6);
    }

    #[test]
    fn batches_with_fewer_fields_than_a_reader_needs_are_read_from_the_journal() {
        let with_fields = |after, names: &[&str]| {
            let decoder = Decoder::new(Arc::new(Fields::new(names.iter().map(|name| Field::top(*name)))));
            let decoded = decoder.decode(Arc::new(b"{}\n".to_vec()));
            Arc::new(Batch { decoded, ..Batch::clone(&batch(after, 0)) })
        };
        let recent = Recent::new(0);
        let (old, new) = (recent.cursor(0, 1), recent.cursor(0, 2));
        recent.push(with_fields(0, &["a"]));
        recent.push(batch(1, 0));
        recent.push(with_fields(2, &["a", "b"]));
        for position in 0..3 {
            assert!(matches!(recent.next(&old), Next::Batch(b) if b.range.after == position));
        }
        assert!(matches!(recent.next(&new), Next::Gone) && !recent.has_next(&new));
        recent.advance(&new, 1);
        assert!(recent.has_next(&new), "a batch without lines has all fields of its lines");
        assert!(matches!(recent.next(&new), Next::Batch(b) if b.range.upto == 2));
        assert!(matches!(recent.next(&new), Next::Batch(b) if b.range.upto == 3));
        assert!(matches!(recent.next(&new), Next::Head));
    }

    #[test]
    fn only_readers_that_keep_up_hold_the_front_back() {
        let recent = Recent::new(0);
        let cursor = recent.cursor(0, 0);
        recent.push(batch(0, KEPT_BYTES));
        assert!(!recent.would_leave_behind(), "it never read from here");
        assert!(matches!(recent.next(&cursor), Next::Batch(_)));
        recent.push(batch(1, KEPT_BYTES));
        assert!(recent.would_leave_behind());
        drop(cursor);
        assert!(!recent.would_leave_behind(), "it has ended");
    }
}
