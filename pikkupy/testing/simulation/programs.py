"""Random workflows as data, so that one can be written down, made smaller and run again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Mapping
from datetime import timedelta
from typing import Any, Protocol

import msgspec
from msgspec import structs

from pikkupy.errors import StepFailed
from pikkupy.execution import Workflow

SECOND = 1_000_000
LONGEST_US = 3_600 * SECOND  # of one wait
SIGNALS = ("s0", "s1")
APPROVALS = ("a0", "a1")


class Do(msgspec.Struct, frozen=True, tag=True, omit_defaults=True):
    """A step. `acts` says what its body does each time."""

    name: str
    acts: str = "value"  # value, fail, final, hang, stubborn, huge, unfit, exit
    lasts_us: int = 0
    failures: int = 0  # of `fail`: attempts that fail before one succeeds
    retries: int = 0
    delay_us: int = 0
    timeout_us: int | None = None
    once: bool = False  # at_most_once
    by: str = "inline"  # inline, function, thread
    value: int = 0  # which of `VALUES` it returns


class Sleep(msgspec.Struct, frozen=True, tag=True):
    """A durable sleep, or asyncio's own."""

    us: int
    own: bool = False


class Wait(msgspec.Struct, frozen=True, tag=True):
    """For a signal or a decision."""

    name: str
    timeout_us: int | None = None
    approval: bool = False

    @property
    def us(self) -> int | None:
        """How long it lasts at most."""
        return self.timeout_us


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
Leaf = Do | Sleep | Wait | Gate | Child


class Observer(Protocol):
    """Whoever watches what workflows see and steps do."""

    def asks(self, position: int | None, node: Leaf) -> int:
        """The workflow asks for something; `position` of the step, None if it is none: then it gets a negative one."""
        ...

    def saw(self, run_id: str, position: int, node: Leaf, what: Any) -> None:
        """The workflow has got this from an await."""
        ...

    def act(self, node: Do) -> Awaitable[Any]:
        """What the body of a step does."""
        ...

    def cancels(self, run_id: str) -> None:
        """The workflow is about to cancel its own run."""
        ...


async def interpret(node: Node, workflow: Workflow, observer: Observer) -> Any:
    """Run the program as the body of a workflow."""
    match node:
        case Do() | Sleep() | Wait() | Gate() | Child():
            return await _leaf(node, workflow, observer)
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
                observer.cancels(workflow.run_id)
                workflow.cancel("by itself")
            raise ValueError("by itself")


async def _leaf(node: Leaf, workflow: Workflow, observer: Observer) -> Any:
    run_id = workflow.run_id
    awaitable = _asked(node, workflow, observer)
    call = getattr(awaitable, "call", None)  # what it returns is a step, except of asyncio's own sleep
    position = None if call is None else call.position
    position = observer.asks(position, node)
    try:
        result = await awaitable
    except StepFailed as failed:
        result = f"failed: {failed}" if failed.step_name else "failed"
    observer.saw(run_id, position, node, result)
    return repr(result)


def _asked(node: Leaf, workflow: Workflow, observer: Observer) -> Awaitable[Any]:
    match node:
        case Do():
            options: dict[str, Any] = {"retries": node.retries, "at_most_once": node.once, **_timeout(node.timeout_us)}
            if node.retries:
                options["retry_delay"] = _span(node.delay_us)
            if node.by == "inline":
                return workflow.do(node.name, lambda: observer.act(node), **options)
            return workflow.do(node.name, node.by, msgspec.to_builtins(node), **options)
        case Sleep(us, own):
            return asyncio.sleep(us / SECOND) if own else workflow.sleep("nap", _span(us))
        case Wait(name, timeout_us, approval):
            timeout = None if timeout_us is None else _span(timeout_us)
            if approval:
                return workflow.approval(name, int, timeout=timeout)
            return workflow.wait_for_signal(name, list[int], timeout=timeout)
        case Gate(reason):
            return workflow.suspend(reason)
        case Child(name, part, retries, timeout_us):
            return workflow.do(name, "part", msgspec.to_builtins(part), retries=retries, **_timeout(timeout_us))


def _timeout(us: int | None) -> dict[str, Any]:
    return {} if us is None else {"timeout": _span(us)}


def _span(us: int) -> timedelta:
    return timedelta(microseconds=us)


