//! The HTTP edge: health, readiness, stats, rows; `pipelines` is what operators tell them.

mod pipelines;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{Server, ServiceRequest, ServiceResponse};
use actix_web::http::{StatusCode, header};
use actix_web::middleware::{Next, from_fn};
use actix_web::{App, Error, HttpResponse, HttpServer, web};
use serde::Deserialize;

use crate::actors::{PipelineHandle, StatsRegistry};
use crate::limits::RESULT_ROWS_MAX;
use crate::store::{Query, StoreError};

/// What the routes answer from.
#[derive(Clone)]
pub struct Shared {
    /// Counters.
    pub stats: Arc<StatsRegistry>,
    /// Pipelines by name.
    pub pipelines: Arc<Vec<PipelineHandle>>,
    /// The intakes of streams, which take orders, too.
    pub intakes: Arc<Vec<PipelineHandle>>,
}

/// A server on this socket; to be started on a thread of an actix `System`.
///
/// # Errors
/// Where the socket cannot be listened on.
pub fn server(listener: TcpListener, shared: Shared) -> std::io::Result<Server> {
    let address = listener.local_addr()?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(web::Data::new(shared.clone()))
            .app_data(web::Data::new(address))
            .wrap(from_fn(only_us))
            .route("/healthz", web::get().to(async || HttpResponse::Ok().body("ok\n")))
            .route("/readyz", web::get().to(readyz))
            .route("/api/v1/stats", web::get().to(stats))
            .route("/api/v1/pipelines/{name}/results", web::get().to(results))
            .configure(pipelines::routes)
            .default_service(web::to(async || error(StatusCode::NOT_FOUND, "not_found", "there is no such path")))
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .listen(listener)?
    .run();
    Ok(server)
}

/// A page of another site must not reach a daemon on loopback through its reader's browser (DNS rebinding): `Host` must
/// be this listener, and `Origin`, where it is sent, the same.
async fn only_us(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let address = request.app_data::<web::Data<SocketAddr>>().map(|address| ***address);
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let host = header(header::HOST).unwrap_or_default();
    let ours = address.is_some_and(|address| is_ours(host, address));
    let same = header(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
    if ours && same {
        return Ok(next.call(request).await?.map_into_left_body());
    }
    let answer = error(StatusCode::FORBIDDEN, "forbidden", "Host must be the daemon's address or localhost");
    Ok(request.into_response(answer).map_into_right_body())
}

fn is_ours(host: &str, address: SocketAddr) -> bool {
    let port = address.port();
    host == address.to_string() || host == format!("localhost:{port}") || (port == 80 && host == "localhost")
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

#[derive(Deserialize)]
struct Results {
    now: Option<bool>,
    from: Option<i64>,
    to: Option<i64>,
    limit: Option<usize>,
}

async fn results(shared: web::Data<Shared>, name: web::Path<String>, query: web::Query<Results>) -> HttpResponse {
    let Some(pipeline) = shared.pipelines.iter().find(|pipeline| pipeline.name() == name.as_str()) else {
        let names: Vec<_> = shared.pipelines.iter().map(PipelineHandle::name).collect();
        let message = format!("there is no pipeline {:?}; there are: {}", name.as_str(), names.join(", "));
        return error(StatusCode::NOT_FOUND, "unknown_pipeline", &message);
    };
    let query = Query {
        now: query.now.unwrap_or(false),
        from: query.from,
        to: query.to,
        limit: query.limit.unwrap_or(100).min(RESULT_ROWS_MAX),
    };
    match pipeline.rows(query).await {
        Ok(rows) => HttpResponse::Ok().json(rows),
        Err(reason @ StoreError::Away(_)) => error(StatusCode::SERVICE_UNAVAILABLE, "store_away", &reason.to_string()),
        Err(reason) => error(StatusCode::INTERNAL_SERVER_ERROR, "store", &reason.to_string()),
    }
}
