"""What the parts of one engine share."""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, runtime_checkable

from msgspec import structs

from pikkupy.codec import Codec
from pikkupy.config import Config
from pikkupy.core.clock import Clock
from pikkupy.core.commands import End, Parked
from pikkupy.core.commands import Failed as RunFailure
from pikkupy.core.model import Change
from pikkupy.core.outcomes import Failed, Outcome
from pikkupy.core.ports import Values
from pikkupy.durations import microseconds
from pikkupy.engine.ids import Ids
from pikkupy.engine.live import LiveStep
from pikkupy.engine.watchdog import Watchdog, watchdog_of
from pikkupy.errors import JournalError, PikkuError
from pikkupy.failures import Redact, redacted, safely
from pikkupy.log import Logger, is_enabled_for_info
from pikkupy.registry import Registry
from pikkupy.store import Done, Journal
from pikkupy.timers import Timers
from pikkupy.workers import Workers
from pikkupy.workers.threads import Threads

BEGINS_AT_ONCE = 250  # bodies that do nothing take 3 ms

T = TypeVar("T")
E = TypeVar("E", bound=End)


@dataclass(slots=True)
class Host:
    """The rooms that every run of an engine needs, and whether the engine is still dispatching."""

    config: Config
    clock: Clock
    loop: asyncio.AbstractEventLoop
    journal: Journal
    registry: Registry
    values: Values
    timers: Timers
    workers: Workers
    services: object
    log: Logger
    shown: Shown
    watchdog: Watchdog | None
    now_us: Callable[[], int]  # the clock's: the engine's time, epoch microseconds
    jitter: random.Random
    ids: Ids
    dispatching: bool = True
    begins_at_once: int = BEGINS_AT_ONCE  # steps of one run in one turn of the loop, of those that no life has begun
    redact: Redact | None = None  # does not raise
    moving: Callable[[], bool] = bool  # whether runs are on their way into memory or out of it

    def info(self, event: str, **fields: object) -> None:
        """Log what happens often; a disabled level costs next to nothing."""
        if is_enabled_for_info():
            self.log.info(event, **fields)

    def redacted(self, failed: Failed) -> Failed:
        """The failure of a step as it is recorded, told and logged."""
        if self.redact is None:
            return failed
        return Failed(redacted(failed.error, self.redact), failed.exception, failed.final)

    def redacted_end(self, end: E) -> E:
        """The same of a run. A reason of the engine's own may quote an error."""
        if self.redact is not None and isinstance(end, RunFailure):
            return structs.replace(end, error=redacted(end.error, self.redact))
        if self.redact is not None and isinstance(end, Parked):
            return structs.replace(end, reason=self.redact(end.reason))
        return end

    def result_type_of(self, workflow: str) -> Any:
        """The annotation of the workflow's result; `Any` if it is not registered (any more)."""
        found = self.registry.find(workflow)
        return Any if found is None else found.result_type

    def next_number(self) -> int:
        """The number of the next run."""
        number: int = self.journal.next_number
        self.journal.next_number += 1
        return number

    def write(self, changes: Sequence[Change], done: Callable[[], object] | None = None) -> None:
        """Write one logical change, then call `done` if it is given; not after an error, which stops the engine."""
        self.journal.submit(changes, self.then(done))

    def then(self, done: Callable[[], object] | None) -> Done:
        """What follows a change of the engine's own: `done` if it is given, but not after an error."""
        return partial(self._written, done)

    def is_written(self, error: Exception | None) -> bool:
        """Whether a change of the engine's own is on disk. If it was refused, the engine stops."""
        if error is None:
            return True
        if self.journal.failure is None:
            # Memory and file do not agree any more: go on, and something wrong would be recorded.
            self.journal.fail(JournalError(f"a change of the engine was refused: {error}"))
        return False

    def _written(self, done: Callable[[], object] | None, error: Exception | None) -> None:
        if self.is_written(error) and done is not None:
            done()

    @property
    def goes_on(self) -> bool:
        """True until the engine stops, or begins to be left."""
        return self.journal.failure is None and self.dispatching

    def has_failed(self, error: BaseException, what: str) -> None:
        """Something of the engine's own has ended with an error: go on without it, and a run would wait for ever.

        So the engine stops, as it does for a write; but not once it is being left, as the file decides then.
        """
        if self.goes_on:
            failure = JournalError(f"{what}: {error if isinstance(error, PikkuError) else repr(error)}")
            failure.__cause__ = error
            self.journal.fail(failure)

    def stop_dispatching(self) -> None:
        """Begin no step and fire no timer any more; what is under way is still recorded."""
        self.dispatching = False
        self.timers.hold()

    def hold(self) -> None:
        """Begin nothing any more, as nothing is recorded: whoever is in the middle of something still comes to its end
        before the others are told."""
        self.stop_dispatching()
        self.workers.hold()

    async def close(self) -> None:
        """Close the rooms. The end is in good order unless the journal has failed."""
        self.shown.close()
        self.timers.clear()
        if isinstance(self.clock, Attachable):
            self.clock.detach(self)
        if self.watchdog is not None:
            self.watchdog.stop()
        await self.journal.close()


