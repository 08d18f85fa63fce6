//! Tells webhooks of alerts, each at least once and in their order.
//!
//! What is to be told stands in the store, written by the flush that made it so; a flush neither knows nor waits for who
//! is told. Each alert has a task of its own, which reads a few rows, posts them one after the other, and notes in the
//! store what was taken: a receiver that is away, or never answers, holds up the news of its own alert and nothing else.

mod post;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::actors::{AlertFeeds, AlertStats, jittered};
use crate::clock::Clock;
use crate::config::Webhook;
use crate::limits::EXCERPT_BYTES_MAX;
use crate::store::{Store, ToldAlert, UntoldAlert};
use post::{Answer, Poster, body};

/// Rows that are read at once, and noted as told.
const ROWS_AT_ONCE: usize = 50;
/// The pause after a first failure; it doubles with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What tells webhooks.
pub struct Webhooks {
    feeds: watch::Receiver<Vec<Arc<AlertStats>>>,
    store: Store,
    clock: Clock,
}

impl Webhooks {
    /// Of these alerts, those that have a webhook.
    pub fn new(feeds: &AlertFeeds, store: Store, clock: Clock) -> Self {
        Self { feeds: feeds.subscribe(), store, clock }
    }

    /// Goes on until it is dropped, with all its tasks.
    pub async fn run(mut self) {
        let (mut tasks, mut running) = (JoinSet::new(), HashMap::new());
        loop {
            let feeds = self.feeds.borrow_and_update().clone();
            running.retain(|alert: &usize, task: &mut tokio::task::AbortHandle| {
                let is_there = feeds.iter().any(|feed| Arc::as_ptr(feed) as usize == *alert);
                if !is_there {
                    task.abort();
                }
                is_there
            });
            for alert in feeds {
                let Some(webhook) = alert.config.webhook.clone() else { continue };
                let (store, clock) = (self.store.clone(), self.clock.clone());
                running.entry(Arc::as_ptr(&alert) as usize).or_insert_with(|| {
                    let poster = Poster::new(webhook.clone());
                    tasks.spawn(Teller { alert, webhook, poster, store, clock, pause: PAUSE_MIN }.run())
                });
            }
            while tasks.try_join_next().is_some() {}
            if self.feeds.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Tells the webhook of one alert.
struct Teller {
    alert: Arc<AlertStats>,
    webhook: Webhook,
    poster: Poster,
    store: Store,
    clock: Clock,
    pause: Duration,
}

impl Teller {
    async fn run(mut self) {
        let mut news = self.alert.news.firing();
        loop {
            news.borrow_and_update();
            let (pipeline, name) = (self.alert.pipeline.clone(), self.alert.config.name.clone());
            match self.store.untold_alerts(&pipeline, &name, ROWS_AT_ONCE).await {
                Ok(untold) if untold.is_empty() => {
                    if news.changed().await.is_err() {
                        return;
                    }
                }
                Ok(untold) => self.tell(untold).await,
                Err(error) => {
                    log::debug!("alert {pipeline}.{name}: {error}");
                    self.rest().await;
                }
            }
        }
    }

    /// Posts them in their order; notes those that were taken, and rests where one was not.
    async fn tell(&mut self, untold: Vec<UntoldAlert>) {
        let (mut told, mut failed) = (Vec::new(), None);
        'alerts: for alert in untold {
            let news = [(alert.is_new, false), (alert.resolved_at.is_some(), true)];
            for (_, resolved) in news.into_iter().filter(|(is_news, _)| *is_news) {
                let body = body(&self.alert.pipeline, &self.alert.config, &alert, resolved);
                match self.poster.post(body).await {
                    Answer::Taken => {
                        self.alert.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    Answer::Refused(reason) => {
                        self.alert.failed.fetch_add(1, Ordering::Relaxed);
                        log::error!("{}: given up for good: {reason}", self.name());
                    }
                    Answer::Away(reason) => {
                        failed = Some(reason);
                        break 'alerts;
                    }
                }
                told.push(ToldAlert { group_hash: alert.group_hash.clone(), fired_at: alert.fired_at, resolved });
            }
        }
        if !told.is_empty() {
            self.note(told).await;
            self.pause = PAUSE_MIN;
        }
        match failed {
            Some(reason) => {
                self.is_away(&reason);
                self.rest().await;
            }
            None => *self.alert.error.lock() = None,
        }
    }

    /// What is not noted would be told again.
    async fn note(&mut self, told: Vec<ToldAlert>) {
        while let Err(error) = self.store.alerts_told(&self.alert.pipeline, &self.alert.config.name, told.clone()).await
        {
            log::debug!("{}: {error}", self.name());
            self.rest().await;
        }
    }

    async fn rest(&mut self) {
        self.clock.sleep(jittered(self.pause)).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    fn is_away(&self, reason: &str) {
        let reason: String = reason.chars().take(EXCERPT_BYTES_MAX).collect();
        let is_news = self.alert.error.lock().replace(reason.clone()).as_ref() != Some(&reason);
        if is_news {
            log::warn!("{} is not told yet, and tried again: {reason}", self.name());
        }
    }

    fn name(&self) -> String {
        format!("alert {}.{}, webhook {}", self.alert.pipeline, self.alert.config.name, self.webhook.shown)
    }
}
