//! Lines of an embedding program, as if they came over TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot, watch};

use crate::actors::{Lines, Source, StreamHandle};
use crate::event::{Origin, Position};
use crate::journal::{Progress, durable};
use crate::limits::BATCH_BYTES_MAX;

/// Lines that wait for their batch at most.
const SENT_LINES_MAX: usize = 1024;

/// The daemon takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the daemon has stopped, or its journal has failed")]
pub struct Stopped;

/// Sends lines to a stream from the same process, as TCP would.
#[derive(Clone)]
pub struct StreamSender {
    name: Arc<str>,
    lines: mpsc::Sender<Sent>,
    progress: watch::Receiver<Progress>,
}

enum Sent {
    Line(Vec<u8>),
    Sync(oneshot::Sender<Position>),
}

static SESSIONS: AtomicU64 = AtomicU64::new(1 << 63);

impl StreamSender {
    pub(crate) fn new(stream: &StreamHandle) -> Self {
        let (lines, sent) = mpsc::channel(SENT_LINES_MAX);
        stream.arbiter.spawn(collect(sent, stream.clone()));
        Self { name: stream.config.name.as_str().into(), lines, progress: stream.stats.progress() }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a line (a line end is not needed); waits for room, as TCP would.
    ///
    /// # Errors
    /// Where the daemon has stopped.
    pub async fn send(&self, line: impl Into<Vec<u8>>) -> Result<(), Stopped> {
        self.lines.send(Sent::Line(line.into())).await.map_err(|_| Stopped)
    }

    /// Waits until all lines that were sent before are durable.
    ///
    /// # Errors
    /// Where they never will be: the daemon has stopped, or its journal has failed.
    pub async fn synced(&self) -> Result<(), Stopped> {
        let (reply, position) = oneshot::channel();
        self.lines.send(Sent::Sync(reply)).await.map_err(|_| Stopped)?;
        let position = position.await.map_err(|_| Stopped)?;
        let mut progress = self.progress.clone();
        if durable(&mut progress, position).await { Ok(()) } else { Err(Stopped) }
    }
}

/// Collects the lines of an embedding program into batches: a message a line would cost more than the line.
async fn collect(mut sent: mpsc::Receiver<Sent>, stream: StreamHandle) {
    let session = SESSIONS.fetch_add(1, Ordering::Relaxed);
    let source = Source { session, origin: Origin { producer: None, peer: Some("embedded".into()) } };
    let mut progress = stream.stats.progress();
    let mut next = sent.recv().await;
    while let Some(first) = next.take() {
        let mut bytes = Vec::new();
        let (mut sync, mut overlong) = (None, None);
        let mut at = Some(first);
        while let Some(message) = at.take() {
            match message {
                Sent::Line(line) if line.len() > stream.config.max_line_bytes => {
                    overlong = Some(line);
                    break;
                }
                Sent::Line(line) => {
                    bytes.extend_from_slice(&line);
                    bytes.push(b'\n');
                }
                Sent::Sync(reply) => {
                    sync = Some(reply);
                    break;
                }
            }
            if bytes.len() < BATCH_BYTES_MAX {
                at = sent.try_recv().ok();
            }
        }
        if progress.wait_for(|progress| progress.held.is_none()).await.is_err() {
            return;
        }
        let decoded = stream.decoder().decode(Arc::new(bytes));
        let lines = Lines { source: source.clone(), decoded, overlong: None };
        if !lines.decoded.is_empty() && stream.lines.send(lines).await.is_err() {
            return;
        }
        if let Some(line) = overlong {
            take_overlong(&stream, &source, &line).await;
        }
        if let Some(reply) = sync
            && stream.sync.send(crate::actors::Sync { reply }).await.is_err()
        {
            return;
        }
        next = sent.recv().await;
    }
}

async fn take_overlong(stream: &StreamHandle, source: &Source, line: &[u8]) {
    let head = line[..line.len().min(crate::limits::OVERLONG_LINE_KEPT_BYTES)].to_vec();
    let len = line.len() as u64;
    let decoded = stream.decoder().overlong(Arc::new(head), len);
    // Where Ingest has ended, the next line notices.
    let _ = stream.lines.send(Lines { source: source.clone(), decoded, overlong: Some(len) }).await;
}
