"""What is recorded of one run, arranged for a replay: steps by position, outcomes in the order of delivery."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import TypeAlias

from pikkupy.core.model import StepRow, TimerRow

Event: TypeAlias = StepRow | TimerRow
"""What a run can be told: a step has an outcome, or a timer of the run's own loop has fired. The record itself, so that
what is delivered live and on a replay cannot differ."""


class History:
    """The recorded past of one run. `events` are to be delivered one at a time, each drained to quiet."""

    __slots__ = ("events", "last_position", "steps")

    def __init__(self, steps: Iterable[StepRow], timers: Iterable[TimerRow]) -> None:
        self.steps: Mapping[int, StepRow] = {row.position: row for row in steps}
        self.last_position = max(self.steps, default=-1)
        self.events: list[Event] = [row for row in self.steps.values() if row.seq is not None]
        self.events += timers
        self.events.sort(key=attrgetter("seq"))

    def has_outcome(self, position: int) -> bool:
        """True if the step at `position` is recorded as succeeded or failed: nothing of it is needed any more."""
        row = self.steps.get(position)
        return row is not None and row.seq is not None


NO_HISTORY = History((), ())
"""Of a new run."""
