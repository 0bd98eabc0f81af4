"""I13: a run that only waits leaves memory, whatever brought it there."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, PayloadError, Pikku, Services, Workflow
from pikkupy.core.model import NO_WAKING, Change, RunMove, RunWakes
from pikkupy.engine import residents
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.host import in_callback
from pikkupy.engine.waker import CHUNK
from pikkupy.store import Done, Journal
from pikkupy.testing import VirtualClock
from tests.contract.waiting import IN_THE_FILE
from tests.test_crash import crashed_copy


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


async def _until_all_is_written(engine: Engine) -> None:
    """As long as a run takes at most to leave memory, if it does."""
    for _ in range(20):
        while engine._use().host.journal.busy:
            await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_a_run_stays_in_memory_while_somebody_cancels_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """I5, I8: who has found it in memory cancels it there."""
    pikku, clock, done = Pikku(), VirtualClock(), asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", done.wait)
        await workflow.sleep("long", "1d")

    async def when_it_would_leave(loop: asyncio.AbstractEventLoop, act: Callable[[], Any]) -> Any:
        done.set()
        await _until_all_is_written(engine)
        assert "r" in engine._use().residents.active
        return await in_callback(loop, act)

    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        run = await engine.start(flow, run_id="r")
        with monkeypatch.context() as patch:
            patch.setattr(residents, "in_callback", when_it_would_leave)
            async with asyncio.timeout(10):
                await run.cancel("enough")

        assert [(step.name, step.status) for step in await engine.steps("r")] == [
            ("step", "succeeded"),
            ("long", "cancelled"),
        ]
        assert await run.status() == "cancelled"


async def _signal(engine: Engine) -> None:
    await engine.signal("r", "go", 7)


async def _approve(engine: Engine) -> None:
    await engine.approve("r", "go", 7)


async def _resume(engine: Engine) -> None:
    await engine.resume("r")


@pytest.mark.parametrize(
    ("body", "act"),
    [(plain, _signal), (approving, _approve), (gate_beside_a_sleep, _resume)],
    ids=lambda one: one.__name__,
)
async def test_a_run_that_was_brought_in_to_be_told_something_stays_until_it_was(
    monkeypatch: pytest.MonkeyPatch, body: Any, act: Callable[[Engine], Awaitable[None]]
) -> None:
    """I8, I13: however quickly it would leave memory again, and it leaves it afterwards."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)

    async def and_then_it_would_leave(loop: asyncio.AbstractEventLoop, act: Callable[[], Any]) -> Any:
        result = await in_callback(loop, act)
        await _until_all_is_written(engine)
        return result

    async with pikku.open(":memory:", clock=VirtualClock(), **IN_THE_FILE) as engine:
        await engine.start("flow", run_id="r")
        await _until_all_is_written(engine)
        assert not engine._use().residents.active
        monkeypatch.setattr(residents, "in_callback", and_then_it_would_leave)
        await act(engine)
        await _until_all_is_written(engine)

        assert (await engine.steps("r"))[0].status == "succeeded"
        assert not engine._use().residents.active


async def test_a_run_stays_in_memory_if_its_child_times_out_while_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    """I1: else the end of the child could bring it in before the time-out is on disk, and both had one place."""
    pikku, clock = Pikku(), VirtualClock()
    left: list[bool] = []  # whether anything was on its way to the disk when it has left memory

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("part", "child", timeout="1h", retries=1, retry_delay="1d")

    pikku.workflow(name="child")(child)
    rests = residents.Residents.rests

    def time_is_up(run: ActiveRun, wakes_at: int) -> None:
        run.resting = RunWakes(number=run.run.number, wakes_at=wakes_at)
        run.host.write([run.resting], partial(before_it_leaves, run, run.resting, wakes_at))

    def before_it_leaves(run: ActiveRun, rests: RunWakes, wakes_at: int) -> None:
        if any(step.child is not None for step in run.steps.values()):
            clock._now_us = wakes_at
            run.host.timers.fire_due()
        run._rests(rests)

    def noted(home: residents.Residents, run: ActiveRun, wakes_at: int) -> None:
        left.append(run.host.journal.busy)
        rests(home, run, wakes_at)

    monkeypatch.setattr(ActiveRun, "rest", time_is_up)
    monkeypatch.setattr(residents.Residents, "rests", noted)
    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)

        assert left == [False]  # it leaves when it waits for the time of the second attempt
        assert "r" not in engine._use().residents.active


