"""The calls of `workflow`: targets, places, awaitables, time and chance."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pikkupy import DurationError, Pikku, RunFailed, StepFailed, Workflow, WorkflowMisuse, current_step
from pikkupy.testing import VirtualClock

Body = Callable[[Workflow], Awaitable[Any]]


async def run(body: Any, clock: VirtualClock | None = None) -> Any:
    """The result of a run of a workflow with that body."""
    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:", clock=clock or VirtualClock(autojump=True)) as engine:
        return await asyncio.wait_for(engine.run("flow", run_id="r"), 20)


async def test_data_with_an_inline_target_is_a_type_error() -> None:
    """C29: in the call, before it takes its place; `None` is no data."""

    async def body(workflow: Workflow) -> Any:
        for data in (0, "", [], {"a": 1}):
            with pytest.raises(TypeError, match="inline"):
                workflow.do("a", lambda: 1, data)  # type: ignore[call-overload]
        return await workflow.do("a", lambda: current_step().step_name, None)  # type: ignore

    assert await run(body) == "a"


@pytest.mark.parametrize("target", [None, 5, b"f", [], {"a": 1}, ...])
async def test_a_target_that_cannot_be_called_is_a_type_error(target: Any) -> None:
    """Calls: in the call, naming the step and the type, before it takes its place."""

    async def body(workflow: Workflow) -> Any:
        with pytest.raises(TypeError, match=type(target).__name__):
            workflow.do("a", target)
        return await workflow.do("a", lambda: current_step().step_name)  # type: ignore

    assert await run(body) == "a"


class Caller:
    def __call__(self) -> str:
        return "object"

    async def method(self) -> str:
        return "method"

    @classmethod
    def of_class(cls) -> str:
        return cls.__name__


async def test_any_callable_of_no_arguments_is_an_inline_step() -> None:
    """Calls: lambdas, partials, methods, objects, classes, and those that return any awaitable."""

    class Later:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    async def body(workflow: Workflow) -> Any:
        targets: list[Callable[[], Any]] = [
            functools.partial(max, 1, 2),
            Caller(),
            Caller().method,
            Caller.of_class,
            dict,
            lambda: Later(),
            lambda: asyncio.gather(asyncio.sleep(0, "gathered")),
        ]
        return [await workflow.do("step", target) for target in targets]

    assert await run(body) == [2, "object", "method", "Caller", {}, "awaited", ["gathered"]]


async def test_a_sync_inline_callable_runs_on_the_loop_of_the_application() -> None:
    """C30: called directly, in its thread and with its loop running; an awaitable is awaited there."""
    loop = asyncio.get_running_loop()
    seen: list[Any] = []

    async def body(workflow: Workflow) -> None:
        def sync() -> None:
            seen.append((threading.current_thread(), asyncio.get_running_loop()))

        async def coroutine() -> None:
            seen.append((threading.current_thread(), asyncio.get_running_loop()))

        await workflow.do("sync", sync)
        await workflow.do("async", coroutine)

    await run(body)

    assert seen == [(threading.current_thread(), loop)] * 2


@pytest.mark.parametrize(
    "error",
    [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), StopIteration(1), StopAsyncIteration(), BaseException()],
)
@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_whatever_an_inline_step_raises_is_its_failure(error: BaseException, kind: str) -> None:
    """C30, C95: SystemExit and StopIteration too; the workflow catches it and goes on."""

    def sync() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    async def body(workflow: Workflow) -> Any:
        try:
            await workflow.do("step", sync if kind == "sync" else coroutine)
        except StepFailed as failed:
            return failed.error_type, await workflow.do("next", lambda: "next")

    expected = type(error).__name__
    if kind == "async" and isinstance(error, StopIteration | StopAsyncIteration):
        expected = "RuntimeError"  # that is what Python makes of it
    assert await run(body) in ((expected, "next"), (type(error).__name__, "next"))


async def test_calls_take_their_place_when_they_are_called() -> None:
    """C31: not when they are awaited."""

    async def body(workflow: Workflow) -> Any:
        second = workflow.sleep("first", "1h")
        third = workflow.do("second", lambda: 2)
        first = workflow.sleep_until("third", workflow.now() + timedelta(hours=1))
        await asyncio.gather(first, third, second)

    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:", clock=VirtualClock(autojump=True)) as engine:
        await engine.run("flow", run_id="r")
        assert [step.name for step in await engine.steps("r")] == ["first", "second", "third"]


async def test_a_step_s_awaitable_is_a_future() -> None:
    """C32: awaiting it again gives the same, also an error; never awaited, it runs as well."""
    ran: list[int] = []

    async def body(workflow: Workflow) -> Any:
        value = workflow.do("value", lambda: [1])
        error = workflow.do("error", lambda: 1 / 0)
        workflow.do("forgotten", lambda: ran.append(1))
        for _ in range(2):
            assert await value == [1]
            with pytest.raises(StepFailed):
                await error
        await workflow.sleep("moment", 1)
        return (await asyncio.gather(value, value))[0]

    assert await run(body) == [1]
    assert ran == [1]


async def test_a_durable_call_in_the_wrong_place_is_misuse() -> None:
    """C35: in a step, from a thread, from another loop, after the end; each call of the table."""
    leaked: list[Workflow] = []

    def calls(workflow: Workflow) -> list[Callable[[], Any]]:
        return [
            lambda: workflow.do("a", lambda: 1),
            lambda: workflow.sleep("a", 1),
            lambda: workflow.sleep_until("a", datetime(2040, 1, 1, tzinfo=UTC)),
            lambda: workflow.cancel("x"),
        ]

    def check(workflow: Workflow) -> int:
        for call in calls(workflow):
            with pytest.raises(WorkflowMisuse):
                call()
        return len(calls(workflow))

    async def body(workflow: Workflow) -> Any:
        leaked.append(workflow)
        await workflow.do("inline", lambda: check(workflow))
        await workflow.do("thread", lambda: asyncio.to_thread(check, workflow))
        return await workflow.do("steps", lambda: 5)

    pikku = Pikku()
    pikku.workflow(name="flow")(body)
    async with pikku.open(":memory:") as engine:
        assert await engine.run("flow", run_id="r") == 5
        check(leaked[0])
        assert [step.name for step in await engine.steps("r")] == ["inline", "thread", "steps"]
    check(leaked[0])


@pytest.mark.parametrize("when", [datetime(2040, 1, 1), "2040-01-01", None, 5, datetime(2040, 1, 1).date()])
async def test_sleep_until_wants_an_aware_datetime(when: Any) -> None:
    """C36: DurationError in the call, before it takes its place."""

    async def body(workflow: Workflow) -> Any:
        with pytest.raises(DurationError):
            workflow.sleep_until("a", when)
        return await workflow.do("a", lambda: current_step().step_name)  # type: ignore

    assert await run(body) == "a"


@pytest.mark.parametrize(
    "when",
    [
        datetime(2030, 1, 1, tzinfo=UTC),
        datetime(2029, 12, 31, tzinfo=UTC),
        datetime(1969, 1, 1, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
async def test_sleep_until_a_past_moment_goes_on_at_once(when: datetime, db: Path) -> None:
    """C36: however long past, and the step can be looked at."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.sleep_until("past", when)
        return "on"

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        assert await asyncio.wait_for(engine.run(flow, run_id="r"), 5) == "on"
        (step,) = await engine.steps("r")
        assert (step.status, step.attempts) == ("succeeded", 0)


