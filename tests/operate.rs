//! Taking hold of pipelines: pause, resume, skip, and what becomes of one that is too far behind.

use diesel::connection::SimpleConnection;
use tidemill::{Outcome, Tidemill};

use crate::support::weblog::web_log;
use crate::support::{Daemon, Mill, connect, sql, tidemill, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.held]
    stream = "web"
    time = "ts"
    delay = "10m"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", load = "sum(load)" }
    [pipelines.free]
    stream = "web"
    time = "ts"
    delay = "10m"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", load = "sum(load)" }
"#;
const COLUMNS: &str = "path, hits, load, partial, closed";

fn state(daemon: &Daemon, pipeline: &str) -> String {
    daemon.pipeline(pipeline)["state"].as_str().unwrap().to_owned()
}

fn message(answer: &serde_json::Value) -> &str {
    answer["error"]["message"].as_str().unwrap()
}

/// What `/readyz?strict` answers: the status and all that is degraded, as one text.
fn strict(daemon: &Daemon) -> (u16, String) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.get(format!("http://{}/readyz?strict", daemon.http)).call().unwrap();
    let body: serde_json::Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    (answer.status().as_u16(), body["degraded"].to_string())
}

fn check_account(account: &serde_json::Value) {
    let sum = |names: &[&str]| names.iter().map(|name| account[name].as_u64().unwrap()).sum::<u64>();
    let ended = sum(&["filtered", "aggregated", "late", "dead", "exploded", "skipped"]);
    assert_eq!(sum(&["read", "made"]), ended, "{account}");
}

#[test]
fn a_paused_pipeline_stands_still_and_catches_up_when_it_is_resumed() {
    let log = web_log(4_000, 6 * 3_600_000, 600_000, 20, 3);
    let half = log.iter().enumerate().filter(|(_, byte)| **byte == b'\n').nth(1_999).unwrap().0 + 1;
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(&log[..half]);
    daemon.wait_for_commit();
    let paused = tidemill().args(["pipeline", "pause", "held", "--url", &daemon.http]).output().unwrap();
    let said = String::from_utf8(paused.stdout).unwrap();
    assert!(said.starts_with("held: paused at position "), "{said}");
    let (before, rows) = (daemon.pipeline("held"), mill.rows("held", COLUMNS));
    daemon.send(&log[half..]);
    daemon.wait_for_events("free", 4_000);
    // Time enough for a pipeline that is not as still as it says: its neighbour flushes again and again.
    let line = &log[..=memchr::memchr(b'\n', &log).unwrap()];
    for event in 4_001..=4_010 {
        daemon.send(line);
        daemon.wait_for_events("free", event);
    }
    let now = daemon.pipeline("held");
    assert_eq!((&now["state"], &now["position"]), (&"paused".into(), &before["position"]));
    assert!(now["lag_positions"].as_u64().unwrap() >= 2_000 && now["lag_bytes"].as_u64().unwrap() > 0, "{now}");
    wait_until("its lag in time", || (daemon.pipeline("held")["lag_ms"].as_i64()? > 0).then_some(()));
    assert_eq!(mill.rows("held", COLUMNS), rows);
    let (status, degraded) = strict(&daemon);
    assert!(status == 503 && degraded.contains("pipeline held: paused (paused on request"), "{degraded}");
    assert_eq!(daemon.order("held", "pause", "").0, 200, "it is paused already");

    assert_eq!(daemon.order("held", "resume", "").0, 200);
    daemon.wait_for_commit();
    assert_eq!(mill.rows("held", COLUMNS), mill.rows("free", COLUMNS));
    assert!(mill.rows("held", COLUMNS).len() > rows.len());
    assert_eq!(daemon.pipeline("held")["account"]["read"], 4_010);
    wait_until("all to be well", || (strict(&daemon) == (200, "[]".to_owned())).then_some(()));
    assert_eq!(daemon.order("held", "resume", "").0, 200, "it runs already");
    assert!(mill.log().contains(": Pause of pipeline held: paused at position"), "{}", mill.log());
}

