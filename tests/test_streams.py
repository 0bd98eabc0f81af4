"""What steps emit while they run, and who reads it: on disk when seen, in order, to the end of the run."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Chunk,
    EngineClosed,
    PayloadError,
    Pikku,
    RunFailed,
    RunNotFound,
    Services,
    StepContext,
    StepFailed,
    StreamFull,
    Workflow,
    current_step,
)
from pikkupy.core.model import Change, ChunkRow, RunMove, StepRow
from pikkupy.engine.outlet import Outlet
from pikkupy.store import Journal
from pikkupy.testing import VirtualClock
from pikkupy.workers.reporter import MAX_WAITING
from tests.store.samples import raw
from tests.test_crash import crashed_copy

ROOT = Path(__file__).parent.parent
PATIENCE_S = 30.0  # real time; only a broken test waits that long

shared = Pikku()


class Token(msgspec.Struct, frozen=True):
    text: str


def here() -> StepContext:
    step = current_step()
    assert step is not None
    return step


@shared.function
async def on_loop(services: Services, count: int) -> str:
    step = services.workflow_step
    assert step is not None
    for number in range(count):
        step.emit(number)
        await asyncio.sleep(0)
    return "loop"


@shared.function
def on_thread(services: Services, count: int) -> str:
    for number in range(count):
        here().emit(number)
    return "thread"


@shared.function(worker="process")
def in_process(services: Services, count: int) -> str:
    for number in range(count):
        here().emit(Token(str(number)) if count < 5 else number)
    return "process"


@shared.function(worker="process")
async def in_process_and_fails(services: Services) -> None:
    step = services.workflow_step
    assert step is not None
    step.emit("last words")
    step.progress("failing")
    raise OSError("no")


async def in_order(chunks: AsyncIterator[Chunk]) -> list[Chunk]:
    async with asyncio.timeout(PATIENCE_S):
        return [chunk async for chunk in chunks]


def values(chunks: Sequence[Chunk]) -> list[Any]:
    return [chunk.value for chunk in chunks]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


async def test_every_kind_of_step_can_emit(db: Path) -> None:
    """Async and thread functions, process functions, inline steps that await or not: one stream."""

    @shared.workflow(name="all kinds")
    async def flow(workflow: Workflow) -> None:
        async def awaits() -> None:
            here().emit({"a": (1, 2)})
            await asyncio.sleep(0)
            await asyncio.to_thread(here().emit, "from its thread")

        await workflow.do("inline", lambda: here().emit("at once"), description="x")
        await workflow.do("inline", awaits)
        await workflow.do("loop", on_loop, 2)
        await workflow.do("thread", on_thread, 2)
        await workflow.do("process", in_process, 2)

    clock = VirtualClock()
    async with shared.open(db, clock=clock) as engine:
        handle = await engine.start(flow, run_id="r")
        live = await in_order(handle.stream())
        await handle.result()
        recorded = await in_order(engine.stream("r"))

    assert live == recorded
    assert [chunk.offset for chunk in live] == list(range(9))
    assert [(chunk.step_name, chunk.attempt, chunk.value) for chunk in live] == [
        ("inline", 1, "at once"),
        ("inline#1", 1, {"a": (1, 2)}),
        ("inline#1", 1, "from its thread"),
        ("loop", 1, 0),
        ("loop", 1, 1),
        ("thread", 1, 0),
        ("thread", 1, 1),
        ("process", 1, Token("0")),
        ("process", 1, Token("1")),
    ]
    assert [chunk.since for chunk in live] == [0, 1, 1, 3, 3, 5, 5, 7, 7]
    assert {chunk.at for chunk in live} == {clock.now()}
    assert live[0].at.utcoffset() == timedelta(0)


async def test_a_reader_follows_a_run_that_goes_on(db: Path) -> None:
    """It gets each chunk while the step still runs, when the chunk is on disk, and stops with the run."""
    pikku = Pikku()
    asked = asyncio.Queue[str]()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            while (word := await asked.get()) != "enough":
                here().emit(word)

        await workflow.do("talk", body)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        stream = handle.stream()
        seen = []
        for word in ("one", "two", "three"):
            waiting = asyncio.ensure_future(anext(stream))
            asked.put_nowait(word)
            async with asyncio.timeout(PATIENCE_S):
                seen.append((await waiting).value)
            assert raw(str(db), "SELECT count(*) FROM pikkupy_chunks") == [(len(seen),)]
        waiting = asyncio.ensure_future(anext(stream, None))
        asked.put_nowait("enough")
        async with asyncio.timeout(PATIENCE_S):
            assert await waiting is None
            assert await anext(stream, None) is None
        assert await handle.status() == "completed"

    assert seen == ["one", "two", "three"]


async def test_a_stream_can_be_read_from_anywhere_and_of_one_step(db: Path) -> None:
    """`after` is the offset of the last chunk that was seen; pages do not show."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            for number in range(300):
                here().emit(number)
                await asyncio.sleep(0)

        await asyncio.gather(workflow.do("a", body), workflow.do("b", body))
        await workflow.do("a", lambda: here().emit("again"))

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        await handle.result()
        everything = await in_order(handle.stream())
        rest = await in_order(handle.stream(after=everything[599].offset))
        nothing = await in_order(handle.stream(after=1_000))
        of_a = await in_order(engine.stream(handle.id, step="a"))
        of_b = await in_order(engine.stream(handle.id, step="b", after=589))

    assert [chunk.offset for chunk in everything] == list(range(601))
    assert values(rest) == ["again"]
    assert nothing == []
    assert values(of_a) == list(range(300))
    assert of_a == [chunk for chunk in everything if chunk.step_name == "a"]
    assert of_b == [chunk for chunk in everything[590:] if chunk.step_name == "b"]


