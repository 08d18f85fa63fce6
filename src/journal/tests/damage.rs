//! Crashes and damage.

use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::*;
use crate::journal::block::{HEADER_BYTES, Header, Seal};
use crate::journal::scan::Scan;

/// Copies a journal while it is written so that the copy is what a crash could leave: newest first, each file from its
/// end, so that nothing in the copy is newer than what stands before it.
fn copy_as_of_a_crash(from: &Path, to: &Path) {
    for path in segments(from).iter().rev() {
        // A segment that went meanwhile is in no crash's way: it was released.
        let Ok(file) = File::open(path) else { continue };
        let len = file.metadata().unwrap().len();
        let copy = File::create(to.join(path.file_name().unwrap())).unwrap();
        copy.set_len(len).unwrap();
        let mut page = [0; 4096];
        for at in (0..len).step_by(4096).collect::<Vec<_>>().into_iter().rev() {
            let count = file.read_at(&mut page, at).unwrap();
            copy.write_all_at(&page[..count], at).unwrap();
        }
    }
}

/// The blocks of the only segment as they stand: where, how long, and the header.
fn layout(dir: &Path) -> Vec<(usize, usize, Header)> {
    let first = segment::list(dir).unwrap()[0];
    let mut scan = Scan::open(dir, first).unwrap();
    let mut found = Vec::new();
    loop {
        let at = scan.at() as usize;
        let Some((header, bytes)) = scan.peek().unwrap() else { return found };
        let len = bytes.len();
        scan.skip(&header);
        found.push((at, len, header));
    }
}

#[test]
fn a_crash_at_any_moment_keeps_all_that_was_durable_and_invents_nothing() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let mut blocks = Vec::new();
    let mut after = 0;
    for round in 0..25 {
        let more = fill(&journal, after, 8, [300, 9_000, 90_000][round % 3]);
        after = more.last().unwrap().range.upto;
        blocks.extend(more);
        let copy = temp();
        let durable = journal.progress().borrow().durable;
        copy_as_of_a_crash(dir.path(), copy.path());
        let again = open(small(copy.path()));
        let written = again.progress().borrow().written;
        assert!(written >= durable, "{written} < {durable}");
        let found = read_all(&mut again.reader(0)).unwrap();
        assert_eq!(found, blocks[..found.len()]);
        assert_eq!(found.last().map_or(0, |block| block.range.upto), written);
        // It goes on from there.
        let more = fill(&again, written, 3, 5_000);
        wait_durable(&again, more.last().unwrap().range.upto);
        assert_eq!(read_all(&mut again.reader(written)).unwrap(), more);
    }
}

/// A journal of one segment whose blocks were synced in groups, closed; with its blocks.
pub(super) fn one_segment(dir: &Path, groups: &[usize]) -> Vec<Block> {
    let journal = open(small(dir));
    let mut blocks = Vec::new();
    let mut after = 0;
    for count in groups {
        let more = fill(&journal, after, *count, 3_000);
        after = more.last().unwrap().range.upto;
        blocks.extend(more);
        wait(&journal, "the group is synced", |progress| progress.synced == after);
    }
    blocks
}

#[test]
fn a_cut_end_never_comes_back() {
    let dir = temp();
    // Written in one group: none says of the other that it was synced.
    let (options, permit) = held_sync(small(dir.path()));
    for _ in 0..4 {
        permit.send(()).unwrap();
    }
    let journal = open(options);
    let permit = permit; // goes before the journal, so that a failed assertion does not leave it waiting
    // The third begins with a page: writing the second anew does not fill up its page with zeros.
    let len = 10_240 - HEADER_BYTES - "producer-2127.0.0.1:9".len();
    let blocks: Vec<Block> = (0..3).map(|after| lines(after, len)).collect();
    for block in &blocks {
        journal.append(block.clone(), Box::new(()));
    }
    wait(&journal, "all is written", |progress| progress.written == 3);
    let copy = temp();
    copy_as_of_a_crash(dir.path(), copy.path());
    let stands = layout(copy.path());
    assert!(stands.iter().all(|(_, _, header)| header.synced == 0));
    assert_eq!(stands[2].0 % 4096, 0);
    // The middle one is torn.
    let path = &segments(copy.path())[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[stands[1].0 + 500] ^= 1;
    fs::write(path, bytes).unwrap();
    let again = open(small(copy.path()));
    assert_eq!(again.progress().borrow().written, 1);
    // The same length as the torn one: what follows it on disk would fit.
    again.append(Block { ingest_time: 5, ..lines(1, len) }, Box::new(()));
    wait_durable(&again, 2);
    drop(again);
    let again = open(small(copy.path()));
    assert_eq!(again.progress().borrow().written, 2);
    assert_eq!(read_all(&mut again.reader(0)).unwrap(), [lines(0, len), Block { ingest_time: 5, ..lines(1, len) }]);
    drop(permit);
}

#[test]
fn damage_in_older_segments_and_missing_ones_are_refused_or_found_when_read() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let blocks: Vec<Block> = (0..40).map(|after| lines(after, 100_000)).collect();
    for block in &blocks {
        journal.append(block.clone(), Box::new(()));
    }
    wait_durable(&journal, 40);
    drop(journal);
    let files = segments(dir.path());
    assert!(files.len() >= 4);
    let good = fs::read(&files[1]).unwrap();
    let mut bad = good.clone();
    bad[300_000] ^= 1;
    fs::write(&files[1], &bad).unwrap();
    {
        let journal = open(small(dir.path()));
        let mut reader = journal.reader(0);
        let error = loop {
            match reader.next() {
                Ok(block) => assert!(block.is_some(), "silently fewer"),
                Err(error) => break error,
            }
        };
        assert!(matches!(&error, JournalError::Damaged { path, from } if *path == files[1] && *from > 10), "{error}");
    }
    fs::write(&files[1], &good[..good.len() - 5_000]).unwrap();
    assert!(matches!(read_all(&mut open(small(dir.path())).reader(0)), Err(JournalError::Damaged { .. })));
    fs::remove_file(&files[1]).unwrap();
    let missing = Journal::open(small(dir.path()), Clock::system()).err().unwrap();
    assert!(matches!(missing, JournalError::Damaged { from: 11, .. }), "{missing}");
    // A segment of another journal.
    let other = temp();
    drop(open(small(other.path())));
    fs::copy(&segments(other.path())[0], &files[0]).unwrap();
    fs::write(&files[1], &good).unwrap();
    assert!(matches!(Journal::open(small(dir.path()), Clock::system()), Err(JournalError::Damaged { .. })));
}

