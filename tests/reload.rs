//! A running daemon takes a changed config file: what changes begins again behind its last commit, the rest goes on.

use serde_json::{Value, json};

use crate::support::{Daemon, Mill, wait_until};

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
    aggregates = { hits = "count(*)" }
    [pipelines.all]
    stream = "web"
    time = "ts"
    delay = "0s"
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)" }
"#;

/// What `CONFIG` does not ask for: another field of the lines.
const USERS: &str = r#"
    [pipelines.users]
    stream = "web"
    time = "ts"
    delay = "0s"
    group_by = ["user"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)" }
"#;

fn event(minute: i64, path: &str, user: &str) -> String {
    format!("{{\"ts\": {}, \"path\": \"{path}\", \"user\": \"{user}\"}}\n", BEGIN + minute * MINUTE)
}

fn send(daemon: &Daemon, lines: &[String]) {
    daemon.send(lines.concat().as_bytes());
    daemon.wait_for_commit();
}

fn hang_up(daemon: &Daemon) {
    let sent = std::process::Command::new("kill").args(["-HUP", &daemon.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// How often a pipeline's generation began: each takes the fence once.
fn epoch(mill: &Mill, pipeline: &str) -> String {
    mill.sql(&format!("SELECT epoch || '' AS r FROM checkpoints WHERE pipeline = '{pipeline}'")).concat()
}

fn rows(mill: &Mill, view: &str, group: &str) -> Vec<String> {
    let minute = format!("((window_start_ms - {BEGIN}) / {MINUTE})");
    mill.sql(&format!(
        "SELECT {minute} || ' ' || {group} || ' ' || hits AS r FROM {view} ORDER BY window_start_ms, {group}"
    ))
}

fn names(daemon: &Daemon) -> Vec<Value> {
    let stats = daemon.stats();
    stats["pipelines"].as_array().unwrap().iter().map(|pipeline| pipeline["name"].clone()).collect()
}

#[test]
fn a_hangup_adds_changes_and_removes_pipelines_and_leaves_the_others_alone() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut client = daemon.client();
    send(&daemon, &[event(0, "/a", "ann"), event(1, "/b", "bob")]);
    let (hits, all) = (epoch(&mill, "hits"), epoch(&mill, "all"));

    // One that is new, and wants a field that nobody asked for when the connection was made.
    mill.write_config(&format!("{CONFIG}{USERS}"));
    hang_up(&daemon);
    wait_until("the new pipeline", || names(&daemon).contains(&json!("users")).then_some(()));
    daemon.wait_for_commit();
    assert_eq!(rows(&mill, "users", "user"), ["0 ann 1", "1 bob 1"], "it has read what was there");
    client.write(event(2, "/a", "ann").as_bytes());
    client.sync();
    send(&daemon, &[event(2, "/a", "cy")]);
    assert_eq!(rows(&mill, "users", "user"), ["0 ann 1", "1 bob 1", "2 ann 1", "2 cy 1"]);
    assert_eq!(daemon.pipeline("users")["state"], "running");
    assert_eq!((epoch(&mill, "hits"), epoch(&mill, "all")), (hits.clone(), all.clone()), "the others were not touched");

    // One changes and keeps its results, one goes.
    let changed = CONFIG.replacen("delay = \"0s\"", "delay = \"10m\"", 1).replacen(
        "hits = \"count(*)\"",
        "hits = \"count(*)\", users = \"first(user)\"",
        1,
    );
    mill.write_config(&changed);
    let (status, answer) = daemon.post("/api/v1/reload", "");
    assert_eq!(
        (status, &answer["changed"], &answer["removed"]),
        (200, &json!(["hits"]), &json!(["users"])),
        "{answer}"
    );
    let plan = answer["plan"].as_str().unwrap();
    assert!(plan.contains("all: goes on\nhits: kept: delay changes, aggregate users is added"), "{plan}");
    assert!(plan.contains("users: removed: rows and views stay"), "{plan}");
    assert_eq!(names(&daemon), ["@web", "hits", "all"]);
    send(&daemon, &[event(4, "/a", "dee"), event(3, "/a", "eve")]);
    assert_eq!(rows(&mill, "hits", "path"), ["0 /a 1", "1 /b 1", "2 /a 2", "3 /a 1", "4 /a 1"]);
    assert_eq!(daemon.pipeline("hits")["account"]["late"], 0, "it waits for minute 3");
    let named =
        mill.sql("SELECT coalesce(users, '-') AS r FROM hits WHERE window_start_ms >= 1431856920000 ORDER BY 1");
    assert_eq!(named, ["-", "dee", "eve"], "windows that had begun have none");
    assert_eq!(rows(&mill, "users", "user").len(), 4, "what was stored stays");
    assert_eq!(epoch(&mill, "all"), all);
    assert_ne!(epoch(&mill, "hits"), hits);
    assert!(daemon.stop().success());

    // The next start finds nothing that it must do.
    let daemon = mill.start();
    send(&daemon, &[event(5, "/a", "ann")]);
    assert_eq!(rows(&mill, "hits", "path").len(), 6);
}

#[test]
fn a_changed_pipeline_loses_and_doubles_nothing_under_load() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let lines: Vec<String> = (0..40_000).map(|i| event(i / 1_000, "/a", ["ann", "bob"][i as usize % 2])).collect();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut client = daemon.client();
            for lines in lines.chunks(500) {
                client.write(lines.concat().as_bytes());
                client.sync();
            }
        });
        // Each one changes `hits`, and every second one adds or removes `users`.
        for round in 0.. {
            let users = if round % 2 == 0 { USERS } else { "" };
            let delay = format!("delay = \"{}ms\"", round + 1);
            mill.write_config(&format!("{}{users}", CONFIG.replacen("delay = \"0s\"", &delay, 1)));
            let (status, answer) = daemon.post("/api/v1/reload", "");
            assert_eq!((status, &answer["refused"]), (200, &json!([])), "{answer}");
            if sender.is_finished() && round % 2 == 0 {
                break;
            }
        }
    });
    daemon.wait_for_commit();
    let expected: Vec<String> = (0..40).map(|minute| format!("{minute} /a 1000")).collect();
    assert_eq!(rows(&mill, "hits", "path"), expected);
    let expected: Vec<String> =
        (0..40).flat_map(|minute| ["ann", "bob"].map(|user| format!("{minute} {user} 500"))).collect();
    assert_eq!(rows(&mill, "users", "user"), expected);
    assert_eq!(rows(&mill, "\"all\"", "hits").len(), 40);
    assert_eq!(epoch(&mill, "all"), "1");
}

