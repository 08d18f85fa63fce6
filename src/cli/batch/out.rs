//! The store that a batch makes.

use std::path::{Path, PathBuf};

use super::super::error::CliError;
use crate::config::{StoreUrl, parse_store_url};
use crate::store::{Store, StoreError};

/// A store that nobody else has written.
pub(super) struct Out {
    /// Where it is written.
    url: StoreUrl,
    /// The name that a file gets at the end.
    file: Option<PathBuf>,
    /// As it was given.
    shown: String,
}

impl Out {
    /// A store that has no checkpoints, and is not the config's.
    pub(super) fn new(
        given: Option<&str>,
        schema: &str,
        config: &Path,
        configured: &StoreUrl,
    ) -> Result<Self, CliError> {
        let default = format!("{}.batch.db", config.file_stem().unwrap_or_default().to_string_lossy());
        let given = given.unwrap_or(&default);
        let url = parse_store_url(given, schema).map_err(|reason| CliError::Usage(format!("--out: {reason}")))?;
        if is_same(&url, configured) {
            return Err(CliError::Config(format!(
                "--out {url} is the config's own store, which a batch never touches: name another"
            )));
        }
        let (url, file) = match url {
            StoreUrl::Sqlite(path) if is_new(&path) => {
                (StoreUrl::Sqlite(with_ending(&path, ".unfinished")), Some(path))
            }
            url => (url, None),
        };
        if let StoreUrl::Sqlite(path) = &url
            && file.is_some()
            && path.exists()
        {
            return Err(CliError::Config(format!(
                "{} is there: another batch writes it, or one was killed; wait for it, or remove the file",
                path.display()
            )));
        }
        let shown = file.as_ref().map_or_else(|| url.to_string(), |file| file.display().to_string());
        check_checkpoints(&url)?;
        Ok(Self { url, file, shown })
    }

    pub(super) fn url(&self) -> &StoreUrl {
        &self.url
    }

    /// All is in it: gives it its name, and says which.
    pub(super) fn finish(self) -> Result<String, CliError> {
        let (StoreUrl::Sqlite(path), Some(file)) = (&self.url, &self.file) else { return Ok(self.shown) };
        // The last to close it was perhaps one who only reads: then its latest transactions are not in the file yet.
        Store::migrate(&self.url).map_err(|error| CliError::Unavailable(format!("{}: {error}", self.url)))?;
        let renamed = std::fs::rename(path, file);
        let what = || format!("cannot rename {} to {}", path.display(), file.display());
        renamed.map_err(|error| CliError::Io { what: what(), error })?;
        Ok(self.shown)
    }

    /// Takes away what was made, or says what is left of it.
    pub(super) fn give_up(self, error: CliError) -> CliError {
        let left = match (&self.url, &self.file) {
            (StoreUrl::Sqlite(path), Some(file)) => {
                for ending in ["", "-wal", "-shm"] {
                    // What is not there need not go.
                    let _ = std::fs::remove_file(with_ending(path, ending));
                }
                format!("{} was not made", file.display())
            }
            (StoreUrl::Sqlite(path), None) => format!("{} is unfinished: remove it", path.display()),
            (StoreUrl::Postgres(config), _) => {
                let schema = &config.schema;
                format!("schema {schema} may hold an unfinished batch: DROP SCHEMA {schema} CASCADE removes it")
            }
        };
        error.with(&left)
    }
}

fn is_new(path: &Path) -> bool {
    std::fs::metadata(path).map_or(true, |metadata| metadata.len() == 0)
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn is_same(url: &StoreUrl, other: &StoreUrl) -> bool {
    match (url, other) {
        (StoreUrl::Sqlite(path), StoreUrl::Sqlite(other)) => {
            let whole = |path: &Path| path.canonicalize().or_else(|_| std::path::absolute(path)).ok();
            whole(path) == whole(other)
        }
        (url, other) => url == other,
    }
}

fn check_checkpoints(url: &StoreUrl) -> Result<(), CliError> {
    let examined = Store::examine(url).map_err(|error| match error {
        StoreError::Away(_) => CliError::Unavailable(format!("{url}: {error}")),
        error => CliError::Config(format!("{url}: {error}")),
    })?;
    if examined.checkpoints.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = examined.checkpoints.iter().map(|kept| kept.pipeline.as_str()).collect();
    let way_out = match url {
        StoreUrl::Sqlite(_) => "remove the file, or name another with --out".to_owned(),
        StoreUrl::Postgres(config) => format!("DROP SCHEMA {} CASCADE, or name another with --schema", config.schema),
    };
    Err(CliError::Config(format!(
        "{url} has checkpoints already ({}): a batch begins a store of its own; {way_out}",
        names.join(", ")
    )))
}
