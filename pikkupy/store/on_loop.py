"""A connection that the event loop itself uses: no way to a thread and back, and the loop stands still meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import TypeVar

from pikkupy.store.connection import Told

T = TypeVar("T")

BUSY_TIMEOUT_MS = 20  # how long the loop stands still for a foreign lock before the committer pauses instead


class LoopConnection:
    """One SQLite connection. What is sent is done, and told of, before `send` returns."""

    def __init__(self, raw: sqlite3.Connection) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()

    @classmethod
    async def open(cls, opener: Callable[[], sqlite3.Connection]) -> LoopConnection:
        """Open the connection on a thread, since a file may have to be checked or brought up to date; what `opener`
        raises is raised."""
        raw = await asyncio.to_thread(opener)
        raw.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        return cls(raw)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The result of `work`, called once."""
        return work(self._raw)

    def send(self, work: Callable[[sqlite3.Connection], T], done: Told[T]) -> None:
        """Call `work` once, then `done` with its result, or with what it has raised."""
        try:
            result = work(self._raw)
        except Exception as error:  # noqa: BLE001 - it is for who has sent it
            self._tell(done, None, error)
        except BaseException as interrupt:  # Ctrl-C, which is for the application as well
            self._tell(done, None, interrupt)
            raise
        else:
            self._tell(done, result, None)

    def _tell(self, done: Told[T], result: T | None, error: BaseException | None) -> None:
        try:
            done(result, error)
        except Exception as failure:  # noqa: BLE001 - as if the loop had called it
            self._loop.call_exception_handler({"message": "a journal callback failed", "exception": failure})

    async def close(self) -> None:
        """Close the connection on a thread: it moves what the write-ahead log has into the file."""
        await asyncio.to_thread(self._raw.close)