async def test_sleep_until_too_far_is_a_duration_error() -> None:
    """C72: the limit is 100 years."""

    async def body(workflow: Workflow) -> None:
        with pytest.raises(DurationError):
            workflow.sleep_until("a", datetime.max.replace(tzinfo=UTC))
        with pytest.raises(DurationError):
            workflow.sleep_until("a", datetime.max.replace(tzinfo=timezone(-timedelta(hours=14))))

    await run(body)


async def test_sleep_until_knows_time_zones() -> None:
    """C36: the moment counts, not the numbers."""
    clock = VirtualClock(autojump=True)

    async def body(workflow: Workflow) -> datetime:
        await workflow.sleep_until("a", datetime(2030, 1, 1, 5, tzinfo=timezone(timedelta(hours=2))))
        return workflow.now()

    assert await run(body, clock) == datetime(2030, 1, 1, 3, tzinfo=UTC)


async def test_now_random_and_uuid4_are_plain_calls_and_repeat(db: Path) -> None:
    """C49, C50, C51: the same in every life; two runs differ; `random()` is one generator."""
    pikku = Pikku()
    seen: dict[str, list[Any]] = {}

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        facts: list[Any] = [workflow.now(), workflow.random().random(), workflow.uuid4(), workflow.uuid4()]
        assert isinstance(workflow.random(), random.Random)
        assert workflow.random() is workflow.random()
        await workflow.do("step", lambda: 1)
        facts += [workflow.now(), workflow.random().random(), workflow.uuid4()]
        seen.setdefault(workflow.run_id, []).append(facts)
        await workflow.sleep("long", "30d")

    clock = VirtualClock()
    for _ in range(2):
        async with pikku.open(db, clock=clock) as engine:
            for run_id in "ab":
                await engine.start(flow, run_id=run_id)
            await clock.advance("1h")

    assert seen["a"][0] == seen["a"][1]
    assert seen["b"][0] == seen["b"][1]
    a, b = seen["a"][0], seen["b"][0]
    assert len({*a[1:4], *a[5:], *b[1:4], *b[5:]}) == 10
    assert isinstance(a[0], datetime)
    assert a[0].utcoffset() == timedelta(0)
    assert isinstance(a[2], UUID)
    assert a[2].version == 4


