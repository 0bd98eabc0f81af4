"""Changed code that is accepted: what of the record it does not ask for where that has it. Rows in, changes out."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from pikkupy.core.machine import STEP, StepEvent, advance
from pikkupy.core.model import (
    CODE_ACCEPTED,
    AttemptRow,
    Change,
    ChildLinked,
    Recorded,
    RunRow,
    SetAsideTaken,
    SignalRow,
    StepKind,
    StepReopened,
    StepRow,
    StepSetAside,
    StepsSetAside,
    StepStatus,
)


def set_aside(recorded: Recorded, children: Sequence[RunRow], position: int, seq: int) -> list[Change]:
    """What takes the steps of a run from `position` on out of its history, which it has reached at place `seq`.

    Outcomes and what is under way are kept for the code that asks for such a step again, and so are the links to child
    runs; `children` are all of the run. What was cancelled is not kept.
    """
    steps = [step for step in recorded.steps if step.position >= position]
    linked = [child for child in children if (child.parent_position or 0) >= position]
    taken = [row.position for row in recorded.set_aside] + [child.parent_position or 0 for child in children]
    free = min([0, *taken]) - 1
    held = sorted({step.position for step in steps} | {child.parent_position or 0 for child in linked})
    places = {position: free - number for number, position in enumerate(held)}
    changes: list[Change] = [
        StepSetAside(row=structs.replace(step, position=places[step.position]))
        for step in steps
        if step.status is not StepStatus.CANCELLED
    ]
    changes += [
        ChildLinked(row=structs.replace(child, parent_position=places[child.parent_position or 0])) for child in linked
    ]
    changes.append(StepsSetAside(run=recorded.run.number, position=position, seq=seq + 1))
    return changes


def relinked(children: Sequence[RunRow], changes: Sequence[Change]) -> list[RunRow]:
    """The child runs as they are once `changes` are written."""
    new = {change.row.number: change.row for change in changes if isinstance(change, ChildLinked)}
    return [new.get(child.number, child) for child in children]


def shut_gates(recorded: Recorded) -> list[StepRow]:
    """The gates that are recorded as shut."""
    return [step for step in recorded.steps if step.kind is StepKind.SUSPEND and step.status is StepStatus.PENDING]


def opened_gates(recorded: Recorded, now_us: int) -> list[StepRow]:
    """The gates at which the run is shut, opened; none if it is suspended for another reason."""
    if recorded.run.parked is not None:
        return []
    return [
        structs.replace(
            gate, status=advance(STEP, gate.status, StepEvent.SUCCEED), output="null", seq=seq, ended_at=now_us
        )
        for seq, gate in enumerate(shut_gates(recorded), recorded.last_seq + 1)
    ]


def accepted(recorded: Recorded, position: int, now_us: int) -> SignalRow:
    """That steps from `position` on are set aside, as something that has a place in the history of the run."""
    places = [step.seq for step in recorded.steps if step.seq is not None]
    seq = max([recorded.last_seq, *places]) + 1
    return SignalRow(
        run=recorded.run.number, seq=seq, name=CODE_ACCEPTED, payload=None, sent_at=now_us, position=position
    )


def after(recorded: Recorded, changes: Sequence[Change]) -> Recorded:
    """The run as it is once `changes` are written, as far as its steps and timers go."""
    steps = {row.position: row for row in recorded.steps}
    kept = {row.position: row for row in recorded.set_aside}
    timers, last_seq = recorded.timers, recorded.last_seq
    for change in changes:
        match change:
            case StepReopened(row=row):
                steps[row.position] = row
            case StepSetAside(row=row):
                kept[row.position] = row
            case SetAsideTaken(position=position):
                del kept[position]
            case StepsSetAside(position=position, seq=seq):
                steps = {place: row for place, row in steps.items() if place < position}
                timers = tuple(timer for timer in timers if timer.seq < seq)
            case AttemptRow(seq=seq) | SignalRow(seq=seq):
                last_seq = max(last_seq, seq)
            case _:
                pass
    return structs.replace(
        recorded,
        steps=tuple(steps.values()),
        set_aside=tuple(kept.values()),
        timers=timers,
        last_seq=last_seq,
    )


def with_rows(recorded: Recorded, rows: Sequence[StepRow]) -> Recorded:
    """The run as it is once `rows`, new states of its steps, are written."""
    new = {row.position: row for row in rows}
    return structs.replace(recorded, steps=tuple(new.get(step.position, step) for step in recorded.steps))
