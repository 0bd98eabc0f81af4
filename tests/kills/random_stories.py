"""Random programs for a real engine, of steps, retries, sleeps, signals, gates and children in nested branches.

No two things happen at the same time unless one follows from the other: so what a race comes to, and with it every
result, is the same in every life, wherever the one before was cut off.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from pikkupy import Pikku, SignalTimeout, StepFailed, Workflow
from tests.kills.story import mark

Node = Callable[[Workflow], Awaitable[Any]]

LONGEST_US = 3_600_000_000  # of one wait
SIGNALS = 8  # of each name that are sent at most, and times at which gates are opened
ALL_KINDS = (
    "step", "retried", "sleep", "asyncio_sleep", "signal", "impatient", "gate", "child",
    "gather", "sequence", "timeout", "race", "cancelled_task",
)  # fmt: skip
BRANCHES = {"gather", "sequence", "timeout", "race", "cancelled_task"}


class Programs:
    """Builds a random program and what its caller does. The same seed builds the same ones."""

    def __init__(self, seed: int, kinds: tuple[str, ...] = ALL_KINDS) -> None:
        self.rng = random.Random(seed)
        self._kinds = kinds
        self._budget = self.rng.randint(3, 9)
        self.program = self.sequence(3)
        times = sorted(self._us() * 4 for _ in range(3 * SIGNALS))
        names = self.rng.sample(["s0", "s1", ""] * SIGNALS, 3 * SIGNALS)
        self.schedule = list(zip(times, names, strict=True))
        """When, in µs from the beginning, a signal of that name is sent; of none: when gates are opened."""

    def pikku(self) -> Pikku:
        """The application: `program` as `flow`, and the child runs that it starts."""
        pikku, program = Pikku(), self.program

        @pikku.workflow
        async def flow(workflow: Workflow) -> Any:
            return await program(workflow)

        @pikku.workflow
        async def child(workflow: Workflow, data: list[int]) -> Any:
            await workflow.sleep("nap", _span(data[0]))
            await workflow.do("work", mark(workflow, failures=data[1]), retries=1, retry_delay=_span(data[2]))
            if len(data) > 3:
                return await workflow.do("deeper", "child", data[3:])
            return data[0]

        return pikku

    def _us(self) -> int:
        return self.rng.randrange(1_000_000, LONGEST_US)

    def _node(self, depth: int) -> Node:
        self._budget -= 1
        deeper = depth > 0 and self._budget > 0 and self.rng.random() < 0.6
        kind = self.rng.choice([kind for kind in self._kinds if (kind in BRANCHES) == deeper])
        node: Node = getattr(self, kind)(depth - 1)
        return node

    def _some(self, depth: int) -> list[Node]:
        return [self._node(depth) for _ in range(self.rng.randint(2, 3))]

    # Leaves

    def step(self, depth: int) -> Node:
        name, value = f"step {self.rng.randint(0, 3)}", self.rng.randint(0, 99)
        return lambda workflow: workflow.do(name, mark(workflow, value))

    def retried(self, depth: int) -> Node:
        failures, wait = self.rng.randint(1, 3), _span(self._us())

        async def run(workflow: Workflow) -> Any:
            try:
                return await workflow.do("flaky", mark(workflow, 1, failures=failures), retries=2, retry_delay=wait)
            except StepFailed as failed:
                return failed.message

        return run

    def sleep(self, depth: int) -> Node:
        span = _span(self._us())
        return lambda workflow: workflow.sleep("nap", span)

    def asyncio_sleep(self, depth: int) -> Node:
        seconds = self._us() / 1e6
        return lambda workflow: asyncio.sleep(seconds, "slept")

    def signal(self, depth: int) -> Node:
        name = self.rng.choice(["s0", "s1"])
        return lambda workflow: workflow.wait_for_signal(name)

    def impatient(self, depth: int) -> Node:
        name, timeout = self.rng.choice(["s0", "s1"]), _span(self._us())

        async def run(workflow: Workflow) -> Any:
            try:
                return await workflow.wait_for_signal(name, timeout=timeout)
            except SignalTimeout as late:
                return str(late)

        return run

    def gate(self, depth: int) -> Node:
        return lambda workflow: workflow.suspend("gate")

    def child(self, depth: int) -> Node:
        data = [
            part for _ in range(self.rng.randint(1, 2)) for part in (self._us(), self.rng.randint(0, 2), self._us())
        ]
        timeout = self.rng.choice([None, _span(self._us())])

        async def run(workflow: Workflow) -> Any:
            try:
                return await workflow.do("part", "child", data, timeout=timeout)
            except StepFailed as failed:
                return failed.message

        return run

    # Branches

    def gather(self, depth: int) -> Node:
        nodes = self._some(depth)

        async def run(workflow: Workflow) -> Any:
            return await asyncio.gather(*(_run(node, workflow) for node in nodes))

        return run

    def sequence(self, depth: int) -> Node:
        nodes = self._some(depth)

        async def run(workflow: Workflow) -> Any:
            return [await node(workflow) for node in nodes]

        return run

    def timeout(self, depth: int) -> Node:
        node, seconds = self._node(depth), self._us() / 1e6

        async def run(workflow: Workflow) -> Any:
            try:
                async with asyncio.timeout(seconds):
                    return await node(workflow)
            except TimeoutError:
                return "dropped"

        return run

    def race(self, depth: int) -> Node:
        runners = [(self._us() / 1e6, node) for node in self._some(depth)]

        async def runner(workflow: Workflow, seconds: float, node: Node) -> Any:
            await asyncio.sleep(seconds)
            return await node(workflow)

        async def run(workflow: Workflow) -> Any:
            tasks = [asyncio.create_task(runner(workflow, *one)) for one in runners]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return [tasks.index(task) for task in done]

        return run

    def cancelled_task(self, depth: int) -> Node:
        node, seconds = self._node(depth), self._us() / 1e6

        async def run(workflow: Workflow) -> Any:
            task = asyncio.create_task(_run(node, workflow))
            await asyncio.sleep(seconds)
            task.cancel()
            (result,) = await asyncio.gather(task, return_exceptions=True)
            return "cancelled" if isinstance(result, BaseException) else result

        return run


async def _run(node: Node, workflow: Workflow) -> Any:
    return await node(workflow)


def _span(us: int) -> timedelta:
    return timedelta(microseconds=us)
