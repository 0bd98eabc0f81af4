"""The machine of one run: it takes one recorded outcome at a time and answers with commands.

Live and replay take one path: `begin`, then `deliver` for each outcome in recorded order, each drained to quiet.
"""

from __future__ import annotations

import asyncio
import os.path
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from pikkupy.core.commands import Armed, Cancelled, Commands, Completed, End, Failed, Parked, StepCall
from pikkupy.core.decide import mismatch, not_asked_for
from pikkupy.core.history import Event, History, StepOutcome, TimerFired
from pikkupy.core.model import ErrorInfo, Recorded, StepStatus
from pikkupy.core.ports import Values
from pikkupy.errors import StepFailed, WorkflowMisuse
from pikkupy.failures import describe, storable
from pikkupy.registry import WorkflowFunction
from pikkupy.run_loop import RunFuture, RunTask, Unwind, new_run_loop

_HERE = os.path.dirname(__file__)  # noqa: PTH120 - compared with code file names, which are strings


class StepFuture(RunFuture[Any]):
    """What a durable call returns. Cancelling it, directly or through a task that awaits it, stops the step."""

    def __init__(self, execution: Execution, call: StepCall) -> None:
        super().__init__(execution.loop)
        self._execution = execution
        self.call = call

    def cancel(self, msg: Any = None) -> bool:
        """Ask the step to stop; it is recorded as cancelled and its outcome is not seen here."""
        if not super().cancel(msg):
            return False
        self._execution.stop_step(self.call.position)
        return True


