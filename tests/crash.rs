//! `kill -9` at any moment loses nothing and counts nothing twice.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::weblog::web_log;
use crate::support::{Client, Mill, wait_until};

pub const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.tumbling]
    stream = "web"
    time = "ts"
    delay = "10s"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", load = "sum(load)", mean = "avg(load)", most = "max(bytes)" }
    [pipelines.sliding]
    stream = "web"
    time = "ts"
    delay = "10s"
    group_by = ["method"]
    window = { sliding = "10m", every = "1m" }
    aggregates = { hits = "count(*)", load = "sum(load)", last = "last(path)" }
    [pipelines.sessions]
    stream = "web"
    time = "ts"
    delay = "10m"
    group_by = ["path", "status"]
    window = { session = "30s" }
    aggregates = { hits = "count(*)", load = "sum(load)", first = "first(method)" }
    [pipelines.hours]
    stream = "web"
    time = "ts"
    delay = "10s"
    group_by = ["method"]
    window = { calendar = "hour", timezone = "Asia/Kolkata" }
    aggregates = { hits = "count(*)", load = "sum(load)" }
"#;

pub const VIEWS: [(&str, &str); 4] = [
    ("tumbling", "path, hits, load, mean, most"),
    ("sliding", "method, hits, load, \"last\""),
    ("sessions", "window_end, path, status, hits, load, \"first\""),
    ("hours", "period, method, hits, load"),
];

/// Sends what the server says is missing. Whether all of it was sent and is durable.
pub fn resume(address: &str, log: &[u8], line_starts: &[usize]) -> Option<()> {
    let mut client = Client::try_connect(address)?;
    client.try_write(b"@producer crash-test\n")?;
    let done: usize = client.try_reply()?.strip_prefix("@ok ")?.parse().ok()?;
    let rest = &log[line_starts[done]..];
    for chunk in rest.chunks(64 * 1024) {
        client.try_write(chunk)?;
    }
    client.try_write(b"@sync\n")?;
    client.try_reply()?.starts_with("@synced").then_some(())
}

#[test]
fn kills_at_random_moments_change_no_row() {
    const ROUNDS: usize = 20;
    let log = web_log(400_000, 12 * 3_600_000, 600_000, 30, 5);
    let mut line_starts: Vec<usize> = vec![0];
    line_starts.extend(memchr::memchr_iter(b'\n', &log).map(|at| at + 1));

    let calm = Mill::new(CONFIG);
    let daemon = calm.start();
    daemon.send(&log);
    daemon.wait_for_commit();
    drop(daemon);

    let mill = Mill::new(CONFIG);
    let mut random = fastrand::Rng::with_seed(11);
    let mut interrupted = 0;
    for round in 0..ROUNDS {
        let daemon = mill.start();
        let address = daemon.tcp.clone();
        let lines = &log[..line_starts[(round + 1) * 400_000 / ROUNDS]];
        std::thread::scope(|scope| {
            let committed = || daemon.pipeline("tumbling")["position"].as_u64().unwrap();
            let before = committed();
            let sender = scope.spawn(|| resume(&address, lines, &line_starts));
            // Every other round from the first bytes on, the others from the first commit on.
            if round % 2 == 1 {
                wait_until("a commit", || (committed() > before).then_some(()));
            }
            std::thread::sleep(Duration::from_micros(random.u64(0..60_000)));
            daemon.kill();
            interrupted += u32::from(sender.join().unwrap().is_none());
        });
    }
    let daemon = mill.start();
    resume(&daemon.tcp, &log, &line_starts).expect("the last run is not disturbed");
    daemon.wait_for_commit();
    assert!(interrupted > 0, "no kill came while lines were on their way");
    for (view, columns) in VIEWS {
        assert!(mill.rows(view, columns) == calm.rows(view, columns), "{view}, after {interrupted} interruptions");
        let account = &daemon.pipeline(view)["account"];
        assert_eq!((account["read"].as_u64(), account["aggregated"].as_u64()), (Some(400_000), Some(400_000)));
    }
}

#[test]
fn what_was_synced_survives_a_kill_and_is_counted_once() {
    let mill = Mill::new(CONFIG);
    for round in 0..5 {
        let daemon = mill.start();
        let line = format!("{{\"ts\": {}, \"path\": \"/a\"}}\n", 1_431_855_000_000_i64 + round);
        assert_eq!(daemon.send(line.as_bytes()), (1, 0));
        daemon.kill();
    }
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT sum(hits) || '' AS r FROM tumbling"), ["5"]);
}

#[test]
fn a_producer_is_told_what_is_durable_and_a_newer_connection_replaces_the_older() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut older = daemon.client();
    assert_eq!(older.ask("@producer p"), "@ok 0");
    older.write(b"{\"ts\": 1431855000000}\n\nno json\n");
    assert_eq!(older.sync(), (1, 1), "blank lines are no lines");
    let mut newer = daemon.client();
    assert_eq!(newer.ask("@producer p"), "@ok 2", "rejected lines count, too");
    assert_eq!(older.reply(), "@error producer_replaced");
    assert_eq!(older.reply(), "", "and its connection is closed");
    daemon.kill();
    let daemon = mill.start();
    assert_eq!(daemon.client().ask("@producer p"), "@ok 2");
    // A torn last line of a producer is not taken: it sends it again.
    let mut torn = TcpStream::connect(&daemon.tcp).unwrap();
    torn.write_all(b"@producer p\n{\"ts\": 1431855000000}\n{\"ts\": 1431855000").unwrap();
    torn.shutdown(std::net::Shutdown::Write).unwrap();
    daemon.wait_for_events("tumbling", 2);
    assert_eq!(daemon.client().ask("@producer p"), "@ok 3");
}
