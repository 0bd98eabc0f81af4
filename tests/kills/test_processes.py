"""Real kills, at random instants, of the lives that `tests.kills.processes` leads."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
KILLS = 30


@pytest.mark.parametrize("what", ["signals", "children", "forks"])
def test_kills_at_random_instants(what: str, tmp_path: Path) -> None:
    """I1, I2, I5: between a signal and its consumption, a child's start and its parent's record, during a fork."""
    seed = int.from_bytes(os.urandom(3), "big")
    lives = [sys.executable, "-m", "tests.kills.processes", what, str(tmp_path), "--kills", f"{KILLS}"]
    done = subprocess.run([*lives, "--seed", f"{seed}"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, f"seed {seed}: {done.stdout}{done.stderr}"
    assert done.stdout.endswith(" kills\n")
