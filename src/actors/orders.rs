//! What an operator tells one pipeline: pause, resume, skip. Its keeper (`Pipeline::run`) takes orders one at a time, so
//! that they never meet a generation that is being built.

use std::sync::atomic::Ordering;

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::feed::events_upto;
use super::pipeline::{Lost, Pipeline, Unbegun};
use super::stats::PipelineState;
use crate::event::{Account, Position, replay_name};
use crate::journal::{JournalError, Progress};
use crate::store::{AlertFlush, Change, Checkpoint, Chunk, Flush, Snapshot, StoreError};

/// Orders that wait for a pipeline at most: people type them.
const WAITING_ORDERS_MAX: usize = 16;

/// What is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Stop behind the last commit.
    Pause,
    /// Go on from the checkpoint.
    Resume,
    /// Move the checkpoint over events, while stopped.
    Skip(SkipTo),
    /// Delete all that is stored of it, while stopped.
    Drop,
}

/// Up to where events are skipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SkipTo {
    /// This position, inclusive.
    Position(Position),
    /// The last record of the journal.
    End,
}

/// How a pipeline stands after an order.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Standing {
    /// Its name.
    pub pipeline: String,
    /// What it does.
    pub state: PipelineState,
    /// The position of its checkpoint.
    pub position: Position,
    /// Why it does not run, where it does not.
    pub error: Option<String>,
    /// How many events were skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<u64>,
    /// Of the positions that were skipped: so many that the journal had lost before, of which nobody knows how many
    /// were events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncounted_positions: Option<u64>,
}

/// Why an order is not followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OrderError {
    /// The pipeline's state forbids it.
    #[error("{0}")]
    Conflict(String),
    /// The position is none of those that can be skipped to.
    #[error("{0}")]
    OutOfRange(String),
    /// The store or the pipeline does not answer now.
    #[error("{0}")]
    Away(String),
}

/// Told when the order is followed.
pub(super) type Reply = oneshot::Sender<Result<Standing, OrderError>>;

/// What a keeper is told.
pub(super) enum Order {
    /// By an operator.
    Do(Verb, Reply),
    /// To end, behind the last commit: a reload has no place for it. Whoever asks hears that this is gone.
    Leave { _until: oneshot::Sender<()> },
}

/// The operator's side.
#[derive(Clone)]
pub(super) struct Orders(mpsc::Sender<Order>);

impl Orders {
    /// Both sides.
    pub fn new() -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(WAITING_ORDERS_MAX);
        (Self(orders), receiver)
    }

    /// Gives an order and waits until it is followed.
    pub async fn give(&self, verb: Verb) -> Result<Standing, OrderError> {
        let (reply, answer) = oneshot::channel();
        let gone = || OrderError::Away("the daemon stops".to_owned());
        self.0
            .try_send(Order::Do(verb, reply))
            .map_err(|_| OrderError::Away(format!("{WAITING_ORDERS_MAX} orders wait already; try again")))?;
        answer.await.map_err(|_| gone())?
    }

    /// Ends the keeper, and waits until its last commit is over.
    pub async fn leave(&self) {
        let (until, left) = oneshot::channel();
        if self.0.send(Order::Leave { _until: until }).await.is_ok() {
            // Nothing is ever sent.
            let _ = left.await;
        }
    }
}

impl Pipeline {
    /// How it stands.
    pub(super) fn standing(&self) -> Standing {
        let view = self.stats.inner.lock();
        Standing {
            pipeline: self.stats.name.clone(),
            state: view.state,
            position: view.position,
            error: view.error.clone(),
            skipped: None,
            uncounted_positions: None,
        }
    }

    /// Why an order cannot be followed while it is not stopped.
    pub(super) fn is_not_stopped(&self) -> OrderError {
        let name = &self.stats.name;
        OrderError::Conflict(format!(
            "pipeline {name} is not stopped: only a paused or refused pipeline is skipped or dropped; \
             `tidemill pipeline pause {name}` first"
        ))
    }

    /// Whether it may be paused at all.
    pub(super) fn may_pause(&self) -> Result<(), OrderError> {
        if self.config.is_some() {
            return Ok(());
        }
        let name = &self.stats.name;
        Err(OrderError::Conflict(format!("{name} is the intake of its stream, which is not paused or skipped")))
    }

