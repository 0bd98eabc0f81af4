"""A batch means the same as its changes one by one."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from typing import Any, cast

import pytest

from pikkupy.core.model import (
    Change,
    ChildLinked,
    CodeChange,
    RunDeleted,
    RunMove,
    RunProgress,
    RunStatus,
    RunWakes,
    SetAsideTaken,
    SignalRow,
    SignalTaken,
    StepReopened,
    StepsCancelled,
    StepSetAside,
    StepsSetAside,
    StepStatus,
)
from pikkupy.store.plan import MAX_ROWS, Kind, Op, op_of, statements
from pikkupy.store.rows import move_columns, new_run_columns, run_columns, step_columns
from pikkupy.store.writer import Writer, Written
from tests.store.samples import NOW, a_chunk, a_move, a_run, a_step, a_timer, an_attempt, empty_journal

TABLES = ("runs", "steps", "attempts", "timers", "signals", "changes", "chunks", "set_aside", "tags", "journal")


def _contents(db: sqlite3.Connection) -> list[object]:
    return [db.execute(f"SELECT * FROM pikkupy_{table}").fetchall() for table in TABLES]


def _random_change(rng: random.Random) -> Change:
    run, position = rng.randint(1, 3), rng.randint(0, 2)
    return rng.choice(
        [
            lambda: a_run(run),
            lambda: a_run(run + 10, run_id=f"run-{run}"),
            lambda: a_run(run, tags=rng.choice(['{"a":"1"}', '{"a":"2","b":"1"}'])),
            lambda: a_run(run + 20, parent=run, parent_position=position, parent_attempt=1, tags='{"child":"yes"}'),
            lambda: a_step(run, position, rng.choice(list(StepStatus)), started_at=rng.choice([None, NOW])),
            lambda: a_step(run, position, StepStatus.RUNNING, attempts=rng.randint(0, 5)),
            lambda: an_attempt(run, position, rng.randint(1, 3)),
            lambda: a_timer(run, position),
            lambda: a_move(run, rng.choice(list(RunStatus)), before=rng.choice(list(RunStatus)), at=rng.randint(1, 99)),
            lambda: a_move(run, RunStatus.SUSPENDED),
            lambda: a_move(run + 20),
            lambda: a_move(run, RunStatus.RUNNING, before=RunStatus.SUSPENDED),
            lambda: StepsCancelled(run=run, at=rng.randint(1, 99)),
            lambda: RunWakes(number=run, wakes_at=rng.choice([None, 5])),
            lambda: SignalRow(run=run, seq=rng.randint(1, 3), name="go", payload="1", sent_at=NOW),
            lambda: SignalTaken(run=run, seq=rng.randint(1, 3), position=position),
            lambda: a_chunk(run, rng.randint(0, 3), attempt=rng.randint(0, 2)),
            lambda: CodeChange(run=run, change_id=rng.choice("ab")),
            lambda: StepReopened(row=a_step(run, position, StepStatus.PENDING, attempts=3, forgiven=3)),
            lambda: StepsSetAside(run=run, position=position, seq=rng.randint(1, 60)),
            lambda: StepSetAside(row=a_step(run, position - 3, rng.choice(list(StepStatus)))),
            lambda: SetAsideTaken(run=run, position=rng.randint(-3, -1)),
            lambda: ChildLinked(row=a_run(run + 20, parent=run, parent_position=-position, parent_attempt=1)),
            lambda: RunDeleted(number=run),
            lambda: RunDeleted(number=run + 20),
        ]
    )()


@pytest.mark.parametrize("seed", range(600))
def test_a_batch_means_the_same_as_its_changes_one_by_one(seed: int) -> None:
    """Same rows and same refusals, for random changes of few runs, whatever is grouped with what."""
    rng = random.Random(seed)
    batch = [[op_of(_random_change(rng)) for _ in range(rng.randint(1, 3))] for _ in range(rng.randint(1, 8))]
    writer = Writer("test", 0, None)
    with empty_journal() as together, empty_journal() as apart:
        for db in (together, apart):
            writer.prepare(db)
            for number in (1, 2):
                writer.write(db, [[op_of(a_run(number)), op_of(a_step(number, 0, StepStatus.RUNNING))]])

        outcomes = writer.write(together, batch).outcomes
        one_by_one = [writer.write(apart, [ops]).outcomes[0] for ops in batch]

        assert [str(outcome) for outcome in outcomes] == [str(outcome) for outcome in one_by_one]
        assert _contents(together) == _contents(apart)


@pytest.mark.parametrize("seed", range(50))
def test_the_last_of_many_changes_of_one_run_counts(seed: int) -> None:
    """None of them is refused, so that nothing is written one by one."""
    rng = random.Random(seed)
    wakes_at, progress, status = None, None, RunStatus.RUNNING
    changes: list[Change] = []
    for number in range(1, rng.randint(3, 20)):
        if number % 7 == 0:  # of two moves of one run in one group the second would be refused
            before, status = status, RunStatus.SUSPENDED if status is RunStatus.RUNNING else RunStatus.RUNNING
            wakes_at = rng.choice([None, number])
            changes.append(a_move(1, status, before=before, wakes_at=wakes_at))
        elif rng.random() < 0.5:
            wakes_at = number
            changes.append(RunWakes(number=1, wakes_at=wakes_at))
        else:
            progress = str(number)
            changes.append(RunProgress(number=1, progress=progress))
    with empty_journal() as db:
        _write(db, [[a_run(1)]])

        assert _write(db, [[change] for change in changes]).outcomes == [None] * len(changes)

        row = db.execute("SELECT wakes_at, progress, status FROM pikkupy_runs").fetchone()
        assert row == (wakes_at, progress, status.value)


class _Counted:
    """A connection that counts what it is asked for."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.in_transaction = False
        self.calls = 0
        self._execute = db.execute

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        self.calls += 1
        return self._execute(*statement)


