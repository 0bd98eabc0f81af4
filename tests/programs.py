"""Random workflow programs, and a driver that runs one without an engine, in any order of completions.

A program is a tree of nested asyncio constructs around durable calls. `Life` plays the engine: it picks what happens
next from a seed and keeps the rows that a journal would hold.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import copy_context
from typing import Any

from pikkupy import StepFailed
from pikkupy.core.commands import Commands, End, StepCall
from pikkupy.core.history import Event
from pikkupy.core.model import ErrorInfo, Recorded, RunRow, RunStatus, StepKind, StepRow, StepStatus, TimerRow
from pikkupy.execution import Execution, Workflow
from pikkupy.log import logger
from pikkupy.registry import Registry

START_US = 1_900_000_000_000_000


class PlainValues:
    """JSON as it comes: the programs use numbers and lists only."""

    def encode(self, value: object, annotation: Any = Any, *, what: str, name: str | None = None) -> str:
        return json.dumps(value)

    def decode(self, text: str, annotation: Any = Any, *, what: str, name: str | None = None) -> Any:
        return json.loads(text)


Trace = list[Any]
Node = Callable[[Workflow, Trace], Coroutine[Any, Any, Any]]


class Maker:
    """Builds a random program. The same seed builds the same program."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kinds: set[str] = set()
        self._budget = self.rng.randint(3, 14)

    def program(self) -> Node:
        """A sequence of blocks."""
        blocks = [self.block(3) for _ in range(self.rng.randint(1, 3))]

        async def run(workflow: Workflow, trace: Trace) -> Any:
            return [await block(workflow, trace) for block in blocks]

        return run

    def block(self, depth: int) -> Node:
        """One construct, around others while there is depth and budget left."""
        self._budget -= 1
        leaves = [self.step, self.sleep, self.asyncio_sleep]
        branches = [
            self.gather, self.task_group, self.wait, self.as_completed, self.timeout, self.wait_for, self.queue,
            self.lock, self.event, self.caught, self.cancelled_task, self.shielded, self.gather_errors, self.loop,
            self.bare_gather,
        ]  # fmt: skip
        make = self.rng.choice(branches if depth and self._budget > 0 and self.rng.random() < 0.75 else leaves)
        self.kinds.add(make.__name__)
        return make(depth - 1)

    def some(self, depth: int, low: int = 2, high: int = 3) -> list[Node]:
        return [self.block(depth) for _ in range(self.rng.randint(low, high))]

    def step(self, depth: int) -> Node:
        name = f"s{self.rng.randint(0, 5)}"

        async def run(workflow: Workflow, trace: Trace) -> Any:
            value = await workflow.do(name, lambda: None)
            trace.append((name, value, workflow.now().timestamp()))
            return value

        return run

    def sleep(self, depth: int) -> Node:
        ms = self.rng.randint(0, 50)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            await workflow.sleep("nap", ms)
            trace.append("napped")
            return "nap"

        return run

    def asyncio_sleep(self, depth: int) -> Node:
        s = self.rng.choice([0, 0.001, 0.02, 0.04])

        async def run(workflow: Workflow, trace: Trace) -> Any:
            await asyncio.sleep(s)
            trace.append(("slept", s))
            return s

        return run

    def gather(self, depth: int) -> Node:
        nodes = self.some(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            return await asyncio.gather(*(node(workflow, trace) for node in nodes))

        return run

    def bare_gather(self, depth: int) -> Node:
        names = [f"g{i}" for i in range(self.rng.randint(2, 4))]

        async def run(workflow: Workflow, trace: Trace) -> Any:
            return await asyncio.gather(*(workflow.do(name, lambda: None) for name in names))

        return run

    def gather_errors(self, depth: int) -> Node:
        nodes = self.some(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            results = await asyncio.gather(*(node(workflow, trace) for node in nodes), return_exceptions=True)
            return [plain(result) for result in results]

        return run

    def task_group(self, depth: int) -> Node:
        nodes = self.some(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(node(workflow, trace)) for node in nodes]
            except ExceptionGroup as failed:
                trace.append(("group failed", len(failed.exceptions)))
                return "failed"
            return [task.result() for task in tasks]

        return run

    def wait(self, depth: int) -> Node:
        nodes = self.some(depth)
        when = self.rng.choice([asyncio.FIRST_COMPLETED, asyncio.FIRST_EXCEPTION, asyncio.ALL_COMPLETED])
        timeout = self.rng.choice([None, 0.01])

        async def run(workflow: Workflow, trace: Trace) -> Any:
            tasks = [asyncio.create_task(node(workflow, trace)) for node in nodes]
            done, pending = await asyncio.wait(tasks, return_when=when, timeout=timeout)
            trace.append(("order", [tasks.index(task) for task in done], [tasks.index(task) for task in pending]))
            for task in pending:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            return [plain(result) for result in results]

        return run

    def as_completed(self, depth: int) -> Node:
        nodes = self.some(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            tasks = [asyncio.create_task(node(workflow, trace)) for node in nodes]
            results = []
            for done in asyncio.as_completed(tasks):
                try:
                    results.append(plain(await done))
                except (StepFailed, TimeoutError) as error:
                    results.append(plain(error))
            return results

        return run

    def timeout(self, depth: int) -> Node:
        node, s = self.block(depth), self.rng.choice([0, 0.001, 0.02, 0.03, 1])

        async def run(workflow: Workflow, trace: Trace) -> Any:
            try:
                async with asyncio.timeout(s):
                    return await node(workflow, trace)
            except TimeoutError:
                trace.append("timed out")
                return "late"

        return run

    def wait_for(self, depth: int) -> Node:
        node, s = self.block(depth), self.rng.choice([0.005, 0.02, 1])

        async def run(workflow: Workflow, trace: Trace) -> Any:
            try:
                return await asyncio.wait_for(node(workflow, trace), s)
            except TimeoutError:
                return "waited enough"

        return run

    def queue(self, depth: int) -> Node:
        nodes = self.some(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            queue: asyncio.Queue[Any] = asyncio.Queue(1)

            async def put(node: Node) -> None:
                await queue.put(await node(workflow, trace))

            tasks = [asyncio.create_task(put(node)) for node in nodes]
            got = []
            try:
                async with asyncio.timeout(0.5):
                    got = [await queue.get() for _ in nodes]
            except TimeoutError:
                trace.append("queue starved")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            return got

        return run

    def lock(self, depth: int) -> Node:
        nodes, places = self.some(depth), self.rng.randint(1, 2)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            lock = asyncio.Lock() if places == 1 else asyncio.Semaphore(places)

            async def one(number: int, node: Node) -> Any:
                async with lock:
                    trace.append(("entered", number))
                    return await node(workflow, trace)

            return await asyncio.gather(*(one(number, node) for number, node in enumerate(nodes)))

        return run

    def event(self, depth: int) -> Node:
        first, second = self.some(depth, 2, 2)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            event = asyncio.Event()

            async def setter() -> Any:
                try:
                    return await first(workflow, trace)
                finally:
                    event.set()

            async def waiter() -> Any:
                await event.wait()
                return await second(workflow, trace)

            return await asyncio.gather(setter(), waiter())

        return run

    def caught(self, depth: int) -> Node:
        node, other = self.some(depth, 2, 2)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            try:
                return await node(workflow, trace)
            except Exception as error:
                trace.append(("caught", plain(error)))
                return await other(workflow, trace)
            finally:
                trace.append("finally")

        return run

    def cancelled_task(self, depth: int) -> Node:
        node, other = self.some(depth, 2, 2)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            task = asyncio.create_task(node(workflow, trace))
            value = await other(workflow, trace)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            return [value, plain(result)]

        return run

    def shielded(self, depth: int) -> Node:
        node = self.block(depth)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            task = asyncio.create_task(node(workflow, trace))
            try:
                async with asyncio.timeout(0.01):
                    return await asyncio.shield(task)
            except TimeoutError:
                trace.append("left it running")
                return await task

        return run

    def loop(self, depth: int) -> Node:
        node, times = self.block(depth), self.rng.randint(2, 3)

        async def run(workflow: Workflow, trace: Trace) -> Any:
            return [await node(workflow, trace) for _ in range(times)]

        return run


def plain(result: Any) -> Any:
    """Results and exceptions in a form that can be compared and encoded."""
    if isinstance(result, BaseException):
        return [type(result).__name__, str(result)]
    return result


class Life:
    """One life of a run: an execution, and what is recorded of it."""

    def __init__(self, program: Node, recorded: Recorded) -> None:
        self.trace: Trace = []
        self.recorded = recorded
        registry = Registry()
        flow = registry.workflow(name="program")(partial_workflow(program, self.trace))
        self.execution = Execution(flow, recorded, PlainValues(), nobody_intrudes)
        workflow = Workflow(self.execution, registry, None, lambda _: logger())
        self.calls: dict[int, StepCall] = {}
        self.timers: dict[int, int] = {}
        self.stopped: dict[int, StepCall] = {}  # steps that nobody waits for, whose outcome may come all the same
        self.dropped: dict[int, int] = {}  # cancelled timers, whose firing may be on its way to the disk
        self.end: End | None = None
        self.take(self.execution.begin(workflow, copy_context()))

    def take(self, commands: Commands) -> None:
        """Keep what is to be done."""
        self.end = commands.end
        self.calls.update({call.position: call for call in commands.calls})
        for position in commands.stopped:
            self.stopped[position] = self.calls.pop(position)
        for number in commands.dropped:
            if number in self.timers:
                self.dropped[number] = self.timers.pop(number)
        self.timers.update({armed.number: armed.due_us for armed in commands.armed})

    def deliver(self, event: Event) -> None:
        """Hand one outcome over."""
        match event:
            case StepRow():
                self.calls.pop(event.position, None)
                self.stopped.pop(event.position, None)
            case TimerRow():
                self.timers.pop(event.number, None)
                self.dropped.pop(event.number, None)
        self.take(self.execution.deliver(event))

    def asked(self) -> tuple[Any, ...]:
        """What the run waits for, in comparable form."""
        calls = tuple((c.position, c.name, c.kind) for c in sorted(self.calls.values(), key=lambda c: c.position))
        return calls, tuple(sorted(self.timers.items())), self.end


def nobody_intrudes(number: int, why: str) -> None:
    """Called when something outside of a program ends what it waits for."""
    raise AssertionError(why)


def partial_workflow(program: Node, trace: Trace) -> Callable[[Workflow], Awaitable[Any]]:
    async def flow(workflow: Workflow) -> Any:
        return await program(workflow, trace)

    return flow


class Chance:
    """Decides what happens next in a first life, and records it."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_us = START_US
        self.seq = 0

    def next(self, life: Life) -> Event | None:
        """One outcome of something the run waits for; None if it waits for nothing."""
        self.seq += 1
        self.now_us += self.rng.choice([0, 1, 500, 7_000])
        calls, timers = life.calls, life.timers
        if (life.stopped or life.dropped) and self.rng.random() < 0.2:
            calls, timers = life.stopped, life.dropped  # what comes too late to be seen is recorded all the same
        choices = sorted([*(("step", position) for position in calls), *(("timer", number) for number in timers)])
        if not choices:
            return None
        kind, number = self.rng.choice(choices)
        if kind == "timer":
            due_us = timers[number]
            self.now_us = max(self.now_us, due_us)
            return TimerRow(run=1, number=number, due_at=due_us, seq=self.seq, fired_at=self.now_us)
        return self.outcome(calls[number])

    def outcome(self, call: StepCall) -> StepRow:
        """How the step ends: with a value, or, one time in five, with an error."""
        ok = call.kind is StepKind.SLEEP or self.rng.random() < 0.8
        output = "null" if call.kind is StepKind.SLEEP else str(self.rng.randint(0, 9))
        error = None if ok else ErrorInfo("ValueError", f"bad {self.rng.randint(0, 9)}", "", ("Exception",))
        return StepRow(
            run=1,
            position=call.position,
            name=call.name,
            kind=call.kind,
            status=StepStatus.SUCCEEDED if ok else StepStatus.FAILED,
            attempts=1,
            seq=self.seq,
            output=output if ok else None,
            error=error,
            started_at=self.now_us,
            ended_at=self.now_us,
        )


RUN = RunRow(
    number=1, run_id="r", workflow="program", status=RunStatus.RUNNING, input="null", created_at=START_US,
    updated_at=START_US, starts_at=START_US,
)  # fmt: skip
