-- The same tables as SQLite's. Times are unix milliseconds in UTC.

CREATE TABLE pipelines (
    name text NOT NULL PRIMARY KEY,          -- '@<stream>' for a stream's intake
    definition text NOT NULL,                -- JSON, secrets masked
    definition_hash text NOT NULL,           -- SHA-256 of that text
    revision bigint NOT NULL DEFAULT 1,
    first_seen_at bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000)::bigint,
    changed_at bigint NOT NULL DEFAULT (extract(epoch FROM now()) * 1000)::bigint
);

CREATE TABLE checkpoints (
    pipeline text NOT NULL PRIMARY KEY,
    stream text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,         -- the fence: rises with each taker …
    writer bigint NOT NULL DEFAULT 0,        -- … and is random
    commits bigint NOT NULL DEFAULT 0,       -- settles the unknown outcome of a commit
    journal_id bigint NOT NULL DEFAULT 0,    -- 64 bits, as a signed number
    position bigint NOT NULL DEFAULT 0,      -- all effects of the records up to here are in the store
    watermark bigint,                        -- NULL before any event
    silence_ms bigint NOT NULL DEFAULT 0,
    first_position bigint NOT NULL DEFAULT 0,
    first_ingest_time bigint NOT NULL DEFAULT 0,
    -- The account: read + made = filtered + aggregated + late + dead + exploded + skipped.
    read bigint NOT NULL DEFAULT 0,
    made bigint NOT NULL DEFAULT 0,
    filtered bigint NOT NULL DEFAULT 0,
    aggregated bigint NOT NULL DEFAULT 0,
    late bigint NOT NULL DEFAULT 0,
    dead bigint NOT NULL DEFAULT 0,
    exploded bigint NOT NULL DEFAULT 0,
    skipped bigint NOT NULL DEFAULT 0,
    partly_late bigint NOT NULL DEFAULT 0    -- of `aggregated`
);

CREATE TABLE window_results (
    pipeline text NOT NULL,
    window_start bigint NOT NULL,
    window_end bigint NOT NULL,
    group_hash bytea NOT NULL,               -- first 16 bytes of the SHA-256 of group_key
    group_key bytea NOT NULL,                -- private
    group_values json NOT NULL,              -- by name; json and not jsonb, which would change how numbers look
    result_values json NOT NULL,             -- the same, of the aggregates
    events bigint NOT NULL,
    other boolean NOT NULL DEFAULT false,    -- holds the groups beyond max_groups
    partial boolean NOT NULL,                -- the pipeline may not have seen the window whole
    revised_at bigint,                       -- greatest ingest time among the corrections
    revision bigint NOT NULL DEFAULT 1,      -- of the pipeline's definition
    state bytea NOT NULL,                    -- private, versioned, mergeable
    PRIMARY KEY (pipeline, window_start, window_end, group_hash)
);

-- The open windows of a pipeline: for the start, and for the view of the window next to close.
CREATE INDEX window_results_by_end ON window_results (pipeline, window_end);

CREATE TABLE pane_states (
    pipeline text NOT NULL,
    pane_start bigint NOT NULL,
    group_hash bytea NOT NULL,
    group_key bytea NOT NULL,
    state bytea NOT NULL,
    PRIMARY KEY (pipeline, pane_start, group_hash)
);

CREATE TABLE dead_letters (
    stream text NOT NULL,
    position bigint NOT NULL,
    pipeline text NOT NULL,
    line bytea NOT NULL,
    kind text NOT NULL,
    stage text NOT NULL,
    reason text NOT NULL,
    producer text,
    peer text,
    attempts bigint NOT NULL DEFAULT 1,
    failed_at bigint NOT NULL,
    replayed_at bigint,
    PRIMARY KEY (stream, position, pipeline)
);
