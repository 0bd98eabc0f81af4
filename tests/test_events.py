"""Events of runs: what happened in which order, from where a reader stopped, and what it costs when nobody listens."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pikkupy import EngineClosed, Event, EventKind, EventsLost, Pikku, RunNotFound, StepFailed, Workflow, current_step
from pikkupy.core.model import Change, RunMove
from pikkupy.engine import events as events_module
from pikkupy.store import Done, Journal
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH, IN_THE_FILE

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


def told(event: Event) -> tuple[str, ...]:
    what = event.step_name or event.name or event.reason
    return tuple(str(part) for part in (event.kind, what, event.status) if part is not None)


async def all_of(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


def life() -> Pikku:
    """One of everything."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        def flaky() -> str:
            step = current_step()
            assert step is not None
            if step.attempt_count < 2:
                raise OSError("first")
            return "ok"

        await workflow.do("first", lambda: 1)
        workflow.progress(0.5)
        await workflow.do("flaky", flaky, retries=1, retry_delay="1h")
        await workflow.sleep("nap", "1d")
        await workflow.wait_for_signal("go")
        await workflow.suspend("gate")
        try:
            await workflow.do("bad", lambda: 1 / 0)
        except StepFailed:
            workflow.progress("nearly")
        return "done"

    return pikku


async def lived(engine: Any, clock: VirtualClock) -> None:
    await engine.start("flow", run_id="r")
    await clock.advance("1h")
    await clock.advance("1d")
    await engine.signal("r", "go")
    await clock.advance(0)
    await engine.resume("r")
    await (await engine.handle("r")).result(timeout="1s")


EXPECTED = [
    ("run_started",),
    ("step_started", "first"),
    ("step_recorded", "first", "succeeded"),
    ("step_started", "flaky"),
    ("attempt_failed", "flaky"),
    ("step_recorded", "flaky", "succeeded"),
    ("sleeping", "nap"),
    ("step_recorded", "nap", "succeeded"),
    ("step_started", "go"),
    ("signal", "go"),
    ("step_recorded", "go", "succeeded"),
    ("suspended", "gate"),
    ("resumed", "gate", "succeeded"),
    ("step_started", "bad"),
    ("attempt_failed", "bad"),
    ("step_recorded", "bad", "failed"),
    ("run_ended", "completed"),
]


def without_progress(events: list[Event]) -> list[tuple[str, ...]]:
    return [told(event) for event in events if event.kind is not EventKind.PROGRESS]


@each_way
async def test_a_run_tells_all_that_happens_to_it(settings: dict[str, Any]) -> None:
    """Live to one who listens from the beginning, and to one who comes when it is over: the same events and numbers."""
    clock = VirtualClock()
    async with life().open(":memory:", clock=clock, **settings) as engine:
        everything = engine.events()
        await lived(engine, clock)
        handle = await engine.handle("r")
        after = await all_of(handle.events())
        live: list[Event] = []
        async for event in everything:
            live.append(event)
            if event.kind is EventKind.RUN_ENDED:
                break

    assert without_progress(after) == EXPECTED
    assert without_progress(live) == EXPECTED
    assert [event.progress for event in live if event.kind is EventKind.PROGRESS] == [0.5, "nearly"]
    for stream in (after, live):
        numbers = [event.seq for event in stream]
        assert numbers == sorted(numbers)
    assert {event.run_id for event in after} == {"r"}
    slept = next(event for event in after if event.kind is EventKind.SLEEPING)
    assert slept.wake_at is not None
    assert (slept.wake_at - slept.at).days == 1


@each_way
async def test_a_reader_goes_on_where_it_stopped(settings: dict[str, Any], db: Path) -> None:
    """After any event, in this life of the engine and in the next, live or not: nothing is missing or told twice."""
    clock = VirtualClock()
    async with life().open(db, clock=clock, **settings) as engine:
        await engine.start("flow", run_id="r")
        live = (await engine.handle("r")).events()
        seen = [await anext(live) for _ in range(3)]
        await clock.advance("1h")
        await clock.advance("1d")
        seen += [await anext(live) for _ in range(6)]
    async with life().open(db, clock=clock, **settings) as engine:
        more = (await engine.handle("r")).events(after=seen[-1].seq)
        await engine.signal("r", "go")
        await clock.advance(0)
        await engine.resume("r")
        seen += await all_of(more)
        whole = await all_of((await engine.handle("r")).events())
        assert without_progress(seen) == without_progress(whole) == EXPECTED
        firm = [event for event in whole if event.kind is not EventKind.PROGRESS]
        for place, event in enumerate(firm[:-1]):
            rest = await all_of((await engine.handle("r")).events(after=event.seq))
            assert without_progress(rest) == EXPECTED[place + 1 :]


