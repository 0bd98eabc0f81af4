"""Inline steps and `async` functions, on the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import warnings
from typing import Any

import msgspec
import pytest

from pikkupy.core.outcomes import Failed, Stopped, Succeeded
from pikkupy.errors import NonRetryableError, PayloadError
from pikkupy.services import Services, current_step
from tests.workers.scene import PATIENCE_S, Scene, Watched, scene, turns


class Card(msgspec.Struct):
    number: str


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


ANY_ERROR = [
    ValueError("bad"),
    SystemExit(2),
    KeyboardInterrupt(),
    GeneratorExit(),
    StopIteration(1),
    StopAsyncIteration(),
    MemoryError(),
    RecursionError(),
    asyncio.CancelledError(),
    ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    Hostile(),
]


def raising(error: BaseException) -> Any:
    raise error


async def test_an_inline_callable_has_ended_when_begin_returns() -> None:
    """There is no hop between the engine and a plain inline step."""
    async with scene() as stage:
        watched = stage.begin(lambda: threading.current_thread().name)

        assert watched.told == ["began", "ended"]
        assert watched.outcomes == [Succeeded(f'"{threading.current_thread().name}"')]
        assert stage.workers.running == 0


async def test_an_awaitable_that_an_inline_callable_returns_is_awaited() -> None:
    """Coroutines and futures alike, on the application's own loop."""
    async with scene() as stage:
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        of_future = stage.begin(lambda: future)
        of_coroutine = stage.begin(lambda: asyncio.sleep(0, "slept"))
        assert stage.workers.running == 2
        future.set_result(7)

        assert await of_future.output() == "7"
        assert await of_coroutine.output() == '"slept"'


async def test_an_async_function_gets_services_and_decoded_data() -> None:
    """The value is always the decoded text, never the caller's own object."""

    class Application:
        crm = "the crm"

    async def charge(services: Any, data: Card) -> Any:
        return [data.number, services.crm, services.workflow_step.attempt_count, type(services).__mro__[1] is Services]

    async with scene(Application()) as stage:
        watched = stage.begin(charge, "async", data={"number": "4711"}, data_type=Card, attempt=3)
        assert watched.told == ["began"]

        assert await watched.output() == '["4711","the crm",3,true]'
        assert watched.told == ["began", "ended"]


async def test_a_function_without_data_is_called_without() -> None:
    """`data` may be left out of the signature, and `None` is data like any other."""

    async def count(*arguments: object) -> int:
        return len(arguments)

    async with scene() as stage:
        without, with_none = stage.begin(count, "async"), stage.begin(count, "async", takes_data=True)

        assert [await without.output(), await with_none.output()] == ["1", "2"]


@pytest.mark.parametrize("error", ANY_ERROR, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["plain", "awaited", "async"])
async def test_whatever_a_step_raises_is_its_failure(kind: str, error: BaseException) -> None:
    """Also what asyncio would let out of the loop, and what cannot show itself."""

    async def body(*_: object) -> None:
        raise error

    calls = {"plain": lambda: raising(error), "awaited": body, "async": body}
    async with scene() as stage:
        failed = await stage.begin(calls[kind], "async" if kind == "async" else "inline").failed()

        expected = type(error)
        if kind != "plain" and isinstance(error, StopIteration | StopAsyncIteration):
            expected = RuntimeError if isinstance(error, StopIteration) else StopAsyncIteration  # by the language
        assert failed.error.type.endswith(expected.__name__)
        assert isinstance(failed.exception, expected)
        assert not failed.final


async def test_a_non_retryable_error_is_final() -> None:
    """So is a subclass of it, and nothing else that a step raises."""

    class NoSuchAccount(NonRetryableError):
        pass

    async with scene() as stage:
        assert (await stage.begin(lambda: raising(NoSuchAccount())).failed()).final
        assert not (await stage.begin(lambda: raising(PayloadError("of another engine"))).failed()).final


async def test_data_that_does_not_fit_fails_the_attempt_for_good() -> None:
    """The function is not called."""

    async def charge(services: Any, data: Card) -> None:
        raise AssertionError("called")

    async with scene() as stage:
        failed = await stage.begin(charge, "async", data={"no": 1}, data_type=Card).failed()

        assert failed.error.type == "pikkupy.errors.PayloadError"
        assert "data of step 'Charge'" in failed.error.message
        assert failed.final


