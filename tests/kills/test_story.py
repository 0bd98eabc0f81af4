"""The checks of the kill tests see what they are there for: each test makes by hand what an engine never does."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, StepFailed, Workflow
from pikkupy.testing import VirtualClock
from tests.kills.copies import each_change_alone
from tests.kills.facts import Facts
from tests.kills.random_stories import Programs
from tests.kills.story import BEGAN, SETTINGS, Caller, Ledger, Story, mark, repeated, survives
from tests.kills.test_random_stories import Life

OVER = ("succeeds", "fails", "is cancelled")


def repeating(way: str) -> Any:
    """A workflow that leaves the effect of its step anew whenever its body runs."""

    async def body(workflow: Workflow) -> None:
        async def step() -> None:
            if way == "fails":
                raise ConnectionError(way)
            if way == "is cancelled":
                await asyncio.Event().wait()

        with suppress(StepFailed, TimeoutError):
            async with asyncio.timeout(60):
                await workflow.do("step", step)
        workflow.services.effects.append((workflow.run_id, "step", 1))
        await workflow.sleep("nap", "2h")

    return body


@pytest.mark.parametrize("way", OVER)
async def test_a_story_sees_a_recorded_step_that_runs_again(way: str, tmp_path: Path) -> None:
    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("2min")
        await caller.at("3h")

    with pytest.raises(AssertionError, match="has run again"):
        await survives(Story({"flow": repeating(way)}, script, {"r": "completed"}), tmp_path, {})


class Repeating(Programs):
    """As a random program, with nothing that happens from outside."""

    def __init__(self, way: str) -> None:
        super().__init__(0)
        self.program, self.schedule = repeating(way), []


@pytest.mark.parametrize("way", OVER)
async def test_a_random_program_sees_a_recorded_step_that_runs_again(way: str, tmp_path: Path) -> None:
    with each_change_alone():
        first = Life(Repeating(way), tmp_path / "app.db", BEGAN, {})
        await first.live()
        files = [(moment.restore(tmp_path / f"{n}"), moment) for n, moment in enumerate(first.moments)]
        db, moment = next((db, moment) for db, moment in reversed(files) if not Facts(db).runs["r"].over)
        assert Facts(db).steps["r", "step"].over

        with pytest.raises(AssertionError, match="has run again"):
            await Life(Repeating(way), db, moment.state, {}).live()


async def test_only_a_retry_lets_a_failed_step_run_again_and_none_that_had_succeeded(db: Path) -> None:
    """Of the run that is retried, and of those that descend from it."""
    pikku = Pikku()

    @pikku.workflow
    async def parent(workflow: Workflow) -> Any:
        return await workflow.do("part", "child")

    @pikku.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.do("good", mark(workflow))
        await workflow.do("bad", mark(workflow, failures=9))

    clock = VirtualClock()
    async with pikku.open(db, clock=clock, services=Ledger(), **SETTINGS) as engine:
        for run_id in ("a", "b"):
            await engine.start("parent", run_id=run_id)
        await clock.advance(0)
    effects = [(f"{run_id}/part", step, 1) for run_id in ("a", "b") for step in ("good", "bad")]

    assert repeated(effects, Facts(db), set()) == {(run_id, step) for run_id, step, _ in effects}
    assert repeated(effects, Facts(db), {"a"}) == {("a/part", "good"), ("b/part", "good"), ("b/part", "bad")}
    assert repeated(effects, Facts(db), {"a/part", "b"}) == {("a/part", "good"), ("b/part", "good")}
