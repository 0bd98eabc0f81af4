"""How much one caller may do at a time."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pikkupy.clock import monotonic_s
from pikkupy.http.problems import Refused

MOST_CALLERS = 10_000  # that are remembered
SESSIONS = 4  # as many streams as these may have, one token has with all of its sessions


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


class Places:
    """So many at once, whoever they are of."""

    def __init__(self, most: int, detail: str, retry_after_s: int) -> None:
        self.free = most
        self._detail = detail
        self._retry_after = str(retry_after_s)

    @contextmanager
    def one(self) -> Iterator[None]:
        """One of them, as long as the block lasts. Raises `Refused` at once if all are taken."""
        if self.free <= 0:
            raise Refused(503, "Too many requests at once", self._detail, retry_after=self._retry_after)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


class Held:
    """How many of something that lasts each caller has."""

    def __init__(self, most: int, title: str, detail: str) -> None:
        self._most = most
        self._title = title
        self._detail = detail
        self._held: Counter[str] = Counter()

    @contextmanager
    def one(self, name: str) -> Iterator[None]:
        """One more, as long as the block lasts. Raises `Refused`."""
        if self._held[name] >= self._most:
            raise Refused(429, self._title, self._detail.format(most=self._most), retry_after="5")
        self._held[name] += 1
        try:
            yield
        finally:
            self._held[name] -= 1
            if not self._held[name]:
                del self._held[name]


class Streams:
    """Streams of events that are open: so many of each session, and of each caller."""

    def __init__(self, most: int) -> None:
        title = "Too many streams"
        self._of_session = Held(most, title, "{most} are open: asgi(max_streams=...)")
        detail = f"{{most}} are open with this token, {SESSIONS} times asgi(max_streams=...)"
        self._of_caller = Held(SESSIONS * most, title, detail)

    @contextmanager
    def one(self, name: str, session: str) -> Iterator[None]:
        """One more, as long as the block lasts; what is of no session is the caller's own. Raises `Refused`."""
        with self._of_session.one(session or name), self._of_caller.one(name):
            yield


def waits(most_requests: int) -> Held:
    """Requests of each caller that wait for the end of a run: others find three quarters of the places free."""
    return Held(
        max(1, most_requests // 4),
        "Too many waits",
        "{most} requests of yours wait for the end of a run, a quarter of asgi(max_requests=...), and no more may; "
        "ask without `Prefer: wait`, or listen to /api/runs/{{run_id}}/events",
    )
