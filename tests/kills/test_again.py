"""Kills while a run is taken back to an earlier point: a retry, a fork, changed code that is accepted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Workflow
from tests.contract.waiting import BOTH
from tests.kills.facts import Facts
from tests.kills.story import Caller, Story, mark, survives

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


async def child(workflow: Workflow) -> Any:
    await workflow.do("good", mark(workflow))
    await workflow.sleep("nap", "1h")
    return await workflow.do("bad", mark(workflow, "mended", failures=1))


async def waiting(workflow: Workflow) -> Any:
    await workflow.do("begin", mark(workflow))
    return await workflow.wait_for_signal("go")


async def napping(workflow: Workflow) -> Any:
    await workflow.do("begin", mark(workflow))
    await workflow.sleep("nap", "1d")


# Retries


@each_way
async def test_a_failed_run_is_retried(settings: dict[str, Any], tmp_path: Path) -> None:
    """I2, I6: it goes on from its failed step or is failed as before; what had succeeded never runs again."""

    async def body(workflow: Workflow) -> list[Any]:
        first = await workflow.do("first", mark(workflow, 1))
        nap = workflow.sleep("nap", "1h")
        second = await workflow.do("second", mark(workflow, 2, failures=2), retries=1)
        await nap
        return [first, second]

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1min")
        await caller.retry("r")
        await caller.at("2h")

    story = Story(
        {"flow": body}, script, {"r": "completed"}, {"r": [1, 2]}, frozenset({("r", "first"), ("r", "second")})
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_failed_child_is_retried_with_its_parent(settings: dict[str, Any], tmp_path: Path) -> None:
    """C143: both go on or none does; it is the same child."""

    async def parent(workflow: Workflow) -> Any:
        return await workflow.do("part", "child")

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.retry("p")

    def always(facts: Facts) -> None:
        if "p/part" in facts.runs and facts.runs["p"].status == "failed":
            assert facts.runs["p/part"].status == "failed"

    story = Story(
        {"parent": parent, "child": child},
        script,
        {"p": "completed", "p/part": "completed"},
        {"p": "mended"},
        frozenset({("p/part", "good"), ("p/part", "bad")}),
        always=always,
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_failed_grandchild_is_retried_from_the_top(settings: dict[str, Any], tmp_path: Path) -> None:
    """C143: all the way down, in one commit."""

    async def top(workflow: Workflow) -> Any:
        return await workflow.do("middle", "parent")

    async def parent(workflow: Workflow) -> Any:
        return await workflow.do("part", "child")

    async def script(caller: Caller) -> None:
        await caller.start("top", "t")
        await caller.at("1h")
        await caller.retry("t")

    def always(facts: Facts) -> None:
        assert facts.runs.keys() != {"t", "t/middle", "t/middle/part"} or (
            facts.runs["t"].status != "failed" or {run.status for run in facts.below("t")} == {"failed"}
        )

    runs = ("t", "t/middle", "t/middle/part")
    story = Story(
        {"top": top, "parent": parent, "child": child},
        script,
        dict.fromkeys(runs, "completed"),
        {"t": "mended"},
        always=always,
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_that_goes_on_by_itself(settings: dict[str, Any], tmp_path: Path) -> None:
    """Retried when its parent has ended, it is nobody's child any more: a start-up does not cancel it."""

    async def parent(workflow: Workflow) -> None:
        await workflow.do("part", "child")

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.at("2h")
        await caller.retry("p/part")

    async def going_on(workflow: Workflow) -> Any:
        value = await child(workflow)
        await workflow.sleep("later", "1h")
        return value

    async def to_the_end(caller: Caller) -> None:
        await script(caller)
        await caller.at("3h")

    story = Story(
        {"parent": parent, "child": going_on},
        to_the_end,
        {"p": "failed", "p/part": "completed"},
        {"p/part": "mended"},
        astray=frozenset({"p/part"}),
    )
    await survives(story, tmp_path, settings)


# Forks


