//! Events over HTTP: a real daemon, real sockets.

use diesel::connection::SimpleConnection;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use serde_json::{Value, json};
use tidemill::Tidemill;

use crate::support::{Client, Daemon, Mill, connect, peak_resident, wait_until};

/// A stream without a TCP listener: HTTP alone feeds it.
const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    max_line = "2KiB"
    [pipelines.hits]
    stream = "web"
    window = { tumbling = "365d" }
    aggregates = { hits = "count(*)", total = "sum(n)" }
"#;
const EVENTS: &str = "/api/v1/streams/web/events";
const MIB: usize = 1 << 20;

/// An answer.
struct Answer {
    status: u16,
    retry_after: Option<String>,
    json: Value,
}

impl Answer {
    fn code(&self) -> (u16, &str) {
        (self.status, self.json["error"]["code"].as_str().unwrap_or_default())
    }

    fn counts(&self) -> (u16, Option<u64>, Option<u64>, Option<u64>) {
        let number = |name: &str| self.json[name].as_u64();
        (self.status, number("accepted"), number("rejected"), number("position"))
    }
}

/// `None` where the connection broke.
fn try_ask(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = agent.run(request.body(body).unwrap()).ok()?;
    let retry_after = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
    let text = answer.body_mut().read_to_string().ok()?;
    let json = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Some(Answer { status: answer.status().as_u16(), retry_after, json })
}

fn post(daemon: &Daemon, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_ask(&daemon.http, "POST", EVENTS, headers, body).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    file.write_all(bytes).unwrap();
    file.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Lines `{"n": first}` and so on.
fn numbered(first: u64, count: u64) -> Vec<u8> {
    (first..first + count).flat_map(|n| format!("{{\"n\": {n}}}\n").into_bytes()).collect()
}

fn lines(daemon: &Daemon) -> u64 {
    daemon.stats()["streams"][0]["lines"].as_u64().unwrap()
}

fn last(daemon: &Daemon) -> u64 {
    daemon.stats()["streams"][0]["journal"]["last"].as_u64().unwrap()
}

fn totals(mill: &Mill) -> Vec<String> {
    mill.sql("SELECT json_array(sum(hits), sum(total)) AS r FROM hits")
}

#[test]
fn a_body_is_taken_whole_and_answered_with_its_counts() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let long = format!("{{\"n\": \"{}\"}}", "x".repeat(9_000));
    let body = format!("{{\"n\": 1}}\r\n\n \t\r\nno json\n@sync\n{long}\n[1]\n{{\"n\": 2}}");
    let answer = post(&daemon, &[], body.as_bytes());
    assert_eq!(answer.counts(), (202, Some(2), Some(4), Some(6)), "{}", answer.json);
    assert!(answer.json["processing_ms"].is_u64());
    assert_eq!(post(&daemon, &[], b"").counts(), (202, Some(0), Some(0), Some(6)));
    // What was answered survives, and is read from the journal as it was taken.
    daemon.kill();
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[2,3]"]);
    let letters =
        mill.sql("SELECT json_array(position, length(line), reason) AS r FROM dead_letters ORDER BY position");
    assert_eq!(letters.len(), 4);
    assert!(letters[1].starts_with("[3,5,\"not JSON"), "a control line is none here: {}", letters[1]);
    assert_eq!(letters[2], format!("[4,4096,\"the line has {} bytes, more than max_line\"]", long.len()));
    assert_eq!(mill.sql("SELECT DISTINCT peer AS r FROM dead_letters")[0].split(':').next(), Some("127.0.0.1"));
    assert_eq!(post(&daemon, &[], b"{\"n\": 3}").counts(), (202, Some(1), Some(0), Some(7)));
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[3,6]"]);
}

#[test]
fn what_was_a_letter_stays_one_when_max_line_grows() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let long = format!("{{\"n\": 5, \"pad\": \"{}\"}}\n", "x".repeat(3_000));
    // No flush may come before the kill: the next daemon decodes it.
    let mut lock = connect(&mill.database());
    sql_query("BEGIN IMMEDIATE").execute(&mut lock).unwrap();
    assert_eq!(post(&daemon, &[], long.as_bytes()).counts(), (202, Some(0), Some(1), Some(1)));
    daemon.kill();
    drop(lock);
    mill.write_config(&CONFIG.replace("2KiB", "8KiB"));
    let daemon = mill.start();
    assert_eq!(post(&daemon, &[], long.as_bytes()).counts(), (202, Some(1), Some(0), Some(2)));
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[1,5]"]);
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM dead_letters"), ["1"]);
}

