//! How much open windows may hold: what is beyond it counts in the row `other`, and nothing is lost.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::support::{Daemon, Mill, peak_resident, wait_until};

const GROUPS: u64 = 300_000;
const MAX_GROUPS: u64 = 200_000;
/// The first event of each group, then another one of each, then late ones of some, and of groups that are new.
const LINES: u64 = 2 * GROUPS + 1 + LATE;
const LATE: u64 = 2_000;

const USERS: &str = r#"
    [store]
    flush_every = "200ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.users]
    stream = "web"
    time = "ts"
    delay = "0s"
    max_ahead = "36500d"
    group_by = ["user"]
    window = { tumbling = "1h" }
    correct_for = "30d"
    max_groups = 200000
    aggregates = { hits = "count(*)", last = "last(n)" }
"#;

fn user(line: u64) -> u64 {
    // Some order in which neighbours are far from one another.
    let group = |at: u64| at * 7_919 % GROUPS;
    match line {
        line if line < 2 * GROUPS => group(line % GROUPS),
        line => group(line * 150) + if line.is_multiple_of(2) { 0 } else { GROUPS },
    }
}

fn line(line: u64) -> String {
    // The one in between closes the window of all before.
    let ts = if line == 2 * GROUPS { 1_700_010_000 } else { 1_700_000_000 + line % 1_000 };
    format!("{{\"ts\": {ts}, \"user\": {}, \"n\": {line}}}\n", user(line))
}

fn send(daemon: &Daemon, from: u64, upto: u64) {
    let mut client = daemon.client();
    assert_eq!(client.ask("@producer users"), format!("@ok {from}"));
    for first in (from..upto).step_by(10_000) {
        let lines: String = (first..upto.min(first + 10_000)).map(line).collect();
        client.write(lines.as_bytes());
    }
    client.sync();
}

/// All rows, and the peak of the memory.
fn run(actors: usize, kills: &[u64]) -> (Vec<String>, u64) {
    let mill = Mill::new(USERS).with(&["--window-actors", &actors.to_string()]);
    let mut daemon = mill.start();
    let (mut from, mut peak) = (0, 0);
    for kill in kills {
        send(&daemon, from, *kill);
        from = *kill;
        // In the middle of whatever it does with them.
        daemon.wait_for_events("users", from / 2);
        peak = peak.max(peak_resident(daemon.id()));
        daemon.kill();
        daemon = mill.start();
    }
    send(&daemon, from, LINES);
    daemon.wait_for_commit();
    peak = peak.max(peak_resident(daemon.id()));
    if kills.is_empty() {
        // All events of the groups that had no room, late ones aside, and the one that closes their window.
        assert_eq!(daemon.pipeline("users")["other_events"], 2 * (GROUPS - MAX_GROUPS) + 1);
    }
    assert!(daemon.stop().success());
    assert!(mill.log().contains("events of further groups count in the row of their window with"), "{}", mill.log());
    (mill.rows("users", "window_start_ms, user, hits, \"last\", other, revised_at IS NULL"), peak)
}

