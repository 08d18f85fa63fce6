//! The config: TOML in, one checked `Config` out, or all its errors at once.

mod address;
mod aggregates;
mod alerts;
mod calls;
mod cases;
mod describe;
mod enrich;
mod expressions;
mod interpolate;
mod load;
mod mask;
mod names;
mod pipeline;
mod reader;
mod redis;
mod report;
mod settings;
mod stages;
mod store_url;
mod streams;
#[cfg(test)]
mod tests;
mod tokens;
mod unseen;
mod windows;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::event::{Field, Format, TimeUnit};
use crate::expr::{Expr, SqlType};
use crate::window::{AggregateKind, Bounds, LatePolicy, WatermarkSpec, WindowSpec};

pub use self::redis::RedisConfig;
pub use alerts::{AlertConfig, Webhook};
pub use cases::{ExpectedLetter, ExpectedRow, TestConfig, TestStep};
pub use describe::describe;
pub use enrich::EnrichTable;
pub use load::{load, parse};
pub use names::nearest;
pub use report::{Diagnostic, Report};
pub use store_url::parse_store_url;
pub use tokens::Tokens;
pub use unseen::{Unseen, unseen};
pub use windows::stored_window;

/// A config that was checked as a whole.
#[derive(Clone, Debug)]
pub struct Config {
    /// Journals and the embedded store.
    pub data_dir: PathBuf,
    /// Producers are held while its disk has less than this.
    pub min_free_bytes: u64,
    /// A daemon that stops waits so long until all is flushed.
    pub shutdown_timeout_ms: i64,
    /// Where results go.
    pub store: StoreConfig,
    /// API and stats.
    pub http: HttpConfig,
    /// Where live values go; `None`: nowhere.
    pub redis: Option<RedisConfig>,
    /// What becomes of events that failed.
    pub dead_letters: DeadLettersConfig,
    /// In the order of the file.
    pub streams: Vec<StreamConfig>,
    /// In the order of the file.
    pub pipelines: Vec<PipelineConfig>,
    /// In the order of the file.
    pub tests: Vec<TestConfig>,
}

/// `[store]`
#[derive(Clone, PartialEq, Debug)]
pub struct StoreConfig {
    /// Which database.
    pub url: StoreUrl,
    /// Time between two flushes of a pipeline.
    pub flush_every_ms: i64,
    /// Whether the daemon may change tables.
    pub migrate: bool,
}

/// A store's place.
#[derive(Clone, PartialEq, Debug)]
pub enum StoreUrl {
    /// A SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database.
    Postgres(Box<PostgresConfig>),
}

impl std::fmt::Display for StoreUrl {
    /// Without its password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(config) => f.write_str(&config.shown),
        }
    }
}

/// A PostgreSQL database.
#[derive(Clone, PartialEq, Debug)]
pub struct PostgresConfig {
    /// Host, port, user, password, database; without what concerns TLS.
    pub connect: tokio_postgres::Config,
    /// How secret the connection is.
    pub tls: PostgresTls,
    /// Everything lives in this schema.
    pub schema: String,
    /// The URL without its password.
    pub shown: String,
}

/// `sslmode`, as in libpq.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PostgresTls {
    /// No TLS.
    Disable,
    /// Secret, but from whom is not asked.
    Require,
    /// The certificate must be of a trusted authority and for this host.
    VerifyFull {
        /// A PEM file with the authorities that are trusted; `None`: the system's.
        root_cert: Option<PathBuf>,
    },
}

/// `[http]`
#[derive(Clone, PartialEq, Debug)]
pub struct HttpConfig {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Tokens that may do everything; empty where none is wanted.
    pub tokens: Tokens,
    /// Tokens that may read.
    pub read_tokens: Tokens,
    /// Names by which it may be called, besides its address and localhost; in small letters, some with a port.
    pub hosts: Vec<String>,
}

impl HttpConfig {
    /// Tokens of which a client of a stream's TCP listener must send one: the stream's, or one that may do everything.
    pub fn tokens_of(&self, stream: &StreamConfig) -> Tokens {
        if stream.tokens.is_empty() { Tokens::default() } else { stream.tokens.and(&self.tokens) }
    }
}

/// What an acknowledged line survives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Power loss.
    Fsync,
    /// `kill -9`.
    Os,
}

