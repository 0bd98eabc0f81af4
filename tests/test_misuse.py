"""What a workflow body must not do, and how it is told: run, step and cure are named, and nothing has happened."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from pikkupy import (
    Config,
    DurationError,
    FunctionNotFound,
    JournalLocked,
    Pikku,
    PikkuError,
    RegistrationError,
    RunFailed,
    Services,
    StepFailed,
    Workflow,
    current_step,
)
from pikkupy.testing import VirtualClock

Body = Callable[[Workflow], Any]


async def failure(body: Body) -> RunFailed:
    """How a run with this body fails."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed) as failed:
            await engine.run("flow", run_id="r1")
        return failed.value


async def outcome(body: Body, **settings: Any) -> Any:
    """What a run with this body returns."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:", **settings) as engine:
        return await engine.run("flow", run_id="r1")


# What comes from outside the run


@pytest.mark.parametrize("construct", ["wait", "gather", "as_completed", "wait_for", "event"])
async def test_a_future_of_the_application_cannot_be_waited_for(construct: str) -> None:
    """I4, I10: not directly, and not through a construct of asyncio, where a replay would see another result."""
    host = asyncio.get_running_loop()
    foreign = host.create_future()

    async def body(workflow: Workflow) -> None:
        host.call_later(0.01, lambda: foreign.done() or foreign.set_result(1))  # not before it is waited for
        own = workflow.do("own", lambda: asyncio.sleep(0.05))
        if construct == "wait":
            await asyncio.wait([foreign, own], return_when=asyncio.FIRST_COMPLETED)
        elif construct == "gather":
            await asyncio.gather(own, foreign)
        elif construct == "as_completed":
            for done in asyncio.as_completed([own, foreign]):
                await done
        elif construct == "wait_for":
            await asyncio.wait_for(foreign, 5)
        else:
            event = asyncio.Event()
            workflow.do("set", event.set)
            await event.wait()
        await workflow.sleep("long", "30d")

    failed = await failure(body)

    assert failed.error.type == "pikkupy.errors.WorkflowMisuse"
    assert "workflow.do" in failed.error.message


async def test_a_body_that_waits_for_a_thread_fails_at_once() -> None:
    """Also while something durable is under way, which would have kept the run waiting for a month."""

    async def body(workflow: Workflow) -> None:
        workflow.sleep("month", "30d")
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        threading.Timer(0.01, lambda: loop.call_soon_threadsafe(future.set_result, 1)).start()
        await future

    assert "a thread" in (await failure(body)).error.message


async def test_a_finished_future_of_a_thread_is_misuse(capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing is printed about it."""
    finished: concurrent.futures.Future[int] = concurrent.futures.Future()
    finished.set_result(1)

    async def body(workflow: Workflow) -> int:
        return await asyncio.wrap_future(finished)

    failed = await failure(body)

    assert failed.error.type == "pikkupy.errors.WorkflowMisuse"
    assert capfd.readouterr() == ("", "")


async def test_a_task_of_a_durable_call_is_refused_with_the_cure() -> None:
    """`do` has begun already: `create_task` and `TaskGroup.create_task` say what to do with it."""

    async def body(workflow: Workflow) -> str:
        with pytest.raises(TypeError, match="await it"):
            asyncio.create_task(workflow.do("one", lambda: 1))  # noqa: RUF006
        async with asyncio.TaskGroup() as group:
            with pytest.raises(TypeError, match="await it"):
                group.create_task(workflow.do("two", lambda: 1))
        return "told"

    assert await outcome(body) == "told"


async def test_a_task_of_a_body_shows_its_code() -> None:
    """In `repr` and in stacks, as any task does."""

    async def body(workflow: Workflow) -> list[str]:
        async def child() -> None:
            await workflow.do("one", lambda: 1)

        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        shown = repr(task)
        await task
        return [shown]

    assert "child" in (await outcome(body))[0]


# Calls


CALLS: list[tuple[type[Exception], str, Callable[[Workflow], object]]] = [
    (ValueError, "retries=-1", lambda w: w.do("Pay", lambda: 1, retries=-1)),
    (ValueError, "backoff='x'", lambda w: w.do("Pay", lambda: 1, backoff="x")),  # type: ignore[arg-type]
    (ValueError, "jitter=2", lambda w: w.do("Pay", lambda: 1, jitter=2)),
    (TypeError, "retry_if=3", lambda w: w.do("Pay", lambda: 1, retry_if=3)),  # type: ignore[arg-type]
    (TypeError, "no option 'speed'", lambda w: w.do("Pay", lambda: 1, speed=3)),  # type: ignore[call-overload]
    (DurationError, "retry_delay='1 parsec'", lambda w: w.do("Pay", lambda: 1, retry_delay="1 parsec")),
    (DurationError, "timeout=-1", lambda w: w.do("Pay", lambda: 1, timeout=-1)),
    (DurationError, "'5 parsecs'", lambda w: w.sleep("Pay", "5 parsecs")),
    (DurationError, "when=9000-01-01", lambda w: w.sleep_until("Pay", datetime(9000, 1, 1, tzinfo=UTC))),
    (FunctionNotFound, "'nobody'", lambda w: w.do("Pay", "nobody")),
    (TypeError, "result_type=5", lambda w: w.do("Pay", lambda: 1, result_type=5)),  # type: ignore[call-overload]
    (TypeError, "without arguments", lambda w: w.do("Pay", lambda x: 1)),  # type: ignore[misc]
    (TypeError, "not int", lambda w: w.do("Pay", 5)),  # type: ignore[call-overload]
]


