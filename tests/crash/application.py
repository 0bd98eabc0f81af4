"""What is killed: workflows with everything that an engine can do, and nothing in their results that a kill may change.

No body waits for real time longer than some milliseconds: a life that nothing disturbs takes about a tenth of a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from pikkupy import Decided, Pikku, Services, SignalTimeout, StepContext, StepFailed, Workflow
from tests.crash.ledger import Ledger, effect, of_this_process

RETRIES = 50  # of steps whose attempts kills use up: at most once, and in worker processes
NAP_MS, RETRY_MS, DELAY_MS = 3, 1, 30
SIGNALS = 3

pikku = Pikku()


class Code:
    """Which code the process has: `old` until everything that it does is over, then `new`."""

    version = "new"


def done(workflow: Workflow, value: Any = None) -> Callable[[], Any]:
    """The body of a step that leaves its effect, and returns `value`."""
    return lambda: effect(workflow.services, lambda step: value)


def failing(workflow: Workflow, times: int, value: Any = None) -> Callable[[], Any]:
    """The same; it fails so often, by its attempt number."""

    def body(step: StepContext) -> Any:
        if step.attempt_count <= times:
            raise ConnectionError(f"attempt {step.attempt_count}")
        return value

    return lambda: effect(workflow.services, body)


async def see(workflow: Workflow, step: str, awaitable: Any) -> Any:
    """What the workflow gets for a step, after a line that says so."""
    try:
        value = await awaitable
    except StepFailed as failed:
        workflow.services.add("seen", workflow.run_id, step, [failed.error_type, failed.attempts])
        raise
    workflow.services.add("seen", workflow.run_id, step, value)
    return value


@pikku.function
async def create(services: Ledger, data: int) -> dict[str, int]:
    """On the event loop, after a turn of it; it emits."""

    def body(step: StepContext) -> dict[str, int]:
        for number in range(2):
            step.emit(number)
        step.progress(0.5)
        return {"id": data * 10}

    await asyncio.sleep(0)
    return effect(services, body)  # type: ignore[no-any-return]


@pikku.function
def on_thread(services: Ledger, data: int) -> int:
    return effect(services, lambda step: data + 1)  # type: ignore[no-any-return]


@pikku.function(worker="process")
def in_process(services: Services, data: int) -> int:
    def body(step: StepContext) -> int:
        time.sleep(0.005)
        return data + 1

    return effect(of_this_process(), body)  # type: ignore[no-any-return]


@pikku.workflow
async def flow(workflow: Workflow, data: int) -> list[Any]:
    """Steps one after another and side by side, retries, sleeps, what fails for good, what runs at most once."""
    made = await see(workflow, "create", workflow.do("create", create, data))
    crm = await see(workflow, "crm", workflow.do("crm", done(workflow, [data, "crm"])))
    way = workflow.changed("another way")
    both = await asyncio.gather(
        see(workflow, "left", workflow.do("left", on_thread, data)),
        see(workflow, "right", workflow.do("right", create, data + 1)),
        see(
            workflow,
            "flaky",
            workflow.do("flaky", failing(workflow, 2, "flaky"), retries=2, retry_delay=RETRY_MS),
        ),
    )
    workflow.progress(0.5)
    await see(workflow, "nap", workflow.sleep("nap", NAP_MS))
    async with asyncio.timeout(36_000):  # the file of a first kill is used for all its pairs, which takes minutes
        await asyncio.sleep(0.002)
    caught = []
    try:
        await see(workflow, "hopeless", workflow.do("hopeless", failing(workflow, 9), retries=1))
    except StepFailed as failed:
        caught = [failed.attempts, failed.error_type]
    once = workflow.do("once", done(workflow, "once"), at_most_once=True, retries=RETRIES)
    await see(workflow, "once", once)
    again = [await workflow.do("again", create, number) for number in range(2)]
    return [made, crm, way, both, caught, again]


@pikku.workflow
async def listener(workflow: Workflow) -> list[Any]:
    """Signals in their order, one that never comes, a decision, a gate."""
    await workflow.sleep("nap", NAP_MS)
    got = [await see(workflow, f"go#{n}" if n else "go", workflow.wait_for_signal("go")) for n in range(SIGNALS)]
    late = ""
    try:
        await workflow.wait_for_signal("never", timeout=2)
    except SignalTimeout as error:
        late = type(error).__name__
    decided = await workflow.approval("pay", bool)
    assert isinstance(decided, Decided)
    await workflow.suspend("gate")
    await see(workflow, "paid", workflow.do("paid", done(workflow, "paid")))
    return [got, late, decided.decision]


@pikku.workflow
async def parent(workflow: Workflow) -> Any:
    """Two child runs: one is awaited, one is given up."""
    first = await see(workflow, "part", workflow.do("part", child, 7))
    try:
        async with asyncio.timeout(0.004):
            await workflow.do("slow", sleeper)
    except TimeoutError:
        return [first, "given up"]
    return [first]


@pikku.workflow
async def child(workflow: Workflow, data: int) -> int:
    await see(workflow, "first", workflow.do("first", done(workflow, data)))
    await see(workflow, "nap", workflow.sleep("nap", NAP_MS))
    return int(await see(workflow, "second", workflow.do("second", done(workflow, data))))


@pikku.workflow
async def sleeper(workflow: Workflow) -> None:
    """Sleeps for longer than anybody waits: it is cancelled, from outside or with its parent."""
    await workflow.do("before", done(workflow))
    await workflow.sleep("long", "1h")
    await workflow.do("never", done(workflow))


@pikku.workflow
async def resigns(workflow: Workflow) -> None:
    await workflow.do("before", done(workflow))
    await workflow.cancel("enough")


@pikku.workflow
async def broken(workflow: Workflow) -> Any:
    """Fails, until it is retried."""
    await see(workflow, "sound", workflow.do("sound", done(workflow, 1)))
    return await workflow.do("mend", failing(workflow, 1, "mended"))


@pikku.workflow
async def hopeless(workflow: Workflow) -> None:
    """Fails, and is pruned."""
    await workflow.do("hopeless", failing(workflow, 9))


@pikku.workflow
async def short(workflow: Workflow) -> str:
    """One step: for a start with a delay, and for a run that is deleted."""
    return str(await see(workflow, "only", workflow.do("only", done(workflow, "short"))))


@pikku.workflow
async def told(workflow: Workflow) -> str:
    return str(await see(workflow, "go", workflow.wait_for_signal("go", str)))


@pikku.workflow
async def moving(workflow: Workflow) -> Any:
    """Its code changes while it waits: what is recorded after the first step is set aside, and asked for again."""
    first = await see(workflow, "first", workflow.do("first", done(workflow, 1)))
    if Code.version == "old":
        await workflow.do("removed", done(workflow, 2))
        return await asyncio.gather(workflow.do("kid", told), workflow.sleep("wait", "1h"))
    added = await see(workflow, "added", workflow.do("added", done(workflow, 3)))
    again = await see(workflow, "removed", workflow.do("removed", done(workflow, 2)))
    return [first, added, again, await workflow.do("kid", told)]


@pikku.workflow
async def crunch(workflow: Workflow, data: int) -> int:
    """Steps in worker processes."""
    for number in range(2):
        name = f"crunch {number}"
        data = await see(workflow, name, workflow.do(name, in_process, data, retries=RETRIES))
    return data
