"""A copy of a journal into a new file, also while an engine is at work on it.

SQLite copies the pages in one go, as of one moment, so that it ends however busy the file is; in parts it would begin
anew with each write. `VACUUM INTO` then takes what is in use out of that; not out of the file itself: over a connection
that cannot write, it refuses tables with generated columns (SQLite 3.40). All that happens in a folder of its own, and
the copy gets its name when it is whole, and was compared with the file as of that moment, and its rows
with their checksums.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from contextlib import closing
from functools import partial
from pathlib import Path

import msgspec

from pikkupy.errors import JournalError
from pikkupy.store.connection import REFUSALS, connect_copy, connect_reader
from pikkupy.store.files import FILE_MODE, identify, quick_check
from pikkupy.store.queries import QUERIES
from pikkupy.store.records import compare
from pikkupy.store.viewing import View

NAMED = 3  # damaged rows in an error


class Counts(msgspec.Struct, frozen=True):
    """How much there is."""

    runs: int
    steps: int
    attempts: int


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup that was made and checked."""

    file: str
    out: str
    bytes: int
    runs: int
    steps: int
    attempts: int


def back_up(path: str, out: str, *, check: bool = True) -> Backup:
    """Copy the journal at `path` to the new file `out`, which belongs to its owner alone, and check the copy.

    Without `check` its pages are looked at alone, not each row: a file with damaged ones can be copied so.

    Raises `FileExistsError` if there is something of that name, and leaves nothing behind if it fails. Else as
    `View.ask` does, and `OSError`.
    """
    target = Path(os.path.abspath(out))  # noqa: PTH100 - a link of that name is something of that name
    if os.path.lexists(target):
        raise FileExistsError(f"{out} is there already; give a name that is free")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent} is no folder; create it first")
    view = View(path)
    try:
        with tempfile.TemporaryDirectory(prefix=".pikku-backup-", dir=target.parent) as folder:
            copy, counts = _copied(view, Path(folder), check=check)
            sync(copy)
            give_name(copy, target, out)
    except REFUSALS as error:
        raise JournalError(f"{path} cannot be copied: {error}") from error
    finally:
        view.close()
    sync(target.parent)
    return Backup(
        file=view.real,
        out=str(target),
        bytes=target.stat().st_size,
        runs=counts.runs,
        steps=counts.steps,
        attempts=counts.attempts,
    )


def _copied(view: View, folder: Path, *, check: bool) -> tuple[Path, Counts]:
    """The copy, and how much there is in it, which is what there was in the file."""
    pages, copy = folder / "pages.db", folder / "copy.db"
    counts = view.ask(partial(_copy_pages, pages))
    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
    with closing(connect_copy(str(pages))) as db:
        db.execute(QUERIES["backup_into"], {"path": str(copy)})
    pages.unlink()
    with closing(connect_reader(str(copy), "immutable=1")) as db:
        identify(view.path, db, copy.stat().st_size)
        findings, copied = quick_check(db, 1), _how_much(db)
        records = compare(db, NAMED) if check and not findings else None
    if findings:
        raise JournalError(f"the copy of {view.path} is damaged: {findings[0]}; look at the file with `pikku doctor`")
    if copied != counts:
        raise JournalError(f"the copy of {view.path} holds {copied}, the file {counts}: it is not whole; try again")
    if records is not None and records.damaged:
        more = ", …" if records.damaged > NAMED else ""
        raise JournalError(
            f"{records.damaged:,} of {records.rows:,} rows of {view.path} are not what was written: "
            f"{', '.join(records.first)}{more}; keep the copies that you have, or take one with these rows: --no-check"
        )
    return copy, counts


def _copy_pages(pages: Path, db: sqlite3.Connection) -> Counts:
    pages.unlink(missing_ok=True)  # of a try that does not count
    db.execute("BEGIN")
    try:
        counts = _how_much(db)
        with closing(connect_copy(str(pages))) as target:
            db.backup(target)  # of the state that was counted
    finally:
        db.execute("COMMIT")
    return counts


def _how_much(db: sqlite3.Connection) -> Counts:
    return Counts(*db.execute(QUERIES["how_much"]).fetchall()[0])


def give_name(copy: Path, target: Path, out: str) -> None:
    """Give the copy its name, which must be free."""
    try:
        os.link(copy, target)  # unlike a rename it takes nobody's place
    except FileExistsError:
        raise FileExistsError(f"{out} has come to be meanwhile; give another name") from None
    except OSError:  # a file system without hard links
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE))
        shutil.move(copy, target)


def sync(path: Path) -> None:
    """Let it survive a loss of power: SQLite does not sync a copy, and a new name is in its folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
