"""The machine of one run: it takes one recorded outcome at a time and answers with commands.

Live and replay take one path: `begin`, then `deliver` for each outcome in recorded order, each drained to quiet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextvars import Context
from threading import get_ident
from typing import Any, NoReturn

import msgspec
from msgspec import structs

from pikkupy.core.commands import Armed, Cancelled, Commands, Completed, End, Failed, Parked, StepCall
from pikkupy.core.decide import mismatch, not_asked_for
from pikkupy.core.history import NO_HISTORY, Event, History
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import FULL, MAX_OWN, ErrorInfo, Recorded, StepKind, StepRow, StepStatus, TimerRow
from pikkupy.core.ports import Values
from pikkupy.errors import PayloadError, PikkuError, SignalTimeout, StepFailed, WorkflowMisuse, dotted_name
from pikkupy.execution.approvals import approval_of
from pikkupy.failures import describe, storable
from pikkupy.moments import moment
from pikkupy.progress import Progress
from pikkupy.registry import WorkflowFunction
from pikkupy.run_loop import CURE, Intruded, RunFuture, Unwind, new_run_loop, place_of_call

_TAKEN_OUT = Parked("taken out of memory")
_PLACE = re.compile(r'^  File "(.+)", line (\d+)', re.MULTILINE)  # in a traceback
MAX_QUOTED = 500  # characters of an error that a reason quotes
_NONE: list[int] = []  # the usual list of stopped steps, shared and never changed
_NO_NAMES: frozenset[str] = frozenset()  # one for all runs: each `frozenset()` is an object of its own


class StepFuture(RunFuture[Any]):
    """What a durable call returns. Cancelling it, directly or through a task that awaits it, stops the step."""

    __slots__ = ("call", "execution")

    call: StepCall
    execution: Execution

    def cancel(self, msg: Any = None) -> bool:
        """Ask the step to stop; it is recorded as cancelled and its outcome is not seen here."""
        if not super().cancel(msg):
            return False
        self.execution.stop_step(self.call.position)
        return True


class Execution:
    """One run in memory. Every method is called from a plain callback of the host loop."""

    __slots__ = (
        "_calls",
        "_changed",
        "_end",
        "_events_left",
        "_history",
        "_ordinals",
        "_passed",
        "_seq",
        "_set_aside",
        "_stopped",
        "_unchanged",
        "_workflow",
        "approvals",
        "loop",
        "open",
        "reached",
        "replaying",
        "run",
        "told",
        "values",
    )

    def __init__(
        self, workflow: WorkflowFunction[Any, Any], recorded: Recorded, values: Values, intruded: Intruded
    ) -> None:
        self.run = recorded.run
        self.loop = new_run_loop(recorded.run.number, recorded.run.starts_at, intruded)
        self.open: dict[int, StepFuture] = {}  # steps that the run has asked for and that have no outcome, by position
        self.replaying = bool(recorded.steps or recorded.timers)  # of a new run nothing was executed before
        self._workflow = workflow
        self.values = values
        self._history = History(recorded.steps, recorded.timers) if self.replaying else NO_HISTORY
        self.told: Progress | None = None  # how far the run says that it is; taken by the engine
        self.approvals = _NO_NAMES  # names of those that the run has asked for, decided ones too
        self.reached = 0  # durable calls so far: the position of the next one
        self._ordinals: dict[str, int] = {}
        self._calls: list[StepCall] = []
        self._stopped = _NONE
        self._end: End | None = None
        self._seq = 0  # place of the newest event that the run was told, while it is replayed
        self._events_left = 0  # to be told in this replay
        self._set_aside = recorded.set_aside
        self._changed = recorded.changes  # changes of the code that the run has passed
        self._unchanged = _NO_NAMES  # that it was past before they were made
        self._passed: list[str] = []  # that it has passed since the engine asked last

    # What the engine calls

    def begin(self, context: object, variables: Context) -> Commands:
        """Start the workflow and run it through everything that is recorded of it.

        `context` is what the workflow gets as its first argument. The commands are what is left to do: the steps that
        have no outcome yet, with those that are to be stopped among them.
        """
        self.start(context, variables)
        self.replay(len(self._history.events))
        return self.commands()

    def start(self, context: object, variables: Context) -> None:
        """The beginning of `begin`: up to where the workflow waits for the first time."""
        try:
            data = self.values.decode(self.run.input, self._workflow.data_type, what="input of the run")
        except Exception as error:  # noqa: BLE001 - whatever the code of its type raises, the record stays
            self._park(f"the recorded input no longer fits: {error}")
            self.replaying = False
            return
        self.loop.start(self._workflow(context, data), variables, self._finished)
        self._turn()
        self._events_left = len(self._history.events)

    def replay(self, most: int) -> bool:
        """Run it through so many more of the outcomes on record. True at its end, or where the code differs."""
        if not self.replaying:
            return True
        events = self._history.events
        told = len(events) - self._events_left
        for event in events[told : told + most]:
            if self._end is not None:
                break
            self._events_left -= 1
            self._seq = (event.seq or 0) - isinstance(event, TimerRow)  # a timer that does not match is given up, too
            self._apply(event)
            self._seq = event.seq or 0
            self._turn()
        if self._events_left and self._end is None:
            return False
        self._replayed(self._history)
        return True

    def commands(self) -> Commands:
        """What the run has asked for since the engine asked last."""
        commands = Commands(self._calls, self._stopped, end=self._end)
        self._calls = []
        self._stopped = _NONE
        if self._passed:
            commands.passed, self._passed = self._passed, []
        if self.loop.has_timers:
            armed, commands.dropped = self.loop.take_timers()
            commands.armed = [Armed(timer.number, timer.due_us, timer.delay_us) for timer in armed]
        return commands

    def deliver(self, event: Event) -> Commands:
        """Hand one outcome to the run, after it is on disk."""
        self._apply(event)
        self._turn()
        return self.commands()

    def misused(self, why: str) -> Commands:
        """End the run as failed: code outside of it has interfered."""
        self._finish(Failed(describe(WorkflowMisuse(why))))
        return self.commands()

    def tear_down(self) -> None:
        """Take the run out of memory. Plain code in `finally` blocks runs; durable calls in there raise `Unwind`."""
        if self._end is None:
            self._end = _TAKEN_OUT
        self.loop.tear_down()
        self.open.clear()

    # What `Workflow` calls

    def check_caller(self, what: str) -> None:
        """Raise `WorkflowMisuse` unless the call comes from the run's own code, and `Unwind` if that is being ended."""
        if self.loop.thread != get_ident():
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

    def recorded(self, name: str, target: str) -> StepRow | None:
        """What is on record at the place of the next call; if nothing is, what was set aside of such a step."""
        row = self._history.steps.get(self.reached)
        if row is not None or not self._set_aside:
            return row
        ordinal = self._ordinals.get(name, 0)
        wanted = (f"{name}#{ordinal}" if ordinal else name, target)
        return next((aside for aside in self._set_aside if (aside.name, aside.target) == wanted), None)

    def changed(self, change_id: str) -> bool:
        """True if the run takes the new way at this change: it is on record that it does, or nothing that was recorded
        lies beyond it."""
        if change_id in self._changed:
            return True
        if change_id in self._unchanged:
            return False
        if self.replaying and (self._events_left or self._history.last_position >= self.reached):
            self._unchanged |= {change_id}
            return False
        self._changed |= {change_id}
        self._passed.append(change_id)
        return True

    def tell(self, progress: Progress) -> None:
        """Say how far the run is. What a replay says last was said before, but may not be on record."""
        self.told = progress

    def place(self, call: StepCall) -> StepFuture:
        """Give the call its place in the run. If the record has another step there, the run is parked.

        Raises `WorkflowMisuse` if the file has no place for one more.
        """
        if self.reached > MAX_OWN:
            raise WorkflowMisuse(f"run {self.run.run_id!r} has reached {self.reached:,} steps: {FULL}")
        if self._history.steps:
            self._compare(call)
        self.reached += 1
        future = StepFuture(self.loop)
        future.execution = self
        future.call = call
        self.open[call.position] = future
        if not (self.replaying and self._history.has_outcome(call.position)):
            # What is settled is not left to do. Kept until the end of a replay, 100,000 calls make the garbage
            # collector take a third of the time.
            self._calls.append(call)
        return future

    def park_without_target(self, call: StepCall, why: str) -> NoReturn:
        """The step is on record and under way, and what it has to run is gone, for the reason `why`: park the run."""
        self._compare(call)
        self._finish(without_target(call, why))
        raise Unwind

    def _compare(self, call: StepCall) -> None:
        different = mismatch(self._history.steps.get(call.position), call)
        if different is not None:
            self._park("{} at {}:{}".format(different, *place_of_call()), call.position)
            raise Unwind

    def stop_step(self, position: int) -> None:
        """Nobody waits for the step any more."""
        if self.open.pop(position, None) is not None:
            if self._stopped is _NONE:
                self._stopped = []
            self._stopped.append(position)

    def cancel(self, reason: str) -> None:
        """End the run as cancelled, now."""
        self._finish(Cancelled(storable(reason)))

    # Inside

    def _apply(self, row: Event) -> None:
        self.loop.thread = get_ident()
        if isinstance(row, TimerRow):
            self._fire(row)
            return
        if row.ended_at is not None and row.ended_at > self.loop.now_us:  # it never goes back
            self.loop.now_us = row.ended_at
        if row.position >= self.reached:
            missing = not_asked_for(self._history, self.reached, f"waits for {self._waits_for()}", waits=True)
            self._park(missing or f"step {row.position} was not asked for", self.reached)
            return
        future = self.open.pop(row.position, None)
        if future is None or future.done():
            return  # the workflow stopped waiting for it before
        if row.error is not None:
            future.set_exception(_error_of(future.call, row.attempts, row.error))
        elif future.call.body is None:
            future.set_result(None)  # a sleep, a gate
        else:
            call = future.call
            try:
                value = self.values.decode(
                    row.output or "null", call.result_type, what="output of step", name=call.name
                )
            except Exception as error:  # noqa: BLE001 - as for the input
                self._park(f"step {call.position}: the recorded value no longer fits: {error}")
            else:
                future.set_result(approval_of(value) if call.approval else value)

    def _fire(self, row: TimerRow) -> None:
        self.loop.now_us = max(self.loop.now_us, row.fired_at)
        due_us = self.loop.timer_due(row.number)
        if due_us != row.due_at:
            place = self.loop.timer_place(row.number)
            sets = "sets no such timer" if due_us is None else f"sets it for {moment(due_us).isoformat()}"
            self._park(
                f"asyncio timer {row.number}: recorded as due at {moment(row.due_at).isoformat()}, the code {sets}"
                + (f" at {place}" if place else ""),
                self.reached,
            )
            return
        self.loop.fire(row.number)

    def _turn(self) -> None:
        """Run the workflow until it is quiet, and see whether anything can wake it again."""
        try:
            self.loop.turn()
        except WorkflowMisuse as error:
            self._finish(Failed(describe(error)))
        if self._end is None and not self.open and not self.loop.waits_for_timer and not self.replaying:
            self._finish(Failed(describe(WorkflowMisuse(self._stuck()))))

    def _replayed(self, history: History) -> None:
        """Every outcome on record was told: what is left has to fit as well."""
        self.replaying = False
        if self.told is not None and msgspec.json.encode(self.told).decode() == self.run.progress:
            self.told = None
        waits = self._end is None
        instead = f"waits for {self._waits_for()}" if self._end is None else _ended_by(self._end)
        missing = not_asked_for(history, self.reached, instead, waits=waits)
        if missing is not None and not isinstance(self._end, Parked):
            self._end = None
            self._park(missing, self.reached)
        ended = self.run.status in FINAL_RUNS  # then its end has cancelled what it waited for
        for position in () if ended else self.open:
            row = history.steps.get(position)
            if row is not None and row.status is StepStatus.CANCELLED:
                self._park(f"step {position}: {row.name!r} is recorded as cancelled, the code waits for it", position)
        if self._end is None:
            self._turn()
        self._stopped = [position for position in self._stopped if not self.is_settled(position)]

    def _finished(self, task: asyncio.Task[Any]) -> None:
        if self._end is not None:
            return
        if task.cancelled():
            self._finish(Failed(describe(asyncio.CancelledError("the workflow's own task was cancelled"))))
            return
        error = task.exception()
        if error is not None:
            self._finish(Failed(_described(_with_cure(error))))
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

    def _park(self, why: str, position: int | None = None) -> None:
        """The code does not fit the record: from `position` on, or at all."""
        self._finish(Parked(storable(f"ReplayMismatch: {why}"), position=position, seq=self._seq))

    def _waits_for(self) -> str:
        """What the run waits for, in words, and where its body stands."""
        if self.open:
            what = self.open[min(self.open)].call.described()
            what += f" and {len(self.open) - 1} more" if len(self.open) > 1 else ""
        else:
            what = "an asyncio timer" if self.loop.waits_for_timer else "nothing that a step can bring about"
        place = self.loop.main_place()
        return f"{what} at {place}" if place else what

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


