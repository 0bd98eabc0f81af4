"""Crashes: real kills with a ledger outside the database, and what a start-up makes of a file left in a mess."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pikkupy import Pikku, StepFailed, Workflow, current_step
from pikkupy.testing import VirtualClock
from tests.crash.__main__ import KILLS, PAIRS
from tests.crash.cases import SIGKILLS
from tests.crash.failpoints import FAILPOINTS

ROOT = Path(__file__).parent.parent


def crashed_copy(db: Path, to: Path) -> Path:
    """The file as a kill at this moment would leave it. By another process: opening it here would drop its locks."""
    to.mkdir()
    for suffix in ("", "-wal"):
        subprocess.run(["cp", f"{db}{suffix}", str(to)], check=True)
    return to / db.name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kills_at_every_failpoint_and_at_random_instants_lose_and_duplicate_nothing() -> None:
    """I1 to I9, promise 7: what `python -m tests.crash` does by itself, with another seed in every run."""
    command = [sys.executable, "-m", "tests.crash", "--json"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    report = json.loads(done.stdout)
    outcome = report["outcome"]

    assert (report["unreached"], outcome["violations"], outcome["missed"]) == ([], [], []), report
    assert done.returncode == 0
    assert FAILPOINTS.keys() <= outcome["kills"].keys() | outcome["recoveries"].keys()
    assert outcome["pairs"] >= PAIRS
    assert sum(count for name, count in outcome["kills"].items() if name in SIGKILLS) >= KILLS


async def test_an_attempt_that_a_crash_cut_off_runs_again_under_its_number(db: Path, tmp_path: Path) -> None:
    """I6: it uses up no retry and leaves no attempt in the history."""
    pikku = Pikku()
    attempts: list[int] = []
    blocked = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        async def body() -> int:
            step = current_step()
            assert step is not None
            attempts.append(step.attempt_count)
            if step.attempt_count == 1:
                raise OSError("first")
            if len(attempts) == 2:
                await blocked.wait()
            return step.attempt_count

        return await workflow.do("body", body, retries=1)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.start(flow, run_id="r")
        while len(attempts) < 2:
            await asyncio.sleep(0)
        copy = crashed_copy(db, tmp_path / "crashed")
        blocked.set()
    async with pikku.open(copy, clock=VirtualClock()) as engine:
        assert await (await engine.handle("r")).result() == 2
        history = await engine.history("r")

    assert attempts == [1, 2, 2]
    assert [(attempt.attempt, attempt.status) for attempt in history] == [(1, "failed"), (2, "succeeded")]


async def test_an_at_most_once_attempt_that_a_crash_cut_off_is_not_run_again(db: Path, tmp_path: Path) -> None:
    """Promise 2: it counts as failed with `...Interrupted`; only retries that were asked for run it once more."""
    pikku = Pikku()
    attempts: list[tuple[str, int]] = []
    blocked = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[object]:
        async def body() -> str:
            step = current_step()
            assert step is not None
            attempts.append((step.step_name, step.attempt_count))
            if step.attempt_count == 1:
                await blocked.wait()
            return "ran"

        once = workflow.do("once", body, at_most_once=True)
        twice = workflow.do("twice", body, at_most_once=True, retries=1)
        try:
            await once
        except StepFailed as failed:
            return [failed.attempts, failed.error_type.rpartition(".")[2], await twice]
        return []

    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.start(flow, run_id="r")
        while len(attempts) < 2:
            await asyncio.sleep(0)
        copy = crashed_copy(db, tmp_path / "crashed")
        blocked.set()
    async with pikku.open(copy, clock=VirtualClock()) as engine:
        assert await (await engine.handle("r")).result() == [1, "Interrupted", "ran"]
        history = await engine.history("r")

    assert attempts == [("once", 1), ("twice", 1), ("twice", 2)]
    assert [(attempt.step_name, attempt.attempt, attempt.status) for attempt in history] == [
        ("once", 1, "failed"),
        ("twice", 1, "failed"),
        ("twice", 2, "succeeded"),
    ]
    assert {attempt.started_at for attempt in history} == {VirtualClock().now()}  # the interrupted ones, too


async def test_a_run_with_a_cancelled_step_that_had_been_cut_off_can_be_resumed(db: Path, tmp_path: Path) -> None:
    """I9: what is over in it stays as it is, and the run goes on."""
    pikku = Pikku()
    bodies: list[str] = []
    deadly = True

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        async def body(name: str) -> str:
            bodies.append(name)
            if deadly:
                await asyncio.Event().wait()
            return name

        loser = workflow.do("loser", lambda: body("loser"))
        await workflow.wait_for_signal("go")
        loser.cancel()
        return await workflow.do("last", lambda: body("last"))

    async def crash_in(step: str, path: Path, to: str) -> Path:
        bodies.clear()
        async with pikku.open(path, clock=VirtualClock(), max_cut_offs=2, shutdown_grace=0) as engine:
            await engine.start(flow, run_id="r")
            if step == "last":
                await engine.signal("r", "go")
            while step not in bodies:
                await asyncio.sleep(0)
            if step == "last":
                while (await engine.steps("r"))[0].status != "cancelled":
                    await asyncio.sleep(0)
            return crashed_copy(path, tmp_path / to)

    second = await crash_in("last", await crash_in("loser", db, "first"), "second")
    third = await crash_in("last", second, "third")
    deadly = False
    async with pikku.open(third, clock=VirtualClock(), max_cut_offs=2) as engine:
        assert (await engine.get_run("r")).status == "suspended"

        await engine.resume("r")

        assert await (await engine.handle("r")).result() == "last"
        assert [step.status for step in await engine.steps("r")] == ["cancelled", "succeeded", "succeeded"]


DEADLY = """
import asyncio, os, signal, sys
from pikkupy import Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def flow(workflow: Workflow) -> str:
    def deadly() -> str:
        with open(sys.argv[2], "a") as ledger:
            ledger.write("x")
        if sys.argv[3] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"
    return await workflow.do("deadly", deadly)

