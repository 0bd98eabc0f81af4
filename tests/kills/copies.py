"""Copies of a journal, byte for byte as a kill at a moment would leave it.

Every logical change has a commit of its own here: a kill can be between any two of them, and so none is left out.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import pytest

from pikkupy.engine import host
from pikkupy.store import Journal, committer, connection

State = TypeVar("State")

PATIENCE_S = 0.5  # how long a write waits for what is being read; nothing depends on it


class Moment(msgspec.Struct, Generic[State], frozen=True):
    """A journal after a commit, without what is only in shared memory, and what was true outside of it."""

    file: bytes
    wal: bytes
    state: State

    def restore(self, folder: Path) -> Path:
        """Write the journal into a new folder; the path of the database."""
        folder.mkdir()
        db = folder / "app.db"
        db.write_bytes(self.file)
        Path(f"{db}-wal").write_bytes(self.wal)
        return db


class Copies(Generic[State]):
    """The moments of one life of an engine: each commit, and each next one if by then more was true outside."""

    def __init__(self, db: Path, state: Callable[[], State]) -> None:
        self.moments: list[Moment[State]] = []
        self._db = db
        self._state = state
        self._descriptors: dict[str, int] = {}
        self._free = threading.Event()
        self._free.set()

    def reads(self, reads: bool) -> None:
        """The engine reads what there is to recover, or has read it. It writes afterwards: all lives are alike."""
        self._free.clear() if reads else self._free.set()

    def reach(self, name: str) -> None:
        """A failpoint of the journal; in the database thread, which writes nothing meanwhile."""
        if name == "before_begin":
            self._free.wait(PATIENCE_S)
        state, last = self._state(), self.moments[-1] if self.moments else None
        if name == "before_begin" and last is not None and state != last.state:
            self.moments.append(Moment(last.file, last.wal, state))
        elif name == "after_commit":
            moment = Moment(self._read(""), self._read("-wal"), state)
            if last is None or last.wal != moment.wal or last.file != moment.file:
                self.moments.append(moment)

    def _read(self, suffix: str) -> bytes:
        # Kept open: SQLite loses its locks on a file when anybody in the process closes it.
        if suffix not in self._descriptors:
            self._descriptors[suffix] = os.open(f"{self._db}{suffix}", os.O_RDONLY)
        descriptor = self._descriptors[suffix]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def restored(self, folder: Path) -> Iterator[tuple[Path, State]]:
        """A database for each moment, in folders of their own, and what was true then."""
        for number, moment in enumerate(self.moments):
            yield moment.restore(folder / str(number)), moment.state

    def close(self) -> None:
        """After the engine was left."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)


@contextmanager
def each_change_alone() -> Iterator[None]:
    """Journals that write every logical change in a transaction of its own, and quickly: kills need no syncs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(committer, "MAX_CHANGES", 1)
        patch.setitem(connection._SYNCHRONOUS, "process", 0)
        yield


@contextmanager
def passing(failpoint: Callable[[str], None], reads: Callable[[bool], object] = bool) -> Iterator[None]:
    """Engines that are opened meanwhile pass this failpoint at each write; `reads` is told when they begin to read
    what there is to recover, and when they have done that."""

    class Observed(Journal):
        @classmethod
        async def open(cls, path: str, **options: Any) -> Journal:
            return await Journal.open(path, **options, failpoint=failpoint)

    awake = Journal.awake

    async def awake_is_told(journal: Journal, **which: int) -> list[int]:
        reads(True)
        numbers = await awake(journal, **which)
        if not numbers:
            reads(False)
        return numbers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "Journal", Observed)
        patch.setattr(Journal, "awake", awake_is_told)
        yield


@contextmanager
def each_commit(db: Path, state: Callable[[], State]) -> Iterator[Copies[State]]:
    """Engines that are opened on `db` meanwhile leave a copy at each commit."""
    copies = Copies(db, state)
    with each_change_alone(), passing(copies.reach):
        try:
            yield copies
        finally:
            copies.close()
