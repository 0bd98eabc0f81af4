"""Several processes with one file: one is the engine, and another takes over when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pikkupy import (
    Engine,
    EngineClosed,
    JournalError,
    JournalFormatError,
    JournalLocked,
    Member,
    Pikku,
    PikkuError,
    RunFailed,
    Workflow,
    current_step,
)
from pikkupy.control import places
from pikkupy.control.line import Line
from pikkupy.store import Journal

pikku = Pikku()


@pikku.workflow
async def waiting(workflow: Workflow) -> Any:
    """Waits for a signal, then has an effect."""
    value = await workflow.wait_for_signal("go")
    return await workflow.do("effect", lambda: effect(value))


@pikku.workflow
async def failing(workflow: Workflow) -> None:
    raise ValueError("no")


def effect(value: Any) -> Any:
    """A line in a file that all processes share."""
    step = current_step()
    assert step is not None
    if path := os.environ.get("EFFECTS"):
        with Path(path).open("a") as file:
            file.write(json.dumps([step.run_id, os.getpid()]) + "\n")
    return value


async def until(role: str, member: Member) -> None:
    async with asyncio.timeout(30):
        while member.role != role:
            await asyncio.sleep(0.001)


async def test_the_first_is_the_engine_and_the_next_takes_over(db: Path) -> None:
    """Who waits at either goes on waiting; what is asked in between is answered."""
    async with AsyncExitStack() as stack:
        first = pikku.open(db, role="auto", shutdown_grace=0)
        await first.__aenter__()
        second = await stack.enter_async_context(pikku.open(db, role="auto", shutdown_grace=0))
        assert (first.role, second.role) == ("engine", "client")
        here, there = await first.start(waiting, run_id="here"), await second.start(waiting, run_id="there")
        assert await first.steps("there") == await second.steps("there")
        await second.signal("here", "go", 1)
        assert await here.result() == 1
        result = asyncio.ensure_future(there.result())
        events = there.events()
        assert (await anext(events)).kind == "run_started"
        await first.__aexit__(None, None, None)
        await until("engine", second)
        await there.signal("go", 2)
        assert await result == 2
        assert [event.kind async for event in events][-1] == "run_ended"
        with pytest.raises(RunFailed, match="no"):
            await second.run(failing)
        assert [len(page) async for page in pages(second)] == [3]
    with pytest.raises(EngineClosed):
        await second.counts()


async def pages(member: Member) -> Any:
    yield (await member.list_runs()).runs


async def test_an_engine_whose_disk_has_failed_is_given_up(db: Path) -> None:
    """Who waits there is told; a member opens the file anew, and everything goes on."""
    async with (
        pikku.open(db, role="auto", shutdown_grace=0) as first,
        pikku.open(db, role="auto", shutdown_grace=0) as second,
    ):
        handle = await second.start(waiting, run_id="r")
        result = asyncio.ensure_future(handle.result())
        engine = first._engine
        assert engine is not None
        engine._parts.host.journal.fail(JournalError("the disk has failed"))  # type: ignore[union-attr]
        async with asyncio.timeout(30):
            while first._engine is engine or "engine" not in (first.role, second.role):
                await asyncio.sleep(0.001)
        with pytest.raises(JournalError, match="the disk has failed"):
            await result
        await second.signal("r", "go", 3)
        assert await handle.result() == 3


async def test_a_slow_end_of_the_engine_does_not_make_the_next_one_late(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not answer any more, and holds the file still: the others try again and again."""
    closing = asyncio.Event()
    close = Journal.close

    async def slow(self: Journal, **options: Any) -> None:
        await closing.wait()
        await close(self, **options)

    first = pikku.open(db, role="auto", shutdown_grace=0)
    await first.__aenter__()
    async with pikku.open(db, role="auto", wait="1h", shutdown_grace=0) as second:
        monkeypatch.setattr(Journal, "close", slow)
        leaving = asyncio.ensure_future(first.__aexit__(None, None, None))
        while places.socket_path(str(db)).exists():
            await asyncio.sleep(0.001)
        for _ in range(100):
            await asyncio.sleep(0.001)
        closing.set()
        await leaving
        await until("engine", second)


async def test_steps_may_call_the_member_while_its_engine_is_being_left(db: Path) -> None:
    """As they may call an engine: what they do then is recorded, and no attempt fails."""
    app, began, go_on = Pikku(), asyncio.Event(), asyncio.Event()
    member = app.open(db, role="auto", shutdown_grace="30s")

    async def tell_others() -> list[Any]:
        began.set()
        await go_on.wait()
        run = await member.start(listening, run_id="other")
        await run.signal("word", "hello")
        return [(await member.get_run("other")).id, len((await member.list_runs()).runs)]

    @app.workflow
    async def telling(workflow: Workflow) -> list[Any]:
        return await workflow.do("tell", tell_others)

    @app.workflow
    async def listening(workflow: Workflow) -> str:
        return await workflow.wait_for_signal("word", str)

    async with member:
        run = await member.start(telling, run_id="r")
        await began.wait()
        leaving = asyncio.ensure_future(member.__aexit__(None, None, None))
        await asyncio.sleep(0)
        go_on.set()
        await leaving
    with pytest.raises(EngineClosed):
        await run.status()
    async with app.open(db) as engine:
        assert await engine.run(telling, run_id="r") == ["other", 2]
        assert await engine.run(listening, run_id="other") == "hello"
        assert [step.status for step in await engine.steps("r")] == ["succeeded"]
        assert [attempt.status for attempt in await engine.history("r")] == ["succeeded"]