async def test_a_retry_takes_the_place_of_what_earlier_attempts_have_emitted(db: Path) -> None:
    """All is kept with its attempt's number; `current` leaves out what does not count any more."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        def body() -> None:
            step = here()
            if step.attempt_count < 3:
                step.emit(f"attempt {step.attempt_count}")
                raise OSError
            if step.step_name == "third":
                step.emit("attempt 3")

        await workflow.do("third", body, retries=2)
        await workflow.do("silent", body, retries=2)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        await handle.result()
        everything = await in_order(handle.stream())
        current = await in_order(handle.stream(current=True))

    assert [(chunk.step_name, chunk.attempt, chunk.since) for chunk in everything] == [
        ("third", 1, 0),
        ("third", 2, 1),
        ("third", 3, 2),
        ("silent", 1, 3),
        ("silent", 2, 4),
    ]
    assert current == [everything[2]]


async def test_what_an_attempt_has_emitted_is_recorded_before_its_outcome(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the last chunk before the return or the error, on every worker; and before the end of the run."""
    submitted: list[Change] = []
    submit = Journal.submit

    def watched(journal: Journal, changes: Sequence[Change], done: Any) -> None:
        submitted.extend(changes)
        submit(journal, changes, done)

    monkeypatch.setattr(Journal, "submit", watched)

    @shared.workflow(name="order of writing")
    async def flow(workflow: Workflow) -> None:
        def fails() -> None:
            here().emit("last words")
            raise OSError

        await workflow.do("inline", lambda: here().emit("word"))
        await workflow.do("loop", on_loop, 3)
        await workflow.do("thread", on_thread, 300)
        await workflow.do("process", in_process, 300)
        await asyncio.wait([workflow.do("fails", fails, retries=1)])
        workflow.do("unawaited", on_loop, 100_000)
        await workflow.do("fails in process", in_process_and_fails)

    async with shared.open(db, clock=VirtualClock()) as engine:
        with pytest.raises(RunFailed):
            await engine.run(flow, run_id="r")
        chunks = await in_order(engine.stream("r"))

    ended = {change.name: place for place, change in enumerate(submitted) if isinstance(change, StepRow) and change.seq}
    [end] = [place for place, change in enumerate(submitted) if isinstance(change, RunMove)]
    rows = [(place, change) for place, change in enumerate(submitted) if isinstance(change, ChunkRow)]
    assert [row.offset for _, row in rows] == [chunk.offset for chunk in chunks] == list(range(len(chunks)))
    assert all(place < ended.get(row.name, end) for place, row in rows)
    assert all(place < end for place, _ in rows)
    counts = {name: sum(chunk.step_name == name for chunk in chunks) for name in ended}
    assert counts == {"inline": 1, "loop": 3, "thread": 300, "process": 300, "fails": 2, "fails in process": 1}


