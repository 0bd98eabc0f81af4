"""The heap of timers of one engine. A cache of what the journal holds, never the truth.

One host-loop timer is set for the earliest entry; whatever wakes it, an entry fires only when the clock has reached it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count

from pikkupy.core.clock import Clock

LONGEST_NAP_S = 1.0  # real time after which a clock that was set forward, or a machine that slept, is noticed


class Timer:
    """An entry of the heap; `cancel` takes it out."""

    __slots__ = ("_timers", "callback", "due_us", "order")

    def __init__(self, timers: Timers, due_us: int, order: int, callback: Callable[[], object]) -> None:
        self._timers = timers
        self.due_us = due_us
        self.order = order
        self.callback: Callable[[], object] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return (self.due_us, self.order) < (other.due_us, other.order)

    def cancel(self) -> None:
        """Never call the callback. Idempotent, also after it was called."""
        if self.callback is not None:
            self.callback = None
            self._timers.forget_one()


class Timers:
    """Timers by the engine's clock, in due order, ties by creation. Callbacks run on the host loop, never early."""

    def __init__(self, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._clock = clock
        self._loop = loop
        self._heap: list[Timer] = []
        self._order = count()
        self._nap: asyncio.TimerHandle | None = None
        self._nap_until_us = 0
        self._held = False
        self._cancelled = 0

    def now_us(self) -> int:
        """The engine's time, epoch microseconds."""
        return self._clock.now_us()

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Timer:
        """Call `callback` when the clock reaches `due_us`, at once in the loop's next turn if it has."""
        timer = Timer(self, due_us, next(self._order), callback)
        heapq.heappush(self._heap, timer)
        if self._heap[0] is timer:
            self._set_nap()
        return timer

    def next_due_us(self) -> int | None:
        """When the earliest timer is due; None without timers."""
        heap = self._heap
        while heap and heap[0].callback is None:
            heapq.heappop(heap)
            self._cancelled -= 1
        return heap[0].due_us if heap else None

    def forget_one(self) -> None:
        """Count a cancelled entry; when most entries are, drop them all: a heap of time-outs must not grow for ever."""
        self._cancelled += 1
        if self._cancelled > 64 and 2 * self._cancelled > len(self._heap):
            self._heap = [timer for timer in self._heap if timer.callback is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def fire_due(self) -> None:
        """Fire every timer that is due by the clock."""
        try:
            while not self._held:
                due_us = self.next_due_us()
                if due_us is None or due_us > self._clock.now_us():
                    break
                timer = heapq.heappop(self._heap)
                callback, timer.callback = timer.callback, None
                assert callback is not None  # next_due_us has dropped the cancelled ones
                callback()
        finally:
            self._set_nap()  # if one raises, the others still come

    def hold(self) -> None:
        """Fire nothing any more: the engine is being left."""
        self._held = True
        self._set_nap()

    def clear(self) -> None:
        """Drop every timer."""
        self._held = True
        self._heap.clear()
        self._cancelled = 0
        self._set_nap()

    def _set_nap(self) -> None:
        due_us = None if self._held else self.next_due_us()
        if self._nap is not None:
            if due_us == self._nap_until_us:
                return
            self._nap.cancel()
            self._nap = None
        if due_us is None:
            return
        ahead_s = max(0.0, (due_us - self._clock.now_us()) / 1e6)
        if self._clock.virtual and ahead_s > 0:
            self._clock.poke()
            return  # a virtual clock calls `fire_due` when it moves
        self._nap_until_us = due_us
        self._nap = self._loop.call_later(min(ahead_s, LONGEST_NAP_S), self._wake)

    def _wake(self) -> None:
        self._nap = None
        self.fire_due()
