//! A config that has changed: what keeps its results, what begins anew, and what is refused until somebody accepts it.

use std::process::Output;

use serde_json::json;

use crate::support::{Daemon, Mill, tidemill, wait_until};

/// 2015-05-17T10:00:00Z.
const BEGIN: i64 = 1_431_856_800_000;
const MINUTE: i64 = 60_000;

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.hits]
    stream = "web"
    time = "ts"
    delay = "0s"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", sum = "sum(CAST(n AS bigint))" }
    [pipelines.all]
    stream = "web"
    time = "ts"
    delay = "0s"
    window = { sliding = "3m", every = "1m" }
    aggregates = { hits = "count(*)" }
"#;

fn event(minute: i64, path: &str, n: &str) -> String {
    format!("{{\"ts\": {}, \"path\": \"{path}\", \"n\": \"{n}\"}}\n", BEGIN + minute * MINUTE)
}

fn send(daemon: &Daemon, lines: &[String]) {
    daemon.send(lines.concat().as_bytes());
    daemon.wait_for_commit();
}

fn rows(mill: &Mill, columns: &str) -> Vec<String> {
    let minute = format!("((window_start_ms - {BEGIN}) / {MINUTE})");
    mill.sql(&format!(
        "SELECT {minute} || ' ' || path || ' ' || {columns} AS r FROM hits ORDER BY window_start_ms, path"
    ))
}

