"""The records that travel between the rooms. All frozen; times are integers, epoch microseconds in UTC. Rows hold plain
values only, so the garbage collector need not look at them (`gc=False`): under load there are many.

`*Row` is what the journal holds (values as encoded text); `Run`, `Step` and `Attempt`, made from rows in
`pikkupy.engine.views`, are what users see.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class RunStatus(StrEnum):
    """Where a run stands; the last three are final."""

    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepStatus(StrEnum):
    """Where a step stands; the last three are final."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


class StepKind(StrEnum):
    """What a step does when it runs."""

    FUNCTION = "function"
    INLINE = "inline"
    WORKFLOW = "workflow"
    SLEEP = "sleep"
    SIGNAL = "signal"
    SUSPEND = "suspend"


class AttemptStatus(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A recorded error: dotted class name, message, traceback, and the dotted names of the base classes."""

    type: str
    message: str
    traceback: str
    bases: tuple[str, ...] = ()


class RunRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One run as the journal holds it."""

    number: int  # 1, 2, 3 … in the order of the starts, given by the engine; steps refer to it
    run_id: str
    workflow: str
    status: RunStatus
    input: str  # encoded value
    output: str | None = None  # encoded value; set exactly when completed
    error: ErrorInfo | None = None  # set exactly when failed
    reason: str | None = None  # of a cancel or a suspension
    created_at: int
    updated_at: int
    ended_at: int | None = None  # set exactly when the status is final


class StepRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step as the journal holds it. Its identity is (run, position)."""

    run: int  # RunRow.number
    position: int  # 0, 1, 2 … in the order in which the run reached its steps
    name: str  # with its ordinal: `name`, `name#1`
    kind: StepKind
    target: str | None = None  # name of the function or workflow
    attempts: int = 0  # attempts that have begun
    cut_offs: int = 0  # start-ups in a row that found an attempt of it cut off
    wake_at: int | None = None  # when the sleep ends or the next attempt begins; kept afterwards
    seq: int | None = None  # place of its outcome in the run's history; None until there is one, and when cancelled
    output: str | None = None  # encoded value; set exactly when succeeded
    error: ErrorInfo | None = None  # of the last failed attempt; None after a success
    status: StepStatus
    ended_at: int | None = None  # set exactly when the status is final
    started_at: int | None = None  # when it was reached; of one that runs, when its first attempt began


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One finished attempt. A step that ended with its first attempt has none: its own row says it all."""

    run: int
    position: int  # of the step
    attempt: int  # 1, 2, 3 …
    seq: int  # place in the run's history
    status: AttemptStatus
    error: ErrorInfo | None = None  # set exactly when failed
    started_at: int
    ended_at: int


class TimerRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fired timer of the run's own event loop (`asyncio.sleep`, `asyncio.timeout`)."""

    run: int
    number: int  # 0, 1, 2 … in the order in which the run set them
    due_at: int  # epoch µs as the run's loop computed it; tells a replay whether it is the same timer
    seq: int  # place in the run's history
    fired_at: int


class RunMove(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change of a run's status and what comes with it. Applies only while the run has status `before`."""

    number: int
    before: RunStatus
    status: RunStatus
    output: str | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    at: int  # becomes updated_at, and ended_at if the status is final


class StepsCancelled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Every step of the run that has no outcome becomes `cancelled`."""

    run: int
    at: int


class RunDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run and all that belongs to it go."""

    number: int


Change = RunRow | StepRow | AttemptRow | TimerRow | RunMove | StepsCancelled | RunDeleted
"""What can be written. A `RunRow` inserts; a `StepRow` inserts, or replaces the row while that is not final."""


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """All that a replay needs of one run: steps by position, fired timers by number."""

    run: RunRow
    steps: tuple[StepRow, ...] = ()
    timers: tuple[TimerRow, ...] = ()
    last_seq: int = 0  # the highest place in its history that is taken, attempts included
