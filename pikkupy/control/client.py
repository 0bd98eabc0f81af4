"""`Client`: an engine in another process, with the engine's methods."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar, overload

import msgspec
from msgspec import UNSET, Raw, structs

from pikkupy.clock import SystemClock
from pikkupy.codec import Outside
from pikkupy.control import messages, places
from pikkupy.control.line import Gone, Lines
from pikkupy.control.messages import AnyCall, values
from pikkupy.control.seeing import NotHere, chunk_of, run_of, step_of
from pikkupy.core.model import RunStatus
from pikkupy.durations import Duration, microseconds
from pikkupy.engine import Attempt, Chunk, Event, Load, Page, Run, RunHandle, Step, StepPage, WorkflowInfo
from pikkupy.engine.asking import types_of
from pikkupy.engine.ids import Ids
from pikkupy.engine.tags import checked_tags
from pikkupy.errors import BadType, BadValue, EngineClosed, EventsLost
from pikkupy.mounting import Mount, Mounted
from pikkupy.registry import Registry, WorkflowFunction

In = TypeVar("In")
Out = TypeVar("Out")
Sent = TypeVar("Sent")
Shows = TypeVar("Shows", bound=messages.Show)


class Way(Protocol):
    """How calls reach the engine."""

    async def ask(self, call: AnyCall) -> Raw:
        """What the engine's method has returned. Raises what it has raised, or `Gone`."""
        ...

    def answers(self, call: AnyCall) -> AsyncGenerator[messages.Item | messages.Value, None]:
        """The items of the answer, and its value. Raises as `ask` does."""
        ...


