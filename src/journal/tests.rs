//! The journal as a whole: threads, files, restarts, damage.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use tempfile::TempDir;

use super::*;

mod damage;
mod repair;

const SEGMENT: usize = 1024 * 1024;
/// Long enough for the slowest machine; no test waits so long unless it fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Without fsync but where a test says otherwise: none cuts the power, and on a busy disk it takes long.
fn options(dir: &Path) -> JournalOptions {
    JournalOptions {
        dir: dir.to_owned(),
        fsync: true,
        limit_bytes: 1 << 30,
        keep_ms: 0,
        min_free_bytes: 0,
        sync: Arc::new(|_| Ok(())),
    }
}

/// Small segments.
fn small(dir: &Path) -> JournalOptions {
    JournalOptions { limit_bytes: 8 * SEGMENT as u64, ..options(dir) }
}

fn open(options: JournalOptions) -> Journal {
    Journal::open(options, Clock::system()).unwrap()
}

fn temp() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A block behind `after`, whose kind, size and origin depend on `seed`.
fn block(after: Position, seed: u64, len: usize) -> Block {
    let records = seed % 7 + 1;
    let bytes = || Arc::new((0..len).map(|at| (at as u64 * 31 + seed) as u8).collect());
    let (payload, records) = match seed % 5 {
        0 => (Payload::Overlong { head: bytes(), len: seed << 20 }, 1),
        1 => (Payload::Tick { silence_ms: seed as u32 }, 1),
        _ => (Payload::Lines(bytes()), records),
    };
    let producer = (!seed.is_multiple_of(3)).then(|| Arc::from(format!("producer-{}", seed % 11)));
    Block {
        range: PositionRange::behind(after, records),
        ingest_time: 1_000 + after as i64,
        events: after + records,
        origin: Origin { producer, peer: seed.is_multiple_of(2).then(|| Arc::from("127.0.0.1:9")) },
        producer_number: after * 2,
        payload,
    }
}

fn lines(after: Position, len: usize) -> Block {
    let payload = Payload::Lines(Arc::new(vec![b'x'; len]));
    Block { range: PositionRange::behind(after, 1), payload, ..block(after, 2, 0) }
}

/// Appends `count` blocks of up to `len` bytes and gives them back.
fn fill(journal: &Journal, mut after: Position, count: usize, len: usize) -> Vec<Block> {
    let mut blocks = Vec::new();
    for index in 0..count {
        let block = block(after, after * 7 + index as u64, len * (index % 5) / 4);
        after = block.range.upto;
        journal.append(block.clone(), Box::new(()));
        blocks.push(block);
    }
    blocks
}

fn wait(journal: &Journal, what: &str, done: impl Fn(&Progress) -> bool) -> Progress {
    let progress = journal.progress();
    let mut looks = 0;
    loop {
        let now = progress.borrow().clone();
        if done(&now) {
            return now;
        }
        looks += 1;
        assert!(looks < PATIENCE.as_millis(), "waited in vain until {what}: {now:?}");
        pause(1);
    }
}

/// Waits on a channel that stays silent.
fn pause(ms: u64) {
    let _ = crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(ms));
}

fn wait_durable(journal: &Journal, upto: Position) -> Progress {
    wait(journal, "all is durable", |progress| progress.durable >= upto)
}

fn read_all(reader: &mut Reader) -> Result<Vec<Block>, JournalError> {
    let mut blocks = Vec::new();
    while let Some(block) = reader.next()? {
        blocks.push(block);
    }
    Ok(blocks)
}

/// Files of segments, oldest first.
fn segments(dir: &Path) -> Vec<PathBuf> {
    segment::list(dir).unwrap().into_iter().map(|first| segment::segment_path(dir, first)).collect()
}

#[test]
fn a_first_block_longer_than_its_segment_is_there_after_a_restart() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let mut blocks = Vec::new();
    for (after, len) in [(0, 3 * SEGMENT), (1, SEGMENT / 2), (2, 3 * SEGMENT)] {
        blocks.push(lines(after, len));
        journal.append(lines(after, len), Box::new(()));
        wait_durable(&journal, after + 1);
        // Looks for what may go.
        journal.release(0);
    }
    drop(journal);
    assert_eq!(read_all(&mut open(small(dir.path())).reader(0)).unwrap(), blocks);
}

