//! Replay: a producer whose lines are letters, one for each pipeline. Letters are first numbered in the store, all of a
//! replay in one transaction; then they are sent to Ingest in that order, which skips the numbers that it has. So a crash
//! at any moment loses none and doubles none: what is numbered and not in the journal is sent by the next start.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, oneshot, watch};

use super::mailbox::Outlet;
use super::messages::{Resend, Taken};
use super::orders::{OrderError, refusal};
use super::stats::{PipelineState, PipelineStats, StatsRegistry};
use crate::clock::Clock;
use crate::event::{Decoder, Replay, replay_name};
use crate::journal::{Held, Journal, Progress};
use crate::limits::{BATCH_BYTES_MAX, REPLAY_BYTES_ABOVE_LIMIT};
use crate::store::{Fence, LetterFilter, Replay as Numbering, Store};

/// The pause before letters that could not be sent are tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A generation's right to write, which is also the right to replay.
#[derive(Clone, Copy, Debug)]
pub struct Lease {
    pub fence: Fence,
    /// Of the pipeline's definition.
    pub revision: u64,
}

/// Which letters of a pipeline are to be replayed.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Kind and time; the pipeline is added.
    pub filter: LetterFilter,
    /// Of those only the lines at these positions.
    pub positions: Option<Vec<i64>>,
    /// At most so many, in the order of their positions.
    pub limit: u64,
}

/// What both sides need.
#[derive(Clone)]
pub(super) struct Replays {
    pub stream: Arc<str>,
    pub store: Store,
    pub journal: Arc<Journal>,
    pub stats: Arc<PipelineStats>,
    pub lease: watch::Receiver<Option<Lease>>,
    numbered: Arc<Notify>,
    one_at_a_time: Arc<Mutex<()>>,
}

impl Replays {
    pub fn new(
        stream: &str,
        store: &Store,
        journal: &Arc<Journal>,
        stats: &Arc<PipelineStats>,
        lease: watch::Receiver<Option<Lease>>,
    ) -> Self {
        if journal.number(&replay_name(&stats.name)) > 0 {
            // Where its last one stands is not known: it may be the last record.
            stats.replayed_upto.store(journal.progress().borrow().written, Ordering::Relaxed);
        }
        let (stream, store, journal, stats) = (stream.into(), store.clone(), journal.clone(), stats.clone());
        Self { stream, store, journal, stats, lease, numbered: Arc::default(), one_at_a_time: Arc::default() }
    }

    /// Puts letters under replay; how many.
    pub async fn start(&self, wanted: Wanted) -> Result<u64, OrderError> {
        let name = &self.stats.name;
        // The number to begin behind must be the last one until the letters have theirs.
        let _one = self.one_at_a_time.lock().await;
        let (state, position) = {
            let view = self.stats.inner.lock();
            (view.state, view.position)
        };
        let lease = *self.lease.borrow();
        let Some(lease) = lease.filter(|_| matches!(state, PipelineState::Running | PipelineState::Behind)) else {
            let state = state.name();
            return Err(OrderError::Conflict(format!(
                "pipeline {name} is {state}: letters are replayed to one that runs"
            )));
        };
        let upto = self.stats.replayed_upto.load(Ordering::Relaxed);
        if position < upto {
            return Err(OrderError::Conflict(format!(
                "pipeline {name} is at position {position} and may have records of an earlier replay before it, up to \
                 {upto}: try again when it has read them"
            )));
        }
        let numbering = Numbering {
            stream: self.stream.to_string(),
            filter: LetterFilter { pipeline: Some(name.clone()), ..wanted.filter },
            positions: wanted.positions,
            fence: lease.fence,
            behind: self.journal.number(&replay_name(name)),
            limit: wanted.limit,
        };
        let numbered = self.store.replay_letters(numbering).await;
        // Also where the outcome is not known: then they may be numbered.
        self.numbered.notify_one();
        match numbered.map_err(refusal)? {
            Some(letters) => {
                self.stats.under_replay.fetch_add(letters, Ordering::Relaxed);
                Ok(letters)
            }
            None => {
                let letters = self.stats.under_replay.load(Ordering::Relaxed);
                Err(OrderError::Conflict(format!("a replay of pipeline {name} is under way: {letters} letters")))
            }
        }
    }
}

/// Sends what is numbered.
pub(super) struct Replayer {
    pub replays: Replays,
    /// Of the journal.
    pub limit_bytes: u64,
    pub decoders: watch::Receiver<Decoder>,
    pub to: Outlet<Resend>,
    pub actors: Arc<StatsRegistry>,
    pub clock: Clock,
}

impl Replayer {
    /// Sends letters whenever some may be numbered: when a generation begins, and when somebody says so.
    pub async fn run(mut self) {
        let name = self.replays.stats.name.clone();
        let mut number = self.replays.journal.number(&replay_name(&name));
        let mut failed = false;
        loop {
            tokio::select! {
                changed = self.replays.lease.changed() => if changed.is_err() { return },
                () = self.replays.numbered.notified() => {}
                () = self.clock.sleep(RETRY), if failed => {}
            }
            let lease = *self.replays.lease.borrow_and_update();
            let Some(lease) = lease else { continue };
            let sent = self.send(lease, &mut number).await;
            if let (Err(reason), false) = (&sent, failed) {
                log::warn!("pipeline {name}: letters under replay wait: {reason}");
            }
            failed = sent.is_err();
        }
    }

    async fn send(&self, lease: Lease, number: &mut u64) -> Result<(), String> {
        let name = &self.replays.stats.name;
        while !self.actors.is_draining() {
            let letters = self.replays.store.letters_under_replay(name, *number, BATCH_BYTES_MAX).await;
            let (numbers, letters): (Vec<_>, Vec<_>) = letters.map_err(|error| error.to_string())?.into_iter().unzip();
            let (Some(first), Some(last)) = (numbers.first().copied(), numbers.last().copied()) else { return Ok(()) };
            self.room().await?;
            let replay = Replay { pipeline: name.as_str().into(), revision: lease.revision, letters };
            let decoder = self.decoders.borrow().clone();
            let decoded = replay.decoded(&decoder);
            let (reply, answer) = oneshot::channel();
            let resend = Resend { replay, decoded, numbers: first..=last, reply };
            let gone = "its stream takes nothing any more";
            self.to.send(resend).await.map_err(|_| gone)?;
            match answer.await.map_err(|_| gone)? {
                Taken::All(position) => {
                    *number = last;
                    self.replays.stats.replayed_upto.fetch_max(position, Ordering::Relaxed);
                }
                Taken::NotNext(claimed) => *number = claimed.number,
                Taken::TooManyProducers => return Err("its stream remembers too many producers".to_owned()),
            }
        }
        Ok(())
    }

    /// Waits for room in the journal. There is some for letters when producers are held already: they may be what an
    /// operator has to be rid of first.
    async fn room(&self) -> Result<(), String> {
        let limit = self.limit_bytes.saturating_add(REPLAY_BYTES_ABOVE_LIMIT);
        let full = |progress: &Progress| progress.held == Some(Held::DiskFull) || progress.bytes >= limit;
        let mut progress = self.replays.journal.progress();
        let room = progress.wait_for(|progress| progress.failed.is_some() || !full(progress)).await;
        let failed = room.map_err(|_| "the journal is closed".to_owned())?.failed.clone();
        failed.map_or(Ok(()), Err)
    }
}
