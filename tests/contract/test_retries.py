"""Retries: how often, after which wait, under which number, and what a time-out is."""

from __future__ import annotations

import asyncio
import threading
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pikkupy import NonRetryableError, PayloadError, Pikku, RunFailed, Services, StepFailed, Workflow, current_step
from pikkupy.core.model import StepStatus
from pikkupy.testing import VirtualClock


async def waits(failures: int, **options: Any) -> list[timedelta]:
    """The waits between the attempts of a step that fails so often."""
    pikku = Pikku()
    clock = VirtualClock(autojump=True)
    times: list[datetime] = []

    def body() -> None:
        times.append(clock.now())
        if len(times) <= failures:
            raise OSError

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", body, retries=failures, **options)

    async with pikku.open(":memory:", clock=clock) as engine:
        await asyncio.wait_for(engine.run(flow), 20)
    return [b - a for a, b in zip(times, times[1:], strict=False)]


@pytest.mark.parametrize("retries", [-1, True, False, 1.0, "3", None, 10.5, float("inf"), [1]])
async def test_retries_must_be_a_whole_number(retries: Any) -> None:
    """C53: anything but an `int` of 0 or more is a ValueError in the call."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        with pytest.raises(ValueError, match="retries"):
            workflow.do("step", lambda: 1, retries=retries)
        return "refused"

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow, run_id="r") == "refused"
        assert await engine.steps("r") == []


async def test_huge_retries_are_retries() -> None:
    """C53: also with exponential back-off, which stays within its limit."""
    found = await waits(100, retry_delay="1s", backoff="exponential", max_retry_delay="1min")
    assert found[:7] == [timedelta(seconds=s) for s in (1, 2, 4, 8, 16, 32, 60)]
    assert set(found[7:]) == {timedelta(minutes=1)}
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        return await workflow.do("step", lambda: 1, retries=10**30)

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == 1


async def test_the_default_limit_of_an_exponential_wait_is_a_day() -> None:
    """C54: the wait before attempt n is retry_delay * 2**(n-2), at most `max_retry_delay`."""
    found = await waits(6, retry_delay="4h", backoff="exponential")

    assert found == [timedelta(hours=h) for h in (4, 8, 16, 24, 24, 24)]


async def test_fixed_back_off_waits_the_same_each_time() -> None:
    """C54: the default; the limit is for exponential waits."""
    assert await waits(3, retry_delay=1500) == [timedelta(seconds=1.5)] * 3
    assert await waits(2) == [timedelta(0)] * 2
    assert await waits(2, retry_delay="0ms", backoff="exponential") == [timedelta(0)] * 2


@pytest.mark.parametrize("jitter", [0, 0.0, 0.5, 1])
async def test_jitter_lengthens_by_up_to_its_fraction(jitter: float) -> None:
    """C55: never shortens."""
    for wait in await waits(30, retry_delay="10s", jitter=jitter):
        assert timedelta(seconds=10) <= wait <= timedelta(seconds=10 * (1 + jitter))


@pytest.mark.parametrize("jitter", [-0.1, 1.1, float("nan"), float("inf"), "0.1", None, True])
async def test_a_jitter_that_is_no_fraction_is_refused(jitter: Any) -> None:
    """C55: in the call."""
    with pytest.raises(RunFailed, match="jitter"):
        await waits(0, jitter=jitter)


async def test_jitter_is_recorded_in_wake_at(db: Path) -> None:
    """C55: the wait survives a restart to the microsecond."""
    pikku = Pikku()
    times: list[datetime] = []
    clock = VirtualClock()

    def body() -> None:
        times.append(clock.now())
        if len(times) == 1:
            raise OSError

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", body, retries=1, retry_delay="1h", jitter=1.0)

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
        (step,) = await engine.steps("r")
    wake_at = step.wake_at
    assert wake_at is not None
    async with pikku.open(db, clock=clock) as engine:
        assert (await engine.steps("r"))[0].wake_at == wake_at
        await clock.advance(wake_at - clock.now() - timedelta(microseconds=1))
        assert len(times) == 1
        await clock.advance(timedelta(microseconds=1))
        assert times[1] == wake_at


async def test_retry_if_gets_the_exception_that_was_raised() -> None:
    """C56: the object itself; a TimeoutError for a time-out; if it raises, the step fails with that error."""
    pikku = Pikku()
    error = OSError("mine")
    seen: list[BaseException] = []

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> str:
        def fail() -> None:
            raise error

        def asked(given: BaseException) -> bool:
            seen.append(given)
            if data == "raises":
                raise KeyError("predicate")
            return False

        target: Any = (lambda: asyncio.Event().wait()) if data == "timeout" else fail
        try:
            await workflow.do("step", target, retries=3, retry_if=asked, timeout="1s")
        except StepFailed as failed:
            return f"{failed.attempts} {failed.error_type}"
        return ""

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        assert await engine.run(flow, "plain") == "1 OSError"
        assert await engine.run(flow, "raises") == "1 KeyError"
        handle = await engine.start(flow, "timeout")
        await clock.advance("1s")
        assert await handle.result(timeout=0) == "1 TimeoutError"

    assert seen[0] is error
    assert isinstance(seen[2], TimeoutError)


class AsyncPredicate:
    async def __call__(self, error: BaseException) -> bool:
        return False


async def never(error: BaseException) -> bool:
    return False


@pytest.mark.parametrize("retry_if", [never, partial(never), AsyncPredicate(), AsyncPredicate().__call__])
async def test_an_async_retry_if_is_refused_in_the_call(retry_if: Any) -> None:
    """Nobody would await its answer, so it would always count as true."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        with pytest.raises(TypeError, match=r"retry_if=.*it is async"):
            workflow.do("step", lambda: 1 / 0, retries=1, retry_if=retry_if)

    async with pikku.open(":memory:") as engine:
        await engine.run(flow)


