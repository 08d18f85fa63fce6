//! The TCP server of a stream. Each connection reads into its buffer until nothing is left to read, decodes whole lines,
//! and hands them to Ingest as one message; backpressure is TCP's own, the server stops reading.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::control::ProtocolError;
use super::protocol::{Action, Protocol, ProtocolConfig};
use super::reply::Reply;
use crate::actors::{Claim, Claimed, Lines, Source, StreamHandle, Sync};
use crate::config::Tokens;
use crate::event::{Origin, Position};
use crate::journal::{Progress, durable};
use crate::limits::{
    AUTH_TIMEOUT_MS, BATCH_BYTES_MAX, CONNECTION_BUFFERS_BYTES_MAX, CONNECTIONS_MAX, LINE_TIMEOUT_MS, REPLY_TIMEOUT_MS,
};

/// Answers that may be under way on one connection; then it is not read until the first has gone.
const REPLIES_MAX: usize = 64;
/// Pauses after a failed `accept` (too many open files, for one).
const ACCEPT_PAUSE_MIN: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// One permit of the buffers' budget.
const BUFFER_UNIT: usize = 1024;

static SESSIONS: AtomicU64 = AtomicU64::new(1);

/// Takes connections until told to stop, then waits for those that are open.
pub async fn serve(listener: TcpListener, stream: StreamHandle, tokens: Tokens, mut stop: watch::Receiver<bool>) {
    let buffers = Arc::new(Semaphore::new(CONNECTION_BUFFERS_BYTES_MAX / BUFFER_UNIT));
    let open = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut pause = ACCEPT_PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn!("stream {}: cannot take a connection: {error}", stream.config.name);
                stream.clock.sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                continue;
            }
        };
        pause = ACCEPT_PAUSE_MIN;
        match open.clone().try_acquire_owned() {
            Ok(place) => {
                let connection = Connection::new(&stream, &tokens, peer, buffers.clone());
                actix_web::rt::spawn(connection.run(socket, stop.clone(), place));
            }
            Err(_) => turn_away(socket),
        }
    }
    // All places are free when the last connection has ended.
    let _ = open.acquire_many(CONNECTIONS_MAX as u32).await;
}

/// Says why, without waiting: a client that does not read must not hold anything here.
fn turn_away(socket: TcpStream) {
    let _ = socket.try_write(line(&Reply::error("too_many_connections")).as_bytes());
}

/// One connection.
struct Connection {
    stream: StreamHandle,
    source: Source,
    replaced: Arc<Notify>,
    buffers: Arc<Semaphore>,
    /// Room for its buffer, while it holds one.
    buffer: Option<OwnedSemaphorePermit>,
    progress: watch::Receiver<Progress>,
    /// Of which one must be shown.
    tokens: Tokens,
    authorized: bool,
    accepted: u64,
    rejected: u64,
}

/// An answer, in the order of the questions.
enum Pending {
    Now(Reply),
    Claim(oneshot::Receiver<Option<Claimed>>),
    Synced { position: oneshot::Receiver<Position>, token: Option<String>, accepted: u64, rejected: u64 },
}

/// Why a connection is over.
struct Over;

impl Connection {
    fn new(stream: &StreamHandle, tokens: &Tokens, peer: SocketAddr, buffers: Arc<Semaphore>) -> Self {
        let origin = Origin { producer: None, peer: Some(peer.to_string().into()) };
        Self {
            stream: stream.clone(),
            source: Source { session: SESSIONS.fetch_add(1, Ordering::Relaxed), origin },
            replaced: Arc::new(Notify::new()),
            buffers,
            buffer: None,
            progress: stream.stats.progress(),
            authorized: tokens.is_empty(),
            tokens: tokens.clone(),
            accepted: 0,
            rejected: 0,
        }
    }

    async fn run(mut self, socket: TcpStream, mut stop: watch::Receiver<bool>, _place: OwnedSemaphorePermit) {
        let stats = self.stream.stats.clone();
        stats.connections.fetch_add(1, Ordering::Relaxed);
        let _ = socket.set_nodelay(true);
        let (read, write) = socket.into_split();
        let (replies, pending) = mpsc::channel(REPLIES_MAX);
        let writer = actix_web::rt::spawn(answer(pending, write, self.stream.clone()));
        let replaced = self.replaced.clone();
        tokio::select! {
            _ = self.read(read, &replies) => {}
            () = replaced.notified() => {
                let _ = replies.send(Pending::Now(Reply::error("producer_replaced"))).await;
            }
            _ = stop.wait_for(|stop| *stop) => {}
        }
        drop(replies);
        // What was asked is answered; then both halves are gone, and the connection is closed.
        let _ = writer.await;
        stats.connections.fetch_sub(1, Ordering::Relaxed);
    }

    async fn read(&mut self, read: OwnedReadHalf, replies: &mpsc::Sender<Pending>) -> Result<(), Over> {
        let config = &self.stream.config;
        let mut protocol = Protocol::new(ProtocolConfig {
            max_line: config.max_line_bytes,
            tokens: self.tokens.clone(),
            batch_max: BATCH_BYTES_MAX,
        });
        let clock = self.stream.clock.clone();
        let connected = clock.elapsed();
        let mut line_began: Option<Duration> = None;
        loop {
            self.wait_while_held().await?;
            let deadline = match self.authorized {
                false => Some(connected + Duration::from_millis(AUTH_TIMEOUT_MS)),
                true => line_began.map(|began| began + Duration::from_millis(LINE_TIMEOUT_MS)),
            };
            let ready = match deadline {
                None => read.readable().await.is_ok(),
                Some(deadline) => tokio::select! {
                    ready = read.readable() => ready.is_ok(),
                    () = clock.sleep(deadline.saturating_sub(clock.elapsed())) => false,
                },
            };
            if !ready {
                return Err(Over);
            }
            self.take_buffer().await?;
            let ended = fill(&read, protocol.space());
            let mut acted = false;
            while let Some(action) = protocol.next() {
                acted = true;
                self.act(action, replies).await?;
            }
            // A line that is drawn out byte by byte has begun with its first byte.
            let now = clock.elapsed();
            line_began = protocol.line_begun().then(|| if acted { now } else { line_began.unwrap_or(now) });
            if let Some(clean) = ended {
                if let Some(action) = protocol.finish(clean) {
                    self.act(action, replies).await?;
                }
                return Ok(());
            }
            if !protocol.line_begun() {
                protocol.release();
                self.buffer = None;
            }
        }
    }

