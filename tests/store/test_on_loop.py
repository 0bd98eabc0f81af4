"""A connection that the event loop uses itself, and a journal that writes through one."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Config, JournalError, Pikku, Workflow
from pikkupy.store import Journal, committer
from pikkupy.store.connection import connect_memory
from pikkupy.store.on_loop import BUSY_TIMEOUT_MS, LoopConnection
from tests.store.samples import a_run, sqlite_error

NOW_US = 1_800_000_000_000_000

pikku = Pikku()


@pikku.workflow
async def three(workflow: Workflow) -> int:
    return sum([await workflow.do(f"step {number}", lambda: 1) for number in range(3)])


@pytest.fixture
async def db() -> AsyncIterator[LoopConnection]:
    opened = await LoopConnection.open(connect_memory)
    yield opened
    await opened.close()


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "app.db")


async def open_journal(path: str) -> Journal:
    return await Journal.open(path, durability="process", now_us=NOW_US, on_loop=True)


async def test_what_is_sent_is_done_and_told_at_once(db: LoopConnection) -> None:
    """In the order in which it is sent, by the thread of the loop."""
    told: list[object] = []
    db.send(lambda raw: raw.execute("SELECT 1").fetchone(), lambda *outcome: told.append(outcome))
    db.send(lambda _: threading.get_ident(), lambda *outcome: told.append(outcome))

    assert told == [((1,), None), (threading.get_ident(), None)]


async def test_an_error_is_told(db: LoopConnection) -> None:
    """Nothing is raised where it was sent."""
    told: list[Any] = []
    db.send(lambda raw: raw.execute("SELECT nothing"), lambda *outcome: told.append(outcome))

    assert told[0][0] is None
    assert isinstance(told[0][1], sqlite3.OperationalError)


async def test_an_interrupt_ends_more_than_the_work(db: LoopConnection) -> None:
    """Ctrl-C can come while SQLite works: who has sent is told, so that nobody waits for ever, and it goes on."""
    told: list[Any] = []

    def interrupted(_: sqlite3.Connection) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        db.send(interrupted, lambda *outcome: told.append(outcome))
    assert [type(error) for _, error in told] == [KeyboardInterrupt]


async def test_a_callback_that_fails_is_reported_to_the_loop(db: LoopConnection) -> None:
    """Who sends is not hit by it: for the writer that would be an error of the disk."""
    heard: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
    db.send(lambda _: 1, lambda *_: 1 / 0)

    assert [type(error) for error in heard] == [ZeroDivisionError]


async def test_a_file_that_cannot_be_opened_is_said_where_it_is_opened() -> None:
    """It is opened on a thread: that can take long."""
    threads: list[int] = []

    def opener() -> sqlite3.Connection:
        threads.append(threading.get_ident())
        raise sqlite3.OperationalError("unable to open database file")

    with pytest.raises(sqlite3.OperationalError, match="unable"):
        await LoopConnection.open(opener)
    assert threads != [threading.get_ident()]


async def test_the_loop_writes_and_a_thread_reads(path: str) -> None:
    """A long question of somebody who looks at the file does not stop the loop."""
    journal = await open_journal(path)
    await journal.commit([a_run()])

    assert await journal._writer.run(lambda _: threading.get_ident()) == threading.get_ident()
    assert await journal._reader.run(lambda _: threading.get_ident()) != threading.get_ident()
    assert await journal._writer.run(lambda db: db.execute("PRAGMA busy_timeout").fetchone()) == (BUSY_TIMEOUT_MS,)
    assert (await journal.run("run-1")) is not None
    await journal.close()


async def test_a_foreign_lock_is_waited_for(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop goes on meanwhile, and the change is written once the file is free."""
    monkeypatch.setattr(committer, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(committer, "MAX_PAUSE_S", 0.001)
    journal = await open_journal(path)
    told: list[object] = []
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        journal.submit([a_run()], told.append)
        while journal.waiting is None:
            await asyncio.sleep(0)
        assert "locked" in journal.waiting
        assert told == []
        other.execute("ROLLBACK")
    await journal.idle()

    assert told == [None]
    await journal.close()


async def test_a_commit_that_fails_stops_the_journal(path: str) -> None:
    """Everybody who waits is told, those that come later as well."""

    def failpoint(place: str) -> None:
        if place == "before_commit":
            raise sqlite_error(sqlite3.SQLITE_IOERR_FSYNC)

    journal = await Journal.open(path, durability="process", now_us=NOW_US, on_loop=True, failpoint=failpoint)
    with pytest.raises(JournalError, match=r"because a write failed: .* \(SQLITE_IOERR_FSYNC\)"):
        await journal.commit([a_run()])
    with pytest.raises(JournalError):
        await journal.commit([a_run(2)])
    await journal.close()


def test_a_journal_can_be_closed_after_an_interrupt(path: str) -> None:
    """It has stopped, since it is not known what of the write is on the disk."""
    told: list[Exception | None] = []

    def failpoint(place: str) -> None:
        if place == "before_commit":
            raise KeyboardInterrupt

    async def opened() -> Journal:
        return await Journal.open(path, durability="process", now_us=NOW_US, on_loop=True, failpoint=failpoint)

    async def write(journal: Journal) -> None:
        journal.submit([a_run()], told.append)
        await journal.idle()

    with asyncio.Runner() as runner:
        journal = runner.run(opened())
        with pytest.raises(KeyboardInterrupt):
            runner.get_loop().run_until_complete(write(journal))
        runner.run(journal.close())

    assert isinstance(told[0], JournalError)
    assert "KeyboardInterrupt" in str(told[0])


async def test_an_engine_works_and_another_reads_what_it_wrote(tmp_path: Path) -> None:
    """The file is the same as any other."""
    async with pikku.open(tmp_path / "app.db", durability="process", database_thread=False) as engine:
        assert await asyncio.gather(*(engine.run(three, run_id=f"r{number}") for number in range(20))) == [3] * 20
        assert await engine._parts.host.journal._writer.run(lambda _: threading.get_ident()) == threading.get_ident()
    async with pikku.open(tmp_path / "app.db") as engine:
        page = await engine.list_runs(limit=50)
        assert {str(run.status) for run in page.runs} == {"completed"}
        assert len(page.runs) == 20


def test_with_a_sync_per_commit_there_is_a_thread() -> None:
    """The loop would stand still for each."""
    with pytest.raises(ValueError, match="database_thread=False: goes with durability='process' alone"):
        Config(database_thread=False)
    with pytest.raises(TypeError, match="database_thread=0: use True or False"):
        Config(durability="process", database_thread=0)  # type: ignore[arg-type]
