"""Whether memory grows with the number of runs that have ended, and what a run that sleeps costs.

    python benchmarks/memory.py [--runs 200000] [--asleep 10000] [--samples 10] [--json]

One engine finishes a tenth of `--runs` to warm up, then all of them, in batches; after each sample's share the garbage
is collected and the process is looked at. The growth is the slope of a straight line through the samples: it has to be
less than 1 MB per 100,000 runs. Linux only.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import time
from pathlib import Path

import msgspec
from _common import Progress, new_file, parser_for, report, rss_mb, surroundings

from pikkupy import Engine, Pikku, Workflow

BATCH = 1_000  # runs in flight at once
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


async def finish(engine: Engine, runs: int) -> None:
    """Start that many runs and wait for their ends."""
    for first in range(0, runs, BATCH):
        await asyncio.gather(*(engine.run(short, number) for number in range(first, min(first + BATCH, runs))))


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
            await finish(engine, max(runs // 10, 1))
            lines = [sample("ended", 0)]
            for share in range(1, samples + 1):
                progress.tell(f"{lines[-1].runs:,} of {runs:,} runs")
                before, done = lines[-1].runs, runs * share // samples
                begun = time.perf_counter()
                await finish(engine, done - before)
                lines.append(sample("ended", done, round((done - before) / (time.perf_counter() - begun), 1)))
            for first in range(0, sleeping, BATCH):
                progress.tell(f"{first:,} of {sleeping:,} runs asleep")
                batch = range(first, min(first + BATCH, sleeping))
                await asyncio.gather(*(engine.start(asleep, number) for number in batch))
            await asyncio.sleep(settle_s)
            lines.append(sample("asleep", sleeping))
            return lines


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=200_000, help="runs that end (200000)")
    parser.add_argument("--asleep", type=int, default=10_000, help="runs that sleep (10000)")
    parser.add_argument("--samples", type=int, default=10, help="looks at the process (10)")
    parser.add_argument("--settle", type=float, default=3.0, help="seconds before sleeping runs are looked at (3)")
    options = parser.parse_args()
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
    }
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
