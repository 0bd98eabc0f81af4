"""Reads of one kind that are wanted while one is under way are made together, by a few queries for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Generic, TypeVar

from pikkupy.errors import JournalError
from pikkupy.store.connection import Told, resolve

K = TypeVar("K")
T = TypeVar("T")

MOST = 100  # keys of one read: the thread is not kept from other reads for long

Answers = Mapping[K, T | JournalError]
"""What was found by its key, or why it cannot be read; nothing for a key that is not there."""


class Together(Generic[K, T]):
    """Looks things up by their keys. The first who asks is served alone, so that nobody waits for others to come.

    Whoever asks while a read is under way gets what is there later than that: `read` is called after it.
    """

    def __init__(self, read: Callable[[Sequence[K], Told[Answers[K, T]]], object]) -> None:
        """`read(keys, told)` reads on another thread, and calls `told` on the loop, with what it has found."""
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._reading = False
        self._wanted: dict[K, list[asyncio.Future[T | None]]] = {}  # who waits for each, in the order of the first

    async def get(self, key: K) -> T | None:
        """What is there; None if nothing is. Raises `JournalError`."""
        future: asyncio.Future[T | None] = self._loop.create_future()
        self._wanted.setdefault(key, []).append(future)
        if not self._reading:
            self._begin()
        return await future

    def _begin(self) -> None:
        self._reading = True
        keys = list(islice(self._wanted, MOST))
        waiting = {key: self._wanted.pop(key) for key in keys}
        told = partial(self._told, waiting)
        try:
            self._read(keys, told)
        except Exception as error:  # noqa: BLE001 - those who wait have to hear of it
            told(None, error)

    def _told(
        self,
        waiting: Mapping[K, Sequence[asyncio.Future[T | None]]],
        found: Answers[K, T] | None,
        error: BaseException | None,
    ) -> None:
        for key, futures in waiting.items():
            value = None if found is None else found.get(key)
            for future in futures:
                if isinstance(value, JournalError):
                    resolve(future, None, value)
                else:
                    resolve(future, value, error)
        self._reading = False
        if self._wanted:
            self._begin()
