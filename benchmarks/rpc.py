"""How long one step takes there and back, by where its code runs, and what a killed worker process costs.

    python benchmarks/rpc.py [--calls 500] [--kills 5] [--repeat 3] [--json]

One step at a time, each from asking for it to seeing its value, which is on disk then. Beside the engine's four places:
`run_in_executor` and `anyio.to_process.run_sync`, each followed by a commit with `aiosqlite`, as one would write it by
hand. `--kills` worker processes are killed, and the time until the next call is served is taken: while they are idle;
by the function that they run, with the failure of its run; and at once when they have taken the place of another one,
before a spare can stand ready. Beside it the first call of an engine, which starts the process, too. Before everything
else there is a pause in which a spare gets ready.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_process
import msgspec
from _common import (
    DURABILITIES,
    Durability,
    alternate,
    bare_aiosqlite,
    median,
    parser_for,
    percentile,
    report,
    spread,
    surroundings,
)

from pikkupy import Pikku, RunFailed, Services, Workflow

INSERT = "INSERT INTO steps VALUES (1, ?, ?)"
FIRST = "worker process, first call"
KILLED = "worker process, next call after it was killed"
KILLED_AT_WORK = "worker process, next call after it was killed at work"
KILLED_SOON = "worker process, next call after it was killed at once"
PAUSE_S = 1.5  # more than a process takes to start, on a busy machine too

pikku = Pikku()


@pikku.function
async def on_the_loop(_services: Services, number: int) -> int:
    """On the event loop."""
    return number


@pikku.function
def on_a_thread(_services: Services, number: int) -> int:
    """On a thread."""
    return number


@pikku.function(worker="process")
def in_a_process(_services: Services, number: int) -> int:
    """In a worker process."""
    return number


@pikku.function(worker="process")
def name_the_process(_services: Services) -> int:
    """In a worker process, too."""
    return os.getpid()


@pikku.function(worker="process")
def kill_the_process(_services: Services) -> None:
    """In a worker process, for the last time."""
    os.kill(os.getpid(), signal.SIGKILL)


def by_hand(number: int) -> int:
    """What the executors of the comparison call."""
    return number


class Setting(msgspec.Struct, frozen=True):
    """What one line of the table measures."""

    question: str
    durability: Durability
    calls: int


class Line(msgspec.Struct):
    """One line of the table: `p50_ms` is the median of several measurements, with its least and greatest."""

    question: str
    durability: str
    calls: int  # in each measurement
    p50_ms: float
    least: float
    greatest: float
    p99_ms: float | None


Call = Callable[[Workflow, int], Awaitable[int]]


def in_process(workflow: Workflow, number: int) -> Awaitable[int]:
    """The step of the last place."""
    return workflow.do("step", in_a_process, number)


PLACES: dict[str, Call] = {
    "inline": lambda workflow, number: workflow.do("step", lambda: number),
    "function on the event loop": lambda workflow, number: workflow.do("step", on_the_loop, number),
    "function on a thread": lambda workflow, number: workflow.do("step", on_a_thread, number),
    "function in a worker process": in_process,
}


@pikku.workflow
async def timed(workflow: Workflow, setting: Setting) -> None:
    """Calls one after another, and keeps how long each took."""
    call = PLACES[setting.question]
    for number in range(setting.calls + 1):  # the first, which may start a thread or a process, does not count
        asked = time.perf_counter()  # the body may look at a clock that changes nothing of what it asks for
        await call(workflow, number)
        if number:
            waits.append(time.perf_counter() - asked)


@pikku.workflow
async def one_call(workflow: Workflow) -> int:
    """One call of a worker process, which it names."""
    return await workflow.do("step", name_the_process)


@pikku.workflow
async def one_death(workflow: Workflow) -> None:
    """One call that a worker process does not survive."""
    await workflow.do("step", kill_the_process)


waits: list[float] = []  # of the measurement that is under way, seconds


async def with_pikkupy(setting: Setting, path: Path) -> None:
    """One run that calls one after another."""
    async with pikku.open(path, durability=setting.durability) as engine:
        if PLACES[setting.question] is in_process:
            await engine.run(one_call)
            await asyncio.sleep(PAUSE_S)
        await engine.run(timed, setting)


async def with_executor(setting: Setting, path: Path) -> None:
    """`run_in_executor` and a commit."""
    loop = asyncio.get_running_loop()
    await by_hands(setting, path, lambda number: loop.run_in_executor(None, by_hand, number))


async def with_anyio(setting: Setting, path: Path) -> None:
    """`anyio.to_process` and a commit."""
    # Its processes are killed when the loop ends; asyncio of CPython 3.12 warns that it did not see how.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    await by_hands(setting, path, lambda number: anyio.to_process.run_sync(by_hand, number))


async def by_hands(setting: Setting, path: Path, call: Callable[[int], Awaitable[int]]) -> None:
    """Calls one after another, each with a commit."""
    async with bare_aiosqlite(path, setting.durability) as db:
        for number in range(setting.calls + 1):
            asked = time.perf_counter()
            await db.execute(INSERT, (number, await call(number)))
            if number:
                waits.append(time.perf_counter() - asked)


async def first_call(setting: Setting, path: Path) -> None:
    """The first call of an engine."""
    for number in range(setting.calls):
        async with pikku.open(path.with_name(f"{number}.db"), durability=setting.durability) as engine:
            asked = time.perf_counter()
            await engine.run(one_call)
            waits.append(time.perf_counter() - asked)


async def after_a_kill(setting: Setting, path: Path) -> None:
    """The next call after a process was killed."""
    async with pikku.open(path, durability=setting.durability, process_workers=1) as engine:
        for _ in range(setting.calls):
            process = await engine.run(one_call)
            if setting.question != KILLED_SOON:
                await asyncio.sleep(PAUSE_S)
            asked = time.perf_counter()
            if setting.question == KILLED_AT_WORK:
                with suppress(RunFailed):
                    await engine.run(one_death)
            else:
                os.kill(process, signal.SIGKILL)
            if await engine.run(one_call) == process:
                raise SystemExit("the killed worker process has answered")
            waits.append(time.perf_counter() - asked)


BY_HAND = {"run_in_executor and aiosqlite": with_executor, "anyio.to_process and aiosqlite": with_anyio}
OTHERS = {
    **BY_HAND,
    FIRST: first_call,
    KILLED: after_a_kill,
    KILLED_AT_WORK: after_a_kill,
    KILLED_SOON: after_a_kill,
}


def measure(setting: Setting, path: Path) -> list[float]:
    """The waits of one measurement, in order."""
    waits.clear()
    asyncio.run(OTHERS.get(setting.question, with_pikkupy)(setting, path))
    return sorted(waits)


def line(setting: Setting, measured: list[list[float]]) -> Line:
    """The medians of one setting."""
    p50 = spread([1e3 * percentile(ordered, 50) for ordered in measured], 3)
    few = setting.calls < 100
    return Line(
        question=setting.question,
        durability=setting.durability,
        calls=setting.calls,
        p50_ms=p50.median,
        least=p50.least,
        greatest=p50.greatest,
        p99_ms=None if few else median([1e3 * percentile(ordered, 99) for ordered in measured], 3),
    )


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--calls", type=int, default=500, help="calls of each measurement (500)")
    parser.add_argument("--kills", type=int, default=5, help="worker processes that are killed or started (5)")
    parser.add_argument("--repeat", type=int, default=3, help="measurements of each figure (3)")
    options = parser.parse_args()
    settings = [
        Setting(question, durability, options.calls if question in (*PLACES, *BY_HAND) else options.kills)
        for question in (*PLACES, *OTHERS)
        for durability in DURABILITIES
    ]
    lines = [line(setting, measured) for setting, measured in alternate(settings, measure, options.repeat).items()]
    report({**surroundings(), "repeat": options.repeat}, lines, as_json=options.json)


if __name__ == "__main__":
    main()
