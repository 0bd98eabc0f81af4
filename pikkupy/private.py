"""Files for the user who owns them alone: no link is followed, and nothing that is there already is written over."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

MODE = 0o600
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for somebody at the other end of a pipe that is in its place


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
        _check_own(path, os.fstat(file.fileno()))
        return file.read()


def append_own(path: str | os.PathLike[str], line: bytes) -> None:
    """Add a line to a file that nobody but this user can read or write; it is made if there is none.

    Of another one that was cut off, by a full disk or a crash, the rest stays a line of its own. Raises `NotPrivate`,
    `OSError`.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | _NO_LINKS | _NO_WAIT, MODE)
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise NotPrivate(f"{os.fspath(path)} is no file: it is not used")
        _check_own(path, about)
        if line and about.st_size:
            os.lseek(descriptor, -1, os.SEEK_END)
            line = line if os.read(descriptor, 1) == b"\n" else b"\n" + line
        if os.write(descriptor, line) < len(line):
            raise OSError(errno.ENOSPC, "a line does not fit any more", os.fspath(path))
    finally:
        os.close(descriptor)


def _check_own(path: str | os.PathLike[str], about: os.stat_result) -> None:
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or about.st_mode & 0o077):
        name, mode = os.fspath(path), stat.S_IMODE(about.st_mode)
        cure = f"chmod 600 {name}" if about.st_uid == os.getuid() else "put one of this user in its place"
        raise NotPrivate(f"{name} is not this user's alone (mode {mode:o}): it is not used; {cure}")
