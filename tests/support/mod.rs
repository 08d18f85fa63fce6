//! A daemon in a folder of its own, clients, and SQL over its store.

pub mod postgres;
pub mod receiver;
pub mod redis;
pub mod weblog;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{Nullable, Text};

/// Copies a folder under a name that is not there yet.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let done = Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// So long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for a condition, and says what it waited for.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "waited {PATIENCE:?} for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A folder for a daemon: its config, its journal, its store.
pub struct Mill {
    folder: tempfile::TempDir,
    extra: Vec<String>,
    wrapper: Vec<String>,
}

/// A running daemon. Dropping it kills it.
pub struct Daemon {
    child: Child,
    pub tcp: String,
    pub http: String,
}

impl Mill {
    /// A folder with this config; `[http]` and the stream's address `web` are added.
    pub fn new(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mill = Self { folder, extra: Vec::new(), wrapper: Vec::new() };
        mill.write_config(config);
        mill
    }

    /// Arguments for `run`.
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.extra = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        self
    }

    /// A command that runs the daemon, such as `prlimit`; none: directly.
    pub fn under(&mut self, wrapper: &[&str]) {
        self.wrapper = wrapper.iter().map(|argument| (*argument).to_owned()).collect();
    }

    /// Runs a verb that takes the config.
    pub fn verb(&self, verb: &str, arguments: &[&str]) -> Output {
        tidemill().arg(verb).arg(self.config()).args(arguments).output().unwrap()
    }

    pub fn write_config(&self, config: &str) {
        let config = if config.contains("[http]") { config.to_owned() } else { format!("{config}\n{HTTP}") };
        std::fs::write(self.config(), config).unwrap();
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tidemill.toml")
    }

    pub fn database(&self) -> PathBuf {
        self.folder.path().join("data/tidemill.db")
    }

    fn command(&self) -> Command {
        let mut command = tidemill();
        if let [program, arguments @ ..] = self.wrapper.as_slice() {
            let tidemill = std::mem::replace(&mut command, Command::new(program));
            command.args(arguments).arg(tidemill.get_program());
        }
        command.arg("run").arg(self.config()).args(["--ready", "-"]).args(&self.extra);
        command
    }

    /// Starts the daemon and waits until it takes lines.
    pub fn start(&self) -> Daemon {
        let log = std::fs::File::options().create(true).append(true).open(self.path().join("log")).unwrap();
        let mut child = self.command().stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: serde_json::Value =
            serde_json::from_str(&line).unwrap_or_else(|_| panic!("the daemon did not start: {}", self.log()));
        let tcp = ready["tcp"].as_object().unwrap().values().next();
        let tcp = tcp.map_or_else(String::new, |address| address.as_str().unwrap().to_owned());
        Daemon { child, tcp, http: ready["http"].as_str().unwrap().to_owned() }
    }

    /// Starts a daemon that must not start.
    pub fn refused(&self) -> Output {
        self.command().output().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("log")).unwrap_or_default()
    }

    /// The rows of a query with one text column named `r`.
    pub fn sql(&self, query: &str) -> Vec<String> {
        sql(&self.database(), query)
    }

    /// All rows of a pipeline's view, without the clock's part, in their order.
    pub fn rows(&self, view: &str, columns: &str) -> Vec<String> {
        self.sql(&format!(
            "SELECT json_array(window_start, window_end, {columns}) AS r FROM {view} ORDER BY window_start_ms, r"
        ))
    }
}

const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\n";

/// The program.
pub fn tidemill() -> Command {
    Command::new(env!("CARGO_BIN_EXE_tidemill"))
}

#[derive(QueryableByName)]
struct One {
    #[diesel(sql_type = Nullable<Text>)]
    r: Option<String>,
}

/// The rows of a query with one text column named `r`.
pub fn sql(database: &Path, query: &str) -> Vec<String> {
    let mut connection = connect(database);
    let rows: Vec<One> = sql_query(query).load(&mut connection).unwrap();
    rows.into_iter().map(|row| row.r.unwrap_or_default()).collect()
}

pub fn connect(database: &Path) -> SqliteConnection {
    let mut connection = SqliteConnection::establish(database.to_str().unwrap()).unwrap();
    sql_query("PRAGMA busy_timeout = 10000").execute(&mut connection).unwrap();
    connection
}

impl Daemon {
    pub fn client(&self) -> Client {
        Client::connect(&self.tcp)
    }

    /// Sends bytes on a connection of their own, and waits until all lines are durable.
    pub fn send(&self, bytes: &[u8]) -> (u64, u64) {
        let mut client = self.client();
        client.write(bytes);
        client.sync()
    }

