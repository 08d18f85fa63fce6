//! `tidemill batch`: the rows of files are those that the daemon makes of the same lines, each time, and all are closed.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use crate::support::postgres::{shared, unique_schema};
use crate::support::weblog::{START, table, web_log};
use crate::support::{Mill, sql, tidemill, wait_until};

const CONFIG: &str = r#"
[streams.web]
tcp = "127.0.0.1:0"
max_line = "1KiB"
time = "ts"
delay = "5s"
idle = "1h"

[pipelines.views]
stream = "web"
group_by = ["path"]
window = { tumbling = "1m" }
aggregates = { views = "count(*)", bytes = "sum(bytes)", load = "avg(load)", p95 = "quantile(load, 0.95)" }
[[pipelines.views.stages]]
filter = "method <> 'HEAD'"

[pipelines.visits]
stream = "web"
group_by = ["path"]
window = { session = "10s" }
aggregates = { events = "count(*)", first_status = "first(status)" }

[pipelines.rate]
stream = "web"
late = "drop"
window = { sliding = "1m", every = "10s" }
aggregates = { events = "count(*)", errors = "count(*) FILTER (WHERE status >= 500)" }

[pipelines.months]
stream = "web"
window = { calendar = "month", timezone = "Europe/Berlin" }
aggregates = { events = "count(*)", statuses = "count(distinct status)" }

[pipelines.lately]
stream = "web"
retain = "10m"
window = { tumbling = "1m" }
aggregates = { events = "count(*)" }
"#;

/// What is stored of a run, but for what is private or a clock's.
const RESULTS: &str =
    "SELECT json_array(pipeline, window_start, window_end, \"group\", \"values\", events, revised_at) AS r
    FROM window_results ORDER BY pipeline, window_start, window_end, r";
const LETTERS: &str = "SELECT json_array(pipeline, position, kind, stage, reason, hex(line)) AS r
    FROM dead_letters ORDER BY pipeline, position";

fn log() -> Vec<u8> {
    let mut log = web_log(20_000, 3_600_000, 20_000, 40, 7);
    log.extend_from_slice(b"no event\r\n\n{\"path\": \"/no/time\"}\n{\"ts\": \"soon\"}\r\n");
    log.extend_from_slice(format!("{{\"ts\": {START}, \"long\": \"{}\"}}\n", "x".repeat(2_000)).as_bytes());
    log
}

fn batch(mill: &Mill, arguments: &[&str]) -> Output {
    tidemill().current_dir(mill.path()).arg("batch").arg(mill.config()).args(arguments).output().unwrap()
}

