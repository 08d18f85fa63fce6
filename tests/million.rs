//! A million events, ten minutes out of order, 20,000 groups, float sums, corrections and five kills: what SQL says of the
//! same lines, and float sums to the last bit.

use std::collections::HashMap;
use std::time::Duration;

use crate::crash::resume;
use crate::support::weblog::{START, table, web_log};
use crate::support::{Mill, sql};

const EVENTS: usize = 1_000_000;
const CONFIG: &str = r#"
    [store]
    flush_every = "200ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.groups]
    stream = "web"
    time = "ts"
    delay = "10s"
    late = "update"
    group_by = ["path"]
    window = { tumbling = "10m" }
    aggregates = { hits = "count(*)", bytes = "sum(bytes)", load = "sum(load)", most = "max(load)" }
"#;

/// The exact sum of floats, rounded once: whole numbers of 2^-1074 in 2,176 bits, as two's complement in words.
#[derive(Clone)]
struct Exact([u32; 68]);

impl Exact {
    fn add(&mut self, value: f64) {
        assert!(value >= 0.0);
        let bits = value.to_bits();
        let exponent = (bits >> 52 & 0x7ff) as usize;
        let fraction = (bits & ((1 << 52) - 1)) | if exponent > 0 { 1 << 52 } else { 0 };
        let shift = exponent.max(1) - 1;
        let mut carry = u128::from(fraction) << (shift % 32);
        let mut word = shift / 32;
        while carry > 0 {
            carry += u128::from(self.0[word]);
            self.0[word] = carry as u32;
            carry >>= 32;
            word += 1;
        }
    }

    /// By long arithmetic on the text of the bits: nothing that the program under test does.
    fn value(&self) -> f64 {
        let bit = |index: usize| self.0[index / 32] >> (index % 32) & 1 == 1;
        let Some(top) = (0..68 * 32).rev().find(|index| bit(*index)) else { return 0.0 };
        if top < 53 {
            return f64::from_bits(u64::from(self.0[0]) | u64::from(self.0[1]) << 32);
        }
        let low = top - 52;
        let mut mantissa = (low..=top).rev().fold(0_u64, |all, index| all << 1 | u64::from(bit(index)));
        let half = bit(low - 1);
        let rest = (0..low - 1).any(bit);
        if half && (rest || mantissa & 1 == 1) {
            mantissa += 1;
        }
        // Below 2^1023 here, so that neither factor overflows; both are exact.
        mantissa as f64 * 2_f64.powi(low as i32 - 1074 + 512) * 2_f64.powi(-512)
    }
}

#[derive(serde::Deserialize)]
struct Values {
    hits: u64,
    bytes: u64,
    load: f64,
    most: f64,
}

#[test]
fn a_million_events_through_five_kills_are_what_sql_says() {
    let log = web_log(EVENTS, 2 * 3_600_000, 600_000, 20_000, 17);
    let mut line_starts: Vec<usize> = vec![0];
    line_starts.extend(memchr::memchr_iter(b'\n', &log).map(|at| at + 1));
    let mill = Mill::new(CONFIG);
    let mut random = fastrand::Rng::with_seed(23);
    for _ in 0..5 {
        let daemon = mill.start();
        let address = daemon.tcp.clone();
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| resume(&address, &log, &line_starts));
            std::thread::sleep(Duration::from_millis(random.u64(50..400)));
            daemon.kill();
            sender.join().unwrap();
        });
    }
    let daemon = mill.start();
    resume(&daemon.tcp, &log, &line_starts).expect("the last run is not disturbed");
    daemon.wait_for_events("groups", EVENTS as u64);
    assert!(daemon.stop().success(), "{}", mill.log());

    // Read by hand: SQLite's own sums of floats are not exact.
    let mut expected: HashMap<(i64, String), (u64, u64, Exact, f64)> = HashMap::new();
    for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let event: serde_json::Value = serde_json::from_slice(line).unwrap();
        let window = event["ts"].as_i64().unwrap().div_euclid(600_000) * 600_000;
        let key = (window, event["path"].as_str().unwrap().to_owned());
        let group = expected.entry(key).or_insert((0, 0, Exact([0; 68]), 0.0));
        group.0 += 1;
        group.1 += event["bytes"].as_u64().unwrap();
        group.2.add(event["load"].as_f64().unwrap());
        group.3 = group.3.max(event["load"].as_f64().unwrap());
    }
    assert!(expected.keys().map(|(window, _)| window).min().unwrap() < &START);
    let rows = mill.sql("SELECT json_array(window_start, group_values, result_values) AS r FROM window_results");
    assert_eq!(rows.len(), expected.len());
    for row in rows {
        let (window, group, values): (i64, String, String) = serde_json::from_str(&row).unwrap();
        let group: serde_json::Value = serde_json::from_str(&group).unwrap();
        let path = group["path"].as_str().unwrap().to_owned();
        // The stored text of a float reads back to the bit.
        let values: Values = serde_json::from_str(&values).unwrap();
        let Values { hits, bytes, load, most } = values;
        let expected = &expected[&(window, path.clone())];
        assert_eq!((hits, bytes), (expected.0, expected.1), "{window} {path}");
        assert_eq!(load.to_bits(), expected.2.value().to_bits(), "{window} {path}: {load}");
        assert_eq!(most.to_bits(), expected.3.to_bits(), "{window} {path}: {most}");
    }

    // And SQL over the view says what SQL says of the lines.
    let total = "json_array(count(*), sum(hits), sum(bytes), min(window_start_ms))";
    let of_groups = sql(&mill.database(), &format!("SELECT {total} AS r FROM groups"));
    let oracle = table(mill.path(), &log);
    let of_lines = sql(
        &oracle,
        &format!(
            "SELECT {total} AS r FROM (SELECT (line ->> 'ts') / 600000 * 600000 AS window_start_ms, count(*) AS hits,
                sum(line ->> 'bytes') AS bytes FROM log GROUP BY 1, line ->> 'path')"
        ),
    );
    assert_eq!(of_groups, of_lines);
}
