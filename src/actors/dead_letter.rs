//! DeadLetter, one a pipeline generation. Owns the letters of open epochs. Takes letters from stage and windows, and a
//! barrier of each; when it has them all, no letter of that epoch can follow, and it sends the letters to Flush.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::{Actor, ActorFutureExt, AtomicResponse, Context, Handler, WrapFuture};

use super::guard::Guard;
use super::mailbox::{Inlet, Outlet, Parcel};
use super::messages::{Barrier, Changes, Letters, Share, WindowBarrier, change_weight};
use super::stats::ActorStats;
use crate::event::Letter;
use crate::limits::BATCH_BYTES_MAX;
use crate::store::Change;

/// See the module's documentation.
pub struct DeadLetter {
    windows: usize,
    flush: Outlet<Changes>,
    /// Letters that are not committed, by epoch.
    letters: BTreeMap<u64, Vec<Letter>>,
    /// Of the epoch that is being aligned: barriers that have come, and the stage's, which comes first or in between.
    aligned: usize,
    /// Bytes that wait for a commit, of the whole pipeline; Flush takes off what it has committed.
    open_bytes: Arc<AtomicU64>,
    stats: Arc<ActorStats>,
    _guard: Guard,
    _inlets: Vec<Inlet>,
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
        let letters = BTreeMap::new();
        Self { windows, flush, letters, aligned: 0, open_bytes, stats, _guard: guard, _inlets: inlets }
    }

    /// One more barrier has come. The pieces for Flush, when it was the last.
    fn align(&mut self, barrier: &Barrier) -> Vec<Changes> {
        self.aligned += 1;
        if self.aligned <= self.windows {
            return Vec::new();
        }
        self.aligned = 0;
        fail::fail_point!("barrier-aligned");
        self.letters = self.letters.split_off(&(barrier.committed + 1));
        let part = self.windows;
        let (mut pieces, mut changes, mut bytes) = (Vec::new(), Vec::new(), 0);
        // Letters of later epochs may be here already: a window that is ahead of another sends them.
        for letter in self.letters.range(..=barrier.epoch).flat_map(|(_, letters)| letters) {
            let change = Change::Letter(letter.clone());
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
        let last = Some(Share { account, ..Share::default() });
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

impl Actor for DeadLetter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(0);
    }
}

impl Handler<Parcel<Letters>> for DeadLetter {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Letters>, _: &mut Context<Self>) {
        let Letters { letters, epoch } = parcel.message;
        let bytes: usize = letters.iter().map(Letter::weight).sum();
        self.open_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.stats.handled(letters.len() as u64, std::time::Duration::ZERO);
        self.letters.entry(epoch).or_default().extend(letters);
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
