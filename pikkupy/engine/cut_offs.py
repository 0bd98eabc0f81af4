"""What a crash has cut off: found at the start-up that follows it, and counted, so that a crash loop is bounded."""

from __future__ import annotations

from collections.abc import Mapping

from pikkupy.core.commands import Commands, StepCall
from pikkupy.core.decide import Run, next_move
from pikkupy.core.model import StepKind, StepRow
from pikkupy.engine.live import LiveStep


def in_flight(commands: Commands, rows: Mapping[int, StepRow], now_us: int) -> list[StepCall]:
    """The calls whose attempt the crash cut off, or would have if it had begun. `rows`: without an outcome."""
    stopped = frozenset(commands.stopped)
    return [
        call
        for call in commands.calls
        if call.kind in (StepKind.FUNCTION, StepKind.INLINE)
        and call.position not in stopped
        and _was_due(rows.get(call.position), now_us)
    ]


def cut_off_row(step: LiveStep) -> StepRow:
    """The row of the step after the crash was counted."""
    step.cut_off()
    return step.unfinished_row()


def _was_due(row: StepRow | None, now_us: int) -> bool:
    if row is None:
        return True
    move = next_move(row.status, row.attempts, row.wake_at)
    return isinstance(move, Run) or move.wake_at_us <= now_us
