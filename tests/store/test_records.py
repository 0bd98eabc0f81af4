"""Every row of a file is compared with its checksum, and the damaged ones are named."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pikkupy import Pikku, Workflow, current_step
from pikkupy.store import facts_of, records
from pikkupy.store.connection import connect_reader
from pikkupy.testing import VirtualClock

ROWS = {
    "runs": ("output = '\"b\"'", "status = 'completed'", "run 'done' (number {run})"),
    "steps": ("output = '2'", "name = 'Pay'", "step 'Pay' (position 0) of run 'done'"),
    "attempts": ("started_at = 1", "attempt = 1", "attempt 1 of the step at position 2 of run 'all'"),
    "timers": ("due_at = due_at + 1", "TRUE", "timer 0 of run 'all'"),
    "signals": ("payload = '3'", "position IS NULL", "signal 'kept' (place {seq}) of run 'all'"),
    "chunks": ("value = '3'", "TRUE", "chunk 0 of step 'Emit' of run 'all'"),
    "set_aside": ("output = '3'", "TRUE", "step 'Old' (position -1) of run 'all'"),
}


def application(*, old: bool) -> Pikku:
    pikku = Pikku()

    def emit() -> None:
        step = current_step()
        assert step is not None
        step.emit("chunk")

    def flaky() -> None:
        step = current_step()
        assert step is not None
        if step.attempt_count == 1:
            raise ValueError("not yet")

    @pikku.workflow(name="all")
    async def all_kinds(workflow: Workflow) -> None:
        await workflow.do("Emit", emit)
        await workflow.do("Old" if old else "New", lambda: None)
        await workflow.do("Flaky", flaky, retries=1, retry_delay="1s")
        await asyncio.sleep(1)
        await workflow.wait_for_signal("taken")
        await workflow.suspend("closed")

    @pikku.workflow
    async def pay(workflow: Workflow) -> str:
        await workflow.do("Pay", lambda: 1)
        return "a"

    return pikku


async def reached(engine: object, name: str) -> None:
    while all(step.name != name for step in await engine.steps("all")):  # type: ignore[attr-defined]
        await asyncio.sleep(0)


@pytest.fixture
async def kinds(db: Path) -> Path:
    """A journal with rows in each table that has checksums."""
    clock = VirtualClock(autojump=True)
    async with application(old=True).open(db, clock=clock) as engine:
        await engine.run("pay", run_id="done")
        await engine.start("all", run_id="all")
        await reached(engine, "Flaky")
    async with application(old=False).open(db, clock=clock) as engine:
        await engine.resume("all", accept="new")
        await reached(engine, "taken")
        await engine.signal("all", "taken", 1)
        await engine.signal("all", "kept", 2)
        await reached(engine, "closed")
    return db


def changed(db: Path, *statements: str) -> None:
    with closing(sqlite3.connect(db, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1, statement


def looked_at(db: Path) -> records.Records:
    found = facts_of(str(db), 0, check=None).records
    assert found is not None
    return found


async def test_rows_that_are_what_was_written_are_well(kinds: Path) -> None:
    """They are counted, but for signals that were taken, whose checksum is of no use any more."""
    with closing(sqlite3.connect(kinds)) as connection:
        counts = [connection.execute(f"SELECT count(*) FROM pikkupy_{table}").fetchone()[0] for table in ROWS]
        [(taken,)] = connection.execute("SELECT count(position) FROM pikkupy_signals").fetchall()

    assert all([*counts, taken])
    assert looked_at(kinds) == records.Records(sum(counts) - taken, 0, ())


@pytest.mark.parametrize("table", ROWS)
async def test_a_damaged_row_is_named_with_its_run(kinds: Path, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each table, however few are read at once."""
    monkeypatch.setattr(records, "AT_ONCE", 1)
    change, where, what = ROWS[table]
    changed(kinds, f"UPDATE pikkupy_{table} SET {change} WHERE {where}")
    with closing(sqlite3.connect(kinds)) as connection:
        [(run,)] = connection.execute("SELECT number FROM pikkupy_runs WHERE run_id = 'done'").fetchall()
        [(seq,)] = connection.execute("SELECT seq FROM pikkupy_signals WHERE position IS NULL").fetchall()

    found = looked_at(kinds)

    assert (found.damaged, found.first) == (1, (what.format(run=run, seq=seq),))


async def test_a_name_that_is_no_text_any_more_is_damage(kinds: Path) -> None:
    changed(kinds, "UPDATE pikkupy_steps SET name = CAST(x'ff' AS TEXT) WHERE name = 'Pay'")

    assert looked_at(kinds).first == ("step '\\udcff' (position 0) of run 'done'",)


async def test_what_is_left_of_a_deleted_run_does_not_count(kinds: Path) -> None:
    """Nobody reads it."""
    changed(
        kinds,
        "UPDATE pikkupy_steps SET output = '2' WHERE name = 'Pay'",
        "DELETE FROM pikkupy_runs WHERE run_id = 'done'",
    )

    assert looked_at(kinds).damaged == 0


async def test_some_of_many_are_named(kinds: Path) -> None:
    """All are counted, across tables."""
    for table, (change, where, _) in ROWS.items():
        changed(kinds, f"UPDATE pikkupy_{table} SET {change} WHERE {where}")
    with closing(connect_reader(str(kinds))) as connection:
        found = records.compare(connection, 3)

    assert (found.damaged, len(found.first)) == (len(ROWS), 3)


async def test_a_run_whose_id_has_changed_is_damaged(db: Path) -> None:
    """Though it is not found under that id any more."""
    pikku = Pikku()

    @pikku.workflow
    async def leaf(workflow: Workflow) -> None: ...

    async with pikku.open(db) as engine:
        await engine.run(leaf, run_id="first")
    data = db.read_bytes()
    assert data.count(b"firstleaf") == 1  # so they stand in the row, and in no index
    db.write_bytes(data.replace(b"firstleaf", b"birstleaf"))

    with closing(sqlite3.connect(db)) as raw:
        found = records.compare(raw, 3)

    assert (found.damaged, found.first) == (1, ("run 'birst' (number 1)",))
