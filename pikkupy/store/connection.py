"""SQLite connections, each on a thread of its own; one function per hop.

A thread that comes back from SQLite needs the interpreter, and beside an event loop that computes and never rests it
does not get it: each look at the loop's files gives the interpreter up for a moment that is too short to be taken, and
lets the thread's wait for it begin anew. So a loop that is seen to be busy while a hop is under way waits for it, a
little in each turn.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, Generic, Literal, Protocol, TypeVar
from urllib.parse import quote

import aiosqlite

from pikkupy.errors import JournalError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Durability = Literal["full", "process"]

BUSY_TIMEOUT_S = 5.0  # how long SQLite itself waits for a foreign lock before the committer pauses
WAL_LIMIT = 67_108_864  # bytes to which the WAL is cut after a checkpoint: a burst need not stay on the disk
PAGE_SIZE = 8192  # bytes, of a new file: seven rows with a value of 1 kB fill it, where 4,096 leave a fifth empty
CACHED_STATEMENTS = 256  # eleven sizes of the statement that writes, and all that read

BUSY_S = 60e-6  # a loop whose turn takes longer computes, and waits for a hop in its next one:
FIRST_WAIT_S = 300e-6  # at first about as long as a write and sync take,
WAIT_S = 60e-6  # then as long as a thread needs to take the interpreter
LOOK_S = 0.001  # how soon a loop that has rested is looked at again; doubles while the same hop is under way
LONGEST_LOOK_S = 0.064

OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

_SAFE = {"foreign_keys": 1, "trusted_schema": 0, "cell_size_check": 1}
_SYNCHRONOUS: dict[Durability, int] = {"full": 2, "process": 1}
_MAC = {"fullfsync": 1, "checkpoint_fullfsync": 1} if sys.platform == "darwin" else {}

# A text that is not UTF-8 any more is damage. The checksum reports it for its row; the usual decoder would fail the
# whole read.
_tolerant = partial(str, encoding="utf-8", errors="surrogateescape")


class Told(Protocol[T_contra]):
    """Who wants to know what became of a hop: its result, or what it has raised."""

    def __call__(self, result: T_contra | None, error: BaseException | None, /) -> object:
        """Called on the loop."""
        ...


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


class Connection:
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
    async def open(cls, opener: Callable[[], sqlite3.Connection]) -> Connection:
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


def resolve(future: asyncio.Future[T], result: T | None, error: BaseException | None) -> None:
    """As `Told` for one who waits for `future`; not if its waiter was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)  # type: ignore[arg-type]
    else:
        future.set_exception(error)


def connect_writer(real: str, durability: Durability) -> sqlite3.Connection:
    """The connection that writes and checkpoints. The file must exist."""
    db = connect(uri(real, "mode=rw"))
    try:
        db.execute(f"PRAGMA page_size = {PAGE_SIZE}")  # changes nothing in a file that has something in it
        set_pragmas(db, {"journal_mode": "wal", "synchronous": _SYNCHRONOUS[durability]})
        set_pragmas(db, {"journal_size_limit": WAL_LIMIT, **_SAFE, **_MAC})
    except BaseException:
        db.close()
        raise
    return db


def connect_memory(image: bytes | None = None) -> sqlite3.Connection:
    """A journal that ends with the process. Reads go through it, too: no second connection can see it.

    `image` is what it begins with, as `sqlite3.Connection.serialize` gives it.
    """
    db = connect("file::memory:")
    db.execute(f"PRAGMA page_size = {PAGE_SIZE}")
    if image is not None:
        db.deserialize(image)
    set_pragmas(db, _SAFE)
    return db


def connect_reader(real: str, options: str = "mode=ro") -> sqlite3.Connection:
    """A connection that cannot write, and does not checkpoint: two that do could lose data before SQLite 3.51.3."""
    db = connect(uri(real, options))
    try:
        set_pragmas(db, {"query_only": 1, "wal_autocheckpoint": 0, **_SAFE})
    except BaseException:
        db.close()
        raise
    return db


def connect_copy(real: str) -> sqlite3.Connection:
    """A connection that may make and write a file which nobody else has: a copy of what is not trusted."""
    db = connect(uri(real, "mode=rwc"))
    try:
        set_pragmas(db, _SAFE)
    except BaseException:
        db.close()
        raise
    return db


def connect(database: str) -> sqlite3.Connection:
    """A bare connection for one URI, without transactions of its own."""
    db = sqlite3.connect(
        database,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,  # aiosqlite's thread uses it; another one may drop the last reference
        cached_statements=CACHED_STATEMENTS,
    )
    db.text_factory = _tolerant
    return db


def uri(real: str, options: str) -> str:
    """The absolute path as an SQLite URI: `?`, `#` and `%` of the path are not its syntax."""
    return f"file://{quote(real)}?{options}"


def set_pragmas(db: sqlite3.Connection, pragmas: Mapping[str, int | str]) -> None:
    """Set each and read it back. Raises `JournalError` if SQLite keeps another value."""
    for name, wanted in pragmas.items():
        db.execute(f"PRAGMA {name} = {wanted}").fetchall()
        kept = db.execute(f"PRAGMA {name}").fetchone()
        if kept is None or kept[0] != wanted:
            raise JournalError(
                f"SQLite does not keep PRAGMA {name} = {wanted} (it says {kept}): the journal is not safe"
            )


def check_library() -> None:
    """Raises `JournalError` if the SQLite library is too old."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise JournalError(f"SQLite {sqlite3.sqlite_version} is too old: pikkupy needs {wanted} or newer")
