//! All that can be seen, as `GET /api/v1/stats` shows it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use super::alerts::AlertSnapshot;
use super::stats::{ActorStats, PipelineStats, PipelineView, RedisView, StatsRegistry, StoppedStream, StreamStats};
use crate::event::Position;
use crate::journal::Held;

#[derive(Serialize)]
struct Snapshot {
    version: &'static str,
    uptime_ms: u64,
    bottleneck: Option<Bottleneck>,
    actors: Vec<ActorSnapshot>,
    streams: Vec<StreamSnapshot>,
    stopped_streams: Vec<StoppedStream>,
    redis: Option<RedisView>,
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
    /// Pipelines for which it keeps at least half of its limit.
    pinned_by: Vec<String>,
    direct: bool,
}

#[derive(Serialize)]
struct PipelineSnapshot {
    name: String,
    stream: String,
    lag_positions: u64,
    lag_bytes: u64,
    lag_ms: i64,
    letters_under_replay: u64,
    letters_discarded: u64,
    alerts: Vec<AlertSnapshot>,
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

impl StatsRegistry {
    /// All of it, as JSON.
    ///
    /// # Errors
    /// Where JSON cannot hold it.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.snapshot())
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
            streams: streams.iter().map(|stream| stream_snapshot(stream, &pipelines)).collect(),
            stopped_streams: self.stopped_streams.lock().clone(),
            redis: self.redis.lock().clone(),
            pipelines: pipelines.iter().map(|pipeline| self.pipeline_snapshot(pipeline, &streams)).collect(),
        }
    }

    fn pipeline_snapshot(&self, pipeline: &PipelineStats, streams: &[Arc<StreamStats>]) -> PipelineSnapshot {
        let view = pipeline.inner.lock().clone();
        let stream = streams.iter().find(|stream| stream.name == pipeline.stream);
        let head = stream.map_or(view.position, |stream| stream.last());
        let lag_positions = head.saturating_sub(view.position);
        let lag_bytes = stream.map_or(0, |stream| stream.extents.bytes_behind(view.position));
        let oldest = view.oldest.filter(|_| lag_positions > 0);
        let lag_ms = oldest.map_or(0, |oldest| (self.clock.wall_ms() - oldest).max(0));
        let (name, stream) = (pipeline.name.clone(), pipeline.stream.clone());
        let letters_under_replay = pipeline.under_replay.load(Ordering::Relaxed);
        let letters_discarded = pipeline.letters_discarded.load(Ordering::Relaxed);
        let alerts = pipeline.alerts.lock().iter().map(|alert| alert.snapshot()).collect();
        PipelineSnapshot {
            name,
            stream,
            lag_positions,
            lag_bytes,
            lag_ms,
            letters_under_replay,
            letters_discarded,
            alerts,
            view,
        }
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

fn stream_snapshot(stream: &StreamStats, pipelines: &[Arc<PipelineStats>]) -> StreamSnapshot {
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
            last: stream.last(),
            durable: progress.durable,
            bytes: progress.bytes,
            limit_bytes: stream.limit_bytes,
            held: progress.held.map(held_name),
            pinned_by: stream.pins(pipelines).into_iter().map(|pin| pin.pipeline).collect(),
            direct: stream.direct,
        },
        rate_per_s: stream.sampled.lock().lines_per_s,
        held_ms: stream.held_us.load(Ordering::Relaxed) / 1_000,
    }
}
