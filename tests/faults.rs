//! A disk that is full, and one that fails.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::crash::{CONFIG, VIEWS, resume};
use crate::support::weblog::web_log;
use crate::support::{Client, Daemon, Mill, wait_until};

const CHILD: &str = "TIDEMILL_TEST_FULL_DISK_CHILD";
const LINES: usize = 120_000;

/// Runs the test below where it may mount: in namespaces of its own, so that nothing stays behind.
#[test]
fn a_disk_that_is_full_to_the_last_byte_holds_producers_and_loses_nothing() {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let flags = if is_root { "-m" } else { "-rm" };
    let may = Command::new("unshare").args([flags, "true"]).output();
    let may = may.map_err(|error| error.to_string()).and_then(|output| {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(said) }
    });
    assert!(may.is_ok(), "this test mounts a small tmpfs: let it run `unshare {flags}` ({})", may.unwrap_err());
    let done = Command::new("unshare")
        .arg(flags)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::child_with_a_small_disk", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test of its own.
#[test]
fn child_with_a_small_disk() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    let log = web_log(LINES, 3_600_000, 60_000, 30, 5);
    let mut line_starts: Vec<usize> = vec![0];
    line_starts.extend(memchr::memchr_iter(b'\n', &log).map(|at| at + 1));
    let calm = Mill::new(CONFIG);
    let daemon = calm.start();
    daemon.send(&log);
    daemon.wait_for_commit();
    drop(daemon);

    let stream = "[streams.web]\njournal_limit = \"24MiB\"";
    let mill = Mill::new(&format!("min_free = \"1MiB\"\n{}", CONFIG.replace("[streams.web]", stream)));
    let data = mill.path().join("data");
    std::fs::create_dir(&data).unwrap();
    mount(&data);
    let mut daemon = mill.start();
    resume(&daemon.tcp, &log[..line_starts[LINES / 4]], &line_starts).unwrap();
    daemon.wait_for_commit();
    let ballast = fill(&data);
    // Else the journal would make room of what all have, and go on.
    assert_eq!(daemon.order("tumbling", "pause", "").0, 200);
    let address = daemon.tcp.clone();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| resume(&address, &log, &line_starts));
        wait_until("the producers to be held", || {
            let stats = daemon.stats();
            (stats["streams"][0]["journal"]["held"] == "disk_full").then_some(())
        });
        fill_more(&ballast);
        let degraded = daemon.get("/readyz")["degraded"].to_string();
        assert!(degraded.contains("producers are held (disk_full)"), "{degraded}");
        assert!(!sender.is_finished() && daemon.is_alive());
        daemon.kill();
        assert!(sender.join().unwrap().is_none());
    });
    // It starts on a disk that is still full.
    let mut daemon = mill.start();
    fill_more(&ballast);
    let address = daemon.tcp.clone();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| resume(&address, &log, &line_starts));
        daemon.stats();
        std::fs::remove_file(&ballast).unwrap();
        assert!(sender.join().unwrap().is_some(), "all is taken once there is room");
        assert!(daemon.is_alive());
    });
    daemon.wait_for_commit();
    for (view, columns) in VIEWS {
        assert!(mill.rows(view, columns) == calm.rows(view, columns), "{view}");
        let account = &daemon.pipeline(view)["account"];
        assert_eq!(
            (account["read"].as_u64(), account["aggregated"].as_u64()),
            (Some(LINES as u64), Some(LINES as u64))
        );
        assert_eq!(daemon.pipeline(view)["state"], "running");
    }
    assert!(daemon.stop().success());
}

fn mount(at: &Path) {
    let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(at).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "this test mounts a small tmpfs, which is not permitted here: {said}");
}

/// Fills the disk to the last byte.
fn fill(disk: &Path) -> std::path::PathBuf {
    let path = disk.join("ballast");
    std::fs::File::create(&path).unwrap();
    fill_more(&path);
    path
}

/// Fills what has become free since.
fn fill_more(ballast: &Path) {
    let mut file = std::fs::File::options().append(true).open(ballast).unwrap();
    let bytes = vec![1; 1 << 20];
    let mut piece = bytes.len();
    while piece > 0 {
        match file.write(&bytes[..piece]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => piece /= 2,
            Err(error) => panic!("{error}"),
        }
    }
}

