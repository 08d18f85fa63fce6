//! Who may: each request names this daemon, and shows a token where one is wanted.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use actix_web::body::MessageBody;
use actix_web::dev::{Extensions, RequestHead, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode, header};
use actix_web::middleware::Next;
use actix_web::rt::net::TcpStream;
use actix_web::{Error, HttpResponse, web};

use super::{Shared, error};
use crate::actors::StreamHandle;
use crate::config::{HttpConfig, StreamConfig, Tokens};

/// What is free for everybody: probes have no tokens.
const FREE: [&str; 2] = ["/healthz", "/readyz"];

/// Who may, as the config says.
#[derive(Clone)]
pub(super) struct Access {
    http: Arc<HttpConfig>,
    /// All tokens of streams: to tell one that may not from one that nobody has.
    streams: Tokens,
}

/// Why a request may not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Denied {
    /// No token was shown.
    Missing,
    /// The token is nobody's.
    Unknown,
    /// The token is for something else.
    Other,
}

/// The address that a connection was made to: behind `0.0.0.0` there are many.
struct Local(SocketAddr);

/// Notes the address that a client has connected to.
pub(super) fn note_address(connection: &dyn Any, extensions: &mut Extensions) {
    if let Some(socket) = connection.downcast_ref::<TcpStream>()
        && let Ok(address) = socket.local_addr()
    {
        extensions.insert(Local(address));
    }
}