async def test_what_an_abandoned_attempt_emits_changes_nothing(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A thread cannot be stopped: after its timeout it may go on emitting, but is not heard."""
    caplog.set_level(logging.DEBUG, logger="pikkupy")
    pikku = Pikku()
    go_on, done = threading.Event(), threading.Event()
    clock = VirtualClock()

    @pikku.function
    def slow(services: Services) -> str:
        step = here()
        if step.attempt_count == 1:
            step.emit("in time")
            go_on.wait(PATIENCE_S)
            step.emit("late")
            step.emit("later")
            step.progress("late")
            done.set()
        else:
            step.emit("second")
        return "done"

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        return await workflow.do("slow", slow, timeout="5s", retries=1)

    async with pikku.open(db, clock=clock) as engine:
        handle = await engine.start(flow)
        assert (await anext(handle.stream())).value == "in time"
        await clock.advance("5s")
        assert await handle.result() == "done"
        go_on.set()
        await until(done.is_set)
        await until(lambda: "emit_ignored" in caplog.text)
        chunks = await in_order(handle.stream())

    assert [(chunk.attempt, chunk.value) for chunk in chunks] == [(1, "in time"), (2, "second")]
    assert caplog.text.count("emit_ignored") == 1


@pytest.mark.parametrize("stopped_by", ["its time-out", "the workflow"])
async def test_an_attempt_that_is_stopped_may_emit_while_it_winds_up(stopped_by: str) -> None:
    """It is recorded, for the attempt has its outcome only when its body has ended."""
    pikku = Pikku()

    async def body() -> None:
        here().emit("before")
        try:
            await asyncio.Event().wait()
        finally:
            here().emit("winding up")

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        try:
            async with asyncio.timeout(1 if stopped_by == "the workflow" else None):
                await workflow.do("body", body, timeout="1s" if stopped_by == "its time-out" else None)
        except (TimeoutError, StepFailed):
            await workflow.sleep("rest", "1s")

    clock = VirtualClock()
    async with pikku.open(":memory:", clock=clock) as engine:
        handle = await engine.start(flow)
        for _ in range(3):
            await clock.advance("1s")
        await handle.result(timeout=0)
        assert [chunk.value async for chunk in handle.stream()] == ["before", "winding up"]


async def test_what_is_emitted_after_the_cancel_of_the_run_changes_nothing(db: Path) -> None:
    """The end of the run is the end of its stream; a body that cleans up may emit, to nobody."""
    pikku = Pikku()
    cleaned = asyncio.Event()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            here().emit("before")
            try:
                await asyncio.Event().wait()
            finally:
                here().emit("after")
                cleaned.set()

        await workflow.do("body", body)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        stream = handle.stream()
        assert (await anext(stream)).value == "before"
        waiting = asyncio.ensure_future(anext(stream, None))
        await handle.cancel("enough")
        await cleaned.wait()
        assert await waiting is None
        chunks = await in_order(handle.stream())

    assert values(chunks) == ["before"]


async def test_a_value_that_cannot_be_kept_is_refused_in_the_call(db: Path) -> None:
    """With its step and path, on every worker; the step may go on. Nothing of it is in the stream."""

    class Local:
        pass

    pikku = Pikku()
    refusals: list[str] = []

    def attempt_to_emit(step: StepContext) -> None:
        for value in ({"a": [Local()]}, "x" * 2_000):
            try:
                step.emit(value)
            except PayloadError as error:
                refusals.append(str(error))
        step.emit("fine")

    @pikku.function
    def on_a_thread(services: Services) -> None:
        attempt_to_emit(here())

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("inline", lambda: attempt_to_emit(here()))
        await workflow.do("thread", on_a_thread)

    async with pikku.open(db, clock=VirtualClock(), max_payload=1_000) as engine:
        handle = await engine.start(flow)
        chunks = await in_order(handle.stream())

    assert values(chunks) == ["fine", "fine"]
    assert len(refusals) == 4
    assert "chunk of step 'inline': $.a[0]" in refusals[0]
    assert "max_payload" in refusals[3]


async def test_emit_works_from_threads_that_know_nothing_of_the_step(db: Path) -> None:
    """The bound method may be handed to whatever calls it back: it needs no context variables."""
    pikku = Pikku()

    @pikku.function
    async def generate(services: Services) -> None:
        step = services.workflow_step
        assert step is not None
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, partial(list, map(step.emit, "ab")))

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def inline() -> None:
            emit = here().emit
            await asyncio.get_running_loop().run_in_executor(None, emit, "c")

        await workflow.do("generate", generate)
        await workflow.do("inline", inline)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        chunks = await in_order(handle.stream())

    assert [(chunk.step_name, chunk.value) for chunk in chunks] == [
        ("generate", "a"),
        ("generate", "b"),
        ("inline", "c"),
    ]


async def test_a_run_that_a_step_starts_is_not_that_step(db: Path) -> None:
    """Its body is no step, and what its steps emit is in its own stream, also in another engine."""
    inner, outer = Pikku(), Pikku()
    in_body: list[StepContext | None] = []

    @inner.workflow
    async def small(workflow: Workflow) -> None:
        in_body.append(current_step())
        await workflow.do("small", lambda: here().emit("inner"))

    async with inner.open(":memory:", clock=VirtualClock()) as other:

        @outer.workflow
        async def flow(workflow: Workflow) -> None:
            async def body() -> None:
                await other.run(small, run_id="inner")
                here().emit("outer")

            await workflow.do("body", body)

        async with outer.open(db, clock=VirtualClock()) as engine:
            handle = await engine.start(flow)
            chunks = await in_order(handle.stream())
            inner_chunks = await in_order(other.stream("inner"))

    assert in_body == [None]
    assert values(chunks) == ["outer"]
    assert values(inner_chunks) == ["inner"]


async def test_readers_are_told_when_the_engine_is_left(db: Path) -> None:
    """`EngineClosed`, as those get it who wait for a result; also who asks afterwards."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("emit", lambda: here().emit("one"))
        await workflow.sleep("long", "30d")

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow, run_id="r")
        stream, behind = handle.stream(), handle.stream()
        assert (await anext(stream)).value == "one"
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: engine._parts is not None and engine._parts.residents.outlet._waiting)

    with pytest.raises(EngineClosed):
        await waiting
    for late in (stream, behind, engine.stream("r")):
        with pytest.raises(EngineClosed):
            await anext(late)


