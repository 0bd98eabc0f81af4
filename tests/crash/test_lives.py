"""Lives that are killed at random instants are those of production."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_docs import ROOT

LIFE = """
import sys
from pathlib import Path

from pikkupy.store.writer import Writer
from tests.crash.lives import Case, Kill, Plan

write_between = Writer._write_between


def refusing(writer, db, planned):
    assert len(planned) > 1, "one statement, and a BEGIN"
    write_between(writer, db, planned)


Writer._write_between = refusing
Case(Path(sys.argv[1]), "resident").live(Plan(Kill[sys.argv[2]], after_s=0.01))
"""


@pytest.mark.parametrize(("how", "code"), [("PAUSE", 0), ("NOTHING", 1)])
def test_a_life_passes_failpoints_in_its_writes_only_to_be_killed_there(tmp_path: Path, how: str, code: int) -> None:
    """They make a transaction of one statement a BEGIN, the statement and a COMMIT, which production has not."""
    command = [sys.executable, "-c", LIFE, tmp_path / "case", how]

    assert subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60).returncode == code


INTERRUPTED = """
import os
import signal
import sys
from pathlib import Path

from tests.crash.lives import Case, Ended, Kill, Plan

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in what a shell began in the background
fork = os.fork


def interrupted():
    pid = fork()
    if pid == 0:
        os.kill(os.getpid(), signal.SIGINT)
    return pid


os.fork = interrupted
assert Case(Path(sys.argv[1]), "resident").live(Plan(Kill.NOTHING)) is Ended.LEFT
"""


def test_a_life_that_is_interrupted_before_its_first_line_was_told_to_end(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, tmp_path / "case"], cwd=ROOT, check=False, capture_output=True, timeout=60
    )

    assert ran.returncode == 0, ran.stderr.decode()
