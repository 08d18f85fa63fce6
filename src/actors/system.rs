//! The topology: streams and the pipelines that read them.
//!
//! ```text
//! input ──Lines──▶ Ingest ──▶ journal
//!                    └──▶ recent batches ──▶ feed ──Records──▶ Stage ──WindowRows──▶ Window ──Changes──▶ Flush ──▶ store
//!                                                               └──Letters──▶ DeadLetter ◀──┘  ──Changes──┘
//!                                                                Barrier: behind the last batch, through all of them
//! ```
//!
//! Events go down the stairs once; only facts come up, of which the latest counts: what is durable, what is committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Arbiter};
use tokio::sync::{mpsc, oneshot, watch};

use super::flush::Commits;
use super::generation::mailbox_bytes;
use super::ingest::Ingest;
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Body, Claim, Lines, Sync, Tick};
use super::orders::{Order, OrderError, Orders, Standing, Verb};
use super::pipeline::Pipeline;
use super::recent::Recent;
use super::stats::{PipelineStats, StatsRegistry, StreamStats};
use crate::clock::Clock;
use crate::config::{Config, Durability, PipelineConfig, SlotSource, StageConfig, StreamConfig};
use crate::event::{Decoder, Fields, Position};
use crate::journal::{Journal, JournalError, JournalOptions, SyncFile, lock_dir};
use crate::limits::HTTP_BODY_BYTES_MAX;
use crate::pipeline::{IntakeResults, Results, StageRegistry};
use crate::store::{Definition, Query, ResultRows, Store, StoreError};

/// Bytes of lines in front of Ingest.
const INGEST_MAILBOX: usize = 8 * 1024 * 1024;
/// Bytes of HTTP bodies in front of Ingest: two of the greatest.
const BODY_MAILBOX: usize = 2 * (HTTP_BODY_BYTES_MAX + super::recent::KEPT_BYTES);
const CONTROL_MAILBOX: usize = 1024 * 1024;
/// How often silence is looked for, and shares and rates are computed.
const TICK: Duration = Duration::from_secs(1);

/// What a system is made of.
pub struct SystemOptions {
    /// The checked config.
    pub config: Config,
    /// Custom stages.
    pub registry: StageRegistry,
    /// Window actors a pipeline.
    pub windows: usize,
    /// What stamps and paces.
    pub clock: Clock,
    /// Makes written bytes of journals durable.
    pub sync: SyncFile,
}

/// A system that cannot start.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// A file that cannot be used.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The store says no.
    #[error("{url}: {source}")]
    Store {
        /// Which store, without its password.
        url: String,
        /// What it said.
        source: StoreError,
    },
    /// Pipelines that cannot go on as they are defined.
    #[error("{}", .0.join("\n"))]
    Refused(Vec<String>),
}

/// The running actor system. Its actors live on arbiters: threads of an actix `System`.
pub struct System {
    streams: Vec<StreamHandle>,
    pipelines: Vec<PipelineHandle>,
    intakes: Vec<PipelineHandle>,
    store: Store,
    stats: Arc<StatsRegistry>,
    clock: Clock,
    drain: watch::Sender<Option<Position>>,
    arbiters: Vec<Arbiter>,
    /// Locked as long as it lives.
    _lock: std::fs::File,
}

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
    /// Decodes its lines.
    pub decoder: Decoder,
    /// Its counters.
    pub stats: Arc<StreamStats>,
    /// The arbiter of its connections.
    pub arbiter: actix::ArbiterHandle,
    /// What paces.
    pub clock: Clock,
    head: watch::Receiver<Position>,
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
}