fn plan(mill: &Mill) -> String {
    let output = tidemill().arg("plan").arg(mill.config()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The code that a plan says to accept it by.
fn code(said: &str) -> String {
    let (_, rest) = said.split_once("--accept-plan ").unwrap_or_else(|| panic!("no code in: {said}"));
    rest.split('`').next().unwrap().to_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_mended_expression_counts_all_that_the_journal_has() {
    let mill = Mill::new(CONFIG);
    assert_eq!(
        plan(&mill),
        "all: new: begins behind position 0\nhits: new: begins behind position 0\n\
                             nothing is lost by this (plan e3b0c442)\n"
    );
    let daemon = mill.start();
    send(&daemon, &[event(0, "/a", "1"), event(0, "/a", "abc"), event(5, "/b", "2")]);
    assert_eq!(daemon.pipeline("hits")["account"]["dead"], 1);
    assert!(plan(&mill).starts_with("all: goes on\nhits: goes on\n"), "also while the daemon runs");
    assert!(daemon.stop().success());
    mill.write_config(&CONFIG.replace("CAST(n", "TRY_CAST(n"));
    let shown = plan(&mill);
    assert!(
        shown.contains("hits: new revision (aggregates): begins behind position 0 and makes all its rows anew"),
        "{shown}"
    );
    assert!(shown.contains("all: goes on") && shown.contains("nothing is lost"), "{shown}");
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(rows(&mill, "hits || ' ' || sum"), ["0 /a 2 1", "5 /b 1 2"]);
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM dead_letters"), ["0"], "it was read again");
    let account = &daemon.pipeline("hits")["account"];
    assert_eq!((&account["read"], &account["dead"], &account["aggregated"]), (&json!(3), &json!(0), &json!(3)));
    assert_eq!(mill.sql("SELECT name || revision AS r FROM pipelines ORDER BY name"), ["@web1", "all1", "hits2"]);
}

#[test]
fn what_would_be_lost_must_be_accepted_and_closed_rows_stay() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    // 0 and 1 have closed when 2 begins; 2 is open.
    send(&daemon, &[event(0, "/a", "1"), event(1, "/a", "1"), event(2, "/a", "1")]);
    assert!(daemon.stop().success());
    let changed = CONFIG.replace("sum(CAST(n AS bigint))", "max(CAST(n AS bigint))");
    mill.write_config(&changed.replace("[pipelines.hits]", "[pipelines.hits]\nstart = \"now\""));
    let refused = mill.refused();
    assert_eq!(refused.status.code(), Some(78), "{}", said(&refused));
    assert!(
        said(&refused).contains("hits: new revision (aggregates): begins behind position 3; "),
        "{}",
        said(&refused)
    );
    assert_eq!(code(&said(&refused)), code(&plan(&mill)));
    let mill = mill.with(&["--accept-plan", "12345678"]);
    let wrong = mill.refused();
    assert!(wrong.status.code() == Some(78) && said(&wrong).contains("the code of another plan"), "{}", said(&wrong));
    let code = code(&plan(&mill));
    let mill = mill.with(&["--accept-plan", &code]);
    let daemon = mill.start();
    // Records of a closed window of the older revision, of one that was open, and of one that is new.
    send(&daemon, &[event(1, "/a", "7"), event(2, "/a", "7"), event(9, "/a", "7")]);
    let columns = "hits || ' ' || sum || ' ' || closed || partial";
    assert_eq!(rows(&mill, columns), ["0 /a 1 1 10", "1 /a 1 1 10", "2 /a 1 7 11", "9 /a 1 7 01"]);
    let account = &daemon.pipeline("hits")["account"];
    assert_eq!((&account["read"], &account["late"], &account["aggregated"]), (&json!(3), &json!(1), &json!(2)));
    let late = mill.sql("SELECT kind || ': ' || reason AS r FROM dead_letters");
    assert!(
        late.len() == 1 && late[0].contains("the results of an older revision of the pipeline, which stay"),
        "{late:?}"
    );
    daemon.kill();
    // It goes on as the new revision, with nothing to accept any more; the same again after a kill.
    let mill = mill.with(&[]);
    let daemon = mill.start();
    send(&daemon, &[event(1, "/a", "8"), event(9, "/a", "8")]);
    assert_eq!(rows(&mill, columns), ["0 /a 1 1 10", "1 /a 1 1 10", "2 /a 1 7 11", "9 /a 2 8 01"]);
    // A code accepts what it was made for, and nothing after that.
    assert!(daemon.stop().success());
    mill.write_config(&std::fs::read_to_string(mill.config()).unwrap().replace("max(", "min("));
    let mill = mill.with(&["--accept-plan", &code]);
    let stale = mill.refused();
    assert!(stale.status.code() == Some(78) && said(&stale).contains("the code of another plan"), "{}", said(&stale));
    assert_eq!(rows(&mill, columns).len(), 4, "all rows stay");
}

#[test]
fn an_added_aggregate_begins_with_the_windows_that_begin_after_it() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    send(&daemon, &[event(0, "/a", "1"), event(2, "/a", "1")]);
    assert!(daemon.stop().success());
    let aggregates = "{ most = \"max(CAST(n AS bigint))\", sum = \"sum(CAST(n AS bigint))\", hits = \"count(*)\", \
                      kinds = \"count(distinct n)\", middle = \"median(CAST(n AS bigint))\" }";
    let old = "{ hits = \"count(*)\", sum = \"sum(CAST(n AS bigint))\" }";
    assert!(CONFIG.contains(old));
    mill.write_config(&CONFIG.replace(old, aggregates).replacen("delay = \"0s\"", "delay = \"1s\"", 1));
    let shown = plan(&mill);
    assert!(shown.contains("hits: kept: delay changes, aggregate "), "{shown}");
    for added in ["most", "kinds", "middle"] {
        assert!(shown.contains(&format!("aggregate {added} is added")), "{shown}");
    }
    let daemon = mill.start();
    send(
        &daemon,
        &[event(2, "/a", "5"), event(2, "/b", "5"), event(0, "/a", "5"), event(3, "/a", "5"), event(3, "/a", "6")],
    );
    let expected = ["0 /a 2 6 - - -", "2 /a 2 6 - - -", "2 /b 1 5 - - -", "3 /a 2 11 6 2 5.03125"];
    let columns = "hits || ' ' || sum || ' ' || coalesce(most, '-') || ' ' || coalesce(kinds, '-') \
                   || ' ' || coalesce(middle, '-')";
    assert_eq!(rows(&mill, columns), expected);
    daemon.kill();
    let daemon = mill.start();
    send(&daemon, &[event(2, "/b", "1"), event(3, "/b", "1")]);
    assert_eq!(
        rows(&mill, columns),
        ["0 /a 2 6 - - -", "2 /a 2 6 - - -", "2 /b 2 6 - - -", "3 /a 2 11 6 2 5.03125", "3 /b 1 1 1 1 1.0"]
    );
}

#[test]
fn rows_of_a_removed_pipeline_stay_until_it_is_dropped() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    send(&daemon, &[event(0, "/a", "1"), event(0, "/a", "x")]);
    assert!(daemon.stop().success());
    let (first, _) = CONFIG.split_once("[pipelines.all]").unwrap();
    mill.write_config(first);
    assert!(plan(&mill).contains("all: removed: rows and views stay until `tidemill pipeline drop all`"));
    let daemon = mill.start();
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM \"all\""), ["1"]);
    let drop = |name: &str| {
        let output = tidemill().args(["pipeline", "drop", name, "--url", &daemon.http]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout.clone()).unwrap() + &said(&output))
    };
    assert_eq!(drop("all"), (Some(0), "all: dropped at position 0\n".to_owned()));
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM sqlite_master WHERE name LIKE 'all%'"), ["0"]);
    assert_eq!(drop("all").0, Some(64), "it is gone");
    // One that runs is not dropped; one that is stopped can begin anew.
    let (code, refused) = drop("hits");
    assert!(code == Some(69) && refused.contains("only a paused or refused pipeline"), "{refused}");
    assert_eq!(daemon.order("hits", "pause", "").0, 200);
    let (code, dropped) = drop("hits");
    assert!(code == Some(0) && dropped.contains("resume hits` begins it anew"), "{dropped}");
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM dead_letters"), ["0"]);
    assert_eq!(daemon.order("hits", "resume", "").0, 200);
    wait_until("it to begin anew", || (daemon.pipeline("hits")["account"]["read"] == 2).then_some(()));
    assert_eq!(rows(&mill, "hits"), ["0 /a 1"]);
}

