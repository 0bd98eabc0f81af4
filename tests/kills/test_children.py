"""Kills around child runs: a child is started once, its end is seen once, and none goes on that nobody waits for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from pikkupy import StepFailed, Workflow
from pikkupy.core.model import RunMove, RunStatus
from pikkupy.engine.residents import Residents
from pikkupy.store import Journal
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH, IN_THE_FILE
from tests.kills.facts import Facts
from tests.kills.story import SETTINGS, Caller, Story, mark, survives

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


async def child(workflow: Workflow, data: Any = None) -> Any:
    await workflow.do("begin", mark(workflow))
    await workflow.sleep("nap", "1h")
    return await workflow.do("end", mark(workflow, data))


async def waiting(workflow: Workflow, data: Any = None) -> Any:
    """It ends when it is told, which it never is."""
    await workflow.do("begin", mark(workflow))
    return await workflow.wait_for_signal("go")


async def hopeless(workflow: Workflow, data: Any = None) -> None:
    await workflow.do("begin", mark(workflow))
    await workflow.sleep("nap", "1h")
    raise ValueError(data)


async def start_and_wait(caller: Caller) -> None:
    await caller.start("parent", "p")
    await caller.at("1h")


@each_way
async def test_a_child_that_succeeds(settings: dict[str, Any], tmp_path: Path) -> None:
    """I1, I2: one child, whether the kill was before its start, before its end or before its parent knew of that."""

    async def parent(workflow: Workflow) -> list[Any]:
        first = await workflow.do("part", "child", 5)
        return [first, await workflow.do("last", mark(workflow, "last"))]

    story = Story(
        {"parent": parent, "child": child},
        start_and_wait,
        {"p": "completed", "p/part": "completed"},
        {"p": [5, "last"]},
        frozenset({("p/part", "begin"), ("p/part", "end"), ("p", "last")}),
    )
    assert await survives(story, tmp_path, settings) > 8


@each_way
async def test_children_side_by_side(settings: dict[str, Any], tmp_path: Path) -> None:
    """Also of one name; one of them waits for a signal."""

    async def parent(workflow: Workflow) -> list[Any]:
        parts = [workflow.do("part", "child", number) for number in range(2)]
        return list(await asyncio.gather(*parts, workflow.do("told", "waiting")))

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.signal("p/told", "go", "told")
        await caller.at("1h")

    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        {"p": "completed", "p/part": "completed", "p/part#1": "completed", "p/told": "completed"},
        {"p": [0, 1, "told"]},
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_that_fails_and_is_retried(settings: dict[str, Any], tmp_path: Path) -> None:
    """I6, C61: each attempt of the step is a new child; none is skipped, and none is started twice."""

    async def flaky(workflow: Workflow) -> str:
        await workflow.do("begin", mark(workflow))
        await workflow.sleep("nap", "1h")
        if "#" not in workflow.run_id:
            raise OSError(workflow.run_id)
        return workflow.run_id

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "flaky", retries=1, retry_delay="1h"))

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        for hours in range(1, 4):
            await caller.at(f"{hours}h")

    story = Story(
        {"parent": parent, "flaky": flaky},
        script,
        {"p": "completed", "p/part": "failed", "p/part#2": "completed"},
        {"p": "p/part#2"},
        frozenset({("p/part", "begin"), ("p/part#2", "begin")}),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_whose_failure_is_caught(settings: dict[str, Any], tmp_path: Path) -> None:
    """I4: the error is the same whichever life sees it."""

    async def parent(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("part", "hopeless", "no luck")
        except StepFailed as failed:
            return [failed.message, failed.error_type, await workflow.do("last", mark(workflow))]
        return []

    story = Story(
        {"parent": parent, "hopeless": hopeless},
        start_and_wait,
        {"p": "completed", "p/part": "failed"},
        {"p": ["no luck", "ValueError", None]},
        frozenset({("p/part", "begin"), ("p", "last")}),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_that_is_cancelled_from_outside(settings: dict[str, Any], tmp_path: Path) -> None:
    """C140: its parent goes on with the failure."""

    async def parent(workflow: Workflow) -> str:
        try:
            await workflow.do("part", "waiting")
        except StepFailed as failed:
            return str(await workflow.do("last", mark(workflow, failed.message)))
        return ""

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.cancel("p/part", "enough")

    story = Story(
        {"parent": parent, "waiting": waiting},
        script,
        {"p": "completed", "p/part": "cancelled"},
        {"p": "run 'p/part' was cancelled: enough"},
        frozenset({("p/part", "begin"), ("p", "last")}),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_that_is_suspended(settings: dict[str, Any], tmp_path: Path) -> None:
    """C141: its parent waits until it is resumed."""

    async def gated(workflow: Workflow) -> str:
        await workflow.suspend("gate")
        return "seen"

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "gated"))

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.resume("p/part", "gate")

    story = Story({"parent": parent, "gated": gated}, script, {"p": "completed", "p/part": "completed"}, {"p": "seen"})
    await survives(story, tmp_path, settings)


# Ends of parents


@each_way
async def test_a_parent_that_is_cancelled_from_outside(settings: dict[str, Any], tmp_path: Path) -> None:
    """I8, C142: its children end with it, with the same reason, before `cancel` returns."""

    async def parent(workflow: Workflow) -> None:
        await asyncio.gather(workflow.do("a", "child"), workflow.do("b", "waiting"), workflow.do("c", "waiting"))

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.cancel("p", "stop all")
        await caller.at("2h")

    runs = ("p", "p/a", "p/b", "p/c")
    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        dict.fromkeys(runs, "cancelled"),
        effects=frozenset((run, "begin") for run in runs[1:]),
        reasons=dict.fromkeys(runs, "stop all"),
    )
    await survives(story, tmp_path, settings)


@each_way
@pytest.mark.parametrize("how", ["cancels itself", "fails", "returns"])
async def test_a_parent_that_ends_by_itself(settings: dict[str, Any], how: str, tmp_path: Path) -> None:
    """C33, C142: the children that it leaves behind are cancelled, those that wait in the file, too."""

    async def parent(workflow: Workflow) -> str:
        workflow.do("a", "child")
        workflow.do("b", "waiting")
        await workflow.sleep("nap", "30min")
        if how == "cancels itself":
            workflow.cancel("enough")
        if how == "fails":
            raise ValueError(how)
        return how

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.at("2h")

    ends = {"p": {"cancels itself": "cancelled", "fails": "failed", "returns": "completed"}[how]}
    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        {**ends, "p/a": "cancelled", "p/b": "cancelled"},
        effects=frozenset({("p/a", "begin"), ("p/b", "begin")}),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_grandchildren_of_a_parent_that_is_cancelled(settings: dict[str, Any], tmp_path: Path) -> None:
    """C142: the end goes down to them, and a kill does not stop it halfway."""

    async def parent(workflow: Workflow) -> None:
        await workflow.do("part", "between")

    async def between(workflow: Workflow) -> None:
        await asyncio.gather(workflow.do("a", "child"), workflow.do("b", "waiting"))

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.cancel("p", "stop all")
        await caller.at("2h")

    runs = ("p", "p/part", "p/part/a", "p/part/b")
    story = Story(
        {"parent": parent, "between": between, "child": child, "waiting": waiting},
        script,
        dict.fromkeys(runs, "cancelled"),
        reasons=dict.fromkeys(runs, "stop all"),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_grandchildren_that_succeed(settings: dict[str, Any], tmp_path: Path) -> None:
    """Each end is seen once, up to the top."""

    async def parent(workflow: Workflow) -> Any:
        return await workflow.do("part", "between")

    async def between(workflow: Workflow) -> list[Any]:
        return [await workflow.do("a", "child", 1), await workflow.do("b", "child", 2)]

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.at("2h")

    runs = ("p", "p/part", "p/part/a", "p/part/b")
    story = Story(
        {"parent": parent, "between": between, "child": child}, script, dict.fromkeys(runs, "completed"), {"p": [1, 2]}
    )
    await survives(story, tmp_path, settings)


# Steps that do not wait any more


@each_way
async def test_a_step_that_times_out(settings: dict[str, Any], tmp_path: Path) -> None:
    """C61: its child is cancelled, and the step fails or has another child, whatever was killed in between."""

    async def parent(workflow: Workflow) -> list[Any]:
        seen: list[Any] = []
        for name in ("waiting", "child"):
            try:
                await workflow.do(name, name, timeout="30min", retries=1)
            except StepFailed as failed:
                seen.append(failed.is_a(TimeoutError))
        return seen

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        for half_hours in range(1, 5):
            await caller.at(f"{half_hours * 30}min")

    runs = ("p/waiting", "p/waiting#2", "p/child", "p/child#2")
    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        {"p": "completed", **dict.fromkeys(runs, "cancelled")},
        {"p": [True, True]},
        frozenset((run, "begin") for run in runs),
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_branch_that_is_timed_out(settings: dict[str, Any], tmp_path: Path) -> None:
    """C34: the child of its step is cancelled, the parent goes on."""

    async def parent(workflow: Workflow) -> str:
        for name in ("waiting", "child"):
            try:
                async with asyncio.timeout(1800):
                    await workflow.do(name, name)
            except TimeoutError:
                await workflow.do(f"after {name}", mark(workflow))
        await workflow.sleep("nap", "1h")
        return "done"

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("30min")
        await caller.at("1h")
        await caller.at("2h")

    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        {"p": "completed", "p/child": "cancelled", "p/waiting": "cancelled"},
        {"p": "done"},
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_race_that_a_child_loses(settings: dict[str, Any], tmp_path: Path) -> None:
    """C34: `asyncio.wait` until the first is done, then the others are cancelled."""

    async def parent(workflow: Workflow) -> list[Any]:
        async def branch(name: str, target: str) -> Any:
            return await workflow.do(name, target, name)

        tasks = [asyncio.create_task(branch(*one)) for one in (("a", "waiting"), ("b", "child"), ("c", "waiting"))]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.wait(pending)
        await workflow.sleep("nap", "1h")
        return [task.result() for task in done]

    async def script(caller: Caller) -> None:
        await caller.start("parent", "p")
        await caller.at("1h")
        await caller.at("2h")

    story = Story(
        {"parent": parent, "child": child, "waiting": waiting},
        script,
        {"p": "completed", "p/a": "cancelled", "p/b": "completed", "p/c": "cancelled"},
        {"p": ["b"]},
    )
    await survives(story, tmp_path, settings)


@each_way
async def test_a_child_that_is_dropped_as_soon_as_it_is_asked_for(settings: dict[str, Any], tmp_path: Path) -> None:
    """Its start may be on its way to the disk, or on disk, or never get there; in no case it goes on."""

    async def parent(workflow: Workflow) -> str:
        step = workflow.do("part", "waiting")
        await workflow.do("beside", mark(workflow))
        step.cancel()
        await workflow.sleep("nap", "1h")
        return "done"

    story = Story(
        {"parent": parent, "waiting": waiting}, start_and_wait, {"p": "completed", "p/part": "cancelled"}, {"p": "done"}
    )
    await survives(story, tmp_path, settings)


@each_way
@pytest.mark.parametrize("move", ["suspended", "resumed"])
async def test_a_child_that_moves_when_its_parent_has_ended(
    settings: dict[str, Any], move: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C33: in the moment before it is cancelled; after a kill it is not taken for one that goes on by itself."""

    async def parent(workflow: Workflow) -> None:
        workflow.do("part", "gated")
        await workflow.sleep("nap", "1h")

    async def gated(workflow: Workflow) -> None:
        if move == "resumed":
            await workflow.suspend("gate")
        await workflow.wait_for_signal("go")

    db, clock = tmp_path / "app.db", VirtualClock()
    pikku = Story({"parent": parent, "gated": gated}, start_and_wait, {}).pikku()
    async with pikku.open(db, clock=clock, **SETTINGS, **IN_THE_FILE) as engine:
        await engine.start("parent", run_id="p")
        await clock.advance(0)
        monkeypatch.setattr(Residents, "cancel_in_file", lambda *_: None)  # the kill comes before it
        await clock.advance("1h")
    monkeypatch.undo()
    await clock.advance(1)
    found = Facts(db).runs
    assert found["p"].over
    before, after, reason = (
        (RunStatus.SUSPENDED, RunStatus.RUNNING, None)
        if move == "resumed"
        else (RunStatus.RUNNING, RunStatus.SUSPENDED, "gate")
    )
    journal = await Journal.open(str(db), durability="process", now_us=clock.now_us())
    moved = RunMove(number=found["p/part"].number, before=before, status=after, reason=reason, at=clock.now_us())
    await journal.commit([moved])
    await journal.close(clean=False)

    async with pikku.open(db, clock=clock, **SETTINGS, **settings):
        await clock.advance(0)
        assert Facts(db).runs["p/part"].status == "cancelled"


