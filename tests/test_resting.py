"""I13: a run that only waits leaves memory, whatever brought it there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest

from pikkupy import Engine, PayloadError, Pikku, Workflow
from pikkupy.engine import residents
from pikkupy.engine.host import in_callback
from pikkupy.engine.waker import CHUNK
from pikkupy.testing import VirtualClock
from tests.contract.waiting import IN_THE_FILE


async def child(workflow: Workflow) -> None:
    await workflow.wait_for_signal("never")


async def plain(workflow: Workflow) -> Any:
    return await workflow.wait_for_signal("go")


async def beside_a_step(workflow: Workflow) -> Any:
    """Its step ends when the sleep waits already, and brings nothing new."""
    return await asyncio.gather(workflow.sleep("nap", "1d"), workflow.do("step", lambda: asyncio.sleep(0)))


async def beside_a_child(workflow: Workflow) -> Any:
    return await asyncio.gather(workflow.do("part", "child"), workflow.do("step", lambda: asyncio.sleep(0)))


async def two_signals(workflow: Workflow) -> Any:
    return await asyncio.gather(workflow.wait_for_signal("go"), workflow.wait_for_signal("later"))


async def two_sleeps(workflow: Workflow) -> Any:
    return await asyncio.gather(workflow.sleep("short", "1h"), workflow.sleep("long", "1d"))


async def two_timers(workflow: Workflow) -> Any:
    return await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(86_400))


async def a_timer_beside_a_signal(workflow: Workflow) -> Any:
    return await asyncio.gather(asyncio.sleep(3600), workflow.wait_for_signal("go"))


async def gate_beside_a_sleep(workflow: Workflow) -> Any:
    return await asyncio.gather(workflow.suspend("gate"), workflow.sleep("long", "1d"))


async def impatient(workflow: Workflow) -> Any:
    async def branch() -> None:
        try:
            await workflow.wait_for_signal("go", timeout="1h")
        except Exception:
            pass

    return await asyncio.gather(branch(), workflow.sleep("long", "1d"))


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


async def it_is_told(engine: Engine, clock: VirtualClock) -> None:
    await engine.signal("r", "go", 1)


async def it_is_told_something_else(engine: Engine, clock: VirtualClock) -> None:
    await engine.signal("r", "other", 1)


async def it_is_resumed(engine: Engine, clock: VirtualClock) -> None:
    await engine.resume("r")


async def it_is_told_nonsense(engine: Engine, clock: VirtualClock) -> None:
    with pytest.raises(PayloadError):
        await engine.signal("r", "go", "nonsense")


CASES: list[tuple[Any, Act]] = [
    (plain, nothing),
    (plain, it_is_told_something_else),
    (beside_a_step, nothing),
    (beside_a_child, nothing),
    (two_signals, it_is_told),
    (two_sleeps, an_hour_passes),
    (two_timers, an_hour_passes),
    (a_timer_beside_a_signal, an_hour_passes),
    (gate_beside_a_sleep, nothing),
    (gate_beside_a_sleep, it_is_resumed),
    (impatient, an_hour_passes),
    (impatient, it_is_told),
    (dropped, an_hour_passes),
    (approving, it_is_told_nonsense),
]


@pytest.mark.parametrize(("body", "act"), CASES, ids=lambda one: one.__name__)
async def test_a_run_that_waits_leaves_memory(body: Any, act: Act) -> None:
    """I13: also if what it was in memory for brings nothing new to do."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    pikku.workflow(name="child")(child)
    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
        await act(engine, clock)
        await clock.advance(0)

        assert engine._parts is not None
        assert set(engine._parts.residents.active) == set()
        assert (await engine.get_run("r")).status in ("running", "suspended")


async def test_a_run_can_be_cancelled_in_the_moment_in_which_it_leaves_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5, I8: who has found it in memory cancels it in the file."""
    pikku, clock, done = Pikku(), VirtualClock(), asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", done.wait)
        await workflow.sleep("long", "1d")

    async def when_it_has_left(loop: asyncio.AbstractEventLoop, act: Callable[[], Any]) -> Any:
        done.set()
        assert engine._parts is not None
        while engine._parts.residents.active:
            await asyncio.sleep(0)
        return await in_callback(loop, act)

    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        run = await engine.start(flow, run_id="r")
        with monkeypatch.context() as patch:
            patch.setattr(residents, "in_callback", when_it_has_left)
            async with asyncio.timeout(10):
                await run.cancel("enough")

        assert [(step.name, step.status) for step in await engine.steps("r")] == [
            ("step", "succeeded"),
            ("long", "cancelled"),
        ]
        assert await run.status() == "cancelled"


async def test_many_runs_that_are_due_at_one_moment_do_not_fill_the_memory_before_it() -> None:
    """Those that there is room for come a little earlier, the others once they are due, and none is late."""
    pikku, clock, woken = Pikku(), VirtualClock(), list[Any]()

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")
        woken.append(clock.now())
        await workflow.wait_for_signal("go")

    async with pikku.open(":memory:", clock=clock, resident_runs=50) as engine:
        assert engine._parts is not None
        active = engine._parts.residents.active
        due = clock.now() + timedelta(hours=1)
        await asyncio.gather(*(engine.start(sleeper) for _ in range(1_500)))
        await clock.advance("59min")
        assert len(active) <= 50
        for _ in range(59):
            await clock.advance("1s")
            assert len(active) <= 50 + CHUNK
        assert len(active) > 50
        await clock.advance("1s")
        assert len(woken) == 1_500
        assert max(woken) - due <= timedelta(seconds=1)
        await clock.advance("1s")
        assert len(active) <= 50
