"""What is known of runs: as they stand on disk, with what is under way in memory.

An engine asks so, and so does who looks at a file of which nothing is in memory here: the questions are the same.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from operator import attrgetter
from typing import Any, Protocol, TypeVar

from msgspec import structs

from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import (
    MAX_INTEGER,
    MAX_OWN,
    AttemptRow,
    RunFilter,
    RunRow,
    RunStatus,
    SignalRow,
    StepKind,
    StepRow,
)
from pikkupy.core.ports import Values
from pikkupy.engine.children import child_id
from pikkupy.engine.events import Event, Hub, Past, PastEvents
from pikkupy.engine.listing import check_limit, filter_of, number_of
from pikkupy.engine.views import (
    Attempt,
    Page,
    Run,
    Step,
    StepPage,
    WorkflowInfo,
    attempts_of,
    progress_of,
    run_of,
    step_of,
)
from pikkupy.errors import BadType, BadValue, JournalError, RunNotFound, WorkflowNotFound
from pikkupy.failures import storable
from pikkupy.progress import Progress
from pikkupy.registry import Registry, WorkflowFunction
from pikkupy.schemas import schema_of
from pikkupy.store import Reading, damage
from pikkupy.turns import Turns

Row = TypeVar("Row", RunRow, StepRow)
View = TypeVar("View")


class UnderWay(Protocol):
    """A run in memory, as far as it is shown."""

    @property
    def changed_at(self) -> int:
        """µs, the last change that is known; of what was reached last the file may know a newer one."""
        ...

    @property
    def reached(self) -> int:
        """How many steps it has reached."""
        ...

    @property
    def told(self) -> int:
        """How many of them events may tell of."""
        ...

    def live_rows(self) -> list[StepRow]:
        """Its steps without an outcome."""
        ...

    def progress(self) -> dict[int, Progress]:
        """What those of them that run have told last, by position."""
        ...


class Memory(Protocol):
    """The runs that are in memory."""

    @property
    def active(self) -> Mapping[str, UnderWay]:
        """By id."""
        ...

    def resident(self, number: int) -> UnderWay | None:
        """The run of that number."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """Whom a question goes to: the file, and what is in memory of its runs."""

    reading: Reading
    values: Values
    memory: Memory
    types_of: Callable[[str], tuple[Any, Any]]  # of a workflow: the annotations of its input and its output
    now_us: Callable[[], int]

    async def row(self, run_id: str) -> RunRow:
        """The run as it stands on disk. Raises `RunNotFound`, and `TypeError` for an id that is no text."""
        row: RunRow | None = await self.reading.run(run_id) if can_be(run_id) else None
        if row is None:
            raise not_found(run_id)
        return row


def not_found(run_id: str) -> RunNotFound:
    """The error that says so."""
    return RunNotFound(f"no run with the id {run_id!r}")


def can_be(run_id: object) -> bool:
    """True if a run may have that id. Raises `TypeError` for what is no text."""
    if not isinstance(run_id, str):
        raise BadType(f"run_id must be a str, not {type(run_id).__name__}: {run_id!r}")
    return run_id.isascii() or storable(run_id) == run_id


def types_of(registry: Registry, workflow: str) -> tuple[Any, Any]:
    """Annotations of input and output; `Any` if the workflow is not registered (any more)."""
    try:
        found: WorkflowFunction[Any, Any] = registry.find_workflow(workflow)
    except WorkflowNotFound:
        return Any, Any
    return found.data_type, found.result_type


def workflows_of(registry: Registry) -> list[WorkflowInfo]:
    """What can be started, by name, with what it takes and gives."""
    return [
        WorkflowInfo(
            name=one.name,
            description=one.__doc__,
            input=schema_of(one.data_type) if one.takes_data else None,
            output=schema_of(one.result_type),
        )
        for one in registry.workflows()
    ]


async def get_run(asked: Asked, run_id: str) -> Run:
    """The run, for users. Raises `RunNotFound`."""
    [run] = await _runs(asked, [await asked.row(run_id)], _refuse)
    return run


async def list_runs(
    asked: Asked,
    *,
    workflow: str | WorkflowFunction[Any, Any] | None,
    status: RunStatus | str | Iterable[RunStatus | str] | None,
    tags: Mapping[str, str] | None,
    id_prefix: str | None,
    error: str | None,
    text: str | None,
    created_after: datetime | None,
    created_before: datetime | None,
    limit: int,
    cursor: str | None,
    values: bool,
) -> Page:
    """A page of runs, newest first. Raises `TypeError` or `ValueError` for an argument that there cannot be."""
    which: RunFilter = filter_of(
        workflow=workflow,
        status=status,
        tags=tags,
        id_prefix=id_prefix,
        error=error,
        text=text,
        created_after=created_after,
        created_before=created_before,
    )
    rows, more = await asked.reading.page(which, limit=check_limit(limit), before=number_of(cursor))
    if not values:
        rows = [structs.replace(row, input="null", output=None) for row in rows]
    return Page(
        runs=tuple(await _runs(asked, rows, asked.reading.leave_out)), next_cursor=None if more is None else str(more)
    )


async def counts(asked: Asked) -> dict[str, dict[RunStatus, int]]:
    """How many runs there are, by workflow and status."""
    found: dict[str, dict[RunStatus, int]] = {}
    for workflow, status, count in await asked.reading.counts():
        found.setdefault(workflow, {})[status] = count
    return found


async def history(asked: Asked, run_id: str) -> list[Attempt]:
    """Every finished attempt of the run's steps, oldest first. Raises `RunNotFound`."""
    row = await asked.row(run_id)
    return await _attempts(run_id, *await asked.reading.attempts(row.number))


