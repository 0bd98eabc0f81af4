"""Timers that others had by the wrong clock, lost, or let race."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, RunCancelled, RunFailed, RunStateError, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


@each_way
async def test_09_a_sleep_goes_by_the_clock_of_the_engine(settings: dict[str, Any], db: Path) -> None:
    """Absurd (2248c04): a sleep was scheduled by the client's clock, not the store's. Here there is one clock; seen
    would be a deadline by the time of the process, which is decades away, or by the time of the caller."""
    pikku = Pikku()
    clock = VirtualClock(start=datetime(2051, 1, 1, tzinfo=UTC))

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[datetime]:
        before = workflow.now()
        await workflow.sleep("nap", "1h")
        return [before, workflow.now()]

    async with pikku.open(db, clock=clock, **settings) as engine:
        began = clock.now()
        run = await engine.start(flow, run_id="r")
        await clock.advance("59min")
        (nap,) = await engine.steps("r")
        assert (nap.wake_at, nap.status) == (began + timedelta(hours=1), "scheduled")
        await clock.advance("1min")
        assert await run.result() == [began, began + timedelta(hours=1)]


@each_way
@pytest.mark.parametrize("turns", range(12))
async def test_09_a_cancel_beside_a_failure_gives_one_end(turns: int, settings: dict[str, Any], db: Path) -> None:
    """Absurd (4aec33e): a task that was cancelled while it failed had either end, by chance, or both. Here the cancel
    comes so many turns of the loop after the failure; seen would be an end that changes, or is told otherwise."""
    pikku, fails = Pikku(), asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            await fails.wait()
            raise ValueError("no")

        await workflow.do("step", body)

    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        run = await engine.start(flow, run_id="r")
        waiting = asyncio.gather(run.result(), return_exceptions=True)
        fails.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        try:
            await run.cancel("enough")
            expected: type[Exception] = RunCancelled
        except RunStateError:
            expected = RunFailed
        (told,) = await waiting
        status = await run.status()
    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        assert await (await engine.handle("r")).status() == status
        with pytest.raises(expected):
            await (await engine.handle("r")).result()

    assert type(told) is expected


@each_way
async def test_10_timers_and_signals_wait_for_code_that_is_not_there(settings: dict[str, Any], db: Path) -> None:
    """Edda (2aea2aa): due timers were consumed although the workflow was not registered, and the event was lost. Seen
    would be a run that never goes on after its code is back, or a signal that is gone."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return await workflow.wait_for_signal("go", str)

    async with pikku.open(db, clock=clock, **settings) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
    async with Pikku().open(db, clock=clock, **settings) as engine:
        await clock.advance("2h")
        await engine.signal("r", "go", "on")
        assert (await engine.get_run("r")).status == "suspended"
    async with pikku.open(db, clock=clock, **settings) as engine:
        await clock.advance(0)
        assert await (await engine.handle("r")).result() == "on"
