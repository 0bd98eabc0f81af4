"""What a run asks for in its first turn, if that is to wait and nothing else: such a run need not come into memory."""

from __future__ import annotations

from typing import NamedTuple

from pikkupy.core.commands import Commands
from pikkupy.core.machine import StepEvent
from pikkupy.core.model import NO_WAKING, StepKind, StepRow
from pikkupy.engine.live import LiveStep, due_at


class Waits(NamedTuple):
    """The steps of a run that only waits, and when it has to be in memory again if nothing comes from outside."""

    steps: list[StepRow]
    until: int


def waits_of(run: int, commands: Commands, now_us: int) -> Waits | None:
    """The waits of the run of that number, which has taken its first turn; None if it has anything else to do."""
    if commands.end is not None or commands.stopped or commands.armed or commands.dropped or commands.passed:
        return None
    steps, until = list[StepRow](), NO_WAKING
    for call in commands.calls:
        if call.kind not in (StepKind.SLEEP, StepKind.SIGNAL):
            return None
        step = LiveStep(run, call, now_us, wake_at=due_at(call, now_us))
        if step.wake_at is not None:
            step.move(StepEvent.SCHEDULE)
            until = min(until, step.wake_at)
        steps.append(step.unfinished_row())
    return Waits(steps, until) if steps else None
