"""Runs that wait in the file, of workflows that an `open` does not have, and has again later (C113)."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, PayloadError, Pikku, RunStateError, Workflow
from pikkupy.engine import engine as engine_module
from pikkupy.engine import missing
from pikkupy.testing import VirtualClock

IN_FILE: dict[str, Any] = {"resident_runs": 0, "unload_after": 0}
GONE = "WorkflowNotFound: no workflow named 'flow' is registered"


class Shop:
    """A file and a clock, with the workflow `flow` or without it."""

    def __init__(self, db: Path, **settings: Any) -> None:
        self.db, self.clock, self.settings = db, VirtualClock(), settings or IN_FILE
        self.did: list[str] = []

    def open(self, *, whole: bool = True) -> Any:
        pikku = Pikku()
        if whole:
            pikku.workflow(name="flow")(self._flow)
        return pikku.open(self.db, clock=self.clock, **self.settings)

    async def _flow(self, workflow: Workflow, data: str) -> str:
        await workflow.do("first", lambda: self.did.append(workflow.run_id))
        match data:
            case "sleep":
                await workflow.sleep("nap", "10d")
            case "signal":
                return str(await workflow.wait_for_signal("go"))
            case "approval":
                return str(await workflow.approval("ok", bool))
            case "gate":
                await workflow.suspend("look at it")
        return "done"


async def stand(engine: Engine, run_id: str = "r") -> tuple[str, str]:
    run = await engine.get_run(run_id)
    return run.status, str(run.reason)


@pytest.mark.parametrize("data", ["sleep", "signal", "gate"])
async def test_a_run_that_waits_in_the_file_is_suspended_at_open_and_goes_on_at_open(data: str, db: Path) -> None:
    shop = Shop(db)
    async with shop.open() as engine:
        await engine.start("flow", data, run_id="r")
        await shop.clock.advance(0)
        before = await stand(engine)
    for _ in range(2):
        async with shop.open(whole=False) as engine:
            status, reason = await stand(engine)
            assert status == "suspended"
            assert reason.startswith(GONE)
            assert await engine.counts() == {"flow": {"suspended": 1}}
    async with shop.open() as engine:
        await shop.clock.advance(0)
        assert await stand(engine) == before
        assert shop.did == ["r"]
        if data == "signal":
            await engine.signal("r", "go", "went")
        elif data == "gate":
            await engine.resume("r")
        await shop.clock.advance("10d")
        assert (await engine.get_run("r")).output == ("went" if data == "signal" else "done")


async def test_a_delayed_start_is_suspended_at_open_and_begins_in_time(db: Path) -> None:
    shop = Shop(db)
    async with shop.open() as engine:
        await engine.start("flow", "", run_id="r", delay="10d")
    async with shop.open(whole=False) as engine:
        assert (await stand(engine))[0] == "suspended"
        await shop.clock.advance("1d")
    async with shop.open() as engine:
        await shop.clock.advance("8d")
        assert await stand(engine) == ("running", "None")
        assert shop.did == []
        await shop.clock.advance("1d")
        assert (await engine.get_run("r")).output == "done"


async def test_what_comes_meanwhile_is_kept(db: Path) -> None:
    """I5: a signal is taken, a time that passes is past, a cancel ends the run."""
    shop = Shop(db)
    async with shop.open() as engine:
        for run_id, data in (("s", "signal"), ("t", "sleep"), ("c", "sleep")):
            await engine.start("flow", data, run_id=run_id)
        await shop.clock.advance(0)
    async with shop.open(whole=False) as engine:
        await engine.signal("s", "go", "kept")
        await engine.cancel("c", "no")
        assert await stand(engine, "c") == ("cancelled", "no")
        await engine.resume("t")
        assert (await stand(engine, "t"))[1].startswith(GONE)
        await shop.clock.advance("11d")
        assert (await stand(engine, "t"))[1].startswith(GONE)
    async with shop.open() as engine:
        await shop.clock.advance(0)
        assert [(await engine.get_run(run_id)).output for run_id in "st"] == ["kept", "done"]


async def test_who_speaks_to_a_run_before_it_is_seen_to_brings_it_back(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many runs whose workflow is there again the last go on some time after `open`; a decision comes before."""
    shop = Shop(db)
    async with shop.open() as engine:
        for run_id, data in (("a", "approval"), ("b", "approval"), ("s", "signal"), ("g", "gate"), ("c", "sleep")):
            await engine.start("flow", data, run_id=run_id)
        await shop.clock.advance(0)
    async with shop.open(whole=False) as engine:
        assert await engine.counts() == {"flow": {"suspended": 5}}
        with pytest.raises(RunStateError, match="no workflow named 'flow'"):
            await engine.approve("a", "ok", True)

    async def see_to_nothing(*_: object) -> None:
        """They are the last of very many."""

    monkeypatch.setattr(engine_module, "see_to_missing", see_to_nothing)
    async with shop.open() as engine:
        assert await engine.counts() == {"flow": {"suspended": 5}}
        with pytest.raises(PayloadError):
            await engine.signal("b", "ok", "perhaps")
        await engine.approve("a", "ok", True)
        await engine.signal("s", "go", "went")
        await engine.resume("g")
        await engine.cancel("c", "no")
        await shop.clock.advance(0)
        assert [await stand(engine, run_id) for run_id in "asgc"] == [
            ("completed", "None"),
            ("completed", "None"),
            ("suspended", "look at it"),
            ("cancelled", "no"),
        ]
        assert await stand(engine, "b") == ("running", "None")


