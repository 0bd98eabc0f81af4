"""The application that `pikku demo` runs and kills: the onboarding workflow, for real, on a file.

It prints one JSON document per line on stdout: how the steps stand, whenever that changes, and the result at the end.
The ledger is a file outside the database: every effect is one appended line, so that it tells what really happened.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from pikkupy import Engine, Pikku, Services, Workflow, current_step

RUN_ID = "signup:ada"

REPORT = "Generate welcome report"
WAIT = "Wait before the email"


class NewUser(msgspec.Struct):
    email: str
    name: str


class Entry(msgspec.Struct):
    """One line of the ledger."""

    step: str
    attempt: int
    what: str  # "began", "failed" or "done"
    pid: int
    invocation_id: str


class StepLine(msgspec.Struct):
    """How one step stands."""

    name: str
    kind: str
    status: str
    attempts: int
    wake_in_s: float | None = None


class Report(msgspec.Struct):
    """One line for the parent process."""

    steps: list[StepLine]
    result: str | None = None


class Shop(Services):
    """The application's own services."""

    def __init__(self, ledger: str, pace: float) -> None:
        self.pace = pace
        self._ledger = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def record(self, what: str) -> None:
        """Append a line to the ledger."""
        step = current_step()
        assert step is not None
        entry = Entry(step.step_name, step.attempt_count, what, os.getpid(), step.invocation_id)
        os.write(self._ledger, msgspec.json.encode(entry) + b"\n")


pikku = Pikku()


@pikku.function
async def create_user_profile(services: Shop, data: NewUser) -> dict[str, str]:
    """An RPC step on the event loop."""
    services.record("began")
    await asyncio.sleep(0.4 * services.pace)
    services.record("done")
    return {"id": "p-1", "email": data.email}


@pikku.function
def generate_report(services: Shop, data: dict[str, str]) -> str:
    """An RPC step on a thread: the first kill comes while it works."""
    services.record("began")
    time.sleep(1.5 * services.pace)
    services.record("done")
    return f"report for {data['email']}"


@pikku.function
async def send_email(services: Shop, data: dict[str, str]) -> str:
    """An RPC step that must not happen twice."""
    services.record("began")
    await asyncio.sleep(0.3 * services.pace)
    services.record("done")
    return f"sent to {data['to']}"


@pikku.workflow
async def onboarding(workflow: Workflow, data: NewUser) -> str:
    """The workflow of the page: RPC steps, an inline step, a flaky step with retries, a sleep."""
    shop: Shop = workflow.services

    async def create_crm_user() -> str:
        shop.record("began")
        await asyncio.sleep(0.3 * shop.pace)
        shop.record("done")
        return "crm-7"

    async def create_analytics_profile() -> str:
        step = current_step()
        shop.record("began")
        await asyncio.sleep(0.2 * shop.pace)
        if step is not None and step.attempt_count < 3:
            shop.record("failed")
            raise ConnectionError("analytics is not answering")
        shop.record("done")
        return "analytics-3"

    profile = await workflow.do("Create user profile", create_user_profile, data)
    await workflow.do("Create user in CRM", create_crm_user)
    await workflow.do("Create analytics profile", create_analytics_profile, retries=2, retry_delay=600 * shop.pace)
    await workflow.do(REPORT, generate_report, profile)
    await workflow.sleep(WAIT, 3000 * shop.pace)
    return await workflow.do("Send email", send_email, {"to": data.email})


async def report(engine: Engine, say: Callable[[Report], None]) -> None:
    """Say how the steps stand, again and again."""
    while True:
        say(Report(await lines(engine)))
        await asyncio.sleep(0.05)


async def lines(engine: Engine) -> list[StepLine]:
    """The steps of the run, with the time until they wake."""
    steps = []
    for step in await engine.steps(RUN_ID):
        wake_in_s = None
        if step.status == "scheduled" and step.wake_at is not None:
            wake_in_s = max(0.0, step.wake_at.timestamp() - time.time())
        steps.append(StepLine(step.name, step.kind, step.status, step.attempts, wake_in_s))
    return steps


async def main(journal: str, ledger: str, pace: float) -> None:
    """One life of the application: start the run (or find it started), and wait for its result."""

    def say(line: Report) -> None:
        sys.stdout.buffer.write(msgspec.json.encode(line) + b"\n")
        sys.stdout.buffer.flush()

    async with pikku.open(journal, services=Shop(ledger, pace)) as engine:
        handle = await engine.start(onboarding, NewUser("ada@x.io", "Ada"), run_id=RUN_ID)
        reporting = asyncio.create_task(report(engine, say))
        result: Any = await handle.result()
        reporting.cancel()
        say(Report(await lines(engine), result))


def run() -> None:
    """The program: journal, ledger and pace are its arguments."""
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
