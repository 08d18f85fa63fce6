//! A test's way through the actors.

use std::path::Path;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, PipelineConfig, StageConfig, StoreUrl, TestConfig, TestStep};
use crate::daemon::Offline;
use crate::limits::RESULT_ROWS_MAX;
use crate::store::{LetterFilter, ResultRows, StoredLetter};

/// A journal's least: a test has few lines, and begins with a journal.
const JOURNAL_BYTES: u64 = 8 * 1024 * 1024;

/// What is there behind a step.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) rows: ResultRows,
    /// In the order of their lines.
    pub(super) letters: Vec<StoredLetter>,
}

/// What is there behind each step; else why it could not be run.
pub(super) fn run(
    config: &Config,
    pipeline: &PipelineConfig,
    test: &TestConfig,
    store: &Path,
) -> Result<Vec<Seen>, String> {
    for stage in &pipeline.stages {
        if let StageConfig::Custom(name) = stage {
            return Err(format!(
                "pipeline {} has the stage custom = \"{name}\", which only the program that registers it can run: test it \
                 there, with the events sent by `Mill::stream`",
                pipeline.name
            ));
        }
    }
    let mut config = config.clone();
    config.pipelines.retain(|one| one.name == pipeline.name);
    config.streams.retain(|stream| stream.name == pipeline.stream);
    config.store.url = StoreUrl::Sqlite(store.to_owned());
    let clock = Clock::manual(test.now_ms);
    let work = async |offline: &Offline| {
        let mut seen = Vec::with_capacity(test.steps.len());
        for step in &test.steps {
            seen.push(take(offline, &clock, pipeline, step).await?);
        }
        Ok(seen)
    };
    Offline::run(config, clock.clone(), (1, JOURNAL_BYTES), work).map_err(|error| error.to_string())?
}

async fn take(offline: &Offline, clock: &Clock, pipeline: &PipelineConfig, step: &TestStep) -> Result<Seen, String> {
    let ended = |error: crate::actors::Closed| error.to_string();
    let stream = &pipeline.stream;
    for event in &step.events {
        offline.send(stream, None, format!("{event}\n").into_bytes()).await.map_err(ended)?;
    }
    if step.advance_ms > 0 {
        // What was sent comes in before time passes.
        offline.commit().await.map_err(ended)?;
        clock.advance(Duration::from_millis(step.advance_ms.unsigned_abs()));
        offline.silence(stream, step.advance_ms).await.map_err(ended)?;
    }
    if step.rows.is_none() && step.letters.is_none() {
        return Ok(Seen::default());
    }
    offline.commit().await.map_err(ended)?;
    let store = offline.store();
    let rows = offline.rows(&pipeline.name, RESULT_ROWS_MAX).await.map_err(|error| error.to_string())?;
    let letters = store.letters(LetterFilter::default(), None, RESULT_ROWS_MAX).await;
    let mut letters = letters.map_err(|error| error.to_string())?;
    letters.reverse();
    Ok(Seen { rows, letters })
}