async def test_output_that_cannot_be_kept_fails_the_attempt_for_good() -> None:
    """Another attempt would not change that."""
    async with scene() as stage:
        failed = await stage.begin(lambda: lambda: None).failed()

        assert failed.error.type == "pikkupy.errors.PayloadError"
        assert "output of step 'Charge'" in failed.error.message
        assert failed.final


async def test_a_step_runs_in_a_copy_of_the_callers_context() -> None:
    """It sees the caller's variables, and its own changes are seen by nobody else."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("acme")

    def change() -> str:
        before = tenant.get()
        tenant.set("other")
        return before

    async with scene() as stage:
        assert await stage.begin(change).output() == '"acme"'
        assert await stage.begin(change).output() == '"acme"'
        assert tenant.get() == "acme"


async def test_current_step_is_there_in_the_step_and_in_its_tasks() -> None:
    """And in nothing else: not in the caller, not in the next step."""

    async def body() -> list[str | None]:
        async def name() -> str | None:
            step = current_step()
            return step and step.step_name

        return [await name(), await asyncio.create_task(name()), await asyncio.to_thread(lambda: asyncio.run(name()))]

    async with scene() as stage:
        assert await stage.begin(body, name="Outer").output() == '["Outer","Outer","Outer"]'
        assert await stage.begin(lambda: getattr(current_step(), "step_id", None), name="In").output() == '"run-1/In"'
        assert current_step() is None


# Stopping


async def test_a_stopped_step_gets_a_cancelled_error() -> None:
    """Its clean-up runs before the end is told."""
    cleaned = []

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    async with scene() as stage:
        watched = stage.begin(body)
        await turns()
        watched.attempt.stop()
        watched.attempt.stop()

        assert await watched.outcome() == Stopped()
        assert cleaned == [True]
        assert stage.time.pending == []


async def test_a_step_may_be_stopped_before_its_first_line() -> None:
    """Then nothing of it runs, and Python has nothing to warn about."""

    async def body(*_: object) -> None:
        raise AssertionError("ran")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with scene() as stage:
            for where in ("inline", "async"):
                watched = stage.begin(body, where)
                watched.attempt.stop()

                assert await watched.outcome() == Stopped()
            gc.collect()


async def test_a_stopped_step_that_returns_a_value_in_time_has_succeeded() -> None:
    """A late success counts: its effect has happened."""

    async def body() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "done all the same"
        return ""

    async with scene() as stage:
        watched = stage.begin(body)
        await turns()
        watched.attempt.stop()

        assert await watched.output() == '"done all the same"'


async def test_a_stopped_step_that_raises_something_else_has_failed() -> None:
    """An error in the clean-up is an error."""

    async def body() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("clean-up")

    async with scene() as stage:
        watched = stage.begin(body)
        await turns()
        watched.attempt.stop()

        assert (await watched.failed()).error.type == "ValueError"


async def test_a_step_that_does_not_end_is_abandoned_after_the_grace(caplog: pytest.LogCaptureFixture) -> None:
    """The grace is in the engine's time, the log shows where the step stands, a result that comes yet is late."""
    release = asyncio.Event()

    async def stubborn() -> str:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return "at last"

    async with scene(cancel_grace="5s") as stage:
        watched = stage.begin(stubborn)
        await turns()
        watched.attempt.stop()
        stage.time.advance(4.9)
        await turns()
        assert watched.outcomes == []
        with caplog.at_level(logging.WARNING, "pikkupy"):
            stage.time.advance(0.2)

        assert watched.outcomes == [Stopped()]
        assert stage.workers.running == 0
        assert caplog.records[0].pikku["event"] == "step_abandoned"  # type: ignore[attr-defined]
        assert "stubborn" in caplog.records[0].pikku["stack"]  # type: ignore[attr-defined]
        release.set()
        await turns()
        assert watched.late == [Succeeded('"at last"')]
        assert watched.told == ["began", "ended"]


