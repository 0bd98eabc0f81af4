"""One transaction, where SQLite works, and what its errors mean."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain

import msgspec

from pikkupy.errors import JournalError
from pikkupy.store.connection import set_pragmas
from pikkupy.store.plan import Kind, Op, Statement, statements
from pikkupy.store.queries import WRITING

Failpoint = Callable[[str], None]

IN_MEMORY = 2  # of `PRAGMA temp_store`

# After these on a commit nobody knows what is on the disk, and trying again may report as written what the kernel has
# dropped: only opening the file anew tells.
_STOP = frozenset(
    {
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PROTOCOL,
    }
)
_TAKEN_OVER = "another engine has taken the journal over"  # what the trigger `owner` says
# These pass: space comes back, the other writer ends.
_PAUSE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Written(msgspec.Struct, frozen=True):
    """What became of a batch: outcomes of its first changes, and why the rest has none."""

    outcomes: Sequence[JournalError | None]
    pause: str | None = None  # the rest can be tried again
    failure: JournalError | None = None  # nothing may be written any more


class Stop(Exception):
    """Nothing may be written any more, whatever SQLite says."""


_WORD = re.compile(r"{(\w+)}")
VIEWS = ("pikkupy_writing", "pikkupy_usual")


def _meant(view: str, word: re.Match[str]) -> str:
    """What a word in braces of `writing.sql` stands for."""
    return view if word[1] == "view" else str(Kind[word[1].upper()].value)


class Writer:
    """Writes batches into one journal as the owner of one epoch, through a connection that it has prepared."""

    def __init__(self, path: str, epoch: int, failpoint: Failpoint | None) -> None:
        self._path = path
        self._epoch = epoch
        self._reach = failpoint

    def prepare(self, db: sqlite3.Connection) -> None:
        """Make the view and the triggers of `writing.sql`, in the connection alone, if it has none."""
        if db.execute(WRITING["is_prepared"]).fetchall() == [(1,)]:
            return
        # The way back from a large statement stays in memory: writing needs no other directory, which may be full or
        # read-only, and no row comes into it.
        set_pragmas(db, {"temp_store": IN_MEMORY})
        for text in WRITING.values():
            if text.startswith("CREATE"):
                for view in VIEWS if "{view}" in text else VIEWS[:1]:
                    db.execute(_WORD.sub(partial(_meant, view), text))

    def write(self, db: sqlite3.Connection, batch: Sequence[Sequence[Op]]) -> Written:
        """Write the logical changes together or, if that is refused, in halves, so that only the bad one fails."""
        try:
            self._transact(db, list(chain.from_iterable(batch)))
        except Exception as error:  # noqa: BLE001 - judged
            halted = self._halted(error)
            if halted is not None:
                return halted
            return self._in_halves(db, batch) if len(batch) > 1 else Written([self._refusal(error)])
        return Written([None] * len(batch))

    def _in_halves(self, db: sqlite3.Connection, batch: Sequence[Sequence[Op]]) -> Written:
        middle = len(batch) // 2
        first = self.write(db, batch[:middle])
        if len(first.outcomes) < middle:
            return first
        rest = self.write(db, batch[middle:])
        return Written([*first.outcomes, *rest.outcomes], rest.pause, rest.failure)

    def _transact(self, db: sqlite3.Connection, ops: list[Op]) -> None:
        for op in ops:
            if op.error is not None:
                raise JournalError(op.error)
        planned = list(statements(ops, self._epoch))
        if len(planned) > 1 or self._reach is not None:
            self._write_between(db, planned)
            return
        for sql, parameters in planned:  # one statement is a transaction by itself
            db.execute(sql, parameters)

    def _write_between(self, db: sqlite3.Connection, planned: Sequence[Statement]) -> None:
        """The same with BEGIN and COMMIT, for many statements, or if somebody wants to know of the places between."""
        reach = self._reach
        if reach is not None:
            reach("before_begin")
        db.execute("BEGIN IMMEDIATE")
        try:
            if reach is not None:
                reach("after_begin")
            for sql, parameters in planned:
                db.execute(sql, parameters)
            if reach is not None:
                reach("before_commit")
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise
        if reach is not None:
            reach("after_commit")

    def _halted(self, error: Exception) -> Written | None:
        """What is to be said of the batch if the error is not the fault of a change."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _PAUSE:
            return Written([], pause=f"{self._path}: {error}")
        if code in _STOP or isinstance(error, Stop | MemoryError) or str(error) == _TAKEN_OVER:
            failure = JournalError(
                f"{self._path}: the journal has stopped, because a write failed: {_told(error)}; "
                "nothing of it is reported; open it again to see what is on the disk"
            )
            failure.__cause__ = error
            return Written([], failure=failure)
        return None

    def _refusal(self, error: Exception) -> JournalError:
        refusal = JournalError(f"{self._path}: a change was refused: {error}")
        refusal.__cause__ = error
        return refusal


def _told(error: Exception) -> str:
    """With the name of SQLite's error, which tells a full disk from a broken one, and a write from a lock."""
    name = getattr(error, "sqlite_errorname", None)
    return f"{error or type(error).__name__}" + ("" if name is None else f" ({name})")


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # SQLite has rolled back by itself after some errors
        try:
            db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Stop(f"a transaction could not be taken back: {error}") from error
