"""What is looked at before a journal is opened. Every refusal leaves the file untouched and says what to do.

The file itself is looked at through SQLite alone, over a connection that changes nothing. Opening and closing it by
hand would drop the POSIX locks of every SQLite connection that this process has on it, an application's own included.
"""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec

from pikkupy.errors import JournalError, JournalFormatError, JournalNotFound
from pikkupy.log import logger
from pikkupy.store.connection import REFUSALS, connect, uri
from pikkupy.store.migrations import APPLICATION_ID, FORMAT, own_tables
from pikkupy.store.queries import QUERIES

HEADER_SIZE = 100  # bytes, of an SQLite file; sqlite.org/fileformat.html
FILE_MODE = 0o600  # the journal holds what the application's steps return; -wal and -shm inherit the mode
RESTORE = "restore it from a backup, or save what is left with the sqlite3 shell's .recover into another file"
MAX_QUICK_CHECK = 67_108_864  # bytes; checking a larger file would make each start after a crash slow

_UNSOUND = "the row of pikkupy_journal is none that there can be"
_log = logger()

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = re.compile(
    r"nfs4?|cifs|smb[23]?|smbfs|9p|afs|ceph|glusterfs|lustre|ncpfs|coda"
    r"|fuse\.(sshfs|rclone|s3fs|s3ql|goofys|gcsfuse|glusterfs|ceph|cephfs|davfs|davfs2|smbnetfs|curlftpfs|nfs|juicefs|blobfuse2?)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


class Found(msgspec.Struct, frozen=True):
    """What is in the file: the format of its journal (0: none yet), whether the file is ours alone, how it was left."""

    format: int = 0
    stamped: bool = True  # application_id and user_version are pikkupy's; else they belong to an application
    clean: bool = True


def real_path(path: str) -> str:
    """Where the file is or will be, symbolic links followed. Raises `JournalError` if no journal can be there."""
    try:
        real = Path(path).resolve() if path else None
    except (OSError, RuntimeError, ValueError) as error:
        raise JournalError(f"{path!r} is not a usable path: {error}") from error
    if real is None:
        raise JournalError("the path of the journal is empty; give a file name or ':memory:'")
    _check_folder(path, real.parent)
    if real.exists():
        _check_file(path, real)
    return str(real)


def real_file(path: str) -> str:
    """Where a file is that is only looked at, symbolic links followed. Raises `JournalNotFound` or `JournalError`."""
    try:
        real = Path(path).resolve(strict=True)
    except (FileNotFoundError, NotADirectoryError):
        raise JournalNotFound(f"{path!r} does not exist") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise JournalError(f"{path!r} is not a usable path: {error}") from error
    if not real.is_file():
        raise JournalFormatError(f"{path} is not a regular file; give the name of one")
    if not os.access(real, os.R_OK):
        raise JournalError(f"{path} cannot be read by this user; change its mode, or its owner")
    return str(real)


def _check_folder(path: str, folder: Path) -> None:
    if not folder.is_dir():
        raise JournalNotFound(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise JournalError(f"{path}: the folder {folder} cannot be written; the journal needs files beside its own")
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        _log.warning("folder_open_to_all", path=path, folder=str(folder), mode=f"{stat.S_IMODE(mode):o}")
    kind = network_filesystem(_read_mounts(), str(folder))
    if kind is not None:
        raise JournalError(
            f"{path}: {folder} is on a network file system ({kind}), where SQLite's shared memory does not work; "
            "put the file on a local disk"
        )


def _check_file(path: str, real: Path) -> None:
    if real.is_dir():
        raise JournalFormatError(f"{path} is a directory; give the name of a file")
    if not real.is_file():
        raise JournalFormatError(f"{path} is not a regular file; give the name of one")
    if not os.access(real, os.R_OK | os.W_OK):
        raise JournalError(f"{path} cannot be read and written by this user; change its mode, or its owner")
    links = real.stat().st_nlink
    if links > 1:
        raise JournalError(
            f"{path} has {links} hard links, each of which would get a WAL and a lock of its own; "
            "keep one of them, or use a copy"
        )


def network_filesystem(mountinfo: str, folder: str) -> str | None:
    """The type of the network file system that the absolute `folder` is on; None for a local one."""
    kind = _filesystem(mountinfo, folder)
    return kind if _NETWORK.fullmatch(kind) else None


def mounted(folder: str) -> tuple[str, bool]:
    """The type of the file system that the absolute `folder` is on, "" if unknown, and whether it is a network's."""
    kind = _filesystem(_read_mounts(), folder)
    return kind, _NETWORK.fullmatch(kind) is not None


def _filesystem(mountinfo: str, folder: str) -> str:
    """`mountinfo` is the text of Linux's /proc/self/mountinfo (proc(5)); of two mounts on one point the later one
    covers the other."""
    best, kind = "", ""
    for point, fstype in _mounts(mountinfo):
        if len(point) >= len(best) and f"{folder}/".startswith(f"{point.rstrip('/')}/"):
            best, kind = point, fstype
    return kind


def _mounts(mountinfo: str) -> Iterator[tuple[str, str]]:
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if separator and len(fields) > 4 and rest:
            yield _OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4]), rest[0]


def _read_mounts() -> str:
    try:
        return _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""  # not Linux, or no /proc: nothing is known


