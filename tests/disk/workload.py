"""The canonical workload: a little of everything that an engine writes, and what must come of it in the end.

Values depend on nothing but the run and the step, so that whoever gets one can tell whether it is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from pikkupy import Decided, Engine, Interrupted, Pikku, PikkuError, Services, StepFailed, Workflow, current_step
from pikkupy.testing import VirtualClock
from tests.disk.records import Asked, Begun, Record, Told

PATIENCE_S = 10.0  # until whoever waits for the end of a run must have got something, once the engine was left
ROUNDS = 60  # of help, until every run must have ended
LONG = "receipt " * 700  # more than a page of SQLite
TURNS = 60  # of the event loop, while one body is under way and others write

Tell = Callable[[Record], None]
Script = Callable[["Caller"], Awaitable[None]]


class World(Services):
    """What is outside of the engine: a log of what is told and done there."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell


pikku = Pikku()

ONCE = frozenset({"notify", "deliver"})
"""The steps that are `at_most_once`; each returns its name."""


def _begin(services: Any) -> tuple[str, int]:
    step = current_step()
    assert step is not None
    services.tell(Begun(step.run_id, step.step_name, step.attempt_count))
    return step.step_name, step.attempt_count


@pikku.function
async def charge(services: World, data: int) -> dict[str, Any]:
    name, _ = _begin(services)
    return {"step": name, "amount": data, "receipt": LONG if name == "charge" else name}


@pikku.function
async def flaky(services: World, data: int) -> list[Any]:
    """Fails twice."""
    name, attempt = _begin(services)
    if attempt < 3:
        raise ConnectionError(f"{name}: attempt {attempt}")
    return [name, data, attempt]


@pikku.function
async def fragile(services: World) -> str:
    """Fails once; nothing retries it but the caller."""
    name, attempt = _begin(services)
    if attempt == 1:
        raise ValueError(f"{name}: not yet")
    return f"{name} mended"


@pikku.function
async def chatty(services: World) -> str:
    name, _ = _begin(services)
    step = current_step()
    assert step is not None
    for number in range(3):
        step.emit({"part": number})
    return name


@pikku.function
async def once(services: World) -> str:
    """Has an effect that nobody may have twice; one of them takes its time."""
    name, attempt = _begin(services)
    step = current_step()
    assert step is not None
    services.tell(Told("begun", step.run_id, name, attempt))
    for _ in range(TURNS if name == "deliver" else 0):
        await asyncio.sleep(0)
    return name


async def _seen(workflow: Workflow, name: str, value: Awaitable[Any]) -> Any:
    """What a workflow gets it has been told."""
    got = await value
    workflow.services.tell(Told("seen", workflow.run_id, name, repr(got)))
    return got


@pikku.workflow
async def parcel(workflow: Workflow, data: int) -> str:
    weight = await _seen(workflow, "weigh", workflow.do("weigh", charge, data))
    await workflow.sleep("carry", "2h")
    workflow.progress(0.5)
    return f"parcel of {weight['amount']}"


@pikku.workflow
async def order(workflow: Workflow, data: int) -> list[Any]:
    paid = await _seen(workflow, "charge", workflow.do("charge", charge, data))
    left, right = await asyncio.gather(
        _seen(workflow, "left", workflow.do("left", charge, data + 1)),
        _seen(workflow, "flaky", workflow.do("flaky", flaky, data, retries=2, retry_delay="10min")),
    )
    await workflow.sleep("nap", "1h")
    signal = await _seen(workflow, "paid", workflow.wait_for_signal("paid", int))
    sent = await _seen(workflow, "parcel", workflow.do("parcel", parcel, data))
    decision = await _seen(workflow, "agree", workflow.approval("agree", bool))
    await workflow.suspend("gate")
    async with asyncio.timeout(1.5e9):  # a file may lie for years before it is opened again
        await asyncio.sleep(60)
    last = await _seen(workflow, "last", workflow.do("last", chatty))
    agreed = decision.decision if isinstance(decision, Decided) else None
    return [paid["amount"], left["step"], right, signal, sent, agreed, last]


