"""The workflows and functions of a simulation, and how its oracle watches them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import msgspec

from pikkupy.errors import NonRetryableError
from pikkupy.execution import Workflow
from pikkupy.pikku import Pikku
from pikkupy.services import Services, StepContext, current_step
from pikkupy.testing.simulation.code import Code
from pikkupy.testing.simulation.oracle import Cursor, Oracle
from pikkupy.testing.simulation.programs import SECOND, Do, Leaf, Node, interpret
from pikkupy.testing.simulation.threads import SimulatedThreads
from pikkupy.testing.simulation.values import VALUES


class Watched(Protocol):
    """The history that is watched."""

    oracle: Oracle
    code: Code
    life: int
    stubborn: set[asyncio.Task[Any]]  # bodies that do not stop when they are asked to

    @property
    def has_stopped(self) -> bool:
        """Whether the journal has failed."""
        ...

    def note(self, what: str) -> None:
        """Something has happened."""
        ...

    def watch(self, life: int, check: Any) -> None:
        """Check something, unless that life is over."""
        ...


def application(history: Watched, *, whole: bool) -> Pikku:
    """What an engine is opened with; if not `whole`, workflows are missing."""
    pikku = Pikku()

    async def program(workflow: Workflow, data: dict[str, Any]) -> Any:
        return await _body(history, workflow, history.code.node(workflow.run_id, data))

    async def part(workflow: Workflow, data: dict[str, Any]) -> Any:
        node: Any = msgspec.convert(data, Node)
        return await _body(history, workflow, node)

    async def function(services: Services, data: dict[str, Any]) -> Any:  # noqa: ARG001
        return await _Observer(history).act(msgspec.convert(data, Do))

    def thread(services: Services, data: dict[str, Any]) -> Any:  # noqa: ARG001
        return _Observer(history).act_at_once(msgspec.convert(data, Do))

    if whole:
        pikku.workflow(program)
    pikku.workflow(part)
    pikku.function(function)
    pikku.function(thread)
    return pikku


async def _body(history: Watched, workflow: Workflow, node: Node) -> Any:
    observer = _Observer(history, history.oracle.begins_again(workflow.run_id))
    result = await interpret(node, workflow, observer)
    observer.returns(workflow.run_id, result)
    return result


class _Observer:
    """What the workflows and steps of one life tell, as long as it lasts."""

    def __init__(self, history: Watched, cursor: Cursor | None = None) -> None:
        self._history = history
        self._cursor = cursor  # of a workflow
        self._life = history.life
        self._own_sleeps = 0

    def _watch(self, check: Callable[..., object], *about: Any, **more: Any) -> None:
        self._history.watch(self._life, partial(check, *about, **more))

    def asks(self, position: int | None, node: Leaf) -> int:
        assert self._cursor is not None
        if position is None:
            self._own_sleeps += 1
            position = -self._own_sleeps
        self._watch(self._history.oracle.asks, self._cursor, position, node)
        return position

    def saw(self, run_id: str, position: int, node: Leaf, what: Any) -> None:
        remembers = self._history.code.remembers(run_id, self._life)
        assert self._cursor is not None
        self._watch(self._history.oracle.saw, self._cursor, position, node, repr(what), remembers=remembers)

    def returns(self, run_id: str, result: Any) -> None:
        self._watch(self._history.oracle.given.returns, run_id, repr(result))

    def cancels(self, run_id: str) -> None:
        self._watch(self._history.oracle.wants_cancelled, run_id)

    async def act(self, node: Do) -> Any:
        step = self._begins(node)
        try:
            if node.lasts_us:
                await asyncio.sleep(node.lasts_us / SECOND)
            if node.acts == "hang":
                await asyncio.sleep(1e6)
            if node.acts == "stubborn":
                self._history.stubborn.update(filter(None, [asyncio.current_task()]))
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1e6)
                self._watch(self._history.oracle.bodies.stops, step)
                await asyncio.sleep(2)
            return self._effect(node, step)
        finally:
            self._ends(step)

    def act_at_once(self, node: Do) -> Any:
        step = self._begins(node)
        SimulatedThreads.takes_us = node.lasts_us
        try:
            return self._effect(node, step)
        finally:
            self._ends(step)

    def _begins(self, node: Do) -> StepContext:
        history, step = self._history, current_step()
        assert step is not None
        self._watch(history.oracle.bodies.begins, node, step, self._life, stopped=history.has_stopped)
        if history.life == self._life:
            history.note(f"{step.run_id} {step.step_name} {step.attempt_count}")
        return step

    def _ends(self, step: StepContext) -> None:
        self._watch(self._history.oracle.bodies.ends, step, self._life)

    def _effect(self, node: Do, step: StepContext) -> Any:
        match node.acts:
            case "fail" if step.attempt_count <= node.failures:
                self._watch(self._history.oracle.bodies.failed, step)
                raise OSError(f"attempt {step.attempt_count}")
            case "final":
                self._watch(self._history.oracle.bodies.failed, step, final=True)
                raise NonRetryableError(f"attempt {step.attempt_count}")
            case "huge":
                return "x" * 200_000
            case "unfit":
                return object()
            case "exit":
                raise SystemExit(3)
        value = (step.attempt_count, VALUES[node.value % len(VALUES)])
        self._watch(self._history.oracle.bodies.made, step, repr(value))
        return value
