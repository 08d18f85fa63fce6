//! Every message, in the order of the data's path: who sends it, who takes it, what it weighs.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::mailbox::Weighed;
use crate::event::{Account, Batch, Counted, Decoded, Letter, Origin, Position, RawEvents, Replay, Replayed};
use crate::store::{Change, Checkpoint};
use crate::window::{FirstRecord, Rows};

/// What a message costs that holds nothing.
const SMALL: usize = 512;

/// Where lines come from: one connection, or one handle of an embedding program.
#[derive(Clone, Debug)]
pub struct Source {
    /// Tells connections apart; unique while the daemon runs.
    pub session: u64,
    /// Producer and peer.
    pub origin: Origin,
}

/// Input → Ingest: decoded lines of one source.
#[derive(Debug)]
pub struct Lines {
    /// Who sent them.
    pub source: Source,
    /// The lines.
    pub decoded: Decoded,
    /// The true length, where it is one line over `max_line` of which only the beginning is here.
    pub overlong: Option<u64>,
}

/// Input → Ingest, behind its lines: where do they end?
#[derive(Debug)]
pub struct Sync {
    /// The last position given out so far.
    pub reply: oneshot::Sender<Position>,
}

/// Input → Ingest: this source is now the one of that producer.
#[derive(Debug)]
pub struct Claim {
    /// The producer is in its origin.
    pub source: Source,
    /// Told when another source claims the producer.
    pub replaced: Arc<Notify>,
    /// The producer's number, and the position to be durable before it is told; `None`: too many producers.
    pub reply: oneshot::Sender<Option<Claimed>>,
}

/// What a producer has sent so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claimed {
    /// The number of its last line.
    pub number: u64,
    /// All of its lines are at or before it.
    pub position: Position,
}

/// HTTP → Ingest: the lines of one body, which are one block of the journal.
#[derive(Debug)]
pub struct Body {
    /// Who sent it.
    pub origin: Origin,
    /// The number of its first line, where its producer says it.
    pub first: Option<u64>,
    /// The lines as they came.
    pub bytes: Arc<Vec<u8>>,
    /// Bytes of a line; longer ones are among the rejected.
    pub max_line: usize,
    /// How many lines there are, rejected ones included.
    pub lines: u64,
    /// How many of them are no events.
    pub rejected: u64,
    /// All of them, decoded in pieces; `None` where that would hold too much: then pipelines read them from the journal.
    pub pieces: Option<Vec<Decoded>>,
    /// What became of it.
    pub reply: oneshot::Sender<Taken>,
}

/// Replay → Ingest: letters of a pipeline on their way again.
#[derive(Debug)]
pub struct Resend {
    /// The letters.
    pub replay: Replay,
    /// Their lines.
    pub decoded: Decoded,
    /// Their numbers: from the first to the last, in which letters may be missing that somebody has deleted.
    pub numbers: RangeInclusive<u64>,
    /// What became of them.
    pub reply: oneshot::Sender<Taken>,
}

/// What became of a body, or of letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// All of its lines are at or before this position.
    All(Position),
    /// Nothing was taken: its first line does not follow the producer's last.
    NotNext(Claimed),
    /// Nothing was taken: the stream remembers too many producers.
    TooManyProducers,
}

/// Ticker → Ingest: so much silence has passed.
#[derive(Debug)]
pub struct Tick {
    /// Since the last line or tick.
    pub silence_ms: u32,
}

/// Feed → Stage: the next records.
#[derive(Debug)]
pub struct Records(pub Arc<Batch>);

/// Why a flush is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlushReason {
    /// `flush_every` has passed.
    Timer,
    /// What an open epoch may hold is used up.
    Size,
    /// The daemon stops.
    Drain,
}

impl FlushReason {
    /// The word that stats show.
    pub fn name(self) -> &'static str {
        match self {
            Self::Timer => "timer",
            Self::Size => "size",
            Self::Drain => "drain",
        }
    }
}

/// Ticker → Stage: send a barrier, if there is something to flush.
#[derive(Debug)]
pub struct FlushDue(pub FlushReason);

/// Stage → Window: the rows of a batch, or of no use to it but for position and watermark.
#[derive(Debug)]
pub struct WindowRows {
    /// The rows.
    pub rows: Rows,
    /// The epoch that they belong to.
    pub epoch: u64,
    /// The first record that the pipeline read.
    pub first: FirstRecord,
}