async def test_a_reader_that_goes_away_leaves_nothing_behind(db: Path) -> None:
    """Neither at a chunk nor while it waits."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("emit", lambda: [here().emit(word) for word in "abc"] and None)
        await workflow.sleep("long", "30d")

    async with pikku.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow)
        assert engine._parts is not None
        residents = engine._parts.residents
        stream = handle.stream()
        async for chunk in stream:
            if chunk.value == "b":
                break
        assert (residents._waiting, residents.outlet._waiting) == ({}, {})
        assert (await anext(stream)).value == "c"
        waiting = asyncio.ensure_future(anext(stream))
        await until(lambda: residents.outlet._waiting)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (residents._waiting, residents.outlet._waiting) == ({}, {})


async def test_bad_calls_are_refused(db: Path) -> None:
    """Wrong arguments in the call, an unknown run where the first chunk is awaited; a deleted run is unknown."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        await workflow.do("emit", lambda: here().emit("one"))

    async with pikku.open(db, clock=VirtualClock()) as engine:
        await engine.run(flow, run_id="r")
        for wrong in ({"after": -2}, {"step": ""}):
            with pytest.raises(ValueError):
                engine.stream("r", **wrong)  # type: ignore[arg-type]
        for wrong in ({"after": True}, {"after": "1"}, {"step": 5}):
            with pytest.raises(TypeError):
                engine.stream("r", **wrong)  # type: ignore[arg-type]
        with pytest.raises(RunNotFound):
            await anext(engine.stream("nobody"))
        half_read = engine.stream("r")
        assert (await anext(half_read)).value == "one"
        await engine.delete_run("r")
        assert await in_order(half_read) == []
        with pytest.raises(RunNotFound):
            await anext(engine.stream("r"))


