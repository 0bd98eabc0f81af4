"""Child runs: a step that is a run of its own. Each with runs that wait in memory, and in the file."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Engine,
    NonRetryableError,
    Pikku,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunStateError,
    StepFailed,
    Workflow,
    current_step,
)
from pikkupy.engine.children import child_id, other_child_id
from pikkupy.engine.residents import Residents
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH, IN_THE_FILE
from tests.store.samples import a_run

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])


class Part(msgspec.Struct):
    number: int


def family(parent: Any, child: Any) -> Pikku:
    pikku = Pikku()
    pikku.workflow(name="child")(child)
    pikku.workflow(name="parent")(parent)
    return pikku


async def statuses(engine: Engine) -> dict[str, str]:
    return {run.id: str(run.status) for run in (await engine.list_runs()).runs}


async def doubled(workflow: Workflow, data: Part) -> Part:
    await workflow.sleep("nap", "1h")
    return await workflow.do("double", lambda: Part(data.number * 2))


@each_way
async def test_a_child_is_a_run_of_its_own_with_a_derived_id(settings: dict[str, Any]) -> None:
    """C139: `<parent id>/<step name>`, listed, linked both ways, with a typed result; by name or object (C28)."""
    pikku = Pikku()
    child = pikku.workflow(name="child")(doubled)

    @pikku.workflow
    async def parent(workflow: Workflow) -> list[object]:
        first = await workflow.do("part", child, Part(1))
        return [first, await workflow.do("part", "child", {"number": 2})]

    clock = VirtualClock(autojump=True)
    async with pikku.open(":memory:", clock=clock, **settings) as engine:
        assert await asyncio.wait_for(engine.run(parent, run_id="p"), 20) == [Part(2), Part(4)]
        assert await statuses(engine) == {"p": "completed", "p/part": "completed", "p/part#1": "completed"}
        steps = await engine.steps("p")
        assert [(s.name, s.kind, s.target, s.status, s.attempts) for s in steps] == [
            ("part", "workflow", "child", "succeeded", 1),
            ("part#1", "workflow", "child", "succeeded", 1),
        ]
        assert [step.child_run_id for step in steps] == ["p/part", "p/part#1"]
        assert (await engine.get_run("p/part")).parent_run_id == "p"
        assert (await engine.get_run("p")).parent_run_id is None
        assert [attempt.step_name for attempt in await engine.history("p")] == ["part", "part#1"]


@each_way
async def test_a_child_goes_on_over_restarts_and_is_started_once(settings: dict[str, Any], db: Path) -> None:
    """Neither a restart of the parent nor its own starts a second one."""

    async def parent(workflow: Workflow) -> Part:
        return await workflow.do("part", "child", Part(4), result_type=Part)

    pikku, clock = family(parent, doubled), VirtualClock()
    async with pikku.open(db, clock=clock, **settings) as engine:
        await engine.start("parent", run_id="p")
        await clock.advance("30min")
    for _ in range(3):
        async with pikku.open(db, clock=clock, **settings) as engine:
            await clock.advance(0)
            assert await statuses(engine) == {"p": "running", "p/part": "running"}
    async with pikku.open(db, clock=clock, **settings) as engine:
        await clock.advance("30min")
        assert await (await engine.handle("p")).result(timeout=0) == Part(8)


@each_way
async def test_the_failure_of_a_child_is_a_failed_step(settings: dict[str, Any]) -> None:
    """C140: with the child's error type and message; `is_a` works, and it can be caught."""

    class Broken(ValueError): ...

    async def child(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")
        raise Broken("no luck")

    async def parent(workflow: Workflow) -> list[object]:
        try:
            await workflow.do("part", "child")
        except StepFailed as failed:
            return [failed.is_a(ValueError), failed.error_type.rpartition(".")[2], failed.message, failed.attempts]
        return []

    async with family(parent, child).open(":memory:", clock=VirtualClock(autojump=True), **settings) as engine:
        assert await asyncio.wait_for(engine.run("parent", run_id="p"), 20) == [True, "Broken", "no luck", 1]
        assert await statuses(engine) == {"p": "completed", "p/part": "failed"}


@each_way
async def test_the_cancellation_of_a_child_is_a_failed_step(settings: dict[str, Any]) -> None:
    """C140: `RunCancelled` with the reason, whether the child cancels itself or is cancelled."""

    async def child(workflow: Workflow, data: bool) -> None:
        await workflow.sleep("nap", "1h")
        if data:
            workflow.cancel("enough")

    async def parent(workflow: Workflow) -> list[object]:
        seen: list[object] = []
        for itself in (True, False):
            try:
                await workflow.do("part", "child", itself)
            except StepFailed as failed:
                seen += [failed.is_a(RunCancelled), failed.message]
        return seen

    clock = VirtualClock()
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        handle = await engine.start("parent", run_id="p")
        await clock.advance("1h")
        await clock.advance(0)
        await engine.cancel("p/part#1", "from outside")
        assert await handle.result(timeout="10s") == [
            True, "run 'p/part' was cancelled: enough", True, "run 'p/part#1' was cancelled: from outside",
        ]  # fmt: skip


@each_way
async def test_a_suspended_child_is_no_success(settings: dict[str, Any]) -> None:
    """C141: the parent stays running and waits."""

    async def child(workflow: Workflow) -> str:
        await workflow.suspend("look")
        return "seen"

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "child"))

    clock = VirtualClock()
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        handle = await engine.start("parent", run_id="p")
        await clock.advance("30d")
        assert await statuses(engine) == {"p": "running", "p/part": "suspended"}
        await engine.resume("p/part")
        assert await handle.result(timeout="10s") == "seen"


