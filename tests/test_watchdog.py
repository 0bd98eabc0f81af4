"""A blocked event loop is noticed, and the log says whose code blocks it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from pikkupy import Config, DurationError, Pikku, Services, Workflow
from pikkupy.testing import VirtualClock
from tests.children import child

LIMIT = "50ms"
BLOCK_S = 0.25  # several times 1.5 limits: the machine may be busy with other things


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "pikkupy")
    return caplog


def told(lines: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """The fields of the lines of that event."""
    return [record.pikku for record in lines.records if getattr(record, "pikku", {}).get("event") == event]  # type: ignore[attr-defined]


def watchdogs() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "pikkupy watchdog"]


def block() -> None:
    time.sleep(BLOCK_S)  # the line that blocks


async def test_an_inline_step_that_blocks_is_named_once(lines: pytest.LogCaptureFixture) -> None:
    """With its run and the user's line; and the log says when it is over."""
    pikku = Pikku()

    @pikku.workflow
    async def slow(workflow: Workflow) -> None:
        await workflow.do("Crunch", block)

    async with pikku.open(":memory:", watchdog_after=LIMIT) as engine:
        await engine.run(slow, run_id="r-1")
        await asyncio.sleep(0.1)

    (blocked,) = told(lines, "loop_blocked")
    (free,) = told(lines, "loop_free")
    assert (blocked["run_id"], blocked["workflow"], blocked["step"], blocked["attempt"]) == ("r-1", "slow", "Crunch", 1)
    assert "time.sleep(BLOCK_S)  # the line that blocks" in blocked["stack"]
    assert blocked["stack"].startswith(f'  File "{__file__}"')
    assert 0.05 <= blocked["blocked_s"] <= free["blocked_s"]
    assert [record.levelname for record in lines.records if record.message.startswith("loop_")] == ["WARNING", "INFO"]


async def test_an_async_function_that_blocks_is_named(lines: pytest.LogCaptureFixture) -> None:
    """Also after it has awaited something, and at a later attempt."""
    pikku = Pikku()

    @pikku.function
    async def charge(services: Services) -> None:
        assert services.workflow_step is not None
        await asyncio.sleep(0)
        if services.workflow_step.attempt_count == 1:
            raise ValueError
        block()

    @pikku.workflow
    async def shop(workflow: Workflow) -> None:
        await workflow.do("Charge", charge, retries=1)

    async with pikku.open(":memory:", watchdog_after=LIMIT) as engine:
        await engine.run(shop, run_id="r-2")

    (blocked,) = told(lines, "loop_blocked")
    assert (blocked["run_id"], blocked["workflow"], blocked["step"], blocked["attempt"]) == ("r-2", "shop", "Charge", 2)
    assert re.findall(r"in (\w+)\n", blocked["stack"]) == ["charge", "block"]


async def test_a_task_of_a_step_that_blocks_is_named(lines: pytest.LogCaptureFixture) -> None:
    """The engine does not know the task; its contextvars do."""
    pikku = Pikku()

    async def part() -> None:
        await asyncio.sleep(0)
        block()

    async def crunch() -> None:
        await asyncio.gather(part(), asyncio.sleep(0))

    @pikku.workflow
    async def parts(workflow: Workflow) -> None:
        await workflow.do("Crunch", crunch)

    async with pikku.open(":memory:", watchdog_after=LIMIT) as engine:
        await engine.run(parts, run_id="r-3")

    (blocked,) = told(lines, "loop_blocked")
    assert (blocked["run_id"], blocked["workflow"], blocked["step"], blocked["attempt"]) == (
        "r-3",
        "parts",
        "Crunch",
        1,
    )
    assert re.findall(r"in (\w+)\n", blocked["stack"]) == ["part", "block"]


@pytest.mark.parametrize("after_a_step", [False, True])
async def test_a_workflow_body_that_blocks_is_named(lines: pytest.LogCaptureFixture, after_a_step: bool) -> None:
    """It is no step that blocks; with a virtual clock, real time counts all the same."""
    pikku = Pikku()

    @pikku.workflow
    async def body(workflow: Workflow) -> None:
        if after_a_step:
            await workflow.do("before", lambda: 1)
        block()

    async with pikku.open(":memory:", watchdog_after=LIMIT, clock=VirtualClock()) as engine:
        await engine.run(body, run_id="r-4")

    (blocked,) = told(lines, "loop_blocked")
    assert (blocked["run_id"], blocked["workflow"], "step" in blocked) == ("r-4", "body", False)
    assert re.findall(r"in (\w+)\n", blocked["stack"]) == ["body", "block"]


async def test_a_replay_that_blocks_names_the_run(lines: pytest.LogCaptureFixture, db: Any) -> None:
    """What blocks at start-up is a run as well."""
    pikku = Pikku()
    replaying = False

    @pikku.workflow
    async def slow(workflow: Workflow) -> None:
        if replaying:
            block()
        await workflow.sleep("for long", "1h")

    async with pikku.open(db, watchdog_after=LIMIT) as engine:
        await engine.start(slow, run_id="r-5")
    replaying = True
    async with pikku.open(db, watchdog_after=LIMIT):
        pass

    (blocked,) = told(lines, "loop_blocked")
    assert blocked["run_id"] == "r-5"


