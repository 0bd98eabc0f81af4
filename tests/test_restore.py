"""Going back to a backup: what was there is kept as a whole, and nothing of it gets into the copy."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy import JournalError, JournalFormatError, JournalLocked
from pikkupy.errors import BadValue, JournalNotFound
from pikkupy.store import back_up, put_back
from tests.journals import application, contents, cut_off, fill
from tests.test_backup import rows


async def backup_of(db: Path) -> Path:
    """A backup, and beside it what a crash has left of the journal whose place it is to take."""
    source, out = db.with_name("source.db"), db.with_name("out.db")
    await fill(source)
    back_up(str(source), str(out))
    cut_off(db)
    return out


def look(path: Path) -> dict[str, bytes]:
    """The files of one name."""
    return {name.removeprefix(path.name): kept for name, kept in contents(path.parent).items() if of(name, path)}


def of(name: str, path: Path) -> bool:
    return name in {path.name, f"{path.name}-wal", f"{path.name}-shm"}


async def test_a_backup_takes_the_place_of_what_a_crash_has_left(db: Path) -> None:
    """With mode 0600, and with nothing of the log of what was there. That is another journal now, whole."""
    out = await backup_of(db)
    before, copy = look(db), out.read_bytes()
    assert before["-wal"]

    made = put_back(str(out), str(db), 0)

    replaced = db.with_name("app.db.replaced")
    assert (made.file, made.replaced, made.runs, made.steps) == (str(db), str(replaced), 8, 10)
    assert look(db).keys() == {""}
    assert rows(db) == rows(out)
    assert db.stat().st_mode & 0o777 == 0o600
    assert out.read_bytes() == copy
    assert look(replaced) == before
    async with application().open(db) as engine:
        assert {run.id for run in (await engine.list_runs()).runs} >= {"asking", "declined"}
        await engine.signal("asking", "receipt", "taxi.pdf")
        assert await (await engine.handle("asking")).result() == "taxi.pdf"
    async with application().open(replaced) as engine:
        assert "gated" in {run.id for run in (await engine.list_runs()).runs}
    assert sorted(path.name for path in db.parent.iterdir() if path.name.startswith(".")) == []


async def test_each_file_that_was_replaced_keeps_a_name_of_its_own(db: Path) -> None:
    """None takes the place of another."""
    out = await backup_of(db)
    names = [put_back(str(out), str(db), 0).replaced for _ in range(3)]
    assert names == [f"{db}.replaced", f"{db}.replaced.2", f"{db}.replaced.3"]


async def test_a_backup_can_take_the_place_of_a_file_that_is_gone(db: Path) -> None:
    """Also of one that has left its log behind."""
    out = await backup_of(db)
    db.unlink()
    log = db.with_name("app.db-wal").read_bytes()

    assert put_back(str(out), str(db), 0).replaced == f"{db}.replaced"
    assert rows(db) == rows(out)
    assert db.with_name("app.db.replaced-wal").read_bytes() == log
    other = put_back(str(out), str(db.with_name("other.db")), 0)
    assert other.replaced is None
    assert rows(db.with_name("other.db")) == rows(out)


async def test_a_file_that_an_engine_has_open_stays(db: Path) -> None:
    """The engine goes on as if nothing had been asked."""
    out = await backup_of(db)
    async with application().open(db) as engine:
        with pytest.raises(JournalLocked, match=f"process {os.getpid()}"):
            put_back(str(out), str(db), 0)
        assert await engine.run("echo", 1) == 1
    assert not db.with_name("app.db.replaced").exists()


async def test_what_is_no_backup_takes_nobody_s_place(db: Path) -> None:
    """Nothing changes: of what is not there, no journal, damaged, or the file itself, also by another name."""
    out = await backup_of(db)
    foreign, damaged, link = (db.with_name(name) for name in ("foreign.db", "damaged.db", "link.db"))
    with closing(sqlite3.connect(foreign)) as other:
        other.execute("CREATE TABLE theirs (x)")
    damaged.write_bytes(out.read_bytes()[:30_000])
    link.symlink_to(db)
    db.with_name("app.db.owner").unlink()
    before = contents(db.parent)
    for name, error in (
        ("nothing.db", JournalNotFound),
        ("foreign.db", JournalFormatError),
        ("damaged.db", JournalError),
        ("app.db", BadValue),
        ("link.db", BadValue),
    ):
        with pytest.raises(error):
            put_back(str(db.with_name(name)), str(db), 0)
        assert contents(db.parent) == before


async def test_links_lead_to_the_file_whose_place_is_taken(db: Path) -> None:
    """As they lead an engine there."""
    out = await backup_of(db)
    link = db.parent / "elsewhere" / "link.db"
    link.parent.mkdir()
    link.symlink_to(db)

    assert put_back(str(out), str(link), 0).file == str(db)
    assert link.is_symlink()
    assert rows(link) == rows(out)


async def test_what_was_there_comes_back_if_the_copy_cannot_get_its_place(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its log are where they were, and there is no other file."""
    out = await backup_of(db)
    db.with_name("app.db.owner").unlink()
    before = contents(db.parent)

    def refused(*_: object) -> None:
        raise OSError("no links today")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no links today"):
        patch.setattr("pikkupy.store.restore.give_name", refused)
        put_back(str(out), str(db), 0)

    assert contents(db.parent) == before


async def test_a_damaged_row_takes_nobody_s_place_unless_it_is_wanted(db: Path) -> None:
    """It may be the only copy that there is."""
    out = db.with_name("out.db")
    await fill(out)
    with closing(sqlite3.connect(out, isolation_level=None)) as connection:
        connection.execute("UPDATE pikkupy_runs SET output = '99' WHERE run_id = 'done'")
    before = contents(db.parent)

    with pytest.raises(JournalError, match=r"run 'done' .*--no-check"):
        put_back(str(out), str(db), 0)
    assert {name: text for name, text in contents(db.parent).items() if name in before} == before
    assert not db.exists()

    assert put_back(str(out), str(db), 0, check=False).runs == 8
