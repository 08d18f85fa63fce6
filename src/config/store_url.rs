//! `[store] url`: which database, and how secret the way to it is.

use tokio_postgres::config::Host;

use super::reader::Setting;
use super::{PostgresConfig, PostgresTls, StoreUrl};

pub(super) const STORE_URL: &str =
    "a URL such as \"sqlite://data/tidemill.db\" or \"postgres://user@host/db?sslmode=verify-full\"";

const SSL_MODES: &str = "sslmode=verify-full, sslmode=require or sslmode=disable";

/// A store's URL. No message repeats it, since it may hold a password.
pub(super) fn read_store_url(setting: &Setting<'_>, url: &str, schema: String) -> Option<StoreUrl> {
    let read = match url.split_once("://") {
        Some(("sqlite", "")) => Err((format!("`{}` names no file", setting.path), STORE_URL)),
        Some(("sqlite", path)) => return Some(StoreUrl::Sqlite(setting.context.base.join(path))),
        Some(("postgres" | "postgresql", _)) => {
            let wrong = |(message, expected)| (format!("`{}`: {message}", setting.path), expected);
            postgres(url, schema, setting.context.base).map_err(wrong)
        }
        _ => Err((format!("`{}` is no URL of a store", setting.path), STORE_URL)),
    };
    match read {
        Ok(config) => Some(StoreUrl::Postgres(Box::new(config))),
        Err((message, expected)) => {
            setting.wrong(message, expected);
            None
        }
    }
}

/// A store that a command line names: a URL as in a config, or the path of a SQLite file; relative to the working
/// directory.
///
/// # Errors
/// What is wrong with it, without its password.
pub fn parse_store_url(url: &str, schema: &str) -> Result<StoreUrl, String> {
    let base = std::path::Path::new("");
    match url.split_once("://") {
        Some(("sqlite", path)) if !path.is_empty() => Ok(StoreUrl::Sqlite(path.into())),
        Some(("postgres" | "postgresql", _)) => match postgres(url, schema.to_owned(), base) {
            Ok(config) => Ok(StoreUrl::Postgres(Box::new(config))),
            Err((message, expected)) => Err(format!("{message}; it is {expected}")),
        },
        Some(_) => Err(format!("it is the path of a file, or {STORE_URL}")),
        None if url.is_empty() => Err("it is empty".to_owned()),
        None => Ok(StoreUrl::Sqlite(url.into())),
    }
}

fn postgres(url: &str, schema: String, base: &std::path::Path) -> Result<PostgresConfig, (String, &'static str)> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    // The driver takes all before the first `@` for user and password, wherever that stands.
    if rest.rfind('@') != rest.split(['/', '?']).next().and_then(|place| place.find('@')) {
        return Err(("in a name or a password `@` is written %40, `/` %2F and `?` %3F".to_owned(), STORE_URL));
    }
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut root_cert, mut rest) = (None, None, Vec::new());
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("sslmode", value)) => mode = Some(value),
            Some(("sslrootcert", value)) => root_cert = Some(base.join(value)),
            _ => rest.push(parameter),
        }
    }
    // What tokio-postgres says of a mistake names a key, and never a value.
    let parsed: Result<tokio_postgres::Config, _> = format!("{place}?{}", rest.join("&")).parse();
    let connect = parsed.map_err(|error| {
        let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        (why, STORE_URL)
    })?;
    if connect.get_hosts().is_empty() {
        return Err(("it names no host".to_owned(), STORE_URL));
    }
    let tls = match mode {
        Some("disable") => PostgresTls::Disable,
        Some("require") => PostgresTls::Require,
        Some("verify-full") => PostgresTls::VerifyFull { root_cert },
        Some(other) => return Err((format!("there is no sslmode {other:?} here"), SSL_MODES)),
        // What does not leave the machine needs no secret; all else is as safe as it can be until somebody says otherwise.
        None if connect.get_hosts().iter().all(is_local) => PostgresTls::Disable,
        None => PostgresTls::VerifyFull { root_cert },
    };
    Ok(PostgresConfig { connect, tls, schema, shown: shown(url) })
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

/// The URL without passwords.
pub(super) fn shown(url: &str) -> String {
    let (place, query) = url.split_once('?').unwrap_or((url, ""));
    let (scheme, rest) = place.split_once("://").unwrap_or(("", place));
    let place = match rest.split_once('/').unwrap_or((rest, "")).0.rsplit_once('@') {
        Some((user, _)) => {
            let name = user.split(':').next().unwrap_or_default();
            // Of a password that is no user's, the `@` is of no use, either.
            let behind = if name.is_empty() { user.len() + 1 } else { user.len() };
            format!("{scheme}://{name}{}", &rest[behind..])
        }
        None => place.to_owned(),
    };
    let kept: Vec<&str> = query.split('&').filter(|part| !part.is_empty() && !part.starts_with("password=")).collect();
    if kept.is_empty() { place } else { format!("{place}?{}", kept.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<PostgresConfig, String> {
        postgres(url, "tidemill".to_owned(), std::path::Path::new("/etc/mill")).map_err(|(message, _)| message)
    }

    #[test]
    fn what_is_on_this_machine_needs_no_tls_and_all_else_is_verified() {
        for url in ["postgres://me@localhost/db", "postgresql://127.0.0.1:5433/db", "postgres://me@[::1]/db"] {
            assert_eq!(read(url).unwrap().tls, PostgresTls::Disable, "{url}");
        }
        let verified = |root_cert: Option<&str>| PostgresTls::VerifyFull { root_cert: root_cert.map(Into::into) };
        assert_eq!(read("postgres://me@db.example.org/db").unwrap().tls, verified(None));
        let with_root = "postgres://me@localhost/db?sslmode=verify-full&sslrootcert=ca.pem";
        assert_eq!(read(with_root).unwrap().tls, verified(Some("/etc/mill/ca.pem")));
        assert_eq!(read("postgres://db.example.org/db?sslmode=require").unwrap().tls, PostgresTls::Require);
    }

    #[test]
    fn passwords_are_never_shown() {
        for (url, shown) in [
            ("postgres://me:se%40cret@host:5432/db?sslmode=disable", "postgres://me@host:5432/db?sslmode=disable"),
            ("postgres://me@host/db?password=secret", "postgres://me@host/db"),
            ("postgres://host/db?connect_timeout=3&password=secret", "postgres://host/db?connect_timeout=3"),
        ] {
            let config = read(url).unwrap();
            assert_eq!(config.shown, shown);
            assert!(!format!("{config:?}").contains("cret"), "{config:?}");
        }
    }

    #[test]
    fn what_cannot_be_a_database_is_said() {
        for (url, says) in [
            ("postgres://host/db?sslmode=prefer", "no sslmode \"prefer\""),
            ("postgres:///db", "names no host"),
            ("postgres://host/db?colour=red", "unknown option `colour`"),
            ("postgres://host:port/db", "port"),
            ("postgres://me:pa/ss@host/db", "%2F"),
            ("postgres://me:pa?ss@host/db", "%3F"),
            ("postgres://me:pa@ss@host/db", "%40"),
            ("postgres://host/db?application_name=a@b", "%40"),
        ] {
            let message = read(url).unwrap_err();
            assert!(message.contains(says), "{message}");
        }
    }
}
