"""What happens between a commit and the moment at which the engine hears of it; each race with a fixed winner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, Pikku, RunStateError, Workflow
from pikkupy.engine.holds import Holds
from pikkupy.store import Journal
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH, IN_THE_FILE
from tests.kills.copies import Copies, Moment, passing
from tests.kills.facts import Facts
from tests.kills.story import SETTINGS, Ledger, mark

PATIENCE_S = 5.0

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


def family() -> Pikku:
    pikku = Pikku()

    @pikku.workflow
    async def parent(workflow: Workflow) -> Any:
        return await asyncio.gather(*(workflow.do(name, "child") for name in ("a", "b")))

    @pikku.workflow
    async def child(workflow: Workflow) -> Any:
        await workflow.do("begin", mark(workflow))
        return await workflow.wait_for_signal("go")

    return pikku


class Held:
    """The database thread waits after the commit that brings a run, until it is let go."""

    def __init__(self, db: Path, run_id: str) -> None:
        self._db, self._run_id = db, run_id
        self.committed, self.let_go = threading.Event(), threading.Event()
        self.in_time = True  # an error in that thread would be taken for one of the disk

    def reach(self, name: str) -> None:
        if name == "after_commit" and not self.committed.is_set() and self._run_id in Facts(self._db).runs:
            self.committed.set()
            self.in_time = self.let_go.wait(PATIENCE_S)

    async def is_committed(self) -> None:
        assert await asyncio.to_thread(self.committed.wait, PATIENCE_S)


@each_way
async def test_a_child_that_a_start_up_starts_is_not_recovered_as_well(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I1: the start-up reads on while its first runs go on, and finds what these have just started."""
    moment = await just_started(tmp_path / "app.db")
    db = moment.restore(tmp_path / "copy")
    held, awake = Held(db, "p/b"), Journal.awake

    async def reading(journal: Journal, *, after: int = 0, limit: int = 500) -> Any:
        if after:
            await held.is_committed()
        found = await awake(journal, after=after, limit=limit)
        if after:
            asyncio.get_running_loop().call_later(0.01, held.let_go.set)  # when what was found is in memory
        return found

    monkeypatch.setattr(Journal, "awake", reading)
    clock, ledger = VirtualClock(), Ledger()
    with passing(held.reach):
        engine = family().open(db, clock=clock, services=ledger, **SETTINGS, **settings)
        await engine.__aenter__()
    try:
        await clock.advance(0)
        for name in ("a", "b"):
            await engine.signal(f"p/{name}", "go", name)
        assert await (await engine.handle("p")).result(timeout="1min") == ["a", "b"]
        assert held.in_time
    finally:
        await engine.__aexit__(None, None, None)
    assert sorted(ledger.effects) == [("p/a", "begin", 1), ("p/b", "begin", 1)]


async def just_started(db: Path) -> Moment[int]:
    """A journal in which a parent was started, and nothing else has happened yet."""
    copies = Copies(db, int)
    with passing(copies.reach, copies.reads):
        engine = family().open(db, clock=VirtualClock(), services=Ledger(), **SETTINGS)
        await engine.__aenter__()
    try:
        await engine.start("parent", run_id="p")
    finally:
        await engine.__aexit__(None, None, None)
        copies.close()
    for number, moment in enumerate(copies.moments):
        if Facts(moment.restore(db.parent / f"{number}")).runs.keys() == {"p"}:
            return moment
    raise AssertionError("the children were there at once")


async def signalled(engine: Engine) -> str:
    await engine.signal("p/b", "go", "b")
    return "completed"


async def cancelled(engine: Engine) -> str:
    await engine.cancel("p/b", "enough")
    return "cancelled"


@each_way
@pytest.mark.parametrize("tell", [signalled, cancelled])
async def test_a_child_that_is_told_something_as_soon_as_it_is_on_disk(
    tell: Callable[[Engine], Awaitable[str]], settings: dict[str, Any], db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: it is the same run, once in memory, that hears of it: who tells it something waits for that."""
    held, alone, waited = Held(db, "p/b"), Holds.alone, list[int]()

    def waiting(holds: Holds, number: int) -> Any:
        if holds.is_held(number):
            waited.append(number)
            held.let_go.set()
        return alone(holds, number)

    clock, ledger = VirtualClock(), Ledger()
    with passing(held.reach):
        engine = family().open(db, clock=clock, services=ledger, **SETTINGS, **settings)
        await engine.__aenter__()
    try:
        await engine.start("parent", run_id="p")
        await held.is_committed()
        monkeypatch.setattr(Holds, "alone", waiting)
        status = await tell(engine)
        assert waited
        await clock.advance(0)
        assert (await engine.get_run("p/b")).status == status
        assert len(ledger.effects) == len(set(ledger.effects))
        with pytest.raises(RunStateError):
            await engine.signal("p/b", "go", "again")
        assert held.in_time
    finally:
        held.let_go.set()
        await engine.__aexit__(None, None, None)


async def test_a_child_that_ends_while_its_parent_is_on_its_way_into_memory(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: the parent was read as it was before that end, and hears of it all the same."""
    clock, read = VirtualClock(), Journal.recorded_runs
    async with family().open(db, clock=clock, services=Ledger(), **SETTINGS, **IN_THE_FILE) as engine:
        handle = await engine.start("parent", run_id="p")
        await clock.advance(0)

        async def reading(journal: Journal, numbers: Any, **options: Any) -> Any:
            found = await read(journal, numbers, **options)
            if [one.run.run_id for one in found] == ["p"]:
                monkeypatch.undo()
                await engine.signal("p/b", "go", "b")
                while (await engine.get_run("p/b")).status != "completed":
                    await asyncio.sleep(0)
            return found

        monkeypatch.setattr(Journal, "recorded_runs", reading)
        await engine.signal("p/a", "go", "a")
        await clock.advance(0)

        assert (await engine.get_run("p/b")).status == "completed"
        assert (await engine.get_run("p")).status == "completed"
        assert await handle.result(timeout=0) == ["a", "b"]
