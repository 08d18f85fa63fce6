//! What an event is: values, times, positions, batches of columns, decoding, letters.

mod account;
mod batch;
mod decode;
mod escape;
mod field;
mod influx;
mod json;
mod letter;
mod position;
mod raw;
mod replay;
mod shape;
#[cfg(test)]
mod tests;
mod time;
mod value;
mod wanted;

pub use account::Account;
pub use batch::{Batch, Cell, Decoded, Fault, Origin, Span, is_producer_name};
pub use decode::{DecodeError, Decoder, Format, decodable, piece_end};
pub use field::{Field, Fields, Step};
pub use letter::{Counted, Letter, LetterKind};
pub use position::{Position, PositionError, PositionRange};
pub use raw::{RawEvent, RawEvents};
pub use replay::{Replay, Replayed, is_replay_name, replay_name};
pub use time::{TIME_MAX_MS, TIME_MIN_MS, TimeUnit, format_utc, parse_time_text, time_from_value};
pub use value::{Row, Value};