    /// Waits for the word to go on, stopped as it is; `None` where nobody can give it any more.
    pub(super) async fn stopped(&mut self) -> Option<Reply> {
        let mut progress = self.journal.progress();
        loop {
            let order = tokio::select! {
                order = self.orders.recv() => order?,
                true = grows(&mut progress), if self.max_behind().is_some() => {
                    if self.is_beyond(self.max_behind()) {
                        self.leave_behind();
                    }
                    continue;
                }
            };
            let Order::Do(verb, reply) = order else { return None };
            let state = self.stats.inner.lock().state;
            let answer = match verb {
                _ if state == PipelineState::Fenced => Err(self.is_fenced()),
                Verb::Resume => return Some(reply),
                Verb::Pause if state == PipelineState::Paused => Ok(self.standing()),
                Verb::Pause => Err(OrderError::Conflict(format!(
                    "pipeline {0} is stopped already ({1}): `tidemill pipeline resume {0}` starts it again",
                    self.stats.name,
                    state.name()
                ))),
                verb @ (Verb::Skip(_) | Verb::Drop) => match (self.may_pause(), verb) {
                    (Err(refused), _) => Err(refused),
                    (Ok(()), Verb::Skip(to)) => self.skip(to).await,
                    (Ok(()), _) => self.delete().await,
                },
            };
            // Whoever asked may have gone.
            let _ = reply.send(answer);
        }
    }

    /// Two daemons have one store. The other one has moved the checkpoint on, by a journal that need not hold the
    /// records of this one (a copied data_dir has the same identity): to go on here could count other records under
    /// the same positions. Only a start, with one of them stopped, is safe.
    fn is_fenced(&self) -> OrderError {
        OrderError::Conflict(format!(
            "another daemon writes pipeline {} into the same store: stop the one that is not wanted; if that is the \
             other one, start this one again",
            self.stats.name
        ))
    }

    /// Deletes all that is stored of it. It stays stopped, and the journal keeps nothing for it.
    async fn delete(&self) -> Result<Standing, OrderError> {
        let name = self.definition.pipeline();
        self.store.drop_pipeline(name).await.map_err(refusal)?;
        self.commits.unpin(name);
        {
            let mut view = self.stats.inner.lock();
            (view.account, view.position, view.watermark) = (Account::default(), 0, None);
            (view.state, view.unpinned) = (PipelineState::Paused, true);
            (view.oldest, view.oldest_behind_barrier) = (None, None);
            view.error = Some(format!(
                "dropped: take it out of the config, or `tidemill pipeline resume {name}` begins it anew"
            ));
        }
        log::warn!("pipeline {name}: dropped, with all its rows and letters");
        Ok(self.standing())
    }

    /// Moves the checkpoint over events, in a flush of its own that writes nothing else: the generation has ended, so
    /// that all state is in the store. The watermark stays.
    async fn skip(&self, to: SkipTo) -> Result<Standing, OrderError> {
        let begun = self.store.begin(self.definition.clone(), &self.stream, self.admit()).await;
        let snapshot = begun.map_err(refusal)?;
        let (snapshot, missing) = match self.check_journal(snapshot) {
            Ok(snapshot) => (snapshot, None),
            Err(Unbegun::Missing(snapshot, missing)) => (*snapshot, Some(missing)),
            Err(Unbegun::Store(error)) => return Err(refusal(error)),
        };
        let to = self.skip_to(to, snapshot.checkpoint.position)?;
        let (skipped, uncounted_positions) = self.count(snapshot.checkpoint, missing, to).await?;
        let mut checkpoint = snapshot.checkpoint;
        checkpoint.position = to;
        checkpoint.account.read += skipped;
        checkpoint.account.skipped += skipped;
        // Lines were among what is skipped, or may have been.
        checkpoint.silence_ms = 0;
        // Windows that reach back to here are not seen whole: by the next record it is decided which those are.
        (checkpoint.first_position, checkpoint.first_ingest_time) = (0, 0);
        let changes = self.skipped_replays(&snapshot, to)?;
        self.commit(&snapshot, changes, checkpoint).await?;
        let name = self.definition.pipeline();
        self.commits.pin(name, to);
        {
            let mut view = self.stats.inner.lock();
            (view.account, view.position) = (checkpoint.account, to);
            (view.state, view.unpinned) = (PipelineState::Paused, false);
            (view.oldest, view.oldest_behind_barrier) = (None, None);
            view.error =
                Some(format!("paused; skipped up to position {to}: `tidemill pipeline resume {name}` goes on"));
        }
        self.committed.send_replace(to);
        log::warn!("pipeline {name}: skipped {skipped} events up to position {to}");
        Ok(Standing { skipped: Some(skipped), uncounted_positions, ..self.standing() })
    }

