"""The engine: the composition root. It wires the rooms together and is what applications talk to."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AsyncExitStack
from contextvars import copy_context
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, NamedTuple, TypeVar, overload

from pikkupy.clock import SystemClock
from pikkupy.config import Config
from pikkupy.core.clock import Clock
from pikkupy.core.machine import FINAL_RUNS, FINAL_STEPS
from pikkupy.core.model import (
    Change,
    Recorded,
    RunDeleted,
    RunMove,
    RunRow,
    RunStatus,
    SignalRow,
    StepKind,
    StepRow,
)
from pikkupy.durations import Duration, microseconds
from pikkupy.engine import again, aside, gates, signals
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.events import EngineEvents, Event, Past, RunEvents
from pikkupy.engine.handle import RunHandle
from pikkupy.engine.host import Host, in_callback, open_host
from pikkupy.engine.listing import check_limit, filter_of, number_of
from pikkupy.engine.pruning import Pruning, check_deletable
from pikkupy.engine.residents import Residents
from pikkupy.engine.starts import Starts, terms_of
from pikkupy.engine.streams import Stream
from pikkupy.engine.views import Attempt, Chunk, Page, Run, Step, attempts_of, progress_of, run_of, step_of
from pikkupy.errors import (
    BadType,
    BadValue,
    EngineClosed,
    JournalError,
    PayloadError,
    PikkuError,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunNotFound,
    RunStateError,
    WorkflowMisuse,
    WorkflowNotFound,
)
from pikkupy.failures import storable
from pikkupy.log import logger
from pikkupy.names import check_name, check_step_name
from pikkupy.registry import Registry, WorkflowFunction
from pikkupy.services import check_services
from pikkupy.store import Done, resolve
from pikkupy.timers import Timer

In = TypeVar("In")
Out = TypeVar("Out")


class _Parts(NamedTuple):
    """What an open engine consists of."""

    host: Host
    residents: Residents
    starts: Starts


class Engine:
    """One open journal and the runs in it. Made by `Pikku.open`; use it with `async with`.

    Entering opens the file, takes its lock and goes on with what is unfinished; it raises `JournalLocked`,
    `JournalFormatError`, `JournalError` or `RegistrationError`. Leaving lets running steps finish for
    `Config.shutdown_grace`, then interrupts them; every run stays resumable.
    """

    def __init__(
        self, path: str | os.PathLike[str], registry: Registry, services: object, clock: Clock | None, config: Config
    ) -> None:
        self._path = os.fspath(path)
        self._registry = registry
        self._services = services
        self._clock = SystemClock() if clock is None else clock
        self._config = config
        self._log = logger()
        self._parts: _Parts | None = None
        self._unusable: PikkuError = _not_open()

    # Opening and leaving

    async def __aenter__(self) -> Engine:
        if self._parts is not None:
            raise PikkuError("this engine is open already; call pikku.open(...) again for another one")
        check_services(self._services)
        self._registry.resolve()
        host = await open_host(
            self._path, self._registry, self._services, self._clock, self._config, self._log, self._journal_failed
        )
        self._unusable = _not_open()  # a failure of an earlier life is over: the file has decided
        residents = Residents(host)
        host.moving = lambda: residents.busy
        self._parts = _Parts(host, residents, Starts(host, residents))
        try:
            recovered = await residents.recover(clean=host.journal.clean)
            await host.journal.commit([])  # what recovery has written is on disk: statuses are as they will be seen
            residents.waker.open()
        except BaseException:
            await self._leave()
            raise
        self._log.info("engine_opened", path=self._path, recovered=recovered)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Whoever cancels the leaving gets control back when the file is free, not before: the drain has its own limits.
        leaving = asyncio.ensure_future(self._leave())
        cancelled: asyncio.CancelledError | None = None
        while not leaving.done():
            try:
                await asyncio.shield(leaving)
            except asyncio.CancelledError as error_:
                cancelled = error_
        leaving.result()
        if cancelled is not None:
            raise cancelled

    async def _leave(self) -> None:
        if self._parts is None:
            return
        host, residents, _ = self._parts
        host.stop_dispatching()
        await residents.quiet()
        await host.workers.close(microseconds(self._config.shutdown_grace) / 1e6)
        if host.journal.failure is None:
            await host.journal.idle()
        if isinstance(self._unusable, EngineClosed):
            self._unusable = EngineClosed("the engine was left; unfinished runs go on at the next open")
        self._parts = None
        await in_callback(host.loop, partial(residents.leave, self._unusable))
        await host.close()
        self._log.info("engine_closed", path=self._path)

    def _journal_failed(self, failure: JournalError) -> None:
        """The journal has stopped: tell everybody who waits, and take the runs out of memory."""
        self._unusable = failure
        self._log.error("journal_failed", path=self._path, error=str(failure))
        if self._parts is not None:
            self._parts.host.stop_dispatching()
            self._parts.residents.leave(failure)

    # Starting

    @overload
    async def start(
        self,
        workflow: WorkflowFunction[None, Out],
        data: None = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> RunHandle[Out]: ...
    @overload
    async def start(
        self,
        workflow: WorkflowFunction[In, Out],
        data: In,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> RunHandle[Out]: ...
    @overload
    async def start(
        self,
        workflow: str,
        data: Any = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> RunHandle[Any]: ...
    async def start(
        self,
        workflow: Any,
        data: Any = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> RunHandle[Any]:
        """Start a run; it is on disk when this returns, and goes on whatever happens to the process.

        `tags` are names and values (at most 32, 256 characters each) to find the run by. Its body begins `at` an aware
        `datetime`, a past one at once, or after `delay`; at most 100 years ahead. The same `run_id` with the same
        workflow and input gives the existing run's handle, finished or not, whatever tags and time it has. Raises
        `WorkflowNotFound`, `PayloadError` (no run is created), `RunConflict` (the id belongs to another workflow or
        input), `DurationError` for a time that is none or naive, `TypeError` or `ValueError` for an id that is no text
        of 1 to 256 characters, for tags beyond their limits, and for both `at` and `delay`.
        """
        return RunHandle(self, await self._started(workflow, data, run_id, tags, at, delay))

    @overload
    async def run(
        self,
        workflow: WorkflowFunction[None, Out],
        data: None = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Out: ...
    @overload
    async def run(
        self,
        workflow: WorkflowFunction[In, Out],
        data: In,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Out: ...
    @overload
    async def run(
        self, workflow: str, data: Any = None, *, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Any: ...
    async def run(
        self, workflow: Any, data: Any = None, *, run_id: str | None = None, tags: Mapping[str, str] | None = None
    ) -> Any:
        """`start` and wait for the result. Raises as `start` and `RunHandle.result` do."""
        if run_id is not None:
            return await self._result(await self._started(workflow, data, run_id, tags), None)
        # Nobody else can know the id: its end is all that there is to wait for.
        host, residents, starts = self._use()
        found = self._registry.find_workflow(workflow)
        terms = terms_of(host.now_us(), tags, None, None)
        new_id = starts.begin(found, _encoded_input(host, found, data), copy_context(), terms)
        end = residents.wait_for(new_id)
        try:
            return self._outcome(host, new_id, found.name, await end)
        finally:
            residents.wait_no_more(new_id, end)

    async def handle(self, run_id: str) -> RunHandle[Any]:
        """A handle for a run that was started earlier. Raises `RunNotFound`."""
        await self._row(run_id)
        return RunHandle(self, run_id)

    # Asking

    async def get_run(self, run_id: str) -> Run:
        """The run as it stands on disk. Raises `RunNotFound`."""
        row = await self._row(run_id)
        return (await self._views([row]))[0]

    async def list_runs(
        self,
        *,
        workflow: str | WorkflowFunction[Any, Any] | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        tags: Mapping[str, str] | None = None,
        id_prefix: str | None = None,
        error: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page:
        """Runs, newest first: `limit` (1 to 500) of them, from `cursor` (a `Page.next_cursor`) on.

        Only those of which all that is given is true: of that workflow, in that status or one of several, with all of
        those tags, with an id that begins with `id_prefix`, with an error whose type or message contains `error` (upper
        and lower case differ), created at `created_after` or later and before `created_before` (aware `datetime`s).
        Runs that start meanwhile do not disturb the pages. Raises `TypeError` or `ValueError` for an argument that
        there cannot be.
        """
        host = self._use().host
        which = filter_of(
            workflow=workflow,
            status=status,
            tags=tags,
            id_prefix=id_prefix,
            error=error,
            created_after=created_after,
            created_before=created_before,
        )
        rows = await host.journal.runs(which, limit=check_limit(limit) + 1, before=number_of(cursor))
        shown = rows[:limit]
        more = str(shown[-1].number) if len(rows) > limit else None
        return Page(runs=tuple(await self._views(shown)), next_cursor=more)

    async def counts(self) -> dict[str, dict[RunStatus, int]]:
        """How many runs there are, by workflow and status; what there is none of is left out."""
        found: dict[str, dict[RunStatus, int]] = {}
        for workflow, status, count in await self._use().host.journal.counts():
            found.setdefault(workflow, {})[status] = count
        return found

    async def steps(self, run_id: str) -> list[Step]:
        """The steps of the run, in the order in which it reached them. Raises `RunNotFound`."""
        host, residents, _ = self._use()
        row = await self._row(run_id)
        active = residents.active.get(run_id)
        progress = {} if active is None else active.progress()
        rows = await self._step_rows(row)
        children: dict[int, str] = {}
        if any(step.kind is StepKind.WORKFLOW for step in rows):
            children = {child.position: child.run_id for child in await host.journal.children(row.number)}
        return [
            step_of(step, run_id, host.values, progress.get(step.position), children.get(step.position))
            for step in rows
        ]

    async def _step_rows(self, row: RunRow) -> list[StepRow]:
        host, residents, _ = self._use()
        # What is under way is in memory first. It is looked at before the file, and later steps are left out: so every
        # step that the run has reached at this moment is in memory or in the file.
        active = residents.active.get(row.run_id)
        shown = {} if active is None else {step.position: step for step in active.live_rows()}
        reached = math.inf if active is None else active.reached
        for step in await host.journal.steps(row.number):
            known = shown.get(step.position)
            if step.position < reached and (known is None or step.status in FINAL_STEPS):
                shown[step.position] = step
        return [shown[position] for position in sorted(shown)]

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """What happens to runs from now on, or after the event of that `seq`: to be read with `async for`.

        Raises `EventsLost` if what followed is not known any more: the last 10,000 events of this life of the engine
        are kept from the first call on. Raises `EngineClosed` when the engine is left. Steps that begin are told at
        once, everything else when it is on disk.
        """
        return EngineEvents(self._use().residents.events, after)

    def run_events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """What has happened to the run and what happens to it, until it has ended: to be read with `async for`.

        From its beginning, or after the event of that `seq`, in this life of the engine or in a later one. Raises
        `RunNotFound`, and `EngineClosed` when the engine is left.
        """
        return RunEvents(self._use().residents.events, self, run_id, after)

    async def past_of(self, run_id: str) -> Past:
        """For readers of events: the run up to now."""
        host = self._use().host
        row = await self._row(run_id)
        while True:
            attempts = await host.journal.attempt_rows(row.number)
            signals = await host.journal.signals(row.number)
            steps = await self._step_rows(row)
            before, row = row, await self._row(run_id)
            if row.status is before.status:
                return Past(row, steps, attempts, signals, progress_of(row))
            # It has ended, perhaps, after it was looked at: nothing may be missing before its end.

    async def history(self, run_id: str) -> list[Attempt]:
        """Every finished attempt of the run's steps, oldest first. Raises `RunNotFound`."""
        host = self._use().host
        row = await self._row(run_id)
        return attempts_of(*await host.journal.attempts(row.number))

    def stream(
        self, run_id: str, *, after: int = -1, step: str | None = None, current: bool = False
    ) -> AsyncIterator[Chunk]:
        """What the run's steps have emitted and go on to emit, until the run has ended: `async for chunk in ...`.

        Chunks are on disk when they are seen. `after` is the offset of the last one that the caller has seen; `step`
        leaves only those of the step of that name (`Step.name`). With `current`, chunks are left out if a later
        execution of their step, a retry or the same attempt again after a crash, is on record when they are read; live
        readers know by `Chunk.since` when that happens to what they have got already. A slow reader costs no memory.
        Raises `ValueError` or `TypeError` in the call, and where a chunk is awaited `RunNotFound`, or `EngineClosed` if
        the engine is left meanwhile.
        """
        return Stream(lambda: self._use()[:2], self._row, run_id, after, step, current)

    # Acting

    async def cancel(self, run_id: str, reason: str) -> None:
        """End the run as `cancelled`. When this returns, no further step of it starts.

        Running async steps get `CancelledError`; what comes late is kept in `history` and changes nothing. Raises
        `RunNotFound`, `RunStateError` for a run that has ended, `TypeError` for a reason that is no text.
        """
        residents = self._use().residents
        if not isinstance(reason, str):
            raise BadType(f"cancel({run_id!r}, reason): the reason must be a str, not {type(reason).__name__}")
        if await residents.cancel_by_number(await self._number(run_id), storable(reason)) is None:
            raise RunStateError(
                f"run {run_id!r} is {(await self._row(run_id)).status}: it cannot be cancelled any more"
            )

    async def signal(self, run_id: str, name: str, payload: Any = None) -> None:
        """Send the run a signal. When this returns, it is on disk, and never lost.

        If the run waits for a signal of that name, it goes on with `payload`; else the signal is kept for the next
        wait. For an approval the payload is the decision, or `{"decision": ..., "decided_by": ...}`. Raises
        `RunNotFound`, `RunStateError` for a run that has ended and for a decision that comes too late, `PayloadError`
        for a payload that cannot be kept and for a decision that does not fit, `TypeError` and `ValueError` for a name.
        """
        host = self._use().host
        check_step_name(name, "signal name")
        text = host.values.encode(payload, what="payload of signal", name=name)

        def keep(recorded: Recorded) -> Change:
            seq, now_us = recorded.last_seq + 1, host.now_us()
            return SignalRow(run=recorded.run.number, seq=seq, name=name, payload=text, sent_at=now_us)

        await self._tell_run(run_id, lambda run, done: signals.send(run, name, text, done), keep)

    async def approve(self, run_id: str, name: str, decision: Any, *, decided_by: str | None = None) -> None:
        """Decide what the run waits for in `workflow.approval(name, ...)`. When this returns, it is on disk.

        Raises `PayloadError`, with the path, for a decision that is not of the type that the run asks for: it goes on
        waiting. Raises `RunStateError` if the run does not wait for it (any more), `RunNotFound`, `TypeError`.
        """
        check_step_name(name, "name of the approval")
        if decided_by is not None and not isinstance(decided_by, str):
            raise BadType(f"decided_by={decided_by!r}: use a str, or None")

        def keep(recorded: Recorded) -> Change:
            raise RunStateError(
                f"run {run_id!r} is {recorded.run.status}, it does not wait for a decision {name!r}: "
                f"{recorded.run.reason or 'it has not begun'}"
            )

        await self._tell_run(run_id, lambda run, done: signals.decide(run, name, decision, decided_by, done), keep)

    async def _tell_run(
        self, run_id: str, act: Callable[[ActiveRun, Done], None], keep: Callable[[Recorded], Change]
    ) -> None:
        """Let `act` tell the run something, in memory; `keep` says what is written if it cannot come there."""
        host, residents, starts = self._use()
        await starts.settled(run_id)
        active = residents.active.get(run_id)
        if active is not None and not active.ending:
            await _told(host, partial(act, active))
            return
        if active is not None:
            await asyncio.shield(active.over)  # its end is on disk
        number = (await self._row(run_id)).number
        async with residents.holds.alone(number):
            active = await residents.load(number)
            if active is not None and not active.ending:
                await _told(host, partial(act, active))
                return
            recorded = await host.journal.recorded(number)
            if recorded is None:
                raise RunNotFound(f"no run with the id {run_id!r}")
            if recorded.run.status in FINAL_RUNS or active is not None:
                raise RunStateError(f"run {run_id!r} is {recorded.run.status}: it takes no signals any more")
            await host.journal.commit([keep(recorded)])

    async def resume(self, run_id: str, *, accept: Literal["new"] | None = None) -> None:
        """Let a suspended run go on: the gates in `Run.reason` open, or what else it names was mended.

        A run whose code does not fit what is recorded stays suspended, with that as its reason; a gate stays shut then.
        With `accept="new"` it goes on with the code as it is: steps from the first difference on are set aside, and
        those of the same name, kind and target that the code asks for at any later time go on as they were, with their
        outcome, deadline, attempts or child run. New steps execute. What is not asked for is kept as evidence in
        `history`; an unfinished child run of it is cancelled when the run ends. Of gates only those open that
        `Run.reason` named, wherever the code asks for them now. A run whose recorded input or value no longer fits its
        type, or whose workflow or function is gone, stays suspended all the same. Raises `RunNotFound`,
        `RunStateError` for a run that is not suspended, `ValueError` for another `accept`.
        """
        host, residents, _ = self._use()
        if accept not in (None, "new"):
            raise BadValue(f"accept={accept!r}: use 'new', or leave it out")
        number = await self._number(run_id)
        async with residents.holds.alone(number):
            active = residents.resident(number)
            recorded = await host.journal.recorded(number) if active is None else None
            found = active if recorded is None else recorded.run
            if found is None:
                raise RunNotFound(f"no run with the id {run_id!r}")
            if found.status is not RunStatus.SUSPENDED:
                raise RunStateError(f"run {run_id!r} is {found.status}, not suspended: there is nothing to resume")
            if recorded is not None and recorded.run.parked is None:
                active = await residents.load(number)  # to its gates; it is parked if it does not fit its code
            if active is not None:
                await _told(host, partial(_resume, active))
            elif recorded is not None and (recorded.run.parked is not None or accept is not None):
                if accept is not None:
                    recorded = await self._accepted(recorded)
                await in_callback(host.loop, partial(residents.resume, recorded))
                await host.journal.commit([])  # the new status is on disk

    async def _accepted(self, recorded: Recorded) -> Recorded:
        """The run without what the present code does not ask for where it is recorded: that is set aside.

        If it was shut at gates, these are open: it was them that the caller saw and meant.
        """
        host, residents, _ = self._use()
        number, gates = recorded.run.number, aside.opened_gates(recorded, host.now_us())
        while True:
            parked = await in_callback(host.loop, partial(residents.examine, recorded))
            if parked is None or parked.position is None:
                return recorded
            recorded = aside.with_rows(recorded, gates)
            changes = aside.set_aside(recorded, await self._children(number), parked.position, parked.seq)
            await host.journal.commit([*gates, *changes])
            residents.relink(changes)
            gates = []
            left = await host.journal.recorded(number)
            if left is None or (left.steps, left.timers) == (recorded.steps, recorded.timers):
                return recorded
            recorded = left

    async def _children(self, number: int) -> list[RunRow]:
        journal = self._use().host.journal
        children = [child.number for child in await journal.children(number)]
        return await journal.run_rows(children) if children else []

    async def retry(self, run_id: str) -> None:
        """Let a failed run go on from its failed step: the one whose error left the workflow, with `retries` anew.

        Recorded successes stand. If no failed step was the cause, the body is replayed to where it failed. A failed
        child run that was the cause is retried, too, as the next attempt of its step. A child run that is retried by
        itself goes on whatever becomes of its parent, which does not wait for it any more. Raises `RunNotFound`,
        `RunStateError` for a run that has not failed.
        """
        host, residents, starts = self._use()
        await starts.settled(run_id)
        row = await self._row(run_id)
        numbers, changes = [row.number], list[Change]()
        async with AsyncExitStack() as held:
            for number in numbers:  # grows as it goes
                await held.enter_async_context(residents.holds.alone(number))
                recorded = await host.journal.recorded(number)
                if recorded is None:
                    raise RunNotFound(f"no run with the id {run_id!r}")
                active = residents.resident(number)
                status = recorded.run.status if active is None else active.status
                if status is not RunStatus.FAILED or active is not None:
                    raise RunStateError(f"run {recorded.run.run_id!r} is {status}: only a failed run can be retried")
                attempts = await host.journal.attempt_rows(number)
                children = await host.journal.children(number)
                changes += again.retry(recorded, attempts, children, host.now_us(), alone=number == numbers[0])
                numbers += [child.number for child in again.retried_children(recorded, children)]
            await host.journal.commit(changes)
            self._log.info("run_retried", run_id=run_id, workflow=row.workflow)
            for number in reversed(numbers):
                await residents.load(number)

    async def fork(
        self,
        run_id: str,
        *,
        at: str,
        input: Any = None,
        overrides: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
    ) -> RunHandle[Any]:
        """A new run that shares the history of `run_id` before its step `at` (a name as in `Step.name`).

        Recorded outcomes of the steps that the run had reached before are taken over, and are not executed; what comes
        then is. `input` replaces the run's input, `overrides` the values of shared steps, by name. `workflow.random()`
        and `uuid4()` give other values in the new run. Raises `RunNotFound`, `ValueError` for a step that there is not,
        `PayloadError`, `WorkflowNotFound`, `RunConflict` for a `new_run_id` that is taken.
        """
        host, residents, _ = self._use()
        source = await self._row(run_id)
        workflow: WorkflowFunction[Any, Any] = self._registry.find_workflow(source.workflow)
        text = None if input is None else _encoded_input(host, workflow, input)
        given = host.ids.uuid7(host.now_us()) if new_run_id is None else check_name(new_run_id, "new_run_id")
        recorded = await host.journal.recorded(source.number)
        if recorded is None:
            raise RunNotFound(f"no run with the id {run_id!r}")
        attempts = await host.journal.attempt_rows(source.number)
        row = again.forked_row(source, given, host.next_number(), text, workflow, host.now_us())
        changes = again.fork(recorded, attempts, at, overrides or {}, row, host.values, self._registry)
        async with residents.holds.alone(row.number):
            try:
                await host.journal.commit(changes)
            except JournalError:
                if host.journal.failure is None and await host.journal.run(given) is not None:
                    raise RunConflict(f"run {given!r} exists; fork with another new_run_id") from None
                raise
            self._log.info("run_forked", run_id=given, workflow=row.workflow, forked_from=run_id, at=at)
            await residents.load(row.number)
        return RunHandle(self, given)

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that has ended, with its steps, its history and its child runs.

        Raises `RunNotFound`; `RunStateError` if it has not ended, or its parent, or a run below it.
        """
        host = self._use().host
        row = await self._row(run_id)
        await check_deletable(host.journal, row)
        try:
            await host.journal.commit([RunDeleted(number=row.number)])
        except JournalError:
            # It has changed since it was looked at: that is said, or RunNotFound if somebody else was quicker.
            await check_deletable(host.journal, await self._row(run_id))
            raise

    async def prune(
        self,
        *,
        older_than: Duration,
        statuses: Iterable[RunStatus | str] | None = None,
        keep: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """Delete the runs that ended `older_than` ago or earlier, by the engine's clock; how many there were.

        `statuses` are final ones (default: all three). The `keep` runs of these that ended last stay. Child runs go
        with their parents, and are neither counted nor kept by themselves; a run above an unfinished one stays. A few
        runs go at a time, so that other writes get in between, and each as a whole: what a crash leaves can be pruned
        again. `progress` is called with the number of runs that are gone so far; what it raises ends the pruning.
        The file does not get smaller; the room in it is used again. Raises `DurationError`, `TypeError`, `ValueError`.
        """
        host, pruning = self._use().host, Pruning(older_than, statuses, keep, progress)
        try:
            return await pruning.run(host)
        except JournalError:
            self._use()  # says better why, if the engine was left
            raise

    # For handles

    async def _result(self, run_id: str, timeout: Duration | None) -> Any:
        """What `RunHandle.result` returns or raises."""
        host, residents, _ = self._use()
        limit_us = None if timeout is None else microseconds(timeout)
        end = residents.wait_for(run_id)  # before the look at the run, so that no end is missed
        timer = None
        try:
            active = residents.active.get(run_id)
            row = await self._row(run_id) if active is None else active.run
            if row.status in FINAL_RUNS:
                return self._outcome(host, run_id, row.workflow, row)
            if limit_us is not None:
                timer = _time_out(host, end, run_id, limit_us)
            return self._outcome(host, run_id, row.workflow, await end)
        finally:
            residents.wait_no_more(run_id, end)
            if timer is not None:
                timer.cancel()

    def _outcome(self, host: Host, run_id: str, workflow: str, end: RunRow | RunMove) -> Any:
        if end.error is not None:
            raise RunFailed(run_id, end.error)
        if end.status is RunStatus.CANCELLED:
            raise RunCancelled(run_id, end.reason or "")
        _, output_type = self._types(workflow)
        return host.values.decode(end.output or "null", output_type, what="output of run", name=run_id)

    # Inside

    def _started(
        self,
        workflow: Any,
        data: Any,
        run_id: str | None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> Coroutine[Any, Any, str]:
        """The id of a new run, or of the one that had been started with that id, once it is on disk."""
        host, _, starts = self._use()
        found: WorkflowFunction[Any, Any] = self._registry.find_workflow(workflow)
        if run_id is not None:
            check_name(run_id, "run_id")
        terms = terms_of(host.now_us(), tags, at, delay)
        return starts.start(found, _encoded_input(host, found, data), run_id, copy_context(), terms)

    def _use(self) -> _Parts:
        if self._parts is None or isinstance(self._unusable, JournalError):
            raise self._unusable
        if asyncio._get_running_loop() is not self._parts.host.loop:
            raise WorkflowMisuse(
                "the engine was called in a workflow body or on another event loop than its own; "
                "wrap the call in `await workflow.do(name, ...)`"
            )
        return self._parts

    async def _row(self, run_id: str) -> RunRow:
        journal = self._use().host.journal
        row: RunRow | None = await journal.run(run_id) if _can_be(run_id) else None
        if row is None:
            raise RunNotFound(f"no run with the id {run_id!r}")
        return row

    async def _number(self, run_id: str) -> int:
        """The number of the run, once its start is on disk. Raises `RunNotFound`."""
        _, residents, starts = self._use()
        await starts.settled(run_id)
        active = residents.active.get(run_id)
        return (await self._row(run_id)).number if active is None else active.run.number

    async def _views(self, rows: list[RunRow]) -> list[Run]:
        host = self._use().host
        open_runs = [row.number for row in rows if row.status not in FINAL_RUNS]
        changed = await host.journal.last_change(open_runs) if open_runs else {}
        parents = [row.parent for row in rows if row.parent is not None]
        ids = await host.journal.run_ids(parents) if parents else {}
        return [
            run_of(row, host.values, changed.get(row.number), *self._types(row.workflow), ids.get(row.parent or 0))
            for row in rows
        ]

    def _types(self, workflow: str) -> tuple[Any, Any]:
        """Annotations of input and output; `Any` if the workflow is not registered (any more)."""
        try:
            found: WorkflowFunction[Any, Any] = self._registry.find_workflow(workflow)
        except WorkflowNotFound:
            return Any, Any
        return found.data_type, found.result_type


def _not_open() -> EngineClosed:
    return EngineClosed("the engine is not open: use `async with pikku.open(...) as engine:`")


def _encoded_input(host: Host, workflow: WorkflowFunction[Any, Any], data: Any) -> str:
    if not workflow.takes_data and data is not None:
        raise PayloadError(f"input of workflow {workflow.name!r}: it takes no data, got {type(data).__name__}")
    given = workflow.default if data is None else data
    return host.values.encode(given, workflow.data_type, what="input of workflow", name=workflow.name)


async def _told(host: Host, act: Callable[[Done], None]) -> None:
    """Return when what `act` has submitted is on disk. Raises what `act` raises, and `JournalError`."""
    told: asyncio.Future[None] = host.loop.create_future()
    act(partial(resolve, told))
    await told


def _resume(run: ActiveRun, done: Done) -> None:
    if not gates.resume(run, done):
        raise RunStateError(f"run {run.run.run_id!r} is {run.status}, and no gate of it is shut")


def _time_out(host: Host, end: asyncio.Future[RunMove], run_id: str, limit_us: int) -> Timer | None:
    """Let `end` raise `TimeoutError` after `limit_us`."""
    error = TimeoutError(f"run {run_id!r} has not ended within {limit_us / 1e6:g} s; it goes on")
    if limit_us == 0:
        raise error

    def expire() -> None:
        if not end.done():
            end.set_exception(error)

    return host.timers.call_at(host.now_us() + limit_us, expire)


def _can_be(run_id: object) -> bool:
    """True if a run may have that id. Raises `TypeError` for what is no text."""
    if not isinstance(run_id, str):
        raise BadType(f"run_id must be a str, not {type(run_id).__name__}: {run_id!r}")
    return run_id.isascii() or storable(run_id) == run_id
