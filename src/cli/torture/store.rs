//! The store under torture: read for the verdict, held, cut off, and taken away at the end.

use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::{SqliteConnection, sql_query};
use tokio::runtime::Runtime;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::Run;
use super::daemon::Home;
use crate::cli::error::CliError;
use crate::config::{PostgresConfig, StoreUrl};

/// How often PostgreSQL's connections are cut while they are cut.
const CUT_EVERY: Duration = Duration::from_millis(15);

/// Which store, and where in it.
pub(super) enum Store {
    /// A file in the daemon's folder.
    Sqlite,
    /// A schema of its own.
    Postgres { url: String, schema: String, config: Box<PostgresConfig> },
}

/// What keeps the daemon from writing. Dropping it lets it go on.
pub(super) enum Held {
    Sqlite { _locked: SqliteConnection },
    Postgres { _locked: (Client, Runtime) },
}

#[derive(QueryableByName)]
struct One {
    #[diesel(sql_type = Text)]
    r: String,
}

impl Store {
    /// By the name that the user gives it.
    pub(super) fn new(url: Option<&str>) -> Result<Self, CliError> {
        let url = match url {
            None | Some("sqlite") => return Ok(Self::Sqlite),
            Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => url,
            Some(_) => {
                return Err(CliError::Usage(
                    "--store: `sqlite` (a file of its own), or a PostgreSQL URL such as postgres://user@host/db"
                        .to_owned(),
                ));
            }
        };
        let schema = format!("tidemill_torture_{:08x}", fastrand::u32(..));
        // By this name its connections are known from all others.
        let url = format!("{url}{}application_name={schema}", if url.contains('?') { '&' } else { '?' });
        let text = format!("{}\n{}", section(&url, &schema), super::pipelines::config(true, false));
        let parsed = crate::config::parse(&text, "--store", std::path::Path::new("."), &|_| None);
        match parsed.map_err(|report| CliError::config(&report))?.store.url {
            StoreUrl::Postgres(config) => Ok(Self::Postgres { url, schema, config }),
            StoreUrl::Sqlite(_) => Ok(Self::Sqlite),
        }
    }

    /// Whether it is there: what cannot be reached at the start is no verdict.
    pub(super) fn probe(&self) -> Result<(), CliError> {
        match self {
            Self::Sqlite => Ok(()),
            Self::Postgres { .. } => self.connect().map(drop),
        }
    }