#[test]
fn bodies_may_be_packed_and_what_cannot_be_read_is_refused() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let body = numbered(1, 1_000);
    let encoding = |name| [("Content-Encoding", name)];
    for (round, (name, packed)) in
        [("gzip", gzip(&body)), ("zstd", zstd(&body)), ("identity", body.clone())].into_iter().enumerate()
    {
        let answer = post(&daemon, &encoding(name), &packed);
        let position = 1_000 * (round as u64 + 1);
        assert_eq!(answer.counts(), (202, Some(1_000), Some(0), Some(position)), "{name}: {}", answer.json);
    }
    for (name, packed, code) in [
        ("br", gzip(&body), (415, "unsupported_encoding")),
        ("gzip, zstd", gzip(&body), (415, "unsupported_encoding")),
        ("gzip", body.clone(), (400, "damaged_body")),
        ("gzip", zstd(&body), (400, "damaged_body")),
        ("zstd", gzip(&body), (400, "damaged_body")),
        ("gzip", gzip(&body)[..100].to_vec(), (400, "damaged_body")),
        ("zstd", zstd(&body)[..100].to_vec(), (400, "damaged_body")),
    ] {
        assert_eq!(post(&daemon, &encoding(name), &packed).code(), code, "{name}");
    }
    assert_eq!(last(&daemon), 3_000, "nothing was taken of them");
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[3000,1501500]"]);
}

#[test]
fn a_body_beyond_the_limit_is_refused_however_small_it_was_packed() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let fits = vec![b'\n'; 16 * MIB];
    let beyond = vec![b'\n'; 16 * MIB + 1];
    // Zstd can say with four bytes that 128 KiB follow: 1 GiB here.
    let mut rle = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    for block in 0..8_192_u32 {
        let header = u32::from(block == 8_191) | 1 << 1 | (128 * 1024) << 3;
        rle.extend_from_slice(&header.to_le_bytes()[..3]);
        rle.push(b'\n');
    }
    let great = gzip(&vec![b'\n'; 512 * MIB]);
    assert!(great.len() < 4 * MIB);
    let before = peak_resident(daemon.id());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            for (name, bomb) in [("gzip", &great), ("zstd", &rle), ("identity", &beyond)] {
                let daemon = &daemon;
                scope.spawn(move || {
                    let answer = post(daemon, &[("Content-Encoding", name)], bomb);
                    // Nine at once may also find the memory for bodies in use.
                    assert!(matches!(answer.code(), (413, "too_large") | (429, "busy")), "{name}: {}", answer.json);
                });
            }
        }
    });
    for (name, bomb) in [("gzip", &gzip(&beyond)), ("gzip", &great), ("zstd", &zstd(&beyond)), ("zstd", &rle)] {
        assert_eq!(post(&daemon, &[("Content-Encoding", name)], bomb).code(), (413, "too_large"), "{name}");
    }
    let held = peak_resident(daemon.id()) - before;
    assert!(held < 160 * MIB as u64, "{} MiB more at most", held / MIB as u64);
    for (name, packed) in [("gzip", gzip(&fits)), ("zstd", zstd(&fits)), ("identity", fits)] {
        let answer = post(&daemon, &[("Content-Encoding", name)], &packed);
        assert_eq!(answer.counts(), (202, Some(0), Some(0), Some(0)), "{name}: {}", answer.json);
    }
    // A length that is only announced is refused before anything is sent.
    let mut socket = TcpStream::connect(&daemon.http).unwrap();
    write!(socket, "POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16777217\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[test]
fn a_repeated_post_counts_once_and_a_gap_is_refused() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let from = |from: &'static str| [("Tidemill-Producer", "app-1"), ("Tidemill-From", from)];
    let body = [&numbered(1, 2)[..], b"no json\n", &numbered(3, 1)].concat();
    assert_eq!(post(&daemon, &from("1"), &body).counts(), (202, Some(3), Some(1), Some(4)));
    assert_eq!(post(&daemon, &from("1"), &body).counts(), (202, Some(0), Some(0), Some(4)), "all of it is there");
    assert_eq!(post(&daemon, &from("2"), b"{}\n{}\n").counts(), (202, Some(0), Some(0), Some(4)));
    // Two that it has, two that it has not.
    let overlap = [b"no json\n\n", &numbered(3, 2)[..], b"[]"].concat();
    assert_eq!(post(&daemon, &from("3"), &overlap).counts(), (202, Some(1), Some(1), Some(6)));
    let gap = post(&daemon, &from("8"), &numbered(8, 1));
    assert_eq!(gap.code(), (409, "gap"));
    assert!(gap.json["error"]["message"].as_str().unwrap().ends_with("go on with line 7"), "{}", gap.json);
    for headers in [
        vec![("Tidemill-From", "1")],
        vec![("Tidemill-Producer", "two words")],
        vec![("Tidemill-Producer", "p"), ("Tidemill-From", "0")],
        vec![("Tidemill-Producer", "p"), ("Tidemill-From", "one")],
    ] {
        assert_eq!(post(&daemon, &headers, b"{}").code(), (400, "bad_header"), "{headers:?}");
    }
    assert_eq!(last(&daemon), 6);
    // Without a number, lines follow those before.
    let answer = post(&daemon, &[("Tidemill-Producer", "app-1")], &numbered(5, 1));
    assert_eq!(answer.counts(), (202, Some(1), Some(0), Some(7)));
    daemon.kill();
    let daemon = mill.start();
    assert_eq!(post(&daemon, &from("7"), &numbered(5, 2)).counts(), (202, Some(1), Some(0), Some(8)));
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[6,21]"]);
}

