"""Starting runs: one id is one run, however often and however concurrently it is started."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import Context
from datetime import datetime
from typing import Any

import msgspec
from msgspec import structs

from pikkupy.core.model import Change, RunRow, RunStatus, StepRow
from pikkupy.durations import Duration, named_microseconds
from pikkupy.engine.asking import can_be
from pikkupy.engine.host import Host
from pikkupy.engine.residents import Begun, Residents
from pikkupy.engine.tags import checked_tags, tags_text
from pikkupy.errors import BadType, JournalError, RunConflict
from pikkupy.moments import checked_us
from pikkupy.payloads import check_readable
from pikkupy.registry import WorkflowFunction
from pikkupy.store import resolve

Startable = WorkflowFunction[Any, Any]


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a start may say beside workflow, input and id. It does not belong to what makes two starts the same."""

    starts_at: int | None = None  # µs; None: at once
    tags: str | None = None  # as in `RunRow`


AT_ONCE = Terms()


def terms_of(now_us: int, tags: Mapping[str, str] | None, at: datetime | None, delay: Duration | None) -> Terms:
    """The terms that the arguments of `start` mean. Raises `BadType`, `BadValue` or `DurationError`."""
    if tags is None and at is None and delay is None:
        return AT_ONCE
    return Terms(_starts_at(now_us, at, delay), tags_text(checked_tags(tags)))


def _starts_at(now_us: int, at: datetime | None, delay: Duration | None) -> int | None:
    if at is None:
        return None if delay is None else now_us + named_microseconds("delay", delay)
    if delay is not None:
        raise BadType(f"at={at!r} and delay={delay!r}: use one of the two")
    return checked_us("at", at, now_us=now_us)


class Starts:
    """The starts of one engine that are on their way to the disk."""

    def __init__(self, host: Host, residents: Residents) -> None:
        self._host = host
        self._residents = residents
        self._pending: dict[str, _Pending] = {}
        self._begin_soon: list[_Pending] = []

    async def start(
        self, workflow: Startable, text: str, run_id: str, variables: Context, terms: Terms = AT_ONCE
    ) -> str:
        """Start a run with the encoded input `text`, or find the one of that id; its id, once it is on disk.

        Raises `RunConflict` if the id is taken by a run of another workflow or with another input.
        """
        if run_id not in self._pending:
            active = self._residents.active.get(run_id)
            existing = await self._host.journal.run(run_id) if active is None else active.run
            if existing is not None:
                _check_same(existing, workflow.name, text)
                return run_id
        pending = self._pending.get(run_id)  # looked up after the read: another start may have been quicker
        if pending is None:
            pending = self._submit(workflow, text, run_id, variables, terms, self._host.now_us())
        else:
            _check_same(pending.row, workflow.name, text)
        try:
            await pending.on_disk(self._host.loop)
        except JournalError:
            # The read above may be older, when its answer comes, than the commit of another start. The table knows.
            existing = None if self._host.journal.failure else await self._host.journal.run(run_id)
            if existing is None:
                raise
            _check_same(existing, workflow.name, text)
        return run_id

    def begin(self, workflow: Startable, text: str, variables: Context, terms: Terms = AT_ONCE) -> str:
        """The id of a new run on its way to the disk. Who waits for its end hears of it if it does not get there."""
        return self._new(workflow, text, variables, terms).row.run_id

    def start_new(
        self, workflow: Startable, text: str, variables: Context, terms: Terms = AT_ONCE
    ) -> asyncio.Future[str]:
        """Start a run under a new id, which the future has once it is on disk."""
        return self._new(workflow, text, variables, terms).on_disk(self._host.loop)

    def _new(self, workflow: Startable, text: str, variables: Context, terms: Terms) -> _Pending:
        now_us = self._host.now_us()
        return self._submit(workflow, text, self._host.ids.uuid7(now_us), variables, terms, now_us)

    async def settled(self, run_id: str) -> None:
        """Wait until a start of that id that is on its way is on disk. Raises `TypeError` for an id that is no text."""
        pending = self._pending.get(run_id) if can_be(run_id) else None
        if pending is not None:
            await pending.on_disk(self._host.loop)

    def _submit(
        self, workflow: Startable, text: str, run_id: str, variables: Context, terms: Terms, now_us: int
    ) -> _Pending:
        starts_at = max(now_us, terms.starts_at or now_us)
        row = RunRow(
            number=self._host.next_number(),
            run_id=run_id,
            workflow=workflow.name,
            status=RunStatus.RUNNING,
            input=text,
            created_at=now_us,
            updated_at=now_us,
            starts_at=starts_at,
            wakes_at=starts_at if starts_at > now_us else None,
            tags=terms.tags,
        )
        pending = self._pending[run_id] = _Pending(self, row, workflow, variables)
        if row.wakes_at is None and self._residents.is_full(len(self._pending)):
            if not self._begin_soon:
                self._host.loop.call_soon(self._begin_all)
            self._begin_soon.append(pending)
        else:
            self._host.journal.submit([row], pending)
        return pending

    def _begin_all(self) -> None:
        """With many runs in memory, new ones take their first turn before they are written.

        Most of what makes many runs is that they wait, and if they do so from the start, it is one write, and nothing
        of them comes into memory: two thirds of the time of two writes, with a run in memory in between.
        """
        pending, self._begin_soon = self._begin_soon, []
        for start in pending:
            try:
                changes = self._begun(start)
            except Exception as error:  # noqa: BLE001 - whoever waits for this start, or for those behind it, is told
                self._host.has_failed(error, f"run {start.row.run_id!r} could not begin")
                changes = [start.row]
            self._host.journal.submit(changes, start)

    def _begun(self, start: _Pending) -> list[Change]:
        if not self._host.dispatching:
            return [start.row]
        self._host.info("run_started", run_id=start.row.run_id, workflow=start.row.workflow)
        variables, start.variables = start.variables, None
        assert variables is not None  # this is its first turn
        begun = self._residents.begin(start.row, start.workflow, variables)
        waits = self._residents.waits_from_start(begun)
        if waits is None:
            start.begun = begun
            return [start.row]
        start.row = structs.replace(start.row, wakes_at=waits.until)
        start.waits = waits.steps
        return [start.row, *waits.steps]

    def is_on_disk(self, start: _Pending, error: Exception | None) -> None:
        """What became of a start is known."""
        row, residents = start.row, self._residents
        del self._pending[row.run_id]
        start.tell(error)
        if error is not None:
            residents.refuse(row.run_id, error)
            if start.begun is not None:
                start.begun.execution.tear_down()
        elif start.begun is not None:
            residents.go_on(start.begun)
        elif row.wakes_at is not None:
            residents.waits_in_file(row, start.waits)
        else:
            self._host.info("run_started", run_id=row.run_id, workflow=row.workflow)
            assert start.variables is not None  # it has not taken its first turn
            residents.start(row, start.workflow, start.variables)


