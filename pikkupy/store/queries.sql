-- Every statement that reads the journal, and those of its owner, under their names. Columns are in the order of the
-- records in core/model.py, with the checksums last. Runs are written by `writing.sql`.
--
-- What belongs to a run has keys from `run << 26` to below `run + 1 << 26` (`schema.sql`; `+` binds closer than `<<`). Of a
-- JSON list of runs a CROSS JOIN reads run by run, in the order of the list, and of each its rows in the order of their
-- keys: an ORDER BY would sort them once more.

-- name: has_deleted
-- 1 if something of deleted runs may be left.
SELECT EXISTS (SELECT 1 FROM pikkupy_deleted);

-- name: runs_by_id
-- The runs of a JSON list of ids.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    starts_at, wakes_at, parked, parent, parent_position, parent_attempt, alone_since, forked_from, tags,
    progress, start_checksum, move_checksum
FROM pikkupy_runs WHERE run_id IN (SELECT value FROM json_each(:run_ids));

-- name: run_by_number
-- One run.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    starts_at, wakes_at, parked, parent, parent_position, parent_attempt, alone_since, forked_from, tags,
    progress, start_checksum, move_checksum
FROM pikkupy_runs WHERE number = ?;

-- name: runs_by_number
-- The runs of a JSON list of numbers, newest first.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    starts_at, wakes_at, parked, parent, parent_position, parent_attempt, alone_since, forked_from, tags,
    progress, start_checksum, move_checksum
FROM pikkupy_runs WHERE number IN (SELECT value FROM json_each(:numbers)) ORDER BY number DESC;

-- What follows, until `order_listed`, are the parts of the statement that lists runs (`listing.py`): it takes the numbers
-- of a page from one `listed_…`, or from several with UNION ALL, which SQLite merges by their common order.

-- name: listed
-- All runs.
SELECT listed.number AS number FROM pikkupy_runs AS listed NOT INDEXED WHERE listed.number < :before

-- name: listed_of_status
-- Those of one status.
SELECT listed.number AS number FROM pikkupy_runs AS listed INDEXED BY pikkupy_runs_by_status
WHERE listed.status = :{status} AND listed.number < :before

-- name: listed_of_workflow
-- Those of one workflow in one status.
SELECT listed.number AS number FROM pikkupy_runs AS listed INDEXED BY pikkupy_runs_by_workflow
WHERE listed.workflow = :{workflow} AND listed.status = :{status} AND listed.number < :before

-- name: listed_of_tag
-- Those with one tag.
SELECT tag.run AS number FROM pikkupy_tags AS tag CROSS JOIN pikkupy_runs AS listed ON listed.number = tag.run
WHERE tag.name = :{name} AND tag.value = :{value} AND tag.run < :before

-- name: listed_of_prefix
-- Those whose id begins with a text; they have to be sorted. No UTF-8 has a byte FF: it comes after all that begins so.
SELECT listed.number AS number FROM pikkupy_runs AS listed INDEXED BY sqlite_autoindex_pikkupy_runs_1
WHERE listed.run_id >= :{prefix} AND listed.run_id < :{prefix} || CAST(x'FF' AS TEXT) AND listed.number < :before

-- name: and_workflow
AND listed.workflow = :workflow

-- name: and_statuses
AND listed.status IN (SELECT value FROM json_each(:statuses))

-- name: and_tag
AND EXISTS (SELECT 1 FROM pikkupy_tags WHERE name = :{name} AND value = :{value} AND run = listed.number)

-- name: and_prefix
AND listed.run_id >= :prefix AND listed.run_id < :prefix || CAST(x'FF' AS TEXT)

-- name: and_error
-- The text as JSON writes it rules out nearly all that the two after it would have to take apart.
AND instr(listed.error, :{error}_json)
AND (
    instr(json_extract(listed.error, '$.type'), :{error})
    OR instr(json_extract(listed.error, '$.message'), :{error})
)

