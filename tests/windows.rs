//! Windows that no fixed grid gives: sessions and calendars, against SQL over the same lines.

use std::fmt::Write as _;

use crate::support::postgres::{shared, unique_schema};
use crate::support::weblog::{table, web_log};
use crate::support::{Mill, sql, wait_until};

const SESSIONS: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.visits]
    stream = "web"
    time = "ts"
    delay = "10m"
    group_by = ["path"]
    window = { session = "30s" }
    aggregates = { hits = "count(*)", bytes = "sum(bytes)", landing = "first(method)" }
"#;

#[test]
fn sessions_are_what_sql_makes_of_the_lines() {
    let log = web_log(40_000, 4 * 3_600_000, 600_000, 60, 7);
    let mill = Mill::new(SESSIONS);
    let daemon = mill.start();
    // Some at a time, so that flushes see sessions grow and become one.
    let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
    for lines in lines.chunks(1_000) {
        daemon.send(&lines.concat());
    }
    daemon.wait_for_commit();
    let oracle = table(mill.path(), &log);
    // A session ends where the group's next event comes no sooner than the gap: gaps and islands.
    let expected = sql(
        &oracle,
        "WITH events AS (SELECT line ->> 'path' AS path, line ->> 'ts' AS ts, line ->> 'bytes' AS bytes FROM log), \
         begins AS (SELECT *, ts - lag(ts) OVER (PARTITION BY path ORDER BY ts) >= 30000 AS begins FROM events), \
         numbered AS (SELECT *, sum(coalesce(begins, 1)) OVER (PARTITION BY path ORDER BY ts) AS session FROM begins) \
         SELECT path || ' ' || min(ts) || ' ' || (max(ts) + 30000) || ' ' || count(*) || ' ' || sum(bytes) AS r \
         FROM numbered GROUP BY path, session ORDER BY r",
    );
    let shown = mill.sql(
        "SELECT path || ' ' || window_start_ms || ' ' || \
         CAST(round(unixepoch(window_end, 'subsec') * 1000) AS INTEGER) || ' ' || hits || ' ' || bytes AS r \
         FROM visits ORDER BY r",
    );
    assert!(expected.len() > 1_000, "{}", expected.len());
    assert!(shown == expected, "{} rows, and SQL has {}", shown.len(), expected.len());
    // Of each group the newest session that is open.
    let open = "SELECT path || ' ' || max(window_start_ms) AS r FROM visits WHERE closed = 0 GROUP BY path ORDER BY r";
    let now = mill.sql("SELECT path || ' ' || window_start_ms AS r FROM visits_now ORDER BY r");
    assert!(!now.is_empty() && now == mill.sql(open), "{now:?}");
}

/// Event times around the days on which the clocks of Berlin and New York change, and the end of a year.
fn around_the_changes() -> String {
    let (hour, mut lines) = (3_600_000_i64, String::new());
    let mut random = fastrand::Rng::with_seed(3);
    // 2025-03-08, 2025-03-29, 2025-10-25, 2025-11-01 and 2025-12-30, 0:00 UTC.
    for begin in [1_741_392_000_000, 1_743_206_400_000, 1_761_350_400_000, 1_761_955_200_000, 1_767_052_800_000_i64] {
        for _ in 0..2_000 {
            writeln!(lines, "{{\"ts\": {}}}", begin + random.i64(0..72 * hour)).unwrap();
        }
        // The moments at which windows begin and end.
        for at in (0..72).flat_map(|at| [at * hour - 1, at * hour]) {
            writeln!(lines, "{{\"ts\": {}}}", begin + at).unwrap();
        }
    }
    lines
}

