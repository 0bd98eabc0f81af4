"""A stage for attempts: workers with real values, and time that moves only by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from contextvars import copy_context
from types import SimpleNamespace
from typing import Any

from pikkupy.codec import Codec
from pikkupy.config import Config
from pikkupy.core.commands import Policy, StepCall
from pikkupy.core.model import StepKind
from pikkupy.core.outcomes import Failed, Outcome, Succeeded
from pikkupy.services import StepContext
from pikkupy.workers import Workers

PATIENCE_S = 30.0  # real time; only a broken test waits that long


class Timer:
    """One entry of `ManualTime`."""

    def __init__(self, due_us: int, callback: Callable[[], object]) -> None:
        self.due_us = due_us
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ManualTime:
    """A scheduler whose clock stands still until `advance`."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []
        self._now_us = 1_000_000

    def now_us(self) -> int:
        return self._now_us

    def call_at(self, due_us: int, callback: Callable[[], object]) -> Timer:
        timer = Timer(due_us, callback)
        self.timers.append(timer)
        return timer

    @property
    def pending(self) -> list[Timer]:
        return [timer for timer in self.timers if not timer.cancelled]

    def advance(self, seconds: float) -> None:
        self._now_us += int(seconds * 1e6)
        due = [timer for timer in self.pending if timer.due_us <= self._now_us]
        for timer in due:
            self.timers.remove(timer)
            timer.callback()


class Watched:
    """One attempt and what was told of it."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.outcomes: list[Outcome] = []
        self.late: list[Outcome] = []
        self.attempt: Any = None
        self._ended = asyncio.Event()

    def began(self) -> None:
        self.told.append("began")

    def ended(self, outcome: Outcome) -> None:
        self.told.append("ended")
        self.outcomes.append(outcome)
        self._ended.set()

    async def outcome(self) -> Outcome:
        await asyncio.wait_for(self._ended.wait(), PATIENCE_S)
        (outcome,) = self.outcomes
        return outcome

    async def output(self) -> str:
        outcome = await self.outcome()
        assert isinstance(outcome, Succeeded), outcome
        return outcome.output

    async def failed(self) -> Failed:
        outcome = await self.outcome()
        assert isinstance(outcome, Failed), outcome
        return outcome


class Scene:
    """Workers, and short ways to give them something to do."""

    def __init__(
        self, application: object, settings: dict[str, Any], in_processes: Iterable[Callable[..., Any]] = ()
    ) -> None:
        self.time = ManualTime()
        self.values = Codec()
        self.workers = Workers(Config(**settings), self.values, self.time, application, in_processes)

    def begin(
        self,
        call: Callable[..., Any],
        where: str = "inline",
        *,
        data: Any = None,
        takes_data: bool = False,
        data_type: Any = Any,
        result_type: Any = Any,
        timeout_s: float | None = None,
        name: str = "Charge",
        attempt: int = 1,
        function: Any = None,
        run_id: str = "run-1",
    ) -> Watched:
        watched = Watched()
        inline = where == "inline"
        function = function or SimpleNamespace(worker=where, fn=call, data_type=data_type, result_type=result_type)
        step = StepContext(run_id, "order", f"{run_id}/{name}", name, attempt)
        step_call = StepCall(
            position=0,
            name=name,
            kind=StepKind.INLINE if inline else StepKind.FUNCTION,
            policy=Policy(max_delay_us=0, timeout_us=None if timeout_s is None else int(timeout_s * 1e6)),
            body=call if inline else function,
            data=self.values.encode(data, what="data") if takes_data or data is not None else None,
            result_type=result_type,
            variables=copy_context(),
        )
        watched.attempt = self.workers.begin(step_call, step, watched.began, watched.ended)
        watched.attempt.late = watched.late.append
        return watched

    def begin_process(self, function: Any, **options: Any) -> Watched:
        options.setdefault("result_type", function.result_type)
        return self.begin(function.fn, "process", function=function, **options)


@asynccontextmanager
async def scene(
    application: object = None, grace_s: float = 0.0, in_processes: Iterable[Callable[..., Any]] = (), **settings: Any
) -> AsyncIterator[Scene]:
    """Workers that are closed at the end. What is asked to stop then has 50 ms for it."""
    settings.setdefault("cancel_grace", "50ms")
    stage = Scene(application, settings, in_processes)
    try:
        yield stage
    finally:
        await stage.workers.close(grace_s)


async def turns(count: int = 5) -> None:
    """Let the event loop turn a few times."""
    for _ in range(count):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait, in real time, for what another thread or process is about to do."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)
