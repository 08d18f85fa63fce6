//! Tidemill turns a stream of events into windowed numbers in a database: live, exactly once, from one binary.
//!
//! Where things live, in the order of the data:
//!
//! | room | what it does |
//! | --- | --- |
//! | [`input`] | sockets; the line protocol |
//! | [`event`] | values, times, positions; lines decoded into columns |
//! | [`journal`] | the stream's log on disk |
//! | [`actors`] | who sends what to whom: `system.rs` is the topology, `messages.rs` what travels |
//! | [`pipeline`] | a checked config as pure operators: stages, results |
//! | [`expr`] | SQL expressions |
//! | [`window`] | watermark, windows, aggregates: pure, no clock |
//! | [`store`] | one transaction moves results, state, letters, account and checkpoint |
//! | [`config`] | TOML in, a checked config or all its errors out |
//! | [`live`] | live values, in Redis |
//! | [`webhooks`] | alerts, to whoever is to be told |
//! | [`http`] | bodies of events; health, stats, rows, orders to pipelines; who may |
//! | [`cli`] | the verbs |
//! | [`moments`] | where the crash test kills, in test builds |
//!
//! A file imports only from rooms below its own, or from its own room. [`Tidemill`] is the way in:
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use tidemill::{Outcome, Tidemill};
//!
//! let mill = Tidemill::from_file("tidemill.toml")?
//!     .stage("geo", |event| {
//!         event.set("country", "NL");
//!         Ok(Outcome::Keep)
//!     })
//!     .start()
//!     .await?;
//! let web = mill.stream("web")?;
//! web.send(r#"{"ts":1700000000,"path":"/"}"#).await?;
//! web.synced().await?;
//! let rows = mill.pipeline("page_views")?.now().await?;
//! # let _ = rows;
//! mill.shutdown().await;
//! # Ok(())
//! # }
//! ```

#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod clock;
pub mod limits;
pub mod moments;
pub mod units;

pub mod event;

pub mod expr;
pub mod journal;
pub mod window;

pub mod config;
pub mod store;

pub mod pipeline;

pub mod actors;

pub mod http;
pub mod input;
pub mod live;
mod sender;
pub mod webhooks;

mod daemon;

pub mod cli;

pub use actors::{ReloadError, Reloaded};
pub use daemon::{Mill, Pipeline, StartError, Tidemill, Unknown};
pub use http::Reloads;
pub use pipeline::{Event, Outcome, StageError};
pub use sender::{Stopped, StreamSender};
