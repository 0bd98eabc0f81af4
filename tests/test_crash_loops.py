"""A step that kills its process is run a bounded number of times, whatever else happens to its run (I6)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pikkupy import Pikku, Workflow

ROOT = Path(__file__).parent.parent
LIMIT = 2
LIFE = "import asyncio, sys; from tests.test_crash_loops import live; asyncio.run(live(*sys.argv[1:]))"


def application(mode: str, ledger: Path) -> Pikku:
    """A run that kills its process once it is told to begin; in the mode `unfit` its code does not fit the record."""
    pikku = Pikku()

    def kill() -> None:
        if mode != "first":
            with ledger.open("a") as file:
                file.write("killed\n")
        os._exit(9)

    @pikku.workflow
    async def child(workflow: Workflow) -> str:
        return await workflow.wait_for_signal("go", str)

    @pikku.workflow
    async def parent(workflow: Workflow) -> str:
        waiting = workflow.do("child", child)
        await workflow.do("changed" if mode == "unfit" else "before", lambda: 1)
        await workflow.wait_for_signal("begin")
        await workflow.do("killer", kill)
        return await waiting

    return pikku


async def live(db: str, ledger: str, mode: str) -> None:
    """One life: it starts the run, or goes on with it, and tells it or its child to go on."""
    async with application(mode, Path(ledger)).open(db, max_cut_offs=LIMIT) as engine:
        await engine.start("parent", run_id="r")
        if mode == "signal":
            await engine.signal("r/child", "go", "on")
            assert await (await engine.handle("r/child")).result() == "on"
        else:
            await engine.signal("r", "begin")
        while (await engine.get_run("r")).status == "running":
            await asyncio.sleep(0.001)


def lives(db: Path, ledger: Path, *modes: str) -> int:
    """How often the step has killed its process after lives in these modes."""
    for mode in modes:
        subprocess.run([sys.executable, "-c", LIFE, db, ledger, mode], cwd=ROOT, check=False, timeout=60)
    return len(ledger.read_text().split()) if ledger.exists() else 0


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


def test_the_end_of_a_child_does_not_take_up_a_run_that_was_cut_off_too_often(db: Path, ledger: Path) -> None:
    """Only a resume does."""
    assert lives(db, ledger, *["kill"] * (LIMIT + 2)) == LIMIT
    assert lives(db, ledger, "signal", "kill", "kill") == LIMIT


def test_what_kills_the_process_in_mended_code_counts(db: Path, ledger: Path) -> None:
    """A run that was parked because its code did not fit, and then goes on, is cut off like any other."""
    assert lives(db, ledger, "first", "unfit") == 0
    # The first of these lives takes the run up; that counts once it is on disk.
    assert lives(db, ledger, *["kill"] * (LIMIT + 3)) == LIMIT


def test_a_run_that_was_cut_off_again_is_warned_of(db: Path, ledger: Path) -> None:
    """That a crash has cut off what was under way is no news: there may be thousands of lines of it."""
    command = [sys.executable, "-c", f"import logging; logging.basicConfig(); {LIFE}", db, ledger, "kill"]
    told = [subprocess.run(command, cwd=ROOT, check=False, timeout=60, capture_output=True) for _ in range(3)]

    assert [life.stderr.count(b"run_cut_off") for life in told] == [0, 0, 1]
