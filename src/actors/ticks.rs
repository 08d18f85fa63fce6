//! What happens once a second: silence is told, shares and rates are computed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::mailbox::Outlet;
use super::messages::Tick;
use super::stats::{StatsRegistry, StreamStats};
use crate::clock::Clock;

const TICK: Duration = Duration::from_secs(1);

/// Tells Ingest of silence, once a second: time in which no line was decoded and nobody was held back.
pub(super) async fn ticks(clock: Clock, stream: Arc<StreamStats>, stats: Arc<StatsRegistry>, to: Outlet<Tick>) {
    let progress = stream.progress();
    let (mut since, mut events) = (clock.elapsed(), 0);
    loop {
        clock.sleep(TICK).await;
        let lines = stream.lines.load(Ordering::Relaxed);
        let now_events = lines - stream.rejected.load(Ordering::Relaxed).min(lines);
        let held = progress.borrow().held.is_some();
        let now = clock.elapsed();
        if now_events != events || held || !stats.silence_matters(&stream) {
            (since, events) = (now, now_events);
            continue;
        }
        let silence_ms = u32::try_from((now - since).as_millis()).unwrap_or(u32::MAX);
        since = now;
        if to.send(Tick { silence_ms }).await.is_err() {
            return;
        }
    }
}

/// Computes shares and rates.
pub(super) async fn sample(stats: Arc<StatsRegistry>, clock: Clock) {
    let mut before = clock.elapsed();
    loop {
        clock.sleep(TICK).await;
        let now = clock.elapsed();
        stats.sample(now - before);
        before = now;
    }
}