async def _attempts(
    run_id: str, steps: Sequence[StepRow], set_aside: Sequence[StepRow], rows: Sequence[AttemptRow]
) -> list[Attempt]:
    found, turns = list[Attempt](), Turns()
    try:
        for attempt in attempts_of(steps, set_aside, rows):
            found.append(attempt)
            await turns.after(0)
    except OverflowError as error:
        raise JournalError(f"run {run_id!r}: a recorded time of an attempt is none: {error}") from error
    return found


def _refuse(error: JournalError) -> None:
    raise error


async def _runs(asked: Asked, rows: Sequence[RunRow], damaged: Callable[[JournalError], None]) -> list[Run]:
    """The runs of these rows, for users; `damaged` is told of those that cannot be shown."""
    changed = await _changed(asked, [row.number for row in rows if row.status not in FINAL_RUNS])
    parents = [row.parent for row in rows if row.parent is not None]
    ids = await asked.reading.run_ids(parents) if parents else {}
    # Runs are deleted with those above them: one that is there without its parent is damage.
    lost = [row.number for row in rows if row.parent is not None and row.parent not in ids]
    alone = await asked.reading.run_ids(lost) if lost else {}

    def run(row: RunRow) -> Run:
        if row.number in alone:
            raise damage(f"its parent (run number {row.parent})")
        types = asked.types_of(row.workflow)
        return run_of(row, asked.values, changed.get(row.number), *types, ids.get(row.parent or 0))

    return await _shown(rows, run, damaged)


async def _shown(
    rows: Iterable[Row], show: Callable[[Row], View], damaged: Callable[[JournalError], None]
) -> list[View]:
    """What is shown of the rows. A time that no calendar has, or tags that are none, are damage as any other."""
    views, turns = list[View](), Turns()
    for row in rows:
        try:
            views.append(show(row))
        except OverflowError as error:
            damaged(JournalError(f"{_name(row)}: a recorded time is none: {error}"))
        except JournalError as error:
            damaged(JournalError(f"{_name(row)}: {error}"))
        await turns.after(_size(row))
    return views


def _size(row: RunRow | StepRow) -> int:
    """Characters of its values."""
    given = len(row.input) if isinstance(row, RunRow) else 0
    return given + len(row.output or "")


def _name(row: RunRow | StepRow) -> str:
    if isinstance(row, RunRow):
        return f"run {row.run_id!r}"
    return f"step {row.name!r} (position {row.position}) of run number {row.run}"


async def _changed(asked: Asked, numbers: list[int]) -> dict[int, int]:
    """When something of these unfinished runs was recorded last.

    A run in memory knows it of its many steps; what it has written just now without an outcome is among the last.
    """
    resident = asked.memory.resident
    known = {number: active.changed_at for number in numbers if (active := resident(number)) is not None}
    others = [number for number in numbers if number not in known]
    changed = await asked.reading.last_change(others) if others else {}
    if known:
        for number, recent in (await asked.reading.recent_change(list(known))).items():
            changed[number] = max(recent, known[number])
    return changed


async def steps(asked: Asked, run_id: str) -> list[Step]:
    """The steps of the run, for users. Raises `RunNotFound`."""
    row = await asked.row(run_id)
    progress = _progress(asked, run_id)
    return await _steps(asked, row, progress, await _step_rows(asked, row, asked.reading.steps))


async def some_steps(asked: Asked, run_id: str, *, first: int, limit: int, with_errors: bool) -> StepPage:
    """Some steps of the run, for users. Raises `RunNotFound`, and `BadValue`."""
    if not isinstance(first, int) or isinstance(first, bool) or not 0 <= first <= MAX_OWN:
        raise BadValue(f"first={first!r}: use a whole number of 0 or more")
    row = await asked.row(run_id)
    active, progress = asked.memory.active.get(run_id), _progress(asked, run_id)
    attempts, in_all = list[AttemptRow](), 0

    async def read(number: int) -> list[StepRow]:
        nonlocal attempts, in_all
        rows, attempts, in_all = await asked.reading.some_steps(
            number, first, check_limit(limit), with_errors=with_errors
        )
        return rows

    if with_errors:
        rows = await read(row.number)
    else:
        rows = await _step_rows(asked, row, read, range(first, first + check_limit(limit)))
        in_all = max(in_all, 0 if active is None else active.reached)
    shown = await _steps(asked, row, progress, rows)
    return StepPage(steps=shown, attempts=await _attempts(run_id, rows, (), attempts), in_all=in_all)