#[test]
fn calendar_windows_are_those_of_postgres() {
    let (server, schema) = (shared(), unique_schema());
    let zones = [("berlin", "Europe/Berlin"), ("new_york", "America/New_York"), ("kolkata", "Asia/Kolkata")];
    let units = ["hour", "day", "week", "month"];
    let mut config = format!(
        "[store]\nurl = \"{}\"\nschema = \"{schema}\"\nflush_every = \"20ms\"\n[streams.web]\ntcp = \"127.0.0.1:0\"\n\
         raw_events = {{ retain = \"36500d\" }}\ntime = \"ts\"\n",
        server.url()
    );
    for (name, zone) in zones {
        for unit in units {
            write!(
                config,
                "[pipelines.{name}_{unit}]\nstream = \"web\"\nwindow = {{ calendar = \"{unit}\", timezone = \"{zone}\" }}\n\
                 late = \"update\"\ncorrect_for = \"3650d\"\naggregates = {{ hits = \"count(*)\" }}\n"
            )
            .unwrap();
        }
    }
    let mill = Mill::new(&config);
    let daemon = mill.start();
    daemon.send(around_the_changes().as_bytes());
    daemon.wait_for_commit();
    let format = |unit| match unit {
        "hour" => "YYYY-MM-DD\"T\"HH24",
        "day" => "YYYY-MM-DD",
        "week" => "IYYY-\"W\"IW",
        _ => "YYYY-MM",
    };
    for (name, zone) in zones {
        for unit in units {
            let time = "to_timestamp(event_time / 1000.0)";
            let expected = server.psql(&format!(
                "SET timezone = '{zone}'; SELECT extract(epoch FROM date_trunc('{unit}', {time}))::bigint, \
                 to_char(date_trunc('{unit}', {time}), '{}'), count(*) FROM {schema}.raw_events GROUP BY 1, 2 ORDER BY 1",
                format(unit)
            ));
            let shown = server.psql(&format!(
                "SET timezone = '{zone}'; SELECT window_start_ms / 1000, \
                 left(period, length(to_char(window_start, '{}'))), hits FROM {schema}.{name}_{unit} ORDER BY 1",
                format(unit)
            ));
            assert_eq!(shown, expected, "{name}_{unit}");
        }
        // The hours of each day sum to it.
        let days = server.psql(&format!(
            "SELECT count(*) FROM {schema}.{name}_day d WHERE hits <> (SELECT sum(hits) FROM {schema}.{name}_hour h \
             WHERE h.window_start >= d.window_start AND h.window_end <= d.window_end)"
        ));
        assert_eq!(days.trim(), "0", "{name}");
    }
    let lengths = server.psql(&format!(
        "SELECT period, extract(epoch FROM window_end - window_start)::int / 3600 FROM {schema}.berlin_day \
         WHERE window_end - window_start <> interval '24 hours' UNION ALL \
         SELECT period, extract(epoch FROM window_end - window_start)::int / 3600 FROM {schema}.new_york_day \
         WHERE window_end - window_start <> interval '24 hours' ORDER BY 1"
    ));
    assert_eq!(
        lengths.split_whitespace().collect::<Vec<_>>(),
        ["2025-03-09|23", "2025-03-30|23", "2025-10-26|25", "2025-11-02|25"]
    );
    let twice =
        server.psql(&format!("SELECT period FROM {schema}.berlin_hour WHERE period LIKE '2025-10-26T02%' ORDER BY 1"));
    assert_eq!(twice.split_whitespace().collect::<Vec<_>>(), ["2025-10-26T02+01:00", "2025-10-26T02+02:00"]);
}

#[test]
fn rows_older_than_retain_go_and_no_late_event_brings_them_back() {
    const CONFIG: &str = r#"
        [store]
        STORE
        flush_every = "20ms"
        [streams.web]
        tcp = "127.0.0.1:0"
        [pipelines.brief]
        stream = "web"
        time = "ts"
        delay = "0s"
        retain = "10m"
        window = { tumbling = "1m" }
        aggregates = { hits = "count(*)" }
    "#;
    let postgres = format!("url = \"{}\"\nschema = \"{}\"", shared().url(), unique_schema());
    for store in ["", &postgres] {
        let mill = Mill::new(&CONFIG.replace("STORE", store));
        let daemon = mill.start();
        let minute = |minute: i64| format!("{{\"ts\": {}}}\n", 1_431_856_800_000_i64 + minute * 60_000);
        let starts = |daemon: &crate::support::Daemon| -> Vec<i64> {
            let rows = daemon.rows("brief");
            let start = |row: &serde_json::Value| (row[2].as_i64().unwrap() - 1_431_856_800_000) / 60_000;
            let mut starts: Vec<i64> = rows.iter().map(start).collect();
            starts.sort_unstable();
            starts
        };
        for part in 0..4 {
            let lines: String = (part * 30..part * 30 + 30).map(minute).collect();
            daemon.send(lines.as_bytes());
            daemon.wait_for_commit();
        }
        // The watermark is at minute 119: windows that end by 109 are gone.
        wait_until("the old rows to go", || (starts(&daemon) == (109..=119).collect::<Vec<_>>()).then_some(()));
        daemon.send(minute(3).as_bytes());
        daemon.send(minute(110).as_bytes());
        daemon.wait_for_commit();
        assert_eq!(starts(&daemon), (109..=119).collect::<Vec<_>>());
        let account = &daemon.pipeline("brief")["account"];
        assert_eq!((account["aggregated"].as_u64(), account["late"].as_u64()), (Some(121), Some(1)));
    }
}
