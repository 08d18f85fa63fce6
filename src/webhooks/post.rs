//! One POST: what it says, and what its answer means.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::crypto::ring;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use ureq::Agent;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::config::{AlertConfig, Webhook};
use crate::event::format_utc;
use crate::store::UntoldAlert;

/// So long a receiver may take for all of it.
const PATIENCE: Duration = Duration::from_secs(10);

/// What became of a POST.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// The receiver has it.
    Taken,
    /// The receiver will never take it.
    Refused(String),
    /// The receiver may take it later.
    Away(String),
}

impl Answer {
    /// As Alertmanager reads it: what a server cannot do now is tried again, what it does not want is not. A redirect is
    /// not followed: the news would go where nobody has said that it may.
    fn of(status: u16) -> Self {
        match status {
            200..=299 => Self::Taken,
            408 | 429 | 500..=599 => Self::Away(format!("it answers {status}")),
            status => Self::Refused(format!("it answers {status}")),
        }
    }
}

/// Posts to one webhook.
pub(super) struct Poster {
    agent: Agent,
    webhook: Webhook,
}

impl Poster {
    pub(super) fn new(webhook: Webhook) -> Self {
        let tls = TlsConfig::builder()
            .root_certs(roots())
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_global(Some(PATIENCE))
            .proxy(None)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .user_agent(concat!("tidemill/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.into(), webhook }
    }

    /// On a thread of its own, which nobody waits for at the end: a receiver may hang.
    pub(super) async fn post(&self, body: String) -> Answer {
        let (agent, url) = (self.agent.clone(), self.webhook.url.clone());
        let (reply, answer) = oneshot::channel();
        let post = move || {
            let posted = agent.post(url).header("content-type", "application/json").send(body);
            let answer = match posted {
                Ok(mut answer) => {
                    // Read to its end, so that the connection can be used again; what it says is of no use.
                    let _ = answer.body_mut().with_config().limit(64 * 1024).read_to_vec();
                    Answer::of(answer.status().as_u16())
                }
                Err(error) => Answer::Away(why(&error)),
            };
            // Whoever asked may be gone.
            let _ = reply.send(answer);
        };
        match std::thread::Builder::new().name("webhook".to_owned()).spawn(post) {
            Ok(_) => answer.await.unwrap_or_else(|_| Answer::Away("a bug: its thread has ended".to_owned())),
            Err(error) => Answer::Away(format!("cannot start a thread: {error}")),
        }
    }
}

/// Without the URL, which some errors repeat.
fn why(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) => "it is no URL that can be posted to".to_owned(),
        error => error.to_string(),
    }
}

/// Whose certificates are trusted: those that the system trusts.
fn roots() -> RootCerts {
    static ROOTS: OnceLock<Arc<Vec<Certificate<'static>>>> = OnceLock::new();
    let load = || {
        let found = rustls_native_certs::load_native_certs().certs;
        Arc::new(found.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).collect())
    };
    RootCerts::Specific(ROOTS.get_or_init(load).clone())
}

/// What is posted.
pub(super) fn body(pipeline: &str, config: &AlertConfig, alert: &UntoldAlert, resolved: bool) -> String {
    let hash: String = alert.group_hash.iter().map(|byte| format!("{byte:02x}")).collect();
    let parsed = |text: &str| serde_json::from_str(text).unwrap_or(Value::Null);
    let resolved_at = alert.resolved_at.filter(|_| resolved);
    json!({
        "id": format!("{pipeline}/{}/{hash}/{}", config.name, alert.fired_at),
        "pipeline": pipeline,
        "alert": config.name,
        "state": if resolved { "resolved" } else { "firing" },
        "group": parsed(&alert.group),
        "values": parsed(&alert.values),
        "window_start": rfc3339(alert.window_start),
        "window_end": rfc3339(alert.window_end),
        "fired_at": rfc3339(alert.fired_at),
        "resolved_at": resolved_at.map(rfc3339),
        "when": config.text,
    })
    .to_string()
}

fn rfc3339(ms: i64) -> String {
    format!("{}Z", format_utc(ms).replacen(' ', "T", 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_done_now_is_tried_again_and_what_is_not_wanted_is_not() {
        for status in [200, 202, 204] {
            assert_eq!(Answer::of(status), Answer::Taken);
        }
        for status in [408, 429, 500, 503, 599] {
            assert!(matches!(Answer::of(status), Answer::Away(_)), "{status}");
        }
        for status in [301, 307, 400, 401, 404, 410] {
            assert!(matches!(Answer::of(status), Answer::Refused(_)), "{status}");
        }
    }
}
