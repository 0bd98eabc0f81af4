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


class ParkedFor(StrEnum):
    """Why the engine itself has suspended a run; a run that its own `suspend` holds has none."""

    CODE = "code"  # the code does not fit the record, or a step's function is missing: each open tries again
    WORKFLOW = "workflow"  # its workflow is missing: it goes on at an open that has it
    CRASHES = "crashes"  # an attempt of it was cut off too often: only `resume` tries again


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
    steps: tuple[str, ...] = ()  # of a failed run: the failed steps whose errors left the workflow


MAX_INTEGER = (1 << 63) - 1  # that the file can hold
OWN_BITS = 26  # of a key in the file, for the number of what belongs to a run; the rest is for the number of the run
MAX_OWN = (1 << OWN_BITS) - 1  # the highest such number: of a step, a place in the history, a timer, a chunk
MAX_RUN = (MAX_INTEGER >> OWN_BITS) - 1  # the highest number of a run: a thousand starts a second for four years
FULL = "it can have no more; go on in a new run"
NO_WAKING = 1 << 62
"""`RunRow.wakes_at` of a run that waits in the file for something from outside."""


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
    starts_at: int  # when its body begins: at once, or when `start` was told to
    wakes_at: int | None = None  # set exactly while it waits in the file alone: when it has to be in memory again
    parked: ParkedFor | None = None  # why the engine itself has suspended it
    parent: int | None = None  # number of the run whose step it is
    parent_position: int | None = None  # of that step; negative once it was set aside
    parent_attempt: int | None = None  # of that step
    alone_since: int | None = None  # when it was retried by itself: it goes on whatever becomes of its parent
    forked_from: str | None = None  # id of the run whose history it began with
    tags: str | None = None  # JSON object of texts
    progress: str | None = None  # JSON: how far it says that it is


class StepRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One step as the journal holds it. Its identity is (run, position)."""

    run: int  # RunRow.number
    position: int  # 0, 1, 2 … in the order in which the run reached its steps
    name: str  # with its ordinal: `name`, `name#1`
    kind: StepKind
    target: str | None = None  # name of the function or workflow
    attempts: int = 0  # attempts that have begun
    cut_offs: int = 0  # start-ups in a row that found an attempt of it cut off
    forgiven: int = 0  # attempts that do not count against `retries`: those before the last `engine.retry`
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
    name: str | None = None  # of the step, once it was set aside


class TimerRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One fired timer of the run's own event loop (`asyncio.sleep`, `asyncio.timeout`)."""

    run: int
    number: int  # 0, 1, 2 … in the order in which the run set them
    due_at: int  # epoch µs as the run's loop computed it; tells a replay whether it is the same timer
    seq: int  # place in the run's history
    fired_at: int


CODE_ACCEPTED = ""
"""`SignalRow.name` of what no one can send: that steps from `position` on were set aside, for changed code."""


class SignalRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One signal that was sent to a run."""

    run: int
    seq: int  # place in the run's history
    name: str  # `CODE_ACCEPTED`, or as it was sent
    payload: str | None  # encoded value; None once a step has taken it, whose output it then is
    sent_at: int
    position: int | None = None  # of the step that has taken it


class ChunkRow(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One value that a step has emitted into its run's stream. Its identity is (run, offset)."""

    run: int
    offset: int  # 0, 1, 2 … in the order of arrival
    since: int  # offset of the first chunk of the same execution of the attempt
    position: int  # of the step
    name: str  # of the step; kept here, for the step's row may come later, or go
    attempt: int  # 1, 2, 3 …
    value: str  # encoded
    at: int