def changed(node: Node, change: str, place: int) -> Node:
    """The program as it is after its code was changed at one of its first parts."""
    parts: list[Node] = list(node.parts) if isinstance(node, Sequence) else [node]
    if not parts:  # the last one was removed before
        return Sequence([Do("new")])
    place %= len(parts)
    match change:
        case "append":
            parts.append(Do("new"))
        case "insert":
            parts.insert(place, Do("new"))
        case "rename":
            part = parts[place]
            parts[place] = structs.replace(part, name=f"{part.name}2") if isinstance(part, Do | Child) else Do("new")
        case "remove":
            del parts[place]
        case _:
            parts[place - 1], parts[place] = parts[place], parts[place - 1]
    return Sequence(parts)


STYLES: Mapping[str, Mapping[str, int]] = {
    "mixed": {"do": 12, "sleep": 3, "wait": 3, "gate": 2, "child": 5, "give": 1},
    "families": {"do": 3, "sleep": 4, "wait": 3, "gate": 2, "child": 12, "give": 1},
    "waits": {"do": 3, "sleep": 5, "wait": 6, "gate": 3, "child": 3, "give": 1},
    "work": {"do": 20, "sleep": 1, "wait": 1, "gate": 1, "child": 1, "give": 0},
}
"""How often a program has each kind of part: histories differ in what they are made of."""


class Generator:
    """Draws programs."""

    def __init__(self, rng: random.Random, budget: int, style: str) -> None:
        self._rng = rng
        self._budget = budget
        self._kinds, self._weights = zip(*STYLES[style].items(), strict=True)

    def program(self) -> Node:
        """A sequence of a few parts."""
        return Sequence([self._node(3) for _ in range(self._rng.randint(1, 5))])

    def _node(self, depth: int) -> Node:
        rng = self._rng
        self._budget -= 1
        if depth > 0 and self._budget > 0 and rng.random() < 0.35:
            return self._block([self._node(depth - 1) for _ in range(rng.randint(2, 3))])
        [kind] = rng.choices(self._kinds, self._weights)
        match kind:
            case "sleep":
                return Sleep(self._us(), own=rng.random() < 0.3)
            case "wait":
                approval = rng.random() < 0.3
                name = rng.choice(APPROVALS if approval else SIGNALS)
                return Wait(name, self._us() if rng.random() < 0.5 else None, approval)
            case "gate":
                return Gate(rng.choice(("g0", "g1")))
            case "child" if depth > 0 and self._budget > 0:
                timeout_us = self._us() if rng.random() < 0.35 else None
                return Child(self._step_name(), self._node(depth - 1), rng.choice((0, 0, 1)), timeout_us)
            case "give":
                return Give(cancel=rng.random() < 0.5)
            case _:
                return self._do()

    def _block(self, parts: list[Node]) -> Node:
        match self._rng.randrange(5):
            case 0 | 1:
                return Gather(parts)
            case 2:
                return Race(parts)
            case 3:
                return Within(self._us(), Sequence(parts))
            case _:
                return Sequence(parts)

    def _do(self) -> Do:
        rng = self._rng
        acts = rng.choice(("value",) * 8 + ("fail",) * 5 + ("hang", "stubborn", "huge", "unfit", "exit"))
        by = rng.choice(("inline", "inline", "function", "thread"))
        if by == "thread" and acts in ("hang", "stubborn"):
            by = "function"
        ends = acts not in ("hang", "stubborn")
        drawn = Do(
            self._step_name(),
            acts,
            rng.choice((0, 0, 1_000, SECOND, 60 * SECOND)),
            rng.randint(1, 3),
            rng.choice((0, 0, 1, 2, 3)),
            rng.choice((0, 1_000, SECOND, 60 * SECOND)),
            None if ends and rng.random() < 0.8 else self._us(),
            rng.random() < 0.1,
            by,
            rng.randrange(64),
        )
        # What was drawn already decides: another drawing would give every seed another history.
        return structs.replace(drawn, acts="final") if acts == "fail" and drawn.value % 8 == 7 else drawn

    def _step_name(self) -> str:
        return self._rng.choice(("a", "b", "c", "d"))

    def _us(self) -> int:
        return self._rng.choice((0, 1_000, SECOND, 30 * SECOND, 600 * SECOND, LONGEST_US))
