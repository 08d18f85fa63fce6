//! The handle to a store: threads that write, a thread that reads, and the channels that feed them.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use tokio::sync::oneshot;

use super::alerts::AlertTables;
use super::merged::{self, Merge};
use super::postgres::Postgres;
use super::session::{Access, Database, Line, Session};
use super::sqlite::Sqlite;
use super::{
    Admit, Definition, Examined, Fence, Flush, Flushed, LetterFilter, LetterId, LetterReason, LivePage, LivePlace,
    Query, Registered, ResultRows, Snapshot, StoreError, StoredLetter, ToldAlert, UntoldAlert, begin, commit,
    examine::examine, replay,
};
use crate::config::StoreUrl;
use crate::event::Replayed;

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
    Prune { before: i64, reply: Reply<u64> },
    Drop { pipeline: String, reply: Reply<()> },
    Replay { replay: Replay, reply: Reply<Option<u64>> },
    Told { pipeline: String, alert: String, told: Vec<ToldAlert>, reply: Reply<()> },
}

enum Read {
    Rows { pipeline: String, query: Query, reply: Reply<ResultRows> },
    Merged { merge: Merge, reply: Reply<ResultRows> },
    Letters { filter: LetterFilter, after: Option<LetterId>, limit: usize, reply: Reply<Vec<StoredLetter>> },
    Letter { id: LetterId, reply: Reply<Option<StoredLetter>> },
    Reasons { filter: LetterFilter, limit: usize, reply: Reply<Vec<LetterReason>> },
    Registered { reply: Reply<Vec<Registered>> },
    Count { pipeline: String, reply: Reply<u64> },
    Live { pipeline: String, after: Option<i64>, behind: Option<LivePlace>, limit: usize, reply: Reply<LivePage> },
    Groups { pipeline: String, starts: Vec<i64>, reply: Reply<Vec<(i64, String)>> },
    Numbered { pipeline: String, behind: u64, bytes: usize, reply: Reply<Vec<(u64, Replayed)>> },
    Untold { pipeline: String, alert: String, limit: usize, reply: Reply<Vec<UntoldAlert>> },
}

/// Letters that are to be put under replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// The stream in which their lines stand.
    pub stream: String,
    /// Which; of one pipeline.
    pub filter: LetterFilter,
    /// Of those only the lines at these positions.
    pub positions: Option<Vec<i64>>,
    /// The right to write that pipeline's rows.
    pub fence: Fence,
    /// Their numbers begin behind this one.
    pub behind: u64,
    /// At most so many.
    pub limit: u64,
}

/// A store: its threads have one connection each and are fed by bounded channels; one only reads, so that a query never
/// waits for a flush. They end when the last handle is gone.
#[derive(Clone)]
pub struct Store {
    jobs: Sender<Job>,
    reads: Sender<Read>,
    /// Each of its threads holds the other end, and sends nothing.
    threads: Receiver<()>,
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

