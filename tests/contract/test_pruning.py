"""`prune` and `delete_run`: what goes, what stays, and what happens beside it."""

from __future__ import annotations

import asyncio
import itertools
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pikkupy import (
    DurationError,
    Engine,
    EngineClosed,
    JournalError,
    Pikku,
    PikkuError,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunStateError,
    Workflow,
)
from pikkupy.core.model import NO_WAKING, Change, DeletedSwept, RunDeleted, RunRow, RunStatus
from pikkupy.engine import pruning
from pikkupy.engine.views import moment
from pikkupy.testing import VirtualClock
from tests.store.samples import BOOM, NOW, a_chunk, a_run, a_step, as_it_went, open_journal, raw

HOUR_US = 3_600_000_000
FINAL = ("completed", "failed", "cancelled")


def application() -> Pikku:
    """One workflow that ends as its input says, after a step."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: str) -> str:
        await workflow.do("step", lambda: 1)
        if data == "failed":
            raise ValueError(data)
        if data == "cancelled":
            workflow.cancel("so be it")
        if data == "running":
            await workflow.sleep("nap", "30d")
        return data

    return pikku


async def end(engine: Engine, status: str, run_id: str) -> None:
    with suppress(RunFailed, RunCancelled):
        await engine.run("flow", status, run_id=run_id)


async def left(engine: Engine) -> list[str]:
    """The ids of what is there, oldest start first."""
    return [run.id for run in (await engine.list_runs(limit=500)).runs][::-1]


# Prune


async def test_what_ended_long_ago_goes() -> None:
    """By the engine's clock and the end, not the start; the age is inclusive; unfinished runs stay."""
    clock = VirtualClock()
    async with application().open(":memory:", clock=clock) as engine:
        await engine.start("flow", "running", run_id="sleeper")
        for number in range(4):
            await end(engine, "completed", f"r{number}")
            await clock.advance("1h")

        assert await engine.prune(older_than="5h") == 0
        assert await engine.prune(older_than="3h") == 2
        assert await left(engine) == ["sleeper", "r2", "r3"]
        assert await engine.prune(older_than="3h") == 0
        assert await engine.prune(older_than=0) == 2
        assert await left(engine) == ["sleeper"]
        await clock.advance("30d")
        assert await engine.prune(older_than="1d") == 0
        assert await engine.prune(older_than="0s") == 1
        assert await left(engine) == []


async def test_nothing_to_prune() -> None:
    """Not even a run."""
    async with application().open(":memory:") as engine:
        assert await engine.prune(older_than=0) == 0
        assert await engine.prune(older_than=0, keep=5) == 0


@pytest.mark.parametrize("keep", [0, 1, 2, 5, 6, 7])
async def test_the_newest_ends_are_kept(keep: int) -> None:
    """Of all that could go, however old; within one instant the run that started later is newer."""
    clock = VirtualClock()
    async with application().open(":memory:", clock=clock) as engine:
        for number in range(6):
            await end(engine, "completed", f"r{number}")
            if number % 2:
                await clock.advance("1h")

        assert await engine.prune(older_than=0, keep=keep) == max(0, 6 - keep)
        assert await left(engine) == [f"r{number}" for number in range(max(0, 6 - keep), 6)]


