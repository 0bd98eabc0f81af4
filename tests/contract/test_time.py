"""`VirtualClock`: what has happened when `advance` returns, and when the clock jumps."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, Services, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH


def napper() -> Pikku:
    """A workflow that sleeps for some hours, and says when it woke."""
    pikku = Pikku()

    @pikku.workflow
    async def nap(workflow: Workflow, data: int) -> datetime:
        await workflow.sleep("nap", f"{data}h")
        return workflow.now()

    return pikku


async def test_the_clock_begins_where_it_is_told() -> None:
    """C155: aware datetimes in UTC; default 2030-01-01."""
    assert VirtualClock().now() == datetime(2030, 1, 1, tzinfo=UTC)
    start = datetime(2020, 2, 29, 12, tzinfo=timezone(timedelta(hours=2)))
    assert VirtualClock(start).now() == start
    assert VirtualClock(start=start).now().utcoffset() == timedelta(0)


@pytest.mark.parametrize("start", [datetime(2030, 1, 1), "2030-01-01", 5, datetime(2030, 1, 1).date()])
def test_a_start_that_is_not_aware_is_refused(start: Any) -> None:
    """C155: at once, and the message says what is wanted."""
    with pytest.raises((ValueError, TypeError), match="aware"):
        VirtualClock(start)


async def test_a_clock_of_long_ago_works() -> None:
    """C155: before 1970, too."""
    clock = VirtualClock(datetime(1900, 1, 1, tzinfo=UTC), autojump=True)
    async with napper().open(":memory:", clock=clock) as engine:
        assert await asyncio.wait_for(engine.run("nap", 1), 5) == datetime(1900, 1, 1, 1, tzinfo=UTC)


async def test_what_became_due_has_happened_when_advance_returns() -> None:
    """C156: on every kind of worker that needs no real waiting; timers set meanwhile count from the new time."""
    pikku = Pikku()

    @pikku.function
    async def in_async(services: Services) -> int:
        await asyncio.sleep(0)
        return 1

    @pikku.function
    def on_thread(services: Services) -> int:
        return 2

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        await workflow.sleep("one", "1h")
        both = await asyncio.gather(workflow.do("a", in_async), workflow.do("t", on_thread))
        await workflow.sleep("two", "1h")
        return [*both, workflow.now()]

    clock = VirtualClock()
    begun = clock.now()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance("5h")
        assert [step.status for step in await engine.steps(handle.id)] == ["succeeded"] * 3 + ["scheduled"]
        await clock.advance("1h")
        assert await handle.result(timeout=0) == [1, 2, begun + timedelta(hours=6)]


async def test_a_timer_never_fires_early() -> None:
    """Promise 4: not a microsecond."""
    clock = VirtualClock()
    async with napper().open(":memory:", clock=clock) as engine:
        handle = await engine.start("nap", 1)
        await clock.advance(timedelta(hours=1, microseconds=-1))
        assert await handle.status() == "running"
        await clock.advance(timedelta(microseconds=1))
        assert await handle.status() == "completed"


async def test_timers_fire_in_the_order_in_which_they_are_due() -> None:
    """Promise 4: in one advance, over runs."""
    pikku = Pikku()
    order: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow, data: int) -> None:
        await workflow.sleep("nap", f"{data}min")
        await workflow.do("note", lambda: order.append(data))

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        for minutes in (5, 1, 9, 3):
            await engine.start(flow, minutes)
        await clock.advance("1h")

    assert order == [1, 3, 5, 9]


async def test_timers_that_are_due_together_fire_in_the_order_in_which_they_were_set() -> None:
    """Over runs, and beside others."""
    pikku = Pikku()
    order: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow, data: tuple[str, int]) -> None:
        await workflow.sleep("nap", f"{data[1]}min")
        await workflow.do("note", lambda: order.append(data[0]))

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        for name, minutes in (("a", 5), ("b", 1), ("c", 5), ("d", 1), ("e", 5), ("f", 1)):
            await engine.start(flow, (name, minutes))
        await clock.advance("1h")

    assert "".join(order) == "bdface"


@pytest.mark.parametrize("settings", BOTH, ids=["memory", "file"])
async def test_a_timer_of_a_run_that_has_ended_wakes_nothing(settings: dict[str, Any], db: Path) -> None:
    """I-25: neither a sleep, nor a timer of its own loop, nor a delay between attempts, nor a deadline: rows stay."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await asyncio.gather(
            workflow.sleep("nap", "1h"),
            workflow.wait_for_signal("late", timeout="1h"),
            workflow.do("again", lambda: {}["key"], retries=1, retry_delay="1h"),
            asyncio.sleep(3_600),
        )

    def rows() -> list[str]:
        with closing(sqlite3.connect(db)) as connection:
            return [line for line in connection.iterdump() if "pikkupy_journal" not in line]

    clock = VirtualClock()
    async with pikku.open(db, clock=clock, **settings) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance("1s")
        await engine.cancel("r", "enough")
        ended = rows()
        await clock.advance("2h")

        assert rows() == ended
    async with pikku.open(db, clock=clock, **settings):
        await clock.advance("2h")
    assert rows() == ended


