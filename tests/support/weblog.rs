//! A web server's log as events, out of order, and what SQL says about it.

use std::fmt::Write as _;
use std::path::Path;

use diesel::prelude::*;
use diesel::sql_query;

/// The log's first moment, unix ms.
pub const START: i64 = 1_431_855_000_000;

/// So many lines over so many ms of event time, each up to `disorder_ms` late, the same for the same seed.
pub fn web_log(lines: usize, span_ms: i64, disorder_ms: i64, groups: u64, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut log = String::new();
    for index in 0..lines {
        let late = if disorder_ms > 0 { random.i64(0..disorder_ms) } else { 0 };
        let ts = START + span_ms * index as i64 / lines as i64 - late;
        let method = ["GET", "GET", "GET", "POST", "HEAD"][random.usize(0..5)];
        let status = [200, 200, 200, 304, 404, 500][random.usize(0..6)];
        let (path, bytes) = (random.u64(0..groups), random.u32(0..100_000));
        let load = random.f64() * 10_f64.powi(random.i32(-8..8));
        writeln!(
            log,
            r#"{{"ts": {ts}, "method": "{method}", "path": "/p/{path}", "status": {status}, "bytes": {bytes}, "load": {load:?}}}"#
        )
        .unwrap();
    }
    log.into_bytes()
}

/// The lines of a log, as a table `log(line)` of a database of its own.
pub fn table(folder: &Path, log: &[u8]) -> std::path::PathBuf {
    let database = folder.join("oracle.db");
    let mut connection = super::connect(&database);
    sql_query("CREATE TABLE log (line TEXT)").execute(&mut connection).unwrap();
    connection
        .transaction(|connection| {
            for line in log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = String::from_utf8_lossy(line).into_owned();
                let insert = sql_query("INSERT INTO log SELECT ?1 WHERE json_valid(?1) AND json_type(?1) = 'object'");
                insert.bind::<diesel::sql_types::Text, _>(line).execute(connection)?;
            }
            diesel::QueryResult::Ok(())
        })
        .unwrap();
    database
}
