//! `doctor`: what it sees of a daemon's journal, store, disk and ports; and what a repair leaves.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::Value;

use crate::support::{Mill, wait_until};

/// Nothing is committed unless a daemon stops.
const LAZY: &str = r#"
    min_free = "1MiB"
    [store]
    flush_every = "1h"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.hits]
    stream = "web"
    group_by = ["part"]
    window = { tumbling = "365d" }
    aggregates = { hits = "count(*)", total = "sum(n)" }
"#;

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The checks of a name.
fn checks(output: &Output, name: &str) -> Vec<Value> {
    let all: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(output)));
    all["checks"].as_array().unwrap().iter().filter(|check| check["check"] == name).cloned().collect()
}

/// Lines of a part, each long enough that no two parts share a page.
fn part(name: &str, lines: u64) -> String {
    let line = |n| format!("{{\"part\": \"{name}\", \"n\": {n}, \"pad\": \"{}\"}}\n", name.repeat(9_000));
    (0..lines).map(line).collect()
}

/// Flips a bit in the midst of the lines of a part, in whichever segment they stand.
fn flip_in(journal: &Path, name: &str) -> PathBuf {
    let wanted = name.repeat(5_000);
    for entry in std::fs::read_dir(journal).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = memchr::memmem::find(&bytes, wanted.as_bytes()) {
            bytes[at + 100] ^= 4;
            std::fs::write(&path, bytes).unwrap();
            return path;
        }
    }
    panic!("no segment holds {name}");
}

#[test]
fn all_is_well_before_the_first_start_while_a_daemon_runs_and_after() {
    let mill = Mill::new(LAZY);
    let before = mill.verb("doctor", &[]);
    assert!(before.status.success(), "{}", text(&before));
    assert!(!mill.path().join("data").exists(), "it makes nothing");
    let daemon = mill.start();
    daemon.send(part("a", 3).as_bytes());
    for arguments in [&[][..], &["--repair"]] {
        let running = mill.verb("doctor", arguments);
        let said = text(&running);
        assert!(running.status.success(), "{said}");
        assert!(said.contains("a daemon runs on it") && said.contains("all whole"), "{said}");
        assert!(said.lines().all(|line| line.starts_with("ok ") || line.starts_with("warning disk")), "{said}");
    }
    assert!(daemon.stop().success());
    let after = mill.verb("doctor", &["--json"]);
    assert!(after.status.success(), "{}", text(&after));
    let [journal] = checks(&after, "journal web").try_into().unwrap_or_else(|all| panic!("{all:?}"));
    assert_eq!(journal["details"]["damage"], Value::Array(Vec::new()));
    assert!(journal["details"]["last"].as_u64().unwrap() >= 3);
    let [checkpoints] = checks(&after, "checkpoints web").try_into().unwrap_or_else(|all| panic!("{all:?}"));
    assert!(checkpoints["says"].as_str().unwrap().contains("hits "), "{checkpoints}");
    // Its own look has not changed anything: the daemon starts, and nothing is lost.
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT sum(hits) || '' AS r FROM hits"), ["3"]);
}

#[test]
fn a_damaged_journal_stops_its_stream_and_no_other() {
    const OTHER: &str = r#"
        [streams.works]
        tcp = "127.0.0.1:0"
        [pipelines.sums]
        stream = "works"
        window = { tumbling = "1m" }
        aggregates = { n = "count(*)" }
    "#;
    let config = format!("{LAZY}{OTHER}");
    let mill = Mill::new(&config);
    let daemon = mill.start();
    for name in ["a", "b", "c"] {
        daemon.send(part(name, 3).as_bytes());
    }
    daemon.kill();
    flip_in(&mill.path().join("data/journal/web"), "b");

    mill.write_config(&config.replace("1h", "20ms"));
    let daemon = mill.start();
    let stats = daemon.stats();
    assert_eq!(stats["stopped_streams"][0]["name"], "web", "{stats}");
    let names: Vec<_> = stats["pipelines"].as_array().unwrap().iter().map(|pipeline| &pipeline["name"]).collect();
    assert_eq!(names, ["@works", "sums"]);
    let ready = daemon.get("/readyz");
    assert_eq!(ready["ready"], false);
    let reason = ready["degraded"][0].as_str().unwrap();
    assert!(reason.contains("stream web and its pipelines are stopped") && reason.contains("`doctor`"), "{ready}");
    let (status, answer) = daemon.post("/api/v1/streams/web/events", "{}\n");
    assert_eq!((status, &answer["error"]["code"]), (503, &"stream_stopped".into()));
    let (status, answer) = daemon.post("/api/v1/streams/works/events", "{}\n");
    assert_eq!((status, &answer["accepted"]), (202, &1.into()), "{answer}");
    daemon.wait_for_events("sums", 1);
    assert!(daemon.stop().success());

    assert!(mill.verb("doctor", &["--repair"]).status.success());
    let daemon = mill.start();
    daemon.wait_for_events("hits", 6);
    assert_eq!(mill.sql("SELECT sum(hits) || '' AS r FROM hits"), ["6"]);
}

