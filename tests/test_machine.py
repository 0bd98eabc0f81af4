"""The state machine: the tables are closed, and final means final."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from pikkupy.core.machine import (
    FINAL_RUNS,
    FINAL_STEPS,
    RUN,
    STEP,
    IllegalMove,
    RunEvent,
    StepEvent,
    advance,
    diagram,
)
from pikkupy.core.model import RunStatus, StepStatus


@pytest.mark.parametrize(("status", "event"), list(itertools.product(RunStatus, RunEvent)))
def test_a_run_moves_by_the_table_or_not_at_all(status: RunStatus, event: RunEvent) -> None:
    """I3: of the final statuses only `failed` has a way out, by `engine.retry`."""
    if (status, event) in RUN:
        assert advance(RUN, status, event) is RUN[status, event]
        assert status not in FINAL_RUNS or (status, event) == (RunStatus.FAILED, RunEvent.RETRY)
    else:
        with pytest.raises(IllegalMove):
            advance(RUN, status, event)


@pytest.mark.parametrize(("status", "event"), list(itertools.product(StepStatus, StepEvent)))
def test_a_step_moves_by_the_table_or_not_at_all(status: StepStatus, event: StepEvent) -> None:
    """I1, I2: nothing follows a recorded success; a failure, or no outcome, only `engine.retry` takes back."""
    if (status, event) in STEP:
        assert advance(STEP, status, event) is STEP[status, event]
        assert status not in FINAL_STEPS or (event is StepEvent.RETRY and status is not StepStatus.SUCCEEDED)
    else:
        with pytest.raises(IllegalMove):
            advance(STEP, status, event)


def test_every_status_can_be_reached_and_left_or_is_final() -> None:
    """No status is a dead end or an island."""
    assert {*RUN.values(), RunStatus.RUNNING} == set(RunStatus)
    assert {*STEP.values(), StepStatus.PENDING} == set(StepStatus)
    assert {status for status, _ in RUN} | FINAL_RUNS == set(RunStatus)
    assert {status for status, _ in STEP} | FINAL_STEPS == set(StepStatus)


def test_the_readme_shows_the_diagram_of_the_tables() -> None:
    """The life cycle diagram is generated, not drawn."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")

    assert diagram() in readme
