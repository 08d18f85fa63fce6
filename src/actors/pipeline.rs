//! Builds and rebuilds one pipeline. Its actors live and die together, as one generation: from the last to the first, so
//! that each is handed the mailboxes it sends to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ArbiterHandle};
use tokio::sync::{mpsc, oneshot, watch};

use super::dead_letter::DeadLetter;
use super::feed::Feed;
use super::flush::{Commits, Flush, FlushContext};
use super::guard::{Ended, Keeper};
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Barrier, Changes, FlushDue, FlushReason, Letters, Outcome, Records, WindowBarrier, WindowRows};
use super::recent::Recent;
use super::stage::{Operator, Output, Stage};
use super::stats::{ActorStats, PipelineState, PipelineStats, StatsRegistry};
use super::window::{Window, WindowOutput};
use crate::clock::Clock;
use crate::config::PipelineConfig;
use crate::event::{Decoder, Fields, Position};
use crate::journal::Journal;
use crate::pipeline::{IntakeOperator, StageOperator, StageRegistry};
use crate::store::{Change, Checkpoint, Definition, Snapshot, Store, StoreError};
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
    /// Told once how the first generation began.
    pub began: Option<oneshot::Sender<Result<(), String>>>,
}

/// A living generation. Dropping it ends its feed and timer; its actors end when nothing more can reach them.
struct Generation {
    ended: mpsc::UnboundedReceiver<Ended>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    /// Its end is how the stage learns of that of the generation.
    _alive: watch::Sender<()>,
}

impl Drop for Generation {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Pipeline {
    /// Keeps a generation alive, until the store refuses it or another has taken over.
    pub async fn run(mut self) {
        let name = self.definition.pipeline().to_owned();
        let (mut deaths, mut died_at) = (0, None);
        let mut pause = REBIRTH_PAUSE_MIN;
        loop {
            let begun = self.begin().await;
            if let Some(began) = self.began.take() {
                // Nobody listens where the start was given up.
                let _ = began.send(match &begun {
                    Err(error @ (StoreError::Refused(_) | StoreError::Schema(_))) => {
                        Err(format!("pipeline {name}: {error}"))
                    }
                    _ => Ok(()),
                });
            }
            let ended = match begun {
                Ok(mut generation) => generation.ended.recv().await.unwrap_or(Ended::Actor("it ended".into())),
                Err(StoreError::Away(reason)) => {
                    log::warn!("pipeline {name}: the store is away: {reason}");
                    self.stats.inner.lock().error = Some(format!("the store is away: {reason}"));
                    self.clock.sleep(pause).await;
                    pause = (pause * 2).min(REBIRTH_PAUSE_MAX);
                    continue;
                }
                Err(error) => Ended::Refused(error.to_string()),
            };
            let reason = match ended {
                Ended::Refused(reason) => return self.stop(PipelineState::Refused, reason),
                Ended::Fenced => {
                    return self.stop(PipelineState::Fenced, "another writer has taken over this pipeline".into());
                }
                Ended::Actor(reason) | Ended::Broken(reason) => reason,
            };
            let position = self.stats.inner.lock().position;
            (deaths, pause) = if died_at == Some(position) { (deaths + 1, pause * 2) } else { (1, REBIRTH_PAUSE_MIN) };
            died_at = Some(position);
            if deaths >= DEATHS_MAX {
                let reason = format!("{reason}; it died {deaths} times behind position {position}");
                return self.stop(PipelineState::Refused, reason);
            }
            log::error!("pipeline {name}: {reason}; rebuilding it from position {position}");
            self.stats.restarts.fetch_add(1, Ordering::Relaxed);
            self.show(PipelineState::Starting, reason);
            self.clock.sleep(pause.min(REBIRTH_PAUSE_MAX)).await;
        }
    }

    fn stop(&self, state: PipelineState, reason: String) {
        log::error!("pipeline {}: {reason}; it stays stopped until the daemon starts again", self.stats.name);
        self.show(state, reason);
    }

    fn show(&self, state: PipelineState, reason: String) {
        let mut view = self.stats.inner.lock();
        (view.state, view.error) = (state, Some(reason));
    }

    /// Takes the fence, reads the state, builds the actors.
    async fn begin(&self) -> Result<Generation, StoreError> {
        let (id, progress) = (self.journal.id(), self.journal.progress().borrow().clone());
        let (first, last) = (progress.first, progress.written);
        let admit = Box::new(move |checkpoint: &Checkpoint| check_journal(checkpoint, id, first, last));
        let mut snapshot = self.store.begin(self.definition.clone(), &self.stream, admit).await?;
        if snapshot.checkpoint.journal_id == 0 {
            // A new pipeline begins with what is there.
            snapshot.checkpoint.journal_id = id;
            snapshot.checkpoint.position = first - 1;
        }
        let position = snapshot.checkpoint.position;
        self.commits.committed(self.definition.pipeline(), position);
        {
            let mut view = self.stats.inner.lock();
            (view.account, view.position) = (snapshot.checkpoint.account, position);
            view.watermark = snapshot.checkpoint.watermark;
        }
        self.committed.send_replace(position);
        self.build(snapshot)
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
        Ok(Generation { ended, tasks, _alive: alive })
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

/// Whether the journal has what follows the checkpoint.
fn check_journal(checkpoint: &Checkpoint, id: u64, first: Position, last: Position) -> Result<(), String> {
    let found = format!("its checkpoint is at position {}", checkpoint.position);
    if checkpoint.journal_id == 0 {
        return Ok(());
    }
    if checkpoint.journal_id != id {
        return Err(format!("{found} of another journal than the one in data_dir; restore that one"));
    }
    if checkpoint.position > last || checkpoint.position + 1 < first {
        let missing = if checkpoint.position > last {
            (last + 1, checkpoint.position)
        } else {
            (checkpoint.position + 1, first - 1)
        };
        return Err(format!(
            "{found}, but positions {} to {} are not in the journal, which holds {first} to {last}",
            missing.0, missing.1
        ));
    }
    Ok(())
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
