-- What a journal is written through: views that show nothing, and for each kind of change a trigger that makes it. They
-- belong to the connection of the owner and are in no file. However many changes there are, of whatever kinds, they are
-- then one INSERT, which is a transaction by itself: made whole, in their order, or not at all.
--
-- `pikkupy_writing` takes all kinds. Nearly all changes of a busy engine are of three; a batch of these alone goes into
-- `pikkupy_usual`, whose few triggers and columns, none of them NULL, cost half as much.
--
-- A word in braces is the number of a kind (`plan.Kind`), a view, for which the text is repeated, or another text of this
-- file. c1 … c15 are the columns of a kind. What has a key in its table comes with that, in the place of the run and the
-- number within it. A row of no kind does nothing.

-- name: view
CREATE TEMP VIEW pikkupy_writing (kind, epoch, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11, c12, c13, c14, c15) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

-- name: usual_view
CREATE TEMP VIEW pikkupy_usual (kind, epoch, c1, c2, c3, c4, c5, c6, c7, c8, c9) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL;

-- name: is_prepared
-- 1 if the connection has the view.
SELECT count(*) FROM sqlite_temp_master WHERE name = 'pikkupy_writing';

-- name: insert
-- One row after VALUES for each change; the epoch is in the first, -1 in the others.
INSERT INTO pikkupy_writing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: insert_usual
-- As `insert`.
INSERT INTO pikkupy_usual VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: owner
-- Only the newest owner may write. The words are known to `writer.py`.
CREATE TEMP TRIGGER {view}_as_owner INSTEAD OF INSERT ON {view} WHEN new.epoch >= 0
BEGIN
    SELECT raise(ABORT, 'another engine has taken the journal over')
    WHERE new.epoch IS NOT (SELECT epoch FROM pikkupy_journal);
END;

-- name: started
-- A new run that nobody else has started, and that begins now: number, run_id, workflow, input, created_at,
-- start_checksum, move_checksum.
CREATE TEMP TRIGGER {view}_started INSTEAD OF INSERT ON {view} WHEN new.kind = {started}
BEGIN
    INSERT INTO pikkupy_runs (
        number, run_id, workflow, status, input, created_at, updated_at, starts_at, start_checksum, move_checksum
    ) VALUES (new.c1, new.c2, new.c3, 'running', new.c4, new.c5, new.c5, new.c5, new.c6, new.c7);
END;

-- name: succeeded
-- A step that has succeeded at its first attempt: key, name, kind, target ('': none), seq, output, ended_at, started_at,
-- checksum.
CREATE TEMP TRIGGER {view}_succeeded INSTEAD OF INSERT ON {view} WHEN new.kind = {succeeded}
BEGIN
    INSERT INTO pikkupy_steps (
        key, name, kind, target, attempts, cut_offs, forgiven, seq, output, status, ended_at, started_at, checksum
    ) VALUES (
        new.c1, new.c2, new.c3, nullif(new.c4, ''), 1, 0, 0, new.c5, new.c6, 'succeeded', new.c7, new.c8, new.c9
    )
    {step_again}
END;

-- name: completed
-- The end of a run that is running: number, output, time, checksum.
CREATE TEMP TRIGGER {view}_completed INSTEAD OF INSERT ON {view} WHEN new.kind = {completed}
BEGIN
    UPDATE pikkupy_runs SET
        status = 'completed',
        output = new.c2,
        updated_at = new.c3,
        ended_at = new.c3,
        move_checksum = new.c4,
        wakes_at = NULL
    WHERE number = new.c1 AND status = 'running';
    SELECT raise(ABORT, 'the run does not have the status that the move begins with') WHERE changes() = 0;
END;

-- name: step_again
-- The end of an INSERT of a step: a new state of one that is there, and has no final status.
ON CONFLICT (key) DO UPDATE SET
    name = excluded.name,
    kind = excluded.kind,
    target = excluded.target,
    attempts = excluded.attempts,
    cut_offs = excluded.cut_offs,
    forgiven = excluded.forgiven,
    wake_at = excluded.wake_at,
    seq = excluded.seq,
    output = excluded.output,
    error = excluded.error,
    status = excluded.status,
    ended_at = excluded.ended_at,
    started_at = coalesce(excluded.started_at, started_at),
    checksum = excluded.checksum + CASE
        WHEN excluded.started_at IS NULL THEN coalesce(abs(started_at) / 2147483648 + abs(started_at) % 2147483648, 0)
        ELSE 0
    END
