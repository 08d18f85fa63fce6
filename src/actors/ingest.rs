//! Ingest, one a stream. Owns the order of records, the next position and the producers' numbers. Takes lines, bodies,
//! claims, syncs, ticks and letters that come again; sends blocks to the journal and batches to the recent ones, where the
//! pipelines' feeds find them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};
use tokio::sync::Notify;

use super::mailbox::{Inlet, Parcel};
use super::messages::{Body, Claim, Claimed, Lines, Resend, Sync, Taken, Tick};
use super::recent::Recent;
use super::stats::{ActorStats, StreamStats};
use crate::clock::Clock;
use crate::event::{Batch, Decoded, Origin, Position, PositionRange, is_replay_name, replay_name};
use crate::journal::{Block, Journal, Payload, Producer};
use crate::limits::{PRODUCER_FORGOTTEN_AFTER_MS, PRODUCERS_MAX};

/// So long Ingest waits for pipelines that lag, before they have to read the journal, …
const PATIENCE_MAX: Duration = Duration::from_millis(100);
/// … and patience grows again with what has passed: a pipeline that takes 40 MB/s or more is always waited for, since it
/// would lose more by decoding all again; a slower one holds nobody for long.
const PATIENCE_PER_MIB: Duration = Duration::from_millis(25);

/// What is known of a producer, and who speaks for it.
struct Known {
    producer: Producer,
    session: u64,
    replaced: Option<Arc<Notify>>,
}

/// Where pipelines find what was taken.
enum Passed {
    Batches(Vec<Arc<Batch>>),
    /// Up to there, only in the journal.
    Journal(Position),
}

/// See the module's documentation.
pub struct Ingest {
    journal: Arc<Journal>,
    recent: Arc<Recent>,
    clock: Clock,
    position: Position,
    events: u64,
    ingest_time: i64,
    patience: Duration,
    producers: HashMap<Arc<str>, Known>,
    stream: Arc<StreamStats>,
    stats: Arc<ActorStats>,
    _inlets: Vec<Inlet>,
}

impl Ingest {
    /// Goes on where the journal ends.
    pub fn new(
        journal: Arc<Journal>,
        recent: Arc<Recent>,
        clock: Clock,
        stream: Arc<StreamStats>,
        stats: Arc<ActorStats>,
        inlets: Vec<Inlet>,
    ) -> Self {
        let producers: HashMap<_, _> = journal
            .producers()
            .into_iter()
            .map(|(name, producer)| (name, Known { producer, session: 0, replaced: None }))
            .collect();
        let count = producers.keys().filter(|name| !is_replay_name(name)).count();
        stream.producers.store(count as u64, Ordering::Relaxed);
        Self {
            position: journal.progress().borrow().written,
            events: journal.events(),
            ingest_time: journal.last_ingest_time().unwrap_or(i64::MIN),
            journal,
            recent,
            clock,
            patience: PATIENCE_MAX,
            producers,
            stream,
            stats,
            _inlets: inlets,
        }
    }

    /// Ingest time never goes back, whatever the host's clock does.
    fn stamp(&mut self) -> i64 {
        self.ingest_time = self.ingest_time.max(self.clock.wall_ms());
        self.ingest_time
    }

    /// Gives the lines their positions; `None` where another source has replaced theirs.
    fn take(&mut self, lines: Lines, credit: Box<dyn Send>) -> Option<Arc<Batch>> {
        let count = lines.decoded.len() as u64;
        let rejected = lines.decoded.bad.len() as u64;
        if count == 0 {
            return None;
        }
        let ingest_time = self.stamp();
        let mut producer_number = 0;
        if let Some(name) = &lines.source.origin.producer {
            let known = self.producers.get_mut(name).filter(|known| known.session == lines.source.session)?;
            known.producer = Producer { number: known.producer.number + count, seen: ingest_time };
            producer_number = known.producer.number;
        }
        let range = self.count(count, rejected, lines.decoded.bytes.len());
        let bytes = lines.decoded.bytes.clone();
        let payload = match lines.overlong {
            Some(len) => Payload::Overlong { head: bytes, len },
            None => Payload::Lines(bytes),
        };
        let origin = lines.source.origin;
        let block = Block { range, ingest_time, events: self.events, origin: origin.clone(), producer_number, payload };
        self.journal.append(block, credit);
        let (decoded, overlong) = (lines.decoded, lines.overlong);
        Some(Arc::new(Batch { range, ingest_time, decoded, origin, silence_ms: None, overlong, replay: None }))
    }