def without_target(call: StepCall, why: str) -> Parked:
    """The suspension of a run whose step is under way and has to run something that is gone, for the reason `why`."""
    return Parked(
        storable(
            f"ReplayMismatch: step {call.position}: recorded {call.described()} is under way, and {why}; the run goes "
            "on at the next open that has it"
        )
    )


def _error_of(call: StepCall, attempts: int, error: ErrorInfo) -> PikkuError:
    if call.kind is not StepKind.SIGNAL:
        return step_failed(call.name, attempts, error)
    if error.type == dotted_name(SignalTimeout):
        return SignalTimeout(call.name, attempts, error.type, error.message, error.traceback, error.bases)
    unfit = PayloadError(error.message)
    unfit.step_name = call.name
    return unfit


def step_failed(name: str, attempts: int, error: ErrorInfo) -> StepFailed:
    """The exception that a workflow sees, the same live and on every replay."""
    return StepFailed(name, attempts, error.type, error.message, error.traceback, error.bases)


def _with_cure(error: BaseException) -> BaseException:
    """asyncio's own refusal of a future of another loop does not say what to do."""
    if type(error) is not ValueError or "belongs to a different loop" not in str(error):
        return error
    misuse = WorkflowMisuse(f"a workflow body waited for a future of another event loop; {CURE}")
    misuse.__cause__ = error
    return misuse.with_traceback(error.__traceback__)


def _described(error: BaseException) -> ErrorInfo:
    """How an error that left the workflow is recorded: of a failed step, the step's own type and message."""
    described, steps = describe(error), tuple(_failed_steps(error))
    if not isinstance(error, StepFailed):
        return structs.replace(described, steps=steps) if steps else described
    both = f"{error.traceback}\nThat is why step {error.step_name!r} failed; the workflow:\n\n{described.traceback}"
    return ErrorInfo(error.error_type, error.message, both, error.bases, steps)


def _failed_steps(error: BaseException) -> Iterator[str]:
    """The steps whose failure it is that left the workflow, by itself or in a group."""
    if isinstance(error, StepFailed | PayloadError):
        if error.step_name is not None:
            yield error.step_name
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _failed_steps(part)


def _ended_by(end: End) -> str:
    """How code has ended before its time, in words, and where."""
    match end:
        case Failed(error=error):
            places = _PLACE.findall(error.traceback)
            where = " at {}:{}".format(*places[-1]) if places else ""
            return f"raised {error.type}{where}: {error.message[:MAX_QUOTED]}"
        case Cancelled(reason=reason):
            return f"cancelled the run: {reason[:MAX_QUOTED]}"
        case _:
            return "returned"
