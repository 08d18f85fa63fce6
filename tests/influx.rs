//! Streams of Influx points: a real daemon, real sockets.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::support::{Daemon, Mill, copy, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    format = "influx"
    precision = "us"
    max_line = "2KiB"
    raw_events = { retain = "30d" }
    [pipelines.load]
    stream = "web"
    group_by = ["host"]
    window = { tumbling = "1m" }
    correct_for = "10000d"
    aggregates = { n = "count(*)", used = "sum(used)", bytes = "sum(bytes)", up = "count(*) FILTER (WHERE up)" }
"#;
const EVENTS: &str = "/api/v1/streams/web/events";
/// 2015-05-17T10:00:00Z.
const BEGIN_MS: i64 = 1_431_856_800_000;
const MINUTE_MS: i64 = 60_000;
const POINTS: i64 = 20_000;

/// The status, and what was accepted and rejected, and the position.
fn post(daemon: &Daemon, headers: &[(&str, &str)], body: &[u8]) -> (u16, [u64; 3]) {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.post(format!("http://{}{EVENTS}", daemon.http));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut answer = request.send(body).unwrap();
    let text = answer.body_mut().read_to_string().unwrap();
    let json: Value = serde_json::from_str(&text).unwrap();
    let count = |key: &str| json[key].as_u64().unwrap_or_else(|| panic!("{json}"));
    (answer.status().as_u16(), ["accepted", "rejected", "position"].map(count))
}

fn gzip(text: &str) -> Vec<u8> {
    let mut file = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    file.write_all(text.as_bytes()).unwrap();
    file.finish().unwrap()
}

/// A point, and what counts of it: its minute, its host, used, bytes, up.
fn point(index: i64) -> (String, (i64, &'static str), [i64; 3]) {
    let (written, host) = [("a", "a"), (r"b\ c\,d\=\\e", r"b c,d=\e"), ("é", "é")][index as usize % 3];
    let time = BEGIN_MS * 1_000 + index * 7_919_777 % (600 * MINUTE_MS);
    let up = index % 4 == 0;
    let line = format!(
        "cpu,host={written},region=eu\\ west used={}.5,bytes={index}i,up={},text=\"x, y=\\\"z\\\" # \" {time}\n",
        index % 90,
        if up { "T" } else { "false" },
    );
    // Halves are counted, so that sums are whole.
    let minute = time.div_euclid(1_000 * MINUTE_MS) * MINUTE_MS;
    (line, (minute, host), [2 * (index % 90) + 1, index, i64::from(up)])
}

/// By minute and host: how many points, and the sums of what counts.
fn expected() -> BTreeMap<(i64, String), [i64; 4]> {
    let mut rows: BTreeMap<_, [i64; 4]> = BTreeMap::new();
    for index in 0..POINTS {
        let (_, (minute, host), [used, bytes, up]) = point(index);
        let row = rows.entry((minute, host.to_owned())).or_default();
        *row = [row[0] + 1, row[1] + used, row[2] + bytes, row[3] + up];
    }
    rows
}

fn stored(mill: &Mill) -> BTreeMap<(i64, String), [i64; 4]> {
    let rows = mill.sql(
        "SELECT json_array(window_start_ms, host, n, coalesce(used, 0) * 2, coalesce(bytes, 0), up) AS r FROM load",
    );
    let row = |row: String| {
        let row: Value = serde_json::from_str(&row).unwrap();
        let number = |index: usize| row[index].as_f64().unwrap_or_else(|| panic!("{row}")) as i64;
        ((number(0), row[1].as_str().unwrap().to_owned()), [2, 3, 4, 5].map(number))
    };
    rows.into_iter().map(row).collect()
}

fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64
}