@pytest.mark.parametrize("how", ["raised", "self-cancelled", "from a cancelled future"])
async def test_a_cancelled_error_that_nobody_asked_for_is_a_failure(how: str) -> None:
    """It is the step's own, so it counts and is retried like any other."""

    async def body() -> None:
        if how == "raised":
            raise asyncio.CancelledError("own")
        if how == "self-cancelled":
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with scene() as stage:
        failed = await stage.begin(body).failed()

        assert failed.error.type == "asyncio.exceptions.CancelledError"
        assert not failed.final


def test_a_loop_that_ends_stops_steps_and_fails_none() -> None:
    """Shutting down is no fault of the step: it is never recorded as its failure."""
    watched: list[Watched] = []

    async def main() -> None:
        stage = Scene(None, {})
        watched.append(stage.begin(asyncio.Event().wait))
        await turns()

    asyncio.run(main())

    assert watched[0].outcomes == [Stopped()]


# Time-outs


async def test_a_step_that_takes_too_long_fails_with_a_timeout_error() -> None:
    """Retryable, naming the limit and the place where it stood."""

    async def body() -> None:
        await asyncio.Event().wait()

    async with scene() as stage:
        watched = stage.begin(body, timeout_s=2.5)
        await turns()
        stage.time.advance(2.5)
        failed = await watched.failed()

        assert failed.error.type == "TimeoutError"
        assert failed.error.message == "step 'Charge' did not end within its timeout of 2.5 s"
        assert "await asyncio.Event().wait()" in failed.error.traceback
        assert isinstance(failed.exception, TimeoutError)
        assert not failed.final
        assert stage.time.pending == []


async def test_a_value_that_comes_after_the_timeout_is_dropped() -> None:
    """The time-out is the end of the attempt: nothing else is told of it, not as a late result either."""

    async def body() -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "too late"
        return ""

    async with scene() as stage:
        watched = stage.begin(body, timeout_s=1)
        await turns()
        stage.time.advance(1)

        assert (await watched.failed()).error.type == "TimeoutError"
        await turns()
        assert watched.late == []


async def test_a_step_that_ends_in_time_leaves_no_timer() -> None:
    """The heap of timers does not grow with the steps that were run."""
    async with scene() as stage:
        assert await stage.begin(lambda: asyncio.sleep(0, 1), timeout_s=1).output() == "1"

        assert stage.time.pending == []


async def test_a_timeout_does_not_break_timeouts_inside_the_step() -> None:
    """`asyncio.timeout` in a step keeps its own count of cancellations."""

    async def body() -> str:
        try:
            async with asyncio.timeout(0):
                await asyncio.Event().wait()
        except TimeoutError:
            return "own"
        return ""

    async with scene() as stage:
        assert await stage.begin(body, timeout_s=60).output() == '"own"'


# Slots


async def test_attempts_beyond_the_limit_wait_their_turn() -> None:
    """I-37: of one run, first come, first served; inline steps and functions share the slots."""
    order: list[int] = []
    gates = [asyncio.Event() for _ in range(3)]

    def body(number: int) -> Any:
        async def run(*_: object) -> None:
            order.append(number)
            await gates[number].wait()

        return run

    async with scene(async_workers=1) as stage:
        watched = [stage.begin(body(number), "async" if number else "inline") for number in range(3)]
        await turns()
        assert (stage.workers.running, stage.workers.waiting) == (1, 2)
        assert [one.told for one in watched] == [["began"], [], []]
        for gate, one in zip(gates, watched, strict=True):
            gate.set()
            await one.outcome()

        assert order == [0, 1, 2]
        assert (stage.workers.running, stage.workers.waiting) == (0, 0)


async def test_runs_take_turns_at_the_slots() -> None:
    """I-38: one that asks for very many does not hold up those that ask for one after it."""
    gate, order = asyncio.Event(), list[str]()

    async def body() -> None:
        await gate.wait()
        step = current_step()
        assert step is not None
        order.append(step.step_name)

    async with scene(async_workers=1) as stage:
        first = stage.begin(body, name="a0", run_id="a")
        many = [stage.begin(body, name=f"a{number}", run_id="a") for number in range(1, 1_000)]
        few = [stage.begin(body, name=f"b{number}", run_id="b") for number in range(2)]
        one = stage.begin(body, name="c0", run_id="c")
        stopped = stage.begin(body, name="d0", run_id="d")
        assert stage.workers.waiting == 1_003
        stopped.attempt.stop()
        gate.set()
        for watched in (first, *few, one, *many):
            await watched.outcome()
        assert stage.workers.waiting == 0

    assert order[:7] == ["a0", "a1", "b0", "c0", "a2", "b1", "a3"]
    assert order[7:] == [f"a{number}" for number in range(4, 1_000)]