/// Stage → every Window and DeadLetter, behind the last batch; each Window → DeadLetter, behind its letters.
#[derive(Clone, Debug)]
pub struct Barrier {
    /// Rises by one with each barrier.
    pub epoch: u64,
    /// The last epoch that was committed.
    pub committed: u64,
    /// Why.
    pub reason: FlushReason,
    /// What the checkpoint will be; its account holds only the stage's part.
    pub checkpoint: Checkpoint,
}

/// A barrier that a window hands on to DeadLetter.
#[derive(Debug)]
pub struct WindowBarrier(pub Barrier);

/// Stage, Window → DeadLetter: events that failed, letters that were replayed, and events that are kept as they came.
#[derive(Debug)]
pub struct Letters {
    /// The letters.
    pub letters: Vec<Letter>,
    /// Letters that were replayed.
    pub counted: Vec<Counted>,
    /// Of an intake that keeps them.
    pub raw: Option<Arc<RawEvents>>,
    /// The epoch that they belong to.
    pub epoch: u64,
}

impl Letters {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.counted.is_empty() && self.raw.is_none()
    }
}

/// Window, DeadLetter → Flush: a piece of an epoch.
#[derive(Debug)]
pub struct Changes {
    /// The barrier that they answer.
    pub barrier: Barrier,
    /// Whose: the windows count from 0, DeadLetter comes behind them.
    pub part: usize,
    /// The rows.
    pub changes: Vec<Change>,
    /// With the last piece: what this part adds to account and stats.
    pub last: Option<Share>,
}

/// What one part of an epoch adds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Events, since the generation began.
    pub account: Account,
    /// Windows that are open.
    pub open_windows: u64,
    /// Groups in them.
    pub groups: u64,
    /// Bytes of their state.
    pub state_bytes: u64,
    /// Events of groups that had no room, since the generation began.
    pub other_events: u64,
    /// Bytes of letters that wait for their commit.
    pub letter_bytes: u64,
}

/// How flushes ended, as Flush publishes it; only the latest counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// The last epoch that ended, one way or the other.
    pub epoch: u64,
    /// The last epoch that was committed.
    pub committed: u64,
    /// The position of that one.
    pub position: Position,
    /// Where the last one failed: so long to wait before the next.
    pub pause: Option<Duration>,
}

impl Weighed for Lines {
    fn weight(&self) -> usize {
        self.decoded.weight()
    }
}

impl Weighed for Body {
    fn weight(&self) -> usize {
        self.bytes.capacity() + self.pieces.iter().flatten().map(Decoded::weight).sum::<usize>()
    }
}

impl Weighed for Resend {
    fn weight(&self) -> usize {
        self.replay.letters.iter().map(Replayed::weight).sum::<usize>() + self.decoded.weight()
    }
}

impl Weighed for Sync {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for Claim {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for Tick {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for Records {
    fn weight(&self) -> usize {
        self.0.decoded.weight()
    }
}

impl Weighed for FlushDue {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for WindowRows {
    fn weight(&self) -> usize {
        self.rows.weight() + self.rows.batch.decoded.bytes.len()
    }
}

impl Weighed for Barrier {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for WindowBarrier {
    fn weight(&self) -> usize {
        SMALL
    }
}

impl Weighed for Letters {
    fn weight(&self) -> usize {
        self.letters.iter().map(Letter::weight).sum::<usize>()
            + self.counted.len() * size_of::<Counted>()
            + self.raw.as_ref().map_or(0, |raw| raw.weight())
    }
}

impl Weighed for Changes {
    fn weight(&self) -> usize {
        self.changes.iter().map(change_weight).sum()
    }
}

/// Bytes that a change holds.
pub fn change_weight(change: &Change) -> usize {
    size_of::<Change>()
        + match change {
            Change::Row { group, state, .. }
            | Change::Correction { group, state, .. }
            | Change::Pane { group, state, .. } => group.len() + state.capacity(),
            Change::Gone { group, .. } => group.len(),
            Change::PanesBefore(_) | Change::Counted(_) | Change::FreeLetters { .. } => 0,
            Change::Letter(letter) => letter.weight(),
            Change::Raw(raw) => raw.weight(),
        }
}
