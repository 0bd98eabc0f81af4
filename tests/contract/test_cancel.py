"""Cancelling a run from inside and from outside, and what becomes of branches that nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import Pikku, RunCancelled, RunFailed, Services, StepFailed, Workflow
from pikkupy.testing import VirtualClock


async def run(body: Any, **settings: Any) -> Any:
    """The run and the steps of a workflow with that body, and what its result was."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:", clock=VirtualClock(autojump=True), **settings) as engine:
        handle = await engine.start("flow", run_id="r")
        try:
            await asyncio.wait_for(handle.result(), 20)
        except (RunCancelled, RunFailed):
            pass
        return await engine.get_run("r"), await engine.steps("r")


@pytest.mark.parametrize("reason", [None, 5, b"why", ["why"]])
async def test_the_reason_must_be_text(reason: Any) -> None:
    """C37: TypeError in the call, from inside and from outside, and nothing is cancelled."""

    async def body(workflow: Workflow) -> str:
        with pytest.raises(TypeError):
            workflow.cancel(reason)
        return "went on"

    found, _ = await run(body)
    assert (found.status, found.output) == ("completed", "went on")
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:") as engine:
        handle = await engine.start("flow")
        with pytest.raises(TypeError):
            await handle.cancel(reason)


@pytest.mark.parametrize("reason", ["", "\ud800 lone", "nul \x00", "line\nbreak", "ü☃🐍", "x" * 100_000])
async def test_any_text_is_a_reason(reason: str, db: Path) -> None:
    """C37: whatever the text, the run ends cancelled and the engine goes on."""
    pikku = Pikku()

    @pikku.workflow
    async def inside(workflow: Workflow) -> None:
        workflow.cancel(reason)

    @pikku.workflow
    async def outside(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    async with pikku.open(db) as engine:
        with pytest.raises(RunCancelled):
            await asyncio.wait_for(engine.run(inside, run_id="i"), 5)
        await engine.start(outside, run_id="o")
        await engine.cancel("o", reason)
        reasons = {(await engine.get_run(run_id)).reason for run_id in "io"}

    assert len(reasons) == 1
    if reason.isprintable() or "\n" in reason:
        assert reasons == {reason}


async def test_cancel_works_without_await() -> None:
    """C37: it raises in the call, so nothing after it runs."""
    ran: list[str] = []

    async def body(workflow: Workflow) -> None:
        if not ran:
            workflow.cancel("enough")
        ran.append("after")

    found, _ = await run(body)

    assert (found.status, found.reason, ran) == ("cancelled", "enough", [])


async def _bare(workflow: Workflow, ran: list[str]) -> str:
    try:
        workflow.cancel("first")
    except BaseException:
        pass
    await asyncio.sleep(0)
    ran.append("after")
    return "done"


async def _finally(workflow: Workflow, ran: list[str]) -> str:
    try:
        workflow.cancel("first")
    finally:
        return "done"  # noqa: B012


async def _raising(workflow: Workflow, ran: list[str]) -> str:
    try:
        workflow.cancel("first")
    except BaseException:
        raise ValueError("other") from None


async def _again(workflow: Workflow, ran: list[str]) -> str:
    try:
        workflow.cancel("first")
    except BaseException:
        workflow.cancel("second")


async def _in_group(workflow: Workflow, ran: list[str]) -> str:
    async def child() -> None:
        workflow.cancel("first")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await workflow.sleep("nap", "1d")
    except BaseException:
        ran.append("seen")
        await asyncio.sleep(0)
        ran.append("after")
    return "done"


async def _gathered(workflow: Workflow, ran: list[str]) -> str:
    async def child() -> None:
        workflow.cancel("first")

    await asyncio.gather(child(), return_exceptions=True)
    ran.append("after")
    return "done"


@pytest.mark.parametrize("body", [_bare, _finally, _raising, _again, _in_group, _gathered])
async def test_a_cancel_cannot_be_swallowed(body: Any) -> None:
    """C38: whatever the code does with it, the run ends cancelled at the call, with the first reason."""
    ran: list[str] = []

    async def flow(workflow: Workflow) -> str:
        return str(await body(workflow, ran))

    found, _ = await run(flow)

    assert (found.status, found.reason, found.output) == ("cancelled", "first", None)
    assert "after" not in ran


async def test_clean_up_steps_do_not_run_and_plain_finally_code_does_once() -> None:
    """C39, C40: `do` raises the cancellation again; plain code runs once, at the tear-down."""
    ran: list[str] = []

    async def body(workflow: Workflow) -> None:
        try:
            await workflow.do("one", lambda: None)
            workflow.cancel("enough")
        finally:
            ran.append("plain")
            try:
                await workflow.do("clean up", lambda: ran.append("step"))
            except Exception:
                ran.append("swallowed")
            ran.append("after")

    found, steps = await run(body)

    assert found.status == "cancelled"
    assert [step.name for step in steps] == ["one"]
    assert ran == ["plain"]


async def test_finally_code_runs_once_when_cancelled_from_outside() -> None:
    """C40, C144: the run is cancelled at once, and its steps with it."""
    ran: list[str] = []
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        try:
            await workflow.sleep("nap", "1d")
        except Exception:
            ran.append("swallowed")
        finally:
            ran.append("finally")

    async with pikku.open(":memory:", clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        await handle.cancel("stop")
        assert [step.status for step in await engine.steps(handle.id)] == ["cancelled"]

    assert ran == ["finally"]


async def test_what_is_under_way_when_the_workflow_returns_is_cancelled() -> None:
    """C32, C33: steps and tasks; no further step of theirs starts."""
    ran: list[str] = []

    async def body(workflow: Workflow) -> str:
        async def branch() -> None:
            await workflow.do("first", lambda: asyncio.Event().wait())
            await workflow.do("second", lambda: ran.append("second"))

        task = asyncio.create_task(branch())
        await asyncio.sleep(0)
        await workflow.do("quick", lambda: 1)
        assert not task.done()
        return "done"

    found, steps = await run(body)

    assert found.output == "done"
    assert [(step.name, step.status) for step in steps] == [("first", "cancelled"), ("quick", "succeeded")]
    assert ran == []


async def test_what_is_under_way_when_the_workflow_raises_is_cancelled() -> None:
    """C33: as when it returns; the run is failed."""

    async def body(workflow: Workflow) -> None:
        workflow.do("forever", lambda: asyncio.Event().wait())
        workflow.sleep("nap", "1d")
        await workflow.do("quick", lambda: 1)
        raise ValueError("no")

    found, steps = await run(body)

    assert found.status == "failed"
    assert [step.status for step in steps] == ["cancelled", "cancelled", "succeeded"]


async def _timeout(workflow: Workflow, step: Any) -> None:
    try:
        async with asyncio.timeout(5):
            await workflow.do("step", step)
    except TimeoutError:
        pass


async def _task_cancel(workflow: Workflow, step: Any) -> None:
    task = asyncio.ensure_future(workflow.do("step", step))
    await workflow.sleep("moment", 1)
    task.cancel()
    await asyncio.wait([task])


async def _group(workflow: Workflow, step: Any) -> None:
    async def fail() -> None:
        await workflow.sleep("moment", 1)
        raise ValueError

    async def wait() -> None:
        await workflow.do("step", step)

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(wait())
            group.create_task(fail())
    except* ValueError:
        pass


async def _wait_for(workflow: Workflow, step: Any) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(workflow.do("step", step), 5)


@pytest.mark.parametrize("end", ["stops", "succeeds", "fails"])
@pytest.mark.parametrize("branch", [_timeout, _task_cancel, _group, _wait_for])
async def test_a_branch_that_is_cancelled_stops_its_step(branch: Any, end: str, db: Path) -> None:
    """C34: recorded as cancelled, a late success as succeeded; the workflow goes on, now and on replay."""

    async def step() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if end == "stops":
                raise
            if end == "fails":
                raise ValueError("while stopping") from None
        return "late"

    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await branch(workflow, step)
        await workflow.do("next", lambda: 1)
        await workflow.sleep("long", "30d")
        return "done"

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
        await clock.advance("1h")
        before = {step.name: step.status for step in await engine.steps("r")}
    async with pikku.open(db, clock=clock) as engine:
        await clock.advance("31d")
        assert (await engine.get_run("r")).output == "done"
        after = {step.name: step.status for step in await engine.steps("r")}

    assert before["step"] == after["step"] == ("succeeded" if end == "succeeds" else "cancelled")
    assert before["next"] == "succeeded"


async def test_a_running_thread_is_left_and_its_result_kept_as_evidence() -> None:
    """C144, C145, C146: the run is cancelled at once; the late result is an `Attempt`; the step stays cancelled."""
    pikku = Pikku()
    began, go_on = threading.Event(), threading.Event()

    @pikku.function
    def slow(services: Services) -> str:
        began.set()
        go_on.wait(10)
        return "late"

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("slow", slow)
        await workflow.do("next", lambda: None)

    async with pikku.open(":memory:") as engine:
        handle = await engine.start(flow, run_id="r")
        await asyncio.to_thread(began.wait, 10)
        await asyncio.wait_for(handle.cancel("stop"), 2)
        assert await handle.status() == "cancelled"
        go_on.set()
        for _ in range(200):
            history = await engine.history("r")
            if history:
                break
            await asyncio.sleep(0.01)
        steps = await engine.steps("r")

    assert [(step.name, step.status, step.output) for step in steps] == [("slow", "cancelled", None)]
    assert [(attempt.step_name, attempt.status) for attempt in history] == [("slow", "succeeded")]


async def test_every_step_without_an_outcome_is_cancelled() -> None:
    """C146: sleeping, waiting for a retry, running; what has succeeded or failed stays."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def fail() -> None:
            raise OSError

        await workflow.do("done", lambda: 1)
        with pytest.raises(StepFailed):
            await workflow.do("failed", fail)
        await asyncio.gather(
            workflow.do("retrying", fail, retries=1, retry_delay="1h"),
            workflow.sleep("asleep", "1h"),
            workflow.do("running", lambda: asyncio.Event().wait()),
        )

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        await clock.advance(0)
        await handle.cancel("stop")
        await clock.advance("2h")
        statuses = [str(step.status) for step in await engine.steps("r")]

    assert statuses == ["succeeded", "failed", "cancelled", "cancelled", "cancelled"]


async def test_cancelling_many_at_once() -> None:
    """C144: from many callers, the same run: one succeeds, the others are told; other runs go on."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    async with pikku.open(":memory:") as engine:
        for number in range(20):
            await engine.start(flow, run_id=f"r{number}")
        answers = await asyncio.gather(*(engine.cancel("r0", "x") for _ in range(5)), return_exceptions=True)
        await asyncio.gather(*(engine.cancel(f"r{number}", "x") for number in range(1, 20)))
        assert sorted(type(answer).__name__ for answer in answers) == ["NoneType"] + ["RunStateError"] * 4
        assert len((await engine.list_runs(status="cancelled")).runs) == 20


async def test_a_caller_of_cancel_who_is_cancelled_takes_nothing_back(db: Path) -> None:
    """Nor does it concern others who wait for the same end: it was on its way to the disk."""
    pikku, disk_is_slow = Pikku(), threading.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    async with pikku.open(db) as engine:
        host, residents, _ = engine._parts  # type: ignore[misc]
        await engine.start(flow, run_id="r")
        host.journal._writer.send(lambda _: disk_is_slow.wait(30), lambda *_: None)
        first = asyncio.ensure_future(engine.cancel("r", "x"))
        while not residents.active["r"].ending:
            await asyncio.sleep(0)
        others = [asyncio.ensure_future(engine.cancel("r", "y")), asyncio.ensure_future(engine.signal("r", "late"))]
        for _ in range(5):
            await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        disk_is_slow.set()
        told = await asyncio.gather(first, *others, return_exceptions=True)
        run = await engine.get_run("r")

    assert [type(one).__name__ for one in told] == ["CancelledError", "RunStateError", "RunStateError"]
    assert (run.status, run.reason) == ("cancelled", "x")


async def test_a_failed_attempt_that_was_on_its_way_to_the_disk_is_not_retried_after_a_cancel(db: Path) -> None:
    """I8: its retry is asked for in the write before that of the cancel, and never begins."""
    pikku, disk_is_slow, ran = Pikku(), threading.Event(), list[int]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            ran.append(1)
            await asyncio.sleep(0)
            host.journal._writer.send(lambda _: disk_is_slow.wait(30), lambda *_: None)
            raise OSError

        await workflow.do("step", body, retries=1, retry_delay="1h")

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        host, residents, _ = engine._parts  # type: ignore[misc]
        await engine.start(flow, run_id="r")
        while residents.active["r"].steps[0].error is None:
            await asyncio.sleep(0)
        cancelled = asyncio.ensure_future(engine.cancel("r", "enough"))
        while not residents.active["r"].ending:
            await asyncio.sleep(0)
        disk_is_slow.set()
        await cancelled
        await clock.advance("2h")
        history = await engine.history("r")

    assert ran == [1]
    assert [(attempt.attempt, attempt.status) for attempt in history] == [(1, "failed")]


@pytest.mark.parametrize("kind", ["thread", "async", "inline"])
async def test_a_step_that_waits_for_a_worker_never_begins_after_a_cancel(kind: str) -> None:
    """Promise 6: the place that a stopped step leaves is not taken by the next step of the same run."""
    pikku = Pikku()
    ran: list[int] = []
    gate = threading.Event()

    @pikku.function
    def on_thread(services: Services, data: int) -> None:
        ran.append(data)
        gate.wait(5)

    @pikku.function
    async def in_async(services: Services, data: int) -> None:
        ran.append(data)
        await asyncio.Event().wait()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def inline(data: int) -> None:
            ran.append(data)
            await asyncio.Event().wait()

        await asyncio.gather(
            *(
                workflow.do("step", lambda n=n: inline(n))  # type: ignore[misc]
                if kind == "inline"
                else workflow.do("step", on_thread if kind == "thread" else in_async, n)
                for n in range(5)
            )
        )

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, thread_workers=1, async_workers=1) as engine:
        handle = await engine.start(flow)
        while not ran:
            await asyncio.sleep(0.001)
        await handle.cancel("stop")
        await clock.advance(0)
        await asyncio.sleep(0.02)
        gate.set()
        await asyncio.sleep(0.02)

    assert ran == [0]


@pytest.mark.parametrize("stops", [True, False])
async def test_an_attempt_whose_time_was_up_when_its_run_ended_is_evidence_once(stops: bool) -> None:
    """I6: its time-out is its end, whatever the body comes to when it has been stopped, or was left behind."""
    pikku = Pikku()
    goes_on = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def stubborn() -> str:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await goes_on.wait()
            return "late"

        await workflow.do("stubborn", stubborn, timeout="1s")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock, cancel_grace="5s") as engine:
        handle = await engine.start(flow, run_id="r")
        await clock.advance("1s")
        await handle.cancel("enough")
        if stops:
            goes_on.set()
        await clock.advance("10s")
        goes_on.set()
        await clock.advance(0)
        history = await engine.history("r")

    assert [(attempt.attempt, attempt.status) for attempt in history] == [(1, "failed")]