@pytest.mark.parametrize("error", [PikkuError("it speaks another language"), TypeError("a defect")])
async def test_whatever_keeps_a_member_from_its_place_is_said(
    error: Exception, db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """To who opens it; and when the time comes to take over, to the log, and it is tried again."""

    async def fail(*_: Any) -> None:
        raise error

    first = pikku.open(db, role="auto", shutdown_grace=0, wait="100ms")
    async with pikku.open(db, role="auto", shutdown_grace=0) as second:
        assert second.role == "engine"
        with monkeypatch.context() as patch:
            patch.setattr(Line, "open" if isinstance(error, PikkuError) else "_greeted", fail)
            with pytest.raises(type(error), match=str(error)):
                await first.__aenter__()
        await first.__aenter__()
        monkeypatch.setattr(Engine, "__aenter__", fail)
        await second.__aexit__(None, None, None)
        async with asyncio.timeout(30):
            while not any("takeover_failed" in line for line in caplog.messages):
                await asyncio.sleep(0.001)
        monkeypatch.undo()
        await until("engine", first)
        await first.__aexit__(None, None, None)


async def test_who_cannot_talk_to_the_engine_says_so_once_and_asks_less_often(
    db: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine of another version, say, which stays as long as it likes; again if it is something else."""
    member = pikku.open(db, role="auto")
    answers: list[PikkuError | None] = [None, *[PikkuError("version 2")] * 9, *[PikkuError("version 3")] * 3]
    pauses, over, turn = list[float](), asyncio.Event(), asyncio.sleep

    async def be_engine(_: asyncio.Future[None]) -> None:
        raise JournalLocked("somebody has it")

    async def be_client(settled: asyncio.Future[None]) -> PikkuError | None:
        if not answers:
            over.set()
            await asyncio.Event().wait()
        if not settled.done():
            settled.set_result(None)
        return answers.pop(0)

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        await turn(0)

    monkeypatch.setattr(member, "_be_engine", be_engine)
    monkeypatch.setattr(member, "_be_client", be_client)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with member:
        await over.wait()
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, *[1.0] * 8]
    told = [record.pikku for record in caplog.records if "engine_not_reached" in record.getMessage()]
    assert [(one["path"], one["error"]) for one in told] == [(str(db), "version 2"), (str(db), "version 3")]


async def test_opening_raises_what_an_engine_would(db: Path) -> None:
    """At once, and nobody goes on trying."""
    db.write_bytes(b"no database" * 100)
    with pytest.raises(JournalFormatError):
        async with pikku.open(db, role="auto"):
            pass


async def test_a_holder_who_serves_nobody_is_named(db: Path) -> None:
    """It is no member."""
    async with pikku.open(db, control_socket=False):
        with pytest.raises(JournalLocked, match="nobody answers"):
            async with pikku.open(db, role="auto", wait="10ms"):
                pass


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"role": "auto", "control_socket": False}, ValueError),
        ({"role": "first"}, ValueError),
        ({"wait": "1s"}, TypeError),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], error: type[Exception], db: Path) -> None:
    with pytest.raises(error):
        pikku.open(db, **arguments)


def test_there_is_nothing_to_share_in_memory() -> None:
    with pytest.raises(ValueError, match="needs a file"):
        pikku.open(":memory:", role="auto")


WORKER = """
import asyncio, sys
from tests.control.test_member import pikku, until, waiting

async def main():
    db, name = sys.argv[1:]
    async with pikku.open(db, role="auto", wait="30s", shutdown_grace=0) as member:
        print(member.role, flush=True)
        runs = [await member.start(waiting, run_id=f"{name}-{number}") for number in range(5)]
        print("started", flush=True)
        results = await asyncio.gather(*(run.result() for run in runs))
        print(*results, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_one_of_four_workers_takes_over_when_the_engine_is_killed(
    db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With SIGKILL, twice; what the others wait for comes, and each effect happens once."""
    monkeypatch.setenv("EFFECTS", str(tmp_path / "effects"))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(db), name], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    try:
        said = [await asyncio.gather(*(line_of(worker) for worker in workers)) for _ in range(2)]
        assert sorted(said[0]) == ["client", "client", "client", "engine"]
        assert said[1] == ["started"] * 4
        left = list(workers)
        async with pikku.connect(db, wait="30s") as client:
            for _ in range(2):
                [engine] = [worker for worker in left if worker.pid == holder(db)]
                os.kill(engine.pid, signal.SIGKILL)
                engine.wait()
                left.remove(engine)
                assert sum((await client.counts())["waiting"].values()) == 20  # answered by the next one
            for name in "abcd":
                for number in range(5):
                    await client.signal(f"{name}-{number}", "go", f"{name}{number}")
            for name in "abcd":
                for number in range(5):
                    assert await (await client.handle(f"{name}-{number}")).result() == f"{name}{number}"
        assert holder(db) in {worker.pid for worker in left}
        for worker in left:
            name = worker.args[-1]  # type: ignore[index]
            assert await line_of(worker) == " ".join(f"{name}{number}" for number in range(5))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            assert worker.stdout is not None
            worker.stdout.close()
    effects = [json.loads(line) for line in (tmp_path / "effects").read_text().splitlines()]
    assert Counter(run for run, _ in effects) == {f"{name}-{number}": 1 for name in "abcd" for number in range(5)}
    assert len({process for _, process in effects}) == 1


async def line_of(worker: subprocess.Popen[str]) -> str:
    assert worker.stdout is not None
    return (await asyncio.to_thread(worker.stdout.readline)).strip()


def holder(db: Path) -> int:
    found: int = json.loads(Path(f"{db}.owner").read_text())["pid"]
    return found
