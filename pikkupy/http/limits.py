"""How much one caller may do at a time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pikkupy.clock import monotonic_s
from pikkupy.http.problems import Refused

MOST_CALLERS = 10_000  # that are remembered


class Rate:
    """So many a second in the long run, and twice as many at once (GCRA: ITU-T I.371, virtual scheduling)."""

    def __init__(self, per_second: float, now: Callable[[], float] = monotonic_s) -> None:
        self._interval = 1 / per_second
        self._burst = max(1.0, 2 * per_second)
        self._now = now
        self._due: OrderedDict[str, float] = OrderedDict()  # caller: when the next one would be due

    def take(self, name: str) -> None:
        """One of the caller's. Raises `Refused` for one too many."""
        now = self._now()
        due = max(self._due.pop(name, now), now)
        early_s = due - now - (self._burst - 1) * self._interval
        self._due[name] = due if early_s > 0 else due + self._interval
        if len(self._due) > MOST_CALLERS:
            self._due.popitem(last=False)
        if early_s > 0:
            raise Refused(
                429, "Too many requests", f"more new runs than {1 / self._interval:g} per second",
                retry_after=str(int(early_s) + 1),
            )  # fmt: skip


class Streams:
    """How many streams each caller has open."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: Counter[str] = Counter()

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """One more, as long as the block lasts. Raises `Refused`."""
        if self._open[name] >= self._most:
            raise Refused(429, "Too many streams", f"{self._most} are open: asgi(max_streams=...)", retry_after="5")
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]