WHERE status NOT IN ('succeeded', 'failed', 'cancelled');
SELECT raise(ABORT, 'a step that is final already never changes') WHERE changes() = 0;

-- name: run
-- A new run: number, run_id, workflow, input, created_at, starts_at, wakes_at, parent, parent_position, parent_attempt,
-- alone_since, forked_from, tags, start_checksum, move_checksum. A run id or number that is taken is an error.
CREATE TEMP TRIGGER pikkupy_write_run INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {run}
BEGIN
    SELECT raise(ABORT, 'the parent is not there')
    WHERE new.c8 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM pikkupy_runs WHERE number = new.c8);
    INSERT INTO pikkupy_runs (
        number, run_id, workflow, status, input, created_at, updated_at, starts_at, wakes_at, parent, parent_position,
        parent_attempt, alone_since, forked_from, tags, start_checksum, move_checksum
    ) VALUES (
        new.c1, new.c2, new.c3, 'running', new.c4, new.c5, new.c5, new.c6, new.c7, new.c8, new.c9, new.c10, new.c11, new.c12,
        new.c13, new.c14, new.c15
    );
END;

-- name: step
-- A new step, or a new state of a step without a final status: all columns of a step.
CREATE TEMP TRIGGER pikkupy_write_step INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {step}
BEGIN
    INSERT INTO pikkupy_steps (
        key, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at, started_at,
        checksum
    ) VALUES (
        new.c1, new.c2, new.c3, new.c4, new.c5, new.c6, new.c7, new.c8, new.c9, new.c10, new.c11, new.c12, new.c13, new.c14,
        new.c15
    )
    {step_again}
END;

-- name: attempt
-- A finished attempt.
CREATE TEMP TRIGGER pikkupy_write_attempt INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {attempt}
BEGIN
    INSERT INTO pikkupy_attempts (key, position, attempt, status, error, started_at, ended_at, name, checksum)
    VALUES (new.c1, new.c2, new.c3, new.c4, new.c5, new.c6, new.c7, new.c8, new.c9);
END;

-- name: timer
-- A fired timer of a run's own event loop.
CREATE TEMP TRIGGER pikkupy_write_timer INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {timer}
BEGIN
    INSERT INTO pikkupy_timers (key, due_at, seq, fired_at, checksum)
    VALUES (new.c1, new.c2, new.c3, new.c4, new.c5);
END;

-- name: signal
-- A signal that was sent.
CREATE TEMP TRIGGER pikkupy_write_signal INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {signal}
BEGIN
    INSERT INTO pikkupy_signals (key, name, payload, sent_at, position, checksum)
    VALUES (new.c1, new.c2, new.c3, new.c4, new.c5, new.c6);
END;

-- name: taken
-- A signal that a step has taken: its key, position. The payload is the step's output now.
CREATE TEMP TRIGGER pikkupy_write_taken INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {taken}
BEGIN
    UPDATE pikkupy_signals SET payload = NULL, position = new.c2 WHERE key = new.c1 AND position IS NULL;
    SELECT raise(ABORT, 'the signal was taken by another step') WHERE changes() = 0;
END;

-- name: change
-- A change of the code that a run has passed: run, change_id.
CREATE TEMP TRIGGER pikkupy_write_change INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {change}
BEGIN
    INSERT INTO pikkupy_changes (run, change_id) VALUES (new.c1, new.c2);
END;

-- name: chunk
-- A value that a step has emitted.
CREATE TEMP TRIGGER pikkupy_write_chunk INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {chunk}
BEGIN
    INSERT INTO pikkupy_chunks (key, since, position, name, attempt, value, at, checksum)
    VALUES (new.c1, new.c2, new.c3, new.c4, new.c5, new.c6, new.c7, new.c8);
END;

