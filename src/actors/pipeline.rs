//! Keeps one pipeline. Its actors live and die together, as one generation, which is built anew from checkpoint and
//! journal; where that cannot be, the keeper waits until an operator says that it can.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::ArbiterHandle;
use tokio::sync::{mpsc, oneshot, watch};

use super::flush::{Commits, jittered};
use super::generation::Generation;
use super::guard::Ended;
use super::orders::{Order, OrderError, Reply, Verb, grows};
use super::recent::Recent;
use super::replay::Lease;
use super::stats::{PipelineState, PipelineStats, StatsRegistry};
use crate::clock::Clock;
use crate::config::{LetterLimit, PipelineConfig, RawEventsConfig, Start};
use crate::event::{Decoder, Position};
use crate::journal::Journal;
use crate::pipeline::{Missing, Results, StageRegistry, Step, in_stored_order, step};
use crate::store::{Admit, AlertNews, Course, Definition, LiveRows, Snapshot, Store, StoreError};
use crate::units::format_size;

/// The pause before a generation is rebuilt; it doubles while it dies at the same position.
const REBIRTH_PAUSE_MIN: Duration = Duration::from_millis(50);
const REBIRTH_PAUSE_MAX: Duration = Duration::from_secs(5);
/// So often a generation may die at one position.
const DEATHS_MAX: u32 = 3;
/// So long the end of a generation is waited for.
const WIND_UP_MAX: Duration = Duration::from_secs(10);

/// All that a pipeline's generations need.
pub struct Pipeline {
    pub definition: Arc<dyn Definition>,
    /// The same, for whoever reads its states.
    pub defined: watch::Sender<Arc<dyn Definition>>,
    /// `None` for a stream's intake.
    pub config: Option<Arc<PipelineConfig>>,
    pub stream: String,
    /// Of the stream; its intake's business.
    pub raw_events: Option<RawEventsConfig>,
    pub windows: usize,
    pub flush_every: Duration,
    pub decoder: Decoder,
    pub registry: Arc<StageRegistry>,
    pub journal: Arc<Journal>,
    pub recent: Arc<Recent>,
    pub store: Store,
    pub commits: Arc<Commits>,
    pub stats: Arc<PipelineStats>,
    pub actors: Arc<StatsRegistry>,
    pub clock: Clock,
    pub drain: watch::Receiver<Option<Position>>,
    /// Where the stage lives (its own thread, if it runs a custom stage), and the others.
    pub stage_arbiter: ArbiterHandle,
    pub arbiter: ArbiterHandle,
    /// The position of the last commit, for whoever waits for it.
    pub committed: watch::Sender<Position>,
    /// What replays need of the generation.
    pub lease: watch::Sender<Option<Lease>>,
    /// How many letters are kept.
    pub letters: LetterLimit,
    /// Who is told of what it commits.
    pub live: Option<Arc<LiveRows>>,
    /// Who is told of what fires; of an intake nobody.
    pub alerts: Option<Arc<AlertNews>>,
    /// Whether an operator has accepted what this start loses.
    pub accepted: bool,
    /// The same, of input that is missing: that counts once.
    pub may_adopt: bool,
    /// What operators say.
    pub(super) orders: mpsc::Receiver<Order>,
    /// Told once how the first generation began.
    pub began: Option<oneshot::Sender<Result<(), String>>>,
}

/// Why a generation did not begin.
pub(super) enum Unbegun {
    /// The store is away, or says no.
    Store(StoreError),
    /// The journal has lost what follows the checkpoint.
    Missing(Box<Snapshot>, Lost),
}

/// What the journal has lost.
pub(super) struct Lost {
    /// The last position that is missing.
    pub upto: Position,
    reason: String,
}

/// How often a pipeline died at one place, and how long it rests before it is built again.
struct Deaths {
    count: u32,
    at: Option<Position>,
    pause: Duration,
}

impl Deaths {
    fn none() -> Self {
        Self { count: 0, at: None, pause: REBIRTH_PAUSE_MIN }
    }

