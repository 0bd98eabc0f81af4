"""How costs grow as a file and a run grow: nothing should cost more than in proportion, and most nothing more at all.

    python benchmarks/growth.py [--smallest 100] [--largest 100000] [--repeat 5] [--json]

By tens from `--smallest` to `--largest`, all costs in milliseconds: of one step of a new run, of `open`, of the first
page of `list_runs`, and of `get_run`, each in a file with so many runs that have ended; of one `start` in a file with
so many runs that sleep; and of the replay of a run of so many steps, from `open` until it goes on. `per tenfold` is the
factor to the size before: 1 does not grow, 10 grows in proportion. The durability is `process`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec
from _common import Progress, in_batches, new_file, parser_for, per_tenfold, report, spread, surroundings
from replay import Subject

from pikkupy import Pikku, Workflow

STEPS = 200  # of the new run
STARTS = 200
LOOKS = 50  # at a page, and at a run
PREFIX = "ended:"

pikku = Pikku()

Costs = dict[str, float]  # milliseconds, by question


class Line(msgspec.Struct):
    """One line of the table: the median of several measurements."""

    question: str
    size: int
    ms: float
    least: float
    greatest: float
    per_tenfold: float | None


@pikku.workflow
async def short(workflow: Workflow, number: int) -> int:
    """What fills a file with runs that have ended."""
    return await workflow.do("step", lambda: number, result_type=int)


@pikku.workflow
async def asleep(workflow: Workflow, number: int) -> int:
    """What fills a file with runs that sleep."""
    await workflow.sleep("nap", "30d")
    return number


@pikku.workflow
async def many_steps(workflow: Workflow) -> None:
    """The new run."""
    for _ in range(STEPS):
        await workflow.do("step", lambda: None)


class Ended:
    """A file with so many runs that have ended."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    async def fill(self) -> None:
        """Execute the runs."""
        async with pikku.open(self._path, durability="process") as engine:
            await in_batches(range(self._size), lambda number: engine.run(short, number, run_id=f"{PREFIX}{number}"))

    async def measure(self) -> Costs:
        """The costs in this file."""
        begun = time.perf_counter()
        async with pikku.open(self._path, durability="process") as engine:
            opened = time.perf_counter() - begun
            run_id = f"{PREFIX}{self._size // 2}"
            return {
                "`open`, runs ended": 1e3 * opened,
                "`list_runs`, runs ended": await cost(LOOKS, engine.list_runs),
                "`get_run`, runs ended": await cost(LOOKS, lambda: engine.get_run(run_id)),
                "a step, runs ended": await cost(1, lambda: engine.run(many_steps)) / STEPS,
            }


class Asleep:
    """A file with so many runs that sleep."""

    def __init__(self, path: Path, size: int) -> None:
        self._path = path
        self._size = size

    async def fill(self) -> None:
        """Start the runs."""
        async with pikku.open(self._path, durability="process") as engine:
            await in_batches(range(self._size), lambda number: engine.start(asleep, number))

    async def measure(self) -> Costs:
        """The costs in this file; it gets a few more of these runs each time."""
        async with pikku.open(self._path, durability="process") as engine:
            return {"`start`, runs asleep": await cost(STARTS, lambda: engine.start(asleep, -1))}


class Long:
    """A run of so many steps."""

    def __init__(self, path: Path, size: int) -> None:
        self._subject = Subject(path, concurrent=False)
        self._size = size

    async def fill(self) -> None:
        """Execute the steps."""
        await self._subject.record(self._size)

    async def measure(self) -> Costs:
        """The cost of its replay."""
        return {"replay, steps": 1e3 * await self._subject.replay()}


async def cost(times: int, call: Callable[[], Awaitable[object]]) -> float:
    """The median, in milliseconds, of so many calls one after another."""
    waits = []
    for _ in range(times):
        asked = time.perf_counter()
        await call()
        waits.append(time.perf_counter() - asked)
    return 1e3 * statistics.median(waits)


def measure(sizes: list[int], repeat: int) -> dict[str, dict[int, list[float]]]:
    """The costs by question and size. The sizes take turns, each in its own file."""
    found: dict[str, dict[int, list[float]]] = {}
    with ExitStack() as files, Progress() as progress:
        for kind in (Ended, Asleep, Long):
            subjects = {size: kind(files.enter_context(new_file()), size) for size in sizes}
            for size, subject in subjects.items():
                progress.tell(f"{kind.__name__.lower()}: fill a file with {size:,}")
                asyncio.run(subject.fill())
            for turn in range(repeat):
                for size, subject in subjects.items():
                    progress.tell(f"{turn + 1}/{repeat} {kind.__name__.lower()}: {size:,}")
                    for question, ms in asyncio.run(subject.measure()).items():
                        found.setdefault(question, {}).setdefault(size, []).append(ms)
    return found


def lines_of(question: str, measured: dict[int, list[float]]) -> list[Line]:
    """A line for each size."""
    lines: list[Line] = []
    for size, costs in measured.items():
        ms = spread(costs, 4)
        factor = per_tenfold((lines[-1].size, lines[-1].ms), (size, ms.median)) if lines else None
        lines.append(Line(question, size, *ms, factor))
    return lines


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--smallest", type=int, default=100, help="the first size (100)")
    parser.add_argument("--largest", type=int, default=100_000, help="the last size, or a little less (100000)")
    parser.add_argument("--repeat", type=int, default=5, help="measurements of each figure (5)")
    options = parser.parse_args()
    sizes = [options.smallest]
    while sizes[-1] * 10 <= options.largest:
        sizes.append(sizes[-1] * 10)
    found = measure(sizes, options.repeat)
    lines = [line for question, measured in found.items() for line in lines_of(question, measured)]
    about = {**surroundings(), "repeat": options.repeat, "durability": "process"}
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
