//! The handle to a store: threads that write, a thread that reads, and the channels that feed them.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::postgres::Postgres;
use super::session::{Access, Database, Line, Session};
use super::sqlite::Sqlite;
use super::{
    Admit, Definition, Examined, Flush, Flushed, LetterFilter, LetterId, LetterReason, Query, ResultRows, Snapshot,
    StoreError, StoredLetter, begin, commit, examine::examine,
};
use crate::config::StoreUrl;

/// Jobs that wait for a thread. Each pipeline has one under way, so that this is reached only when something is wrong;
/// whoever comes then is told at once that the store is away, since a full queue must not hold up an actor.
const WAITING_JOBS_MAX: usize = 1_024;
/// Flushes that PostgreSQL commits at a time. SQLite has one writer.
const POSTGRES_WRITERS: usize = 4;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

enum Job {
    Begin { definition: Arc<dyn Definition>, stream: String, admit: Admit, reply: Reply<Snapshot> },
    Flush(Flush),
    Purge { filter: LetterFilter, reply: Reply<u64> },
}

enum Read {
    Rows { pipeline: String, query: Query, reply: Reply<ResultRows> },
    Letters { filter: LetterFilter, after: Option<LetterId>, limit: usize, reply: Reply<Vec<StoredLetter>> },
    Letter { id: LetterId, reply: Reply<Option<StoredLetter>> },
    Reasons { filter: LetterFilter, limit: usize, reply: Reply<Vec<LetterReason>> },
}

/// A store: its threads have one connection each and are fed by bounded channels; one only reads, so that a query never
/// waits for a flush. They end when the last handle is gone.
#[derive(Clone)]
pub struct Store {
    jobs: Sender<Job>,
    reads: Sender<Read>,
}

impl Store {
    /// Connects, brings the tables up to date where `migrate` says so, starts the threads. A store that is away is no
    /// error: whoever asks it for something later learns of it, and it is tried again.
    ///
    /// # Errors
    /// `Schema` where its tables are newer or missing, `Refused` with what the store said.
    pub fn open(url: &StoreUrl, migrate: bool) -> Result<Self, StoreError> {
        match url {
            StoreUrl::Sqlite(path) => Self::over(&Sqlite::new(path)?, 1, migrate),
            StoreUrl::Postgres(config) => Self::over(&Postgres::new(config)?, POSTGRES_WRITERS, migrate),
        }
    }

    /// Brings the tables up to date, and does nothing else.
    ///
    /// # Errors
    /// As the store answers.
    pub fn migrate(url: &StoreUrl) -> Result<(), StoreError> {
        match url {
            StoreUrl::Sqlite(path) => apart(&Sqlite::new(path)?, migrate_tables),
            StoreUrl::Postgres(config) => apart(&Postgres::new(config)?, migrate_tables),
        }
    }

    /// Looks at tables and checkpoints, and changes nothing.
    ///
    /// # Errors
    /// As the store answers.
    pub fn examine(url: &StoreUrl) -> Result<Examined, StoreError> {
        match url {
            // Whoever opens a file makes it.
            StoreUrl::Sqlite(path) if !path.exists() => Ok(Examined::nothing()),
            StoreUrl::Sqlite(path) => apart(&Sqlite::new(path)?, examine),
            StoreUrl::Postgres(config) => apart(&Postgres::new(config)?, examine),
        }
    }

    fn over<D: Database>(database: &D, writers: usize, migrate: bool) -> Result<Self, StoreError> {
        let (jobs, work) = bounded(WAITING_JOBS_MAX);
        let (opened, first) = bounded(1);
        for _ in 0..writers {
            let (database, work, opened) = (database.clone(), work.clone(), opened.clone());
            spawn("store", move || {
                let mut line = Line::new(database, Access::Write, migrate);
                if opened.is_empty() {
                    // Whoever opens waits for the first alone.
                    let _ = opened.try_send(line.run(|_| Ok(())));
                }
                write_all(line, &work);
            })?;
        }
        match first.recv().unwrap_or_else(|_| Err(ended())) {
            Ok(()) => {}
            Err(StoreError::Away(reason)) => log::warn!("the store is away: {reason}; waiting for it"),
            Err(error) => return Err(error),
        }
        let (reads, work) = bounded(WAITING_JOBS_MAX);
        let database = database.clone();
        spawn("store reader", move || read_all(Line::new(database, Access::Read, migrate), &work))?;
        Ok(Self { jobs, reads })
    }

