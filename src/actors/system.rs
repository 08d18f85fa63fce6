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

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, Arbiter};
use tokio::sync::{oneshot, watch};

use super::flush::Commits;
use super::generation::mailbox_bytes;
use super::handles::{PipelineHandle, StreamHandle};
use super::ingest::Ingest;
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Resend, Tick};
use super::pipeline::{Pipeline, span_of};
use super::recent::Recent;
use super::replay::{Replayer, Replays};
use super::retention::retain_letters;
use super::stats::{StatsRegistry, StreamStats};
use crate::clock::Clock;
use crate::config::{AtLimit, Config, Durability, LetterLimit, PipelineConfig, SlotSource, StageConfig, StreamConfig};
use crate::event::{Decoder, Fields, Position};
use crate::journal::{Journal, JournalError, JournalOptions, SyncFile, lock_dir};
use crate::limits::HTTP_BODY_BYTES_MAX;
use crate::pipeline::{IntakeResults, Plan, Results, Span, StageRegistry};
use crate::store::{Definition, Store, StoreError};

/// Bytes of lines in front of Ingest.
const INGEST_MAILBOX: usize = 8 * 1024 * 1024;
/// Bytes of HTTP bodies in front of Ingest: two of the greatest.
const BODY_MAILBOX: usize = 2 * (HTTP_BODY_BYTES_MAX + super::recent::KEPT_BYTES);
const CONTROL_MAILBOX: usize = 1024 * 1024;
/// Bytes of letters that come again, in front of Ingest.
const REPLAY_MAILBOX: usize = 1024 * 1024;
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
    /// The code of the plan whose losses are accepted.
    pub accept_plan: Option<String>,
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
    /// Something would be lost that nobody has accepted, or another plan was.
    #[error("{0}")]
    Plan(String),
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

