//! The edge that takes lines: the line protocol, and its TCP server.

mod control;
mod protocol;
mod reply;
mod tcp;

pub use control::ProtocolError;
pub use protocol::{Action, Protocol, ProtocolConfig};
pub use reply::Reply;
pub use tcp::serve;
