"""Attempts that are tasks of the event loop: of `async` functions, of inline steps, and as a base of others."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextvars import Context
from types import FrameType, NoneType
from typing import Any

from pikkupy.core.commands import StepCall
from pikkupy.core.model import StepKind
from pikkupy.core.outcomes import OUTCOME, Outcome, Stopped
from pikkupy.core.ports import Values
from pikkupy.errors import PayloadError
from pikkupy.services import StepContext, call_in, enter
from pikkupy.workers.attempts import Attempt, failure, refusal, success, variables_of

_NOT_AWAITABLE = frozenset({NoneType, bool, int, float, str, bytes, list, tuple, dict})  # most values


class TaskAttempt(Attempt):
    """An attempt with a task on the event loop, which ends when it is cancelled."""

    _task: asyncio.Task[Outcome] | None = None
    _interruption: BaseException | None = None  # the CancelledError; it knows where the body stood

    def _spawn(self, body: Coroutine[Any, Any, Outcome], context: Context | None = None) -> None:
        self._task = self._premises.loop.create_task(body, name=self.step.step_id, context=context)
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
        if task.cancelled():  # before its first line ran: it never got to catch it
            self._never_began()
            outcome: Outcome = self._interrupted(asyncio.CancelledError())
        else:
            outcome = task.result()
        if self.timed_out and not self.over:
            self.end(self._timeout(self._interruption))
            if isinstance(outcome, Stopped):
                return
        self.end(outcome)

    def _never_began(self) -> None:
        """The task was cancelled before it began."""

    def _stack(self) -> str:
        return "" if self._task is None else stack_of(self._task)


class LoopAttempt(TaskAttempt):
    """An `async` function or an inline step, on the event loop."""

    _awaitable: Awaitable[object] | None = None  # that an inline step's callable has returned

    def _run(self) -> None:
        self._begin()
        context = variables_of(self.call)
        if self.call.kind is not StepKind.INLINE:
            self._spawn(self._call(), context)
            return
        began_us = self._premises.scheduler.now_us()
        came = call_inline(self._premises.values, self.call, self.step, context)
        if not isinstance(came, OUTCOME):
            self._await(came, context)
        elif self._took_too_long(began_us):
            self.end(self._timeout())
        else:
            self.end(came)

    def _took_too_long(self, began_us: int) -> bool:
        """Nothing can stop a callable that does not await; that it took too long is noticed when it returns."""
        limit_us = self.call.policy.timeout_us
        return limit_us is not None and self._premises.scheduler.now_us() - began_us > limit_us

    def take_over(self, awaitable: Awaitable[object], context: Context) -> None:
        """Await what the callable of an inline step has returned; the attempt has its slot already."""
        self.started = self._has_begun = True
        self._await(awaitable, context)

    def _await(self, awaitable: Awaitable[object], context: Context) -> None:
        self._awaitable = awaitable
        self._spawn(self._outcome(awaitable), context)

    def _never_began(self) -> None:
        _drop(self._awaitable)

    def _ask_to_end(self) -> None:
        self._interrupt()

    async def _call(self) -> Outcome:
        enter(self.step)
        try:
            arguments = self._arguments()
        except PayloadError as error:
            return refusal(error)
        return await self._outcome(_called(self.call.body.fn, arguments))

    async def _outcome(self, body: Awaitable[object]) -> Outcome:
        """What comes of the body. Raises nothing: asyncio would let SystemExit and its like out of the loop."""
        if self._premises.held:
            _drop(body)
            return Stopped()
        try:
            value = await body
        except asyncio.CancelledError as error:
            return self._interrupted(error)
        except GeneratorExit as error:
            if asyncio.current_task() is not self._task:
                raise  # not the body's: this coroutine itself is being collected
            return failure(error)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
            return failure(error)
        return self._success(value)


async def _called(fn: Callable[..., Awaitable[object]], arguments: Sequence[object]) -> object:
    return await fn(*arguments)


def call_inline(values: Values, call: StepCall, step: StepContext, context: Context) -> Outcome | Awaitable[object]:
    """Call the callable of an inline step, here and now: what came of it, or what is to be awaited for that."""
    try:
        value = context.run(call_in, step, call.body)
        kind = type(value)
        # A class that has it not is asked at length, and may answer by raising.
        if kind not in _NOT_AWAITABLE and hasattr(kind, "__await__"):
            return value  # type: ignore[no-any-return]
    except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
        return failure(error)
    return success(values, call, value)


def _drop(awaitable: object) -> None:
    """Close a coroutine that is not awaited, or Python warns about it."""
    if asyncio.iscoroutine(awaitable):
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
