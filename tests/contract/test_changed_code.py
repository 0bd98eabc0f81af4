"""Changed code, as those meet it who speak to a run that does not fit it: resume, approve, signal, accept."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Engine, Pikku, RunStateError, Services, Workflow
from pikkupy.testing import VirtualClock
from tests.contract.test_again import App, each_way


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
@pytest.mark.parametrize("kind", ["function", "workflow"])
async def test_a_step_under_way_whose_target_is_gone_is_named(kind: str, settings: dict[str, Any], db: Path) -> None:
    """C114: with what is missing; nothing of it can be accepted, and the next open that has it goes on."""
    app = still(db, settings)
    if kind == "workflow":

        async def body(workflow: Workflow) -> str:
            await workflow.do("first", app.step("first"))
            return str(await workflow.do("ship", "part"))
    else:

        async def body(workflow: Workflow) -> str:
            await workflow.do("first", app.step("first"))
            return str(await workflow.do("ship", "part", retries=1, retry_delay="1h"))

    async def part(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return "shipped"

    async def broken_once(services: Services) -> str:
        app.effects.append("part")
        if app.effects.count("part") == 1:
            raise ConnectionError
        return "shipped"

    def release(*, whole: bool) -> AbstractAsyncContextManager[Engine]:
        pikku = Pikku()
        pikku.workflow(name="flow")(body)
        if whole and kind == "workflow":
            pikku.workflow(part)
        elif whole:
            pikku.function(name="part")(broken_once)
        return pikku.open(db, clock=app.clock, **settings)

    async with release(whole=True) as engine:
        await engine.start("flow", run_id="r")
        await app.clock.advance(0)
    async with release(whole=False) as engine:
        await engine.signal("r", "look")  # a run that waits in the file is compared with the code when it wakes
        said = f"ReplayMismatch: step 1: recorded 'ship' ({kind} part) is under way, and no {kind} named 'part' is"
        assert (await stand(engine))[1].startswith(said)
        await engine.resume("r", accept="new")
        assert (await stand(engine))[1].startswith(said)
        assert [step.name for step in await engine.steps("r")] == ["first", "ship"]
    async with release(whole=True) as engine:
        await app.clock.advance("1h")
        assert (await engine.get_run("r")).output == "shipped"


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

    async def ends(workflow: Workflow) -> None:
        return

    b, all_three = "step 1: recorded 'b' (inline)", "step 0: recorded 'a' (inline)"
    return {
        "one after the other": (one_after_the_other, f"{b}, {asked} (and 1 more); it waits for 'a' (inline)"),
        "waits for two": (waits_for_two, "step 1: recorded 'b' (inline), asked for 'nap' (sleep) at "),
        "waits for a timer": (waits_for_a_timer, f"{all_three}, {asked} (and 2 more); it waits for an asyncio timer"),
        "waits for nothing": (waits_for_nothing, f"{all_three}, {asked} (and 2 more); it waits for nothing that"),
        "ends": (ends, f"{all_three}, which the code no longer asks for (and 2 more)"),
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
