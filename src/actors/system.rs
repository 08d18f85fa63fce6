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
use std::time::Duration;

use actix::{Actor, Arbiter};
use tokio::sync::{oneshot, watch};

use super::alerts::AlertFeeds;
use super::flush::Commits;
use super::generation::mailbox_bytes;
use super::handles::{PipelineHandle, Pipelines, StreamHandle};
use super::ingest::Ingest;
use super::live::LiveFeeds;
use super::mailbox::{Gauge, Inlet, Outlet};
use super::messages::{Resend, Tick};
use super::pipeline::Pipeline;
use super::recent::Recent;
use super::replay::{Replayer, Replays};
use super::retention::retain_letters;
use super::stats::StatsRegistry;
use super::ticks::{sample, ticks};
use crate::clock::Clock;
use crate::config::{AtLimit, Config, Durability, LetterLimit, PipelineConfig, StageConfig, StreamConfig};
use crate::event::{Decoder, Fields, Position};
use crate::journal::{Journal, JournalError, JournalOptions, Look, SyncFile, lock_dir};
use crate::limits::HTTP_BODY_BYTES_MAX;
use crate::pipeline::{IntakeResults, Plan, Results, StageRegistry};
use crate::store::{Definition, Store, StoreError};

/// Bytes of lines in front of Ingest.
const INGEST_MAILBOX: usize = 8 * 1024 * 1024;
/// Bytes of HTTP bodies in front of Ingest: two of the greatest.
const BODY_MAILBOX: usize = 2 * (HTTP_BODY_BYTES_MAX + super::recent::KEPT_BYTES);
const CONTROL_MAILBOX: usize = 1024 * 1024;
/// Bytes of letters that come again, in front of Ingest.
const REPLAY_MAILBOX: usize = 1024 * 1024;

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
    /// Whether it does what a daemon does once a second; else whoever owns it tells of silence.
    pub is_paced: bool,
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

/// What a stream's pipelines are made of.
pub(super) struct Stream {
    pub handle: StreamHandle,
    journal: Arc<Journal>,
    recent: Arc<Recent>,
    commits: Arc<Commits>,
    resend: Outlet<Resend>,
    decoders: watch::Sender<Decoder>,
}

/// The running actor system. Its actors live on arbiters: threads of an actix `System`.
pub struct System {
    pub(super) config: Config,
    pub(super) streams: Vec<Stream>,
    pub(super) pipelines: Pipelines,
    intakes: Vec<PipelineHandle>,
    pub(super) store: Store,
    pub(super) registry: Arc<StageRegistry>,
    windows: usize,
    is_paced: bool,
    pub(super) stats: Arc<StatsRegistry>,
    pub(super) live: LiveFeeds,
    pub(super) alerts: AlertFeeds,
    clock: Clock,
    drain: watch::Sender<Option<Position>>,
    /// That of the edges, and that which pipelines share.
    arbiters: [Arbiter; 2],
    /// Those of pipelines that have a thread of their own.
    own_arbiters: HashMap<String, Arbiter>,
    /// Locked as long as it lives.
    _lock: std::fs::File,
}

/// A pipeline that was started, and how its first generation began.
pub(super) type Started = (PipelineHandle, oneshot::Receiver<Result<(), String>>);