    /// All pipelines that a store knows, intakes included, without opening it for more. One that is not there yet knows
    /// none.
    ///
    /// # Errors
    /// As the store answers.
    pub fn registered_at(url: &StoreUrl) -> Result<Vec<Registered>, StoreError> {
        match url {
            StoreUrl::Sqlite(path) if !path.exists() => Ok(Vec::new()),
            StoreUrl::Sqlite(path) => apart(&Sqlite::new(path)?, all_registered),
            StoreUrl::Postgres(config) => apart(&Postgres::new(config)?, all_registered),
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
        let (alive, threads) = bounded(0);
        for writer in 0..writers {
            let (database, work, opened) = (database.clone(), work.clone(), opened.clone());
            let alive = alive.clone();
            spawn("store", move || {
                let mut line = Line::new(database, Access::Write, migrate);
                if writer == 0 {
                    // Whoever opens waits for this one; the others connect when there is something to do.
                    let _ = opened.send(line.run(|_| Ok(())));
                }
                write_all(line, &work);
                drop(alive);
            })?;
        }
        match first.recv().unwrap_or_else(|_| Err(ended())) {
            Ok(()) => {}
            Err(StoreError::Away(reason)) => log::warn!("the store is away: {reason}; waiting for it"),
            Err(error) => return Err(error),
        }
        let (reads, work) = bounded(WAITING_JOBS_MAX);
        let database = database.clone();
        spawn("store reader", move || {
            read_all(Line::new(database, Access::Read, migrate), &work);
            drop(alive);
        })?;
        Ok(Self { jobs, reads, threads })
    }

    /// Gives a channel that ends with its threads, that is when the last handle is gone and all connections are closed.
    pub fn ended(&self) -> Receiver<()> {
        self.threads.clone()
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
        self.job(|reply| Job::Begin { definition, stream: stream.to_owned(), admit, reply }).await
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

    /// Rows of longer spans than the windows of a pipeline.
    ///
    /// # Errors
    /// As the store answers; `TooMuch` where there are too many.
    pub async fn merged(&self, merge: Merge) -> Result<ResultRows, StoreError> {
        self.read(|reply| Read::Merged { merge, reply }).await
    }

    /// How many rows a pipeline has.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn count_rows(&self, pipeline: &str) -> Result<u64, StoreError> {
        self.read(|reply| Read::Count { pipeline: pipeline.to_owned(), reply }).await
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
        self.job(|reply| Job::Purge { filter, reply }).await
    }

    /// Deletes some of the letters that failed before this (unix ms); how many, 0 when all are gone.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn prune_letters(&self, before: i64) -> Result<u64, StoreError> {
        self.job(|reply| Job::Prune { before, reply }).await
    }

    /// Puts letters under replay, in one transaction; how many. `None` where others of that pipeline are on their way.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn replay_letters(&self, replay: Replay) -> Result<Option<u64>, StoreError> {
        self.job(|reply| Job::Replay { replay, reply }).await
    }

    /// Deletes all there is of a pipeline, views included.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn drop_pipeline(&self, pipeline: &str) -> Result<(), StoreError> {
        self.job(|reply| Job::Drop { pipeline: pipeline.to_owned(), reply }).await
    }

    /// All pipelines that it knows, intakes included.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn registered(&self) -> Result<Vec<Registered>, StoreError> {
        self.read(|reply| Read::Registered { reply }).await
    }

    /// Letters under replay behind a number, as many as come to about so many bytes, at least one.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn letters_under_replay(
        &self,
        pipeline: &str,
        behind: u64,
        bytes: usize,
    ) -> Result<Vec<(u64, Replayed)>, StoreError> {
        self.read(|reply| Read::Numbered { pipeline: pipeline.to_owned(), behind, bytes, reply }).await
    }

    /// Rows of windows that end after this (`None`: that are open), as live values show them, behind a place.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn live_rows(
        &self,
        pipeline: &str,
        after: Option<i64>,
        behind: Option<LivePlace>,
        limit: usize,
    ) -> Result<LivePage, StoreError> {
        self.read(|reply| Read::Live { pipeline: pipeline.to_owned(), after, behind, limit, reply }).await
    }

    /// The groups (as JSON objects) that have rows in windows that begin at one of these.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn live_groups(&self, pipeline: &str, starts: Vec<i64>) -> Result<Vec<(i64, String)>, StoreError> {
        self.read(|reply| Read::Groups { pipeline: pipeline.to_owned(), starts, reply }).await
    }

    /// The oldest alerts of which a webhook has not been told all.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn untold_alerts(
        &self,
        pipeline: &str,
        alert: &str,
        limit: usize,
    ) -> Result<Vec<UntoldAlert>, StoreError> {
        let (pipeline, alert) = (pipeline.to_owned(), alert.to_owned());
        self.read(|reply| Read::Untold { pipeline, alert, limit, reply }).await
    }

    /// Notes what a webhook was told.
    ///
    /// # Errors
    /// As the store answers.
    pub async fn alerts_told(&self, pipeline: &str, alert: &str, told: Vec<ToldAlert>) -> Result<(), StoreError> {
        let (pipeline, alert) = (pipeline.to_owned(), alert.to_owned());
        self.job(|reply| Job::Told { pipeline, alert, told, reply }).await
    }

    async fn job<T>(&self, job: impl FnOnce(Reply<T>) -> Job) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.try_send(job(reply)).map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }

    async fn read<T>(&self, job: impl FnOnce(Reply<T>) -> Read) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.reads.try_send(job(reply)).map_err(|refused| unsent(&refused))?;
        answer.await.unwrap_or_else(|_| Err(ended()))
    }
}

