//! Which alerts there are, and how they stand: written by flushes and by whoever sends them, read by stats.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::watch;

use super::stats::PipelineStats;
use super::system::System;
use crate::config::{AlertConfig, PipelineConfig};
use crate::store::AlertNews;

/// An alert of a running pipeline.
pub struct AlertStats {
    /// Its pipeline.
    pub pipeline: String,
    /// What it is.
    pub config: AlertConfig,
    /// The pipeline's news.
    pub news: Arc<AlertNews>,
    /// What its webhook has got since the daemon's start.
    pub sent: AtomicU64,
    /// What its webhook has refused since the daemon's start.
    pub failed: AtomicU64,
    /// Why its webhook does not take what waits.
    pub error: Mutex<Option<String>>,
}

/// The same, as it is shown.
#[derive(Serialize)]
pub(super) struct AlertSnapshot {
    name: String,
    /// How many groups fire, as of the last commit.
    firing: u64,
    sent: u64,
    failed: u64,
    error: Option<String>,
}

impl AlertStats {
    pub(super) fn snapshot(&self) -> AlertSnapshot {
        let firing = self.news.firing().borrow().as_ref().and_then(|firing| firing.get(&self.config.name).copied());
        AlertSnapshot {
            name: self.config.name.clone(),
            firing: firing.unwrap_or_default(),
            sent: self.sent.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            error: self.error.lock().clone(),
        }
    }
}

/// All alerts of all pipelines.
#[derive(Clone, Default)]
pub struct AlertFeeds(Arc<watch::Sender<Vec<Arc<AlertStats>>>>);

impl AlertFeeds {
    /// Of a pipeline that begins, or begins anew by another definition.
    pub(super) fn begin(&self, config: &PipelineConfig, stats: &PipelineStats) -> Arc<AlertNews> {
        let news = Arc::new(AlertNews::default());
        let of = |alert: &AlertConfig| {
            Arc::new(AlertStats {
                pipeline: config.name.clone(),
                config: alert.clone(),
                news: news.clone(),
                sent: AtomicU64::new(0),
                failed: AtomicU64::new(0),
                error: Mutex::default(),
            })
        };
        let alerts: Vec<_> = config.alerts.iter().map(of).collect();
        stats.alerts.lock().clone_from(&alerts);
        self.0.send_modify(|all| {
            all.retain(|other| other.pipeline != config.name);
            all.extend(alerts);
        });
        news
    }

    /// A pipeline that a reload has no place for.
    pub(super) fn forget(&self, pipeline: &str) {
        self.0.send_modify(|all| all.retain(|alert| alert.pipeline != pipeline));
    }

    /// Those that there are, as they change.
    pub fn subscribe(&self) -> watch::Receiver<Vec<Arc<AlertStats>>> {
        self.0.subscribe()
    }
}

impl System {
    /// The alerts of its pipelines.
    pub fn alerts(&self) -> AlertFeeds {
        self.alerts.clone()
    }
}
