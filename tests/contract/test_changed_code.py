"""Changed code, as those meet it who speak to a run that does not fit it: resume, approve, signal, accept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pikkupy import Engine, Expired, Pikku, RunStateError, Services, SignalTimeout, Workflow
from pikkupy.moments import moment
from pikkupy.testing import VirtualClock
from tests.contract.test_again import App, each_way, numbers
from tests.kills.copies import each_commit

Body = Callable[[Workflow], Awaitable[Any]]


def still(db: Path, settings: dict[str, Any]) -> App:
    """An app whose time stands unless it is advanced."""
    app = App(db, **settings)
    app.clock = VirtualClock()
    return app


async def stand(engine: Engine, run_id: str = "r") -> tuple[str, str]:
    """Status and reason of the run."""
    found = await engine.get_run(run_id)
    return str(found.status), found.reason or ""


# What is said to a run that does not fit


async def gated(app: App) -> None:
    """A run that has done 'first' and is shut at 'gate'."""

    async def body(workflow: Workflow) -> None:
        await workflow.do("first", app.step("first"))
        await workflow.suspend("gate")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
        assert await stand(engine) == ("suspended", "gate")
    app.effects.clear()


@each_way
async def test_a_resume_of_a_gate_whose_code_has_changed_parks_the_run(settings: dict[str, Any], db: Path) -> None:
    """C108, C109: whether that is found now or was found before; mended, it stands at its gate again."""
    app = still(db, settings)
    await gated(app)

    async def changed(workflow: Workflow) -> None:
        await workflow.do("1st", app.step("1st"))
        await workflow.suspend("gate")

    async def mended(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        await workflow.suspend("gate")
        return "through"

    async with app.open(changed) as engine:
        for _ in range(2):
            await engine.resume("r")
            status, reason = await stand(engine)
            assert status == "suspended"
            assert reason.startswith("ReplayMismatch: step 0: recorded 'first' (inline), asked for '1st' (inline)")
    async with app.open(mended) as engine:
        await app.clock.advance(0)
        assert await stand(engine) == ("suspended", "gate")
        await engine.resume("r")
        await app.clock.advance(0)
        assert await stand(engine) == ("completed", "")
    assert app.effects == []


@each_way
async def test_a_decision_for_a_run_that_does_not_fit_is_refused_with_the_reason(
    settings: dict[str, Any], db: Path
) -> None:
    """It names the suspension, and what is asked right after says the same."""
    app = still(db, settings)

    async def body(workflow: Workflow) -> None:
        await workflow.do("first", app.step("first"))
        await workflow.approval("ok", bool)

    async def changed(workflow: Workflow) -> None:
        await workflow.do("1st", app.step("1st"))

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(changed) as engine:
        with pytest.raises(RunStateError, match=r"'r' is suspended.*: ReplayMismatch: step 0: recorded 'first'"):
            await engine.approve("r", "ok", True)
        status, reason = await stand(engine)
        assert (status, reason[:14]) == ("suspended", "ReplayMismatch")


@each_way
async def test_a_signal_to_a_run_that_does_not_fit_is_kept(settings: dict[str, Any], db: Path) -> None:
    """C43, C113: the run is suspended when the signal is on disk, and takes it once the code is mended."""
    app = still(db, settings)

    async def body(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        return str(await workflow.wait_for_signal("go"))

    async def changed(workflow: Workflow) -> None:
        await workflow.do("1st", app.step("1st"))

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(changed) as engine:
        await engine.signal("r", "go", "kept")
        assert (await stand(engine))[0] == "suspended"
    async with app.open(body) as engine:
        await app.clock.advance(0)
        assert (await engine.get_run("r")).output == "kept"


@each_way
async def test_accepting_the_code_of_a_run_at_a_gate_leads_past_it_or_to_it(settings: dict[str, Any], db: Path) -> None:
    """The gate opens if it was what the run's reason named; found not to fit before, the run stands at its gate."""
    app = still(db, settings)
    await gated(app)

    async def changed(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        await workflow.do("new", app.step("new"))
        await workflow.suspend("gate")
        return "through"

    async with app.open(changed) as engine:
        _, reason = await stand(engine)
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
        if reason.startswith("ReplayMismatch"):
            assert await stand(engine) == ("suspended", "gate")
            await engine.resume("r")
            await app.clock.advance(0)
        assert await stand(engine) == ("completed", "")
    assert app.effects == ["new"]


@each_way
async def test_a_gate_that_nobody_has_seen_stays_shut(settings: dict[str, Any], db: Path) -> None:
    """Two reasons are two gates: accepted code with another one stands there."""
    app = still(db, settings)
    await gated(app)

    async def changed(workflow: Workflow) -> None:
        await workflow.do("first", app.step("first"))
        await workflow.suspend("another gate")

    async with app.open(changed) as engine:
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
        assert await stand(engine) == ("suspended", "another gate")


@each_way
async def test_no_gate_opens_where_nothing_can_be_accepted(settings: dict[str, Any], db: Path) -> None:
    """As when the workflow is gone: nothing has happened to the run."""
    app = still(db, settings)
    await gated(app)
    async with Pikku().open(db, clock=app.clock, **settings) as engine:
        await engine.resume("r", accept="new")
        assert (await stand(engine))[1].startswith("WorkflowNotFound")

    async def body(workflow: Workflow) -> None:
        await workflow.do("first", app.step("first"))
        await workflow.suspend("gate")

    async with app.open(body) as engine:
        await app.clock.advance(0)
        assert await stand(engine) == ("suspended", "gate")


# Functions that are gone


@each_way
async def test_a_step_under_way_whose_function_is_gone_is_named(settings: dict[str, Any], db: Path) -> None:
    """C114: with what is missing; nothing of it can be accepted, and the next open that has it goes on."""
    app = still(db, settings)

    async def body(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        return str(await workflow.do("ship", "part", retries=1, retry_delay="1h"))

    async def broken_once(services: Services) -> str:
        app.effects.append("part")
        if app.effects.count("part") == 1:
            raise ConnectionError
        return "shipped"

    def release(*, whole: bool) -> AbstractAsyncContextManager[Engine]:
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        if whole:
            pikku.function(name="part")(broken_once)
        return pikku.open(db, clock=app.clock, **settings)

    async with release(whole=True) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with release(whole=False) as engine:
        await engine.signal("r", "look")  # a run that waits in the file is compared with the code when it wakes
        said = "ReplayMismatch: step 1: recorded 'ship' (function part) is under way, and no function named 'part' is"
        assert (await stand(engine))[1].startswith(said)
        await engine.resume("r", accept="new")
        assert (await stand(engine))[1].startswith(said)
        assert [step.name for step in await engine.steps("r")] == ["first", "ship"]
    async with release(whole=True) as engine:
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).output == "shipped"


def of_a_family(app: App, db: Path, settings: dict[str, Any]) -> Callable[[bool], AbstractAsyncContextManager[Engine]]:
    """Releases with the workflow of the child or without it; it sleeps for an hour and then fails or not."""

    async def body(workflow: Workflow) -> list[str]:
        async def remind() -> str:
            await workflow.sleep("a while", "10m")
            return str(await workflow.do("remind", app.step("remind")))

        part = workflow.do("part", "part", retries=1, retry_delay="1h")
        return list(await asyncio.gather(part, remind()))

    async def part(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("ship", app.step("ship")))

    def release(whole: bool) -> AbstractAsyncContextManager[Engine]:
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        if whole:
            pikku.workflow(part)
        return pikku.open(db, clock=app.clock, **settings)

    return release


@each_way
async def test_a_parent_whose_child_is_suspended_because_its_workflow_is_gone_goes_on(
    settings: dict[str, Any], db: Path
) -> None:
    """C113, C141: the child is suspended, the parent waits for it, and its other branches go on."""
    app = still(db, settings)
    release = of_a_family(app, db, settings)
    async with release(True) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with release(False) as engine:
        await app.clock.advance("2h")
        assert await stand(engine) == ("running", "")
        assert (await stand(engine, "r/part"))[1].startswith("WorkflowNotFound: no workflow named 'part'")
        assert app.effects == ["remind"]
    async with release(True) as engine:
        await app.clock.advance(0)
        assert (await engine.get_run("r")).output == ["ship", "remind"]


@each_way
async def test_a_parent_needs_the_workflow_of_a_child_only_to_begin_one(settings: dict[str, Any], db: Path) -> None:
    """C114: not for the end of one that has begun; for another attempt it is suspended."""
    app = still(db, settings)
    release = of_a_family(app, db, settings)
    async with release(True) as engine:
        for run_id in ("r", "s"):
            await engine.start("flow", run_id=run_id)
        await app.clock.advance(0)
    async with release(False) as engine:
        await engine.cancel("r/part", "no")
        await app.clock.advance("30m")
        assert await stand(engine) == ("running", "")
        await app.clock.advance("30m")
        said = "ReplayMismatch: step 0: recorded 'part' (workflow part) is under way, and no workflow named 'part' is"
        assert (await stand(engine))[1].startswith(said)
        assert await stand(engine, "s") == ("running", "")
        await engine.cancel("s/part", "no")
    async with release(True) as engine:
        await app.clock.advance("1h")  # until the second attempt of the one in 's'
        await app.clock.advance("1h")
        assert [(await stand(engine, run_id))[0] for run_id in ("r/part#2", "s/part#2")] == ["completed"] * 2
        assert [(await engine.get_run(run_id)).output for run_id in "rs"] == [["ship", "remind"]] * 2


# What the reason says


def waits() -> dict[str, tuple[Any, str]]:
    """Bodies that ask for less than was recorded at a place, and what they do instead."""
    asked = "which the code has not asked for at this place"

    async def one_after_the_other(workflow: Workflow) -> None:
        await workflow.do("a", lambda: 1)
        await workflow.do("b", lambda: 2)

    async def waits_for_two(workflow: Workflow) -> None:
        await asyncio.gather(workflow.do("a", lambda: 1), workflow.sleep("nap", "1d"))

    async def waits_for_a_timer(workflow: Workflow) -> None:
        await asyncio.sleep(60)

    async def waits_for_nothing(workflow: Workflow) -> None:
        await asyncio.Event().wait()

    async def waits_deep_inside(workflow: Workflow) -> None:
        async def inner() -> None:
            async with asyncio.timeout(None):
                await asyncio.gather(workflow.do("a", lambda: 1))

        @asynccontextmanager
        async def around() -> AsyncIterator[None]:
            await inner()
            yield

        async with around():
            pass

    class Later:
        def __init__(self, workflow: Workflow) -> None:
            self.workflow = workflow

        def __await__(self) -> Generator[Any, None, None]:
            yield from self.workflow.do("a", lambda: 1).__await__()

    async def waits_for_an_object(workflow: Workflow) -> None:
        await Later(workflow)

    async def ends(workflow: Workflow) -> None:
        return

    async def breaks(workflow: Workflow) -> None:
        raise ValueError("bug in the new code")

    async def gives_up(workflow: Workflow) -> None:
        workflow.cancel("new rule")

    no_longer = "which the code no longer asks for (and 2 more)"

    def line(code: Any, after: int = 1) -> str:
        return f"{__file__}:{code.__code__.co_firstlineno + after}"

    b, all_three = "step 1: recorded 'b' (inline)", "step 0: recorded 'a' (inline)"
    return {
        "one after the other": (
            one_after_the_other,
            f"{b}, {asked} (and 1 more); it waits for 'a' (inline) at {line(one_after_the_other)}",
        ),
        "waits for two": (waits_for_two, "step 1: recorded 'b' (inline), asked for 'nap' (sleep) at "),
        "waits for a timer": (
            waits_for_a_timer,
            f"{all_three}, {asked} (and 2 more); it waits for an asyncio timer at {line(waits_for_a_timer)}",
        ),
        "waits for nothing": (
            waits_for_nothing,
            f"{all_three}, {asked} (and 2 more); it waits for nothing that a step can bring about at "
            + line(waits_for_nothing),
        ),
        "waits deep inside": (
            waits_deep_inside,
            f"{b}, {asked} (and 1 more); it waits for 'a' (inline) at {line(waits_deep_inside, 10)}",
        ),
        "waits for an object": (
            waits_for_an_object,
            f"{b}, {asked} (and 1 more); it waits for 'a' (inline) at {line(Later.__await__)}",
        ),
        "ends": (ends, f"{all_three}, {no_longer}; it returned"),
        "breaks": (breaks, f"{all_three}, {no_longer}; it raised ValueError at {line(breaks)}: bug in the new code"),
        "gives up": (gives_up, f"{all_three}, {no_longer}; it cancelled the run: new rule"),
    }


@each_way
@pytest.mark.parametrize("change", waits())
async def test_the_reason_tells_code_that_waits_from_code_that_has_ended(
    change: str, settings: dict[str, Any], db: Path
) -> None:
    """C111: code that waits for something else may ask later; only a body that is over no longer asks."""
    app = still(db, settings)

    async def body(workflow: Workflow) -> None:
        a = workflow.do("a", app.step("a"), retries=1, retry_delay="1d")
        await asyncio.gather(a, workflow.do("b", app.step("b")), workflow.sleep("nap", "1d"))

    changed, said = waits()[change]
    app.broken = {"a"}
    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(changed) as engine:
        await engine.signal("r", "look")
        assert (await stand(engine))[1].startswith(f"ReplayMismatch: {said}")


# What was under way when new code is accepted


class Release(NamedTuple):
    """A run of 'flow' that was begun by old code, and the code that is accepted for it after half an hour."""

    app: App
    old: Body
    new: Body
    child: Body

    def open(self, body: Body) -> AbstractAsyncContextManager[Engine]:
        return self.app.open(body, child=self.child)

    async def begin(self) -> None:
        async with self.open(self.old) as engine:
            await engine.start("flow", run_id="r")
            await self.app.clock.advance("30min")

    async def accept(self, engine: Engine) -> None:
        """Also a second time, after a kill in the first one."""
        await engine.signal("r", "look")
        if (await stand(engine))[0] == "suspended":
            await engine.resume("r", accept="new")
        await self.app.clock.advance(0)


def release(db: Path, settings: dict[str, Any], under_way: str) -> Release:
    """The new code has one more step before what is under way."""
    app = still(db, settings)

    async def child(workflow: Workflow) -> str:
        await workflow.do("begin", app.step("begin"))
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("end", app.step("end")))

    def fails_once() -> str:
        app.effects.append("flaky")
        if app.effects.count("flaky") == 1:
            raise ConnectionError
        return "flaky"

    async def last(workflow: Workflow) -> Any:
        match under_way:
            case "sleep":
                return await workflow.sleep("last", "1h")
            case "retry":
                return await workflow.do("last", fails_once, retries=1, retry_delay="1h")
            case "child":
                return await workflow.do("last", "child")
            case "signal":
                with pytest.raises(SignalTimeout):
                    await workflow.wait_for_signal("last", timeout="1h")
                return None
            case _:
                return isinstance(await workflow.approval("last", timeout="1h"), Expired)

    async def old(workflow: Workflow) -> Any:
        await workflow.do("first", app.step("first"))
        return await last(workflow)

    async def new(workflow: Workflow) -> Any:
        await workflow.do("first", app.step("first"))
        await workflow.do("new", app.step("new"))
        return await last(workflow)

    return Release(app, old, new, child)