async def main() -> None:
    async with pikku.open(sys.argv[1]) as engine:
        handle = await engine.start(flow, run_id="r")
        found = await engine.get_run("r")
        if found.status == "suspended":
            print(found.reason)
            if sys.argv[3] == "resume":
                await engine.resume("r")
                print(await handle.result())
            return
        print(await handle.result())

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_step_that_kills_the_process_cannot_kill_it_for_ever(tmp_path: Path) -> None:
    """The tenth start-up that finds the run cut off in that step suspends it; `resume` runs the step again."""
    script, ledger = tmp_path / "deadly.py", tmp_path / "ledger"
    script.write_text(DEADLY, encoding="utf-8")

    def life(what: str) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, str(script), str(tmp_path / "app.db"), str(ledger), what]
        return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)

    for _ in range(10):
        assert life("kill").returncode == -signal.SIGKILL
    suspended = life("kill")
    resumed = life("resume")

    assert suspended.returncode == 0, suspended.stderr
    assert "'deadly'" in suspended.stdout
    assert resumed.stdout.endswith("survived\n"), resumed.stderr
    assert len(ledger.read_text()) == 11


HALF_MADE = """
import os, signal, sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("CREATE TABLE half (made)")
db.execute("INSERT INTO half SELECT randomblob(100000) FROM json_each('[1,2,3,4,5]')")
os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_a_file_whose_making_was_killed_is_made_anew(db: Path) -> None:
    """A kill before WAL mode leaves a rollback journal that only a connection which may write can undo."""
    subprocess.run([sys.executable, "-c", HALF_MADE, str(db)], check=False)
    assert Path(f"{db}-journal").stat().st_size
    assert db.stat().st_size

    async with Pikku().open(db) as engine:
        assert (await engine.list_runs()).runs == ()


FORGETFUL = """
import asyncio, sys
from pikkupy import Pikku

async def main() -> None:
    await Pikku().open(sys.argv[1]).__aenter__()

asyncio.run(main())
print("ended")
"""


def test_a_program_that_forgets_to_leave_its_engine_ends_all_the_same(db: Path) -> None:
    """The database threads do not keep the process alive."""
    done = subprocess.run(
        [sys.executable, "-c", FORGETFUL, str(db)], capture_output=True, text=True, check=False, timeout=30
    )

    assert done.stdout == "ended\n"


async def test_timers_that_came_due_while_the_process_was_down_fire_once_at_start_up(db: Path, tmp_path: Path) -> None:
    """I7, promise 4: a missed sleep ends at once, one time."""
    pikku = Pikku()
    effects: list[str] = []
    clock = VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        await workflow.sleep("nap", "1h")
        return await workflow.do("after", lambda: effects.append("after") or "done")  # type: ignore[func-returns-value]

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(0)
        copy = crashed_copy(db, tmp_path / "crashed")
    await clock.advance("30d")
    async with pikku.open(copy, clock=clock) as engine:
        assert await (await engine.handle("r")).result() == "done"
        (nap, _) = await engine.steps("r")

    assert effects == ["after"]
    assert nap.wake_at is not None
    assert nap.ended_at == clock.now()
