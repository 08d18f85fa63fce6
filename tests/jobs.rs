//! The three jobs under `examples/`: each by its own command, its numbers against an independent computation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use redis::Commands;
use serde_json::{Value, json};

use crate::support::postgres::shared;
use crate::support::redis::{Server, free_port};
use crate::support::weblog::table;
use crate::support::{copy, sql, tidemill};

#[path = "../examples/streaming/main.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "a program of its own")]
mod streaming;

const MINUTE: i64 = 60_000;
/// All three jobs wait so long for disorder, or longer.
const DELAY: i64 = 10_000;

/// A job's folder, copied, so that what it leaves is nobody else's.
struct Job {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Job {
    fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let job = Self { folder, name };
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name), &job.path(""));
        let _ = std::fs::remove_dir_all(job.path("data"));
        job
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(self.name).join(file)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.path(file)).unwrap()
    }

    /// A script of its folder, on free ports; what it prints.
    fn run(&self, script: &str, environment: &[(&str, String)]) -> String {
        let address = || format!("127.0.0.1:{}", free_port());
        let name = self.name.to_uppercase();
        let mut run = Command::new("sh");
        run.arg(self.path(script)).env("TIDEMILL", tidemill().get_program());
        run.env(format!("{name}_TCP"), address()).env(format!("{name}_HTTP"), address());
        for (name, value) in environment {
            run.env(name, value);
        }
        let output = run.output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What the README says comes out does come out, but for lines that hold one of these words.
    fn assert_shows(&self, shown: &str, except: &[&str]) {
        let readme = self.read("README.md");
        let blocks: Vec<&str> =
            readme.split("```text\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
        assert!(!blocks.is_empty());
        for line in blocks.concat().lines().filter(|line| !except.iter().any(|word| line.contains(word))) {
            assert!(shown.lines().any(|of| of.trim_end() == line.trim_end()), "{line:?} is not in\n{shown}");
        }
        assert!(readme.lines().count() <= 40, "a README is one screen");
    }
}

/// A program that a job says it needs, installed where that is possible.
fn need(program: &str) {
    let is_there =
        || Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap().status.success();
    if !is_there() {
        let install = format!("[ $(id -u) = 0 ] && apt-get update -q && apt-get install -y -q {program}");
        let _ = Command::new("sh").args(["-c", &install]).status();
    }
    assert!(is_there(), "{program} is missing: sudo apt-get install {program}");
}

/// An event: its time and the rest.
type Timed = (i64, Value);

fn events(lines: &[u8]) -> Vec<Timed> {
    let lines = lines.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice::<Value>(line).ok());
    lines.map(|event| (event["ts"].as_i64().unwrap(), event)).collect()
}

/// What sliding windows hold: by end and group the events, of all windows up to the one that is next to close.
fn sliding<'a>(
    events: impl Iterator<Item = (i64, String, &'a Value)>,
    watermark: i64,
    (size, every): (i64, i64),
) -> BTreeMap<(i64, String), Vec<&'a Value>> {
    let mut windows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (time, group, event) in events {
        let first = time.div_euclid(every) * every + every;
        for end in (first..=time + size).step_by(every as usize).filter(|end| *end <= watermark + every) {
            windows.entry((end, group.clone())).or_default().push(event);
        }
    }
    windows
}

fn watermark(events: &[Timed], delay: i64) -> i64 {
    events.iter().map(|(time, _)| *time).max().unwrap() - delay
}

/// 2026-01-01T00:05:00Z: errors double, for five minutes.
const INCIDENT: i64 = 1_767_225_900_000;

