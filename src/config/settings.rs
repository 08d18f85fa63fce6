//! What stands at the top of the file: `data_dir`, `[store]`, `[http]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use super::address::{Listener, read_address};
use super::names::matches_pattern;
use super::reader::{Section, Setting};
use super::report::Mistake;
use super::store_url::{STORE_URL, read_store_url};
use super::tokens::{Tokens, read_tokens};
use super::{AtLimit, DeadLettersConfig, HttpConfig, LetterLimit, StoreConfig, StoreUrl};

const DATA_DIR: &str = "data";
const MIN_FREE_BYTES: u64 = 256 << 20;
const SHUTDOWN_TIMEOUT_MS: i64 = 20_000;
const STORE_FILE: &str = "tidemill.db";
const SCHEMA: &str = "tidemill";
const FLUSH_EVERY_MS: i64 = 1_000;
const LETTERS_BYTES: u64 = 1 << 30;
/// The least that makes sense: one line may have a mebibyte.
const LETTERS_MIN_BYTES: u64 = 1 << 20;
const LETTERS_RETAIN_MS: i64 = 30 * 86_400_000;
const HTTP_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 7601);

/// Where journals and the embedded store are, and how much must stay free there.
pub(super) fn read_data(root: &mut Section<'_>) -> (PathBuf, u64) {
    let base = root.context.base;
    let data_dir = root.take("data_dir").and_then(|setting| {
        let text = setting.text("a path")?;
        if text.value.is_empty() {
            setting.wrong("`data_dir` is empty", "a path");
        }
        Some(base.join(text.value))
    });
    let min_free = root.take("min_free").and_then(|setting| setting.size(0..=1 << 50));
    (data_dir.unwrap_or_else(|| base.join(DATA_DIR)), min_free.unwrap_or(MIN_FREE_BYTES))
}

/// How long a daemon that stops waits until all is flushed.
pub(super) fn read_shutdown_timeout(root: &mut Section<'_>) -> i64 {
    root.take("shutdown_timeout").and_then(|setting| setting.duration(0)).unwrap_or(SHUTDOWN_TIMEOUT_MS)
}

/// `[store]`
pub(super) fn read_store(root: &mut Section<'_>, data_dir: &std::path::Path) -> StoreConfig {
    let url = StoreUrl::Sqlite(data_dir.join(STORE_FILE));
    let mut store = StoreConfig { url, flush_every_ms: FLUSH_EVERY_MS, migrate: true };
    let Some(mut section) = root.take("store").and_then(|setting| setting.section("a table: [store]")) else {
        return store;
    };
    let schema = section.take("schema").and_then(|setting| read_schema(&setting)).unwrap_or_else(|| SCHEMA.to_owned());
    let url = section.take("url");
    let url_file = section.take("url_file");
    if let (Some(_), Some(file)) = (&url, &url_file) {
        file.wrong("both `url` and `url_file` are given", "one of them");
    }
    let given = match (url, url_file) {
        (Some(url), _) => url.text(STORE_URL).and_then(|text| read_store_url(&url, &text.value, schema)),
        (None, Some(file)) => read_secret_file(&file).and_then(|url| read_store_url(&file, url.trim(), schema)),
        (None, None) => None,
    };
    if let Some(url) = given {
        store.url = url;
    }
    if let Some(flush_every) = section.take("flush_every").and_then(|setting| setting.duration(1)) {
        store.flush_every_ms = flush_every;
    }
    if let Some(migrate) = section.take("migrate").and_then(|setting| setting.flag()) {
        store.migrate = migrate;
    }
    section.finish();
    store
}

fn read_schema(setting: &Setting<'_>) -> Option<String> {
    let text = setting.text("the name of a schema")?.value;
    if !matches_pattern(&text) || text.starts_with("pg_") {
        setting.wrong(format!("`{}` cannot be the name of a schema", setting.path), "[a-z_][a-z0-9_]{0,47}, not pg_…");
        return None;
    }
    Some(text)
}