impl System {
    /// Opens journals and store and starts all actors. To be called on a thread of an actix `System`.
    ///
    /// # Errors
    /// Where files, store or definitions say no.
    pub async fn start(options: SystemOptions) -> Result<Self, SystemError> {
        let SystemOptions { config, registry, windows, clock, sync, accept_plan } = options;
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
        let mut journals = Vec::new();
        for stream in &config.streams {
            journals.push(Arc::new(Journal::open(journal_options(&config, stream, &sync), system.clock.clone())?));
        }
        let accepted = accept(&config, &journals, &store, accept_plan.as_deref()).await?;
        let mut began = Vec::new();
        for (stream, journal) in config.streams.iter().zip(journals) {
            began.extend(system.stream(&config, (stream, journal), &registry, windows, &store, accepted));
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
        actix::spawn(retain_letters(store, system.clock.clone(), config.dead_letters.retain_ms));
        Ok(system)
    }

    /// One stream: journal, Ingest, ticker, and all pipelines that read it.
    fn stream(
        &mut self,
        config: &Config,
        (stream, journal): (&StreamConfig, Arc<Journal>),
        registry: &Arc<StageRegistry>,
        windows: usize,
        store: &Store,
        accepted: bool,
    ) -> Vec<oneshot::Receiver<Result<(), String>>> {
        let recent = Arc::new(Recent::new(journal.progress().borrow().written));
        let configs: Vec<_> = config.pipelines.iter().filter(|pipeline| pipeline.stream == stream.name).collect();
        let raw_time = stream.raw_events.as_ref().and_then(|raw| raw.time.as_ref());
        let raw_time = raw_time.map(|(field, _)| field.clone());
        let fields = configs.iter().flat_map(|pipeline| fields_of(pipeline)).chain(raw_time);
        let fields = Arc::new(Fields::new(fields));
        let (handle, resend) = self.ingest(stream, &journal, &recent, &fields);

        let intake: Arc<dyn Definition> =
            Arc::new(IntakeResults::new(&stream.name, stream.raw_events.as_ref().map(|raw| raw.retain_ms)));
        let mut definitions = vec![(intake, None)];
        for pipeline in configs {
            let results = Results::new(pipeline.clone(), &BTreeMap::new());
            definitions.push((Arc::new(results), Some(Arc::new(pipeline.clone()))));
        }
        let names = definitions.iter().map(|(definition, _)| definition.pipeline().to_owned());
        let commits = Commits::new(journal.clone(), names);
        let mut all = Vec::new();
        for (definition, pipeline) in definitions {
            let (committed, commits_seen) = watch::channel(0);
            let (began, begins) = oneshot::channel();
            let stats = self.stats.pipeline(definition.pipeline().to_owned(), stream.name.clone());
            let handles = if pipeline.is_some() { &mut self.pipelines } else { &mut self.intakes };
            let (lease, leased) = watch::channel(None);
            let replays = Replays::new(&stream.name, store, &journal, &stats, leased);
            let (handle, orders) = PipelineHandle::new(store, commits_seen, &stats, &recent, &replays);
            handles.push(handle);
            if pipeline.is_some() {
                let replayer = Replayer {
                    replays,
                    limit_bytes: stream.journal_limit_bytes,
                    decoder: Decoder::new(fields.clone()),
                    to: resend.clone(),
                    actors: self.stats.clone(),
                    clock: self.clock.clone(),
                };
                actix::spawn(replayer.run());
            }
            let stage_arbiter = self.stage_arbiter(pipeline.as_deref());
            let beyond = if pipeline.is_some() { config.dead_letters.letters.beyond } else { AtLimit::Discard };
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
                lease,
                accepted,
                may_adopt: accepted,
                letters: LetterLimit { beyond, ..config.dead_letters.letters },
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
        all
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
    ) -> (StreamHandle, Outlet<Resend>) {
        let control = CONTROL_MAILBOX;
        let gauges = [INGEST_MAILBOX, BODY_MAILBOX, REPLAY_MAILBOX, control, control, control].map(Gauge::new);
        let stream = self.stats.stream(config.name.clone(), journal, recent.head(), config.journal_limit_bytes);
        let actor = self.stats.actor("ingest", config.name.clone(), gauges.to_vec());
        let inlets = gauges.iter().map(Inlet::of).collect();
        let arbiter = self.arbiters[0].handle();
        let ingest = Ingest::new(journal.clone(), recent.clone(), self.clock.clone(), stream.clone(), actor, inlets);
        let ingest = Ingest::start_in_arbiter(&arbiter, move |_| ingest);
        let [lines, bodies, resend, sync, claim, tick] = &gauges;
        let tick: Outlet<Tick> = Outlet::new(&ingest, tick, &self.clock);
        actix::spawn(ticks(self.clock.clone(), stream.clone(), self.stats.clone(), tick));
        let handle = StreamHandle {
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
        };
        (handle, Outlet::new(&ingest, resend, &self.clock))
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

/// Whether an operator has accepted what the start would lose: nothing is lost otherwise.
async fn accept(
    config: &Config,
    journals: &[Arc<Journal>],
    store: &Store,
    code: Option<&str>,
) -> Result<bool, SystemError> {
    let registered = match store.registered().await {
        Ok(registered) => registered,
        // Each pipeline asks again when it begins, and then accepts nothing.
        Err(error) if code.is_none() => {
            log::debug!("no plan: {error}");
            return Ok(false);
        }
        Err(error) => return Err(SystemError::Plan(format!("the plan cannot be checked: {error}"))),
    };
    let names = config.streams.iter().map(|stream| stream.name.clone());
    let spans: HashMap<String, Span> = names.zip(journals.iter().map(|journal| span_of(journal))).collect();
    let plan = Plan::of(&config.pipelines, &registered, &spans);
    match code {
        None if plan.loses() => Err(SystemError::Plan(plan.to_string())),
        Some(code) if plan.loses() && code != plan.code() => {
            Err(SystemError::Plan(format!("{code} is the code of another plan; this start has:\n{plan}")))
        }
        _ => Ok(plan.loses()),
    }
}

fn journal_options(config: &Config, stream: &StreamConfig, sync: &SyncFile) -> JournalOptions {
    JournalOptions {
        dir: config.journal_dir(&stream.name),
        fsync: stream.durability == Durability::Fsync,
        limit_bytes: stream.journal_limit_bytes,
        keep_ms: stream.journal_keep_ms,
        min_free_bytes: config.min_free_bytes,
        sync: sync.clone(),
    }
}

/// Bytes that the mailboxes and recent batches of a config hold at most.
pub fn memory_bytes(config: &Config, windows: usize) -> u64 {
    let streams = config.streams.len()
        * (INGEST_MAILBOX + BODY_MAILBOX + REPLAY_MAILBOX + 3 * CONTROL_MAILBOX + super::recent::KEPT_BYTES);
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
