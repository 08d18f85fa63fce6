//! `[redis]`, and the `redis` of pipelines: where live values go, and how long they stay there.

use std::fmt;

use redis::IntoConnectionInfo;

use super::reader::{Section, Setting};
use super::report::Mistake;
use super::settings::read_secret_file;
use super::store_url::shown;

const REDIS_URL: &str = "a URL such as \"redis://127.0.0.1:6379\" or \"rediss://user:password@host/0\"";
const TTL_MS: i64 = 7 * 86_400_000;

/// `[redis]`
#[derive(Clone, PartialEq, Eq)]
pub struct RedisConfig {
    /// With its password: for whoever connects, and nobody else.
    pub url: String,
    /// The URL without its password.
    pub shown: String,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedisConfig").field(&self.shown).finish()
    }
}

/// `[redis]`; and whether it is there, be it as wrong as it may.
pub(super) fn read_redis(root: &mut Section<'_>) -> (Option<RedisConfig>, bool) {
    let Some(setting) = root.take("redis") else { return (None, false) };
    let Some(mut section) = setting.section("a table: [redis]") else { return (None, true) };
    let file = section.take("url_file");
    let url = match &file {
        None => section.require("url", "url = \"redis://127.0.0.1:6379\""),
        Some(_) => section.take("url"),
    };
    if let (Some(_), Some(file)) = (&url, &file) {
        file.wrong("both `url` and `url_file` are given", "one of them");
    }
    let config = match (url, file) {
        (Some(url), _) => url.text(REDIS_URL).and_then(|text| read_url(&url, &text.value)),
        (None, Some(file)) => read_secret_file(&file).and_then(|url| read_url(&file, url.trim())),
        (None, None) => None,
    };
    section.finish();
    (config, true)
}

/// No message repeats the URL, since it may hold a password.
fn read_url(setting: &Setting<'_>, url: &str) -> Option<RedisConfig> {
    let known = url.starts_with("redis://") || url.starts_with("rediss://");
    // A fragment would turn off that certificates are checked.
    if !known || url.contains('#') || url.into_connection_info().is_err() {
        setting.wrong(format!("`{}` is no URL of a Redis", setting.path), REDIS_URL);
        return None;
    }
    Some(RedisConfig { url: url.to_owned(), shown: shown(url) })
}

/// How long the live values of a pipeline stay, ms; `None` where it has none.
pub(super) fn read_live(section: &mut Section<'_>, has_redis: bool) -> Option<i64> {
    let setting = section.take("redis")?;
    if !has_redis {
        let message = format!("`{}` without `[redis]`: nothing says where Redis is", setting.path);
        let mistake = Mistake::at(setting.key_span.clone(), message).expected("a table [redis] in this file");
        setting.context.note(mistake.help("add `[redis]` with `url = \"redis://127.0.0.1:6379\"`"));
    }
    let mut live = setting.section("a table: redis = { ttl = \"7d\" }")?;
    let ttl = live.take("ttl").map_or(Some(TTL_MS), |setting| setting.duration(1));
    live.finish();
    ttl
}
