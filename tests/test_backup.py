"""Copies of a journal: whole, checked, and never half."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy import JournalError, JournalFormatError
from pikkupy.store import back_up, backup
from tests.journals import application, contents, cut_off, fill


def rows(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as db:
        return [db.execute(f"SELECT * FROM pikkupy_{table}").fetchall() for table in ("journal", "runs", "steps")]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_a_backup_is_the_journal_and_its_owner_s_alone(db: Path, umask: int) -> None:
    """Row by row, with mode 0600, and nothing else in the folder; the file is as it was."""
    await fill(db)
    before, out = contents(db.parent), db.with_name("out.db")
    mask = os.umask(umask)
    try:
        made = back_up(str(db), str(out))
    finally:
        os.umask(mask)

    after = contents(db.parent)
    assert len(after.pop("out.db")) == made.bytes
    assert after == before
    assert out.stat().st_mode & 0o777 == 0o600
    assert (made.runs, made.steps) == (8, 10)
    assert rows(out) == rows(db)


async def test_an_engine_goes_on_from_a_backup(db: Path) -> None:
    """What was unfinished when it was made is unfinished there."""
    await fill(db)
    back_up(str(db), str(db.with_name("out.db")))

    async with application().open(db.with_name("out.db")) as engine:
        await engine.signal("asking", "receipt", "taxi.pdf")
        assert await (await engine.handle("asking")).result() == "taxi.pdf"


async def test_a_backup_beside_a_busy_engine_is_whole(db: Path) -> None:
    """It ends while others go on writing, and holds all that was on disk before it began."""
    async with application().open(db) as engine:
        await engine.run("echo", run_id="before")
        done = threading.Event()

        def copy() -> None:
            try:
                back_up(str(db), str(db.with_name("out.db")))
            finally:
                done.set()

        thread = threading.Thread(target=copy)
        thread.start()
        count = 0
        while not done.is_set():
            await engine.run("echo", count)
            count += 1
        thread.join()

    async with application().open(db.with_name("out.db")) as engine:
        assert (await engine.get_run("before")).status == "completed"
        found = (await engine.counts())["echo"]
    assert count > 0
    assert sum(found.values()) <= count + 1


def test_what_a_crash_has_left_is_backed_up_with_its_wal(db: Path) -> None:
    """All that was told to anybody."""
    cut_off(db)
    before = contents(db.parent)

    made = back_up(str(db), str(db.with_name("out.db")))

    assert made.runs == 3
    assert {name: kept for name, kept in contents(db.parent).items() if name != "out.db"} == before


async def test_nothing_takes_the_place_of_what_is_there(db: Path) -> None:
    """A file, a folder, a link to something or to nothing; not even if it comes to be while the copy is made."""
    await fill(db)
    precious = db.with_name("precious")
    precious.write_text("precious")
    db.with_name("link").symlink_to(precious)
    db.with_name("dangling").symlink_to(db.with_name("nothing"))
    db.with_name("folder").mkdir()
    names = sorted(path.name for path in db.parent.iterdir())
    for name in ("precious", "link", "dangling", "folder", "app.db"):
        with pytest.raises(FileExistsError, match="is there already"):
            back_up(str(db), str(db.with_name(name)))
    with pytest.raises(FileNotFoundError, match="create it first"):
        back_up(str(db), str(db.with_name("nowhere") / "out.db"))
    assert sorted(path.name for path in db.parent.iterdir()) == names
    assert precious.read_text() == "precious"


async def test_a_name_that_is_taken_meanwhile_stays_taken(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever was quicker keeps it."""
    await fill(db)
    out, sync = db.with_name("out.db"), backup.sync

    def slow(path: Path) -> None:
        sync(path)
        if path.name == "copy.db":
            out.write_text("theirs")

    monkeypatch.setattr(backup, "sync", slow)
    with pytest.raises(FileExistsError, match="meanwhile"):
        back_up(str(db), str(out))
    assert out.read_text() == "theirs"
    assert not list(db.parent.glob(".pikku*"))


async def test_without_hard_links_it_gets_its_name_all_the_same(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a file system that has none."""
    await fill(db)

    def link(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", link)
    back_up(str(db), str(db.with_name("out.db")))

    assert rows(db.with_name("out.db")) == rows(db)
    assert db.with_name("out.db").stat().st_mode & 0o777 == 0o600
    assert not list(db.parent.glob(".pikku*"))


async def test_a_copy_that_is_not_whole_is_no_backup(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is compared, and nothing of it is left."""
    await fill(db)
    copy_pages = backup._copy_pages

    def lossy(pages: Path, connection: sqlite3.Connection) -> backup.Counts:
        counts = copy_pages(pages, connection)
        with closing(sqlite3.connect(pages, isolation_level=None)) as other:
            other.execute("DELETE FROM pikkupy_steps WHERE name = 'Begin'")
        return counts

    before = contents(db.parent)
    monkeypatch.setattr(backup, "_copy_pages", lossy)
    with pytest.raises(JournalError, match="not whole"):
        back_up(str(db), str(db.with_name("out.db")))
    assert contents(db.parent) == before


async def test_a_damaged_file_gives_no_backup(db: Path) -> None:
    """Nor does what is no journal."""
    await fill(db)
    data = bytearray(db.read_bytes())
    for page in range(2, len(data) // 8192):
        data[page * 8192 : page * 8192 + 16] = b"\xff" * 16
    db.write_bytes(data)
    with pytest.raises(JournalError):
        back_up(str(db), str(db.with_name("out.db")))
    db.write_bytes(b"")
    with pytest.raises(JournalFormatError):
        back_up(str(db), str(db.with_name("out.db")))
    assert sorted(path.name for path in db.parent.iterdir()) == ["app.db", "app.db.lock"]


async def test_a_damaged_row_gives_no_backup_unless_it_is_wanted(db: Path) -> None:
    """It is named, and nothing is left; a copy of it can be had all the same."""
    await fill(db)
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        [(number,)] = connection.execute("SELECT number FROM pikkupy_runs WHERE run_id = 'asleep'").fetchall()
        connection.execute("UPDATE pikkupy_steps SET output = '99' WHERE name = 'Begin' AND run = ?", [number])
    before, out = contents(db.parent), db.with_name("out.db")

    with pytest.raises(
        JournalError, match=r"1 of \d+ rows .* step 'Begin' \(position 0\) of run 'asleep'; .*--no-check"
    ):
        back_up(str(db), str(out))

    assert contents(db.parent) == before
    assert back_up(str(db), str(out), check=False).runs == 8
    assert rows(out) == rows(db)
