"""The oracle of the simulation by itself: that it would object, and to what it does not."""

from __future__ import annotations

from typing import Any, cast

import pytest

from pikkupy.services import StepContext
from pikkupy.testing.simulation.clock import SimulatedClock
from pikkupy.testing.simulation.disk import SimulatedDisk
from pikkupy.testing.simulation.oracle import Cursor, Oracle, Violation
from pikkupy.testing.simulation.programs import Do

STEP = Do("charge", retries=3)


class Disk:
    """Answers every question about a step in the same way."""

    def __init__(self, *, outcome: tuple[Any, ...] = (1, "succeeded", None), attempts: int = 1) -> None:
        self.commits = 1
        self._outcome = outcome
        self._body = (None, None, attempts, 0, None, "running", None, 1)

    def query(self, sql: str, *_: object) -> list[tuple[Any, ...]]:
        return [self._body if "AS runs LEFT JOIN" in sql else self._outcome]


class Clock(SimulatedClock):
    """Stands still."""

    def now_us(self) -> int:
        return 0


@pytest.fixture
def oracle() -> Oracle:
    return Oracle(cast(SimulatedDisk, Disk()), Clock())


def attempt(number: int, run_id: str = "r0", position: int = 0) -> StepContext:
    return StepContext(run_id, "program", "s", "charge", number, position)


def sees(oracle: Oracle, value: str, run_id: str = "r0", position: int = 0) -> None:
    oracle.saw(Cursor(run_id), position, STEP, value, remembers=False)


def test_a_value_that_no_body_has_returned_is_a_violation(oracle: Oracle) -> None:
    """Also of a step whose bodies never return anything (I4, I-9)."""
    with pytest.raises(Violation, match="value: run 'r0' sees 7 of step 0, which no attempt has returned"):
        sees(oracle, "7")
    oracle.made(attempt(1), "7")
    sees(oracle, "7")


def test_only_what_a_fork_shares_may_come_from_elsewhere(oracle: Oracle) -> None:
    """What lies behind the place of the fork it does by itself."""
    oracle.forking["f1"] = 2

    sees(oracle, "7", "f1", 1)
    with pytest.raises(Violation, match="value"):
        sees(oracle, "7", "f1", 2)


def test_two_attempts_at_once_are_a_violation(oracle: Oracle) -> None:
    """The next one waits for the end of the one before (I6, I-20), but in another life."""
    oracle.begins(STEP, attempt(1), life=1)
    with pytest.raises(Violation, match="begins while attempt 1 is under way"):
        oracle.begins(STEP, attempt(2), life=1)
    oracle.begins(STEP, attempt(1), life=2)
    oracle.ends(attempt(1), life=2)
    oracle.begins(STEP, attempt(2), life=2)


def test_a_cancel_holds_below_although_another_run_was_retried(oracle: Oracle) -> None:
    """Only a retry on the way to the child run lets it go on (I8, I-26)."""
    oracle.has_cancelled("r0")
    oracle.is_retried("r9")
    with pytest.raises(Violation, match=r"begins after cancel\('r0'\) has returned"):
        oracle.begins(STEP, attempt(1, "r0/child"), life=1)
    oracle.is_retried("r0")
    oracle.begins(STEP, attempt(1, "r0/child"), life=1)
