"""The workload that is killed, and one life of it in a process of its own.

Every effect is a line in a ledger file: appended with one write, so that SIGKILL leaves whole lines.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

import pikkupy.engine.host
from pikkupy import Pikku, Services, StepContext, StepFailed, Workflow, current_step
from pikkupy.store import Journal

RUNS = 4
SETTINGS: dict[str, Any] = {}
"""Of each engine that is opened."""


class Effect(msgspec.Struct):
    """One line of the ledger: what happened outside the database."""

    what: str  # "begin" of a step's body, "end" of it, or "ack" of a start
    run: str
    step: str = ""
    attempt: int = 0
    invocation: str = ""


class Ledger(Services):
    """Appends to a file; survives what the process does not."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def add(self, what: str, run: str, step: StepContext | None = None) -> None:
        effect = Effect(what, run)
        if step is not None:
            effect = Effect(what, run, step.step_name, step.attempt_count, step.invocation_id)
        os.write(self._file, msgspec.json.encode(effect) + b"\n")


def read_ledger(path: Path) -> list[Effect]:
    """Every effect so far, oldest first."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Effect) for line in path.read_bytes().splitlines()]


pikku = Pikku()


def effect(services: Any, body: Callable[[StepContext], Any]) -> Any:
    """Run a step's body between two lines of the ledger."""
    step = current_step()
    assert step is not None
    services.add("begin", step.run_id, step)
    value = body(step)
    services.add("end", step.run_id, step)
    return value


@pikku.function
async def create(services: Ledger, data: int) -> dict[str, int]:
    await asyncio.sleep(0)
    return effect(services, lambda step: {"id": data * 10})  # type: ignore[no-any-return]


@pikku.function
def on_thread(services: Ledger, data: int) -> int:
    return effect(services, lambda step: data + 1)  # type: ignore[no-any-return]


@pikku.function
async def flaky(services: Ledger, data: int) -> str:
    """Fails twice, by its attempt number, so that every history is the same."""

    def body(step: StepContext) -> str:
        if step.attempt_count < 3:
            raise ConnectionError(f"attempt {step.attempt_count}")
        return f"flaky {data} at {step.attempt_count}"

    return effect(services, body)  # type: ignore[no-any-return]


@pikku.function
async def hopeless(services: Ledger) -> None:
    def body(step: StepContext) -> None:
        raise ValueError("no")

    effect(services, body)


@pikku.workflow
async def flow(workflow: Workflow, data: int) -> list[Any]:
    services = workflow.services
    made = await workflow.do("create", create, data)
    crm = await workflow.do("crm", lambda: effect(services, lambda step: (data, "crm")))
    both = await asyncio.gather(
        workflow.do("left", on_thread, data),
        workflow.do("right", create, data + 1),
        workflow.do("flaky", flaky, data, retries=2, retry_delay=1),
    )
    await workflow.sleep("nap", 3)
    async with asyncio.timeout(60):
        await asyncio.sleep(0.002)
    try:
        await workflow.do("hopeless", hopeless, retries=1)
    except StepFailed as failed:
        caught = [failed.attempts, failed.error_type]
    again = [await workflow.do("again", create, number) for number in range(2)]
    return [made, crm, *both, caught, again, str(workflow.uuid4()) != ""]


async def live(db: Path, ledger: Ledger) -> list[Any]:
    """Start everything (again) and wait for all results."""
    async with pikku.open(db, services=ledger, **SETTINGS) as engine:
        handles = []
        for number in range(RUNS):
            handles.append(await engine.start(flow, number, run_id=f"run-{number}"))
            ledger.add("ack", f"run-{number}")
        return [await handle.result() for handle in handles]


class Life(msgspec.Struct):
    """What a life that was not killed leaves: its results, and how often it passed each failpoint."""

    results: list[Any]
    passed: dict[str, int]


def one_life(db: Path, ledger_path: Path, failpoint: str | None, nth: int, report: Path) -> None:
    """One life of the process: it kills itself at the `nth` passing of `failpoint`, or ends and writes a report."""
    passed = _kill_at(failpoint, nth)
    results = asyncio.run(live(db, Ledger(ledger_path)))
    report.write_bytes(msgspec.json.encode(Life(results, passed)))


def _kill_at(failpoint: str | None, nth: int) -> Counter[str]:
    passed: Counter[str] = Counter()

    def passing(name: str) -> None:
        passed[name] += 1
        if name == failpoint and passed[name] == nth:
            os.kill(os.getpid(), signal.SIGKILL)

    class Deadly(Journal):
        """A journal that passes failpoints."""

        @classmethod
        async def open(cls, path: str, **options: Any) -> Journal:
            return await Journal.open(path, **options, failpoint=passing)

    pikkupy.engine.host.Journal = Deadly  # type: ignore[misc]
    return passed
