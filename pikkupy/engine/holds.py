"""Who may change a run that is not in memory: one at a time, from the look at the file to the change that follows."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager


class Holds:
    """Locks by the numbers of runs; those that nobody holds take no room.

    `freed` is called with each run that nobody holds any more.
    """

    def __init__(self, freed: Callable[[int], object]) -> None:
        self._freed = freed
        self._queues: dict[int, deque[asyncio.Future[None]]] = {}  # of each run that is held: who waits for it

    @asynccontextmanager
    async def alone(self, number: int) -> AsyncIterator[None]:
        """Hold the run; first come, first served."""
        if not self.take(number):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._queues[number].append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self.give_back(number)  # it was handed over in the same moment
                raise
        try:
            yield
        finally:
            self.give_back(number)

    def is_held(self, number: int) -> bool:
        """True if somebody holds the run."""
        return number in self._queues

    def take(self, number: int) -> bool:
        """Hold the run if nobody does; who has taken it gives it back."""
        if number in self._queues:
            return False
        self._queues[number] = deque()
        return True

    def take_free(self, numbers: Iterable[int]) -> list[int]:
        """Hold those of the runs that nobody does."""
        return [number for number in numbers if self.take(number)]

    def give_back(self, number: int) -> None:
        """Hand the run to the next who waits for it."""
        queue = self._queues[number]
        while queue:
            turn = queue.popleft()
            if not turn.done():  # else its waiter was cancelled
                turn.set_result(None)
                return
        del self._queues[number]
        self._freed(number)
