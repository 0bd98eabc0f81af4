"""What others left behind when somebody was cancelled, or the engine was left."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, EngineClosed, Pikku, Services, StepFailed, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


@each_way
async def test_05_a_child_whose_start_is_cancelled_has_its_id_or_is_not_there(
    settings: dict[str, Any], db: Path
) -> None:
    """DBOS (a4c206bb): a cancel while a child was launched left a child with a blank id. Seen would be a run of another
    id, or a child that goes on."""
    pikku = Pikku()

    @pikku.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        task = asyncio.create_task(_do(workflow, "part", child))
        await workflow.do("beside", lambda: None)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return "done"

    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        for number in range(20):
            assert await engine.run(parent, run_id=f"p{number}") == "done"
    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        runs = (await engine.list_runs(workflow="child", limit=500)).runs

    assert {run.id for run in runs} <= {f"p{number}/part" for number in range(20)}
    assert {run.status for run in runs} == {"cancelled"}


async def _do(workflow: Workflow, name: str, target: Any) -> None:
    await workflow.do(name, target)


async def test_05_waiters_that_are_cancelled_leave_nothing_behind(db: Path) -> None:
    """DBOS (186987aa): a cancel in recv leaked an entry of the map of waiters. Seen would be entries that stay, or a
    signal that goes to a wait which was given up."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        given_up = asyncio.create_task(_wait(workflow))
        await workflow.do("beside", lambda: None)
        given_up.cancel()
        await workflow.do("after that", is_given_up.set)
        return await workflow.wait_for_signal("go", str)

    is_given_up = asyncio.Event()
    async with pikku.open(db, clock=VirtualClock()) as engine:
        run = await engine.start(flow, run_id="r")
        for _ in range(500):
            waiting = asyncio.ensure_future(run.result())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert engine._parts is not None
        assert not engine._parts.residents._waiting
        await is_given_up.wait()  # a signal that came earlier would be for the wait that is given up
        await run.signal("go", "on")
        assert await run.result() == "on"


async def _wait(workflow: Workflow) -> None:
    await workflow.wait_for_signal("go")


async def test_05_an_error_of_a_thread_is_its_own(db: Path) -> None:
    """DBOS (1de7ed42): the variable of an `except` was deleted before a thread used it. Seen would be NameError, or the
    error of another step."""
    pikku = Pikku()

    @pikku.function
    def fails(services: Services, data: int) -> None:
        raise ValueError(f"step {data}")

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[str]:
        steps = (workflow.do(f"{number}", fails, number, retries=1) for number in range(50))
        return [error.message for error in await asyncio.gather(*steps, return_exceptions=True)]  # type: ignore[union-attr]

    async with pikku.open(db, clock=VirtualClock()) as engine:
        assert await engine.run(flow) == [f"step {number}" for number in range(50)]


@each_way
async def test_05_a_start_that_the_file_refuses_is_the_failure_of_its_step_alone(
    settings: dict[str, Any], db: Path
) -> None:
    """DBOS (b688a245): the database error of a child poisoned the retry loop. Here the id of the child is taken; seen
    would be a run that hangs, or other steps that fail."""
    pikku = Pikku()

    @pikku.workflow
    async def child(workflow: Workflow) -> str:
        return "child"

    @pikku.workflow
    async def parent(workflow: Workflow) -> list[Any]:
        one = workflow.do("part", child)
        other = workflow.do("other", child)
        results = await asyncio.gather(one, other, return_exceptions=True)
        return [type(results[0]).__name__ if isinstance(results[0], StepFailed) else results[0], results[1]]

    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        await engine.run(child, run_id="p/part")
        assert await engine.run(parent, run_id="p") == ["StepFailed", "child"]
        runs = {run.id: run.parent_run_id for run in (await engine.list_runs()).runs}

    assert runs == {"p": None, "p/part": None, "p/other": "p"}


