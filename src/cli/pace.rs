//! Waiting, for verbs that have no runtime of their own: the clock only knows how to sleep in one.

use std::io;
use std::time::Duration;

use crate::clock::Clock;

/// A clock that can be waited on from a plain thread.
pub(super) struct Pace {
    clock: Clock,
    runtime: tokio::runtime::Runtime,
}

impl Pace {
    /// By this clock.
    pub(super) fn new(clock: Clock) -> io::Result<Self> {
        Ok(Self { clock, runtime: tokio::runtime::Builder::new_current_thread().enable_time().build()? })
    }

    /// Time since the clock was made.
    pub(super) fn elapsed(&self) -> Duration {
        self.clock.elapsed()
    }

    /// Blocks the thread for so long.
    pub(super) fn sleep(&self, duration: Duration) {
        self.runtime.block_on(self.clock.sleep(duration));
    }
}