/// As a repair or a cut leaves it: a segment without a record, and without room for one, behind others.
#[test]
fn a_last_segment_without_room_for_its_first_block_is_made_anew() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let mut blocks = vec![lines(0, SEGMENT - 10_000), lines(1, 50_000)];
    blocks.iter().for_each(|block| journal.append(block.clone(), Box::new(())));
    wait_durable(&journal, 2);
    drop(journal);
    let last = segments(dir.path()).pop().unwrap();
    assert_eq!(segments(dir.path()).len(), 2);
    let file = File::options().write(true).open(&last).unwrap();
    file.set_len(4_096).unwrap();
    blocks.truncate(1);
    let journal = open(small(dir.path()));
    assert_eq!(journal.progress().borrow().written, 1);
    blocks.push(lines(1, 2_000));
    journal.append(lines(1, 2_000), Box::new(()));
    wait_durable(&journal, 2);
    journal.release(0);
    drop(journal);
    assert_eq!(read_all(&mut open(small(dir.path())).reader(0)).unwrap(), blocks);
}

#[test]
fn what_is_appended_is_read_over_many_segments_and_after_a_restart() {
    let dir = temp();
    let journal = open(JournalOptions { sync: Arc::new(File::sync_data), ..small(dir.path()) });
    assert_eq!((journal.events(), journal.last_ingest_time()), (0, None));
    assert_eq!(*journal.progress().borrow(), Progress { first: 1, bytes: 4096, ..Progress::default() });
    let mut blocks = fill(&journal, 0, 120, 64 * 1024);
    let upto = blocks.last().unwrap().range.upto;
    let progress = wait_durable(&journal, upto);
    assert_eq!((progress.written, progress.synced, progress.first), (upto, upto, 1));
    assert!(segments(dir.path()).len() > 3, "{:?}", segments(dir.path()));
    assert_eq!(read_all(&mut journal.reader(0)).unwrap(), blocks);

    let (id, producers) = (journal.id(), sorted(&journal));
    drop(journal);
    let journal = open(small(dir.path()));
    assert_ne!(id, 0);
    assert_eq!((journal.id(), sorted(&journal)), (id, producers));
    let last = blocks.last().unwrap();
    assert_eq!((journal.events(), journal.last_ingest_time()), (last.events, Some(last.ingest_time)));
    let mut tailing = journal.reader(upto);
    assert_eq!(tailing.next().unwrap(), None);
    let more = fill(&journal, upto, 40, 64 * 1024);
    wait_durable(&journal, more.last().unwrap().range.upto);
    assert_eq!(read_all(&mut tailing).unwrap(), more);
    blocks.extend(more);
    assert_eq!(read_all(&mut journal.reader(0)).unwrap(), blocks);
}

fn sorted(journal: &Journal) -> Vec<(Arc<str>, Producer)> {
    let mut producers = journal.producers();
    producers.sort_by(|a, b| a.0.cmp(&b.0));
    producers
}

#[test]
fn a_reader_begins_with_the_block_that_holds_the_position_and_follows_the_writer() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let blocks = fill(&journal, 0, 100, 60 * 1024);
    wait_durable(&journal, blocks.last().unwrap().range.upto);
    for after in 0..blocks.last().unwrap().range.upto {
        let found = journal.reader(after).next().unwrap().unwrap();
        assert!(found.range.after <= after && after < found.range.upto, "{after}: {}", found.range);
    }
    // Small blocks, so that the last page is read while it is written again and again.
    let mut reader = journal.reader(blocks.last().unwrap().range.upto);
    let mut after = blocks.last().unwrap().range.upto;
    for seed in 0..500 {
        let next = block(after, seed, 50);
        after = next.range.upto;
        journal.append(next.clone(), Box::new(()));
        wait(&journal, "it is written", |progress| progress.written == after);
        assert_eq!(reader.next().unwrap(), Some(next));
        assert_eq!(reader.next().unwrap(), None);
    }
}

#[test]
fn a_block_longer_than_a_segment_gets_one_of_its_own_size() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let blocks = [lines(0, 100), lines(1, 3 * SEGMENT + 5), lines(2, 100)];
    for block in &blocks {
        journal.append(block.clone(), Box::new(()));
    }
    wait_durable(&journal, 3);
    assert_eq!(read_all(&mut journal.reader(0)).unwrap(), blocks);
    drop(journal);
    assert_eq!(read_all(&mut open(small(dir.path())).reader(0)).unwrap(), blocks);
}

#[test]
fn files_are_for_their_owner_alone() {
    let dir = temp();
    let path = dir.path().join("journals/web");
    drop(open(options(&path)));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(&segments(&path)[0])), (0o700, 0o600));
}

