//! The same journal gives the same rows, bit for bit, whatever the threads, the cuts and the flushes.

use crate::support::Mill;
use crate::support::weblog::web_log;

fn config(flush_every: &str, delay: &str, window: &str) -> String {
    format!(
        r#"
        [store]
        flush_every = "{flush_every}"
        [streams.web]
        tcp = "127.0.0.1:0"
        [pipelines.p]
        stream = "web"
        time = "ts"
        delay = "{delay}"
        group_by = ["path"]
        window = {window}
        [[pipelines.p.stages]]
        filter = "status <> 304"
        [[pipelines.p.stages]]
        set = {{ path = "upper(path)" }}
        [pipelines.p.aggregates]
        hits = "count(*)"
        load = "sum(load)"
        mean = "avg(load)"
        first = "first(method)"
        last = "last(method)"
        slow = "sum(load) FILTER (WHERE load > 1)"
        sizes = "count(distinct bytes)"
        spread = "stddev(load)"
        p90 = "quantile(load, 0.9)"
        "#
    )
}

const VALUES: &str = "path, hits, load, mean, \"first\", \"last\", slow, sizes, spread, p90";

/// Rows of a run in which the log was cut into packets of `packet` bytes.
fn run(config: &str, actors: usize, log: &[u8], packet: usize) -> Vec<String> {
    let mill = Mill::new(config).with(&["--window-actors", &actors.to_string()]);
    let daemon = mill.start();
    let mut client = daemon.client();
    for packet in log.chunks(packet) {
        client.write(packet);
    }
    client.sync();
    // At the stop all is flushed, whatever the timer says.
    assert!(daemon.stop().success(), "{}", mill.log());
    mill.rows("p", &format!("{VALUES}, closed, partial"))
}

#[test]
fn rows_do_not_depend_on_actors_cuts_or_flushes() {
    let log = web_log(4_000, 1_800_000, 300_000, 40, 3);
    for window in [r#"{ tumbling = "1m" }"#, r#"{ sliding = "5m", every = "1m" }"#] {
        let expected = run(&config("1s", "30s", window), 1, &log, usize::MAX);
        assert!(expected.len() > 1_000, "{}", expected.len());
        for (actors, packet, flush) in [(2, 1 << 20, "20ms"), (4, 1_024, "20ms"), (1, 1, "20ms"), (4, 1 << 20, "10s")] {
            let rows = run(&config(flush, "30s", window), actors, &log, packet);
            assert!(rows == expected, "{window}, {actors} actors, packets of {packet}, flush every {flush}");
        }
    }
}

#[test]
fn with_corrections_values_do_not_depend_on_delay() {
    let log = web_log(4_000, 600_000, 120_000, 20, 4);
    let values = |delay| {
        let mill = Mill::new(&config("100ms", delay, r#"{ tumbling = "10s" }"#));
        let daemon = mill.start();
        let mut client = daemon.client();
        client.write(&log);
        client.sync();
        assert!(daemon.stop().success());
        let rows = mill.rows("p", VALUES);
        (rows, mill.sql("SELECT count(*) || '' AS r FROM p WHERE revised_at IS NOT NULL")[0].parse::<u64>().unwrap())
    };
    let (patient, few) = values("10m");
    for delay in ["0s", "5s", "60s"] {
        let (rows, revised) = values(delay);
        assert!(rows == patient, "delay {delay}");
        assert!(revised > few, "delay {delay} corrects: {revised} rows");
    }
}
