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
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pikkupy.core.outcomes import Failed, Outcome, Stopped, Succeeded
from pikkupy.core.ports import Cancellable, Scheduler, Values
from pikkupy.errors import NonRetryableError, PayloadError
from pikkupy.failures import describe
from pikkupy.log import logger
from pikkupy.services import StepContext, bind
from pikkupy.workers.lanes import Lane
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


def failure(error: BaseException) -> Failed:
    """The body has raised `error`."""
    return Failed(describe(error), error, final=isinstance(error, NonRetryableError))


def refusal(error: PayloadError) -> Failed:
    """Data or output cannot be kept; another attempt would not change that."""
    return Failed(describe(error), error, final=True)