    /// The pause before the next try; it grows.
    fn pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(REBIRTH_PAUSE_MAX);
        jittered(pause)
    }

    /// It died once more; how often at this place.
    fn again(&mut self, position: Position) -> u32 {
        if self.at != Some(position) {
            *self = Self { at: Some(position), ..Self::none() };
        }
        self.count += 1;
        self.count
    }
}

/// What follows the end of a generation.
enum Then {
    /// Another one, after a pause.
    Again(Duration),
    /// Nothing, until an operator says so.
    Stopped,
    /// Nothing at all: the daemon is gone, or a reload has no place for it.
    Over,
}

impl Pipeline {
    /// Keeps a generation alive; where that cannot be, waits until an operator says that it can.
    pub async fn run(mut self) {
        let mut deaths = Deaths::none();
        let mut resume = None;
        loop {
            let mut then = self.live(&mut deaths, resume.take()).await;
            if let Then::Again(pause) = then {
                then = self.rest(pause).await;
            }
            match then {
                Then::Again(_) => {}
                Then::Over => return,
                Then::Stopped => {
                    resume = self.stopped().await;
                    if resume.is_none() {
                        return;
                    }
                    deaths = Deaths::none();
                    let mut view = self.stats.inner.lock();
                    (view.state, view.error) = (PipelineState::Starting, None);
                }
            }
        }
    }

    /// One generation, from its beginning to its end.
    async fn live(&mut self, deaths: &mut Deaths, resume: Option<Reply>) -> Then {
        let begun = self.begin().await;
        let name = self.definition.pipeline().to_owned();
        if let Some(began) = self.began.take() {
            // Nobody listens where the start was given up.
            let _ = began.send(match &begun {
                Err(Unbegun::Store(error @ (StoreError::Refused(_) | StoreError::Schema(_)))) => {
                    Err(format!("pipeline {name}: {error}"))
                }
                // Where `max_behind` lets the journal go on without it, that must not keep a daemon from its start.
                Err(Unbegun::Missing(_, missing)) if self.max_behind().is_none() => {
                    Err(format!("pipeline {name}: {}", missing.reason))
                }
                _ => Ok(()),
            });
        }
        let generation = match begun {
            Ok(generation) => Ok(generation),
            Err(Unbegun::Store(StoreError::Away(reason))) => {
                log::warn!("pipeline {name}: the store is away: {reason}");
                self.stats.away(format!("the store is away: {reason}"), self.clock.elapsed());
                Err(Then::Again(deaths.pause()))
            }
            Err(Unbegun::Store(error)) => {
                self.stop(PipelineState::Refused, error.to_string());
                Err(Then::Stopped)
            }
            Err(Unbegun::Missing(_, missing)) => {
                let skip = format!("`tidemill pipeline skip {name} --to {}` goes on behind them", missing.upto);
                self.stop(PipelineState::Paused, format!("{}; {skip}", missing.reason));
                Err(Then::Stopped)
            }
        };
        if let Some(reply) = resume {
            let stopped = matches!(generation, Err(Then::Stopped));
            let standing = self.standing();
            let reason = standing.error.clone().unwrap_or_default();
            // Whoever asked may have gone.
            let _ = reply.send(if stopped { Err(OrderError::Conflict(reason)) } else { Ok(standing) });
        }
        match generation {
            Ok(generation) => self.tend(generation, deaths).await,
            Err(then) => then,
        }
    }

