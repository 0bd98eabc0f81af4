"""The workers of one engine: who runs, who waits, and how all of it comes to an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from functools import partial

from pikkupy.config import Config
from pikkupy.core.commands import StepCall
from pikkupy.core.outcomes import Outcome, Stopped
from pikkupy.core.ports import Scheduler, Values
from pikkupy.durations import microseconds
from pikkupy.failures import safely
from pikkupy.log import logger
from pikkupy.services import StepContext
from pikkupy.workers.attempts import Attempt, Premises, Where, where
from pikkupy.workers.lanes import Lane
from pikkupy.workers.loop_attempts import LoopAttempt, call_inline
from pikkupy.workers.messages import called
from pikkupy.workers.process_attempts import ProcessAttempt
from pikkupy.workers.processes import Processes
from pikkupy.workers.thread_attempts import ThreadAttempt
from pikkupy.workers.threads import Threads

KINDS: dict[Where, type[Attempt]] = {
    "inline": LoopAttempt,
    "async": LoopAttempt,
    "thread": ThreadAttempt,
    "process": ProcessAttempt,
}


class Workers:
    """Begins attempts and tells their outcomes. Make it, and call it, on the event loop; it is not thread-safe.

    Most inline steps end where they are called, and need neither an attempt that could be stopped nor a slot. While
    `on_loop.has_room`, `call_inline` calls one that has no time-out, in a context: it gives what came of it, or what
    `await_inline` is to await.
    """

    def __init__(
        self,
        config: Config,
        values: Values,
        scheduler: Scheduler,
        application: object | None,
        in_processes: Iterable[Callable[..., object]] = (),
        threads: Threads[Outcome] | None = None,
    ) -> None:
        """`in_processes`: the functions that worker processes may be asked for."""
        loop, log = asyncio.get_running_loop(), logger(redact=safely(config.redact))
        self._cancel_grace_us = microseconds(config.cancel_grace)
        self.on_loop: Lane[Attempt] = Lane(config.async_workers, loop, self._lane_emptied)
        self._on_threads: Lane[Attempt] = Lane(config.thread_workers, loop, self._lane_emptied)
        self._in_processes: Lane[Attempt] = Lane(config.process_workers, loop, self._lane_emptied)
        self._lanes = {
            "inline": self.on_loop,
            "async": self.on_loop,
            "thread": self._on_threads,
            "process": self._in_processes,
        }
        self._each_lane = (self.on_loop, self._on_threads, self._in_processes)
        self._premises = Premises(
            loop=loop,
            values=values,
            scheduler=scheduler,
            application=application,
            cancel_grace_us=self._cancel_grace_us,
            threads=Threads(loop) if threads is None else threads,
            processes=Processes(
                config.max_payload, config.warn_payload, map(called, in_processes), log, config.spare_processes
            ),
            log=log,
            loop_is_ending=self._loop_is_ending,
        )
        self.call_inline = partial(call_inline, values)
        self._canary = loop.create_task(_idle(), name="pikkupy workers")
        self._closed = False
        self._emptied: asyncio.Event | None = None  # set while `close` waits

    @property
    def running(self) -> int:
        """Attempts that have a slot and have not ended."""
        return sum(len(lane.running) for lane in self._each_lane)

    @property
    def waiting(self) -> int:
        """Attempts that wait for a slot."""
        return sum(lane.waiting for lane in self._each_lane)

    def slots(self) -> dict[str, tuple[int, int, int]]:
        """Per kind how many attempts run, how many wait, and how many can run at once."""
        lanes = {"async": self.on_loop, "thread": self._on_threads, "process": self._in_processes}
        return {kind: (len(lane.running), lane.waiting, lane.limit) for kind, lane in lanes.items()}

    @property
    def elsewhere(self) -> int:
        """Those of `running` whose body is not on the event loop, so that a quiet loop says nothing about them."""
        return len(self._on_threads.running) + len(self._in_processes.running)

    def begin(
        self, call: StepCall, step: StepContext, began: Callable[[], None], ended: Callable[[Outcome], None]
    ) -> Attempt:
        """Begin an attempt, or queue it until a slot is free.

        `began` is called when the body starts, `ended` exactly once, both on the event loop in plain calls. An inline
        callable that returns no awaitable has ended when this returns, if a slot was free. Does not raise.
        """
        kind = where(call)
        lane = self._lanes[kind]
        attempt = KINDS[kind](call, step, self._premises, lane, began, ended)
        if self._closed or self._premises.held:
            attempt.end(Stopped())
        else:
            lane.enter(attempt)
        return attempt

    def await_inline(
        self,
        call: StepCall,
        step: StepContext,
        came: Awaitable[object],
        context: Context,
        ended: Callable[[Outcome], None],
    ) -> Attempt:
        """Go on with what `call_inline` has returned; the attempt has begun already."""
        attempt = LoopAttempt(call, step, self._premises, self.on_loop, _nothing, ended)
        self.on_loop.running.add(attempt)
        attempt.take_over(came, context)
        return attempt

    def hold(self) -> None:
        """Let no body begin any more, nor of those that wait for a slot, a thread or a process: nothing of it would be
        recorded."""
        self._premises.held = True

    def drop(self) -> None:
        """End what is held, and tell so."""
        self._stop_waiting()
        for attempt in self._all_running():
            attempt.drop()

    def _stop_waiting(self) -> None:
        for lane in self._each_lane:
            for attempt in lane.all_waiting():
                attempt.stop()

    async def close(self, grace_s: float) -> None:
        """Begin nothing any more, wait up to `grace_s` for what runs, then stop it and clear up.

        In real time. Async bodies that were asked to stop get `Config.cancel_grace` for it, then they are left behind,
        as threads are; worker processes are killed. `ended` has been called for each attempt when this returns.
        """
        self._closed = True
        self._stop_waiting()
        await self._until_empty(grace_s)
        for attempt in self._all_running():
            attempt.halt()
        await self._until_empty(self._cancel_grace_us / 1e6)
        for attempt in self._all_running():
            attempt.abandon()
        self._premises.threads.close()
        await self._premises.processes.close()
        self._canary.cancel()
        await asyncio.wait([self._canary])

    async def _until_empty(self, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                while self.running:
                    self._emptied = asyncio.Event()
                    await self._emptied.wait()
        except TimeoutError:
            pass
        finally:
            self._emptied = None

    def _lane_emptied(self) -> None:
        if self._emptied is not None:
            self._emptied.set()

    def _all_running(self) -> list[Attempt]:
        return [attempt for lane in self._each_lane for attempt in lane.running]

    def _loop_is_ending(self) -> bool:
        """True if the loop is being torn down, as at the end of `asyncio.run`: it cancels every task, this one too."""
        return self._canary.done() or self._canary.cancelling() > 0


def _nothing() -> None:
    """What is to be done at the beginning of an attempt that had begun before."""


async def _idle() -> None:
    """Waits for nothing; the task exists to be cancelled with all others when the loop ends."""
    await asyncio.get_running_loop().create_future()