#[test]
fn a_flipped_bit_is_named_and_a_repair_keeps_all_other_lines() {
    let mill = Mill::new(LAZY);
    let daemon = mill.start();
    for name in ["a", "b", "c"] {
        daemon.send(part(name, 3).as_bytes());
    }
    daemon.kill();
    let segment = flip_in(&mill.path().join("data/journal/web"), "b");
    let damaged = std::fs::read(&segment).unwrap();

    let look = mill.verb("doctor", &["--json"]);
    assert_eq!(look.status.code(), Some(1), "{}", text(&look));
    let [journal] = checks(&look, "journal web").try_into().unwrap_or_else(|all| panic!("{all:?}"));
    assert_eq!(journal["verdict"], "failed");
    let lost = &journal["details"]["damage"][0]["lost"];
    let (from, upto) = (lost[0][0].as_u64().unwrap(), lost[0][1].as_u64().unwrap());
    assert_eq!((lost.as_array().unwrap().len(), upto - from + 1), (1, 3), "{journal}");
    let positions = format!("positions {from}..={upto} are lost");
    assert!(journal["says"].as_str().unwrap().contains(&positions), "{journal}");
    assert!(journal["next"].as_str().unwrap().contains("--repair"), "{journal}");

    let refused = mill.refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(74), "{said}");
    assert!(
        said.contains(&format!("records from position {from} on are damaged")) && said.contains("`doctor`"),
        "{said}"
    );
    assert_eq!(std::fs::read(&segment).unwrap(), damaged, "neither changes it");

    let repair = mill.verb("doctor", &["--repair"]);
    let said = text(&repair);
    assert!(repair.status.success(), "{said}");
    assert!(said.contains(&positions) && said.contains("rows of @web, hits yet"), "{said}");
    let kept = segment.with_extension("seg.damaged");
    assert!(said.contains(&kept.display().to_string()), "{said}");
    assert_eq!(std::fs::read(&kept).unwrap(), damaged);
    let repaired = std::fs::read(&segment).unwrap();
    let again = mill.verb("doctor", &["--repair"]);
    assert!(again.status.success(), "{}", text(&again));
    assert!(text(&again).contains(&format!("given up by a repair: {from}..={upto}")), "{}", text(&again));
    assert_eq!(std::fs::read(&segment).unwrap(), repaired, "nothing is left to do");

    mill.write_config(&LAZY.replace("1h", "20ms"));
    let daemon = mill.start();
    daemon.wait_for_commit();
    daemon.send(part("d", 2).as_bytes());
    daemon.wait_for_commit();
    assert_eq!(
        mill.sql("SELECT part || ' ' || hits || ' ' || total AS r FROM hits ORDER BY part"),
        ["a 3 3", "c 3 3", "d 2 1"]
    );
    assert_eq!(daemon.pipeline("hits")["account"]["read"], 8);
    let log = mill.log();
    assert!(log.contains(&format!("positions {from}..={upto} were damaged in the journal")), "{log}");
}

#[test]
fn a_journal_under_a_running_daemon_is_not_repaired() {
    let mill = Mill::new(LAZY);
    let daemon = mill.start();
    for name in ["a", "b", "c"] {
        daemon.send(part(name, 3).as_bytes());
    }
    let segment = flip_in(&mill.path().join("data/journal/web"), "a");
    let damaged = std::fs::read(&segment).unwrap();
    let look = mill.verb("doctor", &["--repair"]);
    assert_eq!(look.status.code(), Some(1), "{}", text(&look));
    assert!(text(&look).contains("are lost") && text(&look).contains("stop the daemon"), "{}", text(&look));
    assert_eq!(std::fs::read(&segment).unwrap(), damaged);
    assert!(!segment.with_extension("seg.damaged").exists());
    drop(daemon);
}

