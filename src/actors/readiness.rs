//! Whether all is well, and if not, how long the journals last: what `/readyz` answers, and what the log says unasked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::snapshot::held_name;
use super::stats::{PipelineState, PipelineStats, StatsRegistry, StreamStats};
use crate::units::{show_bytes, show_duration};

/// So often the log names a pipeline that pins its journal.
const WARN_EVERY: Duration = Duration::from_secs(600);

/// A pipeline for which a journal keeps at least half of its limit.
pub(super) struct Pin {
    pub pipeline: String,
    pub bytes: u64,
    pub position: u64,
}

impl StreamStats {
    /// Who pins the journal from half of its limit on, the worst first.
    pub(super) fn pins(&self, pipelines: &[Arc<PipelineStats>]) -> Vec<Pin> {
        let mut pins: Vec<Pin> = self.kept_for(pipelines).filter(|pin| pin.bytes >= self.limit_bytes / 2).collect();
        pins.sort_by_key(|pin| pin.position);
        pins
    }

    /// What the journal keeps for each of its pipelines.
    fn kept_for<'a>(&'a self, pipelines: &'a [Arc<PipelineStats>]) -> impl Iterator<Item = Pin> + 'a {
        pipelines.iter().filter(|pipeline| pipeline.stream == self.name).filter_map(|pipeline| {
            let (position, unpinned) = {
                let view = pipeline.inner.lock();
                (view.position, view.unpinned)
            };
            let bytes = self.extents.bytes_behind(position);
            (!unpinned).then(|| Pin { pipeline: pipeline.name.clone(), bytes, position })
        })
    }

    /// How long the journal has room at the present rate, if nobody commits; `None` where nothing comes.
    fn lasts(&self, pipelines: &[Arc<PipelineStats>]) -> Option<Duration> {
        let kept = self.kept_for(pipelines).map(|pin| pin.bytes).max().unwrap_or(0);
        // Less than a byte a second is what is left of an average after the last line.
        let rate = Some(self.sampled.lock().bytes_per_s).filter(|rate| *rate >= 1.0)?;
        Duration::try_from_secs_f64(self.limit_bytes.saturating_sub(kept) as f64 / rate).ok()
    }

    fn describe_pin(&self, pin: &Pin, pipelines: &[Arc<PipelineStats>]) -> String {
        format!(
            "pipeline {} pins the journal of stream {}: {} of its {} are kept for it; {}",
            pin.pipeline,
            self.name,
            show_bytes(pin.bytes),
            show_bytes(self.limit_bytes),
            left(self.lasts(pipelines)),
        )
    }
}

fn left(lasts: Option<Duration>) -> String {
    match lasts {
        Some(lasts) => format!("{} of journal left", show_duration(lasts)),
        None => "nothing comes in".to_owned(),
    }
}

impl StatsRegistry {
    /// What hinders streams and pipelines: empty where nothing does; and whether any stream cannot take lines.
    pub fn degraded(&self) -> (Vec<String>, bool) {
        let mut reasons = Vec::new();
        let mut held = self.draining.load(Ordering::Relaxed);
        if held {
            reasons.push("the daemon stops: it takes no lines any more".to_owned());
        }
        for stopped in self.stopped_streams.lock().iter() {
            held = true;
            reasons.push(format!("stream {} and its pipelines are stopped: {}", stopped.name, stopped.error));
        }
        let pipelines = self.pipelines.lock();
        let streams = self.streams.lock();
        reasons.extend(self.store_away(&streams, &pipelines));
        reasons.extend(self.redis_away());
        for stream in streams.iter() {
            let progress = stream.progress.borrow();
            if let Some(failed) = &progress.failed {
                held = true;
                reasons.push(format!("stream {}: the journal failed: {failed}", stream.name));
            } else if let Some(why) = progress.held {
                held = true;
                reasons.push(format!("stream {}: producers are held ({})", stream.name, held_name(why)));
            }
            drop(progress);
            reasons.extend(stream.pins(&pipelines).iter().map(|pin| stream.describe_pin(pin, &pipelines)));
        }
        let hinders = |pipeline: &Arc<PipelineStats>| {
            let stream = streams.iter().find(|stream| stream.name == pipeline.stream);
            describe_pipeline(pipeline, stream.map_or(0, |stream| stream.extents.bytes_behind(position(pipeline))))
        };
        reasons.extend(pipelines.iter().filter_map(hinders));
        (reasons, held)
    }

