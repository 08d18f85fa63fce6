//! `batch`: pipelines over files, by the actors of the daemon. `windows` is what a config becomes without a clock, `out` the
//! store that comes out.

mod out;
mod windows;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use comfy_table::Cell;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::error::CliError;
use super::files::{Input, inputs};
use super::lines::{Chunk, InputError};
use super::progress::Progress;
use super::serve::start_failure;
use super::table::{cell, table};
use crate::clock::Clock;
use crate::config::{Config, load};
use crate::daemon::{Offline, OfflineError};
use crate::event::{Account, TIME_MAX_MS};
use crate::store::{LetterFilter, LetterReason, StoreError};
use out::Out;
use windows::{Closing, without_clock};

/// Bytes of a stream's journal in the temporary folder: pipelines that are behind by as much hold up the reading.
const JOURNAL_BYTES: u64 = 256 * 1024 * 1024;
/// Chunks that are read ahead.
const CHUNKS_AHEAD: usize = 4;
/// Reasons of letters that are printed.
const REASONS_SHOWN: usize = 10;

/// Runs pipelines over files, without a daemon, into a store of its own
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill batch web.toml --input access.ndjson                       the rows come into web.batch.db
  tidemill batch web.toml --input mon.ndjson.gz tue.ndjson.gz --out week.db
  tidemill batch shop.toml --input web=access.ndjson orders=orders.ndjson.zst
  zcat *.gz | tidemill batch web.toml --input - --out postgres://me@localhost/db --schema history

Files are read in the order given, each for the stream whose name stands before the `=`; where the config has one stream,
the name may be left out. Streams without a file, and their pipelines, are left out. The config's own store, data_dir,
addresses and Redis are not touched.

Time is the events' alone: each pipeline needs a `time`, no event is too far ahead, nothing is idle, an event without a
time is a letter, and at the end every window closes. ingest_time() (and with it revised_at) is the end of the year 9999
for every line. So the same files and the same config give the same rows, each time and on each machine.

The store must have no checkpoints. A file is written under the name FILE.unfinished, and gets its own when all is in it;
what a batch that was ended leaves in PostgreSQL is unfinished. Exit code: 0 all is in the store (letters are counted, and
no failure), 1 a pipeline has stopped, 64 an input, 69 the store is away or the batch was ended, 74 a file cannot be
read, 78 config or store.")]
pub(super) struct Args {
    /// The config file
    config: PathBuf,
    /// Files in their order (also .gz and .zst, `-` for stdin), or STREAM=FILE where there are several streams
    #[arg(long, required = true, num_args = 1.., value_name = "FILES")]
    input: Vec<String>,
    /// The store: a SQLite file, or postgres://… [default: the config's name with .batch.db, in this folder]
    #[arg(long, value_name = "STORE")]
    out: Option<String>,
    /// PostgreSQL: the schema
    #[arg(long, default_value = "tidemill")]
    schema: String,
    /// Window actors of each pipeline; results do not depend on it
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    window_actors: u16,
    /// Prints the account as JSON
    #[arg(long)]
    json: bool,
}

/// Reads all files into a store, and says what became of them.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let config = load(&args.config).map_err(|report| CliError::config(&report))?;
    let inputs = inputs("--input", &args.input, &config)?;
    let (mut config, closings) = without_clock(config, |stream| inputs.iter().any(|input| input.stream == stream))
        .map_err(|mistakes| CliError::Config(mistakes.join("\n")))?;
    let out = Out::new(args.out.as_deref(), &args.schema, &args.config, &config.store.url)?;
    config.store.url = out.url().clone();
    let clock = Clock::system();
    let names = Names::of(&config);
    let work = async |offline: &Offline| {
        let stopped = async || -> std::io::Result<()> {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            Ok(())
        };
        tokio::select! {
            account = all(offline, inputs, &closings, &names) => account,
            stopped = stopped() => Err(match stopped {
                Ok(()) => CliError::Unavailable("ended before all was read".to_owned()),
                Err(error) => CliError::Io { what: "cannot wait for signals".to_owned(), error },
            }),
        }
    };
    let done =
        Offline::run(config, Clock::stamped(TIME_MAX_MS), (usize::from(args.window_actors), JOURNAL_BYTES), work);
    let took = clock.elapsed();
    let account = match done {
        Ok(Ok(account)) => account,
        Ok(Err(error)) => return Err(out.give_up(error)),
        Err(OfflineError::Start(error)) => return Err(out.give_up(start_failure(error))),
        Err(OfflineError::Stopped(reason)) => return Err(out.give_up(CliError::Check(reason))),
    };
    let shown = out.finish()?;
    let text = if args.json { account.json(&shown, took) } else { account.text(&shown, took) };
    std::io::stdout().write_all(text.as_bytes()).map_err(CliError::stdout)
}

/// What a batch runs.
struct Names {
    streams: Vec<String>,
    pipelines: Vec<String>,
}

impl Names {
    fn of(config: &Config) -> Self {
        Self {
            streams: config.streams.iter().map(|stream| stream.name.clone()).collect(),
            pipelines: config.pipelines.iter().map(|pipeline| pipeline.name.clone()).collect(),
        }
    }
}

