//! Live values in Redis: each row of a pipeline as a hash, set after the commit that changed it.
//!
//! Rows are set, never added, so that one written twice is right, and one that was not written is made good by reading
//! the open rows from the store again. Whoever commits never waits for Redis.

mod hash;
mod redis;

pub use self::redis::Live;
