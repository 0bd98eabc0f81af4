"""F58: whoever cancels a call of the engine stops waiting, and nothing else: what was begun is carried out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, Pikku, RunCancelled, StepFailed, Workflow
from tests.contract.waiting import BOTH, IN_THE_FILE


async def given_up(engine: Engine, call: Coroutine[Any, Any, Any]) -> None:
    """The call is cancelled while what it writes waits for the disk, which is slow until then."""
    host, residents, _ = engine._parts  # type: ignore[misc]
    journal, disk_is_slow = host.journal, threading.Event()
    while journal.busy or residents.busy or len(residents.active) > host.config.resident_runs:
        await asyncio.sleep(0.001)
    journal._writer.send(lambda _: disk_is_slow.wait(30), lambda *_: None)
    caller = asyncio.ensure_future(call)
    while not journal.busy:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    disk_is_slow.set()


@pytest.mark.parametrize("where", BOTH)
async def test_a_cancel_reaches_those_who_wait_and_the_children(where: dict[str, Any], db: Path) -> None:
    pikku = Pikku()

    @pikku.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    @pikku.workflow
    async def parent(workflow: Workflow) -> None:
        await workflow.do("child", child)

    @pikku.workflow
    async def grandparent(workflow: Workflow) -> str:
        try:
            await workflow.do("parent", parent)
        except StepFailed as failed:
            return failed.error_type
        return "nothing happened"

    async with pikku.open(db, **where) as engine:
        top = await engine.start(grandparent, run_id="r")
        while (await engine.counts()).get("child") is None:
            await asyncio.sleep(0.001)
        handles = [await engine.handle(name) for name in ("r/parent", "r/parent/child")]
        waiters = [asyncio.ensure_future(handle.result()) for handle in handles]
        await asyncio.sleep(0)
        await given_up(engine, engine.cancel("r/parent", "enough"))
        async with asyncio.timeout(20):
            for waiter in waiters:
                with pytest.raises(RunCancelled, match="enough"):
                    await waiter
            assert await top.result() == "pikkupy.errors.RunCancelled"


def failing_once(failures: list[int]) -> Callable[[], int]:
    def body() -> int:
        if failures:
            failures.pop()
            raise OSError("not yet")
        return 7

    return body


@pytest.mark.parametrize("where", BOTH)
async def test_a_retry_goes_on_at_once(where: dict[str, Any], db: Path) -> None:
    """Not at the next opening only (I9)."""
    pikku, failures = Pikku(), [1]

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        return await workflow.do("step", failing_once(failures))

    async with pikku.open(db, **where) as engine:
        run = await engine.start(flow, run_id="r")
        with pytest.raises(Exception, match="not yet"):
            await run.result()
        await given_up(engine, engine.retry("r"))
        async with asyncio.timeout(20):
            while await run.status() == "failed":
                await asyncio.sleep(0.001)
            assert await run.result() == 7


@pytest.mark.parametrize("where", BOTH)
async def test_a_fork_goes_on_at_once(where: dict[str, Any], db: Path) -> None:
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: int) -> int:
        first = await workflow.do("first", lambda: 20)
        return first + await workflow.do("second", lambda: data)

    async with pikku.open(db, **where) as engine:
        assert await engine.run(flow, 1, run_id="r") == 21
        await given_up(engine, engine.fork("r", at="second", input=3, new_run_id="forked"))
        async with asyncio.timeout(20):
            while not (await engine.list_runs(id_prefix="forked")).runs:
                await asyncio.sleep(0.001)
            assert await (await engine.handle("forked")).result() == 23


@pytest.mark.parametrize("accept", ["new", None])
@pytest.mark.parametrize("where", BOTH)
async def test_a_resume_goes_on_at_once(where: dict[str, Any], accept: Any, db: Path) -> None:
    old, new = Pikku(), Pikku()

    @old.workflow(name="flow")
    async def before(workflow: Workflow) -> int:
        await workflow.do("a", lambda: 1)
        await workflow.wait_for_signal("go")
        return 0

    @new.workflow(name="flow")
    async def after(workflow: Workflow) -> int:
        if accept is None:
            await workflow.do("a", lambda: 1)
            await workflow.suspend("a gate")
        return await workflow.do("b", lambda: 2)

    async with (new if accept is None else old).open(db, **where) as engine:
        await engine.start("flow", run_id="r")
        while len(await engine.steps("r")) < 2:
            await asyncio.sleep(0.001)
    async with new.open(db, **where) as engine:
        if accept is not None and where:  # else nobody looks whether it fits
            await engine.signal("r", "go")
        while (await engine.get_run("r")).status != "suspended":
            await asyncio.sleep(0.001)
        await given_up(engine, engine.resume("r", accept=accept))
        async with asyncio.timeout(20):
            assert await (await engine.handle("r")).result() == 2


async def test_signals_to_a_run_in_the_file_keep_their_places(db: Path) -> None:
    """The one whose sender is gone is on its way to the disk: the next one comes behind it."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[int]:
        await workflow.wait_for_signal("go")
        return [await workflow.wait_for_signal("n", int) for _ in range(2)]

    async with pikku.open(db, **IN_THE_FILE) as engine:
        run = await engine.start(flow, run_id="r")
        while engine._parts.residents.active:  # type: ignore[union-attr]
            await asyncio.sleep(0.001)
        await given_up(engine, engine.signal("r", "n", 1))
        await engine.signal("r", "n", 2)
        await engine.signal("r", "go")
        async with asyncio.timeout(20):
            assert await run.result() == [1, 2]
