"""One transaction, in the database thread, and what its errors mean."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain

import msgspec

from pikkupy.errors import JournalError
from pikkupy.store.plan import Op, Statement, statements
from pikkupy.store.queries import QUERIES

Failpoint = Callable[[str], None]

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
# These pass: space comes back, the other writer ends.
_PAUSE = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class Written(msgspec.Struct, frozen=True):
    """What became of a batch: outcomes of its first changes, and why the rest has none."""

    outcomes: Sequence[JournalError | None]
    pause: str | None = None  # the rest can be tried again
    failure: JournalError | None = None  # nothing may be written any more


class Stop(Exception):
    """Nothing may be written any more, whatever SQLite says."""


class Writer:
    """Writes batches into one journal as the owner of one epoch."""

    def __init__(self, path: str, epoch: int, failpoint: Failpoint | None) -> None:
        self._path = path
        self._epoch = epoch
        self._reach = failpoint

    def write(self, db: sqlite3.Connection, batch: Sequence[Sequence[Op]]) -> Written:
        """Write the logical changes together or, if that is refused, one by one, so that only the bad one fails."""
        try:
            self._transact(db, list(statements(chain.from_iterable(batch))))
        except Exception as error:  # noqa: BLE001 - judged
            halted = self._halted(error)
            if halted is not None:
                return halted
            return self._one_by_one(db, batch) if len(batch) > 1 else Written([self._refusal(error)])
        return Written([None] * len(batch))

    def _one_by_one(self, db: sqlite3.Connection, batch: Sequence[Sequence[Op]]) -> Written:
        outcomes: list[JournalError | None] = []
        for ops in batch:
            written = self.write(db, [ops])
            if not written.outcomes:
                return Written(outcomes, written.pause, written.failure)
            outcomes.extend(written.outcomes)
        return Written(outcomes)

    def _transact(self, db: sqlite3.Connection, planned: Sequence[Statement]) -> None:
        reach = self._reach
        if reach is not None:
            reach("before_begin")
        db.execute("BEGIN IMMEDIATE")
        try:
            if reach is not None:
                reach("after_begin")
            self._check_epoch(db)
            for statement in planned:
                _execute(db, statement)
            if reach is not None:
                reach("before_commit")
            db.execute("COMMIT")
        except BaseException:
            _roll_back(db)
            raise
        if reach is not None:
            reach("after_commit")

    def _check_epoch(self, db: sqlite3.Connection) -> None:
        row = db.execute(QUERIES["epoch"]).fetchall()
        if row != [(self._epoch,)]:
            raise Stop("another engine has taken the journal over")

    def _halted(self, error: Exception) -> Written | None:
        """What is to be said of the batch if the error is not the fault of a change."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _PAUSE:
            return Written([], pause=f"{self._path}: {error}")
        if code in _STOP or isinstance(error, Stop | MemoryError):
            failure = JournalError(
                f"{self._path}: the journal has stopped, because a write failed: {error or type(error).__name__}; "
                "nothing of it is reported; open it again to see what is on the disk"
            )
            failure.__cause__ = error
            return Written([], failure=failure)
        return None

    def _refusal(self, error: Exception) -> JournalError:
        refusal = JournalError(f"{self._path}: a change was refused: {error}")
        refusal.__cause__ = error
        return refusal


def _execute(db: sqlite3.Connection, statement: Statement) -> None:
    changed = db.execute(statement.sql, statement.parameters).rowcount
    if statement.refused is not None and changed != statement.rows:
        raise JournalError(statement.refused)


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # SQLite has rolled back by itself after some errors
        try:
            db.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise Stop(f"a transaction could not be taken back: {error}") from error