#[test]
fn kills_between_posts_lose_nothing_and_count_nothing_twice() {
    const BODIES: u64 = 400;
    const LINES: u64 = 500;
    let mill = Mill::new(CONFIG);
    let mut random = fastrand::Rng::with_seed(5);
    let (mut next, mut kills, mut interrupted) = (0, 0, 0);
    while next < BODIES {
        let daemon = mill.start();
        let http = daemon.http.clone();
        let (last, begins) = (kills >= 25, next);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let mut at = begins;
                while at < BODIES {
                    let first = at * LINES + 1;
                    let number = first.to_string();
                    let headers =
                        [("Tidemill-Producer", "app"), ("Tidemill-From", &*number), ("Content-Encoding", "gzip")];
                    let body = gzip(&numbered(first, LINES));
                    let Some(answer) = try_ask(&http, "POST", EVENTS, &headers, &body) else { break };
                    assert_eq!(answer.status, 202, "{}", answer.json);
                    at += 1;
                }
                at
            });
            if last {
                next = sender.join().unwrap();
                daemon.wait_for_commit();
            } else {
                std::thread::sleep(Duration::from_micros(random.u64(0..40_000)));
                daemon.kill();
                kills += 1;
                next = sender.join().unwrap();
                interrupted += u32::from(next < BODIES);
            }
        });
    }
    assert!(interrupted > 5, "{interrupted} kills came while bodies were on their way");
    let daemon = mill.start();
    daemon.wait_for_commit();
    let all = BODIES * LINES;
    assert_eq!(totals(&mill), [format!("[{all},{}]", all * (all + 1) / 2)], "after {interrupted} kills");
}

/// Lines that weigh far more decoded than they have bytes: pipelines read them from the journal piece by piece, and their
/// checkpoints lie within the block.
#[test]
fn a_body_of_very_short_lines_is_read_piece_by_piece_and_survives_kills() {
    const LINES: u64 = 2_000_000;
    let mill = Mill::new(&CONFIG.replace("365d", "1s").replace("20ms", "1ms"));
    let mut daemon = mill.start();
    // The store refuses the commit that has all of the block, however fast the pipeline is: each kill comes before it.
    let execute = |sql: &str| connect(&mill.database()).batch_execute(sql).unwrap();
    execute(&format!(
        "CREATE TRIGGER not_its_end BEFORE UPDATE OF position ON checkpoints \
         WHEN NEW.pipeline = 'hits' AND NEW.position >= {LINES} BEGIN SELECT RAISE(ABORT, 'not yet'); END"
    ));
    let answer = post(&daemon, &[], &b"{\"n\":1}\n".repeat(LINES as usize));
    assert_eq!(answer.counts(), (202, Some(LINES), Some(0), Some(LINES)), "{}", answer.json);
    let answer = post(&daemon, &[], b"{\"n\":2}");
    assert_eq!(answer.counts(), (202, Some(1), Some(0), Some(LINES + 1)));
    let mut within = 0;
    let mut before = 0;
    for _ in 1..5 {
        before = wait_until("a commit, or that of the block's end", || {
            let hits = daemon.pipeline("hits");
            let position = hits["position"].as_u64()?;
            (position > before || hits["state"] == "refused").then_some(position)
        });
        daemon.kill();
        let position =
            mill.sql("SELECT position || '' AS r FROM checkpoints WHERE pipeline = 'hits'")[0].parse().unwrap();
        within += u32::from((1..LINES).contains(&position));
        daemon = mill.start();
    }
    assert!(within > 0, "no kill came while the block was half in the store");
    execute("DROP TRIGGER not_its_end");
    daemon.order("hits", "resume", "");
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), [format!("[{},{}]", LINES + 1, LINES + 2)]);
    assert_eq!(daemon.pipeline("hits")["account"]["read"], LINES + 1);
}