@each_way
async def test_who_resumes_a_run_that_waits_for_a_suspended_one_is_told_which(settings: dict[str, Any]) -> None:
    """However deep it is."""

    async def child(workflow: Workflow, level: int) -> None:
        if level:
            await workflow.do("below", "child", level - 1)
        else:
            await workflow.suspend("look at it")

    async def parent(workflow: Workflow) -> None:
        await workflow.do("part", "child", 2)

    clock = VirtualClock()
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        await engine.start("parent", run_id="p")
        await clock.advance(0)
        with pytest.raises(RunStateError, match=r"'p' is running.*Suspended below it: 'p/part/below/below'$"):
            await engine.resume("p")
        await engine.resume("p/part/below/below")
        await clock.advance(0)
        with pytest.raises(RunStateError, match=r"'p' is completed.*nothing to resume$"):
            await engine.resume("p")


@each_way
@pytest.mark.parametrize("depth", [1, 3])
async def test_cancelling_the_parent_cancels_its_children(settings: dict[str, Any], depth: int) -> None:
    """C142: with the same reason, and theirs, before `cancel` returns; no further step of them starts."""

    async def child(workflow: Workflow, data: int) -> None:
        if data:
            await workflow.do("deeper", "child", data - 1)
        await workflow.sleep("nap", "1d")

    async def parent(workflow: Workflow) -> None:
        await asyncio.gather(*(workflow.do("part", "child", depth - 1) for _ in range(3)))

    clock = VirtualClock()
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        await engine.start("parent", run_id="p")
        await clock.advance("1h")
        assert len(await statuses(engine)) == 1 + 3 * depth
        await engine.cancel("p", "stop all")
        runs = (await engine.list_runs()).runs
        assert {(run.status, run.reason) for run in runs} == {("cancelled", "stop all")}
        await clock.advance("2d")
        assert set((await statuses(engine)).values()) == {"cancelled"}