/// Lets through who may. Whoever puts events into a stream shows its token to the handler, which knows the stream.
pub(super) async fn guard(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let refused = match request.app_data::<web::Data<Shared>>() {
        Some(shared) => refuse(&shared.access, &request),
        None => Some(error(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server is not set up")),
    };
    match refused {
        Some(answer) => Ok(request.into_response(answer).map_into_right_body()),
        None => Ok(next.call(request).await?.map_into_left_body()),
    }
}

fn refuse(access: &Access, request: &ServiceRequest) -> Option<HttpResponse> {
    let local = request.conn_data::<Local>().map(|local| local.0.ip());
    if !access.is_called(request.head(), local) {
        let message = "Host must be the daemon's address, localhost or one of [http] hosts, and Origin the same";
        return Some(error(StatusCode::FORBIDDEN, "forbidden", message));
    }
    let free = FREE.contains(&request.path()) || is_ingest(request.method(), request.path());
    let allowed = if free { Ok(()) } else { access.may(request.method(), bearer(request.head())) };
    allowed.err().map(Denied::response)
}

/// Whether the handler asks for the token. A path that is written in another way is no such path here, and is held to the
/// general rule, too.
fn is_ingest(method: &Method, path: &str) -> bool {
    let stream = path.strip_prefix("/api/v1/streams/").and_then(|rest| rest.strip_suffix("/events"));
    *method == Method::POST && stream.is_some_and(|stream| !stream.contains('/'))
}

/// The token that a request shows.
pub(super) fn bearer(head: &RequestHead) -> Option<&[u8]> {
    let value = head.headers().get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

impl Access {
    pub(super) fn new(http: &HttpConfig, streams: &[StreamHandle]) -> Self {
        let none = Tokens::default();
        let streams = streams.iter().fold(none, |all, stream| all.and(&stream.config.tokens));
        Self { http: Arc::new(http.clone()), streams }
    }

    /// A page of another site must not reach a daemon through its reader's browser (DNS rebinding): `Host` must name this
    /// daemon, and `Origin`, where it is sent, the same.
    fn is_called(&self, head: &RequestHead, local: Option<IpAddr>) -> bool {
        let text = |name| head.headers().get(name).map(|value| value.to_str().unwrap_or_default());
        let host = text(header::HOST).unwrap_or_default().to_ascii_lowercase();
        let (name, _) = split_port(&host);
        let address: Option<IpAddr> = name.trim_start_matches('[').trim_end_matches(']').parse().ok();
        let ours = name == "localhost"
            || self.http.hosts.iter().any(|ours| *ours == host || ours == name)
            || address.is_some_and(|address| {
                address == self.http.listen.ip() || local.is_some_and(|local| local.to_canonical() == address)
            });
        ours && text(header::ORIGIN).is_none_or(|origin| is_origin(&origin.to_ascii_lowercase(), &host))
    }

    /// Whether a request with this token may do what has no rule of its own.
    fn may(&self, method: &Method, token: Option<&[u8]>) -> Result<(), Denied> {
        if self.http.tokens.is_empty() {
            return Ok(());
        }
        let token = token.ok_or(Denied::Missing)?;
        let reads = *method == Method::GET || *method == Method::HEAD;
        let held = self.http.tokens.hold(token) || (self.http.read_tokens.hold(token) && reads);
        if held { Ok(()) } else { Err(self.denied(token)) }
    }

    /// Whether a request with this token may put events into a stream; into one that there is not, without one.
    pub(super) fn may_put(&self, stream: Option<&StreamConfig>, token: Option<&[u8]>) -> Result<(), Denied> {
        let http = &self.http.tokens;
        let of_stream = stream.map(|stream| &stream.tokens);
        if http.is_empty() && of_stream.is_none_or(Tokens::is_empty) {
            return Ok(());
        }
        let token = token.ok_or(Denied::Missing)?;
        let held = http.hold(token) || of_stream.is_some_and(|tokens| tokens.hold(token));
        if held { Ok(()) } else { Err(self.denied(token)) }
    }

    fn denied(&self, token: &[u8]) -> Denied {
        let known = self.http.read_tokens.hold(token) || self.streams.hold(token);
        if known { Denied::Other } else { Denied::Unknown }
    }
}

impl Denied {
    /// What the client is told.
    pub(super) fn response(self) -> HttpResponse {
        let (status, code, message) = match self {
            Self::Missing => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "a token is wanted: send `Authorization: Bearer <token>`")
            }
            Self::Unknown => (StatusCode::UNAUTHORIZED, "unauthorized", "this token is none of the config's"),
            Self::Other => (StatusCode::FORBIDDEN, "forbidden", "this token is for something else"),
        };
        let mut answer = error(status, code, message);
        if status == StatusCode::UNAUTHORIZED {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        answer
    }
}

/// Name and port of a `Host`.
fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        // The colons of an address of version 6 are not those of a port.
        Some((name, port)) if !port.contains(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// Whether an `Origin` is this `Host`; browsers leave out a scheme's own port.
fn is_origin(origin: &str, host: &str) -> bool {
    let (origin, port) = match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
        (Some(rest), _) => (rest, "80"),
        (None, Some(rest)) => (rest, "443"),
        (None, None) => return false,
    };
    let whole = |host| {
        let (name, given) = split_port(host);
        (name.to_owned(), given.unwrap_or(port).to_owned())
    };
    whole(origin) == whole(host)
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    const ALL: &[u8] = b"all-all-all-all-";
    const READ: &[u8] = b"read-read-read-r";
    const WEB: &[u8] = b"web-web-web-web-";
    const APP: &[u8] = b"app-app-app-app-";

    fn tokens(tokens: &[&[u8]]) -> Tokens {
        tokens.iter().map(|token| std::str::from_utf8(token).unwrap()).collect()
    }

    fn access(listen: &str, all: &[&[u8]]) -> Access {
        let http = HttpConfig {
            listen: listen.parse().unwrap(),
            tokens: tokens(all),
            read_tokens: tokens(&[READ]),
            hosts: vec!["mill.example.org".to_owned(), "other:8443".to_owned()],
        };
        Access { http: Arc::new(http), streams: tokens(&[WEB, APP]) }
    }

    fn stream(of: &[&[u8]]) -> StreamConfig {
        let text = "[streams.web]\n[pipelines.p]\nstream = \"web\"\nwindow = { tumbling = \"1m\" }\naggregates.n = \"count(*)\"";
        let config = crate::config::parse(text, "test", std::path::Path::new("."), &|_| None).unwrap();
        StreamConfig { tokens: tokens(of), ..config.streams[0].clone() }
    }

    #[test]
    fn a_token_is_behind_its_scheme() {
        let shown = |value: &'static str| {
            let request = TestRequest::default().insert_header(("Authorization", value)).to_http_request();
            bearer(request.head()).map(<[u8]>::to_vec)
        };
        assert_eq!(shown("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(shown("bearer  abc "), Some(b"abc".to_vec()));
        for other in ["Bearer", "Basic abc", "abc", "Bearerabc", ""] {
            assert_eq!(shown(other), None, "{other}");
        }
        assert_eq!(bearer(TestRequest::default().to_http_request().head()), None);
    }

    #[test]
    fn host_names_this_daemon_and_origin_is_the_same() {
        let called = |listen: &str, host: &str, origin: Option<&str>| {
            let mut request = TestRequest::default().insert_header(("Host", host));
            if let Some(origin) = origin {
                request = request.insert_header(("Origin", origin));
            }
            let request = request.to_http_request();
            access(listen, &[]).is_called(request.head(), Some("192.0.2.7".parse().unwrap()))
        };
        for host in [
            "127.0.0.1:7601",
            "127.0.0.1",
            "localhost",
            "LOCALHOST:7601",
            "192.0.2.7:7601",
            "mill.example.org",
            "Mill.example.org:443",
            "other:8443",
        ] {
            assert!(called("127.0.0.1:7601", host, None), "{host}");
        }
        assert!(called("[::1]:7601", "[::1]:7601", None) && called("[::1]:7601", "[::1]", None));
        for host in ["", "evil.example.org", "127.0.0.1.evil.org", "other", "other:1", "192.0.2.8:7601", "xlocalhost"] {
            assert!(!called("127.0.0.1:7601", host, None), "{host}");
        }
        for (host, origin) in [
            ("localhost:7601", "http://localhost:7601"),
            ("mill.example.org", "https://mill.example.org"),
            ("mill.example.org:443", "https://mill.example.org"),
            ("localhost", "http://localhost:80"),
        ] {
            assert!(called("127.0.0.1:7601", host, Some(origin)), "{host} {origin}");
        }
        for origin in
            ["null", "", "http://localhost", "http://localhost:7602", "http://evil.org", "ftp://localhost:7601"]
        {
            assert!(!called("127.0.0.1:7601", "localhost:7601", Some(origin)), "{origin}");
        }
    }

    #[test]
    fn each_token_may_what_it_is_for() {
        let access = access("127.0.0.1:1", &[ALL]);
        for (token, get, post) in [
            (None, Err(Denied::Missing), Err(Denied::Missing)),
            (Some(ALL), Ok(()), Ok(())),
            (Some(READ), Ok(()), Err(Denied::Other)),
            (Some(WEB), Err(Denied::Other), Err(Denied::Other)),
            (Some(b"nobody's"), Err(Denied::Unknown), Err(Denied::Unknown)),
        ] {
            assert_eq!((access.may(&Method::GET, token), access.may(&Method::POST, token)), (get, post), "{token:?}");
            assert_eq!(access.may(&Method::DELETE, token), post);
        }
    }

    #[test]
    fn events_come_with_the_stream_s_token_or_with_that_for_everything() {
        let (closed, open) = (stream(&[WEB]), stream(&[]));
        let both = access("127.0.0.1:1", &[ALL]);
        for stream in [Some(&closed), Some(&open), None] {
            assert_eq!(both.may_put(stream, Some(ALL)), Ok(()));
            assert_eq!(both.may_put(stream, None), Err(Denied::Missing));
            assert_eq!(both.may_put(stream, Some(READ)), Err(Denied::Other));
            assert_eq!(both.may_put(stream, Some(APP)), Err(Denied::Other), "another stream's");
            assert_eq!(both.may_put(stream, Some(b"nobody's")), Err(Denied::Unknown));
        }
        assert_eq!(both.may_put(Some(&closed), Some(WEB)), Ok(()));
        assert_eq!(both.may_put(Some(&open), Some(WEB)), Err(Denied::Other));
        let free = access("127.0.0.1:1", &[]);
        assert_eq!(free.may_put(Some(&open), None), Ok(()));
        assert_eq!(free.may_put(None, None), Ok(()));
        assert_eq!(free.may_put(Some(&closed), None), Err(Denied::Missing));
        assert_eq!(free.may_put(Some(&closed), Some(WEB)), Ok(()));
        assert_eq!(free.may_put(Some(&closed), Some(APP)), Err(Denied::Other));
    }

    #[test]
    fn only_the_plain_path_of_ingest_asks_by_itself() {
        assert!(is_ingest(&Method::POST, "/api/v1/streams/web/events"));
        for path in ["/api/v1/streams/a/b/events", "/api/v1/streams/web", "/api/v1/%73treams/web/events", "/events"] {
            assert!(!is_ingest(&Method::POST, path), "{path}");
        }
        assert!(!is_ingest(&Method::GET, "/api/v1/streams/web/events"));
    }
}