@pytest.mark.parametrize("statuses", [*FINAL, ("failed", "cancelled"), FINAL, None])
async def test_statuses_choose_what_goes(statuses: Any) -> None:
    """Others are neither deleted nor counted among those that are kept."""
    chosen = set(FINAL if statuses is None else [statuses] if isinstance(statuses, str) else statuses)
    order = [*FINAL, *FINAL, *reversed(FINAL)]
    kept_by_itself = next(n for n in reversed(range(len(order))) if order[n] in chosen)
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        for number, status in enumerate(order):
            await end(engine, status, f"{number}")

        deleted = await engine.prune(older_than=0, statuses=statuses, keep=1)
        expected = [n for n in range(len(order)) if order[n] not in chosen or n == kept_by_itself]
        assert await left(engine) == [str(n) for n in expected]
        assert deleted == len(order) - len(expected)


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"older_than": "old"}, DurationError, "older_than='old'"),
        ({"older_than": -1}, DurationError, "older_than"),
        ({"older_than": None}, DurationError, "older_than"),
        ({"statuses": "running"}, ValueError, "statuses='running'"),
        ({"statuses": ["failed", "suspended"]}, ValueError, "suspended.*has not ended"),
        ({"statuses": ["gone"]}, ValueError, "gone"),
        ({"statuses": []}, ValueError, "statuses"),
        ({"keep": -1}, ValueError, "keep=-1"),
        ({"keep": True}, ValueError, "keep=True"),
        ({"keep": 1.0}, ValueError, "keep=1.0"),
        ({"keep": 1 << 70}, ValueError, "keep"),
        ({"progress": 5}, TypeError, "progress=5"),
    ],
)
async def test_a_bad_argument_prunes_nothing(arguments: Any, error: type[Exception], named: str) -> None:
    """It is named, with its value."""
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        await end(engine, "completed", "r")
        with pytest.raises(error, match=named) as raised:
            await engine.prune(**({"older_than": 0} | arguments))

        assert isinstance(raised.value, PikkuError)
        assert await left(engine) == ["r"]


async def write(db: Path, rows: list[Change]) -> None:
    """Make a file that holds these."""
    journal = await open_journal(str(db))
    await journal.commit([change for row in rows for change in (as_it_went(row) if isinstance(row, RunRow) else [row])])
    await journal.close()


def ended(number: int, **changes: Any) -> RunRow:
    """A run that was cancelled as many hours ago as the number says before the hundredth."""
    return a_run(number, **({"status": RunStatus.CANCELLED, "ended_at": NOW + number * HOUR_US} | changes))


def child(number: int, parent: int, **changes: Any) -> RunRow:
    return ended(number, **({"parent": parent, "parent_position": 0, "parent_attempt": number} | changes))


def unfinished(number: int, parent: int | None = None) -> RunRow:
    waiting: dict[str, Any] = {"status": RunStatus.RUNNING, "ended_at": None, "wakes_at": NO_WAKING}
    return ended(number, **waiting) if parent is None else child(number, parent, **waiting)


