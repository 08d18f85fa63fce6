//! Raw events: what a flush writes, and what `retain` leaves.

use std::sync::Arc;

use super::postgres::shared;
use super::support::*;
use crate::config::StoreUrl;
use crate::event::{RawEvent, RawEvents, Span};
use crate::store::{Change, Chunk, Store};

const DAY: i64 = 86_400_000;
/// 2026-11-21, in days since 1970.
const TODAY: i64 = 20_778;

/// The intake of a stream whose events stay for two days.
fn intake() -> Definitions {
    Definitions { groups: Vec::new(), results: Vec::new(), raw_retain_ms: Some(2 * DAY), ..by_path("@web") }
}

/// Events from a position on, taken at once; every other one has a time of its own.
fn raw(first: u64, ingest_time: i64, lines: &[&[u8]]) -> Change {
    let mut bytes = Vec::new();
    let mut events = Vec::new();
    for (position, line) in (first..).zip(lines) {
        let span = Span { start: bytes.len() as u32, len: line.len() as u32 };
        let event_time = position.is_multiple_of(2).then_some(-(position as i64));
        events.push(RawEvent { position, event_time, line: span });
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    Change::Raw(Arc::new(RawEvents { bytes: Arc::new(bytes), ingest_time, events }))
}

impl Bench {
    /// `position ingest_time event_time line` of each event, the line as hexadecimal digits.
    fn raw_events(&self) -> Vec<String> {
        let (all, hex) = if self.is_postgres() {
            ("string_agg(r, ',' ORDER BY position)", "encode(line, 'hex')")
        } else {
            ("group_concat(r, ',' ORDER BY position)", "lower(hex(line))")
        };
        let row = format!("position || ' ' || ingest_time || ' ' || coalesce(event_time || '', '-') || ' ' || {hex}");
        let found = self.ask(&format!("SELECT {all} FROM (SELECT position, {row} AS r FROM raw_events) AS x"));
        found.split(',').filter(|row| *row != "NULL").map(str::to_owned).collect()
    }

    fn raw_positions(&self) -> Vec<u64> {
        self.raw_events().iter().map(|row| row.split(' ').next().unwrap().parse().unwrap()).collect()
    }

    /// The names of a stream's partitions.
    fn partitions(&self) -> String {
        self.ask(
            "SELECT string_agg(relname::text, ' ' ORDER BY relname::text) FROM pg_inherits \
             JOIN pg_class ON oid = inhrelid WHERE inhparent = to_regclass('raw$web')",
        )
    }
}

on_both! {
    async fn a_flush_writes_events_as_they_came_and_each_once(bench: Bench) {
        let web = intake();
        let fence = bench.begin(&web).await.fence;
        let now = TODAY * DAY + 5;
        let changes = || vec![
            raw(1, now, &[b"{\"a\":1}", b"\xff\0\r", b""]),
            raw(7, now + DAY - 5, &["\u{e9}".as_bytes()]),
        ];
        let flushed = bench.flush(&web, fence, changes(), at(7, 0)).await.unwrap();
        assert_eq!((flushed.raw_events, flushed.raw_time), (4, Some(now + DAY - 5)));
        let expected = [
            format!("1 {now} - 7b2261223a317d"),
            format!("2 {now} -2 ff000d"),
            format!("3 {now} - "),
            format!("7 {} - c3a9", now + DAY - 5),
        ];
        assert_eq!(bench.raw_events(), expected);
        bench.flush(&web, fence, changes(), at(7, 0)).await.unwrap();
        assert_eq!(bench.raw_events(), expected);
    }
}

on_both! {
    async fn a_flush_that_fails_leaves_no_event(bench: Bench) {
        let web = intake();
        let fence = bench.begin(&web).await.fence;
        let mut unbalanced = at(1, 0);
        unbalanced.account = account(2, 0, 1, 0);
        bench.flush(&web, fence, vec![raw(1, TODAY * DAY, &[b"x"])], unbalanced).await.unwrap_err();
        assert!(bench.raw_events().is_empty());
    }
}

on_both! {
    async fn what_is_older_than_retain_goes_by_the_newest_of_the_flush(bench: Bench) {
        let web = intake();
        let fence = bench.begin(&web).await.fence;
        for day in 0..6 {
            let ingest_time = (TODAY + day) * DAY + DAY / 2;
            bench.flush(&web, fence, vec![raw(day as u64 + 1, ingest_time, &[b"x"])], at(day as u64 + 1, 0)).await.unwrap();
        }
        if bench.is_postgres() {
            // A day goes when all of it may.
            assert_eq!(bench.raw_positions(), [4, 5, 6]);
            assert_eq!(bench.partitions(), "raw$web$20261124 raw$web$20261125 raw$web$20261126 raw$web$20261127");
        } else {
            assert_eq!(bench.raw_positions(), [4, 5, 6]);
        }
        // A clock that was set back: what it stamps stays as long as the newest of its flush says.
        bench.flush(&web, fence, vec![raw(7, TODAY * DAY, &[b"old"])], at(7, 0)).await.unwrap();
        assert_eq!(bench.raw_positions(), [4, 5, 6, 7]);
        bench.flush(&web, fence, vec![raw(8, (TODAY + 5) * DAY + DAY / 2, &[b"new"])], at(8, 0)).await.unwrap();
        assert_eq!(bench.raw_positions(), [4, 5, 6, 8]);
    }
}

on_both! {
    async fn other_streams_and_streams_without_end_keep_theirs(bench: Bench) {
        let (web, mut shop) = (intake(), intake());
        (shop.name, shop.raw_retain_ms) = ("@shop".to_owned(), None);
        let fences = [bench.begin(&web).await.fence, bench.begin(&shop).await.fence];
        for (position, day) in [(1, TODAY), (2, TODAY + 9)] {
            for (stream, definition, fence) in [("web", &web, fences[0]), ("shop", &shop, fences[1])] {
                let open = open_flush_of(stream, &bench.store, definition, fence);
                let changes = vec![raw(position, day * DAY, &[stream.as_bytes()])];
                open.chunks.send(Chunk::Changes(changes, Box::new(()))).unwrap();
                open.chunks.send(Chunk::Finish(at(position, 0))).unwrap();
                open.reply.await.unwrap().unwrap();
            }
        }
        let left = |stream| bench.ask(&format!("SELECT sum(position) FROM raw_events WHERE stream = '{stream}'"));
        assert_eq!((left("web"), left("shop")), ("2".to_owned(), "3".to_owned()));
    }
}

on_both! {
    async fn tables_of_the_version_before_are_brought_up_to_date(bench: Bench) {
        bench.execute("DROP TABLE raw_events; DELETE FROM __diesel_schema_migrations WHERE version = '0003'");
        assert!(Store::open(&bench.url, false).is_err(), "not where that is forbidden");
        let store = Store::open(&bench.url, true).unwrap();
        let bench = Bench { store, ..bench };
        let web = intake();
        let fence = bench.begin(&web).await.fence;
        bench.flush(&web, fence, vec![raw(1, TODAY * DAY, &[b"x"])], at(1, 0)).await.unwrap();
        assert_eq!(bench.raw_positions(), [1]);
    }
}

#[tokio::test]
async fn sqlite_deletes_so_many_a_flush_that_it_neither_stalls_nor_piles_up() {
    let bench = Bench::sqlite();
    let web = intake();
    let fence = bench.begin(&web).await.fence;
    let lines = vec![&b"x"[..]; 30_000];
    bench.flush(&web, fence, vec![raw(1, TODAY * DAY, &lines)], at(30_000, 0)).await.unwrap();
    let mut left = Vec::new();
    for next in 30_001..30_004 {
        bench.flush(&web, fence, vec![raw(next, (TODAY + 9) * DAY, &[b"x"])], at(next, 0)).await.unwrap();
        left.push(bench.ask("SELECT count(*) FROM raw_events"));
    }
    assert_eq!(left, ["19999", "9998", "3"]);
}

#[tokio::test]
async fn postgres_makes_partitions_ahead_and_while_others_write() {
    let bench = Bench::postgres();
    let (web, mut shop) = (intake(), intake());
    shop.name = "@shop".to_owned();
    let fences = [bench.begin(&web).await.fence, bench.begin(&shop).await.fence];
    // This one has written and stays open: the other must not wait for it, and it sees partitions that come later.
    let open = open_flush(&bench.store, &web, fences[0]);
    let (credit, written) = std::sync::mpsc::channel::<()>();
    open.chunks.send(Chunk::Changes(vec![raw(1, TODAY * DAY, &[b"x"])], Box::new(credit))).unwrap();
    written.recv().unwrap_err();
    for position in 1..3 {
        let other = open_flush_of("shop", &bench.store, &shop, fences[1]);
        let changes = vec![raw(position, (TODAY + position as i64 * 3) * DAY, &[b"y"])];
        other.chunks.send(Chunk::Changes(changes, Box::new(()))).unwrap();
        other.chunks.send(Chunk::Finish(at(position, 0))).unwrap();
        other.reply.await.unwrap().unwrap();
    }
    open.chunks.send(Chunk::Changes(vec![raw(2, (TODAY + 1) * DAY, &[b"x"])], Box::new(()))).unwrap();
    open.chunks.send(Chunk::Changes(vec![raw(3, (TODAY + 2) * DAY, &[b"x"])], Box::new(()))).unwrap();
    open.chunks.send(Chunk::Finish(at(3, 0))).unwrap();
    open.reply.await.unwrap().unwrap();
    assert_eq!(bench.partitions(), "raw$web$20261121 raw$web$20261122 raw$web$20261123 raw$web$20261124");
    assert_eq!(bench.ask("SELECT count(*) FROM raw_events"), "4", "the other's older day is gone");
}

#[tokio::test]
async fn postgres_leaves_an_old_partition_to_its_readers_and_goes_on() {
    let bench = Bench::postgres();
    let StoreUrl::Postgres(config) = &bench.url else { unreachable!() };
    let web = intake();
    let fence = bench.begin(&web).await.fence;
    bench.flush(&web, fence, vec![raw(1, TODAY * DAY, &[b"x"])], at(1, 0)).await.unwrap();
    let (reader, driver) = tokio_postgres::connect(&shared().url(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(driver);
    let read = format!("SET search_path TO {}; BEGIN; SELECT count(*) FROM raw_events", config.schema);
    reader.batch_execute(&read).await.unwrap();
    bench.flush(&web, fence, vec![raw(2, (TODAY + 1) * DAY, &[b"x"])], at(2, 0)).await.unwrap();
    let later = |position: u64| vec![raw(position, (TODAY + 9) * DAY, &[b"x"])];
    bench.flush(&web, fence, later(3), at(3, 0)).await.unwrap();
    assert_eq!(bench.raw_positions(), [1, 2, 3]);
    reader.batch_execute("COMMIT").await.unwrap();
    bench.flush(&web, fence, later(4), at(4, 0)).await.unwrap();
    assert_eq!(bench.raw_positions(), [3, 4]);
}
