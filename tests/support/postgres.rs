//! A PostgreSQL server of the tests' own: in a temporary folder, on a free port, gone with the process that started it.
//!
//! The unit tests include this file, too.

#![allow(dead_code, reason = "each of the two test binaries uses a part of it")]
#![allow(clippy::disallowed_methods, reason = "it waits for another process by the machine's clock")]

use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// So long a server may take to start, on a busy machine.
const START_PATIENCE: Duration = Duration::from_secs(120);

/// A running server.
pub struct Server {
    pub port: u16,
    folder: PathBuf,
    bin: PathBuf,
    settings: Vec<String>,
    user: User,
    /// Ends the server when its standard input is closed: at the latest when this process ends, however it does.
    keeper: Option<Child>,
}

/// Who runs the server: never root, which PostgreSQL refuses.
#[derive(Clone, Copy)]
struct User(Option<(u32, u32)>);

impl User {
    fn command(self, program: &Path) -> Command {
        let mut command = Command::new(program);
        if let Some((uid, gid)) = self.0 {
            command.uid(uid).gid(gid).current_dir("/");
        }
        command
    }
}

/// The server that all tests of this process share; each takes a schema of its own.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(&["fsync=off"]))
}

/// A name that no other test has.
pub fn unique_schema() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("t{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Server {
    /// Makes a cluster and starts it with these settings (`name=value`).
    pub fn start(settings: &[&str]) -> Self {
        let bin = binaries();
        let user = user();
        let folder = tempfile::Builder::new().prefix("tidemill-postgres").tempdir().unwrap().keep();
        if let Some((uid, gid)) = user.0 {
            std::os::unix::fs::chown(&folder, Some(uid), Some(gid)).unwrap();
        }
        let made = user
            .command(&bin.join("initdb"))
            .args(["--auth=trust", "--encoding=UTF8", "--locale=C", "--username=tidemill", "--no-sync", "-D"])
            .arg(folder.join("data"))
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb failed: {}", String::from_utf8_lossy(&made.stderr));
        let settings = settings.iter().map(|setting| (*setting).to_owned()).collect();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { port, folder, bin, settings, user, keeper: None };
        server.go();
        server
    }

    /// Starts it (again), on the same port.
    pub fn go(&mut self) {
        let script = "folder=$1; shift; \"$@\" & server=$!; read word; kill -QUIT $server 2>/dev/null; wait $server; \
                      [ \"$word\" = keep ] || rm -rf \"$folder\"";
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log")).unwrap();
        let mut command = self.user.command(Path::new("/bin/sh"));
        command
            .args(["-c", script, "sh"])
            .arg(&self.folder)
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(self.folder.join("data"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", ""]);
        for setting in &self.settings {
            command.args(["-c", setting]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.keeper = Some(command.spawn().unwrap());
        let began = Instant::now();
        while !self.answers() {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(began.elapsed() < START_PATIENCE, "PostgreSQL did not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        let mut ready = Command::new(self.bin.join("pg_isready"));
        ready.args(["-q", "-U", "tidemill", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
        ready.status().is_ok_and(|status| status.success())
    }

    /// A setting (`name=value`) for the next start.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// `kill -9` to all of its processes.
    pub fn kill(&mut self) {
        let pid_file = std::fs::read_to_string(self.folder.join("data/postmaster.pid")).unwrap();
        let pid = pid_file.lines().next().unwrap();
        let signal = |name: &str, pid: &str| Command::new("kill").args([name, pid]).status();
        // Stopped first, so that none of them is new when the others are gone.
        assert!(signal("-STOP", pid).unwrap().success());
        let children = Command::new("pgrep").args(["-P", pid]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        for child in children.lines() {
            let _ = signal("-KILL", child);
        }
        assert!(signal("-KILL", pid).unwrap().success());
        self.stop();
        // As long as one is there, its successor finds their shared memory in use, and does not start.
        let is_there = |child: &&str| {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let began = Instant::now();
        while children.lines().any(|child| is_there(&child)) && began.elapsed() < START_PATIENCE {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it at once, without any goodbye to its clients; a no-op where it is down.
    pub fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            let _ = keeper.stdin.take().unwrap().write_all(b"keep\n");
            keeper.wait().unwrap();
        }
        // A postmaster that was killed leaves its lock behind, which the next one finds stale.
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://tidemill@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL as its superuser; the rows, as `psql -At` prints them.
    pub fn psql(&self, sql: &str) -> String {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-d", &self.url()]);
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A program of its distribution, such as `pg_dump`.
    pub fn program(&self, name: &str) -> Command {
        Command::new(self.bin.join(name))
    }

    /// Puts a file into its data, which only it may read.
    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.join("data").join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = self.user.0 {
            std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// Its data, its log.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Where the server's programs are; they are installed where that is possible.
fn binaries() -> PathBuf {
    if let Some(found) = find() {
        return found;
    }
    let install = "DEBIAN_FRONTEND=noninteractive apt-get update -q && \
                   DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends postgresql";
    let installed = is_root() && Command::new("sh").args(["-c", install]).status().is_ok_and(|status| status.success());
    let found = installed.then(find).flatten();
    found.unwrap_or_else(|| panic!("PostgreSQL's server is missing: sudo apt-get install postgresql"))
}

fn find() -> Option<PathBuf> {
    let mut folders: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    folders.extend(versions.into_iter().rev());
    let programs = ["initdb", "postgres", "pg_isready", "psql"];
    folders.into_iter().find(|folder| programs.iter().all(|program| folder.join(program).exists()))
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn is_root() -> bool {
    id(&["-u"]) == Some(0)
}

fn user() -> User {
    if !is_root() {
        return User(None);
    }
    let of = |flag| id(&[flag, "postgres"]).or_else(|| id(&[flag, "nobody"])).unwrap();
    User(Some((of("-u"), of("-g"))))
}
