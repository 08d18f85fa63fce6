//! What operators tell pipelines: pause, resume, skip.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;

use super::{Shared, error, of_store, peer, unknown_pipeline};
use crate::actors::{OrderError, PipelineHandle, SkipTo, Verb};

/// The routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/v1/pipelines/{name}", web::delete().to(delete))
        .route("/api/v1/pipelines/{name}/pause", web::post().to(pause))
        .route("/api/v1/pipelines/{name}/resume", web::post().to(resume))
        .route("/api/v1/pipelines/{name}/skip", web::post().to(skip));
}

async fn pause(request: HttpRequest, shared: web::Data<Shared>, name: web::Path<String>) -> HttpResponse {
    order(&request, &shared, &name, Verb::Pause).await
}

async fn resume(request: HttpRequest, shared: web::Data<Shared>, name: web::Path<String>) -> HttpResponse {
    order(&request, &shared, &name, Verb::Resume).await
}

/// Deletes all that is stored of a pipeline: one that is stopped, or that the config no longer has.
async fn delete(request: HttpRequest, shared: web::Data<Shared>, name: web::Path<String>) -> HttpResponse {
    if find(&shared, &name).is_some() {
        return order(&request, &shared, &name, Verb::Drop).await;
    }
    let stored = match shared.store.registered().await {
        Ok(registered) => registered.iter().any(|stored| stored.name == *name && !name.starts_with('@')),
        Err(reason) => return of_store(&reason),
    };
    if !stored {
        return unknown_pipeline(&shared.pipelines, &name);
    }
    match shared.store.drop_pipeline(&name).await {
        Ok(()) => {
            log::warn!("{}: pipeline {name} is dropped, with all its rows and letters", peer(&request));
            HttpResponse::Ok().json(serde_json::json!({ "pipeline": *name, "state": "dropped", "position": 0 }))
        }
        Err(reason) => of_store(&reason),
    }
}

/// The body of a skip.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Skip {
    to: To,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum To {
    Position(u64),
    Word(End),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum End {
    End,
}

async fn skip(
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
    body: web::Bytes,
) -> HttpResponse {
    let to = match serde_json::from_slice(&body) {
        Ok(Skip { to: To::Position(position) }) => SkipTo::Position(position),
        Ok(Skip { to: To::Word(End::End) }) => SkipTo::End,
        Err(reason) => {
            let message = format!("the body must be {{\"to\": <position>}} or {{\"to\": \"end\"}}: {reason}");
            return error(StatusCode::BAD_REQUEST, "bad_request", &message);
        }
    };
    order(&request, &shared, &name, Verb::Skip(to)).await
}

/// A pipeline, or the intake of a stream.
fn find(shared: &Shared, name: &str) -> Option<PipelineHandle> {
    shared.pipelines.find(name).or_else(|| shared.intakes.iter().find(|intake| intake.name() == name).cloned())
}

/// Gives the order, and says in the log who gave it.
async fn order(request: &HttpRequest, shared: &Shared, name: &str, verb: Verb) -> HttpResponse {
    let Some(pipeline) = find(shared, name) else {
        return unknown_pipeline(&shared.pipelines, name);
    };
    let peer = peer(request);
    let answer = pipeline.order(verb).await;
    match &answer {
        Ok(standing) => {
            let skipped = standing.skipped.map(|events| format!(", {events} events skipped")).unwrap_or_default();
            let (state, position) = (standing.state.name(), standing.position);
            log::info!("{peer}: {verb:?} of pipeline {name}: {state} at position {position}{skipped}");
        }
        Err(reason) => log::info!("{peer}: {verb:?} of pipeline {name} is not followed: {reason}"),
    }
    match answer {
        Ok(standing) => HttpResponse::Ok().json(standing),
        Err(reason) => refused_order(&reason),
    }
}

/// Why an order is not followed.
pub(super) fn refused_order(reason: &OrderError) -> HttpResponse {
    let (status, code) = match reason {
        OrderError::Conflict(_) => (StatusCode::CONFLICT, "conflict"),
        OrderError::OutOfRange(_) => (StatusCode::BAD_REQUEST, "out_of_range"),
        OrderError::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "away"),
    };
    error(status, code, &reason.to_string())
}
