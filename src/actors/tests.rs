//! What this room rests on: facts about actix that an upgrade may change, mailboxes, and what Flush refuses.
#![expect(clippy::disallowed_methods, reason = "they show what is wrong with these methods")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, AsyncContext, Context, Handler, Message, System};
use futures_util::FutureExt;
use tokio::sync::{oneshot, watch};

use super::flush::{Commits, Flush, FlushContext};
use super::guard::{Ended, Keeper};
use super::mailbox::{Closed, Gauge, Inlet, Outlet, Parcel, Weighed};
use super::messages::{Barrier, Changes, FlushReason, Outcome, Share, WindowRows};
use super::stats::StatsRegistry;
use crate::clock::Clock;
use crate::config::{AtLimit, LetterLimit, StoreUrl};
use crate::event::{Account, PositionRange};
use crate::journal::{Block, Journal, JournalOptions, Payload};
use crate::pipeline::IntakeResults;
use crate::store::{AlertFlush, Checkpoint, Course, Definition, Store};

/// The window that takes a record at this position panics, once; 0: none does.
pub(crate) static PANIC_AT: AtomicU64 = AtomicU64::new(0);

/// While it is set, each window that takes a group `/panic` panics.
pub(crate) static PANIC_ALWAYS: AtomicBool = AtomicBool::new(false);

/// Called by every window in test builds.
pub(super) fn sabotage(message: &WindowRows) {
    if PANIC_ALWAYS.load(Ordering::SeqCst) && message.rows.keys.windows(6).any(|key| key == b"/panic") {
        panic!("sabotage, again and again");
    }
    let at = PANIC_AT.load(Ordering::SeqCst);
    let range = message.rows.range;
    if at > range.after && at <= range.upto && !message.rows.rows.is_empty() {
        PANIC_AT.store(0, Ordering::SeqCst);
        panic!("sabotage at position {at}");
    }
}

/// Counts what it is sent; a gate holds it back.
struct Counter {
    count: Arc<AtomicU64>,
    gate: Option<oneshot::Receiver<()>>,
    _inlet: Option<Inlet>,
}

impl Actor for Counter {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.set_mailbox_capacity(1);
        if let Some(gate) = self.gate.take() {
            ctx.wait(actix::fut::wrap_future(async move { drop(gate.await) }));
        }
    }
}

struct Ping;

impl Message for Ping {
    type Result = ();
}

impl Handler<Ping> for Counter {
    type Result = ();

    fn handle(&mut self, _: Ping, _: &mut Context<Self>) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bytes(usize);

impl Weighed for Bytes {
    fn weight(&self) -> usize {
        self.0
    }
}

impl Handler<Parcel<Bytes>> for Counter {
    type Result = ();

    fn handle(&mut self, parcel: Parcel<Bytes>, _: &mut Context<Self>) {
        self.count.fetch_add(parcel.message.0 as u64, Ordering::SeqCst);
    }
}

fn counter(inlet: Option<Inlet>) -> (actix::Addr<Counter>, Arc<AtomicU64>, oneshot::Sender<()>) {
    let count = Arc::new(AtomicU64::new(0));
    let (open, gate) = oneshot::channel();
    let actor = Counter { count: count.clone(), gate: Some(gate), _inlet: inlet };
    (actor.start(), count, open)
}

/// Lets everything that can run do so.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn actix_send_passes_a_full_mailbox_and_a_dropped_send_is_not_handled() {
    System::new().block_on(async {
        let (actor, count, open) = counter(None);
        settle().await;
        let mut sends: Vec<_> = (0..100).map(|_| Box::pin(actor.send(Ping))).collect();
        for send in &mut sends {
            assert!(send.as_mut().now_or_never().is_none());
        }
        sends.truncate(60);
        open.send(()).unwrap();
        for send in sends {
            send.await.unwrap();
        }
        settle().await;
        assert_eq!(count.load(Ordering::SeqCst), 60, "100 were in a mailbox of 1; the 40 whose futures ended are gone");
    });
}

#[test]
fn actix_do_send_ignores_the_capacity() {
    System::new().block_on(async {
        let (actor, count, open) = counter(None);
        settle().await;
        (0..100).for_each(|_| actor.do_send(Ping));
        open.send(()).unwrap();
        settle().await;
        assert_eq!(count.load(Ordering::SeqCst), 100);
    });
}

#[test]
fn a_mailbox_takes_its_bytes_and_no_more() {
    System::new().block_on(async {
        let gauge = Gauge::new(10_000);
        let (actor, count, open) = counter(Some(Inlet::of(&gauge)));
        let outlet: Outlet<Bytes> = Outlet::new(&actor, &gauge, &Clock::system());
        outlet.send(Bytes(6_000)).await.unwrap();
        outlet.send(Bytes(4_000)).await.unwrap();
        assert_eq!((gauge.bytes(), gauge.messages()), (10_000, 2));
        let mut third = Box::pin(outlet.send(Bytes(1)));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(gauge.is_full());
        open.send(()).unwrap();
        third.await.unwrap();
        settle().await;
        assert_eq!((count.load(Ordering::SeqCst), gauge.bytes(), gauge.is_full()), (10_001, 0, false));
        // A message larger than the mailbox takes all of it.
        outlet.send(Bytes(1_000_000)).await.unwrap();
        assert_eq!(gauge.bytes(), 10_000);
    });
}

#[test]
fn whoever_waits_for_an_actor_that_ends_is_told() {
    System::new().block_on(async {
        let gauge = Gauge::new(1_000);
        let (actor, _, open) = counter(Some(Inlet::of(&gauge)));
        let outlet: Outlet<Bytes> = Outlet::new(&actor, &gauge, &Clock::system());
        outlet.send(Bytes(1_000)).await.unwrap();
        let mut waiting = Box::pin(outlet.send(Bytes(1)));
        assert!(waiting.as_mut().now_or_never().is_none());
        // An inlet ends with its actor; a mailbox that only the test holds ends here.
        drop(Inlet::of(&gauge));
        assert_eq!(waiting.await, Err(Closed));
        drop(open);
    });
}