-- name: and_text
-- The id begins with it, or it is in the name of the workflow, or in the error.
AND (
    (listed.run_id >= :text AND listed.run_id < :text || CAST(x'FF' AS TEXT))
    OR instr(listed.workflow, :text)
    OR (
        listed.error IS NOT NULL
        AND instr(listed.error, :text_json)
        AND (
            instr(json_extract(listed.error, '$.type'), :text)
            OR instr(json_extract(listed.error, '$.message'), :text)
        )
    )
)

-- name: and_not_begun_so
AND NOT (listed.run_id >= :text AND listed.run_id < :text || CAST(x'FF' AS TEXT))

-- name: and_not_called_so
AND NOT instr(listed.workflow, :text)

-- name: and_created_after
AND listed.created_at >= :created_after

-- name: and_created_before
AND listed.created_at < :created_before

-- name: order_listed
ORDER BY number DESC LIMIT :limit

-- name: how_many
-- How many rows a part would have to look at, counted to a limit.
SELECT count(*) FROM ({part} LIMIT :most)

-- name: how_many_of_tag
SELECT 1 FROM pikkupy_tags WHERE name = :{name} AND value = :{value} AND run < :before

-- name: workflows_called
-- Names of workflows that have a text, of which there are runs, up to so many: a step in the index for each that there is.
WITH RECURSIVE known(workflow) AS (
    SELECT min(workflow) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow
    UNION ALL
    SELECT (
        SELECT min(workflow) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow WHERE workflow > known.workflow
    ) FROM known WHERE known.workflow IS NOT NULL
)
SELECT workflow FROM known WHERE instr(workflow, :text) LIMIT :most;

-- name: counts
-- How many runs there are, by workflow and status.
SELECT workflow, status, count(*) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow GROUP BY workflow, status;

-- name: last_kept
-- The oldest of the `keep` newest ends of runs without parents, in statuses of a JSON list: end, number,
-- status.
SELECT ended_at, number, status FROM pikkupy_runs INDEXED BY pikkupy_runs_ended
WHERE ended_at IS NOT NULL AND parent IS NULL AND status IN (SELECT value FROM json_each(:statuses))
ORDER BY ended_at DESC, number DESC LIMIT 1 OFFSET :keep - 1;

-- name: ended_runs
-- A chunk of the runs without parents that ended before a time, from one place in the order of their ends to another:
-- end, number, status.
SELECT ended_at, number, status FROM pikkupy_runs INDEXED BY pikkupy_runs_ended
WHERE ended_at IS NOT NULL AND parent IS NULL AND ended_at < :before
    AND (ended_at, number) > (:after_at, :after) AND (ended_at, number) < (:kept_at, :kept)
ORDER BY ended_at, number LIMIT :limit;

-- name: families
-- Per run of a JSON list that has ended, with all that descend from it: how many runs, and how many unfinished ones.
WITH RECURSIVE family (root, number, status) AS (
    SELECT number, number, status FROM json_each(:numbers) AS wanted CROSS JOIN pikkupy_runs ON number = wanted.value
    UNION ALL
    SELECT family.root, child.number, child.status
    FROM family CROSS JOIN pikkupy_runs AS child INDEXED BY pikkupy_runs_children ON child.parent = family.number
)
SELECT root, count(*), sum(status IN ('running', 'suspended')) FROM family GROUP BY root;

-- name: unfinished_relative
-- Why an ended run cannot be deleted: its unfinished parent, or an unfinished run that descends from it: id, status,
-- 1 for the parent.
WITH RECURSIVE family (number) AS (
    VALUES (:number)
    UNION ALL
    SELECT child.number
    FROM family CROSS JOIN pikkupy_runs AS child INDEXED BY pikkupy_runs_children ON child.parent = family.number
)
SELECT parent.run_id, parent.status, 1
FROM pikkupy_runs AS own CROSS JOIN pikkupy_runs AS parent ON parent.number = own.parent
WHERE own.number = :number AND parent.status IN ('running', 'suspended')
UNION ALL
SELECT run_id, status, 0
FROM family CROSS JOIN pikkupy_runs AS descendant ON descendant.number = family.number
WHERE status IN ('running', 'suspended')
LIMIT 1;

