"""Files: what is refused, with which sentence, and that nothing is touched."""

from __future__ import annotations

import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pikkupy import JournalError, JournalFormatError, JournalLocked, Pikku, Workflow


def echo() -> Pikku:
    """A workflow that returns its input."""
    pikku = Pikku()

    @pikku.workflow
    async def echo(workflow: Workflow, data: Any) -> Any:
        return await workflow.do("echo", lambda: data)

    return pikku


async def refused(path: Path | str, error: type[JournalError]) -> str:
    """The message with which opening is refused."""
    with pytest.raises(error) as raised:
        async with echo().open(path):
            pass
    return str(raised.value)


async def test_a_locked_file_names_its_holder(db: Path) -> None:
    """C147: process id, host and start time; the first engine is not disturbed."""
    async with echo().open(db) as engine:
        message = await refused(db, JournalLocked)
        assert str(os.getpid()) in message
        assert socket.gethostname() in message
        assert "20" in message
        assert await engine.run("echo", 1) == 1


async def test_another_process_is_locked_out(db: Path) -> None:
    """C147: a second engine in another process is refused as well."""
    code = (
        "import asyncio, sys, pikkupy\n"
        "async def main():\n"
        "    try:\n"
        "        async with pikkupy.Pikku().open(sys.argv[1]): print('opened')\n"
        "    except pikkupy.JournalLocked as error: print('locked', error)\n"
        "asyncio.run(main())"
    )
    async with echo().open(db):
        out = subprocess.run([sys.executable, "-c", code, str(db)], capture_output=True, text=True, check=True)
    assert out.stdout.startswith("locked")
    assert str(os.getpid()) in out.stdout


@pytest.mark.parametrize(
    "content", [b"hello", b"x" * 8192, b"SQLite format 3\x00", b"SQLite format 3\x00" + b"y" * 9000]
)
async def test_a_file_that_is_no_database_is_untouched(db: Path, content: bytes) -> None:
    """C148: JournalFormatError naming the path."""
    db.write_bytes(content)
    assert str(db) in await refused(db, JournalFormatError)
    assert db.read_bytes() == content


async def test_a_file_cut_short_is_untouched(db: Path) -> None:
    """C148: as a file that is no database."""
    async with echo().open(db) as engine:
        for number in range(50):
            await engine.run("echo", "x" * 1000, run_id=str(number))
    content = db.read_bytes()[:-10_000]  # more than a page: SQLite fills one up with zeros
    db.write_bytes(content)
    assert str(db) in await refused(db, JournalFormatError)
    assert db.read_bytes() == content


def sql(db: Path, *statements: str) -> None:
    """Run statements on the file."""
    with sqlite3.connect(db) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


async def test_another_application_s_file_is_untouched(db: Path) -> None:
    """C149: `application_id` other than 0 and ours is refused."""
    sql(db, "PRAGMA application_id = 12345", "CREATE TABLE t (a)")
    content = db.read_bytes()
    assert str(db) in await refused(db, JournalFormatError)
    assert db.read_bytes() == content


async def test_the_application_s_own_tables_may_be_there(db: Path) -> None:
    """C149: without an application id our tables are added, and theirs stay."""
    sql(db, "CREATE TABLE mine (a)", "INSERT INTO mine VALUES (5)")
    for _ in range(2):
        async with echo().open(db) as engine:
            assert await engine.run("echo", 1, run_id="r") == 1
    with sqlite3.connect(db) as connection:
        assert connection.execute("SELECT a FROM mine").fetchall() == [(5,)]
    connection.close()


async def test_a_newer_format_is_untouched(db: Path) -> None:
    """C150: `user_version` above the one that is known."""
    async with echo().open(db) as engine:
        await engine.run("echo", 1)
    sql(db, "PRAGMA user_version = 999")
    content = db.read_bytes()
    assert "999" in await refused(db, JournalFormatError)
    assert db.read_bytes() == content


async def test_an_empty_file_is_a_new_journal(db: Path) -> None:
    """C151."""
    db.touch()
    async with echo().open(db) as engine:
        assert await engine.run("echo", 1) == 1


async def test_a_folder_that_is_missing_or_no_folder_is_named(tmp_path: Path) -> None:
    """C152, C153: JournalError on entering; nothing is made."""
    (tmp_path / "file").touch()
    for path in (tmp_path / "missing" / "app.db", tmp_path / "file" / "app.db", tmp_path):
        assert str(path) in await refused(path, JournalError)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_open_itself_does_nothing(tmp_path: Path) -> None:
    """C153: no file is made before the engine is entered."""
    engine = echo().open(tmp_path / "app.db")
    assert list(tmp_path.iterdir()) == []
    async with engine:
        assert (tmp_path / "app.db").exists()


@pytest.mark.parametrize("path", [5, None, b"app.db", object()])
async def test_what_is_no_path_is_told(path: Any) -> None:
    """C116: `str` or `os.PathLike[str]`."""
    with pytest.raises((TypeError, JournalError)):
        async with echo().open(path):
            pass


@pytest.mark.parametrize("path", ["", "a\x00b", "file:x?mode=memory", ":memory: "])
async def test_odd_paths_are_files_or_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """C116: nothing but ":memory:" is special; what is taken is kept."""
    monkeypatch.chdir(tmp_path)
    try:
        async with echo().open(path) as engine:
            await engine.run("echo", 1, run_id="r")
    except JournalError:
        return
    async with echo().open(path) as engine:
        assert (await engine.get_run("r")).output == 1


async def test_a_memory_journal_is_gone_after_leaving() -> None:
    """Running: ":memory:" is one engine's own."""
    engine = echo().open(":memory:")
    async with engine:
        await engine.run("echo", 1, run_id="r")
    async with engine:
        assert (await engine.list_runs()).runs == ()


async def test_both_durabilities_work(db: Path) -> None:
    """Promise 7: and a file may change between them."""
    for number, durability in enumerate(("full", "process", "full")):
        async with echo().open(db, durability=durability) as engine:  # type: ignore[arg-type]
            assert await engine.run("echo", number, run_id=str(number)) == number
            assert len((await engine.list_runs()).runs) == number + 1
