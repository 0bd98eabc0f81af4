"""A file that somebody else has written says what is in it, and no more: no name in it is imported or called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def run_hostile(folder: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.hostile", str(folder), *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_nothing_is_imported_evaluated_or_unpickled_because_of_a_file(tmp_path: Path) -> None:
    """Sixty files, each opened, listed, stepped through, forked, resumed, retried, streamed and pruned.

    Whatever is in them is given as a value or as text, or refused with an error of pikkupy's.
    """
    found = run_hostile(tmp_path)

    assert found["cases"] >= 60
    assert found["violations"] == []
    assert found["odd"] == []
    assert not list(ROOT.glob("pwned*")) and not list(tmp_path.glob("pwned*"))


def test_the_watch_sees_what_it_is_there_for(tmp_path: Path) -> None:
    """Unpickling and importing under the same hook are seen."""
    found = run_hostile(tmp_path, "--control")
    (ROOT / "pwned").unlink()

    seen = " ".join(found["violations"])
    assert all(event in seen for event in ("pickle.find_class", "exec", "compile", "import", "open 'pwned'"))