@each_way
@pytest.mark.parametrize("turns", range(8))  # of the loop, in which the readers get as far as they may
async def test_05_leaving_does_not_wait_for_those_who_wait(turns: int, settings: dict[str, Any], db: Path) -> None:
    """DBOS (79298a00): destroy() locked up on live waiters. Seen would be an engine that is never left, or a waiter
    that is never told."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    async def read(events: Any) -> None:
        async for _ in events:
            pass

    async with asyncio.timeout(20):
        async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
            run = await engine.start(flow, run_id="r")
            readers = (run.events(), run.stream(), engine.events())
            waiters = [asyncio.ensure_future(run.result()), *(asyncio.ensure_future(read(one)) for one in readers)]
            for _ in range(turns):
                await asyncio.sleep(0)
        told = await asyncio.gather(*waiters, return_exceptions=True)

    assert [type(one) for one in told] == [EngineClosed] * 4


async def test_05_a_thread_that_ends_after_the_engine_was_left_harms_nothing(db: Path) -> None:
    """DBOS (646009e2): the database was closed before the threads were joined. Seen would be an error of a closed file,
    or a step that is lost."""
    pikku, begun, ends, ended = Pikku(), threading.Event(), threading.Event(), threading.Event()

    @pikku.function
    def slow(services: Services) -> str:
        begun.set()
        ends.wait()
        ended.set()
        return "done"

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        return await workflow.do("slow", slow)

    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
    async with pikku.open(db, clock=VirtualClock(), shutdown_grace=0, cancel_grace=0) as engine:
        await engine.start(flow, run_id="r")
        await asyncio.to_thread(begun.wait)
    ends.set()
    await asyncio.to_thread(ended.wait)
    async with pikku.open(db, clock=VirtualClock()) as engine:
        assert await (await engine.handle("r")).result() == "done"

    assert errors == []


@pytest.mark.parametrize("turns", range(0, 60, 3))
async def test_13_an_opening_that_is_cancelled_leaks_nothing(turns: int, db: Path) -> None:
    """aiosqlite (#259): a cancelled connect() left a file handle and a thread. Here opening is cancelled after so many
    turns of the loop; seen would be descriptors or threads that stay, or a file that stays locked."""
    pikku = Pikku()
    async with pikku.open(db, clock=VirtualClock()):
        pass  # what the first opening makes in the process is not what is looked for
    descriptors, threads = _descriptors(), _threads()
    opening = asyncio.ensure_future(pikku.open(db, clock=VirtualClock()).__aenter__())
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    await _ends_and_leaves_free(opening, pikku, db)

    await _settled(lambda: _descriptors() <= descriptors and _threads() <= threads)


async def test_an_opening_that_fails_or_is_cancelled_twice_leaves_the_file_free(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of it stays behind."""
    pikku = Pikku()

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr("pikkupy.engine.host.watchdog_of", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            await pikku.open(db).__aenter__()
    for turns in range(0, 80, 2):
        opening = asyncio.ensure_future(pikku.open(db, clock=VirtualClock()).__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.sleep(0)
        opening.cancel()
        await _ends_and_leaves_free(opening, pikku, db)


async def _ends_and_leaves_free(opening: asyncio.Future[Engine], pikku: Pikku, db: Path) -> None:
    (opened,) = await asyncio.gather(opening, return_exceptions=True)
    if not isinstance(opened, BaseException):
        await opened.__aexit__(None, None, None)
    async with pikku.open(db, clock=VirtualClock()) as engine:
        assert (await engine.list_runs()).runs == ()


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _threads() -> int:
    return sum(thread.is_alive() for thread in threading.enumerate())


async def _settled(is_so: Callable[[], bool]) -> None:
    """Threads end a moment after they were told to."""
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0)


@each_way
async def test_14_a_cancelled_call_leaves_no_transaction_open(settings: dict[str, Any], db: Path) -> None:
    """taOS (PR 2771), openai-agents (PR 4203): a cancel between write and commit wedged every other writer. Here
    callers are cancelled before their write, while it is under way, and after it; seen would be a lock that stays, or a
    start that is lost although it was acknowledged, or written."""
    pikku, rng = Pikku(), random.Random(14)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    async def start(number: int) -> str:
        return (await engine.start(flow, run_id=f"r{number}")).id

    acknowledged, written = set[str](), set[str]()
    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        host, _, starts = engine._parts  # type: ignore[misc]
        committer = host.journal._committer
        for number in range(300):
            call, when = asyncio.ensure_future(start(number)), rng.choice(["before", "meanwhile", "after"])
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            while when != "before" and not (committer._writing and f"r{number}" in starts._pending) and not call.done():
                await asyncio.sleep(0)
            while when == "after" and not call.done():
                await asyncio.sleep(0.0001)
            written |= {f"r{number}"} if when == "meanwhile" and not call.done() else set()
            call.cancel()
            (told,) = await asyncio.gather(call, return_exceptions=True)
            acknowledged |= {told} if isinstance(told, str) else set()
        async with asyncio.timeout(20):
            assert await start(300) == "r300"
        with closing(sqlite3.connect(db, timeout=5, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
            there = {run for (run,) in other.execute("SELECT run_id FROM pikku_runs")}

    assert len(acknowledged) > 50
    assert len(written) > 50
    assert acknowledged | written <= there


async def test_15_branches_are_torn_down_in_one_order(db: Path) -> None:
    """Temporal (sdk-java #2473): what a cancel cancelled, it cancelled in no fixed order. Seen would be another order
    of the `finally` blocks in some of many runs."""
    pikku, orders = Pikku(), list[list[int]]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        order: list[int] = []
        orders.append(order)

        async def branch(number: int) -> None:
            try:
                await workflow.wait_for_signal(f"go {number}")
            finally:
                order.append(number)

        await asyncio.gather(*(branch(number) for number in range(20)))

    async with pikku.open(db, clock=VirtualClock()) as engine:
        for number in range(20):
            run = await engine.start(flow, run_id=f"r{number}")
            await engine.signal(run.id, "other")
            await run.cancel("enough")

    assert len(orders) == 20
    assert sorted(orders[0]) == list(range(20))
    assert all(order == orders[0] for order in orders)
