"""I13: a run that only waits leaves memory, whatever brought it there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from pikkupy import Engine, PayloadError, Pikku, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import IN_THE_FILE


async def plain(workflow: Workflow) -> Any:
    return await workflow.wait_for_signal("go")


async def gate_beside_a_sleep(workflow: Workflow) -> Any:
    return await asyncio.gather(workflow.suspend("gate"), workflow.sleep("long", "1d"))


async def dropped(workflow: Workflow) -> Any:
    async def branch() -> None:
        try:
            async with asyncio.timeout(3600):
                await workflow.wait_for_signal("go")
        except TimeoutError:
            pass

    return await asyncio.gather(branch(), workflow.sleep("long", "1d"))


async def approving(workflow: Workflow) -> Any:
    return await workflow.approval("go", int)


Act = Callable[[Engine, VirtualClock], Awaitable[None]]


async def nothing(engine: Engine, clock: VirtualClock) -> None: ...


async def an_hour_passes(engine: Engine, clock: VirtualClock) -> None:
    await clock.advance("1h")


async def it_is_told_nonsense(engine: Engine, clock: VirtualClock) -> None:
    with pytest.raises(PayloadError):
        await engine.signal("r", "go", "nonsense")


CASES: list[tuple[Any, Act]] = [
    (plain, nothing),
    (gate_beside_a_sleep, nothing),
    (dropped, an_hour_passes),
    (approving, it_is_told_nonsense),
]


@pytest.mark.parametrize(("body", "act"), CASES, ids=lambda one: one.__name__)
async def test_a_run_that_waits_leaves_memory(body: Any, act: Act) -> None:
    """I13: also if what it was in memory for brings nothing new to do."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
        await act(engine, clock)
        await clock.advance(0)

        assert engine._parts is not None
        assert set(engine._parts.residents.active) == set()
        assert (await engine.get_run("r")).status in ("running", "suspended")
