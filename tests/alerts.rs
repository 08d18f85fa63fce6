//! Alerts of a whole daemon: rows of a table, and POSTs to whoever is to be told.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use crate::crash::resume;
use crate::support::receiver::Receiver;
use crate::support::redis::free_port;
use crate::support::{Daemon, Mill, wait_until};

/// 2026-11-21T12:00:00Z.
const BEGIN: i64 = 1_795_262_400;

/// What is sent in a second of event time: ten views, of which each `every`th fails.
fn second(at: i64, every: i64) -> String {
    (0..10).fold(String::new(), |mut lines, index| {
        let status = if (at * 10 + index) % every == 0 { 500 } else { 200 };
        let _ = writeln!(lines, "{{\"ts\": {}, \"status\": {status}}}", BEGIN + at);
        lines
    })
}

fn posts(receiver: &Receiver) -> Vec<(String, String)> {
    let text = |body: &Value, key: &str| body[key].as_str().unwrap_or_default().to_owned();
    receiver.got().iter().map(|body| (text(body, "state"), text(body, "id"))).collect()
}

fn of_alert<'a>(pipeline: &'a Value, alert: &str) -> &'a Value {
    pipeline["alerts"].as_array().unwrap().iter().find(|one| one["name"] == alert).unwrap()
}

#[test]
fn a_doubled_error_rate_fires_once_within_90_s_and_resolves_once() {
    let receiver = Receiver::start();
    let mill = Mill::new(&format!(
        r#"
        [store]
        flush_every = "20ms"
        [streams.web]
        tcp = "127.0.0.1:0"
        [pipelines.shop]
        stream = "web"
        time = "ts"
        delay = "2s"
        idle = "1d"
        window = {{ sliding = "1m", every = "5s" }}
        aggregates = {{ views = "count(*)", errors = "count(*) FILTER (WHERE status >= 500)", rate = "errors / views" }}
        [pipelines.shop.alerts]
        errors = {{ when = "rate > 0.05 AND views >= 20", webhook = "{}" }}
        lasting = {{ when = "rate > 0.05 AND views >= 20", for = "30s" }}
        "#,
        receiver.url()
    ));
    let daemon = mill.start();
    let (doubled, back, end) = (300, 600, 900);
    for at in (0..end).step_by(5) {
        let every = if (doubled..back).contains(&at) { 12 } else { 25 };
        daemon.send((at..at + 5).map(|at| second(at, every)).collect::<String>().as_bytes());
        daemon.wait_for_commit();
        if at == 400 {
            assert_eq!(of_alert(&daemon.pipeline("shop"), "errors")["firing"], 1);
        }
    }
    let alerts = |name: &str| -> Vec<(i64, i64)> {
        let rows = mill.sql(&format!(
            "SELECT (fired_at / 1000 - {BEGIN}) || ' ' || (resolved_at / 1000 - {BEGIN}) AS r FROM alerts \
             WHERE alert = '{name}' ORDER BY fired_at"
        ));
        let pair = |row: &String| row.split_once(' ').map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).unwrap();
        rows.iter().map(pair).collect()
    };
    let [(fired, resolved)] = alerts("errors")[..] else { panic!("{:?}", alerts("errors")) };
    assert!((doubled..doubled + 90).contains(&fired), "{fired}");
    assert!((back..back + 90).contains(&resolved), "{resolved}");
    let [(later, _)] = alerts("lasting")[..] else { panic!("{:?}", alerts("lasting")) };
    assert!((fired + 30..fired + 40).contains(&later), "{later} is 30 s behind {fired}");

    wait_until("both posts", || (receiver.got().len() == 2).then_some(()));
    let [(first, id), (second, same)] = &posts(&receiver)[..] else { panic!() };
    assert_eq!((first.as_str(), second.as_str(), id), ("firing", "resolved", same));
    let body = &receiver.got()[1];
    assert_eq!(body["when"], "rate > 0.05 AND views >= 20");
    assert_eq!((&body["pipeline"], &body["alert"]), (&"shop".into(), &"errors".into()));
    assert_eq!(body["fired_at"].as_str().unwrap().get(..17), Some("2026-11-21T12:05:"));
    assert_eq!(body["resolved_at"].as_str().unwrap().get(..17), Some("2026-11-21T12:10:"));
    assert!(body["values"]["rate"].as_f64().unwrap() > 0.05 && body["window_end"].is_string(), "{body}");
    let errors = of_alert(&daemon.pipeline("shop"), "errors").clone();
    assert_eq!((&errors["firing"], &errors["failed"]), (&0.into(), &0.into()), "{errors}");
    // Whoever may read is not told the secret.
    let shown = format!("{}{}", daemon.stats(), mill.sql("SELECT definition AS r FROM pipelines").concat());
    assert!(shown.contains("***") && !shown.contains("secret") && !mill.log().contains("secret"), "{shown}");
    assert!(daemon.stop().success());
}

