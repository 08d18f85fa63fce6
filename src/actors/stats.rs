//! What can be seen of the system: shared counters that HTTP reads without asking an actor (one that waits cannot answer).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::mailbox::Gauge;
use crate::clock::Clock;
use crate::event::{Account, Position};
use crate::journal::{Held, Progress};

/// Counters of one actor.
pub struct ActorStats {
    kind: &'static str,
    /// The pipeline or stream, and for windows which of them.
    name: String,
    mailboxes: Vec<Arc<Gauge>>,
    processed: AtomicU64,
    failed: AtomicU64,
    busy_us: AtomicU64,
    /// Whether it waits for room in the next mailbox.
    blocked: AtomicBool,
    /// Busy time at the last sample, and the share since the one before, in thousandths.
    sampled: Mutex<(u64, u64)>,
}

impl ActorStats {
    /// One message was handled: so many events, in so much time.
    pub fn handled(&self, events: u64, busy: Duration) {
        self.processed.fetch_add(events, Ordering::Relaxed);
        self.busy_us.fetch_add(busy.as_micros() as u64, Ordering::Relaxed);
    }

    /// Events that became letters.
    pub fn failed(&self, events: u64) {
        self.failed.fetch_add(events, Ordering::Relaxed);
    }

    /// It begins or ends to wait for the next actor.
    pub fn blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }
}

/// Counters of one stream.
pub struct StreamStats {
    /// Its name.
    pub name: String,
    /// Lines that got a position.
    pub lines: AtomicU64,
    /// Of those: no events.
    pub rejected: AtomicU64,
    /// Bytes of those lines.
    pub bytes: AtomicU64,
    /// The position of the last line.
    pub last_line: AtomicU64,
    /// Open connections.
    pub connections: AtomicU64,
    /// Bytes of their buffers.
    pub buffers: AtomicU64,
    /// Producers that are remembered.
    pub producers: AtomicU64,
    /// Time that producers were held, µs.
    pub held_us: AtomicU64,
    progress: watch::Receiver<Progress>,
    head: watch::Receiver<Position>,
    limit_bytes: u64,
    direct: bool,
    /// Lines at the last sample, and lines a second since the one before.
    sampled: Mutex<(u64, u64)>,
}

/// What a pipeline is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PipelineState {
    /// Waits for the store, or reads its state.
    Starting,
    /// Reads what comes.
    Running,
    /// Reads the journal.
    Behind,
    /// The store refuses it, or it died too often at one place.
    Refused,
    /// Another writer has taken over.
    Fenced,
}

/// What can be seen of one pipeline.
pub struct PipelineStats {
    pub name: String,
    pub stream: String,
    pub inner: Mutex<PipelineView>,
    /// Ingest time of the last record that its stage took.
    pub ingest_time: AtomicI64,
    /// Its last position.
    pub position: AtomicU64,
    pub restarts: AtomicU64,
}

/// The part of it that changes together.
#[derive(Clone, Debug, Serialize)]
pub struct PipelineView {
    pub state: PipelineState,
    pub account: Account,
    pub position: Position,
    pub watermark: Option<i64>,
    pub open_windows: u64,
    pub groups: u64,
    pub state_bytes: u64,
    pub last_flush: Option<LastFlush>,
    pub error: Option<String>,
}

/// The last transaction.
#[derive(Clone, Debug, Serialize)]
pub struct LastFlush {
    pub at: i64,
    pub duration_ms: u64,
    pub rows: u64,
    pub letters: u64,
    pub reason: &'static str,
}

/// All that can be seen.
pub struct StatsRegistry {
    clock: Clock,
    actors: Mutex<Vec<Arc<ActorStats>>>,
    streams: Mutex<Vec<Arc<StreamStats>>>,
    pipelines: Mutex<Vec<Arc<PipelineStats>>>,
    draining: AtomicBool,
}

