//! What people see.

use std::path::Path;

use proptest::prelude::*;

use super::super::{describe, load, parse};
use super::{SMALLEST, env, good, mistakes, read, with};

#[test]
fn a_report_shows_place_line_expectation_and_help() {
    let text = SMALLEST.replace("stream = \"web\"", "stream = \"wbe\"");
    let expected = r#"Error: there is no stream `wbe`
   ╭─[ mill.toml:6:10 ]
   │
 6 │ stream = "wbe"
   │          ──┬──  
   │            ╰──── expected the name of a stream of this file
   │ 
   │ Help: did you mean `web`?
───╯
mill.toml: 1 error
"#;
    let report = read(&text).unwrap_err();
    assert_eq!(report.to_string(), expected);
    assert!(report.render(true).contains("\u{1b}["), "in colors where they are wanted");
}

#[test]
fn places_are_right_behind_characters_of_many_bytes() {
    let text = "# ünïcödé\n[streams.web]\nformat = \"é\" # é\nöpen = 1\n";
    assert_eq!(mistakes(text).iter().map(|m| &m[..4]).collect::<Vec<_>>(), ["3:10", "4:1 "]);
    let shown = read(text).unwrap_err().to_string();
    assert!(shown.contains("mill.toml:3:10") && shown.contains("3 │ format = \"é\" # é"), "{shown}");
    assert!(mistakes("[streams.a]\ntoken = [\"é€\", 1]")[1].starts_with("2:16 "), "behind a masked one");
    let at_the_end = read("[streams.web]\nformat = \"").unwrap_err().to_string();
    assert!(at_the_end.contains("mill.toml:2:"), "{at_the_end}");
    assert!(read("").unwrap_err().to_string().contains("mill.toml:1:1: there is no stream"));
}