-- name: steps
-- The steps of one run, in order. What is left of a deleted one is not found, here and where one run's rows are read below.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at, started_at,
    checksum
FROM pikkupy_steps
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 ORDER BY key;

-- name: some_steps
-- Steps of one run, in order: at most `limit` from the position `first` on.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at, started_at,
    checksum
FROM pikkupy_steps
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) + :first AND key < :run + 1 << 26
ORDER BY key LIMIT :limit;

-- name: steps_with_errors
-- Steps of one run whose last finished attempt has failed, in order: at most `limit` after the `first` of them.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at, started_at,
    checksum
FROM pikkupy_steps
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 AND error IS NOT NULL
ORDER BY key LIMIT :limit OFFSET :first;

-- name: how_many_steps
-- How many steps one run has reached, as far as they are written: those before the last one are, or are on their way.
SELECT position + 1 FROM pikkupy_steps
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 ORDER BY key DESC LIMIT 1;

-- name: how_many_steps_with_errors
-- The number of those of `steps_with_errors`.
SELECT count(*) FROM pikkupy_steps
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 AND error IS NOT NULL;

-- name: attempts_of_steps
-- The finished attempts of one run's steps at a JSON list of positions, oldest first, without those that were set aside.
SELECT run, position, attempt, seq, status, error, started_at, ended_at, name, checksum
FROM pikkupy_attempts
WHERE
    key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26
    AND name IS NULL AND position IN (SELECT value FROM json_each(:positions))
ORDER BY key;

-- name: steps_after
-- The steps of one run, in order, without their outputs; left out are those of which a reader of events has seen all.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, NULL, error, status, ended_at, started_at
FROM pikkupy_steps
WHERE key >= :run << 26 AND key < :run + 1 << 26 AND (position >= :reached OR seq > :place OR seq IS NULL) ORDER BY key;

-- name: open_steps
-- The steps without an outcome of the runs of a JSON list of ids, in order, each after the id of its run.
SELECT
    own.run_id, step.run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, step.output, step.error,
    step.status, step.ended_at, started_at, checksum
FROM json_each(:run_ids) AS wanted
CROSS JOIN pikkupy_runs AS own ON own.run_id = wanted.value
CROSS JOIN pikkupy_steps AS step ON step.key >= own.number << 26 AND step.key < own.number + 1 << 26
WHERE step.status NOT IN ('succeeded', 'failed', 'cancelled');

-- name: attempts
-- The finished attempts of one run, oldest first.
SELECT run, position, attempt, seq, status, error, started_at, ended_at, name, checksum
FROM pikkupy_attempts
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 ORDER BY key;

-- name: awake_runs
-- The numbers of a chunk of the unfinished runs that do not wait in the file. The index is named: by itself the planner
-- walks all runs.
SELECT number FROM pikkupy_runs INDEXED BY pikkupy_runs_awake
WHERE wakes_at IS NULL AND status IN ('running', 'suspended') AND number > :after ORDER BY number LIMIT :limit;

-- name: due_runs
-- The numbers of runs that wait in the file and have to be in memory until a time, the earliest first.
SELECT number FROM pikkupy_runs INDEXED BY pikkupy_runs_waking
WHERE wakes_at <= :until ORDER BY wakes_at, number LIMIT :limit;

-- name: next_waking
-- When the first of the runs that wait in the file has to be in memory.
SELECT min(wakes_at) FROM pikkupy_runs INDEXED BY pikkupy_runs_waking WHERE wakes_at IS NOT NULL;

