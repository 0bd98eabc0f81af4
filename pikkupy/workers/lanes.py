"""The slots of one kind of worker, and the queue in front of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Startable(Protocol):
    """What takes a slot."""

    @property
    def run_id(self) -> str:
        """Whose it is."""
        ...

    def start(self) -> None:
        """The slot is its own."""
        ...


T = TypeVar("T", bound=Startable)


class Lane(Generic[T]):
    """At most `limit` attempts run at once; the rest wait.

    The runs take turns, so that one that asks for very many does not hold up the others; those of one run begin in the
    order in which they came.
    """

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop, emptied: Callable[[], None]) -> None:
        self.running: set[T] = set()
        self.waiting = 0
        self.limit = limit
        self._turns: OrderedDict[str, OrderedDict[T, None]] = OrderedDict()  # by run, the next one first; none is empty
        self._loop = loop
        self._emptied = emptied
        self._filling = False

    @property
    def has_room(self) -> bool:
        """True if a slot is free and nobody waits for one."""
        return not self.waiting and len(self.running) < self.limit

    def enter(self, attempt: T) -> None:
        """Start `attempt`, now or when its turn comes."""
        if not self.has_room:
            queue = self._turns.get(attempt.run_id)
            if queue is None:
                queue = self._turns[attempt.run_id] = OrderedDict()
            queue[attempt] = None
            self.waiting += 1
        else:
            self.running.add(attempt)
            attempt.start()

    def withdraw(self, attempt: T) -> None:
        """Take a waiting attempt out."""
        queue = self._turns[attempt.run_id]
        del queue[attempt]
        self.waiting -= 1
        if not queue:
            del self._turns[attempt.run_id]

    def all_waiting(self) -> list[T]:
        """Those that wait."""
        return [attempt for queue in self._turns.values() for attempt in queue]

    def leave(self, attempt: T) -> None:
        """Give the slot of a running attempt back."""
        self.running.discard(attempt)
        if not self.running:
            self._emptied()
        if self.waiting and not self._filling:
            # In a callback of its own: attempts that end as soon as they start would recurse here without end.
            self._filling = True
            self._loop.call_soon(self._fill)

    def _fill(self) -> None:
        while self.waiting and len(self.running) < self.limit:
            attempt = self._next()
            self.running.add(attempt)
            attempt.start()
        self._filling = False

    def _next(self) -> T:
        run_id, queue = next(iter(self._turns.items()))
        attempt, _ = queue.popitem(last=False)
        self.waiting -= 1
        if queue:
            self._turns.move_to_end(run_id)
        else:
            del self._turns[run_id]
        return attempt