    /// The next positions, for so many lines.
    fn count(&mut self, lines: u64, rejected: u64, bytes: usize) -> PositionRange {
        let range = PositionRange::behind(self.position, lines);
        self.position = range.upto;
        self.events += lines - rejected;
        self.stream.last_line.store(range.upto, Ordering::Relaxed);
        self.stream.lines.fetch_add(lines, Ordering::Relaxed);
        self.stream.rejected.fetch_add(rejected, Ordering::Relaxed);
        self.stream.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        range
    }

    /// Takes a body whole or not at all; gives its batches, where they are to be had.
    fn body(&mut self, body: Body, credit: Box<dyn Send>) -> Passed {
        let Body { origin, first, bytes, max_line, lines, rejected, pieces, reply } = body;
        let ingest_time = self.stamp();
        let mut producer_number = 0;
        let taken = 'taken: {
            let Some(name) = &origin.producer else { break 'taken Taken::All(self.position + lines) };
            let number = self.producers.get(name).map_or(0, |known| known.producer.number);
            if first.is_some_and(|first| first != number + 1) {
                break 'taken Taken::NotNext(Claimed { number, position: self.position });
            }
            if lines > 0 {
                let Some(known) = self.known(name, ingest_time) else { break 'taken Taken::TooManyProducers };
                // A connection of this name would go on from a number that is no longer right.
                known.session = 0;
                if let Some(replaced) = known.replaced.take() {
                    replaced.notify_one();
                }
                producer_number = number + lines;
                known.producer = Producer { number: producer_number, seen: ingest_time };
            }
            Taken::All(self.position + lines)
        };
        // The client may have gone meanwhile.
        let _ = reply.send(taken);
        if lines == 0 || !matches!(taken, Taken::All(_)) {
            return Passed::Batches(Vec::new());
        }
        let range = self.count(lines, rejected, bytes.len());
        let payload = Payload::Body { lines: bytes, max_line: max_line as u64 };
        let block = Block { range, ingest_time, events: self.events, origin: origin.clone(), producer_number, payload };
        self.journal.append(block, credit);
        let Some(pieces) = pieces else { return Passed::Journal(range.upto) };
        let mut after = range.after;
        let batch = |decoded: Decoded| {
            let range = PositionRange::behind(after, decoded.len() as u64);
            after = range.upto;
            let origin = origin.clone();
            Arc::new(Batch { range, ingest_time, decoded, origin, silence_ms: None, overlong: None, replay: None })
        };
        Passed::Batches(pieces.into_iter().map(batch).collect())
    }

    /// Takes letters that come again, unless it has them.
    fn resend(&mut self, resend: Resend, credit: Box<dyn Send>) -> Option<Arc<Batch>> {
        let Resend { replay, decoded, numbers, reply } = resend;
        let ingest_time = self.stamp();
        let name: Arc<str> = replay_name(&replay.pipeline).into();
        let number = self.producers.get(&name).map_or(0, |known| known.producer.number);
        let after = self.position;
        let is_next = *numbers.start() > number;
        let range = PositionRange::behind(after, replay.letters.len() as u64);
        let taken = if is_next { Taken::All(range.upto) } else { Taken::NotNext(Claimed { number, position: after }) };
        // It may have ended meanwhile.
        let _ = reply.send(taken);
        if !is_next {
            return None;
        }
        let producer_number = *numbers.end();
        let producer = Producer { number: producer_number, seen: ingest_time };
        self.producers.insert(name.clone(), Known { producer, session: 0, replaced: None });
        self.position = range.upto;
        let origin = Origin { producer: Some(name), peer: None };
        let payload = Payload::Replay { letters: Arc::new(replay.encode()), revision: replay.revision };
        let events = self.events;
        self.journal
            .append(Block { range, ingest_time, events, origin: origin.clone(), producer_number, payload }, credit);
        fail::fail_point!("replay-taken");
        Some(Arc::new(replay.batch(decoded, range, ingest_time, origin, 0)))
    }

    /// The producer of this name, which is remembered from now on; `None` where there are too many.
    fn known(&mut self, name: &Arc<str>, now: i64) -> Option<&mut Known> {
        if !self.producers.contains_key(name) {
            if self.producers.len() >= PRODUCERS_MAX {
                self.producers.retain(|name, known| {
                    let fresh = now - known.producer.seen < PRODUCER_FORGOTTEN_AFTER_MS;
                    known.replaced.is_some() || fresh || is_replay_name(name)
                });
            }
            if self.producers.len() >= PRODUCERS_MAX {
                return None;
            }
            let producer = Producer { number: 0, seen: now };
            self.producers.insert(name.clone(), Known { producer, session: 0, replaced: None });
            self.stream.producers.store(self.producers.len() as u64, Ordering::Relaxed);
        }
        self.producers.get_mut(name)
    }

    /// Hands on what was taken, once pipelines that keep up have room for it.
    fn push(&self, passed: Passed) -> impl Future<Output = Duration> + use<> {
        let (recent, clock, stats, mut left) =
            (self.recent.clone(), self.clock.clone(), self.stats.clone(), self.patience);
        async move {
            let batches = match passed {
                Passed::Batches(batches) => batches,
                Passed::Journal(upto) => {
                    recent.pass(upto);
                    return left;
                }
            };
            for batch in batches {
                if recent.would_leave_behind() && !left.is_zero() {
                    stats.blocked(true);
                    let began = clock.elapsed();
                    let caught_up = async {
                        while recent.would_leave_behind() {
                            recent.moved().await;
                        }
                    };
                    tokio::select! {
                        () = caught_up => {}
                        () = clock.sleep(left) => {}
                    }
                    left = left.saturating_sub(clock.elapsed().saturating_sub(began));
                    stats.blocked(false);
                }
                let passed = batch.decoded.bytes.len() as f64 / (1024.0 * 1024.0);
                recent.push(batch);
                left = (left + PATIENCE_PER_MIB.mul_f64(passed)).min(PATIENCE_MAX);
            }
            left
        }
    }

    /// The end of a handler that has taken something: it answers when that is handed on.
    fn hand_on(&mut self, passed: Passed) -> AtomicResponse<Self, ()> {
        let push = self.push(passed);
        AtomicResponse::new(Box::pin(push.into_actor(self).map(|patience, ingest, _| ingest.patience = patience)))
    }

    fn tick(&mut self, silence_ms: u32, credit: Box<dyn Send>) {
        let ingest_time = self.stamp();
        let range = PositionRange::behind(self.position, 1);
        self.position = range.upto;
        let origin = Origin::default();
        let payload = Payload::Tick { silence_ms };
        let events = self.events;
        self.journal
            .append(Block { range, ingest_time, events, origin: origin.clone(), producer_number: 0, payload }, credit);
        let (decoded, silence_ms) = (Decoded::default(), Some(silence_ms));
        self.recent.push(Arc::new(Batch {
            range,
            ingest_time,
            decoded,
            origin,
            silence_ms,
            overlong: None,
            replay: None,
        }));
    }

    fn claim(&mut self, claim: Claim) {
        let Some(name) = claim.source.origin.producer.clone() else { return };
        let now = self.stamp();
        let position = self.position;
        let claimed = self.known(&name, now).map(|known| {
            known.session = claim.source.session;
            if let Some(replaced) = known.replaced.replace(claim.replaced) {
                replaced.notify_one();
            }
            Claimed { number: known.producer.number, position }
        });
        // The connection may have ended meanwhile.
        let _ = claim.reply.send(claimed);
    }
}

impl Actor for Ingest {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        // 0 would mean unbounded: credit is the bound, and a second, soft one only confuses.
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<Lines>> for Ingest {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Lines>, _: &mut Context<Self>) -> Self::Result {
        let began = self.clock.elapsed();
        let count = parcel.message.decoded.len() as u64;
        let batch = self.take(parcel.message, Box::new(parcel.credit));
        self.stats.handled(count, self.clock.elapsed().saturating_sub(began));
        self.hand_on(Passed::Batches(batch.into_iter().collect()))
    }
}

impl Handler<Parcel<Body>> for Ingest {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Body>, _: &mut Context<Self>) -> Self::Result {
        let began = self.clock.elapsed();
        let count = parcel.message.lines;
        let passed = self.body(parcel.message, Box::new(parcel.credit));
        self.stats.handled(count, self.clock.elapsed().saturating_sub(began));
        self.hand_on(passed)
    }
}

impl Handler<Parcel<Resend>> for Ingest {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Resend>, _: &mut Context<Self>) -> Self::Result {
        let batch = self.resend(parcel.message, Box::new(parcel.credit));
        self.hand_on(Passed::Batches(batch.into_iter().collect()))
    }
}

impl Handler<Parcel<Sync>> for Ingest {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Sync>, _: &mut Context<Self>) {
        // The connection may have ended meanwhile.
        let _ = parcel.message.reply.send(self.position);
    }
}

impl Handler<Parcel<Claim>> for Ingest {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Claim>, _: &mut Context<Self>) {
        self.claim(parcel.message);
    }
}

impl Handler<Parcel<Tick>> for Ingest {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Tick>, _: &mut Context<Self>) {
        self.tick(parcel.message.silence_ms, Box::new(parcel.credit));
    }
}
