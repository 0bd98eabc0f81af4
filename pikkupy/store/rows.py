"""Records as columns and back, with checksums.

A checksum is the CRC-32 of the values packed as MessagePack, which writes the type and the length before each value, so
that no two different rows are packed alike; that of a step has two times added to it. Of the single-bit faults of a
file that SQLite itself does not notice, most change a recorded value; the checksum names the run and the step instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar
from zlib import crc32

import msgspec

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import (
    MAX_OWN,
    MAX_RUN,
    OWN_BITS,
    AttemptRow,
    ChunkRow,
    ErrorInfo,
    RunMove,
    RunRow,
    RunStatus,
    SignalRow,
    StepRow,
    StepStatus,
    TimerRow,
)
from pikkupy.errors import JournalError
from pikkupy.payloads import Cipher

DAMAGED = " is damaged: what is recorded is not what was written; restore the file from a backup"

Columns = tuple[Any, ...]
Row = TypeVar("Row", bound=msgspec.Struct)

RUN_FIELDS, STEP_FIELDS = len(RunRow.__struct_fields__), len(StepRow.__struct_fields__)

_FOLD = 31  # bits
_LOWER = (1 << _FOLD) - 1
_pack = msgspec.msgpack.Encoder().encode


def _fields_of_run(names: str) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    return itemgetter(*map(RunRow.__struct_fields__.index, names.split()))


# What each checksum of a run is over. `wakes_at` and `progress` are in neither: they change by themselves.
_started_with = _fields_of_run(
    "number run_id workflow input created_at starts_at parent parent_position parent_attempt alone_since forked_from "
    "tags"
)
_moved = _fields_of_run("number status output error reason parked updated_at ended_at")
_SUCCEEDED = StepStatus.SUCCEEDED  # Python 3.11 takes long to find a member of an enum
_AS_IT_BEGINS = (RunStatus.RUNNING, None, None, None, None, None, None)


def key_of(run: int, number: int) -> int:
    """The key of what has that number, from 0, among its like of one run: of a step its position.

    Raises `OverflowError` for numbers that have no key.
    """
    if 0 <= number <= MAX_OWN and 0 <= run <= MAX_RUN:
        return run << OWN_BITS | number
    raise OverflowError(f"number {number:,} of run number {run:,}: a run has numbers up to {MAX_OWN:,}")


def aside_key_of(run: int, position: int) -> int:
    """The key of a step that was set aside: its position is negative. Raises as `key_of` does."""
    return key_of(run, MAX_OWN + 1 + position)


class SealedError(ErrorInfo, frozen=True, omit_defaults=True, gc=False):
    """An error in the file whose message and traceback are encoded together; what is said of them is empty then."""

    encoded: Cipher = Cipher("", "")


def run_columns(row: RunRow) -> Columns:
    """The columns of a run, with its two checksums: what it was started with, and what moves change."""
    error = _error_text(row.error)
    columns = (
        row.number,
        row.run_id,
        row.workflow,
        row.status._value_,
        row.input,
        row.output,
        error,
        row.reason,
        row.created_at,
        row.updated_at,
        row.ended_at,
        row.starts_at,
        row.wakes_at,
        None if row.parked is None else row.parked._value_,
        row.parent,
        row.parent_position,
        row.parent_attempt,
        row.alone_since,
        row.forked_from,
        row.tags,
        row.progress,
    )
    return (*columns, *_run_checksums(columns))


def new_run_columns(row: RunRow) -> Columns:
    """The columns of a run that begins: all that it can have by then, with the two checksums.

    Raises `ValueError` for one that has come further: it is started first, and then moved. Raises `OverflowError` when
    the file has had as many runs as it can number.
    """
    if row.number > MAX_RUN:
        raise OverflowError(f"run numbers end at {MAX_RUN:,}; go on in a new file")
    begun = (row.status, row.output, row.error, row.reason, row.ended_at, row.parked, row.progress)
    if begun != _AS_IT_BEGINS or row.updated_at != row.created_at:
        raise ValueError(f"run {row.run_id!r} is not as a run begins")
    ids = (row.number, row.run_id, row.workflow, row.input, row.created_at, row.starts_at)
    rest = (row.parent, row.parent_position, row.parent_attempt, row.alone_since, row.forked_from, row.tags)
    moved = (row.number, "running", None, None, None, None, row.created_at, None)
    return (*ids, row.wakes_at, *rest, crc32(_pack(ids + rest)), crc32(_pack(moved)))


def link_columns(row: RunRow) -> Columns:
    """What `link` wants: number, position, attempt, time, checksum."""
    start_checksum, _ = run_columns(row)[RUN_FIELDS:]
    return (row.number, row.parent_position, row.parent_attempt, row.alone_since, start_checksum)


def step_columns(row: StepRow) -> Columns:
    """The columns of a step, with its checksum."""
    columns = _step_columns(row)
    return (key_of(row.run, row.position), *columns[2:], _step_checksum(columns))


def success_columns(row: StepRow) -> Columns | None:
    """What is to be known of a step that has succeeded at its first attempt, with its checksum; None of any other.

    Key, name, kind, target ('': none), seq, output, ended_at, started_at, checksum.
    """
    if row.status is not _SUCCEEDED or row.attempts != 1 or row.cut_offs or row.forgiven or row.wake_at is not None:
        return None
    if row.started_at is None:
        return None
    columns = _step_columns(row)
    return (
        key_of(row.run, row.position),
        row.name,
        columns[3],
        row.target or "",
        row.seq,
        row.output,
        row.ended_at,
        row.started_at,
        _step_checksum(columns),
    )


def aside_columns(row: StepRow) -> Columns:
    """The columns of a step that is set aside, with its checksum."""
    columns = _step_columns(row)
    return (aside_key_of(row.run, row.position), *columns[2:], _step_checksum(columns))


def _step_columns(row: StepRow) -> Columns:
    return (
        row.run,
        row.position,
        row.name,
        row.kind._value_,
        row.target,
        row.attempts,
        row.cut_offs,
        row.forgiven,
        row.wake_at,
        row.seq,
        row.output,
        None if row.error is None else _error_text(row.error),
        row.status._value_,
        row.ended_at,
        row.started_at,
    )


def attempt_columns(row: AttemptRow) -> Columns:
    """The columns of an attempt, with its checksum."""
    columns = (
        row.run,
        row.position,
        row.attempt,
        row.seq,
        row.status._value_,
        _error_text(row.error),
        row.started_at,
        row.ended_at,
    )
    _, position, attempt, seq, *rest = columns
    return (key_of(row.run, seq), position, attempt, *rest, row.name, _checksum(columns))


def timer_columns(row: TimerRow) -> Columns:
    """The columns of a fired timer, with its checksum."""
    columns = (row.run, row.number, row.due_at, row.seq, row.fired_at)
    return (key_of(row.run, row.number), *columns[2:], _checksum(columns))


def signal_columns(row: SignalRow) -> Columns:
    """The columns of a signal, with its checksum."""
    columns = (row.run, row.seq, row.name, row.payload, row.sent_at)
    return (key_of(row.run, row.seq), *columns[2:], row.position, _checksum(columns))


def chunk_columns(row: ChunkRow) -> Columns:
    """The columns of a chunk, with its checksum."""
    columns = (row.run, row.offset, row.since, row.position, row.name, row.attempt, row.value, row.at)
    return (key_of(row.run, row.offset), *columns[2:], _checksum(columns))


def move_columns(move: RunMove) -> Columns:
    """What `move` wants: number, before, status, output, error, reason, parked, time, end, checksum, waking."""
    ended_at = move.at if move.status in FINAL_RUNS else None
    parked = None if move.parked is None else move.parked._value_
    changed = (move.status._value_, move.output, _error_text(move.error), move.reason, parked, move.at, ended_at)
    return (move.number, move.before._value_, *changed, _checksum((move.number, *changed)), move.wakes_at)


def run_of(columns: Columns) -> RunRow:
    """The run. Raises `JournalError` naming it if it is damaged."""
    what = "run {1!r} (number {0})"
    return _record(RunRow, columns[:RUN_FIELDS], columns[RUN_FIELDS:], _run_checksums, what)


def step_of(columns: Columns) -> StepRow:
    """The step. Raises `JournalError` naming it if it is damaged."""
    what = "step {2!r} (position {1}) of run number {0}"
    return _record(StepRow, columns[:STEP_FIELDS], columns[STEP_FIELDS], _step_checksum, what)


def step_without_output(columns: Columns) -> StepRow:
    """The step, with None in the place of its output: so it cannot be compared with its checksum."""
    return _record(StepRow, columns, None, lambda _: None, "step {2!r} (position {1}) of run number {0}")


def attempt_of(columns: Columns) -> AttemptRow:
    """The attempt. Raises `JournalError` naming it if it is damaged."""
    what = "attempt {2} of the step at position {1} of run number {0}"
    return _record(AttemptRow, columns[:9], columns[9], lambda fields: _checksum(fields[:8]), what)


def timer_of(columns: Columns) -> TimerRow:
    """The fired timer. Raises `JournalError` naming it if it is damaged."""
    return _record(TimerRow, columns[:5], columns[5], _checksum, "timer {1} of run number {0}")


def signal_of(columns: Columns) -> SignalRow:
    """A signal that no step has taken. Raises `JournalError` naming it if it is damaged."""
    what = "signal {2!r} (place {1}) of run number {0}"
    return _record(SignalRow, columns[:6], columns[6], lambda fields: _checksum(fields[:5]), what)


def chunk_of(columns: Columns) -> ChunkRow:
    """The chunk. Raises `JournalError` naming it if it is damaged."""
    what = "chunk {1} of step {4!r} of run number {0}"
    return _record(ChunkRow, columns[:8], columns[8], _checksum, what)


def _record(kind: type[Row], columns: Columns, recorded: object, checksum: Any, what: str) -> Row:
    """The record in the columns. `what` names it, by numbers of columns."""
    try:
        intact = checksum(columns) == recorded
        if intact:
            fields = dict(zip(kind.__struct_fields__, columns, strict=True))
            if fields.get("error") is None:
                return msgspec.convert(fields, kind)
            error = msgspec.json.decode(fields["error"], type=dict[str, Any])
            record = msgspec.convert(fields | {"error": error}, kind)
            if "encoded" not in error:
                return record
            return msgspec.structs.replace(record, error=msgspec.convert(error, SealedError))
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:  # the last: nested more deeply than any error
        raise damage(what.format(*columns)) from error
    raise damage(what.format(*columns))


def damage(what: str) -> JournalError:
    """What is said of a row, or of the place of one, that is not as it was written."""
    return JournalError(f"{what}{DAMAGED}")


def _run_checksums(columns: Sequence[Any]) -> tuple[int, int]:
    return crc32(_pack(_started_with(columns))), crc32(_pack(_moved(columns)))


def _step_checksum(columns: Sequence[Any]) -> int:
    """The CRC-32, and the two times added to it, so that a plain UPDATE can keep it true.

    `started_at` may be left as it was by a later row. Status and end are in the CRC-32 once there is an outcome; until
    then a step can be cancelled.
    """
    crc = crc32(_pack(columns[:12] if columns[9] is None else columns[:14]))
    return crc + _folded(columns[13]) + _folded(columns[14])


def _folded(at: object) -> int:
    """A time, µs, as a smaller number that any change of one bit changes, as `writing.sql` has it; of no time 0."""
    return (abs(at) >> _FOLD) + (abs(at) & _LOWER) if isinstance(at, int) else 0


def _checksum(values: Sequence[Any]) -> int:
    return crc32(_pack(values))


def _error_text(error: ErrorInfo | None) -> str | None:
    return None if error is None else msgspec.json.encode(error).decode()
