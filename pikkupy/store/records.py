"""Whether the rows of a journal are what was written: each is compared with its checksum.

That is over what is in the file, so it needs no payload codec. A few rows are read at a time: an engine that writes
meanwhile waits for nothing, and can empty its write-ahead log.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import msgspec

from pikkupy.errors import JournalError
from pikkupy.store.connection import REFUSALS
from pikkupy.store.queries import QUERIES
from pikkupy.store.rows import DAMAGED, Columns, attempt_of, chunk_of, run_of, signal_of, step_of, timer_of

AT_ONCE = 1_000  # rows that are read in one transaction

_DECODE: dict[str, Callable[[Columns], Any]] = {
    "each_run": run_of,
    "each_step": step_of,
    "each_attempt": attempt_of,
    "each_timer": timer_of,
    "each_signal": signal_of,
    "each_chunk": chunk_of,
    "each_set_aside": step_of,
}


class Records(msgspec.Struct, frozen=True):
    """What the rows are like."""

    rows: int  # that were compared
    damaged: int
    first: tuple[str, ...]  # of the damaged ones, in words


def compare(db: sqlite3.Connection, most: int) -> Records:
    """Compare every row with its checksum, and name at most so many of the damaged ones.

    What is left of deleted runs does not count, nor does a signal that a step has taken: nobody reads that.
    """
    rows, damaged, first = 0, 0, list[str]()
    for query, decode in _DECODE.items():
        after: int | None = -1
        try:
            while after is not None:
                count, wrong, after = _some(db, query, decode, after)
                rows += count
                named = [what for number, error in wrong if (what := _named(db, number, error))]
                damaged += len(named)
                first += named[: most - len(first)]
        except REFUSALS as error:  # the pages are damaged; of the other tables the rest is told all the same
            damaged += 1
            kind = query.removeprefix("each_").replace("_", " ")
            first += [f"rows of the kind '{kind}' behind key {after}: {error}"][: most - len(first)]
    return Records(rows, damaged, tuple(first))


def _some(
    db: sqlite3.Connection, query: str, decode: Callable[[Columns], Any], after: int
) -> tuple[int, list[tuple[int, JournalError]], int | None]:
    """How many the next rows are, the damaged ones with the number of their run, and the last key; None: no more."""
    count, wrong, last = 0, list[tuple[int, JournalError]](), after
    with closing(db.execute(QUERIES[query], {"after": after, "limit": AT_ONCE})) as found:
        for last, *columns in found:  # noqa: B007 - it is what the next ones come after
            count += 1
            try:
                decode(tuple(columns))
            except JournalError as error:
                wrong.append((columns[0], error))
    return count, wrong, last if count == AT_ONCE else None


def _named(db: sqlite3.Connection, number: int, error: JournalError) -> str | None:
    """Which row that is, with the id of its run; None if the run is not there."""
    found = db.execute(QUERIES["run_by_number"], (number,)).fetchone()  # its id may be what is damaged
    if found is None:
        return None
    what, run = str(error).removesuffix(DAMAGED), f"run number {number}"
    return what.removesuffix(run) + f"run {found[1]!r}" if what.endswith(run) else what
