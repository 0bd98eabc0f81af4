"""What an open engine answers to the calls of clients, whether they come over a socket or from this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any

from msgspec import UNSET, Raw, structs

from pikkupy.codec import Outside
from pikkupy.control import messages
from pikkupy.control.messages import AnyCall, holds_classes, json_of, values
from pikkupy.engine import Chunk, Engine, Run, RunHandle, Step
from pikkupy.engine.asking import types_of
from pikkupy.errors import PayloadError
from pikkupy.plain import plain as plain_of
from pikkupy.registry import Registry, WorkflowFunction
from pikkupy.turns import Turns

Tell = Callable[[Raw], Awaitable[None]]  # sends one of many items


class Answerer:
    """Carries out calls. The engine says what is wrong with them, as it does to its own application."""

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._one: dict[type[Any], Callable[[Any], Awaitable[Raw]]] = {
            messages.Start: self._start,
            messages.Result: self._result,
            messages.GetRun: self._get_run,
            messages.Counts: self._counts,
            messages.GetLoad: self._load,
            messages.HasInput: self._has_input,
            messages.Workflows: self._workflows,
            messages.SomeEvents: self._some_events,
            messages.Cancel: self._cancel,
            messages.Signal: self._signal,
            messages.Approve: self._approve,
            messages.Approvals: self._approvals,
            messages.AwaitedSignals: self._awaited_signals,
            messages.Resume: self._resume,
            messages.Retry: self._retry,
            messages.Fork: self._fork,
            messages.DeleteRun: self._delete_run,
            messages.Stay: self._stay,
        }
        self._many: dict[type[Any], Callable[[Any, Tell], Awaitable[Raw]]] = {
            messages.ListRuns: self._list_runs,
            messages.Steps: self._steps,
            messages.SomeSteps: self._some_steps,
            messages.OpenSteps: self._open_steps,
            messages.History: self._history,
            messages.Events: self._events,
            messages.RunEvents: self._run_events,
            messages.Stream: self._stream,
            messages.Prune: self._prune,
        }

    def leave(self) -> None:
        """The engine is being left: those who wait for that are told."""
        if not self._left.done():
            self._left.set_result(None)

    async def answer(self, call: AnyCall, tell: Tell) -> Raw:
        """What the engine's method returns; `tell` is called with each of what there are many of."""
        one = self._one.get(type(call))
        return await self._many[type(call)](call, tell) if one is None else await one(call)

    # Starting

    async def _start(self, call: messages.Start) -> Raw:
        found: WorkflowFunction[Any, Any] = self._registry.find_workflow(call.workflow)
        data = _received(call.data, found.data_type, "input of workflow", found.name, outside=call.outside)
        handle: RunHandle[Any] = await self._engine.start(
            found,
            data,
            run_id=call.run_id,
            tags=call.tags,
            at=call.at,
            delay=_duration(call.delay_us),
        )
        return json_of(handle.id)

    async def _result(self, call: messages.Result) -> Raw:
        workflow = (await self._engine.get_run(call.run_id)).workflow
        handle = await self._engine.handle(call.run_id)
        output = await handle.result(_duration(call.timeout_us))
        return json_of(messages.Outcome(workflow, self._sent(output, types_of(self._registry, workflow)[1])))

    # Asking

    async def _get_run(self, call: messages.GetRun) -> Raw:
        return self._sent_run(await self._engine.get_run(call.run_id), plain=call.plain)

    async def _list_runs(self, call: messages.ListRuns, tell: Tell) -> Raw:
        which = structs.asdict(call)
        sent = partial(self._sent_run, plain=which.pop("plain"))
        page = await self._engine.list_runs(**which)
        await _each(page.runs, sent, tell)
        return json_of(page.next_cursor)

    async def _counts(self, _: messages.Counts) -> Raw:
        return json_of(await self._engine.counts())

    async def _steps(self, call: messages.Steps, tell: Tell) -> Raw:
        return await _each(await self._engine.steps(call.run_id), partial(self._sent_step, plain=call.plain), tell)

    async def _load(self, _: messages.GetLoad) -> Raw:
        return json_of(await self._engine.load())

    async def _has_input(self, call: messages.HasInput) -> Raw:
        run = await self._engine.get_run(call.run_id)
        found: WorkflowFunction[Any, Any] = self._registry.find_workflow(run.workflow)
        try:
            data = _received(call.data, found.data_type, "input of workflow", found.name)
        except PayloadError:
            return json_of(False)
        return json_of(await self._engine.has_input(call.run_id, data))

    async def _workflows(self, _: messages.Workflows) -> Raw:
        return json_of(await self._engine.workflows())

    async def _some_steps(self, call: messages.SomeSteps, tell: Tell) -> Raw:
        page = await self._engine.some_steps(
            call.run_id, first=call.first, limit=call.limit, with_errors=call.with_errors
        )
        await _each(page.steps, partial(self._sent_step, plain=call.plain), tell)
        return json_of(structs.replace(page, steps=[]))

    async def _some_events(self, call: messages.SomeEvents) -> Raw:
        return json_of(await self._engine.some_events(call.run_id, after=call.after, limit=call.limit))

    async def _open_steps(self, call: messages.OpenSteps, tell: Tell) -> Raw:
        found = await self._engine.open_steps(call.run_ids)

        def sent(run_id: str) -> Raw:
            steps = [self._sent_step(step, plain=call.plain) for step in found[run_id]]
            return json_of({"run_id": run_id, "steps": steps})

        return await _each(found, sent, tell)

    async def _history(self, call: messages.History, tell: Tell) -> Raw:
        return await _each(await self._engine.history(call.run_id), json_of, tell)

    async def _events(self, call: messages.Events, tell: Tell) -> Raw:
        return await _all(self._engine.events(after=call.after), json_of, tell)

    async def _run_events(self, call: messages.RunEvents, tell: Tell) -> Raw:
        return await _all(self._engine.run_events(call.run_id, after=call.after), json_of, tell)

    async def _stream(self, call: messages.Stream, tell: Tell) -> Raw:
        chunks = self._engine.stream(call.run_id, after=call.after, step=call.step, current=call.current)
        return await _all(chunks, partial(self._sent_chunk, plain=call.plain), tell)

    # Acting

    async def _cancel(self, call: messages.Cancel) -> Raw:
        await self._engine.cancel(call.run_id, call.reason)
        return messages.NULL

    async def _signal(self, call: messages.Signal) -> Raw:
        payload = _received(call.payload, Any, "payload of signal", call.name, outside=call.outside)
        await self._engine.signal(call.run_id, call.name, payload)
        return messages.NULL

    async def _approve(self, call: messages.Approve) -> Raw:
        decision = _received(call.decision, Any, "decision", call.name)
        await self._engine.approve(call.run_id, call.name, decision, decided_by=call.decided_by)
        return messages.NULL

    async def _approvals(self, call: messages.Approvals) -> Raw:
        return json_of(await self._engine.approvals(call.run_id))

    async def _awaited_signals(self, call: messages.AwaitedSignals) -> Raw:
        return json_of(await self._engine.awaited_signals(call.run_id))

    async def _resume(self, call: messages.Resume) -> Raw:
        await self._engine.resume(call.run_id, accept=call.accept)  # type: ignore[arg-type]  # it says what is wrong
        return messages.NULL

    async def _retry(self, call: messages.Retry) -> Raw:
        await self._engine.retry(call.run_id)
        return messages.NULL

    async def _fork(self, call: messages.Fork) -> Raw:
        data: Any = UNSET
        if call.has_data:
            data = _received(call.data, Any, "input of run", call.run_id, outside=call.outside)
        handle = await self._engine.fork(
            call.run_id,
            at=call.at,
            input=data,
            overrides={name: _received(text, Any, "override of step", name) for name, text in call.overrides.items()},
            new_run_id=call.new_run_id,
        )
        return json_of(handle.id)

    async def _delete_run(self, call: messages.DeleteRun) -> Raw:
        await self._engine.delete_run(call.run_id)
        return messages.NULL

    async def _prune(self, call: messages.Prune, tell: Tell) -> Raw:
        counts: asyncio.Queue[int | None] = asyncio.Queue()
        older_than = timedelta(microseconds=call.older_than_us)
        pruning = asyncio.ensure_future(
            self._engine.prune(
                older_than=older_than, statuses=call.statuses, keep=call.keep, progress=counts.put_nowait
            )
        )
        pruning.add_done_callback(lambda _: counts.put_nowait(None))
        try:
            while (gone := await counts.get()) is not None:
                await tell(json_of(gone))
            return json_of(await pruning)
        finally:
            pruning.cancel()

    async def _stay(self, _: messages.Stay) -> Raw:
        await asyncio.shield(self._left)
        return messages.NULL

    # Values

    def _sent(self, value: Any, annotation: Any) -> Raw:
        """As the journal holds it, or the plain form of what does not fit its type any more."""
        if value is None:
            return messages.NULL
        try:
            text = values.encode(value, annotation, what="value")
        except PayloadError:
            text = values.encode(value, what="value")
        return Raw(text.encode())

    def _sent_run(self, run: Run, *, plain: bool) -> Raw:
        given = structs.asdict(run)
        for name, annotation in zip(("input", "output"), types_of(self._registry, run.workflow), strict=True):
            given |= self._sent_field(name, given[name], annotation, plain=plain)
        return json_of(messages.SentRun(**given))

    def _sent_step(self, step: Step, *, plain: bool) -> Raw:
        given = structs.asdict(step)
        return json_of(messages.SentStep(**given | self._sent_field("output", step.output, Any, plain=plain)))

    def _sent_chunk(self, chunk: Chunk, *, plain: bool) -> Raw:
        given = structs.asdict(chunk)
        return json_of(messages.SentChunk(**given | self._sent_field("value", chunk.value, Any, plain=plain)))

    def _sent_field(self, name: str, value: Any, annotation: Any, *, plain: bool) -> dict[str, Any]:
        """With its plain form, if the client wants that and it says more."""
        sent = self._sent(value, annotation)
        return {name: sent, f"plain_{name}": (json_of(plain_of(value)),) if plain and holds_classes(sent) else ()}


async def _all(found: AsyncIterator[Any], sent: Callable[[Any], Raw], tell: Tell) -> Raw:
    async for one in found:
        await tell(sent(one))
    return messages.NULL


async def _each(found: Iterable[Any], sent: Callable[[Any], Raw], tell: Tell) -> Raw:
    """As `_all`, of what is there already: others on the loop have their turns meanwhile."""
    turns = Turns()
    for one in found:
        item = sent(one)
        await tell(item)
        await turns.after(len(memoryview(item)))
    return messages.NULL


def _received(text: Raw, annotation: Any, what: str, name: str, *, outside: bool = False) -> Any:
    data = bytes(text)
    annotation = Any if outside else annotation  # the engine says what fits
    value = None if data == b"null" else values.decode(data.decode(), annotation, what=what, name=name)
    return Outside(value) if outside else value


def _duration(us: int | None) -> timedelta | None:
    return None if us is None else timedelta(microseconds=us)
