//! `POST /api/v1/streams/{name}/events`: a body of lines, taken whole or not at all, answered when it is durable.
//!
//! All lines of a body are events: one that begins with `@` is no control line here (in JSON it is not decodable, so a
//! letter; an Influx point may begin so). What a client has to say besides is in the headers.

use std::sync::Arc;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use tokio::sync::oneshot;

use super::auth::{Denied, bearer};
use super::body::{BodyError, Encoding, Lines};
use super::{Shared, error};
use crate::actors::{Body, NotSent, StreamHandle, Taken};
use crate::event::{Origin, Position, is_producer_name};
use crate::journal::{Held, durable};
use crate::limits::PRODUCER_NAME_BYTES_MAX;

const PRODUCER: &str = "Tidemill-Producer";
const FROM: &str = "Tidemill-From";
/// Seconds to wait where others are in the way, and where the journal must be read or the disk cleared first.
const RETRY_SOON: u64 = 1;
const RETRY_HELD: u64 = 5;

/// Why a body was not taken. Nothing of it was, but where the journal has failed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no token for it")]
    Denied(Denied),
    #[error("there is no stream {name:?}; there are: {}", known.join(", "))]
    UnknownStream { name: String, known: Vec<String> },
    #[error("the stream is stopped: {0}")]
    StreamStopped(String),
    #[error("{0}")]
    BadHeader(String),
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error("{}", held(.0))]
    Held(Held),
    #[error("the stream has more bodies than it can take now: send this one again later")]
    Busy,
    #[error("the stream remembers as many producers as it can: send without a name, or under one that it knows")]
    TooManyProducers,
    #[error(
        "the stream has {number} lines of this producer, and the body begins with line {first}: go on with line {}",
        number + 1
    )]
    Gap { number: u64, first: u64 },
    #[error("the daemon stops: it takes nothing any more")]
    Stopping,
    #[error("the journal has failed: what was taken may be lost, and the daemon ends")]
    JournalFailed,
}

/// What became of a body that was taken.
#[derive(Serialize)]
struct Accepted {
    accepted: u64,
    rejected: u64,
    position: Position,
    processing_ms: u64,
}

/// A producer's name, and the number of the body's first line.
#[derive(Debug, PartialEq, Eq)]
struct Numbering {
    producer: Option<Arc<str>>,
    first: Option<u64>,
}

/// The handler.
pub(super) async fn events(
    request: HttpRequest,
    shared: web::Data<Shared>,
    name: web::Path<String>,
    payload: web::Payload,
) -> HttpResponse {
    match take(&request, &shared, &name, payload).await {
        Ok(accepted) => HttpResponse::Accepted().json(accepted),
        Err(refusal) => {
            let peer = peer(&request).unwrap_or_default();
            log::debug!("stream {}: took nothing of a body from {peer}: {refusal}", name.escape_debug());
            refusal.response()
        }
    }
}

async fn take(request: &HttpRequest, shared: &Shared, name: &str, payload: web::Payload) -> Result<Accepted, Refusal> {
    let stream = shared.streams.iter().find(|stream| stream.config.name == name);
    let config = stream.map(|stream| &*stream.config);
    shared.access.may_put(config, bearer(request.head())).map_err(Refusal::Denied)?;
    let Some(stream) = stream else {
        if let Some(reason) = shared.stats.why_stopped(name) {
            return Err(Refusal::StreamStopped(reason));
        }
        let known = shared.streams.iter().map(|stream| stream.config.name.clone()).collect();
        return Err(Refusal::UnknownStream { name: name.to_owned(), known });
    };
    let began = stream.clock.elapsed();
    let numbering = Numbering::of(request)?;
    let encoding = Encoding::of(request.headers())?;
    open(shared, stream)?;
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let received = shared.bodies.receive(payload, length, &stream.clock).await?;
    let (decoder, max_line) = (stream.decoder(), stream.config.max_line_bytes);
    let inflated = shared.bodies.work(move || {
        let (bytes, room) = received.inflate(encoding)?.into_parts();
        Ok::<_, BodyError>((Lines::decode(&decoder, bytes, max_line), room))
    });
    // Held until all is durable: as long as the journal may have it in memory.
    let (lines, _room) = inflated.await??;
    let (counts, position) = put(request, shared, stream, numbering, lines).await?;
    if !durable(&mut stream.stats.progress(), position).await {
        return Err(Refusal::JournalFailed);
    }
    let processing_ms = stream.clock.elapsed().saturating_sub(began).as_millis() as u64;
    let (accepted, rejected) = counts;
    let peer = peer(request).unwrap_or_default();
    log::debug!("stream {name}: {accepted} accepted, {rejected} rejected from {peer} in {processing_ms} ms");
    Ok(Accepted { accepted, rejected, position, processing_ms })
}

