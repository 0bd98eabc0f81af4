"""What a run asks for in its first turn, if that is to wait and nothing else: such a run need not come into memory."""

from __future__ import annotations

from typing import NamedTuple

from pikkupy.core.commands import Commands
from pikkupy.core.machine import STEP, StepEvent, advance
from pikkupy.core.model import NO_WAKING, StepKind, StepRow, StepStatus
from pikkupy.engine.live import due_at

SCHEDULED = advance(STEP, StepStatus.PENDING, StepEvent.SCHEDULE)


class Waits(NamedTuple):
    """The steps of a run that only waits, and when it has to be in memory again if nothing comes from outside."""

    steps: tuple[StepRow, ...]
    until: int


def waits_of(run: int, commands: Commands, now_us: int) -> Waits | None:
    """The waits of the run of that number, which has taken its first turn; None if it has anything else to do."""
    if commands.end is not None or commands.stopped or commands.armed or commands.dropped or commands.passed:
        return None
    steps, until = list[StepRow](), NO_WAKING
    for call in commands.calls:
        if call.kind not in (StepKind.SLEEP, StepKind.SIGNAL):
            return None
        wake_at = due_at(call, now_us)
        if wake_at is not None:
            until = min(until, wake_at)
        steps.append(
            StepRow(
                run=run,
                position=call.position,
                name=call.name,
                kind=call.kind,
                status=StepStatus.PENDING if wake_at is None else SCHEDULED,
                wake_at=wake_at,
                started_at=now_us,
            )
        )
    return Waits(tuple(steps), until) if steps else None
