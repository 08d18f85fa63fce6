//! `generate`: a live shop's traffic.

use std::io::{self, Write};
use std::time::Duration;

use super::error::CliError;
use super::pace::Pace;
use super::shop::Shop;
use crate::clock::Clock;
use crate::{limits, units};

/// Time between two events where no rate says it.
const STEP_US: u64 = 10_000;
/// What is due is written so often: smooth for who watches, cheap at any rate.
const TICK: Duration = Duration::from_millis(20);

/// Writes a live shop's traffic as NDJSON to stdout, at a rate, the same for the same seed
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  tidemill generate --rate 1000 | tidemill send 127.0.0.1:7600
  tidemill generate --rate 0 --count 1000000 --seed 7 --start 1700000000000 --disorder 10m > shop.ndjson

An event: {\"ts\":1700000000000,\"type\":\"purchase\",\"path\":\"/checkout\",\"user\":\"u42\",…,\"amount\":59.90}
Types: page_view add_to_cart purchase error signup")]
pub(super) struct Args {
    /// Events a second; 0: as fast as it can
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(..=1_000_000))]
    rate: u64,
    /// Events in all [default: without end]
    #[arg(long)]
    count: Option<u64>,
    /// Which traffic: the same seed and start give the same bytes
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Puts event times back at random by up to this, like 5s or 10m (a few are late by seconds anyhow)
    #[arg(long, value_parser = duration)]
    disorder: Option<i64>,
    /// Event time between two events, like 4s [default: 1/rate; 10ms with --rate 0]
    #[arg(long, value_parser = duration)]
    step: Option<i64>,
    /// Event time of the first event, unix ms [default: now; with --rate 0 so that the last is now]
    #[arg(long)]
    start: Option<i64>,
}

fn duration(text: &str) -> Result<i64, String> {
    units::parse_duration(text).filter(|ms| *ms >= 0).ok_or_else(|| "it is a duration like 250ms, 5s or 10m".to_owned())
}

/// Writes until it has written all, or nobody reads any more.
pub(super) fn run(args: Args) -> Result<(), CliError> {
    let clock = Clock::system();
    let start = start_ms(&args, clock.wall_ms())?;
    let step_us = step_us(&args);
    let disorder_ms = args.disorder.unwrap_or(0).unsigned_abs();
    let mut shop = Shop::new(args.seed, start, step_us, disorder_ms);
    let mut out = io::stdout().lock();
    let pace = Pace::new(clock).map_err(|error| CliError::Io { what: "cannot set a timer".to_owned(), error })?;
    write_events(&mut shop, args.rate, args.count, &pace, &mut out).map_err(CliError::stdout)
}

fn step_us(args: &Args) -> u64 {
    match args.step {
        Some(ms) => ms.unsigned_abs().saturating_mul(1_000),
        None => 1_000_000u64.checked_div(args.rate).unwrap_or(STEP_US),
    }
}

fn start_ms(args: &Args, now_ms: i64) -> Result<i64, CliError> {
    match (args.start, args.rate, args.count) {
        (Some(start), ..) => Ok(start),
        (None, 0, Some(count)) => Ok(now_ms.saturating_sub_unsigned(count.saturating_mul(step_us(args)) / 1_000)),
        // Events that are made faster than they happen would soon lie in the future.
        (None, 0, None) => Err(CliError::Usage(
            "--rate 0 wants --count (its last event is then now) or --start (event time of the first)".to_owned(),
        )),
        (None, ..) => Ok(now_ms),
    }
}

fn write_events(shop: &mut Shop, rate: u64, count: Option<u64>, pace: &Pace, out: &mut impl Write) -> io::Result<()> {
    let mut lines = Vec::with_capacity(limits::BATCH_BYTES_MAX + 4096);
    let mut left = count.unwrap_or(u64::MAX);
    let (began, mut written) = (pace.elapsed(), 0);
    while left > 0 {
        let due = if rate == 0 { left } else { due(rate, pace.elapsed() - began).saturating_sub(written).min(left) };
        for _ in 0..due {
            shop.write_event(&mut lines);
            if lines.len() >= limits::BATCH_BYTES_MAX {
                out.write_all(&lines)?;
                lines.clear();
            }
        }
        out.write_all(&lines)?;
        out.flush()?;
        lines.clear();
        (left, written) = (left - due, written + due);
        if left > 0 {
            pace.sleep(TICK);
        }
    }
    Ok(())
}

/// Events that should be there after so much time; the first at once.
fn due(rate: u64, since: Duration) -> u64 {
    let due = u128::from(rate) * since.as_micros() / 1_000_000 + 1;
    u64::try_from(due).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(rate: u64, count: Option<u64>, start: Option<i64>) -> Args {
        Args { rate, count, seed: 1, disorder: None, step: None, start }
    }

    #[test]
    fn nothing_is_made_for_the_future() {
        let now = 1_700_000_000_000;
        assert_eq!(start_ms(&args(50, None, None), now).unwrap(), now);
        assert_eq!(start_ms(&args(0, Some(1_000), None), now).unwrap(), now - 10_000);
        assert_eq!(start_ms(&args(0, None, Some(5)), now).unwrap(), 5);
        assert_eq!(start_ms(&args(0, None, None), now).unwrap_err().exit_code(), 64);
    }

    #[test]
    fn event_time_goes_by_step_or_rate() {
        assert_eq!([50, 0].map(|rate| step_us(&args(rate, None, None))), [20_000, STEP_US]);
        assert_eq!(step_us(&Args { step: Some(4_000), ..args(50, None, None) }), 4_000_000);
    }

    #[test]
    fn the_rate_is_kept_whatever_the_ticks() {
        assert_eq!(due(1_000, Duration::ZERO), 1);
        assert_eq!(due(1_000, Duration::from_millis(1_500)), 1_501);
        assert_eq!(due(3, Duration::from_millis(999)), 3);

        let clock = Clock::manual(0);
        let pace = Pace::new(clock.clone()).unwrap();
        let written = std::sync::atomic::AtomicBool::new(false);
        let mut out = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Turns the clock on until all is written, however late the writer comes: it only ever waits for it.
                while !written.load(std::sync::atomic::Ordering::SeqCst) {
                    clock.advance(Duration::from_millis(20));
                    std::thread::yield_now();
                }
            });
            write_events(&mut Shop::new(1, 0, 1_000, 0), 1_000, Some(300), &pace, &mut out).unwrap();
            written.store(true, std::sync::atomic::Ordering::SeqCst);
        });
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 300);
        assert!(pace.elapsed() >= Duration::from_millis(299), "{:?}", pace.elapsed());
    }

    #[test]
    fn the_pace_does_not_change_the_bytes() {
        let pace = Pace::new(Clock::system()).unwrap();
        let [fast, slow] = [0, 100_000].map(|rate| {
            let mut out = Vec::new();
            write_events(&mut Shop::new(9, 0, 10, 0), rate, Some(3_000), &pace, &mut out).unwrap();
            out
        });
        assert_eq!(fast, slow);
    }
}
