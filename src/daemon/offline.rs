//! The actor system without edges: no listener, no HTTP, no Redis, no webhook, and journals in a temporary folder that goes with it.
//! For files, and for the tests of a config. Nobody tells silence here but whoever owns it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::{StartError, unregistered};
use crate::actors::{Closed, Lines, PipelineHandle, Source, StreamHandle, Sync, System, SystemError, SystemOptions};
use crate::clock::Clock;
use crate::config::{Config, Durability, Start};
use crate::event::{Decoded, Origin};
use crate::journal::JournalError;
use crate::limits::OVERLONG_LINE_KEPT_BYTES;
use crate::pipeline::StageRegistry;
use crate::store::{Query, ResultRows, Store, StoreError};

/// How a system without edges ends before its work is done.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// It does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A pipeline has stopped, or a journal cannot be written.
    #[error("{0}")]
    Stopped(String),
}

/// A running system without edges.
pub struct Offline {
    system: System,
}

impl Offline {
    /// Runs work on a system, on this thread, until it is done or the system can no longer do it; then ends it, and waits
    /// until its store is closed. The config's store is used as it is; its folders, addresses and Redis are not touched.
    /// A journal has so many bytes, in which nothing is kept for later.
    ///
    /// # Errors
    /// Where it does not start, or a pipeline or a journal stops meanwhile.
    pub fn run<T>(
        config: Config,
        clock: Clock,
        (windows, journal_bytes): (usize, u64),
        work: impl AsyncFnOnce(&Self) -> T,
    ) -> Result<T, OfflineError> {
        let folder = tempfile::Builder::new().prefix("tidemill-").tempdir().map_err(|source| {
            let path = std::env::temp_dir();
            StartError::System(SystemError::Journal(JournalError::Io { path, source }))
        })?;
        let config = without_edges(config, folder.path(), journal_bytes);
        if let Some(name) = unregistered(&config, |_| false) {
            return Err(StartError::Stage(name).into());
        }
        let runner = actix_web::rt::System::new();
        let (done, closed) = runner.block_on(async {
            let offline = Self::start(config, clock, windows).await?;
            let done = tokio::select! {
                done = work(&offline) => Ok(done),
                reason = offline.stopped() => Err(OfflineError::Stopped(reason)),
            };
            let closed = offline.system.store().ended();
            offline.system.stop();
            Ok::<_, StartError>((done, closed))
        })?;
        // What still holds the store ends with the runtime.
        drop(runner);
        let _ = closed.recv();
        done
    }

    async fn start(config: Config, clock: Clock, windows: usize) -> Result<Self, StartError> {
        let options = SystemOptions {
            config,
            registry: StageRegistry::new(),
            windows,
            clock,
            // Its journals need not outlive it.
            sync: Arc::new(|_| Ok(())),
            accept_plan: None,
            is_paced: false,
        };
        Ok(Self { system: System::start(options).await? })
    }

    /// Waits until something has stopped that does not go on by itself; why.
    async fn stopped(&self) -> String {
        let streams = self.system.streams().into_iter().map(|stream| Box::pin(journal_failed(stream)) as Told);
        let pipelines = self.all().into_iter().map(|pipeline| Box::pin(pipeline_stopped(pipeline)) as Told);
        futures_util::future::select_all(streams.chain(pipelines)).await.0
    }

    fn all(&self) -> Vec<PipelineHandle> {
        self.system.pipelines().all().into_iter().chain(self.system.intakes().iter().cloned()).collect()
    }