impl System {
    /// Opens journals and store and starts all actors. To be called on a thread of an actix `System`.
    ///
    /// # Errors
    /// Where files, store or definitions say no.
    pub async fn start(options: SystemOptions) -> Result<Self, SystemError> {
        let SystemOptions { config, registry, windows, clock, sync, accept_plan, is_paced } = options;
        let lock = lock_dir(&config.data_dir)?;
        let failed = |source| SystemError::Store { url: config.store.url.to_string(), source };
        let store = Store::open(&config.store.url, config.store.migrate).map_err(failed)?;
        let stats = StatsRegistry::new(clock.clone());
        let journals = open_journals(&config, &sync, &clock, &stats)?;
        let accepted = accept(&config, &journals, &store, accept_plan.as_deref()).await?;
        let mut system = Self {
            config,
            streams: Vec::new(),
            pipelines: Pipelines::default(),
            intakes: Vec::new(),
            store,
            registry: Arc::new(registry),
            windows,
            is_paced,
            stats,
            live: LiveFeeds::default(),
            alerts: AlertFeeds::default(),
            clock,
            drain: watch::channel(None).0,
            arbiters: [Arbiter::new(), Arbiter::new()],
            own_arbiters: HashMap::new(),
            _lock: lock,
        };
        for (stream, journal) in journals {
            let stream = system.stream(&stream, journal);
            system.streams.push(stream);
        }
        let mut began = Vec::new();
        for stream in 0..system.streams.len() {
            let (intake, begins) = system.pipeline(stream, None, accepted);
            system.intakes.push(intake);
            began.push(begins);
        }
        let mut pipelines = Vec::new();
        for pipeline in system.config.pipelines.clone() {
            let Some(stream) = system.stream_of(&pipeline) else { continue };
            let (handle, begins) = system.pipeline(stream, Some(pipeline), accepted);
            pipelines.push(handle);
            began.push(begins);
        }
        system.pipelines.replace(pipelines);
        let refused = refusals(began).await;
        if !refused.is_empty() {
            return Err(SystemError::Refused(refused));
        }
        let (store, clock) = (system.store.clone(), system.clock.clone());
        if system.is_paced {
            actix::spawn(sample(system.stats.clone(), clock.clone()));
        }
        actix::spawn(retain_letters(store, clock, system.config.dead_letters.retain_ms));
        Ok(system)
    }

    /// The index of a pipeline's stream; `None` where that is stopped.
    pub(super) fn stream_of(&self, pipeline: &PipelineConfig) -> Option<usize> {
        self.streams.iter().position(|stream| stream.handle.config.name == pipeline.stream)
    }

    /// One stream: journal, Ingest, ticker.
    fn stream(&self, config: &StreamConfig, journal: Arc<Journal>) -> Stream {
        let recent = Arc::new(Recent::new(journal.progress().borrow().written));
        let raw_time = config.raw_events.as_ref().and_then(|raw| raw.time.as_ref());
        let raw_time = raw_time.map(|(field, _)| field.clone());
        let pipelines: Vec<_> = self.config.pipelines.iter().filter(|one| one.stream == config.name).collect();
        let fields = pipelines.iter().flat_map(|pipeline| pipeline.fields()).chain(raw_time);
        let (decoders, _) = watch::channel(Decoder::of(config.format, Arc::new(Fields::new(fields))));
        let (handle, resend) = self.ingest(config, &journal, &recent, &decoders);
        let names = pipelines.iter().map(|pipeline| pipeline.name.clone());
        let commits = Commits::new(journal.clone(), names.chain([format!("@{}", config.name)]));
        Stream { handle, journal, recent, commits, resend, decoders }
    }

