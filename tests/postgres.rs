//! PostgreSQL as the store: the rows of SQLite, whatever happens to the server or to the way there.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::crash::{CONFIG, resume};
use crate::support::postgres::{Server, shared, unique_schema};
use crate::support::weblog::web_log;
use crate::support::{Daemon, Mill, resident, wait_until};

const LINES: usize = 300_000;

fn log() -> Vec<u8> {
    web_log(LINES, 3 * 3_600_000, 600_000, 30, 5)
}

fn line_starts(log: &[u8]) -> Vec<usize> {
    std::iter::once(0).chain(memchr::memchr_iter(b'\n', log).map(|at| at + 1)).collect()
}

fn on_postgres(url: &str) -> Mill {
    let store = format!("[store]\n    url = \"{url}\"\n    schema = \"{}\"", unique_schema());
    Mill::new(&CONFIG.replace("[store]", &store))
}

const VIEWS: [&str; 4] = ["tumbling", "sliding", "sessions", "hours"];

/// Rows of all views; of `revised_at`, which is the clock's, only whether it is there.
fn rows(daemon: &Daemon) -> Vec<Vec<serde_json::Value>> {
    let of = |view| {
        let mut rows = daemon.rows(view);
        // Calendar windows have a column more.
        let revised_at = if view == "hours" { 7 } else { 6 };
        rows.iter_mut().for_each(|row| row[revised_at] = row[revised_at].is_null().into());
        rows
    };
    VIEWS.map(of).to_vec()
}

/// What an undisturbed run on SQLite shows.
fn calm(log: &[u8]) -> Vec<Vec<serde_json::Value>> {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(log);
    daemon.wait_for_commit();
    rows(&daemon)
}

fn check(daemon: &Daemon, calm: &[Vec<serde_json::Value>]) {
    for ((view, calm), shown) in VIEWS.into_iter().zip(calm).zip(rows(daemon)) {
        assert_eq!(shown.len(), calm.len(), "{view}");
        for (shown, calm) in shown.iter().zip(calm) {
            assert_eq!(shown, calm, "{view}");
        }
        let account = &daemon.pipeline(view)["account"];
        let counts = (account["read"].as_u64(), account["aggregated"].as_u64());
        assert_eq!(counts, (Some(LINES as u64), Some(LINES as u64)), "{view}");
    }
}

const PARTS: usize = 20;

/// Sends the log up to the end of a part, until the producer has been told that it is durable.
fn send_part(daemon: &Daemon, log: &[u8], part: usize) {
    let line_starts = line_starts(log);
    resume(&daemon.tcp, &log[..line_starts[part * LINES / PARTS]], &line_starts).unwrap();
}

#[test]
fn the_rows_are_those_of_sqlite_after_kills_of_the_daemon() {
    let log = log();
    let line_starts = line_starts(&log);
    let calm = calm(&log);
    let mill = on_postgres(&shared().url());
    let mut random = fastrand::Rng::with_seed(3);
    for round in 1..=10 {
        let daemon = mill.start();
        let address = daemon.tcp.clone();
        std::thread::scope(|scope| {
            let committed = || daemon.pipeline("tumbling")["position"].as_u64().unwrap();
            let before = committed();
            scope.spawn(|| resume(&address, &log[..line_starts[round * LINES / 10]], &line_starts));
            wait_until("a commit", || (committed() > before).then_some(()));
            std::thread::sleep(Duration::from_micros(random.u64(0..60_000)));
            daemon.kill();
        });
    }
    let daemon = mill.start();
    resume(&daemon.tcp, &log, &line_starts).unwrap();
    daemon.wait_for_commit();
    check(&daemon, &calm);
}

