"""Threads of a simulation: `def` functions run in the loop's own thread, and their results take a while."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, ClassVar

from pikkupy.testing.simulation.loop import SimulatedLoop
from pikkupy.workers.threads import Threads

MEAN_HANDOVER_S = 0.0005
_NEVER_STARTED = threading.Thread()  # to be asked for its stack, which it does not have


class SimulatedThreads(Threads[Any]):
    """What `Threads` is. A body is over as soon as it has begun; when its result comes is another matter."""

    takes_us: ClassVar[int] = 0  # set by the body that runs

    def submit(self, name: str, work: Callable[[], Any], done: Callable[[Any], None]) -> threading.Thread:  # noqa: ARG002
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.call_later(loop.lasts(MEAN_HANDOVER_S), self._run, loop, work, done)
        return _NEVER_STARTED

    def _run(self, loop: SimulatedLoop, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        SimulatedThreads.takes_us = 0
        result = work()
        loop.call_later(SimulatedThreads.takes_us / 1e6 + loop.lasts(MEAN_HANDOVER_S), done, result)
