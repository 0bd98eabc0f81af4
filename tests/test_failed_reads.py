"""A read of the engine's own fails: it stops rather than leave a run waiting for ever (F19), and loses nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, JournalError, Pikku, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import IN_THE_FILE

pikku = Pikku()


@pikku.workflow
async def sleeping(workflow: Workflow) -> str:
    await workflow.sleep("nap", "1h")
    return "awake"


@pikku.workflow
async def waiting(workflow: Workflow) -> str:
    return await workflow.wait_for_signal("go", str)


@pikku.workflow
async def parent(workflow: Workflow) -> str:
    return await workflow.do("child", waiting)


@pikku.workflow
async def impatient(workflow: Workflow) -> str:
    """Cancels its child, which is in the file."""
    try:
        async with asyncio.timeout(3600):
            return await workflow.do("child", waiting)
    except TimeoutError:
        return "gone on"


async def alone(engine: Engine) -> None:
    """Nothing is in memory, or on its way there or out of it."""
    host, residents, _ = engine._parts  # type: ignore[misc]
    async with asyncio.timeout(20):
        while residents.active or residents.busy or host.journal.busy:
            await asyncio.sleep(0.001)


def fail_once(monkeypatch: pytest.MonkeyPatch, engine: Engine, read: str, error: Exception) -> Callable[[], bool]:
    """Let the journal's next read of that name fail; whether it has."""
    journal = engine._parts.host.journal  # type: ignore[union-attr]
    given: Callable[..., Awaitable[Any]] = getattr(journal, read)
    failed = False

    async def reading(*arguments: Any, **options: Any) -> Any:
        nonlocal failed
        if failed:
            return await given(*arguments, **options)
        failed = True
        raise error

    monkeypatch.setattr(journal, read, reading)
    return lambda: failed


def refused() -> JournalError:
    error = JournalError("the journal cannot be read: disk I/O error")
    error.__cause__ = sqlite3.OperationalError("disk I/O error")
    return error


@pytest.mark.parametrize("error", [refused(), MemoryError(), RuntimeError("a defect")], ids=["disk", "memory", "bug"])
@pytest.mark.parametrize("read", ["due", "next_waking", "recorded_runs"])
async def test_a_sleeping_run_wakes_or_the_engine_stops(
    read: str, error: Exception, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9, I13: not neither."""
    clock = VirtualClock()
    with monkeypatch.context() as patch:
        async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
            run = await engine.start(sleeping, run_id="r")
            await alone(engine)
            result = asyncio.ensure_future(run.result())
            await asyncio.sleep(0)
            has_failed = fail_once(patch, engine, read, error)
            await clock.advance("2h")
            async with asyncio.timeout(20):
                with pytest.raises(JournalError, match="cannot be brought into memory: "):
                    while True:
                        await engine.get_run("r")
            assert has_failed()
            [told] = await asyncio.gather(result, return_exceptions=True)
            assert isinstance(told, JournalError) or (read, told) == ("next_waking", "awake")  # it was there before
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine, asyncio.timeout(20):
        assert await (await engine.handle("r")).result() == "awake"


@pytest.mark.parametrize("read", ["run_by_number", "recorded_runs"])
async def test_a_parent_hears_of_its_child_or_the_engine_stops(
    read: str, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        async with pikku.open(db, **IN_THE_FILE) as engine:
            run = await engine.start(parent, run_id="r")
            while (await engine.counts()).get("waiting") is None:
                await asyncio.sleep(0.001)
            await alone(engine)
            result = asyncio.ensure_future(run.result())
            await engine.signal("r/child", "go", "yes")  # the child comes into memory before anything fails
            fail_once(patch, engine, read, refused())
            async with asyncio.timeout(20):
                with pytest.raises(JournalError, match="could not be brought to it: "):
                    await result
    async with pikku.open(db, **IN_THE_FILE) as engine, asyncio.timeout(20):
        assert await (await engine.handle("r")).result() == "yes"


@pytest.mark.parametrize("read", ["run_by_number", "children"])
async def test_a_child_that_is_left_is_cancelled_or_the_engine_stops(
    read: str, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = VirtualClock()
    with monkeypatch.context() as patch:
        async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
            await engine.start(impatient, run_id="r")
            while (await engine.counts()).get("waiting") is None:
                await asyncio.sleep(0.001)
            await alone(engine)
            failed = fail_once(patch, engine, read, refused())
            await clock.advance("2h")
            async with asyncio.timeout(20):
                while not failed():
                    await asyncio.sleep(0.001)
                with pytest.raises(JournalError, match="could not be brought to it: "):
                    while True:
                        await engine.counts()
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine, asyncio.timeout(20):
        assert await (await engine.handle("r")).result() == "gone on"
        while (await engine.get_run("r/child")).status != "cancelled":
            await asyncio.sleep(0.001)


async def test_damage_of_one_run_stops_nothing_else(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged, and the others go on."""
    clock = VirtualClock()
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
        await engine.start(impatient, run_id="r")
        while (await engine.counts()).get("waiting") is None:
            await asyncio.sleep(0.001)
        await alone(engine)
        with monkeypatch.context() as patch:
            failed = fail_once(patch, engine, "children", JournalError("child run 'r/child' is damaged"))
            await clock.advance("2h")
            async with asyncio.timeout(20):
                while not failed():
                    await asyncio.sleep(0.001)
        assert await (await engine.handle("r")).result() == "gone on"
        assert any("run_damaged" in line and "'r/child' is damaged" in line for line in caplog.messages)
        again = await engine.start(sleeping, run_id="s")
        await clock.advance("2h")
        assert await again.result() == "awake"
