"""Random workflows as data, so that one can be written down, made smaller and run again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, Protocol

import msgspec

from pikkupy.errors import StepFailed
from pikkupy.execution import Workflow

SECOND = 1_000_000
LONGEST_US = 3_600 * SECOND  # of one wait
SIGNALS = ("s0", "s1")
APPROVALS = ("a0", "a1")


class Do(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A step. `acts` says what its body does each time."""

    name: str
    acts: str = "value"  # value, fail, hang, stubborn, huge, unfit, exit
    lasts_us: int = 0
    failures: int = 0  # of `fail`: attempts that fail before one succeeds
    retries: int = 0
    delay_us: int = 0
    timeout_us: int | None = None
    once: bool = False  # at_most_once
    rpc: bool = False  # of a registered function


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """A durable sleep, or asyncio's own."""

    us: int
    own: bool = False


class Wait(msgspec.Struct, frozen=True, tag=True):
    """For a signal or a decision."""

    name: str
    timeout_us: int | None = None
    approval: bool = False


class Gate(msgspec.Struct, frozen=True, tag=True):
    """`workflow.suspend`."""

    reason: str


class Child(msgspec.Struct, frozen=True, tag=True):
    """A child run with a program of its own."""

    name: str
    part: Node
    retries: int = 0
    timeout_us: int | None = None


class Sequence(msgspec.Struct, frozen=True, tag=True):
    """One part after another."""

    parts: list[Node]


class Gather(msgspec.Struct, frozen=True, tag=True):
    """All at once."""

    parts: list[Node]


class Race(msgspec.Struct, frozen=True, tag=True):
    """All at once; the first to end ends the others."""

    parts: list[Node]


class Within(msgspec.Struct, frozen=True, tag=True):
    """`asyncio.timeout`."""

    us: int
    part: Node


class Give(msgspec.Struct, frozen=True, tag=True):
    """The run ends itself: `cancel` or an error."""

    cancel: bool = False


Node = Do | Sleep | Wait | Gate | Child | Sequence | Gather | Race | Within | Give


class Observer(Protocol):
    """Whoever watches what workflows see and steps do."""

    def saw(self, run_id: str, what: Any) -> None:
        """The workflow has got this from an await."""
        ...

    def act(self, node: Do) -> Awaitable[Any]:
        """What the body of a step does."""
        ...


async def interpret(node: Node, workflow: Workflow, observer: Observer) -> Any:
    """Run the program as the body of a workflow."""
    match node:
        case Do() | Sleep() | Wait() | Gate() | Child():
            result = await _leaf(node, workflow, observer)
            observer.saw(workflow.run_id, [_name(node), result])
            return result
        case Sequence(parts):
            return [await interpret(part, workflow, observer) for part in parts]
        case Gather(parts):
            return list(await asyncio.gather(*(interpret(part, workflow, observer) for part in parts)))
        case Race(parts):
            tasks = [asyncio.create_task(interpret(part, workflow, observer)) for part in parts]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            return sorted(tasks.index(task) for task in done)
        case Within(us, part):
            try:
                async with asyncio.timeout(us / SECOND):
                    return await interpret(part, workflow, observer)
            except TimeoutError:
                return "too late"
        case Give(cancel):
            if cancel:
                workflow.cancel("by itself")
            raise ValueError("by itself")


async def _leaf(node: Do | Sleep | Wait | Gate | Child, workflow: Workflow, observer: Observer) -> Any:
    match node:
        case Do():
            options: dict[str, Any] = {"retries": node.retries, "at_most_once": node.once}
            if node.retries:
                options["retry_delay"] = _span(node.delay_us)
            if node.timeout_us is not None:
                options["timeout"] = _span(node.timeout_us)
            if node.rpc:
                return await _outcome(workflow.do(node.name, "act", msgspec.to_builtins(node), **options))
            return await _outcome(workflow.do(node.name, lambda: observer.act(node), **options))
        case Sleep(us, own):
            await (asyncio.sleep(us / SECOND) if own else workflow.sleep("nap", _span(us)))
            return None
        case Wait(name, timeout_us, approval):
            timeout = None if timeout_us is None else _span(timeout_us)
            if approval:
                return repr(await workflow.approval(name, int, timeout=timeout))
            return await _outcome(workflow.wait_for_signal(name, list[int], timeout=timeout))
        case Gate(reason):
            return await workflow.suspend(reason)
        case Child(name, part, retries, timeout_us):
            options = {"retries": retries}
            if timeout_us is not None:
                options["timeout"] = _span(timeout_us)
            return await _outcome(workflow.do(name, "program", msgspec.to_builtins(part), **options))


async def _outcome(awaitable: Any) -> Any:
    try:
        return await awaitable
    except StepFailed as failed:
        return f"failed: {failed.error_type} after {failed.attempts}" if failed.step_name else "failed"


def _name(node: Do | Sleep | Wait | Gate | Child) -> str:
    return getattr(node, "name", type(node).__name__)


def _span(us: int) -> timedelta:
    return timedelta(microseconds=us)


class Generator:
    """Draws programs."""

    def __init__(self, rng: random.Random, budget: int) -> None:
        self._rng = rng
        self._budget = budget
        self._depth = 0

    def program(self) -> Node:
        """A sequence of a few parts."""
        return Sequence([self._node(2) for _ in range(self._rng.randint(1, 4))])

    def _node(self, depth: int) -> Node:
        rng = self._rng
        self._budget -= 1
        if depth > 0 and self._budget > 0 and rng.random() < 0.35:
            parts = [self._node(depth - 1) for _ in range(rng.randint(2, 3))]
            match rng.randrange(5):
                case 0 | 1:
                    return Gather(parts)
                case 2:
                    return Race(parts)
                case 3:
                    return Within(self._us(), Sequence(parts))
                case _:
                    return Sequence(parts)
        match rng.randrange(24):
            case 0 | 1 | 2:
                return Sleep(self._us(), own=rng.random() < 0.3)
            case 3 | 4:
                return Wait(rng.choice(SIGNALS), self._us() if rng.random() < 0.5 else None)
            case 5:
                return Wait(rng.choice(APPROVALS), self._us() if rng.random() < 0.5 else None, approval=True)
            case 6 | 10:
                return Gate(rng.choice(("g0", "g1")))
            case 7 | 8 | 11 | 12 | 13 if depth > 0 and self._budget > 0:
                part = self._node(depth - 1)
                return Child(self._step_name(), part, rng.choice((0, 0, 1)), self._us() if rng.random() < 0.2 else None)
            case 9:
                return Give(cancel=rng.random() < 0.5) if rng.random() < 0.3 else self._do()
            case _:
                return self._do()

    def _do(self) -> Do:
        rng = self._rng
        acts = rng.choice(("value",) * 8 + ("fail",) * 5 + ("hang", "stubborn", "huge", "unfit", "exit"))
        retries = rng.choice((0, 0, 1, 2, 3))
        ends = acts not in ("hang", "stubborn")
        return Do(
            self._step_name(),
            acts,
            rng.choice((0, 0, 1_000, SECOND, 60 * SECOND)),
            rng.randint(1, 3),
            retries,
            rng.choice((0, 1_000, SECOND, 60 * SECOND)),
            None if ends and rng.random() < 0.8 else self._us(),
            rng.random() < 0.1,
            rng.random() < 0.4,
        )

    def _step_name(self) -> str:
        return self._rng.choice(("a", "b", "c", "d"))

    def _us(self) -> int:
        return self._rng.choice((0, 1_000, SECOND, 30 * SECOND, 600 * SECOND, LONGEST_US))
