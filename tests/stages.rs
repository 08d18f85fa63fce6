//! Stages that make several events of one, or know more than the event: `explode`, `enrich`; and events without a time.

use serde_json::json;

use crate::support::{Daemon, Mill, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.sales]
    stream = "web"
    time = "ts"
    missing_time = "ingest"
    delay = "0s"
    group_by = ["sku", "team"]
    window = { tumbling = "3650d" }
    aggregates = { pieces = "count(*)", sold = "sum(CAST(items.n AS bigint))" }
    [[pipelines.sales.stages]]
    explode = "items"
    [[pipelines.sales.stages]]
    set = { sku = "items.sku" }
    [[pipelines.sales.stages]]
    filter = "sku <> 'gift'"
    [[pipelines.sales.stages]]
    enrich = { table = "teams.csv", on = "sku", take = ["team"] }
    [pipelines.teams]
    stream = "web"
    time = "ts"
    window = { tumbling = "3650d" }
    aggregates = { n = "count(*)", known = "count(team)" }
    [[pipelines.teams.stages]]
    enrich = { table = "teams.csv", on = "user", take = ["team"], missing = "null" }
    [pipelines.known]
    stream = "web"
    time = "ts"
    window = { tumbling = "3650d" }
    aggregates = { n = "count(*)" }
    [[pipelines.known.stages]]
    enrich = { table = "teams.csv", on = "user", take = ["team"], missing = "drop" }
"#;

const TEAMS: &str = "sku,team\na,\"red, \"\"hot\"\"\"\nb,blue\n7,\n";

fn mill(teams: &str) -> Mill {
    let mill = Mill::new(CONFIG);
    std::fs::write(mill.path().join("teams.csv"), teams).unwrap();
    mill
}

fn order(items: &str) -> String {
    format!("{{\"ts\": 1431856800000, \"user\": \"x\", \"items\": {items}}}\n")
}

fn send(daemon: &Daemon, lines: &[String]) {
    daemon.send(lines.concat().as_bytes());
    daemon.wait_for_commit();
}

fn sales(mill: &Mill) -> Vec<String> {
    mill.sql(
        "SELECT coalesce(sku, '-') || ' ' || coalesce(team, '-') || ' ' || pieces || ' ' || coalesce(sold, '-') AS r \
         FROM sales ORDER BY r",
    )
}

fn letters(mill: &Mill) -> Vec<String> {
    mill.sql(
        "SELECT pipeline || ' ' || kind || ' ' || stage || ': ' || reason AS r FROM dead_letters ORDER BY position",
    )
}