/// A Flush over a real store and journal, whose only part is DeadLetter's.
async fn flush_one(account: Account) -> (Option<Ended>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::system();
    let options = JournalOptions {
        dir: folder.path().join("journal"),
        fsync: true,
        limit_bytes: 1 << 30,
        keep_ms: 0,
        min_free_bytes: 0,
        sync: Arc::new(std::fs::File::sync_data),
    };
    let journal = Arc::new(Journal::open(options, clock.clone()).unwrap());
    let range = PositionRange::behind(0, 10);
    let payload = Payload::Lines(Arc::new(b"{}\n".repeat(10)));
    let block = Block { range, ingest_time: 1, events: 10, origin: Default::default(), producer_number: 0, payload };
    journal.append(block, Box::new(()));

    let store = Store::open(&StoreUrl::Sqlite(folder.path().join("tidemill.db")), true).unwrap();
    let definition: Arc<dyn Definition> = Arc::new(IntakeResults::new("web", crate::event::Format::Ndjson, None));
    let snapshot = store.begin(definition.clone(), "web", Box::new(|_, _| Ok(Course::GoOn))).await.unwrap();
    let (keeper, mut ended) = Keeper::new();
    let (outcome, mut outcomes) = watch::channel(Outcome::default());
    let stats = StatsRegistry::new(clock.clone());
    let gauge = Gauge::new(100_000);
    let context = FlushContext {
        definition: definition.clone(),
        stream: "web".into(),
        store: store.clone(),
        fence: snapshot.fence,
        revision: 1,
        revise: None,
        letters: LetterLimit { bytes: 1 << 20, beyond: AtLimit::Discard },
        live: None,
        alerts: AlertFlush::default(),
        base: Account::default(),
        parts: 1,
        progress: journal.progress(),
        commits: Commits::new(journal.clone(), ["@web".to_owned()].into_iter()),
        outcome,
        committed: watch::channel(0).0,
        open_bytes: Arc::default(),
        pipeline: stats.pipeline("@web".into(), "web".into()),
        stats: stats.actor("flush", "@web".into(), Vec::new()),
        clock: clock.clone(),
        keeper: keeper.clone(),
    };
    let flush = Flush::new(context, vec![Inlet::of(&gauge)]).start();
    let outlet: Outlet<Changes> = Outlet::new(&flush, &gauge, &clock);
    let checkpoint = Checkpoint { journal_id: journal.id(), position: 10, ..Checkpoint::default() };
    let barrier = Barrier { epoch: 1, committed: 0, reason: FlushReason::Timer, checkpoint };
    let last = Some(Share { account, ..Share::default() });
    outlet.send(Changes { barrier, part: 0, changes: Vec::new(), last }).await.unwrap();
    let ended = tokio::select! {
        ended = ended.recv() => ended,
        _ = outcomes.changed() => None,
    };
    let stored = store.begin(definition, "web", Box::new(|_, _| Ok(Course::GoOn))).await.unwrap();
    (ended, stored.checkpoint.position)
}

#[test]
fn an_account_that_does_not_balance_is_refused_and_nothing_is_committed() {
    let balanced = Account { read: 10, aggregated: 9, dead: 1, ..Account::default() };
    let lost = Account { read: 10, aggregated: 9, ..Account::default() };
    System::new().block_on(async {
        assert_eq!(flush_one(balanced).await, (None, 10));
        let (ended, position) = flush_one(lost).await;
        let Some(Ended::Refused(reason)) = ended else { panic!("{ended:?}") };
        assert!(reason.contains("10 events came in, 9 have ended"), "{reason}");
        assert_eq!(position, 0);
    });
}

#[test]
fn a_guard_tells_of_an_actor_that_panics() {
    let (keeper, mut ended) = Keeper::new();
    let guard = keeper.guard("window 0");
    let thread = std::thread::spawn(move || {
        let _guard = guard;
        panic!("an actor's panic");
    });
    assert!(thread.join().is_err());
    assert_eq!(ended.try_recv().unwrap(), Ended::Actor("the window 0 ended".into()));
}

/// That timers of a busy actor starve is why a flush's timer is a message here.
#[test]
fn actix_timers_starve_while_the_mailbox_has_messages() {
    struct Busy {
        left: u64,
        fired: Arc<AtomicU64>,
        done: Option<oneshot::Sender<()>>,
    }
    impl Actor for Busy {
        type Context = Context<Self>;

        fn started(&mut self, ctx: &mut Context<Self>) {
            let fired = self.fired.clone();
            ctx.run_interval(Duration::from_millis(1), move |_, _| {
                fired.fetch_add(1, Ordering::SeqCst);
            });
        }
    }
    impl Handler<Ping> for Busy {
        type Result = ();

        fn handle(&mut self, _: Ping, ctx: &mut Context<Self>) {
            std::thread::sleep(Duration::from_millis(1));
            self.left -= 1;
            match self.left {
                0 => drop(self.done.take().map(|done| done.send(()))),
                _ => ctx.address().do_send(Ping),
            }
        }
    }
    System::new().block_on(async {
        let fired = Arc::new(AtomicU64::new(0));
        let (done, is_done) = oneshot::channel();
        let actor = Busy { left: 100, fired: fired.clone(), done: Some(done) }.start();
        actor.do_send(Ping);
        is_done.await.unwrap();
        assert_eq!(fired.load(Ordering::SeqCst), 0, "100 ms of messages, and a timer of 1 ms");
    });
}
