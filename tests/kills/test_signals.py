"""Kills between a signal and its consumption: it is taken once, in order, by the wait that was first."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Decided, Expired, PayloadError, RunStateError, SignalTimeout, Workflow
from tests.contract.waiting import BOTH
from tests.kills.facts import Facts
from tests.kills.story import Caller, Story, mark, survives

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


@each_way
async def test_signals_before_and_after_their_waits(settings: dict[str, Any], tmp_path: Path) -> None:
    """I5: kept if it comes early, and consumed exactly once, in order."""

    async def body(workflow: Workflow) -> list[Any]:
        await workflow.do("first", mark(workflow))
        got = [await workflow.wait_for_signal("go")]
        await workflow.sleep("nap", "1h")
        got += [await workflow.wait_for_signal("go") for _ in range(2)]
        return [*got, await workflow.do("last", mark(workflow, "done"))]

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.signal("r", "go", 1)
        await caller.signal("r", "go", 2)
        await caller.at("1min")
        await caller.signal("r", "other", "kept")
        await caller.at("1h")
        await caller.signal("r", "go", 3)

    story = Story(
        {"flow": body},
        script,
        ends={"r": "completed"},
        outputs={"r": [1, 2, 3, "done"]},
        effects=frozenset({("r", "first"), ("r", "last")}),
    )
    assert await survives(story, tmp_path, settings) > 10


@each_way
async def test_a_signal_that_comes_while_the_wait_is_on_its_way(settings: dict[str, Any], tmp_path: Path) -> None:
    """Nothing settles between the calls; whichever is on disk first, no signal is lost or taken twice."""

    async def body(workflow: Workflow) -> list[Any]:
        got = []
        for number in range(3):
            got.append(await workflow.wait_for_signal("go"))
            await workflow.do("between", mark(workflow, number))
        return got

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        for number in range(3):
            await caller.signal("r", "go", number)

    effects = frozenset({("r", "between"), ("r", "between#1"), ("r", "between#2")})
    await survives(Story({"flow": body}, script, {"r": "completed"}, {"r": [0, 1, 2]}, effects), tmp_path, settings)


@each_way
async def test_two_waits_of_one_name(settings: dict[str, Any], tmp_path: Path) -> None:
    """C46: the first to wait is the first served, whatever was killed between the two signals."""

    async def body(workflow: Workflow) -> list[Any]:
        async def branch(name: str) -> list[Any]:
            got = await workflow.wait_for_signal("go", timeout="1d")
            return [got, await workflow.do(name, mark(workflow, name))]

        return list(await asyncio.gather(branch("a"), branch("b"), branch("c")))

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.signal("r", "go", 1)
        await caller.at("1min")
        await caller.signal("r", "go", 2)
        await caller.signal("r", "go", 3)

    effects = frozenset({("r", "a"), ("r", "b"), ("r", "c")})
    outputs = {"r": [[1, "a"], [2, "b"], [3, "c"]]}
    await survives(Story({"flow": body}, script, {"r": "completed"}, outputs, effects), tmp_path, settings)


@each_way
async def test_a_wait_that_times_out(settings: dict[str, Any], tmp_path: Path) -> None:
    """I7, C45: it has the time that is recorded, times out once, and a late signal is for the next wait."""

    async def body(workflow: Workflow) -> list[Any]:
        got: list[Any] = []
        for _ in range(2):
            try:
                got.append(await workflow.wait_for_signal("go", timeout="1h"))
            except SignalTimeout:
                got.append(await workflow.do("late", mark(workflow, "late")))
        await workflow.sleep("nap", "1h")
        return [*got, await workflow.wait_for_signal("go", timeout="1h"), workflow.now().hour]

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("59min")
        await caller.signal("r", "go", "in time")
        await caller.at("118min")
        await caller.at("119min")
        await caller.signal("r", "go", "for the third")
        await caller.at("179min")

    outputs = {"r": ["in time", "late", "for the third", 2]}
    story = Story({"flow": body}, script, {"r": "completed"}, outputs, frozenset({("r", "late")}))
    await survives(story, tmp_path, settings)


@each_way
async def test_a_branch_that_waits_is_dropped(settings: dict[str, Any], tmp_path: Path) -> None:
    """C34: the signal is for the next wait."""

    async def body(workflow: Workflow) -> Any:
        with suppress(TimeoutError):
            async with asyncio.timeout(3600):
                await workflow.wait_for_signal("go")
        await workflow.do("after", mark(workflow))
        return await workflow.wait_for_signal("go")

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1h")
        await caller.signal("r", "go", "late")

    story = Story({"flow": body}, script, {"r": "completed"}, {"r": "late"}, frozenset({("r", "after")}))
    await survives(story, tmp_path, settings)


@each_way
async def test_a_signal_that_does_not_fit(settings: dict[str, Any], tmp_path: Path) -> None:
    """C44: it is used up, by the wait that it was for, once."""

    async def body(workflow: Workflow) -> list[Any]:
        got: list[Any] = []
        while len(got) < 3:
            try:
                got.append(await workflow.wait_for_signal("go", int))
            except PayloadError:
                got.append("unfit")
        return got

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.signal("r", "go", 1)
        await caller.signal("r", "go", "two")
        await caller.at("1min")
        await caller.signal("r", "go", 3)

    await survives(Story({"flow": body}, script, {"r": "completed"}, {"r": [1, "unfit", 3]}), tmp_path, settings)


# Approvals


async def approving(workflow: Workflow) -> list[Any]:
    answer = await workflow.approval("refund", int, timeout="1d")
    match answer:
        case Decided(decision, _):
            return [await workflow.do("pay", mark(workflow, decision))]
        case Expired():
            return [await workflow.do("forget", mark(workflow, "expired"))]


@each_way
async def test_a_decision(settings: dict[str, Any], tmp_path: Path) -> None:
    """I5: one that was acknowledged stands, and one that is refused leaves nothing behind."""

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1h")
        if (await caller.engine.get_run("r")).status == "running":
            with pytest.raises((PayloadError, RunStateError)):
                await caller.engine.approve("r", "refund", "much")
        await caller.approve("r", "refund", 5)

    story = Story({"flow": approving}, script, {"r": "completed"}, {"r": [5]}, frozenset({("r", "pay")}))
    await survives(story, tmp_path, settings)


@each_way
async def test_decisions_that_came_before_they_were_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    """What does not fit is used up, and the gate stays shut for the one behind it."""

    async def body(workflow: Workflow) -> list[Any]:
        await workflow.sleep("nap", "1h")
        return await approving(workflow)

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.signal("r", "refund", "nonsense")
        await caller.signal("r", "refund", 7)
        await caller.at("1h")

    story = Story({"flow": body}, script, {"r": "completed"}, {"r": [7]}, frozenset({("r", "pay")}))
    await survives(story, tmp_path, settings)


@each_way
async def test_an_approval_that_expires(settings: dict[str, Any], tmp_path: Path) -> None:
    """I7: at its time, and a decision that comes later is refused in every life."""

    async def body(workflow: Workflow) -> list[Any]:
        answer = await approving(workflow)
        await workflow.sleep("nap", "1h")
        return answer

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1d")
        with pytest.raises(RunStateError):
            await caller.engine.approve("r", "refund", 5)
        await caller.at("25h")

    story = Story({"flow": body}, script, {"r": "completed"}, {"r": ["expired"]}, frozenset({("r", "forget")}))
    await survives(story, tmp_path, settings)


# Gates


@each_way
async def test_gates_one_after_another(settings: dict[str, Any], tmp_path: Path) -> None:
    """C5, C42: each is opened by a resume of its own, which stands once it is acknowledged."""

    async def body(workflow: Workflow) -> str:
        await workflow.suspend("check")
        await workflow.do("between", mark(workflow))
        await workflow.suspend("check")
        return str(await workflow.do("last", mark(workflow, "through")))

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1h")
        await caller.resume("r", "check")
        await caller.at("2h")
        assert (await caller.engine.get_run("r")).reason in ("check", None)
        await caller.resume("r", "check#1")

    effects = frozenset({("r", "between"), ("r", "last")})
    await survives(Story({"flow": body}, script, {"r": "completed"}, {"r": "through"}, effects), tmp_path, settings)


@each_way
async def test_gates_side_by_side(settings: dict[str, Any], tmp_path: Path) -> None:
    """C41: one resume opens all, or none of them is open."""

    async def body(workflow: Workflow) -> list[Any]:
        async def branch(reason: str) -> str:
            await workflow.suspend(reason)
            return str(await workflow.do(f"after {reason}", mark(workflow, reason)))

        async def sibling() -> str:
            await workflow.sleep("nap", "30min")
            return str(await workflow.do("sibling", mark(workflow, "worked")))

        return list(await asyncio.gather(branch("one"), branch("two"), sibling()))

    def always(facts: Facts) -> None:
        assert len({facts.status("r", gate) == "succeeded" for gate in ("one", "two")}) == 1

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1h")
        await caller.resume("r", "one", "two")

    story = Story(
        {"flow": body},
        script,
        {"r": "completed"},
        {"r": ["one", "two", "worked"]},
        frozenset({("r", "after one"), ("r", "after two"), ("r", "sibling")}),
        always=always,
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_gate_that_is_dropped(settings: dict[str, Any], tmp_path: Path) -> None:
    """C34: nobody need open it; the run is not suspended any more."""

    async def body(workflow: Workflow) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(3600):
                await workflow.suspend("gate")
        await workflow.sleep("nap", "1h")
        return str(await workflow.do("last", mark(workflow, "through")))

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("30min")
        assert (await caller.engine.get_run("r")).status in ("suspended", "running", "completed")
        await caller.at("1h")
        assert (await caller.engine.get_run("r")).status in ("running", "completed")
        await caller.at("2h")

    story = Story({"flow": body}, script, {"r": "completed"}, {"r": "through"}, frozenset({("r", "last")}))
    await survives(story, tmp_path, settings)


# Starts


@each_way
async def test_a_start_with_a_delay(settings: dict[str, Any], tmp_path: Path) -> None:
    """I5, I7: signals that come before its time are kept, its body does not begin early, and it begins once."""

    async def body(workflow: Workflow) -> list[Any]:
        first = await workflow.do("first", mark(workflow, workflow.now().hour))
        return [first, await workflow.wait_for_signal("go")]

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r", delay="2h")
        await caller.start("flow", "never", delay="2h")
        await caller.at("1h")
        await caller.signal("r", "go", "early")
        await caller.cancel("never")
        await caller.at("2h")

    story = Story(
        {"flow": body},
        script,
        {"r": "completed", "never": "cancelled"},
        {"r": [2, "early"]},
        frozenset({("r", "first")}),
    )
    await survives(story, tmp_path, settings)