    /// Waits for the end of a generation: its own, that of an order, or because it is too far behind.
    async fn tend(&mut self, mut generation: Generation, deaths: &mut Deaths) -> Then {
        let mut progress = self.journal.progress();
        let mut limit = self.limit_at_begin();
        loop {
            tokio::select! {
                ended = generation.ended.recv() => {
                    return self.has_ended(ended.unwrap_or(Ended::Actor("it ended".into())), deaths);
                }
                order = self.orders.recv() => match order {
                    None => return Then::Over,
                    Some(Order::Leave { .. }) => {
                        self.wind_up(generation).await;
                        return Then::Over;
                    }
                    Some(Order::Do(Verb::Pause, reply)) if self.may_pause().is_ok() => {
                        self.wind_up(generation).await;
                        return self.pause(reply);
                    }
                    Some(Order::Do(verb, reply)) => self.answer_unstopped(verb, reply),
                },
                true = grows(&mut progress), if limit.is_some() => {
                    if self.is_beyond(limit) {
                        self.wind_up(generation).await;
                        self.show(PipelineState::Paused, String::new());
                        self.leave_behind();
                        return Then::Stopped;
                    }
                    if !self.is_beyond(self.max_behind()) {
                        limit = self.max_behind();
                    }
                }
            }
        }
    }

    /// What follows a generation that ended by itself.
    fn has_ended(&self, ended: Ended, deaths: &mut Deaths) -> Then {
        let reason = match ended {
            Ended::Refused(reason) => {
                self.stop(PipelineState::Refused, reason);
                return Then::Stopped;
            }
            Ended::Paused(reason) => {
                self.stop(PipelineState::Paused, reason);
                return Then::Stopped;
            }
            Ended::Fenced => {
                self.stop(PipelineState::Fenced, "another writer has taken over this pipeline".into());
                return Then::Stopped;
            }
            // No death: however often that happens at one position, it is not the pipeline's fault.
            Ended::Away(reason) => {
                log::warn!("pipeline {}: {reason}; reading it again from the store", self.stats.name);
                self.stats.restarts.fetch_add(1, Ordering::Relaxed);
                self.stats.inner.lock().state = PipelineState::Starting;
                self.stats.away(reason, self.clock.elapsed());
                return Then::Again(deaths.pause());
            }
            Ended::Actor(reason) | Ended::Broken(reason) => reason,
        };
        let position = self.stats.inner.lock().position;
        let count = deaths.again(position);
        if count >= DEATHS_MAX {
            self.stop(PipelineState::Paused, format!("{reason}; it died {count} times behind position {position}"));
            return Then::Stopped;
        }
        log::error!("pipeline {}: {reason}; rebuilding it from position {position}", self.stats.name);
        self.stats.restarts.fetch_add(1, Ordering::Relaxed);
        self.show(PipelineState::Starting, reason);
        Then::Again(deaths.pause())
    }