class _Pending(msgspec.Struct, gc=False):
    """A start on its way to the disk, and those who wait for it. None of them can call it off.

    Nobody whom it refers to refers to it, so it is in no cycle. There are as many as starts in flight, and what the
    garbage collector keeps looking at meanwhile takes a tenth of the time of a start.
    """

    starts: Starts
    row: RunRow
    workflow: Startable
    variables: Context | None  # None once it has taken its first turn
    begun: Begun | None = None  # what that was
    waits: tuple[StepRow, ...] = ()  # what that was, if it only waits and has left memory
    first: asyncio.Future[str] | None = None
    others: list[asyncio.Future[str]] | None = None

    def __call__(self, error: Exception | None) -> None:
        """What the journal calls."""
        self.starts.is_on_disk(self, error)

    def on_disk(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[str]:
        """A future for one more who waits; it gets the run's id."""
        future: asyncio.Future[str] = loop.create_future()
        if self.first is None:
            self.first = future
        elif self.others is None:
            self.others = [future]
        else:
            self.others.append(future)
        return future

    def tell(self, error: Exception | None) -> None:
        """It is on disk, or will never be."""
        if self.first is not None:
            resolve(self.first, self.row.run_id, error)
        for future in self.others or ():
            resolve(future, self.row.run_id, error)


def _check_same(existing: RunRow, workflow: str, text: str) -> None:
    if existing.workflow != workflow:
        raise RunConflict(
            f"run {existing.run_id!r} exists and is of workflow {existing.workflow!r}, not {workflow!r}; "
            "give it another id"
        )
    check_readable(existing.input)
    if existing.input != text:
        raise RunConflict(
            f"run {existing.run_id!r} of workflow {workflow!r} exists with another input; "
            "give it another id, or the same input, which means the run that there is"
        )