async def test_now_is_the_time_of_the_last_outcome_and_never_goes_back(db: Path) -> None:
    """C51: of the start before the first; also when the wall clock went back between two lives (C161)."""
    pikku = Pikku()
    seen: list[datetime] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        seen.append(workflow.now())
        await workflow.sleep("hour", "1h")
        seen.append(workflow.now())
        await workflow.do("again", lambda: asyncio.Event().wait() if len(lives) == 1 else None)
        seen.append(workflow.now())

    lives = [1]
    start = datetime(2030, 6, 1, tzinfo=UTC)
    clock = VirtualClock(start)
    async with pikku.open(db, clock=clock, shutdown_grace=0) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance("90min")
    lives.append(2)
    async with pikku.open(db, clock=VirtualClock(start - timedelta(days=9))) as engine:
        await asyncio.wait_for((await engine.handle("r")).result(), 5)
        assert (await engine.get_run("r")).status == "completed"

    assert seen[:2] == [start, start + timedelta(minutes=90)] or seen[:2] == [start, start + timedelta(hours=1)]
    assert seen == sorted(seen[:2]) + seen[2:4] + [max(seen)]


async def test_awaiting_a_service_s_io_in_the_body_is_misuse() -> None:
    """C52: `workflow.services` is the application's object; its I/O belongs into a step."""

    class Application:
        async def fetch(self) -> None:
            await asyncio.open_connection("127.0.0.1", 1)

        async def in_a_thread(self) -> None:
            await asyncio.to_thread(str)

    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> None:
        await getattr(workflow.services, data)()

    application = Application()
    async with pikku.open(":memory:", services=application) as engine:
        for name in ("fetch", "in_a_thread"):
            with pytest.raises(RunFailed, match=r"workflow\.do") as failed:
                await asyncio.wait_for(engine.run(flow, name), 5)
            assert failed.value.error.type == "pikkupy.errors.WorkflowMisuse"


async def test_misuse_can_be_caught() -> None:
    """C101: it is an ordinary exception."""

    async def body(workflow: Workflow) -> str:
        try:
            await asyncio.to_thread(str)
        except WorkflowMisuse:
            return await workflow.do("instead", lambda: "instead")
        return "not noticed"

    assert await run(body) == "instead"


async def test_as_completed_over_the_awaitables_of_workflow() -> None:
    """C4: over steps and over tasks; in the order of their completion."""

    async def body(workflow: Workflow) -> list[Any]:
        async def after(hours: int) -> int:
            await workflow.sleep("nap", f"{hours}h")
            return hours

        steps = [workflow.do(f"step {n}", lambda n=n: n) for n in range(3)]  # type: ignore[misc]
        first = [await done for done in asyncio.as_completed(steps)]
        tasks = [asyncio.create_task(after(hours)) for hours in (3, 1, 2)]
        return [sorted(first), [await done for done in asyncio.as_completed(tasks)]]

    assert await run(body) == [[0, 1, 2], [1, 2, 3]]