/// Reads all files, closes all windows, and counts.
async fn all(
    offline: &Offline,
    inputs: Vec<Input>,
    closings: &[Closing],
    names: &Names,
) -> Result<BatchAccount, CliError> {
    let read = Arc::new(AtomicU64::new(0));
    let progress = Progress::new(inputs.iter().map(|input| input.bytes).sum(), read.clone());
    let sent = send(offline, inputs, read, &progress).await;
    progress.end();
    sent?;
    for closing in closings {
        offline.silence(&closing.stream, closing.silence_ms).await.map_err(ended)?;
    }
    offline.commit().await.map_err(ended)?;
    BatchAccount::read(offline, names).await.map_err(|error| CliError::Unavailable(format!("the store: {error}")))
}

/// Nobody sees this: what has ended says why.
fn ended(error: crate::actors::Closed) -> CliError {
    CliError::Bug(error.to_string())
}

async fn send(
    offline: &Offline,
    inputs: Vec<Input>,
    read: Arc<AtomicU64>,
    progress: &Progress,
) -> Result<(), CliError> {
    let mut chunks = read_ahead(inputs, read);
    let mut lines = 0;
    while let Some(read) = chunks.recv().await {
        let (stream, peer, chunk) = read?;
        lines += chunk.lines;
        offline.send(&stream, Some(&peer), chunk.bytes).await.map_err(ended)?;
        progress.show(lines);
    }
    Ok(())
}

type Read = Result<(Arc<str>, Arc<str>, Chunk), InputError>;

/// Reads and inflates on a thread of its own.
fn read_ahead(inputs: Vec<Input>, read: Arc<AtomicU64>) -> mpsc::Receiver<Read> {
    let (chunks, received) = mpsc::channel(CHUNKS_AHEAD);
    std::thread::spawn(move || {
        for input in inputs {
            let (stream, peer): (Arc<str>, Arc<str>) = (input.stream.as_str().into(), input.name.as_str().into());
            let mut lines = match input.open(read.clone()) {
                Ok(lines) => lines,
                Err(error) => {
                    // Nobody listens where the batch was ended.
                    let _ = chunks.blocking_send(Err(error));
                    return;
                }
            };
            while let Some(chunk) = lines.next_chunk().transpose() {
                let failed = chunk.is_err();
                let read = chunk.map(|chunk| (stream.clone(), peer.clone(), chunk));
                if chunks.blocking_send(read).is_err() || failed {
                    return;
                }
            }
        }
    });
    received
}

/// Where every line has ended.
struct BatchAccount {
    lines: u64,
    rejected: u64,
    pipelines: Vec<(String, u64, Account)>,
    reasons: Vec<LetterReason>,
}

impl BatchAccount {
    async fn read(offline: &Offline, names: &Names) -> Result<Self, StoreError> {
        let counts = names.streams.iter().map(|stream| offline.lines(stream));
        let (lines, rejected) = counts.fold((0, 0), |sum, counts| (sum.0 + counts.0, sum.1 + counts.1));
        let store = offline.store();
        let registered = store.registered().await?;
        let mut pipelines = Vec::with_capacity(names.pipelines.len());
        for name in &names.pipelines {
            let found = registered.iter().find(|registered| registered.name == *name);
            let account = found.map_or_else(Account::default, |found| found.checkpoint.account);
            pipelines.push((name.clone(), store.count_rows(name).await?, account));
        }
        let reasons = store.letter_reasons(LetterFilter::default(), REASONS_SHOWN).await?;
        Ok(Self { lines, rejected, pipelines, reasons })
    }

    fn text(&self, out: &str, took: Duration) -> String {
        let (seconds, rate) = self.rate(took);
        let mut text = format!(
            "{out}\n{} lines, of which {} are no events; {seconds:.1} s, {rate:.0} lines/s\n",
            self.lines, self.rejected
        );
        let columns = ["pipeline", "rows", "read", "made", "filtered", "aggregated", "late", "dead", "exploded"];
        let rows = self.pipelines.iter().map(|(name, rows, account)| {
            let Account { read, made, filtered, aggregated, late, dead, exploded, .. } = account;
            let counts = [rows, read, made, filtered, aggregated, late, dead, exploded];
            let counts = counts.into_iter().map(|count| cell(&json!(count)));
            std::iter::once(Cell::new(name)).chain(counts).collect()
        });
        text.push_str(&format!("{}\n", table(&columns, rows)));
        if !self.reasons.is_empty() {
            let rows = self.reasons.iter().map(|letters| {
                let texts = [&letters.pipeline, &letters.kind, &letters.stage, &letters.reason];
                let texts = texts.into_iter().map(|text| cell(&json!(text)));
                std::iter::once(cell(&json!(letters.count))).chain(texts).collect()
            });
            text.push_str(&format!("{}\n", table(&["letters", "pipeline", "kind", "stage", "reason"], rows)));
            if self.reasons.len() == REASONS_SHOWN {
                text.push_str("(the most frequent reasons; the table dead_letters has all)\n");
            }
        }
        text
    }

    fn json(&self, out: &str, took: Duration) -> String {
        let (seconds, rate) = self.rate(took);
        let pipelines = self.pipelines.iter().map(|(name, rows, account)| {
            let mut shown = json!(account);
            (shown["name"], shown["rows"]) = (json!(name), json!(rows));
            shown
        });
        let all = json!({
            "out": out, "lines": self.lines, "rejected": self.rejected, "seconds": seconds, "lines_per_s": rate as u64,
            "pipelines": pipelines.collect::<Vec<Value>>(), "letters": self.reasons,
        });
        format!("{all}\n")
    }

    fn rate(&self, took: Duration) -> (f64, f64) {
        let seconds = took.as_secs_f64();
        (seconds, self.lines as f64 / seconds.max(0.001))
    }
}
