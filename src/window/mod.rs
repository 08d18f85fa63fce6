//! Pure time logic: watermark, windows, aggregates, late events. No actor, no clock, no I/O.
//!
//! An event goes through `operator` into `tumbling` (also by the `calendar`) or `sliding` (with its `blocks`), there
//! into a pane (`panes`, `groups`), or into a `session`, and into the `state` of its
//! group, which is one `aggregate` beside the other; beyond the `bounds`, into one of the `other` states.

mod aggregate;
mod blocks;
mod bounds;
mod calendar;
mod change;
mod codec;
mod corrections;
mod distinct;
mod event;
mod exact;
mod group;
mod groups;
mod operator;
#[cfg(test)]
mod oracle;
mod others;
mod panes;
mod quantile;
mod rows;
mod session;
mod sliding;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod tumbling;
mod variance;
mod watermark;

pub use aggregate::{AggregateValue, EventOrder};
pub use bounds::{Bounds, OTHER_ROW, OtherKey, Usage};
pub use calendar::{Calendar, CalendarUnit};
pub use change::{FirstRecord, Gauges, LateReason, LateRow, Open, OperatorConfig, WindowChange};
pub use codec::StateError;
pub use distinct::hash_value;
pub use exact::{ExactSum, Sum};
pub use group::{decode_key, encode_value, hash_key};
pub use operator::Operator;
pub use others::Others;
pub use quantile::Distribution;
pub use rows::{Input, Rows, WindowRow};
pub use spec::{AggregateKind, Fraction, LatePolicy, WatermarkSpec, WindowSpec};
pub use state::State;
pub use watermark::Watermark;
