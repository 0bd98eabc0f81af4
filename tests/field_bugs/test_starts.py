"""Runs that others started twice, lost, or left lying."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pikkupy import JournalLocked, Pikku, RunConflict, Workflow
from pikkupy.engine.waker import CHUNK
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH
from tests.kills.copies import each_commit
from tests.kills.story import Caller, Story, mark, survives

each_way = pytest.mark.parametrize("settings", BOTH, ids=["in memory", "in the file"])

ONE_OF_MANY = """
import asyncio, os, sys
from pikkupy import JournalLocked, Pikku, Workflow

pikku = Pikku()

@pikku.workflow
async def flow(workflow: Workflow) -> str:
    def body() -> None:
        with open(sys.argv[2], "a") as ledger:
            ledger.write("x")
    await workflow.do("only", body)
    return "done"

async def main() -> None:
    sys.stdin.readline()
    try:
        async with pikku.open(sys.argv[1]) as engine:
            print(await (await engine.start(flow, run_id="r")).result(), flush=True)
            sys.stdin.readline()
    except JournalLocked:
        print("locked", flush=True)

asyncio.run(main())
"""


def test_01_a_run_is_not_taken_by_several_processes(tmp_path: Path) -> None:
    """DBOS (dbos-py #541): without BEGIN IMMEDIATE several workers dequeued one workflow. Here one process owns the
    file; seen would be a step that runs twice, or two processes that get the lock."""
    ledger = tmp_path / "ledger"
    command = [sys.executable, "-c", ONE_OF_MANY, str(tmp_path / "app.db"), str(ledger)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
    told = []
    for process in processes:
        assert process.stdout is not None
        told.append(process.stdout.readline().strip())
    for process in processes:
        process.communicate("end\n", timeout=60)

    assert sorted(told) == ["done", "locked", "locked", "locked"]
    assert ledger.read_text() == "x"


@each_way
async def test_01_starts_of_one_id_at_once_are_one_run(settings: dict[str, Any], db: Path) -> None:
    """The same within a process: a hundred tasks start it, and its step runs once."""
    pikku, effects = Pikku(), list[int]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        await workflow.do("only", lambda: effects.append(1))
        return len(effects)

    async with pikku.open(db, clock=VirtualClock(), **settings) as engine:
        runs = await asyncio.gather(*(engine.start(flow, run_id="r") for _ in range(100)))
        results = await asyncio.gather(*(run.result() for run in runs))
        with pytest.raises(JournalLocked):
            await pikku.open(db).__aenter__()

    assert (results, effects) == ([1] * 100, [1])


@each_way
async def test_02_what_recovered_runs_start_is_not_recovered_again(settings: dict[str, Any], db: Path) -> None:
    """DBOS (dbos-java #491): the recovery at launch ran what was running in the process already. Here runs that go on
    start children while more runs are read; seen would be a child's step that runs twice."""
    pikku, effects, clock = Pikku(), list[str](), VirtualClock()
    count = 2 * CHUNK + 50

    @pikku.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.do("only", lambda: effects.append(workflow.run_id))

    @pikku.workflow
    async def parent(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")
        await workflow.do("part", child)

    async with pikku.open(db, clock=clock, **settings) as engine:
        await asyncio.gather(*(engine.start(parent, run_id=f"p{number}") for number in range(count)))
    later = VirtualClock(start=clock.now())
    await later.advance("2h")
    async with pikku.open(db, clock=later, **settings) as engine:
        for number in range(count):
            await (await engine.handle(f"p{number}")).result()

    assert sorted(effects) == sorted(f"p{number}/part" for number in range(count))


@each_way
async def test_03_a_start_with_a_used_id_does_not_disturb_its_owner(
    settings: dict[str, Any], db: Path, tmp_path: Path
) -> None:
    """DBOS (dbos-ts #725): a start with a used id and another function destroyed the recovery of the first. Seen would
    be another workflow, another input, or a run that does not go on after a kill."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def first(workflow: Workflow, data: int) -> int:
        await workflow.sleep("nap", "1h")
        return data

    @pikku.workflow
    async def second(workflow: Workflow, data: int) -> str:
        return "second"

    with each_commit(db, clock.now) as copies:
        async with pikku.open(db, clock=clock, **settings) as engine:
            await engine.start(first, 1, run_id="r")
            for workflow, data in ((second, 1), (first, 2)):
                with pytest.raises(RunConflict):
                    await engine.start(workflow, data, run_id="r")
            await clock.advance(0)
    *_, (killed, _) = copies.restored(tmp_path)

    later = VirtualClock(start=clock.now())
    async with pikku.open(killed, clock=later, **settings) as engine:
        await later.advance("1h")
        assert await (await engine.handle("r")).result() == 1


@each_way
async def test_04_no_kill_leaves_a_run_between_two_steps(settings: dict[str, Any], tmp_path: Path) -> None:
    """DBOS (dbos-py #805): a recovered run stayed PENDING between two completed steps. Seen would be a copy of the
    file, as a kill at some commit leaves it, in which a run does not go on."""

    async def flow(workflow: Workflow) -> list[Any]:
        return [await workflow.do(f"step {number}", mark(workflow, number)) for number in range(4)]

    async def script(caller: Caller) -> None:
        for number in range(2):
            await caller.start("flow", f"r{number}")

    ends = {"r0": "completed", "r1": "completed"}
    kills = await survives(Story({"flow": flow}, script, ends, {"r0": [0, 1, 2, 3]}), tmp_path, settings)
    assert kills > len(ends) * 4


@each_way
async def test_12_a_start_that_is_repeated_is_one_run(settings: dict[str, Any], db: Path, tmp_path: Path) -> None:
    """Mastra (#13629): a repeated start made a second run for want of an idempotency key. Here the id is the key, also
    when a kill came before the first answer; seen would be a second run, or a step that runs again."""
    pikku, clock, effects = Pikku(), VirtualClock(), list[str]()

    @pikku.workflow
    async def flow(workflow: Workflow, data: int) -> int:
        await workflow.do("only", lambda: effects.append(workflow.run_id))
        return data

    with each_commit(db, lambda: len(effects)) as copies:
        async with pikku.open(db, clock=clock, **settings) as engine:
            assert await engine.run(flow, 1, run_id="r") == 1
            assert await engine.run(flow, 1, run_id="r") == 1
    assert effects == ["r"]

    for killed, _ in copies.restored(tmp_path):
        async with pikku.open(killed, clock=VirtualClock(), **settings) as engine:
            assert await engine.run(flow, 1, run_id="r") == 1
            assert len((await engine.list_runs()).runs) == 1