async def test_a_reader_of_the_engine_goes_on_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the events that are kept; what is not known any more is an error, never a gap."""
    monkeypatch.setattr(events_module, "KEPT", 20)
    monkeypatch.setattr(events_module, "BEHIND", 20)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", lambda: None)

    async with pikku.open(":memory:") as engine:
        reader = engine.events()
        await engine.run(flow, run_id="a")
        seen = [await anext(reader) for _ in range(4)]
        assert [told(event)[0] for event in seen] == ["run_started", "step_started", "step_recorded", "run_ended"]
        again = engine.events(after=seen[1].seq)
        assert [await anext(again) for _ in range(2)] == seen[2:]
        for number in range(10):
            await engine.run(flow, run_id=f"b{number}")
        with pytest.raises(EventsLost, match="not known any more"):
            engine.events(after=seen[0].seq)
        with pytest.raises(EventsLost, match="behind"):
            [await anext(reader) for _ in range(40)]
        for after in (-1, 1.5, True, "x"):
            with pytest.raises((TypeError, ValueError), match="after="):
                engine.events(after=after)  # type: ignore[arg-type]


async def test_a_reader_that_is_far_behind_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a run: what it could not keep up with comes from the record. Of the engine: an error where the gap is."""
    monkeypatch.setattr(events_module, "BEHIND", 10)
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for number in range(60):
            if number % 20 == 0:
                await workflow.wait_for_signal("go")
            await workflow.do("step", lambda: None)

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        reader, every = handle.events(), engine.events()
        seen = [await anext(reader)]
        for _ in range(3):  # read a little between bursts, so that more is heard while something is missing
            await engine.signal("r", "go")
            await clock.advance(0)
            seen += [await anext(reader) for _ in range(5)]
        seen += await all_of(reader)
        whole = await all_of(handle.events())
        heard: list[Event] = []
        with pytest.raises(EventsLost, match="behind"):
            while True:
                heard.append(await anext(every))

    assert [told(event) for event in seen] == [told(event) for event in whole]
    assert [event.seq for event in seen] == [event.seq for event in whole]
    numbers = [event.seq for event in heard]
    assert numbers == list(range(numbers[0], numbers[0] + 10))


async def test_a_parked_run_tells_why(db: Path) -> None:
    """Also to one who comes later."""
    pikku = life()
    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.start("flow", run_id="r")
    async with Pikku().open(db, clock=VirtualClock()) as engine:
        events = (await engine.handle("r")).events()
        seen: list[Event] = []
        async for event in events:
            seen.append(event)
            if event.kind is EventKind.SUSPENDED:
                break
    assert "WorkflowNotFound" in str(seen[-1].reason)


async def test_progress_is_shown_and_outlives_the_process(db: Path) -> None:
    """Of the workflow in `get_run`; a replay does not tell it again."""
    clock = VirtualClock()
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        for bad in (2, "x" * 1_001, None, True):
            with pytest.raises((TypeError, ValueError), match="of run 'r'"):
                workflow.progress(bad)  # type: ignore[arg-type]
        workflow.progress("begun")
        await workflow.sleep("nap", "1h")
        workflow.progress(1)
        return "done"

    for settings in BOTH:
        async with pikku.open(db, clock=clock, **settings) as engine:
            await engine.start(flow, run_id="r")
            await clock.advance(0)
            assert (await engine.get_run("r")).progress == "begun"
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("1h")
        await (await engine.handle("r")).result(timeout="1s")
        assert (await engine.get_run("r")).progress == 1.0