    /// Sends whole lines to a stream, in the name of a peer; waits for room, as TCP would.
    ///
    /// # Errors
    /// Where the stream has ended.
    pub async fn send(&self, stream: &str, peer: Option<&Arc<str>>, lines: Vec<u8>) -> Result<(), Closed> {
        let stream = self.stream(stream)?;
        let source = Source { session: 0, origin: Origin { producer: None, peer: peer.cloned() } };
        let longest = stream.config.max_line_bytes;
        let decoder = stream.decoder();
        if lines.len() <= longest || lines.split(|byte| *byte == b'\n').all(|line| without_cr(line).len() <= longest) {
            return put(&stream, &source, decoder.decode(Arc::new(lines)), None).await;
        }
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = without_cr(line.strip_suffix(b"\n").unwrap_or(line));
            let (decoded, overlong) = if text.len() > longest {
                let head = text[..text.len().min(OVERLONG_LINE_KEPT_BYTES)].to_vec();
                (decoder.overlong(Arc::new(head), text.len() as u64), Some(text.len() as u64))
            } else {
                (decoder.decode(Arc::new(line.to_vec())), None)
            };
            put(&stream, &source, decoded, overlong).await?;
        }
        Ok(())
    }

    /// Tells a stream of silence.
    ///
    /// # Errors
    /// Where the stream has ended.
    pub async fn silence(&self, stream: &str, silence_ms: i64) -> Result<(), Closed> {
        let (stream, mut left) = (self.stream(stream)?, silence_ms);
        while left > 0 {
            let part = u32::try_from(left).unwrap_or(u32::MAX);
            stream.silence(part).await?;
            left -= i64::from(part);
        }
        Ok(())
    }

    /// Waits until the store has all that was sent.
    ///
    /// # Errors
    /// Where a stream has ended, or a pipeline has stopped.
    pub async fn commit(&self) -> Result<(), Closed> {
        for stream in self.system.streams() {
            let (reply, position) = oneshot::channel();
            stream.sync.send(Sync { reply }).await?;
            position.await.map_err(|_| Closed)?;
        }
        if self.system.commit_all().await { Ok(()) } else { Err(Closed) }
    }

    /// Its store.
    pub fn store(&self) -> Store {
        self.system.store()
    }

    /// Lines of a stream, and how many of them are no events.
    pub fn lines(&self, stream: &str) -> (u64, u64) {
        let counts = |stream: StreamHandle| {
            (stream.stats.lines.load(Ordering::Relaxed), stream.stats.rejected.load(Ordering::Relaxed))
        };
        self.stream(stream).map(counts).unwrap_or_default()
    }

    /// Rows of a pipeline's view.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn rows(&self, pipeline: &str, limit: usize) -> Result<ResultRows, StoreError> {
        self.store().rows(pipeline, Query { limit, ..Query::default() }).await
    }

    fn stream(&self, name: &str) -> Result<StreamHandle, Closed> {
        self.system.streams().into_iter().find(|stream| stream.config.name == name).ok_or(Closed)
    }
}

type Told = std::pin::Pin<Box<dyn Future<Output = String>>>;

async fn journal_failed(stream: StreamHandle) -> String {
    match stream.stats.progress().wait_for(|progress| progress.failed.is_some()).await {
        Ok(progress) => format!("the journal failed: {}", progress.failed.clone().unwrap_or_default()),
        Err(_) => std::future::pending().await,
    }
}

async fn pipeline_stopped(pipeline: PipelineHandle) -> String {
    let mut committed = pipeline.committed();
    loop {
        if let Some(reason) = pipeline.stopped() {
            return format!("pipeline {} has stopped: {reason}", pipeline.name());
        }
        if committed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

async fn put(stream: &StreamHandle, source: &Source, decoded: Decoded, overlong: Option<u64>) -> Result<(), Closed> {
    let mut progress = stream.stats.progress();
    progress.wait_for(|progress| progress.held.is_none()).await.map_err(|_| Closed)?;
    if decoded.is_empty() {
        return Ok(());
    }
    stream.lines.send(Lines { source: source.clone(), decoded, overlong }).await
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// What only a daemon has: addresses, Redis, webhooks, a past and a later.
fn without_edges(mut config: Config, folder: &std::path::Path, journal_bytes: u64) -> Config {
    config.data_dir = folder.to_owned();
    config.store.migrate = true;
    config.redis = None;
    for stream in &mut config.streams {
        stream.tcp = None;
        stream.durability = Durability::Os;
        stream.journal_limit_bytes = journal_bytes.max(4 * stream.max_line_bytes as u64);
        stream.journal_keep_ms = 0;
    }
    for pipeline in &mut config.pipelines {
        pipeline.start = Start::Earliest;
        pipeline.max_behind_bytes = None;
        pipeline.redis_ttl_ms = None;
        for alert in &mut pipeline.alerts {
            alert.webhook = None;
        }
    }
    config
}
