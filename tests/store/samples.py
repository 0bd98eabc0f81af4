"""Records for tests, and short ways to write them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec import structs

from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import (
    AttemptRow,
    AttemptStatus,
    Change,
    ChunkRow,
    ErrorInfo,
    RunMove,
    RunRow,
    RunStatus,
    StepKind,
    StepRow,
    StepStatus,
    TimerRow,
)
from pikkupy.store import Journal
from pikkupy.store.migrations import migrate

NOW = 1_900_000_000_000_000  # µs
BOOM = ErrorInfo("app.Boom", "too hot", "Traceback …", ("app.Error", "Exception"))


@contextmanager
def empty_journal() -> Iterator[sqlite3.Connection]:
    """The tables of a new journal, in memory."""
    db = sqlite3.connect(":memory:", isolation_level=None)
    db.execute("PRAGMA foreign_keys = 1")
    migrate(db, 0, stamped=True, now_us=0)
    yield db
    db.close()


def put_run(db: sqlite3.Connection, columns: Sequence[object]) -> None:
    """Put a run into its table as it is, whatever it is."""
    db.execute(f"INSERT INTO pikkupy_runs VALUES ({', '.join('?' * len(columns))})", columns)


def put_step(db: sqlite3.Connection, columns: Sequence[object]) -> None:
    """Put a step into its table as it is, whatever it is: its key, what follows the position, its checksum."""
    db.execute(f"INSERT INTO pikkupy_steps VALUES ({', '.join('?' * len(columns))})", columns)


def a_run(number: int = 1, **changes: Any) -> RunRow:
    """A run that has just begun, or has the given fields."""
    fields: dict[str, Any] = {
        "number": number,
        "run_id": f"run-{number}",
        "workflow": "onboarding",
        "status": RunStatus.RUNNING,
        "input": f'{{"n":{number}}}',
        "created_at": NOW,
        "updated_at": NOW,
        "starts_at": NOW,
    }
    fields |= changes
    if fields["status"] in FINAL_RUNS:
        fields.setdefault("ended_at", NOW)
    return RunRow(**fields)


def as_it_went(row: RunRow) -> list[Change]:
    """How a run got where it is: it began, and if it has not stayed so, it moved."""
    begun = {"status": RunStatus.RUNNING, "updated_at": row.created_at}
    nothing_yet = dict.fromkeys(("output", "error", "reason", "ended_at", "parked"))
    changes: list[Change] = [structs.replace(row, **begun, **nothing_yet)]
    if row.status is not RunStatus.RUNNING:
        ends = {name: getattr(row, name) for name in ("number", "status", "output", "error", "reason", "parked")}
        at = row.updated_at if row.ended_at is None else row.ended_at
        changes.append(RunMove(before=RunStatus.RUNNING, wakes_at=row.wakes_at, at=at, **ends))
    return changes


def a_step(run: int = 1, position: int = 0, status: StepStatus = StepStatus.SUCCEEDED, **changes: Any) -> StepRow:
    """A step in that status, or with the given fields."""
    fields: dict[str, Any] = {
        "run": run,
        "position": position,
        "name": f"step {position}",
        "kind": StepKind.FUNCTION,
        "target": "create",
        "status": status,
        "attempts": 1,
        "started_at": NOW,
    }
    if status in FINAL_STEPS:
        fields["ended_at"] = NOW + 5
    if status is StepStatus.SUCCEEDED:
        fields |= {"seq": position + 1, "output": '"done"'}
    if status is StepStatus.FAILED:
        fields |= {"seq": position + 1, "error": BOOM}
    return StepRow(**(fields | changes))


def an_attempt(run: int = 1, position: int = 0, attempt: int = 1, **changes: Any) -> AttemptRow:
    """A failed attempt."""
    fields: dict[str, Any] = {
        "run": run,
        "position": position,
        "attempt": attempt,
        "seq": attempt,
        "status": AttemptStatus.FAILED,
        "error": BOOM,
        "started_at": NOW,
        "ended_at": NOW + 7,
    }
    return AttemptRow(**(fields | changes))


def a_timer(run: int = 1, number: int = 0, **changes: Any) -> TimerRow:
    """A timer that has fired."""
    return TimerRow(
        **({"run": run, "number": number, "due_at": NOW, "seq": 50 + number, "fired_at": NOW + 9} | changes)
    )


def a_chunk(run: int = 1, offset: int = 0, **changes: Any) -> ChunkRow:
    """What the first attempt of the first step has emitted."""
    fields: dict[str, Any] = {
        "run": run,
        "offset": offset,
        "since": 0,
        "position": 0,
        "name": "step 0",
        "attempt": 1,
        "value": f'"{offset}"',
        "at": NOW + offset,
    }
    return ChunkRow(**(fields | changes))


def a_move(number: int = 1, status: RunStatus = RunStatus.COMPLETED, **changes: Any) -> RunMove:
    """The move of a running run."""
    fields: dict[str, Any] = {"number": number, "before": RunStatus.RUNNING, "status": status, "at": NOW + 20}
    if status is RunStatus.COMPLETED:
        fields["output"] = '"end"'
    if status is RunStatus.FAILED:
        fields["error"] = BOOM
    if status in {RunStatus.CANCELLED, RunStatus.SUSPENDED}:
        fields["reason"] = "because"
    return RunMove(**(fields | changes))


async def open_journal(path: str, failpoint: Callable[[str], None] | None = None) -> Journal:
    """The journal at `path`, without syncs."""
    return await Journal.open(path, durability="process", now_us=NOW, failpoint=failpoint)


async def outcomes_of(journal: Journal, changes: Sequence[Sequence[Change]]) -> list[Exception | None]:
    """What became of logical changes that were submitted together."""
    outcomes: list[Exception | None] = []
    told = asyncio.Event()

    def done(error: Exception | None) -> None:
        outcomes.append(error)
        if len(outcomes) == len(changes):
            told.set()

    for change in changes:
        journal.submit(change, done)
    if changes:
        await told.wait()
    return outcomes


def sqlite_error(code: int, message: str = "injected") -> sqlite3.OperationalError:
    """An error as SQLite raises it."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    error.sqlite_errorname = next(name for name, one in vars(sqlite3).items() if name[:7] == "SQLITE_" and one == code)
    return error


def raw(path: str, query: str, *parameters: object) -> list[Any]:
    """What a connection of somebody else gets for a query."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        return db.execute(query, parameters).fetchall()
    finally:
        db.close()
