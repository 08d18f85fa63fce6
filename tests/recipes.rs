//! The recipes of the README: their configs take what they say, and their SQL gives what it should.

use std::path::Path;

use crate::support::postgres::{shared, unique_schema};
use crate::support::{Daemon, Mill};

/// The README's recipes.
fn recipes() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let recipes = readme.split("\n## Recipes\n").nth(1).unwrap();
    recipes.split("\n## ").next().unwrap().to_owned()
}

/// Its one block of a language that holds a text.
fn block(language: &str, text: &str) -> String {
    let (recipes, fence) = (recipes(), format!("```{language}\n"));
    let blocks: Vec<_> = recipes.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    let found: Vec<_> = blocks.iter().filter(|block| block.contains(text)).collect();
    assert_eq!(found.len(), 1, "{language} with {text:?} in {blocks:?}");
    (*found[0]).to_owned()
}

/// The statement behind a comment.
fn dialect(sql: &str, name: &str) -> String {
    let behind = sql.split(&format!("-- {name}\n")).nth(1).unwrap();
    behind.split(';').next().unwrap().to_owned()
}

fn start(config: &str) -> (Mill, Daemon) {
    let mill = Mill::new(&config.replace("127.0.0.1:7600", "127.0.0.1:0"));
    let daemon = mill.start();
    (mill, daemon)
}

/// Rows of a statement of the README: each as a JSON array of these columns.
fn rows(mill: &Mill, columns: &str, statement: &str) -> Vec<String> {
    let statement = statement.trim().trim_end_matches(';');
    mill.sql(&format!("SELECT json_array({columns}) AS r FROM ({statement})"))
}

