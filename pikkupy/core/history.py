"""What is recorded of one run, arranged for a replay: steps by position, outcomes in the order of delivery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import msgspec

from pikkupy.core.machine import FINAL_STEPS
from pikkupy.core.model import ErrorInfo, Recorded, StepRow, StepStatus, TimerRow


class StepOutcome(msgspec.Struct, frozen=True, gc=False):
    """A step ended: with an encoded value, or with the error of its last attempt."""

    position: int
    at_us: int
    output: str | None = None
    error: ErrorInfo | None = None
    attempts: int = 0


class TimerFired(msgspec.Struct, frozen=True, gc=False):
    """A timer of the run's own loop fired."""

    number: int
    at_us: int
    due_us: int


Event: TypeAlias = StepOutcome | TimerFired


class History:
    """The recorded past of one run. `events` are to be delivered one at a time, each drained to quiet."""

    def __init__(self, recorded: Recorded) -> None:
        self.steps: Mapping[int, StepRow] = {row.position: row for row in recorded.steps}
        placed: list[tuple[int, Event]] = [(row.seq, outcome_of(row)) for row in recorded.steps if row.seq is not None]
        placed += [(row.seq, fired_of(row)) for row in recorded.timers]
        self.events = [event for _, event in sorted(placed, key=lambda pair: pair[0])]

    def has_outcome(self, position: int) -> bool:
        """True if the step at `position` is recorded as succeeded or failed: nothing of it is needed any more."""
        row = self.steps.get(position)
        return row is not None and row.seq is not None

    def has_ended(self, position: int) -> bool:
        """True if the step at `position` has an outcome or is recorded as cancelled: it will never run again."""
        row = self.steps.get(position)
        return row is not None and row.status in FINAL_STEPS


def outcome_of(row: StepRow) -> StepOutcome:
    """The event that a row with an outcome stands for."""
    at_us = row.ended_at or 0
    if row.status is StepStatus.SUCCEEDED:
        return StepOutcome(row.position, at_us, output=row.output, attempts=row.attempts)
    return StepOutcome(row.position, at_us, error=row.error, attempts=row.attempts)


def fired_of(row: TimerRow) -> TimerFired:
    """The event that a timer row stands for."""
    return TimerFired(row.number, row.fired_at, row.due_at)
