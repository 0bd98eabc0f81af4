"""A row of tests, one for each invariant I1 to I13; others cite the numbers too, and the last test counts them."""

from __future__ import annotations

import asyncio
import gc
import re
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import Config, JournalError, Pikku, RunFailed, RunStateError, StepFailed, Workflow, current_step
from pikkupy.core.machine import FINAL_RUNS
from pikkupy.testing import VirtualClock


class Item(msgspec.Struct):
    tags: set[str]
    price: complex


def counting() -> tuple[Pikku, Counter[str]]:
    """A workflow of three steps and a sleep, and how often each body ran."""
    pikku = Pikku()
    ran: Counter[str] = Counter()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        def body() -> int:
            step = current_step()
            assert step is not None
            ran[f"{step.step_name}/{step.attempt_count}"] += 1
            if step.step_name == "flaky" and step.attempt_count < 3:
                raise OSError("again")
            return step.attempt_count

        first = await workflow.do("first", body)
        flaky = await workflow.do("flaky", body, retries=2, retry_delay="1min")
        await workflow.sleep("nap", "1h")
        return first + flaky + await workflow.do("last", body)

    return pikku, ran


async def lives(pikku: Pikku, db: Path, *, minutes: int, lives: int) -> Any:
    """The result of a run that lives in several processes' worth of engines."""
    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        await engine.start("flow", run_id="r")
    for _ in range(lives):
        async with pikku.open(db, clock=clock) as engine:
            await clock.advance(f"{minutes}min")
    async with pikku.open(db, clock=clock) as engine:
        return await (await engine.handle("r")).result(timeout=0)


async def test_i1_a_step_s_outcome_is_recorded_at_most_once(db: Path) -> None:
    """I1: one row per step, one outcome in it, whatever the number of lives."""
    pikku, _ = counting()
    assert await lives(pikku, db, minutes=7, lives=12) == 5

    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT name, count(*), count(seq), max(seq) > 0 FROM pikkupy_steps GROUP BY 1")
        assert {name: counts for name, *counts in rows} == {
            name: [1, 1, 1] for name in ("first", "flaky", "nap", "last")
        }


async def test_i2_a_recorded_step_never_executes_again(db: Path) -> None:
    """I2: twelve replays, each body once per attempt."""
    pikku, ran = counting()
    await lives(pikku, db, minutes=7, lives=12)

    assert ran == {"first/1": 1, "flaky/1": 1, "flaky/2": 1, "flaky/3": 1, "last/1": 1}


async def test_i3_a_final_run_never_changes(db: Path) -> None:
    """I3: no call and no restart moves it."""
    pikku, _ = counting()
    clock = VirtualClock(autojump=True)
    async with pikku.open(db, clock=clock) as engine:
        await engine.run("flow", run_id="r")
        before = await engine.get_run("r")
        for call in (engine.cancel("r", "no"), engine.resume("r")):
            with pytest.raises(RunStateError, match="'r' is completed"):
                await call
        await engine.start("flow", run_id="r")
    async with pikku.open(db, clock=clock) as engine:
        assert await engine.get_run("r") == before


async def test_i4_values_types_and_errors_seen_live_equal_those_of_every_replay(db: Path) -> None:
    """I4: also for values that JSON has no word for, and never the object that the step returned itself."""
    pikku = Pikku()
    seen: list[list[Any]] = []
    made = [Item({"a"}, 1 + 2j), (1, 2.0, float("inf")), {1: b"x", None: 2**70}, float("nan")]

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        values = [await workflow.do("value", lambda value=value: value) for value in made]  # type: ignore[misc]
        try:
            await workflow.do("error", lambda: {}["key"])
        except StepFailed as failed:
            values.append((type(failed), str(failed), failed.bases, failed.traceback))
        seen.append(values)
        await workflow.sleep("pause", "1h")

    for _ in range(3):
        async with pikku.open(db, clock=VirtualClock()) as engine:
            await engine.start(flow, run_id="r")
            await asyncio.sleep(0)
            while len(seen) < 1:
                await asyncio.sleep(0)

    assert len(seen) == 3
    assert repr(seen[0]) == repr(seen[1]) == repr(seen[2])
    assert seen[0][0] == made[0]
    assert seen[0][0] is not made[0]
    assert type(seen[1][2]) is dict and seen[1][2] == made[2]


