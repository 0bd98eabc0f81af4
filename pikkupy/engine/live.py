"""A step without an outcome, in memory, and the rows that it becomes."""

from __future__ import annotations

import msgspec
from msgspec import structs

from pikkupy.core.commands import StepCall
from pikkupy.core.machine import STEP, StepEvent, advance
from pikkupy.core.model import AttemptRow, AttemptStatus, ErrorInfo, Recorded, RunRow, StepKind, StepRow, StepStatus
from pikkupy.core.outcomes import Failed, Succeeded
from pikkupy.execution import step_failed
from pikkupy.failures import describe
from pikkupy.services import StepContext
from pikkupy.timers import Timer
from pikkupy.workers import Attempt


class LiveStep(msgspec.Struct, eq=False):
    """One step that the run has reached and that has no outcome on record."""

    run: int  # its number
    call: StepCall
    started_at: int  # when it was reached; of one that runs, when its first attempt began
    began_at: int = 0  # of the present attempt
    status: StepStatus = StepStatus.PENDING
    attempts: int = 0  # that have begun
    cut_offs: int = 0
    forgiven: int = 0  # attempts that do not count against `retries`
    wake_at: int | None = None
    error: ErrorInfo | None = None  # of the last failed attempt
    recorded: bool = False  # the journal has a row of it
    child: RunRow | None = None  # the run that its attempt is
    attempt: Attempt | None = None  # under way
    context: StepContext | None = None  # of that attempt
    working: bool = False  # an attempt was handed to the workers and has not ended
    timer: Timer | None = None

    @classmethod
    def of(cls, call: StepCall, row: StepRow, now_us: int) -> LiveStep:
        """The step as an earlier life, or an earlier stay in memory, has left it."""
        started_at = now_us if row.started_at is None else row.started_at
        return cls(
            row.run,
            call,
            started_at,
            began_at=started_at if row.wake_at is None else row.wake_at,  # as far as is known: not before
            status=row.status,
            attempts=row.attempts,
            cut_offs=row.cut_offs,
            forgiven=row.forgiven,
            wake_at=row.wake_at,
            error=row.error,
            recorded=True,
        )

    def move(self, event: StepEvent) -> None:
        """Change the status, by the table."""
        self.status = advance(STEP, self.status, event)

    @property
    def is_to_begin(self) -> bool:
        """True if the start of an `at_most_once` attempt is written, or on its way, and its body has not begun."""
        waits = self.attempt is None or not self.attempt.started
        return waits and self.status is StepStatus.RUNNING and self.call.policy.at_most_once

    def take_back(self) -> None:
        """The attempt counts as not begun: it will begin under its own number."""
        self.move(StepEvent.CUT_OFF)
        self.attempts -= 1

    def cut_off(self) -> None:
        """A crash ended the attempt in flight: it begins again under its own number."""
        if self.status is StepStatus.RUNNING and not self.call.policy.at_most_once:
            self.take_back()
        self.cut_offs += 1

    def unfinished_row(self) -> StepRow:
        """The row of the step as it stands."""
        return self._row(error=self.error)

    def cancelled_row(self, now_us: int) -> StepRow:
        """The row of a step that ends without an outcome. Takes its timer out, too."""
        if self.timer is not None:
            self.timer.cancel()
        self.move(StepEvent.CANCEL)
        return self._row(error=self.error, ended_at=now_us)

    def settled_row(self, outcome: Succeeded | Failed, seq: int, now_us: int) -> StepRow:
        """The row of a step with an outcome."""
        self.cut_offs = 0
        if isinstance(outcome, Succeeded):
            self.status = advance(STEP, self.status, StepEvent.SUCCEED)
            return self._row(seq, outcome.output, None, now_us)
        self.status = advance(STEP, self.status, StepEvent.FAIL)
        return self._row(seq, None, outcome.error, now_us)

    def attempt_row(self, outcome: Succeeded | Failed, seq: int, now_us: int) -> AttemptRow:
        """The row of the attempt that has just ended."""
        error = outcome.error if isinstance(outcome, Failed) else None
        return AttemptRow(
            run=self.run,
            position=self.call.position,
            attempt=self.attempts,
            seq=seq,
            status=AttemptStatus.SUCCEEDED if error is None else AttemptStatus.FAILED,
            error=error,
            started_at=self.began_at,
            ended_at=now_us,
        )

    def _row(
        self,
        seq: int | None = None,
        output: str | None = None,
        error: ErrorInfo | None = None,
        ended_at: int | None = None,
    ) -> StepRow:
        call = self.call
        return StepRow(
            run=self.run,
            position=call.position,
            name=call.name,
            kind=call.kind,
            target=call.target,
            status=self.status,
            attempts=self.attempts,
            cut_offs=self.cut_offs,
            forgiven=self.forgiven,
            wake_at=self.wake_at,
            seq=seq,
            output=output,
            error=error,
            started_at=self.started_at,
            ended_at=ended_at,
        )


