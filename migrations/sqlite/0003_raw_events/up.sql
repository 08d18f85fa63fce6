CREATE TABLE raw_events (
    stream TEXT NOT NULL,
    position INTEGER NOT NULL,
    ingest_time INTEGER NOT NULL,
    event_time INTEGER,                      -- by the stream's `time`; NULL where that is not set, or cannot be read
    line BLOB NOT NULL,                      -- as it came, without its line end
    PRIMARY KEY (stream, position)
) STRICT;

-- `retain` deletes by it.
CREATE INDEX raw_events_by_ingest_time ON raw_events (stream, ingest_time);