#[test]
fn groups_beyond_max_groups_count_in_the_other_row_whatever_the_actors_and_kills() {
    let (rows, mut peak) = run(1, &[]);
    for (actors, kills) in [(2, &[][..]), (4, &[150_000, 290_000, 400_000, 2 * GROUPS + 500]), (1, &[333_333])] {
        let (again, again_peak) = run(actors, kills);
        assert!(again == rows, "{actors} actors, killed at {kills:?}");
        peak = peak.max(again_peak);
    }
    // Each slot has more groups than its share, so that in the window as many are in as may be.
    let mill = Mill::new(USERS);
    let daemon = mill.start();
    send(&daemon, 0, LINES);
    daemon.wait_for_commit();
    let one = |query: &str| mill.sql(query)[0].parse::<u64>().unwrap();
    let first = "FROM users WHERE window_start_ms < 1700006400000";
    assert_eq!(one(&format!("SELECT count(*) || '' AS r {first} AND other = 0")), MAX_GROUPS);
    assert_eq!(one(&format!("SELECT sum(hits) || '' AS r {first}")), LINES - 1);
    let mut hits: HashMap<u64, u64> = HashMap::new();
    (0..LINES).filter(|line| *line != 2 * GROUPS).for_each(|line| *hits.entry(user(line)).or_default() += 1);
    let mut others = LINES - 1;
    for row in mill.sql(&format!("SELECT user || ' ' || hits AS r {first} AND other = 0")) {
        let (user, shown) = row.split_once(' ').unwrap();
        let expected = hits[&user.parse().unwrap()];
        assert_eq!(shown.parse(), Ok(expected), "user {user}");
        others -= expected;
    }
    assert_eq!(
        mill.sql(&format!("SELECT hits || ' ' || (user IS NULL) AS r {first} AND other = 1")),
        [format!("{others} 1")]
    );
    let validated = mill.verb("validate", &[]);
    let text = String::from_utf8(validated.stdout).unwrap();
    let sum = text.lines().rev().find_map(|line| line.rsplit_once(" = ")).unwrap().1;
    let (number, unit) = sum.split_at(sum.find(|c: char| c.is_alphabetic()).unwrap());
    let bytes = number.parse::<u64>().unwrap()
        * match unit {
            "GiB" => 1 << 30,
            "MiB" => 1 << 20,
            "KiB" => 1 << 10,
            _ => 1,
        };
    assert!(peak < bytes, "{peak} bytes, and validate says {sum}");
}

#[test]
fn groups_that_grow_beyond_twice_state_limit_pause_their_pipeline_until_there_is_room() {
    let config = |limit: &str| {
        format!(
            "[store]\nflush_every = \"20ms\"\n[streams.web]\ntcp = \"127.0.0.1:0\"\n[pipelines.kinds]\nstream = \"web\"\n\
             time = \"ts\"\ngroup_by = [\"g\"]\nwindow = {{ tumbling = \"1d\" }}\nstate_limit = \"{limit}\"\n\
             max_groups = 100\naggregates = {{ kinds = \"count(distinct x)\", hits = \"count(*)\" }}\n"
        )
    };
    let (groups, values) = (40, 4_000);
    let mut lines = String::new();
    for x in 0..values {
        for g in 0..groups {
            writeln!(lines, "{{\"ts\": 1700000000, \"g\": {g}, \"x\": {x}}}").unwrap();
        }
    }
    let mill = Mill::new(&config("1MiB"));
    let daemon = mill.start();
    assert_eq!(daemon.send(lines.as_bytes()), (groups * values, 0), "the stream goes on");
    let error = wait_until("a pause", || {
        let pipeline = daemon.pipeline("kinds");
        (pipeline["state"] == "paused").then(|| pipeline["error"].as_str().unwrap().to_owned())
    });
    assert!(error.contains("twice their share of `state_limit`"), "{error}");
    assert!(daemon.stop().success());
    mill.write_config(&config("8MiB"));
    let daemon = mill.start();
    daemon.wait_for_commit();
    let rows =
        mill.sql("SELECT g || ' ' || kinds || ' ' || hits || ' ' || other AS r FROM kinds ORDER BY CAST(g AS INTEGER)");
    let expected: Vec<_> = (0..groups).map(|g| format!("{g} {values} {values} 0")).collect();
    assert_eq!(rows, expected);
    // What is new beyond the limit is one row.
    mill.write_config(&config("2MiB"));
    assert!(daemon.stop().success());
    let daemon = mill.start();
    daemon.send(b"{\"ts\": 1700000000, \"g\": \"new\", \"x\": 1}\n{\"ts\": 1700000000, \"g\": \"newer\", \"x\": 1}\n");
    daemon.wait_for_commit();
    assert_eq!(mill.sql("SELECT kinds || ' ' || hits AS r FROM kinds WHERE other = 1"), ["1 2"]);
}
