//! Deletes what is kept for a time only.

use std::time::Duration;

use crate::clock::Clock;
use crate::store::Store;

/// How often old letters are looked for.
const EVERY: Duration = Duration::from_secs(600);

/// Deletes letters that are older than `retain_ms`, some at a time, so that flushes come in between.
pub async fn retain_letters(store: Store, clock: Clock, retain_ms: i64) {
    loop {
        match store.prune_letters(clock.wall_ms().saturating_sub(retain_ms)).await {
            Ok(0) => clock.sleep(EVERY).await,
            Ok(letters) => log::info!("deleted {letters} dead letters older than `retain`"),
            Err(error) => {
                log::warn!("dead letters older than `retain` stay for now: {error}");
                clock.sleep(EVERY).await;
            }
        }
    }
}
