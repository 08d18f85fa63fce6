//! Letters that come again: each counts once, in its own window, whatever happens meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use crate::support::postgres::{shared, unique_schema};
use crate::support::{Daemon, Mill, copy, tidemill, wait_until};

const HOUR: i64 = 3_600_000;
/// 2015-05-17T10:00:00Z.
const BEGIN: i64 = 1_431_856_800_000;

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.hits]
    stream = "web"
    time = "ts"
    delay = "0s"
    late = "dead_letter"
    correct_for = "30d"
    group_by = ["path"]
    window = { tumbling = "1h" }
    aggregates = { hits = "count(*)", sum = "sum(CAST(n AS bigint))" }
    [pipelines.sliding]
    stream = "web"
    time = "ts"
    delay = "0s"
    late = "drop"
    window = { sliding = "2h", every = "1h" }
    aggregates = { hits = "count(*)" }
"#;

fn event(time: i64, path: &str, n: &str) -> String {
    format!("{{\"ts\": {time}, \"path\": \"{path}\", \"n\": \"{n}\"}}\n")
}

/// Late events of ten windows, which have closed when they come.
fn late_events(count: i64) -> String {
    let mut lines = event(BEGIN + 20 * HOUR, "/now", "1");
    lines.extend((0..count).map(|i| event(BEGIN + i * 7_919 % (10 * HOUR), &format!("/{}", i % 13), &i.to_string())));
    lines
}

/// What counts of them in which window, computed from the lines alone.
fn expected(count: i64) -> BTreeMap<(i64, String), (i64, i64)> {
    let mut rows = BTreeMap::new();
    rows.insert((BEGIN + 20 * HOUR, "/now".to_owned()), (1, 1));
    for i in 0..count {
        let start = BEGIN + i * 7_919 % (10 * HOUR) / HOUR * HOUR;
        let row: &mut (i64, i64) = rows.entry((start, format!("/{}", i % 13))).or_default();
        *row = (row.0 + 1, row.1 + i);
    }
    rows
}

fn stored(daemon: &Daemon) -> BTreeMap<(i64, String), (i64, i64)> {
    let row = |row: &serde_json::Value| {
        // window_start, window_end, window_start_ms, closed, partial, other, revised_at, path, hits, sum
        let number = |value: &serde_json::Value| value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap();
        ((number(&row[2]), row[7].as_str().unwrap().to_owned()), (number(&row[8]), number(&row[9])))
    };
    daemon.rows("hits").iter().map(row).collect()
}

fn replay(daemon: &Daemon, body: serde_json::Value) -> (u16, serde_json::Value) {
    daemon.post("/api/v1/dead-letters/replay", &body.to_string())
}

fn under_replay(daemon: &Daemon, pipeline: &str) -> u64 {
    daemon.pipeline(pipeline)["letters_under_replay"].as_u64().unwrap()
}

fn wait_for_replay(daemon: &Daemon, pipeline: &str) {
    wait_until("the replay to end", || (under_replay(daemon, pipeline) == 0).then_some(()));
}

fn letters(daemon: &Daemon, pipeline: &str) -> Vec<serde_json::Value> {
    let answer = daemon.get(&format!("/api/v1/dead-letters?pipeline={pipeline}&limit=1000"));
    answer["letters"].as_array().unwrap().clone()
}

/// 100,000 letters replayed with kills in the middle, and the command given again and again.
fn replayed_through_kills(mill: &Mill) {
    const LETTERS: i64 = 100_000;
    let daemon = mill.start();
    daemon.send(late_events(LETTERS).as_bytes());
    daemon.wait_for_commit();
    let account = &daemon.pipeline("hits")["account"];
    assert_eq!((account["late"].as_i64(), account["aggregated"].as_i64()), (Some(LETTERS), Some(1)));
    let (status, answer) = replay(&daemon, json!({"pipeline": "hits"}));
    assert_eq!((status, answer), (202, json!({"replays": [{"pipeline": "hits", "letters": LETTERS}], "refused": []})));
    let (status, answer) = replay(&daemon, json!({"pipeline": "hits"}));
    // It depends on how far the first has come.
    let said = answer["error"]["message"].as_str().unwrap();
    let told = said.contains("is under way") || said.contains("may have records of an earlier replay before it");
    assert!(status == 409 && told, "{status} {answer}");

    let mut daemon = daemon;
    let mut kills = 0;
    for pause_ms in [0, 30, 60, 90, 120, 150] {
        let before = under_replay(&daemon, "hits");
        if before == 0 {
            break;
        }
        // Killed once some more have counted, each time a bit later.
        wait_until("letters to count", || (under_replay(&daemon, "hits") < before).then_some(()));
        std::thread::sleep(Duration::from_millis(pause_ms));
        kills += u32::from(under_replay(&daemon, "hits") > 0);
        daemon.kill();
        daemon = mill.start();
        let (status, _) = replay(&daemon, json!({"pipeline": "hits"}));
        assert!(status == 409 || under_replay(&daemon, "hits") == 0, "{status}");
    }
    assert!(kills > 0, "no kill came in the middle");
    wait_for_replay(&daemon, "hits");
    daemon.wait_for_commit();
    assert_eq!(replay(&daemon, json!({"pipeline": "hits"})), (202, json!({"replays": [], "refused": []})));
    assert!(stored(&daemon) == expected(LETTERS), "rows differ from what was sent");
    let account = &daemon.pipeline("hits")["account"];
    let counts = ["read", "aggregated", "late", "dead"].map(|key| account[key].as_i64().unwrap());
    assert_eq!(counts, [2 * LETTERS + 1, LETTERS + 1, LETTERS, 0]);
}

