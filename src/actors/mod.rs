//! The only room that knows actix: typed messages through byte-bounded mailboxes. `system.rs` is the topology,
//! `messages.rs` what travels.

mod dead_letter;
mod feed;
mod flush;
mod generation;
mod guard;
mod ingest;
mod mailbox;
mod messages;
mod orders;
mod pipeline;
mod readiness;
mod recent;
mod snapshot;
mod stage;
mod stats;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod window;

pub use mailbox::{Closed, Outlet};
pub use messages::{Claim, Claimed, Lines, Source, Sync};
pub use orders::{OrderError, SkipTo, Standing, Verb};
pub use stats::{PipelineState, StatsRegistry, StreamStats};
pub use system::{PipelineHandle, StreamHandle, System, SystemError, SystemOptions, memory_bytes};
