"""The runs that are in memory: how they get in (a start, a start-up, a resume) and how they leave."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import Any

from msgspec import structs

from pikkupy.core.commands import Commands, Parked
from pikkupy.core.machine import RUN, RunEvent, advance
from pikkupy.core.model import Change, Recorded, RunMove, RunRow, RunStatus
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.host import Host, in_callback
from pikkupy.engine.outlet import Outlet
from pikkupy.errors import PikkuError, WorkflowNotFound
from pikkupy.execution import Execution, Workflow
from pikkupy.log import Logger, is_enabled_for_info, logger
from pikkupy.registry import WorkflowFunction
from pikkupy.services import enter_run

CHUNK = 200  # runs that are read and replayed between two chances for the application's own tasks

# How the reason of a run that was parked for its code begins: each `open` tries such runs again.
PARKED_FOR_CODE = ("ReplayMismatch", "WorkflowNotFound")


class Residents:
    """Runs in memory by id, what their steps tell, and who waits for their ends."""

    def __init__(self, host: Host) -> None:
        self.active: dict[str, ActiveRun] = {}
        self.outlet = Outlet(host, self.active)
        self._host = host
        self._intruded = self._interfere  # one object for all runs
        self._waiting: dict[str, list[asyncio.Future[RunMove]]] = {}

    def start(self, row: RunRow, workflow: WorkflowFunction[Any, Any], variables: Context) -> None:
        """Bring a new run into memory, after it is on disk."""
        if not self._host.dispatching:
            return  # it goes on in the next life
        recorded = Recorded(run=row)
        execution, commands = self._begin(workflow, recorded, variables)
        self._add(execution, recorded).carry_out(commands)

    async def recover(self, *, clean: bool) -> int:
        """Bring every run without an end into memory; how many there were. `clean`: the last owner left in order."""
        variables = copy_context()
        count = after = 0
        while chunk := await self._host.journal.awake(after=after, limit=CHUNK):
            after = chunk[-1].run.number
            adopt = partial(self._adopt_all, chunk, variables, clean=clean)
            count += await in_callback(self._host.loop, adopt)
        return count

    def resume(self, recorded: Recorded, variables: Context) -> None:
        """Take up a suspended run again."""
        fresh = {
            row.position: structs.replace(row, cut_offs=0) for row in recorded.steps if row.cut_offs and row.seq is None
        }
        steps = tuple(fresh.get(row.position, row) for row in recorded.steps)
        recorded = structs.replace(recorded, steps=steps)
        self._adopt(recorded, variables, clean=True, changes=list(fresh.values()))

    def wait_for(self, run_id: str) -> asyncio.Future[RunMove]:
        """A future that gets the run's end, once that is on disk."""
        future: asyncio.Future[RunMove] = self._host.loop.create_future()
        self._waiting.setdefault(run_id, []).append(future)
        return future

    def wait_no_more(self, run_id: str, future: asyncio.Future[RunMove]) -> None:
        """Take back `wait_for`."""
        waiting = self._waiting.get(run_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[run_id]

    def tell(self, run_id: str, end: RunMove) -> None:
        """Wake those who wait for the run: its end is on disk."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_result(end)

    def _interfere(self, number: int, why: str) -> None:
        """On whatever thread the interference was noticed."""
        with suppress(RuntimeError):  # the loop is closed: the run is not in memory any more
            self._host.loop.call_soon_threadsafe(self._misused, number, why)

    def _misused(self, number: int, why: str) -> None:
        for run in [run for run in self.active.values() if run.run.number == number]:
            run.misused(why)

    def refuse(self, run_id: str, error: Exception) -> None:
        """Those who wait for the run wait in vain: its start was not recorded."""
        for future in self._waiting.pop(run_id, ()):
            if not future.done():
                future.set_exception(error)

    def leave(self, error: PikkuError) -> None:
        """Take every run out of memory; those who wait for one get `error`."""
        for run in self.active.values():
            run.leave_memory(error)
        self.active.clear()
        self.outlet.close()
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # somebody may have stopped listening: asyncio need not report it

    def _adopt_all(self, chunk: list[Recorded], variables: Context, *, clean: bool) -> int:
        unfinished = [recorded for recorded in chunk if _wakes_by_itself(recorded.run)]
        for recorded in unfinished:
            self._adopt(recorded, variables, clean=clean, changes=[])
        return len(unfinished)

    def _adopt(self, recorded: Recorded, variables: Context, *, clean: bool, changes: list[Change]) -> None:
        try:
            workflow: WorkflowFunction[Any, Any] = self._host.registry.find_workflow(recorded.run.workflow)
        except WorkflowNotFound as error:
            self._park(recorded.run, f"WorkflowNotFound: {error}; the run goes on at the next open that has it")
            return
        # A copy for each: what one body sets is no other's.
        execution, commands = self._begin(workflow, recorded, variables.copy())
        if isinstance(commands.end, Parked):
            execution.tear_down()
            self._park(recorded.run, commands.end.reason)
            return
        if recorded.run.status is RunStatus.SUSPENDED:
            resumed = _move(recorded.run, RunEvent.RESUME, None, self._host.now_us())
            changes = [*changes, resumed]
            recorded = _running(recorded)
        if changes:
            self._host.write(changes)
        self._host.info("run_recovered", run_id=recorded.run.run_id, workflow=workflow.name)
        self._add(execution, recorded).adopt(commands, cut_off=not clean)

    def _begin(
        self, workflow: WorkflowFunction[Any, Any], recorded: Recorded, variables: Context
    ) -> tuple[Execution, Commands]:
        execution = Execution(workflow, recorded, self._host.values, self._intruded)
        context = Workflow(execution, self._host.registry, self._host.services, _run_logger)
        variables.run(enter_run, recorded.run.run_id, recorded.run.workflow, self.outlet)
        return execution, execution.begin(context, variables)

    def _add(self, execution: Execution, recorded: Recorded) -> ActiveRun:
        run = ActiveRun(self._host, execution, recorded, self)
        self.active[recorded.run.run_id] = run
        return run

    def has_ended(self, run: ActiveRun, move: RunMove) -> None:
        """The run's end is on disk: it leaves memory, and those who wait for it are told."""
        run_id = run.run.run_id
        self.active.pop(run_id, None)
        if is_enabled_for_info():
            self._host.log.info(f"run_{move.status}", run_id=run_id, workflow=run.run.workflow, **_about(move))
        if move.status is not RunStatus.SUSPENDED:
            self.tell(run_id, move)

    def _park(self, run: RunRow, reason: str) -> None:
        """Suspend a run that does not fit the present code; nothing of it has been executed."""
        if run.status is RunStatus.SUSPENDED and run.reason == reason:
            return  # it is parked already
        self._host.log.warning("run_suspended", run_id=run.run_id, workflow=run.workflow, reason=reason)
        self._host.write([_move(run, RunEvent.SUSPEND, reason, self._host.now_us())])


def _run_logger(execution: Execution) -> Logger:
    run = execution.run
    return logger(silent=lambda: execution.replaying).bind(run_id=run.run_id, workflow=run.workflow)


def _wakes_by_itself(run: RunRow) -> bool:
    return run.status is RunStatus.RUNNING or (run.reason or "").startswith(PARKED_FOR_CODE)


def _move(run: RunRow, event: RunEvent, reason: str | None, at: int) -> RunMove:
    return RunMove(number=run.number, before=run.status, status=advance(RUN, run.status, event), reason=reason, at=at)


def _running(recorded: Recorded) -> Recorded:
    run = structs.replace(recorded.run, status=RunStatus.RUNNING, error=None, reason=None, ended_at=None)
    return structs.replace(recorded, run=run)


def _about(move: RunMove) -> dict[str, str]:
    if move.error is not None:
        return {"error_type": move.error.type, "error": move.error.message}
    return {} if move.reason is None else {"reason": move.reason}
