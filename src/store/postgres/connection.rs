//! How a connection is made, and what it is set to.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::sql_types::Text;
use diesel::{QueryableByName, RunQueryDsl, sql_query};
use diesel_async::AsyncPgConnection;
use diesel_async::async_connection_wrapper::{AsyncConnectionWrapper, BlockOn};
use tokio::runtime::Runtime;
use tokio_postgres::config::{Host, SslMode, SslNegotiation};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::sqlstate::{LastState, Plain, Watch, away};
use crate::config::PostgresConfig;
use crate::store::StoreError;
use crate::store::names::identifier;
use crate::store::session::Access;

/// A connection, with the runtime of its thread.
pub(super) type Connection = AsyncConnectionWrapper<AsyncPgConnection, Own>;

/// The runtime that a connection was made on and that drives its socket. It goes with the connection, and the socket with
/// it: so the server ends at once what was open.
pub(super) struct Own(Runtime);

thread_local! {
    /// The runtime of the connection that is being wrapped just now: the wrapper asks for it without an argument.
    static HANDED_OVER: Cell<Option<Runtime>> = const { Cell::new(None) };
}

impl BlockOn for Own {
    fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    #[expect(
        clippy::unwrap_used,
        reason = "`connect`, which alone makes a `Connection`, hands a runtime over just before"
    )]
    fn get_runtime() -> Self {
        Self(HANDED_OVER.take().unwrap())
    }
}

/// So long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that does not answer TCP for so long is gone.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing waits for ever: not for a lock, not for a statement, and a server that lost us ends our transaction, which
/// would keep its successor from the fence. Commits reach the disk whatever the server's default is, unless it is more.
const SETTINGS: &str = "SET lock_timeout = '10s'; SET statement_timeout = '60s'; \
     SET idle_in_transaction_session_timeout = '60s'; SET TimeZone = 'UTC'; SET standard_conforming_strings = on; \
     SELECT set_config('synchronous_commit', 'on', false) \
     WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write')";

#[derive(QueryableByName)]
struct Encoding {
    #[diesel(sql_type = Text)]
    encoding: String,
}

/// Connects. To be called on the thread that will use the connection.
#[expect(
    clippy::disallowed_methods,
    reason = "how long a silent server is waited for, by the runtime of this connection"
)]
pub(super) fn connect(
    config: &PostgresConfig,
    tls: Option<&MakeRustlsConnect>,
    access: Access,
) -> Result<(Connection, LastState), StoreError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| StoreError::Away(format!("cannot make a runtime: {error}")))?;
    let state = LastState::default();
    let made = runtime.block_on(async {
        let connecting = establish(config, tls, &state);
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            Err(StoreError::Away(format!("{} does not answer within {} s", config.shown, CONNECT_TIMEOUT.as_secs())))
        })
    })?;
    HANDED_OVER.set(Some(runtime));
    let mut connection = Connection::from(made);
    prepare(&mut connection, config, access).map_err(|error| state.judge(error))?;
    Ok((connection, state))
}

fn prepare(connection: &mut Connection, config: &PostgresConfig, access: Access) -> Result<(), StoreError> {
    connection.batch_execute(&format!("SET search_path TO {}; {SETTINGS}", identifier(&config.schema)))?;
    if access == Access::Read {
        connection.batch_execute("SET default_transaction_read_only = on")?;
    }
    let Encoding { encoding } =
        sql_query("SELECT current_setting('server_encoding') AS encoding").get_result(connection)?;
    if encoding != "UTF8" {
        return Err(StoreError::Schema(format!(
            "{} has the encoding {encoding}, which does not hold every text: make one with ENCODING 'UTF8'",
            config.shown
        )));
    }
    Ok(())
}

async fn establish(
    config: &PostgresConfig,
    tls: Option<&MakeRustlsConnect>,
    state: &LastState,
) -> Result<AsyncPgConnection, StoreError> {
    let mut options = config.connect.clone();
    options.connect_timeout(CONNECT_TIMEOUT).keepalives_idle(TCP_TIMEOUT).tcp_user_timeout(TCP_TIMEOUT);
    if options.get_application_name().is_none() {
        options.application_name("tidemill");
    }
    let unix = options.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
    let failed = |error: tokio_postgres::Error| unreachable_store(&config.shown, &error);
    let setup = |error: diesel::ConnectionError| StoreError::Away(format!("{}: {error}", config.shown));
    match tls {
        Some(tls) => {
            options.ssl_mode(SslMode::Require);
            let (client, driver) = options.connect(Watch::new(tls.clone(), state)).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, driver).await.map_err(setup)
        }
        None if unix => {
            options.ssl_mode(SslMode::Disable);
            let (client, driver) = options.connect(tokio_postgres::NoTls).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, driver).await.map_err(setup)
        }
        None => {
            // "TLS at once" with a connector that encrypts nothing: so the bytes pass by the watch.
            options.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
            let (client, driver) = options.connect(Watch::new(Plain, state)).await.map_err(failed)?;
            AsyncPgConnection::try_from_client_and_connection(client, driver).await.map_err(setup)
        }
    }
}

/// Why there is no connection: away, if the server did not speak or said that it will.
fn unreachable_store(shown: &str, error: &tokio_postgres::Error) -> StoreError {
    use std::error::Error;
    // tokio-postgres says what it did; the cause says why that failed.
    let mut message = format!("{shown}: {error}");
    let mut cause = error.source();
    while let Some(source) = cause {
        let source_text = source.to_string();
        if !message.contains(&source_text) {
            message.push_str(&format!(": {source_text}"));
        }
        cause = source.source();
    }
    let causes = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
    let io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).next();
    match (error.code(), io) {
        (Some(code), _) if away(code.code().as_bytes()) => StoreError::Away(message),
        (Some(code), _) => StoreError::Refused(format!("{message} (SQLSTATE {}); {}", code.code(), hint(code.code()))),
        // A broken TLS handshake is told as an I/O error of invalid data: waiting mends no certificate.
        (None, Some(io)) if is_tls(io) => StoreError::Refused(format!(
            "{message}; check the server's certificate and name, `sslmode`, and `sslrootcert`"
        )),
        (None, Some(_)) => StoreError::Away(message),
        (None, None) if error.is_closed() || message.contains("timed out") => StoreError::Away(message),
        (None, None) => {
            StoreError::Refused(format!("{message}; check `sslmode`, and what the server asks for or offers"))
        }
    }
}

fn is_tls(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.downcast_ref::<rustls::Error>().is_some())
}

fn hint(code: &str) -> &'static str {
    match code {
        "28P01" | "28000" => "check user, password and pg_hba.conf",
        "3D000" => "create the database, or name another in [store] url",
        "42501" => "give this user the right to connect",
        _ => "check [store] url",
    }
}
