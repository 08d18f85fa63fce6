//! A stream transformed, filtered, enriched and aggregated, with a stage in Rust that asks another service, and what
//! becomes of events that fail: `cargo run --release --example streaming`

mod lookup;

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use tidemill::{Event, Mill, Outcome, StageError, Tidemill};

/// The lookups that may be under way.
const AT_ONCE: usize = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/streaming");
    // Each run begins anew.
    let _ = std::fs::remove_dir_all(folder.join("data"));
    let mill = run(&folder, &mut std::io::stdout()).await?;
    if std::env::args().any(|argument| argument == "stay") {
        println!("http://{} and `tidemill query`, `stats` and `dlq` show more, until Ctrl-C", mill.http_address());
        tokio::signal::ctrl_c().await?;
    }
    mill.shutdown().await;
    Ok(())
}

/// Sends the events of a folder through its pipelines, and says what came out.
pub async fn run(folder: &Path, out: &mut impl Write) -> Result<Mill, Box<dyn Error>> {
    let repaired = Arc::new(AtomicBool::new(false));
    let service = lookup::serve(repaired.clone()).await?;
    let mill = Tidemill::from_file(folder.join("tidemill.toml"))?;
    let mill =
        mill.stage_async("country", AT_ONCE, async move |event| country(event, &format!("http://{service}")).await);
    let mill = mill.start().await?;

    let events = std::fs::read_to_string(folder.join("events.ndjson"))?;
    let web = mill.stream("web")?;
    for line in events.lines() {
        web.send(line).await?;
    }
    web.synced().await?; // durable: from here on no crash loses them
    let sent = events.lines().filter(|line| serde_json::from_str::<Value>(line).is_ok()).count();
    // The stream's own letters, too, of lines that are no events: `@web` is its intake.
    committed(&mill, "@web", events.lines().count() as u64).await?;
    for pipeline in ["views", "online", "sold", "countries"] {
        committed(&mill, pipeline, sent as u64).await?;
    }

    let views = now(&mill, "views", &["path", "views", "p95_ms"]).await?;
    writeln!(out, "Views per URL in the last five minutes\n{views}")?;
    writeln!(out, "Users online now\n{}", now(&mill, "online", &["users"]).await?)?;
    writeln!(out, "Sold today\n{}", now(&mill, "sold", &["category", "pieces", "revenue"]).await?)?;
    let countries = ["country", "orders", "buyers"];
    writeln!(out, "Orders by country\n{}", now(&mill, "countries", &countries).await?)?;
    writeln!(out, "Letters\n{}", letters(&mill).await?)?;

    // The service is well again, and what it could not answer comes again.
    repaired.store(true, Ordering::SeqCst);
    let replayed = replay(&mill, "countries").await?;
    committed(&mill, "countries", sent as u64 + replayed).await?;
    writeln!(out, "After {replayed} letters were replayed\n{}", now(&mill, "countries", &countries).await?)?;
    Ok(mill)
}

/// A stage: asks for the country of an order's address. What may work in a moment is tried again after 100, 200 and 300 ms,
/// and is a letter then; what never will is one at once.
async fn country(event: &mut Event, service: &str) -> Result<Outcome, StageError> {
    let Some(ip) = event.get("ip").and_then(Value::as_str) else { return Err(StageError::Bad("no ip".to_owned())) };
    let url = format!("{service}/{ip}");
    let answer = tokio::task::spawn_blocking(move || ureq::get(url).call()?.body_mut().read_to_string()).await;
    match answer.map_err(|error| StageError::Transient(error.to_string()))? {
        Ok(country) => event.set("country", country),
        Err(ureq::Error::StatusCode(404)) => return Err(StageError::Bad(format!("nobody knows {ip}"))),
        Err(error) => return Err(StageError::Transient(format!("the country service: {error}"))),
    }
    Ok(Outcome::Keep)
}

/// Waits until a pipeline has committed so many events.
#[expect(clippy::disallowed_methods, reason = "the clock that tests turn by hand is the library's")]
async fn committed(mill: &Mill, pipeline: &str, events: u64) -> Result<(), Box<dyn Error>> {
    let is_there = |stats: &Value| {
        let mut all = stats["pipelines"].as_array().into_iter().flatten();
        all.any(|of| of["name"] == pipeline && of["account"]["read"].as_u64() >= Some(events))
    };
    while !is_there(&serde_json::from_str(&mill.stats()?)?) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Columns of the rows of the window that is next to close.
async fn now(mill: &Mill, pipeline: &str, columns: &[&str]) -> Result<Table, Box<dyn Error>> {
    let rows = mill.pipeline(pipeline)?.now().await?;
    let of = |row: &Vec<Value>, name: &str| {
        rows.columns.iter().position(|column| column == name).map_or_else(String::new, |index| text(&row[index]))
    };
    let mut texts: Vec<Vec<String>> =
        rows.rows.iter().map(|row| columns.iter().map(|name| of(row, name)).collect()).collect();
    texts.sort();
    Ok(table(columns, texts))
}

/// The letters that are left, by their reasons, as `tidemill dlq list --by-reason` shows them.
async fn letters(mill: &Mill) -> Result<Table, Box<dyn Error>> {
    let url = format!("http://{}/api/v1/dead-letters?by=reason", mill.http_address());
    let answer = tokio::task::spawn_blocking(|| ureq::get(url).call()?.body_mut().read_json::<Value>()).await??;
    let reasons = answer["reasons"].as_array().cloned().unwrap_or_default();
    let columns = ["count", "pipeline", "kind", "reason"];
    Ok(table(&columns, reasons.iter().map(|reason| columns.map(|name| text(&reason[name])).to_vec()).collect()))
}

/// Sends the letters of a pipeline through it again, as `tidemill dlq replay --pipeline` does; how many.
async fn replay(mill: &Mill, pipeline: &'static str) -> Result<u64, Box<dyn Error>> {
    let url = format!("http://{}/api/v1/dead-letters/replay", mill.http_address());
    let ask = move || ureq::post(url).send_json(json!({ "pipeline": pipeline }))?.body_mut().read_json::<Value>();
    let answer = tokio::task::spawn_blocking(ask).await??;
    Ok(answer["replays"][0]["letters"].as_u64().unwrap_or_default())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

fn table(header: &[&str], rows: Vec<Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header.to_vec()).add_rows(rows);
    table
}
