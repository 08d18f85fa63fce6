//! An hour by the second against tumbling minutes, over the same lines, in one run.
//!
//! `cargo bench --bench sliding -- [--seconds 600] [--rounds 3]`
//!
//! 100,000 events to each second of event time, 1,000 groups. The sliding pipeline closes a window of 1,000 rows each second
//! of event time and stores them; the tumbling one closes one each minute. Rates are events per second from the first byte
//! to the last commit; memory is the daemon's greatest resident size.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures, for a terminal")]
#![expect(clippy::disallowed_methods, reason = "it measures, and it polls another process")]

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::Instant;

use support::{Daemon, finish, median, option};

const GROUPS: usize = 1_000;
const EVENTS_A_SECOND: usize = 100_000;
const LINE: &str = "{\"ts\":1700000000000,\"g\":\"000\"}\n";
const TS_AT: usize = 6;
const GROUP_AT: usize = 25;

fn main() {
    let (seconds, rounds) = (option("--seconds", 600), option("--rounds", 3));
    let mut ratios = Vec::new();
    for round in 1..=rounds {
        let tumbling = run("{ tumbling = \"1m\" }", seconds);
        let sliding = run("{ sliding = \"1h\", every = \"1s\" }", seconds);
        assert_eq!(sliding.rows, (seconds - 1) * GROUPS, "each second closes a window");
        let ratio = sliding.rate / tumbling.rate;
        println!(
            "round {round}: tumbling {:.2} M/s, {} MiB; sliding {:.2} M/s, {} MiB; ratio {ratio:.2}",
            tumbling.rate / 1e6,
            tumbling.resident_mib,
            sliding.rate / 1e6,
            sliding.resident_mib
        );
        ratios.push(ratio);
    }
    println!("median of {rounds}: {:.2} of the tumbling pipeline's rate", median(ratios));
}

struct Measured {
    rate: f64,
    resident_mib: u64,
    rows: usize,
}

fn run(window: &str, seconds: usize) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pipeline = format!(
        "[pipelines.p]\nstream = \"web\"\ndelay = \"0s\"\ngroup_by = [\"g\"]\nwindow = {window}\n\
         aggregates = {{ n = \"count(*)\" }}\n"
    );
    let daemon = Daemon::start(folder.path(), &pipeline);
    let events = seconds * EVENTS_A_SECOND;
    let began = Instant::now();
    send(&daemon.tcp, seconds);
    daemon.wait_for("p", events);
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let resident_mib = peak_resident_mib(daemon.id());
    let rows = rows(&folder.path().join("data/tidemill.db"));
    Measured { rate, resident_mib, rows }
}

/// A second of lines at a time, in which only the time stamps change.
fn send(address: &str, seconds: usize) {
    let mut lines = LINE.repeat(EVENTS_A_SECOND).into_bytes();
    for (index, line) in lines.chunks_mut(LINE.len()).enumerate() {
        line[GROUP_AT..GROUP_AT + 3].copy_from_slice(format!("{:03}", index % GROUPS).as_bytes());
    }
    let mut socket = TcpStream::connect(address).unwrap();
    for second in 0..seconds {
        let ts = format!("{}", 1_700_000_000_000 + second as u64 * 1_000);
        for line in lines.chunks_mut(LINE.len()) {
            line[TS_AT..TS_AT + 13].copy_from_slice(ts.as_bytes());
        }
        socket.write_all(&lines).unwrap();
    }
    finish(socket);
}

/// Closed rows of all windows.
fn rows(database: &std::path::Path) -> usize {
    use diesel::prelude::*;
    #[derive(QueryableByName)]
    struct Count {
        #[diesel(sql_type = diesel::sql_types::BigInt)]
        count: i64,
    }
    let mut connection = diesel::SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    let count = diesel::sql_query("SELECT count(*) AS count FROM p WHERE closed = 1");
    count.get_result::<Count>(&mut connection).unwrap().count as usize
}

fn peak_resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}
