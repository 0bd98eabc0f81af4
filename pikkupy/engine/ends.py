"""How a run's end is recorded, and what is said of steps that crashes have cut off."""

from __future__ import annotations

from pikkupy.core.commands import Cancelled, Completed, End, Parked, StepCall
from pikkupy.core.commands import Failed as RunFailure
from pikkupy.core.machine import RUN, RunEvent, advance
from pikkupy.core.model import NO_WAKING, ErrorInfo, ParkedFor, RunMove, RunRow, RunStatus, StepRow
from pikkupy.errors import Interrupted, SignalTimeout, dotted_name
from pikkupy.failures import describe


def move_of(run: RunRow, status: RunStatus, end: End, at_us: int) -> RunMove:
    """The move that `end` means for a run of that status."""
    match end:
        case Completed():
            to = advance(RUN, status, RunEvent.COMPLETE)
            return RunMove(number=run.number, before=status, status=to, output=end.output, at=at_us)
        case RunFailure():
            to = advance(RUN, status, RunEvent.FAIL)
            return RunMove(number=run.number, before=status, status=to, error=end.error, at=at_us)
        case Cancelled():
            to = advance(RUN, status, RunEvent.CANCEL)
            return RunMove(number=run.number, before=status, status=to, reason=end.reason, at=at_us)
        case Parked():
            return RunMove(
                number=run.number,
                before=status,
                status=advance(RUN, status, RunEvent.SUSPEND),
                reason=end.reason,
                parked=end.parked,
                # Changed code is looked at again at each open; what kills the process is not.
                wakes_at=NO_WAKING if end.parked is ParkedFor.CRASHES else None,
                at=at_us,
            )


def crash_loop(row: StepRow) -> Parked:
    """The suspension of a run that was cut off in the same step too often."""
    return Parked(
        f"step {row.name!r} was under way at {row.cut_offs} ends of the process in a row that were not in good order; "
        "it may be what kills the process. See what it does, then engine.resume(run_id) runs it again",
        ParkedFor.CRASHES,
    )


def interrupted(call: StepCall) -> ErrorInfo:
    """The error of an `at_most_once` attempt that was cut off."""
    return describe(
        Interrupted(
            f"step {call.name!r} is at_most_once and its attempt was cut off; whether it had its effect is unknown"
        )
    )


def timed_out(call: StepCall) -> ErrorInfo:
    """The error of a wait for a signal that did not come."""
    message = f"no signal {call.body!r} came within {(call.duration_us or 0) / 1e6:g} s"
    bases = tuple(dotted_name(base) for base in SignalTimeout.__mro__[1:] if base is not object)
    return ErrorInfo(dotted_name(SignalTimeout), message, "", bases)
