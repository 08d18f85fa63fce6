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

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hashbrown::HashTable;

const LINE_BYTES: usize = 242;
const WINDOW_MS: i64 = 60_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "plain-loop") {
        return plain_loop();
    }
    let option = |name: &str, default: usize| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)).map_or(default, |value| value.parse().unwrap())
    };
    let (events, rounds) = (option("--events", 5_000_000), option("--rounds", 5));
    eprintln!("making {events} lines of {LINE_BYTES} bytes");
    let load = load(events);
    let (mut rates, mut cpus) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let plain = run_plain(&load, events);
        let mill = run_tidemill(&load, events);
        println!(
            "round {round}: loop {:.2} M/s, {:.0} ns CPU; tidemill {:.2} M/s, {:.0} ns CPU; ratio {:.2}",
            plain.rate(events) / 1e6,
            plain.cpu_ns(events),
            mill.rate(events) / 1e6,
            mill.cpu_ns(events),
            mill.rate(events) / plain.rate(events)
        );
        rates.push(mill.rate(events) / plain.rate(events));
        cpus.push(mill.cpu_ns(events) / plain.cpu_ns(events));
    }
    println!(
        "median of {rounds}: rate {:.2} of the loop's, CPU per event {:.2} of the loop's",
        median(rates),
        median(cpus)
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

struct Measured {
    wall: Duration,
    cpu: Duration,
}

impl Measured {
    fn rate(&self, events: usize) -> f64 {
        events as f64 / self.wall.as_secs_f64()
    }

    fn cpu_ns(&self, events: usize) -> f64 {
        self.cpu.as_nanos() as f64 / events as f64
    }
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
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    // Whatever is answered is read to its end.
    let _ = socket.read_to_end(&mut Vec::new());
}

fn run_plain(load: &[u8], events: usize) -> Measured {
    let exe = std::env::current_exe().unwrap();
    let mut child = Command::new(exe).arg("plain-loop").stdout(Stdio::piped()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let address = line(&mut out);
    let began = Instant::now();
    send(TcpStream::connect(address).unwrap(), load);
    let counted: u64 = line(&mut out).parse().unwrap();
    let (wall, cpu) = (began.elapsed(), cpu_of(&child));
    assert_eq!(counted, events as u64);
    child.kill().unwrap();
    child.wait().unwrap();
    Measured { wall, cpu }
}

fn run_tidemill(load: &[u8], events: usize) -> Measured {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let config = folder.path().join("tidemill.toml");
    let text = r#"
        [http]
        listen = "127.0.0.1:0"
        [streams.web]
        tcp = "127.0.0.1:0"
        [pipelines.page_views]
        stream = "web"
        time = "ts"
        group_by = ["path"]
        window = { tumbling = "1m" }
        aggregates = { views = "count(*)", bytes = "sum(bytes)" }
    "#;
    std::fs::write(&config, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
    command.arg("run").arg(&config).args(["--ready", "-"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let ready: serde_json::Value = serde_json::from_str(&line(&mut out)).unwrap();
    let (tcp, http) = (ready["tcp"]["web"].as_str().unwrap(), ready["http"].as_str().unwrap());
    let cpu_before = cpu_of(&child);
    let began = Instant::now();
    send(TcpStream::connect(tcp).unwrap(), load);
    while aggregated(http) < events as u64 {
        std::thread::sleep(Duration::from_millis(5));
    }
    let (wall, cpu) = (began.elapsed(), cpu_of(&child) - cpu_before);
    child.kill().unwrap();
    child.wait().unwrap();
    Measured { wall, cpu }
}

fn aggregated(http: &str) -> u64 {
    let stats = ureq::get(format!("http://{http}/api/v1/stats")).call().unwrap().body_mut().read_to_string().unwrap();
    let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
    let pipelines = stats["pipelines"].as_array().unwrap();
    let views = pipelines.iter().find(|pipeline| pipeline["name"] == "page_views").unwrap();
    views["account"]["aggregated"].as_u64().unwrap()
}

fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// User and system time of a process, from its `stat` (clock ticks of 10 ms).
fn cpu_of(child: &Child) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
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