fn peer(request: &HttpRequest) -> Option<String> {
    request.peer_addr().map(|peer| peer.to_string())
}

/// Whether the stream takes anything now.
fn open(shared: &Shared, stream: &StreamHandle) -> Result<(), Refusal> {
    if shared.stats.is_draining() {
        return Err(Refusal::Stopping);
    }
    match stream.stats.progress().borrow().held {
        Some(held) => Err(Refusal::Held(held)),
        None => Ok(()),
    }
}

/// Puts lines into the stream, but for those that it has: accepted, rejected, and the position they are at or before.
async fn put(
    request: &HttpRequest,
    shared: &Shared,
    stream: &StreamHandle,
    numbering: Numbering,
    mut lines: Lines,
) -> Result<((u64, u64), Position), Refusal> {
    let max_line = stream.config.max_line_bytes;
    let mut first = numbering.first;
    let origin = Origin { producer: numbering.producer, peer: peer(request).map(Into::into) };
    loop {
        let counts = (lines.lines - lines.rejected, lines.rejected);
        // Again: inflating took its time.
        open(shared, stream)?;
        let (reply, taken) = oneshot::channel();
        let body = Body {
            origin: origin.clone(),
            first,
            bytes: lines.bytes.clone(),
            max_line,
            lines: lines.lines,
            rejected: lines.rejected,
            pieces: lines.pieces.take(),
            reply,
        };
        stream.bodies.send_now(body).map_err(|error| match error {
            NotSent::Full => Refusal::Busy,
            NotSent::Closed => Refusal::Stopping,
        })?;
        let known = match taken.await.map_err(|_| Refusal::Stopping)? {
            Taken::All(position) => return Ok((counts, position)),
            Taken::TooManyProducers => return Err(Refusal::TooManyProducers),
            Taken::NotNext(known) => known,
        };
        // Only who numbers lines can miss the next number.
        let begins = first.unwrap_or(1);
        match (known.number + 1).checked_sub(begins) {
            None => return Err(Refusal::Gap { number: known.number, first: begins }),
            Some(repeated) if repeated >= lines.lines => return Ok(((0, 0), known.position)),
            Some(repeated) => {
                let decoder = stream.decoder();
                lines = shared.bodies.work(move || lines.behind(repeated, &decoder, max_line)).await?;
                first = Some(known.number + 1);
            }
        }
    }
}

impl Numbering {
    fn of(request: &HttpRequest) -> Result<Self, Refusal> {
        let bad = |message: String| Err(Refusal::BadHeader(message));
        let text = |name: &str| {
            let mut values = request.headers().get_all(name);
            let value = values.next().map(|value| value.to_str().unwrap_or("?").trim().to_owned());
            (value, values.next().is_some())
        };
        let (producer, twice) = text(PRODUCER);
        let (from, again) = text(FROM);
        if twice || again {
            return bad(format!("`{PRODUCER}` and `{FROM}` are given once"));
        }
        if let Some(name) = producer.as_ref().filter(|name| !is_producer_name(name)) {
            return bad(format!(
                "`{PRODUCER}: {}`: a producer's name is 1 to {PRODUCER_NAME_BYTES_MAX} letters, digits and `._:/-`",
                name.chars().take(PRODUCER_NAME_BYTES_MAX).flat_map(char::escape_debug).collect::<String>()
            ));
        }
        let Some(from) = from else { return Ok(Self { producer: producer.map(Into::into), first: None }) };
        if producer.is_none() {
            return bad(format!("`{FROM}` without `{PRODUCER}`: lines are numbered by whoever sends them"));
        }
        // Plain digits: a sign is no part of a number that counts lines.
        let digits = from.bytes().all(|byte| byte.is_ascii_digit());
        match from.parse::<u64>().ok().filter(|first| digits && *first > 0 && *first < u64::MAX) {
            Some(first) => Ok(Self { producer: producer.map(Into::into), first: Some(first) }),
            None => bad(format!("`{FROM}` is the number of the body's first line, from 1 on")),
        }
    }
}

