//! Live values in Redis, from a server of the tests' own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::Commands;

use crate::support::redis::{Server, free_port};
use crate::support::{Daemon, Mill, wait_until};

/// A minute that begins with a minute, a day long before any test runs.
const START: i64 = 1_700_000_040;

/// Keys and their hashes.
type Hashes = BTreeMap<String, BTreeMap<String, String>>;

fn config(url: &str, pipelines: &str) -> String {
    format!(
        "[store]\nflush_every = \"20ms\"\n[redis]\nurl = \"{url}\"\n[streams.web]\ntcp = \"127.0.0.1:0\"\ntime = \"ts\"\n\
         {pipelines}"
    )
}

const FOUR: &str = r#"
[pipelines.minutes]
stream = "web"
group_by = ["path", "who"]
window = { tumbling = "1m" }
delay = "10s"
redis = { ttl = "1h" }
aggregates = { n = "count(*)", most = "max(x)", mean = "avg(x)", word = "last(word)" }

[pipelines.all]
stream = "web"
window = { sliding = "1m", every = "10s" }
delay = "10s"
redis = { ttl = "2h" }
aggregates = { n = "count(*)", many = "n > 3" }

[pipelines.visits]
stream = "web"
group_by = ["who"]
window = { session = "30s" }
delay = "1m"
redis = { ttl = "1h" }
aggregates = { n = "count(*)", s = "sum(x)" }

[pipelines.nowhere]
stream = "web"
window = { tumbling = "1m" }
aggregates = { n = "count(*)" }
"#;