    /// Starts a pipeline over a stream, or (`None`) the stream's intake.
    pub(super) fn pipeline(&mut self, stream: usize, config: Option<PipelineConfig>, accepted: bool) -> Started {
        let (stage_arbiter, arbiter) = (self.stage_arbiter(config.as_ref()), self.arbiters[1].handle());
        let Stream { handle, journal, recent, commits, resend, decoders } = &self.streams[stream];
        let name = &handle.config.name;
        let raw_events = handle.config.raw_events.clone();
        let definition: Arc<dyn Definition> = match &config {
            Some(config) => Arc::new(Results::new(config.clone(), &BTreeMap::new())),
            None => {
                Arc::new(IntakeResults::new(name, handle.config.format, raw_events.as_ref().map(|raw| raw.retain_ms)))
            }
        };
        let (committed, commits_seen) = watch::channel(0);
        let (began, begins) = oneshot::channel();
        let (lease, leased) = watch::channel(None);
        let stats = self.stats.pipeline(definition.pipeline().to_owned(), name.clone());
        let replays = Replays::new(name, &self.store, journal, &stats, leased);
        let (defined, as_defined) = watch::channel(definition.clone());
        let (pipeline, orders) = PipelineHandle::new(&self.store, commits_seen, &stats, recent, &replays, as_defined);
        if config.is_some() {
            let replayer = Replayer {
                replays,
                limit_bytes: handle.config.journal_limit_bytes,
                decoders: decoders.subscribe(),
                to: resend.clone(),
                actors: self.stats.clone(),
                clock: self.clock.clone(),
            };
            actix::spawn(replayer.run());
        }
        let letters = self.config.dead_letters.letters;
        let beyond = if config.is_some() { letters.beyond } else { AtLimit::Discard };
        let live = config.as_ref().and_then(|config| self.live.begin(config));
        let alerts = config.as_ref().map(|config| self.alerts.begin(config, &stats));
        let keeper = Pipeline {
            definition,
            defined,
            live,
            alerts,
            config: config.map(Arc::new),
            stream: name.clone(),
            raw_events,
            windows: self.windows,
            flush_every: Duration::from_millis(self.config.store.flush_every_ms as u64),
            decoder: decoders.borrow().clone(),
            registry: self.registry.clone(),
            journal: journal.clone(),
            recent: recent.clone(),
            store: self.store.clone(),
            commits: commits.clone(),
            stats,
            actors: self.stats.clone(),
            clock: self.clock.clone(),
            drain: self.drain.subscribe(),
            lease,
            accepted,
            may_adopt: accepted,
            letters: LetterLimit { beyond, ..letters },
            stage_arbiter,
            arbiter,
            committed,
            orders,
            began: Some(began),
        };
        actix::spawn(keeper.run());
        (pipeline, begins)
    }

    /// A pipeline with a custom stage has a thread of its own: nobody knows how long that stage takes.
    fn stage_arbiter(&mut self, pipeline: Option<&PipelineConfig>) -> actix::ArbiterHandle {
        let custom = |stage: &StageConfig| matches!(stage, StageConfig::Custom(_));
        match pipeline.filter(|pipeline| pipeline.stages.iter().any(custom)) {
            Some(pipeline) => self.own_arbiters.entry(pipeline.name.clone()).or_insert_with(Arbiter::new).handle(),
            None => self.arbiters[1].handle(),
        }
    }

    fn ingest(
        &self,
        config: &StreamConfig,
        journal: &Arc<Journal>,
        recent: &Arc<Recent>,
        decoders: &watch::Sender<Decoder>,
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
        if self.is_paced {
            actix::spawn(ticks(self.clock.clone(), stream.clone(), self.stats.clone(), tick.clone()));
        }
        let handle = StreamHandle {
            config: Arc::new(config.clone()),
            lines: Outlet::new(&ingest, lines, &self.clock),
            bodies: Outlet::new(&ingest, bodies, &self.clock),
            sync: Outlet::new(&ingest, sync, &self.clock),
            claim: Outlet::new(&ingest, claim, &self.clock),
            tick,
            decoders: decoders.subscribe(),
            stats: stream,
            arbiter,
            clock: self.clock.clone(),
            head: recent.head(),
        };
        (handle, Outlet::new(&ingest, resend, &self.clock))
    }

    /// Its streams, in the order of the config.
    pub fn streams(&self) -> Vec<StreamHandle> {
        self.streams.iter().map(|stream| stream.handle.clone()).collect()
    }

    /// Its pipelines.
    pub fn pipelines(&self) -> Pipelines {
        self.pipelines.clone()
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
        tokio::select! {
            drained = self.commit_all() => drained,
            () = self.clock.sleep(at_most) => false,
        }
    }

    /// The same, for as long as it takes: pipelines, and the streams' intakes with raw events and decode letters. It may be
    /// followed by more input.
    pub async fn commit_all(&self) -> bool {
        let head = self.streams.iter().map(|stream| *stream.handle.head.borrow()).max();
        self.drain.send_replace(head);
        let pipelines = self.pipelines.all().into_iter().chain(self.intakes.clone());
        futures_util::future::join_all(pipelines.map(PipelineHandle::drained)).await.into_iter().all(|drained| drained)
    }
}

