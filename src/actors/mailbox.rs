//! Mailboxes that are bounded in bytes. In actix 0.13 neither `do_send` nor `send` waits for room, so that credit does:
//! a message takes as many permits as it has bytes, carries them along, and gives them back when it has been handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::{Actor, Addr, Context, Handler, Message, Recipient};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::clock::Clock;

/// Bytes that a message costs at least, so that a mailbox is bounded in messages, too.
const MESSAGE_BYTES_MIN: usize = 512;

/// What travels between actors. Its weight is what it holds in memory.
pub trait Weighed {
    /// Bytes.
    fn weight(&self) -> usize;
}

/// A message with its credit. Credit goes home when this is dropped.
pub struct Parcel<M> {
    pub message: M,
    pub credit: Credit,
}

/// The right to put so many bytes into a mailbox.
pub struct Credit {
    _permit: OwnedSemaphorePermit,
    gauge: Arc<Gauge>,
}

impl Drop for Credit {
    fn drop(&mut self) {
        self.gauge.messages.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<M> Message for Parcel<M> {
    type Result = ();
}

/// What can be seen of a mailbox.
pub struct Gauge {
    credit: Arc<Semaphore>,
    capacity: usize,
    messages: AtomicU64,
    /// Senders that wait for room right now.
    waiting: AtomicU64,
    waited_us: AtomicU64,
}

impl Gauge {
    /// A mailbox of `capacity` bytes.
    pub fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            credit: Arc::new(Semaphore::new(capacity)),
            capacity,
            messages: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            waited_us: AtomicU64::new(0),
        })
    }

    /// Bytes that are in it.
    pub fn bytes(&self) -> usize {
        self.capacity.saturating_sub(self.credit.available_permits())
    }

    /// Bytes that fit.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Messages that are in it.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Whether somebody waits for room.
    pub fn is_full(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Time that senders have waited for room, in all.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.waited_us.load(Ordering::Relaxed))
    }
}

/// The actor behind a mailbox has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the actor has ended")]
pub struct Closed;

/// Why a message that does not wait was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotSent {
    /// There is no room for it now.
    #[error("the mailbox is full")]
    Full,
    /// The actor has ended.
    #[error("the actor has ended")]
    Closed,
}

/// The sending side of a mailbox.
pub struct Outlet<M: Weighed + Send + 'static> {
    to: Recipient<Parcel<M>>,
    gauge: Arc<Gauge>,
    clock: Clock,
}

impl<M: Weighed + Send + 'static> Clone for Outlet<M> {
    fn clone(&self) -> Self {
        Self { to: self.to.clone(), gauge: self.gauge.clone(), clock: self.clock.clone() }
    }
}

impl<M: Weighed + Send + 'static> Outlet<M> {
    /// The sending side of the mailbox in front of an actor.
    pub fn new<A>(to: &Addr<A>, gauge: &Arc<Gauge>, clock: &Clock) -> Self
    where
        A: Actor<Context = Context<A>> + Handler<Parcel<M>>,
    {
        Self { to: to.clone().recipient(), gauge: gauge.clone(), clock: clock.clone() }
    }

    /// Puts a message in, once there is room for its bytes. A message larger than the mailbox takes all of it.
    ///
    /// # Errors
    /// Where the actor has ended.
    pub async fn send(&self, message: M) -> Result<(), Closed> {
        let permits = self.permits(&message);
        let permit = match self.gauge.credit.clone().try_acquire_many_owned(permits) {
            Ok(permit) => permit,
            Err(_) => self.wait(permits).await?,
        };
        self.put(message, permit)
    }

    /// Puts a message in if there is room for its bytes right now.
    ///
    /// # Errors
    /// Where there is none, or the actor has ended.
    pub fn send_now(&self, message: M) -> Result<(), NotSent> {
        let permits = self.permits(&message);
        let permit = self.gauge.credit.clone().try_acquire_many_owned(permits).map_err(|error| match error {
            TryAcquireError::NoPermits => NotSent::Full,
            TryAcquireError::Closed => NotSent::Closed,
        })?;
        self.put(message, permit).map_err(|_| NotSent::Closed)
    }

    fn permits(&self, message: &M) -> u32 {
        let bytes = message.weight().max(MESSAGE_BYTES_MIN).min(self.gauge.capacity);
        // A mailbox has far less than 4 GiB, so that the number fits.
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }

    async fn wait(&self, permits: u32) -> Result<OwnedSemaphorePermit, Closed> {
        let began = self.clock.elapsed();
        let _waiting = Waiting::new(&self.gauge.waiting);
        let permit = self.gauge.credit.clone().acquire_many_owned(permits).await.map_err(|_| Closed);
        let waited = self.clock.elapsed().saturating_sub(began).as_micros() as u64;
        self.gauge.waited_us.fetch_add(waited, Ordering::Relaxed);
        permit
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that sends: credit was taken before")]
    fn put(&self, message: M, permit: OwnedSemaphorePermit) -> Result<(), Closed> {
        if !self.to.connected() {
            return Err(Closed);
        }
        self.gauge.messages.fetch_add(1, Ordering::Relaxed);
        let credit = Credit { _permit: permit, gauge: self.gauge.clone() };
        self.to.do_send(Parcel { message, credit });
        Ok(())
    }
}

/// Counts one who waits, for as long as it lives (a wait can be given up).
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn new(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Held by the receiving actor: when it ends, whoever waits for room in its mailbox is told.
pub struct Inlet(Arc<Gauge>);

impl Inlet {
    /// The receiving side of a mailbox.
    pub fn of(gauge: &Arc<Gauge>) -> Self {
        Self(gauge.clone())
    }
}

impl Drop for Inlet {
    fn drop(&mut self) {
        self.0.credit.close();
    }
}
