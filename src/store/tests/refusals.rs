//! What PostgreSQL says no to, and what a person is told.

use super::postgres::{Server, shared, unique_schema};
use super::support::*;
use crate::config::{PostgresConfig, PostgresTls, StoreUrl};
use crate::store::{Store, StoreError};

fn open(config: PostgresConfig) -> StoreError {
    Store::open(&StoreUrl::Postgres(Box::new(config)), true).err().expect("it must be refused")
}

fn refused(url: &str, tls: PostgresTls) -> String {
    match open(PostgresConfig { tls, ..postgres_config(url) }) {
        StoreError::Refused(message) | StoreError::Schema(message) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_wrong_password_an_unknown_database_and_tls_that_is_not_there_are_refused_with_what_to_do() {
    let server = shared();
    server.psql("CREATE ROLE locked LOGIN PASSWORD 'right'; GRANT CREATE ON DATABASE postgres TO locked");
    let hba = server.folder().join("data/pg_hba.conf");
    let trust = std::fs::read_to_string(&hba).unwrap();
    std::fs::write(&hba, format!("host all locked 127.0.0.1/32 scram-sha-256\n{trust}")).unwrap();
    server.psql("SELECT pg_reload_conf()");
    let at = |user: &str, database: &str| format!("postgres://{user}@127.0.0.1:{}/{database}", server.port);
    let wrong = refused(&at("locked:wrong", "postgres"), PostgresTls::Disable);
    assert!(wrong.contains("28P01") && wrong.contains("check user, password"), "{wrong}");
    let unknown = refused(&at("tidemill", "nowhere"), PostgresTls::Disable);
    assert!(unknown.contains("\"nowhere\"") && unknown.contains("create the database"), "{unknown}");
    let tls = refused(&at("tidemill", "postgres"), PostgresTls::Require);
    assert!(tls.contains("does not support TLS"), "{tls}");
    Store::open(&StoreUrl::Postgres(Box::new(postgres_config(&at("locked:right", "postgres")))), true).unwrap();
}

#[test]
fn a_user_without_rights_is_told_which_one_is_missing() {
    let server = shared();
    server.psql("CREATE ROLE guest LOGIN");
    let message = refused(&format!("postgres://guest@127.0.0.1:{}/postgres", server.port), PostgresTls::Disable);
    assert!(message.contains("GRANT CREATE ON DATABASE") && message.contains("42501"), "{message}");
}

#[test]
fn a_database_of_another_encoding_is_refused() {
    let server = shared();
    server.psql("CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0");
    let message = refused(&format!("postgres://tidemill@127.0.0.1:{}/latin", server.port), PostgresTls::Disable);
    assert!(message.contains("ENCODING 'UTF8'"), "{message}");
}

#[test]
fn a_server_that_is_not_there_is_away_and_waited_for() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("postgres://tidemill@127.0.0.1:{nobody}/postgres");
    let store = Store::open(&StoreUrl::Postgres(Box::new(postgres_config(&url))), true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let away = runtime.block_on(store.begin(std::sync::Arc::new(by_path("hits")), "web", anyone())).unwrap_err();
    assert!(matches!(&away, StoreError::Away(why) if why.contains("refused")), "{away:?}");
}

#[test]
fn tls_is_verified_against_the_named_authority_and_host() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let mut server = Server::start(&["fsync=off"]);
    server.stop();
    server.write("server.crt", &certificate.pem());
    server.write("server.key", &key.serialize_pem());
    server.set("ssl=on");
    server.go();

    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right.pem"), folder.path().join("wrong.pem"));
    std::fs::write(&right, certificate.pem()).unwrap();
    let other_key = rcgen::KeyPair::generate().unwrap();
    let other = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&other_key).unwrap();
    std::fs::write(&wrong, other.pem()).unwrap();

    let at = |host: &str| format!("postgres://tidemill@{host}:{}/postgres", server.port);
    let verified = |path: &std::path::Path| PostgresTls::VerifyFull { root_cert: Some(path.to_owned()) };
    for tls in [verified(&right), PostgresTls::Require] {
        let config = PostgresConfig { tls, schema: unique_schema(), ..postgres_config(&at("localhost")) };
        Store::open(&StoreUrl::Postgres(Box::new(config)), true).unwrap();
    }
    for (host, root) in [("localhost", &wrong), ("127.0.0.1", &right)] {
        let message = refused(&at(host), verified(root));
        assert!(message.contains("certificate"), "{message}");
    }
}
