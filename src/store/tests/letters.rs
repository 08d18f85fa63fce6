//! Dead letters, as a person looks for them.

use super::support::*;
use crate::config::{AtLimit, LetterLimit};
use crate::event::{Counted, Letter, Origin};
use crate::store::{Change, Fence, Flushed, LetterFilter, LetterId, Replay, StoreError};

/// Letters of two pipelines of one stream, at 1 to 5; the kind is always the same, the reasons are two.
async fn five(bench: &Bench) {
    for (name, positions) in [("hits", [1, 3, 5].as_slice()), ("other", &[3, 4])] {
        let definition = by_path(name);
        let fence = bench.begin(&definition).await.fence;
        let of = |position: &u64| letter(*position, b"\xff line", if *position < 4 { "why" } else { "because" });
        let changes: Vec<Change> = positions.iter().map(of).collect();
        bench.flush(&definition, fence, changes, at(9, 1)).await.unwrap();
    }
}

/// The letters of a pipeline that stand at these positions, all as `letter` makes them but with another line.
fn lines(positions: &[u64]) -> Vec<Change> {
    positions.iter().map(|position| letter(*position, format!("line {position}").as_bytes(), "why")).collect()
}

fn replay(fence: Fence, behind: u64) -> Replay {
    Replay { stream: "web".to_owned(), filter: of("hits"), positions: None, fence, behind, limit: 100 }
}

/// What a replay of a letter that failed at `position` has made of it, by the record `record`.
fn counted(position: u64, record: u64) -> Change {
    Change::Counted(Counted { position, record, at: 5_000 })
}

fn again(position: u64, record: u64, reason: &str) -> Change {
    let Change::Letter(letter) = letter(position, b"line", reason) else { panic!("a letter") };
    Change::Letter(Letter { record, failed_at: 6_000, again: true, ..letter })
}

async fn numbered(bench: &Bench, behind: u64, bytes: usize) -> Vec<(u64, u64)> {
    let letters = bench.store.letters_under_replay("hits", behind, bytes).await.unwrap();
    letters.into_iter().map(|(number, letter)| (number, letter.position)).collect()
}

async fn five_others(bench: &Bench) {
    let other = by_path("other");
    let fence = bench.begin(&other).await.fence;
    bench.flush(&other, fence, lines(&[1, 2, 3, 4, 5]), at(9, 1)).await.unwrap();
}

fn of(pipeline: &str) -> LetterFilter {
    LetterFilter { pipeline: Some(pipeline.to_owned()), ..LetterFilter::default() }
}

