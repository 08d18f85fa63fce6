//! DeadLetter, one a pipeline generation. Owns the letters (and an intake's raw events) of open epochs. Takes letters from
//! stage and windows, and a barrier of each; when it has them all, no letter of that epoch can follow, and it sends the
//! letters to Flush.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};

use super::guard::Guard;
use super::mailbox::{Inlet, Outlet, Parcel, Weighed};
use super::messages::{Barrier, Changes, Letters, Share, WindowBarrier, change_weight};
use super::stats::ActorStats;
use crate::event::{Counted, Letter, Position, RawEvents};
use crate::limits::BATCH_BYTES_MAX;
use crate::store::Change;

/// See the module's documentation.
pub struct DeadLetter {
    windows: usize,
    flush: Outlet<Changes>,
    /// What is not committed, by epoch.
    open: BTreeMap<u64, Open>,
    /// Of the epoch that is being aligned: barriers that have come, and the stage's, which comes first or in between.
    aligned: usize,
    /// Bytes that wait for a commit, of the whole pipeline; Flush takes off what it has committed.
    open_bytes: Arc<AtomicU64>,
    stats: Arc<ActorStats>,
    _guard: Guard,
    _inlets: Vec<Inlet>,
}

/// What came in one epoch.
#[derive(Default)]
struct Open {
    letters: Vec<Letter>,
    counted: Vec<Counted>,
    raw: Vec<Arc<RawEvents>>,
    bytes: u64,
}

impl DeadLetter {
    pub fn new(
        windows: usize,
        flush: Outlet<Changes>,
        open_bytes: Arc<AtomicU64>,
        stats: Arc<ActorStats>,
        guard: Guard,
        inlets: Vec<Inlet>,
    ) -> Self {
        let open = BTreeMap::new();
        Self { windows, flush, open, aligned: 0, open_bytes, stats, _guard: guard, _inlets: inlets }
    }

    /// One more barrier has come. The pieces for Flush, when it was the last.
    fn align(&mut self, barrier: &Barrier) -> Vec<Changes> {
        self.aligned += 1;
        if self.aligned <= self.windows {
            return Vec::new();
        }
        self.aligned = 0;
        fail::fail_point!("barrier-aligned");
        self.open = self.open.split_off(&(barrier.committed + 1));
        let part = self.windows;
        let (mut pieces, mut changes, mut bytes) = (Vec::new(), Vec::new(), 0);
        // Letters of later epochs may be here already: a window that is ahead of another sends them.
        let open = || self.open.range(..=barrier.epoch).map(|(_, open)| open);
        let raw = open().flat_map(|open| &open.raw).cloned().map(Change::Raw);
        for change in settled(open()).into_iter().chain(raw) {
            bytes += change_weight(&change);
            changes.push(change);
            if bytes >= BATCH_BYTES_MAX {
                bytes = 0;
                let changes = std::mem::take(&mut changes);
                pieces.push(Changes { barrier: barrier.clone(), part, changes, last: None });
            }
        }
        // The stage counted its part of the account up to this barrier.
        let account = barrier.checkpoint.account;
        let letter_bytes = open().map(|open| open.bytes).sum();
        let last = Some(Share { account, letter_bytes, ..Share::default() });
        pieces.push(Changes { barrier: barrier.clone(), part, changes, last });
        pieces
    }

    fn answer(&mut self, barrier: &Barrier) -> AtomicResponse<Self, ()> {
        let pieces = self.align(barrier);
        let flush = self.flush.clone();
        let send = async move {
            for piece in pieces {
                // Where Flush has ended, the generation has.
                if flush.send(piece).await.is_err() {
                    return;
                }
            }
        };
        AtomicResponse::new(Box::pin(send.into_actor(self).map(|(), _, _| ())))
    }
}

