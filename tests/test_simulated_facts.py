"""Each fact that the simulation asks a file for, asked of a file in which it is not so."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import cast

import pytest

from pikkupy.testing.simulation import History, Violation, draw
from pikkupy.testing.simulation.checks import FACTS, Checks
from pikkupy.testing.simulation.oracle import Oracle

SEEDS = range(1, 41)
SEVERAL = """
SELECT 1 FROM pikkupy_attempts AS one JOIN pikkupy_steps AS step ON step.run = one.run AND step.position = one.position
WHERE step.status IN ('succeeded', 'failed') AND step.attempts > 1
AND step.run NOT IN (SELECT run FROM pikkupy_attempts WHERE name IS NOT NULL)
"""
IN_ORDER = """
SELECT 1 FROM pikkupy_signals AS one JOIN pikkupy_signals AS other ON other.run = one.run AND other.name = one.name
AND other.seq > one.seq WHERE one.name IN ('s0', 's1') AND other.position IS NOT NULL
"""
FIRST_SIGNAL = (
    "UPDATE pikkupy_signals SET position = NULL WHERE key IN (SELECT min(key) FROM pikkupy_signals GROUP BY run, name)"
)
SPOILT = [  # the beginning of the fact, what a file has to have, and what is done to it
    (
        "end: step",
        "SELECT 1 FROM pikkupy_steps WHERE status = 'cancelled'",
        "UPDATE pikkupy_steps SET status = 'pending', ended_at = NULL WHERE status = 'cancelled'",
    ),
    ("end: run", "SELECT 1 FROM pikkupy_runs", "UPDATE pikkupy_runs SET wakes_at = 1"),
    (
        "early: sleep",
        "SELECT 1 FROM pikkupy_steps WHERE kind = 'sleep' AND status = 'succeeded'",
        "UPDATE pikkupy_steps SET ended_at = wake_at - 1 WHERE kind = 'sleep' AND status = 'succeeded'",
    ),
    ("early: a timer", "SELECT 1 FROM pikkupy_timers", "UPDATE pikkupy_timers SET fired_at = due_at - 1"),
    (
        "places",
        "SELECT 1 FROM pikkupy_attempts JOIN pikkupy_steps USING (run) WHERE pikkupy_steps.seq IS NOT NULL",
        "UPDATE pikkupy_steps SET seq = (SELECT seq FROM pikkupy_attempts AS one WHERE one.run = pikkupy_steps.run) "
        "WHERE seq IS NOT NULL AND run IN (SELECT run FROM pikkupy_attempts)",
    ),
    ("attempts: step", SEVERAL, "DELETE FROM pikkupy_attempts WHERE attempt = 1"),
    ("attempts: step", SEVERAL, "DELETE FROM pikkupy_attempts"),
    (
        "attempts: attempt {2} of step {1} of run number {0} is recorded twice",
        "SELECT 1 FROM pikkupy_attempts WHERE name IS NULL",
        "INSERT INTO pikkupy_attempts (key, position, attempt, status, error, started_at, ended_at, name, checksum) "
        "SELECT key + 5000, position, attempt, status, error, started_at, ended_at, name, checksum "
        "FROM pikkupy_attempts WHERE name IS NULL",
    ),
    (
        "attempts: attempt {2} of step {1} of run number {0} has no beginning",
        "SELECT 1 FROM pikkupy_attempts",
        "UPDATE pikkupy_attempts SET started_at = 0",
    ),
    ("rows", "SELECT 1 FROM pikkupy_timers", "DELETE FROM pikkupy_runs; DELETE FROM pikkupy_deleted"),
    (
        "wake-up",
        "SELECT 1 FROM pikkupy_signals JOIN pikkupy_steps USING (run, position) WHERE pikkupy_signals.name = 's0'",
        "UPDATE pikkupy_runs SET ended_at = NULL, parked = NULL; UPDATE pikkupy_signals SET position = NULL; UPDATE "
        "pikkupy_steps SET status = 'pending', seq = NULL, ended_at = NULL, wake_at = NULL WHERE kind = 'signal'",
    ),
    ("signal", IN_ORDER, FIRST_SIGNAL),
]


@pytest.fixture(scope="module")
def files() -> Iterator[list[bytes]]:
    """What simulated histories have left."""
    found: list[bytes] = []
    at_the_end = Checks.at_the_end

    def kept(self: Checks) -> None:
        found.append(self._query.__self__._db.serialize())  # type: ignore[attr-defined]
        at_the_end(self)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checks, "at_the_end", kept)
        for seed in SEEDS:
            History(draw(seed)).run()
    yield found


@pytest.mark.parametrize(("fact", "needed", "spoil"), SPOILT, ids=[f"{n} {one[0]}" for n, one in enumerate(SPOILT)])
def test_a_file_in_which_it_is_not_so_is_a_violation(fact: str, needed: str, spoil: str, files: list[bytes]) -> None:
    """And one in which it is so is none."""
    [text] = [text for text in FACTS if text.startswith(fact)]
    for data in files:
        with closing(sqlite3.connect(":memory:")) as db:
            db.deserialize(data)
            if not db.execute(needed).fetchall():
                continue
            assert db.execute(FACTS[text]).fetchall() == []
            db.executescript(f"PRAGMA ignore_check_constraints = ON; PRAGMA foreign_keys = OFF; {spoil}")
            checks = Checks(lambda sql, *given, db=db: db.execute(sql, given).fetchall(), cast(Oracle, None))
            assert db.execute(FACTS[text]).fetchall()
            with pytest.raises(Violation):
                checks.facts()
            return
    pytest.fail("no history has left such a file")


def test_every_fact_is_asked_so() -> None:
    assert {text for text in FACTS if any(text.startswith(one[0]) for one in SPOILT)} == set(FACTS)