async def test_a_parent_that_was_read_before_its_child_had_ended_does_not_rest_until_it_is_told(db: Path) -> None:
    """I9: the end is on disk, and what it wakes is not to be taken back: after a crash nobody would look for it."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def child(workflow: Workflow) -> str:
        return str(await workflow.wait_for_signal("go"))

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        return await workflow.do("part", child)

    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
        await engine.start(parent, run_id="r")
        await clock.advance(0)
        assert engine._parts is not None
        host, home, _ = engine._parts
        number = (await engine._parts.row("r")).number
        async with home.holds.alone(number):
            earlier = await host.journal.recorded(number)
            assert earlier is not None
            await engine.signal("r/part", "go", "went")
            assert await (await engine.handle("r/part")).result() == "went"
            await in_callback(host.loop, partial(home._adopt, earlier, clean=True, changes=[]))
            for _ in range(5):
                await host.journal.commit([])
                assert (await engine._parts.row("r")).wakes_at is None
        await clock.advance(0)
        assert (await engine.get_run("r")).output == "went"


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


async def test_a_run_that_was_told_something_while_it_left_memory_goes_on_after_a_crash(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I9: the file does not say any more that it waits there."""
    pikku, disk_is_slow, goes_on = Pikku(), threading.Event(), asyncio.Event()
    rest = ActiveRun.rest

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("first")
        await workflow.wait_for_signal("second")
        await workflow.do("step", goes_on.wait)

    def while_the_disk_is_slow(run: ActiveRun, wakes_at: int) -> None:
        run.host.journal._writer.send(lambda _: disk_is_slow.wait(30), lambda *_: None)
        rest(run, wakes_at)

    async with pikku.open(db, clock=VirtualClock(), **IN_THE_FILE) as engine:
        await engine.start(flow, run_id="r")
        monkeypatch.setattr(ActiveRun, "rest", while_the_disk_is_slow)
        await engine.signal("r", "first")
        while (run := engine._use().residents.active["r"]).resting is None:
            await asyncio.sleep(0)
        told = asyncio.ensure_future(engine.signal("r", "second"))
        while run.resting is not None:
            await asyncio.sleep(0)
        disk_is_slow.set()
        await told
        copy = crashed_copy(db, tmp_path / "crashed")
        goes_on.set()
    clock = VirtualClock()
    async with pikku.open(copy, clock=clock) as engine:
        await clock.advance(0)

        assert (await engine.get_run("r")).status == "completed"


async def test_a_run_that_is_to_rest_again_leaves_memory_when_that_is_on_disk() -> None:
    """Not when the write is told that has been overtaken: what came up meanwhile may not be there yet."""
    pikku, told = Pikku(), list[object]()
    pikku.workflow(name="flow")(plain)

    async with pikku.open(":memory:", clock=VirtualClock()) as engine:
        await engine.start("flow", run_id="r")
        while not (await engine.steps("r")):
            await asyncio.sleep(0)
        host, home, _ = engine._use()
        run = home.active["r"]
        run.rest(NO_WAKING)
        run._stay()
        host.write([], lambda: told.append(home.resident(run.run.number)))
        run.rest(NO_WAKING)
        host.write([], lambda: told.append(home.resident(run.run.number)))
        await _until_all_is_written(engine)
        assert told == [run, None]
        await engine.signal("r", "go", 1)
        assert await (await engine.handle("r")).result() == 1


