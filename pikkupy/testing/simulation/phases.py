"""What an engine is doing when a fault strikes: the rows of the closing table.

A fault at a place of a write meets what is in that write. One at a time meets what is on its way to the disk and what
the runs in memory are waiting for; it counts once in each of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pikkupy.core.model import OWN_BITS, StepKind, StepStatus
from pikkupy.engine.active import ActiveRun
from pikkupy.engine.residents import Residents
from pikkupy.store.plan import Kind, Op

PHASES = (
    "recovery",  # from the opening of the file until the runs are in memory again
    "start",
    "attempt",  # the body of a step is running, or that it has begun is being written
    "outcome",  # of a step
    "deliver",  # an outcome is on disk, and the run does not know it yet
    "retry wait",
    "sleep",
    "signal wait",
    "signal",  # one is on its way to a run
    "gate",
    "join",  # a run waits for several steps at once
    "child",
    "rest",  # a run leaves memory to wait in the file, waits there, or comes back
    "cancel",
    "end",
    "park",  # a run does not fit its code, or has been cut off too often
    "go on",  # a parked run is resumed, a failed one retried, a run forked, changed code accepted
    "delete",
    "idle",  # nothing at all
)
_ACTS = {
    "start": "start",
    "signal": "signal",
    "approve": "signal",
    "cancel": "cancel",
    "resume": "go on",
    "accept": "go on",
    "retry": "go on",
    "fork": "go on",
    "delete": "delete",
    "prune": "delete",
}
_NOT_OF_READS = {"outcome", "deliver", "park"}  # only written
_OF_WRITES = {"busy", "full", "io_error", "ghost"}
_ENDS = {"completed": "end", "failed": "end", "cancelled": "cancel", "suspended": "park", "running": "go on"}
_KINDS = {
    Kind.STARTED: "start",
    Kind.COMPLETED: "end",
    Kind.TIMER: "sleep",
    Kind.SIGNAL: "signal",
    Kind.TAKEN: "signal",
    Kind.WAKE: "rest",
    Kind.CANCEL: "cancel",
    Kind.REOPEN: "go on",
    Kind.ASIDE: "go on",
    Kind.KEPT: "go on",
    Kind.BACK: "go on",
    Kind.LINK: "go on",
    Kind.DELETE: "delete",
    Kind.SWEEP: "delete",
}
_STEPS = (Kind.STEP, Kind.SUCCEEDED)
_WAITS = {StepKind.SLEEP: "sleep", StepKind.SIGNAL: "signal wait", StepKind.SUSPEND: "gate", StepKind.WORKFLOW: "child"}


def is_possible(what: str, phase: str) -> bool:
    """False for what cannot happen: a disk that fails while nothing is written, or after it was."""
    if what == "read":
        return phase not in _NOT_OF_READS
    return what not in _OF_WRITES or phase not in ("idle", "deliver")


def of_batch(batch: Iterable[Sequence[Op]], place: str, residents: Residents | None) -> set[str]:
    """What a write is about."""
    found: set[str] = set()
    for ops in batch:
        for op in ops:
            found.update(_of_op(op))
            if op.kind in _STEPS and residents is not None:
                run = residents.resident(op.columns[0] >> OWN_BITS)
                if run is not None and len(run.steps) > 1:
                    found.add("join")
    if place == "before_release" and "outcome" in found:
        found.add("deliver")
    return found


def _of_op(op: Op) -> Iterator[str]:
    columns = op.columns
    if op.kind is Kind.RUN:
        yield "child" if columns[7] is not None else "go on" if columns[11] is not None else "start"
    elif op.kind is Kind.MOVE:
        yield "gate" if columns[2] == "suspended" and columns[6] is None else _ENDS[columns[2]]
    elif op.kind is Kind.SUCCEEDED:
        yield from _of_step(StepKind(columns[2]), StepStatus.SUCCEEDED)
    elif op.kind is Kind.STEP:
        yield from _of_step(StepKind(columns[2]), StepStatus(columns[11]))
    elif op.kind in _KINDS:
        yield _KINDS[op.kind]


def _of_step(kind: StepKind, status: StepStatus) -> Iterator[str]:
    if kind in _WAITS:
        yield _WAITS[kind]
    if status in (StepStatus.SUCCEEDED, StepStatus.FAILED):
        yield "outcome"
    elif status is StepStatus.CANCELLED:
        yield "cancel"
    elif kind not in (StepKind.SLEEP, StepKind.SIGNAL, StepKind.SUSPEND):
        yield "retry wait" if status is StepStatus.SCHEDULED else "attempt"


def of_memory(residents: Residents) -> set[str]:
    """What the runs in memory are doing."""
    found: set[str] = set()
    for run in residents.active.values():
        found.update(_of_run(run))
    return found


def of_read(residents: Residents, acts: Iterable[str]) -> set[str]:
    """What goes on while something is read: what people are doing, and what the runs in memory are."""
    found = of_memory(residents) | {_ACTS[does] for does in acts}
    if residents.waker.busy:
        found.add("rest")
    return found


def _of_run(run: ActiveRun) -> Iterator[str]:
    if run.ending:
        yield "end"
    if len(run.steps) > 1:
        yield "join"
    for step in run.steps.values():
        if step.call.kind in _WAITS:
            yield _WAITS[step.call.kind]
        if step.working:
            yield "attempt"
        elif step.status is StepStatus.SCHEDULED and step.call.kind is not StepKind.SLEEP:
            yield "retry wait"