#[test]
fn a_hole_in_what_is_appended_stops_the_journal() {
    let dir = temp();
    let journal = open(options(dir.path()));
    journal.append(lines(0, 10), Box::new(()));
    journal.append(lines(2, 10), Box::new(()));
    let progress = wait(&journal, "it fails", |progress| progress.failed.is_some());
    assert!(progress.failed.unwrap().contains("a hole"));
}

/// A sync that waits for a permit.
fn held_sync(options: JournalOptions) -> (JournalOptions, Sender<()>) {
    let (permit, permits) = crossbeam_channel::unbounded::<()>();
    let sync = move |file: &File| {
        permits.recv().ok();
        file.sync_data()
    };
    (JournalOptions { sync: Arc::new(sync), ..options }, permit)
}

struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn nothing_is_durable_before_its_fsync_returns_but_its_ticket_is_back_when_it_is_written() {
    for fsync in [true, false] {
        let dir = temp();
        let (options, permit) = held_sync(JournalOptions { fsync, ..options(dir.path()) });
        permit.send(()).unwrap(); // the first segment's head
        permit.send(()).unwrap(); // the end of opening
        let journal = open(options);
        let permit = permit; // goes before the journal, so that a failed assertion does not leave it waiting
        let back = Arc::new(AtomicBool::new(false));
        journal.append(lines(0, 1000), Box::new(Flag(Arc::clone(&back))));
        let written = wait(&journal, "it is written", |progress| progress.written == 1);
        assert_eq!((written.durable, written.synced), (if fsync { 0 } else { 1 }, 0));
        wait(&journal, "the ticket is back", |_| back.load(Ordering::SeqCst));
        // More arrives while the fsync hangs: that one fsync says nothing of it.
        journal.append(lines(1, 1000), Box::new(()));
        pause(50);
        assert_eq!(*journal.progress().borrow(), written);
        permit.send(()).unwrap();
        let one = wait(&journal, "the first is synced", |progress| progress.synced == 1);
        assert_eq!(one.durable, if fsync { 1 } else { one.written });
        permit.send(()).unwrap();
        wait(&journal, "the second is synced", |progress| progress.synced == 2 && progress.durable == 2);
        drop(permit);
    }
}

#[test]
fn after_a_failed_fsync_nothing_is_acknowledged_and_nobody_hangs() {
    let dir = temp();
    let calls = Arc::new(AtomicUsize::new(0));
    let sync = move |file: &File| match calls.fetch_add(1, Ordering::SeqCst) {
        0..3 => file.sync_data(),
        _ => Err(io::Error::other("the disk is on fire")),
    };
    let journal = open(JournalOptions { sync: Arc::new(sync), ..options(dir.path()) });
    journal.append(lines(0, 10), Box::new(()));
    wait_durable(&journal, 1);
    journal.append(lines(1, 10), Box::new(()));
    let progress = wait(&journal, "it fails", |progress| progress.failed.is_some());
    assert_eq!((progress.durable, progress.synced), (1, 1));
    assert!(progress.failed.unwrap().contains("the disk is on fire"));
    let backs: Vec<_> = (2..40).map(|after| (after, Arc::new(AtomicBool::new(false)))).collect();
    for (after, back) in &backs {
        journal.append(lines(*after, 10), Box::new(Flag(Arc::clone(back))));
    }
    wait(&journal, "tickets are back", |_| backs.iter().all(|(_, back)| back.load(Ordering::SeqCst)));
    let after = journal.progress().borrow().clone();
    assert_eq!((after.durable, after.synced), (1, 1));
}

#[test]
fn a_panic_of_the_writer_is_told() {
    let dir = temp();
    let calls = AtomicUsize::new(0);
    let sync = move |_: &File| match calls.fetch_add(1, Ordering::SeqCst) {
        0..2 => Ok(()),
        _ => panic!("on purpose"),
    };
    let journal = open(JournalOptions { sync: Arc::new(sync), ..options(dir.path()) });
    journal.append(lines(0, 10), Box::new(()));
    let progress = wait(&journal, "it fails", |progress| progress.failed.is_some());
    assert_eq!(progress.durable, 0);
    journal.append(lines(1, 10), Box::new(()));
}