#[derive(Serialize)]
struct Snapshot {
    version: &'static str,
    uptime_ms: u64,
    bottleneck: Option<Bottleneck>,
    actors: Vec<ActorSnapshot>,
    streams: Vec<StreamSnapshot>,
    pipelines: Vec<PipelineSnapshot>,
}

#[derive(Serialize)]
struct Bottleneck {
    actor: &'static str,
    pipeline: String,
    reason: String,
}

#[derive(Serialize)]
struct ActorSnapshot {
    kind: &'static str,
    name: String,
    state: &'static str,
    mailbox: MailboxSnapshot,
    processed: u64,
    failed: u64,
    busy: f64,
    waited_ms: u64,
    restarts: u64,
    last_error: Option<String>,
}

#[derive(Serialize)]
struct MailboxSnapshot {
    bytes: usize,
    capacity_bytes: usize,
    messages: u64,
}

#[derive(Serialize)]
struct StreamSnapshot {
    name: String,
    lines: u64,
    rejected: u64,
    bytes: u64,
    connections: u64,
    producers: u64,
    journal: JournalSnapshot,
    rate_per_s: u64,
    held_ms: u64,
}

#[derive(Serialize)]
struct JournalSnapshot {
    first: Position,
    last: Position,
    durable: Position,
    bytes: u64,
    limit_bytes: u64,
    held: Option<&'static str>,
    direct: bool,
}

#[derive(Serialize)]
struct PipelineSnapshot {
    name: String,
    stream: String,
    lag_positions: u64,
    lag_ms: i64,
    #[serde(flatten)]
    view: PipelineView,
}

/// The word for why producers are held.
pub fn held_name(held: Held) -> &'static str {
    match held {
        Held::JournalFull => "journal_full",
        Held::DiskFull => "disk_full",
    }
}

impl StreamStats {
    /// How far its journal is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl StatsRegistry {
    /// Nothing yet.
    pub fn new(clock: Clock) -> Arc<Self> {
        let (actors, streams, pipelines, draining) = Default::default();
        Arc::new(Self { clock, actors, streams, pipelines, draining })
    }

    /// A new actor, or the successor of one that had this kind and name.
    pub fn actor(&self, kind: &'static str, name: String, mailboxes: Vec<Arc<Gauge>>) -> Arc<ActorStats> {
        let mut actors = self.actors.lock();
        let before = actors.iter().position(|actor| actor.kind == kind && actor.name == name);
        let stats = Arc::new(ActorStats {
            kind,
            name,
            mailboxes,
            processed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            busy_us: AtomicU64::new(0),
            blocked: AtomicBool::new(false),
            sampled: Mutex::default(),
        });
        match before {
            Some(index) => {
                // Counts go on over the lives of an actor.
                stats.processed.store(actors[index].processed.load(Ordering::Relaxed), Ordering::Relaxed);
                stats.failed.store(actors[index].failed.load(Ordering::Relaxed), Ordering::Relaxed);
                actors[index] = stats.clone();
            }
            None => actors.push(stats.clone()),
        }
        stats
    }

    /// A new stream.
    pub fn stream(
        &self,
        name: String,
        progress: watch::Receiver<Progress>,
        head: watch::Receiver<Position>,
        limit_bytes: u64,
        direct: bool,
    ) -> Arc<StreamStats> {
        let stats = Arc::new(StreamStats {
            name,
            lines: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last_line: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            buffers: AtomicU64::new(0),
            producers: AtomicU64::new(0),
            held_us: AtomicU64::new(0),
            progress,
            head,
            limit_bytes,
            direct,
            sampled: Mutex::default(),
        });
        self.streams.lock().push(stats.clone());
        stats
    }