#[test]
fn what_cannot_be_taken_changes_nothing() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    send(&daemon, &[event(0, "/a", "ann"), event(1, "/a", "ann")]);
    let reload = |config: &str, body: &str| {
        mill.write_config(config);
        let (status, answer) = daemon.post("/api/v1/reload", body);
        let text = |name: &str| answer["error"][name].as_str().unwrap_or_default().to_owned();
        (status, text("code"), text("message"))
    };
    let (status, code, message) = reload(&CONFIG.replacen("count(*)", "cuont(*)", 1), "");
    assert_eq!((status, code.as_str()), (422, "config"));
    assert!(message.contains("cuont") && message.contains("tidemill.toml"), "{message}");

    let (status, code, message) = reload(&CONFIG.replace("20ms", "30ms"), "");
    assert_eq!((status, code.as_str()), (409, "restart_needed"));
    assert!(message.contains("[store]"), "{message}");
    let (status, _, message) = reload(&CONFIG.replace("tcp =", "max_line = \"1KiB\"\n    tcp ="), "");
    assert!(status == 409 && message.contains("[streams.web]"), "{message}");

    let (status, code, _) = reload(CONFIG, "{\"acept_plan\": \"x\"}");
    assert_eq!((status, code.as_str()), (400, "bad_request"));

    // A new revision that does not begin with the first record loses rows: that must be accepted, by its code alone.
    let lossy = CONFIG.replacen("[pipelines.hits]", "[pipelines.hits]\nstart = \"now\"", 1);
    let lossy = lossy.replacen("hits = \"count(*)\"", "hits = \"count(path)\"", 1);
    let (status, code, message) = reload(&lossy, "");
    assert_eq!((status, code.as_str()), (409, "plan"));
    let (_, accept) = message.split_once("--accept-plan ").unwrap();
    let accept = accept.split('`').next().unwrap();
    let (status, _, message) = reload(&lossy, "{\"accept_plan\": \"01234567\"}");
    assert!(status == 409 && message.contains("the code of another plan"), "{message}");
    assert_eq!((epoch(&mill, "hits").as_str(), daemon.pipeline("hits")["state"].clone()), ("1", json!("running")));
    let (status, ..) = reload(&lossy, &format!("{{\"accept_plan\": \"{accept}\"}}"));
    assert_eq!(status, 200);
    send(&daemon, &[event(9, "/a", "ann")]);
    assert_eq!(rows(&mill, "hits", "path"), ["0 /a 1", "9 /a 1"], "what was open is gone, as the plan said");

    // A pipeline whose view is not ours is stopped, and says so; its neighbour goes on.
    mill.sql("CREATE VIEW taken AS SELECT 1 AS one");
    mill.write_config(&format!("{}{}", lossy, USERS.replace("users", "taken")));
    let (status, answer) = daemon.post("/api/v1/reload", "");
    assert_eq!(status, 200);
    assert!(answer["refused"][0].as_str().unwrap().contains("taken"), "{answer}");
    assert_eq!(daemon.pipeline("taken")["state"], "refused");
    send_to_the_others(&daemon, &mill);
}

fn send_to_the_others(daemon: &Daemon, mill: &Mill) {
    daemon.send(event(10, "/a", "ann").as_bytes());
    wait_until("the row", || (rows(mill, "hits", "path").last()? == "10 /a 1").then_some(()));
}