class Execution:
    """One run in memory. Every method is called from a plain callback of the host loop."""

    def __init__(self, workflow: WorkflowFunction[Any, Any], recorded: Recorded, values: Values) -> None:
        self.run = recorded.run
        self.loop = new_run_loop(recorded.run.run_id, recorded.run.created_at)
        self.open: dict[int, StepFuture] = {}  # steps that the run has asked for and that have no outcome, by position
        self.replaying = bool(recorded.steps or recorded.timers)  # of a new run nothing was executed before
        self._workflow = workflow
        self.values = values
        self._history = History(recorded)
        self.reached = 0  # durable calls so far: the position of the next one
        self._ordinals: dict[str, int] = {}
        self._calls: list[StepCall] = []
        self._stopped: list[int] = []
        self._end: End | None = None
        self._main: RunTask[Any] | None = None

    # What the engine calls

    def begin(self, body: Callable[[Any], Coroutine[Any, Any, Any]], variables: Context) -> Commands:
        """Start the workflow and run it through everything that is recorded of it.

        `body` makes the coroutine from the decoded input. The commands are what is left to do: the steps that have
        no outcome yet, with those that are to be stopped among them.
        """
        try:
            data = self.values.decode(self.run.input, self._workflow.data_type, what="input of the run")
        except Exception as error:  # noqa: BLE001 - whatever the code of its type raises, the record stays
            return self._parked(f"the recorded input no longer fits: {error}")
        self._main = self.loop.create_task(body(data), context=variables)
        self._main.add_done_callback(self._finished)
        history = self._history
        self._turn()
        for event in history.events:
            if self._end is not None:
                break
            self._apply(event)
            self._turn()
        self._end_replay(history)
        return self._commands()

    def deliver(self, event: Event) -> Commands:
        """Hand one outcome to the run, after it is on disk."""
        self._apply(event)
        self._turn()
        return self._commands()

    def tear_down(self) -> None:
        """Take the run out of memory. Plain code in `finally` blocks runs; durable calls in there raise `Unwind`."""
        if self._end is None:
            self._end = Parked("taken out of memory")
        self.loop.tear_down()
        self.open.clear()

    # What `Workflow` calls

    def check_caller(self, what: str) -> None:
        """Raise `WorkflowMisuse` unless the call comes from the run's own code, and `Unwind` if that is being ended."""
        if asyncio._get_running_loop() is not self.loop:
            raise WorkflowMisuse(self._misuse(what))
        if self._end is not None:
            raise Unwind

    def name_step(self, name: str) -> str:
        """`name`, with its ordinal if the run has reached a step of that name before."""
        ordinal = self._ordinals.get(name, 0)
        self._ordinals[name] = ordinal + 1
        return f"{name}#{ordinal}" if ordinal else name

    def is_settled(self, position: int) -> bool:
        """True if the outcome of the step at `position` is on record, so that nothing has to be prepared for it."""
        return self._history.has_outcome(position)

    def has_ended(self, position: int) -> bool:
        """True if the step at `position` is on record as over, so that its target is not needed."""
        return self._history.has_ended(position)

    def place(self, call: StepCall) -> StepFuture:
        """Give the call its place in the run. If the record has another step there, the run is parked."""
        if self._history.steps:
            self._compare(call)
        self.reached += 1
        future = StepFuture(self, call)
        self.open[call.position] = future
        self._calls.append(call)
        return future

    def _compare(self, call: StepCall) -> None:
        different = mismatch(self._history.steps.get(call.position), call)
        if different is not None:
            self._park(f"{different} at {_place_of_call()}")
            raise Unwind

    def stop_step(self, position: int) -> None:
        """Nobody waits for the step any more."""
        if self.open.pop(position, None) is not None:
            self._stopped.append(position)

    def cancel(self, reason: str) -> None:
        """End the run as cancelled, now."""
        self._finish(Cancelled(storable(reason)))

    # Inside

    def _apply(self, event: Event) -> None:
        self.loop.advance(event.at_us)
        match event:
            case StepOutcome():
                self._settle(event)
            case TimerFired():
                self._fire(event)

    def _settle(self, event: StepOutcome) -> None:
        if event.position >= self.reached:
            self._park(not_asked_for(self._history, self.reached) or f"step {event.position} was not asked for")
            return
        future = self.open.pop(event.position, None)
        if future is None or future.done():
            return  # the workflow stopped waiting for it before
        if event.error is not None:
            future.set_exception(step_failed(future.call.name, event.attempts, event.error))
        elif future.call.body is None:
            future.set_result(None)  # a sleep
        else:
            self._settle_value(future, event.output or "null")

    def _settle_value(self, future: StepFuture, output: str) -> None:
        call = future.call
        try:
            value = self.values.decode(output, call.result_type, what=f"output of step {call.name!r}")
        except Exception as error:  # noqa: BLE001 - as for the input
            self._park(f"step {call.position}: the recorded value no longer fits: {error}")
        else:
            future.set_result(value)

    def _fire(self, event: TimerFired) -> None:
        due_us = self.loop.timer_due(event.number)
        if due_us != event.due_us:
            self._park(
                f"asyncio timer {event.number}: recorded as due at {event.due_us}, the code "
                + ("sets no such timer" if due_us is None else f"sets it for {due_us} (epoch µs)")
            )
            return
        self.loop.fire(event.number)

    def _turn(self) -> None:
        """Run the workflow until it is quiet, and see whether anything can wake it again."""
        try:
            self.loop.turn()
        except WorkflowMisuse as error:
            self._finish(Failed(describe(error)))
        if self._end is None and not self.open and not self.loop.waits_for_timer and not self.replaying:
            self._finish(Failed(describe(WorkflowMisuse(self._stuck()))))

    def _end_replay(self, history: History) -> None:
        self.replaying = False
        missing = not_asked_for(history, self.reached)
        if missing is not None and not isinstance(self._end, Parked):
            self._end = None
            self._park(missing)
        for position in self.open:
            row = history.steps.get(position)
            if row is not None and row.status is StepStatus.CANCELLED:
                self._park(f"step {position}: {row.name!r} is recorded as cancelled, the code waits for it")
        if self._end is None:
            self._turn()

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if self._end is not None:
            return
        if task.cancelled():
            self._finish(Failed(describe(asyncio.CancelledError("the workflow's own task was cancelled"))))
            return
        error = task.exception()
        if error is not None:
            self._finish(Failed(_described(error)))
            return
        try:
            output = self.values.encode(task.result(), self._workflow.result_type, what="output of the run")
        except Exception as unfit:  # noqa: BLE001 - PayloadError, or what the value's own code raises
            self._finish(Failed(describe(unfit)))
        else:
            self._finish(Completed(output))

    def _finish(self, end: End) -> None:
        if self._end is None:
            self._end = end
        self.loop.stop()

    def _park(self, why: str) -> None:
        self._finish(Parked(storable(f"ReplayMismatch: {why}")))

    def _parked(self, why: str) -> Commands:
        self._park(why)
        return self._commands()

    def _commands(self) -> Commands:
        calls, self._calls = self._calls, []
        stopped, self._stopped = self._stopped, []
        if self._history.events:  # at the end of a replay most of what was asked for has its outcome
            calls = [call for call in calls if not self.is_settled(call.position)]
            stopped = [position for position in stopped if not self.is_settled(position)]
        armed = [Armed(timer.number, timer.due_us, timer.delay_us) for timer in self.loop.take_armed()]
        return Commands(calls, stopped, armed, self.loop.take_dropped(), self._end)

    def _misuse(self, what: str) -> str:
        run = f"run {self.run.run_id!r}"
        if self._end is not None:
            return f"workflow.{what} was called after {run} had ended or left memory; nothing was done"
        return (
            f"workflow.{what} of {run} was called outside its workflow function (inside a step, on another thread or "
            "event loop); call it in the workflow body and hand its result to the step"
        )

    def _stuck(self) -> str:
        return (
            "the workflow waits for something that no durable call, timer or signal can bring about; await I/O and "
            "threads inside a step: `await workflow.do(name, ...)`"
        )


def step_failed(name: str, attempts: int, error: ErrorInfo) -> StepFailed:
    """The exception that a workflow sees, the same live and on every replay."""
    return StepFailed(name, attempts, error.type, error.message, error.traceback, error.bases)


def _described(error: BaseException) -> ErrorInfo:
    """How an error that left the workflow is recorded: of a failed step, the step's own type and message."""
    described = describe(error)
    if not isinstance(error, StepFailed):
        return described
    both = f"{error.traceback}\nThat is why step {error.step_name!r} failed; the workflow:\n\n{described.traceback}"
    return ErrorInfo(error.error_type, error.message, both, error.bases)


def _place_of_call() -> str:
    """`file:line` of the nearest caller outside this room."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_HERE):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
