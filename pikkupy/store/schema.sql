-- Format 1 of the journal. A later format adds a numbered script; this one never changes.
--
-- Every table begins with `pikkupy_`, so that an application can keep its own tables in the same file; the views
-- `pikku_runs` and `pikku_steps` are for its joins, and keep their columns from release to release.
-- Times are INTEGER: microseconds since 1970-01-01 UTC. Values are text of the codec, errors are JSON.
-- A `checksum` is a CRC-32 that pikkupy computes over the row and compares when it reads it.
-- A `key` is a run's number << 26 | a number within the run: the rows of a run stand together, in order, and are found by a
-- range of the key, with no index beside it. These tables have rowids because a row of a table without them that is larger
-- than a quarter of a page takes a page of its own for the rest. The two numbers are columns as well that take no room; a
-- condition on these alone looks at every row of the table.

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
    number INTEGER PRIMARY KEY CHECK (number > 0 AND number < 0x1FFFFFFFFF),  -- 1, 2, 3 … in the order of the starts; see `key`
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
    starts_at INTEGER NOT NULL,                            -- µs, when its body begins
    wakes_at INTEGER,                                      -- µs, when it has to be in memory; NULL: it has work, or has ended
    parked TEXT,                                           -- why the engine itself has suspended it: code, workflow, crashes
    parent INTEGER REFERENCES pikkupy_runs (number),       -- the run whose step it is; they are deleted together
    parent_position INTEGER,                               -- of that step; negative once it was set aside
    parent_attempt INTEGER,                                -- of that step
    alone_since INTEGER,                                   -- µs, when it was retried by itself: nothing waits for it
    forked_from TEXT,                                      -- id of the run whose history it began with
    tags TEXT,                                             -- JSON object of texts, in the order of their names
    progress TEXT,                                         -- JSON: how far it says that it is; only displayed
    start_checksum INTEGER NOT NULL,                       -- over number, run_id, workflow, input and what follows created_at but the next
    move_checksum INTEGER NOT NULL,                        -- over number and what a move changes; wakes_at is in neither
    -- One line per status: of a row that is written only its own is looked at.
    CONSTRAINT status_of_run CHECK (CASE status
        WHEN 'running' THEN output IS NULL AND error IS NULL AND reason IS NULL AND ended_at IS NULL
        WHEN 'completed' THEN output IS NOT NULL AND error IS NULL AND reason IS NULL AND ended_at IS NOT NULL
        WHEN 'failed' THEN output IS NULL AND error IS NOT NULL AND reason IS NULL AND ended_at IS NOT NULL
        WHEN 'suspended' THEN output IS NULL AND error IS NULL AND ended_at IS NULL
        WHEN 'cancelled' THEN output IS NULL AND error IS NULL AND ended_at IS NOT NULL
        ELSE FALSE
    END),
    CONSTRAINT parked_run CHECK (parked IS NULL OR (parked IN ('code', 'workflow', 'crashes') AND status = 'suspended')),
    CONSTRAINT ended_run_wakes_no_more CHECK (wakes_at IS NULL OR ended_at IS NULL),
    CONSTRAINT child_of_a_step CHECK ((parent IS NULL) = (parent_position IS NULL) AND (parent IS NULL) = (parent_attempt IS NULL))
) STRICT;

-- Serves `listed_of_workflow`, `workflows_called` and `counts`: the runs of one workflow in one status, newest first; all runs of a workflow
-- are its five statuses, merged. `created_at` spares a look at runs from outside a span of time.
CREATE INDEX pikkupy_runs_by_workflow ON pikkupy_runs (workflow, status, number, created_at);
-- Serves `listed_of_status`: the same for one status of all workflows.
CREATE INDEX pikkupy_runs_by_status ON pikkupy_runs (status, number, created_at);
-- Serves `ended_runs` and `last_kept`: what can be pruned, the oldest end first. Without children: they go with their parents.
CREATE INDEX pikkupy_runs_ended ON pikkupy_runs (ended_at) WHERE ended_at IS NOT NULL AND parent IS NULL;
-- Serves `awake_runs`: start-up, in chunks. Holds unfinished runs alone that do not wait in the file.
CREATE INDEX pikkupy_runs_awake ON pikkupy_runs (number) WHERE wakes_at IS NULL AND status IN ('running', 'suspended');
-- Serves `due_runs` and `next_waking`: what has to come into memory. Holds runs alone that wait in the file.
CREATE INDEX pikkupy_runs_waking ON pikkupy_runs (wakes_at) WHERE wakes_at IS NOT NULL;
-- Serves `suspended_in_file`: what goes on at an open that has its workflow again. Mostly empty.
CREATE INDEX pikkupy_runs_suspended_in_file ON pikkupy_runs (workflow, number) WHERE wakes_at IS NOT NULL AND parked = 'workflow';
-- Serves `children` and the deletion of a run with its children.
CREATE INDEX pikkupy_runs_children ON pikkupy_runs (parent, parent_position, parent_attempt) WHERE parent IS NOT NULL;