#[test]
fn a_hundred_thousand_letters_count_once_through_kills() {
    let mill = Mill::new(CONFIG);
    replayed_through_kills(&mill);
    // The same journal in the hands of a daemon that nobody disturbs.
    let calm = Mill::new(CONFIG);
    copy(&mill.path().join("data/journal"), &calm.path().join("data/journal"));
    let daemon = calm.start();
    daemon.wait_for_commit();
    let columns = "path, hits, sum, revised_at";
    assert!(mill.rows("hits", columns) == calm.rows("hits", columns), "rows");
    let letters = "SELECT json_array(position, kind, reason, attempts, failed_at, replayed_at) AS r \
                   FROM dead_letters ORDER BY position";
    assert!(mill.sql(letters) == calm.sql(letters), "letters");
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM dead_letters WHERE replayed_at IS NULL"), ["0"]);
}

#[test]
fn a_hundred_thousand_letters_count_once_in_postgresql() {
    let store = format!("[store]\n    url = \"{}\"\n    schema = \"{}\"", shared().url(), unique_schema());
    replayed_through_kills(&Mill::new(&CONFIG.replace("[store]", &store)));
}

#[test]
fn what_fails_again_is_a_letter_of_one_more_attempt_and_only_its_pipeline_minds() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let lines = [
        event(BEGIN + 5 * HOUR, "/a", "1"),
        event(BEGIN, "/a", "abc"),
        event(BEGIN, "/b", "7"),
        event(BEGIN + 5 * HOUR, "/c", "x"),
    ];
    daemon.send(lines.concat().as_bytes());
    daemon.wait_for_commit();
    let ids = |daemon: &Daemon| {
        letters(daemon, "hits").iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&daemon), ["web:4:hits", "web:3:hits", "web:2:hits"]);
    let (watermark, sliding) = (daemon.pipeline("hits")["watermark"].clone(), daemon.pipeline("sliding"));
    let dlq = |arguments: &[&str]| {
        let output = tidemill().arg("dlq").args(arguments).args(["--url", &daemon.http]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr))
    };
    assert_eq!(dlq(&["replay"]).0, Some(64), "it must be said which");
    let (code, said) = dlq(&["replay", "web:2:hits", "web:3:hits"]);
    assert!(code == Some(0) && said.starts_with("hits: 2 letters are on their way again; `tidemill dlq"), "{said}");
    wait_for_replay(&daemon, "hits");
    let after = letters(&daemon, "hits");
    let shown = |index: usize| (after[index]["attempts"].as_i64().unwrap(), after[index]["replayed_at"].is_null());
    assert_eq!([shown(0), shown(1), shown(2)], [(1, true), (1, false), (2, true)]);
    assert!(after[2]["reason"].as_str().unwrap().contains("abc"), "{}", after[2]);
    let rows = mill.rows("hits", "path, hits, sum, revised_at IS NULL");
    let b = "[\"2015-05-17 10:00:00\",\"2015-05-17 11:00:00\",\"/b\",1,7,0]";
    assert!(rows.len() == 2 && rows[0] == b, "{rows:?}");
    assert_eq!(daemon.pipeline("hits")["watermark"], watermark, "letters move no watermark");
    daemon.wait_for_commit();
    let now = daemon.pipeline("sliding");
    assert_eq!(
        (&now["account"], &now["watermark"]),
        (&sliding["account"], &sliding["watermark"]),
        "others pass over it"
    );
    // Again, and this time the whole pipeline; the one that has counted stays out of it.
    let (_, said) = dlq(&["replay", "--pipeline", "hits", "--limit", "1"]);
    assert!(said.starts_with("hits: 1 letters"), "{said}");
    wait_for_replay(&daemon, "hits");
    assert_eq!(letters(&daemon, "hits")[2]["attempts"], 3);
    assert_eq!(dlq(&["replay", "--all", "--before", "0"]).0, Some(64));
}

