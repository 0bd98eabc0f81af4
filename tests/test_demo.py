"""`pikku demo`: the child is killed twice, and each recorded effect happened once."""

from __future__ import annotations

import json
import subprocess
import sys


def test_the_demo_survives_two_kills_and_says_so() -> None:
    """On a pipe: plain lines, no control sequences, no boxes; what is replayed comes in the order of the run."""
    done = subprocess.run(
        [sys.executable, "-m", "pikkupy", "demo", "--fast"], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.count("*** kill -9") == 2
    assert "from the journal, not run again" in done.stdout
    assert "Each recorded effect happened once" in done.stdout
    assert done.stdout.isascii() and "\x1b" not in done.stdout
    replayed = [line.split(":")[0].strip() for line in done.stdout.splitlines() if "from the journal, not" in line]
    second_life = replayed[: len(replayed) - len(set(replayed))]
    assert second_life == replayed[-len(set(replayed)) :][: len(second_life)]
    assert replayed[:3] == ["Create user profile", "Create user in CRM", "Create analytics profile"]


def test_the_demo_speaks_json() -> None:
    """One document, with the ledger's counts."""
    done = subprocess.run(
        [sys.executable, "-m", "pikkupy", "demo", "--fast", "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    summary = json.loads(done.stdout)

    assert (summary["kills"], summary["lives"]) == (2, 3)
    assert summary["each_recorded_effect_once"] is True
    assert summary["effects"]["Generate welcome report"] == {"began": 2, "done": 1}
    assert summary["effects"]["Create analytics profile"] == {"began": 3, "failed": 2, "done": 1}


def test_an_unknown_command_is_a_usage_error() -> None:
    """Exit code 2, and a word about it."""
    done = subprocess.run(
        [sys.executable, "-m", "pikkupy", "dance"], capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode == 2
    assert "dance" in done.stdout + done.stderr
