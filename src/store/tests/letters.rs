//! Dead letters, as a person looks for them.

use super::support::*;
use crate::store::{Change, LetterFilter, LetterId};

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
}
