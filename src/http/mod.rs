//! The HTTP edge: bodies of events, health, readiness, stats, rows; `pipelines` is what operators tell them.

mod auth;
mod body;
mod ingest;
mod letters;
mod pipelines;
mod reload;
mod results;
mod tap;

use std::net::TcpListener;
use std::sync::Arc;

use actix_web::dev::Server;
use actix_web::http::StatusCode;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde::Deserialize;

use crate::actors::{PipelineHandle, Pipelines, StatsRegistry, StreamHandle, System};
use crate::config::HttpConfig;
use crate::store::{Store, StoreError};
use auth::Access;
use body::Bodies;
pub use reload::{Reload, Reloads};

/// What the routes answer from.
#[derive(Clone)]
pub struct Shared {
    /// Counters.
    pub stats: Arc<StatsRegistry>,
    /// Pipelines by name.
    pub pipelines: Pipelines,
    /// The intakes of streams, which take orders, too.
    pub intakes: Arc<Vec<PipelineHandle>>,
    /// Streams, in the order of the config.
    pub streams: Arc<Vec<StreamHandle>>,
    store: Store,
    reloads: Reloads,
    access: Access,
    bodies: Bodies,
}

impl Shared {
    /// Of a running system.
    pub fn new(config: &HttpConfig, system: &System, reloads: Reloads) -> Self {
        Self {
            stats: system.stats(),
            pipelines: system.pipelines(),
            intakes: Arc::new(system.intakes().to_vec()),
            streams: Arc::new(system.streams()),
            store: system.store(),
            reloads,
            access: Access::new(config, &system.streams()),
            bodies: Bodies::new(),
        }
    }
}

/// A server on this socket; to be started on a thread of an actix `System`.
///
/// # Errors
/// Where the socket cannot be listened on.
pub fn server(listener: TcpListener, shared: Shared) -> std::io::Result<Server> {
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(shared.clone()))
            .wrap(from_fn(auth::guard))
            .route("/healthz", web::get().to(async || HttpResponse::Ok().body("ok\n")))
            .route("/readyz", web::get().to(readyz))
            .route("/api/v1/stats", web::get().to(stats))
            .route("/api/v1/pipelines/{name}/results", web::get().to(results::results))
            .configure(pipelines::routes)
            .configure(letters::routes)
            .configure(tap::routes)
            .route("/api/v1/streams/{name}/events", web::post().to(ingest::events))
            .route("/api/v1/reload", web::post().to(reload::reload))
            .default_service(web::to(async || error(StatusCode::NOT_FOUND, "not_found", "there is no such path")))
    })
    .on_connect(auth::note_address)
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    Ok(server)
}

fn error(status: StatusCode, code: &str, message: &str) -> HttpResponse {
    HttpResponse::build(status).json(serde_json::json!({ "error": { "code": code, "message": message } }))
}

#[derive(Deserialize)]
struct Readiness {
    strict: Option<String>,
}

async fn readyz(shared: web::Data<Shared>, query: web::Query<Readiness>) -> HttpResponse {
    let (degraded, held) = shared.stats.degraded();
    let ready = !held && (query.strict.is_none() || degraded.is_empty());
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    HttpResponse::build(status).json(serde_json::json!({ "ready": ready, "degraded": degraded }))
}

async fn stats(shared: web::Data<Shared>) -> HttpResponse {
    match shared.stats.to_json() {
        Ok(body) => HttpResponse::Ok().content_type("application/json").body(body),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, "internal", &reason.to_string()),
    }
}

fn unknown_pipeline(known: &Pipelines, name: &str) -> HttpResponse {
    let known = known.all();
    let names: Vec<_> = known.iter().map(PipelineHandle::name).collect();
    let message = format!("there is no pipeline {name:?}; there are: {}", names.join(", "));
    error(StatusCode::NOT_FOUND, "unknown_pipeline", &message)
}

/// Who asks, for the log.
fn peer(request: &HttpRequest) -> String {
    request.peer_addr().map_or_else(|| "an unknown peer".to_owned(), |peer| peer.to_string())
}

/// What the store said no to: 503 where it is away.
fn of_store(reason: &StoreError) -> HttpResponse {
    let (status, code) = match reason {
        StoreError::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_away"),
        StoreError::TooMuch(_) => (StatusCode::BAD_REQUEST, "too_many_rows"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "store"),
    };
    error(status, code, &reason.to_string())
}