#[test]
fn letters_of_an_older_revision_count_in_the_new_one() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    send(&daemon, &[event(0, "/a", "x"), event(1, "/a", "1"), event(8, "/a", "y"), event(8, "/a", "1")]);
    assert!(daemon.stop().success());
    let mended = CONFIG.replace("CAST(n AS bigint)", "coalesce(TRY_CAST(n AS bigint), 100)");
    mill.write_config(&mended.replace("[pipelines.hits]", "[pipelines.hits]\nstart = \"now\""));
    let code = code(&plan(&mill));
    let mill = mill.with(&["--accept-plan", &code]);
    let daemon = mill.start();
    daemon.wait_for_commit();
    wait_until("the first commit", || {
        send(&daemon, &[event(8, "/b", "1")]);
        (mill.sql("SELECT revision || '' AS r FROM pipelines WHERE name = 'hits'") == ["2"]).then_some(())
    });
    let (status, answer) = daemon.post("/api/v1/dead-letters/replay", "{\"pipeline\": \"hits\"}");
    assert_eq!((status, &answer["replays"][0]["letters"]), (202, &json!(2)), "{answer}");
    wait_until("the replay to end", || (daemon.pipeline("hits")["letters_under_replay"] == 0).then_some(()));
    // Minute 0 had closed and keeps the rows of the older revision; 8 was open, and is of the new one.
    let a = rows(&mill, "hits || ' ' || sum").into_iter().filter(|row| row.contains("/a")).collect::<Vec<_>>();
    assert_eq!(a, ["1 /a 1 1", "8 /a 1 100"]);
    let letters = "SELECT kind || attempts || (replayed_at IS NULL) AS r FROM dead_letters ORDER BY position";
    assert_eq!(mill.sql(letters), ["late21", "expression10"]);
}
