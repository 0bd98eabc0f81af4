"""What counts as an attempt of a step that is `at_most_once`: one whose body has begun, and no other (promise 2)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, Pikku, Workflow, current_step
from pikkupy.core.model import Change, StepRow, StepStatus
from pikkupy.store import Done, Journal
from pikkupy.testing import VirtualClock
from tests.test_crash import crashed_copy

WRITERS = [{}, {"durability": "process", "database_thread": False}]
each_writer = pytest.mark.parametrize("settings", WRITERS, ids=["thread", "loop"])


class Flow:
    """Steps of a workflow: `once` may have to wait for `hold`, which keeps the only slot of the workers on the loop."""

    def __init__(self, failures: int = 0) -> None:
        self.pikku = Pikku()
        self.holds = True
        self.held = asyncio.Event()
        self.begun: list[int] = []
        self._failures = failures

    async def hold(self) -> None:
        self.held.set()
        if self.holds:
            await asyncio.Event().wait()

    async def once(self) -> str:
        step = current_step()
        assert step is not None
        self.begun.append(step.attempt_count)
        if len(self.begun) <= self._failures:
            raise OSError("not yet")
        return "done"

    async def end(self, db: Path, **settings: Any) -> list[tuple[int, str]]:
        """Let the run come to its end: the attempts of `once` as its history has them."""
        self.holds = False
        async with self.pikku.open(db, **settings) as engine:
            assert await asyncio.wait_for((await engine.handle("r")).result(), 5) == "done"
            return [(one.attempt, one.status) for one in await engine.history("r") if one.step_name == "once"]


async def is_in_the_file(engine: Engine, status: StepStatus, name: str = "once") -> None:
    """Return when the step has that status there."""
    async with asyncio.timeout(5):
        while not any(one.name == name and one.status is status for one in await engine._use().host.journal.steps(1)):
            await asyncio.sleep(0)


async def left(db: Path) -> list[tuple[StepStatus, int]]:
    """What the file has of `once` while nobody works on it: its status, and how many attempts have begun."""
    journal = await Journal.open(str(db), durability="full", now_us=0)
    try:
        return [(step.status, step.attempts) for step in await journal.steps(1) if step.name == "once"]
    finally:
        await journal.close()


@each_writer
@pytest.mark.parametrize("failures", [0, 1], ids=["first attempt", "second attempt"])
async def test_an_attempt_that_waits_for_a_slot_when_the_engine_is_left_begins_at_the_next_open(
    failures: int, settings: dict[str, Any], db: Path
) -> None:
    """It had no effect that could be in doubt, so no attempt is used up and none is in the history."""
    flow = Flow(failures)

    @flow.pikku.workflow
    async def work(workflow: Workflow) -> str:
        if not failures:
            held = asyncio.ensure_future(workflow.do("hold", flow.hold))
        once = asyncio.ensure_future(workflow.do("once", flow.once, at_most_once=True, retries=1, retry_delay="1h"))
        if failures:
            await asyncio.sleep(60)
            held = asyncio.ensure_future(workflow.do("hold", flow.hold))
        await held
        return await once

    clock = VirtualClock()
    async with flow.pikku.open(db, clock=clock, async_workers=1, shutdown_grace=0, **settings) as engine:
        await engine.start(work, run_id="r")
        await clock.advance("1m")
        await flow.held.wait()
        await clock.advance("2h" if failures else 0)
        await is_in_the_file(engine, StepStatus.RUNNING)
    assert await left(db) == [(StepStatus.PENDING, failures)]
    came = await flow.end(db, **settings)

    assert flow.begun == [1, 2][: failures + 1]
    assert came == [(1, "failed"), (2, "succeeded")] if failures else came == [(1, "succeeded")]


async def test_an_engine_that_is_left_while_the_start_is_written_takes_no_attempt(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start is on disk then, and its body does not begin any more."""
    flow, engine, leaving = Flow(), Pikku().open(db), list[asyncio.Task[object]]()
    submit = Journal.submit

    def leave_at_the_start(journal: Journal, changes: Sequence[Change], done: Done) -> None:
        starts = any(isinstance(change, StepRow) and change.status is StepStatus.RUNNING for change in changes)
        if starts and not leaving:
            leaving.append(asyncio.ensure_future(engine.__aexit__(None, None, None)))
        submit(journal, changes, done)

    @flow.pikku.workflow
    async def work(workflow: Workflow) -> str:
        return await workflow.do("once", flow.once, at_most_once=True)

    monkeypatch.setattr(Journal, "submit", leave_at_the_start)
    engine = flow.pikku.open(db)
    await engine.__aenter__()
    await engine.start(work, run_id="r")
    async with asyncio.timeout(5):
        while not leaving:
            await asyncio.sleep(0)
        await leaving[0]

    assert flow.begun == []
    assert await left(db) == [(StepStatus.PENDING, 0)]
    assert await flow.end(db) == [(1, "succeeded")]
    assert flow.begun == [1]


