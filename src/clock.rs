//! The only file that reads a clock.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::moments::Steps;

/// Wall time (what records are stamped with) and monotonic time (how long something took).
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System { started: Instant, steps: Option<Steps> },
    Stamped { started: Instant, wall_ms: i64 },
    Manual(Arc<Manual>),
}

struct Manual {
    /// Wall time in unix ms, and time since the start.
    now: Mutex<(i64, Duration)>,
    /// Time since the start, for those who sleep.
    turned: watch::Sender<Duration>,
}

impl Clock {
    /// The machine's clock.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn system() -> Self {
        Self(Source::System { started: Instant::now(), steps: Steps::from_env() })
    }

    /// The machine's clock for how long something takes, and a wall time that stands.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn stamped(wall_ms: i64) -> Self {
        Self(Source::Stamped { started: Instant::now(), wall_ms })
    }

    /// A clock that stands until it is turned by hand.
    pub fn manual(wall_ms: i64) -> Self {
        let (turned, _) = watch::channel(Duration::ZERO);
        Self(Source::Manual(Arc::new(Manual { now: Mutex::new((wall_ms, Duration::ZERO)), turned })))
    }

    /// Wall time, unix ms.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn wall_ms(&self) -> i64 {
        match &self.0 {
            Source::System { steps, .. } => {
                let wall = match SystemTime::now().duration_since(UNIX_EPOCH) {
                    Ok(since) => since.as_millis() as i64,
                    Err(before) => -(before.duration().as_millis() as i64),
                };
                wall + steps.map_or(0, |steps| steps.at(self.elapsed()))
            }
            Source::Stamped { wall_ms, .. } => *wall_ms,
            Source::Manual(manual) => manual.now.lock().0,
        }
    }

    /// Time since this clock was made; never goes back.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
    pub fn elapsed(&self) -> Duration {
        match &self.0 {
            Source::System { started, .. } | Source::Stamped { started, .. } => Instant::now().duration_since(*started),
            Source::Manual(manual) => manual.now.lock().1,
        }
    }

    /// Waits until so much monotonic time has passed.
    #[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
    pub async fn sleep(&self, duration: Duration) {
        match &self.0 {
            Source::System { .. } | Source::Stamped { .. } => tokio::time::sleep(duration).await,
            Source::Manual(manual) => {
                let until = self.elapsed() + duration;
                let mut turned = manual.turned.subscribe();
                // The sender lives in `self`, so that waiting cannot fail.
                let _ = turned.wait_for(|elapsed| *elapsed >= until).await;
            }
        }
    }

    /// Holds this thread for so long (the machine's clock only; a manual clock does not hold threads).
    #[expect(clippy::disallowed_methods, reason = "the one place that sleeps")]
    pub fn block(&self, duration: Duration) {
        if !matches!(self.0, Source::Manual(_)) {
            std::thread::sleep(duration);
        }
    }

    /// Turns a manual clock on; of the machine's clock nothing changes.
    pub fn advance(&self, duration: Duration) {
        if let Source::Manual(manual) = &self.0 {
            let elapsed = {
                let mut now = manual.now.lock();
                now.0 += duration.as_millis() as i64;
                now.1 += duration;
                now.1
            };
            manual.turned.send_replace(elapsed);
        }
    }
}