class Client(Mounted):
    """The engine that owns a file, from another process of the same user. Made by `Pikku.connect`; use `async with`.

    Its methods are the engine's, and raise what the engine raises. Values have the types of the workflows that the
    client's own `Pikku` knows, else those that were recorded; one of a class that is not here is plain JSON, as the
    engine would take it. If the engine goes away, calls that can be asked again (`start`, `result`, everything that
    only reads) are, as soon as there is another one; any other raises `EngineClosed`, which says that it may have been
    carried out. `EngineClosed`, too, if no engine comes in time, and `JournalLocked` if one holds the file and does not
    answer.
    """

    def __init__(
        self, path: str | os.PathLike[str], registry: Registry, wait: Duration, mount: Mount | None = None
    ) -> None:
        self._path = os.fspath(path)
        if "\0" in self._path or not self._path:
            raise BadValue(f"{path!r} is not a usable path")
        self._registry = registry
        self._mount = mount
        self._ids = Ids(os.urandom)
        self._now_us = SystemClock().now_us
        self._lines = Lines(self._path, places.real_path(self._path), microseconds(wait) / 1e6)
        self._way: Way = self._lines
        self._plain = False  # whether values that hold classes are to come in plain JSON as well

    async def __aenter__(self) -> Client:
        self._registry.resolve()
        self._lines.begin()
        await self._lines.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._lines.close()

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
        """As `Engine.start`. The workflow may be one that only the engine's process knows: give its name then."""
        name, annotation = self._asked_for(workflow)
        call = messages.Start(
            workflow=name,
            run_id=self._ids.uuid7(self._now_us()) if run_id is None else run_id,  # so that it can be asked again
            data=_sent(data, annotation, "input of workflow", name),
            tags=_tags(tags),
            at=at,
            delay_us=None if delay is None else microseconds(delay),
            outside=isinstance(data, Outside),
        )
        return RunHandle(self, await self._ask(call, str, again=True))

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
    async def run(self, workflow: Any, data: Any = None, **options: Any) -> Any:
        """`start` and wait for the result."""
        handle = await self.start(workflow, data, **options)
        return await handle.result()

    async def handle(self, run_id: str) -> RunHandle[Any]:
        """As `Engine.handle`."""
        await self.get_run(run_id)
        return RunHandle(self, run_id)

    # Asking

    async def get_run(self, run_id: str) -> Run:
        """As `Engine.get_run`."""

        async def ask(call: messages.GetRun) -> Run:
            return self._run(await self._ask(call, messages.SentRun, again=True), call.plain)

        return await self._seen(messages.GetRun(run_id), ask)

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
        """As `Engine.list_runs`."""
        call = messages.ListRuns(
            workflow=workflow.name if isinstance(workflow, WorkflowFunction) else workflow,
            status=_texts(status),
            tags=_tags(tags),
            id_prefix=id_prefix,
            error=error,
            text=text,
            created_after=created_after,
            created_before=created_before,
            limit=limit,
            cursor=cursor,
            values=values,
        )

        async def ask(call: messages.ListRuns) -> Page:
            see = partial(self._run, final=call.plain)
            runs, next_cursor = await self._all(call, messages.SentRun, see, str | None)
            return Page(runs=tuple(runs), next_cursor=next_cursor)

        return await self._seen(call, ask)

    async def counts(self) -> dict[str, dict[RunStatus, int]]:
        """As `Engine.counts`."""
        counts: dict[str, dict[RunStatus, int]] = await self._ask(messages.Counts(), messages.SentCounts, again=True)
        return counts

    async def ready(self) -> None:
        """Return if there is an engine that answers; raises as every call does."""
        await self.list_runs(limit=1, values=False)

    async def load(self) -> Load:
        """As `Engine.load`."""
        load: Load = await self._ask(messages.GetLoad(), Load, again=True)
        return load

    async def has_input(self, run_id: str, data: Any) -> bool:
        """As `Engine.has_input`."""
        sent = _sent(data, Any, "input of run", run_id)
        found: bool = await self._ask(messages.HasInput(run_id, sent), bool, again=True)
        return found

    async def workflows(self) -> list[WorkflowInfo]:
        """As `Engine.workflows`."""
        found: list[WorkflowInfo] = await self._ask(messages.Workflows(), list[WorkflowInfo], again=True)
        return found

    async def steps(self, run_id: str) -> list[Step]:
        """As `Engine.steps`."""

        async def ask(call: messages.Steps) -> list[Step]:
            steps, _ = await self._all(call, messages.SentStep, partial(step_of, final=call.plain))
            return steps

        return await self._seen(messages.Steps(run_id), ask)

    async def some_steps(self, run_id: str, *, first: int = 0, limit: int = 50, with_errors: bool = False) -> StepPage:
        """As `Engine.some_steps`."""
        call = messages.SomeSteps(run_id, first, limit, with_errors)

        async def ask(call: messages.SomeSteps) -> StepPage:
            see = partial(step_of, final=call.plain)
            steps, page = await self._all(call, messages.SentStep, see, StepPage)
            found: StepPage = structs.replace(page, steps=steps)
            return found

        return await self._seen(call, ask)

    async def some_events(self, run_id: str, *, after: int | None = None, limit: int = 200) -> list[Event]:
        """As `Engine.some_events`."""
        found: list[Event] = await self._ask(messages.SomeEvents(run_id, after, limit), list[Event], again=True)
        return found

    async def open_steps(self, run_ids: Iterable[str]) -> dict[str, list[Step]]:
        """As `Engine.open_steps`."""

        async def ask(call: messages.OpenSteps) -> dict[str, list[Step]]:
            def see(sent: messages.SentOpenSteps) -> tuple[str, list[Step]]:
                return sent.run_id, [step_of(step, call.plain) for step in sent.steps]

            found, _ = await self._all(call, messages.SentOpenSteps, see)
            return dict(found)

        return await self._seen(messages.OpenSteps(list(run_ids)), ask)

    async def history(self, run_id: str) -> list[Attempt]:
        """As `Engine.history`."""
        attempts, _ = await self._all(messages.History(run_id), Attempt, lambda attempt: attempt)
        return attempts

    def events(self, *, after: int | None = None) -> AsyncIterator[Event]:
        """As `Engine.events`, from when the engine has the question, which the first step of the iteration sends.

        Another engine knows nothing of what this one has told, or would have: `EventsLost` when it goes away.
        """
        return self._read(messages.Events(after), Event, lambda event: messages.Events(event.seq))

    def run_events(self, run_id: str, *, after: int | None = None) -> AsyncIterator[Event]:
        """As `Engine.run_events`, from one engine to the next."""
        return self._read(messages.RunEvents(run_id, after), Event, lambda event: messages.RunEvents(run_id, event.seq))

    def stream(
        self, run_id: str, *, after: int = -1, step: str | None = None, current: bool = False
    ) -> AsyncIterator[Chunk]:
        """As `Engine.stream`, from one engine to the next."""
        return self._chunks(messages.Stream(run_id, after, step, current))

    # Acting

    async def cancel(self, run_id: str, reason: str) -> None:
        """As `Engine.cancel`."""
        await self._ask(messages.Cancel(run_id, reason), None)

    async def signal(self, run_id: str, name: str, payload: Any = None) -> None:
        """As `Engine.signal`."""
        sent = _sent(payload, Any, "payload of signal", name)
        await self._ask(messages.Signal(run_id, name, sent, isinstance(payload, Outside)), None)

    async def approve(self, run_id: str, name: str, decision: Any, *, decided_by: str | None = None) -> None:
        """As `Engine.approve`."""
        await self._ask(messages.Approve(run_id, name, _sent(decision, Any, "decision", name), decided_by), None)

    async def approvals(self, run_id: str) -> dict[str, dict[str, Any]]:
        """As `Engine.approvals`."""
        found: dict[str, dict[str, Any]] = await self._ask(
            messages.Approvals(run_id), dict[str, dict[str, Any]], again=True
        )
        return found

    async def awaited_signals(self, run_id: str) -> dict[str, dict[str, Any]]:
        """As `Engine.awaited_signals`."""
        found: dict[str, dict[str, Any]] = await self._ask(
            messages.AwaitedSignals(run_id), dict[str, dict[str, Any]], again=True
        )
        return found

    async def resume(self, run_id: str, *, accept: Literal["new"] | None = None) -> None:
        """As `Engine.resume`."""
        await self._ask(messages.Resume(run_id, accept), None)

    async def retry(self, run_id: str) -> None:
        """As `Engine.retry`."""
        await self._ask(messages.Retry(run_id), None)

    async def fork(
        self,
        run_id: str,
        *,
        at: str,
        input: Any = UNSET,
        overrides: Mapping[str, Any] | None = None,
        new_run_id: str | None = None,
    ) -> RunHandle[Any]:
        """As `Engine.fork`."""
        given = {} if overrides is None else overrides
        if not (isinstance(given, Mapping) and all(isinstance(name, str) for name in given)):
            raise BadType(f"overrides={overrides!r}: use a mapping of names of steps to values, {{'step': value}}")
        call = messages.Fork(
            run_id,
            at,
            new_run_id,
            messages.NULL if input is UNSET else _sent(input, Any, "input of run", run_id),
            {name: _sent(value, Any, "override of step", name) for name, value in given.items()},
            has_data=input is not UNSET,
            outside=isinstance(input, Outside),
        )
        return RunHandle(self, await self._ask(call, str))

    async def delete_run(self, run_id: str) -> None:
        """As `Engine.delete_run`."""
        await self._ask(messages.DeleteRun(run_id), None)

    async def prune(
        self,
        *,
        older_than: Duration,
        statuses: Iterable[RunStatus | str] | None = None,
        keep: int = 0,
        progress: Callable[[int], object] | None = None,
    ) -> int:
        """As `Engine.prune`."""
        call = messages.Prune(microseconds(older_than), _texts(statuses), keep)
        try:
            async for answer in self._way.answers(call):
                gone = msgspec.json.decode(answer.value, type=int)
                if isinstance(answer, messages.Value):
                    return gone
                if progress is not None:
                    progress(gone)
        except Gone:
            raise _unknown(call) from None
        raise AssertionError("an answer ends with a value")

    # For handles

    async def _status(self, run_id: str) -> RunStatus:
        """What `RunHandle.status` returns or raises."""
        return (await self.get_run(run_id)).status

    async def _result(self, run_id: str, timeout: Duration | None) -> Any:
        """What `RunHandle.result` returns or raises."""
        call = messages.Result(run_id, None if timeout is None else microseconds(timeout))
        outcome = await self._ask(call, messages.Outcome, again=True)
        _, output_type = types_of(self._registry, outcome.workflow)
        return values.decode(bytes(outcome.output).decode(), output_type, what="output of run", name=run_id)

    # Inside

    async def _ask(self, call: AnyCall, kind: Any, *, again: bool = False) -> Any:
        """What the engine's method has returned; `again`: if the engine goes away the next one is asked the same."""
        while True:
            try:
                return msgspec.json.decode(await self._way.ask(call), type=kind)
            except Gone:
                if not again:
                    raise _unknown(call) from None

    async def _all(
        self, call: AnyCall, kind: type[Sent], see: Callable[[Sent], Out], end: Any = None
    ) -> tuple[list[Out], Any]:
        """What is seen of each item of the answer, as they come, and its value, of one engine."""
        while True:
            found, value = list[Out](), None
            try:
                async with aclosing(self._way.answers(call)) as answers:
                    async for answer in answers:
                        if isinstance(answer, messages.Item):
                            found.append(see(msgspec.json.decode(answer.value, type=kind)))
                        else:
                            value = msgspec.json.decode(answer.value, type=end)
            except Gone:
                continue
            return found, value

    async def _read(self, call: AnyCall, kind: type[Out], after: Callable[[Out], AnyCall]) -> AsyncGenerator[Out, None]:
        """The items of the answer as they come; from the next engine those that follow."""
        while True:
            try:
                async for answer in self._way.answers(call):
                    if isinstance(answer, messages.Value):
                        return
                    item = msgspec.json.decode(answer.value, type=kind)
                    call = after(item)
                    yield item
            except Gone:
                if isinstance(call, messages.Events) and call.after is None:
                    raise EventsLost(
                        "the engine went away before it had told of anything, and another one does not know what there "
                        "was; look at list_runs, and listen anew"
                    ) from None

    async def _chunks(self, call: messages.Stream) -> AsyncIterator[Chunk]:
        while True:
            call = structs.replace(call, plain=self._plain)
            async with aclosing(self._read(call, messages.SentChunk, partial(_after, call))) as sent:
                try:
                    async for one in sent:
                        chunk = chunk_of(one, call.plain)
                        call = _after(call, one)
                        yield chunk
                    return
                except NotHere:
                    self._plain = True

    async def _seen(self, call: Shows, ask: Callable[[Shows], Awaitable[Out]]) -> Out:
        """The answer as users see it: asked for again, with values in plain JSON too, if classes of it are not here.

        It is large then, so it is asked for so only by those who have met such a value.
        """
        try:
            return await ask(structs.replace(call, plain=self._plain))
        except NotHere:
            self._plain = True
            return await ask(structs.replace(call, plain=True))

    def _asked_for(self, workflow: Any) -> tuple[str, Any]:
        """Name and type of the input. Raises `WorkflowNotFound` for what is no workflow of this `Pikku`."""
        if isinstance(workflow, str):
            return workflow, types_of(self._registry, workflow)[0]
        found: WorkflowFunction[Any, Any] = self._registry.find_workflow(workflow)
        return found.name, found.data_type

    def _run(self, sent: messages.SentRun, final: bool) -> Run:
        return run_of(sent, types_of(self._registry, sent.workflow), final)


def _after(call: messages.Stream, chunk: messages.SentChunk) -> messages.Stream:
    return structs.replace(call, after=chunk.offset)


def _sent(value: Any, annotation: Any, what: str, name: str) -> Raw:
    if isinstance(value, Outside):
        value, annotation = value.value, Any  # it is for the engine to say what fits
    return messages.NULL if value is None else Raw(values.encode(value, annotation, what=what, name=name).encode())


def _tags(tags: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if tags is None else dict(checked_tags(tags))


def _texts(status: RunStatus | str | Iterable[RunStatus | str] | None) -> list[str] | None:
    if status is None or isinstance(status, str):
        return None if status is None else [status]
    return [str(one) for one in status]


def _unknown(call: AnyCall) -> EngineClosed:
    name, run_id = call.__struct_config__.tag, getattr(call, "run_id", None)
    if run_id is None:
        return EngineClosed(
            f"the engine went away before it had answered {name}: some of it may be done; call it again"
        )
    return EngineClosed(
        f"the engine went away before it had answered {name} of run {run_id!r}: it may be on disk, or not; look at the "
        "run, and call again if it is not"
    )
