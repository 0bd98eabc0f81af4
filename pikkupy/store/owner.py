"""One engine at a time owns a journal: an operating-system lock beside the file, and an epoch inside it.

The lock keeps a second engine out and is free the moment its holder dies, however it dies. The epoch is for what a lock
cannot see (a file copied over, a lock file deleted): every transaction asks whether it is still the one of its owner.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from pikkupy.errors import JournalError, JournalLocked
from pikkupy.store.queries import QUERIES

FILE_MODE = 0o600
_LOCKS = Path("/proc/locks")
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # in a folder of many, one could lead to another file of the owner's
OTHERS = (
    '; of several processes of one application, open(..., role="auto") makes one the engine and the others its clients'
)
LEAVE_TIMEOUT_MS = 500  # how long leaving waits for foreign readers before it leaves the WAL to the next open


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: what `JournalLocked` names."""

    pid: int
    host: str
    started_at: int  # µs, when it opened the journal

    @property
    def is_this_process(self) -> bool:
        """True in the process that it names."""
        return self.pid == os.getpid() and self.host == socket.gethostname()

    def __str__(self) -> str:
        started = datetime.fromtimestamp(self.started_at / 1e6, UTC).isoformat(" ", "seconds")
        here = " (this process)" if self.is_this_process else ""
        return f"process {self.pid}{here} on {self.host}, which opened it at {started}"


class Lock:
    """The lock of one journal, held from `take` to `release`: `<file>.lock`, and who holds it in `<file>.owner`."""

    def __init__(self, lock: FileLock, owner: Path) -> None:
        self._lock = lock
        self._owner = owner

    @classmethod
    def take(cls, path: str, real: str, now_us: int) -> Lock:
        """Take the lock or raise: `JournalLocked` naming the holder, `JournalError` if there can be no lock file."""
        owner = Path(f"{real}.owner")
        # A lock of one's own per engine, not one shared in the process, and for whichever thread releases it.
        lock = FileLock(f"{real}.lock", mode=FILE_MODE, thread_local=False, is_singleton=False)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            holder = holder_of(real)
            name = holder or "another engine, which has not given its name yet"
            others = "" if holder is not None and holder.is_this_process else OTHERS
            raise JournalLocked(f"{path} is held by {name}; close that engine first{others}") from error
        except (OSError, NotImplementedError) as error:
            raise JournalError(f"{path}: the lock file {real}.lock cannot be made: {error}") from error
        taken = cls(lock, owner)
        try:
            taken._sign(Holder(os.getpid(), socket.gethostname(), now_us))
        except BaseException as error:
            taken.release()
            if isinstance(error, OSError):
                raise JournalError(f"{path}: the file {owner} cannot be written: {error}") from error
            raise
        return taken

    def release(self) -> None:
        """Let go. The lock file stays: deleting it could let two engines lock two files of one name."""
        self._owner.unlink(missing_ok=True)
        self._lock.release()

    def _sign(self, holder: Holder) -> None:
        # A file of its own: some versions of filelock empty the lock file whenever somebody tries the lock.
        descriptor = os.open(self._owner, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | _NO_LINKS, FILE_MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(holder))


def holder_of(real: str) -> Holder | None:
    """Who holds the journal at `real`, or was killed while he did; None if it was left in order, or never opened."""
    try:
        return msgspec.json.decode(Path(f"{real}.owner").read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def is_locked(real: str) -> bool | None:
    """Whether an engine holds the lock, without trying it: that could keep one out. None: the system does not tell.

    Linux lists all locks with the number of the locked file (proc(5)), but not those of other containers. A number is
    of one file system: whoever holds the lock of another file of that number is taken for the holder.
    """
    try:
        number, locks = Path(f"{real}.lock").stat().st_ino, _LOCKS.read_text(encoding="ascii")
    except FileNotFoundError:
        return False if _LOCKS.exists() else None
    except (OSError, UnicodeDecodeError):
        return None
    if any(" FLOCK " in line and f":{number} " in line for line in locks.splitlines()):
        return True
    signed = holder_of(real)  # one that was cut off has not taken its signature away
    return None if signed is not None and signed.host != socket.gethostname() else False


class Owned(msgspec.Struct, frozen=True):
    """What a new owner knows of its journal."""

    epoch: int
    clean: bool  # how the owner before it left
    next_number: int


def take_over(db: sqlite3.Connection, now_us: int) -> Owned:
    """Become the owner: from now on every transaction of a former one is refused."""
    db.execute("BEGIN IMMEDIATE")
    try:
        [(clean,)] = db.execute(QUERIES["was_clean"]).fetchall()
        signature = (os.getpid(), socket.gethostname(), now_us)
        [(epoch, next_number)] = db.execute(QUERIES["take_over"], signature).fetchall()
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
    return Owned(epoch, bool(clean), next_number)


def leave(db: sqlite3.Connection, epoch: int) -> None:
    """Leave in good order: the mark is set, and everything is in the file itself."""
    db.execute(QUERIES["leave"], (epoch,))
    empty_log(db)


def empty_log(db: sqlite3.Connection) -> None:
    """Bring what the write-ahead log has into the file itself, unless foreign readers take too long."""
    db.execute(f"PRAGMA busy_timeout = {LEAVE_TIMEOUT_MS}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