#[test]
fn pauses_at_any_moment_change_no_row() {
    let log = web_log(100_000, 24 * 3_600_000, 600_000, 30, 9);
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| daemon.send(&log));
        let mut pauses = 0;
        while !sender.is_finished() || pauses < 5 {
            assert_eq!(daemon.order("held", "pause", "").0, 200);
            let position = &daemon.pipeline("held")["position"];
            assert_eq!((state(&daemon, "held"), &daemon.pipeline("held")["position"]), ("paused".into(), position));
            assert_eq!(daemon.order("held", "resume", "").0, 200);
            pauses += 1;
        }
    });
    daemon.wait_for_commit();
    let account = &daemon.pipeline("held")["account"];
    assert_eq!((account["read"].as_u64(), account["aggregated"].as_u64()), (Some(100_000), Some(100_000)));
    assert!(mill.rows("held", COLUMNS) == mill.rows("free", COLUMNS));
}

/// Lines of which every seventh is none; of the good ones `n` is the line's position.
fn mixed(positions: std::ops::RangeInclusive<u64>) -> String {
    let line = |n: u64| match n % 7 {
        0 => format!("no json {n}\n"),
        _ => format!("{{\"ts\": {}, \"n\": {n}}}\n", 1_431_855_000_000 + n),
    };
    positions.map(line).collect()
}

fn good(positions: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = u64> {
    positions.filter(|n| n % 7 != 0)
}

const COUNTED: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.held]
    stream = "web"
    time = "ts"
    window = { tumbling = "1h" }
    aggregates = { hits = "count(*)", total = "sum(n)" }
"#;