    /// A new pipeline.
    pub fn pipeline(&self, name: String, stream: String) -> Arc<PipelineStats> {
        let inner = PipelineView {
            state: PipelineState::Starting,
            account: Account::default(),
            position: 0,
            watermark: None,
            open_windows: 0,
            groups: 0,
            state_bytes: 0,
            last_flush: None,
            error: None,
        };
        let stats = Arc::new(PipelineStats {
            name,
            stream,
            inner: Mutex::new(inner),
            ingest_time: AtomicI64::new(0),
            position: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
        });
        self.pipelines.lock().push(stats.clone());
        stats
    }

    /// The daemon stops: it takes nothing any more.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether the daemon stops: it takes nothing any more.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Once a second: shares and rates.
    pub fn sample(&self, passed: Duration) {
        let passed_us = passed.as_micros().max(1) as u64;
        for actor in self.actors.lock().iter() {
            let busy = actor.busy_us.load(Ordering::Relaxed);
            let mut sampled = actor.sampled.lock();
            *sampled = (busy, ((busy - sampled.0) * 1_000 / passed_us).min(1_000));
        }
        for stream in self.streams.lock().iter() {
            let lines = stream.lines.load(Ordering::Relaxed);
            let mut sampled = stream.sampled.lock();
            *sampled = (lines, (lines - sampled.0) * 1_000_000 / passed_us);
        }
    }

    /// All of it, as JSON.
    ///
    /// # Errors
    /// Where JSON cannot hold it.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.snapshot())
    }

    /// Whether the stream's silence can still change something: a pipeline has not committed past its last line, or has
    /// windows open.
    pub fn silence_matters(&self, stream: &StreamStats) -> bool {
        let last_line = stream.last_line.load(Ordering::Relaxed);
        self.pipelines.lock().iter().filter(|pipeline| pipeline.stream == stream.name).any(|pipeline| {
            let view = pipeline.inner.lock();
            view.position < last_line || view.open_windows > 0
        })
    }

    /// What hinders streams and pipelines: empty where nothing does; and whether any stream cannot take lines.
    pub fn degraded(&self) -> (Vec<String>, bool) {
        let mut reasons = Vec::new();
        let mut held = self.draining.load(Ordering::Relaxed);
        if held {
            reasons.push("the daemon stops: it takes no lines any more".to_owned());
        }
        for stream in self.streams.lock().iter() {
            let progress = stream.progress.borrow();
            if let Some(failed) = &progress.failed {
                held = true;
                reasons.push(format!("stream {}: the journal failed: {failed}", stream.name));
            } else if let Some(why) = progress.held {
                held = true;
                reasons.push(format!("stream {}: producers are held ({})", stream.name, held_name(why)));
            } else if progress.bytes > stream.limit_bytes / 2 {
                let percent = progress.bytes * 100 / stream.limit_bytes.max(1);
                reasons.push(format!("stream {}: the journal is at {percent} % of journal_limit", stream.name));
            }
        }
        for pipeline in self.pipelines.lock().iter() {
            let view = pipeline.inner.lock();
            if view.state != PipelineState::Running || view.error.is_some() {
                let state = serde_json::to_string(&view.state).unwrap_or_default();
                let error = view.error.as_deref().unwrap_or("no error");
                reasons.push(format!("pipeline {}: {} ({error})", pipeline.name, state.trim_matches('"')));
            }
        }
        (reasons, held)
    }

    fn snapshot(&self) -> Snapshot {
        let pipelines = self.pipelines.lock();
        let streams = self.streams.lock();
        let actors = self.actors.lock();
        Snapshot {
            version: env!("CARGO_PKG_VERSION"),
            uptime_ms: self.clock.elapsed().as_millis() as u64,
            bottleneck: bottleneck(&actors),
            actors: actors.iter().map(|actor| actor_snapshot(actor, &pipelines)).collect(),
            streams: streams.iter().map(|stream| stream_snapshot(stream)).collect(),
            pipelines: pipelines.iter().map(|pipeline| self.pipeline_snapshot(pipeline, &streams)).collect(),
        }
    }

    fn pipeline_snapshot(&self, pipeline: &PipelineStats, streams: &[Arc<StreamStats>]) -> PipelineSnapshot {
        let view = pipeline.inner.lock().clone();
        let stream = streams.iter().find(|stream| stream.name == pipeline.stream);
        let head = stream.map_or(view.position, |stream| *stream.head.borrow());
        let position = pipeline.position.load(Ordering::Relaxed).max(view.position);
        let lag_positions = head.saturating_sub(position);
        let seen = pipeline.ingest_time.load(Ordering::Relaxed);
        let lag_ms = if lag_positions == 0 || seen == 0 { 0 } else { (self.clock.wall_ms() - seen).max(0) };
        let (name, stream) = (pipeline.name.clone(), pipeline.stream.clone());
        PipelineSnapshot { name, stream, lag_positions, lag_ms, view }
    }
}

