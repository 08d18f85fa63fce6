//! What an inspection sees of damage, and what a repair leaves.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::{Format, PositionRange};
use crate::journal::segment::segment_path;

/// A closed journal of several segments, synced block by block.
fn several(dir: &Path) -> Vec<Block> {
    let journal = open(small(dir));
    let mut blocks = Vec::new();
    let mut after = 0;
    for _ in 0..7 {
        let more = fill(&journal, after, 10, 150_000);
        after = more.last().unwrap().range.upto;
        blocks.extend(more);
        wait(&journal, "the group is synced", |progress| progress.synced == after);
    }
    drop(journal);
    assert!(segments(dir).len() >= 3, "{:?}", segments(dir));
    blocks
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |entry: &fs::DirEntry| entry.file_name().into_string().unwrap();
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap()).map(|e| (name(&e), fs::read(e.path()).unwrap())).collect()
}

fn inspected(dir: &Path) -> Inspection {
    inspect(dir, Format::Ndjson).unwrap().unwrap()
}

/// Opens the repaired journal and reads it: each block is the one that was written, or lost; all positions are there.
/// Gives the lost ones.
fn read_repaired(dir: &Path, blocks: &[Block]) -> Vec<PositionRange> {
    let journal = open(small(dir));
    let mut range = PositionRange { after: 0, upto: 0 };
    let mut lost = Vec::new();
    for block in read_all(&mut journal.reader(0)).unwrap() {
        range.extend(block.range).unwrap();
        match block.payload {
            Payload::Lost => lost.push(block.range),
            _ => assert!(blocks.contains(&block), "{block:?} was never written"),
        }
    }
    let upto = range.upto;
    assert_eq!(upto, journal.progress().borrow().written);
    // It goes on from there.
    let more = fill(&journal, upto, 3, 5_000);
    wait_durable(&journal, more.last().unwrap().range.upto);
    assert_eq!(read_all(&mut journal.reader(upto)).unwrap(), more);
    lost
}

#[test]
fn a_journal_without_damage_is_inspected_and_repaired_without_a_change() {
    let dir = temp();
    assert_eq!(inspect(&dir.path().join("none"), Format::Ndjson).unwrap(), None);
    assert_eq!(inspect(dir.path(), Format::Ndjson).unwrap(), None);
    let blocks = several(dir.path());
    let before = files(dir.path());
    let found = inspected(dir.path());
    assert_eq!((found.first, found.upto), (1, blocks.last().unwrap().range.upto));
    assert_eq!((found.blocks, found.segments), (blocks.len() as u64, segments(dir.path()).len()));
    assert_eq!(found.last_ingest_time, Some(blocks.last().unwrap().ingest_time));
    assert_eq!((found.torn, found.damage.len(), found.lost.len()), (false, 0, 0));
    assert_eq!(repair(dir.path(), Format::Ndjson).unwrap(), []);
    assert_eq!(files(dir.path()), before);
    let journal = open(small(dir.path()));
    assert_eq!(found.id, Some(journal.id()));
    assert_eq!(found.producers, journal.producers().len());
}