async def test_the_application_s_own_code_is_shown_without_a_run(lines: pytest.LogCaptureFixture) -> None:
    """The engine shares the loop with it, and waits for it too."""
    async with Pikku().open(":memory:", watchdog_after=LIMIT):
        await asyncio.sleep(0)
        block()

    (blocked,) = told(lines, "loop_blocked")
    assert "run_id" not in blocked
    assert "time.sleep(BLOCK_S)  # the line that blocks" in blocked["stack"]
    assert "run_until_complete" not in blocked["stack"]


async def test_each_blockage_is_told(lines: pytest.LogCaptureFixture) -> None:
    """Once each."""
    async with Pikku().open(":memory:", watchdog_after=LIMIT):
        for _ in range(2):
            block()
            await asyncio.sleep(0.05)

    assert len(told(lines, "loop_blocked")) == len(told(lines, "loop_free")) == 2


async def test_c_code_that_keeps_the_interpreter_is_noticed(lines: pytest.LogCaptureFixture) -> None:
    """The watchdog cannot run beside it, and tells as soon as it can. A regular expression is a usual suspect."""
    pikku = Pikku()
    text = "a" * 20

    def match() -> None:
        nonlocal text
        spent_s = 0.0
        while spent_s < BLOCK_S:  # each more letter doubles the time
            began = time.process_time()
            re.match(r"(a+)+$", f"{text}b")
            spent_s = time.process_time() - began
            text += "a"
        time.sleep(0.1)  # the first moment in which the watchdog can run; the loop is still blocked by this step

    @pikku.workflow
    async def backtracking(workflow: Workflow) -> None:
        await workflow.do("Match", match)

    async with pikku.open(":memory:", watchdog_after=LIMIT) as engine:
        await engine.run(backtracking)

    assert {blocked["step"] for blocked in told(lines, "loop_blocked")} == {"Match"}


async def test_a_loop_that_turns_is_not_reported(lines: pytest.LogCaptureFixture) -> None:
    """Idle or busy, and with a step that waits for long."""
    pikku = Pikku()

    async def wait() -> None:
        await asyncio.sleep(1.5)

    @pikku.workflow
    async def busy(workflow: Workflow) -> int:
        done = workflow.do("wait", wait)
        steps = 0
        until = time.monotonic() + 1
        while time.monotonic() < until:
            await workflow.do("step", lambda: 1)
            steps += 1
        await done
        return steps

    async with pikku.open(":memory:", watchdog_after="200ms") as engine:
        await engine.run(busy)

    assert told(lines, "loop_blocked") == []


async def test_the_thread_ends_with_the_engine() -> None:
    """At once, and there is one for each engine."""
    before = len(watchdogs())
    async with Pikku().open(":memory:", watchdog_after="1h"), Pikku().open(":memory:"):
        assert len(watchdogs()) - before == 2
        began = time.monotonic()

    assert len(watchdogs()) == before
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("off", [None, 0, "0s"])
async def test_it_can_be_turned_off(off: Any) -> None:
    """No thread then."""
    before = len(watchdogs())
    async with Pikku().open(":memory:", watchdog_after=off):
        assert len(watchdogs()) == before


def test_a_limit_that_is_no_duration_is_refused() -> None:
    """As for every other duration, with its name."""
    with pytest.raises(DurationError, match="watchdog_after"):
        Config(watchdog_after="soon")


NEVER_LEFT = """
import asyncio, threading
from pikkupy import Pikku
engine = Pikku().open(":memory:", watchdog_after="20ms")
loop = asyncio.new_event_loop()
loop.run_until_complete(engine.__aenter__())
watchdog, = (thread for thread in threading.enumerate() if thread.name == "pikkupy watchdog")
loop.run_until_complete(engine._parts.host.journal.close(clean=True))
loop.close()
watchdog.join(5)
print(watchdog.is_alive(), flush=True)
"""


def test_a_loop_that_is_closed_ends_the_watch() -> None:
    """An engine that was never left keeps neither the thread nor the process alive."""
    done = subprocess.run([sys.executable, "-c", NEVER_LEFT], capture_output=True, text=True, timeout=30, check=False)

    assert (done.stdout, done.returncode) == ("False\n", 0)


STOPPED = """
import asyncio, logging, sys, time
from pikkupy import Pikku
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(message)s")

async def main():
    async with Pikku().open(":memory:", watchdog_after="400ms"):
        for _ in range(3):
            print("ready", flush=True)
            time.sleep(0.3)
            await asyncio.sleep(0.3)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="needs job control")
def test_the_time_in_which_the_process_was_stopped_does_not_count() -> None:
    """Code that takes less than the limit does not block the loop, however long the process sleeps meanwhile."""
    with child([sys.executable, "-c", STOPPED], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "ready\n":
                time.sleep(0.25)  # the watchdog waits for the answer by now
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(0.8)
                os.kill(process.pid, signal.SIGCONT)

    assert len(lines) == 5
    assert not any(line.startswith("loop_") for line in lines)