    /// Its name in the verdict.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres { .. } => "postgres",
        }
    }

    /// `[store]` of a config.
    pub(super) fn section(&self) -> String {
        match self {
            Self::Sqlite => "[store]\n".to_owned(),
            Self::Postgres { url, schema, .. } => section(url, schema),
        }
    }

    /// An empty one of the same kind.
    pub(super) fn another(&self) -> Self {
        match self {
            Self::Sqlite => Self::Sqlite,
            Self::Postgres { url, schema, config } => {
                Self::Postgres { url: url.clone(), schema: format!("{schema}_calm"), config: config.clone() }
            }
        }
    }

    /// How to look into it.
    pub(super) fn place(&self, home: &Home) -> String {
        match self {
            Self::Sqlite => format!("sqlite3 {}", database(home).display()),
            Self::Postgres { schema, config, .. } => format!("{}, schema {schema}", config.shown),
        }
    }

    /// The rows of a query with one column of text named `r`. `{schema}` stands before a
    /// table's name, `{line}` for a letter's line in hexadecimal digits.
    pub(super) fn read(&self, home: &Home, query: &str) -> Result<Vec<String>, CliError> {
        match self {
            Self::Sqlite => {
                let failed = |error: &dyn std::fmt::Display| {
                    CliError::Unavailable(format!("{}: {error}", database(home).display()))
                };
                let mut connection = open(home).map_err(|error| failed(&error))?;
                let rows =
                    sql_query(query.replace("{schema}", "").replace("{line}", "hex(line)")).load(&mut connection);
                Ok(rows.map_err(|error| failed(&error))?.into_iter().map(|One { r }| r).collect())
            }
            Self::Postgres { schema, .. } => {
                let query = query.replace("{schema}", &format!("{schema}."));
                let query = query.replace("{line}", "encode(line, 'hex')");
                let (client, runtime) = self.connect()?;
                self.run(&client, &runtime, &query)
            }
        }
    }

    /// Keeps the daemon from writing; `None` where that cannot be just now (its tables are not there yet, say).
    pub(super) fn hold(&self, home: &Home) -> Option<Held> {
        match self {
            Self::Sqlite => {
                let mut connection = database(home).exists().then(|| open(home).ok()).flatten()?;
                connection.batch_execute("BEGIN IMMEDIATE").ok()?;
                Some(Held::Sqlite { _locked: connection })
            }
            Self::Postgres { schema, .. } => {
                let (client, runtime) = self.connect().ok()?;
                let lock = format!("SET lock_timeout = '1s'; BEGIN; LOCK TABLE {schema}.checkpoints IN EXCLUSIVE MODE");
                self.run(&client, &runtime, &lock).ok()?;
                Some(Held::Postgres { _locked: (client, runtime) })
            }
        }
    }

    /// Cuts the daemon's connections, again and again for so long. Whether there were any (SQLite has none).
    pub(super) fn cut(&self, run: &Run, lasting: Duration) -> bool {
        let Self::Postgres { schema, .. } = self else { return false };
        let Ok((client, runtime)) = self.connect() else { return false };
        let query = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
             WHERE application_name = '{schema}' AND pid <> pg_backend_pid()"
        );
        let (until, mut cut) = (run.pace.elapsed() + lasting, false);
        while run.pace.elapsed() < until {
            // Where it may not: the daemon is not disturbed.
            let Ok(counts) = self.run(&client, &runtime, &query) else { return cut };
            cut |= counts.iter().any(|count| count != "0");
            run.pace.sleep(CUT_EVERY);
        }
        cut
    }

    /// Takes all of it away.
    pub(super) fn remove(&self) -> Result<(), CliError> {
        let Self::Postgres { schema, .. } = self else { return Ok(()) };
        let (client, runtime) = self.connect()?;
        // Its notices about all that goes with it would end in our log.
        let removal = format!("SET client_min_messages = warning; {}", self.removal(schema));
        self.run(&client, &runtime, &removal).map(drop)
    }

    /// What takes it away, where something outside the daemon's folder is left.
    pub(super) fn how_to_remove(&self) -> Option<String> {
        let Self::Postgres { schema, .. } = self else { return None };
        Some(self.removal(schema))
    }

    fn removal(&self, schema: &str) -> String {
        format!("DROP SCHEMA IF EXISTS {schema} CASCADE")
    }

    fn connect(&self) -> Result<(Client, Runtime), CliError> {
        let Self::Postgres { config, .. } = self else { return Err(CliError::Bug("no server to ask".to_owned())) };
        let failed = |error: &dyn std::fmt::Display| CliError::Unavailable(format!("{}: {error}", config.shown));
        let tls = crate::store::tls_connector(config).map_err(|error| failed(&error))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(&error))?;
        let mut options = config.connect.clone();
        options.application_name("tidemill_torture").connect_timeout(Duration::from_secs(10));
        let client = runtime.block_on(async {
            // The other half works while the runtime does.
            Ok(match tls {
                Some(tls) => {
                    let (client, driver) = options.ssl_mode(SslMode::Require).connect(tls).await?;
                    tokio::spawn(driver);
                    client
                }
                None => {
                    let (client, driver) = options.ssl_mode(SslMode::Disable).connect(NoTls).await?;
                    tokio::spawn(driver);
                    client
                }
            })
        });
        let client = client.map_err(|error: tokio_postgres::Error| failed(&shown(&error)))?;
        Ok((client, runtime))
    }

    fn run(&self, client: &Client, runtime: &Runtime, query: &str) -> Result<Vec<String>, CliError> {
        let answer = runtime.block_on(client.simple_query(query));
        let answer = answer.map_err(|error| CliError::Unavailable(format!("the store: {}", shown(&error))))?;
        let text = |message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
            _ => None,
        };
        Ok(answer.into_iter().filter_map(text).collect())
    }
}

/// tokio-postgres says what it did; the cause says why that failed.
fn shown(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

fn section(url: &str, schema: &str) -> String {
    format!("[store]\nurl = {}\nschema = \"{schema}\"\n", serde_json::Value::from(url))
}

fn database(home: &Home) -> std::path::PathBuf {
    home.folder.join("data/tidemill.db")
}

fn open(home: &Home) -> diesel::QueryResult<SqliteConnection> {
    let path = database(home);
    let opened = SqliteConnection::establish(&path.to_string_lossy());
    let mut connection = opened.map_err(|error| diesel::result::Error::QueryBuilderError(error.into()))?;
    connection.batch_execute("PRAGMA busy_timeout = 1000")?;
    Ok(connection)
}