-- name: move
-- A new status of a run that still has the status before: number, before, status, output, error, reason, parked, at,
-- ended_at, checksum, wakes_at.
CREATE TEMP TRIGGER pikkupy_write_move INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {move}
BEGIN
    UPDATE pikkupy_runs SET
        status = new.c3,
        output = new.c4,
        error = new.c5,
        reason = new.c6,
        parked = new.c7,
        updated_at = new.c8,
        ended_at = new.c9,
        move_checksum = new.c10,
        wakes_at = new.c11
    WHERE number = new.c1 AND status = new.c2;
    SELECT raise(ABORT, 'the run does not have the status that the move begins with') WHERE changes() = 0;
END;

-- name: wake
-- When an unfinished run that waits in the file has to be in memory: number, time; NULL: now. An ended run stays as it is.
-- One that was cut off too often does not wait for a time: only a resume takes it up again. The next start-up looks at it
-- if need be, for it is cancelled once nobody waits for it.
CREATE TEMP TRIGGER pikkupy_write_wake INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {wake}
BEGIN
    UPDATE pikkupy_runs SET wakes_at = new.c2
    WHERE number = new.c1 AND status IN ('running', 'suspended') AND (parked IS NOT 'crashes' OR new.c2 IS NULL);
END;

-- name: progress
-- How far an unfinished run says that it is: number, JSON text.
CREATE TEMP TRIGGER pikkupy_write_progress INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {progress}
BEGIN
    UPDATE pikkupy_runs SET progress = new.c2 WHERE number = new.c1 AND status IN ('running', 'suspended');
END;

-- name: cancel
-- The end of all steps of a run without an outcome: run, time. Of what changes here only the time is in their checksums.
CREATE TEMP TRIGGER pikkupy_write_cancel INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {cancel}
BEGIN
    UPDATE pikkupy_steps SET
        status = 'cancelled',
        ended_at = new.c2,
        checksum = checksum + abs(new.c2) / 2147483648 + abs(new.c2) % 2147483648
    WHERE key >= new.c1 << 26 AND key < new.c1 + 1 << 26 AND status NOT IN ('succeeded', 'failed', 'cancelled');
END;

-- name: reopen
-- A failed or cancelled step that goes on, because its run does: all columns of a step.
CREATE TEMP TRIGGER pikkupy_write_reopen INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {reopen}
BEGIN
    UPDATE pikkupy_steps SET
        attempts = new.c5,
        cut_offs = new.c6,
        forgiven = new.c7,
        wake_at = new.c8,
        seq = new.c9,
        output = new.c10,
        error = new.c11,
        status = new.c12,
        ended_at = new.c13,
        started_at = new.c14,
        checksum = new.c15
    WHERE key = new.c1 AND status IN ('failed', 'cancelled');
    SELECT raise(ABORT, 'the step has neither failed nor been cancelled') WHERE changes() = 0;
END;

-- name: aside
-- Steps leave the history of a run: run, position and seq from which on. Their attempts are evidence under their names;
-- the timers that fired later are gone.
CREATE TEMP TRIGGER pikkupy_write_aside INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {aside}
BEGIN
    UPDATE pikkupy_attempts SET
        name = (SELECT steps.name FROM pikkupy_steps AS steps WHERE steps.key = new.c1 << 26 | pikkupy_attempts.position)
    WHERE key >= new.c1 << 26 AND key < new.c1 + 1 << 26 AND name IS NULL AND position IN (
        SELECT steps.position FROM pikkupy_steps AS steps
        WHERE steps.key >= (new.c1 << 26) + new.c2 AND steps.key < new.c1 + 1 << 26
    );
    DELETE FROM pikkupy_steps WHERE key >= (new.c1 << 26) + new.c2 AND key < new.c1 + 1 << 26;
    DELETE FROM pikkupy_timers WHERE key >= new.c1 << 26 AND key < new.c1 + 1 << 26 AND seq >= new.c3;
END;

-- name: kept
-- A step that is no longer part of the history: all columns of a step, its key among those set aside.
CREATE TEMP TRIGGER pikkupy_write_kept INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {kept}
BEGIN
    INSERT INTO pikkupy_set_aside (
        key, name, kind, target, attempts, cut_offs, forgiven, wake_at, seq, output, error, status, ended_at, started_at,
        checksum
    ) VALUES (
        new.c1, new.c2, new.c3, new.c4, new.c5, new.c6, new.c7, new.c8, new.c9, new.c10, new.c11, new.c12, new.c13, new.c14,
        new.c15
    );
