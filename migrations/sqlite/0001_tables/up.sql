-- Times are unix milliseconds in UTC; 0 and 1 are false and true. Rows are tables with rowids: they hold states of any
-- size, which a WITHOUT ROWID table would carry through its whole tree (measured: twice the time a flush).

CREATE TABLE pipelines (
    name TEXT NOT NULL PRIMARY KEY,          -- '@<stream>' for a stream's intake
    definition TEXT NOT NULL,                -- JSON, secrets masked
    definition_hash TEXT NOT NULL,           -- SHA-256 of that text
    revision INTEGER NOT NULL DEFAULT 1,
    first_seen_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    changed_at INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

CREATE TABLE checkpoints (
    pipeline TEXT NOT NULL PRIMARY KEY,
    stream TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,        -- the fence: rises with each taker …
    writer INTEGER NOT NULL DEFAULT 0,       -- … and is random
    commits INTEGER NOT NULL DEFAULT 0,      -- settles the unknown outcome of a commit
    journal_id INTEGER NOT NULL DEFAULT 0,   -- 64 bits, as a signed number
    position INTEGER NOT NULL DEFAULT 0,     -- all effects of the records up to here are in the store
    watermark INTEGER,                       -- NULL before any event
    silence_ms INTEGER NOT NULL DEFAULT 0,
    first_position INTEGER NOT NULL DEFAULT 0,
    first_ingest_time INTEGER NOT NULL DEFAULT 0,
    -- The account: read + made = filtered + aggregated + late + dead + exploded + skipped.
    read INTEGER NOT NULL DEFAULT 0,
    made INTEGER NOT NULL DEFAULT 0,
    filtered INTEGER NOT NULL DEFAULT 0,
    aggregated INTEGER NOT NULL DEFAULT 0,
    late INTEGER NOT NULL DEFAULT 0,
    dead INTEGER NOT NULL DEFAULT 0,
    exploded INTEGER NOT NULL DEFAULT 0,
    skipped INTEGER NOT NULL DEFAULT 0,
    partly_late INTEGER NOT NULL DEFAULT 0   -- of `aggregated`
) STRICT;

CREATE TABLE window_results (
    pipeline TEXT NOT NULL,
    window_start INTEGER NOT NULL,
    window_end INTEGER NOT NULL,
    group_hash BLOB NOT NULL,                -- first 16 bytes of the SHA-256 of group_key
    group_key BLOB NOT NULL,                 -- private
    group_values TEXT NOT NULL,              -- JSON object, by name
    result_values TEXT NOT NULL,             -- the same, of the aggregates
    events INTEGER NOT NULL,
    other INTEGER NOT NULL DEFAULT 0,        -- holds the groups beyond max_groups
    partial INTEGER NOT NULL,                -- the pipeline may not have seen the window whole
    revised_at INTEGER,                      -- greatest ingest time among the corrections
    revision INTEGER NOT NULL DEFAULT 1,     -- of the pipeline's definition
    state BLOB NOT NULL,                     -- private, versioned, mergeable
    PRIMARY KEY (pipeline, window_start, window_end, group_hash)
) STRICT;

-- The open windows of a pipeline: for the start, and for the view of the window next to close.
CREATE INDEX window_results_by_end ON window_results (pipeline, window_end);

CREATE TABLE pane_states (
    pipeline TEXT NOT NULL,
    pane_start INTEGER NOT NULL,
    group_hash BLOB NOT NULL,
    group_key BLOB NOT NULL,
    state BLOB NOT NULL,
    PRIMARY KEY (pipeline, pane_start, group_hash)
) STRICT;

CREATE TABLE dead_letters (
    stream TEXT NOT NULL,
    position INTEGER NOT NULL,
    pipeline TEXT NOT NULL,
    line BLOB NOT NULL,
    kind TEXT NOT NULL,
    stage TEXT NOT NULL,
    reason TEXT NOT NULL,
    producer TEXT,
    peer TEXT,
    attempts INTEGER NOT NULL DEFAULT 1,
    failed_at INTEGER NOT NULL,
    replayed_at INTEGER,
    PRIMARY KEY (stream, position, pipeline)
) STRICT;
