//! `tidemill tap`: events as they pass, and nobody is held up by whoever watches.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::support::{Daemon, Mill, tidemill};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.sales]
    stream = "web"
    time = "ts"
    delay = "0s"
    group_by = ["sku"]
    window = { tumbling = "1h" }
    aggregates = { pieces = "count(*)", sold = "sum(n)" }
    [[pipelines.sales.stages]]
    filter = "kind = 'order'"
    [[pipelines.sales.stages]]
    explode = "items"
    [[pipelines.sales.stages]]
    set = { sku = "lower(items.sku)", n = "CAST(items.n AS bigint)" }
"#;

/// A watch whose lines are read as JSON.
struct Watch {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watch {
    /// Begins, and waits until it watches.
    fn begin(daemon: &Daemon, name: &str, more: &[&str]) -> Self {
        let mut child = tidemill()
            .args(["tap", name, "--json", "--rate", "1000", "--url", &daemon.http])
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut watch = Self { lines: BufReader::new(child.stdout.take().unwrap()), child };
        let word = watch.line();
        assert!(word["tap"]["passed"] == 0 && word["tap"]["state"].is_string(), "{word}");
        watch
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"))
    }

    fn event(&mut self) -> Value {
        loop {
            let line = self.line();
            if line.get("tap").is_none() {
                return line;
            }
        }
    }

