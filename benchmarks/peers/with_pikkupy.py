"""pikkupy, the source tree beside this file.

Variants: `full` is durable to loss of power (WAL, `synchronous=FULL`), `process` to the death of the process; `loop` as
well, and the event loop writes the file itself.

- sequential, throughput: inline steps. sleepers: `workflow.sleep`. rpc: a registered `async def` function.
- replay: the run waits for a signal, which the second process sends at once.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial
from typing import Literal, NoReturn, cast

from _adapter import (
    NAP_S,
    SETTLE_S,
    STEPS_PER_RUN,
    WARM_UP,
    Answer,
    Middle,
    Task,
    answer,
    die,
    lateness,
    live_on,
    lives,
    round_trips,
)

from pikkupy import Engine, Pikku, Services, Workflow

pikku = Pikku()
late_s: list[float] = []
waits_s: list[float] = []
asked_at: dict[str, float] = {}


@pikku.workflow
async def chain(workflow: Workflow, steps: int) -> int:
    """One step after another."""
    total = 0
    for number in range(steps):
        total += await workflow.do("step", lambda number=number: number)  # type: ignore[misc]
    return total


@pikku.workflow
async def nap(workflow: Workflow, number: int) -> None:
    """Sleeps, and tells how late it woke."""
    due = asked_at.setdefault(f"{number}", time.time()) + NAP_S
    await workflow.sleep("nap", f"{NAP_S:g}s")
    await workflow.do("woken", lambda: late_s.append(time.time() - due))


@pikku.function
async def echo(services: Services, number: int) -> int:  # noqa: ARG001 - every function has them
    """A function that is asked from a step."""
    return number


@pikku.workflow
async def caller(workflow: Workflow, steps: int) -> None:
    """Asks it, one time after another."""
    for number in range(steps):
        asked = time.perf_counter()
        assert await workflow.do("echo", echo, number) == number
        waits_s.append(time.perf_counter() - asked)


def opened(task: Task) -> Engine:
    """The engine of this task."""
    if task.variant == "loop":
        return pikku.open(task.path, durability="process", database_thread=False, shutdown_grace=0)
    durability = cast(Literal["full", "process"], task.variant)
    return pikku.open(task.path, durability=durability, shutdown_grace=0)


def many(task: Task, runs: int, steps: int) -> Answer:
    """So many runs, started at once."""

    async def measure() -> float:
        async with opened(task) as engine:
            await engine.run(chain, WARM_UP)
            begun = time.perf_counter()
            totals = await asyncio.gather(*(engine.run(chain, steps) for _ in range(runs)))
            seconds = time.perf_counter() - begun
            assert totals == [sum(range(steps))] * runs
            return seconds

    return {"seconds": asyncio.run(measure()), "steps": runs * steps}


def sequential(task: Task) -> Answer:
    """One run."""
    return many(task, 1, task.size)


def throughput(task: Task) -> Answer:
    """Many."""
    return many(task, task.size, STEPS_PER_RUN)


def sleepers(task: Task) -> Answer:
    """Many that sleep."""

    async def measure() -> float:
        async with opened(task) as engine:
            begun = time.perf_counter()
            await asyncio.gather(*(engine.run(nap, number) for number in range(task.size)))
            return time.perf_counter() - begun

    return lateness(asyncio.run(measure()), late_s)


def rpc(task: Task) -> Answer:
    """One run that asks a function."""

    async def measure() -> None:
        async with opened(task) as engine:
            await engine.run(caller, WARM_UP)
            waits_s.clear()
            await engine.run(caller, task.size)

    asyncio.run(measure())
    return round_trips(waits_s)


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    if not task.life:
        return lives(task)
    middle, gate = Middle(task), asyncio.Event()

    async def counted(number: int) -> int:
        await gate.wait()
        middle.step()
        return number

    @pikku.workflow
    async def interrupted(workflow: Workflow) -> int:
        total = 0
        for number in range(STEPS_PER_RUN):
            total += await workflow.do("step", partial(counted, number))
        return total

    async def live() -> NoReturn:
        names = [f"run:{number}" for number in range(task.size)]
        async with opened(task) as engine:
            if task.life == 1:
                await asyncio.gather(*(engine.start(interrupted, run_id=name) for name in names))
            gate.set()
            handles = [await engine.handle(name) for name in names]
            totals = [await handle.result() for handle in handles]
            live_on(middle.ran, totals.count(sum(range(STEPS_PER_RUN))))

    return asyncio.run(live())


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    if not task.life:
        return lives(task)
    middle, arrived = Middle(task), asyncio.Event()

    def counted(number: int) -> int:
        middle.step()
        return number

    @pikku.workflow
    async def waiting(workflow: Workflow) -> None:
        for number in range(task.size):
            await workflow.do("step", partial(counted, number))
        arrived.set()
        await workflow.wait_for_signal("go on")
        await workflow.do("gone on", middle.goes_on)

    async def live() -> NoReturn:
        async with opened(task) as engine:
            if task.life == 1:
                await engine.start(waiting, run_id="waiting")
                await arrived.wait()
                await asyncio.sleep(SETTLE_S)
                die(middle.ran)
            await engine.signal("waiting", "go on", None)
            await asyncio.Event().wait()
        raise AssertionError

    return asyncio.run(live())


if __name__ == "__main__":
    answer(
        __doc__,
        {
            "sequential": sequential,
            "throughput": throughput,
            "sleepers": sleepers,
            "recovery": recovery,
            "replay": replay,
            "rpc": rpc,
        },
        variants=("full", "process", "loop"),
    )