/// Counts by the ten seconds; fires for each second window that has at least eight events of a path. So no two windows in
/// a row can, and which do depends on nothing but the lines.
const BUSY: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.hits]
    stream = "web"
    time = "ts"
    delay = "3s"
    idle = "1d"
    group_by = ["path"]
    window = { tumbling = "10s" }
    aggregates = { n = "count(*)", slot = "min(div(ts, 10))" }
    [pipelines.hits.alerts]
    busy = { when = "n >= 8 AND slot - 2 * div(slot, 2) = 0", webhook = "WEBHOOK" }
"#;

fn busy(url: &str) -> String {
    BUSY.replace("WEBHOOK", url)
}

fn hits(seconds: std::ops::Range<i64>, random: &mut fastrand::Rng) -> String {
    seconds.fold(String::new(), |mut lines, at| {
        for _ in 0..4 {
            let _ = writeln!(lines, "{{\"ts\": {}, \"path\": \"/{}\"}}", BEGIN + at, random.u32(0..5));
        }
        lines
    })
}

/// The alerts that there must be, by the lines' own sums; and those that there are.
fn both(mill: &Mill) -> [Vec<String>; 2] {
    let path = "json_extract(group_values, '$.path')";
    let right = mill.sql(
        "SELECT path || ' ' || window_start_ms AS r FROM hits WHERE n >= 8 AND (window_start_ms / 10000) % 2 = 0 ORDER BY r",
    );
    [right, mill.sql(&format!("SELECT {path} || ' ' || window_start AS r FROM alerts ORDER BY r"))]
}

#[test]
fn kills_lose_no_alert_and_fire_none_twice() {
    let receiver = Receiver::start();
    let mill = Mill::new(&busy(&receiver.url()));
    let mut random = fastrand::Rng::with_seed(11);
    // The last lines close all windows before them.
    let log = [hits(0..4_000, &mut random), hits(8_000..8_001, &mut random)].concat().into_bytes();
    let ends = log.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let starts: Vec<usize> = std::iter::once(0).chain(ends).collect();
    let mut kills = 0;
    while kills < 12 {
        let daemon = mill.start();
        // Some hundred lines at a time, so that many windows close before it is killed.
        let upto = starts[(kills + 1) * (starts.len() - 1) / 12];
        let sent = resume(&daemon.tcp, &log[..upto], &starts);
        assert!(sent.is_some());
        let position = daemon.pipeline("hits")["position"].as_u64().unwrap();
        let mark = position + random.u64(0..1_000);
        wait_until("it to come so far, or to the end", || {
            let pipeline = daemon.pipeline("hits");
            let there = pipeline["position"].as_u64().unwrap() >= mark || pipeline["lag_positions"] == 0;
            there.then_some(())
        });
        daemon.kill();
        kills += 1;
    }
    let daemon = mill.start();
    resume(&daemon.tcp, &log, &starts).unwrap();
    daemon.wait_for_commit();
    let [right, found] = both(&mill);
    assert!(right.len() > 300, "{}", right.len());
    assert_eq!(found, right);
    let told = || mill.sql("SELECT count(*) || '' AS r FROM alerts WHERE resolved_at IS NULL OR untold > 0") == ["0"];
    wait_until("all to be told", || told().then_some(()));
    let ids = mill.sql("SELECT 'hits/busy/' || lower(hex(group_hash)) || '/' || fired_at AS r FROM alerts");
    let expected: BTreeSet<(String, String)> =
        ids.into_iter().flat_map(|id| [("firing".to_owned(), id.clone()), ("resolved".to_owned(), id)]).collect();
    assert_eq!(posts(&receiver).into_iter().collect::<BTreeSet<_>>(), expected, "each at least once");
    let first_of = |state: &str, id: &str| posts(&receiver).iter().position(|post| *post == (state.into(), id.into()));
    for (_, id) in expected.iter().take(20) {
        assert!(first_of("firing", id) < first_of("resolved", id), "{id}");
    }
}

