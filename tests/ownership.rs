//! Who may write, and from which journal: two daemons on one store, a restored store, a journal that is not the one.

use std::path::Path;

use crate::support::postgres::{shared, unique_schema};
use crate::support::weblog::web_log;
use crate::support::{Mill, copy, wait_until};

const CONFIG: &str = r#"
    [store]
    flush_every = "20ms"
    [streams.web]
    tcp = "127.0.0.1:0"
    [pipelines.hits]
    stream = "web"
    time = "ts"
    delay = "10s"
    group_by = ["path"]
    window = { tumbling = "1m" }
    aggregates = { hits = "count(*)", load = "sum(load)" }
    [[pipelines.hits.stages]]
    filter = "path <> '/closes'"
"#;

/// A store that both daemons of a test can reach.
fn stores(folder: &Path) -> [String; 2] {
    [
        CONFIG.replace("[store]", &format!("[store]\nurl = \"sqlite://{}\"", folder.join("shared.db").display())),
        CONFIG.replace("[store]", &format!("[store]\nurl = \"{}\"\nschema = \"{}\"", shared().url(), unique_schema())),
    ]
}

/// By SQLite's own means: much of the store may still be in its write-ahead log.
fn back_up(mill: &Mill, to: &Path) {
    mill.sql(&format!("VACUUM INTO '{}'", to.display()));
}

fn restore(mill: &Mill, from: &Path) {
    for file in ["tidemill.db-wal", "tidemill.db-shm"] {
        let _ = std::fs::remove_file(mill.path().join("data").join(file));
    }
    std::fs::copy(from, mill.database()).unwrap();
}

#[test]
fn a_daemon_with_a_journal_of_its_own_is_refused_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    for config in stores(folder.path()) {
        let (first, second) = (Mill::new(&config), Mill::new(&config));
        let daemon = first.start();
        daemon.send(&web_log(1_000, 60_000, 0, 3, 1));
        daemon.wait_for_commit();
        let refused = second.refused();
        let said = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(78), "{said}");
        assert!(said.contains("of another journal than the one in data_dir"), "{said}");
        daemon.send(&web_log(1_000, 60_000, 0, 3, 2));
        daemon.wait_for_commit();
        assert_eq!(daemon.pipeline("hits")["account"]["read"], 2_000);
        assert_eq!(daemon.pipeline("hits")["state"], "running");
    }
}

#[test]
fn a_daemon_on_a_copy_of_the_journal_takes_over_and_the_older_is_fenced() {
    let folder = tempfile::tempdir().unwrap();
    for config in stores(folder.path()) {
        let (first, second) = (Mill::new(&config), Mill::new(&config));
        let older = first.start();
        older.send(&web_log(1_000, 60_000, 0, 3, 1));
        // A stream without open windows is told of no silence, so that what is copied stays all there is.
        older.send(b"{\"ts\": 1431860000000, \"path\": \"/closes\"}\n");
        wait_until("all windows to close", || (older.pipeline("hits")["open_windows"] == 0).then_some(()));
        older.wait_for_commit();
        copy(&first.path().join("data"), &second.path().join("data"));
        let newer = second.start();
        newer.send(&web_log(1_000, 60_000, 0, 3, 2));
        newer.wait_for_commit();

        older.send(&web_log(10, 60_000, 0, 3, 3));
        wait_until("the older daemon to be fenced", || (older.pipeline("hits")["state"] == "fenced").then_some(()));
        let degraded = older.get("/readyz")["degraded"].to_string();
        assert!(degraded.contains("another writer has taken over"), "{degraded}");
        newer.send(&web_log(500, 60_000, 0, 3, 4));
        newer.wait_for_commit();
        assert_eq!(newer.pipeline("hits")["account"]["read"], 2_501);
        let hits: u64 = newer.rows("hits").iter().map(|row| row[8].as_u64().unwrap()).sum();
        assert_eq!(hits, 2_500, "the rows are those of the copy's journal");
    }
}

#[test]
fn last_nights_store_catches_up_from_todays_journal() {
    let mill = Mill::new(CONFIG);
    let daemon = mill.start();
    daemon.send(&web_log(20_000, 600_000, 60_000, 10, 1));
    daemon.wait_for_commit();
    assert!(daemon.stop().success());
    let night = mill.path().join("night.db");
    back_up(&mill, &night);

    let daemon = mill.start();
    daemon.send(&web_log(20_000, 600_000, 60_000, 10, 2));
    daemon.wait_for_commit();
    let today = daemon.rows("hits");
    assert!(daemon.stop().success());
    restore(&mill, &night);
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(daemon.rows("hits"), today);
    assert_eq!(daemon.pipeline("hits")["account"]["read"], 40_000);
}

#[test]
fn last_nights_dump_of_postgres_catches_up_from_todays_journal() {
    let schema = unique_schema();
    let store = format!("[store]\nurl = \"{}\"\nschema = \"{schema}\"", shared().url());
    let mill = Mill::new(&CONFIG.replace("[store]", &store));
    let daemon = mill.start();
    daemon.send(&web_log(20_000, 600_000, 60_000, 10, 1));
    daemon.wait_for_commit();
    let dump = shared().program("pg_dump").args(["-n", &schema, "-d", &shared().url()]).output().unwrap();
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));

    daemon.send(&web_log(20_000, 600_000, 60_000, 10, 2));
    daemon.wait_for_commit();
    let today = daemon.rows("hits");
    assert!(daemon.stop().success());
    shared().psql(&format!("DROP SCHEMA {schema} CASCADE"));
    shared().psql(&String::from_utf8(dump.stdout).unwrap());
    let daemon = mill.start();
    daemon.wait_for_commit();
    assert_eq!(daemon.rows("hits"), today);
    assert_eq!(daemon.pipeline("hits")["account"]["read"], 40_000);
}

#[test]
fn a_journal_that_no_longer_reaches_back_is_refused_with_the_missing_positions() {
    let mill =
        Mill::new(&CONFIG.replace("[streams.web]", "[streams.web]\njournal_keep = \"0s\"\njournal_limit = \"64MiB\""));
    let daemon = mill.start();
    daemon.send(&web_log(100, 60_000, 0, 3, 1));
    daemon.wait_for_commit();
    assert!(daemon.stop().success());
    let night = mill.path().join("night.db");
    back_up(&mill, &night);
    let daemon = mill.start();
    // More than one segment, so that the first ones go.
    for seed in 0..3 {
        daemon.send(&web_log(200_000, 60_000, 0, 3, seed));
    }
    daemon.wait_for_commit();
    wait_until("old segments to go", || {
        let first = daemon.stats()["streams"][0]["journal"]["first"].as_u64()?;
        (first > 101).then_some(())
    });
    assert!(daemon.stop().success());
    restore(&mill, &night);
    let refused = mill.refused();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(78), "{said}");
    assert!(
        said.contains("its checkpoint is at position 100, but the journal holds ") && said.contains("are missing"),
        "{said}"
    );
    // Accepted, it goes on with what there is.
    let (_, code) = said.split_once("--accept-plan ").unwrap();
    let mill = mill.with(&["--accept-plan", code.split('`').next().unwrap()]);
    let daemon = mill.start();
    daemon.wait_for_commit();
    let first = daemon.stats()["streams"][0]["journal"]["first"].as_u64().unwrap();
    let read = daemon.pipeline("hits")["account"]["read"].as_u64().unwrap();
    assert_eq!(read, 100 + (600_100 - (first - 1)), "what was missing is passed over, and nothing else");
}
