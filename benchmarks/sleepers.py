"""Many runs that sleep in one file: how fast they start, what they cost, how fast the file opens, how late they wake.

    python benchmarks/sleepers.py [--runs 100000] [--wake-rate 1000] [--wake-for 5] [--callers 1024]
                                  [--naps 10000 100000] [--repeat 1] [--json]

`--runs` runs that sleep for a month are started by `--callers` tasks, each of which starts one after another. Beside
them, `--wake-rate` runs a second become due for `--wake-for` seconds, and each tells how late its next step began. Then
another process opens the file.

Second, in a process of its own, `--naps` runs that sleep for one second are started at once: how late their next steps
began, and how long it took until all had ended. Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
from _common import (
    Progress,
    answer,
    answer_of,
    child_command,
    new_file,
    parser_for,
    peak_mb,
    percentile,
    report,
    rss_mb,
    surroundings,
)

from pikkupy import Engine, Pikku, RunHandle, Workflow

CALLERS = 1_024  # twice as many as the engine writes in one transaction: the next can be prepared during the last
MONTH_S = 30 * 86_400

pikku = Pikku()
lateness_s: list[float] = []  # of each run that woke: from when it was due to when its next step began


class Line(msgspec.Struct, kw_only=True):
    """One line of the table."""

    question: str
    runs: int
    starts_per_s: float | None = None
    rss_mb: float  # of runs that sleep for a second the peak
    bytes_per_run: int | None = None
    file_mb: float
    open_s: float | None = None
    open_rss_mb: float | None = None
    late_p50_ms: float | None
    late_p99_ms: float | None
    late_max_ms: float | None
    all_ended_s: float | None = None


class Order(msgspec.Struct):
    """What a process of its own is to do: open the file, or start that many naps."""

    path: str
    naps: int = 0


class Opened(msgspec.Struct):
    """What a process says that has opened the file."""

    seconds: float
    rss_mb: float


@pikku.workflow
async def sleeper(workflow: Workflow, wake_at: float) -> None:
    """Sleeps until then, epoch seconds."""
    await workflow.sleep_until("nap", datetime.fromtimestamp(wake_at, UTC))
    await workflow.do("woken", lambda: lateness_s.append(time.time() - wake_at))


@pikku.workflow
async def nap(workflow: Workflow) -> None:
    """Sleeps for a second."""
    wake_at = workflow.now().timestamp() + 1
    await workflow.sleep("nap", "1s")
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
    numbers = iter(range(count))

    async def call() -> None:
        for number in numbers:
            if number % 10_000 == 0:
                progress.tell(f"{number:,} of {count:,} runs started")
            handle = await engine.start(sleeper, wake_at(number))
            if started is not None:
                started.append(handle)

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
    file_mb = size_mb(path)
    progress.tell("open the file in another process")
    command = child_command(__file__, Order(str(path)))
    opened = await asyncio.to_thread(answer_of, command, Opened)
    p50_ms, p99_ms, max_ms = lateness_ms()
    return Line(
        question="asleep for a month",
        runs=options.runs,
        starts_per_s=round(options.runs / started_s, 1),
        rss_mb=round(asleep_mb, 1),
        bytes_per_run=round(1e6 * (asleep_mb - before_mb) / options.runs),
        file_mb=round(file_mb, 2),
        open_s=round(opened.seconds, 3),
        open_rss_mb=round(opened.rss_mb, 1),
        late_p50_ms=p50_ms,
        late_p99_ms=p99_ms,
        late_max_ms=max_ms,
    )


async def measure_naps(path: Path, naps: int) -> Line:
    """What a process of its own does: that many sleep for a second, started at once."""
    async with pikku.open(path) as engine:
        begun = time.perf_counter()
        await asyncio.gather(*(engine.run(nap) for _ in range(naps)))
        ended_s = time.perf_counter() - begun
    p50_ms, p99_ms, max_ms = lateness_ms()
    return Line(
        question="a second, all at once",
        runs=naps,
        rss_mb=peak_mb(),
        file_mb=round(size_mb(path), 2),
        late_p50_ms=p50_ms,
        late_p99_ms=p99_ms,
        late_max_ms=max_ms,
        all_ended_s=round(ended_s, 3),
    )


def lateness_ms() -> tuple[float | None, float | None, float | None]:
    """p50, p99 and greatest of the runs that woke."""
    late = sorted(lateness_s)
    if not late:
        return None, None, None
    p50, p99 = percentile(late, 50), percentile(late, 99)
    return round(1e3 * p50, 2), round(1e3 * p99, 2), round(1e3 * late[-1], 2)


def _due(first_due: float, rate: int, number: int) -> float:
    return first_due + number / rate


def size_mb(path: Path) -> float:
    """Of the database with its write-ahead log."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*")) / 1e6


async def open_only(path: Path) -> Opened:
    """What another process does: how long it took to open the file, and its memory then."""
    begun = time.perf_counter()
    async with pikku.open(path, shutdown_grace=0):
        return Opened(time.perf_counter() - begun, rss_mb())


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--runs", type=int, default=100_000, help="runs that sleep for a month (100000)")
    parser.add_argument("--wake-rate", type=int, default=1_000, help="runs that become due in a second (1000)")
    parser.add_argument("--wake-for", type=int, default=5, help="seconds in which runs become due (5)")
    parser.add_argument("--callers", type=int, default=CALLERS, help=f"tasks that start runs ({CALLERS})")
    parser.add_argument("--lead", type=float, default=10.0, help="seconds from their start until the first is due (10)")
    parser.add_argument("--settle", type=float, default=5.0, help="seconds before the memory is looked at (5)")
    parser.add_argument("--repeat", type=int, default=1, help="measurements, each on a new file (1)")
    parser.add_argument("--naps", type=int, nargs="*", default=[10_000, 100_000], help="runs that sleep for a second")
    options = parser.parse_args()
    if options.child is not None:
        order = msgspec.json.decode(options.child, type=Order)
        path = Path(order.path)
        answer(asyncio.run(measure_naps(path, order.naps) if order.naps else open_only(path)))
        return
    lines = []
    with Progress() as progress:
        for _ in range(options.repeat):
            with new_file() as path:
                lines.append(asyncio.run(measure(path, options, progress)))
        for naps in options.naps * options.repeat:
            progress.tell(f"{naps:,} runs sleep for a second")
            with new_file() as path:
                lines.append(answer_of(child_command(__file__, Order(str(path), naps)), Line))
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