def inspect(path: str, real: str) -> Found:
    """What is in the file, which is made if it is missing. Call it under the lock, and before it is opened to write.

    Raises `JournalFormatError` for what is no database, is damaged, belongs to another application or is newer, and
    `JournalError` for damage that a crash left behind.
    """
    try:
        _make(real)
        size = Path(real).stat().st_size
        if size == 0:
            return Found()
        if size < HEADER_SIZE:
            raise _no_database(path)  # SQLite takes a file of one byte for an empty one
        with closing(connect(uri(real, _careful(real)))) as db:
            return _look(path, db, size)
    except REFUSALS as error:
        raise unreadable(path, error) from error
    except OSError as error:
        raise JournalError(f"{path} cannot be made or read: {error}") from error


def _make(real: str) -> None:
    """Make the file if it is missing: SQLite would make it readable for everybody."""
    try:
        os.close(os.open(real, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
    except FileExistsError:
        pass


def _careful(real: str) -> str:
    """URI options with which looking does not change the file.

    What a -wal holds, a connection that may write would bring into the file when it closes. Without one that is the
    better: it takes away the -wal and -shm that SQLite makes for looking, and what a crash left half done while the
    file was not yet in WAL mode can only be read after it was rolled back. (`immutable=1` makes no files, but takes
    no lock either, and could see a transaction of another application halfway.)
    """
    log = Path(f"{real}-wal")
    return "mode=ro" if log.exists() and log.stat().st_size else "mode=rw"


def identify(path: str, db: sqlite3.Connection, size: int) -> Found:
    """What is in a file of that size that is only looked at. Raises `JournalFormatError` if it holds no journal."""
    if size < HEADER_SIZE:
        raise _no_database(path) if size else _no_journal(path)
    found = _found(path, db)
    if not found.format:
        raise _no_journal(path)
    return found


def _look(path: str, db: sqlite3.Connection, size: int) -> Found:
    found = _found(path, db)
    if not found.clean and size <= MAX_QUICK_CHECK:
        _check_pages(path, db, found)
    return found


def _found(path: str, db: sqlite3.Connection) -> Found:
    application = _one(db, "PRAGMA application_id")
    if application not in {0, APPLICATION_ID}:
        raise JournalFormatError(
            f"{path} belongs to another application (its application_id is {application:#x}); give another file name"
        )
    journal = _row(path, db) if _one(db, QUERIES["own_table"]) else None
    stamped = application == APPLICATION_ID or (journal is None and _one(db, QUERIES["foreign_tables"]) == 0)
    newest = max(0 if journal is None else journal[0], _one(db, "PRAGMA user_version") if stamped else 0)
    if newest > FORMAT:
        raise JournalFormatError(
            f"{path} has format {newest}, this release of pikkupy knows formats up to {FORMAT}; upgrade pikkupy"
        )
    if journal is None:
        return Found(stamped=stamped)
    if not _one(db, QUERIES["is_sound"]):
        raise _damaged(path, _UNSOUND)
    return Found(journal[0], stamped, clean=journal[1] == 1)


def _row(path: str, db: sqlite3.Connection) -> tuple[int, object]:
    """Our format, and how the last owner left; of a format that is not ours nothing more is known."""
    match db.execute(QUERIES["format_and_clean"]).fetchall():
        case [(int(number), clean)] if number > 0:
            return number, clean
        case _:
            raise _damaged(path, _UNSOUND)


def _check_pages(path: str, db: sqlite3.Connection, found: Found) -> None:
    """SQLite's own check; in a file with foreign tables only of ours, because theirs may need extensions."""
    targets = ("1",) if found.stamped else own_tables(found.format)
    for finding in _findings(db, [f"PRAGMA quick_check({target})" for target in targets]):
        raise JournalError(f"{path} was damaged when its last owner was cut off: {finding}; {RESTORE}")


def quick_check(db: sqlite3.Connection, most: int) -> tuple[str, ...]:
    """What SQLite finds wrong with the pages of the file, at most so many findings."""
    return tuple(_findings(db, [f"PRAGMA quick_check({most})"]))


def _findings(db: sqlite3.Connection, checks: Sequence[str]) -> Iterator[str]:
    for check in checks:
        try:
            found = [str(finding) for (finding,) in db.execute(check).fetchall()]
        except REFUSALS as error:
            found = [str(error)]
        yield from (finding for finding in found if finding != "ok")


def _one(db: sqlite3.Connection, query: str) -> Any:
    return db.execute(query).fetchall()[0][0]


def _no_database(path: str) -> JournalFormatError:
    return JournalFormatError(f"{path} is not an SQLite database; give another file name")


def _no_journal(path: str) -> JournalFormatError:
    return JournalFormatError(f"{path} holds no journal of pikkupy; no engine has opened it yet")


def unreadable(path: str, error: Exception) -> JournalError:
    """What SQLite has met, as an error of ours."""
    if isinstance(error, UnicodeDecodeError):
        return _damaged(path, "its schema is no text any more")
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return _no_database(path)
    if code == sqlite3.SQLITE_CORRUPT:
        return _damaged(path, error)
    return JournalError(f"{path} cannot be opened: {error}")


def lost_row(path: str, number: int) -> JournalError:
    """A run that an index has and the table has not."""
    return JournalError(f"{path} is damaged: an unfinished run of number {number} is in an index alone; {RESTORE}")


def _damaged(path: str, why: object) -> JournalFormatError:
    log = Path(f"{path}-wal")
    hint = (
        f"; if it is a backup, {log} belongs to the file that was here before: use `pikku restore`, or move that and "
        f"{path}-shm away"
    )
    with suppress(OSError):
        if log.stat().st_size > 0:
            return JournalFormatError(f"{path} is damaged ({why}){hint}; else restore it from a backup")
    return JournalFormatError(f"{path} is damaged ({why}); restore it from a backup")