#[test]
fn a_server_that_is_killed_stopped_and_cuts_its_connections_changes_no_row() {
    let log = log();
    let calm = calm(&log);
    let mut server = Server::start(&[]);
    let mill = on_postgres(&server.url());
    let daemon = mill.start();
    let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'tidemill'";
    let mut cuts = 0;
    for part in 1..=PARTS {
        match part % 10 {
            5 => std::thread::scope(|scope| {
                scope.spawn(|| send_part(&daemon, &log, part));
                server.kill();
                server.go();
            }),
            9 => {
                server.stop();
                send_part(&daemon, &log, part);
                wait_until("readyz to say that the server is not there", || {
                    let readyz = daemon.get("/readyz");
                    let degraded = readyz["degraded"].to_string();
                    (readyz["ready"] == true && degraded.contains("away") && degraded.contains("refused")).then_some(())
                });
                server.go();
            }
            _ => std::thread::scope(|scope| {
                let sender = scope.spawn(|| send_part(&daemon, &log, part));
                while !sender.is_finished() {
                    cuts += server.psql(cut).parse::<u32>().unwrap();
                }
            }),
        }
    }
    assert!(cuts > 0, "no connection was cut");
    daemon.wait_for_commit();
    check(&daemon, &calm);
    assert!(resident(daemon.id()) < 300 << 20, "{} bytes", resident(daemon.id()));
}

/// Passes bytes on to the server; where a COMMIT goes by and it is its turn, it waits until the server has answered, and
/// then cuts the connection instead of passing the answer on.
struct Cutter {
    port: u16,
    cuts: Arc<AtomicU32>,
}

impl Cutter {
    fn before(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Arc::new(AtomicU32::new(0));
        let (commits, counter) = (Arc::new(AtomicU32::new(0)), cuts.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (commits, cuts) = (commits.clone(), counter.clone());
                std::thread::spawn(move || pass(client.unwrap(), server, &commits, &cuts));
            }
        });
        Self { port, cuts }
    }
}

fn pass(mut client: TcpStream, server: u16, commits: &AtomicU32, cuts: &Arc<AtomicU32>) -> Option<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).ok()?;
    let (mut answers, mut back) = (server.try_clone().ok()?, client.try_clone().ok()?);
    let cutting = Arc::new(AtomicBool::new(false));
    let (told, cuts) = (cutting.clone(), cuts.clone());
    std::thread::spawn(move || {
        let mut buffer = [0; 64 * 1024];
        loop {
            let count = answers.read(&mut buffer).ok().filter(|count| *count > 0)?;
            if told.load(Ordering::SeqCst) && buffer[..count].windows(7).any(|part| part == b"COMMIT\0") {
                cuts.fetch_add(1, Ordering::SeqCst);
                let _ = back.shutdown(std::net::Shutdown::Both);
                let _ = answers.shutdown(std::net::Shutdown::Both);
                return None::<()>;
            }
            back.write_all(&buffer[..count]).ok()?;
        }
    });
    let mut buffer = [0; 64 * 1024];
    loop {
        let count = client.read(&mut buffer).ok().filter(|count| *count > 0)?;
        // The first ones are those of migrations and starts.
        if buffer[..count].windows(7).any(|part| part == b"COMMIT\0") {
            let number = commits.fetch_add(1, Ordering::SeqCst);
            cutting.store(number > 10 && number.is_multiple_of(3), Ordering::SeqCst);
        }
        server.write_all(&buffer[..count]).ok()?;
    }
}

#[test]
fn a_link_that_is_cut_between_commit_and_answer_counts_nothing_twice() {
    let log = log();
    let calm = calm(&log);
    let cutter = Cutter::before(shared().port);
    let mill = on_postgres(&format!("postgres://tidemill@127.0.0.1:{}/postgres", cutter.port));
    let daemon = mill.start();
    for part in 1..=PARTS {
        send_part(&daemon, &log, part);
        daemon.wait_for_commit();
    }
    let cuts = cutter.cuts.load(Ordering::SeqCst);
    assert!(cuts > 5, "{cuts} cuts");
    check(&daemon, &calm);
}
