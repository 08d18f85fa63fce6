//! No event stops a flush: hostile values in every role, through both stores, every column and every aggregate.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::support::postgres::{shared, unique_schema};
use crate::support::{Daemon, Mill, tidemill};

/// 2015-05-17T09:30:00Z
const BASE: i64 = 1_431_855_000_000;
const HOUR: i64 = 3_600_000;

/// Each field as group, as text, as number, as time, below others; bare, by CAST and by TRY_CAST.
const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    STORE
    [streams.web]
    tcp = "127.0.0.1:0"
    raw_events = { retain = "30d" }
    time = "ts"
    delay = "0s"
    idle = "1d"

    [pipelines.bare]
    stream = "web"
    group_by = ["g"]
    window = { tumbling = "1h" }
    [pipelines.bare.aggregates]
    events = "count(*)"
    total = "sum(n)"
    mean = "avg(n)"
    least = "min(n)"
    most = "max(n)"
    first_n = "first(n)"
    last_n = "last(n)"
    texts = "count(t)"
    least_t = "min(CAST(t AS text))"
    most_t = "max(CAST(t AS text))"
    first_t = "first(t)"
    last_t = "last(t)"
    first_o = "first(o)"
    last_o = "last(o)"
    few = "count(*) FILTER (WHERE n > 1e18)"
    few_t = "count(t) FILTER (WHERE n < 0)"
    few_total = "sum(n) FILTER (WHERE n > 1e18)"
    few_mean = "avg(n) FILTER (WHERE n < 0)"
    few_least = "min(n) FILTER (WHERE n < 0)"
    few_most = "max(n) FILTER (WHERE n < 0)"
    few_first = "first(t) FILTER (WHERE CAST(t AS text) LIKE '%a%')"
    few_last = "last(o) FILTER (WHERE CAST(o AS text) ILIKE '%N%')"
    ratio = "total / few"
    square = "most * most"
    joined = "first_t || last_t"
    below = "last_o.a[0]"
    failing = "CAST(last_t AS bigint)"
    when = "TRY_CAST(last_t AS timestamp)"
    above = "total > mean"

    [pipelines.grouped]
    stream = "web"
    group_by = ["g", "t", "n", "o", "b"]
    window = { tumbling = "1h" }
    aggregates = { events = "count(*)" }

    [pipelines.tried]
    stream = "web"
    group_by = ["g", "y", "d", "w"]
    window = { tumbling = "1d" }
    [[pipelines.tried.stages]]
    set = { i = "TRY_CAST(n AS bigint)", f = "TRY_CAST(n AS double precision)", d = "TRY_CAST(n AS numeric)" }
    [[pipelines.tried.stages]]
    set = { w = "TRY_CAST(w AS timestamp)", y = "TRY_CAST(b AS boolean)", s = "TRY_CAST(t AS text)" }
    [pipelines.tried.aggregates]
    events = "count(*)"
    total_i = "sum(i)"
    total_f = "sum(f)"
    total_d = "sum(d)"
    mean_i = "avg(i)"
    mean_f = "avg(f) FILTER (WHERE f > 1)"
    least_i = "min(i)"
    most_f = "max(f)"
    least_d = "min(d)"
    most_w = "max(w)"
    least_w = "min(w) FILTER (WHERE y)"
    least_s = "min(s)"
    first_i = "first(i)"
    last_f = "last(f)"
    first_d = "first(d)"
    first_w = "first(w)"
    last_y = "last(y)"
    last_s = "last(s)"
    weeks = "date_trunc('week', most_w)"
    more = "total_i + total_i"
    root = "round(total_f / total_i, 2)"

    [pipelines.cast]
    stream = "web"
    group_by = ["g", "week"]
    window = { sliding = "2h", every = "30m" }
    [[pipelines.cast.stages]]
    set = { i = "CAST(n AS bigint)", w = "CAST(w AS timestamp)", y = "CAST(b AS boolean)" }
    [[pipelines.cast.stages]]
    set = { week = "date_trunc('week', w)", i = "abs(i) + 1", year = "extract(year FROM w)" }
    [pipelines.cast.aggregates]
    events = "count(*)"
    total = "sum(i)"
    mean = "avg(year)"
    least = "min(week)"
    most = "max(w) FILTER (WHERE y)"
    last = "last(w)"

    [pipelines.nested]
    stream = "web"
    group_by = ["g", "leaf", "odd"]
    window = { sliding = "1h", every = "20m" }
    [[pipelines.nested.stages]]
    set = { leaf = "o.a[0]", odd = 'o."odd name"', whole = "o", text = "concat(o.a[0], t, n)" }
    [[pipelines.nested.stages]]
    set = { again = "whole.a[0]", deeper = "whole.a[0].b", cut = "split_part(upper(text), 'A', -1)" }
    [pipelines.nested.aggregates]
    events = "count(*)"
    leaves = "count(again)"
    first = "first(leaf)"
    last = "last(deeper)"
    least = "min(cut)"
    most = "max(text)"
    odd_first = "first(odd)"
    odd_last = "last(whole) FILTER (WHERE again IS NOT NULL)"

    [pipelines.timed]
    stream = "web"
    group_by = ["g", "week"]
    window = { tumbling = "1m" }
    # As much as there may be.
    delay = "36500d"
    max_ahead = "36500d"
    [[pipelines.timed.stages]]
    filter = "t IS NOT NULL AND CAST(n AS text) NOT LIKE '%9'"
    [[pipelines.timed.stages]]
    set = { week = "date_trunc('week', event_time())" }
    [pipelines.timed.aggregates]
    events = "count(*)"
    first = "min(event_time())"
    last = "max(event_time())"
    years = "avg(extract(year FROM event_time()))"