    /// Rests before the next generation. A daemon that stops ends the pause, once.
    async fn rest(&mut self, pause: Duration) -> Then {
        let clock = self.clock.clone();
        let mut pause = std::pin::pin!(clock.sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return Then::Again(Duration::ZERO),
                Ok(()) = self.drain.changed() => return Then::Again(Duration::ZERO),
                order = self.orders.recv() => match order {
                    None | Some(Order::Leave { .. }) => return Then::Over,
                    Some(Order::Do(Verb::Pause, reply)) if self.may_pause().is_ok() => return self.pause(reply),
                    Some(Order::Do(verb, reply)) => self.answer_unstopped(verb, reply),
                },
            }
        }
    }

    /// Orders that change nothing while it is not stopped.
    fn answer_unstopped(&self, verb: Verb, reply: Reply) {
        let answer = match verb {
            Verb::Resume => Ok(self.standing()),
            Verb::Skip(_) | Verb::Drop => Err(self.is_not_stopped()),
            Verb::Pause => self.may_pause().map(|()| self.standing()),
        };
        // Whoever asked may have gone.
        let _ = reply.send(answer);
    }

    fn pause(&self, reply: Reply) -> Then {
        let name = self.definition.pipeline();
        self.stop(PipelineState::Paused, format!("paused on request: `tidemill pipeline resume {name}` goes on"));
        // Whoever asked may have gone.
        let _ = reply.send(Ok(self.standing()));
        Then::Stopped
    }

    /// Ends a generation, so that its last commit is over. A stage that hangs in a call can be waited for no longer: it
    /// sends nothing any more when it comes back.
    async fn wind_up(&self, generation: Generation) {
        tokio::select! {
            () = generation.ended() => {}
            () = self.clock.sleep(WIND_UP_MAX) => {
                log::warn!("pipeline {}: a stage or the store still holds one of its actors", self.stats.name);
            }
        }
    }

    fn stop(&self, state: PipelineState, reason: String) {
        let level = if state == PipelineState::Paused { log::Level::Warn } else { log::Level::Error };
        log::log!(level, "pipeline {} is {}: {reason}", self.stats.name, state.name());
        self.show(state, reason);
        // Whoever waits for a commit looks again.
        self.committed.send_modify(|_| {});
    }

    fn show(&self, state: PipelineState, reason: String) {
        let mut view = self.stats.inner.lock();
        (view.state, view.error) = (state, Some(reason));
        view.away_since = None;
    }

    /// So many bytes it may be behind.
    pub(super) fn max_behind(&self) -> Option<u64> {
        self.config.as_ref().and_then(|config| config.max_behind_bytes)
    }

    /// Whether it is further behind than that, and still pins the journal.
    pub(super) fn is_beyond(&self, limit: Option<u64>) -> bool {
        let Some(limit) = limit else { return false };
        let (position, unpinned) = {
            let view = self.stats.inner.lock();
            (view.position, view.unpinned)
        };
        !unpinned && self.journal.extents().bytes_behind(position) > limit
    }

    /// One that begins too far behind catches up: it must only not get further behind by as much again.
    fn limit_at_begin(&self) -> Option<u64> {
        let max = self.max_behind()?;
        let behind = self.journal.extents().bytes_behind(self.stats.inner.lock().position);
        Some(if behind > max { behind.saturating_add(max) } else { max })
    }

    /// Too far behind, and stopped: the journal need not keep anything for it.
    pub(super) fn leave_behind(&self) {
        let name = self.definition.pipeline();
        let reason = format!(
            "further behind than max_behind ({}), so that the journal keeps nothing for it any more: `tidemill pipeline \
             resume {name}` goes on if the journal still has its records, else `tidemill pipeline skip {name} --to …`",
            format_size(self.max_behind().unwrap_or_default())
        );
        log::error!("pipeline {name}: {reason}");
        {
            let mut view = self.stats.inner.lock();
            let before = view.error.take().filter(|before| !before.is_empty());
            view.error = Some(before.map_or_else(|| reason.clone(), |before| format!("{before}; {reason}")));
            view.unpinned = true;
        }
        self.commits.unpin(name);
        // Whoever waits for a commit looks again.
        self.committed.send_modify(|_| {});
    }

    /// Takes the fence, reads the state, builds the actors.
    async fn begin(&mut self) -> Result<Generation, Unbegun> {
        let begun = self.store.begin(self.definition.clone(), &self.stream, self.admit()).await;
        let snapshot = begun.map_err(Unbegun::Store)?;
        self.may_adopt = false;
        self.take_definition(&snapshot);
        let name = self.definition.pipeline();
        // Claimed first, so that nothing goes between the look and the claim.
        self.commits.pin(name, snapshot.checkpoint.position);
        let snapshot = self.check_journal(snapshot).inspect_err(|unbegun| {
            if let Unbegun::Missing(..) = unbegun
                && self.max_behind().is_some()
            {
                self.stats.inner.lock().unpinned = true;
                self.commits.unpin(name);
            }
        })?;
        let position = snapshot.checkpoint.position;
        self.commits.committed(name, position);
        self.stats.under_replay.store(snapshot.under_replay, Ordering::Relaxed);
        {
            let mut view = self.stats.inner.lock();
            (view.account, view.position) = (snapshot.checkpoint.account, position);
            view.watermark = snapshot.checkpoint.watermark;
            (view.oldest, view.oldest_behind_barrier, view.unpinned) = (None, None, false);
            if view.away_since.take().is_some() {
                view.error = None;
            }
        }
        self.committed.send_replace(position);
        if let Some(news) = &self.alerts {
            news.changed(snapshot.firing.clone());
        }
        let lease = Lease { fence: snapshot.fence, revision: snapshot.revision };
        let generation = self.build(snapshot).map_err(Unbegun::Store)?;
        self.lease.send_replace(Some(lease));
        Ok(generation)
    }

    /// Whether and how it may begin. Where the journal in `data_dir` is another one than the checkpoint's, or an older
    /// copy, this daemon must not write, and must not stop the one that may.
    pub(super) fn admit(&self) -> Admit {
        let (journal, config) = (self.journal.clone(), self.config.clone());
        let (accepted, may_adopt) = (self.accepted, self.may_adopt);
        let look = journal.look();
        Box::new(move |registered, checkpoint| {
            let step = match &config {
                Some(config) => step(config, &look, &|| journal.first_ingest_time(), registered),
                None => {
                    let missing = Missing::of(checkpoint.journal_id, checkpoint.position, &look);
                    missing.map_or(Step::GoOn, Step::Missing)
                }
            };
            match step {
                Step::New(_) | Step::GoOn => Ok(Course::GoOn),
                Step::Amend(_) => {
                    let definition = config.as_ref().map(|config| &config.definition);
                    let stored = registered.map(|registered| &registered.definition);
                    let (Some(definition), Some(stored)) = (definition, stored) else { return Ok(Course::GoOn) };
                    Ok(Course::Amend(in_stored_order(stored, definition)))
                }
                Step::Revise(_, beginning) if accepted || beginning.position == 0 => Ok(Course::Revise(beginning)),
                Step::Revise(difference, _) => Err(format!(
                    "it is defined otherwise in this store ({}), and the journal does not reach back to the stream's first \
                     record: `tidemill plan CONFIG` says what a new revision would lose",
                    difference.revised.join(", ")
                )),
                Step::Missing(missing) if may_adopt => {
                    let position = if let Missing::Older { last, .. } = missing { last } else { look.first - 1 };
                    Ok(Course::Adopt { journal_id: look.id, position })
                }
                // The keeper says what is missing, and may wait for a skip.
                Step::Missing(Missing::Gap { .. }) => Ok(Course::GoOn),
                Step::Missing(missing) => Err(missing.to_string()),
            }
        })
    }

    /// States hold aggregates in the order of the stored definition, whatever that of the config.
    fn take_definition(&mut self, snapshot: &Snapshot) {
        let Some(config) = self.config.take() else { return };
        let aggregates = snapshot.definition["aggregates"].as_array().into_iter().flatten();
        let names = aggregates.filter_map(|one| one["name"].as_str());
        let config = Arc::unwrap_or_clone(config).with_states_ordered(names);
        self.definition = Arc::new(Results::new(config.clone(), &snapshot.added));
        self.defined.send_replace(self.definition.clone());
        self.config = Some(Arc::new(config));
    }

    /// Whether the journal has what follows the checkpoint. A new pipeline begins where it shall.
    pub(super) fn check_journal(&self, mut snapshot: Snapshot) -> Result<Snapshot, Unbegun> {
        let journal = self.journal.look();
        let checkpoint = &mut snapshot.checkpoint;
        if checkpoint.journal_id == 0 || snapshot.revise.is_some() {
            checkpoint.journal_id = journal.id;
            if snapshot.revise.is_none() {
                let start = self.config.as_ref().map_or(Start::Earliest, |config| config.start);
                checkpoint.position = if start == Start::Now { journal.last } else { journal.first - 1 };
            }
            return Ok(snapshot);
        }
        match Missing::of(checkpoint.journal_id, checkpoint.position, &journal) {
            None => Ok(snapshot),
            Some(missing) => {
                let missing = Lost { upto: journal.first - 1, reason: missing.to_string() };
                Err(Unbegun::Missing(Box::new(snapshot), missing))
            }
        }
    }
}
