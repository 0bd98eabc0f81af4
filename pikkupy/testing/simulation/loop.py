"""An event loop in virtual time: nothing waits, and one seed decides how long everything takes.

What is ready runs in the order that asyncio promises. When nothing is ready the time jumps to the next timer; when
there is none either, everybody waits for something that cannot come any more, which is an error.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Mapping
from typing import Any

MOST_TURNS = 200_000  # of the loop in one life, which takes a hundred or so: it never comes to rest


class Stuck(Exception):
    """Nothing is ready, and no timer is set; or something is, again and again."""


class Crash(KeyboardInterrupt):
    """The process dies here. A `KeyboardInterrupt`, because these alone leave an event loop at once."""


class SimulatedLoop(asyncio.SelectorEventLoop):
    """`now_s` is its time, from `begin_s` on. What takes time asks `lasts`."""

    def __init__(self, begin_s: float, rng: random.Random) -> None:
        self.now_s = begin_s
        self.rng = rng
        self.tasks: list[asyncio.Task[Any]] = []  # that were ever made on it
        super().__init__(_NoSelector(self))
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self.now_s

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """As ever; the task is kept."""
        task = super().create_task(coro, **options)
        self.tasks.append(task)
        return task

    def lasts(self, mean_s: float) -> float:
        """How long something takes that takes so long on average."""
        return self.rng.expovariate(1.0 / mean_s)

    def _make_self_pipe(self) -> None:
        """No thread and no signal wakes this loop."""
        self._csock = self._ssock = None

    def _close_self_pipe(self) -> None:
        """See `_make_self_pipe`."""

    def _write_to_self(self) -> None:
        """See `_make_self_pipe`."""


class _NoSelector(selectors.BaseSelector):
    """Waiting is letting the time pass."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self._turns = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:  # noqa: ARG002
        raise RuntimeError("a simulation does no input or output")

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._turns += 1
        if timeout is None:
            raise Stuck("nothing is ready, and no timer is set")
        if self._turns > MOST_TURNS:
            raise Stuck("the loop does not come to rest")
        if timeout > 0:
            self._loop.now_s += timeout
        return []
