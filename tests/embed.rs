//! The embedding API, in another program's runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::StreamExt;
use tidemill::{Event, Outcome, StageError, Tidemill};

fn config(folder: &std::path::Path) -> String {
    format!(
        r#"
        data_dir = {folder:?}
        [store]
        flush_every = "20ms"
        [http]
        listen = "127.0.0.1:0"
        [streams.web]
        [pipelines.views]
        stream = "web"
        time = "ts"
        group_by = ["country"]
        window = {{ tumbling = "1m" }}
        aggregates = {{ views = "count(*)" }}
        [[pipelines.views.stages]]
        custom = "geo"
        [pipelines.plain]
        stream = "web"
        time = "ts"
        window = {{ tumbling = "1m" }}
        aggregates = {{ views = "count(*)" }}
        "#
    )
}

fn geo(event: &mut Event) -> Result<Outcome, StageError> {
    match event.get("ip").and_then(|ip| ip.as_str()) {
        Some("10.0.0.1") => event.set("country", "NL"),
        Some("robot") => return Ok(Outcome::Drop),
        Some("twice") => {
            event.set("country", "DE");
            let mut other = event.clone();
            other.set("country", "FR");
            return Ok(Outcome::Many(vec![event.clone(), other]));
        }
        Some("half") => {
            event.set("country", "DE");
            let mut other = event.clone();
            other.set("country", "x".repeat(2_000));
            return Ok(Outcome::Many(vec![event.clone(), other]));
        }
        Some("panic") => panic!("no such place"),
        _ => return Err(StageError::Bad("no ip".to_owned())),
    }
    Ok(Outcome::Keep)
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_embeds_the_system_with_a_stage_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mill = Tidemill::from_str(&config(folder.path())).unwrap().stage("geo", geo).start().await.unwrap();
    let web = mill.stream("web").unwrap();
    assert!(mill.stream("wbe").is_err());
    let views = mill.pipeline("views").unwrap();
    let mut changes = std::pin::pin!(views.changes());
    for ip in ["10.0.0.1", "robot", "twice", "half", "panic", "nobody", "10.0.0.1"] {
        web.send(format!(r#"{{"ts": 1431855030, "ip": "{ip}"}}"#)).await.unwrap();
    }
    web.synced().await.unwrap();
    let mut committed = views.committed();
    committed.wait_for(|position| *position >= 7).await.unwrap();
    let mut rows = views.now().await.unwrap();
    let country = rows.columns.iter().position(|column| column == "country").unwrap();
    let count = rows.columns.iter().position(|column| column == "views").unwrap();
    rows.rows.sort_by_key(|row| row[country].to_string());
    let rows: Vec<_> = rows.rows.iter().map(|row| format!("{} {}", row[country], row[count])).collect();
    assert_eq!(rows, [r#""DE" 1"#, r#""FR" 1"#, r#""NL" 2"#]);
    assert!(changes.next().await.unwrap().is_ok());
    // A panic in a stage is a letter, and nothing else.
    let stats: serde_json::Value = serde_json::from_str(&mill.stats().unwrap()).unwrap();
    let pipelines = stats["pipelines"].as_array().unwrap();
    let account = &pipelines.iter().find(|pipeline| pipeline["name"] == "views").unwrap()["account"];
    let count = |name: &str| account[name].as_u64().unwrap();
    assert_eq!(
        ["read", "made", "filtered", "aggregated", "dead", "exploded"].map(count),
        [7, 2, 1, 4, 3, 1],
        "an event that is taken apart fails whole"
    );
    assert!(stats["actors"].as_array().unwrap().iter().all(|actor| actor["restarts"] == 0));
    mill.shutdown().await;
    let letters = "SELECT kind || ': ' || reason AS r FROM dead_letters ORDER BY position";
    let letters = crate::support::sql(&folder.path().join("tidemill.db"), letters);
    assert_eq!(letters[1..], ["panic: no such place", "custom: no ip"]);
    assert!(letters[0].starts_with("group: the group's key has "), "{letters:?}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stage_that_nobody_registered_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Tidemill::from_str(&config(folder.path())).unwrap().start().await.err().unwrap();
    assert!(error.to_string().contains("\"geo\""), "{error}");
}

/// Counts how many lookups are under way, and the most that were.
#[derive(Default)]
struct Lookups {
    now: AtomicUsize,
    most: AtomicUsize,
}

#[tokio::test(flavor = "current_thread")]
async fn a_stage_that_waits_takes_many_events_at_once_and_keeps_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(folder.path()).replace(
        "aggregates = { views = \"count(*)\" }\n        [[pipelines",
        "aggregates = { views = \"count(*)\", last = \"last(n)\", all = \"sum(n)\" }\n        [[pipelines.views.stages]]\n        \
         explode = \"ns\"\n        [[pipelines.views.stages]]\n        set = { n = \"CAST(ns AS bigint)\" }\n        [[pipelines",
    );
    let lookups = Arc::new(Lookups::default());
    let seen = lookups.clone();
    let tries = Arc::new(AtomicUsize::new(0));
    let mill = Tidemill::from_str(&config).unwrap().stage_async("geo", 8, async move |event| {
        let now = seen.now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.most.fetch_max(now, Ordering::SeqCst);
        let n = event.get("n").and_then(|n| n.as_i64()).unwrap();
        // Who comes first waits longest.
        tokio::time::sleep(std::time::Duration::from_millis((400 - n as u64) / 20)).await;
        seen.now.fetch_sub(1, Ordering::SeqCst);
        match n {
            7 => Ok(Outcome::Drop),
            13 => Err(StageError::Bad("unlucky".to_owned())),
            99 if tries.fetch_add(1, Ordering::SeqCst) < 2 => Err(StageError::Transient("again".to_owned())),
            200 => panic!("two hundred"),
            _ => geo(event),
        }
    });
    let mill = mill.start().await.unwrap();
    let web = mill.stream("web").unwrap();
    // Two parts an event: one that has a bad part, or one at which the stage panics, fails whole.
    for event in 0..200 {
        let ip = if event == 20 { "twice" } else { "10.0.0.1" };
        let (first, second) = (2 * event, 2 * event + 1);
        web.send(format!(r#"{{"ts": 1431855030, "ip": "{ip}", "ns": [{first}, {second}]}}"#)).await.unwrap();
    }
    web.synced().await.unwrap();
    let views = mill.pipeline("views").unwrap();
    views.committed().wait_for(|position| *position >= 200).await.unwrap();
    let rows = views.now().await.unwrap();
    let at = |name: &str| rows.columns.iter().position(|column| column == name).unwrap();
    let row = |row: &Vec<serde_json::Value>| ["country", "views", "last", "all"].map(|name| row[at(name)].clone());
    let mut rows: Vec<_> = rows.rows.iter().map(|of| serde_json::json!(row(of)).to_string()).collect();
    rows.sort();
    // 400 parts, without 7, 12 and 13, 200 and 201, and those of the event that is two.
    let (count, all) = (400 - 5 - 2, (0..400).sum::<i64>() - 7 - 12 - 13 - 200 - 201 - 40 - 41);
    let expected =
        ["[\"DE\",2,41,81]".to_owned(), "[\"FR\",2,41,81]".to_owned(), format!("[\"NL\",{count},399,{all}]")];
    assert_eq!(rows, expected);
    assert_eq!(lookups.most.load(Ordering::SeqCst), 8);
    let stats: serde_json::Value = serde_json::from_str(&mill.stats().unwrap()).unwrap();
    let account = &stats["pipelines"].as_array().unwrap().iter().find(|of| of["name"] == "views").unwrap()["account"];
    let count = |name: &str| account[name].as_u64().unwrap();
    // Of 198 events that did not fail each was taken apart, and two of their parts once more.
    assert_eq!(["read", "made", "filtered", "dead", "exploded"].map(count), [200, 400, 1, 2, 200]);
    mill.shutdown().await;
    let letters = "SELECT kind || ': ' || stage || ': ' || reason AS r FROM dead_letters ORDER BY position";
    let letters = crate::support::sql(&folder.path().join("tidemill.db"), letters);
    assert_eq!(letters, ["custom: custom geo: unlucky", "panic: custom geo: two hundred"]);
}
