"""What the system itself says of a disk, given to SQLite by strace: that its errors mean what is taken for granted.

`errors.py` gives errors to SQLite's layer for the system, n-th call by n-th call. Here the system calls fail, a few
times of each kind, so that it is known what SQLite makes of `ENOSPC`, `EIO` and `EROFS`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.disk import kills
from tests.disk.acknowledging import RUNS, pikku
from tests.test_docs import ROOT

pytestmark = pytest.mark.skipif(not kills.has_strace(), reason="there is no strace that may trace")

WHEN = 60  # the write that fails: the engine is at work by then, on a file that was there


def lived(path: Path, inject: str) -> list[str]:
    """What a life has said in which system calls on the file or its log fail."""
    asyncio.run(made(path))
    call = inject.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={inject}"]
    command += ["-P", str(path), "-P", f"{path}-wal", sys.executable, "-m", "tests.disk.acknowledging", str(path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def made(path: Path) -> None:
    """The file."""
    async with pikku.open(path):
        pass


async def check(path: Path, said: list[str]) -> None:
    """Whatever was told is there, and goes on to its end."""
    told = [line.partition(" ")[2] for line in said if line.startswith("told ")]
    async with pikku.open(path) as engine:
        for run_id in told:
            assert await (await engine.handle(run_id)).result("60s") == 2 * int(run_id[1:])


def test_no_space_is_waited_for(db: Path) -> None:
    """`ENOSPC` is SQLITE_FULL: nothing is lost, nothing fails, and it goes on by itself."""
    said = lived(db, f"pwrite64:error=ENOSPC:when={WHEN}..{WHEN + 2}")
    assert said[-1] == "done"
    assert len([line for line in said if line.startswith("ended ")]) == RUNS
    assert [line for line in said if "journal_waiting" in line]
    asyncio.run(check(db, said))


@pytest.mark.parametrize(
    "inject",
    [
        f"pwrite64:error=EIO:when={WHEN}", f"pwrite64:error=EIO:when={WHEN}+", f"pwrite64:error=EROFS:when={WHEN}+",
        "fdatasync:error=EIO:when=20", "fdatasync:error=EIO:when=20+", "fdatasync:error=ENOSPC:when=20",
    ],
)  # fmt: skip
def test_an_error_of_the_disk_ends_the_engine(db: Path, inject: str) -> None:
    """The commit that failed was not told, the engine stops rather than guess, and the file has all that was told."""
    said = lived(db, inject)
    assert said[-1].startswith("failed "), said[-3:]
    assert 0 < len([line for line in said if line.startswith("told ")]) < RUNS
    asyncio.run(check(db, said))
