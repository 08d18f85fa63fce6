//! `demo`: the daemon on an embedded store in a temporary folder, under a made-up shop's traffic.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use comfy_table::Cell;

use super::error::CliError;
use super::serve::{runtime, start, until_stopped};
use super::shop::Shop;
use super::table::{cell, table};
use crate::clock::Clock;
use crate::store::ResultRows;
use crate::{Mill, Pipeline, StreamSender, Tidemill, units};

/// Pipelines whose windows are shown, with the line above each table.
const SHOWN: [(&str, &str); 3] = [
    ("page_views", "page views and carts by path, the 10 s window that is next to close"),
    ("revenue", "revenue, the minute that is next to close"),
    ("error_rate", "errors, the last minute, every 5 s"),
];
const REDRAW: Duration = Duration::from_secs(1);
const STEP: Duration = Duration::from_millis(20);
/// Rows of one table.
const ROWS_SHOWN: usize = 8;

const CONFIG: &str = r#"
[http]
listen = "127.0.0.1:0"

[streams.shop]
tcp = "127.0.0.1:0"

[pipelines.page_views]
stream = "shop"
time = "ts"
delay = "5s"
group_by = ["path"]
window = { tumbling = "10s" }
aggregates = { views = "count(*)", carts = "count(*) FILTER (WHERE type = 'add_to_cart')" }

[pipelines.revenue]
stream = "shop"
time = "ts"
delay = "5s"
window = { tumbling = "1m" }
aggregates = { revenue = "sum(amount)", orders = "count(amount)", mean = "revenue / orders" }
[[pipelines.revenue.stages]]
filter = "type = 'purchase'"

[pipelines.error_rate]
stream = "shop"
time = "ts"
delay = "5s"
window = { sliding = "1m", every = "5s" }
aggregates = { events = "count(*)", errors = "count(*) FILTER (WHERE status >= 500)", rate = "errors / events" }
"#;

/// Shows live windows of a made-up shop in the terminal, until Ctrl-C; needs nothing and leaves nothing
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tidemill demo\n  tidemill demo --rate 20000 --for 1m")]
pub(super) struct Args {
    /// Events a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    /// Which traffic
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ends by itself after so long, like 30s or 5m
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    lasts: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, String> {
    let ms = units::parse_duration(text).and_then(|ms| u64::try_from(ms).ok());
    ms.map(Duration::from_millis).ok_or_else(|| "it is a duration like 30s or 5m".to_owned())
}

/// Runs until it is told to stop.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let folder = tempfile::Builder::new().prefix("tidemill-demo-").tempdir();
    let folder = folder.map_err(|error| CliError::Io { what: "cannot make a temporary folder".to_owned(), error })?;
    let config = format!("data_dir = {:?}\n{CONFIG}", folder.path());
    let clock = Clock::system();
    let mill = Tidemill::from_str(&config).map_err(|report| CliError::Bug(report.to_string()))?;
    runtime()?.block_on(async {
        let mill = start(mill).await?;
        let screen = Screen::new(&mill, folder.path().join("tidemill.db"))?;
        let sender = mill.stream("shop").map_err(|error| CliError::Bug(error.to_string()))?;
        let show = async {
            let shown = screen.show(&clock);
            let traffic = traffic(sender, &args, &clock);
            let lasts = async {
                match args.lasts {
                    Some(lasts) => clock.sleep(lasts).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! { () = shown => {}, () = traffic => {}, () = lasts => {} }
        };
        until_stopped(mill, show).await
    })
}

/// Sends what is due, every few milliseconds, for as long as anybody takes it.
async fn traffic(sender: StreamSender, args: &Args, clock: &Clock) {
    let mut shop = Shop::new(args.seed, clock.wall_ms(), 1_000_000 / args.rate, 0);
    let began = clock.elapsed();
    let mut sent = 0;
    loop {
        let due = args.rate * (clock.elapsed() - began).as_millis() as u64 / 1_000;
        while sent < due {
            let mut line = Vec::new();
            shop.write_event(&mut line);
            if sender.send(line).await.is_err() {
                return;
            }
            sent += 1;
        }
        clock.sleep(STEP).await;
    }
}

/// What the terminal shows.
struct Screen {
    pipelines: Vec<(Pipeline, &'static str)>,
    head: String,
    redraw: bool,
}

impl Screen {
    fn new(mill: &Mill, database: PathBuf) -> Result<Self, CliError> {
        let pipelines = SHOWN
            .iter()
            .map(|(name, title)| Ok((mill.pipeline(name)?, *title)))
            .collect::<Result<_, crate::Unknown>>()
            .map_err(|error| CliError::Bug(error.to_string()))?;
        let address = mill.tcp_address("shop").map_or_else(String::new, |address| address.to_string());
        let head = format!(
            "tidemill demo (Ctrl-C ends it)\n  lines: {address}\n  stats: http://{}/api/v1/stats\n  store: {}\n",
            mill.http_address(),
            database.display()
        );
        Ok(Self { pipelines, head, redraw: std::io::stdout().is_terminal() })
    }

    /// Once a second, until nobody looks any more.
    async fn show(&self, clock: &Clock) {
        loop {
            clock.sleep(REDRAW).await;
            let mut text = String::new();
            if self.redraw {
                // Home, and clear what is below: the picture stands still while its numbers move.
                text.push_str("\x1b[H\x1b[J");
            }
            text.push_str(&self.head);
            for (pipeline, title) in &self.pipelines {
                let rows = match pipeline.now().await {
                    Ok(rows) => picture(rows),
                    Err(error) => error.to_string(),
                };
                text.push_str(&format!("\n{}: {title}\n{rows}\n", pipeline.name()));
            }
            let mut out = std::io::stdout().lock();
            if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
    }
}

/// The groups with the most, without the columns that say nothing here.
fn picture(rows: ResultRows) -> String {
    const HIDDEN: [&str; 6] = ["window_start_ms", "period", "closed", "partial", "other", "revised_at"];
    let kept: Vec<usize> =
        (0..rows.columns.len()).filter(|index| !HIDDEN.contains(&rows.columns[*index].as_str())).collect();
    let by = rows.columns.iter().position(|column| column == "views");
    let mut shown = rows.rows;
    if let Some(by) = by {
        shown.sort_by_key(|row| std::cmp::Reverse(row[by].as_u64()));
    }
    let columns: Vec<&str> = kept.iter().map(|index| rows.columns[*index].as_str()).collect();
    let cells = |row: Vec<serde_json::Value>| -> Vec<Cell> { kept.iter().map(|index| cell(&row[*index])).collect() };
    table(&columns, shown.into_iter().take(ROWS_SHOWN).map(cells)).to_string()
}