#[test]
fn each_element_is_an_event_and_a_table_says_more_about_it() {
    let config = CONFIG.replace("on = \"user\"", "on = \"sku\"");
    let mill = mill(TEAMS);
    mill.write_config(&config);
    let daemon = mill.start();
    send(
        &daemon,
        &[
            order(r#"[{"sku": "a", "n": 2}, {"sku": "b", "n": 3}, {"sku": "gift", "n": 9}, {"sku": "a", "n": 4}]"#),
            order("[]"),
            order("null"),
            // A number finds the row of its text; an empty field of the table is NULL.
            order(r#"[{"sku": 7, "n": 1}]"#),
        ],
    );
    assert_eq!(sales(&mill), ["7 - 1 1", "a red, \"hot\" 2 6", "b blue 1 3"]);
    let account = &daemon.pipeline("sales")["account"];
    let counts =
        ["read", "made", "exploded", "filtered", "aggregated", "dead"].map(|name| account[name].as_u64().unwrap());
    assert_eq!(counts, [4, 5, 4, 1, 4, 0]);

    // An event fails whole.
    let unknown = r#"[{"sku": "a", "n": 1}, {"sku": "zz", "n": 1}]"#;
    let many = format!("[{}]", vec![r#"{"sku": "a", "n": 1}"#; 10_001].join(","));
    send(&daemon, &[order(unknown), order("\"a\""), order("{\"sku\": 1}"), order(&many)]);
    assert_eq!(sales(&mill), ["7 - 1 1", "a red, \"hot\" 2 6", "b blue 1 3"]);
    assert_eq!(
        letters(&mill),
        [
            "sales enrich enrich: teams.csv has no row for 'zz' (sku)",
            "sales expression explode: takes a list, not text 'a'",
            "sales expression explode: takes a list, not an object",
            "sales expression explode: 10001 outputs of one event are more than 10000",
        ]
    );

    // Another content of the table is taken by a reload, and its letters count when they are replayed.
    std::fs::write(mill.path().join("teams.csv"), format!("{TEAMS}zz,green\n")).unwrap();
    let (status, answer) = daemon.post("/api/v1/reload", "");
    assert_eq!(status, 200);
    assert!(answer["plan"].as_str().unwrap().contains("sales: kept: tables changes"), "{answer}");
    let replay = json!({ "pipeline": "sales", "kind": "enrich" }).to_string();
    wait_until("a replay", || (daemon.post("/api/v1/dead-letters/replay", &replay).0 == 202).then_some(()));
    wait_until("the letter to count", || sales(&mill).contains(&"zz green 1 1".to_owned()).then_some(()));
    assert_eq!(sales(&mill), ["7 - 1 1", "a red, \"hot\" 3 7", "b blue 1 3", "zz green 1 1"]);
}

#[test]
fn events_without_a_key_or_a_time_are_kept_where_the_config_says_so() {
    let config = CONFIG.replace("on = \"user\"", "on = \"who\"").replace("teams.csv", "users.csv");
    let mill = Mill::new(&config.replace("on = \"sku\"", "on = \"who\""));
    std::fs::write(mill.path().join("users.csv"), "who,team\nann,red\n").unwrap();
    let daemon = mill.start();
    let line = |ts: &str, who: &str| format!("{{{ts}\"who\": \"{who}\", \"items\": [{{\"sku\": \"a\", \"n\": 1}}]}}\n");
    let ts = "\"ts\": 1431856800000, ";
    send(&daemon, &[line(ts, "ann"), line(ts, "bob"), line("", "ann"), line("\"ts\": \"soon\", ", "ann")]);
    // `sales` takes the ingest time; a time that is there and cannot be read is a letter.
    assert_eq!(mill.sql("SELECT sum(pieces) || '' AS r FROM sales"), ["2"]);
    assert_eq!(mill.sql("SELECT sum(n) || ' ' || sum(known) AS r FROM teams"), ["2 1"]);
    assert_eq!(mill.sql("SELECT sum(n) || '' AS r FROM known"), ["1"]);
    assert_eq!(daemon.pipeline("known")["account"]["filtered"], 1);
    let mut kinds = mill.sql("SELECT pipeline || ' ' || kind AS r FROM dead_letters ORDER BY pipeline, position");
    kinds.dedup();
    assert_eq!(kinds, ["known time", "sales enrich", "sales time", "teams time"]);
}

#[test]
fn a_table_that_cannot_be_used_is_named_at_its_place() {
    for (teams, expected) in [
        ("sku,taem\na,b\n", "has no column `team` | expected: one of sku, taem | help: did you mean `taem`?"),
        ("sku,team\na,b\nb,c\na,d\n", "line 4 of the table `teams.csv` has the key `a` once more"),
        ("sku,team\na,b,c\n", "`teams.csv`: CSV error"),
    ] {
        let mill = mill(teams);
        mill.write_config(&CONFIG.replace("on = \"user\"", "on = \"sku\""));
        let refused = mill.refused();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        let (message, rest) = expected.split_once(" | ").unwrap_or((expected, ""));
        assert!(said.contains(message), "{said}");
        for part in rest.split(" | ") {
            assert!(said.contains(part.split_once(": ").map_or(part, |(_, part)| part)), "{part} in {said}");
        }
    }
    let mill = Mill::new(CONFIG);
    let said = String::from_utf8_lossy(&mill.refused().stderr).into_owned();
    assert!(said.contains("cannot read the table `teams.csv`"), "{said}");
}
