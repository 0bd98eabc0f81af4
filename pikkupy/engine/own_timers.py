"""The timers that a run's own event loop has set (`asyncio.sleep`, `asyncio.timeout`), on the engine's clock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pikkupy.core.commands import Armed
from pikkupy.timers import Timer, Timers


class OwnTimers:
    """Armed timers of one run by number. `fire` is called with one that is due."""

    __slots__ = ("_fire", "_set", "_timers")

    def __init__(self, timers: Timers, fire: Callable[[Armed], object]) -> None:
        self._timers = timers
        self._fire = fire
        self._set: dict[int, Timer] = {}

    def arm(self, armed: Armed, now_us: int) -> None:
        """Fire it when it is due.

        Not before its delay has passed from now, either: the commit of the outcome that the run has just seen, and
        that its time stands at, took time.
        """
        due_us = max(armed.due_us, now_us + armed.delay_us)
        self._set[armed.number] = self._timers.call_at(due_us, partial(self._due, armed))

    def disarm(self, number: int) -> None:
        """Never fire it."""
        timer = self._set.pop(number, None)
        if timer is not None:
            timer.cancel()

    def drop(self) -> None:
        """Never fire any."""
        for number in list(self._set):
            self.disarm(number)

    def next_due_us(self, until_us: int) -> int:
        """When the first is due, or `until_us` if that is earlier."""
        return min((timer.due_us for timer in self._set.values()), default=until_us)

    def _due(self, armed: Armed) -> None:
        del self._set[armed.number]
        self._fire(armed)
