//! What the benches share: options, a daemon as a process, and what it took.
#![allow(dead_code, reason = "each bench uses a part of it")]

use std::io::{BufRead, BufReader, Read};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A number of the command line: `--rounds 5`.
pub fn option(name: &str, default: usize) -> usize {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == name);
    at.and_then(|at| args.get(at + 1)).map_or(default, |value| value.parse().unwrap())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// What a process took for so many events.
pub struct Measured {
    pub wall: Duration,
    pub cpu: Duration,
}

impl Measured {
    /// Events per second.
    pub fn rate(&self, events: usize) -> f64 {
        events as f64 / self.wall.as_secs_f64()
    }

    /// Of an event, ns.
    pub fn cpu_ns(&self, events: usize) -> f64 {
        self.cpu.as_nanos() as f64 / events as f64
    }

    pub fn show(&self, events: usize) -> String {
        format!("{:.2} M/s, {:.0} ns CPU", self.rate(events) / 1e6, self.cpu_ns(events))
    }
}

/// User and system time of a process, from its `stat` (clock ticks of 10 ms).
pub fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

/// Ends a connection, when whatever is answered is read.
pub fn finish(mut socket: TcpStream) {
    socket.shutdown(Shutdown::Write).unwrap();
    let _ = socket.read_to_end(&mut Vec::new());
}

/// A line that a process says.
pub fn line(out: &mut impl BufRead) -> String {
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// A running daemon with one stream `web`.
pub struct Daemon {
    child: Child,
    pub tcp: String,
    http: String,
}

impl Daemon {
    /// Of these pipelines, in this folder.
    pub fn start(folder: &Path, pipelines: &str) -> Self {
        let config = folder.join("tidemill.toml");
        let text = format!(
            "[http]\nlisten = \"127.0.0.1:0\"\n[streams.web]\ntcp = \"127.0.0.1:0\"\ntime = \"ts\"\n{pipelines}"
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidemill"));
        command.arg("run").arg(&config).args(["--ready", "-"]).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let ready = line(&mut BufReader::new(child.stdout.take().unwrap()));
        let ready: serde_json::Value = serde_json::from_str(&ready).unwrap();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        Self { child, tcp: text(&ready["tcp"]["web"]), http: text(&ready["http"]) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until a pipeline has committed so many events.
    pub fn wait_for(&self, pipeline: &str, events: usize) {
        while self.aggregated(pipeline) < events as u64 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn aggregated(&self, pipeline: &str) -> u64 {
        let url = format!("http://{}/api/v1/stats", self.http);
        let stats = ureq::get(url).call().unwrap().body_mut().read_to_string().unwrap();
        let stats: serde_json::Value = serde_json::from_str(&stats).unwrap();
        let pipelines = stats["pipelines"].as_array().unwrap();
        let found = pipelines.iter().find(|found| found["name"] == pipeline).unwrap();
        found["account"]["aggregated"].as_u64().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}
