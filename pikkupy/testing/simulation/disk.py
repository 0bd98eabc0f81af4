"""The disk of a simulation: real SQL on a real SQLite in memory, in the loop's own thread, with faults on demand.

The journal is in memory, so what a crash leaves is what SQLite has committed, and what a loss of power leaves, in
`process` durability, an earlier commit. The bytes of files are the business of other tests.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from pikkupy.store import Journal
from pikkupy.store.connection import Connection
from pikkupy.testing.simulation.loop import Crash, SimulatedLoop

T = TypeVar("T")

MEAN_HOP_S = 0.0005
KEPT = 8  # earlier commits that a loss of power can lead back to
PLACES = ("before_begin", "after_begin", "before_commit", "after_commit", "before_release")
CODES = {"busy": sqlite3.SQLITE_BUSY, "full": sqlite3.SQLITE_FULL, "io_error": sqlite3.SQLITE_IOERR}


class Image(NamedTuple):
    """What is on the disk after so many commits."""

    commits: int
    data: bytes | None


class SimulatedDisk:
    """One disk for all lives of a history. `at_place` is asked at each failpoint what happens there.

    It answers None, the name of an error in `CODES`, or raises `Crash`.
    """

    def __init__(self, at_place: Callable[[str], str | None], *, keeps_images: bool) -> None:
        self.commits = 0
        self.image = Image(0, None)
        self.earlier: list[Image] = []  # since the last checkpoint, in `process` durability
        self._at_place = at_place
        self._keeps_images = keeps_images
        self._db: sqlite3.Connection | None = None

    async def open_journal(self, path: str, **options: Any) -> Journal:
        """What the engine calls instead of `Journal.open`."""
        return await Journal.open(path, **options, failpoint=self._passes, connect=self._connect, image=self.image.data)

    def query(self, sql: str, *parameters: object) -> list[Any]:
        """What is committed, or about to be."""
        return [] if self._db is None else self._db.execute(sql, parameters).fetchall()

    def die(self, back: int = 0) -> None:
        """The process is gone. What is committed stays; after a loss of power, what was `back` commits ago."""
        if self._db is not None:
            if self._db.in_transaction:
                self._db.rollback()
            self.image = Image(self.commits, self._db.serialize())
            self._db.close()
            self._db = None
        if back and self.earlier:
            self.image = self.earlier[-min(back, len(self.earlier))]
            self.commits = self.image.commits
        self.earlier.clear()

    def is_dead(self, db: sqlite3.Connection) -> bool:
        """True if that connection belongs to an earlier life."""
        return db is not self._db

    async def _connect(self, opener: Callable[[], sqlite3.Connection]) -> Connection:
        self._db = opener()
        return cast(Connection, _Inline(self._db, self))

    def _passes(self, place: str) -> None:
        if place == "before_begin" and self._keeps_images and self._db is not None:
            self.earlier.append(Image(self.commits, self._db.serialize()))
            del self.earlier[:-KEPT]
        if place == "after_commit":
            self.commits += 1
        error = self._at_place(place)
        if error is not None:
            failure = sqlite3.OperationalError(f"{error.replace('_', ' ')} (simulated)")
            failure.sqlite_errorcode = CODES[error]
            raise failure


class _Inline:
    """What `Connection` is, without a thread: work takes a while and is done in the order in which it was asked for."""

    def __init__(self, db: sqlite3.Connection, disk: SimulatedDisk) -> None:
        self._db = db
        self._disk = disk
        self._free_at_s = 0.0

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        done: asyncio.Future[T] = loop.create_future()
        self._free_at_s = max(loop.time(), self._free_at_s) + loop.lasts(MEAN_HOP_S)
        loop.call_at(self._free_at_s, self._do, work, done)
        return await done

    def _do(self, work: Callable[[sqlite3.Connection], T], done: asyncio.Future[T]) -> None:
        if self._disk.is_dead(self._db):
            return  # the process is gone
        try:
            result = work(self._db)
        except Crash:
            raise
        except Exception as error:  # noqa: BLE001 - it is the caller's
            if not done.done():
                done.set_exception(error)
        else:
            if not done.done():
                done.set_result(result)

    async def close(self) -> None:
        self._disk.die()
