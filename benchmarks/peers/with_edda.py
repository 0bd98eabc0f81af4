"""Edda with its storage in SQLite.

Durable to loss of power: SQLite's defaults, a rollback journal with `synchronous=FULL`.

- A step is an `@activity`; `workflow.start` returns when the run has ended or waits.
- throughput: one run after another. Two at a time are not faster; with more, runs fail because the database is locked.
  So sleepers are started one after another too.
- sleepers: `sleep`. Edda looks for timers that are due every 10 s.
- recovery: Edda looks for runs whose lock has expired every 60 to 78 s. The lock's time is set to 20 s (300 s as
  it comes), the leader's lease to 2 s (45 s). Each run has done 2 of its 5 steps when the process is killed.
- replay: the run waits in `receive`; the second process publishes at once.
- rpc: a step is a registered activity, so it is the median of `sequential`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

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
from edda import EddaApp, WorkflowContext, activity, publish, receive, sleep, subscribe, workflow

late_s: list[float] = []
waits_s: list[float] = []
asked_at: dict[int, float] = {}
middles: list[Middle] = []  # of the questions with two lives
turn = asyncio.Lock()  # of who may start
arrived = itertools.count(1)
LOCK_S = 20
BUSY_S = 60  # SQLite's driver gives up after 5 as it comes
DONE_BEFORE = 2  # steps of each run of `recovery` when the process is killed


@activity
async def step(ctx: WorkflowContext, number: int) -> int:  # noqa: ARG001 - every activity has it
    """The step."""
    return number


@workflow
async def chain(ctx: WorkflowContext, steps: int) -> int:
    """One step after another."""
    total = 0
    for number in range(steps):
        asked = time.perf_counter()
        total += await step(ctx, number)
        waits_s.append(time.perf_counter() - asked)
    return total


@activity
async def woken(ctx: WorkflowContext, number: int) -> None:  # noqa: ARG001
    """The step after the sleep."""
    late_s.append(time.time() - asked_at[number] - NAP_S)


@workflow
async def nap(ctx: WorkflowContext, number: int) -> None:
    """Sleeps, and tells how late it woke; nothing if its number is below zero."""
    if number < 0:
        return
    asked_at.setdefault(number, time.time())
    await sleep(ctx, int(NAP_S))
    await woken(ctx, number)


@activity
async def counted(ctx: WorkflowContext, number: int, runs: int) -> int:  # noqa: ARG001
    """A step that is counted; in the first life it waits in the middle of its run until all are there."""
    if runs and number == DONE_BEFORE:
        turn.release()
        if next(arrived) == runs:
            die(middles[0].ran)
        await asyncio.Event().wait()
    middles[0].step()
    return number


@workflow(lock_timeout_seconds=LOCK_S)
async def interrupted(ctx: WorkflowContext, runs: int) -> int:
    """A run of `recovery`; nothing if it is the only one."""
    here = runs if middles[0].life == 1 else 0  # in the second nothing waits
    return sum([await counted(ctx, number, here) for number in range(STEPS_PER_RUN if runs else 0)])


@activity
async def gone_on(ctx: WorkflowContext) -> None:  # noqa: ARG001
    """After the wait."""
    middles[0].goes_on()


@workflow
async def waiting(ctx: WorkflowContext, steps: int) -> None:
    """The run of `replay`."""
    for number in range(steps):
        await counted(ctx, number, 0)
    await subscribe(ctx, "go on")
    await receive(ctx, "go on")
    await gone_on(ctx)


@asynccontextmanager
async def opened(task: Task) -> AsyncIterator[EddaApp]:
    """The application of this task."""
    logging.disable(logging.CRITICAL)
    app = EddaApp(
        service_name="peer",
        db_url=f"sqlite:///{task.path}?timeout={BUSY_S}",
        max_workflows_per_batch=max(task.size, 10),
        leader_heartbeat_interval=1,
        leader_lease_duration=2,
    )
    await app.initialize()
    try:
        yield app
    finally:
        await app.shutdown()


async def ended(app: EddaApp, runs: list[str]) -> list[object]:
    """The results, when all have ended."""
    results = []
    for run in runs:
        while True:
            instance = await app.storage.get_instance(run)
            assert instance is not None
            if instance["status"] in ("completed", "failed"):
                results.append((instance["output_data"] or {}).get("result"))
                break
            await asyncio.sleep(0.05)
    return results


def many(task: Task, runs: int, steps: int) -> Answer:
    """So many runs, started at once."""

    async def measure() -> float:
        async with opened(task) as app:
            await chain.start(steps=WARM_UP)
            waits_s.clear()
            begun = time.perf_counter()
            names = [await chain.start(steps=steps) for _ in range(runs)]
            seconds = time.perf_counter() - begun
            assert await ended(app, names) == [sum(range(steps))] * runs
            return seconds

    return {"seconds": asyncio.run(measure()), "steps": runs * steps}


def sequential(task: Task) -> Answer:
    """One run."""
    return many(task, 1, task.size)


def throughput(task: Task) -> Answer:
    """Many."""
    return many(task, task.size, STEPS_PER_RUN)


def rpc(task: Task) -> Answer:
    """One run, step by step."""
    many(task, 1, task.size)
    return round_trips(waits_s)


def sleepers(task: Task) -> Answer:
    """Many that sleep."""

    async def measure() -> float:
        async with opened(task) as app:
            await nap.start(number=-1)
            begun = time.perf_counter()
            names = [await nap.start(number=number) for number in range(task.size)]
            await ended(app, names)
            return time.perf_counter() - begun

    return lateness(asyncio.run(measure()), late_s)


async def begin(runs: int) -> None:
    """Start a run of `recovery` when the one before is in its middle."""
    await turn.acquire()
    await interrupted.start(runs=runs)


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    if not task.life:
        return lives(task)
    middles.append(Middle(task))

    async def live() -> None:
        async with opened(task) as app:
            if task.life == 1:
                await interrupted.start(runs=0)
                await asyncio.gather(*(begin(task.size) for _ in range(task.size)))
            found = await app.storage.list_instances(limit=task.size + 1)
            results = await ended(app, [one["instance_id"] for one in found["instances"]])
            live_on(middles[0].ran, results.count(sum(range(STEPS_PER_RUN))))

    asyncio.run(live())
    return {}


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    if not task.life:
        return lives(task)
    middles.append(Middle(task))

    async def live() -> None:
        async with opened(task) as app:
            if task.life == 1:
                await waiting.start(steps=task.size)
                await asyncio.sleep(SETTLE_S)
                die(middles[0].ran)
            await publish(app.storage, "go on", {})
            await asyncio.Event().wait()

    asyncio.run(live())
    return {}


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
    )
