//! The daemon, embedded or not: puts the edges around the actor system, on a thread of its own.

mod offline;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{oneshot, watch};

use crate::actors::{
    PipelineHandle, Pipelines, ReloadError, Reloaded, StatsRegistry, System, SystemError, SystemOptions,
};
use crate::clock::Clock;
use crate::config::{self, Config, Report};
use crate::event::Position;
use crate::http::{self, Reload, Reloads};
use crate::input;
use crate::journal::{Progress, SyncFile};
use crate::live::Live;
use crate::pipeline::{AsyncStage, CustomStage, Event, Outcome, StageError, StageRegistry};
use crate::sender::StreamSender;
use crate::store::{Query, ResultRows, StoreError};
use crate::webhooks::Webhooks;

pub(crate) use offline::{Offline, OfflineError};

/// At most so long a stopping daemon waits for Redis behind its pipelines.
const LIVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The config has errors.
    #[error(transparent)]
    Config(#[from] Report),
    /// A custom stage that the config names is not registered.
    #[error("no custom stage {0:?} is registered: `stage({0:?}, …)` does")]
    Stage(String),
    /// An address cannot be listened on.
    #[error("{what} cannot listen on {address}: {source}")]
    Listen {
        /// Whose address.
        what: String,
        /// Which.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Journal, store or pipelines say no.
    #[error(transparent)]
    System(#[from] SystemError),
    /// The daemon's thread has ended.
    #[error("the daemon's thread has ended")]
    Ended,
}

/// A stream or pipeline that the config does not have.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no {kind} {name:?} in the config")]
pub struct Unknown {
    kind: &'static str,
    name: String,
}

/// A daemon that is about to be started.
pub struct Tidemill {
    config: Config,
    /// The file that a reload reads again.
    file: Option<PathBuf>,
    registry: StageRegistry,
    windows: usize,
    clock: Clock,
    sync: SyncFile,
    accept_plan: Option<String>,
}

impl Tidemill {
    /// A daemon with the config of a file.
    ///
    /// # Errors
    /// All errors of the config at once.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, Report> {
        let file = Some(path.as_ref().to_owned());
        Ok(Self { file, ..Self::new(config::load(path.as_ref())?) })
    }

    /// A daemon with this config; relative paths are relative to the working directory.
    ///
    /// # Errors
    /// All errors of the config at once.
    #[expect(clippy::should_implement_trait, reason = "the contract's name, beside `from_file`")]
    pub fn from_str(text: &str) -> Result<Self, Report> {
        let env = |name: &str| std::env::var(name).ok();
        Ok(Self::new(config::parse(text, "config", &PathBuf::from("."), &env)?))
    }

    /// A daemon with a checked config.
    pub fn new(config: Config) -> Self {
        let sync: SyncFile = Arc::new(std::fs::File::sync_data);
        let (registry, accept_plan, file) = (StageRegistry::new(), None, None);
        Self { config, file, registry, windows: 1, clock: Clock::system(), sync, accept_plan }
    }

    /// Its config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Registers a custom stage under the name that the config uses.
    #[must_use]
    pub fn stage<F>(mut self, name: impl Into<String>, stage: F) -> Self
    where
        F: Fn(&mut Event) -> Result<Outcome, StageError> + Send + Sync + 'static,
    {
        self.registry.insert(name.into(), CustomStage::Sync(Arc::new(stage)));
        self
    }

    /// Registers a custom stage that waits for something (a lookup, say), for so many events at once. They go on in their
    /// order. It runs on the pipeline's own thread, within tokio; one that never answers holds its pipeline.
    ///
    /// ```
    /// # use tidemill::{Outcome, StageError, Tidemill};
    /// # async fn country_of(ip: &str) -> Result<String, std::io::Error> { Ok(ip.to_owned()) }
    /// # fn with_stage(mill: Tidemill) -> Tidemill {
    /// mill.stage_async("country", 32, async |event| {
    ///     let ip = event.get("ip").and_then(|ip| ip.as_str()).unwrap_or_default();
    ///     let country = country_of(ip).await.map_err(|error| StageError::Transient(error.to_string()))?;
    ///     event.set("country", country);
    ///     Ok(Outcome::Keep)
    /// })
    /// # }
    /// ```
    #[must_use]
    pub fn stage_async<F>(mut self, name: impl Into<String>, at_once: usize, stage: F) -> Self
    where
        F: AsyncFn(&mut Event) -> Result<Outcome, StageError> + Send + Sync + 'static,
    {
        self.registry.insert(name.into(), CustomStage::Async(AsyncStage::new(at_once, stage)));
        self
    }

    /// So many window actors a pipeline share its groups (1 unless told). Results do not depend on it.
    #[must_use]
    pub fn window_actors(mut self, count: usize) -> Self {
        self.windows = count.clamp(1, 64);
        self
    }

    /// Accepts what the start loses by the plan of this code, and no other.
    #[must_use]
    pub fn accept_plan(mut self, code: impl Into<String>) -> Self {
        self.accept_plan = Some(code.into());
        self
    }

    /// Stamps and paces by this clock.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Makes journals durable by this function instead of `File::sync_data` (for tests that hold it back).
    #[must_use]
    pub fn sync_with(mut self, sync: SyncFile) -> Self {
        self.sync = sync;
        self
    }

    /// Starts it, on threads of its own: this works in any async runtime.
    ///
    /// # Errors
    /// Where addresses, files, store or definitions say no.
    pub async fn start(self) -> Result<Mill, StartError> {
        if let Some(name) = unregistered(&self.config, |name| self.registry.contains_key(name)) {
            return Err(StartError::Stage(name));
        }
        let (began, begins) = oneshot::channel();
        let (stop, stops) = watch::channel(false);
        let thread = std::thread::Builder::new()
            .name("tidemill".to_owned())
            .spawn(move || actix_web::rt::System::new().block_on(live(self, began, stops)))
            .map_err(|_| StartError::Ended)?;
        let face = begins.await.map_err(|_| StartError::Ended)??;
        Ok(Mill { face, stop, thread: Some(thread) })
    }
}

/// What the daemon's thread shows of itself.
struct Face {
    http: SocketAddr,
    tcp: Vec<(String, SocketAddr)>,
    streams: Vec<StreamSender>,
    pipelines: Pipelines,
    reloads: Reloads,
    stats: Arc<StatsRegistry>,
    progress: Vec<watch::Receiver<Progress>>,
}

/// The life of the daemon's thread.
async fn live(mill: Tidemill, began: oneshot::Sender<Result<Face, StartError>>, mut stop: watch::Receiver<bool>) {
    let (file, clock) = (mill.file.clone(), mill.clock.clone());
    let shutdown_timeout = Duration::from_millis(mill.config.shutdown_timeout_ms.unsigned_abs());
    let (reloads, mut asked) = Reloads::new();
    let (face, mut system, inputs, server, redis, webhooks) = match assemble(mill, reloads, &stop).await {
        Ok(parts) => parts,
        Err(error) => {
            // Whoever started it may have gone.
            let _ = began.send(Err(error));
            return;
        }
    };
    let handle = server.handle();
    let server = actix_web::rt::spawn(server);
    let (finish, finishes) = watch::channel(false);
    let redis = redis.map(|redis| actix_web::rt::spawn(redis.run(finishes)));
    let webhooks = actix_web::rt::spawn(webhooks.run());
    if began.send(Ok(face)).is_ok() {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                Some(Reload { accept_plan, reply }) = asked.recv() => {
                    let reloaded = reload(&mut system, file.as_deref(), accept_plan.as_deref()).await;
                    match &reloaded {
                        Ok(Reloaded { plan, refused, .. }) => {
                            log::info!("the config is taken:\n{}", plan.trim_end());
                            refused.iter().for_each(|reason| log::error!("{reason}"));
                        }
                        Err(reason) => log::error!("the config is not taken, nothing has changed: {reason}"),
                    }
                    // Whoever asked may have gone.
                    let _ = reply.send(reloaded);
                }
            }
        }
    }
    system.stats().drain();
    for input in inputs {
        let _ = input.await;
    }
    if !system.drain(shutdown_timeout).await {
        log::warn!("not all is in the store yet; the journal has it, and the next start goes on from there");
    }
    // What nobody was told of yet is told by the next start.
    webhooks.abort();
    finish.send_replace(true);
    if let Some(redis) = redis {
        // What it does not get any more, the next start writes again.
        tokio::select! {
            _ = redis => {}
            () = clock.sleep(LIVE_TIMEOUT) => {}
        }
    }
    handle.stop(false).await;
    let _ = server.await;
    system.stop();
}

