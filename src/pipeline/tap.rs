//! Those who watch events pass: samples of them, without holding anything up.
//!
//! While nobody watches, a batch costs one relaxed load. Each watcher has a rate: by the clock it is owed so many events a
//! second, at most those of one second, and of each batch it takes as many as it is owed, evenly over the batch. What it
//! does not fetch in time is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::limits::{TAP_BYTES_MAX, TAP_RATE_MAX, TAPS_MAX};

/// The watchers of a pipeline, or of a stream's intake.
pub struct Taps {
    /// How many there are: all that a batch asks while there is none.
    watching: AtomicUsize,
    queues: Mutex<Vec<Arc<Queue>>>,
    clock: Clock,
}

/// One watcher. Dropping it ends the watch.
pub struct Tap {
    taps: Arc<Taps>,
    queue: Arc<Queue>,
}

/// What a watcher was given.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct TapCounts {
    /// Events that passed since it watches.
    pub passed: u64,
    /// Of those: sampled, and given to it.
    pub shown: u64,
    /// Sampled, and dropped, because it did not fetch those before.
    pub dropped: u64,
}

/// What waits to be fetched.
struct Queue {
    inner: Mutex<Waiting>,
    more: Notify,
}

struct Waiting {
    lines: Vec<u8>,
    counts: TapCounts,
    sampler: Sampler,
}

impl Taps {
    /// Nobody yet.
    pub fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self { watching: AtomicUsize::new(0), queues: Mutex::default(), clock })
    }

    /// Begins to watch, so many events a second at most; `None` where enough do.
    pub fn tap(self: &Arc<Self>, rate: u32) -> Option<Tap> {
        let mut queues = self.queues.lock();
        if queues.len() >= TAPS_MAX {
            return None;
        }
        let sampler = Sampler::new(rate, self.clock.elapsed());
        let inner = Mutex::new(Waiting { lines: Vec::new(), counts: TapCounts::default(), sampler });
        let queue = Arc::new(Queue { inner, more: Notify::new() });
        queues.push(queue.clone());
        self.watching.store(queues.len(), Ordering::Relaxed);
        Some(Tap { taps: self.clone(), queue })
    }

    /// Which rows of a batch are to be shown; `None` while nobody watches.
    pub(super) fn sample(&self, rows: usize) -> Option<Sample> {
        if self.watching.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let now = self.clock.elapsed();
        let pick = |queue: &Arc<Queue>| {
            let mut waiting = queue.inner.lock();
            waiting.counts.passed += rows as u64;
            let picks = waiting.sampler.picks(now, rows);
            (picks.count > 0).then(|| (queue.clone(), picks))
        };
        let picked: Vec<_> = self.queues.lock().iter().filter_map(pick).collect();
        (!picked.is_empty()).then_some(Sample(picked))
    }
}

impl Tap {
    /// Whether it is of these.
    pub fn is_of(&self, taps: &Arc<Taps>) -> bool {
        Arc::ptr_eq(&self.taps, taps)
    }

    /// What has passed, as lines of JSON; waits for it, at most so long.
    pub async fn lines(&self, at_most: Duration) -> Vec<u8> {
        let some = async {
            loop {
                let lines = std::mem::take(&mut self.queue.inner.lock().lines);
                if !lines.is_empty() {
                    return lines;
                }
                self.queue.more.notified().await;
            }
        };
        tokio::select! {
            // What there is comes first, however short the wait.
            biased;
            lines = some => lines,
            () = self.taps.clock.sleep(at_most) => Vec::new(),
        }
    }

    /// Time by the clock that it is paced by.
    pub fn elapsed(&self) -> Duration {
        self.taps.clock.elapsed()
    }

    /// What it was given so far.
    pub fn counts(&self) -> TapCounts {
        self.queue.inner.lock().counts
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let mut queues = self.taps.queues.lock();
        queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
        self.taps.watching.store(queues.len(), Ordering::Relaxed);
    }
}

/// Who wants which rows of a batch.
pub(super) struct Sample(Vec<(Arc<Queue>, Picks)>);

impl Sample {
    /// Whether somebody wants a row; rows are asked for in their order.
    pub(super) fn wants(&self, row: usize) -> bool {
        self.0.iter().any(|(_, picks)| picks.next() == Some(row))
    }

