"""From changes to statements: few of them, each with many rows, in an order that means the same as one by one.

A thread that runs a statement has to win the interpreter back after it, which beside a busy event loop can take the
5 ms of a switch interval: a transaction of a thousand changes should be a handful of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import chain
from typing import Any

import msgspec

from pikkupy.core.model import (
    AttemptRow,
    Change,
    ChildLinked,
    ChunkRow,
    CodeChange,
    DeletedSwept,
    RunDeleted,
    RunMove,
    RunProgress,
    RunRow,
    RunWakes,
    SetAsideTaken,
    SignalRow,
    SignalTaken,
    StepReopened,
    StepRow,
    StepsCancelled,
    StepSetAside,
    StepsSetAside,
    TimerRow,
)
from pikkupy.errors import JournalError
from pikkupy.store.queries import many
from pikkupy.store.rows import (
    attempt_columns,
    chunk_columns,
    link_columns,
    move_columns,
    run_columns,
    signal_columns,
    step_columns,
    timer_columns,
)

# Rows of the largest statement. Statements have a power of two of rows, so that nine prepared ones serve every number:
# preparing one takes as long as running it. 256 rows of 15 columns are far below SQLite's 32,766 parameters.
MAX_ROWS = 256


class Kind(IntEnum):
    """What is written, in the order in which a group of changes writes it: runs before the steps that refer to them."""

    RUN = 0
    STEP = 1
    ATTEMPT = 2
    TIMER = 3
    SIGNAL = 4
    TAKEN = 5
    CHANGE = 6
    CHUNK = 7
    MOVE = 8
    WAKE = 9
    PROGRESS = 10
    CANCEL = 11
    REOPEN = 12
    ASIDE = 13
    KEPT = 14
    BACK = 15
    LINK = 16
    DELETE = 17
    SWEEP = 18


# By what each kind is written, one statement after another.
QUERIES = {
    Kind.RUN: ("insert_runs",),
    Kind.STEP: ("write_steps",),
    Kind.ATTEMPT: ("insert_attempts",),
    Kind.TIMER: ("insert_timers",),
    Kind.SIGNAL: ("insert_signals",),
    Kind.TAKEN: ("take_signals",),
    Kind.CHANGE: ("insert_changes",),
    Kind.CHUNK: ("insert_chunks",),
    Kind.MOVE: ("move_runs",),
    Kind.WAKE: ("wake_runs",),
    Kind.PROGRESS: ("tell_runs",),
    Kind.CANCEL: ("cancel_steps",),
    Kind.REOPEN: ("reopen_steps",),
    Kind.ASIDE: ("name_attempts", "drop_steps", "drop_timers"),
    Kind.KEPT: ("set_aside_steps",),
    Kind.BACK: ("take_set_aside",),
    Kind.LINK: ("link_children",),
    Kind.DELETE: ("begin_deletion", "delete_runs"),
    Kind.SWEEP: (
        "sweep_steps",
        "sweep_attempts",
        "sweep_timers",
        "sweep_signals",
        "sweep_chunks",
        "sweep_changes",
        "sweep_set_aside",
        "sweep_deleted",
    ),
}
# What it means if one of these changes fewer rows than it was given; of the others that may happen.
_REFUSED = {
    "write_steps": "a step that is final already never changes",
    "take_signals": "the signal was taken by another step",
    "move_runs": "the run does not have the status that the move begins with",
    "reopen_steps": "the step has neither failed nor been cancelled",
    "take_set_aside": "the step is not set aside",
    "link_children": "the child run is not there",
    "begin_deletion": "the run is not there, or it, its parent or a run that descends from it has not ended",
}
# Rare, and of the same run nothing is written together with one of these.
_ALONE = frozenset({Kind.REOPEN, Kind.ASIDE, Kind.BACK, Kind.LINK, Kind.DELETE, Kind.SWEEP})


class Op(msgspec.Struct, frozen=True, gc=False):
    """One change, ready to be written."""

    kind: Kind
    columns: tuple[Any, ...]  # the first is the number of the run, whatever the kind; 0: of none
    error: str | None = None  # why it cannot be written at all


class Statement(msgspec.Struct, frozen=True):
    """One call of SQLite."""

    sql: str
    parameters: list[Any]
    rows: int
    refused: str | None  # what it means if fewer rows changed; None: it may happen


_ENCODERS: dict[type, tuple[Kind, Callable[[Any], tuple[Any, ...]]]] = {
    RunRow: (Kind.RUN, run_columns),
    StepRow: (Kind.STEP, step_columns),
    AttemptRow: (Kind.ATTEMPT, attempt_columns),
    TimerRow: (Kind.TIMER, timer_columns),
    SignalRow: (Kind.SIGNAL, signal_columns),
    SignalTaken: (Kind.TAKEN, lambda change: (change.run, change.seq, change.position)),
    ChunkRow: (Kind.CHUNK, chunk_columns),
    CodeChange: (Kind.CHANGE, lambda change: (change.run, change.change_id)),
    RunMove: (Kind.MOVE, move_columns),
    RunWakes: (Kind.WAKE, lambda change: (change.number, change.wakes_at)),
    RunProgress: (Kind.PROGRESS, lambda change: (change.number, change.progress)),
    StepsCancelled: (Kind.CANCEL, lambda change: (change.run, change.at)),
    StepReopened: (Kind.REOPEN, lambda change: step_columns(change.row)),
    StepsSetAside: (Kind.ASIDE, lambda change: (change.run, change.position, change.seq)),
    StepSetAside: (Kind.KEPT, lambda change: step_columns(change.row)),
    SetAsideTaken: (Kind.BACK, lambda change: (change.run, change.position)),
    ChildLinked: (Kind.LINK, lambda change: link_columns(change.row)),
    RunDeleted: (Kind.DELETE, lambda change: (change.number,)),
    DeletedSwept: (Kind.SWEEP, lambda change: (0, change.rows)),
}


def op_of(change: Change) -> Op:
    """The change in columns. One that cannot be encoded (a lone surrogate) is refused when its turn comes."""
    kind, columns = _ENCODERS[type(change)]
    try:
        return Op(kind, columns(change))
    except (UnicodeError, OverflowError) as error:
        return Op(kind, (0,), error=f"{type(change).__name__} cannot be encoded: {error}")


def statements(ops: Iterable[Op]) -> Iterator[Statement]:
    """The statements that do the same as the changes one by one, or are refused together if one of those is."""
    group = _Group()
    runs, parameters = group.runs, group.parameters
    for op in ops:
        if op.error is not None:
            raise JournalError(op.error)
        kind, columns = op.kind, op.columns
        run = columns[0]
        if run in runs and not group.takes(kind, run):
            yield from group.statements()
            group = _Group()
            runs, parameters = group.runs, group.parameters
        runs.add(run)
        parameters[kind].append(columns)
        if kind >= Kind.MOVE:
            group.last[kind].add(run)
    yield from group.statements()


class _Group:
    """Changes that can be written kind by kind."""

    __slots__ = ("last", "parameters", "runs")

    def __init__(self) -> None:
        self.parameters: list[list[tuple[Any, ...]]] = [[] for _ in Kind]  # rows, by kind
        self.runs: set[int] = set()
        moved, alone = set[int](), set[int]()
        self.last: dict[Kind, set[int]] = dict.fromkeys(_ALONE, alone)  # runs, too
        self.last |= {Kind.MOVE: moved, Kind.WAKE: moved, Kind.PROGRESS: moved, Kind.CANCEL: set(), Kind.KEPT: set()}

    def takes(self, kind: Kind, run: int) -> bool:
        """False if writing a change of a run that the group has already together with it could silently do something
        else than writing it afterwards."""
        last = self.last
        if kind is Kind.RUN or kind in _ALONE or run in last[Kind.DELETE]:
            return False
        if kind in (Kind.MOVE, Kind.WAKE, Kind.PROGRESS):
            return run not in last[Kind.MOVE]  # of two moves of one run, one UPDATE would take any
        if kind is Kind.STEP or kind is Kind.CANCEL:
            return run not in last[Kind.CANCEL]
        return True

    def statements(self) -> Iterator[Statement]:
        for kind, rows in zip(Kind, self.parameters, strict=True):
            if not rows:
                continue
            start = 0
            for count in powers_of_two(len(rows)):
                values = list(chain.from_iterable(rows[start : start + count]))
                for query in QUERIES[kind]:
                    yield Statement(many(query, count), values, count, _REFUSED.get(query))
                start += count


def powers_of_two(rows: int) -> Sequence[int]:
    """`rows` as a sum of powers of two, none above `MAX_ROWS`, the largest first."""
    whole, rest = divmod(rows, MAX_ROWS)
    return [MAX_ROWS] * whole + [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
