"""Files for the user who owns them alone: no link is followed, and nothing that is there already is written over."""

from __future__ import annotations

import os
import stat
from pathlib import Path

MODE = 0o600
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


class NotPrivate(PermissionError):
    """Others than this user can read or write the file, or own it."""


def write_new(path: str | os.PathLike[str], data: bytes) -> None:
    """A new file with `data`. Raises `FileExistsError` if there is anything of that name, and `OSError`."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | _NO_LINKS, MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise


def read_own(path: str | os.PathLike[str]) -> bytes:
    """What is in a file that nobody but this user can read or write. Raises `NotPrivate`, `OSError`."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_LINKS)) as file:
        about = os.fstat(file.fileno())
        if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o077):
            name, mode = os.fspath(path), stat.S_IMODE(about.st_mode)
            cure = f"chmod 600 {name}" if about.st_uid == os.getuid() else "put one of this user in its place"
            raise NotPrivate(f"{name} is not this user's alone (mode {mode:o}): it is not used; {cure}")
        return file.read()
