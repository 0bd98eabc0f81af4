"""How long it takes until a run with a long history goes on after a restart, and whether that is linear.

    python benchmarks/replay.py [--steps 1000 10000 100000] [--concurrent [10000]] [--repeat 5] [--json]

A run of so many inline steps, one after another, is recorded once and then taken up again `--repeat` times: from `open`
until its next step begins, less what the same takes for a run without a history. Ten times as many steps should take
ten times as long. `--concurrent` does the same with steps that are all asked for at once, in one `gather`.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import msgspec
from _common import Progress, new_file, parser_for, per_tenfold, report, rss_mb, surroundings

from pikkupy import Pikku, Workflow


class Line(msgspec.Struct):
    """One line of the table: the median of several measurements, with the least and the greatest."""

    question: str
    steps: int
    seconds: float
    least: float
    greatest: float
    us_per_step: float
    growth_per_tenfold: float | None


class Subject:
    """A run of many steps that never ends: its last step waits, and is interrupted when the engine is left."""

    def __init__(self, path: Path, *, concurrent: bool) -> None:
        self._path = path
        self._arrived = asyncio.Event()
        self._arrived_at = 0.0
        self._pikku = Pikku()
        self._body = self._pikku.workflow(self._all_at_once if concurrent else self._one_after_another)

    async def record(self, steps: int) -> float:
        """Execute the steps; seconds from `start` until the last has its outcome."""
        async with self._pikku.open(self._path, durability="process", shutdown_grace=0) as engine:
            begun = time.perf_counter()
            await engine.start(self._body, steps)
            return await self._seconds_since(begun)

    async def replay(self) -> float:
        """Seconds from `open` until the run goes on."""
        begun = time.perf_counter()
        async with self._pikku.open(self._path, durability="process", shutdown_grace=0):
            return await self._seconds_since(begun)

    async def _seconds_since(self, begun: float) -> float:
        await self._arrived.wait()
        self._arrived.clear()
        return self._arrived_at - begun

    async def _one_after_another(self, workflow: Workflow, steps: int) -> None:
        for number in range(steps):
            await workflow.do("step", lambda number=number: number)  # type: ignore[misc]
        await workflow.do("go on", self._go_on)

    async def _all_at_once(self, workflow: Workflow, steps: int) -> None:
        numbers = await asyncio.gather(
            *(workflow.do("step", lambda number=number: number) for number in range(steps))  # type: ignore[misc]
        )
        assert numbers == list(range(steps))
        await workflow.do("go on", self._go_on)

    async def _go_on(self) -> None:
        self._arrived_at = time.perf_counter()
        self._arrived.set()
        await asyncio.Event().wait()


async def measure(
    steps: int, repeat: int, progress: Progress, *, concurrent: bool = False
) -> tuple[float, list[float]]:
    """Seconds for recording the run, and for each replay."""
    with new_file() as path:
        subject = Subject(path, concurrent=concurrent)
        progress.tell(f"record {steps:,} steps")
        live_s = await subject.record(steps)
        replays = []
        for turn in range(repeat):
            progress.tell(f"{turn + 1}/{repeat} replay {steps:,} steps")
            replays.append(await subject.replay())
        return live_s, replays


def line(question: str, steps: int, seconds: list[float], smaller: Line | None = None) -> Line:
    """The median of one question, and its growth from the line before."""
    ordered = sorted(max(one, 1e-6) for one in seconds)
    median = statistics.median(ordered)
    growth = None if smaller is None else per_tenfold((smaller.steps, smaller.seconds), (steps, median))
    return Line(
        question=question,
        steps=steps,
        seconds=round(median, 6),
        least=round(ordered[0], 6),
        greatest=round(ordered[-1], 6),
        us_per_step=round(1e6 * median / steps, 2),
        growth_per_tenfold=growth,
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--steps", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="lengths of the history")
    parser.add_argument("--concurrent", type=int, nargs="?", const=10_000, help="steps in one gather (10000)")
    parser.add_argument("--repeat", type=int, default=5, help="replays of each history (5)")
    options = parser.parse_args()
    lines: list[Line] = []
    with Progress() as progress:
        _, empty = asyncio.run(measure(0, options.repeat, progress))
        open_s = statistics.median(empty)
        for steps in options.steps:
            _, replays = asyncio.run(measure(steps, options.repeat, progress))
            smaller = lines[-1] if lines else None
            lines.append(line("replayed", steps, [seconds - open_s for seconds in replays], smaller))
        if options.concurrent:
            steps = options.concurrent
            live_s, replays = asyncio.run(measure(steps, options.repeat, progress, concurrent=True))
            lines.append(line("at once, live", steps, [live_s]))
            lines.append(line("at once, replayed", steps, [seconds - open_s for seconds in replays]))
    about = {
        **surroundings(),
        "repeat": options.repeat,
        "open_without_history_ms": round(1e3 * open_s, 2),
        "memory_mb": round(rss_mb(), 1),
    }
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
