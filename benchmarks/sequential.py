"""How fast one step follows another: one run of many steps, beside what SQLite alone allows.

    python benchmarks/sequential.py [--steps 2000] [--payload 100 1000 100000] [--repeat 3] [--json]

Each step gives a text of `--payload` bytes (0 is possible); "on the loop" is with `database_thread=False`. The limits
beside it write the same texts: bare `sqlite3`, one INSERT and commit after another, no asyncio, no thread; and bare
`aiosqlite`, one hop to its thread and one commit for each `await`. Of large payloads there are fewer steps: none of the
measurements writes more than `--most-mb`.
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
    bare_aiosqlite,
    bare_sqlite,
    parser_for,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Pikku, Workflow

INSERT = "INSERT INTO steps VALUES (1, ?, ?)"
ON_LOOP = "pikkupy, on the loop"


class Setting(msgspec.Struct, frozen=True):
    """What one line of the table measures."""

    question: str
    durability: Durability
    payload: int
    steps: int


class Line(msgspec.Struct):
    """One line of the table: medians of several measurements. A wait is from asking for a step to seeing its value."""

    question: str
    durability: str
    payload_bytes: int
    steps: int
    steps_per_s: float
    least: float
    greatest: float
    p50_ms: float
    p99_ms: float


async def one_run(setting: Setting, path: Path) -> list[float]:
    """The wait for each step of one run, seconds."""
    pikku, waits, value = Pikku(), list[float](), "x" * setting.payload

    @pikku.workflow
    async def timed(workflow: Workflow) -> None:
        for _ in range(setting.steps):
            asked = time.perf_counter()  # the body may look at a clock that changes nothing of what it asks for
            await workflow.do("step", lambda: value)
            waits.append(time.perf_counter() - asked)

    thread = setting.question != ON_LOOP
    async with pikku.open(path, durability=setting.durability, database_thread=thread) as engine:
        await engine.run(timed)
    return waits


def with_sqlite(setting: Setting, path: Path) -> list[float]:
    """The limit: INSERT and commit, one by one."""
    waits, value = list[float](), "x" * setting.payload
    with bare_sqlite(path, setting.durability) as db:
        for number in range(setting.steps):
            asked = time.perf_counter()
            db.execute(INSERT, (number, value))
            waits.append(time.perf_counter() - asked)
    return waits


async def with_aiosqlite(setting: Setting, path: Path) -> list[float]:
    """The limit with a thread between: one hop and one commit for each `await`."""
    waits, value = list[float](), "x" * setting.payload
    async with bare_aiosqlite(path, setting.durability) as db:
        for number in range(setting.steps):
            asked = time.perf_counter()
            await db.execute(INSERT, (number, value))
            waits.append(time.perf_counter() - asked)
    return waits


QUESTIONS = {
    "pikkupy": lambda setting, path: asyncio.run(one_run(setting, path)),
    ON_LOOP: lambda setting, path: asyncio.run(one_run(setting, path)),
    "bare aiosqlite": lambda setting, path: asyncio.run(with_aiosqlite(setting, path)),
    "bare sqlite3": with_sqlite,
}


def measure(setting: Setting, path: Path) -> list[float]:
    """The waits of one measurement."""
    return QUESTIONS[setting.question](setting, path)


def line(setting: Setting, measured: list[list[float]]) -> Line:
    """The medians of one setting."""
    rate = spread([len(waits) / sum(waits) for waits in measured], 0)
    waits = sorted(wait for waits in measured for wait in waits)
    return Line(
        question=setting.question,
        durability=setting.durability,
        payload_bytes=setting.payload,
        steps=setting.steps,
        steps_per_s=rate.median,
        least=rate.least,
        greatest=rate.greatest,
        p50_ms=round(1e3 * percentile(waits, 50), 3),
        p99_ms=round(1e3 * percentile(waits, 99), 3),
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--steps", type=int, default=2_000, help="steps of the run (2000)")
    parser.add_argument("--payload", type=int, nargs="+", default=[100, 1_000, 100_000], help="bytes of a value")
    parser.add_argument("--most-mb", type=int, default=20, help="megabytes of values in one measurement (20)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    settings = [
        Setting(question, durability, payload, min(options.steps, options.most_mb * 1_000_000 // max(payload, 1)))
        for payload in options.payload
        for question in QUESTIONS
        for durability in DURABILITIES
        if question != ON_LOOP or durability == "process"
    ]
    lines = [line(setting, measured) for setting, measured in alternate(settings, measure, options.repeat).items()]
    report({**surroundings(), "repeat": options.repeat}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
