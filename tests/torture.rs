//! The crash test that users run, too: it finds nothing on either store, and it finds each of six faults.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tidemill::moments::{MOMENTS, SABOTAGES};

use crate::support::postgres::Server;
use crate::support::{tidemill, wait_until};

/// The verb, whose folders lie in this one.
fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = tidemill();
    command.arg("torture").args(arguments).env("TMPDIR", folder).env_remove("TIDEMILL_SABOTAGE");
    command
}

struct Verdict {
    code: Option<i32>,
    json: Value,
    said: String,
}

fn torture(arguments: &[&str], sabotage: Option<&str>) -> Verdict {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), arguments);
    command.arg("--json").envs(sabotage.map(|name| ("TIDEMILL_SABOTAGE", name)));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let json = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no verdict: {said}"));
    let left = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(left == 0, output.status.success(), "what is wrong is kept, and nothing else: {said}");
    Verdict { code: output.status.code(), json, said }
}

impl Verdict {
    #[track_caller]
    fn clean(self, rounds: u64) -> Value {
        let Self { code, json, said } = self;
        assert_eq!(code, Some(0), "{json:#} {said}");
        assert_eq!((&json["differences"], &json["unaccounted"]), (&0.into(), &0.into()), "{json:#}");
        assert_eq!((&json["rounds"], json["kills"].as_u64()), (&rounds.into(), Some(rounds)), "{json:#}");
        assert!(
            json["interrupted_sends"].as_u64().unwrap() > 0,
            "no kill came while lines were on their way: {json:#}"
        );
        assert!(json["compared"].as_u64().unwrap() > rounds * 100, "{json:#}");
        json
    }
}

fn hits(json: &Value) -> BTreeMap<String, u64> {
    serde_json::from_value(json["moments"].clone()).unwrap()
}

#[test]
fn twenty_rounds_on_sqlite_lose_nothing_and_count_nothing_twice() {
    let json = torture(&["--rounds", "20", "--seed", "1"], None).clean(20);
    assert!(hits(&json).values().sum::<u64>() >= 10, "{json:#}");
    assert!(json["store_held"].as_u64().unwrap() > 0 && json["clock_steps"].as_u64().unwrap() > 10, "{json:#}");
}

#[test]
fn each_named_moment_is_hit_and_harms_nothing() {
    let rounds = MOMENTS.len() as u64 + 10;
    let rounds_text = rounds.to_string();
    let mut arguments = vec!["--rounds", &rounds_text, "--seed", "2"];
    arguments.extend(MOMENTS.iter().flat_map(|name| ["--moment", name]));
    let json = torture(&arguments, None).clean(rounds);
    let missed: Vec<_> = hits(&json).into_iter().filter(|(_, hits)| *hits == 0).collect();
    assert!(missed.is_empty() && hits(&json).len() == MOMENTS.len(), "never hit: {missed:?}");
}

#[test]
fn twenty_rounds_on_postgres_whose_server_is_killed_too_lose_nothing_and_count_nothing_twice() {
    let mut server = Server::start(&[]);
    let url = server.url();
    let json = std::thread::scope(|scope| {
        let verdict = scope.spawn(|| torture(&["--rounds", "20", "--seed", "3", "--store", &url], None));
        for _ in 0..2 {
            std::thread::sleep(std::time::Duration::from_secs(4));
            if !verdict.is_finished() {
                server.kill();
                server.go();
            }
        }
        verdict.join().unwrap().clean(20)
    });
    assert!(json["store_held"].as_u64().unwrap() + json["store_cut"].as_u64().unwrap() > 0, "{json:#}");
    let left = server.psql("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'tidemill%'");
    assert_eq!(left, "0", "its schemas are gone");
}

#[test]
fn each_fault_is_found() {
    // Each at the moment that shows it most; any other would do, too, if one waits.
    let shown_at = [
        "flush-before-checkpoint",
        "barrier-after",
        "journal-before-write",
        "journal-after-fsync",
        "flush-told",
        "flush-alerts",
    ];
    for (fault, moment) in SABOTAGES.into_iter().zip(shown_at) {
        let Verdict { code, json, said } = torture(&["--rounds", "5", "--seed", "4", "--moment", moment], Some(fault));
        assert_eq!((code, &json["ok"]), (Some(1), &false.into()), "{fault}: {json:#}");
        let differences = json["differences"].as_u64().unwrap();
        assert!(differences > 0 || json["broken"].is_string(), "{fault}: {json:#}");
        assert!(said.contains("--seed 4 --rounds 5") && said.contains("daemon.log"), "{fault}: {said}");
        // Where there are tables to compare, the fault is in them, and not in the test.
        match fault {
            "checkpoint-apart" | "corrections-twice" => {
                assert!(json["differences_sent"].as_u64() > Some(0), "{json:#}");
                assert!(json["differences_undisturbed"].as_u64() > Some(0), "{json:#}");
            }
            "alerts-of-open-rows" => {
                assert!(json["examples"].to_string().contains("alert tumbling busy"), "{json:#}");
            }
            // Where what became of a replay is lost, it never ends.
            "barrier-before-letters" => {
                let told = json["examples"].to_string() + &json["broken"].to_string();
                assert!(told.contains("letter"), "{json:#}");
            }
            _ => {}
        }
    }
}

#[test]
fn a_store_that_is_not_there_is_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), &["--store", "postgres://nobody@127.0.0.1:1/none"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(69), "{said}");
    assert!(said.contains("127.0.0.1:1") && output.stdout.is_empty(), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn ctrl_c_ends_all_of_it_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = command(folder.path(), &["--rounds", "1000"]);
    let mut torture = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let ready = wait_until("a daemon", || {
        let home = std::fs::read_dir(folder.path()).unwrap().next()?.unwrap().path();
        let said: Value = serde_json::from_slice(&std::fs::read(home.join("tortured/ready")).ok()?).ok()?;
        Some(said["http"].as_str()?.to_owned())
    });
    assert!(Command::new("kill").args(["-INT", &torture.id().to_string()]).status().unwrap().success());
    assert_eq!(torture.wait().unwrap().code(), Some(69));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    wait_until("its daemon to be gone", || std::net::TcpStream::connect(&ready).is_err().then_some(()));
}
