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

from pikkupy.core.commands import StepCall
from pikkupy.core.model import StepKind
from pikkupy.core.outcomes import Failed, Outcome, Stopped, Succeeded
from pikkupy.core.ports import Cancellable, Scheduler, Values
from pikkupy.errors import NonRetryableError, PayloadError
from pikkupy.failures import describe
from pikkupy.log import Logger
from pikkupy.services import StepContext, bind
from pikkupy.workers.lanes import Lane
from pikkupy.workers.processes import Processes
from pikkupy.workers.threads import Threads

Where = Literal["inline", "async", "thread", "process"]


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
    log: Logger
    loop_is_ending: Callable[[], bool]
    held: bool = False  # no body begins any more
    left_behind: set[Attempt] = field(default_factory=set)  # the loop itself would let their tasks be collected


class Attempt:
    """One attempt. `late`, if set, gets the outcome of an attempt that had been stopped and ended after all.

    Until it has `started` it waits for a slot, and nothing of its body can have run.
    """

    def __init__(
        self,
        call: StepCall,
        step: StepContext,
        premises: Premises,
        lane: Lane[Attempt],
        began: Callable[[], None],
        ended: Callable[[Outcome], None],
    ) -> None:
        self.call = call
        self.step = step
        self.late: Callable[[Outcome], None] | None = None
        self.over = False
        self.stopping = False
        self.timed_out = False
        self._premises = premises
        self._lane = lane
        self._began = began
        self._ended = ended
        self.started = False
        self._has_begun = False
        self._timer: Cancellable | None = None

    # For the engine

    @property
    def run_id(self) -> str:
        """The run whose step it is of."""
        return self.step.run_id

    def stop(self) -> None:
        """Ask the attempt to stop. Its end, with whatever it comes to, is told as usual, if need be after the grace."""
        if self.over or self.stopping:
            return
        self.stopping = True
        if not self.started:
            self._lane.withdraw(self)
            self.end(Stopped())
        elif not self.timed_out:
            self._disarm()
            self._ask_to_end()

    # For the workers

    def start(self) -> None:
        """A slot is free."""
        self.started = True
        if self._premises.held:
            self.end(Stopped())
        else:
            self._run()

    def drop(self) -> None:
        """End it if its body has not begun. What asks the premises before it does needs nothing for that."""

    def halt(self) -> None:
        """Stop without a grace for bodies that can be ended from outside."""
        self.stop()

    def abandon(self) -> None:
        """Leave a body behind that does not end; what comes of it does not count any more."""
        if self.over:
            return
        step = self.step
        self._premises.log.warning(
            "step_abandoned",
            run_id=step.run_id,
            workflow=step.workflow,
            step=step.step_name,
            attempt=step.attempt_count,
            worker=where(self.call),
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
        if not isinstance(outcome, Stopped):
            self.late = None  # a time-out is its end, whatever the body comes to afterwards
        self._disarm()
        if not (self._has_begun or isinstance(outcome, Stopped)):
            self._began()  # whoever hears of a result has heard of the beginning
        if self.started:
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
        if self.call.policy.timeout_us is not None:
            self._arm(self.call.policy.timeout_us, self._time_out)

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
        timeout_s = (self.call.policy.timeout_us or 0) / 1e6
        error = TimeoutError(f"step {self.step.step_name!r} did not end within its timeout of {timeout_s:g} s")
        error.__cause__ = cause
        return failure(error)

    def _arguments(self) -> tuple[Any, ...]:
        """What the function is called with. Raises `PayloadError`."""
        services = bind(self._premises.application, self.step)
        if self.call.data is None:
            return (services,)
        data, data_type = self.call.data, self.call.body.data_type
        return services, self._premises.values.decode(data, data_type, what="data of step", name=self.call.name)

    def _success(self, value: object) -> Outcome:
        return success(self._premises.values, self.call, value)


def where(call: StepCall) -> Where:
    """The kind of worker that runs the step."""
    if call.kind is StepKind.INLINE:
        return "inline"
    worker: Where = call.body.worker
    return worker


def variables_of(call: StepCall) -> Context:
    """The contextvars of the call, in a copy for one attempt."""
    assert call.variables is not None  # only sleeps, signals and gates have none
    return call.variables.copy()


def success(values: Values, call: StepCall, value: object) -> Succeeded | Failed:
    """The body has returned `value`."""
    try:
        return Succeeded(values.encode(value, call.result_type, what="output of step", name=call.name))
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
