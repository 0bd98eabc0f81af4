"""The overview: how all runs stand, what has ended lately, and what the engine does just now."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pikkupy.clock import now
from pikkupy.console.finding import counts_of
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus
from pikkupy.engine import Load, Run
from pikkupy.errors import EngineClosed
from pikkupy.http.asked import Ask
from pikkupy.showing.waits import took
from pikkupy.showing.words import lasted, local

NEWEST = 500  # runs that the chart is made of: those that began last
PARTS = 30  # of the chart
HEIGHT = 80
WIDTH = 12  # of a part


class Stack(NamedTuple):
    """The runs that began in one part of the time."""

    x: int
    title: str
    blocks: list[tuple[str, float, float]]
    """Status, top and height."""


class Chart(NamedTuple):
    """When the newest runs began, and what has become of them."""

    stacks: list[Stack]
    runs: int
    begin: str
    end: str
    part: str
    """How long each part is."""


async def overview_of(ask: Ask) -> dict[str, Any]:
    """What the page shows."""
    by_workflow = await counts_of(ask)
    totals = {status: sum(one.get(status, 0) for one in by_workflow.values()) for status in RunStatus}
    newest = (await ask.engine.list_runs(limit=NEWEST, values=False)).runs
    failed = (await ask.engine.list_runs(status=RunStatus.FAILED, limit=5, values=False)).runs
    unfinished = [run for run in newest if run.status not in FINAL_RUNS]
    lengths = sorted(took(run, run.ended_at) for run in newest if run.ended_at is not None)
    return {
        "totals": totals,
        "chart": chart_of(newest, now()),
        "failed": [(run, ask.shown(run)["error"]) for run in failed],
        "oldest": min(unfinished, key=lambda run: run.created_at) if unfinished else None,
        "p50": lasted(at_most(lengths, 50)) if lengths else None,
        "p95": lasted(at_most(lengths, 95)) if lengths else None,
        "ended": len(lengths),
        "load": await _load(ask),
    }


def at_most(lengths: Sequence[timedelta], percent: int) -> timedelta:
    """What so many of a hundred of these lengths, the shortest first, do not pass (nearest rank)."""
    return lengths[-(-len(lengths) * percent // 100) - 1]


async def _load(ask: Ask) -> Load | None:
    """What the engine does; `None` where there is none."""
    try:
        return await ask.engine.load()
    except EngineClosed:
        return None


def chart_of(runs: tuple[Run, ...], at: datetime) -> Chart | None:
    """The chart of these runs; `None` if there are none."""
    if not runs:
        return None
    begin = min(run.created_at for run in runs)
    part = max((at - begin) / PARTS, timedelta(milliseconds=1))
    parts: list[dict[RunStatus, int]] = [{} for _ in range(PARTS)]
    for run in runs:
        found = parts[min(PARTS - 1, max(0, int((run.created_at - begin) / part)))]
        found[run.status] = found.get(run.status, 0) + 1
    most = max(sum(found.values()) for found in parts)
    stacks = []
    for number, found in enumerate(parts):
        blocks, top = list[tuple[str, float, float]](), float(HEIGHT)
        for status in RunStatus:
            if status in found:
                height = round(HEIGHT * found[status] / most, 1)
                top -= height
                blocks.append((status, round(top, 1), height))
        said = ", ".join(f"{count} {status}" for status, count in found.items()) or "none"
        stacks.append(Stack(number * WIDTH, f"{local(begin + number * part)}: {said}", blocks))
    return Chart(stacks, len(runs), local(begin), local(at), lasted(part))
