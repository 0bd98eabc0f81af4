"""Whether memory grows with the number of runs that have ended, and what a run that sleeps or waits costs.

    python benchmarks/memory.py [--runs 200000] [--asleep 10000] [--parked 10000] [--samples 10] [--json]

One engine finishes a tenth of `--runs` to warm up, then all of them, in batches; after each sample's share the garbage
is collected and the process is looked at. The growth is the slope of a straight line through the samples: it has to be
less than 1 MB per 100,000 runs. Then `--asleep` runs sleep for a month, most of them in the file alone. In a process of
its own `--parked` runs wait for a signal, all of them in memory (`resident_runs`). Linux only.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from pathlib import Path

import msgspec
from _common import (
    Progress,
    answer,
    answer_of,
    child_command,
    in_batches,
    new_file,
    parser_for,
    report,
    rss_mb,
    surroundings,
)

from pikkupy import Pikku, Workflow

LIMIT_MB = 1.0  # of growth per 100,000 runs

pikku = Pikku()


class Line(msgspec.Struct):
    """One line of the table: the process after so many runs have ended."""

    question: str
    runs: int
    rss_mb: float
    gc_objects: int
    tasks: int
    open_files: int
    runs_per_s: float | None


@pikku.workflow
async def short(workflow: Workflow, number: int) -> int:
    """What ends."""
    doubled: int = await workflow.do("double", lambda: 2 * number)
    return doubled


@pikku.workflow
async def asleep(workflow: Workflow, number: int) -> int:
    """What does not end while we look."""
    await workflow.sleep("nap", "30d")
    return number


@pikku.workflow
async def parked(workflow: Workflow, number: int) -> int:
    """What waits in memory for what does not come."""
    await workflow.wait_for_signal("go")
    return number


class Order(msgspec.Struct):
    """What the process of its own does: that many runs wait in memory."""

    path: str
    runs: int
    settle_s: float


def sample(question: str, runs: int, runs_per_s: float | None = None) -> Line:
    """The process as it is now."""
    gc.collect()
    return Line(
        question=question,
        runs=runs,
        rss_mb=round(rss_mb(), 2),
        gc_objects=len(gc.get_objects()),
        tasks=len(asyncio.all_tasks()),
        open_files=len(os.listdir("/proc/self/fd")) - 1,  # noqa: PTH208 - one of them is the listing's own
        runs_per_s=runs_per_s,
    )


async def measure(path: Path, runs: int, sleeping: int, samples: int, settle_s: float) -> list[Line]:
    """The samples, then one with so many runs asleep."""
    with Progress() as progress:
        async with pikku.open(path, durability="process") as engine:
            progress.tell("warm up")
            await in_batches(range(max(runs // 10, 1)), lambda number: engine.run(short, number))
            lines = [sample("ended", 0)]
            for share in range(1, samples + 1):
                progress.tell(f"{lines[-1].runs:,} of {runs:,} runs")
                before, done = lines[-1].runs, runs * share // samples
                begun = time.perf_counter()
                await in_batches(range(before, done), lambda number: engine.run(short, number))
                lines.append(sample("ended", done, round((done - before) / (time.perf_counter() - begun), 1)))
            progress.tell(f"{sleeping:,} runs asleep")
            await in_batches(range(sleeping), lambda number: engine.start(asleep, number))
            await asyncio.sleep(settle_s)
            lines.append(sample("asleep", sleeping))
            return lines


async def measure_parked(order: Order) -> list[Line]:
    """The process with a few runs that wait in memory, to warm up, and with all."""
    lines = []
    async with pikku.open(order.path, durability="process", resident_runs=order.runs + 1) as engine:
        begun = 0
        for runs in (order.runs // 10, order.runs):
            await in_batches(range(begun, runs), lambda number: engine.start(parked, number))
            begun = runs
            await asyncio.sleep(order.settle_s)
            lines.append(sample("parked, in memory", runs))
    return lines


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=200_000, help="runs that end (200000)")
    parser.add_argument("--asleep", type=int, default=10_000, help="runs that sleep (10000)")
    parser.add_argument("--parked", type=int, default=10_000, help="runs that wait in memory (10000)")
    parser.add_argument("--samples", type=int, default=10, help="looks at the process (10)")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before sleeping runs are looked at (3)")
    options = parser.parse_args()
    if options.child is not None:
        answer(asyncio.run(measure_parked(msgspec.json.decode(options.child, type=Order))))
        return
    with new_file() as path, Progress() as progress:
        progress.tell(f"{options.parked:,} runs wait in memory")
        fewer, more = answer_of(child_command(__file__, Order(str(path), options.parked, options.settle)), list[Line])
    with new_file() as path:
        lines = asyncio.run(measure(path, options.runs, options.asleep, options.samples, options.settle))
    ended, last = lines[:-1], lines[-1]
    grown = statistics.linear_regression([line.runs for line in ended], [line.rss_mb for line in ended])
    objects = statistics.linear_regression([line.runs for line in ended], [line.gc_objects for line in ended])
    about = {
        **surroundings(),
        "mb_per_100_000_runs": round(grown.slope * 100_000, 3),
        "objects_per_100_000_runs": round(objects.slope * 100_000, 1),
        "within_limit": grown.slope * 100_000 < LIMIT_MB,
        "bytes_per_sleeping_run": round(1e6 * (last.rss_mb - ended[-1].rss_mb) / max(options.asleep, 1)),
        "bytes_per_parked_run": round(1e6 * (more.rss_mb - fewer.rss_mb) / max(more.runs - fewer.runs, 1)),
    }
    report(about, [*lines, fewer, more], as_json=options.json)


if __name__ == "__main__":
    main()