impl System {
    /// From here on a stream's lines are decoded with the fields of these pipelines, too.
    pub(super) fn ask_for(&self, pipelines: &[PipelineConfig]) {
        for stream in &self.streams {
            let own = pipelines.iter().filter(|pipeline| pipeline.stream == stream.handle.config.name);
            let fields = stream.decoders.borrow().fields().and(own.flat_map(PipelineConfig::fields));
            if fields.len() > stream.decoders.borrow().fields().len() {
                stream.decoders.send_replace(Decoder::of(stream.handle.config.format, Arc::new(fields)));
            }
        }
    }

    /// How far each stream's journal reaches.
    pub(super) fn looks(&self) -> HashMap<String, Look> {
        self.streams.iter().map(|stream| (stream.handle.config.name.clone(), stream.journal.look())).collect()
    }

    /// A pipeline that was taken out needs nothing of its stream's journal any more.
    pub(super) fn unpin(&self, pipeline: &str) {
        for stream in &self.streams {
            stream.commits.unpin(pipeline);
        }
    }

    /// Ends all actors and their threads. What they had not sent on is in the journal.
    pub fn stop(self) {
        let arbiters: Vec<Arbiter> = self.arbiters.into_iter().chain(self.own_arbiters.into_values()).collect();
        for arbiter in &arbiters {
            arbiter.stop();
        }
        for arbiter in arbiters {
            // An arbiter's thread ends when it is told to; a panic in it is no reason to keep the daemon.
            let _ = arbiter.join();
        }
    }
}

/// Whether an operator has accepted what the start would lose: nothing is lost otherwise.
async fn accept(
    config: &Config,
    journals: &[(StreamConfig, Arc<Journal>)],
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
    let formats = config.streams.iter().map(|stream| IntakeResults::check_format(stream, &registered));
    let changed: Vec<String> = formats.filter_map(Result::err).collect();
    if !changed.is_empty() {
        return Err(SystemError::Refused(changed));
    }
    let looks = journals.iter().map(|(stream, journal)| (stream.name.clone(), journal.look())).collect();
    agree(&Plan::of(config, &registered, &looks, &|_| true), code).map_err(SystemError::Plan)
}

/// Whether a plan loses something and that is accepted.
///
/// # Errors
/// It loses something, and its code was not given: what it says.
pub(super) fn agree(plan: &Plan, code: Option<&str>) -> Result<bool, String> {
    match code {
        None if plan.loses() => Err(plan.to_string()),
        Some(code) if plan.loses() && code != plan.code() => {
            Err(format!("{code} is the code of another plan; this one is:\n{plan}"))
        }
        _ => Ok(plan.loses()),
    }
}

/// Why pipelines did not begin, those that did not.
pub(super) async fn refusals(began: Vec<oneshot::Receiver<Result<(), String>>>) -> Vec<String> {
    let began = futures_util::future::join_all(began).await;
    began.into_iter().filter_map(|began| began.ok()?.err()).collect()
}

/// Opens the journals of all streams. One that is damaged stops its stream alone, unless there is no other.
fn open_journals(
    config: &Config,
    sync: &SyncFile,
    clock: &Clock,
    stats: &StatsRegistry,
) -> Result<Vec<(StreamConfig, Arc<Journal>)>, JournalError> {
    let mut opened = Vec::new();
    let mut damaged = None;
    for stream in &config.streams {
        match Journal::open(journal_options(config, stream, sync), clock.clone()) {
            Ok(journal) => opened.push((stream.clone(), Arc::new(journal))),
            Err(error @ JournalError::Damaged { .. }) => {
                stats.stream_stopped(&stream.name, &error.to_string());
                damaged = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    match damaged {
        Some(error) if opened.is_empty() => Err(error),
        _ => Ok(opened),
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