"#;
const PIPELINES: [&str; 6] = ["bare", "grouped", "tried", "cast", "nested", "timed"];

/// Texts, as JSON writes them.
const TEXTS: &str = r#"
a\u0000b|\u0000|\ud800|\udc00\ud800a|\ud83d\ude00|\u0020|\u001b[2J\u001b]0;owned\u0007|\u009b31m\r\u0008\u007f
\u202e\u2066\ufeff\uffff\udbff\udffd|'; DROP TABLE window_results; --|$1 %s \\ \\\\ \" {} :x ? /* */|=cmd()!A0|\ud83d\u202e
NaN|nan|Infinity|-Infinity|inf|+inf|1e400|-1e400|1e-400|0x10|1_000|١٢٣| 7 |1e3|9223372036854775808|null|true|of
123456789012345678901234567890123456789012345678901234567890123|1234567890123456789012345678901234567890123456789012345678901
infinity|-infinity|epoch|now|0000-12-31T23:59:59Z|0001-01-01T00:00:00Z|0001-01-01T00:00:00+14:00|-0001-01-01T00:00:00Z
9999-12-31T23:59:59.999999999Z|9999-12-31T23:59:59-14:00|10000-01-01T00:00:00Z|1582-10-10T00:00:00Z|1972-06-30T23:59:60Z
1969-12-31 23:59:59.9999|2015-02-30T00:00:00Z|1970-01-01T24:00:00Z|1900-02-29 00:00:00|1970-01-01T00:00:00
"#;
const NUMBERS: &str = "0 -0 -0.0 0.1 1E+2 -1 9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 \
    18446744073709551616 9007199254740993 123456789012345678901234567890 1e308 -1e308 1.7976931348623157e308 \
    -1.7976931348623157e308 1e309 -1e400 5e-324 -5e-324 1e-400 1e22 253402300799 253402300800 -62135596800 -62135596801 \
    99999999999999999 -1e17";