#[test]
fn a_letter_dropped_as_late_corrects_sliding_windows_when_it_is_replayed() {
    let mill = Mill::new(&CONFIG.replace("late = \"drop\"", "late = \"dead_letter\""));
    let daemon = mill.start();
    daemon.send((event(BEGIN + 5 * HOUR, "/a", "1") + &event(BEGIN + 1, "/a", "1")).as_bytes());
    daemon.wait_for_commit();
    let (status, _) = replay(&daemon, json!({"pipeline": "sliding", "kind": "late"}));
    assert_eq!(status, 202);
    wait_for_replay(&daemon, "sliding");
    let closed = "SELECT window_start || ' ' || hits AS r FROM sliding WHERE closed ORDER BY window_start";
    assert_eq!(mill.sql(closed), ["2015-05-17 09:00:00 1", "2015-05-17 10:00:00 1"]);
    assert_eq!(daemon.pipeline("hits")["account"]["aggregated"], 1, "its own letter waits");
}

#[test]
fn a_replay_that_cannot_be_is_refused_with_its_reason() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send((event(BEGIN, "/a", "x") + "no json\n").as_bytes());
    daemon.wait_for_commit();
    let refused = |body: serde_json::Value, status: u16, reason: &str| {
        let (found, answer) = replay(&daemon, body.clone());
        assert!(found == status && answer["error"]["message"].as_str().unwrap().contains(reason), "{body}: {answer}");
    };
    refused(json!({"pipeline": "nobody"}), 404, "there are: hits, sliding");
    refused(json!({"pipeline": "@web"}), 400, "send it again");
    refused(json!({"ids": ["web:2:@web"]}), 400, "send it again");
    refused(json!({"ids": ["web"]}), 400, "is no letter's id");
    refused(json!({"pipelines": ["hits"]}), 400, "unknown field");
    refused(json!({"ids": vec!["web:1:hits"; 1_001]}), 400, "1001 ids");
    assert_eq!(daemon.order("hits", "pause", "").0, 200);
    refused(json!({"pipeline": "hits"}), 409, "hits is paused");
    assert_eq!(replay(&daemon, json!({"ids": ["other:1:hits", "web:77:sliding"]})).1["replays"], json!([]));
}

#[test]
fn letters_whose_replay_is_skipped_are_free_again() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(late_events(50).as_bytes());
    daemon.wait_for_commit();
    // Paused before it reads them, so that the records of the replay stand unread in the journal.
    let before = daemon.pipeline("hits")["position"].as_u64().unwrap();
    let (status, _) = replay(&daemon, json!({"pipeline": "hits", "limit": 10}));
    assert_eq!(status, 202);
    assert_eq!(daemon.order("hits", "pause", "").0, 200);
    wait_until("the letters to be in the journal", || {
        (daemon.stats()["streams"][0]["journal"]["durable"].as_u64().unwrap() >= before + 10).then_some(())
    });
    let done = 10 - mill.sql("SELECT replay_number || '' AS r FROM dead_letters WHERE replay_number IS NOT NULL").len();
    let (status, answer) = daemon.order("hits", "skip", "{\"to\": \"end\"}");
    assert!(status == 200 || done == 10, "{answer}");
    assert_eq!(daemon.order("hits", "resume", "").0, 200);
    wait_until("it to run", || (daemon.pipeline("hits")["state"] == "running").then_some(()));
    let (status, answer) = replay(&daemon, json!({"pipeline": "hits"}));
    assert_eq!((status, &answer["replays"][0]["letters"]), (202, &json!(50 - done)), "{answer}");
    wait_for_replay(&daemon, "hits");
    assert!(stored(&daemon) == expected(50), "after {done} that were not skipped");
}

#[test]
fn a_pipeline_pauses_when_its_letters_have_no_more_room() {
    let config = format!("[dead_letters]\nlimit = \"1MiB\"\nat_limit = \"pause\"\n{CONFIG}");
    let mill = Mill::new(&config);
    let daemon = mill.start();
    for round in 1..=3 {
        // One flush may go beyond the limit, so each round has its own.
        daemon.send(late_events(4_000).as_bytes());
        wait_until("a flush", || {
            let pipeline = daemon.pipeline("hits");
            let read = pipeline["account"]["read"].as_i64().unwrap();
            (read == round * 4_001 || pipeline["state"] == "paused").then_some(())
        });
    }
    let paused = wait_until("the pipeline to pause", || {
        let pipeline = daemon.pipeline("hits");
        (pipeline["state"] == "paused").then_some(pipeline)
    });
    let error = paused["error"].as_str().unwrap();
    assert!(error.contains("reached their limit, 1MiB") && error.contains("dlq purge --pipeline hits"), "{error}");
    // The way out that it names; nothing is lost on it.
    for round in 0.. {
        assert!(round < 100);
        let purged = tidemill().args(["dlq", "purge", "--pipeline", "hits", "--url", &daemon.http]).output().unwrap();
        assert!(purged.status.success());
        daemon.order("hits", "resume", "");
        let settled = wait_until("a verdict", || {
            let pipeline = daemon.pipeline("hits");
            let late = pipeline["account"]["late"].as_i64().unwrap();
            (pipeline["state"] == "paused" || late == 12_000).then_some(late)
        });
        if settled == 12_000 {
            break;
        }
    }
    assert_eq!(daemon.pipeline("sliding")["account"]["read"], 12_003, "no other pipeline waited");
}
