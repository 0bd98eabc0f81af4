"""The state machine: everything that decides which status may follow which is in this file.

Two tables, `(status, event) -> status`, one for runs and one for steps, and `advance`, the only place where a status
changes. SQL `CHECK`s and `WHERE status` clauses guard the same facts a second and third time; a test compares them.
The diagram in README.md is generated from the tables (`python -m pikkupy.core.machine`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar

from pikkupy.core.model import RunStatus, StepStatus


class RunEvent(StrEnum):
    """What can happen to a run."""

    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    SUSPEND = "suspend"
    RESUME = "resume"
    RETRY = "retry"


class StepEvent(StrEnum):
    """What can happen to a step."""

    BEGIN = "begin"  # an attempt begins
    SCHEDULE = "schedule"  # a timer is armed: a sleep, or the wait before the next attempt
    SUCCEED = "succeed"
    FAIL = "fail"
    CANCEL = "cancel"
    CUT_OFF = "cut off"  # a crash ended the attempt, or its body did not come to begin; it will begin again
    RETRY = "retry"  # its run is retried


RUN: Mapping[tuple[RunStatus, RunEvent], RunStatus] = {
    (RunStatus.RUNNING, RunEvent.COMPLETE): RunStatus.COMPLETED,
    (RunStatus.RUNNING, RunEvent.FAIL): RunStatus.FAILED,
    (RunStatus.RUNNING, RunEvent.CANCEL): RunStatus.CANCELLED,
    (RunStatus.RUNNING, RunEvent.SUSPEND): RunStatus.SUSPENDED,
    (RunStatus.SUSPENDED, RunEvent.SUSPEND): RunStatus.SUSPENDED,  # for another reason
    (RunStatus.SUSPENDED, RunEvent.COMPLETE): RunStatus.COMPLETED,  # a branch that nobody waits for was held
    (RunStatus.SUSPENDED, RunEvent.FAIL): RunStatus.FAILED,
    (RunStatus.SUSPENDED, RunEvent.RESUME): RunStatus.RUNNING,
    (RunStatus.SUSPENDED, RunEvent.CANCEL): RunStatus.CANCELLED,
    (RunStatus.FAILED, RunEvent.RETRY): RunStatus.RUNNING,
}

STEP: Mapping[tuple[StepStatus, StepEvent], StepStatus] = {
    (StepStatus.PENDING, StepEvent.BEGIN): StepStatus.RUNNING,
    (StepStatus.PENDING, StepEvent.SCHEDULE): StepStatus.SCHEDULED,
    (StepStatus.PENDING, StepEvent.SUCCEED): StepStatus.SUCCEEDED,  # a signal has come, a gate was opened
    (StepStatus.PENDING, StepEvent.FAIL): StepStatus.FAILED,
    (StepStatus.PENDING, StepEvent.CANCEL): StepStatus.CANCELLED,
    (StepStatus.SCHEDULED, StepEvent.BEGIN): StepStatus.RUNNING,
    (StepStatus.SCHEDULED, StepEvent.SUCCEED): StepStatus.SUCCEEDED,
    (StepStatus.SCHEDULED, StepEvent.FAIL): StepStatus.FAILED,  # no signal came in time
    (StepStatus.SCHEDULED, StepEvent.CANCEL): StepStatus.CANCELLED,
    (StepStatus.RUNNING, StepEvent.SUCCEED): StepStatus.SUCCEEDED,
    (StepStatus.RUNNING, StepEvent.FAIL): StepStatus.FAILED,
    (StepStatus.RUNNING, StepEvent.SCHEDULE): StepStatus.SCHEDULED,
    (StepStatus.RUNNING, StepEvent.CANCEL): StepStatus.CANCELLED,
    (StepStatus.RUNNING, StepEvent.CUT_OFF): StepStatus.PENDING,
    (StepStatus.FAILED, StepEvent.RETRY): StepStatus.PENDING,
    (StepStatus.CANCELLED, StepEvent.RETRY): StepStatus.PENDING,
}

FINAL_RUNS = frozenset({RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED})
FINAL_STEPS = frozenset({StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.CANCELLED})

Status = TypeVar("Status", RunStatus, StepStatus)
Event = TypeVar("Event", RunEvent, StepEvent)


class IllegalMove(AssertionError):
    """The engine asked for a move that no table has: a defect of pikkupy, never of the application."""


def advance(table: Mapping[tuple[Status, Event], Status], status: Status, event: Event) -> Status:
    """The status that follows `status` on `event`. Raises `IllegalMove` if the table has no such move."""
    try:
        return table[status, event]
    except KeyError:
        raise IllegalMove(f"{status} has no {event!r}") from None


def before(event: RunEvent) -> frozenset[RunStatus]:
    """The statuses in which `event` can happen to a run."""
    return frozenset(status for status, one in RUN if one is event)


def diagram() -> str:
    """Both tables as Mermaid state diagrams, for the README."""
    return "\n\n".join(
        _mermaid(title, table, first)
        for title, table, first in (
            ("run", {(str(s), str(e)): str(t) for (s, e), t in RUN.items()}, RunStatus.RUNNING),
            ("step", {(str(s), str(e)): str(t) for (s, e), t in STEP.items()}, StepStatus.PENDING),
        )
    )


def _mermaid(title: str, table: Mapping[tuple[str, str], str], first: str) -> str:
    lines = ["```mermaid", "---", f"title: {title}", "---", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {status} --> {target}: {event}" for (status, event), target in table.items()]
    lines.append("```")
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - the module's one command
