"""`some_steps` shows what `steps` and `history` show, a part at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, Pikku, RunNotFound, StepFailed, Workflow
from pikkupy.engine.looking import Look
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH

pikku = Pikku()


@pikku.workflow
async def long(workflow: Workflow, count: int) -> None:
    """Steps that succeed, fail and are tried again, and at last a wait."""
    tries: dict[int, int] = {}

    def work(number: int) -> int:
        tries[number] = tries.get(number, 0) + 1
        if number % 10 == 3 or (number % 10 == 7 and tries[number] < 3):
            raise ValueError(str(number))
        return number

    for number in range(count):
        try:
            await workflow.do(f"step {number}", lambda number=number: work(number), retries=2)
        except StepFailed:
            pass
    await workflow.wait_for_signal("go")


async def check(shown: Any, steps: list[Any], attempts: list[Any]) -> None:
    """Every part, and those with errors."""
    for first, limit in ((0, 50), (0, 500), (10, 7), (len(steps) - 1, 50), (len(steps), 50), (1000, 1)):
        page = await shown.some_steps("r", first=first, limit=limit)
        part = steps[first : first + limit]
        assert page.steps == part
        names = {step.name for step in part}
        assert page.attempts == [one for one in attempts if one.step_name in names]
        assert page.in_all == len(steps)
    wrong = [step for step in steps if step.error is not None]
    page = await shown.some_steps("r", first=1, limit=2, with_errors=True)
    assert (page.steps, page.in_all) == (wrong[1:3], len(wrong))
    assert {one.step_name for one in page.attempts} == {step.name for step in wrong[1:3]}


@pytest.mark.parametrize("settings", BOTH)
async def test_parts_make_the_whole(db: Path, settings: dict[str, Any]) -> None:
    """Of a run in memory or in the file, by the engine, a client, and who looks at the file."""
    clock = VirtualClock()
    async with pikku.open(db, clock=clock, **settings) as engine, pikku.connect(db) as client:
        await engine.start(long, 40, run_id="r")
        await clock.advance(0)
        steps, attempts = await engine.steps("r"), await engine.history("r")
        assert (len(steps), steps[-1].kind, len(attempts)) == (41, "signal", 28 + 4 * 3 + 4 * 3 + 4)
        await check(engine, steps, attempts)
        await check(client, steps, attempts)
    async with Look(db) as look:
        await check(look, await look.steps("r"), await look.history("r"))


async def test_a_step_that_has_just_begun_is_among_them() -> None:
    """It is in memory alone."""
    begun = Pikku()

    @begun.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("look", look)

    async def look() -> None:
        page = await engine.some_steps("r")
        assert [(step.name, step.status) for step in page.steps] == [("look", "running")]
        assert page.in_all == 1
        assert (await engine.some_steps("r", first=1)).steps == []

    engine: Engine
    async with begun.open(":memory:") as engine:
        await engine.run(flow, run_id="r")


@pytest.mark.parametrize("wrong", [{"first": -1}, {"first": True}, {"first": 1 << 26}, {"limit": 0}, {"limit": 501}])
async def test_a_number_that_there_cannot_be_is_said(wrong: dict[str, Any]) -> None:
    async with pikku.open(":memory:") as engine:
        await engine.start(long, 0, run_id="r")
        with pytest.raises(ValueError, match=next(iter(wrong))):
            await engine.some_steps("r", **wrong)
        with pytest.raises(RunNotFound):
            await engine.some_steps("nothing")
