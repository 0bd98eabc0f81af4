"""The long form of the proofs is one command, and it works."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.long import PARTS, ROOT


@pytest.mark.slow
def test_the_long_form_works() -> None:
    """In sizes that say nothing; kills are a part of every run by themselves."""
    parts = [part for part in PARTS if part != "kills"]
    command = [sys.executable, "-m", "tests.long", "--small", "--seed", "1", "--only", *parts]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in done.stdout.splitlines()[-len(parts) :]] == [[part, "held"] for part in parts]
