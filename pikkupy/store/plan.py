"""From changes to statements: few of them, each with many rows, in an order that means the same as one by one.

A thread that runs a statement has to win the interpreter back after it, which beside a busy event loop can take the
5 ms of a switch interval: a transaction of a thousand changes should be a handful of calls.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from typing import Any

import msgspec

from pikkupy.core.model import (
    AttemptRow,
    Change,
    RunDeleted,
    RunMove,
    RunRow,
    StepRow,
    StepsCancelled,
    TimerRow,
)
from pikkupy.errors import JournalError
from pikkupy.store.queries import many
from pikkupy.store.rows import attempt_columns, move_columns, run_columns, step_columns, timer_columns

# Rows of the largest statement. Statements have a power of two of rows, so that ten prepared ones serve every number:
# preparing one takes as long as running it. 512 rows of 15 columns are far below SQLite's 32,766 parameters.
MAX_ROWS = 512


class Kind(IntEnum):
    """What is written, in the order in which a group of changes writes it: runs before the steps that refer to them."""

    RUN = 0
    STEP = 1
    ATTEMPT = 2
    TIMER = 3
    MOVE = 4
    CANCEL = 5
    DELETE = 6


_QUERY = {
    Kind.RUN: "insert_runs",
    Kind.STEP: "write_steps",
    Kind.ATTEMPT: "insert_attempts",
    Kind.TIMER: "insert_timers",
    Kind.MOVE: "move_runs",
    Kind.CANCEL: "cancel_steps",
    Kind.DELETE: "delete_runs",
}
_REFUSED = {
    Kind.STEP: "a step that is final already never changes",
    Kind.MOVE: "the run does not have the status that the move begins with",
}


class Op(msgspec.Struct, frozen=True, gc=False):
    """One change, ready to be written."""

    kind: Kind
    run: int
    columns: tuple[Any, ...]
    error: str | None = None  # why it cannot be written at all


class Statement(msgspec.Struct, frozen=True):
    """One call of SQLite."""

    sql: str
    parameters: list[Any]
    rows: int
    refused: str | None  # what it means if fewer rows changed; None: it may happen


_ENCODERS: dict[type, Callable[[Any], Op]] = {
    RunRow: lambda row: Op(Kind.RUN, row.number, run_columns(row)),
    StepRow: lambda row: Op(Kind.STEP, row.run, step_columns(row)),
    AttemptRow: lambda row: Op(Kind.ATTEMPT, row.run, attempt_columns(row)),
    TimerRow: lambda row: Op(Kind.TIMER, row.run, timer_columns(row)),
    RunMove: lambda move: Op(Kind.MOVE, move.number, move_columns(move)),
    StepsCancelled: lambda change: Op(Kind.CANCEL, change.run, (change.run, change.at)),
    RunDeleted: lambda change: Op(Kind.DELETE, change.number, (change.number,)),
}


def op_of(change: Change) -> Op:
    """The change in columns. One that cannot be encoded (a lone surrogate) is refused when its turn comes."""
    try:
        return _ENCODERS[type(change)](change)
    except (UnicodeError, OverflowError) as error:
        return Op(Kind.RUN, 0, (), error=f"{type(change).__name__} cannot be encoded: {error}")


def statements(ops: Iterable[Op]) -> Iterator[Statement]:
    """The statements that do the same as the changes one by one, or are refused together if one of those is."""
    group = _Group()
    for op in ops:
        if op.error is not None:
            raise JournalError(op.error)
        if not group.takes(op):
            yield from group.statements()
            group = _Group()
        group.add(op)
    yield from group.statements()


class _Group:
    """Changes that can be written kind by kind."""

    __slots__ = ("_last", "_parameters", "_rows", "_runs")

    def __init__(self) -> None:
        self._rows: defaultdict[Kind, int] = defaultdict(int)
        self._parameters: defaultdict[Kind, list[Any]] = defaultdict(list)
        self._runs: set[int] = set()
        self._last: dict[Kind, set[int]] = {Kind.MOVE: set(), Kind.CANCEL: set(), Kind.DELETE: set()}  # runs, too

    def takes(self, op: Op) -> bool:
        """False if writing `op` together with the group could silently do something else than writing it afterwards."""
        kind, run, last = op.kind, op.run, self._last
        if run not in self._runs:
            return True
        if kind is Kind.RUN or run in last[Kind.DELETE]:
            return False
        if kind is Kind.MOVE:
            return run not in last[Kind.MOVE]  # of two moves of one run, one UPDATE would take any
        if kind is Kind.STEP or kind is Kind.CANCEL:
            return run not in last[Kind.CANCEL]
        return True

    def add(self, op: Op) -> None:
        kind = op.kind
        self._runs.add(op.run)
        self._rows[kind] += 1
        self._parameters[kind].extend(op.columns)
        if kind >= Kind.MOVE:
            self._last[kind].add(op.run)

    def statements(self) -> Iterator[Statement]:
        for kind in sorted(self._rows):
            parameters = self._parameters[kind]
            width, start = len(parameters) // self._rows[kind], 0
            for rows in powers_of_two(self._rows[kind]):
                end = start + rows * width
                yield Statement(many(_QUERY[kind], rows), parameters[start:end], rows, _REFUSED.get(kind))
                start = end


def powers_of_two(rows: int) -> Sequence[int]:
    """`rows` as a sum of powers of two, none above `MAX_ROWS`, the largest first."""
    whole, rest = divmod(rows, MAX_ROWS)
    return [MAX_ROWS] * whole + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
