-- Format 1 of the journal. A later format adds a numbered script; this one never changes.
--
-- Every table begins with `pikkupy_`, so that an application can keep its own tables in the same file; the views
-- `pikku_runs` and `pikku_steps` are for its joins, and keep their columns from release to release.
-- Times are INTEGER: microseconds since 1970-01-01 UTC. Values are text of the codec, errors are JSON.
-- A `checksum` is a CRC-32 that pikkupy computes over the row and compares when it reads it.

-- One row: what is true of the file as a whole.
CREATE TABLE pikkupy_journal (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    format INTEGER NOT NULL CHECK (format > 0),            -- number of the last script; user_version may be the application's
    epoch INTEGER NOT NULL CHECK (epoch >= 0),             -- raised by one at each open; only its newest owner may write
    clean INTEGER NOT NULL CHECK (clean IN (0, 1)),        -- 1: the last owner left in good order
    next_number INTEGER NOT NULL CHECK (next_number > 0),  -- no run has had this number or a higher one, deleted runs included
    created_at INTEGER NOT NULL,                           -- µs
    owner_pid INTEGER,                                     -- process of the last owner; for the reader of the file, never trusted
    owner_host TEXT,                                       -- its host
    owner_started_at INTEGER                               -- µs, when it opened the file
) STRICT;

-- One row per run.
CREATE TABLE pikkupy_runs (
    number INTEGER PRIMARY KEY CHECK (number > 0),         -- 1, 2, 3 … in the order of the starts
    run_id TEXT NOT NULL UNIQUE,                           -- as the caller knows it
    workflow TEXT NOT NULL,                                -- registered name
    status TEXT NOT NULL,
    input TEXT NOT NULL,                                   -- encoded value
    output TEXT,                                           -- encoded value
    error TEXT,                                            -- JSON: type, message, traceback, bases
    reason TEXT,                                           -- of a cancel or a suspension
    created_at INTEGER NOT NULL,                           -- µs
    updated_at INTEGER NOT NULL,                           -- µs, last change of this row
    ended_at INTEGER,                                      -- µs
    start_checksum INTEGER NOT NULL,                       -- over number, run_id, workflow, input, created_at
    move_checksum INTEGER NOT NULL,                        -- over number and what a move changes: all the other columns
    -- One line per status: of a row that is written only its own is looked at.
    CONSTRAINT status_of_run CHECK (CASE status
        WHEN 'running' THEN output IS NULL AND error IS NULL AND reason IS NULL AND ended_at IS NULL
        WHEN 'completed' THEN output IS NOT NULL AND error IS NULL AND reason IS NULL AND ended_at IS NOT NULL
        WHEN 'failed' THEN output IS NULL AND error IS NOT NULL AND reason IS NULL AND ended_at IS NOT NULL
        WHEN 'suspended' THEN output IS NULL AND error IS NULL AND ended_at IS NULL
        WHEN 'cancelled' THEN output IS NULL AND error IS NULL AND ended_at IS NOT NULL
        ELSE FALSE
    END)
) STRICT;

-- Serves `runs_of_workflow`: the runs of one workflow, newest first (an index ends in the row's number by itself).
CREATE INDEX pikkupy_runs_by_workflow ON pikkupy_runs (workflow);
-- Serves `runs_of_status`: the same for one status.
CREATE INDEX pikkupy_runs_by_status ON pikkupy_runs (status);
-- Serves `unfinished_runs` and its companions: start-up, in chunks. Holds unfinished runs alone.
CREATE INDEX pikkupy_runs_unfinished ON pikkupy_runs (number) WHERE status IN ('running', 'suspended');

-- One row per step that a run has reached. The key serves all reads of steps: by run, in order.
CREATE TABLE pikkupy_steps (
    run INTEGER NOT NULL REFERENCES pikkupy_runs (number) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),       -- 0, 1, 2 … in the order in which the run reached its steps
    name TEXT NOT NULL,                                    -- with its ordinal: name, name#1
    kind TEXT NOT NULL,                                    -- what it does
    target TEXT,                                           -- name of the function or workflow
    attempts INTEGER NOT NULL CHECK (attempts >= 0),       -- that have begun
    cut_offs INTEGER NOT NULL CHECK (cut_offs >= 0),       -- start-ups in a row that found an attempt of it cut off
    wake_at INTEGER,                                       -- µs, when the sleep ends or the next attempt begins; kept afterwards
    seq INTEGER,                                           -- place of its outcome in the run's history, from 1
    output TEXT,                                           -- encoded value
    error TEXT,                                            -- JSON, of the last failed attempt
    status TEXT NOT NULL,
    ended_at INTEGER,                                      -- µs
    started_at INTEGER,                                    -- µs, when it was reached; of one that runs, when its first attempt began
    checksum INTEGER NOT NULL,                             -- over all but started_at; over status and ended_at once there is a seq
    PRIMARY KEY (run, position),
    -- As CASE, which ends where it fits, both cost a tenth of what lists of words and a CHECK per column do.
    CONSTRAINT kind_of_step CHECK (CASE kind
        WHEN 'inline' THEN TRUE
        WHEN 'function' THEN TRUE
        WHEN 'sleep' THEN TRUE
        WHEN 'signal' THEN TRUE
        WHEN 'workflow' THEN TRUE
        WHEN 'suspend' THEN TRUE
        ELSE FALSE
    END),
    CONSTRAINT status_of_step CHECK (CASE status
        WHEN 'succeeded' THEN coalesce(seq, 0) > 0 AND output IS NOT NULL AND error IS NULL AND ended_at IS NOT NULL
        WHEN 'failed' THEN coalesce(seq, 0) > 0 AND output IS NULL AND error IS NOT NULL AND ended_at IS NOT NULL
        WHEN 'running' THEN seq IS NULL AND output IS NULL AND ended_at IS NULL
        WHEN 'scheduled' THEN seq IS NULL AND output IS NULL AND ended_at IS NULL
        WHEN 'pending' THEN seq IS NULL AND output IS NULL AND ended_at IS NULL
        WHEN 'cancelled' THEN seq IS NULL AND output IS NULL AND ended_at IS NOT NULL
        ELSE FALSE
    END)
) STRICT, WITHOUT ROWID;

