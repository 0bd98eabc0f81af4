"""The keys of what belongs to a run: one integer, in which no run reaches into the next."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy.core.model import (
    MAX_OWN,
    MAX_RUN,
    OWN_BITS,
    AttemptRow,
    Change,
    ChunkRow,
    DeletedSwept,
    RunDeleted,
    SetAsideTaken,
    SignalRow,
    SignalTaken,
    StepReopened,
    StepRow,
    StepsCancelled,
    StepSetAside,
    StepsSetAside,
    StepStatus,
    TimerRow,
)
from pikkupy.store import reader
from pikkupy.store.connection import connect_writer
from pikkupy.store.migrations import migrate
from pikkupy.store.plan import op_of
from pikkupy.store.queries import script
from pikkupy.store.rows import aside_key_of, key_of, run_columns
from pikkupy.store.writer import Writer, Written
from tests.store.samples import NOW, a_chunk, a_move, a_run, a_step, a_timer, an_attempt, empty_journal, put_run

TABLES = ("steps", "attempts", "timers", "signals", "chunks", "set_aside")
LOWEST = -MAX_OWN - 1  # position of a step that was set aside


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty journal."""
    with empty_journal() as db:
        yield db


def write(db: sqlite3.Connection, *changes: Sequence[Change]) -> Written:
    """What becomes of logical changes."""
    writer = Writer("test", 0, None)
    writer.prepare(db)
    return writer.write(db, [[op_of(change) for change in logical] for logical in changes])


def a_signal(run: int, seq: int) -> SignalRow:
    """A signal that waits for a step."""
    return SignalRow(run=run, seq=seq, name="go", payload="1", sent_at=NOW)


def first_and_last(run: int) -> list[Change]:
    """The first and the last row that a run can have in each table."""
    return [
        a_step(run, 0, StepStatus.RUNNING),
        a_step(run, MAX_OWN, StepStatus.RUNNING),
        an_attempt(run, 0, 1, seq=1),
        an_attempt(run, MAX_OWN, 2, seq=MAX_OWN),
        a_timer(run, 0),
        a_timer(run, MAX_OWN, seq=51),
        a_signal(run, 1),
        a_signal(run, MAX_OWN),
        a_chunk(run, 0),
        a_chunk(run, MAX_OWN, since=MAX_OWN),
        StepSetAside(row=a_step(run, LOWEST)),
        StepSetAside(row=a_step(run, -1)),
    ]


def numbers(db: sqlite3.Connection, run: int) -> list[list[int]]:
    """What the tables say of the rows of a run, in the order of their keys."""
    columns = ("position", "seq", "number", "seq", '"offset"', "position")
    return [
        [row[0] for row in db.execute(f"SELECT {column} FROM pikkupy_{table} WHERE run = ? ORDER BY key", (run,))]
        for table, column in zip(TABLES, columns, strict=True)
    ]


WHOLE = [[0, MAX_OWN], [1, MAX_OWN], [0, MAX_OWN], [1, MAX_OWN], [0, MAX_OWN], [LOWEST, -1]]
RUNS = (1, 2, 3, MAX_RUN - 1, MAX_RUN)


def three(db: sqlite3.Connection, runs: Sequence[int] = (1, 2, 3)) -> None:
    """Runs side by side, each with all the keys at the ends of its range."""
    write(db, *([a_run(run), *first_and_last(run)] for run in runs))
    assert [numbers(db, run) for run in runs] == [WHOLE] * len(runs)


def test_a_key_says_its_two_numbers(db: sqlite3.Connection) -> None:
    """At all the ends; of the last run, too."""
    three(db, RUNS)


@pytest.mark.parametrize("run", RUNS)
def test_what_is_read_of_a_run_is_its_own(db: sqlite3.Connection, run: int) -> None:
    """Beside runs whose keys are the next to its own."""
    three(db, RUNS)

    [recorded], damaged = reader.recorded_runs(db, [run], lambda row: row)
    assert not damaged
    assert [(row.run, row.position) for row in recorded.steps] == [(run, 0), (run, MAX_OWN)]
    assert [(row.run, row.number) for row in recorded.timers] == [(run, 0), (run, MAX_OWN)]
    assert [(row.run, row.seq) for row in recorded.signals] == [(run, 1), (run, MAX_OWN)]
    assert [(row.run, row.position) for row in recorded.set_aside] == [(run, LOWEST), (run, -1)]
    assert (recorded.last_seq, recorded.next_chunk) == (MAX_OWN, MAX_OWN + 1)
    assert [(row.run, row.seq) for row in reader.attempt_rows(db, run)] == [(run, 1), (run, MAX_OWN)]
    assert [row.seq for row in reader.signals(db, run)] == [1, MAX_OWN]
    assert [row.position for row in reader.steps_after(db, run, 0, 0)] == [0, MAX_OWN]
    assert [row.offset for row, _ in reader.chunks(db, run, -1)] == [0, MAX_OWN]
    assert reader.chunks(db, run, MAX_OWN) == reader.chunks(db, run, (1 << 63) - 1) == []
    assert reader.last_change(db, [run]) == reader.recent_change(db, [run]) == {run: NOW + 9}


