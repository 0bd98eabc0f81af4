"""What an unfinished run does, or waits for, in a few words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta

from pikkupy.core.machine import FINAL_RUNS
from pikkupy.core.model import RunStatus, StepKind, StepStatus
from pikkupy.engine import Run, Step
from pikkupy.names import without_ordinal
from pikkupy.showing.words import clean, first_line, local, relative

_ORDER = (StepStatus.RUNNING, StepStatus.PENDING, StepStatus.SCHEDULED)


def took(run: Run, now: datetime) -> timedelta:
    """How long it has taken, so far or in all; nothing before its start. A fork starts when it is made."""
    return max(timedelta(0), (run.ended_at or now) - max(run.starts_at, run.created_at))


def what_of(run: Run, steps: Sequence[Step], now: datetime, write: Callable[[datetime], str] = local) -> str:
    """The error of a failed run, the reason of a cancelled or suspended one; of a running one what it waits for.

    `write` makes texts of times.
    """
    if run.error is not None:
        return clean(f"{run.error.type}: {first_line(run.error.message)}")
    if run.reason is not None and run.status is not RunStatus.RUNNING:
        return first_line(run.reason)
    if run.status in FINAL_RUNS:
        return ""
    if run.starts_at > now:
        return f"begins {_due(run.starts_at, now, write)}"
    if not steps:
        return ""
    first, *others = sorted(
        steps, key=lambda step: (_ORDER.index(step.status), step.wake_at or datetime.max.replace(tzinfo=now.tzinfo))
    )
    return waits_for(first, now, write=write) + (f", and {len(others):,} more" if others else "")


def waits_for(
    step: Step,
    now: datetime,
    decisions: Collection[str] | None = None,
    write: Callable[[datetime], str] = local,
) -> str:
    """The same of a step without an outcome. `decisions`: what is to be decided; `None`: it is not known.

    The record does not tell a decision from a signal, the code does.
    """
    name, until = clean(step.name), "" if step.wake_at is None else f" until {_due(step.wake_at, now, write)}"
    match step.kind:
        case StepKind.SLEEP:
            return f"sleeps{until}: {name}"
        case StepKind.SIGNAL:
            if decisions is None:
                return f"waits for the signal or decision {name}{until}"
            if without_ordinal(step.name) in decisions:
                return f"waits for a decision{until}: {name}"
            return f"waits for the signal {name}{until}"
        case StepKind.SUSPEND:
            return f"held by the gate {name}"
        case StepKind.WORKFLOW if step.status is not StepStatus.SCHEDULED:
            return f"waits for the child run of {name}"
        case _ if step.status is StepStatus.SCHEDULED and step.wake_at is not None:
            return f"attempt {step.attempts + 1} of {name} {_due(step.wake_at, now, write)}"
        case _ if step.attempts > 1:
            return f"attempt {step.attempts} of {name}"
        case _:
            return f"does {name}"


def _due(when: datetime, now: datetime, write: Callable[[datetime], str]) -> str:
    return f"{write(when)} ({relative(when, now)})"
