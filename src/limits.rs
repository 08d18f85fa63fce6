//! Every fixed limit, with its unit and the reason for it. What a user may change is in the configuration instead.

/// Bytes of lines that travel in one batch at most: the cost of the actor system per event is near nothing at this size.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Nesting of a JSON line, checked before any recursive parser sees it.
pub const JSON_DEPTH_MAX: usize = 64;
/// Nesting of an expression.
pub const EXPRESSION_DEPTH_MAX: usize = 64;
/// Tokens of an expression: so long a chain of operators is a tree this deep while it is parsed, and must fit a stack.
pub const EXPRESSION_TOKENS_MAX: usize = 10_000;
/// Bytes of a text that an expression makes: `replace` and `||` could otherwise make a short line fill memory.
pub const EXPRESSION_TEXT_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a compiled regular expression.
pub const REGEX_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a group key; a longer one is a letter.
pub const GROUP_KEY_BYTES_MAX: usize = 1024;
/// Bytes that are kept of a text that is an aggregate's value.
pub const VALUE_TEXT_BYTES_MAX: usize = 1024;
/// Distinct values of a group that are counted exactly; beyond them, a sketch takes less room than their hashes.
pub const DISTINCT_EXACT_MAX: usize = 4_096;
/// Panes in a sliding window at most.
pub const PANES_PER_WINDOW_MAX: i64 = 4_000;
/// Bytes that are kept of a line over `max_line`.
pub const OVERLONG_LINE_KEPT_BYTES: usize = 4 * 1024;
/// Connections of one stream.
pub const CONNECTIONS_MAX: usize = 1_000;
/// Bytes of all input buffers of a stream together.
pub const CONNECTION_BUFFERS_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Producers of one stream that are remembered.
pub const PRODUCERS_MAX: usize = 10_000;
/// A producer is forgotten so long after its last line.
pub const PRODUCER_FORGOTTEN_AFTER_MS: i64 = 30 * 24 * 3_600 * 1_000;
/// Bytes of a producer's name.
pub const PRODUCER_NAME_BYTES_MAX: usize = 128;
/// Bytes of a control line: room for a long token, and nothing that a connection could be filled with.
pub const CONTROL_LINE_BYTES_MAX: usize = 4 * 1024;
/// Time for a client to send its token.
pub const AUTH_TIMEOUT_MS: u64 = 10_000;
/// Time for a client to finish a line that it began.
pub const LINE_TIMEOUT_MS: u64 = 60_000;
/// Time for a client to read what it asked for.
pub const REPLY_TIMEOUT_MS: u64 = 10_000;
/// Bytes of an event that a log or a reason shows.
pub const EXCERPT_BYTES_MAX: usize = 200;
/// Bytes of an HTTP body, after inflation.
pub const HTTP_BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of all HTTP bodies that are under way together.
pub const HTTP_BODIES_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Time for a client to send a body.
pub const HTTP_BODY_TIMEOUT_MS: u64 = 120_000;
/// Outputs of one event over all its stages.
pub const OUTPUTS_PER_EVENT_MAX: usize = 10_000;
/// Bytes of a table of an `enrich` stage.
pub const ENRICH_TABLE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Bytes of a dead letter's line that a list of letters shows; one letter alone is shown whole.
pub const LETTER_LINE_SHOWN_BYTES: i32 = 1_024;
/// Dead letters that one answer holds.
pub const LETTERS_MAX: usize = 1_000;
/// Rows that one answer holds.
pub const RESULT_ROWS_MAX: usize = 10_000;
/// Watchers (`tap`) of one pipeline, and of one stream.
pub const TAPS_MAX: usize = 8;
/// Events a second that a watcher is shown.
pub const TAP_RATE_MAX: u32 = 1_000;
/// Bytes of events that wait for a watcher; what is beyond is dropped and counted.
pub const TAP_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a line or a value that a watcher is shown.
pub const TAP_VALUE_BYTES_MAX: usize = 1024;
/// Bytes of one event that a watcher is shown, with all that became of it: one event can become thousands.
pub const TAP_EVENT_BYTES_MAX: usize = 64 * 1024;

/// Bytes of changed rows of one pipeline that wait to be shown live; a flush holds as much again until it is committed.
pub const LIVE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes that letters on their way again may use above `journal_limit`.
pub const REPLAY_BYTES_ABOVE_LIMIT: u64 = 64 * 1024 * 1024;
/// Letters that a request for a replay can name.
pub const REPLAY_IDS_MAX: usize = 1_000;

const _: () = assert!(HTTP_BODY_BYTES_MAX < HTTP_BODIES_BYTES_MAX);
const _: () = assert!(OVERLONG_LINE_KEPT_BYTES < BATCH_BYTES_MAX);
const _: () = assert!(JSON_DEPTH_MAX <= 128, "parsers recurse this deep on a small stack");
