"""`VirtualClock`: time for tests. A month of sleep passes at once, and nothing in a test really waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol

from pikkupy.durations import Duration, microseconds
from pikkupy.errors import BadType
from pikkupy.moments import checked_us, moment

_START = datetime(2030, 1, 1, tzinfo=UTC)

QUIET_TURNS = 3  # turns of the host loop in a row in which nothing was ready
SPINS = 20_000  # turns after which a step that never stops being ready is no longer waited for
BLIND_TURNS = 50  # turns to take as quiet on a loop that does not show what is ready (uvloop)
THREAD_PATIENCE_S = 1.0  # real time that a step on a thread or in a worker process may take before it counts as waiting


class _Timers(Protocol):
    def next_due_us(self) -> int | None: ...
    def fire_due(self) -> None: ...


class _Journal(Protocol):
    @property
    def busy(self) -> bool: ...
    async def idle(self) -> None: ...


class _Workers(Protocol):
    @property
    def running(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def elsewhere(self) -> int: ...


class _Host(Protocol):
    """What the clock needs of an engine."""

    @property
    def timers(self) -> _Timers: ...
    @property
    def journal(self) -> _Journal: ...
    @property
    def workers(self) -> _Workers: ...
    @property
    def dispatching(self) -> bool: ...
    @property
    def moving(self) -> Callable[[], bool]: ...


class VirtualClock:
    """Give it to `pikku.open(clock=...)`; several engines, at once or one after another, may share it.

    `start` is an aware `datetime` (default: 2030-01-01 UTC). With `autojump` the clock jumps to the next timer whenever
    every run waits and no attempt of a step is running; so the `timeout` of a step that waits needs `advance`.
    """

    virtual = True

    def __init__(self, start: datetime | None = None, autojump: bool = False) -> None:
        if not isinstance(autojump, bool):
            raise BadType(f"autojump={autojump!r}: use True or False")
        self._now_us = checked_us("start", _START if start is None else start)
        self._autojump = autojump
        self._hosts: list[_Host] = []
        self._poked = asyncio.Event()
        self._jumper: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<VirtualClock {self.now().isoformat()}>"

    def now(self) -> datetime:
        """The time of this clock, in UTC."""
        return moment(self._now_us)

    def now_us(self) -> int:
        """The time of this clock, epoch microseconds."""
        return self._now_us

    async def advance(self, duration: Duration) -> None:
        """Move the time by `duration` and let everything that became due happen.

        What was under way before settles first. When this returns, all timers that are due have fired, and everything
        that follows without real waiting has been done; timers set meanwhile count from the new time. Raises
        `DurationError`.
        """
        ahead_us = microseconds(duration)
        await self._settle()
        self._now_us += ahead_us
        await self._fire()

    # Called by engines

    def attach(self, host: _Host) -> None:
        """An engine lives by this clock from now on."""
        self._hosts.append(host)
        if self._autojump and self._jumper is None:
            self._poked = asyncio.Event()
            self._jumper = asyncio.get_running_loop().create_task(self._jump(), name="pikkupy virtual clock")

    def detach(self, host: _Host) -> None:
        """The engine is closed."""
        self._hosts.remove(host)
        if not self._hosts and self._jumper is not None:
            self._jumper.cancel()
            self._jumper = None

    def poke(self) -> None:
        """Something has happened in an engine: perhaps every run waits now."""
        self._poked.set()

    # Inside

    async def _jump(self) -> None:
        while True:
            await self._poked.wait()
            self._poked.clear()
            await self._settle()
            due_us = min(self._dues(), default=None)
            if due_us is not None and not any(host.workers.running or host.workers.waiting for host in self._hosts):
                self._now_us = max(self._now_us, due_us)
                await self._fire()
                self._poked.set()

    def _dues(self) -> Iterator[int]:
        for host in self._hosts:
            due_us = host.timers.next_due_us()
            if due_us is not None and host.dispatching:
                yield due_us

    async def _fire(self) -> None:
        for host in list(self._hosts):
            host.timers.fire_due()
        await self._settle()

    async def _settle(self) -> None:
        """Return when nothing more happens in the engines without real waiting."""
        loop = asyncio.get_running_loop()
        ready = getattr(loop, "_ready", None)  # asyncio's own loops; there is no public way to ask
        needed = BLIND_TURNS if ready is None else QUIET_TURNS
        patience = loop.time() + THREAD_PATIENCE_S
        quiet = 0
        for _ in range(SPINS):
            await asyncio.sleep(0)
            busy = [host for host in self._hosts if host.journal.busy]
            for host in busy:
                await host.journal.idle()
            if busy or ready:
                quiet = 0
                continue
            if any(host.moving() for host in self._hosts):
                await asyncio.sleep(0.0001)
                quiet = 0
                continue
            if any(host.workers.elsewhere for host in self._hosts) and loop.time() < patience:
                await asyncio.sleep(0.0005)
                quiet = 0
                continue
            quiet += 1
            if quiet >= needed:
                return