async def test_the_timeout_does_not_count_the_wait_for_a_slot() -> None:
    """It counts from the start of the body."""
    gate = asyncio.Event()
    async with scene(async_workers=1) as stage:
        first = stage.begin(gate.wait)
        second = stage.begin(asyncio.Event().wait, timeout_s=1)
        stage.time.advance(10)
        gate.set()
        await first.output()
        await turns()
        assert second.told == ["began"]
        stage.time.advance(1)

        assert (await second.failed()).error.type == "TimeoutError"


async def test_a_waiting_attempt_that_is_stopped_never_begins() -> None:
    """Its end is told at once, and the others keep their order."""
    gate = asyncio.Event()
    async with scene(async_workers=1) as stage:
        stage.begin(gate.wait)
        second, third = stage.begin(lambda: 2), stage.begin(lambda: 3)
        second.attempt.stop()
        assert (second.told, second.outcomes) == (["ended"], [Stopped()])
        gate.set()

        assert await third.output() == "3"


async def test_thousands_of_waiting_attempts_that_end_at_once_do_not_overflow_the_stack() -> None:
    """Each frees a slot for the next without calling it."""
    gate = asyncio.Event()
    async with scene(async_workers=1) as stage:
        stage.begin(gate.wait)
        watched = [stage.begin(lambda: None) for _ in range(5_000)]
        gate.set()
        await watched[-1].output()

        assert all(one.outcomes == [Succeeded("null")] for one in watched)


# Closing


async def test_close_lets_what_runs_come_to_its_end() -> None:
    """Within the grace; what waits does not begin any more."""
    gate = asyncio.Event()
    async with scene(async_workers=1) as stage:
        running, waiting = stage.begin(gate.wait), stage.begin(lambda: "never")
        closing = asyncio.ensure_future(stage.workers.close(PATIENCE_S))
        await turns()
        assert waiting.outcomes == [Stopped()]
        gate.set()
        await closing

        assert running.outcomes == [Succeeded("true")]


async def test_close_stops_what_does_not_end_and_abandons_what_does_not_stop() -> None:
    """It comes back in any case, and every end has been told."""

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    release = asyncio.Event()
    async with scene(cancel_grace="10ms") as stage:
        polite, rude = stage.begin(asyncio.Event().wait), stage.begin(stubborn)
        await stage.workers.close(0)

        assert polite.outcomes == rude.outcomes == [Stopped()]
        assert stage.workers.running == 0
        release.set()
        await turns()
        assert rude.late == [Succeeded("null")]


async def test_nothing_begins_after_close() -> None:
    """The attempt has ended, stopped, when `begin` returns."""
    async with scene() as stage:
        await stage.workers.close(0)
        watched = stage.begin(lambda: raising(AssertionError("ran")))

        assert watched.told == ["ended"]
        assert watched.outcomes == [Stopped()]


async def test_close_leaves_no_task_behind() -> None:
    """Not even the one that watches for the end of the loop."""
    before = asyncio.all_tasks()
    async with scene() as stage:
        await stage.begin(lambda: asyncio.sleep(0)).output()

    assert asyncio.all_tasks() == before


async def test_a_failed_step_is_not_kept_alive() -> None:
    """Frames and locals of a failed step go with its outcome, not with the next collection."""

    class Big:
        pass

    alive: list[Any] = []

    async def body() -> None:
        import weakref

        big = Big()
        alive.append(weakref.ref(big))
        raise ValueError(str(big))

    gc.disable()
    try:
        async with scene() as stage:
            watched = stage.begin(body)
            outcome: Failed | None = await watched.failed()
            assert alive[0]() is not None
            outcome = None
            watched.outcomes.clear()
            await turns()

            assert outcome is None
            assert alive[0]() is None
    finally:
        gc.enable()
