//! Stage, one a pipeline generation. Owns the pipeline's stages, its watermark and the numbers of its epochs. Takes
//! records and the word that a flush is due; sends rows to the windows, letters to DeadLetter, barriers to all of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, ActorFuture, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};
use tokio::sync::watch;

use super::guard::{Ended, Guard, Keeper};
use super::mailbox::{Closed, Credit, Inlet, Outlet, Parcel};
use super::messages::{Barrier, FlushDue, FlushReason, Letters, Outcome, Records, WindowRows};
use super::stats::{ActorStats, PipelineStats};
use crate::clock::Clock;
use crate::event::{Account, Batch, Position, PositionError};
use crate::moments::is_sabotaged;
use crate::pipeline::{IntakeOperator, StageOperator, Staged, answers};
use crate::store::Checkpoint;
use crate::window::FirstRecord;

/// Bytes of letters and of rows waiting for a commit beyond which no more input is taken until there was one.
const OPEN_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a stage does with records.
pub enum Operator {
    /// A pipeline's stages.
    Pipeline(Box<StageOperator>),
    /// A stream's intake.
    Intake(IntakeOperator),
}

impl Operator {
    fn apply(&mut self, batch: &Arc<Batch>) -> Result<Staged, PositionError> {
        match self {
            Self::Pipeline(operator) => operator.apply(batch),
            Self::Intake(operator) => operator.apply(batch),
        }
    }

    fn account(&self) -> Account {
        match self {
            Self::Pipeline(operator) => operator.account(),
            Self::Intake(operator) => operator.account(),
        }
    }
}

/// What a stage does before it takes its next message.
type Later = Pin<Box<dyn ActorFuture<Stage, Output = ()>>>;

/// See the module's documentation.
pub struct Stage {
    operator: Operator,
    /// What the generation began with, brought up to the last record.
    checkpoint: Checkpoint,
    max_ahead_ms: i64,
    clock: Clock,
    /// Away while a handler sends.
    output: Option<Output>,
    stats: Arc<ActorStats>,
    pipeline: Arc<PipelineStats>,
    keeper: Keeper,
    _guard: Guard,
    _inlets: Vec<Inlet>,
}

/// The sending side.
pub struct Output {
    /// Each window's rows and barriers, which share one queue.
    pub windows: Vec<(Outlet<WindowRows>, Outlet<Barrier>)>,
    pub letters: Outlet<Letters>,
    pub dead_letter: Outlet<Barrier>,
    pub outcome: watch::Receiver<Outcome>,
    /// Ends with the generation: a stage must not wait for a flush that a dead window will never answer, nor take what
    /// waits in its mailbox then.
    pub alive: watch::Receiver<()>,
    /// Set when the daemon stops: the pause after a failed flush ends.
    pub drain: watch::Receiver<Option<Position>>,
    pub pipeline: Arc<PipelineStats>,
    /// Bytes that wait for a commit.
    pub open_bytes: Arc<AtomicU64>,
    pub clock: Clock,
    pub stats: Arc<ActorStats>,
    /// The number of the next barrier; all that is sent before it belongs to it.
    pub epoch: u64,
    /// No barrier before this, after a failed flush.
    pub not_before: Duration,
}

impl Stage {
    pub fn new(
        operator: Operator,
        checkpoint: Checkpoint,
        max_ahead_ms: i64,
        output: Output,
        pipeline: Arc<PipelineStats>,
        keeper: Keeper,
        inlets: Vec<Inlet>,
    ) -> Self {
        let (clock, stats) = (output.clock.clone(), output.stats.clone());
        let guard = keeper.guard("stage");
        let output = Some(output);
        Self {
            operator,
            checkpoint,
            max_ahead_ms,
            clock,
            output,
            stats,
            pipeline,
            keeper,
            _guard: guard,
            _inlets: inlets,
        }
    }

