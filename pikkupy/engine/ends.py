"""How a run's end is recorded, and what is said of steps that crashes have cut off."""

from __future__ import annotations

from pikkupy.core.commands import Cancelled, Completed, End, Parked, StepCall
from pikkupy.core.commands import Failed as RunFailure
from pikkupy.core.machine import RUN, RunEvent, advance
from pikkupy.core.model import ErrorInfo, RunMove, RunRow, RunStatus, StepRow
from pikkupy.errors import Interrupted
from pikkupy.failures import describe


def move_of(run: RunRow, status: RunStatus, end: End, at_us: int) -> RunMove:
    """The move that `end` means for a run of that status."""
    match end:
        case Completed():
            event = RunEvent.COMPLETE
        case RunFailure():
            event = RunEvent.FAIL
        case Cancelled():
            event = RunEvent.CANCEL
        case Parked():
            event = RunEvent.SUSPEND
    return RunMove(
        number=run.number,
        before=status,
        status=advance(RUN, status, event),
        output=end.output if isinstance(end, Completed) else None,
        error=end.error if isinstance(end, RunFailure) else None,
        reason=end.reason if isinstance(end, Cancelled | Parked) else None,
        at=at_us,
    )


def crash_loop(row: StepRow) -> Parked:
    """The suspension of a run that was cut off in the same step too often."""
    return Parked(
        f"step {row.name!r} was under way at {row.cut_offs} ends of the process in a row that were not in good order; "
        "it may be what kills the process. See what it does, then engine.resume(run_id) runs it again"
    )


def interrupted(call: StepCall) -> ErrorInfo:
    """The error of an `at_most_once` attempt that was cut off."""
    return describe(
        Interrupted(
            f"step {call.name!r} is at_most_once and its attempt was cut off; whether it had its effect is unknown"
        )
    )
