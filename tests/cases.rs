//! `tidemill test`: right expectations pass, wrong ones are shown so that a newcomer sees what is wrong.

use crate::support::{Mill, tidemill};

const CONFIG: &str = r#"
data_dir = "never"

[redis]
url = "redis://192.0.2.1:6379"

[streams.web]
tcp = "127.0.0.1:1"

[streams.host]
format = "influx"

[pipelines.views]
stream = "web"
time = "ts"
group_by = ["path"]
window = { tumbling = "1m" }
delay = "5s"
idle = "30s"
redis = { ttl = "1d" }
aggregates = { views = "count(*)", mean = "avg(ms)", last_status = "last(status)" }
[[pipelines.views.stages]]
filter = "path IS NULL OR path <> '/health'"

[pipelines.visits]
stream = "web"
time = "ts"
group_by = ["ip"]
window = { session = "30m" }
aggregates = { pages = "count(*)" }

[pipelines.days]
stream = "host"
window = { calendar = "day", timezone = "Europe/Berlin" }
aggregates = { greatest = "max(busy)" }

[pipelines.arrivals]
stream = "web"
window = { tumbling = "1h" }
aggregates = { n = "count(*)" }

[pipelines.geo]
stream = "web"
window = { tumbling = "1h" }
aggregates = { n = "count(*)" }
[[pipelines.geo.stages]]
custom = "geo"
"#;

const RIGHT: &str = r#"
[[tests]]
name = "what is filtered, failed and counted"
pipeline = "views"
events = [
  '{"ts": "2026-11-21T12:00:01Z", "path": "/", "ms": 0.1, "status": 200}',
  { ts = 2026-11-21T12:00:02Z, path = "/", ms = 0.2, status = 404 },
  { ts = 2026-11-21T12:00:02Z, path = "/health" },
  { ts = 2026-11-21T12:00:02Z },
  { path = "/no/time" },
  'no event',
]
rows = [
  '{"path": null, "views": 1, "mean": null}',
  { path = "/", window_start = "2026-11-21T13:00:00+01:00", views = 2, mean = 0.15, closed = false },
]
letters = [
  { kind = "decode", event = "no event" },
  { kind = "time", stage = "time", reason = "ts is missing", event = "/no/time" },
]

[[tests]]
name = "silence closes, and what is late corrects"
pipeline = "views"
now = 2026-11-21T12:00:00Z
[[tests.steps]]
events = [{ ts = 2026-11-21T12:00:00Z, path = "/" }]
rows = [{ views = 1, closed = false }]
[[tests.steps]]
advance = "94s"
rows = [{ views = 1, closed = false }]
[[tests.steps]]
advance = "1s"
rows = [{ views = 1, closed = true }]

[[tests]]
name = "a late one corrects"
pipeline = "views"
now = 2026-11-21T13:00:00Z
[[tests.steps]]
events = [{ ts = 2026-11-21T12:00:00Z, path = "/" }, { ts = 2026-11-21T12:02:00Z, path = "/" }]
[[tests.steps]]
advance = "10s"
[[tests.steps]]
events = [{ ts = 2026-11-21T12:00:59Z, path = "/" }]
rows = [
  { window_start = 2026-11-21T12:00:00Z, views = 2, closed = true, revised_at = "2026-11-21T13:00:10Z" },
  { window_start = 2026-11-21T12:02:00Z, views = 1, closed = false },
]

[[tests]]
name = "too far ahead"
pipeline = "views"
now = 2026-11-21T12:00:00Z
events = [{ ts = 2026-11-21T14:00:00Z, path = "/" }]
rows = []
letters = [{ kind = "ahead" }]

[[tests]]
name = "a visit ends, and what comes then is late"
pipeline = "visits"
[[tests.steps]]
events = [{ ts = 0, ip = "a" }, { ts = 600, ip = "a" }, { ts = 7200, ip = "b" }, { ts = 60, ip = "a" }]
letters = [{ kind = "late", event = '"ts":60' }]
rows = [{ ip = "a", pages = 2, window_end = "1970-01-01T00:40:00Z", closed = true }, { ip = "b", pages = 1 }]
[[tests.steps]]
advance = "45m"
rows = [{ ip = "a" }, { ip = "b", closed = true }]

