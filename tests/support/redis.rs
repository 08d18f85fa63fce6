//! A Redis server of the tests' own: in a temporary folder, on a free port, gone with the process that started it.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::wait_until;

/// A running server, which keeps nothing on disk.
pub struct Server {
    pub port: u16,
    folder: tempfile::TempDir,
    settings: Vec<String>,
    /// Ends the server when its standard input is closed: at the latest when this process ends, however it does.
    keeper: Option<Child>,
}

/// A port that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// With settings such as `--requirepass`.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_at(free_port(), settings)
    }

    pub fn start_at(port: u16, settings: &[&str]) -> Self {
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let mut server = Self { port, folder: tempfile::tempdir().unwrap(), settings, keeper: None };
        server.go();
        server
    }

    /// Starts it (again), empty, on the same port.
    pub fn go(&mut self) {
        let script = "\"$@\" & server=$!; read word; kill -KILL $server 2>/dev/null; wait $server";
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script, "sh"]).arg(binary()).args(["--bind", "127.0.0.1", "--save", ""]);
        command.arg("--dir").arg(self.folder.path());
        if !self.settings.iter().any(|setting| setting == "--port") {
            command.args(["--port", &self.port.to_string()]);
        }
        command.args(&self.settings).stdin(Stdio::piped()).stdout(log).stderr(Stdio::null());
        self.keeper = Some(command.spawn().unwrap());
        wait_until("Redis to listen", || std::net::TcpStream::connect(("127.0.0.1", self.port)).ok());
    }

    /// `kill -9`: all that it had is gone.
    pub fn kill(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.stdin.take().unwrap().write_all(b"now\n");
            keeper.wait().unwrap();
        }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn connect(&self) -> redis::Connection {
        redis::Client::open(self.url()).unwrap().get_connection().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Where the server's program is; it is installed where that is possible.
fn binary() -> PathBuf {
    if let Some(found) = find() {
        return found;
    }
    let install = "[ $(id -u) = 0 ] && export DEBIAN_FRONTEND=noninteractive && apt-get update -q && \
                   apt-get install -y -q --no-install-recommends redis-server";
    let installed = Command::new("sh").args(["-c", install]).status().is_ok_and(|status| status.success());
    let found = installed.then(find).flatten();
    found.unwrap_or_else(|| panic!("Redis's server is missing: sudo apt-get install redis-server"))
}

fn find() -> Option<PathBuf> {
    let folders = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    folders.iter().map(|folder| folder.join("redis-server")).find(|program| Path::exists(program))
}