#[test]
fn a_full_journal_holds_producers_until_what_all_have_is_deleted() {
    let dir = temp();
    let options = JournalOptions { keep_ms: i64::MAX, ..small(dir.path()) };
    let limit = options.limit_bytes;
    let journal = open(options);
    let len = 100_000;
    let mut after = 0;
    while journal.progress().borrow().held.is_none() {
        journal.append(lines(after, len), Box::new(()));
        after += 1;
        wait_durable(&journal, after);
    }
    let full = wait(&journal, "it is full", |progress| progress.held == Some(Held::JournalFull));
    assert!(full.bytes >= limit && full.bytes < limit + SEGMENT as u64, "{full:?}");
    // What had credit before is written nevertheless.
    journal.append(lines(after, len), Box::new(()));
    after += 1;
    wait_durable(&journal, after);
    let mut behind = journal.reader(0);
    behind.next().unwrap().unwrap();
    // Kept lines go, but only as many as must.
    journal.release(after);
    let freed = wait(&journal, "there is room", |progress| progress.held.is_none());
    assert!(freed.bytes < limit && freed.bytes > limit / 2 && freed.first > 1, "{freed:?}");
    assert_eq!(segments(dir.path()).len() as u64, freed.bytes.div_ceil(SEGMENT as u64));
    let error = journal.reader(0).next().unwrap_err();
    assert!(matches!(error, JournalError::Missing { wanted: 1, first } if first == freed.first));
    let rest = read_all(&mut journal.reader(freed.first - 1)).unwrap();
    assert_eq!(rest.len() as u64, after - freed.first + 1);
    drop(journal);
    let journal = open(small(dir.path()));
    assert_eq!(journal.progress().borrow().first, freed.first);
}

#[test]
fn a_journal_that_is_full_with_one_released_segment_begins_another() {
    let dir = temp();
    let options = JournalOptions { limit_bytes: 64 * 1024, ..options(dir.path()) };
    let journal = open(options.clone());
    journal.append(block(0, 1, 0), Box::new(()));
    journal.append(Block { producer_number: 77, ..lines(1, 100_000) }, Box::new(()));
    wait(&journal, "it is full", |progress| progress.held == Some(Held::JournalFull));
    journal.release(1);
    pause(20);
    assert_eq!(journal.progress().borrow().first, 1);
    journal.release(2);
    let empty = wait(&journal, "there is room", |progress| progress.held.is_none());
    assert_eq!((empty.first, empty.written, empty.synced, empty.bytes), (3, 2, 2, 4096));
    assert_eq!(read_all(&mut journal.reader(2)).unwrap(), []);
    drop(journal);
    // The producers and the counts outlive all segments that told of them.
    let journal = open(options);
    assert_eq!((journal.events(), journal.last_ingest_time()), (lines(1, 0).events, Some(1_001)));
    let producers = [("producer-1", 0, 1_000), ("producer-2", 77, 1_001)];
    assert_eq!(sorted(&journal), producers.map(|(name, number, seen)| (Arc::from(name), Producer { number, seen })));
    journal.append(lines(2, 10), Box::new(()));
    wait_durable(&journal, 3);
    assert_eq!(read_all(&mut journal.reader(2)).unwrap(), [lines(2, 10)]);
}

#[test]
fn released_segments_stay_for_journal_keep_and_are_recycled_then() {
    let dir = temp();
    let clock = Clock::manual(1_000);
    let options = JournalOptions { keep_ms: 60_000, ..small(dir.path()) };
    let journal = Journal::open(options.clone(), clock.clone()).unwrap();
    let blocks: Vec<Block> = (0..30).map(|after| lines(after, 100_000)).collect();
    for block in &blocks {
        journal.append(block.clone(), Box::new(()));
    }
    let before = wait_durable(&journal, 30);
    journal.release(20);
    pause(20);
    assert_eq!(journal.progress().borrow().first, 1, "kept");
    clock.advance(Duration::from_secs(61));
    let after = wait(&journal, "old segments go", |progress| progress.first == 21 && progress.bytes < before.bytes);
    assert!(segment::spare_path(dir.path()).exists());
    // The spare's old blocks never come back, wherever the new ones end.
    let mut expected = read_all(&mut journal.reader(after.first - 1)).unwrap();
    for after in 30..45 {
        expected.push(lines(after, 100_000));
        journal.append(lines(after, 100_000), Box::new(()));
    }
    wait_durable(&journal, 45);
    assert!(!segment::spare_path(dir.path()).exists(), "it is used");
    drop(journal);
    let journal = Journal::open(options, clock).unwrap();
    assert_eq!(journal.progress().borrow().written, 45);
    assert_eq!(read_all(&mut journal.reader(after.first - 1)).unwrap(), expected);
}

#[test]
fn a_disk_without_min_free_holds_producers() {
    let dir = temp();
    let journal = open(JournalOptions { min_free_bytes: u64::MAX, ..options(dir.path()) });
    wait(&journal, "it is held", |progress| progress.held == Some(Held::DiskFull));
    journal.append(lines(0, 10), Box::new(()));
    assert_eq!(wait_durable(&journal, 1).held, Some(Held::DiskFull));
}
