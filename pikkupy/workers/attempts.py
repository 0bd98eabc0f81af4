"""One attempt of a step: from the work order to its one outcome.

    waiting ──▶ running ──▶ over
       │           │ stop, timeout
       │           ▼
       │       asked to end ──▶ over     in time, or abandoned after the grace
       └──────────────────────▶ over     stopped before its turn came

Each kind of worker says how its body is started and how it is asked to end; the rest is the same for all.
"""

from __future__ import annotations

import asyncio
import io
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from functools import partial
from threading import Thread
from typing import Any, Literal

import msgspec

from pikkupy.core.outcomes import Failed, Outcome, Stopped, Succeeded
from pikkupy.core.ports import Cancellable, Scheduler, Values
from pikkupy.errors import NonRetryableError, PayloadError
from pikkupy.failures import describe
from pikkupy.log import logger
from pikkupy.services import StepContext, bind, enter
from pikkupy.workers.lanes import Lane
from pikkupy.workers.messages import Reply, Request, find_function, source_of_main
from pikkupy.workers.processes import Processes
from pikkupy.workers.threads import Threads

Where = Literal["inline", "async", "thread", "process"]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The work order for one attempt."""

    context: StepContext
    where: Where
    call: Callable[..., Any]  # inline: of no arguments; else the plain function of the application
    data: str | None  # encoded; None if the function takes none
    data_type: Any
    result_type: Any
    variables: Context  # each attempt runs in a copy of it
    timeout_us: int | None
    importable: tuple[str, str] | None  # module and qualified name, for worker processes


@dataclass(slots=True)
class Premises:
    """What all attempts of one engine share."""

    loop: asyncio.AbstractEventLoop
    values: Values
    scheduler: Scheduler
    application: object
    cancel_grace_us: int
    threads: Threads[Outcome]
    processes: Processes
    loop_is_ending: Callable[[], bool]
    left_behind: set[Attempt] = field(default_factory=set)  # the loop itself would let their tasks be collected


class Attempt:
    """One attempt. `late`, if set, gets the outcome of an attempt that had been stopped and ended after all."""

    def __init__(
        self,
        job: Job,
        premises: Premises,
        lane: Lane[Attempt],
        began: Callable[[], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self.job = job
        self.late: Callable[[Outcome], None] | None = None
        self.over = False
        self.stopping = False
        self.timed_out = False
        self._premises = premises
        self._lane = lane
        self._began = began
        self._ended = ended
        self._started = False
        self._has_begun = False
        self._timer: Cancellable | None = None

    # For the engine

    def stop(self) -> None:
        """Ask the attempt to stop. Its end, with whatever it comes to, is told as usual, if need be after the grace."""
        if self.over or self.stopping:
            return
        self.stopping = True
        if not self._started:
            self._lane.withdraw(self)
            self.end(Stopped())
        elif not self.timed_out:
            self._disarm()
            self._ask_to_end()

    # For the workers

    def start(self) -> None:
        """A slot is free."""
        self._started = True
        self._run()

    def halt(self) -> None:
        """Stop without a grace for bodies that can be ended from outside."""
        self.stop()

    def abandon(self) -> None:
        """Leave a body behind that does not end; what comes of it does not count any more."""
        if self.over:
            return
        step = self.job.context
        logger().warning(
            "step_abandoned",
            run_id=step.run_id,
            workflow=step.workflow,
            step=step.step_name,
            attempt=step.attempt_count,
            worker=self.job.where,
            stack=self._stack(),
        )
        self._premises.left_behind.add(self)
        self.end(self._timeout() if self.timed_out else Stopped())

    def end(self, outcome: Outcome) -> None:
        """Tell the outcome: the first to `ended`, one of a body that was given up before to `late`."""
        if self.over:
            self._premises.left_behind.discard(self)
            if self.late is not None:
                self.late(outcome)
            return
        self.over = True
        self._disarm()
        if not (self._has_begun or isinstance(outcome, Stopped)):
            self._began()  # whoever hears of a result has heard of the beginning
        if self._started:
            self._lane.leave(self)
        self._ended(outcome)

    # What the kinds of workers fill in

    def _run(self) -> None:
        raise NotImplementedError

    def _ask_to_end(self) -> None:
        raise NotImplementedError

    def _expire(self) -> None:
        raise NotImplementedError

    def _stack(self) -> str:
        return ""

    # What they share

    def _begin(self) -> None:
        """The body begins; its time-out counts from here."""
        self._has_begun = True
        self._began()
        if self.job.timeout_us is not None:
            self._arm(self.job.timeout_us, self._time_out)

    def _time_out(self) -> None:
        self._timer = None
        self.timed_out = True
        self._expire()

    def _arm(self, after_us: int, callback: Callable[[], object]) -> None:
        self._disarm()
        self._timer = self._premises.scheduler.call_at(self._premises.scheduler.now_us() + after_us, callback)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timeout(self, cause: BaseException | None = None) -> Failed:
        step = self.job.context.step_name
        error = TimeoutError(f"step {step!r} did not end within its timeout of {(self.job.timeout_us or 0) / 1e6:g} s")
        error.__cause__ = cause
        return failure(error)

    def _arguments(self) -> tuple[Any, ...]:
        """What the function is called with. Raises `PayloadError`."""
        job = self.job
        services = bind(self._premises.application, job.context)
        if job.data is None:
            return (services,)
        what = f"data of step {job.context.step_name!r}"
        return services, self._premises.values.decode(job.data, job.data_type, what=what)

    def _success(self, value: object) -> Outcome:
        job = self.job
        what = f"output of step {job.context.step_name!r}"
        try:
            return Succeeded(self._premises.values.encode(value, job.result_type, what=what))
        except PayloadError as error:
            return refusal(error)
        except BaseException as error:  # noqa: BLE001 - the value's own code has failed
            return failure(error)


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
        if self._task is None:
            return ""
        text = io.StringIO()
        self._task.print_stack(file=text)
        return text.getvalue()


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


class ThreadAttempt(Attempt):
    """A `def` function on a thread. Nothing can end a thread, so it is left behind at once."""

    _thread: Thread | None = None

    def _run(self) -> None:
        self._begin()
        context = self.job.variables.copy()
        name = f"pikkupy {self.job.context.step_name}"
        self._thread = self._premises.threads.submit(name, partial(context.run, self._work), self.end)

    def _ask_to_end(self) -> None:
        self.abandon()

    def _expire(self) -> None:
        self.abandon()

    def _work(self) -> Outcome:
        """On the thread."""
        enter(self.job.context)
        try:
            arguments = self._arguments()
        except PayloadError as error:
            return refusal(error)
        try:
            value = self.job.call(*arguments)
        except BaseException as error:  # noqa: BLE001 - whatever a step raises is its failure
            return failure(error)
        return self._success(value)

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0) if self._thread else None
        return "" if frame is None else "".join(traceback.format_stack(frame))


class ProcessAttempt(TaskAttempt):
    """A function in a worker process, which is killed if it must end: after the grace if it is only asked to."""

    _killed = False

    def _run(self) -> None:
        self._spawn(self._converse())

    def _ask_to_end(self) -> None:
        if self._has_begun:
            self._arm(self._premises.cancel_grace_us, self._interrupt)
        else:
            self._interrupt()

    def halt(self) -> None:
        self.stop()
        if not self.over:
            self._interrupt()

    def _interrupt(self) -> None:
        if not self._killed:  # a second cancel would cut off the wait for the killed process
            self._killed = True
            super()._interrupt()

    async def _converse(self) -> Outcome:
        try:
            answer = await self._premises.processes.call(self._request(), self._begin, self.job.context)
            return self._reply(msgspec.msgpack.decode(answer, type=Reply))
        except asyncio.CancelledError as error:
            return self._interrupted(error)
        except Exception as error:  # noqa: BLE001 - a lost worker, or an answer that makes no sense
            return Failed(describe(error), None, final=isinstance(error, PayloadError))

    def _request(self) -> bytes:
        job = self.job
        assert job.importable is not None
        module, name = job.importable
        main = source_of_main()
        return msgspec.msgpack.encode(Request(module=module, name=name, step=job.context, data=job.data, main=main))

    def _reply(self, reply: Reply) -> Outcome:
        if reply.error is not None:
            return Failed(reply.error, None, reply.final)
        return Succeeded(self._as_asked(reply.output or "null"))

    def _as_asked(self, output: str) -> str:
        """The process encodes to the function's own annotation; the call may have named another `result_type`."""
        job, values = self.job, self._premises.values
        assert job.importable is not None
        annotation = find_function(*job.importable).result_type
        if annotation is job.result_type or annotation == job.result_type:
            return output
        what = f"output of step {job.context.step_name!r}"
        return values.encode(values.decode(output, annotation, what=what), job.result_type, what=what)


def failure(error: BaseException) -> Failed:
    """The body has raised `error`."""
    return Failed(describe(error), error, final=isinstance(error, NonRetryableError))


def refusal(error: PayloadError) -> Failed:
    """Data or output cannot be kept; another attempt would not change that."""
    return Failed(describe(error), error, final=True)


def _call_in(step: StepContext, call: Callable[[], object]) -> object:
    enter(step)
    return call()


def _drop_unawaited(awaitable: object, task: asyncio.Task[Outcome]) -> None:
    """Close a coroutine whose task was cancelled before it could await it, or Python warns about it."""
    if task.cancelled() and asyncio.iscoroutine(awaitable):
        awaitable.close()


KINDS: dict[Where, type[Attempt]] = {
    "inline": LoopAttempt,
    "async": LoopAttempt,
    "thread": ThreadAttempt,
    "process": ProcessAttempt,
}