/// A write that fails otherwise than for want of room: beyond the greatest size that the process's files may have.
#[test]
fn a_write_that_fails_ends_the_process_with_74_and_nothing_is_acknowledged_after_it() {
    let stream = "[streams.web]\njournal_limit = \"8MiB\"";
    let mut mill = Mill::new(&CONFIG.replace("[streams.web]", stream));
    // A segment has 1 MiB, but where a body needs more. The signal would end the process before it can say anything.
    mill.under(&["sh", "-c", "trap '' XFSZ; exec prlimit --fsize=1500000 \"$@\"", "sh"]);
    let daemon = mill.start();
    let log = web_log(20_000, 60_000, 0, 3, 1);
    assert_eq!(daemon.send(b"{\"ts\": 1431855000000, \"path\": \"/kept\"}\n"), (1, 0));
    let posted = ureq::post(format!("http://{}/api/v1/streams/web/events", daemon.http)).send(&log[..]);
    assert!(log.len() > 2 << 20 && posted.is_err(), "{posted:?}");
    // Whoever comes before the process has ended is not told that anything is durable.
    if let Some(mut late) = Client::try_connect(&daemon.tcp) {
        let sent = late.try_write(b"{\"ts\": 1431855000000, \"path\": \"/late\"}\n@sync\n");
        let reply = sent.and_then(|()| late.try_reply()).unwrap_or_default();
        assert!(!reply.starts_with("@synced"), "{reply}");
    }
    assert_eq!(daemon.wait().code(), Some(74), "{}", mill.log());
    let log = mill.log();
    assert!(log.contains("the journal failed: beginning a journal segment failed behind position"), "{log}");

    mill.under(&[]);
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT path || ' ' || hits AS r FROM tumbling"), ["/kept 1"]);
}

/// What the producer `p` has sent and is told to be durable: line `number` (from 1), and all before it.
fn tell_by_tcp(daemon: &Daemon, number: u64) -> Option<()> {
    let mut client = Client::try_connect(&daemon.tcp)?;
    client.try_write(b"@producer p\n")?;
    let durable: u64 = client.try_reply()?.strip_prefix("@ok ")?.parse().ok()?;
    assert!((number - 1..=number).contains(&durable), "{durable} lines, when line {number} is to be sent");
    if durable < number {
        client.try_write(numbered(number).as_bytes())?;
    }
    client.try_write(b"@sync\n")?;
    client.try_reply()?.starts_with("@synced").then_some(())
}

/// The same by a POST.
fn tell_by_http(daemon: &Daemon, number: u64) -> Option<()> {
    let post = ureq::post(format!("http://{}/api/v1/streams/web/events", daemon.http));
    let post = post.header("Tidemill-Producer", "p").header("Tidemill-From", number.to_string());
    post.send(numbered(number)).is_ok().then_some(())
}

fn numbered(number: u64) -> String {
    format!("{{\"ts\": 1431855000000, \"path\": \"/\", \"load\": {number}}}\n")
}

/// EIO, once: whoever tried again would be told that all is well, since the kernel forgets what it could not write.
#[test]
fn a_disk_that_fails_once_ends_the_process_with_74_and_what_was_acknowledged_is_there_once() {
    const LINES: u64 = 30;
    type Tell = fn(&Daemon, u64) -> Option<()>;
    for (operation, says) in
        [("journal-fsync", "fsync of the journal failed"), ("journal-write", "writing to the journal failed")]
    {
        for tell in [tell_by_tcp as Tell, tell_by_http] {
            let mut mill = Mill::new(CONFIG);
            mill.under(&["env", &format!("TIDEMILL_BAD_DISK={operation}:12")]);
            let daemon = mill.start();
            let told = (1..=LINES).take_while(|number| tell(&daemon, *number).is_some()).count() as u64;
            assert!((1..LINES).contains(&told), "{told} lines were acknowledged although the disk failed");
            assert_eq!(tell(&daemon, told + 1), None, "acknowledged behind the failure");
            assert_eq!(daemon.wait().code(), Some(74), "{}", mill.log());
            assert!(mill.log().contains(&format!("the journal failed: {says} behind position")), "{}", mill.log());
            let flushed = mill.sql("SELECT coalesce(sum(hits), 0) || '' AS r FROM tumbling");
            assert!(flushed[0].parse::<u64>().unwrap() <= told, "{flushed:?} of {told}: more than what is durable");

            mill.under(&[]);
            let daemon = mill.start();
            (told + 1..=LINES).for_each(|number| tell(&daemon, number).unwrap());
            daemon.wait_for_commit();
            let rows = mill.sql("SELECT json_array(hits, load) AS r FROM tumbling");
            assert_eq!(
                rows,
                [format!("[{LINES},{}]", LINES * (LINES + 1) / 2)],
                "{operation}, {told} before it failed"
            );
        }
    }
}