async def test_progress_that_a_kill_or_a_fork_has_lost_is_told_again(db: Path) -> None:
    """The code says it again on its way, and the last of it is kept."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        workflow.progress("begun")
        await workflow.do("a", lambda: None)
        workflow.progress(0.5)
        await workflow.sleep("nap", "1h")

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
    with closing(sqlite3.connect(db, isolation_level=None)) as file:
        file.execute("UPDATE pikkupy_runs SET progress = NULL")
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance(0)
        await engine.fork("r", at="nap", new_run_id="f")
        await clock.advance(0)

        assert [run.progress for run in (await engine.list_runs()).runs] == [0.5, 0.5]


@pytest.mark.parametrize("after", [-1, 1 << 63])
async def test_a_place_that_no_event_can_have_is_refused(after: int) -> None:
    async with Pikku().open(":memory:") as engine:
        for read in (engine.events, partial(engine.run_events, "r")):
            with pytest.raises(ValueError, match="use the seq of the last event seen"):
                read(after=after)
        with pytest.raises(ValueError, match="use the offset of the last chunk seen"):
            engine.stream("r", after=-2 if after < 0 else after)


async def test_the_progress_of_a_step_is_an_event() -> None:
    """With the step and the attempt."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            step = current_step()
            assert step is not None
            step.progress(0.25)
            await asyncio.sleep(0.01)

        await workflow.do("step", body)

    async with pikku.open(":memory:") as engine:
        reader = engine.events()
        await engine.run(flow)
        async for event in reader:
            if event.kind is EventKind.PROGRESS:
                assert (event.step_name, event.attempt, event.progress) == ("step", 1, 0.25)
                break


async def test_readers_end_with_the_engine() -> None:
    """EngineClosed, for those who wait and those who come; RunNotFound for a run that there is not."""
    pikku = life()
    async with pikku.open(":memory:", clock=VirtualClock()) as engine:
        with pytest.raises(RunNotFound):
            await anext(engine.run_events("nobody"))
        handle = await engine.start("flow", run_id="r")
        waiting = asyncio.create_task(all_of(handle.events()))
        every = asyncio.create_task(all_of(engine.events()))
        await asyncio.sleep(0)
        await asyncio.sleep(0.01)
    for task in (waiting, every):
        with pytest.raises(EngineClosed):
            await task
    with pytest.raises(EngineClosed):
        engine.events()


async def test_nothing_is_kept_for_readers_that_are_gone() -> None:
    """A reader that nobody holds any more is forgotten, and so is one that has read all: nothing is told any more."""
    pikku = life()
    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start("flow", run_id="r")
        reader, other = handle.events(), handle.events()
        await anext(reader)
        await anext(other)
        assert engine._parts is not None
        hub = engine._parts.residents.events
        assert [len(readers) for readers in hub._of_runs.values()] == [2]
        del reader
        assert [len(readers) for readers in hub._of_runs.values()] == [1]
        assert hub.listening
        del other
        assert not hub._of_runs
        assert not hub.listening
        reading = asyncio.create_task(all_of(handle.events()))
        await lived(engine, clock)
        await reading
        assert not hub._of_runs
        assert not hub.listening


async def test_what_is_kept_has_no_gaps() -> None:
    """Readers of single runs come and go: for readers of all runs everything is kept from the first of them on."""
    clock = VirtualClock()
    async with life().open(":memory:", clock=clock) as engine:
        handle = await engine.start("flow", run_id="r")
        await anext(handle.events())
        every = engine.events()
        await engine.cancel("r", "over")
        seen = await anext(every)
        del every
        await engine.start("flow", run_id="s")
        await clock.advance(0)
        assert told(await anext(engine.events(after=seen.seq))) == ("run_started",)


async def until(events: AsyncIterator[Event], kind: EventKind) -> list[Event]:
    """Events up to the first of that kind."""
    seen: list[Event] = []
    async for event in events:
        seen.append(event)
        if event.kind is kind:
            break
    return seen


