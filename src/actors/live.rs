//! Which pipelines are shown live, and what they have to show: written by flushes, read by whoever shows it.

use std::sync::Arc;

use tokio::sync::{Notify, watch};

use super::system::System;
use crate::config::PipelineConfig;
use crate::store::LiveRows;
use crate::window::WindowSpec;

/// A pipeline that is shown live.
#[derive(Clone)]
pub struct LiveFeed {
    /// Its name.
    pub pipeline: String,
    /// The fields of its groups.
    pub group_by: Vec<String>,
    /// Whether its windows are sessions, of which a row can go.
    pub sessions: bool,
    /// How long a row stays where it is shown, ms.
    pub ttl_ms: i64,
    /// What it has committed.
    pub rows: Arc<LiveRows>,
}

/// All of them.
#[derive(Clone, Default)]
pub struct LiveFeeds {
    feeds: Arc<watch::Sender<Vec<LiveFeed>>>,
    told: Arc<Notify>,
}

impl LiveFeeds {
    /// Of a pipeline that begins, or begins anew by another definition.
    pub(super) fn begin(&self, pipeline: &PipelineConfig) -> Option<Arc<LiveRows>> {
        let feed = pipeline.redis_ttl_ms.map(|ttl_ms| LiveFeed {
            pipeline: pipeline.name.clone(),
            group_by: pipeline.group_by.iter().map(|group| group.name.clone()).collect(),
            sessions: matches!(pipeline.window, WindowSpec::Session { .. }),
            ttl_ms,
            rows: Arc::new(LiveRows::new(self.told.clone())),
        });
        let rows = feed.as_ref().map(|feed| feed.rows.clone());
        self.feeds.send_modify(|feeds| {
            feeds.retain(|other| other.pipeline != pipeline.name);
            feeds.extend(feed);
        });
        rows
    }

    /// A pipeline that a reload has no place for.
    pub(super) fn forget(&self, pipeline: &str) {
        self.feeds.send_modify(|feeds| feeds.retain(|feed| feed.pipeline != pipeline));
    }

    /// Those that there are, as they change.
    pub fn subscribe(&self) -> watch::Receiver<Vec<LiveFeed>> {
        self.feeds.subscribe()
    }

    /// Told after each commit of one of them.
    pub fn told(&self) -> Arc<Notify> {
        self.told.clone()
    }
}

impl System {
    /// Its pipelines that are shown live.
    pub fn live(&self) -> LiveFeeds {
        self.live.clone()
    }
}
