"""A journal file as it is seen by those who do not own it. Nothing in its folder is written, made or locked.

SQLite has no one way to do that, so what lies there decides, anew for each question:

- With a -wal and a -shm an engine is at work, or was cut off. SQLite reads along, over a connection that may not write;
  what it writes are its marks in the -shm. (If the engine leaves in just that moment, SQLite makes both anew, empty.)
- Without a -wal all is in the file, and nobody has it open: SQLite takes it for immutable. Opened otherwise, it would
  make a -wal and a -shm, and leave them there. No lock is held then, so the answer counts only if nothing has changed.
- A -wal without a -shm was copied there, or its -shm was deleted. SQLite would make a new one, so file and -wal are
  copied to a folder of our own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from enum import Enum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

from pikkupy.errors import JournalError, JournalNotFound
from pikkupy.payloads import PayloadCodec
from pikkupy.store import files
from pikkupy.store.connection import REFUSALS, check_library, connect_reader
from pikkupy.store.reading import Reading

TRIES = 5  # of one question, while the file changes under it
MAX_COPY = 1 << 30  # bytes of a file and its -wal that are copied to be read

T = TypeVar("T")


class Way(Enum):
    """How the file can be read."""

    ALONG = "along"  # beside its owner, or after one that was cut off
    STILL = "still"  # nobody has it open
    COPY = "copy"


class _Mark(NamedTuple):
    """What changes when a file does."""

    device: int
    inode: int
    size: int
    changed_ns: int


class State(NamedTuple):
    """What lies there."""

    way: Way
    file: _Mark
    wal: _Mark | None


class View:
    """Asks the file at `path`. Belongs to one thread."""

    def __init__(self, path: str) -> None:
        check_library()
        self.path = path
        self.real = files.real_file(path)
        self._copied: tuple[State, TemporaryDirectory[str]] | None = None

    def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """The answer, given over a connection that cannot write to the file; asked again if that changes meanwhile.

        Raises `JournalNotFound` and `JournalFormatError` for what is no journal, `JournalError` if it cannot be read.
        """
        for _ in range(TRIES):
            state = self.state()
            try:
                with closing(self._connect(state)) as db:
                    files.identify(self.path, db, state.file.size)
                    answer = question(db)
            except (*REFUSALS, JournalError, OSError) as error:
                if _holds(state, self.state()):
                    raise self._told(error) from error
                continue
            if _holds(state, self.state()):
                return answer
        raise JournalError(f"{self.path} has changed {TRIES} times while it was read; try again")

    def state(self) -> State:
        """What lies there now. Raises as `ask` does."""
        file, wal = _mark(self.real), _mark(f"{self.real}-wal")
        if file is None:
            raise JournalNotFound(f"{self.path} does not exist")
        rollback = _mark(f"{self.real}-journal")
        if rollback is not None and rollback.size:
            raise JournalError(
                f"{self.path} has a rollback journal beside it: whoever made the file was cut off; "
                "let an engine open it once"
            )
        if wal is not None and Path(f"{self.real}-shm").exists():
            return State(Way.ALONG, file, wal)
        return State(Way.COPY if wal is not None and wal.size else Way.STILL, file, wal)

    def close(self) -> None:
        """Delete the copy, if there was one."""
        if self._copied is not None:
            self._copied[1].cleanup()
            self._copied = None

    def _connect(self, state: State) -> sqlite3.Connection:
        if state.way is Way.ALONG:
            return connect_reader(self.real)
        if state.way is Way.STILL:
            return connect_reader(self.real, "immutable=1")
        return connect_reader(self._copy(state))

    def _copy(self, state: State) -> str:
        """The name of the copy. What the copying itself may have got wrong shows when the state has changed."""
        if self._copied is None or self._copied[0] != state:
            self.close()
            size = state.file.size + (state.wal.size if state.wal else 0)
            if size > MAX_COPY:
                raise JournalError(
                    f"{self.path} has a -wal without a -shm, and {size:,} bytes are too many to be copied for reading; "
                    "let an engine open and leave it once"
                )
            folder = TemporaryDirectory(prefix="pikku-look-")
            self._copied = state, folder
            for end in ("", "-wal"):
                shutil.copyfile(f"{self.real}{end}", Path(folder.name) / f"copy{end}")
        return str(Path(self._copied[1].name) / "copy")

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, REFUSALS):
            return files.unreadable(self.path, error)
        return error if isinstance(error, JournalError) else JournalError(f"{self.path} cannot be read: {error}")


def _holds(before: State, after: State) -> bool:
    """Whether what was read in between is to be believed. Beside an engine SQLite itself sees to that."""
    return before.way is Way.ALONG or before == after


def _mark(path: str) -> _Mark | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - the four numbers
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"{path} cannot be looked at: {error}") from error
    return _Mark(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Viewing(Reading):
    """A journal that answers without an owner. Damaged rows are left out; `damaged` says which, in words.

    What is encoded is decoded by `codec`, and says that it is encoded without one.
    """

    def __init__(self, path: str, codec: PayloadCodec | None) -> None:
        super().__init__(codec)
        self._view = View(path)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pikkupy-look")
        self._found: dict[str, None] = {}
        self._damaged = self._note
        self.damaged: Mapping[str, None] = {}

    async def ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """As `View.ask`."""
        return await self._read(question)

    def leave_out(self, error: JournalError) -> None:
        """Keep it in `damaged`."""
        self.damaged = {**self.damaged, str(error): None}

    async def close(self) -> None:
        """Let go of what was needed to read."""
        await self._in_thread(self._view.close)
        self._thread.shutdown(wait=False)

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        answer, found = await self._in_thread(partial(self._look, work))
        self.damaged = {**self.damaged, **found}
        return answer

    def _look(self, work: Callable[[sqlite3.Connection], T]) -> tuple[T, dict[str, None]]:
        def once(db: sqlite3.Connection) -> T:
            self._found = {}  # of an answer that does not count nothing does
            return work(db)

        return self._view.ask(once), self._found

    def _note(self, error: JournalError) -> None:
        self._found[str(error)] = None

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