/// What a file with a secret holds.
pub(super) fn read_secret_file(setting: &Setting<'_>) -> Option<String> {
    let text = setting.text("the path of a file")?;
    let path = setting.context.base.join(&text.value);
    match std::fs::read_to_string(&path) {
        Ok(secret) => Some(secret),
        Err(error) => {
            let message = format!("`{}`: cannot read {}: {error}", setting.path, path.display());
            let mistake = Mistake::at(text.span, message).expected("a file that this user can read");
            setting.context.note(mistake.help("relative paths begin at the config file's folder"));
            None
        }
    }
}

/// `[http]`
pub(super) fn read_http(root: &mut Section<'_>) -> (HttpConfig, Listener) {
    let mut http = HttpConfig {
        listen: HTTP_LISTEN,
        tokens: Tokens::default(),
        read_tokens: Tokens::default(),
        hosts: Vec::new(),
    };
    let default = Listener { address: HTTP_LISTEN, path: "http.listen".to_owned(), span: None };
    let Some(mut section) = root.take("http").and_then(|setting| setting.section("a table: [http]")) else {
        return (http, default);
    };
    let listen = section.take("listen").and_then(|setting| read_address(&setting));
    let (tokens, given) = read_tokens(&mut section, "token", "token_file");
    let (readers, read_given) = read_tokens(&mut section, "read_token", "read_token_file");
    if let (None, Some(read)) = (&given, read_given) {
        let message =
            format!("`{}` without `http.token`: who may only read is told from who may do everything", read.path);
        let mistake = Mistake::at(read.span(), message).expected("a `token` beside it");
        section.context.note(mistake.help("add `token = \"${NAME}\""));
    }
    if let (None, Some(Listener { address, span: Some(span), .. })) = (&given, &listen)
        && !address.ip().is_loopback()
    {
        let message = format!("`http.listen` is beyond loopback ({}), which needs a token", address.ip());
        let mistake = Mistake::at(span.clone(), message).expected("a loopback address, or a `token` beside it");
        section.context.note(mistake.help("add `token = \"${NAME}\"`, and set the environment variable NAME"));
    }
    if let Some(hosts) = section.take("hosts") {
        http.hosts = hosts.list(HOSTS).unwrap_or_default().iter().filter_map(read_host).collect();
    }
    section.finish();
    let listener = listen.unwrap_or(default);
    (http.listen, http.tokens, http.read_tokens) = (listener.address, tokens, readers);
    (http, listener)
}

/// `[dead_letters]`
pub(super) fn read_dead_letters(root: &mut Section<'_>) -> DeadLettersConfig {
    let letters = LetterLimit { bytes: LETTERS_BYTES, beyond: AtLimit::Discard };
    let mut config = DeadLettersConfig { letters, retain_ms: LETTERS_RETAIN_MS };
    let Some(mut section) = root.take("dead_letters").and_then(|setting| setting.section("a table: [dead_letters]"))
    else {
        return config;
    };
    if let Some(bytes) = section.take("limit").and_then(|setting| setting.size(LETTERS_MIN_BYTES..=1 << 50)) {
        config.letters.bytes = bytes;
    }
    if let Some(retain) = section.take("retain").and_then(|setting| setting.duration(1)) {
        config.retain_ms = retain;
    }
    let words = [("discard", AtLimit::Discard), ("pause", AtLimit::Pause)];
    if let Some(beyond) = section.take("at_limit").and_then(|setting| setting.choice(&words, &[])) {
        config.letters.beyond = beyond;
    }
    section.finish();
    config
}

const HOSTS: &str = "a list of names such as [\"mill.example.org\"]";

/// One of `hosts`: a name or an address, with or without a port.
fn read_host(setting: &Setting<'_>) -> Option<String> {
    let host = setting.text(HOSTS)?.value.trim().to_ascii_lowercase();
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:[]".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_part) {
        let message = format!("`{}` is no name of a host: `{host}`", setting.path);
        let mistake = Mistake::at(setting.span(), message).expected("a name such as \"mill.example.org\"");
        setting.context.note(mistake.help("without `https://`, without a path; each name is given in full"));
        return None;
    }
    Some(host)
}
