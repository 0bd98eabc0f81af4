"""From changes to one statement: a row for each, in their order, with the number of its kind.

A thread that runs a statement has to win the interpreter back after it, which beside a busy event loop can take the
5 ms of a switch interval: a transaction of a thousand changes should be one call. `writing.sql` tells what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from pikkupy.store.queries import insert
from pikkupy.store.rows import (
    aside_columns,
    aside_key_of,
    attempt_columns,
    chunk_columns,
    key_of,
    link_columns,
    move_columns,
    new_run_columns,
    signal_columns,
    step_columns,
    timer_columns,
)

# Rows of the largest statement. Statements have a power of two of rows, so that eleven prepared ones serve every
# number: preparing one takes as long as running it. Its 17,408 parameters are far below SQLite's 32,766.
MAX_ROWS = 1024


class Kind(IntEnum):
    """What a change is, as the triggers of `writing.sql` know it."""

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


class Op(msgspec.Struct, frozen=True, gc=False):
    """One change, ready to be written."""

    kind: Kind
    columns: tuple[Any, ...]  # in the order of its trigger
    error: str | None = None  # why it cannot be written at all


Statement = tuple[str, list[Any]]  # SQL and its parameters

_COLUMNS = 15
_FILL = [(None,) * (_COLUMNS - count) for count in range(_COLUMNS + 1)]
_NOTHING = (None,) * (2 + _COLUMNS)  # a row that does nothing

_ENCODERS: dict[type, tuple[Kind, Callable[[Any], tuple[Any, ...]]]] = {
    RunRow: (Kind.RUN, new_run_columns),
    StepRow: (Kind.STEP, step_columns),
    AttemptRow: (Kind.ATTEMPT, attempt_columns),
    TimerRow: (Kind.TIMER, timer_columns),
    SignalRow: (Kind.SIGNAL, signal_columns),
    SignalTaken: (Kind.TAKEN, lambda change: (key_of(change.run, change.seq), change.position)),
    ChunkRow: (Kind.CHUNK, chunk_columns),
    CodeChange: (Kind.CHANGE, lambda change: (change.run, change.change_id)),
    RunMove: (Kind.MOVE, move_columns),
    RunWakes: (Kind.WAKE, lambda change: (change.number, change.wakes_at)),
    RunProgress: (Kind.PROGRESS, lambda change: (change.number, change.progress)),
    StepsCancelled: (Kind.CANCEL, lambda change: (change.run, change.at)),
    StepReopened: (Kind.REOPEN, lambda change: step_columns(change.row)),
    StepsSetAside: (Kind.ASIDE, lambda change: (change.run, change.position, change.seq)),
    StepSetAside: (Kind.KEPT, lambda change: aside_columns(change.row)),
    SetAsideTaken: (Kind.BACK, lambda change: (aside_key_of(change.run, change.position),)),
    ChildLinked: (Kind.LINK, lambda change: link_columns(change.row)),
    RunDeleted: (Kind.DELETE, lambda change: (change.number,)),
    DeletedSwept: (Kind.SWEEP, lambda change: (0, change.rows)),
}


def op_of(change: Change) -> Op:
    """The change in columns. One that cannot be written (it has a lone surrogate) is refused when its turn comes."""
    kind, columns = _ENCODERS[type(change)]
    try:
        return Op(kind, columns(change))
    except (ValueError, OverflowError) as error:
        return Op(kind, (0,), error=f"{type(change).__name__} cannot be written: {error}")


def statements(ops: Sequence[Op], epoch: int) -> Iterator[Statement]:
    """What makes the changes, as the owner of that epoch: one statement for `MAX_ROWS` of them, or for less."""
    for first in range(0, len(ops), MAX_ROWS):
        part = ops[first : first + MAX_ROWS]
        values = list(chain.from_iterable(map(_row, part)))
        values[1] = epoch
        count = 1 << (len(part) - 1).bit_length()
        values += _NOTHING * (count - len(part))
        yield insert(count), values


def _row(op: Op) -> tuple[Any, ...]:
    columns = op.columns
    return (op.kind._value_, None, *columns, *_FILL[len(columns)])
