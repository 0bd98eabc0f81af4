-- Every statement of the journal, under its name. Columns are in the order of the records in core/model.py, with the
-- checksums last. A statement that writes has one row after VALUES; `queries.many` repeats it.

-- name: insert_runs
-- New runs. A run id or number that is taken is an error.
INSERT INTO pikkupy_runs (
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: write_steps
-- New steps, and new states of steps without a final status; a final step stays and does not count as changed.
INSERT INTO pikkupy_steps (
    run, position, name, kind, target, attempts, cut_offs, wake_at, seq, output, error, status, ended_at, started_at,
    checksum
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (run, position) DO UPDATE SET
    name = excluded.name,
    kind = excluded.kind,
    target = excluded.target,
    attempts = excluded.attempts,
    cut_offs = excluded.cut_offs,
    wake_at = excluded.wake_at,
    seq = excluded.seq,
    output = excluded.output,
    error = excluded.error,
    status = excluded.status,
    ended_at = excluded.ended_at,
    started_at = coalesce(excluded.started_at, started_at),
    checksum = excluded.checksum
WHERE status NOT IN ('succeeded', 'failed', 'cancelled');

-- name: insert_attempts
-- Finished attempts.
INSERT INTO pikkupy_attempts (run, position, attempt, seq, status, error, started_at, ended_at, checksum)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_timers
-- Fired timers of the runs' own event loops.
INSERT INTO pikkupy_timers (run, number, due_at, seq, fired_at, checksum)
VALUES (?, ?, ?, ?, ?, ?);

-- name: move_runs
-- New statuses of runs that still have the status before: number, before, status, output, error, reason, at, ended_at, checksum.
UPDATE pikkupy_runs SET
    status = move.column3,
    output = move.column4,
    error = move.column5,
    reason = move.column6,
    updated_at = move.column7,
    ended_at = move.column8,
    move_checksum = move.column9
FROM (VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)) AS move
WHERE number = move.column1 AND status = move.column2;

-- name: cancel_steps
-- The end of all steps without an outcome: run, time. Their checksums leave out what changes here.
UPDATE pikkupy_steps SET status = 'cancelled', ended_at = cancel.column2
FROM (VALUES (?, ?)) AS cancel
WHERE run = cancel.column1 AND status NOT IN ('succeeded', 'failed', 'cancelled');

-- name: delete_runs
-- The end of runs by number; steps, attempts and timers go with them.
DELETE FROM pikkupy_runs WHERE number IN (VALUES (?));

-- name: run_by_id
-- One run.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs WHERE run_id = ?;

-- name: run_by_number
-- One run.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs WHERE number = ?;

-- name: runs
-- A page of all runs: older than a number, newest first.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs WHERE number < :before ORDER BY number DESC LIMIT :limit;

-- name: runs_of_workflow
-- A page of the runs of one workflow.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs WHERE workflow = :workflow AND number < :before ORDER BY number DESC LIMIT :limit;

-- name: runs_of_status
-- A page of the runs of one status.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs WHERE status = :status AND number < :before ORDER BY number DESC LIMIT :limit;

-- name: runs_of_workflow_and_status
-- A page of the runs of one workflow in one status: through one of the two indexes, the rest by looking.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs
WHERE workflow = :workflow AND status = :status AND number < :before ORDER BY number DESC LIMIT :limit;

-- name: steps
-- The steps of one run, in order.
SELECT
    run, position, name, kind, target, attempts, cut_offs, wake_at, seq, output, error, status, ended_at, started_at,
    checksum
FROM pikkupy_steps WHERE run = ? ORDER BY position;

-- name: attempts
-- The finished attempts of one run, oldest first.
SELECT run, position, attempt, seq, status, error, started_at, ended_at, checksum
FROM pikkupy_attempts WHERE run = ? ORDER BY seq;

-- name: recorded_timers
-- The fired timers of one run, in order.
SELECT run, number, due_at, seq, fired_at, checksum
FROM pikkupy_timers WHERE run = ? ORDER BY number;

-- name: last_attempt
-- The highest place that an attempt takes in the history of one run.
SELECT max(seq) FROM pikkupy_attempts WHERE run = ?;

-- name: unfinished_runs
-- A chunk of the runs without an end, by number. The index is named: by itself the planner walks all runs.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    start_checksum, move_checksum
FROM pikkupy_runs INDEXED BY pikkupy_runs_unfinished
WHERE status IN ('running', 'suspended') AND number > :after ORDER BY number LIMIT :limit;

-- name: unfinished_steps
-- The steps of a chunk of unfinished runs, in order.
SELECT
    run, position, name, kind, target, attempts, cut_offs, wake_at, seq, steps.output, steps.error, steps.status,
    steps.ended_at, started_at, checksum
FROM pikkupy_runs AS runs INDEXED BY pikkupy_runs_unfinished CROSS JOIN pikkupy_steps AS steps ON run = runs.number
WHERE runs.status IN ('running', 'suspended') AND runs.number > :after AND runs.number <= :last
ORDER BY runs.number, position;

-- name: unfinished_timers
-- The fired timers of a chunk of unfinished runs, in order.
SELECT run, timers.number, due_at, seq, fired_at, checksum
FROM pikkupy_runs AS runs INDEXED BY pikkupy_runs_unfinished CROSS JOIN pikkupy_timers AS timers ON run = runs.number
WHERE runs.status IN ('running', 'suspended') AND runs.number > :after AND runs.number <= :last
ORDER BY runs.number, timers.number;

-- name: unfinished_attempts
-- Per unfinished run of a chunk: the highest place that an attempt takes in its history.
SELECT run, max(seq)
FROM pikkupy_runs AS runs INDEXED BY pikkupy_runs_unfinished CROSS JOIN pikkupy_attempts ON run = runs.number
WHERE runs.status IN ('running', 'suspended') AND runs.number > :after AND runs.number <= :last
GROUP BY runs.number;

-- name: last_change
-- Per run of a JSON list of numbers: the latest recorded time of its steps, attempts and timers.
SELECT run, max(at) AS latest FROM (
    SELECT run, max(coalesce(started_at, 0), coalesce(ended_at, 0)) AS at
    FROM pikkupy_steps WHERE run IN (SELECT value FROM json_each(:numbers))
    UNION ALL
    SELECT run, ended_at FROM pikkupy_attempts WHERE run IN (SELECT value FROM json_each(:numbers))
    UNION ALL
    SELECT run, fired_at FROM pikkupy_timers WHERE run IN (SELECT value FROM json_each(:numbers))
) GROUP BY run HAVING latest > 0;

-- name: epoch
-- Whose journal it is: asked inside every transaction.
SELECT epoch FROM pikkupy_journal;

-- name: new_journal
-- The one row of a new journal: format, time.
INSERT INTO pikkupy_journal (id, format, epoch, clean, next_number, created_at) VALUES (1, ?, 0, 1, 1, ?);

-- name: set_format
-- After a migration.
UPDATE pikkupy_journal SET format = ?;

-- name: was_clean
-- How the last owner left.
SELECT clean FROM pikkupy_journal;

-- name: take_over
-- A new owner: process, host, time.
UPDATE pikkupy_journal SET
    epoch = epoch + 1,
    clean = 0,
    next_number = max(next_number, (SELECT coalesce(max(number), 0) + 1 FROM pikkupy_runs)),
    owner_pid = ?,
    owner_host = ?,
    owner_started_at = ?
RETURNING epoch, next_number;

-- name: leave
-- The owner of that epoch leaves in good order.
UPDATE pikkupy_journal SET clean = 1 WHERE epoch = ?;

-- name: format_and_clean
-- Before anything is written: the format of our tables, and how the last owner left.
SELECT format, clean FROM pikkupy_journal;

-- name: foreign_tables
-- How many tables and views an application keeps in the file.
SELECT count(*) FROM sqlite_master
WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'
    AND tbl_name NOT LIKE 'pikkupy\_%' ESCAPE '\'
    AND name NOT IN ('pikku_runs', 'pikku_steps');

-- name: own_table
-- 1 if the file has a journal.
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'pikkupy_journal';