-- One row per run that was deleted, as long as rows of it may be left in the tables that follow. A run goes with one commit,
-- however large it is: its row does, and nothing is found but by that. Its other rows go afterwards, a few at a time, so
-- that nobody waits for them; that is why they refer to no run. What a crash leaves of them goes at the next deletion.
CREATE TABLE pikkupy_deleted (
    number INTEGER PRIMARY KEY                             -- of the run
) STRICT;

-- One row per step that a run has reached. The key serves all reads of steps: by run, in order.
CREATE TABLE pikkupy_steps (
    key INTEGER PRIMARY KEY,                               -- run << 26 | position
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    position INTEGER AS (key & 0x3FFFFFF) VIRTUAL,         -- 0, 1, 2 … in the order in which the run reached its steps
    name TEXT NOT NULL,                                    -- with its ordinal: name, name#1
    kind TEXT NOT NULL,                                    -- what it does
    target TEXT,                                           -- name of the function or workflow
    attempts INTEGER NOT NULL CHECK (attempts >= 0),       -- that have begun
    cut_offs INTEGER NOT NULL CHECK (cut_offs >= 0),       -- start-ups in a row that found an attempt of it cut off
    forgiven INTEGER NOT NULL CHECK (forgiven >= 0),       -- attempts before the last retry of the run, which do not count
    wake_at INTEGER,                                       -- µs, when the sleep ends or the next attempt begins; kept afterwards
    seq INTEGER,                                           -- place of its outcome in the run's history, from 1
    output TEXT,                                           -- encoded value
    error TEXT,                                            -- JSON, of the last failed attempt
    status TEXT NOT NULL,
    ended_at INTEGER,                                      -- µs
    started_at INTEGER,                                    -- µs, when it was reached; of one that runs, when its first attempt began
    checksum INTEGER NOT NULL,                             -- over status once there is a seq, and over all else; the times are added, see rows.py
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
) STRICT;

-- One row per finished attempt; a step that ended with its first attempt has none. The key serves `attempts`.
CREATE TABLE pikkupy_attempts (
    key INTEGER PRIMARY KEY,                               -- run << 26 | seq
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    position INTEGER NOT NULL CHECK (position >= 0),       -- of the step
    attempt INTEGER NOT NULL CHECK (attempt > 0),          -- 1, 2, 3 …
    seq INTEGER AS (key & 0x3FFFFFF) VIRTUAL CHECK (seq > 0),  -- place in the run's history
    status TEXT NOT NULL CHECK (status IN ('succeeded', 'failed')),
    error TEXT CHECK ((error IS NOT NULL) = (status = 'failed')),  -- JSON
    started_at INTEGER NOT NULL,                           -- µs
    ended_at INTEGER NOT NULL,                             -- µs
    name TEXT,                                             -- of the step, once it was set aside
    checksum INTEGER NOT NULL                              -- over all but name
) STRICT;

-- One row per fired timer of a run's own event loop. The key serves `timers_of_runs`.
CREATE TABLE pikkupy_timers (
    key INTEGER PRIMARY KEY,                               -- run << 26 | number
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    number INTEGER AS (key & 0x3FFFFFF) VIRTUAL,           -- 0, 1, 2 … in the order in which the run set them
    due_at INTEGER NOT NULL,                               -- µs, as the run's loop computed it
    seq INTEGER NOT NULL CHECK (seq > 0),                  -- place in the run's history
    fired_at INTEGER NOT NULL,                             -- µs
    checksum INTEGER NOT NULL
) STRICT;

-- One row per signal that was sent to a run. The key serves `kept_signals`.
CREATE TABLE pikkupy_signals (
    key INTEGER PRIMARY KEY,                               -- run << 26 | seq
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    seq INTEGER AS (key & 0x3FFFFFF) VIRTUAL CHECK (seq > 0),  -- place in the run's history
    name TEXT NOT NULL,
    payload TEXT,                                          -- encoded value; NULL once a step has taken it
    sent_at INTEGER NOT NULL,                              -- µs
    position INTEGER,                                      -- of the step that has taken it
    checksum INTEGER NOT NULL,                             -- over all but position; of use until it is taken
    CHECK ((payload IS NULL) = (position IS NOT NULL))
) STRICT;

