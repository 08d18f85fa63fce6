//! The embedded store: a thread that writes, a thread that reads, and the handle to both.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::connection::{Access, Line};
use super::{Definition, Flush, Flushed, Query, ResultRows, Snapshot, StoreError, begin, commit, migrate, query};

/// Jobs that wait for a thread. Each pipeline has one under way, so that this is reached only when something is wrong;
/// whoever comes then is told at once that the store is away, since a full queue must not hold up an actor.
const WAITING_JOBS_MAX: usize = 1_024;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Begin { definition: Arc<dyn Definition>, stream: String, reply: Reply<Snapshot> },
    Flush(Flush),
}

struct Read {
    pipeline: String,
    query: Query,
    reply: Reply<ResultRows>,
}

/// The embedded store: one thread with one connection writes, fed by a bounded channel; another one reads, so that a
/// query never waits for a flush. Both end when the last handle is gone.
#[derive(Clone)]
pub struct Sqlite {
    jobs: Sender<Job>,
    reads: Sender<Read>,
}

impl Sqlite {
    /// Opens or makes the file, brings its tables up to date where `migrate` says so, starts the thread.
    ///
    /// # Errors
    /// `Schema` where its tables are newer or missing, else what SQLite said.
    pub fn open(path: PathBuf, migrate: bool) -> Result<Self, StoreError> {
        let path = std::path::absolute(&path)
            .map_err(|error| StoreError::Refused(format!("{} is no path: {error}", path.display())))?;
        let mut line = Line::new(path.clone(), Access::Write);
        line.run(|connection| migrate::migrate(connection, &path, migrate)).map_err(|error| at(&path, error))?;
        let (jobs, work) = bounded(WAITING_JOBS_MAX);
        spawn("store", move || write_all(line, &work))?;
        let (reads, work) = bounded(WAITING_JOBS_MAX);
        spawn("store reader", move || read_all(Line::new(path, Access::Read), &work))?;
        Ok(Self { jobs, reads })
    }

    /// Registers a pipeline (or a stream's intake under the name `@<stream>`, which has no views), makes its views, takes
    /// its fence, and reads what it begins with.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn begin(&self, definition: Arc<dyn Definition>, stream: &str) -> Result<Snapshot, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Begin { definition, stream: stream.to_owned(), reply };
        self.jobs.try_send(job).map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    /// Queues a transaction; its answer comes through `flush.reply`.
    pub fn flush(&self, flush: Flush) {
        if let Err(refused) = self.jobs.try_send(Job::Flush(flush)) {
            let error = unsent(&refused);
            if let Job::Flush(flush) = refused.into_inner() {
                answer(flush.reply, Err(error));
            }
        }
    }

    /// Rows of a pipeline's view.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn rows(&self, pipeline: &str, query: Query) -> Result<ResultRows, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.reads
            .try_send(Read { pipeline: pipeline.to_owned(), query, reply })
            .map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| StoreError::Away(format!("cannot start the thread {name:?}: {error}")))
}

fn write_all(mut line: Line, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Begin { definition, stream, reply } => {
                answer(reply, line.run(|connection| begin::begin(connection, &*definition, &stream)));
            }
            Job::Flush(Flush { definition, stream, fence, chunks, reply }) => {
                let mut attempt = None;
                let flushed =
                    line.run(|connection| commit::run(connection, &*definition, &stream, fence, &chunks, &mut attempt));
                let flushed = match (flushed, attempt) {
                    (Err(error), Some(attempt)) => settle(&mut line, definition.pipeline(), attempt, error),
                    (flushed, _) => flushed,
                };
                // Whoever still sends learns of the end from the channel, perhaps before the reply.
                drop(chunks);
                answer(reply, flushed);
            }
        }
    }
}

/// A commit failed: the row tells whether it was done all the same.
fn settle(line: &mut Line, pipeline: &str, attempt: commit::Attempt, error: StoreError) -> Result<Flushed, StoreError> {
    match line.run(|connection| commit::settle(connection, pipeline, attempt)) {
        Ok(Some(flushed)) => Ok(flushed),
        Ok(None) => Err(error),
        Err(second) => Err(StoreError::Unknown(format!("{error}; and then: {second}"))),
    }
}

fn read_all(mut line: Line, reads: &Receiver<Read>) {
    for Read { pipeline, query, reply } in reads {
        answer(reply, line.run(|connection| query::rows(connection, &pipeline, &query)));
    }
}

/// Who asked may be gone; then nobody wants to know.
fn answer<T>(reply: Reply<T>, result: Result<T, StoreError>) {
    let _ = reply.send(result);
}

fn unsent<T>(refused: &TrySendError<T>) -> StoreError {
    match refused {
        TrySendError::Full(_) => StoreError::Away(format!("{WAITING_JOBS_MAX} jobs wait for it already")),
        TrySendError::Disconnected(_) => ended(),
    }
}

fn ended() -> StoreError {
    StoreError::Refused("a bug: its thread has ended; restart the daemon".to_owned())
}

/// SQLite's messages do not name the file.
fn at(path: &Path, error: StoreError) -> StoreError {
    let name = path.display().to_string();
    let named = |message: String| if message.contains(&name) { message } else { format!("{name}: {message}") };
    match error {
        StoreError::Away(message) => StoreError::Away(named(message)),
        StoreError::Refused(message) => StoreError::Refused(named(message)),
        error => error,
    }
}
