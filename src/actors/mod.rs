//! The only room that knows actix: typed messages through byte-bounded mailboxes. `system.rs` is the topology,
//! `messages.rs` what travels.

mod alerts;
mod dead_letter;
mod feed;
mod flush;
mod generation;
mod guard;
mod handles;
mod ingest;
mod live;
mod mailbox;
mod messages;
mod orders;
mod pipeline;
mod readiness;
mod recent;
mod reload;
mod replay;
mod retention;
mod snapshot;
mod stage;
mod stats;
mod system;
#[cfg(test)]
pub(crate) mod tests;
mod ticks;
mod window;

pub use alerts::{AlertFeeds, AlertStats};
pub use flush::jittered;
pub use handles::{PipelineHandle, Pipelines, StreamHandle};
pub use live::{LiveFeed, LiveFeeds};
pub use mailbox::{Closed, NotSent, Outlet};
pub use messages::{Body, Claim, Claimed, Lines, Source, Sync, Taken};
pub use orders::{OrderError, SkipTo, Standing, Verb};
pub use recent::KEPT_BYTES;
pub use reload::{ReloadError, Reloaded};
pub use replay::Wanted;
pub use stats::{PipelineState, RedisView, StatsRegistry, StreamStats};
pub use system::{System, SystemError, SystemOptions, memory_bytes};