@pytest.mark.parametrize(("kind", "text", "call"), CALLS, ids=[text for _, text, _ in CALLS])
async def test_a_bad_call_names_value_step_and_run(
    kind: type[Exception], text: str, call: Callable[[Workflow], object]
) -> None:
    """In the call, before any effect, as an error of the tree that is also the built-in one."""

    async def body(workflow: Workflow) -> str:
        with pytest.raises(PikkuError) as caught:
            call(workflow)
        assert isinstance(caught.value, kind)
        return str(caught.value)

    message = await outcome(body)

    assert text in message
    assert "'Pay'" in message and "'r1'" in message


async def test_bad_settings_are_named_with_what_there_is() -> None:
    """Before anything is opened."""
    pikku = Pikku()
    with pytest.raises(TypeError, match=r"pikkupy\.Config"):
        pikku.open(":memory:", config={})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no setting 'foo'; the settings are durability"):
        pikku.open(":memory:", foo=1)  # type: ignore[call-arg]
    with pytest.raises(DurationError, match="cancel_grace='soon'"):
        Config(cancel_grace="soon")
    with pytest.raises(TypeError, match="autojump='x'"):
        VirtualClock(autojump="x")  # type: ignore[arg-type]
    async with pikku.open(":memory:") as engine:
        with pytest.raises(TypeError, match="workflow=5"):
            await engine.list_runs(workflow=5)  # type: ignore[arg-type]


async def test_a_generator_is_no_function() -> None:
    """What it yields cannot be kept."""

    def numbers(services: Services) -> Any:
        yield 1

    with pytest.raises(RegistrationError, match="generator"):
        Pikku().function(numbers)


# Inline steps


async def test_the_timeout_of_an_inline_step_counts_from_its_call() -> None:
    """Alone or beside another, awaited or not, at the first attempt or later."""

    def slow() -> Any:
        time.sleep(0.03)
        return asyncio.sleep(0.02, "late")

    async def body(workflow: Workflow) -> list[str]:
        types: list[str] = []
        calls: list[Callable[[], Any]] = [slow, lambda: time.sleep(0.06)]
        for call in calls:
            for alone in (True, False):
                other = [] if alone else [workflow.do("other", lambda: 1)]
                step = workflow.do("slow", call, timeout=40)
                results = await asyncio.gather(step, *other, return_exceptions=True)
                assert isinstance(results[0], StepFailed)
                types.append(results[0].error_type)
        return types

    assert await outcome(body) == ["TimeoutError"] * 4


async def test_a_value_whose_class_raises_fails_its_step() -> None:
    """Whatever it is asked."""

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            if name == "__await__":
                raise RuntimeError("asked")
            return super().__getattribute__(name)

    class Odd(metaclass=Meta):
        pass

    async def body(workflow: Workflow) -> str:
        with pytest.raises(StepFailed) as failed:
            await workflow.do("odd", lambda: Odd())
        return failed.value.message

    assert await outcome(body) == "asked"


async def test_steps_that_were_given_up_are_not_called_unawaited(caplog: pytest.LogCaptureFixture) -> None:
    """The workflow has timed them out itself. Many are named in few words."""

    async def given_up(workflow: Workflow) -> None:
        try:
            async with asyncio.timeout(0.01):
                await workflow.do("slow", lambda: asyncio.sleep(5))
        except TimeoutError:
            pass

    async def many(workflow: Workflow) -> None:
        for number in range(100):
            workflow.do(f"step {number}", lambda: asyncio.sleep(5))

    await outcome(given_up)
    assert not [record for record in caplog.records if "steps_unawaited" in record.getMessage()]
    await outcome(many)
    [record] = [record for record in caplog.records if "steps_unawaited" in record.getMessage()]
    assert "count=100" in record.getMessage()
    assert len(record.getMessage()) < 1_000


async def test_structlog_finds_run_and_step_around_user_code() -> None:
    """In lines of the application's own loggers, by structlog's context variables."""
    pikku = Pikku()
    seen: list[dict[str, Any]] = []

    @pikku.function
    def on_a_thread(services: Services) -> None:
        seen.append(structlog.contextvars.get_contextvars())

    @pikku.workflow(name="flow")
    async def flow(workflow: Workflow) -> None:
        seen.append(structlog.contextvars.get_contextvars())
        await workflow.do("inline", lambda: seen.append(structlog.contextvars.get_contextvars()))
        await workflow.do("thread", on_a_thread)

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, run_id="r1")

    run = {"run_id": "r1", "workflow": "flow"}
    assert seen == [run, {**run, "step": "inline", "attempt": 1}, {**run, "step": "thread", "attempt": 1}]
    assert structlog.contextvars.get_contextvars() == {}
    assert current_step() is None


# Leaving


async def test_who_cancels_the_leaving_gets_control_back_when_the_file_is_free(tmp_path: Path) -> None:
    """The drain has its own limits; the cancellation is passed on after it."""
    pikku = Pikku()
    began = asyncio.Event()
    release = asyncio.Event()

    @pikku.workflow(name="flow")
    async def flow(workflow: Workflow) -> None:
        async def step() -> None:
            began.set()
            await release.wait()

        await workflow.do("step", step)

    async def life() -> None:
        async with pikku.open(tmp_path / "app.db") as engine:
            await engine.start(flow)
            await began.wait()

    task = asyncio.create_task(life())
    await began.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    with pytest.raises(JournalLocked):
        async with pikku.open(tmp_path / "app.db"):
            pass
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    async with pikku.open(tmp_path / "app.db") as engine:
        assert (await engine.list_runs()).runs