@pikku.workflow
async def doomed(workflow: Workflow) -> str:
    return str(await _seen(workflow, "fragile", workflow.do("fragile", fragile)))


@pikku.workflow
async def errand(workflow: Workflow) -> str:
    for name in ("notify", "deliver"):
        try:
            await _seen(workflow, name, workflow.do(name, once, at_most_once=True))
        except StepFailed as failed:
            if not failed.is_a(Interrupted):
                raise
            workflow.services.tell(Told("cut off", workflow.run_id, name))
    return "errand"


@pikku.workflow
async def endless(workflow: Workflow, data: int) -> None:
    await asyncio.gather(workflow.do("part", parcel, data), workflow.wait_for_signal("never"))


def result_of(run_id: str, data: int) -> Any:
    """What that order comes to."""
    return [data, "left", ["flaky", data, 3], 7, f"parcel of {data}", True, "last"]


RESULTS: dict[str, Any] = {
    "o1": result_of("o1", 10),
    "o2": result_of("o2", 20),
    "o3": result_of("o3", 30),
    "fork": result_of("fork", 10),
    "doomed": "fragile mended",
    "endless": None,
    "e1": "errand",
    "e2": "errand",
}
STARTS: dict[str, tuple[Any, Any]] = {
    "o1": (order, 10),
    "o2": (order, 20),
    "o3": (order, 30),
    "doomed": (doomed, None),
    "endless": (endless, 5),
    "e1": (errand, None),
    "e2": (errand, None),
}


class Caller:
    """Who calls the engine, and writes down what it was told."""

    def __init__(self, engine: Engine, clock: VirtualClock, tell: Tell) -> None:
        self.engine = engine
        self.clock = clock
        self.tell = tell
        self._sent: dict[str, int] = {}
        self._waiters: list[asyncio.Task[Any]] = []  # for the ends of runs

    async def errors(self) -> list[str]:
        """What those got who waited for the end of a run and did not see it."""
        done = await asyncio.wait_for(asyncio.gather(*self._waiters, return_exceptions=True), PATIENCE_S)
        return [type(error).__name__ for error in done if isinstance(error, BaseException)]

    async def hours(self, hours: int) -> None:
        """Let so many pass, one by one."""
        for _ in range(hours):
            await self.clock.advance("1h")

    async def start(self, run_id: str) -> None:
        workflow, data = STARTS[run_id]
        self.tell(Asked("start", run_id))
        handle = await self.engine.start(workflow, data, run_id=run_id, tags={"kind": run_id[0]})
        self.tell(Told("started", run_id))
        self._waiters.append(asyncio.ensure_future(handle.result()))

    async def begins(self, run_id: str, step: str) -> None:
        """Return when that step is under way."""
        while step not in {known.name for known in await self.engine.steps(run_id) if known.attempts}:
            await asyncio.sleep(0)

    async def signal(self, run_id: str) -> None:
        await self.engine.signal(run_id, "paid", 7)
        self._sent[run_id] = self._sent.get(run_id, 0) + 1
        self.tell(Told("signalled", run_id, "paid", self._sent[run_id]))

    async def approve(self, run_id: str) -> None:
        await self.engine.approve(run_id, "agree", True)
        self.tell(Told("seen", run_id, "agree"))

    async def resume(self, run_id: str) -> None:
        await self.engine.resume(run_id)
        self.tell(Told("seen", run_id, "gate"))

    async def cancel(self, run_id: str) -> None:
        await self.engine.cancel(run_id, "enough")
        self.tell(Told("ended", run_id, "cancelled"))

    async def retry(self, run_id: str) -> None:
        self.tell(Asked("retry", run_id))
        await self.engine.retry(run_id)
        self.tell(Told("retried", run_id))

    async def fork(self, run_id: str, at: str, new_run_id: str) -> None:
        self.tell(Asked("start", new_run_id))
        await self.engine.fork(run_id, at=at, new_run_id=new_run_id)
        self.tell(Told("started", new_run_id))

    async def delete(self, run_id: str) -> None:
        self.tell(Asked("delete", run_id))
        await self.engine.delete_run(run_id)
        self.tell(Told("deleted", run_id))

    async def prune(self) -> None:
        page = await self.engine.list_runs(status=["completed", "failed", "cancelled"])
        now = self.clock.now()
        old = [run for run in page.runs if run.parent_run_id is None and (now - (run.ended_at or now)).days >= 100]
        for run in old:
            self.tell(Asked("delete", run.id))
        await self.engine.prune(older_than="100d")
        for run in old:
            self.tell(Told("deleted", run.id))

    async def ends(self, run_id: str) -> None:
        try:
            await (await self.engine.handle(run_id)).result()
        except PikkuError:
            self.tell(Told("ended", run_id, str((await self.engine.get_run(run_id)).status)))
        else:
            self.tell(Told("ended", run_id, "completed"))