#[test]
fn nginx_logs_events_of_the_web_log() {
    let config = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/weblog.toml")).unwrap();
    // As nginx does it: the quoted parts are one text, and each variable's value stands in its place.
    let format: String = block("nginx", "log_format").split('\'').skip(1).step_by(2).collect();
    let line = |msec: &str, uri: &str, status: &str| {
        let values =
            [("$msec", msec), ("$remote_addr", "192.0.2.7"), ("$request_method", "GET"), ("$request_uri", uri)];
        let values =
            [&values[..], &[("$status", status), ("$body_bytes_sent", "512"), ("$request_time", "0.004")]].concat();
        let line = values.iter().fold(format.clone(), |line, (name, value)| line.replace(name, value));
        assert!(!line.contains('$'), "{line}");
        line + "\n"
    };
    let (mill, daemon) = start(&config);
    let lines = [
        line("1772442003.170", "/docs?x=\\\"1\\\"", "200"),
        line("1772442004.000", "/docs", "200"),
        line("1772442005.001", "/", "503"),
        // A minute and a half later: the ten minutes up to 09:01 are next to close.
        line("1772442090.000", "/gone", "404"),
    ];
    assert_eq!(daemon.send(lines.concat().as_bytes()), (4, 0));
    daemon.wait_for_commit();
    assert_eq!(
        mill.rows("page_views", "path, views, bytes"),
        [r#"["2026-03-02 09:00:00","2026-03-02 09:05:00","/docs",2,1024]"#]
    );
    let errors = mill.sql("SELECT json_array(requests, server_errors) AS r FROM errors_now");
    assert_eq!(errors, ["[3,1]"]);
}

/// The output plugin's body, header and address; which hosts were busy.
#[test]
fn telegraf_s_output_is_taken() {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let config = readme.split("```toml\n").find(|block| block.starts_with("[streams.metrics]")).unwrap();
    let (mill, daemon) = start(config.split("```").next().unwrap());
    let output = block("conf", "[[outputs.http]]");
    let setting = |name: &str| {
        let line = output.lines().find(|line| line.trim_start().starts_with(&format!("{name} = "))).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    assert_eq!([setting("data_format"), setting("content_encoding")], ["influx", "gzip"]);
    let points = "cpu,cpu=cpu-total,host=a usage_idle=10 1772442000000000000\n\
                  cpu,cpu=cpu-total,host=a usage_idle=20 1772442060000000000\n\
                  cpu,cpu=cpu0,host=a usage_idle=99 1772442060000000000\n\
                  cpu,cpu=cpu-total,host=b usage_idle=97.5 1772442060000000000\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, points.as_bytes()).unwrap();
    let url = setting("url").replace("127.0.0.1:7601", &daemon.http);
    let request = ureq::post(url).header("Content-Type", "text/plain; charset=utf-8");
    let answer = request.header("Content-Encoding", &setting("content_encoding")).send(gzip.finish().unwrap()).unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    daemon.wait_for_commit();
    assert_eq!(rows(&mill, "host, busy", &block("sql", "FROM cpu")), [r#"["a",85.0]"#, r#"["b",3.0]"#]);
}

const ORDERS: &str = r#"{"ts": 1772442000, "type": "order", "order_id": "A-1", "total": 0.3}
{"ts": 1772442010, "type": "order", "order_id": "A-2", "total": 59.9}
{"ts": 1772441990, "type": "payment", "order_id": "A-1", "amount": 0.1}
{"ts": 1772444000, "type": "payment", "order_id": "A-1", "amount": 0.2}
{"ts": 1772442060, "type": "order", "order_id": "A-3", "total": 20}
{"ts": 1772445600, "type": "payment", "order_id": "A-3", "amount": 12.5}
{"ts": 1772447000, "type": "page_view", "order_id": "A-2"}
{"ts": 1772460000, "type": "order", "order_id": "A-4", "total": 1}
"#;

#[test]
fn orders_meet_their_payments_and_the_unpaid_ones_are_found() {
    let config = block("toml", "[pipelines.orders]");
    let unpaid = block("sql", "FROM orders");
    let (mill, daemon) = start(&config);
    daemon.send(ORDERS.as_bytes());
    daemon.wait_for_commit();
    assert_eq!(
        mill.sql("SELECT json_array(order_id, ordered, round(paid, 9), payments, closed) AS r FROM orders ORDER BY 1"),
        [r#"["A-1",0.3,0.3,2,1]"#, r#"["A-2",59.9,null,0,1]"#, r#"["A-3",20,12.5,1,1]"#, r#"["A-4",1,null,0,0]"#],
    );
    assert_eq!(rows(&mill, "order_id, ordered, paid", &unpaid), [r#"["A-2",59.9,0]"#, r#"["A-3",20,12.5]"#]);

    let schema = unique_schema();
    let (_mill, daemon) = start(&format!("[store]\nurl = \"{}\"\nschema = \"{schema}\"\n{config}", shared().url()));
    daemon.send(ORDERS.as_bytes());
    daemon.wait_for_commit();
    assert_eq!(shared().psql(&format!("SET search_path = {schema}; {unpaid}")), "A-2|59.9|0\nA-3|20|12.5");
}

/// Three visits: of 10 and of 20 minutes, and one of a single page; a fourth one is not over.
const VISITS: &str = r#"{"ts": 1772442000, "user": "a"}
{"ts": 1772442600, "user": "a"}
{"ts": 1772442000, "user": "b"}
{"ts": 1772443200, "user": "b"}
{"ts": 1772447000, "user": "a"}
{"ts": 1772460000, "user": "b"}
"#;

#[test]
fn the_average_session_is_ten_minutes_long() {
    let (config, query) = (block("toml", "[pipelines.visits]"), block("sql", "FROM visits"));
    let (mill, daemon) = start(&config);
    daemon.send(VISITS.as_bytes());
    daemon.wait_for_commit();
    assert_eq!(rows(&mill, "seconds", &dialect(&query, "SQLite")), ["[600.0]"]);

    let schema = unique_schema();
    let (_mill, daemon) = start(&format!("[store]\nurl = \"{}\"\nschema = \"{schema}\"\n{config}", shared().url()));
    daemon.send(VISITS.as_bytes());
    daemon.wait_for_commit();
    let query = dialect(&query, "PostgreSQL").replace("tidemill.visits", &format!("{schema}.visits"));
    assert_eq!(shared().psql(&query), "600");
}