#[test]
fn no_report_shows_a_secret() {
    let text = "[store]\nurl = \"postgres://me:hunter2@db/x?sslmode=prefer\"\n[http]\ntoken = \"hunter2\"\n\
                [streams.a]\ntoken = [\"hunter2\", \"${TOKEN} x\"]\n[redis]\nurl = \"redis://:hunter2@h\"\n";
    let shown = read(text).unwrap_err().to_string();
    assert!(!shown.contains("hunter2") && !shown.contains("0123456789abcdef"), "{shown}");
    assert!(shown.contains("postgres://me:*******@db/x"), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let report = load(&folder.path().join("none.toml")).unwrap_err();
    let [only] = report.diagnostics() else { panic!("{report}") };
    assert_eq!((only.line, only.column), (0, 0));
    assert!(only.message.starts_with("cannot read the config: "));
    assert!(report.to_string().contains("none.toml"));
    let binary = folder.path().join("binary.toml");
    std::fs::write(&binary, b"a = 1\nb = \"\xff\"").unwrap();
    assert!(load(&binary).unwrap_err().to_string().contains("line 2 of the config is not UTF-8"));
}

const WHOLE: &str = r#"
data_dir = "/var/mill"
[http]
listen = "0.0.0.0:7601"
token = "0123456789abcdef"
read_token = ["fedcba9876543210", "0123456789abcdeX"]
hosts = ["Mill.example.org", "mill:8443"]
[streams.web]
tcp = "0.0.0.0:7600"
token = ["0123456789abcdef", "fedcba9876543210"]
durability = "os"
[streams.free]
tcp = "0.0.0.0:7602"
open = true
[streams.one]
token = "0123456789abcdef"
raw_events = { retain = "36h" }
time = { field = "meta.ts", unit = "ms" }
[pipelines.p]
stream = "web"
time = { field = '"odd name".ts', unit = "ns" }
group_by = ["path", "host"]
window = { sliding = "1h", every = "10m" }
late = "drop"
[[pipelines.p.stages]]
filter = '''type = 'a"b' AND x = '\' '''
[[pipelines.p.stages]]
set = { path = "lower(path)", "odd key" = "1" }
[[pipelines.p.stages]]
custom = "geo"
[pipelines.p.aggregates]
views = "count(*)"
rate = "views / 2"
"#;

/// What a description says can be read again, and then says the same.
#[test]
fn a_description_is_a_config_with_all_defaults() {
    for text in [SMALLEST, WHOLE] {
        let config = good(text);
        let described = describe(&config, 0);
        let secret =
            ["0123456789abcdef", "fedcba9876543210", "0123456789abcdeX"].iter().any(|token| described.contains(token));
        assert!(!secret, "{described}");
        let again = described.replace("***", "0123456789abcdef");
        let again = parse(&again, "described", Path::new("/elsewhere"), &env).unwrap_or_else(|r| panic!("{r}"));
        assert_eq!(describe(&again, 0), described);
        assert_eq!(again.pipelines[0].definition, config.pipelines[0].definition);
        assert_eq!(again.store.url.to_string(), config.store.url.to_string());
    }
}

#[test]
fn a_description_names_every_default() {
    let described = describe(&good(SMALLEST), 64 << 20);
    for line in [
        "data_dir = \"/etc/mill/data\"",
        "min_free = \"256MiB\"",
        "url = \"sqlite:///etc/mill/data/tidemill.db\"",
        "flush_every = \"1s\"",
        "migrate = true",
        "listen = \"127.0.0.1:7601\"",
        "format = \"ndjson\"",
        "open = false",
        "durability = \"fsync\"",
        "journal_limit = \"10GiB\"",
        "journal_keep = \"1d\"",
        "max_line = \"1MiB\"",
        "delay = \"5s\"",
        "idle = \"30s\"",
        "late = \"update\"",
        "correct_for = \"1d\"",
        "max_ahead = \"1h\"",
        "# memory limits: mailboxes 64MiB + connection buffers 64MiB times 1 (streams) + HTTP bodies 64MiB + open windows 2GiB (4 times each `state_limit`) = 2240MiB",
    ] {
        assert!(described.lines().any(|described| described == line), "{line} in\n{described}");
    }
}

#[test]
fn a_definition_holds_all_by_which_two_pipelines_are_told_apart() {
    let definition = good(WHOLE).pipelines.remove(0).definition;
    let expected = serde_json::json!({
        "aggregates": [
            { "expression": "count(*)", "name": "views" },
            { "expression": "views / 2", "name": "rate" },
        ],
        "correct_for": "1d",
        "delay": "5s",
        "group_by": ["path", "host"],
        "idle": "30s",
        "late": "drop",
        "max_ahead": "1h",
        "max_behind": null,
        "max_groups": "1000000",
        "missing_time": "dead_letter",
        "redis": null,
        "retain": null,
        "stages": [
            { "filter": "type = 'a\"b' AND x = '\\' " },
            { "set": { "odd key": "1", "path": "lower(path)" } },
            { "custom": "geo" },
        ],
        "start": "earliest",
        "state_limit": "512MiB",
        "stream": "web",
        "time": { "field": "\"odd name\".ts", "unit": "ns" },
        "window": { "every": "10m", "sliding": "1h" },
    });
    assert_eq!(definition, expected);
    let again = with("aggregates = { n = \"count(*)\" }").replace("5m", "300s");
    assert_eq!(
        good(&again).pipelines[0].definition,
        good(&with("aggregates = { n = \"count(*)\" }")).pipelines[0].definition,
        "not how it is written"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever is done to a file: it is read or reported, every place is in it, and nothing panics.
    #[test]
    fn a_file_that_was_damaged_is_reported(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[\"'\\[\\]{}=,.$#a1é\n\\\\]{0,3}"), 1..4)
    ) {
        let mut chars: Vec<char> = WHOLE.chars().collect();
        for (at, length, put) in cuts {
            let start = at.index(chars.len());
            let end = (start + length).min(chars.len());
            chars.splice(start..end, put.chars());
        }
        let text: String = chars.into_iter().collect();
        if let Err(report) = read(&text) {
            prop_assert!(!report.diagnostics().is_empty());
            let lines: Vec<_> = text.split('\n').collect();
            for diagnostic in report.diagnostics() {
                let line = lines.get(diagnostic.line - 1).copied().unwrap_or_default();
                prop_assert!(diagnostic.column <= line.chars().count() + 1, "{diagnostic:?}");
            }
            prop_assert!(report.to_string().contains("mill.toml:"));
        }
    }
}
