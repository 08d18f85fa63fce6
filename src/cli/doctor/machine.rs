//! The machine: disk, ports, clock.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{OFlags, statfs, statvfs};

use super::Check;
use super::owner::Owner;
use crate::clock::Clock;
use crate::config::Config;
use crate::event::format_utc;
use crate::units::{format_duration, show_bytes};

/// File systems by the magic number that the kernel gives them: name, and what is wrong with it for a journal.
const FILE_SYSTEMS: [(u32, &str, Option<&str>); 10] = [
    (0xef53, "ext4", None),
    (0x5846_5342, "xfs", None),
    (0x9123_683e, "btrfs", None),
    (0x2fc1_2fc1, "zfs", None),
    (0xf2f5_2010, "f2fs", None),
    (0x794c_7630, "overlay", None),
    (0x0102_1994, "tmpfs", Some("it is memory: a power loss or a reboot takes all of it")),
    (0x6969, "nfs", Some("locks and fsync of a network file system are not to be relied on")),
    (0xff53_4d42, "cifs", Some("locks and fsync of a network file system are not to be relied on")),
    (0x6573_5546, "fuse", None),
];
/// A clock that is so far behind the last ingest time was set back.
const SET_BACK_MS: i64 = 1_000;

/// Free space, file system, and whether files can be made, past the page cache or not.
pub(super) fn disk(config: &Config) -> Check {
    // Of a folder that is not there yet, the one in which it will be.
    let Some(dir) = config.data_dir.ancestors().find(|dir| dir.is_dir()) else {
        return Check::failed("disk", format!("{} is in no folder", config.data_dir.display()), "make one");
    };
    let shown = dir.display();
    let space = match statvfs(dir) {
        Ok(space) => space,
        Err(error) => return Check::failed("disk", format!("{shown}: {error}"), "look after the disk"),
    };
    let (free, size) = (space.f_bavail.saturating_mul(space.f_frsize), space.f_blocks.saturating_mul(space.f_frsize));
    let direct = match try_file(dir) {
        Ok(direct) => direct,
        Err(error) => {
            let says = format!("no file can be made in {shown}: {error}");
            return Check::failed("disk", says, "make room, or give the daemon's user the right to write there");
        }
    };
    let (kind, fault) = file_system(dir);
    let says = format!(
        "{} of {} free, min_free is {}; {kind}, O_DIRECT {}",
        show_bytes(free),
        show_bytes(size),
        show_bytes(config.min_free_bytes),
        if direct { "yes" } else { "no (the journal is written through the page cache)" }
    );
    if free < config.min_free_bytes {
        return Check::failed("disk", format!("{says}: producers are held"), "make room, or set a smaller min_free");
    }
    match fault {
        Some(fault) => Check::warning("disk", format!("{says}: {fault}"), "put data_dir on a local disk"),
        None => Check::ok("disk", says),
    }
}

