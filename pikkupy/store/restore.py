"""A copy of a journal put in the place of another one, with all that belonged to that moved out of the way.

After a crash the write-ahead log of the old file lies beside its name, and SQLite takes it for a part of whatever file
has that name. So the old file goes together with its log, and nothing is deleted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pikkupy.errors import BadValue
from pikkupy.store.backup import back_up, give_name, sync
from pikkupy.store.files import real_file, real_path
from pikkupy.store.owner import Lock

PARTS = ("", "-wal", "-shm")  # of a file that SQLite writes, the file itself first: it must not be without the others


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """A copy that was put in its place."""

    backup: str
    file: str
    replaced: str | None  # where the file is now that was there before; None: there was none
    bytes: int
    runs: int
    steps: int
    attempts: int


def put_back(backup: str, path: str, now_us: int, *, check: bool = True) -> Restored:
    """Put a checked copy of the journal `backup` in the place of the file `path`, of which no engine may be at work.

    What was there is called `path` with `.replaced` behind it from then on, or `.replaced.2` and so on. `check` is that
    of `back_up`. Raises `JournalLocked` if an engine has the file, `BadValue` if both are the same file, else as
    `back_up` does; the file is as it was then. A crash within it can leave nothing of that name: what was there has the
    other name, and the copy is to be put there again.
    """
    source, target = real_file(backup), Path(real_path(path))
    if target.exists() and target.samefile(source):
        raise BadValue(f"{backup} and {path} are the same file; name the backup, and the file whose place it takes")
    lock = Lock.take(path, str(target), now_us)
    try:
        with tempfile.TemporaryDirectory(prefix=".pikku-restore-", dir=target.parent) as folder:
            copy = Path(folder) / "copy.db"
            made = back_up(backup, str(copy), check=check)
            replaced = _free_name(target)
            _move(target, replaced, _parts(target))
            try:
                give_name(copy, target, path)
            except BaseException:
                _move(replaced, target, _parts(replaced)[::-1])
                raise
        sync(target.parent)
    finally:
        lock.release()
    return Restored(
        backup=source,
        file=str(target),
        replaced=str(replaced) if _parts(replaced) else None,
        bytes=made.bytes,
        runs=made.runs,
        steps=made.steps,
        attempts=made.attempts,
    )


def _parts(path: Path) -> list[str]:
    """What there is of a file, by how the names end."""
    return [part for part in PARTS if os.path.lexists(f"{path}{part}")]


def _free_name(target: Path) -> Path:
    free, number = Path(f"{target}.replaced"), 1
    while _parts(free):
        number += 1
        free = Path(f"{target}.replaced.{number}")
    return free


def _move(path: Path, to: Path, parts: Sequence[str]) -> None:
    """Give a file another name, which must be free. Where it can be opened it is never without its log."""
    for part in parts:
        Path(f"{path}{part}").rename(f"{to}{part}")
    sync(to.parent)
