//! Flush, one a pipeline generation. Owns the parts of an epoch until the store has them. Takes changes from the windows
//! and DeadLetter; hands them to the store as one transaction, with the checkpoint; publishes how it ended.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};
use crossbeam_channel::Sender;
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};

use super::guard::{Ended, Guard, Keeper};
use super::mailbox::{Credit, Inlet, Parcel};
use super::messages::{Barrier, Changes, Outcome, Share};
use super::stats::{ActorStats, LastFlush, PipelineStats};
use crate::clock::Clock;
use crate::config::LetterLimit;
use crate::event::{Account, Position};
use crate::journal::{Journal, Progress};
use crate::store::{
    AlertFlush, Change, Checkpoint, Chunk, Definition, Fence, Flush as Transaction, Flushed, LiveRows, Revision, Store,
    StoreError,
};

/// Pieces that are on their way to the store at most: more than the parts' credit lets through.
const CHUNKS_MAX: usize = 64 * 1024;
/// The pause after a first failed flush; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Between half of a pause and the whole, so that many pipelines do not come back at the same moment.
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// How far each pipeline of a stream is: what all have, the journal need not keep.
pub struct Commits {
    journal: Arc<Journal>,
    positions: Mutex<HashMap<String, Position>>,
}

impl Commits {
    /// All of these pin the journal from the start.
    pub fn new(journal: Arc<Journal>, pipelines: impl Iterator<Item = String>) -> Arc<Self> {
        Arc::new(Self { journal, positions: Mutex::new(pipelines.map(|name| (name, 0)).collect()) })
    }

    /// A pipeline has committed up to there. One that does not pin the journal is not asked.
    pub fn committed(&self, pipeline: &str, position: Position) {
        self.change(|positions| {
            if let Some(committed) = positions.get_mut(pipeline) {
                *committed = position;
            }
        });
    }

    /// A pipeline wants all behind there to be kept.
    pub fn pin(&self, pipeline: &str, position: Position) {
        self.change(|positions| {
            positions.insert(pipeline.to_owned(), position);
        });
    }

    /// A pipeline wants nothing to be kept any more.
    pub fn unpin(&self, pipeline: &str) {
        self.change(|positions| {
            positions.remove(pipeline);
        });
    }

    /// The journal is told under the lock, so that an older word never comes behind a newer one.
    fn change(&self, how: impl FnOnce(&mut HashMap<String, Position>)) {
        let mut positions = self.positions.lock();
        how(&mut positions);
        if let Some(least) = positions.values().min() {
            self.journal.release(*least);
        }
    }
}

/// What Flush works with.
pub struct FlushContext {
    pub definition: Arc<dyn Definition>,
    pub stream: String,
    pub store: Store,
    pub fence: Fence,
    pub revision: u64,
    /// Until the first commit of that revision.
    pub revise: Option<Revision>,
    pub letters: LetterLimit,
    pub live: Option<Arc<LiveRows>>,
    pub alerts: AlertFlush,
    /// The account that the generation began with.
    pub base: Account,
    pub parts: usize,
    pub progress: watch::Receiver<Progress>,
    pub commits: Arc<Commits>,
    pub outcome: watch::Sender<Outcome>,
    pub committed: watch::Sender<Position>,
    pub open_bytes: Arc<AtomicU64>,
    pub pipeline: Arc<PipelineStats>,
    pub stats: Arc<ActorStats>,
    pub clock: Clock,
    pub keeper: Keeper,
}

/// See the module's documentation.
pub struct Flush {
    /// Away while a handler works.
    work: Option<Work>,
    _guard: Guard,
    _inlets: Vec<Inlet>,
}

struct Work {
    context: FlushContext,
    open: Option<Open>,
    pause: Duration,
}

/// How a transaction ended.
type Answer = oneshot::Receiver<Result<Flushed, StoreError>>;

/// The epoch whose parts are coming in.
struct Open {
    barrier: Barrier,
    began: Duration,
    /// Pieces that came before all parts had their first here.
    early: Vec<(Vec<Change>, Credit)>,
    seen: Vec<bool>,
    shares: Vec<Option<Share>>,
    transaction: Option<(Sender<Chunk>, Answer)>,
}

impl Flush {
    pub fn new(context: FlushContext, inlets: Vec<Inlet>) -> Self {
        let guard = context.keeper.guard("flush");
        Self { work: Some(Work { context, open: None, pause: Duration::ZERO }), _guard: guard, _inlets: inlets }
    }
}

impl Work {
    async fn take(&mut self, message: Changes, credit: Credit) {
        let Changes { barrier, part, changes, last } = message;
        let parts = self.context.parts;
        let began = self.context.clock.elapsed();
        let open = self.open.get_or_insert_with(|| Open {
            barrier: barrier.clone(),
            began,
            early: Vec::new(),
            seen: vec![false; parts],
            shares: vec![None; parts],
            transaction: None,
        });
        if open.barrier.epoch != barrier.epoch {
            let reason = format!("a piece of epoch {} came while {} is open", barrier.epoch, open.barrier.epoch);
            return self.context.keeper.end(Ended::Broken(reason));
        }
        open.seen[part] = true;
        if last.is_some() {
            open.shares[part] = last;
        }
        match &open.transaction {
            // Where the store has given up already, the rest of the epoch is of no use.
            Some((chunks, _)) => drop(chunks.try_send(Chunk::Changes(changes, Box::new(credit)))),
            None => open.early.push((changes, credit)),
        }
        if open.transaction.is_none() && open.seen.iter().all(|seen| *seen) {
            self.begin().await;
        }
        if self.open.as_ref().is_some_and(|open| open.shares.iter().all(Option::is_some)) {
            self.finish().await;
        }
    }

    /// Opens the transaction, once the journal is fsynced that far.
    async fn begin(&mut self) {
        let Some(open) = &mut self.open else { return };
        let position = open.barrier.checkpoint.position;
        let synced = |progress: &Progress| progress.synced >= position;
        if self.context.progress.wait_for(synced).await.is_err() {
            return;
        }
        let (chunks, received) = crossbeam_channel::bounded(CHUNKS_MAX);
        let (reply, answer) = oneshot::channel();
        for (changes, credit) in open.early.drain(..) {
            drop(chunks.try_send(Chunk::Changes(changes, Box::new(credit))));
        }
        open.transaction = Some((chunks, answer));
        self.context.store.flush(Transaction {
            definition: self.context.definition.clone(),
            stream: self.context.stream.clone(),
            fence: self.context.fence,
            revision: self.context.revision,
            revise: self.context.revise,
            letters: self.context.letters,
            live: self.context.live.clone(),
            alerts: AlertFlush { watermark: open.barrier.checkpoint.watermark, ..self.context.alerts.clone() },
            chunks: received,
            reply,
        });
    }

    /// All is there: the account must balance, then the store commits.
    async fn finish(&mut self) {
        let Some(open) = self.open.take() else { return };
        let Some((chunks, answer)) = open.transaction else { return };
        let mut account = self.context.base;
        let mut all = Share::default();
        for share in open.shares.iter().flatten() {
            account.add(&share.account);
            all.open_windows = all.open_windows.max(share.open_windows);
            all.groups += share.groups;
            all.state_bytes += share.state_bytes;
            all.other_events += share.other_events;
            all.letter_bytes += share.letter_bytes;
        }
        if let Err((taken, ended)) = account.check() {
            let reason = format!(
                "the account does not balance at position {}: {taken} events came in, {ended} have ended; nothing was \
                 committed; please report this",
                open.barrier.checkpoint.position
            );
            return self.context.keeper.end(Ended::Refused(reason));
        }
        let checkpoint = Checkpoint { account, ..open.barrier.checkpoint };
        drop(chunks.try_send(Chunk::Finish(checkpoint)));
        drop(chunks);
        let result = answer.await.unwrap_or(Err(StoreError::GivenUp));
        let took = self.context.clock.elapsed().saturating_sub(open.began);
        self.context.stats.handled(1, took);
        match result {
            Ok(flushed) => self.committed(&open.barrier, checkpoint, all, flushed, took),
            Err(error) => self.failed(&open.barrier, error),
        }
    }