-- name: workflows
-- The names of all workflows that there are runs of, one step in the index for each.
WITH RECURSIVE found (name) AS (
    SELECT min(workflow) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow
    UNION ALL
    SELECT (SELECT min(workflow) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow WHERE workflow > found.name)
    FROM found WHERE found.name IS NOT NULL
)
SELECT name FROM found WHERE name IS NOT NULL;

-- name: of_workflow
-- A chunk of the runs of one workflow in one status: number, 1 if it waits in the file and the engine has not suspended it.
SELECT number, wakes_at IS NOT NULL AND parked IS NULL FROM pikkupy_runs INDEXED BY pikkupy_runs_by_workflow
WHERE workflow = :workflow AND status = :status AND number > :after ORDER BY number LIMIT :limit;

-- name: suspended_in_file
-- The numbers of a chunk of the runs of one workflow that were suspended because it was gone, and wait in the file.
SELECT number FROM pikkupy_runs INDEXED BY pikkupy_runs_suspended_in_file
WHERE wakes_at IS NOT NULL AND parked = 'workflow' AND workflow = :workflow AND number > :after ORDER BY number LIMIT :limit;

-- name: run_ids
-- The ids of the runs of a JSON list of numbers: those under which the run is found as well, as no checksum is looked at.
SELECT own.number, own.run_id
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_runs AS own ON own.number = wanted.value
WHERE EXISTS (
    SELECT 1 FROM pikkupy_runs AS found INDEXED BY sqlite_autoindex_pikkupy_runs_1
    WHERE found.run_id = own.run_id AND found.number = own.number
);

-- name: parents_of_runs
-- The parents of the runs of a JSON list.
SELECT
    number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    starts_at, wakes_at, parked, parent, parent_position, parent_attempt, alone_since, forked_from, tags,
    progress, start_checksum, move_checksum
FROM pikkupy_runs WHERE number IN (
    SELECT child.parent FROM json_each(:numbers) AS wanted CROSS JOIN pikkupy_runs AS child ON child.number = wanted.value
);

-- name: steps_of_runs
-- The steps of a JSON list of runs, in order.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at,
    started_at, checksum
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_steps AS step ON step.key >= wanted.value << 26 AND step.key < wanted.value + 1 << 26;

-- name: timers_of_runs
-- The fired timers of a JSON list of runs, in order.
SELECT run, number, due_at, seq, fired_at, checksum
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_timers AS timer ON timer.key >= wanted.value << 26 AND timer.key < wanted.value + 1 << 26;

-- name: last_places
-- Per run of a JSON list: the highest place in its history that an attempt, a signal or an outcome set aside takes, or 0.
SELECT wanted.value, max(
    coalesce((
        SELECT seq FROM pikkupy_attempts AS attempt
        WHERE attempt.key >= wanted.value << 26 AND attempt.key < wanted.value + 1 << 26 ORDER BY attempt.key DESC LIMIT 1
    ), 0),
    coalesce((
        SELECT seq FROM pikkupy_signals AS signal
        WHERE signal.key >= wanted.value << 26 AND signal.key < wanted.value + 1 << 26 ORDER BY signal.key DESC LIMIT 1
    ), 0),
    coalesce((
        SELECT max(seq) FROM pikkupy_set_aside AS aside
        WHERE aside.key >= wanted.value << 26 AND aside.key < wanted.value + 1 << 26
    ), 0)
) FROM json_each(:numbers) AS wanted;

-- name: signals
-- All signals that were sent to one run, in the order of their arrival, without what they carried.
SELECT run, seq, name, sent_at, position FROM pikkupy_signals
WHERE key >= (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) AND key < :run + 1 << 26 ORDER BY key;

-- name: kept_signals
-- The signals of a JSON list of runs that no step has taken, in the order of their arrival.
SELECT run, seq, name, payload, sent_at, position, checksum
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_signals AS signal ON signal.key >= wanted.value << 26 AND signal.key < wanted.value + 1 << 26
WHERE position IS NULL;

