//! No event can stop a flush, whatever its bytes.

use serde_json::{Value, json};

use super::support::*;

on_both! {
    async fn hostile_texts_are_stored_and_shown_as_they_are(bench: Bench) {
        let long = "ä\"'\u{1}".repeat(2_048);
        let texts = [
            "",
            " ",
            "it's \"quoted\" \\ %s ? :x $1 -- /* */ ;",
            "'); DROP TABLE window_results; --",
            "👩‍👩‍👧‍👦 \u{202e}rtl\u{feff}",
            "\u{0}",
            "before\u{0}after",
            "\u{1}\u{8}\t\r\n\u{1f}\u{7f}\u{9f}\u{2028}",
            "\u{fffd}\u{ffff}\u{10ffff}",
            "null",
            "[1]",
            "NaN",
            long.as_str(),
        ];
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let mut changes: Vec<_> = texts.iter().map(|text| row(0, text, 1, 1)).collect();
        changes.extend(texts.iter().enumerate().map(|(index, text)| letter(index as u64, text.as_bytes(), text)));
        let flushed = bench.flush(&hits, fence, changes, at(1, 1)).await.unwrap();
        assert_eq!((flushed.rows, flushed.letters), (texts.len() as u64, texts.len() as u64));
        let mut shown: Vec<Value> = bench.rows("hits").await.into_iter().map(|row| row[7].clone()).collect();
        // PostgreSQL's text holds no U+0000.
        let shows = |text: &str| if bench.is_postgres() { text.replace('\0', "\u{fffd}") } else { text.to_owned() };
        for text in texts.map(shows) {
            let there = shown.iter().position(|shown| *shown == text);
            shown.swap_remove(there.unwrap_or_else(|| panic!("{text:?} is not among {shown:?}")));
        }
        assert_eq!(bench.ask("SELECT length(reason) FROM dead_letters WHERE position = 12"), "8192");
    }
}

on_both! {
    async fn deep_and_odd_json_as_a_group_fails_no_query(bench: Bench) {
        let deep =
            (0..64).fold(json!("bottom"), |inner, level| if level % 2 == 0 { json!([inner]) } else { json!({"a": inner}) });
        let hits = by_path("hits");
        let fence = bench.begin(&hits).await.fence;
        let groups = [deep, json!(u64::MAX), json!(1e308), json!(-0.0), json!({}), json!({"\u{0}": "'"})];
        let changes = groups
            .iter()
            .map(|group| crate::store::Change::Row {
                window_start: 0,
                window_end: 100,
                group: key(&json!([group])),
                state: state(1, 1),
                partial: false,
            })
            .collect();
        bench.flush(&hits, fence, changes, at(1, 1)).await.unwrap();
        let shown: Vec<Value> = bench.rows("hits").await.into_iter().map(|row| row[7].clone()).collect();
        assert_eq!(shown.len(), groups.len());
        for group in &groups {
            let text = group.to_string();
            let text = if bench.is_postgres() { text.replace("\\u0000", "\u{fffd}") } else { text };
            assert!(shown.contains(&Value::String(text)), "{group} is not among {shown:?}");
        }
    }
}
