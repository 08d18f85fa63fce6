//! What can be seen of the system: shared counters that HTTP reads without asking an actor (one that waits cannot answer).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::alerts::AlertStats;
use super::mailbox::Gauge;
use crate::clock::Clock;
use crate::event::{Account, Position};
use crate::journal::{Extents, Journal, Progress};
use crate::pipeline::{Disorder, Taps};

/// Counters of one actor.
pub struct ActorStats {
    pub(super) kind: &'static str,
    /// The pipeline or stream, and for windows which of them.
    pub(super) name: String,
    pub(super) mailboxes: Vec<Arc<Gauge>>,
    pub(super) processed: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) busy_us: AtomicU64,
    /// Whether it waits for room in the next mailbox.
    pub(super) blocked: AtomicBool,
    /// Busy time at the last sample, and the share since the one before, in thousandths.
    pub(super) sampled: Mutex<(u64, u64)>,
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
    pub(super) progress: watch::Receiver<Progress>,
    head: watch::Receiver<Position>,
    pub(super) extents: Extents,
    pub(super) limit_bytes: u64,
    pub(super) direct: bool,
    pub(super) sampled: Mutex<Sampled>,
}

/// What was seen of a stream at the last look.
#[derive(Clone, Copy, Default)]
pub(super) struct Sampled {
    lines: u64,
    pub lines_per_s: u64,
    bytes: u64,
    /// Over about the last ten seconds.
    pub bytes_per_s: f64,
}

/// A stream of the config that does not run.
#[derive(Clone, Debug, Serialize)]
pub struct StoppedStream {
    pub name: String,
    pub error: String,
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
    /// Stopped on request, or because it died again and again or is too far behind; goes on when it is told to.
    Paused,
    /// The store refuses it.
    Refused,
    /// Another writer has taken over.
    Fenced,
}

impl PipelineState {
    /// The word that people see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Behind => "behind",
            Self::Paused => "paused",
            Self::Refused => "refused",
            Self::Fenced => "fenced",
        }
    }

    /// Whether it commits nothing until somebody does something about it.
    pub fn is_stopped(self) -> bool {
        matches!(self, Self::Paused | Self::Refused | Self::Fenced)
    }
}

/// What can be seen of one pipeline.
pub struct PipelineStats {
    pub name: String,
    pub stream: String,
    pub inner: Mutex<PipelineView>,
    pub restarts: AtomicU64,
    /// Letters that are on their way again.
    pub under_replay: AtomicU64,
    /// Letters that were not kept since the daemon's start, because there was no room.
    pub letters_discarded: AtomicU64,
    /// The last record of its replays; all behind it is of no replay that has been taken yet.
    pub replayed_upto: AtomicU64,
    /// Its alerts.
    pub alerts: Mutex<Vec<Arc<AlertStats>>>,
    /// Who watches its events.
    pub taps: Arc<Taps>,
    /// When the log last said that it pins its journal.
    pub(super) warned: Mutex<Option<Duration>>,
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
    /// Events of groups that had no room, since the generation began: they count in the `other` rows.
    pub other_events: u64,
    /// How much events are out of order, since the generation began.
    pub disorder: Option<Disorder>,
    /// Fields that the pipeline names and that no event had, since the generation began.
    pub fields_never_seen: Vec<String>,
    pub last_flush: Option<LastFlush>,
    pub error: Option<String>,
    /// Since when the store is away, by the time since the daemon's start.
    #[serde(skip)]
    pub away_since: Option<Duration>,
    /// Whether the journal need not keep what it has not committed.
    #[serde(skip)]
    pub unpinned: bool,
    /// Ingest time of the oldest record that is not committed, …
    #[serde(skip)]
    pub oldest: Option<i64>,
    /// … and of the oldest behind the last barrier.
    #[serde(skip)]
    pub oldest_behind_barrier: Option<i64>,
}

/// What can be seen of Redis.
#[derive(Clone, Debug, Default, Serialize)]
pub struct RedisView {
    /// Its URL, without its password.
    pub url: String,
    /// Whether it has answered last.
    pub connected: bool,
    /// Rows that wait to be written there.
    pub waiting_rows: u64,
    /// Rows that were written since the daemon's start.
    pub written_rows: u64,
    /// Why it is away.
    pub error: Option<String>,
    /// Since when, by the time since the daemon's start.
    #[serde(skip)]
    pub away_since: Option<Duration>,
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
    pub(super) clock: Clock,
    pub(super) actors: Mutex<Vec<Arc<ActorStats>>>,
    pub(super) streams: Mutex<Vec<Arc<StreamStats>>>,
    pub(super) pipelines: Mutex<Vec<Arc<PipelineStats>>>,
    pub(super) stopped_streams: Mutex<Vec<StoppedStream>>,
    /// Where live values go to Redis.
    pub(super) redis: Mutex<Option<RedisView>>,
    pub(super) draining: AtomicBool,
}

