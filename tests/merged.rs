//! Longer spans than windows, merged of stored states: against SQL over the same lines.

use crate::support::weblog::{table, web_log};
use crate::support::{Daemon, Mill, sql, tidemill};

const PIPELINES: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    time = "ts"
    delay = "10m"
    [pipelines.minutes]
    stream = "web"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", kinds = "count(distinct status)", mean = "avg(bytes)", top = "max(bytes)" }
    [pipelines.rolling]
    stream = "web"
    window = { sliding = "10m", every = "1m" }
    aggregates = { hits = "count(*)" }
    [pipelines.local]
    stream = "web"
    window = { calendar = "hour", timezone = "Asia/Kolkata" }
    aggregates = { hits = "count(*)" }
    [pipelines.few]
    stream = "web"
    group_by = ["path"]
    window = { tumbling = "1h" }
    max_groups = 5
    aggregates = { hits = "count(*)", kinds = "count(distinct path)" }
"#;

fn rows(daemon: &Daemon, question: &str) -> serde_json::Value {
    daemon.get(&format!("/api/v1/pipelines/{question}"))
}

/// `[column, …]` of each row.
fn picked(answer: &serde_json::Value, columns: &[&str]) -> Vec<String> {
    let names = answer["columns"].as_array().unwrap();
    let places: Vec<_> = columns.iter().map(|column| names.iter().position(|name| name == column).unwrap()).collect();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let row = |row: &serde_json::Value| places.iter().map(|place| text(&row[place])).collect::<Vec<_>>().join(" ");
    answer["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn spans_are_what_sql_makes_of_the_lines() {
    let log = web_log(20_000, 5 * 3_600_000, 300_000, 8, 5);
    let mill = Mill::new(PIPELINES);
    let daemon = mill.start();
    daemon.send(&log);
    daemon.wait_for_commit();
    let oracle = table(mill.path(), &log);
    let hour = "((line ->> 'ts') / 3600000 * 3600000)";
    let mut expected = sql(
        &oracle,
        &format!(
            "SELECT {hour} || ' ' || (line ->> 'path') || ' ' || count(*) || ' ' || count(distinct line ->> 'status') || ' ' \
             || max(line ->> 'bytes') AS r FROM log GROUP BY {hour}, line ->> 'path' ORDER BY {hour} DESC, line ->> 'path'"
        ),
    );
    let columns = ["window_start_ms", "path", "hits", "kinds", "top"];
    let all = rows(&daemon, "minutes/results?interval=1h&limit=10000");
    assert_eq!(picked(&all, &columns), expected);
    assert!(all["next"].is_null());
    // The same in pieces of whole spans.
    let (mut pieces, mut to) = (Vec::new(), i64::MAX);
    loop {
        let some = rows(&daemon, &format!("minutes/results?interval=1h&limit=10&to={to}"));
        pieces.extend(picked(&some, &columns));
        let Some(next) = some["next"].as_i64() else { break };
        to = next;
    }
    assert_eq!(pieces, expected);
    // Of windows that overlap those count that lie side by side; of the last, open one the store has what it shows.
    let closed = |rows: Vec<String>| rows.into_iter().filter(|row| row.ends_with(" true")).collect::<Vec<_>>();
    let rolling = rows(&daemon, "rolling/results?interval=1h");
    let rolling = closed(picked(&rolling, &["window_start_ms", "hits", "closed"]));
    let total =
        format!("SELECT {hour} || ' ' || count(*) || ' true' AS r FROM log GROUP BY {hour} ORDER BY {hour} DESC");
    let whole = sql(&oracle, &total);
    assert_eq!(rolling, whole[whole.len() - rolling.len()..]);
    assert!(rolling.len() >= 4, "{rolling:?}");
    // Days of a place half an hour beside UTC's hours.
    let day = "(((line ->> 'ts') + 19800000) / 86400000 * 86400000 - 19800000)";
    expected =
        sql(&oracle, &format!("SELECT {day} || ' ' || count(*) AS r FROM log GROUP BY {day} ORDER BY {day} DESC"));
    let local = rows(&daemon, "local/results?interval=day");
    assert_eq!(picked(&local, &["window_start_ms", "hits"]), expected);
    // The others' states add up, too.
    let few = rows(&daemon, "few/results?interval=1d&limit=10000");
    let other = picked(&few, &["other", "path", "hits", "kinds"]);
    let other: Vec<_> = other.iter().filter(|row| row.starts_with("true null ")).collect();
    assert!(!other.is_empty() && !other[0].ends_with(" 0"), "{few}");
    let sum: u64 = picked(&few, &["hits"]).iter().map(|hits| hits.parse::<u64>().unwrap()).sum();
    assert_eq!(sum, 20_000);
}

#[test]
fn gaps_are_filled_and_mistakes_are_named() {
    let mill = Mill::new(PIPELINES);
    let daemon = mill.start();
    let (from, hour) = (1_700_002_800_000_i64, 3_600_000);
    let line = |at: i64, path: &str| format!("{{\"ts\": {at}, \"path\": \"{path}\", \"bytes\": 5, \"status\": 200}}\n");
    let lines =
        [line(from, "/a"), line(from + 2 * hour, "/b"), line(from + 2 * hour, "/a"), line(from + 9 * hour, "/c")];
    daemon.send(lines.concat().as_bytes());
    daemon.wait_for_commit();
    let question = format!("minutes/results?interval=1h&fill=0&from={from}&to={}", from + 3 * hour);
    let filled = rows(&daemon, &question);
    let expected = [(2, "/a 1"), (2, "/b 1"), (1, "/a 0"), (1, "/b 0"), (0, "/a 1"), (0, "/b 0")];
    let expected: Vec<_> = expected.iter().map(|(at, rest)| format!("{} {rest}", from + at * hour)).collect();
    assert_eq!(picked(&filled, &["window_start_ms", "path", "hits"]), expected);
    let null = rows(&daemon, &question.replace("fill=0", "fill=null"));
    assert_eq!(picked(&null, &["hits"]), ["1", "1", "null", "null", "1", "null"]);
    let span = [from.to_string(), (from + 2 * hour).to_string()];
    let mut query = tidemill();
    query.args(["query", "minutes", "--csv", "--url", &daemon.http, "--interval", "1h", "--fill", "0"]);
    let shown = query.args(["--from", &span[0], "--to", &span[1]]).output().unwrap();
    assert_eq!(String::from_utf8(shown.stdout).unwrap().lines().count(), 3, "a head, and /a in two hours");
    for (question, why) in [
        ("minutes/results?interval=90s", "no multiple of the pipeline's window, 1m"),
        ("minutes/results?interval=soon", "no duration"),
        ("minutes/results?interval=1h&fill=0", "needs `from` and `to`"),
        ("minutes/results?interval=1h&fill=x&from=0&to=1", "neither a number nor null"),
        ("minutes/results?fill=0", "of an `interval`"),
        ("local/results?interval=1d", "add up to hour, day, week, month"),
        ("minutes/results?interval=1m&fill=0&from=0&to=1800000000000", "more than 10000 rows"),
    ] {
        let message = rows(&daemon, question)["error"]["message"].to_string();
        assert!(message.contains(why), "{question}: {message}");
    }
}
