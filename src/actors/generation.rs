//! One generation of a pipeline: built from the last actor to the first, so that each is handed the mailboxes it sends
//! to.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix::Actor;
use tokio::sync::{mpsc, watch};

use super::dead_letter::DeadLetter;
use super::feed::Feed;
use super::flush::{Flush, FlushContext};
use super::guard::{Ended, Keeper};
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Barrier, Changes, FlushDue, FlushReason, Letters, Outcome, Records, WindowBarrier, WindowRows};
use super::pipeline::Pipeline;
use super::stage::{Operator, Output, Stage};
use super::stats::ActorStats;
use super::window::{Window, WindowOutput};
use crate::clock::Clock;
use crate::config::PipelineConfig;
use crate::pipeline::{IntakeOperator, StageOperator};
use crate::store::{AlertFlush, Change, Snapshot, StoreError};
use crate::window::{FirstRecord, OTHER_ROW, Open, Operator as WindowOperator, OperatorConfig, Others, Watermark};

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
/// A living generation. Dropping it ends its feed and timer; its actors end when nothing more can reach them.
pub(super) struct Generation {
    pub ended: mpsc::UnboundedReceiver<Ended>,
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
    pub async fn ended(mut self) {
        self.end();
        while self.ended.recv().await.is_some() {}
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.end();
    }
}

impl Pipeline {
    pub(super) fn build(&self, snapshot: Snapshot) -> Result<Generation, StoreError> {
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
            decoder: self.decoder.clone(),
            to: records,
            flush: due.clone(),
            stats: self.stats.clone(),
            drain: self.drain.clone(),
        };
        let timer = timer(self.clock.clone(), self.flush_every, due);
        fail::fail_point!("generation-built");
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
            revision: snapshot.revision,
            revise: snapshot.revise,
            letters: self.letters,
            live: self.live.clone(),
            alerts: AlertFlush { watermark: None, first: true, news: self.alerts.clone() },
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
        let (checkpoint, bounds) = (&snapshot.checkpoint, config.bounds());
        let refused = |error: crate::window::StateError| StoreError::Refused(error.to_string());
        let mut operator = WindowOperator::new(OperatorConfig {
            window: config.window,
            late: config.late,
            correct_for_ms: config.correct_for_ms,
            kept: snapshot.kept,
            aggregates: config.aggregates.iter().map(|aggregate| aggregate.kind).collect(),
            bounds,
            first: FirstRecord {
                position: checkpoint.first_position,
                ingest_time: checkpoint.first_ingest_time,
                max_ahead_ms: config.watermark.max_ahead_ms,
            },
        });
        operator.restore_position(checkpoint.position, checkpoint.watermark.unwrap_or(i64::MIN));
        for change in &snapshot.open {
            let open = match change {
                Change::Row { window_start, window_end, group, state, .. } if **group == OTHER_ROW => {
                    let (window_start, window_end) = (*window_start, *window_end);
                    for (key, state) in Others::decode(state).map_err(refused)?.iter() {
                        if bounds.window_of_key(&key.bytes(), self.windows) == index {
                            let group = Arc::from(key.bytes());
                            operator.restore(Open::Row { window_start, window_end, group, state }).map_err(refused)?;
                        }
                    }
                    continue;
                }
                Change::Row { window_start, window_end, group, state, .. } => {
                    Open::Row { window_start: *window_start, window_end: *window_end, group: group.clone(), state }
                }
                Change::Pane { pane_start, group, state } => {
                    Open::Pane { pane_start: *pane_start, group: group.clone(), state }
                }
                Change::Gone { .. }
                | Change::Correction { .. }
                | Change::PanesBefore(_)
                | Change::Letter(_)
                | Change::Counted(_)
                | Change::FreeLetters { .. }
                | Change::Raw(_) => continue,
            };
            let (Open::Row { group, .. } | Open::Pane { group, .. }) = &open;
            if bounds.window_of_key(group, self.windows) == index {
                operator.restore(open).map_err(refused)?;
            }
        }
        Ok(operator)
    }

    fn operator(&self, snapshot: &Snapshot) -> Result<Operator, StoreError> {
        let checkpoint = &snapshot.checkpoint;
        let Some(config) = &self.config else {
            let operator = IntakeOperator::new(checkpoint.position, self.raw_events.as_ref(), self.decoder.fields());
            return Ok(Operator::Intake(operator.watched(self.stats.taps.clone())));
        };
        let watermark = Watermark::restore(config.watermark, checkpoint.watermark, checkpoint.silence_ms);
        let operator = StageOperator::new(
            (config.clone(), snapshot.revision),
            self.decoder.fields(),
            &self.registry,
            self.windows,
            checkpoint.position,
            watermark,
            self.clock.clone(),
        );
        let missing = |name| StoreError::Refused(format!("no custom stage {name:?} is registered"));
        let watched = |operator: StageOperator| operator.watched(self.stats.taps.clone());
        operator.map(|operator| Operator::Pipeline(Box::new(watched(operator)))).map_err(missing)
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