impl PipelineHandle {
    /// A pipeline's handle, and where its keeper hears orders.
    fn new(
        store: &Store,
        committed: watch::Receiver<Position>,
        stats: &Arc<PipelineStats>,
        recent: &Recent,
    ) -> (Self, mpsc::Receiver<Order>) {
        let (orders, taken) = Orders::new();
        let (name, store, head) = (stats.name.as_str().into(), store.clone(), recent.head());
        (Self { name, store, committed, stats: stats.clone(), head, orders }, taken)
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

    /// Whether it has committed all that its stream has given out; a pipeline that has stopped never will.
    async fn drained(mut self) -> bool {
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

impl System {
    /// Opens journals and store and starts all actors. To be called on a thread of an actix `System`.
    ///
    /// # Errors
    /// Where files, store or definitions say no.
    pub async fn start(options: SystemOptions) -> Result<Self, SystemError> {
        let SystemOptions { config, registry, windows, clock, sync } = options;
        let lock = lock_dir(&config.data_dir)?;
        let failed = |source| SystemError::Store { url: config.store.url.to_string(), source };
        let store = Store::open(&config.store.url, config.store.migrate).map_err(failed)?;
        let stats = StatsRegistry::new(clock.clone());
        let (drain, _) = watch::channel(None);
        let edge = Arbiter::new();
        let shared = Arbiter::new();
        let mut system = Self {
            streams: Vec::new(),
            pipelines: Vec::new(),
            intakes: Vec::new(),
            store: store.clone(),
            stats,
            clock,
            drain,
            arbiters: vec![edge, shared],
            _lock: lock,
        };
        let registry = Arc::new(registry);
        let mut began = Vec::new();
        for stream in &config.streams {
            began.extend(system.stream(&config, stream, &registry, windows, &store, &sync)?);
        }
        let mut refused = Vec::new();
        for began in began {
            if let Ok(Err(reason)) = began.await {
                refused.push(reason);
            }
        }
        if !refused.is_empty() {
            return Err(SystemError::Refused(refused));
        }
        actix::spawn(sample(system.stats.clone(), system.clock.clone()));
        Ok(system)
    }

    /// One stream: journal, Ingest, ticker, and all pipelines that read it.
    fn stream(
        &mut self,
        config: &Config,
        stream: &StreamConfig,
        registry: &Arc<StageRegistry>,
        windows: usize,
        store: &Store,
        sync: &SyncFile,
    ) -> Result<Vec<oneshot::Receiver<Result<(), String>>>, SystemError> {
        let journal = Arc::new(Journal::open(journal_options(config, stream, sync), self.clock.clone())?);
        let recent = Arc::new(Recent::new(journal.progress().borrow().written));
        let configs: Vec<_> = config.pipelines.iter().filter(|pipeline| pipeline.stream == stream.name).collect();
        let raw_time = stream.raw_events.as_ref().and_then(|raw| raw.time.as_ref());
        let raw_time = raw_time.map(|(field, _)| field.clone());
        let fields = configs.iter().flat_map(|pipeline| fields_of(pipeline)).chain(raw_time);
        let fields = Arc::new(Fields::new(fields));
        let handle = self.ingest(stream, &journal, &recent, &fields);

        let intake: Arc<dyn Definition> =
            Arc::new(IntakeResults::new(&stream.name, stream.raw_events.as_ref().map(|raw| raw.retain_ms)));
        let mut definitions = vec![(intake, None)];
        for pipeline in configs {
            definitions.push((Arc::new(Results::new(pipeline.clone())), Some(Arc::new(pipeline.clone()))));
        }
        let names = definitions.iter().map(|(definition, _)| definition.pipeline().to_owned());
        let commits = Commits::new(journal.clone(), names);
        let mut all = Vec::new();
        for (definition, pipeline) in definitions {
            let (committed, commits_seen) = watch::channel(0);
            let (began, begins) = oneshot::channel();
            let stats = self.stats.pipeline(definition.pipeline().to_owned(), stream.name.clone());
            let handles = if pipeline.is_some() { &mut self.pipelines } else { &mut self.intakes };
            let (handle, orders) = PipelineHandle::new(store, commits_seen, &stats, &recent);
            handles.push(handle);
            let stage_arbiter = self.stage_arbiter(pipeline.as_deref());
            let pipeline = Pipeline {
                definition,
                config: pipeline,
                stream: stream.name.clone(),
                raw_events: stream.raw_events.clone(),
                windows,
                flush_every: Duration::from_millis(config.store.flush_every_ms as u64),
                fields: fields.clone(),
                registry: registry.clone(),
                journal: journal.clone(),
                recent: recent.clone(),
                store: store.clone(),
                commits: commits.clone(),
                stats,
                actors: self.stats.clone(),
                clock: self.clock.clone(),
                drain: self.drain.subscribe(),
                stage_arbiter,
                arbiter: self.arbiters[1].handle(),
                committed,
                orders,
                began: Some(began),
            };
            actix::spawn(pipeline.run());
            all.push(begins);
        }
        self.streams.push(handle);
        Ok(all)
    }

    /// A pipeline with a custom stage has a thread of its own: nobody knows how long that stage takes.
    fn stage_arbiter(&mut self, pipeline: Option<&PipelineConfig>) -> actix::ArbiterHandle {
        let custom = |stage: &StageConfig| matches!(stage, StageConfig::Custom(_));
        if pipeline.is_some_and(|pipeline| pipeline.stages.iter().any(custom)) {
            self.arbiters.push(Arbiter::new());
            self.arbiters[self.arbiters.len() - 1].handle()
        } else {
            self.arbiters[1].handle()
        }
    }

    fn ingest(
        &self,
        config: &StreamConfig,
        journal: &Arc<Journal>,
        recent: &Arc<Recent>,
        fields: &Arc<Fields>,
    ) -> StreamHandle {
        let gauges = [INGEST_MAILBOX, BODY_MAILBOX, CONTROL_MAILBOX, CONTROL_MAILBOX, CONTROL_MAILBOX].map(Gauge::new);
        let stream = self.stats.stream(config.name.clone(), journal, recent.head(), config.journal_limit_bytes);
        let actor = self.stats.actor("ingest", config.name.clone(), gauges.to_vec());
        let inlets = gauges.iter().map(Inlet::of).collect();
        let arbiter = self.arbiters[0].handle();
        let ingest = Ingest::new(journal.clone(), recent.clone(), self.clock.clone(), stream.clone(), actor, inlets);
        let ingest = Ingest::start_in_arbiter(&arbiter, move |_| ingest);
        let [lines, bodies, sync, claim, tick] = &gauges;
        let tick: Outlet<Tick> = Outlet::new(&ingest, tick, &self.clock);
        actix::spawn(ticks(self.clock.clone(), stream.clone(), self.stats.clone(), tick));
        StreamHandle {
            config: Arc::new(config.clone()),
            lines: Outlet::new(&ingest, lines, &self.clock),
            bodies: Outlet::new(&ingest, bodies, &self.clock),
            sync: Outlet::new(&ingest, sync, &self.clock),
            claim: Outlet::new(&ingest, claim, &self.clock),
            decoder: Decoder::new(fields.clone()),
            stats: stream,
            arbiter,
            clock: self.clock.clone(),
            head: recent.head(),
        }
    }

    /// Its streams, in the order of the config.
    pub fn streams(&self) -> &[StreamHandle] {
        &self.streams
    }

    /// Its pipelines, in the order of the config.
    pub fn pipelines(&self) -> &[PipelineHandle] {
        &self.pipelines
    }

    /// The intakes of its streams, under the names `@<stream>`: they take orders as pipelines do.
    pub fn intakes(&self) -> &[PipelineHandle] {
        &self.intakes
    }

    /// Where its results and letters are.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// What can be seen of it.
    pub fn stats(&self) -> Arc<StatsRegistry> {
        self.stats.clone()
    }

    /// When inputs have stopped: lets all pipelines commit what was taken, and waits for it, at most so long. Whether
    /// all did; what did not is in the journal.
    pub async fn drain(&self, at_most: Duration) -> bool {
        let head = self.streams.iter().map(|stream| *stream.head.borrow()).max();
        self.drain.send_replace(head);
        let all = futures_util::future::join_all(self.pipelines.iter().cloned().map(PipelineHandle::drained));
        tokio::select! {
            drained = all => drained.into_iter().all(|drained| drained),
            () = self.clock.sleep(at_most) => false,
        }
    }
}

impl System {
    /// Ends all actors and their threads. What they had not sent on is in the journal.
    pub fn stop(self) {
        for arbiter in &self.arbiters {
            arbiter.stop();
        }
        for arbiter in self.arbiters {
            // An arbiter's thread ends when it is told to; a panic in it is no reason to keep the daemon.
            let _ = arbiter.join();
        }
    }
}

fn journal_options(config: &Config, stream: &StreamConfig, sync: &SyncFile) -> JournalOptions {
    JournalOptions {
        dir: config.data_dir.join("journal").join(&stream.name),
        fsync: stream.durability == Durability::Fsync,
        limit_bytes: stream.journal_limit_bytes,
        keep_ms: stream.journal_keep_ms,
        min_free_bytes: config.min_free_bytes,
        sync: sync.clone(),
    }
}

/// Bytes that the mailboxes and recent batches of a config hold at most.
pub fn memory_bytes(config: &Config, windows: usize) -> u64 {
    let streams =
        config.streams.len() * (INGEST_MAILBOX + BODY_MAILBOX + 3 * CONTROL_MAILBOX + super::recent::KEPT_BYTES);
    let intakes = config.streams.len() * mailbox_bytes(0);
    (streams + intakes + config.pipelines.len() * mailbox_bytes(windows)) as u64
}

fn fields_of(pipeline: &PipelineConfig) -> impl Iterator<Item = crate::event::Field> + '_ {
    pipeline.slots.iter().filter_map(|slot| match slot {
        SlotSource::Field(field) => Some(field.clone()),
        SlotSource::Computed(_) => None,
    })
}

/// Tells Ingest of silence, once a second: time in which no line was decoded and nobody was held back.
async fn ticks(clock: Clock, stream: Arc<StreamStats>, stats: Arc<StatsRegistry>, to: Outlet<Tick>) {
    let progress = stream.progress();
    let (mut since, mut events) = (clock.elapsed(), 0);
    loop {
        clock.sleep(TICK).await;
        let lines = stream.lines.load(Ordering::Relaxed);
        let now_events = lines - stream.rejected.load(Ordering::Relaxed).min(lines);
        let held = progress.borrow().held.is_some();
        let now = clock.elapsed();
        if now_events != events || held || !stats.silence_matters(&stream) {
            (since, events) = (now, now_events);
            continue;
        }
        let silence_ms = u32::try_from((now - since).as_millis()).unwrap_or(u32::MAX);
        since = now;
        if to.send(Tick { silence_ms }).await.is_err() {
            return;
        }
    }
}

async fn sample(stats: Arc<StatsRegistry>, clock: Clock) {
    let mut before = clock.elapsed();
    loop {
        clock.sleep(TICK).await;
        let now = clock.elapsed();
        stats.sample(now - before);
        before = now;
    }
}