class CodeChange(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run has passed `workflow.changed(change_id)` with the new code: it stays with that."""

    run: int
    change_id: str


class RunMove(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A change of a run's status and what comes with it. Applies only while the run has status `before`."""

    number: int
    before: RunStatus
    status: RunStatus
    output: str | None = None
    error: ErrorInfo | None = None
    reason: str | None = None
    parked: ParkedFor | None = None
    wakes_at: int | None = None
    at: int  # becomes updated_at, and ended_at if the status is final


class StepsCancelled(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Every step of the run that has no outcome becomes `cancelled`."""

    run: int
    at: int


class RunWakes(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An unfinished run waits in the file until `wakes_at`; None: it has work, or waits in memory."""

    number: int
    wakes_at: int | None


class RunProgress(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How far an unfinished run says that it is; an ended one keeps what it said last."""

    number: int
    progress: str


class SignalTaken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The step at `position` has taken the signal; refused if another one has."""

    run: int
    seq: int  # of the signal
    position: int


class StepReopened(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A failed or cancelled step of a failed run gets the state of `row`, which has no outcome: `engine.retry`."""

    row: StepRow


class StepsSetAside(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run's steps from `position` on are no longer part of its history; their attempts are kept as evidence. Its
    own timers that fired at `seq` or later are forgotten."""

    run: int
    position: int
    seq: int


class StepSetAside(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is recorded of one of these steps is kept for the code that asks for it again, and as evidence. The row has
    a negative position, of its own in its run."""

    row: StepRow


class SetAsideTaken(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A step that was set aside is part of the history again, in another place."""

    run: int
    position: int  # negative


class ChildLinked(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A child run belongs to its parent as `row` says: position, attempt and `alone_since` are taken from there."""

    row: RunRow


class RunDeleted(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The run, which has ended, and all that descend from it go, for every read; what they leave is swept later."""

    number: int


class DeletedSwept(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Of each table so many rows go, at most, that deleted runs have left."""

    rows: int


Change = (
    RunRow
    | StepRow
    | AttemptRow
    | TimerRow
    | SignalRow
    | SignalTaken
    | ChunkRow
    | CodeChange
    | RunMove
    | RunWakes
    | RunProgress
    | StepsCancelled
    | StepReopened
    | StepsSetAside
    | StepSetAside
    | SetAsideTaken
    | ChildLinked
    | RunDeleted
    | DeletedSwept
)
"""What can be written. A `RunRow` inserts; a `StepRow` inserts, or replaces the row while that is not final."""


class RunFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which runs are asked for: those of which everything that is given is true."""

    workflow: str | None = None
    statuses: tuple[RunStatus, ...] | None = None
    tags: tuple[tuple[str, str], ...] = ()  # name and value
    id_prefix: str | None = None  # how the run id begins
    error: str | None = None  # text in the type or the message of the run's error
    text: str | None = None  # how the run id begins, or text in the workflow's name, or in the error as above
    created_after: int | None = None  # µs, inclusive
    created_before: int | None = None  # µs, exclusive


class EndedRun(msgspec.Struct, frozen=True, gc=False):
    """A run that has ended, as far as pruning wants to know it."""

    ended_at: int
    number: int
    status: RunStatus


class ChildRow(msgspec.Struct, frozen=True, gc=False):
    """A child run, by the step and attempt of its parent."""

    position: int
    attempt: int
    run_id: str
    number: int
    status: RunStatus


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """All that is needed to bring one run into memory: steps by position, fired timers by number."""

    run: RunRow
    steps: tuple[StepRow, ...] = ()
    timers: tuple[TimerRow, ...] = ()
    last_seq: int = 0  # the highest place in its history that is taken, attempts and signals included
    next_chunk: int = 0  # offset of the next chunk of its stream
    signals: tuple[SignalRow, ...] = ()  # that no step has taken yet, in the order of their arrival
    changes: frozenset[str] = frozenset()  # ids of the code changes that it has passed
    children: tuple[RunRow, ...] = ()  # of its steps without an outcome, and of those that were set aside
    set_aside: tuple[StepRow, ...] = ()  # steps that accepted code has not asked for again; positions are negative
    parent: RunRow | None = None
    awaited: bool = False  # the parent has not ended, and its step, set aside or not, waits for this run
