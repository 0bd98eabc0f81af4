"""Leaving an engine, in order or because of the disk, keeps nobody waiting for what may never come."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, EngineClosed, JournalError, Pikku, Workflow
from pikkupy.core.model import Recorded
from pikkupy.core.outcomes import Outcome
from pikkupy.store import Journal, connection
from pikkupy.testing import VirtualClock
from pikkupy.workers.thread_attempts import ThreadAttempt
from tests.contract.waiting import IN_THE_FILE

elsewhere = Pikku()


@elsewhere.function(worker="process")
def touch(services: Any, path: str) -> None:
    Path(path).touch()


async def test_leaving_does_not_wait_for_ever_for_another_program(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What still cannot be written then is told to its callers, and nothing is lost that was told before."""
    monkeypatch.setattr(connection, "BUSY_TIMEOUT_S", 0.001)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        pass

    async with pikku.open(db) as engine:
        await engine.start(flow, run_id="kept")
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waits = asyncio.ensure_future(engine.start(flow, run_id="waits"))
            while engine._use().host.journal.waiting is None:
                await asyncio.sleep(0)
            await engine.__aexit__(None, None, None)
            with pytest.raises(JournalError, match="closed before that passed"):
                await waits
    async with pikku.open(db) as engine:
        runs = (await engine.list_runs()).runs

    assert [run.id for run in runs] == ["kept"]


async def test_a_call_that_was_reading_when_the_journal_failed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run does not come into memory any more, where nothing would tell of its end."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
        journal = engine._use().host.journal
        read = journal.recorded

        async def the_disk_is_gone(number: int) -> Recorded | None:
            found = await read(number)
            journal.fail(JournalError("the disk is gone"))
            for _ in range(5):
                await asyncio.sleep(0)
            return found

        monkeypatch.setattr(journal, "recorded", the_disk_is_gone)
        async with asyncio.timeout(10):
            calls = (engine.signal("r", "go", 1), engine.cancel("r", "enough"), engine.signal("r", "go", 2))
            told = await asyncio.gather(*calls, return_exceptions=True)

    assert [str(error) for error in told] == ["the disk is gone"] * 3


async def test_an_engine_that_is_being_left_is_not_ready(db: Path) -> None:
    """From the moment on in which it begins to be left, though its steps have their time, until it is open again."""
    pikku, at_work, leave = Pikku(), asyncio.Event(), asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def work() -> None:
            at_work.set()
            await leave.wait()

        await workflow.do("work", work)

    engine = pikku.open(db, shutdown_grace="30s")
    with pytest.raises(EngineClosed):
        await engine.ready()
    async with engine:
        await engine.ready()
        handle = await engine.start(flow)
        await at_work.wait()
        leaving = asyncio.ensure_future(engine.__aexit__(None, None, None))
        for _ in range(5):
            await asyncio.sleep(0)
        with pytest.raises(EngineClosed, match="being left"):
            await engine.ready()
        leave.set()
        await leaving
        with pytest.raises(EngineClosed):
            await engine.ready()
    async with engine:
        await engine.ready()
        await (await engine.handle(handle.id)).result()


