//! Raw events in the store are the lines that were sent, whatever happens meanwhile.

use crate::crash::resume;
use crate::support::postgres::{Server, shared, unique_schema};
use crate::support::weblog::web_log;
use crate::support::{Mill, peak_resident, sql, wait_until};

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

const ROUNDS: u64 = 16;
/// In 24 MiB.
const LINES_A_ROUND: u64 = 24 * 1_024;

/// Bytes that a daemon takes more, at most, while its store is away and many lines come. All are in the store at last.
fn peak_without_store(config: &str, raw_events: u64) -> u64 {
    let mut server = Server::start(&[]);
    let schema = unique_schema();
    let store = format!("[store]\n    url = \"{}\"\n    schema = \"{schema}\"", server.url());
    let mill = Mill::new(&config.replace("[store]", &store));
    let daemon = mill.start();
    daemon.send(b"{\"ts\": 1431855000000}\n");
    daemon.wait_for_commit();
    server.stop();
    let before = peak_resident(daemon.id());
    let lines = format!("{{\"pad\": \"{}\"}}\n", "x".repeat(1_000)).repeat(LINES_A_ROUND as usize);
    for _ in 0..ROUNDS {
        daemon.send(lines.as_bytes());
    }
    // Until it holds no more than before for some looks: what it may take, it has taken.
    let (mut held, mut looks) = (0, 0);
    wait_until("the memory to settle", || {
        let now = peak_resident(daemon.id()) - before;
        looks = if now > held { 0 } else { looks + 1 };
        held = now;
        (looks >= 150).then_some(())
    });
    server.go();
    daemon.wait_for_events("@web", ROUNDS * LINES_A_ROUND + 1);
    assert_eq!(server.psql(&format!("SELECT count(*) FROM {schema}.raw_events")), raw_events.to_string());
    held
}

#[test]
fn a_store_that_is_away_does_not_make_them_pile_up_in_memory() {
    let without = peak_without_store(&CONFIG.replace("raw_events = { retain = \"30d\" }", ""), 0);
    let with = peak_without_store(CONFIG, ROUNDS * LINES_A_ROUND + 1);
    let [without, with] = [without, with].map(|bytes| bytes >> 20);
    println!("{with} MiB with raw events, {without} MiB without, for {} MiB of lines", 24 * ROUNDS);
    // What may wait for a commit, and what is on its way.
    assert!(with < without + 128, "{with} MiB with raw events, {without} MiB without");
}

/// A daemon that ends by itself has them in the store, as it has the rows, whatever the next flush would have been.
#[test]
fn a_daemon_that_is_stopped_has_stored_them_and_the_letters() {
    let mill = Mill::new(&CONFIG.replace("20ms", "1h"));
    let daemon = mill.start();
    assert_eq!(daemon.send(b"{\"ts\": 1, \"path\": \"/\"}\nno event\n{\"ts\": 2, \"path\": \"/\"}\n"), (2, 1));
    assert!(daemon.stop().success());
    assert_eq!(mill.sql("SELECT CAST(sum(event_time) AS text) AS r FROM raw_events"), ["3000"]);
    assert_eq!(mill.sql("SELECT kind AS r FROM dead_letters"), ["decode"]);
    assert_eq!(mill.sql("SELECT CAST(hits AS text) AS r FROM hits"), ["2"]);
}