async def test_runs_that_have_their_workflow_are_left_alone(db: Path) -> None:
    """Nothing of them is written or read when another workflow is gone."""
    shop = Shop(db)
    async with shop.open() as engine:
        await engine.start("flow", "sleep", run_id="r")
        await shop.clock.advance(0)
        before = await engine.get_run("r")
    pikku = Pikku()

    @pikku.workflow
    async def other(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    pikku.workflow(name="flow")(shop._flow)
    async with pikku.open(db, clock=shop.clock, **IN_FILE) as engine:
        await engine.start(other, run_id="o")
        await shop.clock.advance(0)
    async with shop.open() as engine:
        assert await engine.get_run("r") == before
        assert (await stand(engine, "o"))[0] == "suspended"


async def test_many_do_not_hold_up_open_and_none_is_forgotten(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few before `open` returns, the others while the engine works; who leaves meanwhile goes on at the next open."""
    monkeypatch.setattr(missing, "AT_ONCE", 300)
    shop = Shop(db)
    ids = [f"r{number}" for number in range(1_200)]
    async with shop.open() as engine:
        for run_id in ids:
            await engine.start("flow", "sleep", run_id=run_id)
        await shop.clock.advance(0)
    async with shop.open(whole=False) as engine:
        found = await engine.counts()
        assert 300 <= found["flow"]["suspended"] < 1_200
    async with shop.open(whole=False) as engine:
        await shop.clock.advance(0)
        assert await engine.counts() == {"flow": {"suspended": 1_200}}
    async with shop.open() as engine:
        assert 300 <= (await engine.counts())["flow"]["running"] < 1_200
        await shop.clock.advance(0)
        assert await engine.counts() == {"flow": {"running": 1_200}}
        assert not engine._parts.residents.active  # type: ignore[union-attr]
        await shop.clock.advance("10d")
        assert await engine.counts() == {"flow": {"completed": 1_200}}
    assert sorted(shop.did) == sorted(ids)


async def test_the_end_of_a_child_brings_back_a_parent_that_is_not_yet_seen_to(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: its end finds the parent suspended in the file, and its workflow there again."""
    clock = VirtualClock()

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "child"))

    async def child(workflow: Workflow) -> str:
        await workflow.sleep("nap", "10d")
        return "done"

    def release(*, whole: bool) -> AbstractAsyncContextManager[Engine]:
        pikku = Pikku()
        pikku.workflow(child)
        if whole:
            pikku.workflow(parent)
        return pikku.open(db, clock=clock, **IN_FILE)

    async def see_to_nothing(*_: object) -> None:
        """It is the last of very many."""

    async with release(whole=True) as engine:
        await engine.start("parent", run_id="r")
        await clock.advance(0)
    async with release(whole=False) as engine:
        assert (await stand(engine))[0] == "suspended"
    monkeypatch.setattr(engine_module, "see_to_missing", see_to_nothing)
    async with release(whole=True) as engine:
        await clock.advance("10d")
        assert (await engine.get_run("r")).output == "done"
