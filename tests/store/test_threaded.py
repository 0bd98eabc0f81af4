"""One function per hop: told in order, and waited for by a loop that never rests (`no starvation`)."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from pikkupy.store import threaded
from pikkupy.store.connection import connect_memory
from pikkupy.store.threaded import ThreadedConnection

LONG_S = 30.0  # more than any turn takes


@pytest.fixture
async def db() -> AsyncIterator[ThreadedConnection]:
    opened = await ThreadedConnection.open(connect_memory)
    yield opened
    await opened.close()


class Busy:
    """A clock by which each look finds that the loop was busy, or that it was not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, busy: bool) -> None:
        self.busy, self._now_s = busy, 0.0
        monkeypatch.setattr(threaded, "perf_counter", self)

    def __call__(self) -> float:
        self._now_s += self.busy
        return self._now_s


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_busy_loop_waits_for_a_hop(db: ThreadedConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in the turn after the one that has sent it, however long the thread takes."""
    monkeypatch.setattr(threaded, "FIRST_WAIT_S", LONG_S)
    Busy(monkeypatch, busy=True)
    told: list[object] = []
    slow = threading.Timer(0.05, lambda: gone.set())
    gone = threading.Event()
    slow.start()
    db.send(lambda _: gone.wait(LONG_S), lambda *outcome: told.append(outcome))
    await turns(2)

    assert told == [(True, None)]


async def test_a_loop_that_rests_waits_for_nothing(db: ThreadedConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes on at once, and is called when the hop is back."""
    Busy(monkeypatch, busy=False)
    gone, told = threading.Event(), asyncio.Event()
    db.send(lambda _: gone.wait(LONG_S), lambda *_: told.set())
    await turns(5)
    assert not told.is_set()
    gone.set()
    await asyncio.wait_for(told.wait(), LONG_S)


async def test_a_hop_that_was_waited_for_in_vain_is_told_when_the_loop_rests(
    db: ThreadedConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the thread has seen that the loop waits or not."""
    clock = Busy(monkeypatch, busy=True)
    for waits in (0.0001, 0.001, 0.01):
        monkeypatch.setattr(threaded, "FIRST_WAIT_S", waits)
        gone, told = threading.Event(), asyncio.Event()
        db.send(lambda _, gone=gone: gone.wait(LONG_S), lambda *_, told=told: told.set())  # type: ignore[misc]
        clock.busy = True
        await turns(3)
        assert not told.is_set()
        clock.busy = False
        gone.set()
        await asyncio.wait_for(told.wait(), LONG_S)


@pytest.mark.parametrize("busy", [True, False])
async def test_hops_are_told_in_the_order_in_which_they_were_sent(
    db: ThreadedConnection, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """With what they have raised, too; and those that are sent while one is told."""
    Busy(monkeypatch, busy=busy)
    told: list[object] = []
    over = asyncio.Event()

    def again(result: int | None, error: BaseException | None) -> None:
        told.append((result, error))
        db.send(lambda _: "last", lambda result, _: (told.append(result), over.set()))

    def broken(raw: sqlite3.Connection) -> object:
        return raw.execute("SELECT no")

    db.send(lambda _: 1, again)
    db.send(broken, lambda result, error: told.append((result, type(error))))
    await asyncio.wait_for(over.wait(), LONG_S)

    assert told == [(1, None), (None, sqlite3.OperationalError), "last"]


async def test_a_waiter_that_is_cancelled_does_not_keep_the_work_from_being_done(db: ThreadedConnection) -> None:
    """It is whole in itself."""
    done = threading.Event()
    waiting = asyncio.ensure_future(db.run(lambda _: done.set()))
    await turns(1)
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting

    assert done.wait(LONG_S)
    assert await db.run(lambda raw: raw.execute("SELECT 1").fetchall()) == [(1,)]