#[test]
fn a_connection_that_is_cut_within_a_body_leaves_nothing() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let head = format!("POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\n");
    let lines = String::from_utf8(numbered(1, 100)).unwrap();
    for (framing, reset) in [
        (format!("Content-Length: {}\r\n\r\n{lines}", lines.len() + 1), false),
        (format!("Content-Length: {}\r\n\r\n{lines}", lines.len() + 1), true),
        (format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n", lines.len()), false),
        (format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n", lines.len()), true),
    ] {
        let mut socket = TcpStream::connect(&daemon.http).unwrap();
        write!(socket, "{head}{framing}").unwrap();
        if reset {
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
            drop(socket);
        } else {
            socket.shutdown(Shutdown::Write).unwrap();
            let mut answer = String::new();
            // It may close without a word: nobody is there to read it.
            let _ = socket.read_to_string(&mut answer);
            assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
        }
    }
    // Whole, over the same kinds of framing.
    let mut socket = TcpStream::connect(&daemon.http).unwrap();
    write!(socket, "{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{lines}\r\n0\r\n\r\n", lines.len()).unwrap();
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    assert_eq!((last(&daemon), self::lines(&daemon)), (100, 100));
}

#[test]
fn producers_are_the_same_over_tcp_and_http_and_the_newer_replaces_the_older() {
    let mill = Mill::new(&CONFIG.replace("max_line", "tcp = \"127.0.0.1:0\"\n    max_line"));
    let daemon = mill.start();
    let mut older = daemon.client();
    assert_eq!(older.ask("@producer p"), "@ok 0");
    older.write(&numbered(1, 3));
    assert_eq!(older.sync(), (3, 0));
    let from = |from: &'static str| [("Tidemill-Producer", "p"), ("Tidemill-From", from)];
    // What is refused or repeated takes nothing, the name neither.
    assert_eq!(post(&daemon, &from("5"), b"{}").status, 409);
    assert_eq!(post(&daemon, &from("1"), &numbered(1, 3)).counts(), (202, Some(0), Some(0), Some(3)));
    older.write(&numbered(4, 1));
    assert_eq!(older.sync(), (4, 0));
    assert_eq!(post(&daemon, &from("3"), &numbered(3, 4)).counts(), (202, Some(2), Some(0), Some(6)));
    // Its next lines would have wrong numbers: they are thrown away.
    let _ = older.try_write(&numbered(100, 1));
    assert_eq!(older.reply(), "@error producer_replaced");
    assert_eq!(older.reply(), "", "and its connection is closed");
    let mut newer = daemon.client();
    assert_eq!(newer.ask("@producer p"), "@ok 6");
    newer.write(&numbered(7, 1));
    assert_eq!(newer.sync(), (1, 0));
    assert_eq!(post(&daemon, &from("7"), &numbered(7, 2)).counts(), (202, Some(1), Some(0), Some(8)));
    daemon.wait_for_commit();
    assert_eq!(totals(&mill), ["[8,36]"]);
}

#[test]
fn while_producers_are_held_nothing_is_taken() {
    let config = CONFIG.replace("max_line", "journal_limit = \"1MiB\"\n    journal_keep = \"0s\"\n    max_line");
    let mill = Mill::new(&config);
    let daemon = mill.start();
    // A store that cannot be written to: no pipeline commits, so that the journal cannot forget.
    let mut lock = connect(&mill.database());
    sql_query("BEGIN IMMEDIATE").execute(&mut lock).unwrap();
    let body = numbered(1, 10_000);
    let mut taken = 0;
    let refused = wait_until("the journal to be full", || {
        let answer = post(&daemon, &[], &body);
        taken += u64::from(answer.status == 202);
        (answer.status != 202).then_some(answer)
    });
    assert_eq!(refused.code(), (429, "journal_full"));
    assert_eq!(refused.retry_after.as_deref(), Some("5"));
    assert!((2..20).contains(&taken), "{taken} bodies of 130 KiB in 1 MiB");
    assert_eq!(last(&daemon), taken * 10_000, "of the refused nothing");
    sql_query("ROLLBACK").execute(&mut lock).unwrap();
    wait_until("the journal to have room", || (post(&daemon, &[], &numbered(1, 1)).status == 202).then_some(()));
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT sum(hits) || '' AS r FROM hits"), [(taken * 10_000 + 1).to_string()]);
    drop(daemon);

    let mill = Mill::new(&format!("min_free = \"1000TiB\"\n{CONFIG}"));
    let daemon = mill.start();
    let refused = post(&daemon, &[], b"{}");
    assert_eq!((refused.code(), refused.retry_after.as_deref()), ((429, "disk_full"), Some("5")));
    assert_eq!(last(&daemon), 0);
}

#[test]
fn each_token_opens_what_it_is_for() {
    const ALL: &str = "all-all-all-all-";
    const READ: &str = "read-read-read-r";
    const WEB: &str = "web-web-web-web-";
    const APP: &str = "app-app-app-app-";
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\ntoken = [\"{ALL}\", \"older-older-older\"]\nread_token = \"{READ}\"\n\
         hosts = [\"mill.example.org\"]\n{}\n[streams.app]\ntoken = \"{APP}\"\n[streams.free]\n",
        CONFIG.replace("max_line", &format!("tcp = \"127.0.0.1:0\"\n    token = \"{WEB}\"\n    max_line"))
    );
    let mill = Mill::new(&config);
    let daemon = mill.start();
    let ask = |method: &str, path: &str, token: Option<&str>| {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<_> = bearer.iter().map(|bearer| ("Authorization", bearer.as_str())).collect();
        try_ask(&daemon.http, method, path, &headers, b"{\"n\": 1}").unwrap().status
    };
    let all = [None, Some("nobody-nobody-nob"), Some(ALL), Some("older-older-older"), Some(READ), Some(WEB), Some(APP)];
    for (method, path, statuses) in [
        ("POST", EVENTS, [401, 401, 202, 202, 403, 202, 403]),
        ("POST", "/api/v1/streams/app/events", [401, 401, 202, 202, 403, 403, 202]),
        ("POST", "/api/v1/streams/free/events", [401, 401, 202, 202, 403, 403, 403]),
        ("POST", "/api/v1/streams/none/events", [401, 401, 404, 404, 403, 403, 403]),
        // Another way to write a path is no way around.
        ("POST", "/api/v1/streams/%77eb/events", [401, 401, 202, 202, 403, 202, 403]),
        ("POST", "/api/v1/%73treams/web/events", [401, 401, 202, 202, 403, 403, 403]),
        ("GET", "/api/v1/stats", [401, 401, 200, 200, 200, 403, 403]),
        ("GET", "/healthz", [200; 7]),
        ("GET", "/readyz", [200; 7]),
        ("POST", "/nothing", [401, 401, 404, 404, 403, 403, 403]),
    ] {
        let found = all.map(|token| ask(method, path, token));
        assert_eq!(found, statuses, "{method} {path}");
    }
    let stats = |host: &str, origin: Option<&str>| {
        let bearer = format!("Bearer {ALL}");
        let mut headers = vec![("Host", host), ("Authorization", bearer.as_str())];
        headers.extend(origin.map(|origin| ("Origin", origin)));
        try_ask(&daemon.http, "GET", "/api/v1/stats", &headers, b"").unwrap().status
    };
    assert_eq!([stats("mill.example.org", None), stats("evil.example.org", None)], [200, 403]);
    assert_eq!(stats("mill.example.org", Some("https://mill.example.org")), 200);
    assert_eq!(stats("mill.example.org", Some("https://evil.example.org")), 403);
    // Over TCP: the stream's, or that for everything.
    for (token, reply) in [(WEB, "@ok"), (ALL, "@ok"), (READ, "@error unauthorized"), (APP, "@error unauthorized")] {
        assert_eq!(daemon.client().ask(&format!("@auth {token}")), reply, "{token}");
    }
    let refused = try_ask(&daemon.http, "POST", EVENTS, &[], b"{}").unwrap();
    assert_eq!(
        refused.json,
        json!({ "error": {
        "code": "unauthorized", "message": "a token is wanted: send `Authorization: Bearer <token>`" } })
    );
    for secret in [ALL, READ, WEB, APP] {
        let validated = crate::support::tidemill().arg("validate").arg(mill.config()).output().unwrap();
        assert!(validated.status.success() && !String::from_utf8(validated.stdout).unwrap().contains(secret));
        assert!(!mill.log().contains(secret));
    }
}

#[test]
fn send_and_query_take_their_token_from_the_environment() {
    const TOKEN: &str = "all-all-all-all-";
    let config = format!(
        "[http]\nlisten = \"127.0.0.1:0\"\ntoken = \"{TOKEN}\"\n{}",
        CONFIG.replace("max_line", "tcp = \"127.0.0.1:0\"\n    token = \"web-web-web-web-\"\n    max_line")
    );
    let mill = Mill::new(&config);
    let daemon = mill.start();
    let file = mill.path().join("events.ndjson");
    std::fs::write(&file, numbered(1, 10)).unwrap();
    let send = |token: &str| {
        crate::support::tidemill().args(["send", &daemon.tcp]).arg(&file).env("TIDEMILL_TOKEN", token).output().unwrap()
    };
    assert_eq!(send("web-web-web-web-X").status.code(), Some(69));
    let sent = send("web-web-web-web-");
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    let stats = |token: &str| {
        crate::support::tidemill().args(["stats", "--url", &daemon.http]).env("TIDEMILL_TOKEN", token).status().unwrap()
    };
    assert!(stats(TOKEN).success());
    assert_eq!(stats("web-web-web-web-").code(), Some(69));
}

#[test]
fn an_unknown_stream_is_answered_with_those_that_there_are() {
    let mill = Mill::new(&format!("{CONFIG}\n[streams.app]\n"));
    let daemon = mill.start();
    let answer = try_ask(&daemon.http, "POST", "/api/v1/streams/wbe/events", &[], b"{}").unwrap();
    assert_eq!(answer.code(), (404, "unknown_stream"));
    assert_eq!(answer.json["error"]["message"], "there is no stream \"wbe\"; there are: web, app");
}

/// A journal whose fsync waits until it is let through.
#[test]
fn a_post_is_not_answered_before_its_fdatasync() {
    let gate = Arc::new((Mutex::new(true), Condvar::new()));
    let folder = tempfile::tempdir().unwrap();
    let config = format!("data_dir = {:?}\n[http]\nlisten = \"127.0.0.1:0\"\n{CONFIG}", folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let held = gate.clone();
    let mill = Tidemill::from_str(&config).unwrap().sync_with(Arc::new(move |file| {
        let (open, changed) = &*held;
        drop(changed.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        file.sync_data()
    }));
    let mill = runtime.block_on(mill.start()).unwrap();
    *gate.0.lock().unwrap() = false;
    let mut client = Client::connect(&mill.http_address().to_string());
    let body = "{\"n\": 1}\n";
    let ask = |from| {
        let numbered = format!("Tidemill-Producer: p\r\nTidemill-From: {from}\r\n");
        format!("POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\n{numbered}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    client.write(ask(1).as_bytes());
    let stats = || serde_json::from_str::<Value>(&mill.stats().unwrap()).unwrap();
    wait_until("the line to be taken", || (stats()["streams"][0]["journal"]["last"] == 1).then_some(()));
    // A repeat must not be answered earlier than what it repeats.
    let mut repeat = Client::connect(&mill.http_address().to_string());
    repeat.write(ask(1).as_bytes());
    for client in [&client, &repeat] {
        client.socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let early = (&client.socket).read(&mut [0; 1]);
        assert!(early.is_err(), "answered before the fsync");
        client.socket.set_read_timeout(Some(crate::support::PATIENCE)).unwrap();
    }
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    assert_eq!([client.reply(), repeat.reply()], ["HTTP/1.1 202 Accepted"; 2]);
    drop((client, repeat));
    assert_eq!(stats()["streams"][0]["lines"], 1);
    runtime.block_on(mill.shutdown());
}