@pytest.mark.parametrize("kind", ["inline", "inline, async", "async", "thread"])
async def test_bodies_that_wait_for_a_slot_do_not_begin_after_the_journal_has_stopped(kind: str, db: Path) -> None:
    """Nor when one becomes free, as long as the application does not leave its engine: they are in no record."""
    pikku, begun = Pikku(), list[str]()
    at_work, leave = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def body(name: str) -> None:
        begun.append(name)
        at_work.set()
        await leave.wait()

    def plain(name: str) -> None:
        begun.append(name)

    @pikku.function
    async def in_async(services: Any, name: str) -> None:
        await body(name)

    @pikku.function
    def on_thread(services: Any, name: str) -> None:
        asyncio.run_coroutine_threadsafe(body(name), loop).result(30)

    @pikku.workflow
    async def flow(workflow: Workflow, name: str) -> None:
        if kind == "thread":
            await workflow.do("step", on_thread, name)
        elif kind == "async":
            await workflow.do("step", in_async, name)
        else:
            first = name == "first" or "async" in kind
            await workflow.do("step", (lambda: body(name)) if first else (lambda: plain(name)))

    async with pikku.open(db, async_workers=1, thread_workers=1, shutdown_grace=0) as engine:
        first = await engine.start(flow, "first")
        await at_work.wait()
        others = [await engine.start(flow, name) for name in ("second", "third")]
        engine._use().host.journal.fail(JournalError("the disk is gone"))
        with pytest.raises(JournalError, match="the disk is gone"):
            await first.result()
        leave.set()
        for _ in range(200):
            await asyncio.sleep(0.001)
        for handle in others:
            with pytest.raises(JournalError):
                await handle.result()

    assert begun == ["first"]


async def test_a_worker_process_that_starts_is_asked_for_nothing_after_the_journal_has_stopped(
    db: Path, tmp_path: Path
) -> None:
    """It may start for as long as it likes."""

    @elsewhere.workflow
    async def touching(workflow: Workflow, path: str) -> None:
        await workflow.do("step", touch, path)

    async with elsewhere.open(db) as engine:
        handle = await engine.start(touching, str(tmp_path / "touched"))
        while not engine._use().host.workers.running:
            await asyncio.sleep(0)
        workers = engine._use().host.workers
        engine._use().host.journal.fail(JournalError("the disk is gone"))
        with pytest.raises(JournalError, match="the disk is gone"):
            await handle.result()
        async with asyncio.timeout(30):
            while workers.running:
                await asyncio.sleep(0.001)

    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("kind", ["function", "inline"])
async def test_no_body_begins_after_the_journal_has_stopped(kind: str, db: Path) -> None:
    """Nor of a step that is asked for before that is told: what it does would be in no record."""
    pikku, begun, journals = Pikku(), list[str](), list[Journal]()

    async def body() -> None:
        begun.append(kind)

    @pikku.function
    async def work(services: Any) -> None:
        await body()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        journals[0].fail(JournalError("the disk is gone"))  # it is told in the next turn of the loop
        await workflow.do("step", body if kind == "inline" else work)

    await run_until_it_stops(pikku.open(db), journals)

    assert begun == []


@pytest.mark.parametrize("kind", ["inline", "async", "thread"])
async def test_no_body_begins_that_was_about_to_when_the_journal_stopped(
    kind: str, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its attempt is there already; that the journal has stopped is told behind it, in the next turn of the loop. A
    thread comes to it only then."""
    pikku, begun, journals = Pikku(), list[str](), list[Journal]()
    stopped, over, work = threading.Event(), threading.Event(), ThreadAttempt._work

    def late(attempt: ThreadAttempt) -> Outcome:
        stopped.wait(30)
        try:
            return work(attempt)
        finally:
            over.set()

    async def stop() -> None:
        journals[0].fail(JournalError("the disk is gone"))
        asyncio.get_running_loop().call_soon(stopped.set)

    async def body() -> None:
        begun.append(kind)

    @pikku.function
    async def in_async(services: Any) -> None:
        begun.append(kind)

    @pikku.function
    def on_thread(services: Any) -> None:
        begun.append(kind)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        about_to = {"inline": body, "async": in_async, "thread": on_thread}[kind]
        await asyncio.gather(workflow.do("stop", stop), workflow.do("step", about_to))

    monkeypatch.setattr(ThreadAttempt, "_work", late)
    await run_until_it_stops(pikku.open(db), journals)

    assert kind != "thread" or over.wait(30)
    assert begun == []


async def run_until_it_stops(engine: Engine, journals: list[Journal]) -> None:
    """Run `flow`, which makes the journal fail that it finds in the list."""
    with pytest.raises(JournalError, match="the disk is gone"):
        async with engine:
            journals.append(engine._use().host.journal)
            await (await engine.start("flow")).result()