    /// Gives a row, as one JSON object, to those who want it.
    pub(super) fn give(&mut self, row: usize, event: &impl Serialize) {
        // All of an event's parts can be written as JSON.
        let Ok(mut line) = serde_json::to_vec(event) else { return };
        line.push(b'\n');
        for (queue, picks) in &mut self.0 {
            if picks.next() == Some(row) {
                picks.done += 1;
                queue.put(&line);
            }
        }
    }
}

impl Queue {
    fn put(&self, line: &[u8]) {
        let mut waiting = self.inner.lock();
        if waiting.lines.len() + line.len() > TAP_BYTES_MAX {
            waiting.counts.dropped += 1;
            return;
        }
        waiting.lines.extend_from_slice(line);
        waiting.counts.shown += 1;
        drop(waiting);
        self.more.notify_one();
    }
}

/// How many events a watcher is owed.
struct Sampler {
    rate: f64,
    owed: f64,
    at: Duration,
    phase: f64,
}

/// Rows of one batch, evenly over it.
#[derive(Clone, Copy, Debug)]
struct Picks {
    rows: usize,
    count: usize,
    phase: f64,
    done: usize,
}

impl Sampler {
    fn new(rate: u32, now: Duration) -> Self {
        let rate = f64::from(rate.clamp(1, TAP_RATE_MAX));
        Self { rate, owed: rate, at: now, phase: 0.0 }
    }

    fn picks(&mut self, now: Duration, rows: usize) -> Picks {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = now;
        self.owed = (self.owed + passed * self.rate).min(self.rate);
        let count = (self.owed as usize).min(rows);
        self.owed -= count as f64;
        let picks = Picks { rows, count, phase: self.phase, done: 0 };
        // By the golden ratio, so that it is not always the first line of a batch that is seen.
        self.phase = (self.phase + 0.618_033_988_749_895).fract();
        picks
    }
}

impl Picks {
    fn next(&self) -> Option<usize> {
        let place = (self.done as f64 + self.phase) * self.rows as f64 / self.count as f64;
        (self.done < self.count).then_some((place as usize).min(self.rows - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(mut picks: Picks) -> Vec<usize> {
        let mut rows = Vec::new();
        while let Some(row) = picks.next() {
            rows.push(row);
            picks.done += 1;
        }
        rows
    }

    #[test]
    fn a_watcher_is_owed_its_rate_and_takes_it_evenly() {
        let at = |ms| Duration::from_millis(ms);
        let mut sampler = Sampler::new(10, at(0));
        assert_eq!(rows(sampler.picks(at(0), 1_000)), [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert!(rows(sampler.picks(at(99), 1_000)).is_empty());
        let later = rows(sampler.picks(at(100), 1_000));
        assert!(later.len() == 1 && later[0] > 0, "{later:?}");
        // What was not used of an hour is that of a second.
        assert_eq!(rows(sampler.picks(at(3_600_000), 1_000)).len(), 10);
        assert_eq!(rows(sampler.picks(at(3_601_000), 3)), [0, 1, 2]);
        assert_eq!(rows(sampler.picks(at(3_601_000), 100)).len(), 7);
        let phases = (1..50_u64).map(|batch| sampler.picks(at(4_000_000 + batch * 1_000), 10));
        assert!(phases.into_iter().all(|picks| rows(picks) == (0..10).collect::<Vec<_>>()));
    }

    #[tokio::test]
    async fn what_is_not_fetched_is_dropped_and_counted() {
        let clock = Clock::manual(0);
        let taps = Taps::new(clock.clone());
        assert!(taps.sample(10).is_none());
        let tap = taps.tap(1_000).unwrap();
        let slow = taps.tap(1).unwrap();
        let long = "x".repeat(1_022);
        for round in 0..3 {
            let mut sample = taps.sample(1_000).unwrap();
            for row in 0..1_000 {
                assert!(sample.wants(row), "{row}");
                sample.give(row, &long);
            }
            assert_eq!(slow.counts().shown, round + 1);
            clock.advance(Duration::from_secs(1));
        }
        let kept = (TAP_BYTES_MAX / 1_025) as u64;
        assert_eq!(tap.counts(), TapCounts { passed: 3_000, shown: kept, dropped: 3_000 - kept });
        assert_eq!(tap.lines(Duration::ZERO).await.len(), kept as usize * 1_025);
        let more: Vec<Tap> = std::iter::from_fn(|| taps.tap(1)).collect();
        assert_eq!(more.len(), TAPS_MAX - 2);
        drop((tap, slow, more));
        assert!(taps.sample(10).is_none() && taps.tap(1).is_some());
    }
}
