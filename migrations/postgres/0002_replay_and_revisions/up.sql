-- Letters under replay, and how much a pipeline's letters take.

ALTER TABLE dead_letters ADD COLUMN ingested_at bigint NOT NULL DEFAULT 0;  -- when its line came first
UPDATE dead_letters SET ingested_at = failed_at;
ALTER TABLE dead_letters ADD COLUMN replay_number bigint;    -- under replay: its number, by the pipeline's replay name

CREATE INDEX dead_letters_under_replay ON dead_letters (pipeline, replay_number) WHERE replay_number IS NOT NULL;
CREATE INDEX dead_letters_by_time ON dead_letters (failed_at);

ALTER TABLE checkpoints ADD COLUMN letter_bytes bigint NOT NULL DEFAULT 0;        -- of letters not under replay
ALTER TABLE checkpoints ADD COLUMN letters_discarded bigint NOT NULL DEFAULT 0;   -- counted, but beyond the limit
ALTER TABLE checkpoints ADD COLUMN replay_number bigint NOT NULL DEFAULT 0;       -- the last one that a letter had
UPDATE checkpoints SET letter_bytes = coalesce(
    (SELECT sum(length(line) + 200) FROM dead_letters WHERE dead_letters.pipeline = checkpoints.pipeline), 0);

-- Pipelines whose definition has changed.

ALTER TABLE pipelines ADD COLUMN added text NOT NULL DEFAULT '{}';  -- aggregates that were added: windows that begin before
                                                               -- this (unix ms) have none of them
ALTER TABLE checkpoints ADD COLUMN kept_upto bigint;             -- windows that end until then are of an older revision
ALTER TABLE checkpoints ADD COLUMN kept_position bigint NOT NULL DEFAULT 0;  -- where that one had come to