impl Sampled {
    fn take(&mut self, lines: u64, bytes: u64, passed_us: u64) {
        self.lines_per_s = (lines - self.lines) * 1_000_000 / passed_us;
        let bytes_per_s = (bytes - self.bytes) as f64 * 1e6 / passed_us as f64;
        self.bytes_per_s += (bytes_per_s - self.bytes_per_s) / 10.0;
        (self.lines, self.bytes) = (lines, bytes);
    }
}

impl PipelineStats {
    /// The store is away, now and perhaps before.
    pub fn away(&self, reason: String, now: Duration) {
        let mut view = self.inner.lock();
        view.error = Some(reason);
        view.away_since.get_or_insert(now);
    }

    /// The stage takes records of this ingest time.
    pub fn taken(&self, ingest_time: i64) {
        let mut view = self.inner.lock();
        view.oldest = Some(view.oldest.map_or(ingest_time, |oldest| oldest.min(ingest_time)));
        view.oldest_behind_barrier.get_or_insert(ingest_time);
    }

    /// The replay of so many letters has come to its end.
    pub fn no_longer_replayed(&self, letters: u64) {
        // A letter that somebody has deleted meanwhile is counted, too.
        let less = |count: u64| Some(count.saturating_sub(letters));
        let _ = self.under_replay.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// The stage sends a barrier: all that it took is before it.
    pub fn barrier(&self) {
        self.inner.lock().oldest_behind_barrier = None;
    }
}

impl StreamStats {
    /// The last position that was given out.
    pub(super) fn last(&self) -> Position {
        *self.head.borrow()
    }

    /// How far its journal is.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }
}

impl StatsRegistry {
    /// Nothing yet.
    pub fn new(clock: Clock) -> Arc<Self> {
        let (actors, streams, pipelines, stopped_streams, redis, draining) = Default::default();
        Arc::new(Self { clock, actors, streams, pipelines, stopped_streams, redis, draining })
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
        journal: &Journal,
        head: watch::Receiver<Position>,
        limit_bytes: u64,
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
            progress: journal.progress(),
            head,
            extents: journal.extents(),
            limit_bytes,
            direct: journal.direct(),
            sampled: Mutex::default(),
        });
        self.streams.lock().push(stats.clone());
        stats
    }

    /// Notes what is seen of Redis.
    pub fn redis<T>(&self, note: impl FnOnce(&mut RedisView) -> T) -> T {
        note(self.redis.lock().get_or_insert_default())
    }

    /// A stream that cannot be started, and its pipelines with it.
    pub fn stream_stopped(&self, name: &str, error: &str) {
        log::error!("stream {name} and its pipelines are stopped: {error}");
        self.stopped_streams.lock().push(StoppedStream { name: name.to_owned(), error: error.to_owned() });
    }

    /// Why a stream does not run.
    pub fn why_stopped(&self, stream: &str) -> Option<String> {
        let stopped = self.stopped_streams.lock();
        stopped.iter().find(|stopped| stopped.name == stream).map(|stopped| stopped.error.clone())
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
            other_events: 0,
            disorder: None,
            fields_never_seen: Vec::new(),
            last_flush: None,
            error: None,
            away_since: None,
            unpinned: false,
            oldest: None,
            oldest_behind_barrier: None,
        };
        let stats = Arc::new(PipelineStats {
            name,
            stream,
            inner: Mutex::new(inner),
            restarts: AtomicU64::new(0),
            under_replay: AtomicU64::new(0),
            letters_discarded: AtomicU64::new(0),
            replayed_upto: AtomicU64::new(0),
            alerts: Mutex::default(),
            taps: Taps::new(self.clock.clone()),
            warned: Mutex::default(),
        });
        let mut pipelines = self.pipelines.lock();
        match pipelines.iter_mut().find(|pipeline| pipeline.name == stats.name) {
            // A reload has made another one of it.
            Some(before) => *before = stats.clone(),
            None => pipelines.push(stats.clone()),
        }
        stats
    }

    /// A pipeline that a reload has no place for, and its actors.
    pub fn forget(&self, pipeline: &str) {
        self.pipelines.lock().retain(|other| other.name != pipeline);
        let kinds = ["stage", "window", "dead_letter", "flush"];
        let is_of = |name: &str| name.split('/').next() == Some(pipeline);
        self.actors.lock().retain(|actor| !(kinds.contains(&actor.kind) && is_of(&actor.name)));
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
            stream.sampled.lock().take(
                stream.lines.load(Ordering::Relaxed),
                stream.bytes.load(Ordering::Relaxed),
                passed_us,
            );
        }
        self.look_at_pipelines();
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
}