const OTHERS: &str = r#"null true false [] {} [[],{}] {"a":[{"b":"\u0000"}]} {"a":["\ud800"]} {"a":[1e400]} [{"b":"x"}] {"a":[-0.0]}
    {"a":[18446744073709551616]} {"":{"":[null]}} {"a":1,"a":[2],"b":{"b":3}} {"\u0000":1,"\ud800":2,"a":[3]} """#;
/// What is no JSON, wherever it stands.
const BROKEN: &str = r#"NaN nan Infinity -Infinity -NaN inf +1 01 - .5 5. 1e 0x1 1_0 'a' nul True undefined [1,] {"a":1,} {a:1}
    "\x41" "\u12" " 1"2 ["#;

/// Values that are JSON.
fn values() -> Vec<String> {
    let texts = TEXTS.trim().split(['|', '\n']).map(|text| format!("\"{text}\""));
    let others = NUMBERS.split_whitespace().chain(OTHERS.split_whitespace()).map(str::to_owned);
    let mut values: Vec<String> = texts.chain(others).collect();
    values.push(format!("{}1{}", "[".repeat(60), "]".repeat(60)));
    values.push(format!("{}1{}", r#"{"a":["#.repeat(30), "]}".repeat(30)));
    // Around the limits of a key and of a value, in bytes and in characters.
    for length in [1_020, 1_024, 1_025, 10_240] {
        values.push(format!("\"{}\"", "k".repeat(length)));
        values.push(format!("\"{}\"", "é".repeat(length / 2)));
        values.push(format!("[\"{}\"]", "k".repeat(length)));
    }
    values.push(format!("{{\"{}\":1}}", "k".repeat(10_240)));
    values.push("9".repeat(400));
    values.push(format!("0.{}1", "0".repeat(400)));
    values.push(format!("1{}e-400", "0".repeat(400)));
    values
}

fn broken() -> Vec<Vec<u8>> {
    let mut broken: Vec<Vec<u8>> = BROKEN.split_whitespace().map(|text| text.as_bytes().to_vec()).collect();
    broken.extend([&b"\"a\tb\""[..], b"\"\x01\"", b","].map(<[u8]>::to_vec));
    for bytes in [&b"\xff"[..], b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"] {
        broken.push([&b"\""[..], bytes, b"\""].concat());
    }
    broken.push([b"[".repeat(70), b"]".repeat(70)].concat());
    broken.push(b"[".repeat(20_000));
    broken
}

/// An event; each field stands once, as given or as a good one has it.
fn line(at: i64, group: &str, n: usize, hostile: Option<(&str, &[u8])>) -> Vec<u8> {
    let good = [
        ("ts", at.to_string()),
        ("g", format!("\"{group}\"")),
        ("t", "\"fine\"".to_owned()),
        ("n", n.to_string()),
        ("w", "\"2015-05-17T09:30:00Z\"".to_owned()),
        ("b", "true".to_owned()),
        ("leaf", "7".to_owned()),
        ("odd", "\"odd\"".to_owned()),
        ("unused", "null".to_owned()),
    ];
    let mut fields: BTreeMap<&str, Vec<u8>> = good.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
    let nested = [&b"{\"a\":["[..], &fields["leaf"], b"],\"odd name\":", &fields["odd"], b"}"].concat();
    fields.insert("o", nested);
    if let Some((name, value)) = hostile {
        fields.insert(name, value.to_vec());
        if matches!(name, "leaf" | "odd") {
            let nested = [&b"{\"a\":["[..], &fields["leaf"], b"],\"odd name\":", &fields["odd"], b"}"].concat();
            fields.insert("o", nested);
        }
    }
    let texts = ["ts", "g", "t", "n", "w", "b", "o", "unused"].map(|name| {
        let mut text = format!("\"{name}\":").into_bytes();
        text.extend_from_slice(&fields[name]);
        text
    });
    [&b"{"[..], &texts.join(&b","[..])[..], b"}"].concat()
}

const ROLES: [&str; 10] = ["ts", "g", "t", "n", "w", "b", "o", "leaf", "odd", "unused"];

/// Every value in every role, each behind a good line, and whether it is an event.
fn corpus() -> Vec<(Vec<u8>, bool)> {
    let values = values().into_iter().map(|value| (value.into_bytes(), true));
    let values: Vec<_> = values.chain(broken().into_iter().map(|value| (value, false))).collect();
    let mut hostile = Vec::new();
    for (value, is_event) in &values {
        hostile.extend(ROLES.map(|role| (line(BASE + 600_000, "hostile", 1, Some((role, value))), *is_event)));
    }
    for name in ["", "\\u0000", "\\ud800", "\\u001b[2J", "ts\\u0000", "__proto__", "\\\"", &"k".repeat(10_240)] {
        hostile.push((format!("{{\"{name}\":1,\"ts\":{BASE},\"g\":\"hostile\"}}").into_bytes(), true));
    }
    hostile.into_iter().enumerate().flat_map(|(index, hostile)| [(good_line(index), true), hostile]).collect()
}

fn good_line(index: usize) -> Vec<u8> {
    line(BASE + index as i64, "good", index, None)
}

/// Sends them, in one go; the events among them are added to those that were sent before.
fn send(daemon: &Daemon, lines: Vec<(Vec<u8>, bool)>, events: &mut Vec<Vec<u8>>) {
    let bytes: Vec<u8> = lines.iter().flat_map(|(line, _)| [&line[..], b"\n"].concat()).collect();
    let count = lines.iter().filter(|(_, is_event)| *is_event).count();
    assert_eq!(daemon.send(&bytes), (count as u64, (lines.len() - count) as u64));
    daemon.wait_for_commit();
    events.extend(lines.into_iter().filter(|(_, is_event)| *is_event).map(|(line, _)| line));
}

/// Times that are not late, since nothing came before them.
fn old_lines() -> Vec<(Vec<u8>, bool)> {
    let times = [
        "-62135553600",
        "\"0001-01-01T12:00:00.001Z\"",
        "-62135553599.5",
        "\"0004-02-29 23:59:59.999\"",
        "-30610224000000",
        "\"1582-10-10T00:00:00Z\"",
        "-1e10",
        "\"1900-02-28T23:59:60Z\"",
        "-1000000000000000001",
        "-0.001",
        "-0.0",
        "0",
    ];
    times.iter().map(|time| (line(BASE, "old", 1, Some(("ts", time.as_bytes()))), true)).collect()
}

/// The corpus while its windows are open, a kill, and the corpus again when most have closed. All events of it.
fn run(mill: &Mill) -> (Daemon, Vec<Vec<u8>>) {
    let mut events = Vec::new();
    let daemon = mill.start();
    send(&daemon, old_lines(), &mut events);
    send(&daemon, corpus(), &mut events);
    daemon.kill();
    let daemon = mill.start();
    send(&daemon, closing(6), &mut events);
    send(&daemon, corpus(), &mut events);
    send(&daemon, closing(12), &mut events);
    (daemon, events)
}

fn closing(hours: i64) -> Vec<(Vec<u8>, bool)> {
    vec![(line(BASE + hours * HOUR, "closing", 0, None), true)]
}

/// A value as both stores can show it: PostgreSQL's text holds no U+0000, SQLite has neither booleans nor whole numbers
/// beyond 64 bits.
fn shown(value: Value) -> Value {
    match value {
        Value::Bool(value) => json!(f64::from(u8::from(value))),
        Value::Number(number) => json!(number.as_f64()),
        Value::String(text) => text.replace('\0', "\u{fffd}").into(),
        Value::Array(values) => values.into_iter().map(shown).collect(),
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, shown(value))).collect(),
        other => other,
    }
}

/// Rows by the API, in an order of their own; of `revised_at`, which is the clock's, only whether it is there.
fn rows(daemon: &Daemon, pipeline: &str) -> Vec<String> {
    let mut rows = daemon.rows(pipeline);
    rows.iter_mut().for_each(|row| row[6] = row[6].is_null().into());
    let mut rows: Vec<String> = rows.into_iter().map(|row| shown(row).to_string()).collect();
    rows.sort();
    rows
}

fn parsed(rows: impl IntoIterator<Item = String>) -> Vec<Value> {
    rows.into_iter().map(|row| shown(serde_json::from_str(&row).unwrap())).collect()
}

/// What the daemon says of itself, and what its views hold of the good lines.
fn check(daemon: &Daemon, events: u64) {
    let stats = daemon.stats();
    for name in PIPELINES {
        let pipeline = daemon.pipeline(name);
        assert_eq!(pipeline["state"], "running", "{pipeline}");
        let account = &pipeline["account"];
        let count = |of: &[&str]| of.iter().map(|name| account[name].as_u64().unwrap()).sum::<u64>();
        assert_eq!(count(&["read"]), events, "{account}");
        assert_eq!(events, count(&["filtered", "aggregated", "late", "dead"]), "{account}");
        let letters = daemon.get(&format!("/api/v1/dead-letters?pipeline={name}&by=reason&limit=1000"));
        let letters = letters["reasons"].as_array().unwrap().iter().map(|reason| reason["count"].as_u64().unwrap());
        assert_eq!(letters.sum::<u64>(), count(&["late", "dead"]), "{name}: each is kept");
    }
    assert!(stats["actors"].as_array().unwrap().iter().all(|actor| actor["restarts"] == 0), "{stats}");
    let readyz = daemon.get("/readyz");
    assert_eq!((&readyz["ready"], &readyz["degraded"]), (&json!(true), &json!([])), "{readyz}");
}

/// The good lines' numbers, by the names of columns.
fn check_good(rows: &BTreeMap<&str, Vec<Value>>) {
    let good = corpus().len() / 2;
    let total = 2.0 * (0..good).sum::<usize>() as f64;
    let of = |pipeline: &str| -> Vec<&Value> { rows[pipeline].iter().filter(|row| row["g"] == "good").collect() };
    let sum =
        |pipeline: &str, column: &str| -> f64 { of(pipeline).iter().map(|row| row[column].as_f64().unwrap()).sum() };
    let [bare] = of("bare")[..] else { panic!("{:?}", of("bare")) };
    let most = good as f64 - 1.0;
    for (column, value) in [
        ("events", json!(2.0 * good as f64)),
        ("texts", json!(2.0 * good as f64)),
        ("total", json!(total)),
        ("mean", json!(most / 2.0)),
        ("least", json!(0.0)),
        ("most", json!(most)),
        ("few", json!(0.0)),
        ("few_total", Value::Null),
        ("square", json!(most * most)),
        ("joined", json!("finefine")),
        ("failing", Value::Null),
    ] {
        assert_eq!(shown(bare[column].clone()), value, "{column} of {bare}");
    }
    // Each event is in four, and in three, of the windows that slide.
    for (pipeline, windows) in [("bare", 1.0), ("grouped", 1.0), ("tried", 1.0), ("cast", 4.0), ("nested", 3.0)] {
        assert_eq!(sum(pipeline, "events"), windows * 2.0 * good as f64, "{pipeline}");
    }
    for pipeline in ["bare", "grouped", "tried", "timed"] {
        let old = rows[pipeline].iter().filter(|row| row["g"] == "old").map(|row| row["events"].as_f64().unwrap());
        assert_eq!(old.sum::<f64>(), old_lines().len() as f64, "{pipeline}");
    }
    assert_eq!((sum("tried", "total_i"), sum("tried", "total_f"), sum("tried", "total_d")), (total, total, total));
    assert_eq!(sum("cast", "total"), 4.0 * (total + 2.0 * good as f64));
    let kept = (0..good).filter(|n| n % 10 != 9).count();
    assert_eq!(sum("timed", "events"), 2.0 * kept as f64);
}

/// What letters hold cannot steer the terminal of whoever looks at them, nor a log.
fn check_terminal(mill: &Mill, daemon: &Daemon) {
    let run = |arguments: &[&str]| {
        let output = tidemill().args(arguments).args(["--url", &daemon.http]).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let letters = daemon.get("/api/v1/dead-letters?limit=1000");
    let steers =
        |letter: &&Value| letter["line"].as_str().is_some_and(|line| line.contains(['\u{1}', '\u{202e}', '\t']));
    let ids: Vec<&str> = letters["letters"]
        .as_array()
        .unwrap()
        .iter()
        .filter(steers)
        .map(|letter| letter["id"].as_str().unwrap())
        .collect();
    assert!(ids.len() > 2, "letters whose lines hold control characters");
    let mut told =
        vec![run(&["dlq", "list", "--limit", "1000"]), run(&["dlq", "list", "--by-reason", "--limit", "1000"])];
    told.extend(ids.iter().take(3).map(|id| run(&["dlq", "show", id])));
    told.extend(PIPELINES.map(|name| run(&["query", name])));
    assert!(told[0].lines().count() > 1_000, "{}", told[0]);
    told.push(mill.log());
    for text in told {
        let found = text.chars().find(|c| c.is_control() && *c != '\n' || matches!(c, '\u{202e}' | '\u{2066}'));
        assert_eq!(found, None, "{text}");
    }
}

#[test]
fn no_event_stops_a_flush_on_either_store() {
    let sqlite = Mill::new(&CONFIG.replace("STORE", ""));
    let schema = unique_schema();
    let url = format!("url = \"{}\"\n    schema = \"{schema}\"", shared().url());
    let postgres = Mill::new(&CONFIG.replace("STORE", &url));
    let ((on_sqlite, events), (on_postgres, _)) = std::thread::scope(|scope| {
        let on_postgres = scope.spawn(|| run(&postgres));
        (run(&sqlite), on_postgres.join().unwrap())
    });
    check(&on_sqlite, events.len() as u64);
    check(&on_postgres, events.len() as u64);
    let psql = |sql: &str| -> Vec<String> {
        let told = shared().psql(&format!("SET search_path TO {schema}; {sql}"));
        told.lines().map(str::to_owned).collect()
    };

    let mut good = [BTreeMap::new(), BTreeMap::new()];
    for name in PIPELINES {
        let (here, there) = (rows(&on_sqlite, name), rows(&on_postgres, name));
        assert_eq!(here.len(), there.len(), "{name}");
        for (here, there) in here.iter().zip(&there) {
            assert_eq!(here, there, "{name}");
        }
        // The views themselves, every column of every row.
        let columns = sqlite.sql(&format!("SELECT name AS r FROM pragma_table_info('{name}')"));
        let pairs = columns.iter().map(|column| format!("'{column}', \"{column}\"")).collect::<Vec<_>>().join(", ");
        for view in [name.to_owned(), format!("{name}_now")] {
            let here = sqlite.sql(&format!("SELECT json_object({pairs}) AS r FROM \"{view}\""));
            let there = psql(&format!("SELECT row_to_json(v) FROM \"{view}\" v"));
            assert_eq!(here.len(), there.len(), "{view}");
            if view == name {
                good[0].insert(name, parsed(here));
                good[1].insert(name, parsed(there));
            }
        }
    }
    good.iter().for_each(check_good);

    // When it was taken is the clock's, and so are ticks, which have positions.
    let cut = |letter: &Value| letter[0].as_str().unwrap().split(" its ingest time ").next().unwrap().to_owned();
    let letters = "pipeline || ' ' || kind || ' ' || reason";
    let order = "FROM dead_letters ORDER BY position, pipeline";
    let here = parsed(sqlite.sql(&format!("SELECT json_array({letters}) AS r {order}")));
    let there = parsed(psql(&format!("SELECT json_build_array({letters}) {order}")));
    assert!(here.len() > 1_000 && here.len() == there.len(), "{} and {} letters", here.len(), there.len());
    for (here, there) in here.iter().zip(&there) {
        assert_eq!(cut(here), cut(there));
    }
    let hex = |line: &Vec<u8>| line.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
    let here = sqlite.sql("SELECT hex(line) AS r FROM raw_events ORDER BY position");
    assert!(events.iter().map(hex).eq(here.iter().cloned()), "{} of {} lines", here.len(), events.len());
    let there = psql("SELECT upper(encode(line, 'hex')) FROM raw_events ORDER BY position");
    assert!(here == there, "{} and {} lines", here.len(), there.len());

    check_terminal(&sqlite, &on_sqlite);
    // It goes on.
    for daemon in [on_sqlite, on_postgres] {
        send(&daemon, vec![(line(BASE + 24 * HOUR, "after", 1, None), true)], &mut Vec::new());
        assert!(rows(&daemon, "bare").iter().any(|row| row.contains("\"after\"")));
        assert!(daemon.stop().success());
    }
}