async def test_the_clock_does_not_jump_while_an_attempt_runs() -> None:
    """C157: anywhere; and without timers it stands."""
    pikku = napper()
    gate = asyncio.Event()

    @pikku.workflow
    async def busy(workflow: Workflow) -> None:
        await workflow.do("busy", gate.wait)

    clock = VirtualClock(autojump=True)
    begun = clock.now()
    async with pikku.open(":memory:", clock=clock) as engine:
        working = await engine.start(busy)
        napping = await engine.start("nap", 1)
        for _ in range(50):
            await asyncio.sleep(0.001)
        assert clock.now() == begun
        gate.set()
        await asyncio.wait_for(napping.result(), 5)
        await working.result()
        await asyncio.sleep(0.01)
        assert clock.now() == begun + timedelta(hours=1)


async def test_one_clock_for_two_engines() -> None:
    """C158: each hears of an advance, and with autojump neither oversleeps."""
    clock = VirtualClock()
    begun = clock.now()
    async with napper().open(":memory:", clock=clock) as one, napper().open(":memory:", clock=clock) as two:
        handles = [await one.start("nap", 1), await two.start("nap", 1)]
        await clock.advance("1h")
        assert [await handle.result(timeout=0) for handle in handles] == [begun + timedelta(hours=1)] * 2

    clock = VirtualClock(autojump=True)
    async with napper().open(":memory:", clock=clock) as one, napper().open(":memory:", clock=clock) as two:
        waits = asyncio.gather(one.run("nap", 5), two.run("nap", 3))
        assert await asyncio.wait_for(waits, 5) == [begun + timedelta(hours=5), begun + timedelta(hours=3)]


async def test_one_clock_for_two_lives(db: Path) -> None:
    """C158, promise 4: what became due between them fires once, at start-up."""
    clock = VirtualClock()
    begun = clock.now()
    async with napper().open(db, clock=clock) as engine:
        await engine.start("nap", 1, run_id="r")
        await clock.advance("30min")
    await clock.advance("1d")
    async with napper().open(db, clock=clock) as engine:
        await clock.advance(0)
        assert (await engine.get_run("r")).output == begun + timedelta(days=1, minutes=30)


async def test_the_drain_takes_real_time(db: Path) -> None:
    """C159: the grace time passes although the virtual clock stands."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("long", lambda: asyncio.Event().wait())

    async with asyncio.timeout(5):
        clock = VirtualClock()
        async with pikku.open(db, clock=clock, shutdown_grace="20ms") as engine:
            await engine.start(flow)
            await clock.advance(0)


@pytest.mark.parametrize("clock", [5, object(), "now", datetime(2030, 1, 1, tzinfo=UTC), VirtualClock])
async def test_other_clocks_are_refused(clock: Any) -> None:
    """C160: only a VirtualClock and None are accepted for now; told at `open` or on entering."""
    with pytest.raises(TypeError, match="clock"):
        async with napper().open(":memory:", clock=clock):
            pass


async def test_a_wall_clock_that_goes_back_delays_timers(db: Path) -> None:
    """C161: deadlines stay, timers wait for them, and everything else works meanwhile."""
    start = datetime(2030, 6, 1, tzinfo=UTC)
    async with napper().open(db, clock=VirtualClock(start)) as engine:
        await engine.start("nap", 1, run_id="r")
    clock = VirtualClock(start - timedelta(days=10))
    async with napper().open(db, clock=clock) as engine:
        await clock.advance("9d")
        assert (await engine.get_run("r")).status == "running"
        assert (await engine.steps("r"))[0].wake_at == start + timedelta(hours=1)
        await clock.advance("1d")
        await clock.advance("1h")
        run = await engine.get_run("r")

    assert (run.status, run.output) == ("completed", start + timedelta(hours=1))


async def test_a_month_of_naps_finishes_at_once() -> None:
    """Time: autojump through a thousand naps of a hundred runs, in due order."""
    clock = VirtualClock(autojump=True)
    begun = clock.now()
    async with napper().open(":memory:", clock=clock) as engine:
        woken = await asyncio.wait_for(asyncio.gather(*(engine.run("nap", hours) for hours in range(100))), 20)

    assert woken == [begun + timedelta(hours=hours) for hours in range(100)]
