"""What users see of runs, steps and attempts, made from the journal's rows. Values are decoded, times are aware."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Any

import msgspec

from pikkupy.core.model import (
    AttemptRow,
    AttemptStatus,
    ChunkRow,
    ErrorInfo,
    RunRow,
    RunStatus,
    StepKind,
    StepRow,
    StepStatus,
)
from pikkupy.core.ports import Values
from pikkupy.engine.live import only_attempt, step_id
from pikkupy.engine.tags import tags_of
from pikkupy.moments import moment
from pikkupy.progress import Progress
from pikkupy.services import invocation_id


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One execution of a workflow, as it stood when it was asked for."""

    id: str
    workflow: str
    status: RunStatus
    input: Any
    output: Any
    error: ErrorInfo | None
    """`type`, `message` and `traceback` of a failed run."""
    reason: str | None
    """Why it was cancelled or is suspended."""
    tags: dict[str, str]
    """What it was started with, to be found by."""
    created_at: datetime
    starts_at: datetime
    """When its body begins: at once, or when `start` was told to. Of a fork, when that of the run did whose history it
    shares: recorded timers count from then. `created_at` is when the fork was made."""
    updated_at: datetime
    """The last recorded change of the run or one of its steps."""
    ended_at: datetime | None
    parent_run_id: str | None
    """The run whose step it is."""
    forked_from: str | None
    """The run whose history it began with."""
    progress: Progress | None
    """How far it says that it is: a fraction from 0 to 1, or a text."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One durable call of a run."""

    name: str
    """With its ordinal if the run has reached the name before: `name`, `name#1`."""
    kind: StepKind
    target: str | None
    """The function's or workflow's name."""
    status: StepStatus
    attempts: int
    """Attempts that have begun."""
    started_at: datetime | None
    """When its first attempt began; until then, and of sleeps, when the run reached it."""
    ended_at: datetime | None
    output: Any
    """Of an approval the pair of the decision and who has made it, or `None` if it has expired."""
    error: ErrorInfo | None
    """Of the last failed attempt; `None` after a success."""
    wake_at: datetime | None
    """When the sleep ends or the next attempt begins; kept afterwards."""
    step_id: str
    invocation_id: str
    child_run_id: str | None
    """The run that its newest attempt is, if it is a child run; not of a step that a fork shares with its source."""
    progress: Progress | None = None
    """What its attempt has told last, while it runs: a fraction from 0 to 1, or a text."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One finished attempt of a step."""

    step_name: str
    attempt: int
    status: AttemptStatus
    error: ErrorInfo | None
    started_at: datetime
    ended_at: datetime


class Slots(msgspec.Struct, frozen=True, kw_only=True):
    """The slots of one kind of worker."""

    running: int
    """Attempts that have one."""
    waiting: int
    """Attempts that wait for one."""
    limit: int
    """How many there are: `async_workers`, `thread_workers`, `process_workers`."""


class WorkflowInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow that can be started."""

    name: str
    description: str | None
    """Its docstring."""
    input: dict[str, Any] | None
    """JSON Schema of what it takes; `None` if it takes nothing."""
    output: dict[str, Any]
    """JSON Schema of what it gives."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine does at a moment."""

    workers: dict[str, Slots]
    """By kind: `async` (with inline steps), `thread`, `process`."""
    resident_runs: int
    """Runs in memory; the others wait in the file."""
    resident_limit: int
    """`Config.resident_runs`: beyond it those that only wait leave memory."""
    waits_for_disk: str | None
    """Why nothing can be written now, if that is so: it goes on by itself."""


class StepPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some steps of a run, in the order in which it reached them, with their finished attempts, oldest first."""

    steps: list[Step]
    attempts: list[Attempt]
    in_all: int
    """How many steps there are, or with errors if these were asked for."""


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """One value that a step has emitted into its run's stream."""

    offset: int
    """Its place in the stream: 0, 1, 2 … in the order of arrival."""
    step_name: str
    attempt: int
    since: int
    """The offset of the first chunk of the same execution. A chunk whose `offset` is its `since` begins another one, a
    retry or an attempt run again after a crash: it takes the place of all that its step has emitted before."""
    value: Any
    at: datetime
    """When it arrived at the engine."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some runs, newest first, and where the next page begins."""

    runs: tuple[Run, ...]
    next_cursor: str | None
    """For the next call of `list_runs`; `None` exactly when no older run is left."""