-- name: chunks
-- The chunks of one run after an offset, in order, each with whether it still counts: no later attempt, and no later
-- execution of the same attempt, is known to have taken its place.
SELECT run, "offset", since, position, name, attempt, value, at, checksum,
    NOT EXISTS (
        SELECT 1 FROM pikkupy_chunks AS later INDEXED BY pikkupy_chunks_by_execution
        WHERE later.run = chunk.run AND later.name = chunk.name AND later.since = later."offset"
            AND later.since > chunk.since
    ) AND NOT EXISTS (
        SELECT 1 FROM pikkupy_steps AS step
        WHERE step.key = chunk.run << 26 | chunk.position AND step.name = chunk.name AND step.attempts > chunk.attempt
    ) AS counts
FROM pikkupy_chunks AS chunk
WHERE key > (SELECT number << 26 FROM pikkupy_runs WHERE number = :run) + min(:after, 0x3FFFFFF) AND key < :run + 1 << 26
ORDER BY key;

-- name: next_chunks
-- The offset of the next chunk of each run of a JSON list.
SELECT wanted.value, (
    SELECT "offset" + 1 FROM pikkupy_chunks AS chunk
    WHERE chunk.key >= wanted.value << 26 AND chunk.key < wanted.value + 1 << 26 ORDER BY chunk.key DESC LIMIT 1
) FROM json_each(:numbers) AS wanted;

-- name: changes_of_runs
-- The changes of the code that a JSON list of runs has passed.
SELECT run, change_id FROM pikkupy_changes WHERE run IN (SELECT value FROM json_each(:numbers)) ORDER BY run;

-- name: set_aside_of_runs
-- The steps of a JSON list of runs that were set aside.
SELECT
    run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, aside.output, aside.error,
    aside.status, aside.ended_at, started_at, checksum
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_runs ON number = wanted.value
CROSS JOIN pikkupy_set_aside AS aside ON aside.key >= number << 26 AND aside.key < number + 1 << 26;

-- name: awaited_children
-- The children of a JSON list of runs whose step has no outcome, or was set aside.
SELECT
    child.number, child.run_id, child.workflow, child.status, child.input, child.output, child.error, child.reason,
    child.created_at, child.updated_at, child.ended_at, child.starts_at, child.wakes_at, child.parked, child.parent,
    child.parent_position, child.parent_attempt, child.alone_since, child.forked_from, child.tags, child.progress, child.start_checksum,
    child.move_checksum
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_runs AS child ON child.parent = wanted.value
LEFT JOIN pikkupy_steps AS step ON step.key = child.parent << 26 | child.parent_position
WHERE child.parent_position < 0 OR step.status NOT IN ('succeeded', 'failed', 'cancelled');

-- name: awaited_runs
-- Those of a JSON list of runs that an attempt of a step waits for, set aside or not, of a parent that has not ended.
SELECT child.number
FROM json_each(:numbers) AS wanted
CROSS JOIN pikkupy_runs AS child ON child.number = wanted.value
CROSS JOIN pikkupy_runs AS mother ON mother.number = child.parent
LEFT JOIN pikkupy_steps AS step ON step.key = child.parent << 26 | child.parent_position
LEFT JOIN pikkupy_set_aside AS aside
    ON aside.key = (child.parent + 1 << 26) + child.parent_position AND child.parent_position < 0
WHERE mother.status IN ('running', 'suspended')
    AND (coalesce(step.status, aside.status), coalesce(step.attempts, aside.attempts)) = ('running', child.parent_attempt);

-- name: children
-- All children of one run: step, attempt, id, number, status, and whether table and indexes agree on what is theirs, as no
-- checksum is looked at.
SELECT
    child.parent_position, child.parent_attempt, child.run_id, child.number, child.status,
    EXISTS (
        SELECT 1 FROM pikkupy_runs AS own NOT INDEXED
        WHERE own.number = child.number AND own.parent = child.parent AND own.parent_position = child.parent_position
            AND own.parent_attempt = child.parent_attempt
    ) AND EXISTS (
        SELECT 1 FROM pikkupy_runs AS found INDEXED BY sqlite_autoindex_pikkupy_runs_1
        WHERE found.run_id = child.run_id AND found.number = child.number
    )