@each_way
async def test_a_child_that_nobody_waits_for_is_cancelled(settings: dict[str, Any]) -> None:
    """C33, C34: with a reason that names the parent."""

    async def child(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    async def parent(workflow: Workflow) -> str:
        try:
            async with asyncio.timeout(3600):
                await workflow.do("part", "child")
        except TimeoutError:
            pass
        workflow.do("left", "child")
        await workflow.sleep("nap", "1h")
        return "ended"

    clock = VirtualClock()
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        handle = await engine.start("parent", run_id="p")
        await clock.advance("1h")
        assert await statuses(engine) == {"p": "running", "p/part": "cancelled", "p/left": "running"}
        await clock.advance("1h")
        assert await handle.result(timeout="10s") == "ended"
        await clock.advance(0)
        assert await statuses(engine) == {"p": "completed", "p/part": "cancelled", "p/left": "cancelled"}
        assert "'p'" in str((await engine.get_run("p/left")).reason)


@each_way
async def test_each_retry_is_a_new_child(settings: dict[str, Any]) -> None:
    """C61: `<child>#<attempt>`; the waits between, and what is recorded, are as for any step."""

    async def child(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        if "#3" not in workflow.run_id:
            raise OSError(workflow.run_id)
        return workflow.run_id

    async def parent(workflow: Workflow) -> str:
        return str(await workflow.do("part", "child", retries=2, retry_delay="1d"))

    clock = VirtualClock(autojump=True)
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        assert await asyncio.wait_for(engine.run("parent", run_id="p"), 20) == "p/part#3"
        assert await statuses(engine) == {
            "p": "completed", "p/part": "failed", "p/part#2": "failed", "p/part#3": "completed",
        }  # fmt: skip
        assert [(a.attempt, a.status) for a in await engine.history("p")] == [
            (1, "failed"), (2, "failed"), (3, "succeeded"),
        ]  # fmt: skip
        assert (await engine.steps("p"))[0].child_run_id == "p/part#3"


@each_way
async def test_a_timeout_cancels_the_child(settings: dict[str, Any]) -> None:
    """C61, C57: the step fails with TimeoutError."""

    async def child(workflow: Workflow) -> None:
        await workflow.sleep("nap", "30d")

    async def parent(workflow: Workflow) -> list[object]:
        try:
            await workflow.do("part", "child", timeout="1h")
        except StepFailed as failed:
            return [failed.is_a(TimeoutError)]
        return []

    clock = VirtualClock(autojump=True)
    async with family(parent, child).open(":memory:", clock=clock, **settings) as engine:
        assert await asyncio.wait_for(engine.run("parent", run_id="p"), 20) == [True]
        await clock.advance(0)
        assert await statuses(engine) == {"p": "completed", "p/part": "cancelled"}


async def test_at_most_once_is_not_for_children() -> None:
    """C61: TypeError in the call."""

    async def parent(workflow: Workflow) -> str:
        with pytest.raises(TypeError, match="at_most_once"):
            workflow.do("part", "child", at_most_once=True)
        return "refused"

    async with family(parent, doubled).open(":memory:") as engine:
        assert await engine.run("parent") == "refused"


async def test_data_that_does_not_fit_starts_no_child() -> None:
    """C83: the step fails with `PayloadError`."""

    async def parent(workflow: Workflow) -> str:
        with pytest.raises(StepFailed, match="PayloadError"):
            await workflow.do("part", "child", {"number": "one"})
        return "refused"

    async with family(parent, doubled).open(":memory:") as engine:
        assert await engine.run("parent", run_id="p") == "refused"
        assert await statuses(engine) == {"p": "completed"}


async def test_an_id_that_is_taken_fails_the_step() -> None:
    """By a run that is not the child: nothing is mixed up."""

    async def parent(workflow: Workflow) -> str:
        with pytest.raises(StepFailed, match=r"RunConflict: run 'p/part' exists") as caught:
            await workflow.do("part", "child", Part(1))
        assert caught.value.is_a(RunConflict)
        return "refused"

    async with family(parent, doubled).open(":memory:", clock=VirtualClock()) as engine:
        await engine.start("child", Part(1), run_id="p/part")
        assert await engine.run("parent", run_id="p") == "refused"


async def test_the_end_of_a_child_is_judged_by_retry_if_and_never_by_its_final_errors() -> None:
    """C56: it gets the `StepFailed` that would result. `NonRetryableError` ends the child, not the step's retries."""
    asked: list[str] = []

    async def child(workflow: Workflow) -> None:
        raise NonRetryableError("no")

    def again(error: BaseException) -> bool:
        assert isinstance(error, StepFailed)
        asked.append(error.message)
        return False

    async def parent(workflow: Workflow) -> None:
        await workflow.do("part", "child", retries=5, retry_if=again)

    async with family(parent, child).open(":memory:") as engine:
        with pytest.raises(RunFailed, match="no"):
            await engine.run("parent", run_id="p")
        assert asked == ["no"]


async def test_a_start_from_inside_a_step_is_an_ordinary_start(db: Path) -> None:
    """Idempotent by its id, and no child."""
    pikku = Pikku()
    pikku.workflow(name="child")(doubled)

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        async def begin() -> str:
            step = current_step()
            assert step is not None
            return (await engine.start("child", Part(1), run_id=f"other:{step.invocation_id}")).id

        return await workflow.do("begin", begin)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        other = await engine.run(parent, run_id="p")
        assert (await engine.get_run(other)).status == "running"
        assert (await engine.get_run(other)).parent_run_id is None


@each_way
async def test_many_children_at_once(settings: dict[str, Any]) -> None:
    """A thousand, in one gather."""

    async def parent(workflow: Workflow) -> int:
        parts = await asyncio.gather(*(workflow.do("part", "child", Part(n), result_type=Part) for n in range(1_000)))
        return sum(part.number for part in parts)

    clock = VirtualClock(autojump=True)
    async with family(parent, doubled).open(":memory:", clock=clock, **settings) as engine:
        assert await asyncio.wait_for(engine.run("parent"), 60) == 999_000


@each_way
async def test_a_deep_family_is_cancelled_with_its_root(settings: dict[str, Any]) -> None:
    """C94: at every depth, in memory and in the file."""
    depth = 400
    pikku = Pikku()

    @pikku.workflow
    async def nest(workflow: Workflow, left: int) -> None:
        if left:
            await workflow.do("below", "nest", left - 1)
        else:
            await workflow.wait_for_signal("never")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **settings) as engine:
        handle = await engine.start("nest", depth)
        await clock.advance(0)
        await handle.cancel("enough")

        assert await engine.counts() == {"nest": {"cancelled": depth + 1}}


async def test_many_children_that_end_bring_their_parent_in_a_few_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """I13: a parent that waits in the file for 300 children is not replayed for each; cancelled, not at all."""
    count, brought = 300, list[int]()
    pikku = Pikku()

    @pikku.workflow
    async def part(workflow: Workflow) -> str:
        return await workflow.wait_for_signal("go", str)

    @pikku.workflow
    async def whole(workflow: Workflow) -> int:
        return len(await asyncio.gather(*(workflow.do(f"part {n}", part) for n in range(count))))

    bring = Residents.bring

    async def counted(residents: Residents, numbers: Sequence[int]) -> None:
        brought.extend(numbers)
        await bring(residents, numbers)

    monkeypatch.setattr(Residents, "bring", counted)
    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, **IN_THE_FILE) as engine:
        done, called_off = await engine.start("whole", run_id="done"), await engine.start("whole", run_id="called off")
        await clock.advance(0)
        for n in range(count):
            await engine.signal(f"done/part {n}", "go", "on")
        await called_off.cancel("enough")
        assert await done.result() == count
        await clock.advance(0)

        assert len(brought) < count / 5
        assert (await engine.counts())["part"] == {"completed": count, "cancelled": count}