def _maybe(us: int | None) -> datetime | None:
    return None if us is None else moment(us)


def run_of(
    row: RunRow, values: Values, changed_at: int | None, input_type: Any, output_type: Any, parent: str | None
) -> Run:
    """The public form of a run; `changed_at` is the newest change among its steps, `parent` the id of its parent."""
    return Run(
        id=row.run_id,
        workflow=row.workflow,
        status=row.status,
        input=shown(values, row.input, input_type),
        output=shown(values, row.output, output_type),
        error=row.error,
        reason=row.reason,
        tags=tags_of(row.tags),
        created_at=moment(row.created_at),
        starts_at=moment(row.starts_at),
        updated_at=moment(max(row.updated_at, changed_at or 0)),
        ended_at=_maybe(row.ended_at),
        parent_run_id=parent,
        forked_from=row.forked_from,
        progress=progress_of(row),
    )


def progress_of(row: RunRow) -> Progress | None:
    """How far the run says that it is."""
    if row.progress is None:
        return None
    try:
        return msgspec.json.decode(row.progress, type=float | str)
    except (msgspec.MsgspecError, UnicodeError):
        return row.progress  # no checksum covers it: it is only shown


def step_of(
    row: StepRow, run_id: str, values: Values, progress: Progress | None = None, child: str | None = None
) -> Step:
    """The public form of a step; `progress` is what it has told last, `child` the id of its child run."""
    return Step(
        name=row.name,
        kind=row.kind,
        target=row.target,
        status=row.status,
        attempts=row.attempts,
        started_at=_maybe(row.started_at),
        ended_at=_maybe(row.ended_at),
        output=None if row.kind in (StepKind.SLEEP, StepKind.SUSPEND) else shown(values, row.output, Any),
        error=row.error,
        wake_at=_maybe(row.wake_at),
        step_id=step_id(run_id, row.name),
        invocation_id=invocation_id(run_id, row.name),
        child_run_id=child,
        progress=progress if row.status is StepStatus.RUNNING else None,
    )


def chunk_of(row: ChunkRow, values: Values) -> Chunk:
    """The public form of a chunk."""
    return Chunk(
        offset=row.offset,
        step_name=row.name,
        attempt=row.attempt,
        since=row.since,
        value=shown(values, row.value, Any),
        at=moment(row.at),
    )


def attempts_of(
    steps: Sequence[StepRow], aside: Sequence[StepRow], attempts: Iterable[AttemptRow]
) -> Iterator[Attempt]:
    """Every finished attempt, oldest first, also of steps that were set `aside`.

    A step that ended with its first attempt tells it by its own row.
    """
    names = {row.position: row.name for row in steps}
    listed = [(row.seq, row, row.name or names.get(row.position, "?")) for row in attempts]
    told = {seq for seq, _, _ in listed}
    listed += [
        (row.seq, only_attempt(row), row.name)
        for row in (*steps, *aside)
        if row.seq is not None and row.attempts == 1 and row.seq not in told
    ]
    return (_attempt_of(row, name) for _, row, name in sorted(listed, key=itemgetter(0)))


def _attempt_of(row: AttemptRow, name: str) -> Attempt:
    return Attempt(
        step_name=name,
        attempt=row.attempt,
        status=row.status,
        error=row.error,
        started_at=moment(row.started_at),
        ended_at=moment(row.ended_at),
    )


def shown(values: Values, text: str | None, annotation: Any) -> Any:
    """The decoded value; plain JSON values where its type cannot be found or no longer fits."""
    if text is None:
        return None
    try:
        return values.decode(text, annotation, what="value")
    except Exception:  # noqa: BLE001 - to show something beats to show nothing
        return values.decode_plain(text)
