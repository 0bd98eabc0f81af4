"""SQLite connections, each on a thread of its own; one function per hop."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote

import aiosqlite

from pikkupy.errors import JournalError

T = TypeVar("T")

Durability = Literal["full", "process"]

BUSY_TIMEOUT_S = 5.0  # how long SQLite itself waits for a foreign lock before the committer pauses
WAL_LIMIT = 67_108_864  # bytes to which the WAL is cut after a checkpoint: a burst need not stay on the disk
CACHED_STATEMENTS = 256  # eleven sizes of the statement that writes, and all that read
OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

_SAFE = {"foreign_keys": 1, "trusted_schema": 0, "cell_size_check": 1}
_SYNCHRONOUS: dict[Durability, int] = {"full": 2, "process": 1}
_MAC = {"fullfsync": 1, "checkpoint_fullfsync": 1} if sys.platform == "darwin" else {}

# A text that is not UTF-8 any more is damage. The checksum reports it for its row; the usual decoder would fail the
# whole read.
_tolerant = partial(str, encoding="utf-8", errors="surrogateescape")


class Connection:
    """One SQLite connection and its thread."""

    def __init__(self, opener: Callable[[], sqlite3.Connection]) -> None:
        self._opener = opener
        self._raw: sqlite3.Connection | None = None
        self._failure: BaseException | None = None
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
        # aiosqlite's public calls send one statement each and leave a transaction open when they are cancelled between
        # two. Its way to send any function to the thread is private; this is the only place that uses it.
        result: T = await self._bridge._execute(work, self._raw)  # type: ignore[no-untyped-call]
        return result

    async def close(self) -> None:
        """Close the connection and end the thread, after what was sent before."""
        await self._bridge.close()

    def _open(self) -> sqlite3.Connection:
        # After a failed start aiosqlite does not wait for its thread, which then may meet a loop that is closed
        # already. So the start never fails: the thread gets something to close, and is ended in the usual way.
        try:
            self._raw = self._opener()
        except BaseException as error:  # noqa: BLE001 - raised in `open`
            self._failure = error
            self._raw = sqlite3.connect(":memory:", check_same_thread=False)
        return self._raw


def connect_writer(real: str, durability: Durability) -> sqlite3.Connection:
    """The connection that writes and checkpoints. The file must exist."""
    db = connect(uri(real, "mode=rw"))
    try:
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
    if image is not None:
        db.deserialize(image)
    set_pragmas(db, _SAFE)
    return db


def connect_reader(real: str) -> sqlite3.Connection:
    """A connection that cannot write, and does not checkpoint: two that do could lose data before SQLite 3.51.3."""
    db = connect(uri(real, "mode=ro"))
    try:
        set_pragmas(db, {"query_only": 1, "wal_autocheckpoint": 0, **_SAFE})
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