FROM pikkupy_runs AS child INDEXED BY pikkupy_runs_children
WHERE child.parent = ? ORDER BY child.parent_position, child.parent_attempt;

-- name: last_change
-- Per run of a JSON list of numbers: the latest recorded time of its steps, attempts and timers.
SELECT run, max(at) AS latest FROM (
    SELECT run, max(coalesce(started_at, 0), coalesce(ended_at, 0)) AS at
    FROM json_each(:numbers) AS wanted
    CROSS JOIN pikkupy_steps AS step ON step.key >= wanted.value << 26 AND step.key < wanted.value + 1 << 26
    UNION ALL
    SELECT run, ended_at FROM json_each(:numbers) AS wanted
    CROSS JOIN pikkupy_attempts AS attempt ON attempt.key >= wanted.value << 26 AND attempt.key < wanted.value + 1 << 26
    UNION ALL
    SELECT run, fired_at FROM json_each(:numbers) AS wanted
    CROSS JOIN pikkupy_timers AS timer ON timer.key >= wanted.value << 26 AND timer.key < wanted.value + 1 << 26
) GROUP BY run HAVING latest > 0;

-- name: recent_change
-- As `last_change`, but of the steps and timers reached last alone, however many there are. The attempt that ended last is
-- the last by its place in the history.
SELECT wanted.value, max(
    coalesce((SELECT max(max(coalesce(started_at, 0), coalesce(ended_at, 0))) FROM (
        SELECT started_at, ended_at FROM pikkupy_steps AS step
        WHERE step.key >= wanted.value << 26 AND step.key < wanted.value + 1 << 26 ORDER BY step.key DESC LIMIT 100
    )), 0),
    coalesce((
        SELECT ended_at FROM pikkupy_attempts AS attempt
        WHERE attempt.key >= wanted.value << 26 AND attempt.key < wanted.value + 1 << 26 ORDER BY attempt.key DESC LIMIT 1
    ), 0),
    coalesce((SELECT max(fired_at) FROM (
        SELECT fired_at FROM pikkupy_timers AS timer
        WHERE timer.key >= wanted.value << 26 AND timer.key < wanted.value + 1 << 26 ORDER BY timer.key DESC LIMIT 100
    )), 0)
) FROM json_each(:numbers) AS wanted;

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

-- name: is_sound
-- Whether the rest of that row is what the table allows: the rules of a table do not hold for what a disk brings back.
SELECT clean IN (0, 1) AND typeof(epoch) = 'integer' AND epoch >= 0
    AND typeof(next_number) = 'integer' AND next_number > 0
FROM pikkupy_journal;

-- name: foreign_tables
-- How many tables and views an application keeps in the file.
SELECT count(*) FROM sqlite_master
WHERE name NOT LIKE 'sqlite\_%' ESCAPE '\'
    AND tbl_name NOT LIKE 'pikkupy\_%' ESCAPE '\'
    AND name NOT IN ('pikku_runs', 'pikku_steps');

-- name: own_table
-- 1 if the file has a journal.
SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'pikkupy_journal';

-- What `pikku doctor` wants to know.

-- name: journal_facts
-- What is true of the file as a whole: epoch, how the last owner left, when it was made, process, host and time of the owner.
SELECT epoch, clean, created_at, owner_pid, owner_host, owner_started_at FROM pikkupy_journal;

-- name: newest_change
-- The latest recorded time among the newest runs and the latest ends, or 0.
SELECT max(
    coalesce((
        SELECT max(updated_at) FROM pikkupy_runs
        WHERE number > (SELECT max(number) - 1000 FROM pikkupy_runs) AND number <= (SELECT max(number) FROM pikkupy_runs)
    ), 0),
    coalesce((
        SELECT ended_at FROM pikkupy_runs INDEXED BY pikkupy_runs_ended
        WHERE ended_at IS NOT NULL AND parent IS NULL ORDER BY ended_at DESC LIMIT 1
    ), 0)
);