    /// Letters under replay whose records are skipped are as before. Where only some of them are, nobody knows which.
    fn skipped_replays(&self, snapshot: &Snapshot, to: Position) -> Result<Vec<Change>, OrderError> {
        let name = &self.stats.name;
        if snapshot.under_replay == 0 {
            return Ok(Vec::new());
        }
        let upto = self.stats.replayed_upto.load(Ordering::Relaxed);
        if to < upto {
            return Err(OrderError::Conflict(format!(
                "{} letters of pipeline {name} are under replay, and their records may stand up to position {upto}: skip \
                 to there or beyond",
                snapshot.under_replay
            )));
        }
        Ok(vec![Change::FreeLetters { upto_number: self.journal.number(&replay_name(name)) }])
    }

    /// The position that is meant, if it can be skipped to from a checkpoint.
    fn skip_to(&self, to: SkipTo, from: Position) -> Result<Position, OrderError> {
        let Progress { first, written, .. } = *self.journal.progress().borrow();
        let least = (from + 1).max(first - 1);
        let name = &self.stats.name;
        if least > written {
            return Err(OrderError::OutOfRange(format!(
                "pipeline {name} has nothing to skip: its checkpoint is at position {from}, the journal's last record"
            )));
        }
        match to {
            SkipTo::End => Ok(written),
            SkipTo::Position(to) if (least..=written).contains(&to) => Ok(to),
            SkipTo::Position(to) => Err(OrderError::OutOfRange(format!(
                "pipeline {name} cannot skip to position {to}: its checkpoint is at {from} and the journal holds \
                 {first}..={written}, so that it can skip to {least}..={written}"
            ))),
        }
    }

    /// The events from a checkpoint up to a position, and how many positions cannot be counted.
    async fn count(
        &self,
        checkpoint: Checkpoint,
        missing: Option<Lost>,
        to: Position,
    ) -> Result<(u64, Option<u64>), OrderError> {
        let (journal, decoder) = (self.journal.clone(), self.decoder.clone());
        let from = missing.as_ref().map_or(checkpoint.position, |missing| missing.upto);
        let counted = tokio::task::spawn_blocking(move || {
            Ok::<_, JournalError>((events_upto(&journal, &decoder, from)?, events_upto(&journal, &decoder, to)?))
        });
        let (before, upto) = match counted.await {
            Ok(Ok(counted)) => counted,
            Ok(Err(error)) => return Err(OrderError::Away(error.to_string())),
            Err(error) => return Err(OrderError::Away(error.to_string())),
        };
        Ok(match missing {
            None => (upto - before, None),
            // It has read all events from the first on, so that its own count is the journal's at its checkpoint.
            Some(_) if checkpoint.first_position == 1 => (upto.saturating_sub(checkpoint.account.read), None),
            Some(missing) => (upto - before, Some(missing.upto - checkpoint.position)),
        })
    }

    /// A flush of the checkpoint and little more, once the journal is fsynced that far.
    async fn commit(
        &self,
        snapshot: &Snapshot,
        changes: Vec<Change>,
        checkpoint: Checkpoint,
    ) -> Result<(), OrderError> {
        let mut progress = self.journal.progress();
        let settled = |progress: &Progress| progress.synced >= checkpoint.position || progress.failed.is_some();
        let failed = progress.wait_for(settled).await.map_or(true, |progress| progress.failed.is_some());
        if failed {
            return Err(OrderError::Away("the journal has failed".to_owned()));
        }
        let (chunks, received) = crossbeam_channel::bounded(2);
        // There is room for both, and the receiver is in the line below.
        let _ = chunks.try_send(Chunk::Changes(changes, Box::new(())));
        let _ = chunks.try_send(Chunk::Finish(checkpoint));
        let (reply, answer) = oneshot::channel();
        self.store.flush(Flush {
            definition: self.definition.clone(),
            stream: self.stream.clone(),
            fence: snapshot.fence,
            revision: snapshot.revision,
            revise: snapshot.revise,
            letters: self.letters,
            live: None,
            // It moves no watermark.
            alerts: AlertFlush::default(),
            chunks: received,
            reply,
        });
        answer.await.unwrap_or(Err(StoreError::GivenUp)).map(drop).map_err(refusal)
    }
}

/// Whether a journal has changed; false where it never will again.
pub(super) async fn grows(progress: &mut tokio::sync::watch::Receiver<Progress>) -> bool {
    progress.changed().await.is_ok()
}

pub(super) fn refusal(error: StoreError) -> OrderError {
    match error {
        StoreError::Away(_) | StoreError::GivenUp | StoreError::Unknown(_) => {
            OrderError::Away(format!("{error}; nothing is changed, unless stats show it: look, and try again"))
        }
        error => OrderError::Conflict(error.to_string()),
    }
}
