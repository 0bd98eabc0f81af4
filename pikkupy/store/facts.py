"""What can be said of a journal file without owning it: facts, for `engine/health.py` to judge."""

from __future__ import annotations

import shutil
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from pikkupy.core.model import NO_WAKING, ParkedFor
from pikkupy.errors import JournalError
from pikkupy.store.connection import REFUSALS
from pikkupy.store.files import MAX_QUICK_CHECK, identify, mounted, quick_check
from pikkupy.store.owner import Holder, is_locked
from pikkupy.store.queries import QUERIES
from pikkupy.store.records import Records, compare
from pikkupy.store.viewing import View

MOST = 20  # runs and findings that are named
VERSION, WAL = 18, b"\x02"  # byte of the header, and what it is in WAL mode; sqlite.org/fileformat.html
OVERDUE_US = 60_000_000  # how late a run may come into memory before it is late


class Parked(msgspec.Struct, frozen=True):
    """Runs that the engine itself has suspended, for one reason."""

    why: ParkedFor
    count: int
    first: tuple[str, ...]  # ids of the oldest


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """A journal file at one moment. Sizes in bytes, times in µs."""

    path: str
    size: int
    wal_size: int
    mode: int  # permission bits of the file
    links: int  # hard links to it
    folder_mode: int
    free: int  # of the disk
    filesystem: str  # its type, "" if unknown
    network: bool  # it is on another machine
    format: int
    page_size: int
    pages: int
    unused_pages: int
    encoding: str
    wal_mode: bool  # as the file has it
    auto_vacuum: int  # as PRAGMA auto_vacuum has it
    made_at: int
    epoch: int  # how often it was opened by an engine
    clean: bool  # the last owner left in good order
    owner: Holder | None  # the last one, or the present one
    held: bool | None  # whether an engine holds it now; None: the system does not tell
    newest_at: int  # the latest recorded time, 0 if there is none
    runs: int
    steps: int
    attempts: int
    overdue: int  # runs that should have been woken a minute ago
    lost: tuple[str, ...]  # ids of runs that nothing can wake
    parked: tuple[Parked, ...]
    findings: tuple[str, ...] | None  # of SQLite's check; None: not checked
    records: Records | None  # None: not compared
    sqlite: tuple[int, int, int]


def facts_of(path: str, now_us: int, *, check: bool | None) -> Facts:
    """What is true of the file. `check` has every page and every row looked at; None: unless there are many.

    Raises as `View.ask` does.
    """
    view = View(path)
    try:
        counted = view.ask(partial(_counted, path, now_us, check=check))
    finally:
        view.close()
    try:
        return Facts(path=view.real, **counted, **_around(Path(view.real)))
    except OSError as error:
        raise JournalError(f"{path} cannot be looked at: {error}") from error


def _counted(path: str, now_us: int, db: sqlite3.Connection, *, check: bool | None) -> dict[str, Any]:
    broken: list[str] = []

    def rows(query: str, default: list[tuple[Any, ...]], **wanted: object) -> list[tuple[Any, ...]]:
        try:
            return db.execute(query, wanted).fetchall()
        except REFUSALS as error:  # of a damaged file the rest is told all the same
            broken.append(str(error))
            return default

    page_size, pages = _one(db, "PRAGMA page_size"), _one(db, "PRAGMA page_count")
    [(epoch, clean, made_at, pid, host, opened_at)] = db.execute(QUERIES["journal_facts"]).fetchall()
    [(runs, steps, attempts)] = rows(QUERIES["how_much"], [(0, 0, 0)])
    [(newest_at,)] = rows(QUERIES["newest_change"], [(0,)])
    [(overdue,)] = rows(QUERIES["overdue_runs"], [(0,)], until=now_us - OVERDUE_US)
    lost = rows(QUERIES["lost_runs"], [], never=NO_WAKING, limit=MOST)
    parked = list[Parked]()
    for why in ParkedFor:
        [(count,)] = rows(QUERIES["how_many_parked"], [(0,)], why=why)
        if count:
            first = rows(QUERIES["parked_runs"], [], why=why, limit=MOST)
            parked.append(Parked(why, count, tuple(run_id for (run_id,) in first)))
    checked = page_size * pages <= MAX_QUICK_CHECK if check is None else check
    findings = (*broken, *(quick_check(db, MOST) if checked else ()))
    return {
        "format": identify(path, db, page_size * pages).format,
        "page_size": page_size,
        "pages": pages,
        "unused_pages": _one(db, "PRAGMA freelist_count"),
        "encoding": _one(db, "PRAGMA encoding"),
        "auto_vacuum": _one(db, "PRAGMA auto_vacuum"),
        "wal_mode": _one(db, "PRAGMA journal_mode") == "wal" or _is_wal(Path(path).resolve()),
        "made_at": made_at,
        "epoch": epoch,
        "clean": clean == 1,
        "owner": None if pid is None else Holder(pid, host or "", opened_at or 0),
        "newest_at": newest_at or 0,
        "runs": runs,
        "steps": steps,
        "attempts": attempts,
        "overdue": overdue,
        "parked": tuple(parked),
        "lost": tuple(run_id for (run_id,) in lost),
        "findings": findings if checked or findings else None,
        "records": compare(db, MOST) if checked else None,
        "sqlite": sqlite3.sqlite_version_info,
    }


def _one(db: sqlite3.Connection, query: str) -> Any:
    return db.execute(query).fetchall()[0][0]


def _is_wal(real: Path) -> bool:
    """Of a file that nobody has open: SQLite does not tell, because it is read as one that cannot change.

    A file with a -wal is not opened here: whoever closes it takes away the locks of all others in this process.
    """
    if Path(f"{real}-wal").exists():
        return False
    with real.open("rb") as file:
        return file.read(VERSION + 1)[VERSION:] == WAL


def _around(real: Path) -> dict[str, Any]:
    """What the system says of the file, its folder and its lock."""
    wal, found = Path(f"{real}-wal"), real.stat()
    kind, network = mounted(str(real.parent))
    return {
        "size": found.st_size,
        "wal_size": wal.stat().st_size if wal.exists() else 0,
        "mode": found.st_mode & 0o7777,
        "links": found.st_nlink,
        "folder_mode": real.parent.stat().st_mode & 0o7777,
        "free": shutil.disk_usage(real.parent).free,
        "filesystem": kind,
        "network": network,
        "held": is_locked(str(real)),
    }