async def test_i5_an_acknowledged_start_or_cancel_is_never_lost(db: Path) -> None:
    """I5: another reader of the file sees it at once."""
    pikku, _ = counting()

    def status() -> str:
        with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
            return str(connection.execute("SELECT status FROM pikku_runs WHERE run_id = 'r'").fetchone()[0])

    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.start("flow", run_id="r")
        started = await asyncio.to_thread(status)
        await engine.cancel("r", "enough")
        cancelled = await asyncio.to_thread(status)

    assert (started, cancelled) == ("running", "cancelled")


async def test_i6_attempts_are_numbered_without_gaps_and_never_exceed_the_policy() -> None:
    """I6: 1, 2, 3 and no more."""
    pikku = Pikku()
    attempts: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def body() -> None:
            step = current_step()
            assert step is not None
            attempts.append(step.attempt_count)
            raise OSError("always")

        await workflow.do("body", body, retries=2)

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed):
            await engine.run(flow)

    assert attempts == [1, 2, 3]


async def test_i7_a_timer_never_fires_early_and_fires_once(db: Path) -> None:
    """I7: one microsecond before its time it has not fired; after its time it has, once."""
    pikku = Pikku()
    woken: list[str] = []
    clock = VirtualClock()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1h")
        await workflow.do("woken", lambda: woken.append("yes"))

    async with pikku.open(db, clock=clock) as engine:
        await engine.start(flow, run_id="r")
        await clock.advance(3_600_000 - 0.001)
        early = list(woken)
        await clock.advance(0.001)
        await clock.advance("10h")

    assert early == []
    assert woken == ["yes"]


async def test_i8_after_a_cancel_no_further_step_of_that_run_starts() -> None:
    """I8: not the next step, not a retry that waits, not what the cancelled step's end would have begun."""
    pikku = Pikku()
    began: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def failing() -> None:
            began.append("failing")
            raise OSError("once more")

        async def long() -> None:
            began.append("long")
            await asyncio.Event().wait()

        await asyncio.gather(
            workflow.do("failing", failing, retries=5, retry_delay="1s"),
            workflow.do("long", long),
            workflow.sleep("nap", "1s"),
        )
        await workflow.do("after", lambda: began.append("after"))

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        await clock.advance(0)
        await handle.cancel("enough")
        known = list(began)
        await clock.advance("1d")
        statuses = {step.name: step.status for step in await engine.steps(handle.id)}

    assert began == known
    assert statuses == {"failing": "cancelled", "long": "cancelled", "nap": "cancelled"}


async def test_i9_every_unfinished_run_has_a_next_move() -> None:
    """I9: a body that waits for what nothing can bring about does not wait for ever, it fails and says so."""
    pikku = Pikku()

    @pikku.workflow
    async def stuck(workflow: Workflow) -> None:
        await workflow.do("step", lambda: 1)
        await asyncio.Queue[int]().get()

    async with pikku.open(":memory:") as engine:
        with pytest.raises(RunFailed, match="no durable call"):
            await engine.run(stuck)


async def test_i10_a_replay_asks_for_the_same_commands_in_the_same_order(db: Path) -> None:
    """I10: here with a race that ended once; `test_replay_property` does it with 2,400 programs."""
    pikku = Pikku()
    winners: list[list[str]] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def slow() -> str:
            while not winners:
                await asyncio.sleep(0.001)
            return "slow"

        tasks = {
            asyncio.ensure_future(workflow.do("slow", slow)),
            asyncio.ensure_future(workflow.do("fast", lambda: "fast")),
        }
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        winners.append([task.result() for task in done])
        await asyncio.wait(tasks)
        await workflow.sleep("pause", "1h")

    for _ in range(3):
        clock = VirtualClock()
        async with pikku.open(db, clock=clock) as engine:
            await engine.start(flow, run_id="r")
            while len(await engine.steps("r")) < 3:
                await asyncio.sleep(0.001)

    assert winners == [["fast"]] * 3