END;

-- name: back
-- A step that is part of the history again: its key among those set aside.
CREATE TEMP TRIGGER pikkupy_write_back INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {back}
BEGIN
    DELETE FROM pikkupy_set_aside WHERE key = new.c1;
    SELECT raise(ABORT, 'the step is not set aside') WHERE changes() = 0;
END;

-- name: link
-- To which step of its parent a run belongs, and since when to none: number, position, attempt, time, checksum.
CREATE TEMP TRIGGER pikkupy_write_link INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {link}
BEGIN
    UPDATE pikkupy_runs SET
        parent_position = new.c2,
        parent_attempt = new.c3,
        alone_since = new.c4,
        start_checksum = new.c5
    WHERE number = new.c1;
    SELECT raise(ABORT, 'the child run is not there') WHERE changes() = 0;
END;

-- name: delete
-- An ended run, by number, and all that descend from it, however deep. Refused is one with an unfinished parent, and one
-- from which an unfinished run descends. They are gone for every read, and triggers of the file note whose other rows have
-- to go.
CREATE TEMP TRIGGER pikkupy_write_delete INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {delete}
BEGIN
    INSERT INTO pikkupy_deleted (number)
    SELECT own.number FROM pikkupy_runs AS own
    WHERE own.number = new.c1
        AND own.status IN ('completed', 'failed', 'cancelled')
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_runs AS mother
            WHERE mother.number = own.parent AND mother.status IN ('running', 'suspended')
        )
        AND NOT EXISTS (
            WITH RECURSIVE family (number, status) AS (
                SELECT child.number, child.status FROM pikkupy_runs AS child INDEXED BY pikkupy_runs_children
                WHERE child.parent = own.number
                UNION ALL
                SELECT child.number, child.status
                FROM family CROSS JOIN pikkupy_runs AS child INDEXED BY pikkupy_runs_children
                    ON child.parent = family.number
            )
            SELECT 1 FROM family WHERE status IN ('running', 'suspended')
        );
    SELECT raise(ABORT, 'the run is not there, or it, its parent or a run that descends from it has not ended')
    WHERE changes() = 0;
    DELETE FROM pikkupy_runs WHERE number IN (
        WITH RECURSIVE family (number) AS (
            SELECT new.c1
            UNION
            SELECT child.number
            FROM family CROSS JOIN pikkupy_runs AS child INDEXED BY pikkupy_runs_children ON child.parent = family.number
        )
        SELECT number FROM family
    );
END;

-- name: sweep
-- Some rows of deleted runs, of each table at most as many: 0, how many. Then the deleted runs of which nothing is left.
CREATE TEMP TRIGGER pikkupy_write_sweep INSTEAD OF INSERT ON pikkupy_writing WHEN new.kind = {sweep}
BEGIN
    DELETE FROM pikkupy_steps WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_steps AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_attempts WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_attempts AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_timers WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_timers AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_signals WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_signals AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_chunks WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_chunks AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_changes WHERE (run, change_id) IN (
        SELECT owned.run, owned.change_id
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_changes AS owned ON owned.run = gone.number
        LIMIT new.c2
    );
    DELETE FROM pikkupy_set_aside WHERE key IN (
        SELECT owned.key
        FROM (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200) AS gone
        CROSS JOIN pikkupy_set_aside AS owned ON owned.key >= gone.number << 26 AND owned.key < gone.number + 1 << 26
        LIMIT new.c2
    );
    DELETE FROM pikkupy_deleted
    WHERE number IN (SELECT number FROM pikkupy_deleted ORDER BY number LIMIT 200)
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_steps AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        )
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_attempts AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        )
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_timers AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        )
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_signals AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        )
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_chunks AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        )
        AND NOT EXISTS (SELECT 1 FROM pikkupy_changes AS owned WHERE owned.run = pikkupy_deleted.number)
        AND NOT EXISTS (
            SELECT 1 FROM pikkupy_set_aside AS owned
            WHERE owned.key >= pikkupy_deleted.number << 26 AND owned.key < pikkupy_deleted.number + 1 << 26
        );
END;