/// A custom stage that a config names and nobody has registered.
fn unregistered(config: &Config, is_registered: impl Fn(&str) -> bool) -> Option<String> {
    let stages = config.pipelines.iter().flat_map(|pipeline| &pipeline.stages);
    let mut names =
        stages.filter_map(|stage| if let config::StageConfig::Custom(name) = stage { Some(name) } else { None });
    names.find(|name| !is_registered(name)).cloned()
}

/// Reads the config file again, and takes it.
async fn reload(system: &mut System, file: Option<&Path>, accept_plan: Option<&str>) -> Result<Reloaded, ReloadError> {
    let Some(file) = file else {
        return Err(ReloadError::Config(
            "this daemon was not started with a config file: there is nothing to read again".into(),
        ));
    };
    let config = config::load(file).map_err(|report| ReloadError::Config(report.to_string()))?;
    if let Some(name) = unregistered(&config, |name| system.has_stage(name)) {
        return Err(ReloadError::Config(StartError::Stage(name).to_string()));
    }
    system.reload(config, accept_plan).await
}

type Parts = (Face, System, Vec<oneshot::Receiver<()>>, actix_web::dev::Server, Option<Live>, Webhooks);

/// Listens first (an address in use must not touch any data), then starts the system, then opens the edges.
async fn assemble(mill: Tidemill, reloads: Reloads, stop: &watch::Receiver<bool>) -> Result<Parts, StartError> {
    let Tidemill { config, file: _, registry, windows, clock, sync, accept_plan } = mill;
    let (http_config, redis, live_clock) = (config.http.clone(), config.redis.clone(), clock.clone());
    let webhooks_clock = clock.clone();
    let mut listeners = Vec::new();
    for stream in &config.streams {
        if let Some(address) = stream.tcp {
            listeners.push((stream.name.clone(), listen(&format!("stream {}", stream.name), address)?));
        }
    }
    let http_listener = listen("http", http_config.listen)?;
    let address_of = |listener: &TcpListener, wanted| listener.local_addr().unwrap_or(wanted);
    let http = address_of(&http_listener, http_config.listen);

    let options = SystemOptions { config, registry, windows, clock, sync, accept_plan, is_paced: true };
    let system = System::start(options).await?;
    let mut face = Face {
        http,
        tcp: Vec::new(),
        streams: system.streams().iter().map(StreamSender::new).collect(),
        pipelines: system.pipelines(),
        reloads: reloads.clone(),
        stats: system.stats(),
        progress: system.streams().iter().map(|stream| stream.stats.progress()).collect(),
    };
    let mut inputs = Vec::new();
    for (name, listener) in listeners {
        let Some(stream) = system.streams().into_iter().find(|stream| stream.config.name == name) else { continue };
        face.tcp.push((name, address_of(&listener, http)));
        let (ended, ends) = oneshot::channel();
        let (stop, arbiter) = (stop.clone(), stream.arbiter.clone());
        let tokens = http_config.tokens_of(&stream.config);
        arbiter.spawn(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => input::serve(listener, stream, tokens, stop).await,
                Err(error) => log::error!("stream {}: cannot listen: {error}", stream.config.name),
            }
            let _ = ended.send(());
        });
        inputs.push(ends);
    }
    let shared = http::Shared::new(&http_config, &system, reloads);
    let server = http::server(http_listener, shared).map_err(|source| StartError::Listen {
        what: "http".to_owned(),
        address: http,
        source,
    })?;
    let redis = redis.map(|redis| Live::new(redis, &system.live(), system.store(), system.stats(), live_clock));
    let webhooks = Webhooks::new(&system.alerts(), system.store(), webhooks_clock);
    Ok((face, system, inputs, server, redis, webhooks))
}

