"""What kills leave behind: copies of a journal as it was after each commit of one life."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pikkupy.engine import host
from pikkupy.store import Journal, committer

State = Any


class Copies:
    """The files after each commit, with what was true outside of them by then."""

    def __init__(self, db: Path, state: Callable[[], State]) -> None:
        self.moments: list[tuple[bytes, bytes, State]] = []
        self._db = db
        self._state = state
        self._descriptors: dict[str, int] = {}

    def reach(self, name: str) -> None:
        """A failpoint of the journal, in the database thread."""
        if name == "after_commit":
            self.moments.append((self._read(""), self._read("-wal"), self._state()))

    def _read(self, suffix: str) -> bytes:
        # Kept open: SQLite loses its locks on a file when anybody in the process closes it.
        if suffix not in self._descriptors:
            self._descriptors[suffix] = os.open(f"{self._db}{suffix}", os.O_RDONLY)
        descriptor = self._descriptors[suffix]
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0)

    def restored(self, folder: Path) -> Iterator[tuple[Path, State]]:
        """A database for each moment, and what was true then."""
        for number, (file, wal, state) in enumerate(self.moments):
            db = folder / str(number) / "app.db"
            db.parent.mkdir()
            db.write_bytes(file)
            Path(f"{db}-wal").write_bytes(wal)
            yield db, state

    def close(self) -> None:
        """After the engine was left."""
        for descriptor in self._descriptors.values():
            os.close(descriptor)


@contextmanager
def each_commit(db: Path, state: Callable[[], State] = lambda: None) -> Iterator[Copies]:
    """Engines that are opened on `db` meanwhile leave a copy at each commit, and write each change by itself."""
    copies = Copies(db, state)

    class Observed(Journal):
        @classmethod
        async def open(cls, path: str, **options: Any) -> Journal:
            return await Journal.open(path, **options, failpoint=copies.reach)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "Journal", Observed)
        patch.setattr(committer, "MAX_CHANGES", 1)
        try:
            yield copies
        finally:
            copies.close()