#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Zero(usize),
    Truncate,
    Garbage(usize),
}

fn harms() -> impl Strategy<Value = Harm> {
    prop_oneof![
        4 => Just(Harm::Flip),
        2 => (1..9000_usize).prop_map(Harm::Zero),
        2 => Just(Harm::Truncate),
        1 => (1..9000_usize).prop_map(Harm::Garbage),
    ]
}

impl Harm {
    fn apply(self, bytes: &mut Vec<u8>, at: usize) {
        let end = |len: usize| (at + len).min(bytes.len());
        match self {
            Self::Flip => bytes[at] ^= 0x10,
            Self::Zero(len) => {
                let end = end(len);
                bytes[at..end].fill(0);
            }
            Self::Garbage(len) => {
                let end = end(len);
                bytes[at..end].iter_mut().enumerate().for_each(|(index, byte)| *byte = (index * 97 + at) as u8);
            }
            Self::Truncate => bytes.truncate(at),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to the last segment: what a later block knows to be synced is there, or it is an error; of the
    /// rest a beginning is kept; nothing is invented, and it can be written on.
    #[test]
    fn damage_is_refused_before_a_witness_and_cut_behind_the_last(
        groups in prop::collection::vec(1..6_usize, 1..5),
        place in 0.0..1.0_f64,
        harm in harms(),
    ) {
        let dir = temp();
        let blocks = one_segment(dir.path(), &groups);
        let stands = layout(dir.path());
        prop_assert_eq!(stands.len(), blocks.len());
        let path = segments(dir.path()).remove(0);
        let good = fs::read(&path).unwrap();
        let (from, to) = (stands[0].0, stands.last().map_or(0, |(at, len, _)| at + len));
        let at = from + ((to - from) as f64 * place) as usize;
        let mut bytes = good.clone();
        harm.apply(&mut bytes, at);
        fs::write(&path, &bytes).unwrap();

        let whole = |at: usize, len: usize, header: &Header| {
            let now = bytes.get(at..at + len);
            // Padding behind the last byte is not part of the block.
            now.is_some_and(|now| Header::decode(now.first_chunk::<HEADER_BYTES>().unwrap(), seal(dir.path()))
                .is_some_and(|found| found == *header && found.intact(now)))
        };
        let kept = stands.iter().take_while(|(at, len, header)| whole(*at, *len, header)).count();
        let upto = stands[..kept].last().map_or(0, |(_, _, header)| header.range.upto);
        let witness = stands[kept..].iter().any(|(at, len, header)| whole(*at, *len, header) && header.synced > upto);
        match Journal::open(small(dir.path()), Clock::system()) {
            Err(JournalError::Damaged { from, .. }) => {
                prop_assert!(witness);
                prop_assert_eq!(from, upto + 1);
            }
            Err(error) => prop_assert!(false, "{}", error),
            Ok(journal) => {
                prop_assert!(!witness);
                prop_assert_eq!(journal.progress().borrow().written, upto);
                let next = lines(upto, 2_000);
                journal.append(next.clone(), Box::new(()));
                wait_durable(&journal, upto + 1);
                drop(journal);
                let mut expected = blocks[..kept].to_vec();
                expected.push(next);
                prop_assert_eq!(read_all(&mut open(small(dir.path())).reader(0)).unwrap(), expected);
            }
        }
    }
}

fn seal(dir: &Path) -> Seal {
    Scan::open(dir, 1).unwrap().head.seal
}