class Shows(Protocol):
    """A run that can show that one of its steps is running."""

    def show_running(self, step: LiveStep) -> None: ...


class Shown:
    """Attempts that have just begun. Those that last a moment get a row, so that other readers of the file see them.

    In real time: it is a matter of display.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, after_s: float) -> None:
        self._loop = loop
        self._after_s = after_s
        self._begun: deque[tuple[float, Shows, LiveStep, int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, run: Shows, step: LiveStep) -> None:
        """An attempt has begun."""
        self._begun.append((self._loop.time() + self._after_s, run, step, step.attempts))
        if self._timer is None:
            self._timer = self._loop.call_later(self._after_s, self._show)

    def close(self) -> None:
        """Show nothing any more."""
        self._begun.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _show(self) -> None:
        self._timer = None
        begun, now = self._begun, self._loop.time()
        while begun and begun[0][0] <= now:
            _, run, step, attempts = begun.popleft()
            if step.working and step.attempts == attempts:
                run.show_running(step)
        if begun:
            self._timer = self._loop.call_later(begun[0][0] - now, self._show)


@runtime_checkable
class Attachable(Protocol):
    """A clock that wants to know the engines that live by it."""

    def attach(self, host: Host) -> None: ...
    def detach(self, host: Host) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an engine takes from around it beside the time; a simulation gives it something else."""

    open_journal: Callable[..., Awaitable[Journal]] | None = None  # default: `Journal.open`
    draw: Callable[[int], bytes] = os.urandom  # so many random bytes
    threads: Callable[[asyncio.AbstractEventLoop], Threads[Outcome]] = Threads
    begins_at_once: int = BEGINS_AT_ONCE


async def open_host(
    path: str,
    registry: Registry,
    services: object,
    clock: Clock,
    config: Config,
    log: Logger,
    journal_failed: Callable[[JournalError], None],
    surroundings: Surroundings,
) -> Host:
    """Open the journal and build the rooms around it."""
    journal = await (surroundings.open_journal or Journal.open)(
        path,
        durability=config.durability,
        now_us=clock.now_us(),
        codec=config.payload_codec,
        on_loop=not config.database_thread,
    )
    try:
        watchdog = watchdog_of(config.watchdog_after, log)
    except BaseException:  # the system has no more threads to give
        await journal.close(clean=journal.clean)
        raise
    loop = asyncio.get_running_loop()
    journal.on_failure = journal_failed
    journal.on_release = clock.poke
    values = Codec(config.max_payload, config.warn_payload, partial(_large, log))
    timers = Timers(clock, loop)
    host = Host(
        config=config,
        clock=clock,
        loop=loop,
        journal=journal,
        registry=registry,
        values=values,
        timers=timers,
        workers=Workers(config, values, timers, services, registry.in_processes(), surroundings.threads(loop)),
        services=services,
        log=log,
        shown=Shown(loop, microseconds(config.show_running_after) / 1e6),
        watchdog=watchdog,
        now_us=clock.now_us,
        jitter=random.Random(surroundings.draw(16)),  # noqa: S311 - it spreads retries
        ids=Ids(surroundings.draw),
        begins_at_once=surroundings.begins_at_once,
        redact=safely(config.redact),
    )
    journal.on_stop = host.hold
    if isinstance(clock, Attachable):
        clock.attach(host)
    return host


def _large(log: Logger, what: str, size: int) -> None:
    log.warning("payload_large", what=what, bytes=size)


async def in_callback(loop: asyncio.AbstractEventLoop, act: Callable[[], T]) -> T:
    """The result of `act`, called from a plain callback of `loop`.

    Workflow code must not run while a task of the host loop does: from Python 3.14 on a thread has one current task.
    """
    done: asyncio.Future[T] = loop.create_future()

    def call() -> None:
        try:
            result = act()
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            if not done.cancelled():
                done.set_exception(error)
        else:
            if not done.cancelled():
                done.set_result(result)

    loop.call_soon(call)
    return await asyncio.shield(done)
