//! The one task that writes to Redis. A connection that was lost may mean that Redis has lost all: with each new one, all
//! rows that were open when it was last known to be whole are read from the store and written again.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError};
use tokio::sync::watch;

use super::hash::{channel, fields, key, window_start};
use crate::actors::{LiveFeed, LiveFeeds, StatsRegistry};
use crate::clock::Clock;
use crate::config::RedisConfig;
use crate::limits::EXCERPT_BYTES_MAX;
use crate::store::{LivePage, LivePlace, LiveRow, Store, StoreError, Taken};

/// Rows that one round trip writes.
const ROWS_AT_ONCE: usize = 500;
/// Keys that one step of a scan looks at.
const KEYS_AT_ONCE: usize = 500;
/// So long Redis may take to connect, or to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Short, so that what is back is found within a flush.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Where nothing is to be written, Redis is asked so often whether it is there: it may have lost all meanwhile.
const ASK_EVERY: Duration = Duration::from_millis(500);

/// What writes live values.
pub struct Live {
    config: RedisConfig,
    feeds: watch::Receiver<Vec<LiveFeed>>,
    told: Arc<tokio::sync::Notify>,
    store: Store,
    stats: Arc<StatsRegistry>,
    clock: Clock,
    works: Vec<Work>,
}

/// One pipeline's.
struct Work {
    feed: LiveFeed,
    step: Step,
    /// Redis has all rows of windows that end until then.
    whole_upto: Option<i64>,
    /// Where the store did not answer: when it is asked again.
    rests_until: Duration,
}

/// What is to be done next for a pipeline.
enum Step {
    /// Rows of open windows are read from the store, behind this place; the watermark was so when that began.
    Whole(Option<LivePlace>, Option<i64>),
    /// Keys of rows that the store has no more are looked for, from this cursor on.
    Sweep(u64),
    /// What is committed is written.
    Follow,
}

/// Why a step was not done.
enum Undone {
    Redis(RedisError),
    Store(StoreError),
}

impl From<RedisError> for Undone {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

impl From<StoreError> for Undone {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Live {
    /// Writes the live values of these pipelines to a Redis.
    pub fn new(config: RedisConfig, feeds: &LiveFeeds, store: Store, stats: Arc<StatsRegistry>, clock: Clock) -> Self {
        let (feeds, told) = (feeds.subscribe(), feeds.told());
        stats.redis(|view| view.url.clone_from(&config.shown));
        Self { config, feeds, told, store, stats, clock, works: Vec::new() }
    }

    /// Goes on until it is told to finish; then it writes what waits, if Redis is there.
    pub async fn run(mut self, mut finish: watch::Receiver<bool>) {
        // Nobody is asked for what no pipeline wants.
        tokio::select! {
            _ = finish.wait_for(|finish| *finish) => return,
            wanted = self.feeds.wait_for(|feeds| !feeds.is_empty()) => if wanted.is_err() { return },
        }
        let mut pause = PAUSE_MIN;
        loop {
            let before = self.written();
            let connected = tokio::select! {
                _ = finish.wait_for(|finish| *finish) => return,
                connected = self.connect() => connected,
            };
            let written = match connected {
                Ok(connection) => self.write(connection, &mut finish).await,
                Err(error) => Err(error),
            };
            let Err(error) = written else { return };
            self.is_away(&error);
            if self.written() > before {
                pause = PAUSE_MIN;
            }
            tokio::select! {
                _ = finish.wait_for(|finish| *finish) => return,
                () = self.clock.sleep(pause) => pause = (pause * 2).min(PAUSE_MAX),
            }
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(PATIENCE)).set_response_timeout(Some(PATIENCE));
        let client = Client::open(self.config.url.as_str())?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// Writes over one connection, a piece of each pipeline in turn, until it fails or there is no more to come.
    async fn write(
        &mut self,
        mut connection: MultiplexedConnection,
        finish: &mut watch::Receiver<bool>,
    ) -> Result<(), RedisError> {
        self.works.iter_mut().for_each(Work::begin);
        loop {
            self.look_at_feeds();
            let mut did = false;
            for work in &mut self.works {
                if work.rests_until > self.clock.elapsed() {
                    continue;
                }
                match work.go_on(&self.store, &mut connection).await {
                    Ok(None) => {}
                    Ok(Some(rows)) => {
                        did = true;
                        self.stats.redis(|view| view.written_rows += rows as u64);
                    }
                    Err(Undone::Redis(error)) => return Err(error),
                    Err(Undone::Store(error)) => {
                        log::debug!("live values of {}: {error}", work.feed.pipeline);
                        work.rests_until = self.clock.elapsed() + PAUSE_MAX;
                    }
                }
            }
            if did {
                self.is_there();
                continue;
            }
            if *finish.borrow() {
                return Ok(());
            }
            tokio::select! {
                () = self.told.notified() => {}
                finished = finish.wait_for(|finish| *finish) => if finished.is_err() { return Ok(()) },
                changed = self.feeds.changed() => if changed.is_err() { return Ok(()) },
                () = self.clock.sleep(ASK_EVERY) => {
                    redis::cmd("PING").exec_async(&mut connection).await?;
                    self.is_there();
                }
            }
        }
    }

    /// Pipelines may have begun, or ended.
    fn look_at_feeds(&mut self) {
        let feeds = self.feeds.borrow_and_update();
        self.works.retain(|work| feeds.iter().any(|feed| Arc::ptr_eq(&feed.rows, &work.feed.rows)));
        for feed in feeds.iter() {
            if !self.works.iter().any(|work| Arc::ptr_eq(&feed.rows, &work.feed.rows)) {
                let mut work =
                    Work { feed: feed.clone(), step: Step::Follow, whole_upto: None, rests_until: Duration::ZERO };
                work.begin();
                self.works.push(work);
            }
        }
    }

    fn written(&self) -> u64 {
        self.stats.redis(|view| view.written_rows)
    }

    fn waiting(&self) -> u64 {
        self.feeds.borrow().iter().map(|feed| feed.rows.len() as u64).sum()
    }

    fn is_there(&self) {
        let waiting = self.waiting();
        let was_away = self.stats.redis(|view| {
            (view.connected, view.error, view.waiting_rows) = (true, None, waiting);
            view.away_since.take().is_some()
        });
        if was_away {
            log::info!("redis {} is back", self.config.shown);
        }
    }

    fn is_away(&self, error: &RedisError) {
        let (waiting, now) = (self.waiting(), self.clock.elapsed());
        let error: String = error.to_string().chars().take(EXCERPT_BYTES_MAX).collect();
        let is_news = self.stats.redis(|view| {
            (view.connected, view.waiting_rows) = (false, waiting);
            view.away_since.get_or_insert(now);
            view.error.replace(error.clone()).as_ref() != Some(&error)
        });
        if is_news {
            log::warn!("redis {} is away, live values wait for it: {error}", self.config.shown);
        }
    }
}

impl Work {
    /// All that is open is to be written.
    fn begin(&mut self) {
        self.feed.rows.forget();
        self.step = Step::Whole(None, None);
    }

