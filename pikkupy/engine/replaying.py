"""What the present code makes of a recorded run: it is replayed, and nothing is executed.

A replay hands a run's recorded outcomes to its code and looks at what that asks for. Nothing of that is carried out, so
it can be done anywhere, as often as one likes: before a deploy, or in a debugger.
"""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from enum import StrEnum
from typing import Any, NamedTuple

import msgspec

from pikkupy.codec import UNLIMITED, Codec
from pikkupy.core.commands import Cancelled, Commands, Completed, End, Failed, Parked
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import Recorded, RunStatus
from pikkupy.engine.host import in_callback
from pikkupy.execution import Workflow
from pikkupy.execution.execution import Execution
from pikkupy.log import logger
from pikkupy.payloads import PayloadCodec
from pikkupy.registry import Registry, WorkflowFunction

SHOWN = 5  # steps that are named of many


class Code(NamedTuple):
    """The present code: its workflows, and what an engine of the application has for them."""

    registry: Registry
    services: object = None
    payload_codec: PayloadCodec | None = None


class Fits(StrEnum):
    """Whether code and record go together."""

    YES = "yes"
    NO = "no"  # the code asks for other steps than those recorded: an engine would suspend the run
    OTHERWISE = "otherwise"  # it asks for the same steps, and ends in another way than it did
    MISSING = "missing"  # no such workflow is registered


class Replayed(msgspec.Struct, frozen=True):
    """What came of a replay."""

    run_id: str
    workflow: str
    status: RunStatus  # that is recorded
    steps: int  # that are recorded
    fits: Fits
    what: str  # what the code does after that, or the first difference


class Replay:
    """One run under the present code. Made and used on an event loop that runs."""

    def __init__(self, recorded: Recorded, registry: Registry, services: object = None) -> None:
        self._recorded = recorded
        self._registry = registry
        self._services = services
        self.error: BaseException | None = None
        """What the workflow's code has raised in the end, with its own frames: for a debugger."""

    async def run(self) -> Replayed:
        """Replay it, to where it stands or differs. Raises nothing that the run's code raises."""
        return await in_callback(asyncio.get_running_loop(), self._run)

    def _run(self) -> Replayed:
        run = self._recorded.run
        found = self._registry.find(run.workflow)
        if not isinstance(found, WorkflowFunction):
            return self._verdict(Fits.MISSING, f"no workflow {run.workflow!r} is registered")
        execution = Execution(found, self._recorded, Codec(UNLIMITED, UNLIMITED), lambda *_: None)
        context = Workflow(execution, self._registry, self._services, _silent)
        commands = execution.begin(context, copy_context())
        self.error = execution.loop.error()
        try:
            return self._judged(commands)
        finally:
            execution.tear_down()

    def _judged(self, commands: Commands) -> Replayed:
        run, end = self._recorded.run, commands.end
        if isinstance(end, Parked):
            return self._verdict(Fits.NO, f"{end.reason}{self._lacking()}")
        if end is None:
            asked = _names([call.name for call in commands.calls])
            if run.status is RunStatus.COMPLETED or run.status is RunStatus.FAILED:
                return self._verdict(Fits.OTHERWISE, f"it has {run.status}, and now goes on: {asked}")
            return self._verdict(Fits.YES, "as it was cancelled" if run.status in FINAL_RUNS else f"goes on: {asked}")
        told = _told(end)
        if run.status not in FINAL_RUNS:
            return self._verdict(Fits.YES, f"ends: {told}")
        if told == _recorded(self._recorded):
            return self._verdict(Fits.YES, f"ends as it did: {told}")
        return self._verdict(Fits.OTHERWISE, f"it had ended: {_recorded(self._recorded)}; now: {told}{self._lacking()}")

    def _lacking(self) -> str:
        """Why that may say nothing of the code: it has asked None for something, where there may be services."""
        if self._services is None and isinstance(self.error, AttributeError) and self.error.obj is None:
            return "; there are no services here; if the application has some, name its engine as TARGET"
        return ""

    def _verdict(self, fits: Fits, what: str) -> Replayed:
        run = self._recorded.run
        return Replayed(run.run_id, run.workflow, run.status, len(self._recorded.steps), fits, what)


def _told(end: End) -> str:
    match end:
        case Completed(output):
            return f"completed with {output}"
        case Failed(error):
            return f"failed with {error.type}: {error.message}"
        case Cancelled(reason):
            return f"cancelled: {reason}"
        case Parked(reason):
            return reason


def _recorded(recorded: Recorded) -> str:
    run = recorded.run
    if run.error is not None:
        return f"failed with {run.error.type}: {run.error.message}"
    return f"completed with {run.output}" if run.status is RunStatus.COMPLETED else f"cancelled: {run.reason}"


def _names(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return f"asks for {shown}{more}" if names else "waits"


def _silent(_: Execution) -> Any:
    return logger(silent=lambda: True)
