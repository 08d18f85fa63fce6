-- What has fired. All times here are event times: `fired_at` and `resolved_at` by the watermark, within their window.

CREATE TABLE alerts (
    pipeline TEXT NOT NULL,
    alert TEXT NOT NULL,
    group_hash BLOB NOT NULL,                -- as in window_results
    fired_at INTEGER NOT NULL,
    window_start INTEGER NOT NULL,           -- of the row that it fired on …
    window_end INTEGER NOT NULL,
    group_values TEXT NOT NULL,              -- … which was so
    result_values TEXT NOT NULL,
    resolved_at INTEGER,                     -- NULL: it is firing
    untold INTEGER NOT NULL DEFAULT 0,       -- private: what its webhook has not got: 1 that it fired, 2 that it is resolved
    PRIMARY KEY (pipeline, alert, group_hash, fired_at)
) STRICT;

-- One at a time fires of a group; and for a window it fires once, whatever comes.
CREATE UNIQUE INDEX alerts_firing ON alerts (pipeline, alert, group_hash) WHERE resolved_at IS NULL;
CREATE UNIQUE INDEX alerts_by_window ON alerts (pipeline, alert, group_hash, window_start);
CREATE INDEX alerts_untold ON alerts (pipeline, alert, fired_at) WHERE untold > 0;
-- `retain` deletes by it.
CREATE INDEX alerts_by_end ON alerts (pipeline, window_end);

-- Conditions of alerts with a `for` that hold (private).
CREATE TABLE alert_conditions (
    pipeline TEXT NOT NULL,
    alert TEXT NOT NULL,
    group_hash BLOB NOT NULL,
    since INTEGER NOT NULL,                  -- by the watermark
    fired INTEGER NOT NULL DEFAULT 0,        -- whether it is firing
    PRIMARY KEY (pipeline, alert, group_hash)
) STRICT;