/// `[streams.<name>]`
#[derive(Clone, PartialEq, Debug)]
pub struct StreamConfig {
    /// Its name.
    pub name: String,
    /// Where its lines arrive.
    pub tcp: Option<SocketAddr>,
    /// What its lines are.
    pub format: Format,
    /// The unit of the points' timestamps, in an Influx stream.
    pub precision: TimeUnit,
    /// Tokens that may put events into it; empty where none is wanted.
    pub tokens: Tokens,
    /// What an acknowledged line survives.
    pub durability: Durability,
    /// At this size producers are held.
    pub journal_limit_bytes: u64,
    /// Lines stay so long after all have them.
    pub journal_keep_ms: i64,
    /// Bytes of a line.
    pub max_line_bytes: usize,
    /// Whether its events are kept in the store, too.
    pub raw_events: Option<RawEventsConfig>,
}

/// `raw_events` of a stream.
#[derive(Clone, PartialEq, Debug)]
pub struct RawEventsConfig {
    /// Events stay so long, by their ingest time.
    pub retain_ms: i64,
    /// The stream's `time`, or its points' timestamp: where an event's time stands in the line, and its unit.
    pub time: Option<(Field, Option<TimeUnit>)>,
}

/// `[dead_letters]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeadLettersConfig {
    /// How many are kept.
    pub letters: LetterLimit,
    /// For how long.
    pub retain_ms: i64,
}

/// How many letters of a pipeline are kept, and of a stream's lines that are no events.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetterLimit {
    /// A letter counts as the bytes of its line and 200 for the rest. Those under replay do not count.
    pub bytes: u64,
    /// What becomes of further ones.
    pub beyond: AtLimit,
}

/// What becomes of letters that there is no room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AtLimit {
    /// They are counted, not kept.
    Discard,
    /// Their pipeline waits. Lines that are no events hold nobody up: they are not kept.
    Pause,
}

/// Event time of a pipeline.
#[derive(Clone, PartialEq, Debug)]
pub struct TimeConfig {
    /// The field, read before the first stage.
    pub slot: usize,
    /// Its name, for letters.
    pub field: Field,
    /// Its unit; else magnitude decides.
    pub unit: Option<TimeUnit>,
    /// Whether an event without it takes its ingest time; else it is a letter.
    pub missing_is_ingest: bool,
    /// Whether it is the timestamp of Influx points.
    pub of_point: bool,
}

/// What fills a slot of a pipeline's expressions.
#[derive(Clone, PartialEq, Debug)]
pub enum SlotSource {
    /// A field of the line.
    Field(Field),
    /// What a `set` stage put under this name.
    Computed(String),
}

/// Where a new or changed pipeline begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the first record that the journal still has.
    Earliest,
    /// With the next record.
    Now,
}

/// One stage.
#[derive(Clone, Debug)]
pub enum StageConfig {
    /// Keeps an event only where this is TRUE.
    Filter(Expr),
    /// Slots and what they become; the right sides see the event as it came in.
    Set(Vec<(usize, Expr)>),
    /// A Rust stage that the embedding program registered under this name.
    Custom(String),
    /// One event for each element of a list.
    Explode {
        /// The list.
        field: Expr,
        /// Where each element goes.
        slot: usize,
    },
    /// What a table has for the event's key.
    Enrich(EnrichConfig),
}

/// An `enrich` stage.
#[derive(Clone, Debug)]
pub struct EnrichConfig {
    /// The table.
    pub table: Arc<EnrichTable>,
    /// What its key is called.
    pub key: String,
    /// The event's key.
    pub on: Expr,
    /// Slots, and which of the taken columns they become.
    pub take: Vec<(usize, usize)>,
    /// What becomes of an event that the table has no row for.
    pub missing: MissingKey,
}

/// What becomes of an event that a table has no row for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MissingKey {
    /// A letter.
    DeadLetter,
    /// What is taken is NULL.
    Null,
    /// It is filtered.
    Drop,
}

/// One aggregate that window actors keep.
#[derive(Clone, Debug)]
pub struct AggregateConfig {
    /// Its name.
    pub name: String,
    /// What is computed.
    pub kind: AggregateKind,
    /// Of what; `None` for `count(*)`.
    pub input: Option<Expr>,
    /// Only of events where this is TRUE.
    pub filter: Option<Expr>,
}

