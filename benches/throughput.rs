//! Tidemill against a plain single-thread loop, over the same socket load, in one run.
//!
//! `cargo bench --bench throughput -- [--events 5000000] [--rounds 5]`
//!
//! The loop reads with 256 KiB, decodes a borrowed struct of the fields it uses with sonic-rs, counts in a hash map, and
//! keeps nothing. Tidemill does all it does: journal with fsync, SQLite, acknowledgement, exactly once. Each round runs
//! both, in turn; rates are events per second from the first byte to the last event counted (Tidemill: committed), CPU is
//! that of the process under test. The sender is a thread of this program, on the same machine.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program that measures, for a terminal"
)]
#![expect(clippy::disallowed_methods, reason = "it measures, and it polls another process")]

mod support;

use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hashbrown::HashTable;
use support::{Daemon, Measured, cpu_of, finish, line, median, option};

const LINE_BYTES: usize = 242;
const WINDOW_MS: i64 = 60_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "plain-loop") {
        return plain_loop();
    }
    let (events, rounds) = (option("--events", 5_000_000), option("--rounds", 5));
    eprintln!("making {events} lines of {LINE_BYTES} bytes");
    let load = load(events);
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let plain = run_plain(&load, events);
        let mill = run_tidemill(&load, events);
        let ratio = mill.rate(events) / plain.rate(events);
        println!("round {round}: loop {}; tidemill {}; ratio {ratio:.2}", plain.show(events), mill.show(events));
        rates.push(ratio);
        cpus.push(mill.cpu_ns(events) / plain.cpu_ns(events));
    }
    println!(
        "median of {rounds}: rate {:.2} of the loop's, CPU per event {:.2} of the loop's",
        median(rates),
        median(cpus)
    );
}

/// A web log: 1,000 events to a second of event time, 500 paths of which some are hot.
fn load(events: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut bytes = Vec::with_capacity(events * LINE_BYTES);
    for index in 0..events {
        let start = bytes.len();
        let ts = 1_700_000_000_000 + index as i64;
        let path = (random.f64() * random.f64() * 500.0) as u32;
        let (ip, size) = (random.u8(..), random.u32(200..90_000));
        write!(
            bytes,
            r#"{{"ts":{ts},"ip":"10.0.{ip}.7","method":"GET","path":"/products/{path}","status":200,"bytes":{size},"referrer":"https://shop.example.org/","agent":""#
        )
        .unwrap();
        let pad = LINE_BYTES - 3 - (bytes.len() - start);
        bytes.resize(bytes.len() + pad, b'm');
        bytes.extend_from_slice(b"\"}\n");
    }
    bytes
}

fn send(mut socket: TcpStream, load: &[u8]) {
    for chunk in load.chunks(256 * 1024) {
        socket.write_all(chunk).unwrap();
    }
    finish(socket);
}

fn run_plain(load: &[u8], events: usize) -> Measured {
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe).arg("plain-loop").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let address = line(&mut out);
    let began = Instant::now();
    send(TcpStream::connect(address).unwrap(), load);
    let counted: u64 = line(&mut out).parse().unwrap();
    let (wall, cpu) = (began.elapsed(), cpu_of(child.id()));
    assert_eq!(counted, events as u64);
    child.kill().unwrap();
    child.wait().unwrap();
    Measured { wall, cpu }
}

fn run_tidemill(load: &[u8], events: usize) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let pipeline = r#"
        [pipelines.page_views]
        stream = "web"
        group_by = ["path"]
        window = { tumbling = "1m" }
        aggregates = { views = "count(*)", bytes = "sum(bytes)" }
    "#;
    let daemon = Daemon::start(folder.path(), pipeline);
    let cpu_before = cpu_of(daemon.id());
    let began = Instant::now();
    send(TcpStream::connect(&daemon.tcp).unwrap(), load);
    daemon.wait_for("page_views", events);
    Measured { wall: began.elapsed(), cpu: cpu_of(daemon.id()) - cpu_before }
}

#[derive(serde::Deserialize)]
struct Event<'a> {
    ts: i64,
    #[serde(borrow)]
    path: &'a str,
    bytes: i64,
}

struct Group {
    window: i64,
    path: Box<str>,
    views: u64,
    bytes: i64,
}

fn plain_loop() {
    use std::hash::BuildHasher;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    let (mut socket, _) = listener.accept().unwrap();
    let hasher = foldhash::fast::FixedState::default();
    let mut groups: HashTable<Group> = HashTable::new();
    let mut buffer = vec![0; 256 * 1024];
    let mut filled = 0;
    loop {
        let count = socket.read(&mut buffer[filled..]).unwrap();
        if count == 0 {
            break;
        }
        filled += count;
        let mut start = 0;
        while let Some(end) = memchr::memchr(b'\n', &buffer[start..filled]) {
            let event: Event<'_> = sonic_rs::from_slice(&buffer[start..start + end]).unwrap();
            let window = event.ts.div_euclid(WINDOW_MS) * WINDOW_MS;
            let hash = hasher.hash_one((window, event.path));
            let same = |group: &Group| group.window == window && &*group.path == event.path;
            let group = groups
                .entry(hash, same, |group| hasher.hash_one((group.window, &*group.path)))
                .or_insert_with(|| Group { window, path: event.path.into(), views: 0, bytes: 0 });
            let group = group.into_mut();
            group.views += 1;
            group.bytes += event.bytes;
            start += end + 1;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
    drop(socket);
    println!("{}", groups.iter().map(|group| group.views).sum::<u64>());
    // The parent reads this process's CPU time before it ends it.
    std::thread::sleep(Duration::from_secs(60));
}
