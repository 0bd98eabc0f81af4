"""Many runs that sleep in one file: how fast they start, what they cost, how fast the file opens, how late they wake.

    python benchmarks/sleepers.py [--runs 100000] [--wake-rate 1000] [--wake-for 5] [--callers 2] [--repeat 1] [--json]

`--runs` runs that sleep for a month are started by `--callers` tasks, each of which starts 512 at once. Beside them,
`--wake-rate` runs a second become due for `--wake-for` seconds, and each tells how late its next step began. Then
another process opens the file. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from _common import Progress, new_file, parser_for, percentile, report, rss_mb, surroundings

from pikkupy import Engine, Pikku, RunHandle, Workflow

BATCH = 512  # runs that a caller starts at once: as many as the engine writes in one transaction
MONTH_S = 30 * 86_400

pikku = Pikku()
lateness_s: list[float] = []  # of each run that woke: from when it was due to when its next step began


class Line(msgspec.Struct):
    """One line of the table."""

    runs: int
    starts_per_s: float
    rss_mb: float
    bytes_per_run: int
    file_mb: float
    open_s: float
    open_rss_mb: float
    late_p50_ms: float | None
    late_p99_ms: float | None
    late_max_ms: float | None


@pikku.workflow
async def sleeper(workflow: Workflow, wake_at: float) -> None:
    """Sleeps until then, epoch seconds."""
    await workflow.sleep_until("nap", datetime.fromtimestamp(wake_at, UTC))
    await workflow.do("woken", lambda: lateness_s.append(time.time() - wake_at))


async def start(
    engine: Engine,
    count: int,
    wake_at: Callable[[int], float],
    callers: int,
    progress: Progress,
    started: list[RunHandle[None]] | None = None,
) -> None:
    """Start that many runs, each to wake at the time that its number has; their handles go into `started`."""
    batches = iter(range(0, count, BATCH))

    async def call() -> None:
        for first in batches:
            progress.tell(f"{first:,} of {count:,} runs started")
            numbers = range(first, min(first + BATCH, count))
            handles = await asyncio.gather(*(engine.start(sleeper, wake_at(number)) for number in numbers))
            if started is not None:
                started.extend(handles)

    await asyncio.gather(*(call() for _ in range(callers)))


async def measure(path: Path, options: argparse.Namespace, progress: Progress) -> Line:
    """Everything, on one file."""
    lateness_s.clear()
    async with pikku.open(path, shutdown_grace=0) as engine:
        before_mb = rss_mb()
        begun = time.perf_counter()
        next_month = time.time() + MONTH_S
        await start(engine, options.runs, lambda _: next_month, options.callers, progress)
        started_s = time.perf_counter() - begun
        progress.tell(f"{options.runs:,} runs asleep")
        await asyncio.sleep(options.settle)
        asleep_mb = rss_mb()
        waking = options.wake_rate * options.wake_for
        first_due = time.time() + options.lead
        due = partial(_due, first_due, options.wake_rate)
        handles: list[RunHandle[None]] = []
        await start(engine, waking, due, options.callers, progress, handles)
        if time.time() > first_due:
            raise SystemExit(f"starting {waking:,} runs took longer than --lead {options.lead:g} s")
        progress.tell(f"{waking:,} runs wake")
        for handle in handles:
            await handle.result()
    file_mb = sum(file.stat().st_size for file in files_of(path)) / 1e6
    progress.tell("open the file in another process")
    opened = await asyncio.to_thread(open_elsewhere, path)
    late = sorted(lateness_s)
    return Line(
        runs=options.runs,
        starts_per_s=round(options.runs / started_s, 1),
        rss_mb=round(asleep_mb, 1),
        bytes_per_run=round(1e6 * (asleep_mb - before_mb) / options.runs),
        file_mb=round(file_mb, 2),
        open_s=round(opened["open_s"], 3),
        open_rss_mb=round(opened["rss_mb"], 1),
        late_p50_ms=round(1e3 * percentile(late, 50), 2) if late else None,
        late_p99_ms=round(1e3 * percentile(late, 99), 2) if late else None,
        late_max_ms=round(1e3 * late[-1], 2) if late else None,
    )


def _due(first_due: float, rate: int, number: int) -> float:
    return first_due + number / rate


def files_of(path: Path) -> Iterator[Path]:
    """The database with its write-ahead log."""
    return path.parent.glob(f"{path.name}*")


def open_elsewhere(path: Path) -> dict[str, float]:
    """What another process says of opening the file."""
    command = [sys.executable, __file__, "--open", str(path)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    return found


async def open_only(path: Path) -> None:
    """What the other process does: print how long it took to open the file, and its memory then."""
    begun = time.perf_counter()
    async with pikku.open(path, shutdown_grace=0):
        print(json.dumps({"open_s": time.perf_counter() - begun, "rss_mb": rss_mb()}))


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="runs that sleep for a month (100000)")
    parser.add_argument("--wake-rate", type=int, default=1_000, help="runs that become due in a second (1000)")
    parser.add_argument("--wake-for", type=int, default=5, help="seconds in which runs become due (5)")
    parser.add_argument("--callers", type=int, default=2, help="tasks that start runs (2)")
    parser.add_argument("--lead", type=float, default=10.0, help="seconds from their start until the first is due (10)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the memory is looked at (5)")
    parser.add_argument("--repeat", type=int, default=1, help="measurements, each on a new file (1)")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open is not None:
        asyncio.run(open_only(options.open))
        return
    lines = []
    with Progress() as progress:
        for _ in range(options.repeat):
            with new_file() as path:
                lines.append(asyncio.run(measure(path, options, progress)))
    about = {
        **surroundings(),
        "durability": "full",
        "callers": options.callers,
        "wake_rate": options.wake_rate,
        "wake_for_s": options.wake_for,
    }
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
