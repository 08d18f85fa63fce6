//! Builds and rebuilds one pipeline. Its actors live and die together, as one generation: from the last to the first, so
//! that each is handed the mailboxes it sends to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ArbiterHandle};
use tokio::sync::{mpsc, oneshot, watch};

use super::dead_letter::DeadLetter;
use super::feed::Feed;
use super::flush::{Commits, Flush, FlushContext, jittered};
use super::guard::{Ended, Keeper};
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Barrier, Changes, FlushDue, FlushReason, Letters, Outcome, Records, WindowBarrier, WindowRows};
use super::orders::{Order, OrderError, Reply, Verb, grows};
use super::recent::Recent;
use super::stage::{Operator, Output, Stage};
use super::stats::{ActorStats, PipelineState, PipelineStats, StatsRegistry};
use super::window::{Window, WindowOutput};
use crate::clock::Clock;
use crate::config::PipelineConfig;
use crate::event::{Decoder, Fields, Position, PositionRange};
use crate::journal::Journal;
use crate::pipeline::{IntakeOperator, StageOperator, StageRegistry};
use crate::store::{Change, Definition, Snapshot, Sqlite, StoreError};
use crate::units::format_size;
use crate::window::{FirstRecord, Open, Operator as WindowOperator, OperatorConfig, Watermark};

/// Bytes of the mailboxes in front of stage, each window, DeadLetter, and of each part of an epoch at Flush.
const STAGE_MAILBOX: usize = 2 * 1024 * 1024;
const WINDOW_MAILBOX: usize = 4 * 1024 * 1024;
const LETTERS_MAILBOX: usize = 2 * 1024 * 1024;
const CONTROL_MAILBOX: usize = 64 * 1024;
const CHANGES_MAILBOX: usize = 1024 * 1024;
/// Bytes that the mailboxes of a pipeline with `windows` window actors hold at most.
pub const fn mailbox_bytes(windows: usize) -> usize {
    STAGE_MAILBOX
        + 2 * LETTERS_MAILBOX
        + CHANGES_MAILBOX
        + 2 * CONTROL_MAILBOX
        + windows * (WINDOW_MAILBOX + CHANGES_MAILBOX + 2 * CONTROL_MAILBOX)
}
/// The pause before a generation is rebuilt; it doubles while it dies at the same position.
const REBIRTH_PAUSE_MIN: Duration = Duration::from_millis(50);
const REBIRTH_PAUSE_MAX: Duration = Duration::from_secs(30);
/// So often a generation may die at one position.
const DEATHS_MAX: u32 = 3;
/// So long the end of a generation is waited for.
const WIND_UP_MAX: Duration = Duration::from_secs(10);

/// All that a pipeline's generations need.
pub struct Pipeline {
    pub definition: Arc<dyn Definition>,
    /// `None` for a stream's intake.
    pub config: Option<Arc<PipelineConfig>>,
    pub stream: String,
    pub windows: usize,
    pub flush_every: Duration,
    pub fields: Arc<Fields>,
    pub registry: Arc<StageRegistry>,
    pub journal: Arc<Journal>,
    pub recent: Arc<Recent>,
    pub store: Sqlite,
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
    /// What operators say.
    pub(super) orders: mpsc::Receiver<Order>,
    /// Told once how the first generation began.
    pub began: Option<oneshot::Sender<Result<(), String>>>,
}

/// A living generation. Dropping it ends its feed and timer; its actors end when nothing more can reach them.
struct Generation {
    ended: mpsc::UnboundedReceiver<Ended>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Its end is how the stage learns of that of the generation.
    alive: Option<watch::Sender<()>>,
}

impl Generation {
    fn end(&mut self) {
        self.alive = None;
        for task in &self.tasks {
            task.abort();
        }
    }

    /// Ends it, and waits until its last actor has ended: none holds a keeper any more then.
    async fn ended(mut self) {
        self.end();
        while self.ended.recv().await.is_some() {}
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.end();
    }
}

/// Why a generation did not begin.
pub(super) enum Unbegun {
    /// The store is away, or says no.
    Store(StoreError),
    /// The journal has lost what follows the checkpoint.
    Missing(Box<Snapshot>, Missing),
}