    /// Takes a batch; what there is to send of it.
    fn take(&mut self, batch: &Arc<Batch>) -> Result<Staged, PositionError> {
        let began = self.clock.elapsed();
        self.pipeline.taken(batch.ingest_time);
        let staged = self.operator.apply(batch)?;
        let checkpoint = &mut self.checkpoint;
        checkpoint.position = batch.range.upto;
        if let Operator::Pipeline(operator) = &self.operator {
            checkpoint.watermark = operator.watermark().checkpoint();
            checkpoint.silence_ms = operator.watermark().silence_ms();
        }
        if checkpoint.first_position == 0 {
            checkpoint.first_position = batch.range.after + 1;
            checkpoint.first_ingest_time = batch.ingest_time;
        }
        self.stats.failed(staged.letters.len() as u64);
        self.stats.handled(batch.decoded.len() as u64, self.clock.elapsed().saturating_sub(began));
        Ok(staged)
    }

    /// Whether its generation has.
    fn has_ended(&self) -> bool {
        self.output.as_ref().is_some_and(|output| output.alive.has_changed().is_err())
    }

    /// Shows what was seen of the events.
    fn show_observed(&self) {
        let Operator::Pipeline(operator) = &self.operator else { return };
        let (observed, read) = (operator.observed(), operator.account().read);
        let mut view = self.pipeline.inner.lock();
        view.disorder = observed.disorder();
        view.fields_never_seen = if read > 0 { observed.never_seen() } else { Vec::new() };
    }

    /// The checkpoint as of now; its account holds the stage's part.
    fn as_of_now(&self) -> Checkpoint {
        Checkpoint { account: self.operator.account(), ..self.checkpoint }
    }

    fn first(&self) -> FirstRecord {
        FirstRecord {
            position: self.checkpoint.first_position,
            ingest_time: self.checkpoint.first_ingest_time,
            max_ahead_ms: self.max_ahead_ms,
        }
    }
}

impl Output {
    async fn send(&mut self, staged: Staged, first: FirstRecord) -> Result<(), Closed> {
        self.stats.blocked(true);
        let epoch = self.epoch;
        let (letters, counted, raw) = (staged.letters, staged.counted, staged.raw);
        let letters = Letters { letters, counted, raw, epoch };
        if is_sabotaged("barrier-before-letters") {
            self.dawdle(letters);
        } else if !letters.is_empty() {
            self.letters.send(letters).await?;
        }
        for ((window, _), rows) in self.windows.iter().zip(staged.rows) {
            window.send(WindowRows { rows, epoch, first }).await?;
        }
        self.stats.blocked(false);
        Ok(())
    }

    /// The fault `barrier-before-letters`: the letters come when the barrier of their epoch has passed.
    fn dawdle(&self, letters: Letters) {
        let (to, clock) = (self.letters.clone(), self.clock.clone());
        actix::spawn(async move {
            clock.sleep(Duration::from_millis(200)).await;
            // Where DeadLetter has ended, the generation has.
            let _ = to.send(letters).await;
        });
    }

    async fn barrier(&mut self, reason: FlushReason, checkpoint: Checkpoint) -> Result<(), Closed> {
        let committed = self.outcome.borrow().committed;
        let barrier = Barrier { epoch: self.epoch, committed, reason, checkpoint };
        self.epoch += 1;
        self.pipeline.barrier();
        fail::fail_point!("barrier-before");
        for (_, window) in &self.windows {
            window.send(barrier.clone()).await?;
        }
        self.dead_letter.send(barrier).await?;
        fail::fail_point!("barrier-after");
        Ok(())
    }

    /// Whether the last barrier's flush has not ended yet. Notes the pause that a failed one wants.
    fn in_flight(&mut self) -> bool {
        if self.outcome.has_changed().unwrap_or(false)
            && let Some(pause) = self.outcome.borrow_and_update().pause
        {
            self.not_before = self.clock.elapsed() + pause;
        }
        self.outcome.borrow().epoch + 1 < self.epoch
    }

