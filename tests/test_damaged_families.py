"""A file in which runs do not find their parents or children any more says so (promise 5: never a wrong value)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from pikkupy import JournalError, Pikku, Workflow
from pikkupy.core.model import ChildRow
from pikkupy.store import Reading

INDEX = "pikkupy_runs_children"
pikku = Pikku()


@pikku.workflow
async def leaf(workflow: Workflow, data: int) -> int:
    return data


@pikku.workflow
async def tree(workflow: Workflow) -> int:
    return await workflow.do("one", leaf, 1) + await workflow.do("two", leaf, 2)


async def made(db: Path) -> None:
    """A file with two parents of two children each, and all are found."""
    async with pikku.open(db) as engine:
        for run_id in ("first", "other"):
            await engine.run(tree, run_id=run_id)
            assert [step.child_run_id for step in await engine.steps(run_id)] == [f"{run_id}/one", f"{run_id}/two"]
            assert (await engine.get_run(f"{run_id}/one")).parent_run_id == run_id


@contextmanager
def bare(db: Path) -> Iterator[sqlite3.Connection]:
    """The file as SQLite alone has it, without the triggers of deleted runs."""
    with closing(sqlite3.connect(db, isolation_level=None)) as raw:
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        yield raw


def number_of(raw: sqlite3.Connection, run_id: str) -> int:
    [(number,)] = raw.execute("SELECT number FROM pikkupy_runs WHERE run_id = ?", (run_id,))
    return int(number)


def misplace_in_index(db: Path, child: str, parent: str) -> None:
    """The index of children has it below another parent, the table does not."""
    with bare(db) as raw:
        own, other = number_of(raw, parent), number_of(raw, child.partition("/")[0])
        raw.execute("UPDATE pikkupy_runs SET parent = ? WHERE run_id = ?", (own, child))
        [row] = raw.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema WHERE name = ?", (INDEX,))
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("DELETE FROM sqlite_schema WHERE name = ?", (INDEX,))
    with bare(db) as raw:
        raw.execute("UPDATE pikkupy_runs SET parent = ? WHERE run_id = ?", (other, child))
        raw.execute("PRAGMA writable_schema = ON")
        raw.execute("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", row)


async def test_a_child_that_an_index_has_elsewhere_is_no_child_of_that(db: Path) -> None:
    """Neither of them is shown with a wrong child, or with none."""
    await made(db)
    misplace_in_index(db, "first/two", "other")

    async with pikku.open(db) as engine:
        with pytest.raises(JournalError, match=r"step 'two'.*its child run is damaged"):
            await engine.steps("first")
        with pytest.raises(JournalError, match=r"child run 'first/two' .* is damaged"):
            await engine.steps("other")


async def test_a_child_whose_parent_is_not_found_is_damaged(db: Path) -> None:
    """Runs are deleted with their parents, so there is none without."""
    await made(db)
    with bare(db) as raw:
        for (trigger,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {trigger}")
        raw.execute("DELETE FROM pikkupy_runs WHERE run_id = 'first'")

    async with pikku.open(db) as engine:
        with pytest.raises(JournalError, match=r"run 'first/one': its parent .* is damaged"):
            await engine.get_run("first/one")
        assert (await engine.get_run("other/one")).parent_run_id == "other"


@pytest.mark.parametrize("name", ["first", "first/one"])
async def test_an_id_that_has_changed_is_shown_nowhere(name: str, db: Path) -> None:
    """Not as that of a parent either, nor of a child: no checksum of theirs is looked at there."""
    await made(db)
    workflow = b"leaf" if "/" in name else b"tree"
    with bare(db):
        pass
    data = db.read_bytes()
    before = name.encode() + workflow  # so they stand in the row, and in no index
    assert data.count(before) == 1
    db.write_bytes(data.replace(before, b"b" + before[1:]))

    async with pikku.open(db) as engine:
        with pytest.raises(JournalError, match="damaged"):
            await (engine.steps("first") if "/" in name else engine.get_run("first/one"))


async def test_a_child_that_comes_while_it_is_looked_for_is_no_damage(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The children were read before it was there, and it was found by its id."""
    read, calls = Reading.children, list[int]()

    async def too_early(self: Reading, number: int) -> list[ChildRow]:
        calls.append(number)
        return [] if len(calls) == 1 else await read(self, number)

    await made(db)
    async with pikku.open(db) as engine:
        monkeypatch.setattr(Reading, "children", too_early)
        assert [step.name for step in await engine.steps("first")] == ["one", "two"]

    assert len(calls) == 2