KINDS = {
    "sleep": (None, ["first", "new"]),
    "retry": ("flaky", ["first", "flaky", "new", "flaky"]),
    "child": ("end", ["first", "begin", "new", "end"]),
    "signal": (None, ["first", "new"]),
    "approval": (True, ["first", "new"]),
}


@each_way
@pytest.mark.parametrize("under_way", KINDS)
async def test_what_is_under_way_goes_on_in_accepted_code(under_way: str, settings: dict[str, Any], db: Path) -> None:
    """Deadlines, the number and time of the next attempt, and the child run stay."""
    released = release(db, settings, under_way)
    app = released.app
    await released.begin()
    output, effects = KINDS[under_way]
    async with released.open(released.new) as engine:
        await released.accept(engine)
        steps = await engine.steps("r")
        assert [step.name for step in steps] == ["first", "new", "last"]
        if steps[2].kind != "workflow":
            assert steps[2].wake_at is not None
            assert steps[2].wake_at - app.clock.now() == timedelta(minutes=30)
        await app.clock.advance("30min")
        found = await engine.get_run("r")
        assert (found.status, found.output) == ("completed", output)
        assert app.effects == effects
    async with released.open(released.new) as engine:
        history = numbers(await engine.history("r"))
        assert len(history) == len(set(history)) == {"retry": 4, "child": 3}.get(under_way, 2)
        children = [run.id for run in (await engine.list_runs(workflow="child")).runs]
        assert children == (["r/last"] if under_way == "child" else [])
        assert [step.child_run_id for step in await engine.steps("r")] == [None, None, *(children or [None])]