    /// Flushes until it is committed, whatever the store says meanwhile.
    async fn flush(&mut self, reason: FlushReason, checkpoint: Checkpoint) -> Result<(), Closed> {
        self.stats.blocked(true);
        while self.outcome.borrow().position < checkpoint.position {
            if self.in_flight() {
                tokio::select! {
                    changed = self.outcome.changed() => changed.map_err(|_| Closed)?,
                    _ = self.alive.changed() => return Err(Closed),
                }
                continue;
            }
            let pause = self.not_before.saturating_sub(self.clock.elapsed());
            if !pause.is_zero() {
                tokio::select! {
                    () = self.clock.sleep(pause) => {}
                    _ = self.alive.changed() => return Err(Closed),
                    // Once: a daemon that stops tries again at once, and then in the same pauses.
                    Ok(()) = self.drain.changed() => {}
                }
            }
            self.barrier(reason, checkpoint).await?;
        }
        self.stats.blocked(false);
        Ok(())
    }
}

impl Actor for Stage {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<Records>> for Stage {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Records>, _: &mut Context<Self>) -> Self::Result {
        let Parcel { message: Records(batch), credit } = parcel;
        let taken = self.answered(batch.clone()).then(move |(), stage, _| stage.forward(&batch, credit));
        AtomicResponse::new(Box::pin(taken))
    }
}

impl Stage {
    /// Waits until all calls of a batch to stages that wait for something have their answers.
    fn answered(&mut self, batch: Arc<Batch>) -> Later {
        let calls = match &mut self.operator {
            Operator::Pipeline(operator) if self.output.is_some() => operator.calls(&batch),
            _ => Vec::new(),
        };
        let Some(output) = self.output.as_ref().filter(|_| !calls.is_empty()) else {
            return Box::pin(actix::fut::ready(()));
        };
        let (clock, mut alive) = (self.clock.clone(), output.alive.clone());
        let answers = async move {
            tokio::select! {
                answers = answers(calls, clock) => Some(answers),
                // The generation has ended.
                _ = alive.changed() => None,
            }
        };
        Box::pin(answers.into_actor(self).then(move |answers, stage, _| match (answers, &mut stage.operator) {
            (Some(answers), Operator::Pipeline(operator)) => {
                operator.learn(answers);
                stage.answered(batch)
            }
            _ => Box::pin(actix::fut::ready(())),
        }))
    }

    /// Takes a batch, and sends on what it has become.
    fn forward(&mut self, batch: &Arc<Batch>, credit: Credit) -> Later {
        if self.has_ended() {
            self.output = None;
        }
        if self.output.is_none() {
            return Box::pin(actix::fut::ready(()));
        }
        let staged = self.take(batch);
        let (first, checkpoint) = (self.first(), self.as_of_now());
        let (output, keeper) = (self.output.take(), self.keeper.clone());
        let send = async move {
            let mut output = output?;
            let staged = match staged {
                Ok(staged) => staged,
                Err(error) => {
                    keeper.end(Ended::Broken(error.to_string()));
                    return None;
                }
            };
            // Where a window or DeadLetter has ended, the generation has.
            output.send(staged, first).await.ok()?;
            if output.open_bytes.load(Ordering::Relaxed) > OPEN_BYTES_MAX {
                output.flush(FlushReason::Size, checkpoint).await.ok()?;
            }
            drop(credit);
            Some(output)
        };
        Box::pin(send.into_actor(self).map(|output, stage, _| stage.output = output))
    }
}

impl Handler<Parcel<FlushDue>> for Stage {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<FlushDue>, _: &mut Context<Self>) -> Self::Result {
        let FlushDue(reason) = parcel.message;
        self.show_observed();
        let checkpoint = self.as_of_now();
        let output = self.output.take();
        let flush = async move {
            let mut output = output?;
            if output.alive.has_changed().is_err() {
                return None;
            }
            if reason == FlushReason::Drain {
                output.flush(reason, checkpoint).await.ok()?;
            } else if !output.in_flight()
                && output.not_before <= output.clock.elapsed()
                && output.outcome.borrow().position < checkpoint.position
            {
                output.barrier(reason, checkpoint).await.ok()?;
            }
            Some(output)
        };
        AtomicResponse::new(Box::pin(flush.into_actor(self).map(|output, stage, _| stage.output = output)))
    }
}