async def test_a_step_made_by_hand_emits_to_nobody() -> None:
    """So that a function can be called in a test; what makes no sense is refused all the same."""
    step = StepContext("r", "flow", "r/step", "step", 1)

    step.emit("word")
    step.progress(0.5)

    with pytest.raises(ValueError):
        step.progress(2)
    assert msgspec.json.decode(msgspec.json.encode(step), type=StepContext) == step
    assert "outlet" not in repr(step)


async def test_after_a_crash_the_offsets_go_on(db: Path, tmp_path: Path) -> None:
    """The attempt runs again under its number; what the crash cut off does not count any more."""
    pikku = Pikku()
    blocked = asyncio.Event()
    lives: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            lives.append(1)
            here().emit("Hel")
            here().emit("lo")
            if len(lives) == 1:
                await blocked.wait()
            here().emit(" world")

        await workflow.do("first", lambda: here().emit("first"))
        await workflow.do("say", body)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        stream = (await engine.start(flow, run_id="r")).stream()
        seen = [await anext(stream) for _ in range(3)]
        copy = crashed_copy(db, tmp_path / "crashed")
        blocked.set()
    async with pikku.open(copy, clock=VirtualClock()) as engine:
        await (await engine.handle("r")).result()
        everything = await in_order(engine.stream("r"))
        current = await in_order(engine.stream("r", current=True))

    assert everything[:3] == seen
    assert [chunk.offset for chunk in everything] == list(range(6))
    assert {chunk.attempt for chunk in everything} == {1}
    assert [chunk.since for chunk in everything] == [0, 1, 1, 3, 3, 3]
    assert values(current) == ["first", "Hel", "lo", " world"]


KILLED = """
import asyncio, os, signal, sys
from pikkupy import Pikku, Workflow, current_step

pikku = Pikku()

@pikku.workflow
async def flow(workflow: Workflow) -> None:
    async def body() -> None:
        for number in range(1_000_000 if sys.argv[2] == "kill" else 5):
            current_step().emit(number)
            await asyncio.sleep(0)
    await workflow.do("count", body)

async def main() -> None:
    async with pikku.open(sys.argv[1]) as engine:
        handle = await engine.start(flow, run_id="r")
        async for chunk in handle.stream():
            print(chunk.offset, chunk.attempt, chunk.value, flush=True)
            if sys.argv[2] == "kill" and chunk.offset == int(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_chunks_that_a_reader_has_seen_survive_a_kill(tmp_path: Path) -> None:
    """At whatever chunk; those of the next life follow, under the same attempt number."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED, encoding="utf-8")

    def life(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), str(tmp_path / "app.db"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)

    killed = life("kill", "7")
    killed_again = life("kill", "40")
    last = life("live")

    assert killed.returncode == killed_again.returncode == -signal.SIGKILL
    assert last.returncode == 0, last.stderr
    seen = [line.split() for line in last.stdout.splitlines()]
    for earlier in (killed, killed_again):
        lines = [line.split() for line in earlier.stdout.splitlines()]
        assert len(lines) >= 8
        assert seen[: len(lines)] == lines
    assert [int(offset) for offset, _, _ in seen] == list(range(len(seen)))
    assert {attempt for _, attempt, _ in seen} == {"1"}
    assert [value for _, _, value in seen[-5:]] == ["0", "1", "2", "3", "4"]


