"""Errors: what the workflow sees, what is recorded, and that nothing takes the engine down."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pikkupy import Pikku, Run, RunFailed, Services, Step, StepFailed, Workflow
from pikkupy.testing import VirtualClock


class Declined(ConnectionError):
    """An error of the application's."""


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


async def ended(body: Any) -> tuple[Run, list[Step]]:
    """A run of a workflow with that body, after its end; the engine still works then."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)

    @pikku.workflow
    async def fine(workflow: Workflow) -> int:
        return await workflow.do("fine", lambda: 1)

    async with pikku.open(":memory:", clock=VirtualClock(autojump=True)) as engine:
        handle = await engine.start("flow", run_id="r")
        try:
            await asyncio.wait_for(handle.result(), 10)
        except RunFailed as failed:
            assert failed.error == (await engine.get_run("r")).error
        assert await engine.run(fine) == 1
        return await engine.get_run("r"), await engine.steps("r")


async def caught(step: Any, **options: Any) -> StepFailed:
    """The error of a step, as the workflow sees it."""
    seen: list[StepFailed] = []

    async def body(workflow: Workflow) -> None:
        try:
            await workflow.do("step", step, **options)
        except StepFailed as failed:
            seen.append(failed)

    run, _ = await ended(body)
    assert run.status == "completed"
    return seen[0]


def fail(error: BaseException) -> Any:
    """A callable that raises it."""

    def body() -> None:
        raise error

    return body


async def test_an_error_is_named_by_its_dotted_name() -> None:
    """C91: without `builtins.`, for the step and for the run."""

    async def body(workflow: Workflow) -> None:
        raise Declined("no funds")

    run, _ = await ended(body)
    assert run.error is not None
    assert (run.error.type, run.error.message) == (f"{__name__}.Declined", "no funds")
    assert (await caught(fail(Declined("x")))).error_type == f"{__name__}.Declined"
    assert (await caught(fail(ValueError("x")))).error_type == "ValueError"


async def test_is_a_knows_the_class_and_its_bases() -> None:
    """C92: by the dotted names as recorded, so a class of the same name will do."""
    failed = await caught(fail(Declined()))

    for kind in (Declined, ConnectionError, OSError, Exception, BaseException):
        assert failed.is_a(kind)
    assert not failed.is_a(ValueError)
    assert failed.is_a(type("Declined", (), {"__module__": __name__, "__qualname__": "Declined"}))
    assert not failed.is_a(type("Declined", (Exception,), {"__module__": "elsewhere"}))


async def test_long_texts_are_cut_and_keep_both_ends() -> None:
    """C93: the message at 8 KiB, the traceback at 64 KiB, marked."""
    failed = await caught(fail(ValueError("begin" + "☃" * 100_000 + "end")))

    assert len(failed.message.encode()) <= 8 * 1024
    assert failed.message.startswith("begin")
    assert failed.message.endswith("end")
    assert "cut" in failed.message
    assert len(failed.traceback.encode()) <= 64 * 1024


@pytest.mark.parametrize("error", [Unspeakable(), ValueError("\ud800"), ValueError("nul \x00"), ValueError(b"\xff")])
async def test_an_error_that_cannot_be_shown_fails_normally(error: Exception) -> None:
    """C94: with a placeholder or escaped; in a step and in a body."""

    async def body(workflow: Workflow) -> None:
        raise error

    failed = await caught(fail(error))
    run, _ = await ended(body)

    assert failed.error_type.endswith(type(error).__name__)
    assert run.status == "failed"


@pytest.mark.parametrize(
    "raised", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, asyncio.CancelledError]
)
@pytest.mark.parametrize("kind", ["inline", "async", "thread"])
async def test_any_base_exception_of_a_step_is_its_failure(raised: type[BaseException], kind: str) -> None:
    """C95, C96: with that error type, on every worker; retried like any other."""
    pikku = Pikku()
    calls: list[int] = []

    def sync(services: Any = None) -> None:
        calls.append(1)
        raise raised

    async def coroutine(services: Services) -> None:
        sync()

    target: Any = sync
    if kind != "inline":
        target = pikku.function(name="f")(coroutine if kind == "async" else lambda services: sync())

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("step", target, retries=1)
        except StepFailed as failed:
            return [failed.attempts, failed.error_type.split(".")[-1], failed.is_a(raised)]
        return []

    async with pikku.open(":memory:") as engine:
        assert await asyncio.wait_for(engine.run(flow), 5) == [2, raised.__name__, True]
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseException("x"),
        StopAsyncIteration(),
    ],
)
@pytest.mark.parametrize("late", [False, True])
async def test_a_base_exception_of_a_body_fails_the_run(error: BaseException, late: bool) -> None:
    """C97: like an exception; the engine goes on."""

    async def body(workflow: Workflow) -> None:
        if late:
            await workflow.sleep("nap", 1)
        raise error

    run, _ = await ended(body)

    assert run.status == "failed"
    assert run.error is not None
    assert run.error.type.split(".")[-1] == type(error).__name__


async def test_a_group_lists_the_messages_of_its_parts() -> None:
    """C98: an ExceptionGroup from a TaskGroup, with failed steps among them."""

    async def body(workflow: Workflow) -> None:
        async def other() -> None:
            raise Declined("second")

        async with asyncio.TaskGroup() as group:
            group.create_task(other())

    run, _ = await ended(body)
    assert run.error is not None
    assert run.error.type == "ExceptionGroup"
    assert "second" in run.error.message

    async def steps(workflow: Workflow) -> None:
        async def step() -> None:
            await workflow.do("step", fail(ValueError("first")))

        async with asyncio.TaskGroup() as group:
            group.create_task(step())

    run, _ = await ended(steps)
    assert run.error is not None
    assert "first" in run.error.message


async def test_the_error_of_a_step_is_gone_after_a_success() -> None:
    """C99: `Step.error` and `Attempt.error` have type, message and traceback, or are None."""
    pikku = Pikku()
    calls: list[int] = []

    def flaky() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise Declined("at first")
        return 1

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("flaky", flaky, retries=1, retry_delay="1h")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
        (waiting,) = await engine.steps("r")
        await clock.advance("1h")
        (over,) = await engine.steps("r")
        first, second = await engine.history("r")

    assert waiting.error == first.error
    assert first.error is not None
    assert (first.error.type, first.error.message) == (f"{__name__}.Declined", "at first")
    assert "raise Declined" in first.error.traceback
    assert over.error is second.error is None


async def test_step_failed_raised_from_a_step_is_its_failure() -> None:
    """Errors: what a workflow caught may be raised again inside a later step."""

    async def body(workflow: Workflow) -> str:
        try:
            await workflow.do("first", fail(Declined("x")))
        except StepFailed as failed:
            error = failed
        try:
            await workflow.do("second", fail(error))
        except StepFailed as again:
            return again.error_type
        return ""

    run, _ = await ended(body)
    assert str(run.output).endswith("StepFailed")


async def test_raising_from_a_step_failure_names_the_new_error() -> None:
    """C90: only a StepFailed that leaves the workflow gives way to the step's own error."""

    async def body(workflow: Workflow) -> None:
        try:
            await workflow.do("step", fail(Declined("inner")))
        except StepFailed as failed:
            raise LookupError("outer") from failed

    run, _ = await ended(body)
    assert run.error is not None
    assert (run.error.type, run.error.message) == ("LookupError", "outer")
    assert "inner" in run.error.traceback