async def test_a_run_that_the_engine_suspends_keeps_the_attempt_that_waits_for_a_slot(db: Path) -> None:
    """Here because its child workflow is gone when the next attempt of that is due; the third life has it again."""
    flow, clock, children = Flow(), VirtualClock(), list[str]()
    without_child = Pikku()

    async def work(workflow: Workflow) -> str:
        child = asyncio.ensure_future(workflow.do("child", "child", retries=1, retry_delay="1h"))
        held = asyncio.ensure_future(workflow.do("hold", flow.hold))
        once = asyncio.ensure_future(workflow.do("once", flow.once, at_most_once=True))
        await child
        await held
        return await once

    async def child(workflow: Workflow) -> None:
        children.append(workflow.run_id)
        if len(children) == 1:
            raise OSError("not yet")

    without_child.workflow(work)
    flow.pikku.workflow(work)
    flow.pikku.workflow(child)
    for pikku in (flow.pikku, without_child):
        async with pikku.open(db, clock=clock, async_workers=1, shutdown_grace=0) as engine:
            await engine.start("work", run_id="r")
            await clock.advance("1m" if pikku is flow.pikku else "2h")
            status = (await engine.get_run("r")).status

    assert (status, flow.begun) == ("suspended", [])
    assert await flow.end(db, clock=clock) == [(1, "succeeded")]
    assert flow.begun == [1]


async def test_an_attempt_that_a_crash_cut_off_does_not_begin_again_after_code_that_did_not_fit(
    db: Path, tmp_path: Path
) -> None:
    """The second life suspends the run before it looks at the step: that the attempt had begun stays in the file."""
    flow, changed = Flow(), Pikku()
    flow.holds = False

    def work_with(other: str) -> Any:
        async def work(workflow: Workflow) -> list[str]:
            steps = [workflow.do("once", once, at_most_once=True), workflow.do(other, flow.hold)]
            return [repr(one) for one in await asyncio.gather(*steps, return_exceptions=True)]

        return work

    async def once() -> None:
        flow.begun.append(1)
        await asyncio.Event().wait()

    flow.pikku.workflow(name="work")(work_with("hold"))
    changed.workflow(name="work")(work_with("changed"))
    async with flow.pikku.open(db, shutdown_grace=0, cancel_grace=0) as engine:
        await engine.start("work", run_id="r")
        await is_in_the_file(engine, StepStatus.RUNNING)
        await is_in_the_file(engine, StepStatus.SUCCEEDED, "hold")
        crashed = crashed_copy(db, tmp_path / "crashed")
    async with changed.open(crashed) as engine:
        assert (await engine.get_run("r")).status == "suspended"
    async with flow.pikku.open(crashed) as engine:
        found = await asyncio.wait_for((await engine.handle("r")).result(), 5)

    assert flow.begun == [1]
    assert "Interrupted" in found[0]
