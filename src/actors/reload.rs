//! A running system takes a changed config: the pipelines that it defines otherwise end behind their last commit and begin
//! again from there, those that it does not name end, new ones begin. All others are not touched.

use serde::Serialize;

use super::system::{System, agree, refusals};
use crate::config::{Config, PipelineConfig};
use crate::pipeline::Plan;
use crate::store::StoreError;

/// Why a config is not taken. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The config has mistakes, or there is no file to read it from.
    #[error("{0}")]
    Config(String),
    /// Other keys than those of pipelines have changed.
    #[error("a running daemon changes pipelines alone: restart it for {0}")]
    Restart(String),
    /// Something would be lost that nobody has accepted, or another plan was: the plan.
    #[error("{0}(while it runs: `POST /api/v1/reload` with {{\"accept_plan\": \"<code>\"}})")]
    Plan(String),
    /// What is stored cannot be read.
    #[error("the plan cannot be made: {0}")]
    Store(StoreError),
    /// The daemon stops.
    #[error("the daemon stops")]
    Stopping,
}

/// What a reload did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Reloaded {
    /// For each pipeline what was done, as `tidemill plan` says it.
    pub plan: String,
    /// Pipelines that have begun or changed.
    pub changed: Vec<String>,
    /// Pipelines that have ended; what is stored of them stays.
    pub removed: Vec<String>,
    /// What the store said no to: those pipelines are stopped, and the reason is in their stats, too.
    pub refused: Vec<String>,
}

impl System {
    /// Whether somebody has registered this custom stage.
    pub fn has_stage(&self, name: &str) -> bool {
        self.registry.contains_key(name)
    }

    /// Takes a changed config.
    ///
    /// # Errors
    /// Where it says what cannot be done to a running system.
    pub async fn reload(&mut self, config: Config, accept_plan: Option<&str>) -> Result<Reloaded, ReloadError> {
        let restart = needs_restart(&self.config, &config);
        if !restart.is_empty() {
            return Err(ReloadError::Restart(restart.join(", ")));
        }
        let before = self.config.pipelines.clone();
        let is_touched = |name: &str| find(&before, name) != find(&config.pipelines, name);
        let registered = self.store.registered().await.map_err(ReloadError::Store)?;
        let plan = Plan::of(&config, &registered, &self.looks(), &is_touched);
        let accepted = agree(&plan, accept_plan).map_err(ReloadError::Plan)?;

        // First, so that few lines are decoded for the old ones alone: those the new ones read from the journal.
        self.ask_for(&config.pipelines);
        let ended: Vec<_> = self.pipelines.all().into_iter().filter(|one| is_touched(one.name())).collect();
        futures_util::future::join_all(ended.iter().map(|pipeline| pipeline.leave())).await;
        let mut removed = Vec::new();
        for pipeline in &ended {
            if find(&config.pipelines, pipeline.name()).is_none() {
                self.unpin(pipeline.name());
                self.stats.forget(pipeline.name());
                self.live.forget(pipeline.name());
                self.alerts.forget(pipeline.name());
                removed.push(pipeline.name().to_owned());
            }
        }
        let (mut pipelines, mut changed, mut began) = (Vec::new(), Vec::new(), Vec::new());
        for pipeline in &config.pipelines {
            let running = self.pipelines.find(&pipeline.name).filter(|running| !is_touched(running.name()));
            let Some(stream) = self.stream_of(pipeline) else { continue };
            pipelines.push(running.unwrap_or_else(|| {
                let (handle, begins) = self.pipeline(stream, Some(pipeline.clone()), accepted);
                changed.push(pipeline.name.clone());
                began.push(begins);
                handle
            }));
        }
        self.pipelines.replace(pipelines);
        self.config = config;
        Ok(Reloaded { plan: plan.to_string(), changed, removed, refused: refusals(began).await })
    }
}

/// The definition of a pipeline, with all that a change of it must be told by.
fn find<'c>(pipelines: &'c [PipelineConfig], name: &str) -> Option<&'c serde_json::Value> {
    pipelines.iter().find(|pipeline| pipeline.name == name).map(|pipeline| &pipeline.definition)
}

/// The parts of a config, pipelines apart, that are not as before.
fn needs_restart(before: &Config, now: &Config) -> Vec<String> {
    let Config {
        data_dir,
        min_free_bytes,
        shutdown_timeout_ms,
        store,
        http,
        redis,
        dead_letters,
        streams,
        pipelines: _,
        tests: _,
    } = before;
    let parts = [
        ("data_dir", *data_dir != now.data_dir),
        ("min_free", *min_free_bytes != now.min_free_bytes),
        ("shutdown_timeout", *shutdown_timeout_ms != now.shutdown_timeout_ms),
        ("[store]", *store != now.store),
        ("[http]", *http != now.http),
        ("[redis]", *redis != now.redis),
        ("[dead_letters]", *dead_letters != now.dead_letters),
    ];
    let mut changed: Vec<String> = parts.iter().filter(|(_, is)| *is).map(|(name, _)| (*name).to_owned()).collect();
    let (gone, new) = (streams.iter().filter(|one| !now.streams.contains(one)), &now.streams);
    let other = gone.chain(new.iter().filter(|one| !streams.contains(one)));
    changed.extend(other.map(|stream| format!("[streams.{}]", stream.name)));
    changed.sort();
    changed.dedup();
    changed
}
