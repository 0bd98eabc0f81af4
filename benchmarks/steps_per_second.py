"""How many durable steps a second: one run of many steps, and many runs of a few, in both durabilities.

    python benchmarks/steps_per_second.py [--steps 2000] [--runs 2000] [--repeat 3] [--json]

Each figure is the median of `--repeat` measurements, with the least and the greatest; the settings alternate, so that a
machine that slows down slows all of them. The limit beside them is bare `sqlite3`: one row, one commit.
"""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec
from _common import Progress, new_file, parser_for, percentile, report, surroundings

from pikkupy import Pikku, Workflow

Durability = Literal["full", "process"]

STEPS_PER_RUN = 5  # of the many runs
SYNCHRONOUS = {"full": "FULL", "process": "NORMAL"}


class Measured(msgspec.Struct):
    """One measurement. The waits are from asking for a step to seeing its value, in seconds."""

    steps: int
    seconds: float
    waits: list[float]


class Line(msgspec.Struct):
    """One line of the table: the medians of several measurements."""

    question: str
    durability: str
    steps: int
    steps_per_s: float
    least: float
    greatest: float
    p50_ms: float
    p99_ms: float


async def durable(path: Path, durability: Durability, runs: int, steps: int) -> Measured:
    """`runs` runs of `steps` steps each, all started at once."""
    pikku = Pikku()
    waits: list[float] = []

    @pikku.workflow
    async def timed(workflow: Workflow) -> None:
        for number in range(steps):
            asked = time.perf_counter()  # the body may look at a clock that changes nothing of what it asks for
            await workflow.do("step", lambda number=number: number)  # type: ignore[misc]
            waits.append(time.perf_counter() - asked)

    async with pikku.open(path, durability=durability) as engine:
        begun = time.perf_counter()
        await asyncio.gather(*(engine.run(timed) for _ in range(runs)))
        return Measured(runs * steps, time.perf_counter() - begun, waits)


def with_pikkupy(runs: int, steps: int, path: Path, durability: Durability) -> Measured:
    """Measure pikkupy."""
    return asyncio.run(durable(path, durability, runs, steps))


def bare_sqlite(steps: int, path: Path, durability: Durability) -> Measured:
    """Measure the limit for one step after another: one INSERT and COMMIT each, no asyncio, no thread."""
    waits: list[float] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={SYNCHRONOUS[durability]}")
        db.execute("CREATE TABLE steps (run INTEGER, position INTEGER, output TEXT, PRIMARY KEY (run, position))")
        begun = time.perf_counter()
        for number in range(steps):
            asked = time.perf_counter()
            db.execute("INSERT INTO steps VALUES (1, ?, ?)", (number, str(number)))
            waits.append(time.perf_counter() - asked)
        return Measured(steps, time.perf_counter() - begun, waits)


def measure(questions: dict[str, Callable[[Path, Durability], Measured]], repeat: int) -> list[Line]:
    """Every question in both durabilities, in turn, `repeat` times."""
    found: dict[tuple[str, Durability], list[Measured]] = {}
    rounds: list[tuple[str, Durability]] = [(name, kind) for name in questions for kind in ("full", "process")]
    with Progress() as progress:
        for turn in range(repeat):
            for name, durability in rounds:
                progress.tell(f"{turn + 1}/{repeat} {name}, {durability}")
                with new_file() as path:
                    found.setdefault((name, durability), []).append(questions[name](path, durability))
    return [line(name, durability, measured) for (name, durability), measured in found.items()]


def line(name: str, durability: str, measured: list[Measured]) -> Line:
    """The medians of one question."""
    rates = sorted(one.steps / one.seconds for one in measured)
    waits = sorted(wait for one in measured for wait in one.waits)
    return Line(
        question=name,
        durability=durability,
        steps=measured[0].steps,
        steps_per_s=round(statistics.median(rates)),
        least=round(rates[0]),
        greatest=round(rates[-1]),
        p50_ms=round(1e3 * percentile(waits, 50), 3),
        p99_ms=round(1e3 * percentile(waits, 99), 3),
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--steps", type=int, default=2_000, help="steps of the one run (2000)")
    parser.add_argument("--runs", type=int, default=2_000, help=f"runs of {STEPS_PER_RUN} steps (2000)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    questions: dict[str, Callable[[Path, Durability], Measured]] = {
        f"1 run of {options.steps:,} steps": partial(with_pikkupy, 1, options.steps),
        f"{options.runs:,} runs of {STEPS_PER_RUN} steps": partial(with_pikkupy, options.runs, STEPS_PER_RUN),
        f"bare sqlite3, {options.steps:,} commits": partial(bare_sqlite, options.steps),
    }
    lines = measure(questions, options.repeat)
    peak_mb = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    about = {**surroundings(), "repeat": options.repeat, "peak_memory_mb": peak_mb}
    report(about, lines, as_json=options.json)


if __name__ == "__main__":
    main()
