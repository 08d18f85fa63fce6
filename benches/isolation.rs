//! What a slow pipeline costs a fast one of the same stream: its rate beside it, against its rate alone, in one run.
//!
//! `cargo bench --bench isolation -- [--events 10000000] [--rounds 5]`
//!
//! The slow one has a custom stage that sleeps 1 ms an event, so that it soon reads from the journal. Rates are events per
//! second from the first byte to the fast one's commit of the last event; CPU is the daemon's until then. The sender is this
//! program, on the same machine. A commit comes once a second: fewer events would measure when the last one comes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a program that measures, for a terminal")]
#![expect(clippy::disallowed_methods, reason = "it measures, and it is slow on purpose")]

mod support;

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use support::{Measured, cpu_of, finish, line, median, option};
use tidemill::{Outcome, Tidemill};

const FAST: &str = r#"
    [http]
    listen = "127.0.0.1:0"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.fast]
    stream = "web"
    time = "ts"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { views = "count(*)", bytes = "sum(bytes)" }
"#;
const SLOW: &str = r#"
    [pipelines.slow]
    stream = "web"
    time = "ts"
    window = { tumbling = "1m" }
    aggregates = { views = "count(*)" }
    [[pipelines.slow.stages]]
    custom = "sleep"
"#;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "daemon") {
        return daemon(&args[2], args[3].parse().unwrap(), args[4] == "slow");
    }
    let (events, rounds) = (option("--events", 10_000_000), option("--rounds", 5));
    let load = load(events);
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (alone, beside) = (run(&load, events, "alone"), run(&load, events, "slow"));
        let ratio = beside.rate(events) / alone.rate(events);
        rates.push(ratio);
        cpus.push(beside.cpu_ns(events) / alone.cpu_ns(events));
        println!("round {round}: alone {}, beside {}, ratio {ratio:.2}", alone.show(events), beside.show(events));
    }
    let (rate, cpu) = (median(rates), median(cpus));
    println!("median of {rounds}: {rate:.2} of its rate alone, at {cpu:.2} of the CPU");
}

/// 1,000 events to a second of event time, 500 paths.
fn load(events: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in 0..events {
        let (ts, path, size) = (1_700_000_000_000 + index, index * 7 % 500, 10_000 + index % 80_000);
        let agent = "m".repeat(140);
        writeln!(bytes, r#"{{"ts":{ts},"path":"/products/{path:03}","bytes":{size},"agent":"{agent}"}}"#).unwrap();
    }
    bytes
}

fn run(load: &[u8], events: usize, beside: &str) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.arg("daemon").arg(folder.path()).args([&events.to_string(), beside]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let mut socket = TcpStream::connect(line(&mut said)).unwrap();
    let began = Instant::now();
    load.chunks(256 * 1024).for_each(|chunk| socket.write_all(chunk).unwrap());
    finish(socket);
    assert_eq!(line(&mut said), "all of it");
    let measured = Measured { wall: began.elapsed(), cpu: cpu_of(child.id()) };
    child.kill().unwrap();
    child.wait().unwrap();
    measured
}

/// Says where it listens, and when the fast pipeline has committed so many events.
fn daemon(folder: &str, events: u64, slow: bool) {
    let config = format!("data_dir = {folder:?}\n{FAST}{}", if slow { SLOW } else { "" });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mill = Tidemill::from_str(&config).unwrap().stage("sleep", |_| {
            std::thread::sleep(Duration::from_millis(1));
            Ok(Outcome::Keep)
        });
        let mill = mill.start().await.unwrap();
        println!("{}", mill.tcp_address("web").unwrap());
        let mut committed = mill.pipeline("fast").unwrap().committed();
        committed.wait_for(|position| *position >= events).await.unwrap();
        println!("all of it");
        std::future::pending::<()>().await;
    });
}