[[tests]]
name = "points by the day of a time zone"
pipeline = "days"
events = ["cpu busy=1.5 1792879200000000000", "cpu busy=2.5 1792965600000000000\ncpu busy=0.5 1792969200000000000"]
rows = [{ period = "2026-10-25", greatest = 2.5 }, { period = "2026-10-26", greatest = 0.5 }]

[[tests]]
name = "without a time it is the clock's"
pipeline = "arrivals"
now = 2026-11-21T12:30:00Z
[[tests.steps]]
events = [{}]
advance = "1h"
[[tests.steps]]
events = [{}, {}]
rows = [{ window_start = 2026-11-21T12:00:00Z, n = 1 }, { window_start = 2026-11-21T13:00:00Z, n = 2 }]
"#;

fn run(mill: &Mill, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = tidemill().arg("test").arg(mill.config()).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn right_expectations_pass_and_nothing_else_is_touched() {
    let mill = Mill::new(&format!("{CONFIG}{RIGHT}"));
    let (code, out, said) = run(&mill, &[]);
    assert_eq!(code, Some(0), "{out}{said}");
    assert!(out.ends_with("7 passed, 0 failed\n") && out.starts_with("ok      what is filtered"), "{out}");
    let left: Vec<_> = std::fs::read_dir(mill.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["tidemill.toml"]);
    let (code, out, _) = run(&mill, &["--filter", "late"]);
    assert_eq!((code, out.lines().count()), (Some(0), 4), "{out}");
    assert_eq!(run(&mill, &["--filter", "nobody"]).0, Some(64));
}

#[test]
fn every_wrong_expectation_fails() {
    let wrong = [
        ("mean = 0.15", "mean = 0.16"),
        ("\"mean\": null", "\"mean\": 0"),
        ("13:00:00+01:00", "13:01:00+01:00"),
        ("  { kind = \"decode\", event = \"no event\" },\n", ""),
        ("reason = \"ts is missing\"", "reason = \"ts was lost\""),
        ("rows = []\n", "rows = [{ views = 1 }]\n"),
        ("advance = \"94s\"", "advance = \"95s\""),
        ("{ ip = \"a\" }, { ip = \"b\", closed = true }", "{ ip = \"a\" }"),
        ("period = \"2026-10-25\"", "period = \"2026-10-27\""),
    ];
    for (right, wrong) in wrong {
        let text = RIGHT.replacen(right, wrong, 1);
        assert_ne!(text, RIGHT, "{right}");
        let mill = Mill::new(&format!("{CONFIG}{text}"));
        let (code, out, said) = run(&mill, &[]);
        assert_eq!(code, Some(1), "{right} -> {wrong}: {out}{said}");
        assert!(out.ends_with("6 passed, 1 failed\n") && said.ends_with("1 test failed\n"), "{out}{said}");
    }
}

#[test]
fn a_difference_is_shown_column_by_column() {
    let tests = r#"[[tests]]
name = "wrong in each way"
pipeline = "views"
events = [
  { ts = 2026-11-21T12:00:01Z, path = "/", status = 200 },
  { ts = 2026-11-21T12:00:01Z, path = "/a\u001b[31m" },
  { ts = 2026-11-21T12:00:01Z, path = "/right" },
  { ts = "soon" },
]
rows = [
  { path = "/", views = 2, last_status = 200 },
  { path = "/b", window_start = 2026-11-21T12:01:00Z },
  { path = "/right", views = 1 },
]
letters = [{ kind = "late" }]
"#;
    let mill = Mill::new(&format!("{CONFIG}{tests}"));
    let (code, out, said) = run(&mill, &[]);
    let before = CONFIG.lines().count();
    let mut out = out.replace(mill.config().to_str().unwrap(), "tidemill.toml");
    for line in [1, 11, 12, 15] {
        let line_of = |line: usize| [format!("line {line})"), format!("toml:{line})")];
        for (from, to) in line_of(before + line).iter().zip(line_of(line)) {
            out = out.replace(from, &to);
        }
    }
    let expected = r#"FAILED  wrong in each way (tidemill.toml:1)
        pipeline views, rows: 1 not as expected, 1 missing, 1 not expected, 1 as expected
          window_start         path          views  last_status
        - ·                    /             2      200          expected (line 11)
        + 2026-11-21 12:00:00  /             1      "200"        is there
                                             ^^^^^  ^^^^^^^^^^^
        - 2026-11-21 12:01:00  /b            ·      ·            expected (line 12), but not there
        + 2026-11-21 12:00:00  /a\u{1b}[31m  1      NULL         there, but not expected
        pipeline views, letters: 1 missing, 1 not expected
          kind  stage  event          reason
        - late  ·      ·              ·                                             expected (line 15), but not there
        + time  time   {"ts":"soon"}  ts is no time in the years 1 to 9999: 'soon'  there, but not expected

0 passed, 1 failed
"#;
    assert_eq!(out, expected, "{said}");
    assert_eq!(code, Some(1));
}

#[test]
fn a_custom_stage_is_said_and_not_passed_over() {
    let tests = "[[tests]]\nname = \"geo\"\npipeline = \"geo\"\nevents = [{}]\nrows = [{ n = 1 }]\n";
    let (code, out, _) = run(&Mill::new(&format!("{CONFIG}{tests}")), &[]);
    assert_eq!(code, Some(1));
    assert!(out.contains("custom = \"geo\", which only the program that registers it can run"), "{out}");
}

#[test]
fn a_config_without_tests_says_so() {
    let (code, out, _) = run(&Mill::new(CONFIG), &[]);
    assert_eq!(code, Some(0));
    assert!(out.contains("has no [[tests]]"), "{out}");
}

#[test]
fn all_mistakes_are_said_at_once() {
    let tests = r#"
[[tests]]
name = "one"
pipeline = "vews"
rows = []

[[tests]]
name = "two"
pipeline = "views"
now = "noon"
rows = [{ pth = "/", veiws = 1, window_start = "noon" }, 'no JSON', { period = "2026" }]
letters = [{ kind = "lat" }, { why = "?" }]

[[tests]]
name = "two"
pipeline = "days"
events = [{ busy = 1 }]
advance = "soon"
rows = []

[[tests]]
pipeline = "views"
events = [{}]
[[tests.steps]]
event = []

[[tests]]
name = "nothing"
pipeline = "views"
"#;
    let mill = Mill::new(&format!("{CONFIG}{tests}"));
    for verb in ["test", "validate", "run"] {
        let output = mill.verb(verb, &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{said}");
        for words in [
            "there is no pipeline `vews`",
            "did you mean `views`",
            "`tests[1].now` is no time: \"noon\"",
            "pipeline `views` has no column `pth`",
            "did you mean `path`",
            "pipeline `views` has no column `veiws`",
            "`window_start` is no time: \"noon\"",
            "`tests[1].rows[1]` is no JSON object",
            "pipeline `views` has no column `period`",
            "`tests[1].letters[0].kind` cannot be `lat`",
            "unknown key `tests[1].letters[1].why`",
            "has the name `two`, too",
            "an event of an Influx stream is a point",
            "`tests[2].advance` is no duration",
            "`name` is missing in tests[3]",
            "`tests[3].steps` beside `events` or `advance`",
            "unknown key `tests[3].steps[0].event`",
            "this test expects nothing",
        ] {
            assert!(said.contains(words), "{words}: {said}");
        }
    }
}

#[test]
fn a_changed_test_is_no_change_of_the_daemon() {
    let config = r#"
[streams.web]
tcp = "127.0.0.1:0"
[pipelines.views]
stream = "web"
window = { tumbling = "1m" }
aggregates = { views = "count(*)" }
"#;
    let mill = Mill::new(config);
    let daemon = mill.start();
    mill.write_config(&format!("{config}[[tests]]\nname = \"none\"\npipeline = \"views\"\nrows = []\n"));
    let (status, answer) = daemon.post("/api/v1/reload", "");
    assert_eq!((status, &answer["changed"]), (200, &serde_json::json!([])), "{answer}");
}