async def test_the_workflow_knows_itself() -> None:
    """Calls: `run_id`, `name`, `services`."""
    pikku = Pikku()
    application = object()

    @pikku.workflow(name="the name")
    async def flow(workflow: Workflow) -> list[Any]:
        assert workflow.services is application
        return [workflow.run_id, workflow.name]

    async with pikku.open(":memory:", services=application) as engine:
        assert await engine.run(flow, run_id="r") == ["r", "the name"]


async def test_the_logger_is_silent_while_replaying(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Calls: a line is logged in the life in which it was reached first, the first line of a body included."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        workflow.logger.warning("line one")
        await workflow.do("step", lambda: 1)
        workflow.logger.warning("line two")
        await workflow.sleep("nap", "1h")
        workflow.logger.warning("line three")

    clock = VirtualClock()
    for _ in range(3):
        async with pikku.open(db, clock=clock) as engine:
            await engine.start(flow, run_id="r")
            await clock.advance("20min")
    lines = [record.getMessage() for record in caplog.records if "line" in record.getMessage()]

    assert [line.split(" run_id")[0] for line in lines] == ["line one", "line two", "line three"]


async def test_calling_the_engine_in_a_body_is_misuse_and_harms_nothing() -> None:
    """C102, C138: no effect, whichever call; the engine goes on."""
    pikku = Pikku()

    @pikku.workflow
    async def other(workflow: Workflow) -> int:
        return 1

    async with pikku.open(":memory:") as engine:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "start": lambda: engine.start("other", run_id="o"),
            "start without id": lambda: engine.start("other"),
            "get_run": lambda: engine.get_run("r"),
            "list_runs": lambda: engine.list_runs(),
            "cancel": lambda: engine.cancel("r", "own"),
        }

        @pikku.workflow
        async def flow(workflow: Workflow, data: str) -> None:
            await calls[data]()

        for name in calls:
            with pytest.raises(RunFailed, match=r"workflow\.do") as failed:
                await asyncio.wait_for(engine.run(flow, name, run_id=name), 5)
            assert failed.value.error.type == "pikkupy.errors.WorkflowMisuse"
        assert {run.workflow for run in (await engine.list_runs()).runs} == {"flow"}
        assert await asyncio.wait_for(engine.run("other"), 5) == 1


async def test_a_library_s_thread_survives_being_awaited_in_a_body() -> None:
    """C52, C102: a service that answers from a thread of its own, awaited in a body: misuse, and the thread lives."""
    answered: list[BaseException | None] = []

    class Service:
        async def ask(self) -> None:
            loop = asyncio.get_running_loop()
            future = loop.create_future()

            def answer() -> None:
                try:
                    loop.call_soon_threadsafe(future.set_result, 5)
                except BaseException as error:
                    answered.append(error)
                else:
                    answered.append(None)

            thread = threading.Thread(target=answer)
            thread.start()
            await future

    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.services.ask()

    async with pikku.open(":memory:", services=Service()) as engine:
        with pytest.raises(RunFailed, match=r"workflow\.do"):
            await asyncio.wait_for(engine.run(flow), 5)
        while not answered:
            await asyncio.sleep(0.001)

    assert answered == [None]


@pytest.mark.parametrize("when", [datetime(2040, 1, 1), "2040-01-01"])
async def test_every_moment_is_refused_in_the_same_words(when: Any) -> None:
    """C36: `sleep_until`, `start`, `list_runs` and the clock of tests; the error says which argument it was."""
    pikku = Pikku()
    said: dict[str, str] = {}

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        with pytest.raises(DurationError) as raised:
            workflow.sleep_until("a", when)
        said["when"] = str(raised.value).removeprefix("sleep_until('a') of run 'r': ")
        return "refused"

    async with pikku.open(":memory:") as engine:
        await engine.run(flow, run_id="r")
        with pytest.raises(DurationError) as raised:
            await engine.start(flow, at=when)
        said["at"] = str(raised.value)
        for argument in ("created_after", "created_before"):
            with pytest.raises((TypeError, ValueError)) as refused:
                await engine.list_runs(**{argument: when})
            said[argument] = str(refused.value)
    with pytest.raises(DurationError) as raised:
        VirtualClock(when)
    said["start"] = str(raised.value)

    assert len(said) == 5
    assert {text.removeprefix(f"{argument}=") for argument, text in said.items()} == {
        f"{when!r}: use an aware datetime, not str"
        if isinstance(when, str)
        else f"{when!r}: a naive datetime names no moment; make it aware, give it a tzinfo"
    }
