"""Child runs: a step that is a run of its own."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from msgspec import structs

from pikkupy.core.commands import StepCall
from pikkupy.core.model import ErrorInfo, RunMove, RunRow, RunStatus
from pikkupy.core.outcomes import Failed, Succeeded
from pikkupy.core.ports import Values
from pikkupy.errors import PayloadError, RunCancelled, RunConflict, dotted_name
from pikkupy.failures import describe
from pikkupy.names import MAX_NAME

_HASH = 32  # hex digits, 128 bits: no two ids are ever cut to the same


def child_id(parent: RunRow, step_name: str, attempt: int) -> str:
    """The id of the run that one attempt of a step is: the same in every life."""
    first = f"{parent.run_id}/{step_name}"
    return _bounded(first if attempt == 1 else f"{first}#{attempt}")


def other_child_id(child: RunRow) -> str:
    """Another id for a child run whose id is taken by a sibling. The number is that of no other run."""
    return _bounded(f"{child.run_id}#{child.number}")


def _bounded(run_id: str) -> str:
    """An id that every call takes: one that would be too long ends in `~` and a hash of the whole."""
    if len(run_id) <= MAX_NAME:
        return run_id
    tail = sha256(run_id.encode()).hexdigest()[:_HASH]
    return f"{run_id[: MAX_NAME - _HASH - 1]}~{tail}"


def new_child(parent: RunRow, call: StepCall, attempt: int, run_id: str, number: int, now_us: int) -> RunRow:
    """The row of the run that one attempt of a step is."""
    return RunRow(
        number=number,
        run_id=run_id,
        workflow=call.body.name,
        status=RunStatus.RUNNING,
        input=call.data or "null",
        created_at=now_us,
        updated_at=now_us,
        starts_at=now_us,
        parent=parent.number,
        parent_position=call.position,
        parent_attempt=attempt,
    )


def child_at_its_end(child: RunRow, end: RunRow | RunMove) -> RunRow:
    """The row of a child as its end leaves it, as far as its parent wants to know."""
    return structs.replace(child, status=end.status, output=end.output, error=end.error, reason=end.reason)


def outcome_of_child(values: Values, call: StepCall, child_type: Any, run_id: str, end: RunRow | RunMove) -> Any:
    """What the child's end means for the step."""
    if end.status is RunStatus.COMPLETED:
        return _success(values, call, child_type, end.output or "null")
    if end.error is not None:
        # Its own steps are not the parent's.
        error = ErrorInfo(end.error.type, end.error.message, end.error.traceback, end.error.bases)
        return Failed(error, None, final=False)
    return Failed(_cancelled(run_id, end.reason or ""), None, final=False)


def id_is_taken(run_id: str) -> Failed:
    """The step cannot have its child run."""
    return Failed(
        describe(
            RunConflict(f"run {run_id!r} exists and is not the child of this step; delete it, or rename the step")
        ),
        None,
        final=True,
    )


def _success(values: Values, call: StepCall, child_type: Any, output: str) -> Succeeded | Failed:
    """The child's output is encoded to the annotation of its workflow; the call may have named another type."""
    if call.result_type is child_type or call.result_type == child_type:
        return Succeeded(output)
    what = f"output of step {call.name!r}"
    try:
        return Succeeded(values.encode(values.decode(output, child_type, what=what), call.result_type, what=what))
    except Exception as error:  # noqa: BLE001 - PayloadError, or what the value's own code raises
        return Failed(describe(error), error, final=isinstance(error, PayloadError))


def _cancelled(run_id: str, reason: str) -> ErrorInfo:
    error = describe(RunCancelled(run_id, reason))
    assert error.type == dotted_name(RunCancelled)
    return error
