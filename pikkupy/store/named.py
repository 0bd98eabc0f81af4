"""An open journal needs its name: what is written into a file that was deleted or replaced, nobody finds again.

SQLite itself goes on writing into such a file, and says nothing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from pikkupy.errors import JournalError

LOOK_S = 1.0  # how often it is looked at, and so how long something may be acknowledged that is lost


class Name:
    """Looks every `LOOK_S`, in real time, whether `real` still names the file that is there when this is made.

    If not, `lost` is true from then on, and `tell` is called once with the error.
    """

    def __init__(
        self, path: str, real: str, loop: asyncio.AbstractEventLoop, tell: Callable[[JournalError], None]
    ) -> None:
        self.lost = False
        self._path = path
        self._real = real
        self._loop = loop
        self._tell = tell
        self._file = _file_at(real)
        self._timer: asyncio.TimerHandle | None = None
        self._look_later()

    def close(self) -> None:
        """Look once more, and then no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._look()

    def _look_later(self) -> None:
        self._timer = self._loop.call_later(LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._look()
        if not self.lost:
            self._look_later()

    def _look(self) -> None:
        try:
            found = _file_at(self._real)
        except OSError:
            return  # nobody knows; if it is serious, the next write fails
        if found is None or found != self._file:
            self.lost = True
            self._tell(
                JournalError(
                    f"{self._path}: the journal has stopped, because the file was deleted, moved or replaced while it "
                    f"was open; what was recorded in the last {LOOK_S:g} s before is not in a file of that name"
                )
            )


def _file_at(real: str) -> tuple[int, int] | None:
    """What tells a file from others, wherever it is; None if there is none."""
    try:
        found = os.stat(real)  # noqa: PTH116 - two of its numbers
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino
