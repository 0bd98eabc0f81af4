"""A connection on a thread of its own; one function per hop.

A thread that comes back from SQLite needs the interpreter, and beside an event loop that computes and never rests it
does not get it: each look at the loop's files gives the interpreter up for a moment that is too short to be taken, and
lets the thread's wait for it begin anew. So a loop that is seen to be busy while a hop is under way waits for it, a
little in each turn.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, Generic, TypeVar

import aiosqlite

from pikkupy.store.connection import Told, resolve

T = TypeVar("T")

BUSY_S = 60e-6  # a loop whose turn takes longer computes, and waits for a hop in its next one:
FIRST_WAIT_S = 300e-6  # at first about as long as a write and sync take,
WAIT_S = 60e-6  # then as long as a thread needs to take the interpreter
LOOK_S = 0.001  # how soon a loop that has rested is looked at again; doubles while the same hop is under way
LONGEST_LOOK_S = 0.064


class _Hop(Generic[T]):
    """A function on its way to the thread and back."""

    __slots__ = ("_work", "back", "done", "error", "result")

    def __init__(self, work: Callable[[], T], done: Told[T]) -> None:
        self._work = work
        self.done = done
        self.result: T | None = None
        self.error: BaseException | None = None
        self.back = Lock()  # held until it is back
        self.back.acquire()

    def do(self) -> None:
        """In the thread."""
        try:
            self.result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is for who has sent it
            self.error = error
        self.back.release()


class ThreadedConnection:
    """One SQLite connection and its thread."""

    def __init__(self, opener: Callable[[], sqlite3.Connection]) -> None:
        self._opener = opener
        self._raw: sqlite3.Connection | None = None
        self._failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._flying: deque[_Hop[Any]] = deque()
        self._looks = False  # a look is due, in the next turn or
        self._later: asyncio.TimerHandle | None = None  # later
        self._began_s = 0.0  # when the last turn of the loop began, at the latest
        self._look_s = LOOK_S
        self._waited_for: _Hop[Any] | None = None  # by a loop that was busy
        self._bridge = aiosqlite.Connection(self._open, iter_chunk_size=64)
        # A program that ends without leaving its engine must end: for the file that is a crash like any other.
        self._bridge._thread.daemon = True

    @classmethod
    async def open(cls, opener: Callable[[], sqlite3.Connection]) -> ThreadedConnection:
        """Start the thread and let it open the connection; what `opener` raises is raised."""
        connection = cls(opener)
        await connection._bridge
        if connection._failure is not None:
            await connection.close()
            raise connection._failure
        return connection

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called once in the thread.

        If the waiter is cancelled, `work` runs all the same: it has to be whole in itself, a transaction with its end.
        """
        future: asyncio.Future[T] = self._loop.create_future()
        self.send(work, partial(resolve, future))
        return await future

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once in the thread, then `done` on the loop with its result, or with what it has raised."""
        assert self._raw is not None  # it is open
        hop = _Hop(partial(work, self._raw), done)
        self._flying.append(hop)
        # aiosqlite's public calls send one statement each and leave a transaction open when they are cancelled between
        # two. Its way to send any function to the thread is private; this is the only place that uses it.
        self._bridge._tx.put_nowait((None, partial(self._in_thread, hop)))
        self._look_soon()

    def _in_thread(self, hop: _Hop[Any]) -> None:
        hop.do()
        if self._waited_for is not hop:
            try:
                self._loop.call_soon_threadsafe(self._land)
            except RuntimeError:
                pass  # the loop is closed

    def _land(self) -> None:
        """Tell of what is back, in the order in which it was sent."""
        flying = self._flying
        while flying and flying[0].back.acquire(blocking=False):
            hop = flying.popleft()
            self._look_s = LOOK_S
            hop.done(hop.result, hop.error)

    def _look_soon(self) -> None:
        if not self._looks:
            self._looks = True
            self._began_s = perf_counter()
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        """Wait for a hop if the loop is busy."""
        self._looks = False
        if perf_counter() - self._began_s < BUSY_S:
            self._waited_for = None
            self._land()  # what has come back before this did not say so
            if self._flying:
                self._looks = True
                self._later = self._loop.call_later(self._look_s, self._look_again)
                self._look_s = min(2 * self._look_s, LONGEST_LOOK_S)
        elif self._flying:
            hop = self._flying[0]
            wait_s = WAIT_S if hop is self._waited_for else FIRST_WAIT_S
            self._waited_for = hop
            if hop.back.acquire(timeout=wait_s):
                hop.back.release()
            self._land()
            if self._flying:
                self._look_soon()

    def _look_again(self) -> None:
        self._looks = False
        if self._flying:
            self._look_soon()

    async def close(self) -> None:
        """Close the connection and end the thread, after what was sent before."""
        await self._bridge.close()
        if self._later is not None:
            self._later.cancel()

    def _open(self) -> sqlite3.Connection:
        # After a failed start aiosqlite does not wait for its thread, which then may meet a loop that is closed
        # already. So the start never fails: the thread gets something to close, and is ended in the usual way.
        try:
            self._raw = self._opener()
        except BaseException as error:  # noqa: BLE001 - raised in `open`
            self._failure = error
            self._raw = sqlite3.connect(":memory:", check_same_thread=False)
        return self._raw
