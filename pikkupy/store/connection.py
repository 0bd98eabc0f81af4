"""SQLite connections as the journal needs them: how they are opened, and what is asked of them."""

from __future__ import annotations

import asyncio
import sqlite3
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, Protocol, TypeVar
from urllib.parse import quote

from pikkupy.errors import JournalError

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

Durability = Literal["full", "process"]

BUSY_TIMEOUT_S = 5.0  # how long SQLite itself waits for a foreign lock before the committer pauses
WAL_LIMIT = 67_108_864  # bytes to which the WAL is cut after a checkpoint: a burst need not stay on the disk
PAGE_SIZE = 8192  # bytes, of a new file: seven rows with a value of 1 kB fill it, where 4,096 leave a fifth empty
CHECKPOINT_PAGES = 1_000  # in the WAL, 8 MB: SQLite's own default. What `process` can lose to a loss of power
CACHED_STATEMENTS = 256  # eleven sizes of the statement that writes, and all that read

OLDEST_SQLITE = (3, 37, 0)  # the first with STRICT tables

_SAFE = {"foreign_keys": 1, "trusted_schema": 0, "cell_size_check": 1}
_SYNCHRONOUS: dict[Durability, int] = {"full": 2, "process": 1}
_MAC = {"fullfsync": 1, "checkpoint_fullfsync": 1} if sys.platform == "darwin" else {}

REFUSALS = (sqlite3.Error, UnicodeDecodeError)
"""What a call of SQLite raises: it quotes what it cannot read of a damaged schema, and `sqlite3` cannot decode that."""


def is_damage(error: Exception) -> bool:
    """Whether what was read is to blame, and not that the system could not read it (an error of the disk, say)."""
    return isinstance(error, JournalError) and not isinstance(error.__cause__, sqlite3.OperationalError)


# A text that is not UTF-8 any more is damage. The checksum reports it for its row; the usual decoder would fail the
# whole read.
_tolerant = partial(str, encoding="utf-8", errors="surrogateescape")


class Told(Protocol[T_contra]):
    """Who wants to know what became of a hop: its result, or what it has raised."""

    def __call__(self, result: T_contra | None, error: BaseException | None, /) -> object:
        """Called on the loop."""
        ...


class Connection(Protocol):
    """A connection as the journal uses it: functions are called with it, one after another, in the order in which they
    were sent."""

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called once.

        If the waiter is cancelled, `work` runs all the same: it has to be whole in itself, a transaction with its end.
        """
        ...

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once, then `done` on the loop with its result, or with what it has raised."""
        ...

    async def close(self) -> None:
        """Close the connection, after what was sent before."""
        ...


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
        limits = {"journal_size_limit": WAL_LIMIT, "wal_autocheckpoint": CHECKPOINT_PAGES}
        set_pragmas(db, {**limits, **_SAFE, **_MAC})
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
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)  # VACUUM INTO attaches what it writes
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
    db.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)  # no statement can reach another file
    if sys.version_info >= (3, 12):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
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
