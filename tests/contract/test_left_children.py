"""Child runs that nobody waits for: they end, whatever was killed in between, unless they were retried alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pikkupy import StepFailed, Workflow
from pikkupy.core.machine import RUN, RunEvent, advance
from pikkupy.core.model import RunMove, RunStatus
from pikkupy.moments import moment
from pikkupy.store import Journal
from pikkupy.testing import VirtualClock
from tests.contract.test_again import each_way, numbers
from tests.contract.test_changed_code import stand, still
from tests.kills.copies import each_commit


async def child(workflow: Workflow) -> None:
    await workflow.wait_for_signal("go")


async def times_out(workflow: Workflow) -> None:
    with pytest.raises(StepFailed):
        await workflow.do("part", "child", timeout="1h")
    await workflow.wait_for_signal("on")


async def drops_a_branch(workflow: Workflow) -> None:
    try:
        async with asyncio.timeout(3600):
            await workflow.do("part", "child")
    except TimeoutError:
        await workflow.wait_for_signal("on")


async def returns(workflow: Workflow) -> None:
    workflow.do("part", "child")
    await workflow.sleep("nap", "1h")


@each_way
@pytest.mark.parametrize("parent", [times_out, drops_a_branch, returns])
async def test_a_kill_leaves_no_child_that_nobody_waits_for(
    parent: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    """C33, C34, C61: the next start-up sees it, also if the parent goes on."""
    app = still(tmp_path / "app.db", settings)
    async with app.open(parent, child=child) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance("30min")
    with each_commit(tmp_path / "app.db", app.clock.now_us) as copies:
        async with app.open(parent, child=child) as engine:
            await app.clock.advance("30min")
            assert (await stand(engine, "r/part"))[0] == "cancelled"

    for db, now_us in copies.restored(tmp_path):
        again = still(db, settings)
        again.clock = VirtualClock(moment(now_us))
        async with again.open(parent, child=child) as engine:
            await again.clock.advance("30min")
            assert (await stand(engine, "r/part"))[0] == "cancelled"
            assert {step.status for step in await engine.steps("r/part")} <= {"cancelled"}
            assert (await stand(engine))[0] == ("completed" if parent is returns else "running")


async def test_a_child_that_changed_after_its_parent_had_ended_is_cancelled(db: Path, tmp_path: Path) -> None:
    """Times tell nothing: it may have been suspended between its parent's end and its own."""
    app = still(db, {"resident_runs": 0, "unload_after": 0})
    with each_commit(db, lambda: None) as copies:
        async with app.open(returns, child=child) as engine:
            await engine.start("flow", run_id="r")
            await app.clock.advance("1h")

    left = 0
    for copy, _ in copies.restored(tmp_path):
        journal = await Journal.open(str(copy), durability="process", now_us=0)
        parent, part = await journal.run("r"), await journal.run("r/part")
        between = parent and part and parent.status == "completed" and part.status == "running"
        if between and part:
            status, later = advance(RUN, RunStatus.RUNNING, RunEvent.SUSPEND), app.clock.now_us() + 1
            move = RunMove(number=part.number, before=RunStatus.RUNNING, status=status, reason="gate", at=later)
            await journal.commit([move])
            left += 1
        await journal.close(clean=False)
        if between:
            async with still(copy, {}).open(returns, child=child) as engine:
                assert (await stand(engine, "r/part"))[0] == "cancelled"
    assert left > 0


@each_way
@pytest.mark.parametrize("parent_ends", [True, False])
async def test_a_child_that_was_retried_by_itself_goes_on(
    parent_ends: bool, settings: dict[str, Any], db: Path
) -> None:
    """Whatever its parent has come to, over restarts; retried along with it later, it belongs to it again."""
    app = still(db, settings)

    async def part(workflow: Workflow) -> str:
        await workflow.do("bad", app.step("bad"))
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("worse", app.step("worse")))

    async def parent(workflow: Workflow) -> str:
        if parent_ends:
            return str(await workflow.do("part", "part"))
        with pytest.raises(StepFailed):
            await workflow.do("part", "part")
        return str(await workflow.wait_for_signal("on"))

    app.broken = {"bad"}
    async with app.open(parent, part=part) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
        assert (await stand(engine))[0] == ("failed" if parent_ends else "running")
        app.broken = {"worse"}
        await engine.retry("r/part")
    async with app.open(parent, part=part) as engine:
        await app.clock.advance(0)
        assert (await stand(engine, "r/part"))[0] == "running"
    async with app.open(parent, part=part) as engine:
        await app.clock.advance("1h")
        assert (await stand(engine, "r/part"))[0] == "failed"
        app.broken.clear()
        await engine.retry("r" if parent_ends else "r/part")
        await app.clock.advance(0)
        assert (await stand(engine, "r/part"))[0] == "completed"
        assert (await stand(engine))[0] == ("completed" if parent_ends else "running")


@each_way
async def test_each_attempt_of_a_child_that_is_retried_shows_once(settings: dict[str, Any], db: Path) -> None:
    """C143, I6: the same child run is the next attempt of its step, which gets its retries anew."""
    app = still(db, settings)

    async def part(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("bad", app.step("bad")))

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "part", retries=1))

    app.broken = {"bad"}
    async with app.open(parent, part=part) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance("1h")
        await app.clock.advance("1h")
        assert (await stand(engine))[0] == "failed"
        await engine.retry("r")
        await app.clock.advance("30min")
    async with app.open(parent, part=part) as engine:
        app.broken.clear()
        await app.clock.advance("30min")
        assert (await stand(engine))[0] == "completed"
        assert numbers(await engine.history("r")) == [
            ("part", 1, "failed"),
            ("part", 2, "failed"),
            ("part", 3, "failed"),
            ("part", 4, "succeeded"),
        ]
        (step,) = await engine.steps("r")
        assert (step.attempts, step.child_run_id) == (4, "r/part#4")
        runs = {run.id: str(run.status) for run in (await engine.list_runs(workflow="part")).runs}
        assert runs == {"r/part": "failed", "r/part#2": "failed", "r/part#4": "completed"}


async def test_the_only_attempt_of_a_child_that_is_retried_shows_as_failed(db: Path) -> None:
    """As that of any other step that is retried does."""
    app = still(db, {})

    async def part(workflow: Workflow) -> str:
        return str(await workflow.do("bad", app.step("bad")))

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "part"))

    app.broken = {"bad"}
    async with app.open(parent, part=part) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
        app.broken.clear()
        await engine.retry("r")
        await app.clock.advance(0)
        assert numbers(await engine.history("r")) == [("part", 1, "failed"), ("part", 2, "succeeded")]
        assert len((await engine.list_runs()).runs) == 2
