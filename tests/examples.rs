//! Every example config and every block of the README does what it says.

use std::path::{Path, PathBuf};

use crate::support::weblog::table;
use crate::support::{Mill, sql, tidemill};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The blocks of the README between ```<language> and ```.
fn blocks(language: &str) -> Vec<String> {
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let fence = format!("```{language}\n");
    let found: Vec<_> = readme.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect();
    assert!(!found.is_empty(), "the README has no {language}");
    found
}

/// The configs under `examples/`, and in the folders there.
fn examples() -> Vec<PathBuf> {
    let files = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
    };
    let all = files(&Path::new(ROOT).join("examples"));
    let jobs = all.iter().filter(|path| path.is_dir()).flat_map(|folder| files(folder));
    let is_config = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "toml");
    jobs.chain(all.iter().cloned()).filter(is_config).collect()
}

#[test]
fn every_example_config_is_valid_and_passes_its_tests() {
    let examples = examples();
    assert!(examples.len() >= 5, "{examples:?}");
    for path in examples {
        assert!(std::fs::read_to_string(&path).unwrap().contains("[[tests]]"), "{} has no tests", path.display());
        let output = tidemill().arg("validate").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
        let output = tidemill().arg("test").arg(&path).output().unwrap();
        assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn every_config_of_the_readme_is_valid() {
    for block in blocks("toml") {
        let mill = Mill::new("");
        std::fs::write(mill.config(), &block).unwrap();
        std::fs::write(mill.path().join("teams.csv"), "country,team\nNL,north\n").unwrap();
        let output = tidemill().arg("validate").arg(mill.config()).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", String::from_utf8_lossy(&output.stderr));
        let output = tidemill().arg("test").arg(mill.config()).output().unwrap();
        assert!(output.status.success(), "{block}\n{}", String::from_utf8_lossy(&output.stdout));
    }
}

/// The first block of the README is what it says a stranger starts with.
#[test]
fn the_readme_s_first_rows_come_out() {
    let config = &blocks("toml")[0];
    let readme = std::fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let lines: Vec<&str> = readme.split('\'').filter(|part| part.starts_with("{\"ts\"")).take(3).collect();
    assert_eq!(lines.len(), 3);
    let mill = Mill::new(&config.replace("127.0.0.1:7600", "127.0.0.1:0"));
    let daemon = mill.start();
    daemon.send(format!("{}\n", lines.join("\n")).as_bytes());
    daemon.wait_for_commit();
    let shown = tidemill().args(["query", "page_views", "--url", &daemon.http]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let words = |text: &str| text.split(['│', '┆', '\n']).map(|word| word.trim().to_owned()).collect::<Vec<_>>();
    let row = |text: &str, path: &str| words(text.lines().find(|line| line.contains(path)).unwrap());
    for path in ["┆ /  ", "┆ /sale"] {
        assert_eq!(row(&shown, path), row(&readme, path));
    }
}

/// The README's body over HTTP is answered as it says, but for the time it takes.
#[test]
fn the_readme_s_post_is_taken() {
    let command = blocks("sh").into_iter().find(|block| block.starts_with("curl ")).unwrap();
    let quoted: Vec<&str> = command.split('\'').skip(1).step_by(2).collect();
    let [producer, from, body] = quoted[..] else { panic!("{command}") };
    let mill = Mill::new(&blocks("toml")[0].replace("127.0.0.1:7600", "127.0.0.1:0"));
    let daemon = mill.start();
    daemon.send(b"{}\n{}\n{}\n");
    let url = command.split_whitespace().last().unwrap().replace("127.0.0.1:7601", &daemon.http);
    let request = [producer, from].iter().fold(ureq::post(url), |request, header| {
        let (name, value) = header.split_once(": ").unwrap();
        request.header(name, value)
    });
    let answer = request.send(body).unwrap().body_mut().read_to_string().unwrap();
    let without_time = |answer: &str| answer.split(",\"processing_ms\":").next().unwrap().to_owned();
    assert_eq!(without_time(&answer), without_time(&blocks("json")[0]));
}

/// Runs an example's config (its addresses changed to free ones) over its data; the rows of a query.
fn run(name: &str, data: &str, query: &str) -> Vec<String> {
    let examples = Path::new(ROOT).join("examples");
    let config = std::fs::read_to_string(examples.join(name)).unwrap();
    let config = config.replace("127.0.0.1:7600", "127.0.0.1:0");
    let mill = Mill::new(&config);
    let daemon = mill.start();
    let sent = tidemill().args(["send", &daemon.tcp]).arg(examples.join("data").join(data)).output().unwrap();
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    daemon.wait_for_commit();
    mill.sql(query)
}

/// What SQLite's JSON functions make of an example's lines.
fn oracle(data: &str, query: &str) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::read(Path::new(ROOT).join("examples/data").join(data)).unwrap();
    sql(&table(folder.path(), &log), query)
}

#[test]
fn the_web_log_s_numbers_are_those_of_sql() {
    let rows = run(
        "weblog.toml",
        "weblog.ndjson",
        "SELECT json_array(window_start_ms, path, views, bytes, visitors) AS r FROM page_views ORDER BY 1",
    );
    let expected = oracle(
        "weblog.ndjson",
        "SELECT json_array(start, path, count(*), sum(bytes), count(DISTINCT ip)) AS r
         FROM (SELECT (line ->> 'ts') / 300000 * 300000 AS start, line ->> 'bytes' AS bytes, line ->> 'ip' AS ip,
                      lower(substr(line ->> 'path', 1, instr((line ->> 'path') || '?', '?') - 1)) AS path
               FROM log WHERE line ->> 'method' = 'GET' AND line ->> 'status' < 400)
         GROUP BY start, path ORDER BY 1",
    );
    assert!(rows.len() > 10);
    assert_eq!(rows, expected);
}

#[test]
fn orders_meet_their_payments() {
    let rows = run(
        "orders.toml",
        "orders.ndjson",
        "SELECT json_array(order_id, ordered, round(paid, 2), payments, unpaid) AS r FROM payments ORDER BY 1",
    );
    let expected = oracle(
        "orders.ndjson",
        "SELECT json_array(id, ordered, round(paid, 2), payments, round(coalesce(ordered, 0) - coalesce(paid, 0), 2)) AS r
         FROM (SELECT (line ->> 'ts') / 86400000 AS day, line ->> 'order_id' AS id,
                      sum(line ->> 'total') FILTER (WHERE line ->> 'type' = 'order') AS ordered,
                      sum(line ->> 'amount') FILTER (WHERE line ->> 'type' = 'payment') AS paid,
                      count(*) FILTER (WHERE line ->> 'type' = 'payment') AS payments
               FROM log WHERE line ->> 'type' IN ('order', 'payment') GROUP BY day, id)
         ORDER BY 1",
    );
    assert!(rows.len() > 20);
    assert_eq!(rows, expected);
}