def _count(changes: Sequence[Change]) -> int:
    with empty_journal() as db:
        writer, counted = Writer("test", 0, None), _Counted(db)
        writer.prepare(db)
        batch = [[op_of(change)] for change in changes]
        assert writer.write(cast(sqlite3.Connection, counted), batch).outcomes == [None] * len(changes)
        return counted.calls


def test_a_transaction_of_many_changes_is_one_statement() -> None:
    """So that the thread has to win the interpreter back once; beyond a thousand rows it takes a few."""
    changes: list[Change] = []
    for number in range(1, 301):
        changes += [a_run(number), a_step(number, 0), a_move(number)]

    assert _count(changes) == 1
    assert _count([a_run(number) for number in range(1, 2 * MAX_ROWS + 2)]) == 5  # with BEGIN and COMMIT


def test_a_bad_change_among_many_is_found_in_halves() -> None:
    """Its neighbours are not written one by one, each with a sync of its own."""
    batch = [[op_of(a_run(number))] for number in range(1, 513)]
    batch[300] = batch[299]
    with empty_journal() as db:
        writer, counted = Writer("test", 0, None), _Counted(db)
        writer.prepare(db)
        outcomes = writer.write(cast(sqlite3.Connection, counted), batch).outcomes

    assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [300]
    assert counted.calls <= 2 * 9 + 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, MAX_ROWS - 1, MAX_ROWS, MAX_ROWS + 1])
def test_statements_have_a_power_of_two_of_rows(count: int) -> None:
    """So that few prepared ones serve every number: what is missing does nothing."""
    usual, others = [[op_of(a_run(n, tags=tags)) for n in range(1, count + 1)] for tags in (None, '{"a":"1"}')]
    for ops in (usual, others, [others[0], *usual[1:]]):
        for place, (sql, values) in enumerate(statements(ops, 7)):
            is_usual = ops is usual or (place > 0 and ops is not others)
            assert ("pikkupy_usual" in sql) is is_usual
            rows, width = sql.count("(?"), 11 if is_usual else 17
            assert rows.bit_count() == 1
            assert len(values) == rows * width
            assert values[1] == 7  # the epoch, once
            assert set(values[width + 1 :: width]) <= {-1}


def test_what_is_usual_has_no_null() -> None:
    """Python's module looks for an adapter of each None."""
    for change in (a_run(), a_step(), a_step(target="f"), a_move()):
        [(sql, values)] = statements([op_of(change)], 7)
        assert "pikkupy_usual" in sql
        assert None not in values