def of_steps(*names: str) -> Pikku:
    """A workflow of these steps that sleeps then."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for name in names:
            await workflow.do(name, lambda: 1)
        await workflow.sleep("nap", "1d")

    return pikku


async def test_a_run_that_the_engine_had_parked_tells_that_it_goes_on(db: Path) -> None:
    """To readers of all runs and of this one."""
    clock = VirtualClock()
    async with of_steps("a", "b").open(db, clock=clock) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
    async with of_steps("a", "other").open(db, clock=clock) as engine:
        reader, every = engine.run_events("r"), engine.events()
        seen = await until(reader, EventKind.SUSPENDED)
        assert "ReplayMismatch" in str(seen[-1].reason)
        await engine.resume("r", accept="new")
        assert (await until(reader, EventKind.RESUMED))[-1].run_id == "r"
        assert [event.kind for event in await until(every, EventKind.RESUMED)] == ["resumed"]


async def test_a_run_that_was_parked_at_its_gate_tells_that_it_is_back_there(db: Path) -> None:
    """It goes on, and is suspended still."""

    async def flow(workflow: Workflow) -> None:
        await workflow.suspend("gate")

    pikku, mended = Pikku(), Pikku()
    pikku.workflow(flow)
    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
    async with mended.open(db, clock=clock) as engine:
        assert "WorkflowNotFound" in str((await engine.get_run("r")).reason)
        every = engine.events()
        mended.workflow(flow)
        await engine.resume("r")
        assert [told(await anext(every)) for _ in range(2)] == [("resumed",), ("suspended", "gate")]


@each_way
async def test_a_run_that_begins_later_tells_it_then(settings: dict[str, Any]) -> None:
    """To readers of all runs and of this one; and a fork tells that it begins, now."""
    clock = VirtualClock()
    async with of_steps("a").open(":memory:", clock=clock, **settings) as engine:
        every = engine.events()
        handle = await engine.start("flow", run_id="r", delay="1h")
        reader = handle.events()
        first = asyncio.ensure_future(anext(reader))
        await asyncio.sleep(0.02)
        assert not first.done()
        await clock.advance("1h")
        began = await asyncio.wait_for(first, 1)
        assert (told(began), began.at) == (("run_started",), clock.now())
        assert [told(await anext(every)) for _ in range(2)] == [("run_started",), ("step_started", "a")]
        assert told(await anext(reader)) == ("step_started", "a")
        assert [event.kind for event in await until(handle.events(), EventKind.SLEEPING)].count(
            EventKind.RUN_STARTED
        ) == 1
        await clock.advance("1d")
        await until(every, EventKind.RUN_ENDED)
        await engine.fork("r", at="nap", new_run_id="f")
        forked = await anext(every)
        assert (told(forked), forked.run_id, forked.at) == (("run_started",), "f", clock.now())
        assert told(await anext(every)) == ("sleeping", "nap")


@each_way
@pytest.mark.parametrize("early", ["signal", "suspended"])
async def test_who_goes_on_after_what_came_before_a_delayed_run_began_is_told_that_it_begins(
    early: str, settings: dict[str, Any], db: Path
) -> None:
    """Once, and who goes on after that is not told it again, live or later."""
    clock = VirtualClock()
    async with life().open(db, clock=clock, **settings) as engine:
        await engine.start("flow", run_id="r", delay="1h")
        if early == "signal":
            await engine.signal("r", "go")
    async with (Pikku() if early == "suspended" else life()).open(db, clock=clock, **settings) as engine:
        first = await anext(engine.run_events("r"))
        assert first.kind == early
    async with life().open(db, clock=clock, **settings) as engine:
        live = asyncio.ensure_future(all_of(engine.run_events("r", after=first.seq)))
        await asyncio.sleep(0.02)
        await clock.advance("1h")
        await clock.advance("1h")
        await clock.advance("1d")
        await engine.signal("r", "go")
        await clock.advance(0)
        await engine.resume("r")
        heard = [event for event in await asyncio.wait_for(live, 5) if told(event) != ("resumed",)]
        whole = await all_of(engine.run_events("r"))
        seen = [first, *heard]
        rests = [await all_of(engine.run_events("r", after=event.seq)) for event in seen[:-1]]
        unmarked = seen[-2].seq & ~events_module.BEGUN  # as numbers were before the beginning had its bit
        old = await all_of(engine.run_events("r", after=unmarked))

    assert [told(event) for event in old] == [told(event) for event in rests[-1]]
    began = ("run_started",)
    assert told(heard[0]) == began
    assert [event.seq for event in seen] == sorted(event.seq for event in seen)
    assert [told(event) for event in whole[:2]].index(began) == (1 if early == "signal" else 0)
    for number, rest in enumerate(rests):
        assert sorted(without_progress(rest)) == sorted(without_progress(seen[number + 1 :]))
        assert [told(event) for event in rest].count(began) == (1 if number == 0 else 0)


async def test_a_retry_of_a_run_is_an_event() -> None:
    """More events follow `run_ended`; a reader of the run goes on after it."""
    pikku, broken = Pikku(), [True]

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        return await workflow.do("step", lambda: 1 // (not broken[0]))

    async with pikku.open(":memory:") as engine:
        every = engine.events()
        handle = await engine.start(flow, run_id="r")
        last = (await all_of(handle.events()))[-1]
        await until(every, EventKind.RUN_ENDED)
        broken[0] = False
        await engine.retry("r")
        await handle.result()
        assert [told(event) for event in await until(every, EventKind.RUN_ENDED)] == [
            ("resumed", "retry"),
            ("step_recorded", "step", "succeeded"),
            ("run_ended", "completed"),
        ]
        more = await all_of(handle.events(after=last.seq))
        assert [told(event) for event in more] == [("step_recorded", "step", "succeeded"), ("run_ended", "completed")]


@pytest.mark.parametrize("retries", [0, 2])
async def test_every_attempt_that_fails_is_told(retries: int) -> None:
    """Also the only one of a step; the same live and from the record, as far as it is known when the next begins."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("bad", lambda: 1 / 0, retries=retries, retry_delay="1h")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        reader = (await engine.start(flow, run_id="r")).events()
        live = asyncio.create_task(all_of(reader))
        await clock.advance(0)
        recorded: list[Event] = []
        if retries:
            recorded = await until(engine.run_events("r"), EventKind.ATTEMPT_FAILED)
            assert recorded[-1].wake_at is not None
        await clock.advance("1h")
        if retries:
            tries = [one for one in await engine.some_events("r") if one.kind is EventKind.ATTEMPT_FAILED]
            assert [one.wake_at for one in tries] == [None, clock.now() + timedelta(hours=1)]
        await clock.advance("1h")
        heard, after = await live, await all_of(engine.run_events("r"))

    assert recorded == heard[: len(recorded)]
    failed = ("attempt_failed", "bad")
    assert [told(event) for event in heard] == [
        ("run_started",),
        ("step_started", "bad"),
        *[failed] * (retries + 1),
        ("step_recorded", "bad", "failed"),
        ("run_ended", "failed"),
    ]
    assert [(event.seq, told(event), event.attempt, event.error) for event in heard] == [
        (event.seq, told(event), event.attempt, event.error) for event in after
    ]
    waking = [event.wake_at for event in heard if event.kind is EventKind.ATTEMPT_FAILED]
    recorded_waking = [event.wake_at for event in after if event.kind is EventKind.ATTEMPT_FAILED]
    assert [at is None for at in waking] == [*[False] * retries, True]
    assert recorded_waking[-2:] == waking[-2:]