async def first_life(caller: Caller) -> None:
    """Makes the file, starts most of it; is left in the middle of a step that may begin once."""
    await caller.start("e1")
    await caller.begins("e1", "deliver")
    for run_id in ("o1", "doomed", "endless"):
        await caller.start(run_id)
    await caller.clock.advance("5min")
    await caller.signal("o1")
    await caller.start("o2")
    await caller.ends("doomed")
    await caller.hours(1)
    await caller.cancel("endless")
    await caller.ends("endless")
    await caller.start("e2")
    await caller.begins("e2", "deliver")


async def second_life(caller: Caller) -> None:
    """Goes on with it."""
    await caller.retry("doomed")
    await caller.hours(4)
    await caller.signal("o2")
    await caller.hours(2)
    await caller.approve("o1")
    await caller.resume("o1")
    await caller.hours(1)
    await caller.ends("o1")
    await caller.ends("doomed")
    await caller.ends("e2")
    await caller.fork("o1", "last", "fork")
    await caller.hours(3)
    await caller.approve("o2")
    await caller.ends("fork")


async def third_life(caller: Caller) -> None:
    """Ends it, and takes away what is old."""
    await caller.start("o3")
    await caller.resume("o2")
    await caller.hours(2)
    await caller.ends("o2")
    await caller.signal("o3")
    await caller.delete("endless")
    await caller.clock.advance("200d")
    await caller.prune()
    await caller.start("o2")


LIVES: tuple[Script, ...] = (first_life, second_life, third_life)


async def finish(caller: Caller) -> None:
    """Let every run come to its end, whatever was recorded of it; each is started that was not."""
    engine = caller.engine
    for run_id, (workflow, data) in STARTS.items():
        await engine.start(workflow, data, run_id=run_id, tags={"kind": run_id[0]})
    for _ in range(ROUNDS):
        await caller.clock.advance("3h")
        page = await engine.list_runs(status=["running", "suspended", "failed"], limit=500)
        if not page.runs:
            return
        for run in page.runs:
            with suppress(PikkuError):
                await _help(engine, run.id, str(run.status))
    raise AssertionError(f"runs do not end: {[(run.id, run.status, run.reason) for run in page.runs]}")


async def _help(engine: Engine, run_id: str, status: str) -> None:
    if status == "failed":
        await engine.retry(run_id)
    elif status == "suspended":
        await engine.resume(run_id)
    elif run_id == "endless":
        await engine.cancel(run_id, "enough")
    else:
        waiting = {step.name for step in await engine.steps(run_id) if step.ended_at is None}
        if "paid" in waiting:
            await engine.signal(run_id, "paid", 7)
        if "agree" in waiting:
            await engine.approve(run_id, "agree", True)