impl Refusal {
    fn response(self) -> HttpResponse {
        let (status, code) = match &self {
            Self::Denied(denied) => return denied.response(),
            Self::UnknownStream { .. } => (StatusCode::NOT_FOUND, "unknown_stream"),
            Self::StreamStopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "stream_stopped"),
            Self::BadHeader(_) => (StatusCode::BAD_REQUEST, "bad_header"),
            Self::Body(body) => match body {
                BodyError::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
                BodyError::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
                BodyError::Slow => (StatusCode::REQUEST_TIMEOUT, "too_slow"),
                BodyError::Torn(_) => (StatusCode::BAD_REQUEST, "torn_body"),
                BodyError::Encoding(_) => (StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding"),
                BodyError::Damaged(_) => (StatusCode::BAD_REQUEST, "damaged_body"),
            },
            Self::Held(Held::JournalFull) => (StatusCode::TOO_MANY_REQUESTS, "journal_full"),
            Self::Held(Held::DiskFull) => (StatusCode::TOO_MANY_REQUESTS, "disk_full"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            Self::TooManyProducers => (StatusCode::TOO_MANY_REQUESTS, "too_many_producers"),
            Self::Gap { .. } => (StatusCode::CONFLICT, "gap"),
            Self::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Self::JournalFailed => (StatusCode::SERVICE_UNAVAILABLE, "journal_failed"),
        };
        let mut answer = error(status, code, &self.to_string());
        let retry = match &self {
            Self::Held(_) | Self::Stopping | Self::JournalFailed | Self::TooManyProducers => Some(RETRY_HELD),
            Self::Busy | Self::Body(BodyError::Busy) => Some(RETRY_SOON),
            _ => None,
        };
        if let Some(seconds) = retry {
            answer.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            answer.headers_mut().insert(header::ACCEPT_ENCODING, header::HeaderValue::from_static("gzip, zstd"));
        }
        answer
    }
}

fn held(held: &Held) -> &'static str {
    match held {
        Held::JournalFull => {
            "the stream's journal is full: it goes on when its pipelines have read it (`tidemill stats` says which lags)"
        }
        Held::DiskFull => "the disk has less than `min_free`: it goes on when there is space",
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn numbering(headers: &[(&'static str, &str)]) -> Result<Numbering, String> {
        let request = headers.iter().fold(TestRequest::default(), |request, header| request.append_header(*header));
        Numbering::of(&request.to_http_request()).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn headers_name_the_producer_and_number_its_lines() {
        let named = |name: &str, first| Ok(Numbering { producer: Some(name.into()), first });
        assert_eq!(numbering(&[]), Ok(Numbering { producer: None, first: None }));
        assert_eq!(numbering(&[(PRODUCER, "web-1/a.b:c")]), named("web-1/a.b:c", None));
        assert_eq!(numbering(&[(PRODUCER, "p"), (FROM, "1")]), named("p", Some(1)));
        assert_eq!(numbering(&[(PRODUCER, "p"), (FROM, "007")]), named("p", Some(7)));
        let largest = (u64::MAX - 1).to_string();
        assert_eq!(numbering(&[(PRODUCER, "p"), (FROM, &largest)]), named("p", Some(u64::MAX - 1)));
        for from in ["0", "-1", "+1", "1.0", "x", "", "18446744073709551615", "18446744073709551616"] {
            let message = numbering(&[(PRODUCER, "p"), (FROM, from)]).unwrap_err();
            assert!(message.ends_with("from 1 on"), "{from}: {message}");
        }
        assert!(numbering(&[(FROM, "1")]).unwrap_err().contains("without `Tidemill-Producer`"));
        for name in ["", "two words", "semi;colon", &"x".repeat(129)] {
            assert!(numbering(&[(PRODUCER, name)]).unwrap_err().contains("a producer's name is"), "{name}");
        }
        assert!(numbering(&[(PRODUCER, "p"), (PRODUCER, "q")]).unwrap_err().ends_with("are given once"));
    }
}
