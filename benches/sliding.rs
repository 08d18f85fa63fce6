//! An hour by the second against tumbling minutes, over the same lines, in one run.
//!
//! `cargo bench --bench sliding -- [--seconds 200] [--rounds 3]`
//!
//! 100,000 events to each second of event time, 1,000 groups. The sliding pipeline closes a window of 1,000 rows each second
//! of event time and stores them; the tumbling one closes one each minute. Rates are events per second from the first byte
//! to the last commit; memory is the daemon's greatest resident size.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures, for a terminal")]
#![expect(clippy::disallowed_methods, reason = "it measures, and it polls another process")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const GROUPS: usize = 1_000;
const EVENTS_A_SECOND: usize = 100_000;
const LINE: &str = "{\"ts\":1700000000000,\"g\":\"000\"}\n";
const TS_AT: usize = 6;
const GROUP_AT: usize = 25;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(default, |value| value.parse().unwrap())
    };
    let (seconds, rounds) = (option("--seconds", 200), option("--rounds", 3));
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
    ratios.sort_by(f64::total_cmp);
    println!("median of {rounds}: {:.2} of the tumbling pipeline's rate", ratios[ratios.len() / 2]);
}

struct Measured {
    rate: f64,
    resident_mib: u64,
    rows: usize,
}

fn run(window: &str, seconds: usize) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = folder.path().join("tidemill.toml");
    let text = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[streams.web]\ntcp = \"127.0.0.1:0\"\n[pipelines.p]\nstream = \"web\"\n\
         time = \"ts\"\ndelay = \"0s\"\ngroup_by = [\"g\"]\nwindow = {window}\naggregates = {{ n = \"count(*)\" }}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(&config).args(["--ready", "-"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut ready = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut ready).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
    let (tcp, http) = (ready["tcp"]["web"].as_str().unwrap(), ready["http"].as_str().unwrap());

    let events = (seconds * EVENTS_A_SECOND) as u64;
    let began = Instant::now();
    send(tcp, seconds);
    while pipeline(http)["account"]["aggregated"].as_u64() != Some(events) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let rate = events as f64 / began.elapsed().as_secs_f64();
    let resident_mib = peak_resident_mib(child.id());
    let rows = rows(&folder.path().join("data/tidemill.db"));
    child.kill().unwrap();
    child.wait().unwrap();
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
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    // Whatever is answered is read to its end.
    let _ = socket.read_to_end(&mut Vec::new());
}

fn pipeline(http: &str) -> serde_json::Value {
    let stats = ureq::get(format!("http://{http}/api/v1/stats")).call().unwrap().body_mut().read_to_string().unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let pipelines = stats["pipelines"].as_array().unwrap();
    pipelines.iter().find(|pipeline| pipeline["name"] == "p").unwrap().clone()
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