/// What the journal has lost.
pub(super) struct Missing {
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
    /// Nothing at all: the daemon is gone.
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
                    Some(Order { verb: Verb::Pause, reply }) if self.may_pause().is_ok() => {
                        self.wind_up(generation).await;
                        return self.pause(reply);
                    }
                    Some(order) => self.answer_unstopped(order),
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
            Ended::Fenced => {
                self.stop(PipelineState::Fenced, "another writer has taken over this pipeline".into());
                return Then::Stopped;
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
                    None => return Then::Over,
                    Some(Order { verb: Verb::Pause, reply }) if self.may_pause().is_ok() => return self.pause(reply),
                    Some(order) => self.answer_unstopped(order),
                },
            }
        }
    }

    /// Orders that change nothing while it is not stopped.
    fn answer_unstopped(&self, order: Order) {
        let answer = match order.verb {
            Verb::Resume => Ok(self.standing()),
            Verb::Skip(_) => Err(self.is_not_stopped()),
            Verb::Pause => self.may_pause().map(|()| self.standing()),
        };
        // Whoever asked may have gone.
        let _ = order.reply.send(answer);
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
    async fn begin(&self) -> Result<Generation, Unbegun> {
        let snapshot = self.store.begin(self.definition.clone(), &self.stream).await.map_err(Unbegun::Store)?;
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
        self.build(snapshot).map_err(Unbegun::Store)
    }

    /// Whether the journal has what follows the checkpoint. A new pipeline begins with what is there.
    pub(super) fn check_journal(&self, mut snapshot: Snapshot) -> Result<Snapshot, Unbegun> {
        let progress = self.journal.progress().borrow().clone();
        let (first, written) = (progress.first, progress.written);
        let checkpoint = &mut snapshot.checkpoint;
        if checkpoint.journal_id == 0 {
            checkpoint.journal_id = self.journal.id();
            checkpoint.position = first - 1;
            return Ok(snapshot);
        }
        let found = format!("its checkpoint is at position {}", checkpoint.position);
        let refused = |reason| Unbegun::Store(StoreError::Refused(reason));
        if checkpoint.journal_id != self.journal.id() {
            return Err(refused(format!("{found} of another journal than the one in data_dir; restore that one")));
        }
        if checkpoint.position > written {
            return Err(refused(format!("{found}, but the journal holds {first}..={written}")));
        }
        if checkpoint.position + 1 < first {
            let gap = PositionRange { after: checkpoint.position, upto: first - 1 };
            let reason = format!("{found}, but the journal holds {first}..={written}: positions {gap} are missing");
            return Err(Unbegun::Missing(Box::new(snapshot), Missing { upto: first - 1, reason }));
        }
        Ok(snapshot)
    }

    fn build(&self, snapshot: Snapshot) -> Result<Generation, StoreError> {
        let (keeper, ended) = Keeper::new();
        let windows = if self.config.is_some() { self.windows } else { 0 };
        let open_bytes = Arc::new(AtomicU64::new(0));
        let position = snapshot.checkpoint.position;

        // Of this generation alone: a predecessor's last commit, told late, must not look like one of its own.
        let (outcome, outcomes) = watch::channel(Outcome { position, ..Outcome::default() });
        let to_flush = self.flush(&snapshot, windows, outcome, &open_bytes, &keeper);
        let (letters, dead_letter, window_barriers) = self.dead_letter(&to_flush, windows, &open_bytes, &keeper);
        let mut outputs = Vec::new();
        if let Some(config) = &self.config {
            for (index, flush) in to_flush.iter().take(windows).enumerate() {
                let output = WindowOutput {
                    letters: letters.clone(),
                    dead_letter: window_barriers.clone(),
                    flush: flush.clone(),
                    open_bytes: open_bytes.clone(),
                    stats: self.actor("window", Some(index), Vec::new()),
                    keeper: keeper.clone(),
                };
                outputs.push(self.window(config, index, &snapshot, output)?);
            }
        }
        let operator = self.operator(&snapshot)?;
        let output = (outputs, letters, dead_letter);
        let (alive, is_alive) = watch::channel(());
        let (records, due) = self.stage(operator, &snapshot, output, (outcomes, is_alive), &open_bytes, &keeper);

        let feed = Feed {
            journal: self.journal.clone(),
            recent: self.recent.clone(),
            decoder: Decoder::new(self.fields.clone()),
            to: records,
            flush: due.clone(),
            stats: self.stats.clone(),
            drain: self.drain.clone(),
        };
        let timer = timer(self.clock.clone(), self.flush_every, due);
        let tasks = vec![actix::spawn(feed.run(position, keeper)), actix::spawn(timer)];
        Ok(Generation { ended, tasks, alive: Some(alive) })
    }

    fn actor(&self, kind: &'static str, index: Option<usize>, mailboxes: Vec<Arc<Gauge>>) -> Arc<ActorStats> {
        let name = self.definition.pipeline();
        let name = index.map_or_else(|| name.to_owned(), |index| format!("{name}/{index}"));
        self.actors.actor(kind, name, mailboxes)
    }

    /// Flush, and a mailbox for each part of an epoch: shared credit would deadlock.
    fn flush(
        &self,
        snapshot: &Snapshot,
        windows: usize,
        outcome: watch::Sender<Outcome>,
        open_bytes: &Arc<AtomicU64>,
        keeper: &Keeper,
    ) -> Vec<Outlet<Changes>> {
        let gauges: Vec<_> = (0..=windows).map(|_| Gauge::new(CHANGES_MAILBOX)).collect();
        let context = FlushContext {
            definition: self.definition.clone(),
            stream: self.stream.clone(),
            store: self.store.clone(),
            fence: snapshot.fence,
            base: snapshot.checkpoint.account,
            parts: windows + 1,
            progress: self.journal.progress(),
            commits: self.commits.clone(),
            outcome,
            committed: self.committed.clone(),
            open_bytes: open_bytes.clone(),
            pipeline: self.stats.clone(),
            stats: self.actor("flush", None, gauges.clone()),
            clock: self.clock.clone(),
            keeper: keeper.clone(),
        };
        let inlets = gauges.iter().map(Inlet::of).collect();
        let flush = Flush::start_in_arbiter(&self.arbiter, move |_| Flush::new(context, inlets));
        gauges.iter().map(|gauge| Outlet::new(&flush, gauge, &self.clock)).collect()
    }

    fn dead_letter(
        &self,
        to_flush: &[Outlet<Changes>],
        windows: usize,
        open_bytes: &Arc<AtomicU64>,
        keeper: &Keeper,
    ) -> (Outlet<Letters>, Outlet<Barrier>, Outlet<WindowBarrier>) {
        let gauges = [LETTERS_MAILBOX, CONTROL_MAILBOX, CONTROL_MAILBOX].map(Gauge::new);
        let stats = self.actor("dead_letter", None, gauges.to_vec());
        let inlets = gauges.iter().map(Inlet::of).collect();
        let (flush, open_bytes) = (to_flush[windows].clone(), open_bytes.clone());
        let guard = keeper.guard("dead letter actor");
        let actor = DeadLetter::start_in_arbiter(&self.arbiter, move |_| {
            DeadLetter::new(windows, flush, open_bytes, stats, guard, inlets)
        });
        let [letters, barriers, window_barriers] = &gauges;
        (
            Outlet::new(&actor, letters, &self.clock),
            Outlet::new(&actor, barriers, &self.clock),
            Outlet::new(&actor, window_barriers, &self.clock),
        )
    }

    fn window(
        &self,
        config: &PipelineConfig,
        index: usize,
        snapshot: &Snapshot,
        mut output: WindowOutput,
    ) -> Result<(Outlet<WindowRows>, Outlet<Barrier>), StoreError> {
        let operator = self.window_operator(config, index, snapshot)?;
        let gauges = [WINDOW_MAILBOX, CONTROL_MAILBOX].map(Gauge::new);
        output.stats = self.actor("window", Some(index), gauges.to_vec());
        let inlets = gauges.iter().map(Inlet::of).collect();
        let (late, clock) = (config.late, self.clock.clone());
        let actor =
            Window::start_in_arbiter(&self.arbiter, move |_| Window::new(operator, index, late, output, clock, inlets));
        let [rows, barriers] = &gauges;
        Ok((Outlet::new(&actor, rows, &self.clock), Outlet::new(&actor, barriers, &self.clock)))
    }

    fn window_operator(
        &self,
        config: &PipelineConfig,
        index: usize,
        snapshot: &Snapshot,
    ) -> Result<WindowOperator, StoreError> {
        let checkpoint = &snapshot.checkpoint;
        let refused = |error: crate::window::StateError| StoreError::Refused(error.to_string());
        let mut operator = WindowOperator::new(OperatorConfig {
            window: config.window,
            late: config.late,
            aggregates: config.aggregates.iter().map(|aggregate| aggregate.kind).collect(),
            first: FirstRecord {
                position: checkpoint.first_position,
                ingest_time: checkpoint.first_ingest_time,
                max_ahead_ms: config.watermark.max_ahead_ms,
            },
        });
        operator.restore_position(checkpoint.position, checkpoint.watermark.unwrap_or(i64::MIN));
        for change in &snapshot.open {
            let open = match change {
                Change::Row { window_start, window_end, group, state, .. } => {
                    Open::Row { window_start: *window_start, window_end: *window_end, group: group.clone(), state }
                }
                Change::Pane { pane_start, group, state } => {
                    Open::Pane { pane_start: *pane_start, group: group.clone(), state }
                }
                Change::Correction { .. } | Change::PanesBefore(_) | Change::Letter(_) => continue,
            };
            let (Open::Row { group, .. } | Open::Pane { group, .. }) = &open;
            if StageOperator::window_of(group, self.windows) == index {
                operator.restore(open).map_err(refused)?;
            }
        }
        Ok(operator)
    }

    fn operator(&self, snapshot: &Snapshot) -> Result<Operator, StoreError> {
        let checkpoint = &snapshot.checkpoint;
        let Some(config) = &self.config else {
            return Ok(Operator::Intake(IntakeOperator::new(checkpoint.position)));
        };
        let watermark = Watermark::restore(config.watermark, checkpoint.watermark, checkpoint.silence_ms);
        let operator = StageOperator::new(
            config.clone(),
            &self.fields,
            &self.registry,
            self.windows,
            checkpoint.position,
            watermark,
            self.clock.clone(),
        );
        let missing = |name| StoreError::Refused(format!("no custom stage {name:?} is registered"));
        operator.map(|operator| Operator::Pipeline(Box::new(operator))).map_err(missing)
    }

    #[expect(clippy::type_complexity, reason = "what the functions above return, handed on")]
    fn stage(
        &self,
        operator: Operator,
        snapshot: &Snapshot,
        (windows, letters, dead_letter): (Vec<(Outlet<WindowRows>, Outlet<Barrier>)>, Outlet<Letters>, Outlet<Barrier>),
        (outcome, alive): (watch::Receiver<Outcome>, watch::Receiver<()>),
        open_bytes: &Arc<AtomicU64>,
        keeper: &Keeper,
    ) -> (Outlet<Records>, Outlet<FlushDue>) {
        let gauges = [STAGE_MAILBOX, CONTROL_MAILBOX].map(Gauge::new);
        let output = Output {
            windows,
            letters,
            dead_letter,
            outcome,
            alive,
            drain: self.drain.clone(),
            pipeline: self.stats.clone(),
            open_bytes: open_bytes.clone(),
            clock: self.clock.clone(),
            stats: self.actor("stage", None, gauges.to_vec()),
            epoch: 1,
            not_before: Duration::ZERO,
        };
        let inlets = gauges.iter().map(Inlet::of).collect();
        let max_ahead_ms = self.config.as_ref().map_or(0, |config| config.watermark.max_ahead_ms);
        let (checkpoint, pipeline, keeper) = (snapshot.checkpoint, self.stats.clone(), keeper.clone());
        let stage = Stage::start_in_arbiter(&self.stage_arbiter, move |_| {
            Stage::new(operator, checkpoint, max_ahead_ms, output, pipeline, keeper, inlets)
        });
        let [records, due] = &gauges;
        (Outlet::new(&stage, records, &self.clock), Outlet::new(&stage, due, &self.clock))
    }
}

/// Says that a flush is due, one word at a time: `run_interval` would starve while the mailbox has messages.
async fn timer(clock: Clock, every: Duration, due: Outlet<FlushDue>) {
    loop {
        clock.sleep(every).await;
        if due.send(FlushDue(FlushReason::Timer)).await.is_err() {
            return;
        }
    }
}