@each_way
async def test_a_fork(settings: dict[str, Any], tmp_path: Path) -> None:
    """It is there as a whole, or not at all; what it shares is not executed, and the source stays as it is."""

    async def body(workflow: Workflow) -> list[Any]:
        first = await workflow.do("first", mark(workflow, 1, failures=1), retries=1)
        async with asyncio.timeout(86_400):
            await asyncio.sleep(60)
        await workflow.sleep("nap", "1h")
        second = await workflow.do("second", mark(workflow, 2))
        return [first, second, await workflow.wait_for_signal("go")]

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.at("1min")
        await caller.at("2h")
        await caller.fork("r", "second", "f")
        await caller.at("3h")
        await caller.signal("r", "go", "r")
        await caller.signal("f", "go", "f")

    def always(facts: Facts) -> None:
        if "f" in facts.runs:
            assert (facts.status("f", "first"), facts.status("f", "nap")) == ("succeeded", "succeeded")
            assert facts.status("r", "second") == "succeeded"

    story = Story(
        {"flow": body},
        script,
        {"r": "completed", "f": "completed"},
        {"r": [1, 2, "r"], "f": [1, 2, "f"]},
        frozenset({("r", "first"), ("r", "second"), ("f", "second")}),
        always=always,
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_fork_of_a_run_that_has_children(settings: dict[str, Any], tmp_path: Path) -> None:
    """The child that was shared is not started again; the one that is not, is."""

    async def quick(workflow: Workflow) -> Any:
        await workflow.do("begin", mark(workflow))
        await workflow.sleep("nap", "1h")
        return workflow.run_id

    async def parent(workflow: Workflow) -> list[Any]:
        return [await workflow.do("a", "quick"), await workflow.do("b", "quick")]

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.fork("p", "b", "f")
        await caller.at("2h")

    runs = ("p", "p/a", "p/b", "f", "f/b")
    story = Story(
        {"parent": parent, "quick": quick},
        script,
        dict.fromkeys(runs, "completed"),
        {"p": ["p/a", "p/b"], "f": ["p/a", "f/b"]},
        frozenset({("p/a", "begin"), ("p/b", "begin"), ("f/b", "begin")}),
    )
    await survives(story, tmp_path, settings)


# Changed code that is accepted


async def old_script(caller: Caller) -> None:
    await caller.start("flow", "r")
    await caller.at("1min")


async def accepting(caller: Caller) -> None:
    await caller.signal("r", "look")  # a run that waits in the file is compared with the code when it is told something
    await caller.at("1min")
    await caller.accept("r")
    await caller.at("2h")


@each_way
async def test_accepted_code(settings: dict[str, Any], tmp_path: Path) -> None:
    """I2: outcomes that the new code asks for are kept, whatever was killed after they were set aside."""

    async def old(workflow: Workflow) -> None:
        await workflow.do("first", mark(workflow, 1))
        await workflow.do("second", mark(workflow, 2))
        await workflow.wait_for_signal("go")

    async def new(workflow: Workflow) -> list[Any]:
        first = await workflow.do("first", mark(workflow, 1))
        inserted = await workflow.do("inserted", mark(workflow, 1.5))
        second = await workflow.do("second", mark(workflow, 2))
        await workflow.sleep("nap", "1h")
        return [first, inserted, second]

    story = Story(
        {"flow": new},
        accepting,
        {"r": "completed"},
        {"r": [1, 1.5, 2]},
        frozenset({("r", "inserted")}),
        before=Story({"flow": old}, old_script, {}),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_accepted_code_that_has_no_use_for_children(settings: dict[str, Any], tmp_path: Path) -> None:
    """Unfinished children of the steps that were set aside are cancelled in the end, whatever was killed in between."""

    async def old(workflow: Workflow) -> None:
        await workflow.do("first", mark(workflow, 1))
        await asyncio.gather(workflow.do("a", "waiting"), workflow.do("b", "napping"))

    async def new(workflow: Workflow) -> Any:
        first = await workflow.do("first", mark(workflow, 1))
        await workflow.sleep("instead", "1h")
        return first

    story = Story(
        {"flow": new, "waiting": waiting, "napping": napping},
        accepting,
        {"r": "completed", "r/a": "cancelled", "r/b": "cancelled"},
        {"r": 1},
        before=Story({"flow": old, "waiting": waiting, "napping": napping}, old_script, {}),
    )
    await survives(story, tmp_path, settings)


@each_way
@pytest.mark.parametrize("steps_before", [0, 1])  # of every second kill the recovery is killed as well
async def test_a_run_that_takes_the_new_way_keeps_to_it(
    steps_before: int, settings: dict[str, Any], tmp_path: Path
) -> None:
    """I10: also if the start-up that counts its steps as cut off is killed: they are on disk after the way."""

    async def body(workflow: Workflow) -> Any:
        for _ in range(steps_before):
            await workflow.do("before", mark(workflow))
        await workflow.wait_for_signal("go")
        if not workflow.changed("new way"):
            return await workflow.do("old", mark(workflow, "old"))
        return await asyncio.gather(*(workflow.do(name, mark(workflow, name)) for name in ("new", "too")))

    async def script(caller: Caller) -> None:
        await caller.start("flow", "r")
        await caller.signal("r", "go")

    await survives(Story({"flow": body}, script, {"r": "completed"}, {"r": ["new", "too"]}), tmp_path, settings)