fn all_registered<D: Database>(database: &D) -> Result<Vec<Registered>, StoreError> {
    database.connect(Access::Read, false)?.all_registered()
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
            Job::Flush(flush) => {
                let mut attempt = None;
                let flushed = line.run(|session| commit::run(session, &flush, &mut attempt));
                let flushed = match (flushed, attempt) {
                    (Err(error), Some(attempt)) => {
                        if let Some(live) = &flush.live {
                            // Whatever became of it, what it has changed was thrown away.
                            live.lost();
                        }
                        if let Some(news) = &flush.alerts.news {
                            news.unknown();
                        }
                        settle(&mut line, flush.definition.pipeline(), attempt, error)
                    }
                    (flushed, _) => flushed,
                };
                let failed = flushed.is_err();
                if let Ok(flushed) = &flushed {
                    // Committed is committed: what cannot be deleted now is tried again behind the next flush.
                    let (definition, stream) = (&*flush.definition, &flush.stream);
                    let pruned = line.run(|session| commit::prune(session, definition, stream, *flushed));
                    let name = definition.pipeline();
                    pruned.unwrap_or_else(|error| {
                        log::warn!("pipeline {name}: what is old could not be deleted: {error}")
                    });
                }
                let Flush { chunks, reply, .. } = flush;
                answer(reply, flushed);
                if failed {
                    // What is in the channel holds credit, which a channel without a receiver would keep: whoever still
                    // has to send the rest would wait for it, and never come to the end.
                    chunks.iter().for_each(drop);
                }
            }
            Job::Purge { filter, reply } => answer(reply, line.run(|session| replay::purge(session, &filter))),
            Job::Prune { before, reply } => answer(reply, line.run(|session| replay::prune(session, before))),
            Job::Drop { pipeline, reply } => {
                let dropped = line.run(|session| {
                    session.begin()?;
                    session.drop_pipeline(&pipeline)?;
                    session.commit()
                });
                answer(reply, dropped);
            }
            Job::Told { pipeline, alert, told, reply } => {
                let noted = line.run(|session| {
                    session.begin()?;
                    session.told(&pipeline, &alert, &told)?;
                    session.commit()
                });
                answer(reply, noted);
            }
            Job::Replay { replay, reply } => answer(reply, line.run(|session| replay::number(session, &replay))),
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
                answer(reply, line.ask(|session| session.rows(&pipeline, &query)));
            }
            Read::Merged { merge, reply } => answer(reply, line.ask(|session| merged::rows(session, &merge))),
            Read::Letters { filter, after, limit, reply } => {
                answer(reply, line.ask(|session| session.letters(&filter, after.as_ref(), limit as i64)));
            }
            Read::Letter { id, reply } => answer(reply, line.ask(|session| session.letter(&id))),
            Read::Reasons { filter, limit, reply } => {
                answer(reply, line.ask(|session| session.letter_reasons(&filter, limit as i64)));
            }
            Read::Registered { reply } => answer(reply, line.ask(Session::all_registered)),
            Read::Count { pipeline, reply } => answer(reply, line.ask(|session| session.count_rows(&pipeline))),
            Read::Live { pipeline, after, behind, limit, reply } => {
                answer(reply, line.ask(|session| session.live_rows(&pipeline, after, behind.as_ref(), limit)));
            }
            Read::Groups { pipeline, starts, reply } => {
                answer(reply, line.ask(|session| session.live_groups(&pipeline, &starts)));
            }
            Read::Untold { pipeline, alert, limit, reply } => {
                answer(reply, line.ask(|session| session.untold(&pipeline, &alert, limit)));
            }
            Read::Numbered { pipeline, behind, bytes, reply } => {
                answer(reply, line.ask(|session| session.numbered_letters(&pipeline, behind, bytes)));
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