async def test_a_reader_of_a_long_run_leaves_the_loop_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has happened is made as it is read, a little in each turn; what was seen is not made again."""
    monkeypatch.setattr(events_module, "TURN", 10)
    pikku, made = Pikku(), [0]

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for _ in range(200):
            await workflow.do("step", lambda: None)
        await workflow.wait_for_signal("go")

    told_by, clock = events_module._told, VirtualClock()

    def counted(*args: Any, **facts: Any) -> Any:
        made[0] += 1
        return told_by(*args, **facts)

    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        await clock.advance(0)
        monkeypatch.setattr(events_module, "_told", counted)
        turns, last = 0, made[0]
        reader = handle.events()
        await anext(reader)
        assert made[0] < 10

        async def others() -> None:
            nonlocal turns, last
            while True:
                assert made[0] - last <= 25
                turns, last = turns + 1, made[0]
                await asyncio.sleep(0)

        turning = asyncio.create_task(others())
        seen = [await anext(reader) for _ in range(401)]
        assert turns > 20
        turning.cancel()
        made[0] = 0
        more = handle.events(after=seen[-2].seq)
        assert await anext(more) == seen[-1]
        assert made[0] < 10


def changing(*names: str, last: str = "nap") -> Pikku:
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        for name in names:
            await workflow.do(name, lambda: 1)
        await workflow.sleep(last, "1d")

    return pikku


@each_way
async def test_new_steps_in_places_that_were_reached_are_told(settings: dict[str, Any], db: Path) -> None:
    """After changed code was accepted: to who listens, who goes on where they stopped, and who comes later."""
    clock = VirtualClock()
    async with changing("a", "b", "c").open(db, clock=clock, **settings) as engine:
        await engine.start("flow", run_id="r")
        await clock.advance(0)
        stopped = await until(engine.run_events("r"), EventKind.SLEEPING)
    async with changing("a", "new", "c").open(db, clock=clock, **settings) as engine:
        await clock.advance("1h")
        await engine.signal("r", "look")
        live = asyncio.create_task(all_of(engine.run_events("r", after=stopped[-1].seq)))
        await asyncio.sleep(0.02)
        await engine.resume("r", accept="new")
        await clock.advance("1d")
        heard = await asyncio.wait_for(live, 5)
        later = await all_of(engine.run_events("r", after=stopped[-1].seq))
        whole = await all_of(engine.run_events("r"))
        restarted = [
            await all_of(engine.run_events("r", after=event.seq)) for event in whole if event.kind != "run_ended"
        ]

    new = [
        ("signal", "look"),
        ("step_started", "new"),
        ("step_recorded", "new", "succeeded"),
        ("step_started", "c"),
        ("step_recorded", "c", "succeeded"),
        ("sleeping", "nap"),
        ("step_recorded", "nap", "succeeded"),
        ("run_ended", "completed"),
    ]
    moves = [EventKind.SUSPENDED, EventKind.RESUMED]
    assert [event.kind for event in heard if event.kind in moves] == moves
    assert sorted(told(event) for event in heard if event.kind not in moves) == sorted(new)
    assert [event.seq for event in heard] == sorted(event.seq for event in heard)
    assert sorted(told(event) for event in later) == sorted(new)
    assert [told(event) for event in whole].count(("step_started", "new")) == 1
    for number, rest in enumerate(restarted):
        assert [told(event) for event in rest] == [told(event) for event in whole[number + 1 :]]


async def test_a_gate_that_is_reached_again_tells_the_reason_that_the_run_has() -> None:
    """What was given to `suspend`; the name of its step has the ordinal."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.suspend("check")
        await workflow.suspend("check")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        every = engine.events()
        await engine.start(flow, run_id="r")
        await until(every, EventKind.SUSPENDED)
        await engine.resume("r")
        live = (await until(every, EventKind.SUSPENDED))[-1]
        reader = engine.run_events("r")
        await until(reader, EventKind.RESUMED)
        later = (await until(reader, EventKind.SUSPENDED))[-1]
        assert (await engine.get_run("r")).reason == "check"
        assert (live.step_name, live.reason) == (later.step_name, later.reason) == ("check#1", "check")


