"""`def` functions, on threads."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from typing import Any

import pytest

from pikkupy.core.outcomes import Stopped, Succeeded
from pikkupy.services import current_step
from tests.workers.scene import Scene, scene, turns, until

ANY_ERROR = [ValueError("bad"), SystemExit(1), KeyboardInterrupt(), StopIteration(1), GeneratorExit(), MemoryError()]


def pool_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pikkupy ")]


async def test_a_def_function_runs_on_a_thread_named_after_its_step() -> None:
    """It is a daemon, so that it cannot keep the process alive."""

    def body(services: Any, data: int) -> list[Any]:
        thread = threading.current_thread()
        return [thread.name, thread.daemon, data, services.workflow_step.step_name]

    async with scene() as stage:
        assert await stage.begin(body, "thread", data=5).output() == '["pikkupy Charge",true,5,"Charge"]'
        assert threading.current_thread().name != "pikkupy Charge"


async def test_context_variables_reach_the_thread() -> None:
    """The caller's, and the current step."""
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    tenant.set("acme")

    def body(services: Any) -> list[str]:
        step = current_step()
        assert step is not None
        return [tenant.get(), step.step_id]

    async with scene() as stage:
        assert await stage.begin(body, "thread").output() == '["acme","run-1/Charge"]'


@pytest.mark.parametrize("error", ANY_ERROR, ids=lambda error: type(error).__name__)
async def test_whatever_a_function_raises_on_its_thread_is_its_failure(error: BaseException) -> None:
    """Nothing reaches the thread's own handler or the event loop."""

    def body(services: Any) -> None:
        raise error

    async with scene() as stage:
        failed = await stage.begin(body, "thread").failed()

        assert failed.error.type == type(error).__name__
        assert failed.exception is error
        assert "workers/attempts.py" not in failed.error.traceback


async def test_data_and_output_that_do_not_fit_are_final() -> None:
    """As on the event loop."""
    async with scene() as stage:
        of_data = await stage.begin(lambda services, data: None, "thread", data="x", data_type=int).failed()
        of_output = await stage.begin(lambda services: 1, "thread", result_type=str).failed()

        assert of_data.final and of_output.final
        assert of_data.error.type == of_output.error.type == "pikkupy.errors.PayloadError"


async def test_threads_are_used_again_and_limited() -> None:
    """I-37: never more than `thread_workers` bodies at once."""
    lock, count, most = threading.Lock(), 0, 0
    seen: set[int | None] = set()

    def body(services: Any) -> None:
        nonlocal count, most
        with lock:
            count += 1
            most = max(most, count)
            seen.add(threading.current_thread().ident)
        with lock:
            count -= 1

    async with scene(thread_workers=2) as stage:
        watched = [stage.begin(body, "thread") for _ in range(50)]
        assert (stage.workers.running, stage.workers.waiting, stage.workers.elsewhere) == (2, 48, 2)
        for one in watched:
            await one.output()

        assert most <= 2
        assert len(seen) <= 2


async def test_a_stopped_thread_is_left_behind_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Its slot is free for another, and its result comes late."""
    release, running = threading.Event(), threading.Event()

    def body(services: Any) -> str:
        running.set()
        release.wait()
        return "late"

    async with scene(thread_workers=1) as stage:
        watched = stage.begin(body, "thread")
        await until(running.is_set)
        with caplog.at_level(logging.WARNING, "pikkupy"):
            watched.attempt.stop()
        assert watched.outcomes == [Stopped()]
        assert "release.wait()" in caplog.records[0].pikku["stack"]  # type: ignore[attr-defined]
        assert await stage.begin(lambda services: "next", "thread").output() == '"next"'
        assert watched.late == []
        release.set()
        await until(lambda: watched.late)

        assert watched.late == [Succeeded('"late"')]
        assert watched.told == ["began", "ended"]


async def test_a_function_that_is_stopped_before_its_thread_begins_it_does_not_run() -> None:
    """After a cancel was acknowledged nothing of the run starts any more."""
    entered: list[bool] = []
    release = threading.Event()
    async with scene(thread_workers=1) as stage:
        stage.begin(lambda services: release.wait(), "thread")
        watched = stage.begin(lambda services: entered.append(True), "thread")
        watched.attempt.stop()

        assert watched.attempt._work() == Stopped()  # what its thread would do, had it been on the way already
        assert entered == []
        release.set()


async def test_a_thread_that_takes_too_long_fails_on_time() -> None:
    """The thread is left behind, and nothing is told of what it comes to."""
    release, running, left = threading.Event(), threading.Event(), threading.Event()

    def body(services: Any) -> bool:
        running.set()
        release.wait()
        left.set()
        return True

    async with scene() as stage:
        watched = stage.begin(body, "thread", timeout_s=3)
        await until(running.is_set)
        stage.time.advance(3)

        assert (await watched.failed()).error.type == "TimeoutError"
        release.set()
        await until(left.is_set)
        await turns()
        assert watched.late == []


async def test_close_ends_idle_threads_and_does_not_wait_for_stuck_ones() -> None:
    """A thread that hangs can keep neither `close` nor the process."""
    release, running = threading.Event(), threading.Event()
    before = set(pool_threads())

    def body(services: Any) -> None:
        running.set()
        release.wait()

    async with scene() as stage:
        await stage.begin(lambda services: None, "thread").output()
        stuck = stage.begin(body, "thread", name="Stuck")
        await until(running.is_set)

    assert stuck.outcomes == [Stopped()]
    assert {thread.name for thread in set(pool_threads()) - before} <= {"pikkupy Stuck"}
    release.set()
    await until(lambda: not set(pool_threads()) - before)


async def test_an_idle_thread_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next function gets a new one."""
    monkeypatch.setattr("pikkupy.workers.threads.IDLE_S", 0.0)
    before = set(pool_threads())
    async with scene() as stage:
        await stage.begin(lambda services: None, "thread").output()
        await until(lambda: not set(pool_threads()) - before)

        assert await stage.begin(lambda services: 1, "thread").output() == "1"


def test_a_result_for_a_loop_that_is_gone_is_dropped() -> None:
    """A thread that outlives its loop has no trouble with that, and ends when it is told to."""
    begun, release = threading.Event(), threading.Event()

    def work(services: object) -> None:
        begun.set()
        release.wait()

    before = set(pool_threads())

    async def main() -> Scene:
        stage = Scene(None, {})
        stage.begin(work, "thread")
        while not begun.is_set():
            await asyncio.sleep(0)
        return stage

    stage = asyncio.run(main())
    [thread] = set(pool_threads()) - before
    assert thread.name == "pikkupy Charge"
    release.set()
    while thread.name == "pikkupy Charge":
        time.sleep(0.001)
    stage.workers._premises.threads.close()
    assert not thread.is_alive()
