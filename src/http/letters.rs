//! Dead letters: list, show, purge.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::{Shared, error, of_store};
use crate::limits::LETTERS_MAX;
use crate::store::{LetterFilter, LetterId};

/// The routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/v1/dead-letters", web::get().to(list))
        .route("/api/v1/dead-letters", web::delete().to(purge))
        .route("/api/v1/dead-letters/{id}", web::get().to(show));
}

/// What may stand behind the `?`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    pipeline: Option<String>,
    kind: Option<String>,
    /// Unix ms.
    before: Option<i64>,
    limit: Option<usize>,
    after: Option<String>,
    by: Option<By>,
    /// To purge without any other condition.
    all: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum By {
    Reason,
}

impl Asked {
    fn read(request: &HttpRequest) -> Result<Self, String> {
        let read = web::Query::<Self>::from_query(request.query_string());
        read.map(web::Query::into_inner).map_err(|reason| reason.to_string())
    }

    fn filter(&self) -> LetterFilter {
        LetterFilter { pipeline: self.pipeline.clone(), kind: self.kind.clone(), before: self.before }
    }
}

/// `{letters, next}`, where `next` is the `after` of the next page, if there is one; with `by=reason`: `{reasons}`.
async fn list(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    let asked = match Asked::read(&request) {
        Ok(asked) => asked,
        Err(reason) => return bad(&reason),
    };
    let limit = asked.limit.unwrap_or(100).min(LETTERS_MAX);
    if let Some(By::Reason) = asked.by {
        return match shared.store.letter_reasons(asked.filter(), limit).await {
            Ok(reasons) => HttpResponse::Ok().json(json!({ "reasons": reasons })),
            Err(reason) => of_store(&reason),
        };
    }
    let after = match asked.after.as_deref().map(str::parse::<LetterId>).transpose() {
        Ok(after) => after,
        Err(reason) => return bad(&reason),
    };
    match shared.store.letters(asked.filter(), after, limit).await {
        Ok(letters) => {
            let next = letters.last().filter(|_| letters.len() == limit).map(|letter| letter.id.clone());
            HttpResponse::Ok().json(json!({ "letters": letters, "next": next }))
        }
        Err(reason) => of_store(&reason),
    }
}

async fn show(shared: web::Data<Shared>, id: web::Path<String>) -> HttpResponse {
    let parsed = match id.parse::<LetterId>() {
        Ok(parsed) => parsed,
        Err(reason) => return bad(&reason),
    };
    match shared.store.letter(parsed).await {
        Ok(Some(letter)) => HttpResponse::Ok().json(letter),
        Ok(None) => error(StatusCode::NOT_FOUND, "unknown_letter", &format!("there is no letter {:?}", id.as_str())),
        Err(reason) => of_store(&reason),
    }
}

/// `{purged}`. Nothing is purged by a request that names no condition and does not say `all=true` either.
async fn purge(request: HttpRequest, shared: web::Data<Shared>) -> HttpResponse {
    let asked = match Asked::read(&request) {
        Ok(asked) => asked,
        Err(reason) => return bad(&reason),
    };
    if asked.limit.is_some() || asked.after.is_some() || asked.by.is_some() {
        return bad("a purge knows pipeline, kind, before and all");
    }
    let filter = asked.filter();
    let unconditional = filter.pipeline.is_none() && filter.kind.is_none() && filter.before.is_none();
    if unconditional != asked.all.unwrap_or(false) {
        return bad("name the letters to purge by pipeline, kind or before; or say all=true, and nothing else");
    }
    let peer = request.peer_addr().map_or_else(|| "an unknown peer".to_owned(), |peer| peer.to_string());
    match shared.store.purge_letters(filter.clone()).await {
        Ok(purged) => {
            log::info!("{peer} purged {purged} dead letters ({filter:?})");
            HttpResponse::Ok().json(json!({ "purged": purged }))
        }
        Err(reason) => of_store(&reason),
    }
}

fn bad(message: &str) -> HttpResponse {
    error(StatusCode::BAD_REQUEST, "bad_request", message)
}