@each_way
@pytest.mark.parametrize("under_way", KINDS)
async def test_a_kill_while_code_is_accepted_loses_nothing(
    under_way: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    """Promise 7: after any commit the next life goes on with what was under way, and repeats no recorded outcome."""
    db = tmp_path / "app.db"
    released = release(db, settings, under_way)
    app = released.app
    await released.begin()
    began = app.clock.now_us()
    with each_commit(db, lambda: list(app.effects)) as copies:
        async with released.open(released.new) as engine:
            await released.accept(engine)
    output, effects = KINDS[under_way]

    assert len(copies.moments) >= 5
    for copy, had in copies.restored(tmp_path):
        again = release(copy, settings, under_way)
        again.app.clock = VirtualClock(moment(began))
        again.app.effects[:] = had
        async with again.open(again.new) as engine:
            await again.accept(engine)
            await again.app.clock.advance("30min")
            found = await engine.get_run("r")
            assert (found.status, found.output) == ("completed", output), found.reason
            if again.app.effects.count("new") == 2:  # its outcome was not on disk
                again.app.effects.remove("new")
            assert sorted(again.app.effects) == sorted(effects)
            history = numbers(await engine.history("r"))
            assert len(history) == len(set(history))
            assert len((await engine.list_runs()).runs) == (2 if under_way == "child" else 1)


@each_way
async def test_a_child_that_ends_before_it_is_asked_for_again_is_not_run_twice(
    settings: dict[str, Any], db: Path
) -> None:
    """Nor is it told to another step: the new code has another child where this one was."""
    app = still(db, settings)

    async def child(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return str(await workflow.do(workflow.run_id, app.step(workflow.run_id)))

    async def old(workflow: Workflow) -> str:
        return str(await workflow.do("last", "child"))

    async def new(workflow: Workflow) -> list[str]:
        first = await workflow.do("first", "child")
        await workflow.sleep("pause", "1h")
        return [first, await workflow.do("last", "child")]

    async with app.open(old, child=child) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(new, child=child) as engine:
        await engine.signal("r", "look")
        await engine.resume("r", accept="new")
        await app.clock.advance("1h")
        assert [step.name for step in await engine.steps("r")] == ["first", "pause"]
        assert str((await engine.get_run("r/last")).status) == "completed"
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).output == ["r/first", "r/last"]
        assert sorted(app.effects) == ["r/first", "r/last"]


@each_way
@pytest.mark.parametrize("how", ["returns", "fails", "is cancelled"])
async def test_what_is_not_asked_for_any_more_ends_with_the_run(how: str, settings: dict[str, Any], db: Path) -> None:
    """C142: until then the code could still ask for it; a restart in between changes nothing."""
    app = still(db, settings)

    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    async def old(workflow: Workflow) -> None:
        await workflow.do("part", "child")

    async def new(workflow: Workflow) -> str:
        await workflow.sleep("instead", "1h")
        if how == "fails":
            raise ValueError(how)
        return how

    async with app.open(old, child=child) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(new, child=child) as engine:
        await engine.signal("r", "look")
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
    async with app.open(new, child=child) as engine:
        assert (await stand(engine, "r/part"))[0] == "running"
        if how == "is cancelled":
            await engine.cancel("r", "enough")
        await app.clock.advance("1h")
        assert (await stand(engine))[0] == {"returns": "completed", "fails": "failed", "is cancelled": "cancelled"}[how]
        assert (await stand(engine, "r/part"))[0] == "cancelled"


@each_way
async def test_what_was_set_aside_survives_other_code(settings: dict[str, Any], db: Path) -> None:
    """A second release that asks for it again gets it, with its deadline."""
    app = still(db, settings)

    async def old(workflow: Workflow) -> str:
        await workflow.do("first", app.step("first"))
        await workflow.sleep("nap", "1d")
        return "old"

    async def without(workflow: Workflow) -> None:
        await workflow.sleep("other", "9d")

    async def again(workflow: Workflow) -> str:
        first = await workflow.do("first", app.step("first"))
        await workflow.sleep("nap", "1d")
        return str(first)

    async with app.open(old) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    for body in (without, again):
        async with app.open(body) as engine:
            await app.clock.advance("1h")
            await engine.signal("r", "look")
            await engine.resume("r", accept="new")
            await app.clock.advance(0)
            assert (await stand(engine))[0] == "running"
    async with app.open(again) as engine:
        await app.clock.advance("22h")
        assert (await engine.get_run("r")).output == "first"
    assert app.effects == ["first"]


@each_way
async def test_a_retried_run_gives_a_child_that_was_set_aside_another_attempt(
    settings: dict[str, Any], db: Path
) -> None:
    """Its failure had cancelled it."""
    app = still(db, settings)

    async def child(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return workflow.run_id

    async def old(workflow: Workflow) -> None:
        await workflow.do("part", "child")

    async def new(workflow: Workflow) -> str:
        await workflow.do("bad", app.step("bad"))
        return str(await workflow.do("part", "child"))

    async with app.open(old, child=child) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    app.broken = {"bad"}
    async with app.open(new, child=child) as engine:
        await engine.signal("r", "look")
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
        assert (await stand(engine))[0] == "failed"
        assert (await stand(engine, "r/part"))[0] == "cancelled"
        app.broken.clear()
        await engine.retry("r")
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).output == "r/part#2"


@each_way
@pytest.mark.parametrize("fails", [False, True])
async def test_accepted_code_needs_no_function_of_an_outcome(fails: bool, settings: dict[str, Any], db: Path) -> None:
    """C114: nor does it where the step has another place; what is under way needs it there, too."""
    app = still(db, settings)

    async def old(workflow: Workflow) -> None:
        await workflow.do("ship", "ship", retries=1, retry_delay="1h")
        await workflow.wait_for_signal("go")

    async def new(workflow: Workflow) -> str:
        await workflow.do("new", app.step("new"))
        return str(await workflow.do("ship", "ship", retries=1, retry_delay="1h"))

    async def ship(services: Services) -> str:
        if fails:
            raise ConnectionError
        return "shipped"

    pikku = Pikku()
    pikku.workflow(name="flow")(old)
    pikku.function(ship)
    async with pikku.open(db, clock=app.clock, **settings) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(new) as engine:
        await engine.signal("r", "look")
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
        if fails:
            said = "ReplayMismatch: step 1: recorded 'ship' (function ship) is under way, and no function named 'ship'"
            assert (await stand(engine))[1].startswith(said)
        else:
            assert (await engine.get_run("r")).output == "shipped"
        assert app.effects == ["new"]


@each_way
async def test_attempts_from_before_a_step_was_set_aside_count(settings: dict[str, Any], db: Path) -> None:
    """I6: cancelled by the run's failure and retried, it goes on with the next number."""
    app = still(db, settings)

    async def old(workflow: Workflow) -> None:
        await workflow.do("flaky", app.step("flaky"), retries=5, retry_delay="1h")

    async def new(workflow: Workflow) -> None:
        await workflow.do("new", app.step("new"))
        flaky = workflow.do("flaky", app.step("flaky"), retries=5, retry_delay="1h")
        await workflow.do("bad", app.step("bad"))
        await flaky

    app.broken = {"flaky", "bad"}
    async with app.open(old) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with app.open(new) as engine:
        await engine.signal("r", "look")
        await engine.resume("r", accept="new")
        await app.clock.advance(0)
        assert (await stand(engine))[0] == "failed"
        app.broken.clear()
        await engine.retry("r")
        await app.clock.advance(0)
        assert (await stand(engine))[0] == "completed"
        history = numbers(await engine.history("r"))
        assert [one for one in history if one[0] == "flaky"] == [("flaky", 1, "failed"), ("flaky", 2, "succeeded")]


@each_way
async def test_a_fired_timer_that_the_code_sets_for_another_time_is_shown_with_its_place(
    settings: dict[str, Any], db: Path
) -> None:
    """C111: both times, and the line of the code that sets it; or that it sets none."""
    app = still(db, settings)

    async def body(workflow: Workflow) -> None:
        await asyncio.sleep(3600)
        await workflow.sleep("nap", "30d")

    async def longer(workflow: Workflow) -> None:
        async with asyncio.timeout(7200):
            await workflow.sleep("nap", "30d")

    async def none(workflow: Workflow) -> None:
        await workflow.sleep("nap", "30d")

    async with app.open(body) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance("2h")
    later = app.clock.now().isoformat()
    hour = (app.clock.now() - timedelta(hours=1)).isoformat()
    said = f"ReplayMismatch: asyncio timer 0: recorded as due at {hour}, the code sets"
    line = f"{__file__}:{longer.__code__.co_firstlineno + 1}"
    async with app.open(longer) as engine:
        await app.clock.advance("30d")
        assert await stand(engine) == (
            "suspended",
            f"{said} it for {later} at {line}",
        )
    async with app.open(none) as engine:
        await app.clock.advance(0)
        assert await stand(engine) == ("suspended", f"{said} no such timer")