fn encoded(value: &serde_json::Value) -> String {
    let text = match value {
        serde_json::Value::Null => return "%00".to_owned(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().fold(String::new(), |mut out, byte| {
        if plain(byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap();
        }
        out
    })
}

/// What Redis should hold of a pipeline, by the store.
fn stored(mill: &Mill, pipeline: &str, groups: &[&str]) -> Hashes {
    let rows = mill.sql(&format!(
        "SELECT json_array(window_start, json(group_values), json(result_values)) AS r \
         FROM window_results WHERE pipeline = '{pipeline}'"
    ));
    let hash = |row: String| {
        let row: serde_json::Value = serde_json::from_str(&row).unwrap();
        let group: Vec<_> = groups.iter().map(|name| encoded(&row[1][name])).collect();
        let values = row[2].as_object().unwrap().iter().filter(|(_, value)| !value.is_null());
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        let values = values.map(|(name, value)| (name.clone(), text(value))).collect();
        (format!("tidemill:{pipeline}:{}:{}", row[0], group.join(":")), values)
    };
    rows.into_iter().map(hash).collect()
}

/// What Redis holds of a pipeline.
fn live(connection: &mut redis::Connection, pipeline: &str) -> Hashes {
    let keys: Vec<String> = connection.keys(format!("tidemill:{pipeline}:*")).unwrap();
    let mut hashes = Hashes::new();
    for keys in keys.chunks(1_000) {
        let mut pipe = redis::pipe();
        for key in keys {
            pipe.hgetall(key);
        }
        let found: Vec<BTreeMap<String, String>> = pipe.query(connection).unwrap();
        hashes.extend(keys.iter().cloned().zip(found));
    }
    hashes
}

/// Waits until Redis holds what the store has of a pipeline.
fn wait_for_live(mill: &Mill, server: &Server, pipeline: &str, groups: &[&str]) -> Hashes {
    let mut connection = server.connect();
    let expected = stored(mill, pipeline, groups);
    wait_until(
        &format!("Redis to hold the rows of {pipeline}: {:?}", expected.iter().take(9).collect::<Vec<_>>()),
        || (live(&mut connection, pipeline) == expected).then_some(()),
    );
    expected
}

fn line(second: i64, rest: &str) -> String {
    format!("{{\"ts\":{},{rest}}}\n", START + second)
}

fn redis_stats(daemon: &Daemon) -> serde_json::Value {
    daemon.stats()["redis"].clone()
}

/// What `/readyz` says of Redis; that it is away makes nobody unready.
fn degraded(daemon: &Daemon) -> Option<String> {
    let ready = daemon.get("/readyz");
    assert_eq!(ready["ready"], true, "{ready}");
    let reasons = ready["degraded"].as_array().unwrap().iter().map(|reason| reason.as_str().unwrap());
    reasons.filter(|reason| reason.contains("redis")).map(ToOwned::to_owned).next()
}

#[test]
fn rows_in_redis_are_those_of_the_store() {
    let server = Server::start(&[]);
    let mill = Mill::new(&config(&server.url(), FOUR));
    let daemon = mill.start();
    let mut listener = server.connect();
    let mut published = listener.as_pubsub();
    for pipeline in ["minutes", "all", "visits", "nowhere"] {
        published.subscribe(format!("tidemill:{pipeline}")).unwrap();
    }
    let a = |second, who: &str, x: i64| {
        line(second, &format!("\"path\":\"/a b?é\",\"who\":{who},\"x\":{x},\"word\":\"w:{x}\""))
    };
    let phases = [
        // Two sessions of each, a group that is NULL, one that is empty, one without any x.
        [a(0, "\"u1\"", 1), a(5, "\"u1\"", 2), a(3, "null", 3), a(4, "\"\"", 4), line(6, "\"path\":7,\"who\":true")]
            .concat(),
        [a(50, "\"u1\"", 5), a(61, "\"u2\"", 6), a(40, "null", 7)].concat(),
        // u1's sessions become one, u2's begins earlier, and NULL's goes on.
        [a(28, "\"u1\"", 8), a(45, "\"u2\"", 9), a(44, "null", 10)].concat(),
        // The first windows close, and a late event corrects one.
        [a(200, "\"u3\"", 11), a(130, "\"u3\"", 12)].concat(),
        a(2, "\"u1\"", 13),
    ];
    let mut keys = BTreeSet::new();
    for phase in phases {
        daemon.send(phase.as_bytes());
        daemon.wait_for_commit();
        keys.extend(wait_for_live(&mill, &server, "minutes", &["path", "who"]).into_keys());
        keys.extend(wait_for_live(&mill, &server, "all", &[]).into_keys());
        keys.extend(wait_for_live(&mill, &server, "visits", &["who"]).into_keys());
    }
    let mut connection = server.connect();
    let minutes = live(&mut connection, "minutes");
    let first = &minutes[&format!("tidemill:minutes:{START}000:%2Fa%20b%3F%C3%A9:u1")];
    let fields: Vec<_> = first.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // The seconds 0, 5, 50, 28, and 2, which was late.
    assert_eq!(fields, [("mean", "5.8"), ("most", "13"), ("n", "5"), ("word", "w:5")]);
    let without = &minutes[&format!("tidemill:minutes:{START}000:7:true")];
    assert_eq!(without.len(), 1, "what is NULL has no field: {without:?}");
    assert!(live(&mut connection, "all").keys().any(|key| *key == format!("tidemill:all:{START}000:")));
    assert!(live(&mut connection, "nowhere").is_empty());

    for (pipeline, ttl_ms) in [("minutes", 3_600_000), ("all", 7_200_000), ("visits", 3_600_000)] {
        for key in live(&mut connection, pipeline).into_keys() {
            let left: i64 = connection.pttl(&key).unwrap();
            assert!(left > ttl_ms - 600_000 && left <= ttl_ms, "{key}: {left} ms");
        }
    }
    while !keys.is_empty() {
        let message = published.get_message().unwrap();
        let key: String = message.get_payload().unwrap();
        assert!(key.starts_with(&format!("{}:", message.get_channel_name())), "{key}");
        keys.remove(&key);
    }
    assert_eq!((redis_stats(&daemon)["connected"].as_bool(), degraded(&daemon)), (Some(true), None));
}

/// Sends lines until it is told to stop; how many.
fn load(daemon: &Daemon, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u64> {
    let (mut client, stop) = (daemon.client(), stop.clone());
    std::thread::spawn(move || {
        let mut sent = 0;
        while !stop.load(Ordering::Relaxed) {
            let lines: String =
                (0..100).map(|i| line(i % 50, &format!("\"who\":\"g{}\",\"x\":1", (sent + i as u64) % 700))).collect();
            client.write(lines.as_bytes());
            assert_eq!(client.sync().1, 0);
            sent += 100;
        }
        sent
    })
}

const HOURS: &str = r#"
[pipelines.hours]
stream = "web"
group_by = ["who"]
window = { tumbling = "1h" }
redis = { ttl = "1d" }
aggregates = { n = "count(*)" }
"#;

#[test]
fn a_redis_that_comes_back_empty_is_whole_again_and_held_nothing_up() {
    let mut server = Server::start(&[]);
    let mill = Mill::new(&config(&server.url(), HOURS));
    let daemon = mill.start();
    // Groups that nobody touches again.
    daemon.send((0..1_200).map(|i| line(1, &format!("\"who\":\"quiet {i}\""))).collect::<String>().as_bytes());
    daemon.wait_for_commit();
    wait_for_live(&mill, &server, "hours", &["who"]);
    let stop = Arc::new(AtomicBool::new(false));
    let sender = load(&daemon, &stop);
    wait_until("some load", || (daemon.pipeline("hours")["position"].as_u64()? > 2_000).then_some(()));

    server.kill();
    let reason = wait_until("Redis to be missed", || degraded(&daemon));
    assert!(reason.starts_with("redis away for ") && reason.contains("results are not affected"), "{reason}");
    let before = daemon.pipeline("hours")["position"].as_u64().unwrap();
    wait_until("commits while Redis is away", || {
        (daemon.pipeline("hours")["position"].as_u64()? > before + 1_000).then_some(())
    });
    assert_eq!(redis_stats(&daemon)["connected"], false);
    server.go();
    wait_until("Redis to be found again", || degraded(&daemon).is_none().then_some(()));

    stop.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    daemon.wait_for_commit();
    let hashes = wait_for_live(&mill, &server, "hours", &["who"]);
    let all: u64 = hashes.values().map(|hash| hash["n"].parse::<u64>().unwrap()).sum();
    assert_eq!((hashes.len(), all), (1_900, sent + 1_200));
    assert!(daemon.stop().success());
}

#[test]
fn a_redis_that_never_answers_holds_nothing_up_and_gets_all_that_is_open_in_the_end() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let mill = Mill::new(&config(&format!("redis://127.0.0.1:{port}"), HOURS));
    let daemon = mill.start();
    // More than what may wait.
    let name = "n".repeat(150);
    for part in 0..8 {
        let lines = (0..10_000).map(|i| line(1, &format!("\"who\":\"{name}{}\"", part * 10_000 + i)));
        daemon.send(lines.collect::<String>().as_bytes());
        daemon.wait_for_commit();
    }
    let reason = wait_until("Redis to be missed", || degraded(&daemon));
    assert!(reason.contains("redis away"), "{reason}");
    wait_until("what waits to be let go", || (redis_stats(&daemon)["waiting_rows"] == 0).then_some(()));
    drop(silent);
    let server = Server::start_at(port, &[]);
    assert_eq!(wait_for_live(&mill, &server, "hours", &["who"]).len(), 80_000);
}

#[test]
fn a_wrong_password_is_said_and_no_password_is_shown() {
    let server = Server::start(&["--requirepass", "the-right-one"]);
    let wrong = server.url().replace("://", "://:hidden-secret@");
    let mill = Mill::new(&config(&wrong, HOURS));
    let daemon = mill.start();
    daemon.send(line(1, "\"who\":\"a\"").as_bytes());
    daemon.wait_for_commit();
    let reason = wait_until("Redis to say no", || degraded(&daemon));
    assert!(reason.to_lowercase().contains("authentication") || reason.contains("WRONGPASS"), "{reason}");
    let stats = daemon.stats().to_string();
    assert!(stats.contains(&server.url()), "{stats}");
    for shown in [stats, reason, mill.log(), String::from_utf8(mill.verb("validate", &[]).stdout).unwrap()] {
        assert!(!shown.contains("hidden-secret"), "{shown}");
    }
    assert!(mill.log().contains("is away, live values wait for it"), "{}", mill.log());
    assert!(daemon.stop().success());

    let right = server.url().replace("://", "://:the-right-one@");
    std::fs::write(mill.path().join("redis url"), format!("{right}\n")).unwrap();
    mill.write_config(&config(&wrong, HOURS).replace(&format!("url = \"{wrong}\""), "url_file = \"redis url\""));
    let daemon = mill.start();
    let mut connection = redis::Client::open(right).unwrap().get_connection().unwrap();
    wait_until("what was open to be written", || {
        (live(&mut connection, "hours") == stored(&mill, "hours", &["who"])).then_some(())
    });
    assert_eq!(degraded(&daemon), None);
}

#[test]
fn rediss_asks_who_redis_is() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).display().to_string();
    let certificate = |name: &str| {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().self_signed(&key).unwrap();
        std::fs::write(file(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(file(&format!("{name}.key")), key.serialize_pem()).unwrap();
    };
    certificate("its");
    certificate("other");
    let tls_port = free_port().to_string();
    let settings = ["--tls-port", &tls_port, "--tls-auth-clients", "no"];
    let (certificate, key) = (file("its.pem"), file("its.key"));
    let server = Server::start(&[&settings[..], &["--tls-cert-file", &certificate, "--tls-key-file", &key]].concat());
    let mut mill = Mill::new(&config(&format!("rediss://127.0.0.1:{tls_port}"), HOURS));

    mill.under(&["env", &format!("SSL_CERT_FILE={}", file("other.pem"))]);
    let daemon = mill.start();
    daemon.send(line(1, "\"who\":\"a\"").as_bytes());
    daemon.wait_for_commit();
    let reason = wait_until("Redis to be missed", || degraded(&daemon));
    assert!(reason.contains("certificate"), "{reason}");
    assert!(daemon.stop().success());
    assert!(live(&mut server.connect(), "hours").is_empty());

    mill.under(&["env", &format!("SSL_CERT_FILE={certificate}")]);
    let _daemon = mill.start();
    assert_eq!(wait_for_live(&mill, &server, "hours", &["who"]).len(), 1);
}

#[test]
fn sessions_that_went_on_elsewhere_are_swept_and_closed_ones_stay() {
    let server = Server::start(&[]);
    let mill = Mill::new(&config(&server.url(), FOUR));
    let daemon = mill.start();
    daemon.send([line(0, "\"who\":\"old\""), line(500, "\"who\":\"new\"")].concat().as_bytes());
    daemon.wait_for_commit();
    let before = wait_for_live(&mill, &server, "visits", &["who"]);
    assert_eq!(before.len(), 2, "one is closed: {before:?}");
    assert!(daemon.stop().success());

    let mut connection = server.connect();
    let stale = format!("tidemill:visits:{}:new", (START + 510) * 1_000);
    let others = ["tidemill:visits:of somebody else", "tidemill:others:1:x"];
    for key in [stale.as_str(), others[0], others[1]] {
        let _: () = connection.hset(key, "n", 1).unwrap();
    }
    let _daemon = mill.start();
    wait_until("the stale one to go", || (!connection.exists::<_, bool>(&stale).unwrap()).then_some(()));
    for key in before.keys().map(String::as_str).chain(others) {
        assert!(connection.exists::<_, bool>(key).unwrap(), "{key}");
    }
}

#[test]
fn a_reload_begins_and_ends_live_values_and_another_redis_wants_a_restart() {
    let server = Server::start(&[]);
    let without = HOURS.replace("redis = ", "# redis = ");
    let mill = Mill::new(&config(&server.url(), &without));
    let daemon = mill.start();
    daemon.send(line(1, "\"who\":\"a\"").as_bytes());
    daemon.wait_for_commit();
    let reload = || daemon.post("/api/v1/reload", "");
    mill.write_config(&config(&server.url(), HOURS));
    let (status, answer) = reload();
    assert_eq!(status, 200, "{answer}");
    assert_eq!(wait_for_live(&mill, &server, "hours", &["who"]).len(), 1);

    mill.write_config(&config(&server.url(), &without));
    assert_eq!(reload().0, 200);
    daemon.send(line(1, "\"who\":\"b\"").as_bytes());
    daemon.wait_for_commit();
    mill.write_config(&config(&format!("redis://127.0.0.1:{}", free_port()), &without));
    let (status, answer) = reload();
    assert!(status >= 400 && answer.to_string().contains("[redis]"), "{status} {answer}");
    assert_eq!(live(&mut server.connect(), "hours").len(), 1, "what is not live any more is not written");
}