/// The store that a batch makes.
fn made(mill: &Mill, arguments: &[&str], out: &str) -> PathBuf {
    let output = batch(mill, &[arguments, &["--out", out]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    mill.path().join(out)
}

fn refused(mill: &Mill, arguments: &[&str], code: i32) -> String {
    let output = batch(mill, arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{said}");
    said
}

fn write(mill: &Mill, name: &str, bytes: &[u8]) {
    std::fs::write(mill.path().join(name), bytes).unwrap();
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[test]
fn a_batch_makes_the_daemon_s_rows_and_closes_them() {
    let mill = Mill::new(CONFIG);
    let log = log();
    write(&mill, "log.ndjson", &log);
    let daemon = mill.start();
    daemon.send(&log);
    daemon.wait_for_commit();
    let out = made(&mill, &["--input", "log.ndjson"], "out.db");

    // Of a sliding window's open windows the daemon shows one.
    let closed = &mill.sql("SELECT max(window_end) AS r FROM rate WHERE closed")[0];
    let columns = [
        ("views", "path, views, bytes, load, p95", "TRUE".to_owned()),
        ("visits", "path, events, first_status", "TRUE".to_owned()),
        ("rate", "events, errors", format!("window_end <= '{closed}'")),
        ("months", "period, events, statuses", "TRUE".to_owned()),
    ];
    for (view, columns, which) in columns {
        let query = format!(
            "SELECT json_array(window_start, window_end, {columns}, partial, other) AS r FROM {view} WHERE {which} \
             ORDER BY window_start_ms, r"
        );
        let daemons = mill.sql(&query);
        assert!(!daemons.is_empty(), "{view}");
        assert_eq!(sql(&out, &query), daemons, "{view}");
        let open = sql(&out, &format!("SELECT CAST(count(*) AS TEXT) AS r FROM {view} WHERE NOT closed"));
        assert_eq!(open, ["0"], "{view}");
    }
    let letters = "SELECT json_array(pipeline, kind, stage, reason, hex(line)) AS r FROM dead_letters ORDER BY r";
    assert_eq!(sql(&out, letters), mill.sql(letters));
    let accounts = "SELECT json_array(pipeline, read, made, filtered, aggregated, late, dead, exploded) AS r
        FROM checkpoints ORDER BY r";
    assert_eq!(sql(&out, accounts), mill.sql(accounts));
    // What closes the windows of months must not age the rows of minutes.
    let kept: usize = sql(&out, "SELECT CAST(count(*) AS TEXT) AS r FROM lately")[0].parse().unwrap();
    assert!((9..=13).contains(&kept), "{kept} minutes are left of ten");
}

#[test]
fn its_counts_are_those_of_sql() {
    let mill = Mill::new(CONFIG);
    let log = web_log(5_000, 3_600_000, 20_000, 20, 3);
    write(&mill, "log.ndjson", &log);
    let out = made(&mill, &["--input", "log.ndjson"], "out.db");
    let rows = sql(&out, "SELECT json_array(window_start_ms, path, views, bytes) AS r FROM views ORDER BY r");
    let expected = sql(
        &table(mill.path(), &log),
        "SELECT json_array((line ->> 'ts') / 60000 * 60000, line ->> 'path', count(*), sum(line ->> 'bytes')) AS r
         FROM log WHERE line ->> 'method' <> 'HEAD' GROUP BY (line ->> 'ts') / 60000, line ->> 'path' ORDER BY r",
    );
    assert_eq!(rows, expected);
}

#[test]
fn the_same_lines_give_the_same_rows_however_they_come() {
    let mill = Mill::new(CONFIG);
    let log = log();
    let half = log.len() / 2;
    let cut = half + log[half..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    write(&mill, "log.ndjson", &log);
    write(&mill, "a.ndjson.gz", &gzip(&log[..cut]));
    write(&mill, "b.ndjson.zst", &zstd(&log[cut..]));
    let plain = made(&mill, &["--input", "log.ndjson"], "plain.db");
    let packed = made(&mill, &["--input", "a.ndjson.gz", "web=b.ndjson.zst", "--window-actors", "3"], "packed.db");
    let mut child = tidemill();
    child.current_dir(mill.path()).arg("batch").arg(mill.config()).args(["--input", "-", "--json"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&log).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let account: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&account["lines"], &account["rejected"]), (&20_004.into(), &2.into()), "{account}");
    assert_eq!(account["out"], "tidemill.batch.db");
    let piped = mill.path().join("tidemill.batch.db");
    for query in [RESULTS, LETTERS] {
        let rows = sql(&plain, query);
        assert!(rows.len() > 10, "{rows:?}");
        assert_eq!(sql(&packed, query), rows);
        assert_eq!(sql(&piped, query), rows);
    }
}

#[test]
fn time_is_the_events_alone() {
    let config = CONFIG.replace("[pipelines.views]", "[pipelines.views]\nmissing_time = \"ingest\"");
    let mill = Mill::new(&config);
    // Far ahead of any clock, then without a time, then long before.
    write(
        &mill,
        "log.ndjson",
        b"{\"ts\":\"8000-01-01T00:00:00Z\",\"path\":\"/\",\"method\":\"GET\"}\n{\"path\":\"/\",\"method\":\"GET\"}\n@sync\n{\"ts\":0,\"method\":\"GET\"}\n",
    );
    let out = made(&mill, &["--input", "log.ndjson"], "out.db");
    let rows = sql(&out, "SELECT json_array(window_start, path, views) AS r FROM views");
    assert_eq!(rows, [r#"["8000-01-01 00:00:00","/",1]"#]);
    let letters = sql(
        &out,
        "SELECT pipeline || ' ' || kind || ' ' || position AS r FROM dead_letters
        WHERE pipeline IN ('views', '@web') ORDER BY position",
    );
    assert_eq!(letters, ["views time 2", "@web decode 3", "views late 4"]);
    let revised = "SELECT DISTINCT CAST(ingested_at AS TEXT) AS r FROM dead_letters";
    assert_eq!(sql(&out, revised), ["253402300799999"]);
}

#[test]
fn what_cannot_be_is_said_before_anything_is_done() {
    let mill = Mill::new(CONFIG);
    write(&mill, "log.ndjson", &web_log(10, 1_000, 0, 2, 1));
    let nothing = |mill: &Mill, name: &str| assert!(!mill.path().join(name).exists(), "{name}");

    let said = refused(&mill, &["--input", "log.ndjson", "gone.ndjson"], 74);
    assert!(said.contains("cannot read gone.ndjson"), "{said}");
    nothing(&mill, "tidemill.batch.db");
    nothing(&mill, "tidemill.batch.db.unfinished");
    refused(&mill, &["--input", "."], 64);
    refused(&mill, &["--input", "-", "-"], 64);
    refused(&mill, &["--input", "log.ndjson", "--out", "mysql://here"], 64);

    let own = mill.database();
    let said = refused(&mill, &["--input", "log.ndjson", "--out", own.to_str().unwrap()], 78);
    assert!(said.contains("the config's own store"), "{said}");
    nothing(&mill, "data");

    write(&mill, "out.db.unfinished", b"");
    let said = refused(&mill, &["--input", "log.ndjson", "--out", "out.db"], 78);
    assert!(said.contains("another batch writes it, or one was killed"), "{said}");
    std::fs::remove_file(mill.path().join("out.db.unfinished")).unwrap();

    let out = made(&mill, &["--input", "log.ndjson"], "out.db");
    let before = std::fs::read(&out).unwrap();
    let said = refused(&mill, &["--input", "log.ndjson", "--out", "out.db"], 78);
    assert!(said.contains("has checkpoints already (@web, lately, months, rate, views, visits)"), "{said}");
    assert_eq!(std::fs::read(&out).unwrap(), before);

    mill.write_config(
        &CONFIG
            .replace("time = \"ts\"\n", "")
            .replace("[pipelines.visits]", "[[pipelines.views.stages]]\ncustom = \"geo\"\n[pipelines.visits]"),
    );
    let said = refused(&mill, &["--input", "log.ndjson"], 78);
    assert!(said.contains("pipeline months has no `time`") && said.contains("custom = \"geo\""), "{said}");

    mill.write_config(&format!("{CONFIG}\n[streams.side]\n[pipelines.others]\nstream = \"side\"\nwindow = {{ tumbling = \"1m\" }}\naggregates = {{ n = \"count(*)\" }}\n"));
    let said = refused(&mill, &["--input", "log.ndjson"], 64);
    assert!(said.contains("STREAM=log.ndjson") && said.contains("web, side"), "{said}");
    // A stream without files is left out, with its pipelines.
    let out = made(&mill, &["--input", "web=log.ndjson"], "web.db");
    assert_eq!(sql(&out, "SELECT CAST(count(*) AS TEXT) AS r FROM pipelines WHERE name LIKE '%side%'"), ["0"]);
}

#[test]
fn postgresql_gets_the_same_rows_once() {
    let mill = Mill::new(CONFIG);
    write(&mill, "log.ndjson", &log());
    let out = made(&mill, &["--input", "log.ndjson"], "out.db");
    let (url, schema) = (shared().url(), unique_schema());
    let arguments = ["--input", "log.ndjson", "--out", &url, "--schema", &schema];
    let output = batch(&mill, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for view in ["views", "visits", "rate", "months"] {
        let count = "count(*) || ' ' || sum(CASE WHEN closed THEN 1 ELSE 0 END) || ' ' || count(revised_at) || ' ' || \
                     sum(window_start_ms)";
        let rows = sql(&out, &format!("SELECT {count} AS r FROM {view}"));
        assert_eq!(shared().psql(&format!("SELECT {count} FROM {schema}.{view}")).trim(), rows[0], "{view}");
    }
    let said = refused(&mill, &arguments, 78);
    assert!(said.contains(&format!("DROP SCHEMA {schema} CASCADE")), "{said}");
}

#[test]
fn a_batch_that_is_ended_leaves_nothing() {
    let mill = Mill::new(CONFIG);
    let mut child = tidemill();
    child.current_dir(mill.path()).arg("batch").arg(mill.config()).args(["--input", "-", "--out", "out.db"]);
    let mut child = child.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&web_log(20_000, 3_600_000, 0, 10, 1)).unwrap();
    let unfinished = mill.path().join("out.db.unfinished");
    wait_until("rows in the unfinished store", || {
        let tables = "SELECT CAST(count(*) AS TEXT) AS r FROM sqlite_master WHERE name = 'views'";
        let there = unfinished.exists() && sql(&unfinished, tables) == ["1"];
        (there && sql(&unfinished, "SELECT CAST(count(*) AS TEXT) AS r FROM window_results") != ["0"]).then_some(())
    });
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    drop(stdin);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("out.db was not made"), "{said}");
    let left =
        |path: &Path| std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(mill.path()), ["tidemill.toml"]);
}