/// One column of the results, in the order of the file.
#[derive(Clone, Debug)]
pub struct ColumnConfig {
    /// Its name.
    pub name: String,
    /// Its type in the view.
    pub sql_type: ColumnType,
    /// Where it comes from.
    pub source: ColumnSource,
}

/// Where a column's value comes from.
#[derive(Clone, Debug)]
pub enum ColumnSource {
    /// The aggregate of this index.
    Aggregate(usize),
    /// An expression; its slot `i` is column `i`, one that comes before it in `PipelineConfig::evaluation`.
    Expression(Expr),
}

/// The type of a view's column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ColumnType {
    /// text
    Text,
    /// bigint
    BigInt,
    /// numeric
    Numeric,
    /// double precision
    Double,
    /// boolean
    Bool,
    /// timestamp
    Time,
}

/// A field that groups are told apart by.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Its name, and its column.
    pub name: String,
    /// Its slot after the stages.
    pub slot: usize,
    /// Its static type (of a computed field; `Any` for a bare one).
    pub sql_type: SqlType,
}

/// `[pipelines.<name>]`, its expressions bound.
#[derive(Clone, Debug)]
pub struct PipelineConfig {
    /// Its name.
    pub name: String,
    /// The stream it reads.
    pub stream: String,
    /// What fills each slot.
    pub slots: Vec<SlotSource>,
    /// Event time; `None`: ingest time.
    pub time: Option<TimeConfig>,
    /// In their order.
    pub stages: Vec<StageConfig>,
    /// The group's fields.
    pub group_by: Vec<GroupConfig>,
    /// The window.
    pub window: WindowSpec,
    /// Its watermark.
    pub watermark: WatermarkSpec,
    /// What becomes of late events.
    pub late: LatePolicy,
    /// So long after its end (by the watermark) a closed window can be corrected.
    pub correct_for_ms: i64,
    /// So long behind its window's end (by the watermark) a row stays; `None`: for ever.
    pub retain_ms: Option<i64>,
    /// Where a new or changed pipeline begins.
    pub start: Start,
    /// Further behind than so many bytes of the journal it stops and no longer pins it; `None`: never.
    pub max_behind_bytes: Option<u64>,
    /// Groups in all open windows at most; what is beyond is `other`.
    pub max_groups: u64,
    /// Bytes of state in all open windows, beyond which new groups are `other`.
    pub state_limit_bytes: u64,
    /// How long its live values stay in Redis; `None`: it has none there.
    pub redis_ttl_ms: Option<i64>,
    /// What window actors keep.
    pub aggregates: Vec<AggregateConfig>,
    /// What results show.
    pub columns: Vec<ColumnConfig>,
    /// The columns in an order in which each expression comes behind those that it needs.
    pub evaluation: Vec<usize>,
    /// Of its rows.
    pub alerts: Vec<AlertConfig>,
    /// The definition as JSON with a fixed order of keys (for the store: what it was made by). Two of one definition are
    /// the same pipeline.
    pub definition: serde_json::Value,
}

impl Config {
    /// Where the journal of a stream is.
    pub fn journal_dir(&self, stream: &str) -> PathBuf {
        self.data_dir.join("journal").join(stream)
    }
}

impl PipelineConfig {
    /// The fields of lines that it names.
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.slots.iter().filter_map(|slot| match slot {
            SlotSource::Field(field) => Some(field.clone()),
            SlotSource::Computed(_) => None,
        })
    }

    /// How much its open windows may hold.
    pub fn bounds(&self) -> Bounds {
        Bounds::new(self.max_groups, self.state_limit_bytes)
    }

    /// With its aggregates in the order of these names, in which states hold them; those that are not among them come
    /// behind. The columns stay in the order of the file.
    #[must_use]
    pub fn with_states_ordered<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        let names: Vec<&str> = names.collect();
        let place = |name: &str| names.iter().position(|other| *other == name).unwrap_or(names.len());
        let mut order: Vec<usize> = (0..self.aggregates.len()).collect();
        order.sort_by_key(|index| place(&self.aggregates[*index].name));
        self.aggregates = order.iter().map(|index| self.aggregates[*index].clone()).collect();
        for column in &mut self.columns {
            if let ColumnSource::Aggregate(index) = &mut column.source {
                // Each index is once in the order.
                *index = order.iter().position(|old| old == index).unwrap_or(*index);
            }
        }
        self
    }
}
