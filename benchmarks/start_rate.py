"""How many runs a second can be started, by how many callers start them.

    python benchmarks/start_rate.py [--callers 1 2 16 500] [--seconds 0.4] [--repeat 3] [--json]

Each caller starts one run after another: `await engine.start(...)` returns when the run is on disk. The runs end at
once, without a step, or only sleep for a month. A measurement takes `--seconds`.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

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

from pikkupy import Pikku, Workflow

pikku = Pikku()


@pikku.workflow
async def ends(_workflow: Workflow, number: int) -> int:
    """Ends at once."""
    return number


@pikku.workflow
async def sleeps(workflow: Workflow, number: int) -> int:
    """Only sleeps."""
    await workflow.sleep("nap", "30d")
    return number


QUESTIONS = {"runs that end at once": ends, "runs that only sleep": sleeps}


class Setting(msgspec.Struct, frozen=True):
    """What one line of the table measures."""

    question: str
    durability: Durability
    callers: int
    seconds: float


class Measured(msgspec.Struct):
    """One measurement."""

    seconds: float
    waits: list[float]  # seconds that each start took, in order


class Line(msgspec.Struct):
    """One line of the table: medians of several measurements; p50 and p99 are of one start."""

    question: str
    durability: str
    callers: int
    starts_per_s: float
    least: float
    greatest: float
    p50_ms: float | None
    p99_ms: float | None


async def start(setting: Setting, path: Path) -> Measured:
    """Start runs until the time is over."""
    waits: list[float] = []
    workflow = QUESTIONS[setting.question]

    async def call() -> None:
        asked = time.perf_counter()
        while asked < until:
            await engine.start(workflow, len(waits))
            waits.append(time.perf_counter() - asked)
            asked = time.perf_counter()

    async with pikku.open(path, durability=setting.durability) as engine:
        begun = time.perf_counter()
        until = begun + setting.seconds
        await asyncio.gather(*(call() for _ in range(setting.callers)))
        seconds = time.perf_counter() - begun
    return Measured(seconds, sorted(waits))


def measure(setting: Setting, path: Path) -> Measured:
    """One measurement."""
    return asyncio.run(start(setting, path))


def line(setting: Setting, measured: list[Measured]) -> Line:
    """The medians of one setting."""
    rate = spread([len(one.waits) / one.seconds for one in measured], 0)
    p50_ms, p99_ms = (median([1e3 * percentile(one.waits, percent) for one in measured], 3) for percent in (50, 99))
    return Line(setting.question, setting.durability, setting.callers, *rate, p50_ms, p99_ms)


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 2, 16, 500], help="tasks that start runs")
    parser.add_argument("--seconds", type=float, default=0.4, help="for each measurement (0.4)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    settings = [
        Setting(question, durability, callers, options.seconds)
        for question in QUESTIONS
        for durability in DURABILITIES
        for callers in options.callers
    ]
    lines = [line(setting, measured) for setting, measured in alternate(settings, measure, options.repeat).items()]
    report({**surroundings(), "repeat": options.repeat}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