def due_at(call: StepCall, now_us: int) -> int | None:
    """When a sleep that begins now ends, or when a wait for a signal times out; None: it does not."""
    if call.until_us is not None:
        return call.until_us
    return None if call.duration_us is None else now_us + call.duration_us


SUCCEEDED_AT_ONCE = advance(STEP, advance(STEP, StepStatus.PENDING, StepEvent.BEGIN), StepEvent.SUCCEED)


def first_success(run: int, call: StepCall, output: str, seq: int, reached_at: int, now_us: int) -> StepRow:
    """The row of a step that succeeded where it was called: it needs no `LiveStep` on the way."""
    return StepRow(
        run=run,
        position=call.position,
        name=call.name,
        kind=call.kind,
        target=call.target,
        attempts=1,
        seq=seq,
        output=output,
        status=SUCCEEDED_AT_ONCE,
        ended_at=now_us,
        started_at=reached_at,
    )


def before_its_outcome(row: StepRow) -> StepRow:
    """How a step is shown until its end, which `row` has, is on disk."""
    if row.kind in (StepKind.SLEEP, StepKind.SIGNAL):
        status = StepStatus.PENDING if row.wake_at is None else StepStatus.SCHEDULED
    else:
        status = StepStatus.RUNNING if row.attempts else StepStatus.PENDING
    return structs.replace(row, status=status, seq=None, output=None, error=None, ended_at=None)


def only_attempt(row: StepRow) -> AttemptRow:
    """The one attempt of a step that ended with its first, which its own row tells."""
    return AttemptRow(
        run=row.run,
        position=row.position,
        attempt=1,
        seq=row.seq or 0,
        status=AttemptStatus.FAILED if row.status is StepStatus.FAILED else AttemptStatus.SUCCEEDED,
        error=row.error,
        started_at=row.started_at or 0,
        ended_at=row.ended_at or 0,
    )


def asked_to_retry(step: LiveStep, failed: Failed) -> Failed:
    """The failure, made final if `retry_if` wants no other attempt; its own failure if it raises."""
    retry_if = step.call.policy.retry_if
    if retry_if is None:
        return failed
    error = failed.exception
    if error is None:
        error = step_failed(step.call.name, step.attempts, failed.error)
    try:
        wanted = bool(retry_if(error))
    except BaseException as raised:  # noqa: BLE001 - it becomes the step's failure
        return Failed(describe(raised), raised, final=True)
    return Failed(failed.error, failed.exception, final=not wanted)


def context_of(run: RunRow, call: StepCall, attempt: int) -> StepContext:
    """What the code of one attempt can know of itself."""
    return StepContext(run.run_id, run.workflow, step_id(run.run_id, call.name), call.name, attempt, call.position)


def step_id(run_id: str, step_name: str) -> str:
    """The id of a step: the same on every attempt and in every life."""
    return f"{run_id}/{step_name}"


def latest(recorded: Recorded) -> int:
    """The latest time that is recorded of the run's steps and timers, in µs, or 0."""
    if not (recorded.steps or recorded.timers):
        return 0
    times = [max(row.started_at or 0, row.ended_at or 0) for row in recorded.steps]
    return max(*times, *(timer.fired_at for timer in recorded.timers), 0)
