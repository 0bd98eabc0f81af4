"""The drawing of a run's time: what is where, and what tells it apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec import structs

from pikkupy import Attempt, Run, Step
from pikkupy.cli.timeline import draw, timeline
from pikkupy.core.model import AttemptStatus, RunStatus, StepKind, StepStatus
from pikkupy.showing.bars import Bar, Scale, Shape, bars_of, scale_of
from pikkupy.showing.waits import took

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


def a_run(ended: float | None = None) -> Run:
    return Run(
        id="r",
        workflow="w",
        status=RunStatus.RUNNING if ended is None else RunStatus.COMPLETED,
        input=None,
        output=None,
        error=None,
        reason=None,
        tags={},
        created_at=BEGIN,
        starts_at=BEGIN,
        updated_at=BEGIN,
        ended_at=None if ended is None else at(ended),
        parent_run_id=None,
        forked_from=None,
        progress=None,
    )


def a_step(kind: str, status: str, start: float | None, end: float | None = None, wake: float | None = None) -> Step:
    moments: dict[str, Any] = {
        name: None if seconds is None else at(seconds)
        for name, seconds in (("started_at", start), ("ended_at", end), ("wake_at", wake))
    }
    return Step(
        name="s",
        kind=StepKind(kind),
        target=None,
        status=StepStatus(status),
        attempts=1,
        output=None,
        error=None,
        step_id="",
        invocation_id="",
        child_run_id=None,
        **moments,
    )


def an_attempt(number: int, start: float, end: float, *, failed: bool) -> Attempt:
    return Attempt(
        step_name="s",
        attempt=number,
        status=AttemptStatus.FAILED if failed else AttemptStatus.SUCCEEDED,
        error=None,
        started_at=at(start),
        ended_at=at(end),
    )


def drawn(step: Step, attempts: list[Attempt], now: float, scale: Scale, width: int = 10) -> str:
    return draw(list(bars_of(step, attempts, at(now))), scale, width, symbols=False).plain


FAILED = [an_attempt(1, 0, 2, failed=True), an_attempt(2, 4, 6, failed=True)]


@pytest.mark.parametrize(
    ("step", "attempts", "bar"),
    [
        (a_step("inline", "succeeded", 2, 6), [an_attempt(1, 2, 6, failed=False)], "  ####    "),
        (a_step("inline", "succeeded", 2, 6), [], "  ####    "),
        (a_step("function", "succeeded", 0, 10, 8), [*FAILED, an_attempt(3, 8, 10, failed=False)], "xx..xx..##"),
        (a_step("function", "succeeded", 0, 10), [*FAILED, an_attempt(3, 8, 10, failed=False)], "xx..xx  ##"),
        (a_step("function", "failed", 0, 6, 4), FAILED, "xx..xx    "),
        (a_step("sleep", "succeeded", 1, 5, 5), [], " ----     "),
        (a_step("signal", "succeeded", 1, 5), [], " ~~~~     "),
        (a_step("suspend", "succeeded", 1, 5), [], " ~~~~     "),
        (a_step("workflow", "succeeded", 1, 5), [an_attempt(1, 1, 5, failed=False)], " ====     "),
        (a_step("inline", "pending", None), [], "          "),
        (a_step("inline", "succeeded", 9.9999, 10), [], "         #"),
    ],
)
def test_each_thing_has_a_shape(step: Step, attempts: list[Attempt], bar: str) -> None:
    """Without colour, and in ASCII."""
    assert drawn(step, attempts, 10, Scale(BEGIN, at(10), None)) == bar


@pytest.mark.parametrize(
    ("step", "attempts", "bar"),
    [
        (a_step("inline", "running", 2), [], "  >>>>>>| "),
        (a_step("function", "scheduled", 0, None, 9), FAILED, "xx..xx..."),
        (a_step("function", "running", 0, None, 7), FAILED, "xx..xx.>| "),
        (a_step("function", "running", 0), FAILED, "xx..xx  > "),
        (a_step("sleep", "scheduled", 1, None, 100), [], " ---------"),
        (a_step("signal", "scheduled", 1, None, 100), [], " ~~~~~~~| "),
        (a_step("workflow", "running", 1), [], " =======| "),
        (a_step("inline", "succeeded", 0, 1), [], "#       | "),
    ],
)
def test_what_is_under_way_goes_to_now_and_a_line_says_where_that_is(
    step: Step, attempts: list[Attempt], bar: str
) -> None:
    """What is to come, a sleep or a wait before a retry, goes on behind it."""
    assert drawn(step, attempts, 8, Scale(BEGIN, at(10), at(8))).rstrip() == bar.rstrip()


def test_what_is_to_come_gets_a_quarter_at_most() -> None:
    """A sleep of a month leaves the past its place; a short one is drawn to its end."""
    far = scale_of(a_run(), [a_step("sleep", "scheduled", 0, None, 86_400 * 30)], at(9), whole=True)
    near = scale_of(a_run(), [a_step("sleep", "scheduled", 0, None, 10)], at(9), whole=True)
    none = scale_of(a_run(), [], at(9), whole=True)

    assert (far.begin, far.now, far.end) == (BEGIN, at(9), at(12))
    assert near.end == at(10)
    assert none.end == at(9)


def test_an_ended_run_ends_with_what_came_last() -> None:
    """Late results of a cancelled run too; and nothing divides by zero."""
    assert scale_of(a_run(5), [a_step("inline", "succeeded", 1, 7)], at(9), whole=True) == Scale(BEGIN, at(7), None)
    assert scale_of(a_run(0), [], at(9), whole=True).end > BEGIN
    assert scale_of(a_run(), [], BEGIN, whole=True).end > BEGIN


def test_a_part_of_the_steps_goes_from_the_first_to_the_last_of_them() -> None:
    """Also of a run that has gone on for hours since, or has ended; what is under way goes to now."""
    part = [a_step("inline", "succeeded", 3, 4), a_step("inline", "succeeded", 4, 5)]
    for run in (a_run(), a_run(3600)):
        assert scale_of(run, part, at(7200), whole=False) == Scale(at(3), at(5), None)
    part.append(a_step("inline", "running", 5))
    assert scale_of(a_run(), part, at(9), whole=False) == Scale(at(3), at(9), at(9))


def test_a_fork_takes_the_time_since_it_was_made() -> None:
    """Its recorded timers count from the start of the run whose history it shares."""
    assert took(a_run(60), at(90)) == timedelta(seconds=60)
    assert took(structs.replace(a_run(60), created_at=at(58), forked_from="other"), at(90)) == timedelta(seconds=2)
    assert took(structs.replace(a_run(60), starts_at=at(50)), at(90)) == timedelta(seconds=10)
    assert took(a_run(), at(90)) == timedelta(seconds=90)


def test_every_line_fits() -> None:
    """Names are cut by the columns that they take; the legend names what is there."""
    step = a_step("inline", "succeeded", 1, 5)
    lines = timeline(a_run(5), [step], {}, at(9), whole=True, width=60, symbols=True)

    assert [line.cell_len for line in lines[:2]] == [60, 60]
    assert lines[-1].plain.split() == ["█", "attempt"]


def test_bars_of_a_step_that_is_cut_short_stay_inside() -> None:
    """A bar that begins before the drawing, or ends after it."""
    scale = Scale(at(4), at(6), None)
    assert draw([Bar(Shape.WORK, at(0), at(9))], scale, 4, symbols=False).plain == "####"
    assert draw([Bar(Shape.WORK, at(7), at(9))], scale, 4, symbols=False).plain == "   #"