BEFORE: list[Sequence[Change]] = [
    [],
    [a_run()],
    [a_run(), a_step(status=StepStatus.RUNNING, started_at=NOW - 5)],
    [a_run(), a_step(status=StepStatus.SCHEDULED, attempts=2, wake_at=NOW)],
    [a_run(), a_step(status=StepStatus.CANCELLED)],
    [a_run(), a_step()],
    [a_run(), a_move(status=RunStatus.SUSPENDED)],
    [a_run(wakes_at=NOW)],
    [a_run(), a_move()],
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(
    ("change", "general"),
    [
        (a_run(), Op(Kind.RUN, new_run_columns(a_run()))),
        (a_step(), Op(Kind.STEP, step_columns(a_step()))),
        (a_step(target="f"), Op(Kind.STEP, step_columns(a_step(target="f")))),
        (a_move(), Op(Kind.MOVE, move_columns(a_move()))),
    ],
    ids=["run", "step", "function", "move"],
)
def test_what_is_usual_means_the_same_as_its_general_form(
    before: Sequence[Change], change: Change, general: Op
) -> None:
    """The same rows and the same refusals, by itself and among others."""
    other = op_of(a_run(9, run_id="nine", tags='{"a":"1"}'))
    found = []
    for ops in ([op_of(change)], [general], [op_of(change), other], [general, other]):
        with empty_journal() as db:
            _write(db, [before])
            writer = Writer("test", 0, None)
            outcomes = writer.write(db, [[op] for op in ops]).outcomes
            db.execute("DELETE FROM pikkupy_runs WHERE number = 9")
            found.append((str(outcomes[0]), _contents(db)[:-1]))

    assert op_of(change).kind is not general.kind
    assert found[1:] == found[:1] * 3


def test_two_moves_of_one_run_are_both_made() -> None:
    """Suspended and resumed within one batch: no statement sees the run twice."""
    moves = [a_move(status=RunStatus.SUSPENDED), a_move(status=RunStatus.RUNNING, before=RunStatus.SUSPENDED), a_move()]
    with empty_journal() as db:
        written = _write(db, [[a_run()], *([move] for move in moves)])

        assert written.outcomes == [None] * 4
        assert db.execute("SELECT status FROM pikkupy_runs").fetchone() == ("completed",)


def test_a_step_after_the_cancel_of_its_run_is_refused_within_one_batch() -> None:
    """A late outcome must not slip in before the cancel that it was submitted after."""
    with empty_journal() as db:
        _write(db, [[a_run(), a_step(status=StepStatus.RUNNING)]])
        written = _write(db, [[StepsCancelled(run=1, at=5)], [a_step()]])

        assert [outcome is None for outcome in written.outcomes] == [True, False]
        assert db.execute("SELECT status FROM pikkupy_steps").fetchone() == ("cancelled",)


def test_a_run_is_written_as_it_begins() -> None:
    """One that has come further is refused: how it got there would be lost."""
    with empty_journal() as db:
        written = _write(db, [[a_run(1, status=RunStatus.SUSPENDED)], [a_run(2, progress="1")], [a_run(3)]])

        assert [outcome is None for outcome in written.outcomes] == [False, False, True]
        assert "run 'run-1' is not as a run begins" in str(written.outcomes[0])


def test_what_begins_has_the_checksums_of_its_row() -> None:
    """They are computed apart, because it is quicker."""
    run = a_run(7, parent=3, parent_position=1, parent_attempt=2, forked_from="x", tags='{"a":"1"}', wakes_at=9)

    assert new_run_columns(run)[-2:] == run_columns(run)[-2:]


def test_a_parent_has_to_be_there_before_its_child() -> None:
    """In one transaction, too."""
    child = a_run(2, parent=1, parent_position=0, parent_attempt=1)
    with empty_journal() as db:
        written = _write(db, [[child], [a_run(1)], [child]])

        assert [outcome is None for outcome in written.outcomes] == [False, True, True]


def _write(db: sqlite3.Connection, changes: Sequence[Sequence[Change]]) -> Written:
    batch: list[list[Op]] = [[op_of(change) for change in logical] for logical in changes]
    writer = Writer("test", 0, None)
    writer.prepare(db)
    return writer.write(db, batch)


def test_a_move_records_when_and_how() -> None:
    """The times and texts of the move are those of the row."""
    move: RunMove = a_move(status=RunStatus.CANCELLED)
    with empty_journal() as db:
        _write(db, [[a_run()], [move]])

        row = db.execute("SELECT status, reason, updated_at, ended_at FROM pikkupy_runs").fetchone()
        assert row == ("cancelled", "because", move.at, move.at)