/// The actor that others wait for, and that itself waits for nobody.
fn bottleneck(actors: &[Arc<ActorStats>]) -> Option<Bottleneck> {
    let is_full = |actor: &&Arc<ActorStats>| actor.mailboxes.iter().any(|mailbox| mailbox.is_full());
    let slow = actors.iter().filter(is_full).find(|actor| !actor.blocked.load(Ordering::Relaxed))?;
    let busy = slow.sampled.lock().1 / 10;
    let pipeline = slow.name.clone();
    Some(Bottleneck {
        actor: slow.kind,
        pipeline,
        reason: format!("its mailbox is full; it is busy {busy} % of the time"),
    })
}

fn actor_snapshot(actor: &ActorStats, pipelines: &[Arc<PipelineStats>]) -> ActorSnapshot {
    let pipeline = pipelines.iter().find(|pipeline| actor.name.split('/').next() == Some(pipeline.name.as_str()));
    let waiting = actor.mailboxes.iter().all(|mailbox| mailbox.messages() == 0);
    let state = match (actor.blocked.load(Ordering::Relaxed), waiting) {
        (true, _) => "blocked",
        (false, true) => "idle",
        (false, false) => "busy",
    };
    ActorSnapshot {
        kind: actor.kind,
        name: actor.name.clone(),
        state,
        mailbox: MailboxSnapshot {
            bytes: actor.mailboxes.iter().map(|mailbox| mailbox.bytes()).sum(),
            capacity_bytes: actor.mailboxes.iter().map(|mailbox| mailbox.capacity()).sum(),
            messages: actor.mailboxes.iter().map(|mailbox| mailbox.messages()).sum(),
        },
        processed: actor.processed.load(Ordering::Relaxed),
        failed: actor.failed.load(Ordering::Relaxed),
        busy: actor.sampled.lock().1 as f64 / 1_000.0,
        waited_ms: actor.mailboxes.iter().map(|mailbox| mailbox.waited().as_millis() as u64).sum(),
        restarts: pipeline.map_or(0, |pipeline| pipeline.restarts.load(Ordering::Relaxed)),
        last_error: pipeline.and_then(|pipeline| pipeline.inner.lock().error.clone()),
    }
}

fn stream_snapshot(stream: &StreamStats) -> StreamSnapshot {
    let progress = stream.progress.borrow();
    StreamSnapshot {
        name: stream.name.clone(),
        lines: stream.lines.load(Ordering::Relaxed),
        rejected: stream.rejected.load(Ordering::Relaxed),
        bytes: stream.bytes.load(Ordering::Relaxed),
        connections: stream.connections.load(Ordering::Relaxed),
        producers: stream.producers.load(Ordering::Relaxed),
        journal: JournalSnapshot {
            first: progress.first,
            last: *stream.head.borrow(),
            durable: progress.durable,
            bytes: progress.bytes,
            limit_bytes: stream.limit_bytes,
            held: progress.held.map(held_name),
            direct: stream.direct,
        },
        rate_per_s: stream.sampled.lock().1,
        held_ms: stream.held_us.load(Ordering::Relaxed) / 1_000,
    }
}
