"""The slots of one kind of worker, and the queue in front of them."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar


class Startable(Protocol):
    """What takes a slot."""

    def start(self) -> None: ...


T = TypeVar("T", bound=Startable)


class Lane(Generic[T]):
    """At most `limit` attempts run at once; the rest wait, first come, first served."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop, emptied: Callable[[], None]) -> None:
        self.running: set[T] = set()
        self.waiting: OrderedDict[T, None] = OrderedDict()  # a queue from which any one can be taken out at once
        self.limit = limit
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
            self.waiting[attempt] = None
        else:
            self.running.add(attempt)
            attempt.start()

    def withdraw(self, attempt: T) -> None:
        """Take a waiting attempt out."""
        del self.waiting[attempt]

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
            attempt, _ = self.waiting.popitem(last=False)
            self.running.add(attempt)
            attempt.start()
        self._filling = False