async def test_who_hears_that_a_run_is_parked_can_accept_its_code(db: Path) -> None:
    """It is told when it is on disk, as all that can be acted on; here it is parked when it wakes."""
    settings: dict[str, Any] = {"clock": VirtualClock(), **IN_THE_FILE}
    async with of_steps("old").open(db, **settings) as engine:
        await engine.start("flow", run_id="r")
        await until(engine.run_events("r"), EventKind.SLEEPING)
    async with of_steps("new").open(db, **settings) as engine:
        events = engine.run_events("r")
        await until(events, EventKind.SLEEPING)
        waking = asyncio.ensure_future(settings["clock"].advance("1d"))
        await until(events, EventKind.SUSPENDED)
        await engine.resume("r", accept="new")

        assert (await engine.get_run("r")).status == "running"
        await waking


@pytest.mark.parametrize("written", [False, True], ids=["to be written", "written"])
@pytest.mark.parametrize("comes", ["before", "meanwhile", "after"])
async def test_who_hears_that_a_run_is_at_a_gate_finds_it_suspended(
    comes: str, written: bool, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slow the disk is and whenever the reader comes; what happens beside the gate is told after it."""
    pikku, submit = Pikku(), Journal.submit
    slow, held = asyncio.Event(), list[partial[None]]()

    def flaky() -> None:
        step = current_step()
        assert step is not None
        if step.attempt_count == 1:
            raise OSError("first")

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def beside() -> None:
            await workflow.do("beside", flaky, retries=1)
            await workflow.do("later", lambda: 2)

        await workflow.do("first", lambda: 1)
        await asyncio.gather(workflow.suspend("gate"), beside())

    def answer(done: Done, error: Exception | None) -> None:
        if released:
            done(error)
        else:
            held.append(partial(done, error))

    def wait(journal: Journal, changes: Sequence[Change], done: Done) -> None:
        if not released and any(isinstance(change, RunMove) for change in changes):
            slow.set()
        if not slow.is_set() or released:
            submit(journal, changes, done)
        elif written:
            submit(journal, changes, partial(answer, done))
        else:
            held.append(partial(submit, journal, changes, done))

    async def read(events: AsyncIterator[Event]) -> None:
        async for event in events:
            heard.append(told(event)[:2])
            if event.kind is EventKind.SUSPENDED:
                run = await engine.get_run("r")
                on_disk.append((run.status, run.reason))
            if heard[-1] == ("step_recorded", "later"):
                await engine.cancel("r", "enough")

    monkeypatch.setattr(Journal, "submit", wait)
    released, heard, on_disk = False, list[tuple[str, ...]](), list[tuple[str, str | None]]()
    async with asyncio.timeout(60), pikku.open(db, clock=VirtualClock()) as engine:
        every = engine.events() if comes == "before" else None
        reading = asyncio.ensure_future(read((await engine.start("flow", run_id="r")).events()))
        if comes != "before":
            reading.cancel()
            await asyncio.wait([reading])
        await slow.wait()
        if comes == "meanwhile":
            reading = asyncio.ensure_future(read(engine.run_events("r")))
        for _ in range(100):
            await engine.get_run("r")
        seen = [*heard]
        shown = [told(event)[:2] for event in await engine.some_events("r")]
        released = True
        for go_on in held:
            go_on()
        if comes == "after":
            while (await engine.get_run("r")).status != "suspended":
                await asyncio.sleep(0)
            reading = asyncio.ensure_future(read(engine.run_events("r")))
        await reading
        everything = [] if every is None else [told(event)[:2] for event in await until(every, EventKind.RUN_ENDED)]

    begun = [("run_started",), ("step_started", "first"), ("step_recorded", "first")]
    assert shown == begun
    assert seen == ([] if comes == "after" else begun)
    assert on_disk == [("suspended", "gate")]
    assert heard == [
        *begun, ("suspended", "gate"), ("step_started", "beside"), ("attempt_failed", "beside"),
        ("step_recorded", "beside"), ("step_started", "later"), ("step_recorded", "later"), ("run_ended", "enough"),
    ]  # fmt: skip
    assert everything in ([], heard)


@pytest.mark.parametrize("question", [1, 2, 3])
async def test_what_is_recorded_while_a_reader_catches_up_is_told_whole(
    question: int, db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each of its questions to the file signals may come, with the outcomes of the waits for them."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")
        await workflow.wait_for_signal("more")
        await workflow.wait_for_signal("last")

    async with pikku.open(db) as engine:
        run = await engine.start("flow", run_id="r")
        while not await engine.steps("r"):
            await asyncio.sleep(0)
        journal = engine._use().host.journal
        ask, asked, sent, found = journal._read, 0, False, list[tuple[str, ...]]()
        last = {("signal", "other"), ("step_started", "last")}

        async def send() -> None:
            nonlocal sent
            sent = True
            for name in ("go", "more", "other"):
                await engine.signal("r", name)

        async def interrupted(work: Any) -> Any:
            nonlocal asked
            asked += 1
            if asked == question and not sent:
                await send()
            return await ask(work)

        monkeypatch.setattr(journal, "_read", interrupted)
        async for event in run.events():
            found.append(told(event)[:2])
            if found[-1] == ("step_started", "go") and not sent:
                await send()  # there are no more questions
            elif found[-1] in last and last <= {*found}:
                await engine.cancel("r", "enough")

    assert found[:2] == [("run_started",), ("step_started", "go")]
    assert sorted(found[2:-1]) == [
        ("signal", "go"), ("signal", "more"), ("signal", "other"), ("step_recorded", "go"), ("step_recorded", "more"),
        ("step_started", "last"), ("step_started", "more"),
    ]  # fmt: skip