fn send(daemon: &Daemon, lines: &str) {
    daemon.send(lines.as_bytes());
    daemon.wait_for_commit();
}

#[test]
fn a_receiver_that_is_away_gets_it_when_it_is_back() {
    let port = free_port();
    let mill = Mill::new(&busy(&format!("http://127.0.0.1:{port}/secret")));
    let daemon = mill.start();
    send(&daemon, &hits(0..20, &mut fastrand::Rng::with_seed(1)));
    let alert = || of_alert(&daemon.pipeline("hits"), "busy").clone();
    wait_until("its stats to say so", || alert()["error"].as_str().map(drop));
    daemon.kill();
    let daemon = mill.start();
    // Busy at first: that is tried again.
    let receiver = Receiver::at(&format!("127.0.0.1:{port}"), |number| Some([503, 429, 408, 200][number.min(3)]));
    let left = || mill.sql("SELECT count(*) || '' AS r FROM alerts WHERE untold > 0").concat();
    assert_ne!(mill.sql("SELECT count(*) || '' AS r FROM alerts"), ["0"]);
    wait_until("all to be told", || (left() == "0").then_some(()));
    let alert = of_alert(&daemon.pipeline("hits"), "busy").clone();
    assert_eq!((&alert["failed"], &alert["error"]), (&0.into(), &Value::Null), "{alert}");
    assert_eq!(alert["sent"].as_u64().unwrap() as usize + 3, receiver.got().len());
    assert!(!mill.log().contains("secret"), "{}", mill.log());
}

#[test]
fn one_that_never_answers_holds_up_nobody_and_one_that_refuses_is_given_up() {
    let (silent, moved, good) = (Receiver::answering(|_| None), Receiver::answering(|_| Some(307)), Receiver::start());
    let others = format!(
        "silent = {{ when = \"n > 0\", webhook = \"{}\" }}\nmoved = {{ when = \"n > 0\", webhook = \"{}\" }}",
        silent.url(),
        moved.url()
    );
    let mill = Mill::new(&format!("{}{others}", busy(&good.url())));
    let daemon = mill.start();
    let mut random = fastrand::Rng::with_seed(1);
    wait_until("the silent one to be asked", || {
        send(&daemon, &hits(0..5, &mut random));
        (!silent.got().is_empty()).then_some(())
    });
    for begin in (0..400).step_by(20) {
        send(&daemon, &hits(begin..begin + 20, &mut random));
    }
    let [mut right, found] = both(&mill);
    right.retain(|row| found.contains(row));
    assert!(right.len() > 30, "{}", right.len());
    let left = |alert: &str| {
        mill.sql(&format!("SELECT count(*) || '' AS r FROM alerts WHERE alert = '{alert}' AND untold > 0")).concat()
    };
    wait_until("the others to be told, or given up", || (left("busy") == "0" && left("moved") == "0").then_some(()));
    assert_ne!(left("silent"), "0");
    let moved_stats = of_alert(&daemon.pipeline("hits"), "moved").clone();
    assert_eq!(moved_stats["failed"], moved.got().len());
    assert_eq!(moved_stats["sent"], 0);
    assert!(daemon.stop().success());
}