-- name: overdue_runs
-- How many runs wait in the file that should have been in memory by a time.
SELECT count(*) FROM pikkupy_runs INDEXED BY pikkupy_runs_waking WHERE wakes_at <= :until;

-- name: how_many_parked
-- How many runs the engine has suspended for a reason.
SELECT count(*) FROM pikkupy_runs INDEXED BY pikkupy_runs_by_status WHERE status = 'suspended' AND parked = :why;

-- name: parked_runs
-- The ids of the oldest of them.
SELECT run_id FROM pikkupy_runs INDEXED BY pikkupy_runs_by_status
WHERE status = 'suspended' AND parked = :why ORDER BY number LIMIT :limit;

-- name: lost_runs
-- Ids of running runs that wait in the file for something from outside, and have no step that something could come to.
SELECT own.run_id FROM pikkupy_runs AS own INDEXED BY pikkupy_runs_waking
WHERE own.wakes_at >= :never AND own.status = 'running' AND NOT EXISTS (
    SELECT 1 FROM pikkupy_steps AS step
    WHERE step.key >= own.number << 26 AND step.key < own.number + 1 << 26
        AND step.status NOT IN ('succeeded', 'failed', 'cancelled')
        AND (step.kind <> 'workflow' OR EXISTS (
            SELECT 1 FROM pikkupy_runs AS child INDEXED BY pikkupy_runs_children
            WHERE child.parent = own.number AND child.parent_position = step.key & 0x3FFFFFF
                AND child.status IN ('running', 'suspended')
        ))
) LIMIT :limit;

-- name: how_much
-- How many rows the tables have: runs, steps, attempts.
SELECT
    (SELECT count(*) FROM pikkupy_runs), (SELECT count(*) FROM pikkupy_steps), (SELECT count(*) FROM pikkupy_attempts);

-- name: each_run
-- The next runs, with what comes after them told by their keys, here and below: to compare them with their checksums.
SELECT
    number, number, run_id, workflow, status, input, output, error, reason, created_at, updated_at, ended_at,
    starts_at, wakes_at, parked, parent, parent_position, parent_attempt, alone_since, forked_from, tags,
    progress, start_checksum, move_checksum
FROM pikkupy_runs WHERE number > :after ORDER BY number LIMIT :limit;

-- name: each_step
-- The next steps of all runs.
SELECT
    key, run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at,
    started_at, checksum
FROM pikkupy_steps WHERE key > :after ORDER BY key LIMIT :limit;

-- name: each_attempt
-- The next attempts.
SELECT key, run, position, attempt, seq, status, error, started_at, ended_at, name, checksum
FROM pikkupy_attempts WHERE key > :after ORDER BY key LIMIT :limit;

-- name: each_timer
-- The next fired timers.
SELECT key, run, number, due_at, seq, fired_at, checksum FROM pikkupy_timers WHERE key > :after ORDER BY key LIMIT :limit;

-- name: each_signal
-- The next signals that no step has taken.
SELECT key, run, seq, name, payload, sent_at, position, checksum
FROM pikkupy_signals WHERE key > :after AND position IS NULL ORDER BY key LIMIT :limit;

-- name: each_chunk
-- The next chunks.
SELECT key, run, "offset", since, position, name, attempt, value, at, checksum
FROM pikkupy_chunks WHERE key > :after ORDER BY key LIMIT :limit;

-- name: each_set_aside
-- The next steps that were set aside.
SELECT
    key, run, position, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at,
    started_at, checksum
FROM pikkupy_set_aside WHERE key > :after ORDER BY key LIMIT :limit;

-- name: backup_into
-- A copy of the whole file, without what is unused in it, as of one moment.
VACUUM INTO :path;