@each_way
async def test_a_child_that_is_given_up_while_it_comes_into_memory(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C33: it does not go on before it is cancelled, to wait where no start-up would look for it."""

    async def parent(workflow: Workflow) -> None:
        workflow.do("part", "child")
        await workflow.sleep("nap", "1h")

    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")
        await workflow.sleep("long", "1d")

    db, clock, recorded = tmp_path / "app.db", VirtualClock(), Journal.recorded
    pikku = Story({"parent": parent, "child": child}, start_and_wait, {}).pikku()

    async def meanwhile_its_parent_ends(journal: Journal, number: int) -> Any:
        found = await recorded(journal, number)
        clock._now_us += 3_600_000_000  # `advance` would wait for who calls this
        for host in clock._hosts:
            host.timers.fire_due()
        while not Facts(db).runs["p"].over:
            await asyncio.sleep(0.001)
        return found

    async with pikku.open(db, clock=clock, **SETTINGS, **IN_THE_FILE) as engine:
        await engine.start("parent", run_id="p")
        await clock.advance(0)
        monkeypatch.setattr(Residents, "cancel_in_file", lambda *_: None)  # the kill comes before it
        monkeypatch.setattr(Journal, "recorded", meanwhile_its_parent_ends)
        await engine.signal("p/part", "go")
        await clock.advance(0)
    monkeypatch.undo()
    found = Facts(db)
    assert found.runs["p"].over and not found.runs["p/part"].over
    assert found.status("p/part", "long") is None

    async with pikku.open(db, clock=clock, **SETTINGS, **settings):
        await clock.advance(0)
        assert Facts(db).runs["p/part"].status == "cancelled"