-- One row per value that a step has emitted. The key serves `chunks` and `next_chunks`.
CREATE TABLE pikkupy_chunks (
    key INTEGER PRIMARY KEY,                               -- run << 26 | offset
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    "offset" INTEGER AS (key & 0x3FFFFFF) VIRTUAL,         -- 0, 1, 2 … in the order of arrival
    since INTEGER NOT NULL CHECK (since BETWEEN 0 AND "offset"),  -- offset of the first chunk of the same execution of the attempt
    position INTEGER NOT NULL CHECK (position >= 0),       -- of the step
    name TEXT NOT NULL,                                    -- of the step
    attempt INTEGER NOT NULL CHECK (attempt > 0),          -- 1, 2, 3 …
    value TEXT NOT NULL,                                   -- encoded value
    at INTEGER NOT NULL,                                   -- µs
    checksum INTEGER NOT NULL
) STRICT;

-- Serves `chunks`: whether a later execution of the step has emitted. Holds the first chunk of each execution alone.
CREATE INDEX pikkupy_chunks_by_execution ON pikkupy_chunks (run, name, since) WHERE since = "offset";

-- One row per `workflow.changed(change_id)` that a run has passed with the new code.
CREATE TABLE pikkupy_changes (
    run INTEGER NOT NULL,
    change_id TEXT NOT NULL,
    PRIMARY KEY (run, change_id)
) STRICT, WITHOUT ROWID;

-- Steps that changed code, once accepted, has not asked for again: evidence of outcomes, and what such a step gets if it is
-- asked for later. The key serves `set_aside_of_runs`.
CREATE TABLE pikkupy_set_aside (
    key INTEGER PRIMARY KEY,                               -- (run + 1 << 26) + position
    run INTEGER AS (key >> 26) VIRTUAL,                    -- number of the run
    position INTEGER AS ((key & 0x3FFFFFF) - 0x4000000) VIRTUAL,  -- negative; of no meaning but to child runs; else as in steps
    name TEXT NOT NULL,
    kind TEXT NOT NULL,
    target TEXT,
    attempts INTEGER NOT NULL,
    cut_offs INTEGER NOT NULL,
    forgiven INTEGER NOT NULL,
    wake_at INTEGER,
    seq INTEGER,                                           -- NULL: it was under way
    output TEXT,
    error TEXT,
    status TEXT NOT NULL,
    ended_at INTEGER,
    started_at INTEGER,
    checksum INTEGER NOT NULL
) STRICT;

-- The tags of runs, to find runs by. Nobody writes here: the two triggers keep it to what the rows of the runs say, so that
-- no way of making or deleting a run can forget it. It refers to no table, because the check of a foreign key would want
-- a second copy in the order of the runs.
CREATE TABLE pikkupy_tags (
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    run INTEGER NOT NULL,                                  -- number of the run
    PRIMARY KEY (name, value, run)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER pikkupy_tags_of_a_new_run AFTER INSERT ON pikkupy_runs WHEN new.tags IS NOT NULL
BEGIN
    INSERT INTO pikkupy_tags (name, value, run) SELECT key, value, new.number FROM json_each(new.tags);
END;

CREATE TRIGGER pikkupy_tags_of_a_deleted_run AFTER DELETE ON pikkupy_runs WHEN old.tags IS NOT NULL
BEGIN
    DELETE FROM pikkupy_tags WHERE (name, value, run) IN (SELECT key, value, old.number FROM json_each(old.tags));
END;

-- A number names one run for ever, whoever deletes it.
CREATE TRIGGER pikkupy_numbers_are_used_once AFTER DELETE ON pikkupy_runs
BEGIN
    UPDATE pikkupy_journal SET next_number = max(next_number, old.number + 1);
END;

-- What belongs to a run goes after it, whoever deletes it.
CREATE TRIGGER pikkupy_rows_of_a_deleted_run AFTER DELETE ON pikkupy_runs
BEGIN
    INSERT INTO pikkupy_deleted (number) VALUES (old.number) ON CONFLICT DO NOTHING;
END;

-- Nothing is written for a run that is not there. Foreign keys would not let the row of a run go before its other rows.
CREATE TRIGGER pikkupy_run_of_a_step BEFORE INSERT ON pikkupy_steps
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_an_attempt BEFORE INSERT ON pikkupy_attempts
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_a_timer BEFORE INSERT ON pikkupy_timers
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_a_signal BEFORE INSERT ON pikkupy_signals
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_a_chunk BEFORE INSERT ON pikkupy_chunks
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_a_change BEFORE INSERT ON pikkupy_changes
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.run)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
END;

CREATE TRIGGER pikkupy_run_of_a_step_aside BEFORE INSERT ON pikkupy_set_aside
WHEN NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.key >> 26)
BEGIN
    SELECT raise(ABORT, 'the run is not there');
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
FROM pikkupy_runs AS runs
JOIN pikkupy_steps AS steps
    ON steps.key >= runs.number << 26 AND steps.key < runs.number + 1 << 26  -- to find those of some runs
    AND runs.number = steps.key >> 26;                                       -- to find the runs of some
