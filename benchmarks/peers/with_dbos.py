"""DBOS Transact with its system database in SQLite.

Variants: `async` is DBOS as it comes, with `async def` workflows and steps; `wal` is the fastest known to us: the
file in WAL mode beforehand, plain functions on two threads, and a look at messages every 10 ms instead of 1 s. Both are
durable to loss of power: SQLite's default, `synchronous=FULL`, with a rollback journal or WAL.

- sequential, throughput: `@DBOS.step` functions; many are started with `DBOS.start_workflow`, without a queue.
- sleepers: `DBOS.sleep_async` in both variants, for a thread per sleeper would be unfair.
- recovery: what `DBOS.launch()` recovers. replay: the run waits in `DBOS.recv_async`; the second process sends at once.
- rpc: a step is a registered function, so it is the median of `sequential`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from contextlib import closing
from typing import NoReturn

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
from dbos import DBOS, DBOSConfig, SetWorkflowID

late_s: list[float] = []
waits_s: list[float] = []
asked_at: dict[int, float] = {}
middles: list[Middle] = []  # of the questions with two lives
gate = threading.Event()  # shut until all runs have been started


@DBOS.step()
def plain_step(number: int) -> int:
    """On the thread of its workflow."""
    return number


@DBOS.step()
async def async_step(number: int) -> int:
    """On the event loop."""
    return number


@DBOS.workflow()
def plain_chain(steps: int) -> int:
    """One step after another."""
    total = 0
    for number in range(steps):
        asked = time.perf_counter()
        total += plain_step(number)
        waits_s.append(time.perf_counter() - asked)
    return total


@DBOS.workflow()
async def async_chain(steps: int) -> int:
    """The same."""
    total = 0
    for number in range(steps):
        asked = time.perf_counter()
        total += await async_step(number)
        waits_s.append(time.perf_counter() - asked)
    return total


@DBOS.step()
async def woken(due: float) -> None:
    """The step after the sleep."""
    late_s.append(time.time() - due)


@DBOS.workflow()
async def nap(number: int) -> None:
    """Sleeps, and tells how late it woke."""
    due = asked_at.setdefault(number, time.time()) + NAP_S
    await DBOS.sleep_async(NAP_S)
    await woken(due)


@DBOS.step()
def counted_plain(number: int) -> int:
    """A step that is counted, and waits for all starts."""
    gate.wait()
    middles[0].step()
    return number


@DBOS.step()
async def counted_async(number: int) -> int:
    """The same; a wait that must not block the loop."""
    while not gate.is_set():  # noqa: ASYNC110 - it may be set from another thread
        await asyncio.sleep(0.01)
    middles[0].step()
    return number


@DBOS.workflow()
def plain_interrupted() -> int:
    """A run of `recovery`."""
    return sum(counted_plain(number) for number in range(STEPS_PER_RUN))


@DBOS.workflow()
async def async_interrupted() -> int:
    """The same."""
    return sum([await counted_async(number) for number in range(STEPS_PER_RUN)])


@DBOS.step()
async def gone_on() -> None:
    """After the wait."""
    middles[0].goes_on()


@DBOS.workflow()
async def waiting(steps: int) -> None:
    """The run of `replay`."""
    for number in range(steps):
        await counted_async(number)
    await DBOS.recv_async("go on", timeout_seconds=600)
    await gone_on()


def launch(task: Task) -> None:
    """Open the database and recover what is in it."""
    logging.disable(logging.WARNING)
    if task.variant == "wal":
        with closing(sqlite3.connect(task.path)) as db:
            db.execute("PRAGMA journal_mode=WAL")  # it stays in the file
    config: DBOSConfig = {
        "name": "peer",
        "system_database_url": f"sqlite:///{task.path}",
        "application_version": "1",
    }
    if task.variant == "wal":
        config["max_executor_threads"] = 2  # more wait for each other's transactions
        config["notification_listener_polling_interval_sec"] = 0.01
    DBOS(config=config)
    DBOS.launch()


def many(task: Task, runs: int, steps: int) -> Answer:
    """So many runs, started at once."""
    launch(task)
    if task.variant == "wal":
        plain_chain(WARM_UP)
        waits_s.clear()
        begun = time.perf_counter()
        handles = [DBOS.start_workflow(plain_chain, steps) for _ in range(runs)]
        totals = [handle.get_result() for handle in handles]
        seconds = time.perf_counter() - begun
    else:
        seconds, totals = asyncio.run(many_async(runs, steps))
    assert totals == [sum(range(steps))] * runs
    DBOS.destroy()
    return {"seconds": seconds, "steps": runs * steps}


async def many_async(runs: int, steps: int) -> tuple[float, list[int]]:
    """The same on the event loop."""
    await async_chain(WARM_UP)
    waits_s.clear()
    begun = time.perf_counter()
    totals = await asyncio.gather(*(async_chain(steps) for _ in range(runs)))
    return time.perf_counter() - begun, totals


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
    launch(task)

    async def measure() -> float:
        begun = time.perf_counter()
        await asyncio.gather(*(nap(number) for number in range(task.size)))
        return time.perf_counter() - begun

    seconds = asyncio.run(measure())
    DBOS.destroy()
    return lateness(seconds, late_s)


def recovery(task: Task) -> Answer:
    """Many runs, killed in the middle."""
    if not task.life:
        return lives(task)
    middles.append(Middle(task))
    launch(task)
    if task.life == 1:
        begin(task)
    gate.set()
    handles = [DBOS.retrieve_workflow(f"run:{number}") for number in range(task.size)]
    totals = [handle.get_result(polling_interval_sec=0.05) for handle in handles]
    return live_on(middles[0].ran, totals.count(sum(range(STEPS_PER_RUN))))


def begin(task: Task) -> None:
    """Start the runs; each is on disk when its start returns."""
    for number in range(task.size):
        with SetWorkflowID(f"run:{number}"):
            if task.variant == "wal":
                DBOS.start_workflow(plain_interrupted)
            else:
                DBOS.start_workflow(async_interrupted)


def replay(task: Task) -> Answer:
    """A run that waits after many steps."""
    if not task.life:
        return lives(task)
    middles.append(Middle(task))
    gate.set()
    launch(task)
    if task.life == 1:
        with SetWorkflowID("waiting"):
            DBOS.start_workflow(waiting, task.size)
        while middles[0].ran < task.size:
            time.sleep(0.01)
        time.sleep(SETTLE_S)
        die(middles[0].ran)
    DBOS.send("waiting", None, "go on")
    return wait_for_ever()


def wait_for_ever() -> NoReturn:
    """The step after the wait ends the process."""
    while True:
        time.sleep(60)


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
        variants=("async", "wal"),
    )