@each_way
async def test_the_ids_of_children_are_ids_that_every_call_takes(settings: dict[str, Any]) -> None:
    """C121: at most 256 characters, however long the names and however deep; other attempts and steps have others."""
    pikku, failed = Pikku(), list[str]()

    @pikku.workflow
    async def nest(workflow: Workflow, depth: int) -> int:
        if depth == 0:
            if not failed:
                failed.append(workflow.run_id)
                raise ConnectionError("once")
            return 1
        parts = (workflow.do("s" * 120 + str(part), "nest", depth - 1, retries=1) for part in range(2))
        return sum(await asyncio.gather(*parts))

    async with pikku.open(":memory:", **settings) as engine:
        assert await engine.run("nest", 3, run_id="r") == 8
        runs = (await engine.list_runs()).runs
        assert len({run.id for run in runs}) == len(runs) == 1 + 2 + 4 + 8 + 1
        assert max(len(run.id) for run in runs) == 256
        for run in runs:
            assert run in (await engine.list_runs(id_prefix=run.id)).runs
            assert (await engine.start("nest", run.input, run_id=run.id)).id == run.id
            assert [chunk async for chunk in engine.stream(run.id)] == []
            for step in await engine.steps(run.id):
                assert step.child_run_id is not None
                assert (await engine.get_run(step.child_run_id)).parent_run_id == run.id


def test_a_long_id_of_a_child_is_the_same_in_every_life() -> None:
    """It ends in a hash of the whole id."""
    parent, name = a_run(run_id="r" * 55), "s" * 200
    assert child_id(parent, name, 1) == f"{parent.run_id}/{name}"
    child = a_run(7, run_id=child_id(parent, name, 12))
    whole = f"{parent.run_id}/{name}#12"
    assert child.run_id == whole[:223] + "~" + sha256(whole.encode()).hexdigest()[:32]
    assert len(other_child_id(child)) == 256
    assert other_child_id(child) != child.run_id