@pytest.mark.parametrize(
    "changes",
    [
        [StepsCancelled(run=2, at=5)],
        [StepsSetAside(run=2, position=0, seq=1)],
        [StepsSetAside(run=2, position=MAX_OWN, seq=1)],
        [StepsSetAside(run=2, position=MAX_OWN + 1, seq=MAX_OWN + 1)],
        [SetAsideTaken(run=2, position=-1), SetAsideTaken(run=2, position=LOWEST)],
        [SignalTaken(run=2, seq=1, position=0), SignalTaken(run=2, seq=MAX_OWN, position=1)],
        [a_move(2), RunDeleted(number=2), DeletedSwept(rows=100)],
    ],
    ids=lambda changes: type(changes[0]).__name__,
)
def test_what_is_changed_of_a_run_is_its_own(db: sqlite3.Connection, changes: list[Change]) -> None:
    """Nothing of the runs whose keys are the next to its own."""
    three(db)
    others = [db.execute(f"SELECT * FROM pikkupy_{table} WHERE run <> 2 ORDER BY key").fetchall() for table in TABLES]

    assert write(db, changes).outcomes == [None]

    for table, rows in zip(TABLES, others, strict=True):
        assert db.execute(f"SELECT * FROM pikkupy_{table} WHERE run <> 2 ORDER BY key").fetchall() == rows
    if isinstance(changes[-1], DeletedSwept):
        assert numbers(db, 2) == [[]] * len(TABLES)


def without_a_key() -> Iterator[Change]:
    """Whatever would have the key of something else."""
    for run, number in ((1, MAX_OWN + 1), (1, MAX_OWN + 2), (2, -1), (MAX_RUN + 1, 1), (-1, 1)):
        yield a_step(run, number, StepStatus.RUNNING)
        yield StepReopened(row=a_step(run, number, StepStatus.PENDING))
        yield an_attempt(run, seq=number)
        yield a_timer(run, number)
        yield a_signal(run, number)
        yield SignalTaken(run=run, seq=number, position=0)
        yield a_chunk(run, number, since=0)
    for position in (0, 1, LOWEST - 1):
        yield StepSetAside(row=a_step(2, position))
        yield SetAsideTaken(run=2, position=position)


@pytest.mark.parametrize("change", list(without_a_key()), ids=lambda change: type(change).__name__)
def test_what_has_no_key_is_refused(db: sqlite3.Connection, change: Change) -> None:
    """In words, and nothing is changed instead; what is written with it is not written either."""
    three(db)
    before = list(db.iterdump())

    [refusal] = write(db, [a_run(4), change]).outcomes

    assert re.search(r"cannot be written: number .* of run number .*: a run has numbers up to 67,108,863", str(refusal))
    assert list(db.iterdump()) == before


def test_a_run_beyond_the_last_number_is_refused(db: sqlite3.Connection) -> None:
    """In words that say what to do, and by the table."""
    [refusal] = write(db, [a_run(MAX_RUN + 1)]).outcomes

    assert "run numbers end at 137,438,953,470; go on in a new file" in str(refusal)
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        put_run(db, run_columns(a_run(MAX_RUN + 1)))


def test_a_second_row_of_the_same_numbers_is_a_conflict(db: sqlite3.Connection) -> None:
    """As two runs of one number are."""
    three(db)
    again: list[StepRow | AttemptRow | TimerRow | SignalRow | ChunkRow | StepSetAside] = [
        an_attempt(2, 5, 7, seq=1),
        a_timer(2, 0),
        a_signal(2, 1),
        a_chunk(2, 0),
        StepSetAside(row=a_step(2, -1)),
    ]

    for change, outcome in zip(again, write(db, *([change] for change in again)).outcomes, strict=True):
        assert "UNIQUE constraint failed" in str(outcome), change


def test_the_files_of_sql_split_keys_as_the_code_does() -> None:
    """All shifts are by so many bits, all masks of so many."""
    text = script("schema.sql") + script("queries.sql") + script("writing.sql")

    assert set(map(int, re.findall(r"(?:<<|>>) (\d+)", text))) == {OWN_BITS}
    assert {int(mask, 16) for mask in re.findall(r"0x[0-9A-F]+", text)} == {MAX_OWN, MAX_OWN + 1, MAX_RUN + 1}
    assert (key_of(1, 0), key_of(1, MAX_OWN)) == (1 << OWN_BITS, (2 << OWN_BITS) - 1)
    assert (aside_key_of(1, LOWEST), aside_key_of(1, -1)) == (key_of(1, 0), key_of(1, MAX_OWN))
    assert key_of(MAX_RUN, MAX_OWN) < (MAX_RUN + 1) << OWN_BITS < 1 << 63


def test_the_view_of_the_steps_finds_those_of_a_run(db: sqlite3.Connection) -> None:
    """By their keys, not among all."""
    plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN SELECT * FROM pikku_steps WHERE run_id = 'r'")]

    assert any("steps USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)" in line for line in plan), plan


@pytest.mark.parametrize(("size", "most"), [(100, 130), (1_000, 320), (10_000, 400)])
def test_a_value_takes_little_more_than_its_size(path: str, size: int, most: int) -> None:
    """Bytes in the file beyond the value, per step: of many runs that make their steps at the same time."""
    Path(path).touch()
    steps, runs, value = 4, range(1, 401), "x" * size
    with closing(connect_writer(path, "process")) as db:
        migrate(db, 0, stamped=True, now_us=0)
        write(db, *([a_run(run)] for run in runs))
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [(before,)] = db.execute("PRAGMA page_count")
        for position in range(steps):
            write(db, *([a_step(run, position, output=value)] for run in runs))
        [(after,)] = db.execute("PRAGMA page_count")
        [(page,)] = db.execute("PRAGMA page_size")

    assert (after - before) * page / (steps * len(runs)) - size < most
