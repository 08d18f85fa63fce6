//! Events as they pass, for as long as the client listens: NDJSON, one event a line, and between them lines that say how
//! the watch stands (`{"tap": …}`).

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use futures_util::stream;
use serde::Deserialize;
use serde_json::json;

use super::{Shared, error, unknown_pipeline};
use crate::actors::PipelineHandle;
use crate::limits::{TAP_RATE_MAX, TAPS_MAX};
use crate::pipeline::Tap;

/// Events a second where nobody says how many.
const RATE: u32 = 10;
/// So often it is seen whether the watched still runs, …
const BEAT: Duration = Duration::from_millis(500);
/// … and so often the client is told how the watch stands: that is also how one that has gone is noticed.
const WORD: Duration = Duration::from_secs(5);

/// The routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/v1/pipelines/{name}/tap", web::get().to(pipeline))
        .route("/api/v1/streams/{name}/tap", web::get().to(stream_lines));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    rate: Option<u32>,
}

async fn pipeline(shared: web::Data<Shared>, name: web::Path<String>, wanted: web::Query<Wanted>) -> HttpResponse {
    match shared.pipelines.find(&name) {
        Some(pipeline) => watch(shared, pipeline, wanted.rate),
        None => unknown_pipeline(&shared.pipelines, &name),
    }
}

async fn stream_lines(shared: web::Data<Shared>, name: web::Path<String>, wanted: web::Query<Wanted>) -> HttpResponse {
    let intakes = shared.intakes.clone();
    if let Some(intake) = intakes.iter().find(|intake| intake.name().strip_prefix('@') == Some(name.as_str())) {
        return watch(shared, intake.clone(), wanted.rate);
    }
    let names: Vec<_> = intakes.iter().map(PipelineHandle::stream).collect();
    let message = format!("there is no stream {:?}; there are: {}", *name, names.join(", "));
    error(StatusCode::NOT_FOUND, "unknown_stream", &message)
}

/// A watch under way.
struct Watch {
    shared: web::Data<Shared>,
    watched: PipelineHandle,
    tap: Tap,
    /// When the client was told how it stands.
    told: Option<Duration>,
    ended: bool,
}

fn watch(shared: web::Data<Shared>, watched: PipelineHandle, rate: Option<u32>) -> HttpResponse {
    let rate = rate.unwrap_or(RATE);
    if !(1..=TAP_RATE_MAX).contains(&rate) {
        let message = format!("`rate` is a number of events a second from 1 to {TAP_RATE_MAX}");
        return error(StatusCode::BAD_REQUEST, "bad_request", &message);
    }
    let Some(tap) = watched.taps().tap(rate) else {
        let message =
            format!("{TAPS_MAX} others watch {} already; try again when one of them has ended", watched.name());
        return error(StatusCode::SERVICE_UNAVAILABLE, "too_many_taps", &message);
    };
    let watch = Watch { shared, watched, tap, told: None, ended: false };
    let lines = stream::unfold(watch, async |mut watch| {
        let lines = watch.next().await?;
        Some((Ok::<_, actix_web::Error>(web::Bytes::from(lines)), watch))
    });
    HttpResponse::Ok().content_type("application/x-ndjson").streaming(lines)
}

impl Watch {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.ended {
                return None;
            }
            let why = self.end();
            self.ended = why.is_some();
            let now = self.tap.elapsed();
            if self.ended || self.told.is_none_or(|told| now.saturating_sub(told) >= WORD) {
                self.told = Some(now);
                return Some(self.word(why));
            }
            let lines = self.tap.lines(BEAT).await;
            if !lines.is_empty() {
                return Some(lines);
            }
        }
    }

    /// How it stands.
    fn word(&self, ended: Option<String>) -> Vec<u8> {
        let counts = self.tap.counts();
        let mut word = json!({ "tap": counts });
        word["tap"]["state"] = self.watched.state().name().into();
        if let Some(why) = ended {
            word["tap"]["ended"] = why.into();
        }
        format!("{word}\n").into_bytes()
    }

    /// Why nothing will pass any more.
    fn end(&self) -> Option<String> {
        let name = self.watched.name();
        if self.shared.stats.is_draining() {
            return Some("the daemon stops".to_owned());
        }
        if name.starts_with('@') {
            return None;
        }
        match self.shared.pipelines.find(name) {
            Some(pipeline) if self.tap.is_of(pipeline.taps()) => None,
            Some(_) => Some(format!("a reload has changed pipeline {name}: watch it again")),
            None => Some(format!("a reload has taken pipeline {name} out")),
        }
    }
}