def _progress(asked: Asked, run_id: str) -> Mapping[int, Progress]:
    """What steps have told last, by position; to be asked for before their rows are read."""
    active = asked.memory.active.get(run_id)
    return {} if active is None else active.progress()


async def _steps(asked: Asked, row: RunRow, progress: Mapping[int, Progress], rows: Sequence[StepRow]) -> list[Step]:
    """These steps of the run, for users."""
    children: dict[int, str] = {}
    lost = set[int]()
    if any(step.kind is StepKind.WORKFLOW for step in rows):
        children = {child.position: child.run_id for child in await asked.reading.children(row.number)}
        lost = await _lost_children(asked, row, rows, children)

    def show(step: StepRow) -> Step:
        if step.position in lost:
            raise damage("its child run")
        return step_of(step, row.run_id, asked.values, progress.get(step.position), children.get(step.position))

    return await _shown(rows, show, asked.reading.leave_out)


async def _lost_children(asked: Asked, row: RunRow, rows: Sequence[StepRow], children: Mapping[int, str]) -> set[int]:
    """The positions of steps whose last attempt is a run that is there and that its parent does not find."""
    lost = dict[int, str]()
    for step in rows:
        if step.kind is StepKind.WORKFLOW and step.attempts:
            run_id = child_id(row, step.name, step.attempts)
            if children.get(step.position) != run_id:
                child = await asked.reading.run(run_id)
                if child is not None and (child.parent, child.parent_position) == (row.number, step.position):
                    lost[step.position] = run_id
    if not lost:
        return set()
    found = {child.run_id for child in await asked.reading.children(row.number)}  # it may have come since
    return {position for position, run_id in lost.items() if run_id not in found}


async def open_steps(asked: Asked, run_ids: Iterable[str]) -> dict[str, list[Step]]:
    """Per run the steps that it has reached and that have no outcome: of one in memory as they stand there."""
    here, elsewhere = dict[str, list[StepRow]](), list[str]()
    for run_id in run_ids:
        active = asked.memory.active.get(run_id)
        if active is None:
            elsewhere.append(run_id)
        elif rows := active.live_rows():
            here[run_id] = rows
    found = here | (await asked.reading.open_steps(elsewhere) if elsewhere else {})
    return {
        run_id: await _shown(rows, partial(step_of, run_id=run_id, values=asked.values), asked.reading.leave_out)
        for run_id, rows in found.items()
    }


async def _step_rows(
    asked: Asked, row: RunRow, read: Callable[[int], Awaitable[list[StepRow]]], within: range | None = None
) -> list[StepRow]:
    # What is under way is in memory first. It is looked at before the file, and later steps are left out: so every step
    # that the run has reached at this moment is in memory or in the file.
    active = asked.memory.active.get(row.run_id)
    live = [] if active is None else active.live_rows()
    shown = {step.position: step for step in live if within is None or step.position in within}
    reached = math.inf if active is None else active.reached
    rows = [
        step
        for step in await read(row.number)
        if step.position < reached and (step.position not in shown or step.status in FINAL_STEPS)
    ]
    if shown:
        for step in rows:
            shown.pop(step.position, None)
        rows += shown.values()
        rows.sort(key=attrgetter("position"))
    return rows


def past_events(asked: Asked, run_id: str, after: int | None) -> PastEvents:
    """The run's events up to what is recorded when it is read; it raises `RunNotFound` where one is awaited."""

    async def find() -> int:
        return (await asked.row(run_id)).number

    return PastEvents(Hub(0), find, partial(past_of, asked, run_id), after)


async def some_events(asked: Asked, run_id: str, *, after: int | None, limit: int) -> list[Event]:
    """Some of the run's events, for users. Raises `RunNotFound`, and `BadValue`."""
    found, most = list[Event](), check_limit(limit)
    async for event in past_events(asked, run_id, after):
        found.append(event)
        if len(found) == most:
            break
    return found


async def past_of(asked: Asked, run_id: str, place: int, reached: int) -> Past:
    """For readers of events, who have seen so many places and steps: the run up to now. Raises `RunNotFound`."""
    reading = asked.reading
    row = await asked.row(run_id)
    found, attempts, signals = list[StepRow](), list[AttemptRow](), list[SignalRow]()

    async def read(number: int) -> list[StepRow]:
        nonlocal found, attempts, signals
        found, attempts, signals = await reading.past(number, place, reached)
        return found

    while True:
        active = asked.memory.active.get(run_id)
        here = math.inf if active is None else active.told
        rows = [step for step in await _step_rows(asked, row, read) if step.position < here]
        # Of later steps, which are left out, nothing is told yet; nor of what came after: its place would hide theirs.
        placed: list[StepRow | AttemptRow] = [*found, *(attempt for attempt in attempts if not attempt.name)]
        until = min((row.seq for row in placed if row.seq and row.position >= here), default=MAX_INTEGER)
        before, row = row, await asked.row(run_id)
        if row.status is before.status:
            begun = row.starts_at <= asked.now_us()
            return Past(row, rows, attempts, signals, progress_of(row), begun, place, until)
        # It has ended, perhaps, after it was looked at: nothing may be missing before its end.