    /// Registers a pipeline (or a stream's intake under the name `@<stream>`, which has no views), makes its views, takes
    /// its fence, and reads what it begins with.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn begin(
        &self,
        definition: Arc<dyn Definition>,
        stream: &str,
        admit: Admit,
    ) -> Result<Snapshot, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Job::Begin { definition, stream: stream.to_owned(), admit, reply };
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
        self.read(|reply| Read::Rows { pipeline: pipeline.to_owned(), query, reply }).await
    }

    /// Dead letters, the latest positions of each stream first, behind one of them; the beginnings of their lines.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn letters(
        &self,
        filter: LetterFilter,
        after: Option<LetterId>,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        self.read(|reply| Read::Letters { filter, after, limit, reply }).await
    }

    /// One dead letter, whole.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn letter(&self, id: LetterId) -> Result<Option<StoredLetter>, StoreError> {
        self.read(|reply| Read::Letter { id, reply }).await
    }

    /// How many dead letters have which reason, the most frequent first.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn letter_reasons(&self, filter: LetterFilter, limit: usize) -> Result<Vec<LetterReason>, StoreError> {
        self.read(|reply| Read::Reasons { filter, limit, reply }).await
    }

    /// Deletes dead letters; how many.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn purge_letters(&self, filter: LetterFilter) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(Job::Purge { filter, reply }).map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn read<T>(&self, job: impl FnOnce(Reply<T>) -> Read) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.reads.try_send(job(reply)).map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

/// On a thread of its own: a connection to PostgreSQL cannot be made inside somebody's runtime.
fn apart<D: Database, T: Send + 'static>(database: &D, work: fn(&D) -> Result<T, StoreError>) -> Result<T, StoreError> {
    let database = database.clone();
    let (reply, answer) = bounded(1);
    // Whoever asked waits for it.
    spawn("store", move || drop(reply.send(work(&database))))?;
    answer.recv().unwrap_or_else(|_| Err(ended()))
}

fn migrate_tables<D: Database>(database: &D) -> Result<(), StoreError> {
    database.connect(Access::Write, true).map(drop)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
    thread.map(drop).map_err(|error| StoreError::Away(format!("cannot start the thread {name:?}: {error}")))
}

fn write_all<D: Database>(mut line: Line<D>, jobs: &Receiver<Job>) {
    for job in jobs {
        match job {
            Job::Begin { definition, stream, admit, reply } => {
                answer(reply, line.run(|session| begin::begin(session, &*definition, &stream, admit)));
            }
            Job::Flush(Flush { definition, stream, fence, chunks, reply }) => {
                let mut attempt = None;
                let flushed =
                    line.run(|session| commit::run(session, &*definition, &stream, fence, &chunks, &mut attempt));
                let flushed = match (flushed, attempt) {
                    (Err(error), Some(attempt)) => settle(&mut line, definition.pipeline(), attempt, error),
                    (flushed, _) => flushed,
                };
                let failed = flushed.is_err();
                if let (Ok(flushed), Some(retain_ms)) = (&flushed, definition.raw_retain_ms()) {
                    // Committed is committed: what cannot be deleted now is tried again behind the next flush.
                    let pruned = line.run(|session| commit::prune(session, &stream, *flushed, retain_ms));
                    let failed = |error| log::warn!("stream {stream}: old raw events could not be deleted: {error}");
                    pruned.unwrap_or_else(failed);
                }
                answer(reply, flushed);
                if failed {
                    // What is in the channel holds credit, which a channel without a receiver would keep: whoever still
                    // has to send the rest would wait for it, and never come to the end.
                    chunks.iter().for_each(drop);
                }
            }
            Job::Purge { filter, reply } => answer(reply, line.run(|session| session.purge_letters(&filter))),
        }
    }
}

/// A commit failed: the row tells whether it was done all the same.
fn settle<D: Database>(
    line: &mut Line<D>,
    pipeline: &str,
    attempt: commit::Attempt,
    error: StoreError,
) -> Result<Flushed, StoreError> {
    match line.run(|session| commit::settle(session, pipeline, attempt)) {
        Ok(Some(flushed)) => Ok(flushed),
        Ok(None) => Err(error),
        Err(second) => Err(StoreError::Unknown(format!("{error}; and then: {second}"))),
    }
}

fn read_all<D: Database>(mut line: Line<D>, reads: &Receiver<Read>) {
    for read in reads {
        match read {
            Read::Rows { pipeline, query, reply } => {
                answer(reply, line.run(|session| session.rows(&pipeline, &query)));
            }
            Read::Letters { filter, after, limit, reply } => {
                answer(reply, line.run(|session| session.letters(&filter, after.as_ref(), limit as i64)));
            }
            Read::Letter { id, reply } => answer(reply, line.run(|session| session.letter(&id))),
            Read::Reasons { filter, limit, reply } => {
                answer(reply, line.run(|session| session.letter_reasons(&filter, limit as i64)));
            }
        }
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