/// What becomes of each letter, where several records may be about the same one: the last record decides. Letters come
/// before what has counted.
fn settled<'a>(open: impl Iterator<Item = &'a Open>) -> Vec<Change> {
    let mut letters: BTreeMap<Position, Letter> = BTreeMap::new();
    let mut counted: BTreeMap<Position, Counted> = BTreeMap::new();
    for open in open {
        for letter in &open.letters {
            match letters.get_mut(&letter.position) {
                None => drop(letters.insert(letter.position, letter.clone())),
                Some(before) => before.merge(letter.clone()),
            }
        }
        for now in &open.counted {
            let last = counted.entry(now.position).or_insert(*now);
            if now.record > last.record {
                *last = *now;
            }
        }
    }
    counted.retain(|position, counted| letters.get(position).is_none_or(|letter| letter.record < counted.record));
    letters.into_values().map(Change::Letter).chain(counted.into_values().map(Change::Counted)).collect()
}

impl Actor for DeadLetter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<Letters>> for DeadLetter {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Letters>, _: &mut Context<Self>) {
        let bytes = parcel.message.weight() as u64;
        let Letters { letters, counted, raw, epoch } = parcel.message;
        self.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.stats.handled(letters.len() as u64, std::time::Duration::ZERO);
        let open = self.open.entry(epoch).or_default();
        open.letters.extend(letters);
        open.counted.extend(counted);
        open.raw.extend(raw);
        open.bytes += bytes;
    }
}

impl Handler<Parcel<Barrier>> for DeadLetter {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<Barrier>, _: &mut Context<Self>) -> Self::Result {
        self.answer(&parcel.message)
    }
}

impl Handler<Parcel<WindowBarrier>> for DeadLetter {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, parcel: Parcel<WindowBarrier>, _: &mut Context<Self>) -> Self::Result {
        self.answer(&parcel.message.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{LetterKind, Origin};

    fn letter(position: Position, record: Position) -> Letter {
        Letter {
            position,
            line: Vec::new(),
            kind: LetterKind::Late,
            stage: String::new(),
            reason: format!("at {record}"),
            ingest_time: 0,
            failed_at: 0,
            origin: Origin::default(),
            record,
            attempts: 1,
            again: record != position,
        }
    }

    fn counted(position: Position, record: Position) -> Counted {
        Counted { position, record, at: 0 }
    }

    type Failed = (u64, u32, u64, bool);

    /// What is left: letters as position, attempts, record, whether the store has them; then the positions that counted.
    fn left(letters: &[Letter], replayed: &[Counted]) -> (Vec<Failed>, Vec<u64>) {
        let epochs = letters.iter().map(|letter| Open { letters: vec![letter.clone()], ..Open::default() });
        let all: Vec<Open> = epochs.chain([Open { counted: replayed.to_vec(), ..Open::default() }]).collect();
        let (mut failed, mut done) = (Vec::new(), Vec::new());
        for change in settled(all.iter()) {
            match change {
                Change::Letter(letter) => failed.push((letter.position, letter.attempts, letter.record, letter.again)),
                Change::Counted(counted) => done.push(counted.position),
                _ => panic!("no other change"),
            }
        }
        (failed, done)
    }

    #[test]
    fn the_last_record_about_a_letter_decides() {
        assert_eq!(
            left(&[letter(1, 1), letter(1, 1)], &[]),
            (vec![(1, 1, 1, false)], vec![]),
            "two outputs of one event"
        );
        assert_eq!(left(&[letter(1, 7)], &[counted(1, 7)]), (vec![(1, 1, 7, true)], vec![]), "it failed again");
        assert_eq!(left(&[], &[counted(1, 7), counted(2, 8)]), (vec![], vec![1, 2]));
        assert_eq!(
            left(&[letter(1, 1)], &[counted(1, 7)]),
            (vec![(1, 1, 1, false)], vec![1]),
            "both before one commit"
        );
        let thrice = [letter(1, 9), letter(1, 1), letter(1, 5)];
        let replays = [counted(1, 5), counted(1, 9)];
        assert_eq!(left(&thrice, &replays), (vec![(1, 3, 9, false)], vec![]));
        assert_eq!(left(&thrice, &[replays[0], replays[1], counted(1, 11)]), (vec![(1, 3, 9, false)], vec![1]));
    }
}