    /// All pipelines have one store, so that it is away once.
    fn store_away(&self, streams: &[Arc<StreamStats>], pipelines: &[Arc<PipelineStats>]) -> Option<String> {
        let away = |pipeline: &Arc<PipelineStats>| {
            let view = pipeline.inner.lock();
            view.away_since.map(|since| (since, view.error.clone().unwrap_or_default()))
        };
        let (since, error) = pipelines.iter().filter_map(away).min()?;
        let away_for = show_duration(self.clock.elapsed().saturating_sub(since));
        let lasts = streams.iter().filter_map(|stream| stream.lasts(pipelines)).min();
        Some(format!("store away for {away_for}, {} ({error})", left(lasts)))
    }

    /// It holds nothing up, so that nobody is held.
    fn redis_away(&self) -> Option<String> {
        let redis = self.redis.lock();
        let redis = redis.as_ref()?;
        let away_for = show_duration(self.clock.elapsed().saturating_sub(redis.away_since?));
        let error = redis.error.as_deref().unwrap_or_default();
        Some(format!("redis away for {away_for}: live values wait; results are not affected ({error})"))
    }

    /// Once a second: the log names who pins a journal, and pipelines that take nothing get an age.
    pub(super) fn look_at_pipelines(&self) {
        let pipelines = self.pipelines.lock();
        for stream in self.streams.lock().iter() {
            let now = self.clock.elapsed();
            for pin in stream.pins(&pipelines) {
                let of_pin = pipelines.iter().find(|pipeline| pipeline.name == pin.pipeline);
                if of_pin.is_some_and(|pipeline| pipeline.may_warn(now)) {
                    let pins = stream.describe_pin(&pin, &pipelines);
                    log::warn!("{pins}; when it is full, producers are held: `resume`, `skip`, `max_behind` free it");
                }
            }
            let last = stream.last();
            for pipeline in pipelines.iter().filter(|pipeline| pipeline.stream == stream.name) {
                let mut view = pipeline.inner.lock();
                // One that takes nothing cannot say how old the oldest record is that it has not committed: to a
                // second, it is as old as it is seen here.
                if view.position < last {
                    view.oldest.get_or_insert(self.clock.wall_ms());
                }
            }
        }
    }
}

impl PipelineStats {
    /// Whether it is time again for a line in the log.
    fn may_warn(&self, now: Duration) -> bool {
        let mut warned = self.warned.lock();
        let may = warned.is_none_or(|warned| now.saturating_sub(warned) >= WARN_EVERY);
        if may {
            *warned = Some(now);
        }
        may
    }
}

fn position(pipeline: &PipelineStats) -> u64 {
    pipeline.inner.lock().position
}

/// What hinders a pipeline, but for the store that is away.
fn describe_pipeline(pipeline: &PipelineStats, lag_bytes: u64) -> Option<String> {
    let view = pipeline.inner.lock();
    let (name, error) = (&pipeline.name, view.error.as_deref());
    match view.state {
        _ if view.away_since.is_some() => None,
        PipelineState::Running => error.map(|error| format!("pipeline {name}: {error}")),
        PipelineState::Behind => {
            Some(format!("pipeline {name}: behind, it reads {} from the journal", show_bytes(lag_bytes)))
        }
        state => Some(match error {
            Some(error) => format!("pipeline {name}: {} ({error})", state.name()),
            None => format!("pipeline {name}: {}", state.name()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_the_journal_lasts_is_said_in_words() {
        assert_eq!(left(Some(Duration::from_secs(3 * 3_600 + 12 * 60 + 59))), "3 h 12 min of journal left");
        assert_eq!(left(None), "nothing comes in");
    }
}