#[test]
fn the_shop_s_numbers_are_those_of_its_lines() {
    need("sqlite3");
    let job = Job::new("shop");
    job.assert_shows(&job.run("run.sh", &[]), &["│ errors │ 00:"]);
    // Once more: nothing counts twice.
    job.assert_shows(&job.run("run.sh", &[]), &["│ errors │ 00:"]);
    let lines = job.run("events.sh", &[]).into_bytes();
    let (stored, lines_db) = (job.path("data/tidemill.db"), table(job.folder.path(), &lines));

    let counts =
        "count(*) FILTER (WHERE line ->> 'type' = 'page_view'), count(*) FILTER (WHERE line ->> 'type' = 'purchase'),
                  round(sum(line ->> 'amount'), 2), count(*) FILTER (WHERE line ->> 'type' = 'error'),
                  count(*) FILTER (WHERE line ->> 'type' = 'signup')";
    for (pipeline, span) in [("minute", MINUTE), ("day", 1_440 * MINUTE)] {
        let rows = format!(
            "SELECT json_array(window_start_ms, page_views, purchases, round(revenue, 2), errors, signups) AS r
             FROM {pipeline} ORDER BY 1"
        );
        let expected = format!(
            "SELECT json_array((line ->> 'ts') / {span} * {span}, {counts}) AS r FROM log GROUP BY (line ->> 'ts') / {span} ORDER BY 1"
        );
        let rows = sql(&stored, &rows);
        assert!(rows.len() >= 2);
        assert_eq!(rows, sql(&lines_db, &expected), "{pipeline}");
    }

    let raw = "SELECT json_array(date(event_time / 1000, 'unixepoch'), count(*), sum(length(line))) AS r
               FROM raw_events GROUP BY date(event_time / 1000, 'unixepoch') ORDER BY 1";
    let expected = "SELECT json_array(date((line ->> 'ts') / 1000, 'unixepoch'), count(*), sum(length(line))) AS r
                    FROM log GROUP BY date((line ->> 'ts') / 1000, 'unixepoch') ORDER BY 1";
    assert_eq!(sql(&stored, raw), sql(&lines_db, expected));

    let events = events(&lines);
    let watermark = watermark(&events, DELAY);
    let all = || events.iter().map(|(time, event)| (*time, String::new(), event));
    let sessions: Vec<String> = sliding(all(), watermark, (5 * MINUTE, 10_000))
        .iter()
        .map(|((end, _), events)| {
            let distinct: BTreeSet<_> = events.iter().map(|event| event["session"].as_str()).collect();
            json!([end - 5 * MINUTE, distinct.len()]).to_string()
        })
        .collect();
    let rows = "SELECT json_array(window_start_ms, sessions) AS r FROM active ORDER BY window_start_ms";
    assert_eq!(sql(&stored, rows), sessions);

    assert_alert(&stored, &sliding(all(), watermark, (MINUTE, 10_000)));
}

/// The alert fires once, within 90 s of event time, and resolves once.
fn assert_alert(stored: &Path, windows: &BTreeMap<(i64, String), Vec<&Value>>) {
    let is_high = |events: &Vec<&Value>| {
        let errors = events.iter().filter(|event| event["type"] == "error").count();
        events.len() >= 100 && errors as f64 / events.len() as f64 > 0.04
    };
    let high: Vec<i64> = windows.iter().filter(|(_, events)| is_high(events)).map(|((end, _), _)| *end).collect();
    let (first, last) = (high[0], high[high.len() - 1]);
    assert_eq!(high.len() as i64, (last - first) / 10_000 + 1, "the errors are high once");

    let rows = sql(stored, "SELECT json_array(alert, fired_at, resolved_at) AS r FROM alerts");
    let [row] = &rows[..] else { panic!("fired once: {rows:?}") };
    let row: Value = serde_json::from_str(row).unwrap();
    let (fired, resolved) = (row[1].as_i64().unwrap(), row[2].as_i64().unwrap());
    assert_eq!(row[0], "errors");
    assert!((INCIDENT..=first).contains(&fired) && fired <= INCIDENT + 90_000, "fired at {fired}");
    assert!((INCIDENT + 5 * MINUTE..=last + 10_000).contains(&resolved), "resolved at {resolved}");
}

