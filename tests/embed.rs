//! The embedding API, in another program's runtime.

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