#[test]
fn a_lost_foreign_or_shortened_data_dir_is_told_from_the_store() {
    let store = |mill: &Mill| format!("[store]\nurl = \"sqlite://{}\"", mill.path().join("elsewhere.db").display());
    let mill = Mill::new(LAZY);
    mill.write_config(&LAZY.replace("[store]", &store(&mill)));
    let daemon = mill.start();
    daemon.send(part("a", 3).as_bytes());
    assert!(daemon.stop().success());
    let (data, old) = (mill.path().join("data"), mill.path().join("old"));
    let copied = std::process::Command::new("cp").arg("-r").arg(&data).arg(&old).status().unwrap();
    assert!(copied.success());
    let daemon = mill.start();
    daemon.send(part("b", 2).as_bytes());
    let last = daemon.stats()["streams"][0]["journal"]["last"].as_u64().unwrap();
    assert!(daemon.stop().success());
    assert!(mill.verb("doctor", &[]).status.success());
    let look = || {
        let output = mill.verb("doctor", &["--json"]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let found = checks(&output, "checkpoint hits").remove(0);
        assert_eq!(found["verdict"], "failed");
        found["says"].as_str().unwrap().to_owned()
    };

    // Of yesterday.
    std::fs::rename(&data, mill.path().join("today")).unwrap();
    std::fs::rename(&old, &data).unwrap();
    let says = look();
    assert!(says.contains("but the journal ends at ") && says.contains("are missing"), "{says}");
    assert!(says.contains(&format!("..={last} are missing")), "{says}");
    let refused = mill.refused();
    assert_eq!(refused.status.code(), Some(78), "{}", String::from_utf8_lossy(&refused.stderr));

    // Lost.
    std::fs::remove_dir_all(&data).unwrap();
    let says = look();
    assert!(says.contains("but data_dir has no journal of its stream"), "{says}");

    // Another's.
    let refused = mill.refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("of another journal than the one in data_dir"), "{said}");
    let says = look();
    assert!(says.contains("but data_dir has journal "), "{says}");
}

#[test]
fn ports_that_others_have_and_a_disk_without_room_are_failures_with_a_way_out() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mill = Mill::new(&LAZY.replace("127.0.0.1:0", &address.to_string()).replace("\"1MiB\"", "\"1000000GiB\""));
    let look = mill.verb("doctor", &["--json"]);
    assert_eq!(look.status.code(), Some(1), "{}", text(&look));
    let port = checks(&look, "port web").remove(0);
    let (says, me) = (port["says"].as_str().unwrap(), format!("process {} (", std::process::id()));
    assert!(port["verdict"] == "failed" && says.contains(&me) && says.contains(&address.to_string()), "{port}");
    let disk = checks(&look, "disk").remove(0);
    assert!(disk["verdict"] == "failed" && disk["says"].as_str().unwrap().contains("producers are held"), "{disk}");
    for check in [port, disk] {
        assert!(!check["next"].as_str().unwrap().is_empty());
    }
}

#[test]
fn a_store_that_is_away_newer_or_none_is_a_failure_and_a_broken_config_is_78() {
    let mill = Mill::new(&LAZY.replace("[store]", "[store]\nurl = \"postgres://me@127.0.0.1:1/x\""));
    let look = mill.verb("doctor", &[]);
    assert_eq!(look.status.code(), Some(1));
    assert!(text(&look).contains("failed   store: postgres://me@127.0.0.1:1/x"), "{}", text(&look));

    let mill = Mill::new(LAZY);
    drop(mill.start());
    wait_until("the tables", || mill.database().exists().then_some(()));
    mill.sql("INSERT INTO __diesel_schema_migrations (version) VALUES ('9999') RETURNING '' AS r");
    let look = mill.verb("doctor", &[]);
    assert_eq!(look.status.code(), Some(1));
    assert!(text(&look).contains("a newer tidemill made its tables (schema 9999)"), "{}", text(&look));

    mill.write_config("[streams.web]\nfromat = \"ndjson\"");
    assert_eq!(mill.verb("doctor", &[]).status.code(), Some(78));
}
