"""A journal whose file is deleted, moved or replaced while it is open notices that, and stops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pikkupy import Config, JournalError, Pikku, Workflow
from pikkupy.store import Journal, named
from tests.store.samples import a_run, open_journal, raw


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks often, so that nobody waits."""
    monkeypatch.setattr(named, "LOOK_S", 0.001)


def deleted(path: Path) -> None:
    """By hand, with what lies beside it left."""
    path.unlink()


def deleted_with_all_that_is_beside_it(path: Path) -> None:
    """The lock and the log as well."""
    for file in path.parent.glob(f"{path.name}*"):
        file.unlink()


def moved(path: Path) -> None:
    """To another name in the same folder."""
    path.rename(path.with_name("elsewhere.db"))


def replaced(path: Path) -> None:
    """By an older state of it, as a backup is put back."""
    path.with_name("backup.db").replace(path)


def moved_with_its_folder(path: Path) -> None:
    """The name is gone, though nobody has touched the file."""
    path.parent.rename(path.parent.with_name("renamed"))


WAYS = [deleted, deleted_with_all_that_is_beside_it, moved, replaced, moved_with_its_folder]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a journal can be, in a folder of its own."""
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "app.db"


async def with_a_backup(path: Path) -> None:
    """Make a journal with one run, and a copy of it."""
    journal = await open_journal(str(path))
    await journal.commit([a_run(1)])
    await journal.close()
    path.with_name("backup.db").write_bytes(path.read_bytes())


async def failure_of(journal: Journal) -> JournalError:
    """What it has stopped with, as soon as it has."""
    while journal.failure is None:
        await asyncio.sleep(0)
    return journal.failure


@pytest.mark.parametrize("lose", WAYS)
async def test_a_file_that_has_lost_its_name_is_written_no_more(lose: Callable[[Path], None], path: Path) -> None:
    """F23: what is acknowledged would be in no file that anybody finds."""
    await with_a_backup(path)
    journal = await open_journal(str(path))
    await journal.commit([a_run(2)])
    lose(path)

    failure = await failure_of(journal)
    with pytest.raises(JournalError, match="deleted, moved or replaced"):
        await journal.commit([a_run(3)])
    await journal.close()
    assert str(failure).startswith(str(path))


async def test_a_backup_that_was_put_back_is_opened_as_it_was(path: Path) -> None:
    """F23: nothing of the file that was there before gets into it, neither at the end nor when it is opened."""
    await with_a_backup(path)
    journal = await open_journal(str(path))
    await journal.commit([a_run(2)])
    content = path.with_name("backup.db").read_bytes()
    replaced(path)
    await failure_of(journal)
    await journal.close()
    assert path.read_bytes() == content

    again = await open_journal(str(path))
    assert [await again.run("run-1"), await again.run("run-2")] == [a_run(1), None]
    await again.close()
    assert raw(str(path), "PRAGMA integrity_check") == [("ok",)]


async def test_a_file_that_was_moved_has_all_that_was_acknowledged(path: Path) -> None:
    """F23: also what was in the write-ahead log, which has stayed where it was."""
    await with_a_backup(path)
    journal = await open_journal(str(path))
    await journal.commit([a_run(2)])
    moved(path)
    await failure_of(journal)
    await journal.close()

    again = await open_journal(str(path.with_name("elsewhere.db")))
    assert await again.run("run-2") == a_run(2)
    assert not again.clean
    await again.close()


async def test_a_new_file_of_that_name_is_left_alone(path: Path) -> None:
    """F23: with a log of its own, which the end of the other one does not take away."""
    await with_a_backup(path)
    journal = await open_journal(str(path))
    await journal.commit([a_run(2)])
    deleted_with_all_that_is_beside_it(path)
    newer = await open_journal(str(path))
    await newer.commit([a_run(4)])
    beside = path.with_name("app.db-wal").stat()
    await failure_of(journal)
    await journal.close()

    assert path.with_name("app.db-wal").stat().st_ino == beside.st_ino
    await newer.commit([a_run(5)])
    await newer.close()
    assert raw(str(path), "SELECT number FROM pikkupy_runs ORDER BY number") == [(4,), (5,)]


async def test_a_file_that_cannot_be_looked_at_may_still_be_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what says that the name is gone, or another file's, stops the journal."""
    journal = await open_journal(str(path))
    looks = 0

    def refuse(_: object) -> None:
        nonlocal looks
        looks += 1
        raise PermissionError("the folder is closed")

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", refuse)
        while looks < 3:
            await asyncio.sleep(0)

    await journal.commit([a_run(1)])
    await journal.close()


async def test_a_closed_journal_does_not_look_any_more(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file may go where it wants."""
    journal = await open_journal(str(path))
    assert journal._name is not None
    await journal.close()

    assert journal._name._timer is None


async def test_a_file_that_is_gone_when_the_journal_is_closed_is_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F23: the end is none in good order, though nothing was to be written any more."""
    monkeypatch.setattr(named, "LOOK_S", 3600)
    journal = await open_journal(str(path))
    failures = list[JournalError]()
    journal.on_failure = failures.append
    path.unlink()
    await journal.close()

    assert failures == [journal.failure]


async def test_an_engine_whose_file_is_gone_begins_no_step_and_tells_who_waits(path: Path) -> None:
    """F23: as after an error of the disk."""
    pikku = Pikku()
    begun = list[str]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("first", lambda: begun.append("first"))
        await workflow.wait_for_signal("go")
        await workflow.do("second", lambda: begun.append("second"))

    async with pikku.open(path, config=Config(durability="process")) as engine:
        waits = asyncio.ensure_future(engine.run(flow, run_id="r"))
        while not begun:
            await asyncio.sleep(0)
        path.unlink()
        with pytest.raises(JournalError, match="deleted, moved or replaced"):
            await waits
        with pytest.raises(JournalError, match="deleted, moved or replaced"):
            await engine.signal("r", "go")

    assert begun == ["first"]
