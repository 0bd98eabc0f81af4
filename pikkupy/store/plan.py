"""From changes to one statement: a row for each, in their order, with the number of its kind.

A thread that runs a statement has to win the interpreter back after it, which beside a busy event loop can take the
5 ms of a switch interval: a transaction of a thousand changes should be one call. `writing.sql` tells what it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
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
    success_columns,
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
    STARTED = 19
    SUCCEEDED = 20
    COMPLETED = 21


class Op(msgspec.Struct, frozen=True, gc=False):
    """One change, ready to be written."""

    kind: Kind
    columns: tuple[Any, ...]  # in the order of its trigger
    error: str | None = None  # why it cannot be written at all


Statement = tuple[str, list[Any]]  # SQL and its parameters

_USUAL = frozenset({Kind.STARTED, Kind.SUCCEEDED, Kind.COMPLETED})
_SUCCEEDED = Kind.SUCCEEDED  # Python 3.11 takes long to find a member of an enum

# A parameter that is None costs as much as ten others: Python's module looks each time for an adapter of its type. So
# what no trigger reads is a number.
_COLUMNS, _USUAL_COLUMNS = 15, 9
_FILL = [(0,) * count for count in range(_COLUMNS + 1)]
_NO_KIND = _NO_EPOCH = -1

_BY_ITSELF = (None,) * 7  # wakes_at, parent … tags of a run
_WELL = ("running", "completed")  # before and after a move


def _run_op(row: RunRow) -> Op:
    columns = new_run_columns(row)
    if columns[6:13] == _BY_ITSELF and row.starts_at == row.created_at:
        return Op(Kind.STARTED, (*columns[:5], *columns[13:]))
    return Op(Kind.RUN, columns)


def _step_op(row: StepRow) -> Op:
    columns = success_columns(row)
    return Op(Kind.STEP, step_columns(row)) if columns is None else Op(_SUCCEEDED, columns)


def _move_op(move: RunMove) -> Op:
    columns = move_columns(move)
    if columns[1:3] == _WELL:
        return Op(Kind.COMPLETED, (columns[0], columns[3], columns[7], columns[9]))
    return Op(Kind.MOVE, columns)


def _of(kind: Kind, columns: Callable[[Any], tuple[Any, ...]]) -> Callable[[Any], Op]:
    return lambda change: Op(kind, columns(change))


_ENCODERS: dict[type, Callable[[Any], Op]] = {
    RunRow: _run_op,
    StepRow: _step_op,
    AttemptRow: _of(Kind.ATTEMPT, attempt_columns),
    TimerRow: _of(Kind.TIMER, timer_columns),
    SignalRow: _of(Kind.SIGNAL, signal_columns),
    SignalTaken: _of(Kind.TAKEN, lambda change: (key_of(change.run, change.seq), change.position)),
    ChunkRow: _of(Kind.CHUNK, chunk_columns),
    CodeChange: _of(Kind.CHANGE, lambda change: (change.run, change.change_id)),
    RunMove: _move_op,
    RunWakes: _of(Kind.WAKE, lambda change: (change.number, change.wakes_at)),
    RunProgress: _of(Kind.PROGRESS, lambda change: (change.number, change.progress)),
    StepsCancelled: _of(Kind.CANCEL, lambda change: (change.run, change.at)),
    StepReopened: _of(Kind.REOPEN, lambda change: step_columns(change.row)),
    StepsSetAside: _of(Kind.ASIDE, lambda change: (change.run, change.position, change.seq)),
    StepSetAside: _of(Kind.KEPT, lambda change: aside_columns(change.row)),
    SetAsideTaken: _of(Kind.BACK, lambda change: (aside_key_of(change.run, change.position),)),
    ChildLinked: _of(Kind.LINK, lambda change: link_columns(change.row)),
    RunDeleted: _of(Kind.DELETE, lambda change: (change.number,)),
    DeletedSwept: _of(Kind.SWEEP, lambda change: (0, change.rows)),
}


def op_of(change: Change) -> Op:
    """The change in columns. One that cannot be written (it has a lone surrogate) is refused when its turn comes."""
    try:
        return _ENCODERS[type(change)](change)
    except (ValueError, OverflowError) as error:
        return refused(f"{type(change).__name__} cannot be written: {error}")


def refused(why: str) -> Op:
    """What cannot be written at all, and is told so when its turn comes."""
    return Op(Kind.RUN, (0, ""), error=why)


def statements(ops: Sequence[Op], epoch: int) -> Iterator[Statement]:
    """What makes the changes, as the owner of that epoch: one statement for `MAX_ROWS` of them, or for less."""
    for first in range(0, len(ops), MAX_ROWS):
        part = ops[first : first + MAX_ROWS]
        usual = all(op.kind in _USUAL for op in part)
        width = _USUAL_COLUMNS if usual else _COLUMNS
        values: list[Any] = []
        for op in part:
            columns = op.columns
            values += (op.kind._value_, _NO_EPOCH, *columns, *_FILL[width - len(columns)])
        values[1] = epoch
        count = 1 << (len(part) - 1).bit_length()
        values += (_NO_KIND, _NO_EPOCH, *_FILL[width]) * (count - len(part))
        yield insert(count, usual=usual), values
