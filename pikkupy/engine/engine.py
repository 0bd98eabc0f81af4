"""The engine: the composition root. It wires the rooms together and is what applications talk to."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import copy_context
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from msgspec import UNSET

from pikkupy.clock import SystemClock
from pikkupy.codec import Outside
from pikkupy.config import Config
from pikkupy.core.clock import Clock
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import (
    Change,
    Recorded,
    RunDeleted,
    RunMove,
    RunRow,
    RunStatus,
    SignalRow,
)
from pikkupy.durations import Duration, microseconds
from pikkupy.engine import acting, asking, signals
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.events import EngineEvents, Event, Past, RunEvents
from pikkupy.engine.handle import RunHandle
from pikkupy.engine.host import Host, Surroundings, in_callback, open_host
from pikkupy.engine.missing import see_to_missing
from pikkupy.engine.parts import Parts, encoded_input
from pikkupy.engine.pruning import Pruning, Sweep, check_deletable
from pikkupy.engine.replaying import Code
from pikkupy.engine.residents import Residents
from pikkupy.engine.starts import Starts, terms_of
from pikkupy.engine.streams import Stream
from pikkupy.engine.views import Attempt, Chunk, Load, Page, Run, Slots, Step, StepPage, WorkflowInfo
from pikkupy.errors import (
    BadType,
    BadValue,
    EngineClosed,
    JournalError,
    PayloadError,
    PikkuError,
    RunCancelled,
    RunFailed,
    RunStateError,
    WorkflowMisuse,
)
from pikkupy.failures import safely, storable
from pikkupy.log import logger
from pikkupy.mounting import Mount, Mounted
from pikkupy.names import check_name, check_step_name
from pikkupy.payloads import check_readable
from pikkupy.registry import Registry, WorkflowFunction
from pikkupy.services import check_services
from pikkupy.store import Done
from pikkupy.timers import Timer

In = TypeVar("In")
Out = TypeVar("Out")


Beside = Callable[["Engine"], AbstractAsyncContextManager[None]]  # what is there as long as the engine is open


class Engine(Mounted):
    """One open journal and the runs in it. Made by `Pikku.open`; use it with `async with`.

    Entering opens the file, takes its lock and goes on with what is unfinished; it raises `JournalLocked`,
    `JournalFormatError`, `JournalError` or `RegistrationError`. Leaving lets running steps finish for
    `Config.shutdown_grace`, then interrupts them; every run stays resumable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        registry: Registry,
        services: object,
        clock: Clock | None,
        config: Config,
        surroundings: Surroundings | None = None,
        beside: Beside | None = None,
        mount: Mount | None = None,
    ) -> None:
        self._path = os.fspath(path)
        self._registry = registry
        self._services = services
        self._clock = SystemClock() if clock is None else clock
        self._config = config
        self._surroundings = Surroundings() if surroundings is None else surroundings
        self._beside = beside
        self._mount = mount
        self._served: AbstractAsyncContextManager[None] | None = None
        self._log = logger(redact=safely(config.redact))
        self._parts: Parts | None = None
        self._unusable: PikkuError = _not_open()
        self._has_failed = asyncio.Event()
        self._leaving = False

    # Opening and leaving

    async def __aenter__(self) -> Engine:
        if self._parts is not None:
            raise PikkuError("this engine is open already; call pikku.open(...) again for another one")
        check_services(self._services)
        self._registry.resolve()
        host = await open_host(
            self._path,
            self._registry,
            self._services,
            self._clock,
            self._config,
            self._log,
            self._journal_failed,
            self._surroundings,
        )
        self._unusable = _not_open()  # a failure of an earlier life is over: the file has decided
        self._has_failed.clear()
        self._leaving = False
        residents = Residents(host)
        host.moving = lambda: residents.busy
        self._parts = Parts(host, residents, Starts(host, residents))
        try:
            recovered = await residents.recover(clean=host.journal.clean)
            await see_to_missing(host, residents)
            await host.journal.commit([])  # what recovery has written is on disk: statuses are as they will be seen
            residents.waker.open()
            if self._beside is not None:
                self._served = self._beside(self)
                await self._served.__aenter__()
        except BaseException:
            await self._leave()
            raise
        self._log.info("engine_opened", path=self._path, recovered=recovered)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._leave()

    async def _leave(self) -> None:
        # Whoever cancels the leaving gets control back when the file is free, not before: the drain has its own limits.
        leaving = asyncio.ensure_future(self._drain_and_close())
        cancelled: asyncio.CancelledError | None = None
        while not leaving.done():
            try:
                await asyncio.shield(leaving)
            except asyncio.CancelledError as error_:
                cancelled = error_
        leaving.result()
        if cancelled is not None:
            raise cancelled

    async def _drain_and_close(self) -> None:
        if self._parts is None:
            return
        self._leaving = True
        host, residents, _ = self._parts
        if host.journal.is_copy:
            self._parts = None  # with all that belongs to the process that this one was forked from
            return
        host.stop_dispatching()
        await host.workers.close(microseconds(self._config.shutdown_grace) / 1e6)
        await host.journal.settle()  # or what is on its way into memory could wait for the disk for ever
        await residents.quiet()  # with what came too late to count, and is evidence
        await host.journal.settle()
        if isinstance(self._unusable, EngineClosed):
            self._unusable = EngineClosed("the engine was left; unfinished runs go on at the next open")
        self._parts = None
        await in_callback(host.loop, partial(residents.leave, self._unusable))
        if self._served is not None:  # as long as nobody else can own the file
            served, self._served = self._served, None
            await served.__aexit__(None, None, None)
        await host.close()
        self._log.info("engine_closed", path=self._path)

    def _journal_failed(self, failure: JournalError) -> None:
        """The journal has stopped: tell everybody who waits, and take the runs out of memory."""
        self._unusable = failure
        self._has_failed.set()
        self._log.error("journal_failed", path=self._path, error=str(failure))
        if self._parts is not None:
            self._parts.host.workers.drop()
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
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> Out: ...
    @overload
    async def run(
        self,
        workflow: WorkflowFunction[In, Out],
        data: In,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> Out: ...
    @overload
    async def run(
        self,
        workflow: str,
        data: Any = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> Any: ...
    async def run(
        self,
        workflow: Any,
        data: Any = None,
        *,
        run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
        at: datetime | None = None,
        delay: Duration | None = None,
    ) -> Any:
        """`start` and wait for the result. Raises as `start` and `RunHandle.result` do."""
        if run_id is not None:
            return await self._result(await self._started(workflow, data, run_id, tags, at, delay), None)
        # Nobody else can know the id: its end is all that there is to wait for.
        host, residents, starts = self._use()
        found = self._registry.find_workflow(workflow)
        terms = terms_of(host.now_us(), tags, at, delay)
        new_id = starts.begin(found, encoded_input(host, found, data), copy_context(), terms)
        end = residents.wait_for(new_id)
        try:
            return self._outcome(host, new_id, found.name, await end)
        finally:
            residents.wait_no_more(new_id, end)

    async def handle(self, run_id: str) -> RunHandle[Any]:
        """A handle for a run that was started earlier. Raises `RunNotFound`."""
        await self._use().row(run_id)
        return RunHandle(self, run_id)

    # Asking

    async def get_run(self, run_id: str) -> Run:
        """The run as it stands on disk. Raises `RunNotFound`."""
        return await asking.get_run(self._use().asked, run_id)

    async def list_runs(
        self,
        *,
        workflow: str | WorkflowFunction[Any, Any] | None = None,
        status: RunStatus | str | Iterable[RunStatus | str] | None = None,
        tags: Mapping[str, str] | None = None,
        id_prefix: str | None = None,
        error: str | None = None,
        text: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        cursor: str | None = None,
        values: bool = True,
    ) -> Page:
        """Runs, newest first: `limit` (1 to 500) of them, from `cursor` (a `Page.next_cursor`) on.

        Only those of which all that is given is true: of that workflow, in that status or one of several, with all of
        those tags, with an id that begins with `id_prefix`, with an error whose type or message contains `error` (upper
        and lower case differ), created at `created_after` or later and before `created_before` (aware `datetime`s).
        `text` finds what a person would look for: an id that begins so, or a text in a workflow's name or in an error.
        Runs that start meanwhile do not disturb the pages. Without `values`, input and output are `None`: to decode
        those of 500 runs of 40 kB each holds the event loop for 0.1 s. Raises `TypeError` or `ValueError` for an
        argument that there cannot be.
        """
        return await asking.list_runs(
            self._use().asked,
            workflow=workflow,
            status=status,
            tags=tags,
            id_prefix=id_prefix,
            error=error,
            text=text,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            values=values,
        )

    async def counts(self) -> dict[str, dict[RunStatus, int]]:
        """How many runs there are, by workflow and status; what there is none of is left out."""
        return await asking.counts(self._use().asked)

    async def ready(self) -> None:
        """Return if the engine is open and its file can be read; `EngineClosed` also while it is being left."""
        if self._leaving:
            raise EngineClosed("the engine is being left; unfinished runs go on at the next open")
        await self.list_runs(limit=1, values=False)

    async def load(self) -> Load:
        """What the engine does just now: its workers and their limits, and the runs in memory."""
        host, residents, _ = self._use()
        slots = host.workers.slots()
        waiting = host.journal.waiting
        return Load(
            workers={
                kind: Slots(running=running, waiting=waits, limit=limit)
                for kind, (running, waits, limit) in slots.items()
            },
            resident_runs=len(residents.active),
            resident_limit=self._config.resident_runs,
            waits_for_disk=None if waiting is None else str(waiting),
        )

    async def has_input(self, run_id: str, data: Any) -> bool:
        """True if a start of the run's workflow with `data` would record what is the input of the run.

        So a copy of an input that has been on its way as JSON is told from one that has lost something. Raises
        `RunNotFound`, and `WorkflowNotFound` if the workflow is not registered.
        """
        parts = self._use()
        run = await self._done(parts.row(run_id))
        workflow: WorkflowFunction[Any, Any] = self._registry.find_workflow(run.workflow)
        try:
            return encoded_input(parts.host, workflow, data) == run.input
        except PayloadError:
            return False

    async def workflows(self) -> list[WorkflowInfo]:
        """The workflows that can be started, by name, with JSON Schema of what they take and give."""
        self._use()
        return asking.workflows_of(self._registry)

    async def steps(self, run_id: str) -> list[Step]:
        """The steps of the run, in the order in which it reached them. Raises `RunNotFound`."""
        return await self._done(asking.steps(self._use().asked, run_id))

    async def some_steps(self, run_id: str, *, first: int = 0, limit: int = 50, with_errors: bool = False) -> StepPage:
        """Some steps of the run, however many it has: at most `limit` (1 to 500) from the number `first` (from 0) on.

        `with_errors`: only those whose last finished attempt has failed, as far as that is on disk; `first` counts
        these then. Raises `RunNotFound`, and `ValueError` for a number that there cannot be.
        """
        asked = self._use().asked
        return await self._done(asking.some_steps(asked, run_id, first=first, limit=limit, with_errors=with_errors))

    async def open_steps(self, run_ids: Iterable[str]) -> dict[str, list[Step]]:
        """Per run the steps that it has reached and that have no outcome: what it does, or waits for.

        A run without any is left out, as is an id that there is not.
        """
        return await self._done(asking.open_steps(self._use().asked, run_ids))

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """What happens to runs from now on, or after the event of that `seq`: to be read with `async for`.

        Raises `EventsLost` if what followed is not known any more: the last 10,000 events of this life of the engine
        are kept from the first call on. Raises `EngineClosed` when the engine is left. Steps that begin are told at
        once, everything else, gates too, when it is on disk; what happens beside a gate is told after it. `retry` is
        told as `resumed`, with that as its reason.
        """
        return EngineEvents(self._use().residents.events, after)

    def run_events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """What has happened to the run and what happens to it, until it has ended: to be read with `async for`.

        From its beginning, or after the event of that `seq`, in this life of the engine or in a later one. The end of a
        run that is retried is followed by more, for who reads on after it. Raises `RunNotFound`, and `EngineClosed`
        when the engine is left.
        """

        async def look(place: int, reached: int) -> Past:
            return await self._done(asking.past_of(self._use().asked, run_id, place, reached))

        def find() -> Awaitable[int]:
            return self._done(self._use().number(run_id))

        return RunEvents(self._use().residents.events, find, look, after)

    async def some_events(self, run_id: str, *, after: int | None = None, limit: int = 200) -> list[Event]:
        """What has happened to the run, oldest first: `limit` (1 to 500) events at most, as `run_events` gives them.

        From its beginning, or after the event of that `seq`. Raises `RunNotFound`, `TypeError` or `ValueError`.
        """
        return await self._done(asking.some_events(self._use().asked, run_id, after=after, limit=limit))

    async def history(self, run_id: str) -> list[Attempt]:
        """Every finished attempt of the run's steps, oldest first. Raises `RunNotFound`."""
        return await asking.history(self._use().asked, run_id)

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
        return Stream(self._use, run_id, after, step, current)

    # Acting

    async def cancel(self, run_id: str, reason: str) -> None:
        """End the run as `cancelled`. When this returns, no further step of it starts.

        Running async steps get `CancelledError`; what comes late is kept in `history` and changes nothing. Raises
        `RunNotFound`, `RunStateError` for a run that has ended, `TypeError` for a reason that is no text.
        """
        residents = self._use().residents
        if not isinstance(reason, str):
            raise BadType(f"cancel({run_id!r}, reason): the reason must be a str, not {type(reason).__name__}")
        number = await self._use().number(run_id)
        if await self._act(residents.cancel_by_number(number, storable(reason))) is None:
            raise RunStateError(
                f"run {run_id!r} is {(await self._use().row(run_id)).status}: it cannot be cancelled any more"
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
        outside = payload if isinstance(payload, Outside) else None
        given = payload if outside is None else outside.value
        text = host.values.encode(given, what="payload of signal", name=name)

        async def keep(recorded: Recorded) -> Change:
            if outside is not None:
                await acting.check_no_decision(self._use(), recorded, name)
            seq, now_us = recorded.last_seq + 1, host.now_us()
            return SignalRow(run=recorded.run.number, seq=seq, name=name, payload=text, sent_at=now_us)

        def act(run: ActiveRun, done: Done) -> None:
            if outside is not None:
                signals.check(run, name, outside)
            signals.send(run, name, text, done)

        await self._done(acting.tell(self._use(), run_id, act, keep))

    async def approve(self, run_id: str, name: str, decision: Any, *, decided_by: str | None = None) -> None:
        """Decide what the run waits for in `workflow.approval(name, ...)`. When this returns, it is on disk.

        Raises `PayloadError`, with the path, for a decision that is not of the type that the run asks for: it goes on
        waiting. Raises `RunStateError` if the run does not wait for it (any more), `RunNotFound`, `TypeError`.
        """
        check_step_name(name, "name of the approval")
        if decided_by is not None and not isinstance(decided_by, str):
            raise BadType(f"decided_by={decided_by!r}: use a str, or None")

        async def keep(recorded: Recorded) -> Change:
            raise RunStateError(
                f"run {run_id!r} is {recorded.run.status}, it does not wait for a decision {name!r}: "
                f"{recorded.run.reason or 'it has not begun'}"
            )

        def act(run: ActiveRun, done: Done) -> None:
            signals.decide(run, name, decision, decided_by, done)

        await self._done(acting.tell(self._use(), run_id, act, keep))

    async def approvals(self, run_id: str) -> dict[str, dict[str, Any]]:
        """What the run waits to be decided: JSON Schema of the decision, by the name of the approval.

        A run that waits in the file is read for that; one that is suspended waits for none. Raises `RunNotFound`.
        """
        return signals.decisions_of(await self._done(acting.waits_of(self._use(), run_id)))

    async def awaited_signals(self, run_id: str) -> dict[str, dict[str, Any]]:
        """The signals that the run waits for and that are no decisions: JSON Schema of the payload, by name.

        As `approvals`; of one that may be anything the schema says nothing.
        """
        return signals.awaited_by(await self._done(acting.waits_of(self._use(), run_id)))

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
        if accept not in (None, "new"):
            raise BadValue(f"accept={accept!r}: use 'new', or leave it out")
        await self._act(acting.resume(self._use(), run_id, accept=accept is not None))

    async def retry(self, run_id: str) -> None:
        """Let a failed run go on from its failed step: the one whose error left the workflow, with `retries` anew.

        Recorded successes stand. What the run came to because of the failure is kept in `history`, and has the outcome
        that it had where the code asks for it again. If no failed step was the cause, the body is replayed to where it
        failed. A failed child run that was the cause is retried, too, as the next attempt of its step. A child run that
        is retried by itself goes on whatever becomes of its parent, which does not wait for it any more; if that is
        retried later, it waits for it again, or has its result. Raises `RunNotFound`, `RunStateError` for a run that
        has not failed.
        """
        await self._act(acting.retry(self._use(), run_id))

    async def fork(
        self,
        run_id: str,
        *,
        at: str,
        input: Any = UNSET,
        overrides: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
    ) -> RunHandle[Any]:
        """A new run that shares the history of `run_id` before its step `at` (a name as in `Step.name`).

        Recorded outcomes of the steps that the run had reached before are taken over, and are not executed; what comes
        then is. Signals that had come before, and that no shared step has taken, come along. `input` replaces the run's
        input, `None` does, too; left out, it is the run's. `overrides` are values of shared steps, by name: of an
        approval the decision, `Decided(...)` or `Expired()`. `workflow.random()` and `uuid4()` give other values in the
        new run. Raises `RunNotFound`, `ValueError` for a step that there is not, `TypeError` for overrides that are no
        mapping, `PayloadError`, `WorkflowNotFound`, `RunConflict` for a `new_run_id` that is taken, but by the same
        fork: that is the run then.
        """
        if new_run_id is not None:
            check_name(new_run_id, "new_run_id")
        parts, given = self._use(), {} if overrides is None else overrides
        if not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
            raise BadType(f"overrides={overrides!r}: use a mapping of names of steps to values, {{'step': value}}")
        forking = acting.fork(parts, run_id, at=at, data=input, overrides=given, new_run_id=new_run_id)
        new_id = await self._act(forking)
        return RunHandle(self, new_id)

    async def delete_run(self, run_id: str) -> None:
        """Delete a run that has ended, with its steps, its history and its child runs.

        Raises `RunNotFound`; `RunStateError` if it has not ended, or its parent, or a run below it.
        """
        host = self._use().host
        row = await self._use().row(run_id)
        await check_deletable(host.journal, row)
        try:
            await host.journal.commit([RunDeleted(number=row.number)])
        except JournalError:
            # It has changed since it was looked at: that is said, or RunNotFound if somebody else was quicker.
            await check_deletable(host.journal, await self._use().row(run_id))
            raise
        await Sweep(host.journal).rest()

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
        runs go at a time, so that other writes get in between, and each as a whole, and what belongs to them after
        them; what a crash leaves goes with the next one. A run that the file refuses to delete is logged and stays.
        `progress` is called with the number of runs that are gone so far; what it raises ends the pruning.
        The file does not get smaller; the room in it is used again. Raises `DurationError`, `TypeError`, `ValueError`.
        """
        pruning = Pruning(older_than, statuses, keep, progress)
        return await self._done(pruning.run(self._use().host))

    # For `pikku check`

    def _code(self) -> Code:
        """What runs of other files can be replayed with. Nothing is opened for that."""
        return Code(self._registry, self._services, self._config.payload_codec)

    # For members

    async def _failure(self) -> PikkuError:
        """Return why the engine has stopped, when it has: it has to be left, and the file decides."""
        await self._has_failed.wait()
        return self._unusable

    # For handles

    async def _status(self, run_id: str) -> RunStatus:
        """What `RunHandle.status` returns or raises."""
        return (await self._use().row(run_id)).status

    async def _result(self, run_id: str, timeout: Duration | None) -> Any:
        """What `RunHandle.result` returns or raises."""
        host, residents, _ = self._use()
        limit_us = None if timeout is None else microseconds(timeout)
        end = residents.wait_for(run_id)  # before the look at the run, so that no end is missed
        timer = None
        try:
            active = residents.active.get(run_id)
            row = await self._use().row(run_id) if active is None else active.run
            if row.status in FINAL_RUNS:
                return self._outcome(host, run_id, row.workflow, row)
            if limit_us is not None:
                timer = _time_out(host, residents, end, row, limit_us)
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
        check_readable(end.output or "null")
        _, output_type = asking.types_of(host.registry, workflow)
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
    ) -> Awaitable[str]:
        """The id of a new run, or of the one that had been started with that id, once it is on disk."""
        host, _, starts = self._use()
        found: WorkflowFunction[Any, Any] = self._registry.find_workflow(workflow)
        if run_id is not None:
            check_name(run_id, "run_id")
        text, terms = encoded_input(host, found, data), terms_of(host.now_us(), tags, at, delay)
        if run_id is None:
            return starts.start_new(found, text, copy_context(), terms)
        return starts.start(found, text, run_id, copy_context(), terms)

    def _use(self) -> Parts:
        if self._parts is None or isinstance(self._unusable, JournalError):
            raise self._unusable
        if asyncio._get_running_loop() is not self._parts.host.loop:
            raise WorkflowMisuse(
                "the engine was called in a workflow body or on another event loop than its own; "
                "wrap the call in `await workflow.do(name, ...)`"
            )
        return self._parts

    async def _act(self, action: Coroutine[Any, Any, Out]) -> Out:
        """As `_done`, of an action that goes on to its end even if its caller is cancelled meanwhile."""
        return await self._done(self._use().residents.carry_out(action))

    async def _done(self, doing: Awaitable[Out]) -> Out:
        """The result of `doing`; if the engine was left or has stopped meanwhile, the error that says so."""
        try:
            return await doing
        except JournalError:
            self._use()
            raise


def _not_open() -> EngineClosed:
    return EngineClosed("the engine is not open: use `async with pikku.open(...) as engine:`")


def _time_out(
    host: Host, residents: Residents, end: asyncio.Future[RunMove], row: RunRow, limit_us: int
) -> Timer | None:
    """Let `end` raise a `TimeoutError` after `limit_us` that says how the run stands then; `row`: how it does now."""

    def error(found: RunRow | None) -> TimeoutError:
        how = residents.active.get(row.run_id) or found or row
        stands = "it goes on" if how.status is RunStatus.RUNNING else f"it is {how.status}"
        why = f": {how.reason}" if how.status is RunStatus.SUSPENDED and how.reason else ""
        return TimeoutError(f"run {row.run_id!r} has not ended within {limit_us / 1e6:g} s; {stands}{why}")

    def tell(found: RunRow | None) -> None:
        if not end.done():
            end.set_exception(error(found))

    def expire() -> None:
        if row.run_id in residents.active:
            tell(None)
        else:  # it may have been suspended meanwhile
            residents.ask_for(row.run_id, tell)

    if limit_us == 0:
        raise error(row)
    return host.timers.call_at(host.now_us() + limit_us, expire)