def registered() -> Pikku:
    """With the workflow of these runs: without it those that wait would be suspended."""
    pikku = Pikku()

    @pikku.workflow
    async def onboarding(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    return pikku


def late(hours: int = 100) -> VirtualClock:
    """A clock by which all that was written has ended."""
    return VirtualClock(start=moment(NOW + hours * HOUR_US))


async def test_child_runs_go_with_their_parents(db: Path) -> None:
    """Uncounted, at whatever depth, and not before them, though they ended earlier; `keep` does not count them."""
    rows = [ended(1), child(2, 1), child(3, 2), unfinished(4), child(5, 4), ended(6), child(7, 6, tags='{"a":"1"}')]
    await write(db, [*rows, *(a_step(row.number) for row in rows)])
    async with registered().open(db, clock=late()) as engine:
        assert await engine.prune(older_than="1h", keep=1) == 1
        assert await left(engine) == ["run-4", "run-5", "run-6", "run-7"]
        assert await engine.prune(older_than="1h") == 1
        assert await left(engine) == ["run-4", "run-5"]

    assert raw(str(db), "SELECT run FROM pikkupy_steps ORDER BY run") == [(4,), (5,)]
    assert raw(str(db), "SELECT * FROM pikkupy_tags") == []


async def test_a_run_above_an_unfinished_one_stays(db: Path) -> None:
    """Whole, with its finished children."""
    await write(db, [ended(1), child(2, 1), unfinished(3, 2), child(4, 1), ended(5)])
    async with registered().open(db, clock=late()) as engine:
        assert await engine.prune(older_than=0) == 1
        assert await left(engine) == ["run-1", "run-2", "run-3", "run-4"]


async def test_a_run_that_goes_on_or_is_gone_meanwhile_is_skipped(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at it and its deletion; the others go."""
    monkeypatch.setattr(pruning, "MAX_RUNS", 1)
    failed = {"status": RunStatus.FAILED, "error": BOOM}
    await write(db, [ended(1), ended(2, **failed), ended(3), ended(4), ended(5)])
    async with registered().open(db, clock=late()) as engine:
        assert engine._parts is not None
        journal = engine._parts.host.journal

        def interfere(deleted: int) -> None:
            if deleted == 1:
                journal.submit([unfinished(9, parent=3)], lambda error: None)
                journal.submit([RunDeleted(number=4)], lambda error: None)

        assert await engine.prune(older_than=0, progress=interfere) == 3
        assert await left(engine) == ["run-3", "run-9"]


async def test_a_run_that_the_file_refuses_to_delete_is_logged_and_stays(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It keeps no other from going, also not the newer ones."""
    await write(db, [ended(1), ended(2), ended(3)])
    raw(
        str(db),
        "CREATE TRIGGER mine BEFORE DELETE ON pikkupy_runs WHEN old.number = 2 BEGIN SELECT raise(ABORT, 'mine'); END",
    )
    async with registered().open(db, clock=late()) as engine:
        assert await engine.prune(older_than=0) == 2
        assert await left(engine) == ["run-2"]
        [line] = [line for line in caplog.messages if line.startswith("run_not_pruned")]
        assert "number=2" in line
        assert "mine" in line
        with pytest.raises(JournalError, match="mine"):
            await engine.delete_run("run-2")


async def test_a_deep_family_goes(db: Path) -> None:
    """However deep: also more than the thousand levels of SQLite's own cascades; what ended later goes, too."""
    deep = [ended(1), *(child(n, n - 1) for n in range(2, 2_001))]
    await write(db, [*deep, *(a_step(row.number) for row in deep), ended(2_001)])
    async with registered().open(db, clock=late(3_000)) as engine:
        assert await engine.prune(older_than=0) == 2
        assert await left(engine) == []
    assert raw(str(db), "SELECT * FROM pikkupy_steps") == []


async def test_progress_is_told_after_every_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs that are gone so far; what it raises ends the pruning, and what is deleted stays so."""
    monkeypatch.setattr(pruning, "MAX_RUNS", 2)
    told: list[int] = []
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        for number in range(5):
            await end(engine, "completed", f"r{number}")

        def stop(deleted: int) -> None:
            told.append(deleted)
            raise KeyError("enough")

        with pytest.raises(KeyError):
            await engine.prune(older_than=0, progress=stop)
        assert await left(engine) == ["r2", "r3", "r4"]
        assert await engine.prune(older_than=0, progress=told.append) == 3

    assert told == [2, 2, 3]


async def test_transactions_are_small(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few runs in each, but for a family that alone has more, and of what belongs to them few rows of each table."""
    monkeypatch.setattr(pruning, "FIRST_ROWS", 100)
    monkeypatch.setattr(pruning, "MOST_ROWS", 100)
    families = {1: 0, 2: 200, 300: 600, 1000: 400, 1500: 98, 1700: 0} | dict.fromkeys(range(1800, 1930), 0)
    rows: list[Change] = []
    for number, children in families.items():
        rows += [ended(number), *(child(number + n, number) for n in range(1, children + 1))]
        rows += (a_step(number + n) for n in range(children + 1))
    steps, chunks = 450, 1_050
    rows += [*(a_step(1, position) for position in range(1, steps)), *(a_chunk(1, offset) for offset in range(chunks))]
    await write(db, rows)
    told, sweeps, before = [0], 0, dict.fromkeys(("steps", "chunks"), 0)

    def count(table: str) -> int:
        return int(raw(str(db), f"SELECT count(*) FROM pikkupy_{table}")[0][0])

    async with registered().open(db, clock=late(3_000)) as engine:
        assert engine._parts is not None
        journal = engine._parts.host.journal
        before = {table: count(table) for table in before}

        def committed() -> None:
            nonlocal sweeps
            sweeps += 1
            for table, had in before.items():
                assert had - count(table) <= 100
                before[table] = count(table)

        journal.on_release = committed
        assert await engine.prune(older_than=0, progress=told.append) == len(families)
        journal.on_release = None
        assert await left(engine) == []

    assert [b - a for a, b in itertools.pairwise(told)] == [2, 1, 2, 50, 50, 31]
    assert sweeps >= chunks / 100
    assert {table: count(table) for table in ("steps", "chunks", "deleted")} == {"steps": 0, "chunks": 0, "deleted": 0}


async def test_a_large_run_is_gone_at_once_though_what_belongs_to_it_goes_in_parts(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call shows a part of it, its id is free, and what a crash leaves of it goes at the next deletion."""
    monkeypatch.setattr(pruning, "FIRST_ROWS", 10)
    monkeypatch.setattr(pruning, "MOST_ROWS", 10)
    rows = [ended(1, run_id="r", status=RunStatus.FAILED, error=BOOM), ended(2)]
    await write(db, [*rows, *(a_step(1, n) for n in range(100)), *(a_chunk(1, n) for n in range(100))])
    async with application().open(db, clock=late()) as engine:
        assert engine._parts is not None
        journal = engine._parts.host.journal
        await journal.commit([RunDeleted(number=1)])
        await journal.commit([DeletedSwept(rows=10)])
        for ask in (engine.get_run, engine.steps, engine.history, engine.delete_run, engine.retry, engine.resume):
            with pytest.raises(RunNotFound):
                await ask("r")  # type: ignore[operator]
        with pytest.raises(RunNotFound):
            await engine.fork("r", at="step 50")
        with pytest.raises(RunNotFound):
            await anext(engine.stream("r"))
        assert await left(engine) == ["run-2"]
        assert await engine.run("flow", "again", run_id="r") == "again"
        assert [step.name for step in await engine.steps("r")] == ["step"]

    async with application().open(db, clock=late()) as engine:
        await engine.delete_run("run-2")
        assert await left(engine) == ["r"]
        assert len(await engine.steps("r")) == 1
    assert raw(str(db), "SELECT count(*) FROM pikkupy_chunks") == [(0,)]
    assert raw(str(db), "SELECT count(*) FROM pikkupy_steps") == [(1,)]


async def test_more_than_a_chunk_of_ended_runs(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that end in one instant are told apart, and those that stay do not come again."""
    monkeypatch.setattr(pruning, "CHUNK", 7)
    rows: list[Change] = []
    for number in range(1, 101):
        status = RunStatus.FAILED if number % 3 == 0 else RunStatus.CANCELLED
        rows.append(ended(number, status=status, error=BOOM if number % 3 == 0 else None, ended_at=NOW + number // 10))
    await write(db, rows)
    async with registered().open(db, clock=late()) as engine:
        assert await engine.prune(older_than=0, statuses=["cancelled"], keep=3) == 67 - 3
        assert await engine.counts() == {"onboarding": {"failed": 33, "cancelled": 3}}
        assert await left(engine) == [f"run-{n}" for n in range(1, 101) if n % 3 == 0 or n in {97, 98, 100}]


async def test_other_writes_get_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts while many are deleted does not wait for the last of them."""
    monkeypatch.setattr(pruning, "MAX_RUNS", 5)
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        await asyncio.gather(*(end(engine, "completed", f"r{number}") for number in range(200)))
        pruned = asyncio.ensure_future(engine.prune(older_than=0, statuses=["completed"]))
        await asyncio.sleep(0)
        started = 0
        while not pruned.done():
            await engine.start("flow", "running", run_id=f"s{started}")
            started += 1

        assert started > 5
        assert pruned.result() == 200


async def test_pruning_twice_at_once_counts_each_run_once() -> None:
    """Who comes second finds the run gone."""
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        for number in range(60):
            await end(engine, "completed", f"r{number}")
        answers = await asyncio.gather(*(engine.prune(older_than=0) for _ in range(3)))

        assert sum(answers) == 60
        assert await left(engine) == []
        assert await engine.run("flow", "on", run_id="next") == "on"


async def test_leaving_the_engine_ends_the_pruning(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With EngineClosed; what is left is whole, and the next life prunes the rest."""
    monkeypatch.setattr(pruning, "MAX_RUNS", 1)
    pikku = application()
    async with pikku.open(db, clock=VirtualClock()) as engine:
        await asyncio.gather(*(end(engine, "completed", f"r{number}") for number in range(50)))
        first = asyncio.Event()
        pruned = asyncio.ensure_future(engine.prune(older_than=0, progress=lambda deleted: first.set()))
        await first.wait()
    with pytest.raises(EngineClosed):
        await pruned
    async with pikku.open(db, clock=VirtualClock()) as engine:
        remaining = len(await left(engine))
        assert 0 < remaining < 50
        assert await engine.prune(older_than=0) == remaining
    with pytest.raises(EngineClosed):
        await engine.prune(older_than=0)


async def test_a_pruning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Once, at its end."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        await end(engine, "completed", "r")
        await engine.prune(older_than=0)

    assert [line for line in caplog.messages if line.startswith("runs_pruned")] == ["runs_pruned deleted=1"]


# Delete


async def test_a_parent_takes_its_children_with_it(db: Path) -> None:
    """C137: and their children."""
    await write(db, [ended(1), child(2, 1), child(3, 2), ended(4)])
    async with registered().open(db) as engine:
        await engine.delete_run("run-1")

        assert await left(engine) == ["run-4"]
        for run_id in ("run-1", "run-2", "run-3"):
            with pytest.raises(RunNotFound):
                await engine.get_run(run_id)


async def test_a_child_of_an_unfinished_parent_cannot_be_deleted(db: Path) -> None:
    """C137: the error names both; the child of a finished one can be."""
    await write(db, [unfinished(1), child(2, 1), ended(3), child(4, 3)])
    async with registered().open(db) as engine:
        with pytest.raises(RunStateError, match=r"'run-2' is cancelled, but its parent 'run-1' is running"):
            await engine.delete_run("run-2")
        await engine.delete_run("run-4")

        assert await left(engine) == ["run-1", "run-2", "run-3"]


async def test_a_run_above_an_unfinished_one_cannot_be_deleted(db: Path) -> None:
    """The error names both, at whatever depth."""
    await write(db, [ended(1), child(2, 1), unfinished(3, 2)])
    async with registered().open(db) as engine:
        for run_id in ("run-1", "run-2"):
            with pytest.raises(RunStateError, match=rf"'{run_id}' is cancelled, but a child run .* 'run-3' is running"):
                await engine.delete_run(run_id)

        assert await left(engine) == ["run-1", "run-2", "run-3"]


async def test_the_journal_itself_refuses_what_became_unfinished(db: Path) -> None:
    """Between the look and the deletion nothing can slip in: the statement looks again, and the engine goes on."""
    await write(db, [ended(1), ended(2)])
    async with application().open(db, clock=late()) as engine:
        assert engine._parts is not None
        journal = engine._parts.host.journal
        journal.submit([unfinished(9, parent=1)], lambda error: None)
        with pytest.raises(RunStateError, match=r"'run-1'.*'run-9'"):
            await engine.delete_run("run-1")
        assert await engine.run("flow", "on", run_id="next") == "on"
