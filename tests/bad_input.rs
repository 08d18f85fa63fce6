//! Bad input gets a clear error or a letter, and takes nothing with it.

use crate::support::postgres::{shared, unique_schema};
use crate::support::{Mill, tidemill};

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
    window = { tumbling = "1d" }
    [pipelines.hits.aggregates]
    hits = "count(*)"
    total = "sum(n)"
    [pipelines.plain]
    stream = "web"
    window = { tumbling = "1d" }
    aggregates = { hits = "count(*)" }
"#;

const GOOD: &str = r#"{"ts": 1431855000000, "path": "/a", "n": 1}"#;

#[test]
fn hostile_lines_are_letters_and_good_lines_among_them_count() {
    let deep = format!(r#"{{"ts": 1431855000000, "unused": {}{}}}"#, "[".repeat(20_000), "]".repeat(20_000));
    let big_key = format!(r#"{{"ts": 1431855000000, "path": "{}"}}"#, "k".repeat(10_240));
    // What the line is, and the letters it makes: of the stream, and of the pipeline that names its fields.
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (b"no json".to_vec(), "@web decode"),
        (b"[1, 2]".to_vec(), "@web decode"),
        (b"\"text\"".to_vec(), "@web decode"),
        (br#"{"ts": 1431855000000, "path": "/a""#.to_vec(), "@web decode"),
        (br#"{"ts": 1431855000000} {"ts": 1}"#.to_vec(), "@web decode"),
        (deep.into_bytes(), "@web decode"),
        (b"{\"ts\": 1431855000000, \"unused\": \"\xff\"}".to_vec(), "@web decode"),
        (br#"{"ts": 1431855000000, "path": "a\u0000b"}"#.to_vec(), "hits group"),
        (br#"{"ts": 1431855000000, "path": "\ud800"}"#.to_vec(), "hits group"),
        (br#"{"ts": 1431855000000, "n": 9223372036854775808}"#.to_vec(), "hits expression"),
        (br#"{"ts": 1431855000000, "n": 1e400}"#.to_vec(), "hits expression"),
        (br#"{"ts": 1431855000000, "n": "7"}"#.to_vec(), "hits expression"),
        (br#"{"path": "/a"}"#.to_vec(), "hits time"),
        (br#"{"ts": "yesterday"}"#.to_vec(), "hits time"),
        (br#"{"ts": 999999999999999999999}"#.to_vec(), "hits time"),
        (br#"{"ts": "9999-01-01T00:00:00Z"}"#.to_vec(), "hits ahead"),
        (big_key.into_bytes(), "hits group"),
        // These are good: what is odd in them is in fields that nobody asks for.
        (br#"{"ts": 1431855000000, "path": "/b", "unused": "\ud800\u0000", "also": 1e400}"#.to_vec(), ""),
        (br#"{"ts": 1, "ts": 1431855000000, "path": "/a", "path": "/b", "n": 5}"#.to_vec(), ""),
    ];
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    let mut lines = format!("{GOOD}\n").into_bytes();
    for (line, _) in &cases {
        lines.extend_from_slice(line);
        lines.extend_from_slice(format!("\n{GOOD}\n").as_bytes());
    }
    daemon.send(&lines);
    daemon.wait_for_commit();

    let letters =
        mill.sql("SELECT pipeline || ' ' || kind || ' ' || position AS r FROM dead_letters ORDER BY position");
    let expected: Vec<String> = (0..)
        .zip(&cases)
        .filter(|(_, (_, letter))| !letter.is_empty())
        .map(|(index, (_, letter))| format!("{letter} {}", 2 * index + 2))
        .collect();
    assert_eq!(letters, expected);
    let good = cases.len() + 1;
    let rows = mill.sql("SELECT json_array(path, hits, total) AS r FROM hits ORDER BY path");
    assert_eq!(rows, [format!(r#"["/a",{good},{good}]"#), r#"["/b",2,5]"#.to_owned()]);
    // A pipeline that uses none of the odd fields counts all that are events.
    let events = good + cases.len() - 7;
    assert_eq!(mill.sql("SELECT sum(hits) || '' AS r FROM plain"), [events.to_string()]);
    let reasons = mill.sql("SELECT reason AS r FROM dead_letters WHERE kind = 'expression' ORDER BY position");
    assert!(reasons[2].contains("'7'"), "{reasons:?}");
    assert!(daemon.stop().success());
}

#[test]
fn ten_mistakes_are_ten_diagnostics() {
    let mill = Mill::new(
        r#"
flush = "1s"
[store]
flush_every = "soon"
[streams.web]
tcp = "127.0.0.1"
durability = "maybe"
[pipelines.views]
stream = "wbe"
window = { tumbling = "0s" }
late = "never"
aggregates = { views = "cuont(*)", bytes = "sum(bytes", select = 7 }
"#,
    );
    let output = tidemill().arg("validate").arg(mill.config()).output().unwrap();
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8(output.stderr).unwrap();
    let errors = text.matches("Error: ").count();
    assert_eq!(errors, 10, "{text}");
    for named in ["tidemill.toml:2:", "web", "count", "\"maybe\""] {
        assert!(text.contains(named), "{named} in {text}");
    }
}

#[test]
fn what_cannot_start_says_why_and_how_it_ends() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    // The folder is in use.
    let second = mill.refused();
    assert_eq!(second.status.code(), Some(69), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use"));
    // So is the port.
    let other = Mill::new(&CONFIG.replace("127.0.0.1:0", &daemon.tcp));
    let refused = other.refused();
    assert_eq!(refused.status.code(), Some(69));
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains(&daemon.tcp) && text.contains("stream web"), "{text}");
    assert!(!other.path().join("data").exists(), "nothing was made");
    // A folder that cannot be made: there is a file in its way.
    let blocked = Mill::new(&format!("data_dir = \"log/data\"\n{CONFIG}"));
    std::fs::write(blocked.path().join("log"), "").unwrap();
    let refused = blocked.refused();
    assert_eq!(refused.status.code(), Some(74), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("log/data"));
    // A pipeline that is defined otherwise.
    daemon.send(format!("{GOOD}\n").as_bytes());
    assert!(daemon.stop().success());
    let changed = CONFIG.replace("sum(n)", "max(n)").replace("[pipelines.hits]", "[pipelines.hits]\nstart = \"now\"");
    mill.write_config(&changed);
    let changed = mill.refused();
    assert_eq!(changed.status.code(), Some(78), "{}", String::from_utf8_lossy(&changed.stderr));
    assert!(String::from_utf8_lossy(&changed.stderr).contains("hits"));
}

/// A start that must be refused: what it says.
#[track_caller]
fn is_refused(mill: &Mill) -> String {
    let refused = mill.refused();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(78), "{text}");
    text
}

#[test]
fn what_a_database_refuses_is_said_with_what_to_do_and_nothing_is_written() {
    let server = shared();
    server.psql("CREATE ROLE visitor LOGIN PASSWORD 'right'");
    let hba = server.folder().join("data/pg_hba.conf");
    let trust = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all visitor 127.0.0.1/32 scram-sha-256\n{trust}")).unwrap();
    server.psql("SELECT pg_reload_conf()");
    let on = |user: &str, schema: &str, options: &str| {
        let url = server.url().replace("tidemill@", &format!("{user}@"));
        Mill::new(&CONFIG.replace("[store]", &format!("[store]\nurl = \"{url}{options}\"\nschema = \"{schema}\"")))
    };
    let names = ["none", "theirs", "newer", "viewed"].map(|name| format!("{}_{name}", unique_schema()));
    let [none, theirs, newer, viewed] = names.each_ref().map(String::as_str);

    for (mill, says, next) in [
        (on("visitor:wrong", none, ""), "28P01", "check user, password and pg_hba.conf"),
        (on("tidemill", none, "?sslmode=require"), "server does not support TLS", "check `sslmode`"),
        (on("visitor:right", none, ""), "42501", "GRANT CREATE ON DATABASE"),
    ] {
        let text = is_refused(&mill);
        assert!(text.contains(says) && text.contains(next), "{text}");
        assert!(!text.contains("wrong") && !text.contains("right"), "a password: {text}");
    }
    let made = server.psql(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{none}'"));
    assert_eq!(made, "0", "no schema was made");

    // A schema that the user may not look into, and tables that it may not write to.
    drop(on("tidemill", theirs, "").start());
    for (grant, says, next) in [
        ("SELECT 1", "3F000", "ALL on schema"),
        (&*format!("GRANT USAGE, CREATE ON SCHEMA {theirs} TO visitor"), "42501", "ALL on schema"),
    ] {
        server.psql(grant);
        let text = is_refused(&on("visitor:right", theirs, ""));
        assert!(text.contains(says) && text.contains(next), "{text}");
    }
    server.psql(&format!("GRANT ALL ON ALL TABLES IN SCHEMA {theirs} TO visitor"));

    drop(on("tidemill", newer, "").start());
    server.psql(&format!("INSERT INTO {newer}.__diesel_schema_migrations (version) VALUES ('9999')"));
    let before = server.psql(&format!("SELECT count(*), max(xmin::text) FROM {newer}.checkpoints"));
    let text = is_refused(&on("tidemill", newer, ""));
    assert!(text.contains("newer tidemill (schema 9999)") && text.contains("run that version"), "{text}");
    assert_eq!(server.psql(&format!("SELECT count(*), max(xmin::text) FROM {newer}.checkpoints")), before);

    server.psql(&format!("CREATE SCHEMA {viewed}; CREATE VIEW {viewed}.hits AS SELECT 7 AS seven"));
    let mill = on("tidemill", viewed, "");
    let text = is_refused(&mill);
    assert!(text.contains("a view \"hits\" already") && text.contains("rename the pipeline"), "{text}");
    assert_eq!(server.psql(&format!("SELECT seven FROM {viewed}.hits")), "7");
    let now = format!("SELECT count(*) FROM pg_views WHERE schemaname = '{viewed}' AND viewname = 'hits_now'");
    assert_eq!(server.psql(&now), "0");
    let known = format!("SELECT count(*) FROM {viewed}.pipelines WHERE name = 'hits'");
    assert_eq!(server.psql(&known), "0", "nothing is known of the pipeline");
    // With the view out of the way it starts.
    server.psql(&format!("ALTER VIEW {viewed}.hits RENAME TO sevens"));
    let daemon = mill.start();
    daemon.send(format!("{GOOD}\n").as_bytes());
    daemon.wait_for_commit();
    assert_eq!(server.psql(&format!("SELECT hits FROM {viewed}.hits")), "1");
}