async def test_the_loop_is_told_when_too_much_waits_for_the_disk(db: Path) -> None:
    """Where nothing can wait `emit` raises, before memory is full; when the disk has caught up it goes on."""
    pikku = Pikku()
    emitted: list[int] = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            with pytest.raises(StreamFull, match="max_stream=50,000"):
                for number in range(1_000):
                    here().emit(number)
                    emitted.append(number)
            outlet = engine._parts.residents.outlet if engine._parts else None
            await until(lambda: outlet is not None and not outlet._unwritten)
            here().emit("x" * 90_000)  # larger than all the room

        await workflow.do("body", body)

    async with pikku.open(db, clock=VirtualClock(), max_stream=50_000) as engine:
        await engine.run(flow, run_id="r")
        chunks = await in_order(engine.stream("r"))

    assert 50 < len(emitted) < 100
    assert values(chunks) == [*emitted, "x" * 90_000]


async def test_threads_and_processes_wait_for_the_disk(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They emit as fast as chunks are written, and no more of them is in memory than `max_stream` says."""
    limit = 20_000
    unwritten: dict[str, int] = {}
    written = Outlet._written

    def watched(outlet: Outlet, rows: Sequence[ChunkRow], error: Exception | None) -> None:
        unwritten[rows[0].name] = max(unwritten.get(rows[0].name, 0), outlet._unwritten)
        written(outlet, rows, error)

    monkeypatch.setattr(Outlet, "_written", watched)

    @shared.workflow(name="fast")
    async def flow(workflow: Workflow) -> None:
        await workflow.do("thread", on_thread, 3_000)
        await workflow.do("process", in_process, 3_000)

    async with shared.open(db, clock=VirtualClock(), max_stream=limit) as engine:
        handle = await engine.start(flow)
        chunks = await in_order(handle.stream(step="thread"))
        of_process = await in_order(handle.stream(step="process"))
        assert engine._parts is not None
        assert engine._parts.residents.outlet._unwritten == 0

    assert values(chunks) == values(of_process) == list(range(3_000))
    assert 0 < unwritten["thread"] <= limit
    assert 0 < unwritten["process"] <= limit + MAX_WAITING + 1_000  # one message of news


@shared.function
async def progress_on_loop(services: Services) -> None:
    step = services.workflow_step
    assert step is not None
    step.progress(0)
    step.progress(0.25)
    await STAGE["go on"].wait()


@shared.function
def progress_on_thread(services: Services) -> None:
    for number in range(100_001):
        here().progress(number / 100_000)
    asyncio.run_coroutine_threadsafe(STAGE["go on"].wait(), STAGE["loop"]).result(PATIENCE_S)


@shared.function(worker="process")
def progress_in_process(services: Services, path: str) -> None:
    for number in range(100_001):
        here().progress(number / 100_000)
    here().progress("nearly done £\ud800")
    while not Path(path).exists():
        threading.Event().wait(0.001)


STAGE: dict[str, Any] = {}


async def test_progress_is_shown_while_the_step_runs(db: Path, tmp_path: Path) -> None:
    """The latest, from every worker, as `Step.progress`; it is not written, and gone when the attempt has ended."""
    STAGE.update({"go on": asyncio.Event(), "loop": asyncio.get_running_loop()})
    flag = tmp_path / "flag"

    @shared.workflow(name="progress")
    async def flow(workflow: Workflow) -> None:
        async def inline() -> None:
            here().progress("half way")
            await STAGE["go on"].wait()

        await asyncio.gather(
            workflow.do("inline", inline),
            workflow.do("loop", progress_on_loop),
            workflow.do("thread", progress_on_thread),
            workflow.do("process", progress_in_process, str(flag)),
            workflow.do("silent", STAGE["go on"].wait),
        )

    expected = {"inline": "half way", "loop": 0.25, "thread": 1.0, "process": "nearly done £\\ud800", "silent": None}
    async with shared.open(db, clock=VirtualClock()) as engine:
        handle = await engine.start(flow, run_id="r")
        async with asyncio.timeout(PATIENCE_S):
            while (shown := {step.name: step.progress for step in await engine.steps("r")}) != expected:
                await asyncio.sleep(0.001)
        STAGE["go on"].set()
        flag.touch()
        await handle.result()
        after = await engine.steps("r")

    assert shown == expected
    assert [step.progress for step in after] == [None] * 5


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf"), 2, 10**400, "x" * 1_001])
async def test_a_progress_that_there_cannot_be_is_a_value_error(wrong: Any) -> None:
    """A fraction is from 0 to 1, a text has at most 1,000 characters."""
    with pytest.raises(ValueError, match="progress") as raised:
        StepContext("r", "flow", "r/step", "step", 1).progress(wrong)
    assert len(str(raised.value)) < 150


@pytest.mark.parametrize("wrong", [None, True, b"x", [0.5] * 1_000])
async def test_a_progress_of_another_type_is_a_type_error(wrong: Any) -> None:
    """A number or a text."""
    with pytest.raises(TypeError, match="progress") as raised:
        StepContext("r", "flow", "r/step", "step", 1).progress(wrong)
    assert len(str(raised.value)) < 200


async def test_a_refused_progress_of_a_run_is_not_quoted_whole() -> None:
    """Its beginning tells which one it is."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        try:
            workflow.progress("half of it " * 100)
        except ValueError as refused:
            return str(refused)
        return ""

    async with pikku.open(":memory:") as engine:
        said = await engine.run(flow, run_id="r")
    assert said.startswith("progress('half of it half")
    assert said.endswith("...) of run 'r': progress(text): 1,100 characters are more than 1,000")
    assert len(said) < 200


async def test_the_hook_for_progress_hears_the_latest_once_a_turn(db: Path) -> None:
    """`Outlet.on_progress` is what others of the engine can connect to; late progress does not reach it."""
    pikku = Pikku()
    heard: list[tuple[str, str, int, float | str]] = []
    contexts: list[StepContext] = []

    @pikku.function
    def thread(services: Services) -> None:
        for number in range(10_001):
            here().progress(number / 10_000)

    @pikku.workflow
    async def flow(workflow: Workflow) -> None:
        async def body() -> None:
            contexts.append(here())
            for number in range(1_001):
                here().progress(number / 1_000)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            here().progress("end")
            await asyncio.sleep(0)
            await asyncio.sleep(0)

        await workflow.do("body", body)
        await workflow.do("thread", thread)

    async with pikku.open(db, clock=VirtualClock()) as engine:
        assert engine._parts is not None
        engine._parts.residents.outlet.on_progress = lambda *told: heard.append(told)
        await engine.run(flow, run_id="r")
        contexts[0].progress("late")
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    assert heard[:2] == [("r", "body", 1, 1.0), ("r", "body", 1, "end")]
    assert {told[1] for told in heard[2:]} == {"thread"}
    assert heard[-1][3] == 1.0
    assert len(heard) < 5_000
