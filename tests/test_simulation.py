"""The simulator: the same seed is the same history, what it does is real, and it finds what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pikkupy.core import decide
from pikkupy.core.commands import Policy
from pikkupy.core.decide import RetryAt, Settle
from pikkupy.testing.simulation import History, Violation, draw
from pikkupy.testing.simulation.shrink import breaks, shrink

ROOT = Path(__file__).parent.parent
SEEDS = range(1, 61)


def test_the_same_seed_is_the_same_history() -> None:
    """Twice here, and once in another process, whose hashes are others."""
    traces = [History(draw(seed)).run().trace for seed in SEEDS[:8]]
    assert [History(draw(seed)).run().trace for seed in SEEDS[:8]] == traces
    command = [sys.executable, "-m", "pikkupy.testing.simulation", "--seed", "1", "--histories", "8"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [json.loads(line)["report"]["trace"] for line in told] == traces


def test_histories_with_many_crashes_break_no_promise() -> None:
    """Faults of every kind strike, values are seen again after crashes, and every run comes to its end."""
    reports = [History(draw(seed)).run() for seed in SEEDS]
    faults = {cell.split(" in ")[0] for report in reports for cell in report.cells}
    assert faults == {"crash", "power", "busy", "full", "io_error", "clock", "leave"}
    assert sum(report.crashes for report in reports) > len(SEEDS)
    assert sum(report.counts.get("seen again", 0) for report in reports) > len(SEEDS)


def test_a_defect_is_found_and_its_scenario_made_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """One retry too many."""

    def generous(policy: Policy, failures: int, now_us: int, fraction: float) -> Settle | RetryAt:
        return decided(policy, failures - 1, now_us, fraction)

    decided = decide.after_failure
    monkeypatch.setattr("pikkupy.engine.active.after_failure", generous)
    found = next(seed for seed in SEEDS if breaks(draw(seed)) == "attempts")
    scenario = draw(found)

    smallest = shrink(scenario, "attempts")

    assert breaks(smallest) == "attempts"
    assert len(smallest.faults) + len(smallest.acts) <= 3
    with pytest.raises(Violation, match="retries"):
        History(smallest).run()