#[test]
fn damage_in_the_last_segment_before_a_block_that_knows_better_is_repaired() {
    let dir = temp();
    let blocks = super::damage::one_segment(dir.path(), &[2, 2, 2]);
    let path = segments(dir.path()).remove(0);
    let mut scan = scan::Scan::open(dir.path(), 1).unwrap();
    for _ in 0..2 {
        let (header, _) = scan.peek().unwrap().unwrap();
        scan.skip(&header);
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes[scan.at() as usize + 60] ^= 8;
    fs::write(&path, bytes).unwrap();
    let error = Journal::open(small(dir.path()), Clock::system()).err().unwrap();
    assert!(matches!(error, JournalError::Damaged { from, .. } if from == blocks[2].range.after + 1), "{error}");
    let found = inspected(dir.path());
    assert_eq!(found.damage.iter().map(|damage| damage.lost.clone()).collect::<Vec<_>>(), [[blocks[2].range]]);
    repair(dir.path(), Format::Ndjson).unwrap();
    assert_eq!(read_repaired(dir.path(), &blocks), [blocks[2].range]);
}

#[test]
fn a_torn_end_is_no_damage() {
    let dir = temp();
    let blocks = several(dir.path());
    let path = segments(dir.path()).pop().unwrap();
    let mut scan = scan::Scan::open(dir.path(), *segment::list(dir.path()).unwrap().last().unwrap()).unwrap();
    let mut last = 0;
    while let Some((header, _)) = scan.peek().unwrap() {
        last = scan.at();
        scan.skip(&header);
    }
    let mut bytes = fs::read(&path).unwrap();
    bytes[last as usize + 90] ^= 1;
    fs::write(&path, bytes).unwrap();
    let found = inspected(dir.path());
    assert_eq!((found.torn, found.damage.len()), (true, 0));
    assert_eq!(found.upto, blocks[blocks.len() - 2].range.upto);
    assert_eq!(repair(dir.path(), Format::Ndjson).unwrap(), []);
    assert_eq!(open(small(dir.path())).progress().borrow().written, found.upto);
}

/// A journal that is being written has neither damage nor a hole, whenever it is looked at.
#[test]
fn a_journal_can_be_inspected_while_it_is_written_and_its_segments_go() {
    let dir = temp();
    let journal = open(small(dir.path()));
    let (mut after, mut seen) = (0, 0);
    for round in 0..30 {
        after = fill(&journal, after, 20, 60_000).last().unwrap().range.upto;
        let found = inspected(dir.path());
        assert_eq!((found.damage, found.lost), (vec![], vec![]), "round {round}");
        assert!(found.upto >= seen && found.upto <= after);
        seen = found.upto;
        journal.release(journal.progress().borrow().synced);
    }
    assert!(seen > 0);
}

#[test]
fn missing_segments_become_positions_that_are_lost() {
    for missing in [vec![1], vec![1, 2], vec![1, 3]] {
        let dir = temp();
        let blocks = several(dir.path());
        let firsts = segment::list(dir.path()).unwrap();
        assert!(firsts.len() > 4, "{firsts:?}");
        for index in &missing {
            fs::remove_file(segment_path(dir.path(), firsts[*index])).unwrap();
        }
        let expected: Vec<Position> = missing.iter().flat_map(|index| firsts[*index]..firsts[index + 1]).collect();
        let found = inspected(dir.path());
        let named = |ranges: &[PositionRange]| ranges.iter().flat_map(|range| range.after + 1..=range.upto).collect();
        let damaged: Vec<PositionRange> = found.damage.iter().flat_map(|damage| damage.lost.clone()).collect();
        assert_eq!((named(&damaged), found.damage[0].what), (expected.clone(), "it is missing"));
        assert!(Journal::open(small(dir.path()), Clock::system()).is_err());
        assert!(repair(dir.path(), Format::Ndjson).unwrap().iter().all(|repaired| repaired.kept.is_none()));
        assert_eq!(inspected(dir.path()).damage, []);
        assert_eq!(inspected(dir.path()).lost, damaged);
        let lost: Vec<Position> = named(&read_repaired(dir.path(), &blocks));
        assert_eq!(lost, expected);
    }
}

#[test]
fn a_damaged_head_costs_no_line_and_no_number_that_others_know() {
    for (index, place) in [(0, 40), (1, 20), (1, 129), (2, 70)] {
        let dir = temp();
        let blocks = several(dir.path());
        let producers = |dir: &Path| open(small(dir)).producers().into_iter().collect::<BTreeMap<_, _>>().len();
        let before = producers(dir.path());
        let path = segments(dir.path()).remove(index);
        let mut bytes = fs::read(&path).unwrap();
        bytes[place] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let repaired = repair(dir.path(), Format::Ndjson).unwrap();
        let [only] = repaired.as_slice() else { panic!("{repaired:?}") };
        assert_eq!((only.damage.lost.len(), only.damage.producers_lost), (0, index == 0), "{index} {place}");
        assert_eq!(fs::read(only.kept.as_ref().unwrap()).unwrap(), bytes);
        assert_eq!(producers(dir.path()), before);
        assert_eq!(read_repaired(dir.path(), &blocks), []);
    }
}

#[test]
fn a_journal_of_which_nothing_can_be_read_is_left_as_it_is() {
    let dir = temp();
    drop(open(small(dir.path())));
    let path = segments(dir.path()).remove(0);
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    let error = repair(dir.path(), Format::Ndjson).unwrap_err();
    assert!(matches!(error, JournalError::Hopeless { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), vec![7; 1 << 20]);
}

#[test]
fn a_repair_that_was_cut_short_is_done_again() {
    let dir = temp();
    let blocks = several(dir.path());
    let path = segments(dir.path()).remove(1);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, &bytes).unwrap();
    // As after a crash behind the second name, with a file that was not finished.
    let kept = path.with_extension("seg.damaged");
    fs::hard_link(&path, &kept).unwrap();
    fs::write(dir.path().join("repair.tmp"), "unfinished").unwrap();
    assert_eq!(repair(dir.path(), Format::Ndjson).unwrap()[0].kept.as_deref(), Some(kept.as_path()));
    assert_eq!(fs::read(&kept).unwrap(), bytes);
    assert_eq!(repair(dir.path(), Format::Ndjson).unwrap(), []);
    assert_eq!(read_repaired(dir.path(), &blocks).len(), 1);
    // Damaged once more: what is kept of the first time stays.
    let mut again = fs::read(&path).unwrap();
    again[8_192] ^= 1;
    fs::write(&path, &again).unwrap();
    let second = repair(dir.path(), Format::Ndjson).unwrap()[0].kept.clone().unwrap();
    assert_eq!((fs::read(&kept).unwrap(), fs::read(second).unwrap()), (bytes, again));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens to older segments: what a repair keeps is what was written, what it gives up is what was harmed.
    #[test]
    fn only_what_is_harmed_is_lost(
        harms in prop::collection::vec((0.0..1.0_f64, 0.0..1.0_f64, 1..200_000_usize), 1..4),
    ) {
        let dir = temp();
        let blocks = several(dir.path());
        let old = segments(dir.path());
        let old = &old[..old.len() - 1];
        for (segment, place, len) in harms {
            let path = &old[(old.len() as f64 * segment) as usize];
            let mut bytes = fs::read(path).unwrap();
            let at = (bytes.len() as f64 * place) as usize;
            let end = at.saturating_add(len).min(bytes.len());
            bytes[at..end].iter_mut().for_each(|byte| *byte ^= 0x55);
            fs::write(path, bytes).unwrap();
        }
        let harmed = files(dir.path());
        let found = inspected(dir.path());
        prop_assert_eq!(&files(dir.path()), &harmed);
        let expected: Vec<PositionRange> = found.damage.iter().flat_map(|damage| damage.lost.clone()).collect();
        let repaired = repair(dir.path(), Format::Ndjson).unwrap();
        prop_assert_eq!(repaired.len(), found.damage.len());
        for Repaired { damage, kept } in repaired {
            let name = damage.path.file_name().unwrap().to_str().unwrap();
            prop_assert_eq!(&fs::read(kept.unwrap()).unwrap(), &harmed[name]);
        }
        prop_assert_eq!(repair(dir.path(), Format::Ndjson).unwrap(), []);
        let lost = read_repaired(dir.path(), &blocks);
        prop_assert_eq!(&lost, &expected);
        // Each block is whole, or lost whole.
        let gone = |block: &Block| lost.iter().any(|range| range.after <= block.range.after && block.range.upto <= range.upto);
        let kept = read_all(&mut open(small(dir.path())).reader(0)).unwrap();
        for block in &blocks {
            prop_assert!(gone(block) != kept.contains(block));
        }
    }
}
