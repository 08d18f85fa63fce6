//! Dead letters: list, show, replay, purge.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;

use super::pipelines::refused_order;
use super::{Shared, error, of_store, peer, unknown_pipeline};
use crate::actors::{PipelineHandle, Pipelines, Wanted};
use crate::limits::{LETTERS_MAX, REPLAY_IDS_MAX};
use crate::store::{LetterFilter, LetterId};

/// The routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/api/v1/dead-letters", web::get().to(list))
        .route("/api/v1/dead-letters", web::delete().to(purge))
        .route("/api/v1/dead-letters/replay", web::post().to(replay))
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
    match shared.store.purge_letters(filter.clone()).await {
        Ok(purged) => {
            let peer = peer(&request);
            log::info!("{peer} purged {purged} dead letters ({filter:?})");
            HttpResponse::Ok().json(json!({ "purged": purged }))
        }
        Err(reason) => of_store(&reason),
    }
}

/// The body of a replay: which letters. Without a word, all that are left.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    pipeline: Option<String>,
    kind: Option<String>,
    ids: Option<Vec<String>>,
    /// Unix ms.
    before: Option<i64>,
    limit: Option<u64>,
}

/// A pipeline, and of its letters only those of these positions.
type Target = (PipelineHandle, Option<Vec<i64>>);

impl Chosen {
    /// The pipelines that are meant, with the positions of their letters where those are named.
    fn targets(&self, pipelines: &Pipelines) -> Result<Vec<Target>, Box<HttpResponse>> {
        let all = pipelines.all();
        let ids = self.ids.iter().flatten().map(|id| id.parse::<LetterId>());
        let ids = ids.collect::<Result<Vec<_>, _>>().map_err(|reason| Box::new(bad(&reason)))?;
        if ids.len() > REPLAY_IDS_MAX {
            return Err(Box::new(bad(&format!("{} ids are more than {REPLAY_IDS_MAX}", ids.len()))));
        }
        for name in self.pipeline.iter().chain(ids.iter().map(|id| &id.pipeline)) {
            if name.starts_with('@') {
                return Err(Box::new(bad("a line that is no event cannot be replayed: mend it, and send it again")));
            }
            if !all.iter().any(|pipeline| pipeline.name() == name) {
                return Err(Box::new(unknown_pipeline(pipelines, name)));
            }
        }
        let chosen =
            all.into_iter().filter(|pipeline| self.pipeline.as_deref().is_none_or(|name| name == pipeline.name()));
        if self.ids.is_none() {
            return Ok(chosen.map(|pipeline| (pipeline, None)).collect());
        }
        let positions = |pipeline: &PipelineHandle| -> Vec<i64> {
            let own = ids.iter().filter(|id| id.pipeline == pipeline.name() && id.stream == pipeline.stream());
            own.map(|id| id.position).collect()
        };
        let named = chosen.map(|pipeline| {
            let own = positions(&pipeline);
            (pipeline, own)
        });
        Ok(named.filter(|(_, own)| !own.is_empty()).map(|(pipeline, own)| (pipeline, Some(own))).collect())
    }
}

/// 202 `{replays: [{pipeline, letters}], refused: [{pipeline, message}]}`; 409 where all refuse.
async fn replay(request: HttpRequest, shared: web::Data<Shared>, body: web::Bytes) -> HttpResponse {
    let chosen: Chosen = match serde_json::from_slice(&body) {
        Ok(chosen) => chosen,
        Err(reason) => {
            let shape = "{\"pipeline\", \"kind\", \"ids\", \"before\", \"limit\"}, each of which may be missing";
            return bad(&format!("the body must be {shape}: {reason}"));
        }
    };
    let targets = match chosen.targets(&shared.pipelines) {
        Ok(targets) => targets,
        Err(answer) => return *answer,
    };
    let filter = LetterFilter { pipeline: None, kind: chosen.kind, before: chosen.before };
    let (mut left, mut replays, mut refused, mut first) =
        (chosen.limit.unwrap_or(u64::MAX), Vec::new(), Vec::new(), None);
    for (pipeline, positions) in targets {
        match pipeline.replay(Wanted { filter: filter.clone(), positions, limit: left }).await {
            Ok(0) => {}
            Ok(letters) => {
                left -= letters;
                log::info!("{} replays {letters} dead letters of pipeline {}", peer(&request), pipeline.name());
                replays.push(json!({ "pipeline": pipeline.name(), "letters": letters }));
            }
            Err(reason) => {
                refused.push(json!({ "pipeline": pipeline.name(), "message": reason.to_string() }));
                first.get_or_insert(reason);
            }
        }
    }
    match first {
        Some(reason) if replays.is_empty() => refused_order(&reason),
        _ => HttpResponse::Accepted().json(json!({ "replays": replays, "refused": refused })),
    }
}

fn bad(message: &str) -> HttpResponse {
    error(StatusCode::BAD_REQUEST, "bad_request", message)
}
