"""What is in a file, table by table, and whether that bears out what was told."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

import msgspec

from tests.disk.records import Asked, Record, Told

TABLES = tuple(
    f"pikkupy_{name}"
    for name in (
        "runs",
        "steps",
        "attempts",
        "timers",
        "signals",
        "chunks",
        "changes",
        "set_aside",
        "tags",
        "deleted",
    )
)
JOURNAL = """
SELECT format, epoch, clean, max(next_number, (SELECT coalesce(max(number), 0) + 1 FROM pikkupy_runs)), created_at
FROM pikkupy_journal
"""
_pack = msgspec.msgpack.Encoder().encode
_QUERIES = [f"SELECT * FROM {table}" for table in TABLES]
_STARTED, _ENDED = 1, 3

Rows = tuple[Any, ...]


class Journal(NamedTuple):
    """What the row of the journal says, but for its owner."""

    format: int
    epoch: int
    clean: int
    next_number: int
    created_at: int


Key = tuple[Rows, Journal | None]
"""All that is in a file: equal keys are equal files for whoever opens them."""


def tables_of(db: sqlite3.Connection) -> Rows:
    """All rows of all tables but the journal's own; nothing before there are tables."""
    try:
        return tuple(tuple(db.execute(query).fetchall()) for query in _QUERIES)
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return ()
        raise


def journal_of(db: sqlite3.Connection) -> Journal | None:
    """The row of the journal; None before there is one."""
    try:
        rows = db.execute(JOURNAL).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return None
        raise
    return Journal(*rows[0]) if rows else None


def digest(tables: Rows) -> str:
    """A short name of all rows but the journal's own."""
    return "" if not any(tables) else blake2b(_pack(tables), digest_size=8).hexdigest()


class State:
    """The rows of one moment, as far as somebody may have been told of them."""

    def __init__(self, tables: Rows) -> None:
        self._tables = tables or ((),) * len(TABLES)

    @cached_property
    def runs(self) -> dict[str, str]:
        """Status by id."""
        return {row[1]: row[3] for row in self._tables[0]}

    @cached_property
    def _ids(self) -> dict[int, str]:
        return {row[0]: row[1] for row in self._tables[0]}

    @cached_property
    def steps(self) -> dict[tuple[str, str], str]:
        """Status by run and name."""
        return {(self._ids[row[1]], row[3]): row[13] for row in self._tables[1] if row[1] in self._ids}

    @cached_property
    def attempts(self) -> dict[tuple[str, str], int]:
        """How many have begun, by run and name of the step."""
        return {(self._ids[row[1]], row[3]): row[6] for row in self._tables[1] if row[1] in self._ids}

    @cached_property
    def signals(self) -> Counter[tuple[str, str]]:
        """How many by run and name."""
        return Counter((self._ids[row[1]], row[3]) for row in self._tables[4] if row[1] in self._ids)

    def is_under_way(self, names: Collection[str]) -> bool:
        """Whether a step of one of these names has begun and has not ended."""
        return any(status == "running" and name in names for (_, name), status in self.steps.items())

    def bears_out(self, told: Told) -> bool:
        """Whether this is so."""
        match told.what:
            case "started":
                return told.run in self.runs
            case "ended":
                return self.runs.get(told.run) == told.name
            case "retried":
                return self.runs.get(told.run, "failed") != "failed"
            case "deleted":
                return told.run not in self.runs
            case "signalled":
                return self.signals[told.run, told.name] >= int(told.value)
            case "seen":
                return self.steps.get((told.run, told.name)) == "succeeded"
            case "cut off":
                return self.steps.get((told.run, told.name)) == "failed"
            case "begun":
                attempts = self.attempts.get((told.run, told.name), 0)
                return attempts >= int(told.value) and self.steps[told.run, told.name] != "pending"
        raise AssertionError(f"nobody knows what {told.what!r} means")


def standing(records: Iterable[Record], state: State) -> list[Told]:
    """All that was told and must still be so in `state`, which is what a kill, an error or a loss of power has left.

    Who deletes a run takes back all that was told of it and of its children, who retries it that it has failed, and who
    starts it that it is not there. From the moment that somebody asks for that it may be so; but a run whose deletion
    was asked for is gone as a whole, or not at all.
    """
    told: list[Told] = []
    leaving: set[str] = set()
    for record in records:
        match record:
            case Asked("delete", run):
                leaving.add(run)
            case Asked("start", run):
                told = [each for each in told if (each.what, each.run) != ("deleted", run)]
            case Asked("retry", run):
                told = [each for each in told if each.run != run or each.what not in {"ended", "cut off"}]
            case Told("deleted", run):
                leaving.discard(run)
                told = [each for each in told if _root(each.run) != run] + [record]
            case Told():
                told.append(record)
            case _:
                pass
    gone = leaving - state.runs.keys()
    return [each for each in told if _root(each.run) not in gone]


def _root(run_id: str) -> str:
    """The run that is not the child of another one: the id of a child is that of its parent and more."""
    return run_id.partition("/")[0]
