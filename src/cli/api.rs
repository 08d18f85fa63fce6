//! The daemon's HTTP API, as its client sees it.

use std::io::{BufRead, BufReader};
use std::time::Duration;

use serde_json::Value;
use ureq::AsSendBody;
use ureq::Body;
use ureq::http::request::Builder;
use ureq::http::{Request, Response, StatusCode};

use super::error::CliError;

/// An answer that is greater than this is not one of ours.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// A daemon that is alive answers sooner.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Which daemon.
#[derive(clap::Args)]
pub(super) struct Daemon {
    /// Where the daemon's HTTP listens
    #[arg(long, env = "TIDEMILL_URL", default_value = "127.0.0.1:7601")]
    url: String,
    /// Its token, where it wants one
    #[arg(long, env = "TIDEMILL_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Daemon {
    /// The answer to a GET.
    pub(super) fn get(&self, path: &str) -> Result<Value, CliError> {
        self.call(Request::get(self.address(path)), ())
    }

    /// The answer to a POST; `null` is no body.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, CliError> {
        let request = Request::post(self.address(path)).header("Content-Type", "application/json");
        if body.is_null() { self.call(request, "") } else { self.call(request, &body.to_string()) }
    }

    /// The answer to a DELETE.
    pub(super) fn delete(&self, path: &str) -> Result<Value, CliError> {
        self.call(Request::delete(self.address(path)), ())
    }

    /// The lines of an answer that goes on for as long as somebody reads it.
    pub(super) fn lines(&self, path: &str) -> Result<impl BufRead + use<>, CliError> {
        let response = self.send(Request::get(self.address(path)), (), None)?;
        if response.status() == StatusCode::OK {
            return Ok(BufReader::new(response.into_body().into_reader()));
        }
        // What is no JSON is said to be none; what is, is an error of the API.
        let status = response.status();
        Err(self.refused(status, &self.read(response)?))
    }

    fn address(&self, path: &str) -> String {
        let base = self.url.trim_end_matches('/');
        if base.contains("://") { format!("{base}{path}") } else { format!("http://{base}{path}") }
    }

    fn call(&self, request: Builder, body: impl AsSendBody) -> Result<Value, CliError> {
        let response = self.send(request, body, Some(ANSWER_TIMEOUT))?;
        let status = response.status();
        let json = self.read(response)?;
        match status {
            StatusCode::OK | StatusCode::ACCEPTED => Ok(json),
            status => Err(self.refused(status, &json)),
        }
    }

    /// Sends a request; its answer's head comes in time, and all of it within `whole`.
    fn send(
        &self,
        mut request: Builder,
        body: impl AsSendBody,
        whole: Option<Duration>,
    ) -> Result<Response<Body>, CliError> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(whole)
            .timeout_connect(Some(ANSWER_TIMEOUT))
            .timeout_recv_response(Some(ANSWER_TIMEOUT))
            .max_redirects(0)
            .proxy(None)
            .build()
            .into();
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        let request = request.body(body).map_err(|error| self.no_answer(&ureq::Error::Http(error)))?;
        agent.run(request).map_err(|error| self.no_answer(&error))
    }

    fn read(&self, mut response: Response<Body>) -> Result<Value, CliError> {
        let body = response
            .body_mut()
            .with_config()
            .limit(ANSWER_BYTES_MAX)
            .read_to_string()
            .map_err(|error| self.no_answer(&error))?;
        serde_json::from_str(&body).map_err(|_| {
            CliError::Unavailable(format!(
                "{} answered {} without JSON: is it tidemill's [http] listen address?",
                self.url,
                response.status()
            ))
        })
    }

    fn no_answer(&self, error: &ureq::Error) -> CliError {
        match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) => CliError::Usage(format!(
                "--url {}: {error}; it is a host and port, like 127.0.0.1:7601 or http://127.0.0.1:7601",
                self.url
            )),
            _ => CliError::Unavailable(format!(
                "no answer from {}: {error}; is the daemon running? start it with `tidemill run CONFIG`",
                self.url
            )),
        }
    }

    fn refused(&self, status: StatusCode, answer: &Value) -> CliError {
        let message = match answer["error"]["message"].as_str() {
            Some(message) => super::table::escape(message),
            None => format!("it answered {status}"),
        };
        let text = format!("{}: {message}", self.url);
        // What the client asked for is wrong; everything else may be right later.
        match status {
            StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => CliError::Usage(text),
            _ => CliError::Unavailable(text),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// A daemon that answers one request, and gives back what it was asked.
    pub(crate) fn answering(answer: &'static str) -> (Daemon, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = listener.local_addr().unwrap().to_string();
        let asked = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                request.push(byte[0]);
            }
            let head = String::from_utf8(request).unwrap();
            let length = head.to_lowercase().split_once("content-length: ").map(|(_, rest)| rest.to_owned());
            let length = length.map_or(0, |length| length.lines().next().unwrap().parse().unwrap());
            let mut body = vec![0; length];
            socket.read_exact(&mut body).unwrap();
            socket.write_all(answer.as_bytes()).unwrap();
            head + &String::from_utf8(body).unwrap()
        });
        (Daemon { url, token: Some("sixteen letters!".to_owned()) }, asked)
    }

    #[test]
    fn asks_with_the_token_and_reads_json() {
        let (daemon, asked) = answering("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{\"a\":1}");
        assert_eq!(daemon.get("/api/v1/stats").unwrap()["a"], 1);
        let asked = asked.join().unwrap().to_lowercase();
        assert!(asked.starts_with("get /api/v1/stats http/1.1"), "{asked}");
        assert!(asked.contains("authorization: bearer sixteen letters!"), "{asked}");
    }

    #[test]
    fn an_error_of_the_api_is_said_in_its_words() {
        let body = r#"{"error":{"code":"not_found","message":"no pipeline `x\u001b`"}}"#;
        let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
        let (daemon, _) = answering(Box::leak(format!("{head}{body}").into_boxed_str()));
        let error = daemon.get("/").unwrap_err();
        assert_eq!(error.exit_code(), 64);
        assert!(error.to_string().ends_with(r"no pipeline `x\u{1b}`"), "{error}");
    }

    #[test]
    fn a_daemon_that_is_not_there_is_69_and_says_how_to_start_it() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Daemon { url: format!("http://{free}/"), token: None }.get("/api/v1/stats").unwrap_err();
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains("tidemill run CONFIG"), "{error}");
    }

    #[test]
    fn something_else_on_the_port_is_69() {
        let (daemon, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>");
        assert_eq!(daemon.get("/").unwrap_err().exit_code(), 69);
    }
}