@pytest.mark.parametrize("settings", [{}, {"resident_runs": 0, "unload_after": "0s"}], ids=["resident", "unloading"])
async def test_i10_a_replay_writes_nothing(settings: dict[str, Any], db: Path) -> None:
    """I10, I-31: what waits, in every way there is, has the same rows after each opening, whatever was replayed."""
    pikku = Pikku()

    @pikku.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("never")

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("begins", lambda: "begun")
        await asyncio.gather(
            workflow.sleep("nap", "1h"),
            workflow.wait_for_signal("late", timeout="1h"),
            workflow.approval("agree"),
            workflow.do("again", lambda: {}["key"], retries=1, retry_delay="1h"),
            workflow.do("child", child),
            asyncio.sleep(3_600),
        )

    @pikku.workflow
    async def gated(workflow: Workflow) -> None:
        await workflow.suspend("gate")

    clock = VirtualClock()
    files: list[list[str]] = []
    for _ in range(4):
        async with pikku.open(db, clock=clock, config=Config(**settings)) as engine:
            for workflow in (flow, gated):
                await engine.start(workflow, run_id=workflow.name)
            await clock.advance("1s")
        with closing(sqlite3.connect(db)) as connection:
            files.append([line for line in connection.iterdump() if "pikkupy_journal" not in line])

    assert len(files[0]) > 30
    assert files[1:] == files[:1] * 3


async def test_i11_one_engine_owns_a_journal_and_a_former_owner_cannot_write(db: Path) -> None:
    """I11: even if somebody removes the lock file under it."""
    pikku, _ = counting()
    async with pikku.open(db) as first:
        await first.start("flow", run_id="before")
        Path(f"{db}.lock").unlink()
        async with pikku.open(db) as second:
            with pytest.raises(JournalError):
                await first.start("flow", run_id="after")
            with pytest.raises(JournalError):
                await first.get_run("before")
            assert [run.id for run in (await second.list_runs()).runs] == ["before"]


async def test_i12_a_batch_that_fails_to_commit_releases_nothing(db: Path) -> None:
    """I12: the disk reports an error on commit: no start is acknowledged, no step's value is seen."""
    pikku = Pikku()
    seen: list[str] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        seen.append(await workflow.do("step", lambda: break_disk() or "value"))

    def break_disk() -> None:
        def failing(name: str) -> None:
            if name == "before_commit":
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error

        host.journal._write_batch.__self__._reach = failing  # type: ignore[attr-defined]

    async with pikku.open(db) as engine:
        assert engine._parts is not None
        host = engine._parts.host
        handle = await engine.start(flow, run_id="r")
        with pytest.raises(JournalError):
            await handle.result()
        with pytest.raises(JournalError):
            await engine.start(flow, run_id="s")
    with closing(sqlite3.connect(f"{db.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("SELECT run_id, status FROM pikku_runs").fetchall() == [("r", "running")]
    assert seen == []

    async with engine:  # opened again, it goes by the file
        await (await engine.handle("r")).result()
    assert seen == ["value"]


async def test_i13_memory_does_not_grow_with_the_number_of_finished_runs() -> None:
    """I13: objects of pikkupy, tasks and open files after 100 runs and after 500."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> int:
        async with asyncio.timeout(60):
            return await workflow.do("step", lambda: 1)

    def alive() -> Counter[str]:
        gc.collect()
        kinds = (type(item) for item in gc.get_objects())  # of extensions the module may be no text
        return Counter(kind.__name__ for kind in kinds if str(kind.__module__).startswith("pikkupy"))

    others = alive()["Timer"]  # what simulated crashes of earlier tests have left in this process, say
    async with pikku.open(":memory:", show_running_after=0) as engine:
        counts, held = [], []
        for runs in (100, 400):
            await asyncio.gather(*(engine.run(flow) for _ in range(runs)))
            await asyncio.sleep(0.01)
            counts.append(alive())
            held.append((len(asyncio.all_tasks()), len(list(Path("/proc/self").glob("fd/*")))))  # files: on Linux

    timers = [count.pop("Timer", 0) - others for count in counts]
    assert not counts[1] - counts[0]  # fewer is fine: what an earlier test left behind may end meanwhile
    assert held[0] == held[1]
    assert max(timers) <= 66  # cancelled ones go when they are the most, or 64


def cited(text: str) -> set[int]:
    """The invariants that docstrings of tests begin with: `I2: …`, `I5, I-1: …`."""
    heads = re.findall(r'"""(I\d+(?:, I-?\d+)*): ', text)
    return {int(number) for head in heads for number in re.findall(r"\bI(\d+)", head)}


def test_every_invariant_is_cited_by_a_test() -> None:
    """All of them, in docstrings of the tests."""
    text = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py"))

    assert cited(text) == set(range(1, 14))
    assert {str(status) for status in FINAL_RUNS} == {"completed", "failed", "cancelled"}


def test_another_number_is_no_citation() -> None:
    """I10 is not I1, and what speaks of I3 in passing is not its owner."""
    quotes = '"' * 3

    assert cited(f"{quotes}I10, I-31: what waits. I3: no.{quotes}") == {10}