/// The same in virtual time: no daemon, no clock, the events' times alone.
#[test]
fn the_shop_s_alert_fires_and_resolves_once_in_virtual_time() {
    let job = Job::new("shop");
    let lines = job.run("events.sh", &[]);
    std::fs::write(job.path("events.ndjson"), &lines).unwrap();
    let mut batch = tidemill();
    batch.arg("batch").arg(job.path("tidemill.toml")).arg("--input").arg(job.path("events.ndjson"));
    let output = batch.arg("--out").arg(job.path("out.db")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let events = events(lines.as_bytes());
    let all = events.iter().map(|(time, event)| (*time, String::new(), event));
    assert_alert(&job.path("out.db"), &sliding(all, i64::MAX / 2, (MINUTE, 10_000)));
}

#[test]
fn the_counters_are_those_of_sql_over_the_lines() {
    let (database, redis) = (shared(), Server::start(&[]));
    let job = Job::new("counters");
    let given = [("DATABASE_URL", database.url()), ("REDIS_URL", redis.url())];
    job.assert_shows(&job.run("run.sh", &given), &[]);
    let lines = table(job.folder.path(), job.run("events.sh", &[]).as_bytes());

    // A day's 24 hourly counts, by the one query that the README shows.
    let queries = job.read("queries.sql");
    let query = queries.split_inclusive(';').next().unwrap();
    assert!(job.read("README.md").contains(query.split_once('\n').unwrap().1));
    let hours: Vec<String> = database.psql(query).lines().map(ToOwned::to_owned).collect();
    let expected = "SELECT strftime('%H:00', (line ->> 'ts') / 1000, 'unixepoch') || '|' || count(*) AS r FROM log
                    WHERE line ->> 'type' = 'page_view' AND date((line ->> 'ts') / 1000, 'unixepoch') = '2026-01-01'
                    GROUP BY strftime('%H', (line ->> 'ts') / 1000, 'unixepoch') ORDER BY 1";
    assert_eq!(hours.len(), 24);
    assert_eq!(hours, sql(&lines, expected));

    let pairs = [
        (
            "SELECT period || '|' || type || '|' || events || '|' || users FROM counters.daily ORDER BY 1",
            "SELECT date((line ->> 'ts') / 1000, 'unixepoch') || '|' || (line ->> 'type') || '|' || count(*) || '|' ||
                    count(DISTINCT line ->> 'user') AS r
             FROM log GROUP BY date((line ->> 'ts') / 1000, 'unixepoch'), line ->> 'type' ORDER BY 1",
        ),
        (
            "SELECT period || '|' || \"user\" || '|' || events || '|' || purchases || '|' || (coalesce(spent, 0) * 100)::bigint
             FROM counters.user_daily ORDER BY 1",
            "SELECT date((line ->> 'ts') / 1000, 'unixepoch') || '|' || (line ->> 'user') || '|' || count(*) || '|' ||
                    count(*) FILTER (WHERE line ->> 'type' = 'purchase') || '|' ||
                    CAST(round(coalesce(sum(line ->> 'amount'), 0) * 100) AS int) AS r
             FROM log GROUP BY date((line ->> 'ts') / 1000, 'unixepoch'), line ->> 'user' ORDER BY 1",
        ),
    ];
    for (rows, expected) in pairs {
        let rows: Vec<String> = database.psql(rows).lines().map(ToOwned::to_owned).collect();
        assert_eq!(rows, sql(&lines, expected));
    }

    // Live values: each hour of each type, for two days.
    let mut redis = redis.connect();
    let expected = "SELECT 'tidemill:hourly:' || ((line ->> 'ts') / 3600000 * 3600000) || ':' || (line ->> 'type') || '|' || count(*) AS r
                    FROM log GROUP BY (line ->> 'ts') / 3600000, line ->> 'type'";
    for row in sql(&lines, expected) {
        let (key, count) = row.split_once('|').unwrap();
        let (live, left): (String, i64) = (redis.hget(key, "events").unwrap(), redis.ttl(key).unwrap());
        assert_eq!(live, count, "{key}");
        assert!((1..=2 * 86_400).contains(&left), "{key} goes in {left} s");
    }
}

/// Who has no servers gets some, which are gone with the command.
#[test]
fn the_counters_bring_their_own_servers() {
    // These see to it that the programs are installed.
    let _ = (shared(), Server::start(&[]));
    let job = Job::new("counters");
    let ports = [free_port(), free_port()];
    let given = [("POSTGRES_PORT", ports[0].to_string()), ("REDIS_PORT", ports[1].to_string())];
    job.assert_shows(&job.run("run.sh", &given), &[]);
    for port in ports {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody still listens at {port}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_streaming_numbers_are_those_of_the_lines() {
    let job = Job::new("streaming");
    let config =
        job.read("tidemill.toml").replace("127.0.0.1:7600", "127.0.0.1:0").replace("127.0.0.1:7601", "127.0.0.1:0");
    std::fs::write(job.path("tidemill.toml"), config).unwrap();
    let mut shown = Vec::new();
    streaming::run(&job.path(""), &mut shown).await.unwrap().shutdown().await;
    job.assert_shows(&String::from_utf8(shown).unwrap(), &[]);

    let lines = std::fs::read(job.path("events.ndjson")).unwrap();
    let (stored, events) = (job.path("data/tidemill.db"), events(&lines));
    let watermark = watermark(&events, 5_000);
    let views = events.iter().filter_map(|(time, event)| {
        let is_view = event["type"] == "view" && !event["agent"].as_str()?.contains("Bot") && event["ms"].is_number();
        let path = event["url"].as_str()?.split('?').next()?.to_lowercase();
        is_view.then_some((*time, path, event))
    });
    let views = sliding(views, watermark, (5 * MINUTE, 10_000));
    let views: Vec<_> =
        views.iter().map(|((end, path), events)| json!([end, path, events.len()]).to_string()).collect();
    let rows =
        "SELECT json_array(window_start_ms + 300000, path, views) AS r FROM views ORDER BY window_start_ms, path";
    assert!(views.len() > 100);
    assert_eq!(sql(&stored, rows), views);

    let online =
        sliding(events.iter().map(|(time, event)| (*time, String::new(), event)), watermark, (5 * MINUTE, 1_000));
    let users = |events: &Vec<&Value>| events.iter().map(|event| event["user"].as_str()).collect::<BTreeSet<_>>().len();
    let online: Vec<_> = online.iter().map(|((end, _), events)| json!([end, users(events)]).to_string()).collect();
    let rows = "SELECT json_array(window_start_ms + 300000, users) AS r FROM online ORDER BY window_start_ms";
    assert!(online.len() > 1_000);
    assert_eq!(sql(&stored, rows), online);
    assert_streaming_orders(&job, &lines, &stored);
}

/// Orders: taken apart, looked up in a table and over the network; those that failed, and came again.
fn assert_streaming_orders(job: &Job, lines: &[u8], stored: &Path) {
    let lines = table(job.folder.path(), lines);
    let products: Vec<String> = job.read("products.csv").lines().skip(1).map(|line| line.replace(',', "','")).collect();
    let products = products.join("'), ('");
    let sold = format!(
        "WITH products(sku, category, price) AS (VALUES ('{products}')),
              items AS (SELECT log.rowid AS id, item.value ->> 'sku' AS sku, item.value ->> 'n' AS n
                        FROM log, json_each(line -> 'items') AS item)
         SELECT json_array(category, sum(n), round(sum(n * price), 2)) AS r FROM items JOIN products USING (sku)
         WHERE id NOT IN (SELECT id FROM items WHERE sku NOT IN (SELECT sku FROM products)) GROUP BY category ORDER BY 1"
    );
    let rows = "SELECT json_array(category, pieces, round(revenue, 2)) AS r FROM sold ORDER BY 1";
    assert_eq!(sql(stored, rows), sql(&lines, &sold));

    let countries = "SELECT json_array(country, count(*), count(DISTINCT user)) AS r
        FROM (SELECT line ->> 'user' AS user, CASE WHEN line ->> 'ip' LIKE '192.0.2.%' THEN 'NL'
                     WHEN line ->> 'ip' LIKE '198.51.100.%' THEN 'DK' ELSE 'NZ' END AS country
              FROM log WHERE line ->> 'type' = 'order') GROUP BY country ORDER BY 1";
    let rows = "SELECT json_array(country, orders, buyers) AS r FROM countries ORDER BY 1";
    assert_eq!(sql(stored, rows), sql(&lines, countries));

    let down = sql(
        &lines,
        "SELECT count(*) || '' AS r FROM log WHERE line ->> 'type' = 'order' AND line ->> 'ip' LIKE '203.%'",
    );
    let letters = "SELECT pipeline || ' ' || kind || ' ' || count(*) || ' ' || count(replayed_at) AS r
                   FROM dead_letters GROUP BY pipeline, kind ORDER BY 1";
    let expected = [
        "@web decode 1 0".to_owned(),
        format!("countries custom {0} {0}", down[0]),
        "sold enrich 1 0".to_owned(),
        "views expression 2 0".to_owned(),
    ];
    assert_eq!(sql(stored, letters), expected);
}