    pub fn get(&self, path: &str) -> serde_json::Value {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let text =
            agent.get(format!("http://{}{path}", self.http)).call().unwrap().body_mut().read_to_string().unwrap();
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON from {path}: {text}"))
    }

    /// The status and the answer of a POST.
    pub fn post(&self, path: &str, body: &str) -> (u16, serde_json::Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.post(format!("http://{}{path}", self.http)).send(body).unwrap();
        let text = answer.body_mut().read_to_string().unwrap();
        let json = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON from {path}: {text}"));
        (answer.status().as_u16(), json)
    }

    /// What an operator tells a pipeline; the status and the answer.
    pub fn order(&self, pipeline: &str, verb: &str, body: &str) -> (u16, serde_json::Value) {
        self.post(&format!("/api/v1/pipelines/{pipeline}/{verb}"), body)
    }

    pub fn stats(&self) -> serde_json::Value {
        self.get("/api/v1/stats")
    }

    /// What the stats say of a pipeline (of a stream's intake: `@web`).
    pub fn pipeline(&self, name: &str) -> serde_json::Value {
        let stats = self.stats();
        let found = stats["pipelines"].as_array().unwrap().iter().find(|pipeline| pipeline["name"] == name).cloned();
        found.unwrap_or_else(|| panic!("no pipeline {name} in {stats}"))
    }

    /// All rows of a view as the API gives them; at most 10,000.
    pub fn rows(&self, pipeline: &str) -> Vec<serde_json::Value> {
        let answer = self.get(&format!("/api/v1/pipelines/{pipeline}/results?limit=10000"));
        let rows = answer["rows"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        assert!(rows.len() < 10_000);
        rows
    }

    /// Waits until a pipeline has committed so many events.
    pub fn wait_for_events(&self, pipeline: &str, events: u64) {
        wait_until(&format!("{pipeline} to commit {events} events"), || {
            (self.pipeline(pipeline)["account"]["read"].as_u64()? >= events).then_some(())
        });
    }

    /// Waits until all pipelines have committed all records that were given out so far.
    pub fn wait_for_commit(&self) {
        let last = self.stats()["streams"][0]["journal"]["last"].as_u64().unwrap();
        wait_until("all pipelines to commit", || {
            let stats = self.stats();
            let done = |pipeline: &serde_json::Value| pipeline["position"].as_u64().unwrap() >= last;
            stats["pipelines"].as_array().unwrap().iter().all(done).then_some(())
        });
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// How it ends by itself.
    pub fn wait(mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM, and how it ended.
    pub fn stop(mut self) -> ExitStatus {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap()
    }
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

/// The most that a process ever had resident, bytes.
pub fn peak_resident(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

fn memory(pid: u32, what: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the line protocol.
pub struct Client {
    pub socket: TcpStream,
    replies: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(address: &str) -> Self {
        let socket = TcpStream::connect(address).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let replies = BufReader::new(socket.try_clone().unwrap());
        Self { socket, replies }
    }

    /// To a daemon that may be killed meanwhile.
    pub fn try_connect(address: &str) -> Option<Self> {
        let socket = TcpStream::connect(address).ok()?;
        let replies = BufReader::new(socket.try_clone().ok()?);
        Some(Self { socket, replies })
    }

    pub fn try_write(&mut self, bytes: &[u8]) -> Option<()> {
        self.socket.write_all(bytes).ok()
    }

    pub fn try_reply(&mut self) -> Option<String> {
        let mut line = String::new();
        self.replies.read_line(&mut line).ok()?;
        Some(line.trim_end().to_owned())
    }

    pub fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// The next line from the server; empty where it has closed the connection.
    pub fn reply(&mut self) -> String {
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(_) => line.trim_end().to_owned(),
            // A server that closes with unread bytes resets the connection.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => String::new(),
            Err(error) => panic!("no reply: {error}"),
        }
    }

    pub fn ask(&mut self, line: &str) -> String {
        self.write(format!("{line}\n").as_bytes());
        self.reply()
    }

    /// Lines accepted and rejected, once they are durable.
    pub fn sync(&mut self) -> (u64, u64) {
        let reply = self.ask("@sync");
        let mut counts = reply.strip_prefix("@synced ").unwrap_or_else(|| panic!("{reply}")).split(' ');
        let mut count = || counts.next().unwrap().parse().unwrap();
        (count(), count())
    }

    /// All that the server still says.
    pub fn rest(mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.replies.read_to_end(&mut rest);
        String::from_utf8(rest).unwrap()
    }
}