fn listen(what: &str, address: SocketAddr) -> Result<TcpListener, StartError> {
    let failed = |source| StartError::Listen { what: what.to_owned(), address, source };
    let listener = TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

/// A running daemon. Dropping it without `shutdown` stops it all the same, but waits for nothing.
pub struct Mill {
    face: Face,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Mill {
    /// A stream to send to.
    ///
    /// # Errors
    /// Where the config has none of that name.
    pub fn stream(&self, name: &str) -> Result<StreamSender, Unknown> {
        let found = self.face.streams.iter().find(|stream| stream.name() == name);
        found.cloned().ok_or_else(|| Unknown { kind: "stream", name: name.to_owned() })
    }

    /// A pipeline to read. One that a reload changes or takes out says so by the end of `committed` and `changes`.
    ///
    /// # Errors
    /// Where the config has none of that name.
    pub fn pipeline(&self, name: &str) -> Result<Pipeline, Unknown> {
        let found = self.face.pipelines.find(name);
        found.map(Pipeline).ok_or_else(|| Unknown { kind: "pipeline", name: name.to_owned() })
    }

    /// What reloads: takes the changed config file, without touching pipelines that it leaves as they are.
    pub fn reloads(&self) -> Reloads {
        self.face.reloads.clone()
    }

    /// The address of stats and health.
    pub fn http_address(&self) -> SocketAddr {
        self.face.http
    }

    /// The address of a stream's line protocol, where it has one.
    pub fn tcp_address(&self, stream: &str) -> Option<SocketAddr> {
        self.face.tcp.iter().find(|(name, _)| name == stream).map(|(_, address)| *address)
    }

    /// What `GET /api/v1/stats` answers.
    ///
    /// # Errors
    /// Where JSON cannot hold it.
    pub fn stats(&self) -> serde_json::Result<String> {
        self.face.stats.to_json()
    }

    /// Waits until a journal has failed: nothing is acknowledged any more, and the daemon should be ended (74).
    pub async fn failed(&self) -> String {
        let failures = self.face.progress.iter().cloned().map(|mut progress| {
            Box::pin(async move {
                match progress.wait_for(|progress| progress.failed.is_some()).await {
                    Ok(progress) => progress.failed.clone().unwrap_or_default(),
                    Err(_) => std::future::pending().await,
                }
            })
        });
        futures_util::future::select_all(failures).await.0
    }

    /// Stops taking, drains, flushes. What is not in the store by then is in the journal.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        let Some(thread) = self.thread.take() else { return };
        // It ends by itself; the wait must not hold the caller's runtime.
        let (joined, joins) = oneshot::channel();
        let waiter = std::thread::Builder::new().name("tidemill shutdown".to_owned()).spawn(move || {
            let _ = thread.join();
            let _ = joined.send(());
        });
        if waiter.is_ok() {
            let _ = joins.await;
        }
    }
}

impl Drop for Mill {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

/// Reads a pipeline's rows.
#[derive(Clone)]
pub struct Pipeline(PipelineHandle);

impl Pipeline {
    /// Its name.
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// The rows of the window that is next to close.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn now(&self) -> Result<ResultRows, StoreError> {
        self.rows(Query { now: true, limit: crate::limits::RESULT_ROWS_MAX, ..Query::default() }).await
    }

    /// Rows of its view.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn rows(&self, query: Query) -> Result<ResultRows, StoreError> {
        self.0.rows(query).await
    }

    /// The position of its last commit: all records up to it are in its rows.
    pub fn committed(&self) -> watch::Receiver<Position> {
        self.0.committed()
    }

    /// What `now` shows, after each commit from here on.
    pub fn changes(&self) -> impl Stream<Item = Result<ResultRows, StoreError>> + use<> {
        let pipeline = self.clone();
        futures_util::stream::unfold((pipeline, self.committed()), async |(pipeline, mut committed)| {
            committed.changed().await.ok()?;
            let rows = pipeline.now().await;
            Some((rows, (pipeline, committed)))
        })
    }
}

#[cfg(test)]
#[path = "daemon_tests.rs"]
mod tests;
