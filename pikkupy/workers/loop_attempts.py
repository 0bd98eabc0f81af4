"""Attempts that are tasks of the event loop: of `async` functions, of inline steps, and as a base of others."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from functools import partial
from types import FrameType
from typing import Any

from pikkupy.core.outcomes import Outcome, Stopped
from pikkupy.errors import PayloadError
from pikkupy.services import StepContext, enter
from pikkupy.workers.attempts import Attempt, failure, refusal


class TaskAttempt(Attempt):
    """An attempt with a task on the event loop, which ends when it is cancelled."""

    _task: asyncio.Task[Outcome] | None = None
    _interruption: BaseException | None = None  # the CancelledError; it knows where the body stood

    def _spawn(self, body: Coroutine[Any, Any, Outcome], context: Context | None = None) -> None:
        self._task = self._premises.loop.create_task(body, name=self.job.context.step_id, context=context)
        self._task.add_done_callback(self._task_done)

    def _interrupt(self) -> None:
        """Cancel the task; abandon it if that does not help within the grace."""
        if self._task is not None:
            self._task.cancel()
            self._arm(self._premises.cancel_grace_us, self.abandon)

    def _expire(self) -> None:
        self._interrupt()

    def _interrupted(self, error: BaseException) -> Outcome:
        """What a CancelledError means. One that nobody here asked for is the body's own, unless the loop ends."""
        self._interruption = error
        if self.stopping or self.timed_out or self._premises.loop_is_ending():
            return Stopped()
        return failure(error)

    def _task_done(self, task: asyncio.Task[Outcome]) -> None:
        self._task = None  # or an error that it ended with would keep itself alive in a circle
        # Cancelled before its first line ran, a task never gets to catch it.
        outcome = self._interrupted(asyncio.CancelledError()) if task.cancelled() else task.result()
        if self.timed_out and not self.over:
            self.end(self._timeout(self._interruption))
            if isinstance(outcome, Stopped):
                return
        self.end(outcome)

    def _stack(self) -> str:
        return "" if self._task is None else stack_of(self._task)


class LoopAttempt(TaskAttempt):
    """An `async` function or an inline step, on the event loop."""

    def _run(self) -> None:
        self._begin()
        context = self.job.variables.copy()
        if self.job.where == "async":
            self._spawn(self._call(), context)
        else:
            self._run_inline(context)

    def _run_inline(self, context: Context) -> None:
        """Call it here and now; await what it returns in a task if that is to be awaited."""
        job = self.job
        try:
            value: Any = context.run(_call_in, job.context, job.call)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
            self.end(failure(error))
            return
        if hasattr(type(value), "__await__"):
            self._spawn(self._outcome(lambda: value), context)
            assert self._task is not None
            self._task.add_done_callback(partial(_drop_unawaited, value))
        else:
            self.end(self._success(value))

    def _ask_to_end(self) -> None:
        self._interrupt()

    async def _call(self) -> Outcome:
        job = self.job
        enter(job.context)
        try:
            arguments = self._arguments()
        except PayloadError as error:
            return refusal(error)
        return await self._outcome(lambda: job.call(*arguments))

    async def _outcome(self, call: Callable[[], Awaitable[object]]) -> Outcome:
        """What comes of the body. Raises nothing: asyncio would let SystemExit and its like out of the loop."""
        try:
            value = await call()
        except asyncio.CancelledError as error:
            return self._interrupted(error)
        except GeneratorExit as error:
            if asyncio.current_task() is not self._task:
                raise  # not the body's: this coroutine itself is being collected
            return failure(error)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
            return failure(error)
        return self._success(value)


def _call_in(step: StepContext, call: Callable[[], object]) -> object:
    enter(step)
    return call()


def _drop_unawaited(awaitable: object, task: asyncio.Task[Outcome]) -> None:
    """Close a coroutine whose task was cancelled before it could await it, or Python warns about it."""
    if task.cancelled() and asyncio.iscoroutine(awaitable):
        awaitable.close()


def stack_of(task: asyncio.Task[Any]) -> str:
    """Where a waiting task stands, down to the innermost `await`; asyncio itself shows the outermost only."""
    frames: list[tuple[FrameType, int]] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None) or getattr(waiting, "gi_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "gi_yieldfrom", None)
    return "".join(traceback.StackSummary.extract(iter(frames)).format())
