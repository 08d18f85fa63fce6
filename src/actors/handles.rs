//! What the edges hold of a stream and of a pipeline.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::mailbox::{Closed, Outlet};
use super::messages::{Body, Claim, Lines, Sync, Tick};
use super::orders::{Order, OrderError, Orders, Standing, Verb};
use super::recent::Recent;
use super::replay::{Replays, Wanted};
use super::stats::{PipelineState, PipelineStats, StreamStats};
use crate::clock::Clock;
use crate::config::StreamConfig;
use crate::event::{Decoder, Position};
use crate::pipeline::Taps;
use crate::store::{Definition, Merge, Query, ResultRows, Store, StoreError};
use crate::window::WindowSpec;

/// What an input needs of a stream.
#[derive(Clone)]
pub struct StreamHandle {
    /// Its config.
    pub config: Arc<StreamConfig>,
    /// Where lines go.
    pub lines: Outlet<Lines>,
    /// Where HTTP bodies go.
    pub bodies: Outlet<Body>,
    /// Where questions about their end go.
    pub sync: Outlet<Sync>,
    /// Where producers name themselves.
    pub claim: Outlet<Claim>,
    /// Its counters.
    pub stats: Arc<StreamStats>,
    /// The arbiter of its connections.
    pub arbiter: actix::ArbiterHandle,
    /// What paces.
    pub clock: Clock,
    pub(super) tick: Outlet<Tick>,
    /// A reload may ask for more fields.
    pub(super) decoders: watch::Receiver<Decoder>,
    pub(super) head: watch::Receiver<Position>,
}

impl StreamHandle {
    /// Decodes its lines, with the fields that its pipelines name now.
    pub fn decoder(&self) -> Decoder {
        self.decoders.borrow().clone()
    }

    /// Tells Ingest of silence, in a system that does not do it by itself.
    ///
    /// # Errors
    /// Where Ingest has ended.
    pub async fn silence(&self, silence_ms: u32) -> Result<(), Closed> {
        self.tick.send(Tick { silence_ms }).await
    }
}

/// The pipelines of a running system, in the order of the config, which a reload changes.
#[derive(Clone, Default)]
pub struct Pipelines(Arc<RwLock<Vec<PipelineHandle>>>);

impl Pipelines {
    /// All of them, as they are now.
    pub fn all(&self) -> Vec<PipelineHandle> {
        self.0.read().clone()
    }

    /// The one of this name.
    pub fn find(&self, name: &str) -> Option<PipelineHandle> {
        self.0.read().iter().find(|pipeline| pipeline.name() == name).cloned()
    }

    pub(super) fn replace(&self, pipelines: Vec<PipelineHandle>) {
        *self.0.write() = pipelines;
    }
}

/// What a reader needs of a pipeline.
#[derive(Clone)]
pub struct PipelineHandle {
    name: Arc<str>,
    store: Store,
    committed: watch::Receiver<Position>,
    stats: Arc<PipelineStats>,
    head: watch::Receiver<Position>,
    orders: Orders,
    replays: Replays,
    definition: watch::Receiver<Arc<dyn Definition>>,
}

impl PipelineHandle {
    /// A pipeline's handle, and where its keeper hears orders.
    pub(super) fn new(
        store: &Store,
        committed: watch::Receiver<Position>,
        stats: &Arc<PipelineStats>,
        recent: &Recent,
        replays: &Replays,
        definition: watch::Receiver<Arc<dyn Definition>>,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = Orders::new();
        let (name, store, head, replays) = (stats.name.as_str().into(), store.clone(), recent.head(), replays.clone());
        (Self { name, store, committed, stats: stats.clone(), head, orders, replays, definition }, taken)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Rows of its view.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn rows(&self, query: Query) -> Result<ResultRows, StoreError> {
        self.store.rows(&self.name, query).await
    }

    /// Rows of longer spans than its windows; of these as `interval` says.
    ///
    /// # Errors
    /// As the store answers; `TooMuch` where there are too many.
    pub async fn merged(&self, merge: impl FnOnce(Arc<dyn Definition>) -> Merge) -> Result<ResultRows, StoreError> {
        let definition = self.definition.borrow().clone();
        self.store.merged(merge(definition)).await
    }

    /// Its windows; `None` for an intake.
    pub fn window(&self) -> Option<WindowSpec> {
        self.definition.borrow().window()
    }

    /// The position of its last commit, as it changes.
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.committed.clone()
    }

    /// Pauses it, lets it go on, or skips events.
    ///
    /// # Errors
    /// Where its state forbids it, the position is none to skip to, or the store does not answer.
    pub async fn order(&self, verb: Verb) -> Result<Standing, OrderError> {
        self.orders.give(verb).await
    }

    /// Puts letters of it under replay; how many.
    ///
    /// # Errors
    /// Where it does not run, a replay is under way, or the store does not answer.
    pub async fn replay(&self, wanted: Wanted) -> Result<u64, OrderError> {
        self.replays.start(wanted).await
    }

    /// Why it has stopped, if it has.
    pub fn stopped(&self) -> Option<String> {
        let view = self.stats.inner.lock();
        view.state.is_stopped().then(|| view.error.clone().unwrap_or_default())
    }

    /// What it is doing.
    pub fn state(&self) -> PipelineState {
        self.stats.inner.lock().state
    }

    /// Who watches its events (of an intake: those of its stream).
    pub fn taps(&self) -> &Arc<Taps> {
        &self.stats.taps
    }

    /// Its stream.
    pub fn stream(&self) -> &str {
        &self.stats.stream
    }

    /// Ends its keeper, when its last commit is over. What is stored of it stays.
    pub(super) async fn leave(&self) {
        self.orders.leave().await;
    }

    /// Whether it has committed all that its stream has given out; a pipeline that has stopped never will.
    pub(super) async fn drained(mut self) -> bool {
        let head = *self.head.borrow();
        loop {
            if *self.committed.borrow_and_update() >= head {
                return true;
            }
            if self.stats.inner.lock().state.is_stopped() {
                return false;
            }
            if self.committed.changed().await.is_err() {
                return false;
            }
        }
    }
}