#[test]
fn points_count_the_same_over_tcp_over_http_and_from_the_journal() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let half: String = (0..POINTS / 2).map(|index| point(index).0).collect();
    let broken = "cpu,host=a used=\"never ends\\\" 1\n";
    let long = format!("# {}\n", "long ".repeat(1_000));
    let noise = format!("# a comment\n\n  # another\r\n{long}{broken}");
    assert_eq!(daemon.send(format!("{noise}{half}").as_bytes()), (POINTS as u64 / 2, 1));

    // As Telegraf sends it: plain text, gzipped.
    let half: String = (POINTS / 2..POINTS).map(|index| point(index).0).collect();
    let headers = [("content-type", "text/plain; charset=utf-8"), ("content-encoding", "gzip")];
    let counts = [POINTS as u64 / 2, 1, POINTS as u64 + 2];
    assert_eq!(post(&daemon, &headers, &gzip(&format!("{half}{noise}"))), (202, counts));
    daemon.wait_for_commit();
    assert!(stored(&mill) == expected(), "rows differ from what was sent");
    let reasons = mill.sql("SELECT json_array(position, kind, reason) AS r FROM dead_letters ORDER BY position");
    let reason = "not an Influx point: a text without its second quote begins at byte 17";
    let letter = |position| json!([position, "decode", reason]).to_string();
    assert_eq!(reasons, [letter(1), letter(POINTS + 2)]);
    let raw = mill.sql("SELECT event_time || ' ' || CAST(line AS text) AS r FROM raw_events ORDER BY position");
    let time = |line: &str| line.rsplit(' ').next().unwrap().parse::<i64>().unwrap().div_euclid(1_000);
    let sent: Vec<_> = (0..POINTS).map(|index| point(index).0.trim_end().to_owned()).collect();
    assert!(raw == sent.iter().map(|line| format!("{} {line}", time(line))).collect::<Vec<_>>(), "raw events");

    let calm = Mill::new(CONFIG);
    copy(&mill.path().join("data/journal"), &calm.path().join("data/journal"));
    calm.start().wait_for_commit();
    assert!(stored(&calm) == expected(), "rows of the same journal differ");
    assert!(calm.verb("doctor", &[]).status.success());
}

#[test]
fn a_repeated_body_with_comments_counts_once() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let from = |number| [("Tidemill-Producer", "telegraf"), ("Tidemill-From", number)];
    let body = |from: i64, upto: i64| -> String {
        (from..upto).map(|index| format!("# {index}\n{}", point(index).0)).collect()
    };
    assert_eq!(post(&daemon, &from("1"), body(0, 10).as_bytes()), (202, [10, 0, 10]));
    assert_eq!(post(&daemon, &from("1"), body(0, 15).as_bytes()), (202, [5, 0, 15]), "what it has is in neither count");
    let mut client = daemon.client();
    assert_eq!(client.ask("@producer telegraf"), "@ok 15");
    // The numbers of `send` are those of the stream, whatever comments there are.
    let file = mill.path().join("points.lp");
    std::fs::write(&file, body(0, 20)).unwrap();
    let send = || {
        let sent = crate::support::tidemill()
            .arg("send")
            .arg(&daemon.tcp)
            .arg(&file)
            .args(["--producer", "telegraf"])
            .output();
        String::from_utf8(sent.unwrap().stdout).unwrap()
    };
    let said = send();
    assert!(said.contains("5 accepted, 0 rejected") && said.contains("15"), "{said}");
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT json_array(sum(n), sum(bytes)) AS r FROM load"), ["[20,190]"]);
}