    /// While the journal is full, nothing is read.
    async fn wait_while_held(&mut self) -> Result<(), Over> {
        if self.progress.borrow().held.is_none() {
            return Ok(());
        }
        let began = self.stream.clock.elapsed();
        let open = self.progress.wait_for(|progress| progress.held.is_none()).await.is_ok();
        let held = self.stream.clock.elapsed().saturating_sub(began);
        self.stream.stats.held_us.fetch_add(held.as_micros() as u64, Ordering::Relaxed);
        if open { Ok(()) } else { Err(Over) }
    }

    /// Room for a buffer; an idle connection holds none.
    async fn take_buffer(&mut self) -> Result<(), Over> {
        if self.buffer.is_none() {
            let units = (BATCH_BYTES_MAX / BUFFER_UNIT) as u32;
            self.buffer = Some(self.buffers.clone().acquire_many_owned(units).await.map_err(|_| Over)?);
        }
        Ok(())
    }

    async fn act(&mut self, action: Action, replies: &mpsc::Sender<Pending>) -> Result<(), Over> {
        let pending = match action {
            Action::Lines(bytes) => return self.lines(bytes, None).await,
            Action::Overlong { head, len } => return self.lines(head, Some(len)).await,
            Action::Producer(name) => Pending::Claim(self.claim(name).await?),
            Action::Sync(token) => {
                let (reply, position) = oneshot::channel();
                self.stream.sync.send(Sync { reply }).await.map_err(|_| Over)?;
                Pending::Synced { position, token, accepted: self.accepted, rejected: self.rejected }
            }
            Action::Ping => Pending::Now(Reply::Pong),
            Action::Auth { ok: true } => {
                self.authorized = true;
                Pending::Now(Reply::Ok)
            }
            Action::Auth { ok: false } => return self.refuse(&ProtocolError::Unauthorized, replies).await,
            Action::Error(error) => return self.refuse(&error, replies).await,
        };
        replies.send(pending).await.map_err(|_| Over)
    }

    async fn refuse(&self, error: &ProtocolError, replies: &mpsc::Sender<Pending>) -> Result<(), Over> {
        replies.send(Pending::Now(error.into())).await.map_err(|_| Over)?;
        if error.closes() { Err(Over) } else { Ok(()) }
    }

    async fn lines(&mut self, bytes: Vec<u8>, overlong: Option<u64>) -> Result<(), Over> {
        let bytes = Arc::new(bytes);
        let decoded = match overlong {
            None => self.stream.decoder().decode(bytes),
            Some(len) => self.stream.decoder().overlong(bytes, len),
        };
        if decoded.is_empty() {
            return Ok(());
        }
        self.rejected += decoded.bad.len() as u64;
        self.accepted += (decoded.len() - decoded.bad.len()) as u64;
        let lines = Lines { source: self.source.clone(), decoded, overlong };
        self.stream.lines.send(lines).await.map_err(|_| Over)
    }

    async fn claim(&mut self, name: String) -> Result<oneshot::Receiver<Option<Claimed>>, Over> {
        self.source.origin.producer = Some(name.into());
        let (reply, claimed) = oneshot::channel();
        let (source, replaced) = (self.source.clone(), self.replaced.clone());
        self.stream.claim.send(Claim { source, replaced, reply }).await.map_err(|_| Over)?;
        Ok(claimed)
    }
}

/// Writes answers in their order, each when what it says is true.
async fn answer(mut pending: mpsc::Receiver<Pending>, mut write: OwnedWriteHalf, stream: StreamHandle) {
    let mut progress = stream.stats.progress();
    while let Some(next) = pending.recv().await {
        let reply = match next {
            Pending::Now(reply) => reply,
            Pending::Claim(claimed) => match claimed.await {
                Ok(Some(Claimed { number, position })) => {
                    if !durable(&mut progress, position).await {
                        return;
                    }
                    Reply::Resume(number)
                }
                Ok(None) => Reply::error("too_many_producers"),
                Err(_) => return,
            },
            Pending::Synced { position, token, accepted, rejected } => {
                let Ok(position) = position.await else { return };
                if !durable(&mut progress, position).await {
                    return;
                }
                Reply::Synced { token, accepted, rejected }
            }
        };
        let text = line(&reply);
        let written = tokio::select! {
            written = write.write_all(text.as_bytes()) => written.is_ok(),
            () = stream.clock.sleep(Duration::from_millis(REPLY_TIMEOUT_MS)) => false,
        };
        if !written {
            return;
        }
    }
    let _ = write.shutdown().await;
}

fn line(reply: &Reply) -> String {
    format!("{reply}\n")
}

/// Reads until nothing is left to read or the buffer is full. `Some` at the end: whether the client closed cleanly.
fn fill(read: &OwnedReadHalf, buffer: &mut Vec<u8>) -> Option<bool> {
    while buffer.len() < buffer.capacity() {
        match read.try_read_buf(buffer) {
            Ok(0) => return Some(true),
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(_) => return Some(false),
        }
    }
    None
}
