//! The store by its results: what a flush leaves in the file, and what the views show of it.

/// Each test on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($(async fn $name:ident($bench:ident: Bench) $body:block)*) => {$(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn on_sqlite() {
                run(Bench::sqlite()).await;
            }

            #[tokio::test]
            async fn on_postgres() {
                run(Bench::postgres()).await;
            }

            async fn run($bench: Bench) $body
        }
    )*};
}

mod alerts;
mod flushes;
mod hostile;
mod letters;
mod live;
mod others;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;
mod raw_events;
mod refusals;
mod starts;
mod support;
mod views;