async def test_a_look_that_comes_while_another_is_about_to_end_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: what it is for came to the file after the other had asked for the next time."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")

    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        host, home, _ = engine._use()
        next_waking = host.journal.next_waking

        async def overtaken() -> int | None:
            monkeypatch.undo()
            found = await next_waking()
            await engine.start(sleeper, run_id="second")
            clock._now_us += 3_600_000_000
            host.timers.fire_due()
            assert home.waker.busy
            return found

        await engine.start(sleeper, run_id="first")
        monkeypatch.setattr(host.journal, "next_waking", overtaken)
        await clock.advance("1h")

        assert [(await engine.get_run(run_id)).status for run_id in ("first", "second")] == ["completed"] * 2


async def test_a_run_that_waits_in_the_file_comes_in_time_after_the_clock_was_set_back() -> None:
    """Not when the clock is where it was at the last look."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        await engine.start(flow)
        await clock.advance("2h")
        clock._now_us -= 36_000_000_000
        handle = await engine.start(flow)
        await clock.advance("2h")

        assert await handle.status() == "completed"


async def test_what_comes_too_late_for_a_run_that_has_left_memory_gets_a_place_of_its_own(db: Path) -> None:
    """I1: who knows the places in the history of a run is the one that is in memory now."""
    pikku = Pikku()
    goes_on = threading.Event()

    @pikku.function
    def slow(services: Services) -> str:
        goes_on.wait(10)
        return "late"

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        stopped = workflow.do("slow", slow)
        await workflow.do("quick", lambda: asyncio.sleep(0))
        stopped.cancel()
        await workflow.wait_for_signal("first")
        await workflow.wait_for_signal("second")

    async with pikku.open(db, clock=VirtualClock(), **IN_THE_FILE) as engine:
        handle = await engine.start(flow, run_id="r")
        while "r" in engine._use().residents.active or len(await engine.steps("r")) < 3:
            await asyncio.sleep(0)
        await engine.signal("r", "first")
        while "r" in engine._use().residents.active or len(await engine.steps("r")) < 4:
            await asyncio.sleep(0)
        goes_on.set()
        while not await engine.history("r") or (await engine.history("r"))[-1].step_name != "slow":
            await asyncio.sleep(0)
        await engine.signal("r", "second")
        await handle.result()
    with closing(sqlite3.connect(db)) as file:
        tables = ("steps", "attempts", "signals")
        places = " UNION ALL ".join(f"SELECT seq FROM pikkupy_{table} WHERE seq IS NOT NULL" for table in tables)
        seqs = [seq for (seq,) in file.execute(places)]

    assert sorted(seqs) == list(range(1, len(seqs) + 1))


async def test_who_comes_to_a_run_that_is_suspended_while_it_is_brought_in_waits_until_that_is_on_disk(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal found it in the file as it had been, and it was suspended once more. That was refused, so that the
    engine stopped. Found by the simulator."""
    settings: dict[str, Any] = {**IN_THE_FILE, "durability": "process", "database_thread": False}
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow(name="flow")
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    async with pikku.open(db, clock=clock, **settings) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
    submit, moves, held = Journal.submit, list[RunMove](), list[partial[None]]()

    def slow(journal: Journal, changes: Sequence[Change], done: Done) -> None:
        """The disk is slow from the move on."""
        moves.extend(change for change in changes if isinstance(change, RunMove))
        if moves and not released:
            held.append(partial(submit, journal, changes, done))
        else:
            submit(journal, changes, done)

    released, pikku = False, Pikku()

    @pikku.workflow(name="flow")
    async def changed(workflow: Workflow) -> None:
        await workflow.do("new", lambda: None)

    monkeypatch.setattr(Journal, "submit", slow)
    clock = VirtualClock(clock.now() + timedelta(days=2))
    opening = asyncio.ensure_future(pikku.open(db, clock=clock, **settings).__aenter__())
    while not opening.done():
        await asyncio.sleep(0)
    engine = opening.result()
    while not moves:
        await asyncio.sleep(0)
    signalled = asyncio.ensure_future(engine.signal("r", "go"))
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(moves) == 1
    released = True
    for write in held:
        write()
    await signalled
    assert (await engine.get_run("r")).status == "suspended"
    await engine.__aexit__(None, None, None)