/// Makes a file and takes it away again; whether it could be opened past the page cache.
fn try_file(dir: &Path) -> io::Result<bool> {
    let path = dir.join(format!("doctor.{}.tmp", std::process::id()));
    fs::write(&path, [0; 4096])?;
    let direct = OpenOptions::new().write(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(&path).is_ok();
    fs::remove_file(&path)?;
    Ok(direct)
}

fn file_system(dir: &Path) -> (String, Option<&'static str>) {
    // Its type has another width on other machines; the numbers have 32 bits.
    let magic = statfs(dir).map_or(0, |found| found.f_type as u32);
    match FILE_SYSTEMS.iter().find(|(known, ..)| *known == magic) {
        Some((_, name, fault)) => ((*name).to_owned(), *fault),
        None => (format!("file system {magic:#x}"), None),
    }
}

/// Whether each address can be listened on, and who has it else.
pub(super) fn ports(config: &Config, owner: &Owner) -> Vec<Check> {
    let streams = config.streams.iter().filter_map(|stream| Some((format!("port {}", stream.name), stream.tcp?)));
    let http = std::iter::once(("port http".to_owned(), config.http.listen));
    streams.chain(http).map(|(name, address)| port(name, address, owner)).collect()
}

fn port(name: String, address: SocketAddr, owner: &Owner) -> Check {
    let error = match TcpListener::bind(address) {
        Ok(_) if matches!(owner, Owner::Daemon) && address.port() != 0 => {
            let says = format!("nobody listens on {address}, although a daemon runs: with another config?");
            return Check::warning(name, says, "restart the daemon with this config");
        }
        Ok(_) => return Check::ok(name, format!("{address} is free")),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Check::failed(
            name,
            format!("{address}: {error}"),
            "name an address of this machine that its user may use",
        );
    }
    let taker = taker(address.port()).map_or_else(|| "somebody".to_owned(), |taker| taker.to_string());
    if matches!(owner, Owner::Daemon) {
        return Check::ok(name, format!("{taker} listens on {address}, while the daemon runs"));
    }
    Check::failed(name, format!("{taker} has {address}"), "stop it, or name another address")
}

/// A process by its number and name.
struct Process(u32, String);

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} ({})", self.0, self.1)
    }
}

/// Who listens on a port, as far as this user may know.
fn taker(port: u16) -> Option<Process> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    let sockets: Vec<String> =
        tables.iter().flat_map(|table| table.lines()).filter_map(|line| listens(line, port)).collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers.find_map(|number| {
        let mut files = fs::read_dir(format!("/proc/{number}/fd")).ok()?.flatten();
        let has = |file: fs::DirEntry| {
            let target = fs::read_link(file.path()).unwrap_or_default();
            target.to_str().is_some_and(|target| sockets.iter().any(|socket| socket == target))
        };
        files.any(has).then(|| {
            let name = fs::read_to_string(format!("/proc/{number}/comm")).unwrap_or_default();
            Process(number, name.trim_end().to_owned())
        })
    })
}

/// The socket of a line of the kernel's table, if it listens on the port: columns are local address (with the port in
/// hexadecimal digits), remote address, state (0A: listening), …, inode.
fn listens(line: &str, port: u16) -> Option<String> {
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (local, state, inode) = (columns.get(1)?, columns.get(3)?, columns.get(9)?);
    let listening = *state == "0A" && u16::from_str_radix(local.rsplit(':').next()?, 16) == Ok(port);
    listening.then(|| format!("socket:[{inode}]"))
}

/// Whether the clock has been set back behind what the journals hold.
pub(super) fn clock(newest: Option<i64>) -> Check {
    let now = Clock::system().wall_ms();
    let Some(newest) = newest else { return Check::ok("clock", format!("{} UTC", format_utc(now))) };
    let behind = newest.saturating_sub(now);
    if behind <= SET_BACK_MS {
        let says = format!("{} UTC, not before the last ingest time ({})", format_utc(now), format_utc(newest));
        return Check::ok("clock", says);
    }
    let says = format!(
        "{} UTC, {} before the last ingest time ({}): one of the two is wrong",
        format_utc(now),
        format_duration(behind),
        format_utc(newest)
    );
    Check::warning("clock", says, "look after the clock: pipelines without `time` stand still until it has caught up")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_back_is_a_warning() {
        use super::super::Verdict;
        let now = Clock::system().wall_ms();
        assert_eq!(clock(None).verdict, Verdict::Ok);
        assert_eq!(clock(Some(now - 5)).verdict, Verdict::Ok);
        let back = clock(Some(now + 3_600_000));
        assert_eq!(back.verdict, Verdict::Warning);
        assert!(back.says.contains("before the last ingest time"), "{}", back.says);
    }

    #[test]
    fn who_listens_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let Process(number, _) = taker(listener.local_addr().unwrap().port()).unwrap();
        assert_eq!(number, std::process::id());
    }
}
