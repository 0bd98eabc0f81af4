"""Runs that are started while many others are in memory: they take their first turn before they are written."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pikkupy import EventKind, JournalError, Pikku, Workflow
from pikkupy.core.model import Change, RunRow, StepRow, StepStatus
from pikkupy.testing import VirtualClock
from tests.contract.waiting import IN_THE_FILE

pikku = Pikku()
executed: list[str] = []
left: list[str] = []


@pikku.workflow
async def sleeper(workflow: Workflow, name: str) -> str:
    """Sleeps from the start."""
    try:
        await workflow.sleep("nap", "1h")
    finally:
        left.append(name)
    return await workflow.do("woken", lambda: name)


@pikku.workflow
async def listener(workflow: Workflow) -> list[str]:
    """Waits for two signals from the start, for one of them no longer than a day."""
    first, second = workflow.wait_for_signal("a", str), workflow.wait_for_signal("b", str, timeout="1d")
    return [await second, await first]


@pikku.workflow
async def worker(workflow: Workflow, name: str) -> None:
    """Has something to do from the start."""
    try:
        await workflow.do("work", lambda: executed.append(name))
    finally:
        left.append(name)


@pytest.fixture(autouse=True)
def _forget() -> None:
    executed.clear()
    left.clear()


def written(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Change]]:
    """The logical changes that the engine submits from now on."""
    journal, changes = engine._parts.host.journal, list[Sequence[Change]]()
    submit = journal.submit

    def noted(logical: Sequence[Change], done: Any) -> None:
        changes.append(logical)
        submit(logical, done)

    monkeypatch.setattr(journal, "submit", noted)
    return changes


async def test_the_start_and_the_wait_are_one_write_and_nothing_comes_into_memory(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I13; and the run wakes at the time that was written."""
    clock = VirtualClock()
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
        changes = written(engine, monkeypatch)
        handle = await engine.start(sleeper, "a")

        assert [[type(change) for change in logical] for logical in changes] == [[RunRow, StepRow]]
        assert engine._parts is not None
        assert engine._parts.residents.active == {}
        assert left == ["a"]  # what the body has open is closed, as whenever a run leaves memory
        (step,) = await engine.steps(handle.id)
        assert (step.name, step.status) == ("nap", StepStatus.SCHEDULED)
        assert step.wake_at == clock.now() + timedelta(hours=1)
        await clock.advance("59min")
        assert (await engine.get_run(handle.id)).status == "running"
        await clock.advance("1min")
        assert await handle.result() == "a"


async def test_waits_for_signals_from_the_start_keep_their_deadlines_and_their_order(db: Path) -> None:
    """I13; another life takes them up."""
    clock = VirtualClock()
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
        handle = await engine.start(listener, run_id="in time")
        await engine.start(listener, run_id="too late")
        assert [step.wake_at is None for step in await engine.steps(handle.id)] == [True, False]
        await engine.signal("in time", "b", "second")
    async with pikku.open(db, clock=clock, **IN_THE_FILE) as engine:
        await clock.advance("1d")
        await engine.signal("in time", "a", "first")

        assert await (await engine.handle("in time")).result() == ["second", "first"]
        late = await engine.get_run("too late")
        assert late.error is not None
        assert late.error.type == "pikkupy.errors.SignalTimeout"


async def test_nothing_is_executed_of_a_run_that_the_file_refuses(db: Path) -> None:
    """I5: its first turn was taken, and that has no effects."""
    async with pikku.open(db, clock=VirtualClock(), **IN_THE_FILE) as engine:
        with closing(sqlite3.connect(db, isolation_level=None)) as other:
            other.execute(
                "CREATE TRIGGER guard BEFORE INSERT ON pikkupy_runs BEGIN SELECT RAISE(ABORT, 'not today'); END"
            )
            for workflow in (sleeper, worker):
                with pytest.raises(JournalError, match="not today"):
                    await engine.run(workflow, "refused")
            other.execute("DROP TRIGGER guard")
        await engine.run(worker, "a")

        assert executed == ["a"]
        assert left == ["refused", "refused", "a"]
        assert len((await engine.list_runs()).runs) == 1


async def test_what_a_new_run_waits_for_is_told_once_it_is_on_disk(db: Path) -> None:
    """The same events as of a run in memory."""
    told = []
    for settings in ({}, IN_THE_FILE):
        async with pikku.open(db.with_name(f"{len(told)}.db"), clock=VirtualClock(), **settings) as engine:
            events = engine.events()
            await engine.start(sleeper, "a", run_id="r")
            told.append([await anext(events), await anext(events)])

    assert told[0] == told[1]
    assert [event.kind for event in told[0]] == [EventKind.RUN_STARTED, EventKind.SLEEPING]
