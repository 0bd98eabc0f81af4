"""Brings runs that wait in the file into memory, shortly before they are due.

The heap of timers holds what is due in memory; for all that waits in the file one timer is enough: that of the next
look into the index. The file is the truth, so nothing is lost if a look is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from pikkupy.core.model import NO_WAKING
from pikkupy.durations import microseconds
from pikkupy.engine.host import Host
from pikkupy.timers import Timer

CHUNK = 200  # runs that are read and replayed between two chances for the application's own tasks
LONGEST_LOOKAHEAD_US = 5_000_000  # runs come into memory so long before they are due
CROWDED_US = 100_000  # how soon it is looked again whether there is room for runs that are not due yet
LOOKS = 4  # per lookahead, at most: so that runs due one after another come in together
DUE_SPACING_US = 10_000  # between two looks for runs that are due: they do not wait for the next of those


class Home(Protocol):
    """Where runs in memory are kept."""

    @property
    def crowded(self) -> bool:
        """True while no run should come into memory before it has to."""
        ...

    async def bring(self, numbers: Sequence[int]) -> None:
        """Bring these runs into memory."""
        ...


class Waker:
    """One per engine. Its methods belong to the event loop."""

    def __init__(self, host: Host, home: Home) -> None:
        self._host = host
        self._home = home
        self._lookahead_us = min(LONGEST_LOOKAHEAD_US, microseconds(host.config.unload_after) // 2)
        self._timer: Timer | None = None
        self._not_before_us = 0  # the next look, but for runs that are due before it
        self._due_not_before_us = 0  # the next look in any case
        self._looking: asyncio.Task[None] | None = None
        self._again = False

    @property
    def busy(self) -> bool:
        """True while a look is under way."""
        return self._looking is not None

    def open(self) -> None:
        """Look for the first time."""
        self._look()

    def rests(self, wakes_at: int) -> None:
        """A run waits in the file until then."""
        if wakes_at < NO_WAKING:
            self._look_for(wakes_at, wakes_at - self._lookahead_us)

    async def close(self) -> None:
        """Return when no look is under way."""
        if self._timer is not None:
            self._timer.cancel()
        while self._looking is not None:
            await asyncio.wait([self._looking])

    def _look_for(self, wakes_at: int, from_us: int) -> None:
        """Look for a run that is due then, from a moment on: together with others, but not later for that."""
        self._look_at(max(from_us, min(self._not_before_us, wakes_at)))

    def _look_at(self, due_us: int) -> None:
        # If the clock was set back meanwhile, the last look was long after now: the next one need not wait for that.
        due_us = max(due_us, min(self._due_not_before_us, self._host.now_us() + DUE_SPACING_US))
        if self._timer is not None:
            if self._timer.due_us <= due_us:
                return
            self._timer.cancel()
        self._timer = self._host.timers.call_at(due_us, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._looking is not None:
            self._again = True  # the present look may have passed by what this one is for
        elif self._host.dispatching:
            self._looking = self._host.loop.create_task(self._bring_due(), name="pikkupy waker")
            self._looking.add_done_callback(self._looked)

    async def _bring_due(self) -> None:
        # What is due comes in any case. What is not yet comes as long as there is room: many runs that are due at one
        # moment do not fill the memory before it.
        journal, crowded = self._host.journal, self._home.crowded
        lookahead_us = 0 if crowded else self._lookahead_us
        numbers = await journal.due(until=self._host.now_us() + lookahead_us, limit=CHUNK)
        if numbers:
            await self._home.bring(numbers)
            await journal.commit([])  # that they do not wait in the file any more is on disk: they are not found again
        spacing_us = max(self._lookahead_us // LOOKS, 1_000)
        if len(numbers) == CHUNK:
            spacing_us = 0
        elif crowded:
            spacing_us = min(spacing_us, DUE_SPACING_US)
        now_us = self._host.now_us()
        self._not_before_us = now_us + spacing_us
        self._due_not_before_us = now_us + min(spacing_us, DUE_SPACING_US)
        next_us = await journal.next_waking()
        if next_us is not None:
            again_us = next_us - self._lookahead_us
            self._look_for(next_us, max(again_us, min(next_us, now_us + CROWDED_US)) if crowded else again_us)

    def _looked(self, looking: asyncio.Task[None]) -> None:
        self._looking = None
        if looking.cancelled():
            return
        if self._again:
            self._again = False
            self._look_at(self._host.now_us())
        error = looking.exception()
        if error is not None:  # nothing would wake the runs in the file any more
            self._host.has_failed(error, "runs that wait in the file cannot be brought into memory")
