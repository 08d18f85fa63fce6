//! Raw events in the store are the lines that were sent, whatever happens meanwhile.

use diesel::prelude::*;
use diesel::sql_query;

use crate::crash::resume;
use crate::support::postgres::{shared, unique_schema};
use crate::support::weblog::web_log;
use crate::support::{Mill, connect, peak_resident, sql, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    time = "ts"
    raw_events = { retain = "30d" }
    [pipelines.hits]
    stream = "web"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)" }
"#;
const LINES: usize = 100_000;

/// Lines with others among them that are no events, and the `event_time line` that each event becomes.
fn lines() -> (Vec<u8>, Vec<String>) {
    let log = web_log(LINES, 3_600_000, 60_000, 30, 7);
    let (mut bytes, mut expected) = (Vec::new(), Vec::new());
    for (index, line) in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).enumerate() {
        if index % 1_000 == 500 {
            bytes.extend_from_slice(b"no event");
        } else if index % 1_000 == 700 {
            bytes.extend_from_slice(b"{\"no\": \"time\"}\r");
            expected.push("- {\"no\": \"time\"}".to_owned());
        } else {
            let text = std::str::from_utf8(line).unwrap();
            let time = serde_json::from_str::<serde_json::Value>(text).unwrap()["ts"].as_i64().unwrap();
            bytes.extend_from_slice(line);
            expected.push(format!("{time} {text}"));
        }
        bytes.push(b'\n');
    }
    (bytes, expected)
}

fn line_starts(log: &[u8]) -> Vec<usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'\n', log).map(|at| at + 1)).collect()
}

/// Sends all lines over ten daemons, of which nine are killed behind a commit of the intake; `stored` reads the table.
fn check(mill: &Mill, stored: impl Fn() -> Vec<String>) {
    const KILLS: usize = 9;
    let (log, expected) = lines();
    let line_starts = line_starts(&log);
    for kill in 1..=KILLS {
        let daemon = mill.start();
        let committed = || daemon.pipeline("@web")["position"].as_u64().unwrap();
        let before = committed();
        let some = &log[..line_starts[kill * LINES / (KILLS + 1)]];
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| resume(&daemon.tcp, some, &line_starts));
            wait_until("a commit", || (committed() > before).then_some(()));
            assert!(kill % 2 == 0 || sender.join().unwrap().is_some());
        });
        daemon.kill();
    }
    let daemon = mill.start();
    resume(&daemon.tcp, &log, &line_starts).unwrap();
    daemon.wait_for_events("@web", LINES as u64);
    let found = stored();
    let wrong = found.iter().zip(&expected).find(|(found, expected)| found != expected);
    assert_eq!((found.len(), wrong), (expected.len(), None));
    let account = &daemon.pipeline("@web")["account"];
    assert_eq!(account["aggregated"].as_u64(), Some(expected.len() as u64));
}

const COLUMNS: &str = "coalesce(event_time || '', '-') || ' ' ||";

#[test]
fn sqlite_has_each_line_once_after_kills() {
    let mill = Mill::new(CONFIG);
    check(&mill, || {
        sql(&mill.database(), &format!("SELECT {COLUMNS} CAST(line AS TEXT) AS r FROM raw_events ORDER BY position"))
    });
}

#[test]
fn postgres_has_each_line_once_after_kills() {
    let schema = unique_schema();
    let store = format!("[store]\n    url = \"{}\"\n    schema = \"{schema}\"", shared().url());
    let mill = Mill::new(&CONFIG.replace("[store]", &store));
    check(&mill, || {
        let rows = format!(
            "SELECT {COLUMNS} convert_from(line, 'UTF8') FROM {schema}.raw_events WHERE stream = 'web' ORDER BY position"
        );
        shared().psql(&rows).lines().map(str::to_owned).collect()
    });
}

#[test]
fn turned_on_later_they_begin_there_and_turned_off_they_stay() {
    let off = CONFIG.replace("raw_events = { retain = \"30d\" }", "");
    let mill = Mill::new(&off);
    for (config, n) in [(off.as_str(), 1), (CONFIG, 2), (off.as_str(), 3)] {
        mill.write_config(config);
        let daemon = mill.start();
        daemon.send(format!("{{\"n\":{n}}}\n").as_bytes());
        daemon.wait_for_events("@web", n);
        assert!(daemon.stop().success());
    }
    assert_eq!(mill.sql("SELECT CAST(line AS TEXT) AS r FROM raw_events"), ["{\"n\":2}"]);
}

#[test]
fn a_store_that_is_away_does_not_make_them_pile_up_in_memory() {
    const ROUNDS: u64 = 12;
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(b"{\"ts\": 1431855000000}\n");
    daemon.wait_for_commit();
    let mut other = connect(&mill.database());
    sql_query("BEGIN IMMEDIATE").execute(&mut other).unwrap();
    let before = peak_resident(daemon.id());
    // 24 MiB a round.
    let line = format!("{{\"pad\": \"{}\"}}\n", "x".repeat(1_000));
    let lines = line.repeat(24 * 1_024);
    for _ in 0..ROUNDS {
        daemon.send(lines.as_bytes());
    }
    let held = (peak_resident(daemon.id()) - before) >> 20;
    assert!(held < 160, "{held} MiB for {} MiB of lines", ROUNDS * 24);
    sql_query("ROLLBACK").execute(&mut other).unwrap();
    daemon.wait_for_events("@web", ROUNDS * 24 * 1_024 + 1);
    let count = mill.sql("SELECT count(*) || '' AS r FROM raw_events");
    assert_eq!(count, [(ROUNDS * 24 * 1_024 + 1).to_string()]);
}
