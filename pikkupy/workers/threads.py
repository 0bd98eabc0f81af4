"""Daemon threads for `def` functions, as many as run at once.

Neither the loop's default executor, which the application needs itself, nor `concurrent.futures`, whose threads are
joined when the interpreter ends: a thread that was left behind must not keep the process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

IDLE_S = 30.0  # a thread that nobody needed for this long ends
JOIN_S = 1.0  # an idle thread ends in microseconds; this only bounds the wait for it


class Threads(Generic[T]):
    """Runs each piece of work on a thread of its own and hands the result back on the event loop.

    There is no limit in here: the lane in front counts those that matter, which are not those left behind.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()  # guards `_idle` and `_closed`
        self._idle: list[_Thread] = []
        self._closed = False

    def submit(self, name: str, work: Callable[[], T], done: Callable[[T], None]) -> threading.Thread:
        """Run `work`, which never raises, on a thread called `name`; `done` gets its result on the event loop."""
        with self._lock:
            thread = self._idle.pop() if self._idle else None
        if thread is None:
            thread = _Thread(self._retire)
            thread.start()
        thread.inbox.put((name, partial(self._work, thread, work, done)))
        return thread

    def close(self) -> None:
        """End the idle threads; the others end when their work does, if it does."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for thread in idle:
            thread.inbox.put(None)
        for thread in idle:
            thread.join(JOIN_S)

    def _work(self, thread: _Thread, work: Callable[[], T], done: Callable[[T], None]) -> bool:
        """On the thread. True if it is to wait for more."""
        result = work()
        with self._lock:
            # Idle before the result is told: the next attempt, which that lets in, shall find this thread.
            if not self._closed:
                self._idle.append(thread)
            closed = self._closed
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(done, result)
        return not closed

    def _retire(self, thread: _Thread) -> bool:
        """On the thread, when it has been idle for long. False if it has just been given work."""
        with self._lock:
            if thread not in self._idle:
                return False
            self._idle.remove(thread)
            return True


class _Thread(threading.Thread):
    """Does what is in its inbox; None ends it."""

    def __init__(self, retire: Callable[[_Thread], bool]) -> None:
        super().__init__(name="pikkupy idle", daemon=True)
        self.inbox: SimpleQueue[tuple[str, Callable[[], bool]] | None] = SimpleQueue()
        self._retire = retire

    def run(self) -> None:
        busy = True
        while busy:
            try:
                item = self.inbox.get(timeout=IDLE_S)
            except Empty:
                busy = not self._retire(self)
            else:
                busy = item is not None and self._do(*item)

    def _do(self, name: str, work: Callable[[], bool]) -> bool:
        self.name = name
        try:
            return work()
        finally:
            self.name = "pikkupy idle"
