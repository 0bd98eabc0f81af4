"""What the caller of the engine does in one life: everything anew, but what is known to be done.

It has a memory of its own, the ledger, and it can look into the file before the engine is opened. Each call is told
there before it is made and when it has returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import msgspec

from pikkupy import Engine, Event, EventKind, RunFailed, RunHandle, RunStateError
from pikkupy.errors import RunCancelled
from tests.crash.application import (
    DELAY_MS,
    SIGNALS,
    broken,
    crunch,
    flow,
    hopeless,
    listener,
    moving,
    parent,
    resigns,
    short,
    sleeper,
)
from tests.crash.failpoints import reach
from tests.crash.ledger import Ledger, Line
from tests.kills.facts import Facts

T = TypeVar("T")

FLOWS = 2
PRUNED = ("hopeless-0", "hopeless-1")
OLD_IS_OVER = "everything that the old code does is over"


class Caller:
    """One life of it."""

    def __init__(self, engine: Engine, ledger: Ledger, lines: Sequence[Line], before: Facts | None) -> None:
        self._engine = engine
        self._ledger = ledger
        self._asked = {(line.run, line.step) for line in lines if line.what == "asked"}
        self._before = before
        self.results: dict[str, Any] = {}

    async def old(self) -> None:
        """What it does as long as the process has the old code."""
        await self._start(moving, run_id="moving")
        await self._until("moving", lambda event: event.step_name == "wait")
        await self._until("moving", lambda event: event.step_name == "kid")

    async def new(self, *, in_processes: bool) -> dict[str, Any]:
        """Everything else; the results."""
        acts = [*(self._flow(number) for number in range(FLOWS)), self._move()]
        if in_processes:
            acts += [self._crunch(number) for number in range(2)]
        else:
            acts += [self._listen(), self._have_children(), self._mend_and_delete(), self._start_late()]
            acts += [self._cancel("victim", sleeper), self._cancel_itself()]
        await asyncio.gather(*acts)
        await self._look_at_everything()
        return self.results

    # Acts

    async def _flow(self, number: int) -> None:
        run = await self._start(flow, number, run_id=f"flow-{number}")
        await self._result(run)
        self.results[f"stream of {run.id}"] = [chunk.value async for chunk in run.stream(step="create", current=True)]
        if number == 0:
            if not self._is_there("fork"):
                await self._call(run.id, "fork", self._engine.fork(run.id, at="again", new_run_id="fork"))
            await self._result(await self._engine.handle("fork"))

    async def _listen(self) -> None:
        run = await self._start(listener, run_id="listener")
        for number in range(self._sent("listener"), SIGNALS):
            await self._call("listener", "signal", run.signal("go", number), number)
        await self._until("listener", lambda event: event.step_name == "pay")
        await self._unless_late("listener", "approve", lambda: run.approve("pay", True))
        await self._until("listener", _is_at_gate)
        await self._unless_late("listener", "resume", lambda: self._engine.resume("listener"))
        await self._result(run)

    async def _have_children(self) -> None:
        await self._result(await self._start(parent, run_id="parent"))

    async def _mend_and_delete(self) -> None:
        """Retry the run that can be mended, delete one by its name, and then prune what has failed."""
        run = await self._start(broken, run_id="broken")
        if await self._fails(run):
            await self._call("broken", "retry", self._engine.retry("broken"))
        await self._result(run)
        if self._is_there("doomed") or ("doomed", "delete") not in self._asked:
            await self._fails(await self._start(short, run_id="doomed"))
            await self._call("doomed", "delete", self._engine.delete_run("doomed"))
        for run_id in PRUNED:
            if self._is_there(run_id) or ("", "prune") not in self._asked:
                assert await self._fails(await self._start(hopeless, run_id=run_id))
        # In each life: it takes away what is left of runs whose deletion was cut off.
        await self._call("", "prune", self._engine.prune(older_than=0, statuses=["failed"]))

    async def _start_late(self) -> None:
        await self._result(await self._start(short, run_id="late", delay=DELAY_MS))

    async def _cancel(self, run_id: str, workflow: Any) -> None:
        run = await self._start(workflow, run_id=run_id)
        await self._until(run_id, lambda event: event.step_name == "before")
        await self._unless_late(run_id, "cancel", lambda: run.cancel("enough"))
        await self._result(run)

    async def _cancel_itself(self) -> None:
        await self._result(await self._start(resigns, run_id="resigns"))

    async def _move(self) -> None:
        """Accept the new code, if the run does not fit it, and let its child go on."""
        await self._accept()
        if not self._sent("moving/kid"):
            await self._call("moving/kid", "signal", self._engine.signal("moving/kid", "go", "on"), 0)
        # One that has waited in the file is parked only now, when the end of its child brings it into memory.
        await self._until("moving", lambda event: event.kind is EventKind.SUSPENDED)
        await self._accept()
        await self._result(await self._engine.handle("moving"))

    async def _accept(self) -> None:
        if (await self._engine.get_run("moving")).status == "suspended":
            await self._call("moving", "accept", self._engine.resume("moving", accept="new"))

    async def _crunch(self, number: int) -> None:
        await self._result(await self._start(crunch, number, run_id=f"crunch-{number}"))

    async def _look_at_everything(self) -> None:
        """Every row is read, and so its checksum compared."""
        for run in (await self._engine.list_runs(limit=500)).runs:
            await self._engine.steps(run.id)
            await self._engine.history(run.id)

    # Calls

    async def _call(self, run_id: str, name: str, call: Awaitable[T], value: Any = None) -> T:
        self._ledger.add("asked", run_id, name, value)
        result = await call
        reach("call.before_told")
        self._ledger.add("told", run_id, name, value)
        return result

    async def _unless_late(self, run_id: str, name: str, make: Callable[[], Awaitable[object]]) -> None:
        """Make a call that an earlier life may have made with success."""
        try:
            await self._call(run_id, name, make())
        except RunStateError:
            assert (run_id, name) in self._asked, f"{name} of {run_id} is refused, and was never made"

    async def _start(self, workflow: Any, data: Any = None, *, run_id: str, **terms: Any) -> RunHandle[Any]:
        started: RunHandle[Any] = await self._call(
            run_id, "start", self._engine.start(workflow, data, run_id=run_id, **terms)
        )
        return started

    async def _fails(self, run: RunHandle[Any]) -> bool:
        """Wait until it has ended."""
        try:
            await run.result()
        except RunFailed:
            return True
        return False

    async def _result(self, run: RunHandle[Any]) -> None:
        result: list[Any]
        try:
            result = ["completed", await run.result()]
        except RunCancelled as cancelled:
            result = ["cancelled", cancelled.reason]
        reach("call.before_told")
        self._ledger.add("told", run.id, "result", result)
        self.results[run.id] = result

    async def _until(self, run_id: str, is_it: Callable[[Event], bool]) -> None:
        """Read the run's events until there is such a one, or the run has ended."""
        async for event in self._engine.run_events(run_id):
            if is_it(event) or event.kind is EventKind.RUN_ENDED:
                return

    def _is_there(self, run_id: str) -> bool:
        return self._before is not None and run_id in self._before.runs

    def _sent(self, run_id: str) -> int:
        """How many signals are in the file."""
        return 0 if self._before is None else self._before.signals[run_id, "go"]


def _is_at_gate(event: Event) -> bool:
    if event.kind is EventKind.SUSPENDED:
        return event.reason == "gate"
    return event.kind is EventKind.RESUMED and event.step_name == "gate"


class Life(msgspec.Struct):
    """What a life that comes to its end leaves: results, how often it has passed each failpoint, how long it took."""

    results: dict[str, Any]
    passed: dict[str, int]
    took_s: float