    /// Its exit code, and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

fn lines() -> Vec<String> {
    let order = |ts: u64, items: Value| json!({ "ts": ts, "kind": "order", "items": items });
    let hour = 1_431_856_800;
    let events = [
        order(hour, json!([{ "sku": "A", "n": 2 }, { "sku": "B", "n": "3" }])),
        json!({ "ts": hour, "kind": "view" }),
        order(hour + 3_600, json!([{ "sku": "A", "n": "many" }])),
        order(hour, json!([{ "sku": "\u{1b}[2J", "n": 1 }])),
        json!({ "kind": "order" }),
    ];
    events.iter().map(|event| format!("{event}\n")).chain(["no event\n".to_owned()]).collect()
}

/// What is in the store of it.
fn stored(mill: &Mill, daemon: &Daemon) -> (Vec<String>, Vec<String>, Value) {
    let rows = mill.sql("SELECT window_start || sku || pieces || ' ' || sold AS r FROM sales ORDER BY r");
    let letters = mill.sql("SELECT pipeline || kind || stage || reason || position AS r FROM dead_letters ORDER BY r");
    (rows, letters, daemon.pipeline("sales")["account"].clone())
}

#[test]
fn a_pipeline_shows_what_each_stage_makes_of_an_event() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut watch = Watch::begin(&daemon, "sales", &["--limit", "6"]);
    daemon.send(lines().concat().as_bytes());
    let events: Vec<Value> = (0..6).map(|_| watch.event()).collect();
    assert_eq!(watch.end().0, Some(0));
    let outcomes: Vec<_> = events.iter().map(|event| event["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["exploded", "filtered", "letter", "exploded", "letter", "rejected"]);

    let steps = events[0]["steps"].as_array().unwrap();
    let part = |step: &Value| step.get("part").map(Value::to_string).unwrap_or_default();
    let step = |step: &Value| {
        format!(
            "{}{} {} {}",
            part(step),
            step["stage"],
            step["kind"].as_str().unwrap(),
            step["outcome"].as_str().unwrap()
        )
    };
    assert_eq!(
        steps.iter().map(step).collect::<Vec<_>>(),
        [
            "1 filter passed",
            "2 explode exploded",
            "[0]3 set passed",
            "[0]null window aggregated",
            "[1]3 set passed",
            "[1]null window aggregated",
        ]
    );
    assert_eq!((&steps[0]["text"], &steps[1]["into"]), (&json!("kind = 'order'"), &json!(2)));
    assert_eq!(steps[4]["set"], json!({ "sku": "b", "n": 3 }));
    assert_eq!(steps[5]["group"], json!({ "sku": "b" }));
    assert_eq!(steps[5]["inputs"], json!({ "pieces": true, "sold": 3 }));
    assert_eq!(events[0]["fields"]["kind"], "order");
    assert_eq!((&events[0]["position"], &events[0]["watermark"]), (&json!(1), &Value::Null));

    assert_eq!(events[1]["steps"].as_array().unwrap().len(), 1);
    assert_eq!(events[1]["steps"][0]["outcome"], "filtered");
    let letter = &events[2]["letter"];
    assert_eq!((&letter["kind"], &letter["stage"]), (&json!("expression"), &json!("set")));
    assert_eq!(events[2]["steps"][2]["outcome"], "failed");
    // The third one's time has closed its window.
    assert_eq!(events[3]["steps"][3]["outcome"], "late");
    assert_eq!((&events[4]["letter"]["kind"], &events[5]["letter"]["kind"]), (&json!("time"), &json!("decode")));

    // The same lines without a watch.
    let other = Mill::new(CONFIG);
    let unwatched = other.start();
    unwatched.send(lines().concat().as_bytes());
    daemon.wait_for_commit();
    unwatched.wait_for_commit();
    let watched = stored(&mill, &daemon);
    assert_eq!(watched, stored(&other, &unwatched));
    assert_eq!((watched.0.len(), watched.1.len()), (3, 3));
}

#[test]
fn a_stream_shows_its_lines_and_a_replayed_letter_is_one() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut web = Watch::begin(&daemon, "web", &[]);
    daemon.send(b"{\"ts\":1431856800}\nno event\n");
    let (first, second) = (web.event(), web.event());
    assert_eq!((&first["line"], &first["outcome"]), (&json!("{\"ts\":1431856800}"), &json!("taken")));
    assert_eq!((&second["position"], &second["outcome"]), (&json!(2), &json!("rejected")));
    assert!(second["letter"]["reason"].as_str().unwrap().starts_with("not JSON"), "{second}");

    daemon.wait_for_commit();
    let mut sales = Watch::begin(&daemon, "sales", &[]);
    daemon.send(b"{\"ts\":1431856800,\"kind\":\"order\",\"items\":7}\n");
    let event = sales.event();
    assert_eq!((&event["outcome"], event.get("replayed")), (&json!("letter"), None));
    let replay = json!({ "pipeline": "sales" }).to_string();
    daemon.wait_for_commit();
    let (status, answer) = daemon.post("/api/v1/dead-letters/replay", &replay);
    assert_eq!((status, &answer["replays"][0]["letters"]), (202, &json!(1)));
    let again = sales.event();
    assert_eq!((&again["outcome"], &again["replayed"]), (&json!("letter"), &json!(true)));
    assert_eq!(again["position"], event["position"]);

    assert!(daemon.stop().success());
    for watch in [web, sales] {
        let (code, said) = watch.end();
        assert!(code == Some(69) && said.contains("the daemon"), "{code:?} {said}");
    }
}

#[test]
fn a_watcher_that_reads_nothing_holds_nobody_up() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut taps: Vec<TcpStream> = (0..8)
        .map(|_| {
            let mut tap = TcpStream::connect(&daemon.http).unwrap();
            let path = "/api/v1/pipelines/sales/tap?rate=1000";
            write!(tap, "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", daemon.http).unwrap();
            // Its first word says that it watches.
            let mut head = Vec::new();
            while !head.ends_with(b"}}\n") {
                let mut byte = [0];
                tap.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            tap
        })
        .collect();
    let output = tidemill().args(["tap", "sales", "--limit", "1", "--url", &daemon.http]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("8 others watch sales already"), "{said}");
    let items: Vec<Value> = (0..100).map(|n| json!({ "sku": "x".repeat(50), "n": n })).collect();
    let line = format!("{}\n", json!({ "ts": 1_431_856_800, "kind": "order", "items": items }));
    for _ in 0..5 {
        daemon.send(line.repeat(500).as_bytes());
    }
    daemon.wait_for_events("sales", 2_500);
    assert_eq!(daemon.pipeline("sales")["account"]["aggregated"], 250_000);
    // What was dropped is said to the one that reads at last.
    let mut lines = BufReader::new(taps.remove(0)).lines();
    let dropped = lines.find_map(|line| {
        let word: Value = serde_json::from_str(&line.unwrap()).ok()?;
        word["tap"]["dropped"].as_u64().filter(|dropped| *dropped > 0)
    });
    assert!(dropped.is_some());
}

#[test]
fn a_name_that_is_none_is_told_the_nearest() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let output = tidemill().args(["tap", "sale", "--url", &daemon.http]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("did you mean `sales`?"), "{said}");
    assert_eq!(daemon.get("/api/v1/streams/wbe/tap")["error"]["code"], "unknown_stream");
    assert_eq!(daemon.get("/api/v1/pipelines/sales/tap?rate=0")["error"]["code"], "bad_request");
    drop(daemon);
    let output = tidemill().args(["tap", "sales", "--url", "127.0.0.1:1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
}