@pytest.mark.parametrize("raised", [SystemExit, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_retry_if_that_raises_anything_fails_the_step(raised: type[BaseException]) -> None:
    """C56: any error, and the engine goes on."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        def asked(given: BaseException) -> bool:
            raise raised

        try:
            await workflow.do("step", lambda: 1 / 0, retries=3, retry_if=asked)
        except StepFailed as failed:
            return failed.error_type
        return ""

    async with pikku.open(":memory:") as engine:
        assert (await asyncio.wait_for(engine.run(flow), 5)).endswith(raised.__name__)


async def test_a_timed_out_attempt_is_a_timeout_error_and_retried() -> None:
    """C57, C60: in the engine's time, like any other failure."""
    pikku = Pikku()
    numbers: list[int] = []

    @pikku.function
    async def slow(services: Services) -> None:
        assert services.workflow_step is not None
        numbers.append(services.workflow_step.attempt_count)
        await asyncio.Event().wait()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("slow", slow, timeout="1h", retries=2, retry_delay="1h")
        except StepFailed as failed:
            return [failed.attempts, failed.error_type, failed.is_a(TimeoutError), workflow.now()]
        return []

    clock = VirtualClock()
    begun = clock.now()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        for _ in range(5):
            await clock.advance("1h")
        assert await handle.result(timeout=0) == [3, "TimeoutError", True, begun + timedelta(hours=5)]

    assert numbers == [1, 2, 3]


async def test_a_thread_that_times_out_fails_on_time_and_is_dropped() -> None:
    """C58: its late result changes nothing."""
    pikku = Pikku()
    gate = threading.Event()

    @pikku.function
    def slow(services: Services) -> str:
        gate.wait(10)
        return "late"

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        try:
            return await workflow.do("slow", slow, timeout="20ms")
        except StepFailed as failed:
            return failed.error_type

    async with pikku.open(":memory:") as engine:
        assert await asyncio.wait_for(engine.run(flow, run_id="r"), 5) == "TimeoutError"
        gate.set()
        await asyncio.sleep(0.05)
        assert [step.status for step in await engine.steps("r")] == ["failed"]
        assert [attempt.status for attempt in await engine.history("r")][:1] == ["failed"]


async def test_the_timeout_counts_from_the_start_of_the_body() -> None:
    """C59: the wait for a free worker is not counted."""
    pikku = Pikku()
    clock = VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        async def wait() -> str:
            await gate.wait()
            return "done"

        return await asyncio.gather(
            workflow.do("first", wait), workflow.do("second", lambda: "second", timeout="1s"), return_exceptions=True
        )

    gate = asyncio.Event()
    async with pikku.open(":memory:", clock=clock, async_workers=1) as engine:
        handle = await engine.start(flow)
        await clock.advance("1h")
        gate.set()
        await clock.advance(0)
        assert await handle.result(timeout="1s") == ["done", "second"]


async def test_a_value_that_cannot_be_kept_is_never_retried() -> None:
    """C3: one attempt, PayloadError by name and by class."""
    pikku = Pikku()
    calls: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        def body() -> object:
            calls.append(1)
            return object()

        try:
            await workflow.do("step", body, retries=5)
        except StepFailed as failed:
            return [failed.attempts, failed.error_type.endswith("PayloadError"), failed.is_a(PayloadError)]
        return []

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == [1, True, True]

    assert calls == [1]


async def test_a_non_retryable_error_of_a_thread_ends_the_retries() -> None:
    """Retries: on every worker, for subclasses too, and without asking `retry_if`."""
    pikku = Pikku()

    class Never(NonRetryableError):
        pass

    @pikku.function
    def fail(services: Services) -> None:
        raise Never("ever")

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[Any]:
        try:
            await workflow.do("step", fail, retries=5, retry_if=lambda error: True)
        except StepFailed as failed:
            return [failed.attempts, failed.is_a(Never), failed.is_a(NonRetryableError)]
        return []

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == [1, True, True]


@pytest.mark.parametrize("retries", [0, 1])
async def test_an_at_most_once_step_that_was_interrupted_counts_as_failed(retries: int, db: Path) -> None:
    """C6, C67: an `Attempt` that failed with `...Interrupted`; only asked-for retries run it once more."""
    pikku = Pikku()
    numbers: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body() -> str:
            step = current_step()
            assert step is not None
            numbers.append(step.attempt_count)
            if len(numbers) == 1:
                await asyncio.Event().wait()
            return "done"

        try:
            return await workflow.do("step", body, at_most_once=True, retries=retries)
        except StepFailed as failed:
            return failed.error_type

    clock = VirtualClock()
    async with pikku.open(db, clock=clock, shutdown_grace=0) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
    async with pikku.open(db, clock=clock) as engine:
        result = await asyncio.wait_for((await engine.handle("r")).result(), 5)
        history = await engine.history("r")

    assert history[0].status == "failed"
    assert history[0].error is not None
    assert history[0].error.type.endswith("Interrupted")
    assert [attempt.attempt for attempt in history] == [*range(1, retries + 2)]
    assert numbers == [*range(1, retries + 2)]
    assert result == "done" if retries else result.endswith("Interrupted")


@pytest.mark.parametrize("shown", [False, True], ids=["at once", "when it is in the file"])
async def test_an_attempt_that_leaving_interrupted_uses_up_no_retry(shown: bool, db: Path) -> None:
    """C6, C66: it is run again under the same number, and leaves no `Attempt`."""
    pikku = Pikku()
    numbers: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body() -> str:
            step = current_step()
            assert step is not None
            numbers.append(step.attempt_count)
            if len(numbers) == 1:
                raise OSError
            if len(numbers) < 4:
                await asyncio.Event().wait()
            return "done"

        return await workflow.do("step", body, retries=1)

    clock = VirtualClock()
    for _ in range(3):
        async with pikku.open(db, clock=clock, shutdown_grace=0) as engine:
            await engine.start(flow, run_id="r")
            await clock.advance(0)
            while shown and (await engine._use().host.journal.steps(1))[0].status is StepStatus.SCHEDULED:
                await asyncio.sleep(0.001)
    async with pikku.open(db) as engine:
        assert (await engine.get_run("r")).output == "done"
        history = await engine.history("r")

    assert numbers == [1, 2, 2, 2]
    assert [(attempt.attempt, attempt.status) for attempt in history] == [(1, "failed"), (2, "succeeded")]


async def test_leaving_in_good_order_is_no_crash(db: Path) -> None:
    """C63: a run may be interrupted by leaving as often as one likes."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("step", lambda: asyncio.Event().wait())

    for _ in range(13):
        clock = VirtualClock()
        async with pikku.open(db, clock=clock, shutdown_grace=0) as engine:
            await engine.start(flow, run_id="r")
            await clock.advance(0)
            assert (await engine.get_run("r")).status == "running"


@pytest.mark.parametrize(
    "options",
    [
        {"retry_delay": None},
        {"retry_delay": "-1s"},
        {"timeout": "soon"},
        {"timeout": True},
        {"max_retry_delay": None},
        {"max_retry_delay": "1 s"},
        {"backoff": None},
        {"backoff": ["fixed"]},
        {"retry_if": "yes"},
        {"at_most_once": 1},
        {"at_most_once": None},
        {"description": 5},
        {"description": b"why"},
        {"description": "x" * 1_001},
        {"nonsense": 1},
        {"retry_Delay": 1},
    ],
)
async def test_options_are_checked_in_the_call(options: dict[str, Any]) -> None:
    """Retries: with ValueError (DurationError among them) or TypeError, before the step takes its place."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        with pytest.raises((ValueError, TypeError)):
            workflow.do("step", lambda: 1, **options)
        return await workflow.do("step", lambda: current_step().step_name)  # type: ignore

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == "step"


@pytest.mark.parametrize("description", [None, "", "why it is there\n", "x" * 1_000])
async def test_a_description_is_for_readers_of_the_code(description: str | None) -> None:
    """Any text of at most 1,000 characters, or none; it changes nothing."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        return await workflow.do("step", lambda: 1, description=description)

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == 1