#[test]
fn a_point_without_a_timestamp_takes_the_ingest_time_and_one_that_is_no_time_is_a_letter() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let before = now_ms();
    let far = "9223372036854775807";
    let body =
        format!("cpu,host=b time=3 0\n@cpu,host=now bytes=7i\ncpu,host=a bytes=1i {far}\ncpu,host=a bytes=1i {far}0");
    assert_eq!(post(&daemon, &[], body.as_bytes()), (202, [4, 0, 4]), "no line is a control line here");
    daemon.wait_for_commit();
    let after = now_ms();
    let rows: Vec<_> = stored(&mill).into_iter().collect();
    let [((epoch, b), _), ((minute, host), counts)] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((*epoch, b.as_str(), host.as_str(), counts[2]), (0, "b", "now", 7));
    assert!((before - MINUTE_MS..=after).contains(minute), "{before} {minute} {after}");
    let letters = mill.sql("SELECT json_array(position, kind, stage, reason) AS r FROM dead_letters ORDER BY position");
    let first = format!("the point's timestamp is no time in the years 1 to 9999: {far}");
    assert_eq!(
        letters,
        [
            json!([3, "time", "time", first]).to_string(),
            json!([4, "time", "time", "the point's timestamp: the number is out of range"]).to_string(),
        ]
    );
    let raw = mill.sql("SELECT coalesce(event_time, 'none') AS r FROM raw_events ORDER BY position");
    assert_eq!(raw, ["0", "none", "none", "none"]);
}

#[test]
fn letters_of_points_count_once_their_pipeline_is_mended() {
    let with = |used: &str| format!("{CONFIG}\n[[pipelines.load.stages]]\nset = {{ used = \"{used}\" }}");
    let mill = Mill::new(&with("CAST(text AS bigint)"));
    let daemon = mill.start();
    let line = |host: &str, text: &str| format!("cpu,host={host} text=\"{text}\" {BEGIN_MS}000\n");
    let lines = [line("a", "n1"), line("b", "n2"), line("c", "3")].concat();
    assert_eq!(daemon.send(lines.as_bytes()), (3, 0));
    daemon.wait_for_commit();
    assert_eq!(daemon.pipeline("load")["account"]["dead"].as_i64(), Some(2));
    assert!(daemon.stop().success());

    let mended = with("CAST(replace(text, 'n', '') AS bigint)");
    mill.write_config(&mended.replace("group_by", "start = \"now\"\n    group_by"));
    let plan = String::from_utf8(mill.verb("plan", &[]).stdout).unwrap();
    let code = plan.split("--accept-plan ").nth(1).unwrap_or_else(|| panic!("{plan}")).split('`').next().unwrap();
    let mill = mill.with(&["--accept-plan", code]);
    let daemon = mill.start();
    wait_until("the first commit", || {
        assert_eq!(daemon.send(line("d", "1").as_bytes()), (1, 0));
        daemon.wait_for_commit();
        (mill.sql("SELECT revision || '' AS r FROM pipelines WHERE name = 'load'") == ["2"]).then_some(())
    });
    let (status, answer) = daemon.post("/api/v1/dead-letters/replay", &json!({ "pipeline": "load" }).to_string());
    assert_eq!((status, &answer["replays"]), (202, &json!([{ "pipeline": "load", "letters": 2 }])), "{answer}");
    wait_until("the replay to end", || (daemon.pipeline("load")["letters_under_replay"] == 0).then_some(()));
    daemon.wait_for_commit();
    let rows = stored(&mill);
    let row = |host: &str| rows.get(&(BEGIN_MS, host.to_owned())).map(|row| (row[0], row[1]));
    assert_eq!((row("a"), row("b")), (Some((1, 2)), Some((1, 4))), "{rows:?}");
    assert_eq!(mill.sql("SELECT count(*) || '' AS r FROM dead_letters WHERE replayed_at IS NULL"), ["0"]);
}

#[test]
fn a_stream_keeps_its_format() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    assert_eq!(daemon.send(point(0).0.as_bytes()), (1, 0));
    daemon.wait_for_commit();
    assert!(daemon.stop().success());
    mill.write_config(&CONFIG.replace("format = \"influx\"\n    precision = \"us\"", ""));
    let refused = mill.refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(said.contains("stream web: its `format` has changed"), "{said}");
    mill.write_config(CONFIG);
    let daemon = mill.start();
    assert_eq!(daemon.send(point(1).0.as_bytes()), (1, 0));
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT sum(n) || '' AS r FROM load"), ["2"]);
}
