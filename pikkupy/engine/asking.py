"""What is known of runs: as they stand on disk, with what is under way in memory."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from operator import attrgetter
from typing import Any

from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import CODE_ACCEPTED, RunRow, StepKind, StepRow
from pikkupy.engine.events import Past
from pikkupy.engine.host import Host
from pikkupy.engine.parts import Parts
from pikkupy.engine.views import Run, Step, progress_of, run_of, step_of
from pikkupy.errors import WorkflowNotFound
from pikkupy.registry import WorkflowFunction


async def runs(host: Host, rows: list[RunRow]) -> list[Run]:
    """The runs of these rows, for users."""
    open_runs = [row.number for row in rows if row.status not in FINAL_RUNS]
    changed = await host.journal.last_change(open_runs) if open_runs else {}
    parents = [row.parent for row in rows if row.parent is not None]
    ids = await host.journal.run_ids(parents) if parents else {}
    return [
        run_of(row, host.values, changed.get(row.number), *types_of(host, row.workflow), ids.get(row.parent or 0))
        for row in rows
    ]


def types_of(host: Host, workflow: str) -> tuple[Any, Any]:
    """Annotations of input and output; `Any` if the workflow is not registered (any more)."""
    try:
        found: WorkflowFunction[Any, Any] = host.registry.find_workflow(workflow)
    except WorkflowNotFound:
        return Any, Any
    return found.data_type, found.result_type


async def steps(parts: Parts, run_id: str) -> list[Step]:
    """The steps of the run, for users. Raises `RunNotFound`."""
    row = await parts.row(run_id)
    active = parts.residents.active.get(run_id)
    progress = {} if active is None else active.progress()
    rows = await _step_rows(parts, row, parts.host.journal.steps)
    children: dict[int, str] = {}
    if any(step.kind is StepKind.WORKFLOW for step in rows):
        children = {child.position: child.run_id for child in await parts.host.journal.children(row.number)}
    return [
        step_of(step, run_id, parts.host.values, progress.get(step.position), children.get(step.position))
        for step in rows
    ]


async def _step_rows(parts: Parts, row: RunRow, read: Callable[[int], Awaitable[list[StepRow]]]) -> list[StepRow]:
    # What is under way is in memory first. It is looked at before the file, and later steps are left out: so every step
    # that the run has reached at this moment is in memory or in the file.
    active = parts.residents.active.get(row.run_id)
    shown = {} if active is None else {step.position: step for step in active.live_rows()}
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


async def past_of(parts: Parts, run_id: str, place: int, reached: int) -> Past:
    """For readers of events, who have seen so many places and steps: the run up to now. Raises `RunNotFound`."""
    journal = parts.host.journal
    row = await parts.row(run_id)
    while True:
        attempts = await journal.attempt_rows(row.number)
        signals = await journal.signals(row.number)
        set_aside = [one.position or 0 for one in signals if one.name == CODE_ACCEPTED and one.seq > place]
        seen = min([reached, *set_aside])
        rows = await _step_rows(parts, row, partial(journal.steps_after, place=place, reached=seen))
        before, row = row, await parts.row(run_id)
        if row.status is before.status:
            begun = row.starts_at <= parts.host.now_us()
            return Past(row, rows, attempts, signals, progress_of(row), begun, place)
        # It has ended, perhaps, after it was looked at: nothing may be missing before its end.
