"""A step's time as a bar with parts, and the scale of a run that its bars are drawn to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from pikkupy.core.model import AttemptStatus, StepKind, StepStatus
from pikkupy.engine import Attempt, Run, Step


class Shape(StrEnum):
    """What a part of a bar says."""

    WORK = "attempt"
    FAILED = "failed attempt"
    RUNNING = "under way"
    RETRY = "between attempts"
    SLEEP = "sleep"
    WAIT = "signal or gate"
    CHILD = "child run"


class Bar(NamedTuple):
    """A part of a step's time."""

    shape: Shape
    begin: datetime
    end: datetime


class Scale(NamedTuple):
    """Which times the columns stand for, and whether there is a now among them."""

    begin: datetime
    end: datetime
    now: datetime | None

    def column(self, when: datetime, width: int) -> int:
        """From 0 to `width`."""
        share = (when - self.begin) / (self.end - self.begin)
        return min(width, max(0, int(share * width)))


def scale_of(run: Run, steps: Sequence[Step], now: datetime, *, whole: bool) -> Scale:
    """From the beginning of the run to its end; if `steps` are not all, from the first of them to the last.

    Of an unfinished run what is to come gets a quarter at most, however far it is: a sleep of a month does not squeeze
    the past.
    """
    starts = [step.started_at for step in steps if step.started_at is not None]
    begin = min([*starts, run.starts_at]) if whole or not starts else min(starts)
    ends = [step.ended_at for step in steps if step.ended_at is not None]
    if run.ended_at is not None and (whole or not ends):
        ends.append(run.ended_at)
    if run.ended_at is not None or (ends and not whole and len(ends) == len(steps)):
        return Scale(begin, max(*ends, begin + timedelta(milliseconds=1)), None)
    past = max(now - begin, timedelta(milliseconds=1))
    waking = [step.wake_at for step in steps if step.wake_at is not None and step.ended_at is None]
    to_come = min(max([now, *waking]) - now, past / 3)
    return Scale(begin, begin + past + to_come, now)


def _waits(step: Step, attempts: Sequence[Attempt], end: datetime) -> Iterator[Bar]:
    """What is between attempts.

    A step without `wake_at` has not waited for its newest attempt: the run had failed, and was retried by somebody.
    """
    begins = [attempt.started_at for attempt in attempts[1:]]
    if step.status is StepStatus.SCHEDULED:
        begins.append(end)
    elif step.status is StepStatus.RUNNING and attempts:
        begins.append(min(step.wake_at or end, end))
    if step.wake_at is None:
        begins = begins[:-1]
    yield from (
        Bar(Shape.RETRY, attempt.ended_at, begin)
        for attempt, begin in zip(attempts, begins, strict=False)
        if begin > attempt.ended_at
    )


def bars_of(step: Step, attempts: Sequence[Attempt], now: datetime) -> Iterator[Bar]:
    """The parts of one step, in the order of time; what is below another one comes first."""
    if step.started_at is None:
        return
    end = step.ended_at or max(now, step.wake_at or now)
    match step.kind:
        case StepKind.SLEEP:
            yield Bar(Shape.SLEEP, step.started_at, end)
            return
        case StepKind.SIGNAL | StepKind.SUSPEND:
            yield Bar(Shape.WAIT, step.started_at, step.ended_at or now)
            return
        case _:
            pass
    work = Shape.CHILD if step.kind is StepKind.WORKFLOW else Shape.WORK
    yield from _waits(step, attempts, end)
    for attempt in attempts:
        failed = attempt.status is AttemptStatus.FAILED
        yield Bar(Shape.FAILED if failed else work, attempt.started_at, attempt.ended_at)
    if step.status is StepStatus.RUNNING:
        began = step.started_at if not attempts else step.wake_at or now  # when a retried run has begun it is not known
        yield Bar(Shape.CHILD if work is Shape.CHILD else Shape.RUNNING, began, now)
    elif not attempts and step.ended_at is not None:
        yield Bar(work, step.started_at, step.ended_at)