on_both! {
    async fn letters_are_listed_by_pages_and_conditions(bench: Bench) {
        five(&bench).await;
        let page = async |filter: LetterFilter, after: Option<&str>, limit| {
            let after = after.map(|after| after.parse::<LetterId>().unwrap());
            let letters = bench.store.letters(filter, after, limit).await.unwrap();
            letters.into_iter().map(|letter| letter.id).collect::<Vec<_>>()
        };
        let all = LetterFilter::default;
        assert_eq!(page(all(), None, 3).await, ["web:5:hits", "web:4:other", "web:3:hits"]);
        assert_eq!(page(all(), Some("web:3:hits"), 3).await, ["web:3:other", "web:1:hits"]);
        assert_eq!(page(all(), Some("web:1:hits"), 3).await, [""; 0]);
        assert_eq!(page(of("other"), None, 9).await, ["web:4:other", "web:3:other"]);
        let kind = |kind: &str| LetterFilter { kind: Some(kind.to_owned()), ..all() };
        assert_eq!(page(kind("expression"), None, 9).await.len(), 5);
        assert_eq!(page(kind("late"), None, 9).await.len(), 0);
        // All failed at 1,700.
        let before = |before| LetterFilter { before: Some(before), ..all() };
        assert_eq!((page(before(1_700), None, 9).await.len(), page(before(1_701), None, 9).await.len()), (0, 5));
    }

    async fn one_letter_is_shown_whole_and_a_list_shows_beginnings(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let long = vec![b'x'; 5_000];
        bench.flush(&hits, fence, vec![letter(7, &long, "why")], at(9, 1)).await.unwrap();
        let listed = bench.store.letters(LetterFilter::default(), None, 9).await.unwrap();
        assert_eq!((listed[0].line.len(), listed[0].line_bytes), (1_024, 5_000));
        let find = async |id: &str| bench.store.letter(id.parse().unwrap()).await.unwrap();
        let whole = find("web:7:hits").await.unwrap();
        assert_eq!((whole.line.len(), whole.reason.as_str(), whole.producer.as_deref()), (5_000, "why", Some("p-1")));
        for none in ["web:6:hits", "web:8:hits", "web:7:other", "wea:7:hits", "wec:7:hits"] {
            assert!(find(none).await.is_none(), "{none}");
        }
    }

    async fn reasons_are_counted_and_letters_purged(bench: Bench) {
        five(&bench).await;
        let reasons = async |filter| {
            let reasons = bench.store.letter_reasons(filter, 9).await.unwrap();
            reasons.into_iter().map(|of| (of.count, of.pipeline, of.reason, of.last_position)).collect::<Vec<_>>()
        };
        let owned = |count, pipeline: &str, reason: &str, last| {
            (count, pipeline.to_owned(), reason.to_owned(), Some(last))
        };
        assert_eq!(
            reasons(LetterFilter::default()).await,
            [owned(2, "hits", "why", 3), owned(1, "hits", "because", 5), owned(1, "other", "because", 4),
             owned(1, "other", "why", 3)]
        );
        assert_eq!(bench.store.purge_letters(LetterFilter { before: Some(1_700), ..of("hits") }).await, Ok(0));
        assert_eq!(bench.store.purge_letters(of("hits")).await, Ok(3));
        assert_eq!(reasons(LetterFilter::default()).await.len(), 2);
        assert_eq!(bench.store.purge_letters(LetterFilter::default()).await, Ok(2));
    }

    async fn letters_are_numbered_once_in_their_order_and_sent_as_they_came(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, lines(&[30, 4, 17]), at(40, 1)).await.unwrap();
        five_others(&bench).await;
        assert_eq!(bench.store.replay_letters(replay(fence, 7)).await, Ok(Some(3)));
        assert_eq!(numbered(&bench, 0, 1 << 20).await, [(8, 4), (9, 17), (10, 30)]);
        assert_eq!(numbered(&bench, 8, 1 << 20).await, [(9, 17), (10, 30)]);
        assert_eq!(numbered(&bench, 7, 1).await, [(8, 4)], "at least one");
        assert_eq!(numbered(&bench, 10, 1 << 20).await, []);
        let first = bench.store.letters_under_replay("hits", 7, 1).await.unwrap().remove(0).1;
        assert_eq!((first.line.as_slice(), first.ingest_time), (b"line 4".as_slice(), 1_700));
        assert_eq!(first.origin, Origin { producer: Some("p-1".into()), peer: None });
        assert_eq!(bench.store.replay_letters(replay(fence, 10)).await, Ok(None), "one is under way");
        assert_eq!(bench.begin(&hits).await.under_replay, 3);
        assert_eq!(bench.store.purge_letters(of("hits")).await, Ok(0), "they are on their way");
        let fenced = bench.store.replay_letters(replay(fence, 10)).await;
        assert_eq!(fenced, Err(StoreError::Fenced("hits".to_owned())), "another has begun since");
    }

    async fn only_the_letters_that_are_meant_are_replayed(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, lines(&[1, 2, 3, 4, 5]), at(9, 1)).await.unwrap();
        bench.execute("UPDATE dead_letters SET kind = 'decode' WHERE position = 5");
        bench.execute("UPDATE dead_letters SET kind = 'late', failed_at = 9 WHERE position = 4");
        let kind = |kind: &str| LetterFilter { kind: Some(kind.to_owned()), ..of("hits") };
        let none = [
            Replay { filter: kind("decode"), ..replay(fence, 0) },
            Replay { filter: LetterFilter { before: Some(9), ..of("hits") }, ..replay(fence, 0) },
            Replay { stream: "other".to_owned(), ..replay(fence, 0) },
            Replay { positions: Some(vec![5, 77]), ..replay(fence, 0) },
            Replay { positions: Some(Vec::new()), ..replay(fence, 0) },
        ];
        for replay in none {
            assert_eq!(bench.store.replay_letters(replay.clone()).await, Ok(Some(0)), "{replay:?}");
        }
        assert_eq!(bench.store.replay_letters(Replay { filter: kind("late"), ..replay(fence, 0) }).await, Ok(Some(1)));
        bench.flush(&hits, fence, vec![counted(4, 10)], at(10, 1)).await.unwrap();
        // Asked with what the journal had before that one was in it: no number comes twice.
        let some = Replay { positions: Some(vec![3, 2, 4]), limit: 1, ..replay(fence, 0) };
        assert_eq!(bench.store.replay_letters(some).await, Ok(Some(1)), "4 has counted");
        assert_eq!(numbered(&bench, 0, 1 << 20).await, [(2, 2)]);
    }

    async fn a_commit_says_what_became_of_letters_under_replay(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, lines(&[1, 2, 3]), at(9, 1)).await.unwrap();
        bench.store.replay_letters(replay(fence, 0)).await.unwrap();
        let changes = vec![again(2, 11, "still"), counted(1, 10)];
        let flushed = bench.flush(&hits, fence, changes, at(11, 1)).await.unwrap();
        assert_eq!(flushed, Flushed { letters: 1, replayed: 2, watermark: Some(1), ..Flushed::default() });
        let columns =
            ["position", "attempts", "reason", "failed_at", "replayed_at", "replay_number", "ingested_at"];
        let rows = "1|1|why|1700|5000||1700; 2|2|still|6000|||1700; 3|1|why|1700||3|1700";
        assert_eq!(bench.ask_rows(&columns, "dead_letters"), rows);
        // Those that were skipped over are as before; then the two can be replayed, the one that counted cannot.
        bench.flush(&hits, fence, vec![Change::FreeLetters { upto_number: 2 }], at(12, 1)).await.unwrap();
        assert_eq!(bench.store.replay_letters(replay(fence, 3)).await, Ok(None), "3 has another number");
        bench.flush(&hits, fence, vec![Change::FreeLetters { upto_number: 3 }], at(12, 1)).await.unwrap();
        assert_eq!(bench.store.replay_letters(replay(fence, 3)).await, Ok(Some(2)));
        assert_eq!(numbered(&bench, 0, 1 << 20).await, [(4, 2), (5, 3)]);
        // A store that lost the letter still gets to know of its failure.
        bench.flush(&hits, fence, vec![again(50, 60, "new")], at(60, 1)).await.unwrap();
        assert_eq!(bench.ask("SELECT count(*) FROM dead_letters WHERE position = 50"), "1");
    }

    async fn letters_beyond_the_limit_are_counted_and_not_kept(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        // Each is a line of 6 bytes, and 200.
        let limit = LetterLimit { bytes: 3 * 206, beyond: AtLimit::Discard };
        let flushed = bench.flush_within(&hits, fence, limit, lines(&[1, 2]), at(2, 1)).await.unwrap();
        assert_eq!((flushed.letters, flushed.discarded), (2, 0));
        let flushed = bench.flush_within(&hits, fence, limit, lines(&[3, 4, 5]), at(5, 1)).await.unwrap();
        assert_eq!((flushed.letters, flushed.discarded), (1, 2));
        let counts = || bench.ask_rows(&["letter_bytes", "letters_discarded"], "checkpoints");
        assert_eq!(counts(), "618|2");
        // Letters under replay do not count, until they have failed again or counted.
        bench.store.replay_letters(Replay { limit: 2, ..replay(fence, 0) }).await.unwrap();
        assert_eq!(counts(), "206|2");
        bench.flush_within(&hits, fence, limit, vec![counted(1, 6)], at(6, 1)).await.unwrap();
        assert_eq!(counts(), "412|2");
        bench.flush_within(&hits, fence, limit, vec![again(2, 7, "still")], at(7, 1)).await.unwrap();
        assert_eq!(counts(), "618|2", "the line is kept as it was");
        assert_eq!(bench.store.purge_letters(LetterFilter::default()).await, Ok(3));
        assert_eq!(counts(), "0|2");
    }

    async fn a_pipeline_that_shall_wait_for_room_commits_nothing_until_there_is_some(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let limit = LetterLimit { bytes: 300, beyond: AtLimit::Pause };
        let flushed = bench.flush_within(&hits, fence, limit, lines(&[1, 2]), at(2, 1)).await.unwrap();
        assert_eq!(flushed.letters, 2, "the first flush may go beyond it: there must be one that can be committed");
        bench.flush_within(&hits, fence, limit, vec![row(0, "/a", 1, 1)], at(3, 1)).await.unwrap();
        let changes = || vec![row(0, "/a", 2, 2), lines(&[4]).remove(0)];
        let full = bench.flush_within(&hits, fence, limit, changes(), at(4, 1)).await;
        assert_eq!(full, Err(StoreError::LettersFull { pipeline: "hits".to_owned(), limit: 300 }));
        assert_eq!(bench.ask("SELECT position FROM checkpoints"), "3");
        bench.store.purge_letters(of("hits")).await.unwrap();
        assert_eq!(bench.flush_within(&hits, fence, limit, changes(), at(4, 1)).await.unwrap().letters, 1);
    }

    async fn old_letters_go_unless_they_are_on_their_way(bench: Bench) {
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        bench.flush(&hits, fence, lines(&[1, 2, 3]), at(9, 1)).await.unwrap();
        bench.execute("UPDATE dead_letters SET failed_at = 5000 WHERE position = 3");
        bench.store.replay_letters(Replay { limit: 1, ..replay(fence, 0) }).await.unwrap();
        assert_eq!(bench.store.prune_letters(1_700).await, Ok(0));
        assert_eq!(bench.store.prune_letters(1_701).await, Ok(1));
        assert_eq!(bench.ask_rows(&["position"], "dead_letters"), "1; 3");
        assert_eq!(bench.ask("SELECT letter_bytes FROM checkpoints"), "206");
    }
}