-- One row per finished attempt; a step that ended with its first attempt has none. The key serves `attempts`.
CREATE TABLE pikkupy_attempts (
    run INTEGER NOT NULL REFERENCES pikkupy_runs (number) ON DELETE CASCADE,
    position INTEGER NOT NULL CHECK (position >= 0),       -- of the step
    attempt INTEGER NOT NULL CHECK (attempt > 0),          -- 1, 2, 3 …
    seq INTEGER NOT NULL CHECK (seq > 0),                  -- place in the run's history
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed')),
    error TEXT CHECK ((error IS NOT NULL) = (status = 'failed')),  -- JSON
    started_at INTEGER NOT NULL,                           -- µs
    ended_at INTEGER NOT NULL,                             -- µs
    checksum INTEGER NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

-- One row per fired timer of a run's own event loop. The key serves `recorded_timers`.
CREATE TABLE pikkupy_timers (
    run INTEGER NOT NULL REFERENCES pikkupy_runs (number) ON DELETE CASCADE,
    number INTEGER NOT NULL CHECK (number >= 0),           -- 0, 1, 2 … in the order in which the run set them
    due_at INTEGER NOT NULL,                               -- µs, as the run's loop computed it
    seq INTEGER NOT NULL CHECK (seq > 0),                  -- place in the run's history
    fired_at INTEGER NOT NULL,                             -- µs
    checksum INTEGER NOT NULL,
    PRIMARY KEY (run, number)
) STRICT, WITHOUT ROWID;

-- A number names one run for ever, whoever deletes it.
CREATE TRIGGER pikkupy_numbers_are_used_once AFTER DELETE ON pikkupy_runs
BEGIN
    UPDATE pikkupy_journal SET next_number = max(next_number, old.number + 1);
END;

-- For joins with an application's own tables: ISO times in UTC, errors taken apart (by json_each, because views may not
-- use ->> on connections with trusted_schema = OFF).
CREATE VIEW pikku_runs AS
SELECT
    run_id,
    workflow,
    status,
    input,
    output,
    (SELECT value FROM json_each(error) WHERE key = 'type') AS error_type,
    (SELECT value FROM json_each(error) WHERE key = 'message') AS error_message,
    reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', created_at / 1e6, 'unixepoch') AS created_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', ended_at / 1e6, 'unixepoch') AS ended_at
FROM pikkupy_runs;

-- The steps of every run, by run id.
CREATE VIEW pikku_steps AS
SELECT
    runs.run_id,
    steps.position,
    steps.name,
    steps.kind,
    steps.target,
    steps.status,
    steps.attempts,
    steps.output,
    (SELECT value FROM json_each(steps.error) WHERE key = 'type') AS error_type,
    (SELECT value FROM json_each(steps.error) WHERE key = 'message') AS error_message,
    strftime('%Y-%m-%dT%H:%M:%fZ', steps.wake_at / 1e6, 'unixepoch') AS wake_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', steps.started_at / 1e6, 'unixepoch') AS started_at,
    strftime('%Y-%m-%dT%H:%M:%fZ', steps.ended_at / 1e6, 'unixepoch') AS ended_at
FROM pikkupy_steps AS steps
JOIN pikkupy_runs AS runs ON runs.number = steps.run;