#[test]
fn a_skip_counts_the_events_and_moves_nothing_else() {
    let mill = Mill::new(COUNTED);
    let daemon = mill.start();
    daemon.send(mixed(1..=100).as_bytes());
    daemon.wait_for_commit();
    let (status, answer) = daemon.order("held", "skip", r#"{"to": 200}"#);
    assert!(status == 409 && message(&answer).contains("tidemill pipeline pause held"), "{answer}");
    assert_eq!(daemon.order("held", "pause", "").0, 200);
    // Behind the first lines there may be ticks: the second lines begin where they are told to.
    let begin = daemon.stats()["streams"][0]["journal"]["last"].as_u64().unwrap();
    assert!(begin < 107, "the machine was too slow for this test's numbers");
    daemon.send(mixed(begin + 1..=1_000).as_bytes());
    let before = daemon.pipeline("held");
    let from = before["position"].as_u64().unwrap();
    let rows = mill.rows("held", "hits, total");

    for to in [from, 0, 10_000] {
        let (status, answer) = daemon.order("held", "skip", &format!("{{\"to\": {to}}}"));
        let last = daemon.stats()["streams"][0]["journal"]["last"].as_u64().unwrap();
        assert!(status == 400 && message(&answer).contains(&format!("it can skip to {}..=", from + 1)), "{answer}");
        assert!(last >= 1_000);
    }
    for body in ["", "{}", r#"{"to": "begin"}"#, r#"{"to": -1}"#, r#"{"to": 500, "from": 3}"#] {
        assert_eq!(daemon.order("held", "skip", body).1["error"]["code"], "bad_request", "{body}");
    }
    assert_eq!(daemon.order("hled", "pause", "").0, 404);

    let skipped = good(begin + 1..=500).count() as u64;
    let (status, answer) = daemon.order("held", "skip", r#"{"to": 500}"#);
    assert_eq!((status, &answer["state"], &answer["position"]), (200, &"paused".into(), &500.into()), "{answer}");
    assert_eq!(answer["skipped"], skipped);
    let after = daemon.pipeline("held");
    assert_eq!(after["watermark"], before["watermark"]);
    assert_eq!(mill.rows("held", "hits, total"), rows);
    daemon.kill();

    // Where the first flush behind the skip is killed, too, nothing is skipped or read twice.
    mill.start().kill();
    let daemon = mill.start();
    daemon.wait_for_commit();
    let account = &daemon.pipeline("held")["account"];
    check_account(account);
    let read: Vec<u64> = good(1..=100).chain(good(501..=1_000)).collect();
    assert_eq!(account["skipped"], skipped);
    assert_eq!(account["aggregated"], read.len());
    let row = format!(r#"["2015-05-17 09:00:00","2015-05-17 10:00:00",{},{},1]"#, read.len(), read.iter().sum::<u64>());
    assert_eq!(mill.rows("held", "hits, total, partial"), [row], "which says that it did not see its window whole");

    assert_eq!(daemon.order("held", "pause", "").0, 200);
    let begin = daemon.stats()["streams"][0]["journal"]["last"].as_u64().unwrap();
    daemon.send(b"{\"ts\": 1431855000000, \"n\": 1}\nno json\n{\"ts\": 1431855000000, \"n\": 1}\n");
    let said = tidemill().args(["pipeline", "skip", "held", "--to", "end", "--url", &daemon.http]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.contains(", 2 events skipped") && said.contains("tidemill pipeline resume held"), "{said}");
    assert!(daemon.pipeline("held")["position"].as_u64().unwrap() >= begin + 3);
    let account = &daemon.pipeline("held")["account"];
    check_account(account);
    assert_eq!(account["skipped"], skipped + 2);
    assert_eq!(daemon.order("held", "resume", "").0, 200);
    daemon.send(b"{\"ts\": 1431855000000, \"n\": 1}\n");
    daemon.wait_for_events("held", account["read"].as_u64().unwrap() + 1);
}

/// A config with a small journal, and lines of about 1 KiB.
fn small_journal(held: &str) -> String {
    COUNTED.replace(
        "[pipelines.held]",
        &format!(
            r#"
            journal_limit = "8MiB"
            journal_keep = "0s"
            [pipelines.free]
            stream = "web"
            time = "ts"
            window = {{ tumbling = "1h" }}
            aggregates = {{ hits = "count(*)" }}
            [pipelines.held]
            {held}
            "#
        ),
    )
}

fn large(count: u64) -> Vec<u8> {
    let pad = "x".repeat(1_000);
    let line = |n: u64| format!("{{\"ts\": {}, \"n\": {n}, \"pad\": \"{pad}\"}}\n", 1_431_855_000_000 + n);
    (0..count).map(line).collect::<String>().into_bytes()
}

#[test]
fn a_pipeline_beyond_max_behind_frees_the_journal_for_its_neighbours() {
    let mill = Mill::new(&small_journal("max_behind = \"2MiB\""));
    let daemon = mill.start();
    daemon.send(&large(100));
    daemon.wait_for_commit();
    assert_eq!(daemon.order("held", "pause", "").0, 200);
    // Four journals full: held back for ever, if it were kept for the paused one.
    for part in 1..=8 {
        daemon.send(&large(4_000));
        daemon.wait_for_events("free", 100 + part * 4_000);
    }
    let held = daemon.pipeline("held");
    let error = held["error"].as_str().unwrap();
    assert!(
        error.starts_with("paused on request") && error.contains("further behind than max_behind (2MiB)"),
        "{error}"
    );
    let position = held["position"].as_u64().unwrap();
    let first = daemon.stats()["streams"][0]["journal"]["first"].as_u64().unwrap();
    assert!(first > position + 1, "{first}");
    let missing = |said: &str| {
        assert!(said.contains(&format!("positions {}..=", position + 1)), "{said}");
        let to = said.split("skip held --to ").nth(1).unwrap_or_else(|| panic!("{said}"));
        to.split('`').next().unwrap().parse::<u64>().unwrap()
    };
    let (status, answer) = daemon.order("held", "resume", "");
    assert_eq!(status, 409);
    missing(message(&answer));
    assert_eq!(state(&daemon, "held"), "paused");

    // A start is not held up by what the config gave away.
    daemon.kill();
    let daemon = mill.start();
    let held = wait_until("it to be paused", || {
        let held = daemon.pipeline("held");
        (held["state"] == "paused").then_some(held)
    });
    missing(held["error"].as_str().unwrap());
    // Its neighbours still commit, and the journal keeps nothing for it: what it begins with moves on meanwhile.
    let (refused, answer) = wait_until("a skip to where the journal begins", || {
        let to = missing(message(&daemon.order("held", "resume", "").1));
        let (status, refused) = daemon.order("held", "skip", &format!("{{\"to\": {}}}", to - 1));
        assert_eq!(status, 400, "{refused}");
        let (status, answer) = daemon.order("held", "skip", &format!("{{\"to\": {to}}}"));
        (status == 200).then_some(((to, refused), answer))
    });
    let (to, refused) = refused;
    assert!(message(&refused).contains(&format!("it can skip to {to}..=")), "{refused}");
    let skipped = answer["skipped"].as_u64().unwrap();
    assert_eq!(daemon.order("held", "resume", "").0, 200);
    daemon.wait_for_commit();
    let account = &daemon.pipeline("held")["account"];
    check_account(account);
    assert_eq!((account["read"].as_u64(), account["skipped"].as_u64()), (Some(32_100), Some(skipped)));
    assert_eq!(account["aggregated"], 32_100 - skipped);
}

#[test]
fn a_resumed_pipeline_catches_up_from_beyond_max_behind() {
    let mill = Mill::new(&small_journal("max_behind = \"1MiB\"").replace("\"0s\"", "\"1h\""));
    let daemon = mill.start();
    assert_eq!(daemon.order("held", "pause", "").0, 200);
    daemon.send(&large(4_000));
    wait_until("max_behind", || daemon.pipeline("held")["error"].as_str()?.contains("max_behind").then_some(()));
    assert_eq!(daemon.order("held", "resume", "").0, 200, "the journal still has its records");
    daemon.send(&large(500));
    daemon.wait_for_events("held", 4_500);
    assert_eq!(daemon.pipeline("held")["account"]["skipped"], 0);
}

#[test]
fn who_pins_a_journal_is_named_from_half_of_its_limit_on() {
    let mill = Mill::new(&small_journal(""));
    let daemon = mill.start();
    assert_eq!(daemon.order("held", "pause", "").0, 200);
    let pinned_by = || daemon.stats()["streams"][0]["journal"]["pinned_by"].clone();
    daemon.send(&large(2_000));
    daemon.wait_for_events("free", 2_000);
    assert_eq!(pinned_by(), serde_json::json!([]));
    daemon.send(&large(3_000));
    daemon.wait_for_events("free", 5_000);
    assert_eq!(pinned_by(), serde_json::json!(["held"]));
    let (status, degraded) = strict(&daemon);
    assert!(status == 503 && degraded.contains("pipeline held pins the journal of stream web: "), "{degraded}");
    let said = "pipeline held pins the journal of stream web: ";
    wait_until("the log to say so", || mill.log().contains(said).then_some(()));
    assert_eq!(daemon.order("held", "resume", "").0, 200);
    wait_until("nobody to pin it", || (pinned_by() == serde_json::json!([])).then_some(()));
    assert_eq!(mill.log().matches(said).count(), 1, "once, not each second");
}

#[test]
fn a_refused_pipeline_resumes_when_the_cause_is_gone() {
    let log = web_log(2_000, 3_600_000, 60_000, 20, 4);
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let execute = |sql: &str| connect(&mill.database()).batch_execute(sql).unwrap();
    execute(
        "CREATE TRIGGER no_rows BEFORE INSERT ON window_results WHEN new.pipeline = 'held'
         BEGIN SELECT RAISE(ABORT, 'no rows today'); END;
         CREATE TRIGGER no_letters BEFORE INSERT ON dead_letters BEGIN SELECT RAISE(ABORT, 'no letters today'); END",
    );
    daemon.send(&log);
    daemon.send(b"no json\n");
    daemon.wait_for_events("free", 2_000);
    let refused = |name: &str, why: &str| {
        wait_until(&format!("{name} to be refused"), || {
            let pipeline = daemon.pipeline(name);
            (pipeline["state"] == "refused" && pipeline["error"].as_str()?.contains(why)).then_some(())
        });
    };
    refused("held", "no rows today");
    refused("@web", "no letters today");
    let (status, answer) = daemon.order("held", "pause", "");
    assert!(status == 409 && message(&answer).contains("tidemill pipeline resume held"), "{answer}");
    assert_eq!(daemon.order("held", "resume", "").0, 200);
    refused("held", "no rows today");
    assert_eq!(mill.rows("held", COLUMNS), Vec::<String>::new());
    execute("DROP TRIGGER no_rows; DROP TRIGGER no_letters");
    for name in ["held", "@web"] {
        assert_eq!(daemon.order(name, "resume", "").0, 200);
    }
    daemon.wait_for_commit();
    assert_eq!(mill.rows("held", COLUMNS), mill.rows("free", COLUMNS));
    assert_eq!(mill.sql("SELECT CAST(line AS TEXT) AS r FROM dead_letters"), ["no json"]);
    assert_eq!(daemon.order("@web", "pause", "").0, 409, "an intake is not paused");

    // Another writer takes the fence.
    execute("UPDATE checkpoints SET epoch = epoch + 1 WHERE pipeline = 'held'");
    daemon.send(&log[..=memchr::memchr(b'\n', &log).unwrap()]);
    wait_until("it to be fenced", || (state(&daemon, "held") == "fenced").then_some(()));
    for (verb, body) in [("resume", ""), ("skip", r#"{"to": "end"}"#)] {
        let (status, answer) = daemon.order("held", verb, body);
        assert!(status == 409 && message(&answer).contains("another daemon writes pipeline held"), "{answer}");
    }
}

#[test]
fn a_store_that_is_away_is_said_with_what_the_journal_has_left() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut locked = connect(&mill.database());
    locked.batch_execute("BEGIN IMMEDIATE").unwrap();
    daemon.send(&web_log(2_000, 3_600_000, 60_000, 20, 4));
    let degraded = wait_until("the store to be away", || {
        let degraded = strict(&daemon).1;
        degraded.contains("store away for ").then_some(degraded)
    });
    // A connection that is made anew names the file, too.
    assert!(degraded.contains("(the store is away: ") && degraded.contains("database is locked)"), "{degraded}");
    assert_eq!(degraded.matches("store away").count(), 1, "once for all pipelines: {degraded}");
    assert_eq!(daemon.get("/readyz")["ready"], true, "lines are taken");
    locked.batch_execute("ROLLBACK").unwrap();
    daemon.wait_for_commit();
    wait_until("all to be well", || (strict(&daemon) == (200, "[]".to_owned())).then_some(()));
    assert_eq!(mill.rows("held", COLUMNS), mill.rows("free", COLUMNS));
}

/// Lines of 2 KiB a round: in all less than the mailbox of a stage holds, and more than a slow one can take.
const ROUND_LINES: u64 = 640;
const ROUNDS: u64 = 20;

#[tokio::test(flavor = "current_thread")]
async fn a_fast_pipeline_stays_within_two_flushes_of_live_beside_a_slow_one() {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        r#"
        data_dir = {:?}
        [store]
        flush_every = "200ms"
        [http]
        listen = "127.0.0.1:0"
        [streams.web]
        [pipelines.slow]
        stream = "web"
        time = "ts"
        window = {{ tumbling = "1d" }}
        aggregates = {{ hits = "count(*)" }}
        [[pipelines.slow.stages]]
        custom = "sleep"
        [pipelines.fast]
        stream = "web"
        time = "ts"
        window = {{ tumbling = "1d" }}
        aggregates = {{ hits = "count(*)" }}
        "#,
        folder.path()
    );
    let mill = Tidemill::from_str(&config).unwrap().stage("sleep", |_| {
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(Outcome::Keep)
    });
    let mill = mill.start().await.unwrap();
    let web = mill.stream("web").unwrap();
    let stats = |name: &str| {
        let stats: serde_json::Value = serde_json::from_str(&mill.stats().unwrap()).unwrap();
        stats["pipelines"].as_array().unwrap().iter().find(|pipeline| pipeline["name"] == name).unwrap().clone()
    };
    let mut committed = mill.pipeline("fast").unwrap().committed();
    let line = format!("{{\"ts\": 1431855000000, \"pad\": \"{}\"}}", "x".repeat(2_000));
    let mut fell_behind = false;
    for round in 1..=ROUNDS {
        for _ in 0..ROUND_LINES {
            web.send(line.as_str()).await.unwrap();
        }
        web.synced().await.unwrap();
        let mut position = *committed.borrow_and_update();
        for _ in 0..2 {
            if position < round * ROUND_LINES {
                committed.changed().await.unwrap();
                position = *committed.borrow_and_update();
            }
        }
        assert!(position >= round * ROUND_LINES, "round {round}: at {position} two flushes later");
        fell_behind |= stats("slow")["state"] == "behind";
    }
    let slow = stats("slow");
    let read = slow["account"]["read"].as_u64().unwrap();
    assert!(fell_behind && read < ROUNDS * ROUND_LINES, "the slow one is behind: {slow}");
    let mut slow = mill.pipeline("slow").unwrap().committed();
    slow.wait_for(|position| *position >= ROUNDS * ROUND_LINES).await.unwrap();
    web.send(line.as_str()).await.unwrap();
    web.synced().await.unwrap();
    slow.wait_for(|position| *position > ROUNDS * ROUND_LINES).await.unwrap();
    assert_eq!(stats("slow")["state"], "running", "it has joined again");
    mill.shutdown().await;
    let hits = "SELECT (SELECT hits FROM slow) || ' ' || (SELECT hits FROM fast) AS r";
    let all = ROUNDS * ROUND_LINES + 1;
    assert_eq!(sql(&folder.path().join("tidemill.db"), hits), [format!("{all} {all}")]);
}
