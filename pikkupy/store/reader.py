"""The questions that the journal answers, each one function of a connection: one hop, no cursor left open."""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from pikkupy.core.model import AttemptRow, Recorded, RunRow, RunStatus, StepRow
from pikkupy.errors import JournalError
from pikkupy.store.queries import QUERIES
from pikkupy.store.rows import attempt_of, run_of, step_of, timer_of

NEWEST = 2**63 - 1  # no run has this number

T = TypeVar("T")


class Chunk(msgspec.Struct, frozen=True):
    """Unfinished runs of one chunk; those that are damaged are reported beside the others, by number."""

    runs: list[Recorded]
    damaged: dict[int, JournalError]
    last: int | None  # the highest number in the chunk, damaged ones included; None: there are no more


def run(db: sqlite3.Connection, run_id: str) -> RunRow | None:
    """The run of that id."""
    found = db.execute(QUERIES["run_by_id"], (run_id,)).fetchall()
    return run_of(found[0]) if found else None


def runs(
    db: sqlite3.Connection, workflow: str | None, status: RunStatus | None, limit: int, before: int | None
) -> list[RunRow]:
    """A page of runs, newest first."""
    name = "runs"
    if workflow is not None or status is not None:
        filters = [word for word, value in (("workflow", workflow), ("status", status)) if value is not None]
        name = f"runs_of_{'_and_'.join(filters)}"
    wanted = {
        "workflow": workflow,
        "status": None if status is None else status.value,
        "before": NEWEST if before is None else before,
        "limit": limit,
    }
    return [run_of(row) for row in db.execute(QUERIES[name], wanted).fetchall()]


def steps(db: sqlite3.Connection, number: int) -> list[StepRow]:
    """The steps of one run, by position."""
    return [step_of(row) for row in db.execute(QUERIES["steps"], (number,)).fetchall()]


def attempts(db: sqlite3.Connection, number: int) -> tuple[list[StepRow], list[AttemptRow]]:
    """The steps of one run, by position, and their finished attempts, by seq, as of one moment."""
    with _moment(db):
        step_rows = db.execute(QUERIES["steps"], (number,)).fetchall()
        attempt_rows = db.execute(QUERIES["attempts"], (number,)).fetchall()
    return [step_of(row) for row in step_rows], [attempt_of(row) for row in attempt_rows]


def recorded(db: sqlite3.Connection, number: int) -> Recorded | None:
    """Everything that a replay of one run needs, as of one moment."""
    with _moment(db):
        found = db.execute(QUERIES["run_by_number"], (number,)).fetchall()
        step_rows = db.execute(QUERIES["steps"], (number,)).fetchall()
        timer_rows = db.execute(QUERIES["recorded_timers"], (number,)).fetchall()
        [(last_attempt,)] = db.execute(QUERIES["last_attempt"], (number,)).fetchall()
    return _recorded(found[0], step_rows, timer_rows, last_attempt) if found else None


def unfinished(db: sqlite3.Connection, after: int, limit: int) -> Chunk:
    """The next chunk of runs without an end: four queries, however many runs."""
    with _moment(db):
        found = db.execute(QUERIES["unfinished_runs"], {"after": after, "limit": limit}).fetchall()
        if not found:
            return Chunk([], {}, None)
        span = {"after": after, "last": found[-1][0]}
        step_rows = _by_run(db.execute(QUERIES["unfinished_steps"], span).fetchall())
        timer_rows = _by_run(db.execute(QUERIES["unfinished_timers"], span).fetchall())
        last_attempts = dict(db.execute(QUERIES["unfinished_attempts"], span).fetchall())
    intact, damaged = [], {}
    for row in found:
        number = row[0]
        try:
            intact.append(_recorded(row, step_rows[number], timer_rows[number], last_attempts.get(number)))
        except JournalError as error:
            damaged[number] = error
    return Chunk(intact, damaged, found[-1][0])


def last_change(db: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, int]:
    """Per run the latest recorded time of its steps, attempts and timers, in µs."""
    return dict(db.execute(QUERIES["last_change"], {"numbers": json.dumps(list(numbers))}).fetchall())


@contextmanager
def _moment(db: sqlite3.Connection) -> Iterator[None]:
    """All reads inside see the same state."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        db.execute("COMMIT")


def _by_run(rows: Sequence[Any]) -> defaultdict[int, list[Any]]:
    runs: defaultdict[int, list[Any]] = defaultdict(list)
    for row in rows:
        runs[row[0]].append(row)
    return runs


def _recorded(run: Any, step_rows: Sequence[Any], timer_rows: Sequence[Any], last_attempt: int | None) -> Recorded:
    row = run_of(run)
    steps = _all(step_of, step_rows, row)
    timers = _all(timer_of, timer_rows, row)
    places = [step.seq for step in steps if step.seq is not None]
    places += [timer.seq for timer in timers]
    return Recorded(run=row, steps=steps, timers=timers, last_seq=max(*places, last_attempt or 0, 0))


def _all(decode: Callable[[Any], T], rows: Sequence[Any], run: RunRow) -> tuple[T, ...]:
    try:
        return tuple([decode(row) for row in rows])
    except JournalError as error:
        raise JournalError(f"run {run.run_id!r}: {error}") from error
