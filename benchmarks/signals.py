"""How long a signal takes until the run that waits for it goes on.

    python benchmarks/signals.py [--runs 200] [--at-once 1000] [--repeat 5] [--json]

From the call of `engine.signal` to the workflow's next line: `--runs` runs one after another, and `--at-once` runs that
are all signalled at once. They wait in memory, or in the file (`resident_runs=0, unload_after=0`), from where each is
brought back and replayed.
"""

from __future__ import annotations

import asyncio
import time
from itertools import product
from pathlib import Path
from typing import Literal

import msgspec
from _common import (
    DURABILITIES,
    Durability,
    alternate,
    median,
    parser_for,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Engine, Pikku, RunHandle, Workflow

Place = Literal["in memory", "in the file"]
PLACES: tuple[Place, ...] = ("in memory", "in the file")

pikku = Pikku()
woken_at: dict[int, float] = {}  # by number of the run, of the measurement that is under way


@pikku.workflow
async def waits(workflow: Workflow, number: int) -> None:
    """Waits for one signal."""
    await workflow.wait_for_signal("go")
    woken_at[number] = time.perf_counter()


class Setting(msgspec.Struct, frozen=True):
    """What one line of the table measures."""

    question: str
    place: Place
    durability: Durability
    runs: int
    at_once: bool


class Line(msgspec.Struct):
    """One line of the table: `p50_ms` is the median of several measurements, with its least and greatest."""

    question: str
    runs_wait: str
    durability: str
    runs: int
    p50_ms: float
    least: float
    greatest: float
    p99_ms: float | None


async def wake(setting: Setting, path: Path) -> list[float]:
    """Seconds for each run."""
    woken_at.clear()
    resident = setting.runs + 1 if setting.place == "in memory" else 0
    async with pikku.open(path, durability=setting.durability, resident_runs=resident, unload_after=0) as engine:
        runs = await asyncio.gather(*(engine.start(waits, number) for number in range(setting.runs)))
        if setting.at_once:
            sent_at = await asyncio.gather(*(send(engine, run) for run in runs))
        else:
            sent_at = [await send(engine, run) for run in runs]
    return [woken_at[number] - sent for number, sent in enumerate(sent_at)]


async def send(engine: Engine, run: RunHandle[None]) -> float:
    """When the signal was sent; returns when the run has ended."""
    sent = time.perf_counter()
    await engine.signal(run.id, "go")
    await run.result()
    return sent


def measure(setting: Setting, path: Path) -> list[float]:
    """Seconds from each signal to the next line, in order."""
    return sorted(asyncio.run(wake(setting, path)))


def line(setting: Setting, measured: list[list[float]]) -> Line:
    """The medians of one setting."""
    p50 = spread([1e3 * percentile(ordered, 50) for ordered in measured], 3)
    p99_ms = median([1e3 * percentile(ordered, 99) for ordered in measured], 3)
    return Line(setting.question, setting.place, setting.durability, setting.runs, *p50, p99_ms)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=200, help="runs that are signalled one after another (200)")
    parser.add_argument("--at-once", type=int, default=1_000, help="runs that are signalled at once (1000)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each figure (5)")
    options = parser.parse_args()
    settings = [
        Setting(question, place, durability, runs, at_once)
        for (question, runs, at_once), place, durability in product(
            (("one at a time", options.runs, False), ("all at once", options.at_once, True)), PLACES, DURABILITIES
        )
    ]
    lines = [line(setting, measured) for setting, measured in alternate(settings, measure, options.repeat).items()]
    report({**surroundings(), "repeat": options.repeat}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
