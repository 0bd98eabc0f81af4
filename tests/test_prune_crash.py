"""Pruning that is killed: whole runs are left, what was told is gone, and the next life prunes the rest."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from pikkupy import Pikku
from tests.children import child
from tests.crash.pruning import CHILDREN, STEPS, fill, later

ROOT = Path(__file__).parent.parent
LIFE = """
import sys
from pathlib import Path
from tests.crash.pruning import prune_until_killed
prune_until_killed(Path(sys.argv[1]), 1)
"""
KILLS = 6
RUNS = 4_000


def killed(db: Path, wait_s: float) -> int:
    """Prune in a process that is killed so long after it has begun; how many runs it told to be gone."""
    with child([sys.executable, "-c", LIFE, str(db)], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        time.sleep(wait_s)  # the moment of the kill is what is tried; nothing is waited for
        process.send_signal(signal.SIGKILL)
        told = process.stdout.read().split()
    return int(told[-1]) if told and told[-1].isdigit() else 0


def whole_runs(db: Path) -> set[int]:
    """The runs without parents that are there. Raises if any run that is there lacks something, or any is half gone."""
    with closing(sqlite3.connect(db)) as connection:
        deleted = {number for (number,) in connection.execute("SELECT number FROM pikkupy_deleted")}
        runs = connection.execute("SELECT number, parent FROM pikkupy_runs").fetchall()
        for table, each in (("steps", STEPS), ("attempts", STEPS), ("tags", 1)):
            rows = connection.execute(f"SELECT run, count(*) FROM pikkupy_{table} GROUP BY run").fetchall()
            whole = {number: count for number, count in rows if number not in deleted}
            assert whole == dict.fromkeys((number for number, _ in runs), each), table
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    roots = {number for number, parent in runs if parent is None}
    assert sum(parent is not None for _, parent in runs) == CHILDREN * sum(number % 5 == 0 for number in roots)
    return roots


async def test_kills_while_runs_are_pruned_leave_whole_runs(db: Path) -> None:
    """With another seed in every run; what was told to be gone stays gone, the oldest first."""
    seed = int.from_bytes(os.urandom(3), "big")
    rng = random.Random(seed)
    there = await fill(db, RUNS)
    for _ in range(KILLS):
        told = killed(db, rng.uniform(0, 0.06))
        remaining = whole_runs(db)
        assert len(remaining) <= there - told, f"seed {seed}"
        assert remaining == set(range(RUNS - len(remaining) + 1, RUNS + 1)), f"seed {seed}"
        there = len(remaining)

    assert 0 < there < RUNS, f"seed {seed}: no kill was in the middle"
    async with Pikku().open(db, clock=later()) as engine:
        assert await engine.prune(older_than=0) == there
        assert (await engine.list_runs()).runs == ()
    assert whole_runs(db) == set()
    with closing(sqlite3.connect(db)) as connection:
        for table in ("deleted", "steps", "attempts", "tags"):
            assert connection.execute(f"SELECT count(*) FROM pikkupy_{table}").fetchone() == (0,)
