//! The main job: lines over TCP become the rows that SQL makes of the same lines.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::weblog::{table, web_log};
use crate::support::{Mill, sql, wait_until};

const CONFIG: &str = r#"
    [streams.web]
    tcp = "127.0.0.1:0"

    [pipelines.by_status]
    stream = "web"
    time = "ts"
    delay = "60s"
    group_by = ["status"]
    window = { tumbling = "5m" }
    aggregates = { hits = "count(*)", bytes = "sum(bytes)", big = "count(*) FILTER (WHERE bytes > 50000)", share = "big / hits", least = "min(bytes)", most = "max(bytes)", paths = "count(distinct path)", spread = "variance(bytes)" }

    [pipelines.by_method]
    stream = "web"
    time = "ts"
    delay = "60s"
    group_by = ["method"]
    window = { sliding = "1h", every = "10m" }
    aggregates = { hits = "count(*)", mean = "avg(bytes)", paths = "count(distinct path) FILTER (WHERE status = 200)", middle = "median(load)" }
"#;

#[test]
fn lines_become_the_rows_that_sql_makes_of_them() {
    let mut log = web_log(20_000, 36 * 3_600_000, 600_000, 50, 7);
    log.extend_from_slice(b"{\"ts\": 1431857103000, torn\n");
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    assert_eq!(daemon.send(&log), (20_000, 1));
    daemon.wait_for_commit();

    let oracle = table(mill.path(), &log);
    let tumbling = sql(
        &oracle,
        "SELECT json_array(datetime(start / 1000, 'unixepoch'), datetime(start / 1000 + 300, 'unixepoch'), status, hits,
                bytes, big, CAST(big AS REAL) / hits, least, most, paths,
                CAST(hits * squares - bytes * bytes AS REAL) / (hits * (hits - 1))) AS r
         FROM (SELECT (line ->> 'ts') / 300000 * 300000 AS start, CAST(line ->> 'status' AS TEXT) AS status,
                      count(*) AS hits, sum(line ->> 'bytes') AS bytes, min(line ->> 'bytes') AS least,
                      count(DISTINCT line ->> 'path') AS paths,
                      sum((line ->> 'bytes') * (line ->> 'bytes')) AS squares,
                      max(line ->> 'bytes') AS most, count(*) FILTER (WHERE line ->> 'bytes' > 50000) AS big
               FROM log GROUP BY 1, 2)
         ORDER BY start, r",
    );
    let rows = mill.rows("by_status", "status, hits, bytes, big, share, least, most, paths, spread");
    assert!(rows.len() > 400, "{} rows", rows.len());
    assert_eq!(rows, tumbling);

    // Of the open windows, a sliding pipeline shows the next to close.
    let sliding = sql(
        &oracle,
        "WITH RECURSIVE step(back) AS (SELECT 0 UNION ALL SELECT back + 1 FROM step WHERE back < 5),
              events AS (SELECT line ->> 'ts' AS ts, line ->> 'method' AS method, line ->> 'bytes' AS bytes,
                                CASE line ->> 'status' WHEN 200 THEN line ->> 'path' END AS path FROM log),
              mark AS (SELECT (max(ts) - 60000) / 600000 * 600000 + 600000 AS next FROM events),
              windows AS (SELECT (ts / 600000 - back) * 600000 AS start, method, count(*) AS hits,
                                 CAST(sum(bytes) AS REAL) / count(*) AS mean, count(DISTINCT path) AS paths
                          FROM events, step GROUP BY 1, 2)
         SELECT json_array(datetime(start / 1000, 'unixepoch'), datetime(start / 1000 + 3600, 'unixepoch'), method, hits,
                mean, paths) AS r
         FROM windows, mark WHERE start + 3600000 <= next ORDER BY start, r",
    );
    assert_eq!(mill.rows("by_method", "method, hits, mean, paths"), sliding);
    near_the_medians_of_sql(&mill, &oracle);

    let letters = mill.sql("SELECT json_array(stream, kind, pipeline, CAST(line AS TEXT)) AS r FROM dead_letters");
    assert_eq!(letters, [r#"["web","decode","@web","{\"ts\": 1431857103000, torn"]"#]);
    let account = &daemon.pipeline("by_method")["account"];
    assert_eq!((account["read"].as_u64(), account["aggregated"].as_u64()), (Some(20_000), Some(20_000)));
    assert!(daemon.stop().success());
}

/// Of all windows of `by_method`, the median is one per cent at most from the lower one in the middle.
fn near_the_medians_of_sql(mill: &Mill, oracle: &Path) {
    let exact = sql(
        oracle,
        "WITH RECURSIVE step(back) AS (SELECT 0 UNION ALL SELECT back + 1 FROM step WHERE back < 5),
              events AS (SELECT line ->> 'ts' AS ts, line ->> 'method' AS method, line ->> 'load' AS load FROM log),
              ranks AS (SELECT (ts / 600000 - back) * 600000 AS start, method, load,
                               row_number() OVER place AS place, count(*) OVER (PARTITION BY ts / 600000 - back, method) AS hits
                        FROM events, step
                        WINDOW place AS (PARTITION BY ts / 600000 - back, method ORDER BY load))
         SELECT json_array(start, method, load) AS r FROM ranks WHERE place = (hits - 1) / 2 + 1",
    );
    let read = |rows: Vec<String>| -> BTreeMap<(i64, String), f64> {
        let read = |row: &String| serde_json::from_str::<(i64, String, f64)>(row).unwrap();
        rows.iter().map(read).map(|(start, method, load)| ((start, method), load)).collect()
    };
    let exact = read(exact);
    let found = read(mill.sql("SELECT json_array(window_start_ms, method, middle) AS r FROM by_method"));
    assert!(found.len() > 500, "{} rows", found.len());
    for (window, middle) in found {
        let exact = exact[&window];
        assert!((middle / exact - 1.0).abs() <= 0.01, "{window:?}: {middle} for {exact}");
    }
}

#[test]
fn a_stopped_daemon_goes_on_where_it_was() {
    let log = web_log(6_000, 6 * 3_600_000, 600_000, 50, 8);
    let cut = log.len() / 2;
    let cut = cut + log[cut..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let whole = Mill::new(CONFIG);
    let daemon = whole.start();
    daemon.send(&log);
    daemon.wait_for_commit();
    drop(daemon);

    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(&log[..cut]);
    assert!(daemon.stop().success(), "{}", mill.log());
    let daemon = mill.start();
    daemon.send(&log[cut..]);
    daemon.wait_for_commit();
    for (view, columns) in
        [("by_status", "status, hits, bytes, share, paths, spread"), ("by_method", "method, hits, mean, paths, middle")]
    {
        assert_eq!(mill.rows(view, columns), whole.rows(view, columns), "{view}");
    }
    assert_eq!(daemon.pipeline("by_status")["account"]["aggregated"], 6_000);
}

#[test]
fn the_now_view_shows_the_window_next_to_close() {
    let mill = Mill::new(
        r#"
        [streams.web]
        tcp = "127.0.0.1:0"
        [pipelines.views]
        stream = "web"
        time = "ts"
        delay = "0s"
        window = { tumbling = "1m" }
        aggregates = { views = "count(*)", bytes = "sum(bytes)", kinds = "count(distinct kind)", p95 = "quantile(bytes, 0.95)" }
        "#,
    );
    let daemon = mill.start();
    wait_until("the view", || {
        (mill.sql("SELECT name AS r FROM sqlite_master WHERE name = 'views_now'").len() == 1).then_some(())
    });
    let now = "SELECT json_array(window_start, views, bytes, kinds, p95) AS r FROM views_now";
    assert_eq!(mill.sql(now), ["[null,0,null,0,null]"], "what no event gives");
    daemon.send(b"{\"ts\": 1431855001000, \"bytes\": 3}\n{\"ts\": 1431855002000, \"kind\": 7.0}\n");
    daemon.wait_for_commit();
    let now = "SELECT json_array(window_start, views, bytes, closed, kinds, p95) AS r FROM views_now";
    assert_eq!(mill.sql(now), [r#"["2015-05-17 09:30:00",2,3,0,1,3.0]"#]);
    // The next window is empty when its first event closes the one before: then it is the one to show.
    daemon.send(b"{\"ts\": 1431855060000, \"bytes\": 5}\n");
    daemon.wait_for_commit();
    assert_eq!(mill.sql(now), [r#"["2015-05-17 09:31:00",1,5,0,0,5.0]"#]);
    let all = "SELECT json_array(window_start, views, bytes, closed, partial) AS r FROM views ORDER BY 1";
    assert_eq!(mill.sql(all), [r#"["2015-05-17 09:30:00",2,3,1,0]"#, r#"["2015-05-17 09:31:00",1,5,0,0]"#]);
}
