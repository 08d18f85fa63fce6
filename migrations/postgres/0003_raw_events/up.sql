-- One partition a stream (raw$web), below it one a day of ingest, UTC (raw$web$20261121): each stream has its own `retain`,
-- and what is dropped for one locks no other. Flushes make the partitions; no pipeline's name has a $.

CREATE TABLE raw_events (
    stream text NOT NULL,
    position bigint NOT NULL,
    ingest_time bigint NOT NULL,
    event_time bigint,                       -- by the stream's `time`; NULL where that is not set, or cannot be read
    line bytea NOT NULL,                     -- as it came, without its line end
    PRIMARY KEY (stream, position, ingest_time)
) PARTITION BY LIST (stream);
