"""The disk of a simulation: real SQL on a real SQLite in memory, in the loop's own thread, with faults on demand.

The journal is in memory, so what a crash leaves is what SQLite has committed, and what a loss of power leaves, in
`process` durability, an earlier commit. The bytes of files are the business of other tests.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any, NamedTuple, TypeVar

from pikkupy.store import Journal
from pikkupy.store.connection import Connection, Told, connect_memory, resolve
from pikkupy.store.migrations import migrate
from pikkupy.store.plan import Op
from pikkupy.store.writer import Written
from pikkupy.testing.simulation.loop import Crash, SimulatedLoop

T = TypeVar("T")

MEAN_HOP_S = 0.0005
REOPENED = 8  # of so many lives one opens the journal anew; the others go on with the connection, which is quicker
KEPT = 64  # earlier commits that a loss of power can lead back to
PLACES = ("before_begin", "after_begin", "before_commit", "after_commit", "before_release")  # of a write
READ = "before_read"
CODES = {
    "busy": sqlite3.SQLITE_BUSY,
    "full": sqlite3.SQLITE_FULL,
    "io_error": sqlite3.SQLITE_IOERR,
    "ghost": sqlite3.SQLITE_IOERR,  # what was reported as an error is on the disk
    "read": sqlite3.SQLITE_IOERR,
}


class Image(NamedTuple):
    """What is on the disk after so many commits."""

    commits: int
    data: bytes


class SimulatedDisk:
    """One disk for all lives of a history. `at_place` is asked at each failpoint what happens there.

    It answers None, the name of an error in `CODES`, or raises `Crash`. `can_go_back` says whether power may be lost
    next, so that earlier commits have to be kept.
    """

    def __init__(self, at_place: Callable[[str], str | None], can_go_back: Callable[[], bool]) -> None:
        self.commits = 0
        self.batch: Sequence[Sequence[Op]] = ()  # what is being written
        self._at_place = at_place
        self._can_go_back = can_go_back
        self._earlier: list[Image] = []  # since the last checkpoint, in `process` durability
        self._image = _new_journal()
        self._db: sqlite3.Connection | None = None
        self._connection: _Inline | None = None
        self._opened = 0

    async def open_journal(self, path: str, *, on_loop: bool, **options: Any) -> Journal:
        """What the engine calls instead of `Journal.open`."""
        self._opened += 1
        if self._db is not None and self._opened % REOPENED == 0:
            self._close(self._db.serialize())
        journal = await Journal.open(path, **options, failpoint=self._passes, connect=self._connect, image=self._image)
        assert self._connection is not None
        journal._reader = _Reader(self._connection, partial(self._passes, READ))
        if on_loop:  # reads go to a thread all the same
            journal._writer = _OnLoop(self._connection)
        write = journal._write_batch

        def noted(db: sqlite3.Connection, batch: Sequence[Sequence[Op]]) -> Written:
            self.batch = batch
            return write(db, batch)

        journal._write_batch = noted
        return journal

    @property
    def is_open(self) -> bool:
        """Whether some work has left a transaction open."""
        return self._connection is not None and self._connection.left_open

    def query(self, sql: str, *parameters: object) -> list[Any]:
        """What is committed, or about to be."""
        return [] if self._db is None else self._db.execute(sql, parameters).fetchall()

    def die(self, back: int = 0) -> bool:
        """The process is gone. What is committed stays; after a loss of power, what was `back` commits ago, also in an
        earlier life that has not ended in order.

        True if the disk is an earlier one.
        """
        if self._connection is not None:
            self._connection.dead = True
        db = self._db
        if db is not None and db.in_transaction:
            db.rollback()
        if db is None or not back or not self._earlier:
            return False
        image = self._earlier[-min(back, len(self._earlier))]
        self._earlier.clear()
        self.commits = image.commits
        self._close(image.data)
        return True

    def close(self) -> None:
        """The history is over."""
        if self._db is not None:
            self._db.close()

    def _close(self, image: bytes) -> None:
        assert self._db is not None
        self._image = image
        self._db.close()
        self._db = None

    async def _connect(self, opener: Callable[[], sqlite3.Connection]) -> Connection:
        if self._db is None:
            self._db = opener()
        self._connection = _Inline(self._db, self._earlier.clear)
        return self._connection

    def _passes(self, place: str) -> None:
        if place == "before_begin" and self._db is not None and self._can_go_back():
            self._earlier.append(Image(self.commits, self._db.serialize()))
            del self._earlier[:-KEPT]
        if place == "after_commit":
            self.commits += 1
        error = self._at_place(place)
        if error is not None:
            failure = sqlite3.OperationalError(f"{error.replace('_', ' ')} (simulated)")
            failure.sqlite_errorcode = CODES[error]
            raise failure


@cache
def _new_journal() -> bytes:
    with closing(connect_memory()) as db:
        migrate(db, 0, stamped=True, now_us=0)
        return db.serialize()


class _Connection:
    """What both have: a result that can be awaited."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.send(work, partial(resolve, future))
        return await future

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        raise NotImplementedError


class _Inline(_Connection):
    """A `Connection` without a thread: work takes a while and is done in the order in which it was asked for."""

    def __init__(self, db: sqlite3.Connection, synced: Callable[[], None]) -> None:
        self.dead = False
        self._synced = synced
        self.left_open = False  # a transaction, after a piece of work
        self._db = db
        self._free_at_s = 0.0

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        self._free_at_s = max(loop.time(), self._free_at_s) + loop.lasts(MEAN_HOP_S)
        loop.call_at(self._free_at_s, self.do, work, done)

    def do(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Do it now."""
        if self.dead:
            return  # the process is gone
        result, failure = None, None
        try:
            result = work(self._db)
        except Crash:
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's
            failure = error
        self.left_open = self.left_open or self._db.in_transaction
        done(result, failure)

    async def close(self) -> None:
        if not self.dead:
            await self.run(bool)  # after what was sent before, as the real one
            self._synced()  # SQLite does that when the last connection is closed
        self.dead = True


class _OnLoop(_Connection):
    """A connection that the loop itself uses: it stands still meanwhile."""

    def __init__(self, connection: _Inline) -> None:
        self._connection = connection

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.now_s += loop.lasts(MEAN_HOP_S)
        self._connection.do(work, done)

    async def close(self) -> None:
        await self._connection.close()


class _Reader:
    """What reads through the connection of the writer, which outlives it or has been closed before."""

    def __init__(self, connection: _Inline, passes: Callable[[], None]) -> None:
        self._connection = connection
        self._passes = passes
        self.run = connection.run

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        def read(db: sqlite3.Connection) -> T:
            self._passes()
            return work(db)

        self._connection.send(read, done)

    async def close(self) -> None:
        if not self._connection.dead:
            await self._connection.run(bool)  # after what was sent before