    fn committed(&mut self, barrier: &Barrier, checkpoint: Checkpoint, all: Share, flushed: Flushed, took: Duration) {
        self.pause = Duration::ZERO;
        self.context.revise = None;
        self.context.alerts.first = false;
        fail::fail_point!("flush-told");
        let context = &self.context;
        context.open_bytes.fetch_sub(all.letter_bytes, Ordering::Relaxed);
        context.pipeline.letters_discarded.fetch_add(flushed.discarded, Ordering::Relaxed);
        context.pipeline.no_longer_replayed(flushed.replayed);
        {
            let mut view = context.pipeline.inner.lock();
            view.account = checkpoint.account;
            view.position = checkpoint.position;
            view.watermark = checkpoint.watermark;
            (view.open_windows, view.groups, view.state_bytes) = (all.open_windows, all.groups, all.state_bytes);
            if all.other_events > 0 && view.other_events == 0 {
                log::warn!(
                    "pipeline {}: `max_groups` or `state_limit` is reached: events of further groups count in the row of \
                     their window with `other = true`",
                    context.pipeline.name
                );
            }
            view.other_events = all.other_events;
            // A commit that was under way when its pipeline stopped does not take back why.
            if !view.state.is_stopped() {
                view.error = None;
            }
            view.away_since = None;
            view.oldest = view.oldest_behind_barrier;
            let (rows, letters, reason) = (flushed.rows, flushed.letters, barrier.reason.name());
            let (at, duration_ms) = (context.clock.wall_ms(), took.as_millis() as u64);
            view.last_flush = Some(LastFlush { at, duration_ms, rows, letters, reason });
        }
        context.commits.committed(context.definition.pipeline(), checkpoint.position);
        let (epoch, position) = (barrier.epoch, checkpoint.position);
        context.outcome.send_replace(Outcome { epoch, committed: epoch, position, pause: None });
        context.committed.send_replace(position);
    }

    fn failed(&mut self, barrier: &Barrier, error: StoreError) {
        let context = &self.context;
        let pipeline = context.definition.pipeline();
        match error {
            StoreError::Fenced(_) => context.keeper.end(Ended::Fenced),
            StoreError::Refused(_) | StoreError::Schema(_) | StoreError::TooMuch(_) => {
                context.keeper.end(Ended::Refused(error.to_string()))
            }
            StoreError::LettersFull { .. } => context.keeper.end(Ended::Paused(error.to_string())),
            StoreError::Unknown(_) => context.keeper.end(Ended::Away(error.to_string())),
            StoreError::Away(_) | StoreError::GivenUp => {
                self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                let pause = jittered(self.pause);
                log::warn!("pipeline {pipeline}: {error}; trying again in {} ms", pause.as_millis());
                context.pipeline.away(error.to_string(), context.clock.elapsed());
                context.outcome.send_modify(|outcome| {
                    outcome.epoch = barrier.epoch;
                    outcome.pause = Some(pause);
                });
            }
        }
    }
}

impl Actor for Flush {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<Changes>> for Flush {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Changes>, _: &mut Context<Self>) -> Self::Result {
        let work = self.work.take();
        let take = async move {
            let mut work = work?;
            work.take(parcel.message, parcel.credit).await;
            Some(work)
        };
        AtomicResponse::new(Box::pin(take.into_actor(self).map(|work, flush, _| flush.work = work)))
    }
}