    /// The next piece; how many rows were written, `None` where there is nothing to do.
    async fn go_on(&mut self, store: &Store, connection: &mut MultiplexedConnection) -> Result<Option<usize>, Undone> {
        let pipeline = &self.feed.pipeline;
        match &self.step {
            Step::Whole(behind, began) => {
                let after = self.whole_upto.or(*began);
                let page = store.live_rows(pipeline, after, behind.clone(), ROWS_AT_ONCE).await?;
                let LivePage { rows, next, watermark } = page;
                let began = if behind.is_none() { watermark } else { *began };
                self.set(&rows, connection).await?;
                self.step = match next {
                    Some(place) => Step::Whole(Some(place), began),
                    None => {
                        // What has closed since is among what was committed since.
                        self.whole_upto = began;
                        if self.feed.sessions { Step::Sweep(0) } else { Step::Follow }
                    }
                };
                Ok(Some(rows.len()))
            }
            Step::Sweep(cursor) => {
                let (next, swept) = self.sweep(*cursor, store, connection).await?;
                self.step = if next == 0 { Step::Follow } else { Step::Sweep(next) };
                Ok(Some(swept))
            }
            Step::Follow if self.feed.rows.is_over() => {
                self.begin();
                Ok(Some(0))
            }
            Step::Follow => {
                let Taken { rows, upto } = self.feed.rows.take(ROWS_AT_ONCE);
                self.set(&rows, connection).await?;
                self.whole_upto = upto.or(self.whole_upto);
                Ok((!rows.is_empty()).then_some(rows.len()))
            }
        }
    }

    /// Sets rows, in one round trip. A row is set whole, in a transaction, so that nobody sees it without its fields, and a
    /// field that is NULL by now goes.
    async fn set(&self, rows: &[LiveRow], connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        if rows.is_empty() {
            return Ok(());
        }
        let channel = channel(&self.feed.pipeline);
        let mut pipe = redis::pipe();
        pipe.atomic();
        for row in rows {
            let key = key(&self.feed, row.window_start, &row.group);
            let fields = fields(row);
            pipe.del(&key).ignore();
            if !fields.is_empty() {
                pipe.hset_multiple(&key, &fields).ignore();
                pipe.pexpire(&key, self.feed.ttl_ms).ignore();
            }
            pipe.publish(&channel, &key).ignore();
        }
        pipe.exec_async(connection).await
    }

    /// Deletes keys of rows that the store has no more: sessions that went on in another row while Redis was away. Where to
    /// go on, and how many there were.
    async fn sweep(
        &self,
        cursor: u64,
        store: &Store,
        connection: &mut MultiplexedConnection,
    ) -> Result<(u64, usize), Undone> {
        let pipeline = &self.feed.pipeline;
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{}:*", channel(pipeline))).arg("COUNT").arg(KEYS_AT_ONCE);
        let (next, keys): (u64, Vec<String>) = scan.query_async(connection).await?;
        let starts: HashSet<i64> = keys.iter().filter_map(|key| window_start(pipeline, key)).collect();
        let groups = match starts.is_empty() {
            true => Vec::new(),
            false => store.live_groups(pipeline, starts.into_iter().collect()).await?,
        };
        let stored: HashSet<String> = groups.iter().map(|(start, group)| key(&self.feed, *start, group)).collect();
        let is_stale = |key: &&String| window_start(pipeline, key).is_some() && !stored.contains(*key);
        let stale: Vec<&String> = keys.iter().filter(is_stale).collect();
        if !stale.is_empty() {
            let mut pipe = redis::pipe();
            for key in &stale {
                pipe.del(key).ignore();
                pipe.publish(channel(pipeline), key).ignore();
            }
            pipe.exec_async(connection).await?;
        }
        Ok((next, stale.len()))
    }
}
