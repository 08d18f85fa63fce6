//! `POST /api/v1/reload`: the daemon takes the changed config file.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, error, of_store, peer};
use crate::actors::{ReloadError, Reloaded};

/// A word to whoever keeps the system that its config file is to be read again.
pub struct Reload {
    /// The code of the plan whose losses are accepted.
    pub accept_plan: Option<String>,
    /// Told what it did.
    pub reply: oneshot::Sender<Result<Reloaded, ReloadError>>,
}

/// Where such words go. One waits at most beside the one that is followed.
#[derive(Clone)]
pub struct Reloads(mpsc::Sender<Reload>);

impl Reloads {
    /// Both sides.
    pub fn new() -> (Self, mpsc::Receiver<Reload>) {
        let (reloads, taken) = mpsc::channel(1);
        (Self(reloads), taken)
    }

    /// Takes the changed config file, and waits until that is done.
    ///
    /// # Errors
    /// Why it is not taken; nothing has changed then.
    pub async fn reload(&self, accept_plan: Option<String>) -> Result<Reloaded, ReloadError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Reload { accept_plan, reply }).await.map_err(|_| ReloadError::Stopping)?;
        answer.await.map_err(|_| ReloadError::Stopping)?
    }
}

/// The body, which may be empty.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Asked {
    accept_plan: Option<String>,
}

/// Answers with the plan that was followed.
pub(super) async fn reload(request: HttpRequest, shared: web::Data<Shared>, body: web::Bytes) -> HttpResponse {
    let asked = match body.trim_ascii() {
        [] => Ok(Asked::default()),
        body => serde_json::from_slice(body),
    };
    let asked = match asked {
        Ok(Asked { accept_plan }) => accept_plan,
        Err(reason) => {
            let message = format!("the body must be empty or {{\"accept_plan\": \"<code>\"}}: {reason}");
            return error(StatusCode::BAD_REQUEST, "bad_request", &message);
        }
    };
    log::info!("{}: reload of the config", peer(&request));
    let (status, code, reason) = match shared.reloads.reload(asked).await {
        Ok(reloaded) => return HttpResponse::Ok().json(reloaded),
        Err(ReloadError::Store(reason)) => return of_store(&reason),
        Err(reason @ ReloadError::Config(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "config", reason),
        Err(reason @ ReloadError::Restart(_)) => (StatusCode::CONFLICT, "restart_needed", reason),
        Err(reason @ ReloadError::Plan(_)) => (StatusCode::CONFLICT, "plan", reason),
        Err(reason @ ReloadError::Stopping) => (StatusCode::SERVICE_UNAVAILABLE, "stopping", reason),
    };
    error(status, code, &reason.to_string())
}
