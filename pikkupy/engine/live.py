"""A step without an outcome, in memory, and the rows that it becomes."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from pikkupy.core.commands import StepCall
from pikkupy.core.machine import STEP, StepEvent, advance
from pikkupy.core.model import AttemptRow, AttemptStatus, ErrorInfo, StepKind, StepRow, StepStatus
from pikkupy.core.outcomes import Failed, Succeeded
from pikkupy.services import StepContext
from pikkupy.timers import Timer
from pikkupy.workers import Attempt, Job


class LiveStep:
    """One step that the run has reached and that has no outcome on record."""

    __slots__ = (
        "attempt",
        "attempts",
        "began_at",
        "call",
        "cut_offs",
        "error",
        "reached_at",
        "run",
        "status",
        "timer",
        "wake_at",
        "working",
    )

    def __init__(self, run: int, call: StepCall, row: StepRow | None, now_us: int) -> None:
        self.run = run
        self.call = call
        self.status = StepStatus.PENDING if row is None else row.status
        self.attempts = 0 if row is None else row.attempts  # that have begun
        self.cut_offs = 0 if row is None else row.cut_offs
        self.wake_at = None if row is None else row.wake_at
        self.error = None if row is None else row.error  # of the last failed attempt
        self.reached_at = now_us if row is None or row.started_at is None else row.started_at
        self.began_at = now_us  # of the present attempt
        self.attempt: Attempt | None = None  # under way
        self.working = False  # an attempt was handed to the workers and has not ended
        self.timer: Timer | None = None

    def move(self, event: StepEvent) -> None:
        """Change the status, by the table."""
        self.status = advance(STEP, self.status, event)

    def cut_off(self) -> None:
        """A crash ended the attempt in flight: it begins again under its own number."""
        if self.status is StepStatus.RUNNING and not self.call.policy.at_most_once:
            self.move(StepEvent.CUT_OFF)
            self.attempts -= 1
        self.cut_offs += 1

    def unfinished_row(self) -> StepRow:
        """The row of the step as it stands."""
        return self._row(error=self.error)

    def landing_row(self) -> StepRow:
        """How the step is shown until its outcome is on disk: as it stood before."""
        waiting = self.call.kind is StepKind.SLEEP
        return structs.replace(self._row(), status=StepStatus.SCHEDULED if waiting else StepStatus.RUNNING)

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
            self.move(StepEvent.SUCCEED)
            return self._row(seq=seq, output=outcome.output, ended_at=now_us)
        self.move(StepEvent.FAIL)
        return self._row(seq=seq, error=outcome.error, ended_at=now_us)

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
        *,
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
            wake_at=self.wake_at,
            seq=seq,
            output=output,
            error=error,
            started_at=self.reached_at,
            ended_at=ended_at,
        )


def job_of(call: StepCall, run_id: str, workflow: str, attempt: int) -> Job:
    """The work order for one attempt."""
    assert call.variables is not None  # only sleeps have none
    context = StepContext(
        run_id=run_id,
        workflow=workflow,
        step_id=step_id(run_id, call.name),
        step_name=call.name,
        attempt_count=attempt,
    )
    if call.kind is StepKind.INLINE:
        return Job(
            context=context,
            where="inline",
            call=call.body,
            data=None,
            data_type=Any,
            result_type=call.result_type,
            variables=call.variables,
            timeout_us=call.policy.timeout_us,
            importable=None,
        )
    function = call.body
    return Job(
        context=context,
        where=function.worker,
        call=function.fn,
        data=call.data,
        data_type=function.data_type,
        result_type=call.result_type,
        variables=call.variables,
        timeout_us=call.policy.timeout_us,
        importable=(function.fn.__module__, function.fn.__qualname__),
    )


def step_id(run_id: str, step_name: str) -> str:
    """The id of a step: the same on every attempt and in every life."""
    return f"{run_id}/{step_name}"
