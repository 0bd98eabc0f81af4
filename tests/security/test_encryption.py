"""Values in the file are encoded, values in memory are not, and a value is of use only where it was written."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import pytest

from pikkupy import (
    Encoded,
    EventKind,
    JournalError,
    PayloadContext,
    PayloadUnreadable,
    Pikku,
    PikkuError,
    RunConflict,
    RunFailed,
    Services,
    StepFailed,
    Workflow,
    current_step,
)
from pikkupy.core.model import ErrorInfo, StepStatus
from pikkupy.encryption import AesGcm
from pikkupy.store.rows import run_columns, run_of, step_columns, step_of
from pikkupy.testing import VirtualClock

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
CANARY = "canary-of-the-secret"


class Order(msgspec.Struct):
    card: str


def aes(current: str = "new", **keys: bytes) -> AesGcm:
    return AesGcm(keys or {"old": OLD, "new": NEW}, current)


def fails(secret: str) -> NoReturn:
    raise ValueError(f"{secret} was refused")


def program() -> Pikku:
    """One of everything that puts a user's value into the file."""
    pikku = Pikku()

    @pikku.function
    async def stream(services: Services, card: str) -> str:
        step = services.workflow_step
        assert step is not None
        step.emit({"part": card})
        return f"streamed {card}"

    @pikku.function(worker="thread")
    def refuse(services: Services, card: str) -> None:
        fails(card)

    @pikku.workflow
    async def child(workflow: Workflow, order: Order) -> Order:
        return await workflow.do("Echo", lambda: order)

    @pikku.workflow
    async def failing(workflow: Workflow, card: str) -> None:
        await workflow.do("Refuse", refuse, card, retries=1)

    @pikku.workflow
    async def failing_once(workflow: Workflow, card: str) -> None:
        await workflow.do("First", lambda: card)
        await workflow.do("Refuse", refuse, card)

    @pikku.workflow
    async def everything(workflow: Workflow, order: Order) -> list[Any]:
        card = order.card
        streamed = await workflow.do("Stream", stream, card)
        workflow.progress(f"at {card}")
        told = await workflow.wait_for_signal("told", str)
        try:
            await workflow.do("Refuse", refuse, card, retries=1)
        except StepFailed as failed:
            refused = failed.message
        again = await workflow.do("Child", child, order)
        decided = await workflow.approval("Pay", str)
        await workflow.suspend("a gate")
        await workflow.do("Emit inline", lambda: current_step().emit(card))
        return [streamed, told, refused, again.card, decided.decision]

    @pikku.workflow
    async def waits(workflow: Workflow, card: str) -> None:
        await workflow.wait_for_signal("never")

    return pikku


async def until(found: Callable[[], Any]) -> None:
    for _ in range(1000):
        if await found():
            return
        await asyncio.sleep(0.002)
    raise AssertionError("it did not happen")


def in_file(path: Path) -> bytes:
    return b"".join(Path(f"{path}{end}").read_bytes() for end in ("", "-wal") if Path(f"{path}{end}").exists())


async def run_everything(engine: Any, secret: str = CANARY, run_id: str = "all") -> Any:
    run = await engine.start("everything", Order(secret), run_id=run_id)
    await run.signal("told", f"told {secret}")
    await until(lambda: asks(engine, run_id, "Pay"))
    await run.approve("Pay", f"yes {secret}", decided_by=secret)
    await until(lambda: status_is(engine, run_id, "suspended"))
    await engine.resume(run_id)
    return await run.result()


async def asks(engine: Any, run_id: str, name: str) -> bool:
    return any(step.name == name for step in await engine.steps(run_id))


async def status_is(engine: Any, run_id: str, status: str) -> bool:
    return (await engine.get_run(run_id)).status == status


async def test_no_secret_is_in_the_file_after_a_whole_run(tmp_path: Path) -> None:
    """I-50: of failures, signals, streams, child runs, decisions, progress, a cancel, a fork and a retry."""
    path = tmp_path / "j.db"
    async with program().open(path, payload_codec=aes()) as engine:
        result = await run_everything(engine)
        with pytest.raises(RunFailed, match=CANARY):
            await engine.run("failing", CANARY, run_id="failing")
        await engine.retry("failing")
        with pytest.raises(RunFailed):
            await (await engine.handle("failing")).result()
        await engine.start("waits", CANARY, run_id="waits")
        await engine.signal("waits", "kept", {"payload": CANARY})
        await engine.cancel("waits", f"no customer {CANARY}")
        fork = await engine.fork("all", at="Child", overrides={"told": f"other {CANARY}"})
        await until(lambda: asks(engine, fork.id, "Pay"))
        seen = in_file(path)
        chunks = [chunk.value async for chunk in engine.stream("all")]
        steps = {step.name: step for step in await engine.steps("failing")}
        history = await engine.history("failing")
        cancelled = await engine.get_run("waits")
        run = await engine.get_run("all")
    seen += in_file(path)

    assert CANARY.encode() not in seen
    assert b'"$t":"encoded","k":"new"' in seen
    assert result == [f"streamed {CANARY}", f"told {CANARY}", f"{CANARY} was refused", CANARY, f"yes {CANARY}"]
    assert chunks == [{"part": CANARY}, CANARY]
    assert steps["Refuse"].error is not None and steps["Refuse"].error.message == f"{CANARY} was refused"
    assert len(history) == 4 and all(one.error and CANARY in one.error.message for one in history)
    assert all(one.error and 'raise ValueError(f"{secret} was refused")' in one.error.traceback for one in history)
    assert cancelled.reason == f"no customer {CANARY}"
    assert (run.input, run.output, run.progress) == (Order(CANARY), result, f"at {CANARY}")


async def test_events_of_an_earlier_life_tell_errors_in_plain_text(tmp_path: Path) -> None:
    """From the beginning, and after each event that a reader may have seen last."""
    path = tmp_path / "j.db"
    async with program().open(path, payload_codec=aes()) as engine:
        with pytest.raises(RunFailed):
            await engine.run("failing", CANARY, run_id="failing")
        with pytest.raises(RunFailed):
            await engine.run("failing_once", CANARY, run_id="once")
        await run_everything(engine)
    async with program().open(path, payload_codec=aes()) as engine:
        for run_id in ("failing", "once", "all"):
            told = [event async for event in engine.run_events(run_id)]
            told = [event for event in told if event.kind is not EventKind.PROGRESS]  # has no place of its own
            later = [[event async for event in engine.run_events(run_id, after=event.seq)] for event in told[:-1]]
            later = [[event for event in one if event.kind is not EventKind.PROGRESS] for one in later]

            assert sum(CANARY in str(event) for event in told) >= 2
            assert later == [told[number:] for number in range(1, len(told))]


async def test_the_same_without_a_codec_is_readable(tmp_path: Path) -> None:
    """The test above would see a secret if there were one."""
    path = tmp_path / "j.db"
    async with program().open(path) as engine:
        await run_everything(engine)

    assert in_file(path).count(CANARY.encode()) > 10


async def test_runs_go_on_after_a_restart_with_another_current_key(tmp_path: Path) -> None:
    """Old keys decrypt, the current one encrypts."""
    path = tmp_path / "j.db"
    async with program().open(path, payload_codec=aes("old")) as engine:
        await engine.start("everything", Order("x"), run_id="all")
        await engine.signal("all", "told", "early")
        await until(lambda: asks(engine, "all", "Pay"))
    async with program().open(path, payload_codec=aes("new")) as engine:
        await engine.approve("all", "Pay", "yes")
        await until(lambda: status_is(engine, "all", "suspended"))
        await engine.resume("all")
        result = await (await engine.handle("all")).result()

    with sqlite3.connect(path) as db:
        used = dict(db.execute("SELECT name, json_extract(output, '$.k') FROM pikkupy_steps WHERE output IS NOT NULL"))
    db.close()
    assert result == ["streamed x", "told early"[5:], "x was refused", "x", "yes"]
    assert used["Stream"] == "old" and used["Pay"] == "new"


async def test_a_plain_file_goes_on_encrypted(tmp_path: Path) -> None:
    """What was written before the codec came is read as it is."""
    path = tmp_path / "j.db"
    async with program().open(path) as engine:
        await engine.start("everything", Order("x"), run_id="all")
        await until(lambda: asks(engine, "all", "told"))
    async with program().open(path, payload_codec=aes()) as engine:
        result = await run_everything(engine, "x")

    assert result[0] == "streamed x"


async def test_the_same_run_is_known_by_its_input_in_plain_text() -> None:
    """Two encodings of one input differ, by their nonces; the inputs do not."""
    async with program().open(":memory:", payload_codec=aes()) as engine:
        first = await engine.start("waits", "x", run_id="one")
        again = await engine.start("waits", "x", run_id="one")

        with pytest.raises(RunConflict, match="another input"):
            await engine.start("waits", "y", run_id="one")
        await engine.cancel("one", "enough")
        after = await engine.start("waits", "x", run_id="one")

    assert first.id == again.id == after.id


async def test_errors_are_found_by_their_type_only(tmp_path: Path) -> None:
    """The text is encoded: a search in it finds nothing, and never by chance in what it is encoded to."""
    async with program().open(tmp_path / "j.db", payload_codec=aes()) as engine:
        with pytest.raises(RunFailed):
            await engine.run("failing", "x", run_id="failing")

        assert [run.id for run in (await engine.list_runs(error="ValueError")).runs] == ["failing"]
        for text in ("refused", "encoded", "new", "A", "=", "$t"):
            assert not (await engine.list_runs(error=text)).runs


async def test_changed_code_is_accepted_over_encoded_steps(tmp_path: Path) -> None:
    """Steps that move to another position, with their child runs, stay readable there."""
    path = tmp_path / "j.db"

    def code(*, changed: bool) -> Pikku:
        pikku = Pikku()

        @pikku.workflow
        async def inner(workflow: Workflow, text: str) -> str:
            return await workflow.wait_for_signal("go", str)

        @pikku.workflow
        async def outer(workflow: Workflow, text: str) -> list[str]:
            before = ["new"] if not changed else [await workflow.do("New", lambda: "new")]
            first = await workflow.do("First", lambda: f"first {text}")
            return [*before, first, await workflow.do("Inner", inner, text)]

        return pikku

    async with code(changed=False).open(path, payload_codec=aes()) as engine:
        await engine.start("outer", CANARY, run_id="o")
        await until(lambda: asks(engine, "o", "Inner"))
    async with code(changed=True).open(path, payload_codec=aes()) as engine:
        assert (await engine.get_run("o")).status == "suspended"
        await engine.resume("o", accept="new")
    async with code(changed=True).open(path, payload_codec=aes()) as engine:  # the checksums fit
        await engine.signal("o/Inner", "go", "gone")
        result = await (await engine.handle("o")).result()

    assert result == ["new", f"first {CANARY}", "gone"]
    assert CANARY.encode() not in in_file(path)


async def encrypted(path: Path, *ids: str) -> None:
    """Runs that wait, each with an encoded step before."""
    async with program().open(path, payload_codec=aes()) as engine:
        for run_id in ids:
            await engine.start("everything", Order(run_id), run_id=run_id)
            await until(lambda run_id=run_id: asks(engine, run_id, "told"))


@pytest.mark.parametrize(
    ("codec", "says"),
    [
        (None, "there is no codec for it here; use an engine with its payload_codec="),
        (aes("other", other=OLD), "there is no key 'new', only 'other'; add it"),
        (aes("new", new=OLD), "its key has another id's name"),
    ],
    ids=["no codec", "no key", "wrong key"],
)
async def test_an_engine_that_cannot_decode_says_so_and_leaves_the_run_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: AesGcm | None, says: str
) -> None:
    """Which run and step, which key, what to do; and no workflow gets to see what is encoded."""
    path = tmp_path / "j.db"
    await encrypted(path, "a")
    caplog.set_level(logging.INFO, "pikkupy")

    async with program().open(path, payload_codec=codec) as engine:
        logged = [record.getMessage() for record in caplog.records if "run_damaged" in record.getMessage()]
        for call in (
            lambda: engine.signal("a", "told", "x"),
            lambda: engine.start("everything", Order("a"), run_id="a"),
            lambda: engine.fork("a", at="told"),
        ):
            with pytest.raises(PayloadUnreadable, match=says):
                await call()
        run, steps = await engine.get_run("a"), await engine.steps("a")
        listed = [one.id for one in (await engine.list_runs()).runs]
        chunk = await anext(engine.stream("a"))
        await engine.run("child", Order("b"), run_id="b")
        await engine.cancel("a", "no key")
        await engine.delete_run("a")

    assert len(logged) == 1 and "'a'" in logged[0] and "encoded with key" in logged[0]
    assert says in str(run.input) and says in str(steps[0].output) and "step 'Stream'" in str(steps[0].output)
    assert says in str(chunk.value) and "chunk 0 of step 'Stream'" in str(chunk.value)
    assert listed == ["a"]


async def test_a_result_that_cannot_be_decoded_is_raised(tmp_path: Path) -> None:
    """Not given."""
    path = tmp_path / "j.db"
    async with program().open(path, payload_codec=aes()) as engine:
        await engine.run("child", Order("x"), run_id="c")
        with pytest.raises(RunFailed):
            await engine.run("failing", "x", run_id="f")
    async with program().open(path) as engine:
        with pytest.raises(PayloadUnreadable, match="output of run 'c' is encoded with key 'new'"):
            await (await engine.handle("c")).result()
        with pytest.raises(RunFailed) as failed:
            await (await engine.handle("f")).result()
        shown = await engine.get_run("f")
    async with program().open(path, payload_codec=aes()) as engine:
        assert await (await engine.handle("c")).result() == Order("x")

    assert failed.value.error.type == "ValueError"
    assert "error of run 'f' is encoded with key 'new'" in failed.value.error.message
    assert shown.error is not None and "encoded with key 'new'" in shown.error.message


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[tuple[str, int], Any]], None]) -> None:
    """Let `change` edit the runs and the steps of the file, by somebody who knows how checksums are computed."""
    with sqlite3.connect(path) as db:
        runs = {row[1]: run_of(row) for row in db.execute("SELECT * FROM pikkupy_runs")}
        steps = {(row[1], row[2]): step_of(row[1:]) for row in db.execute("SELECT * FROM pikkupy_steps")}
        change(runs, steps)
        for run in runs.values():
            marks = ", ".join("?" * len(run_columns(run)))
            db.execute(f"REPLACE INTO pikkupy_runs VALUES ({marks})", run_columns(run))
        for step in steps.values():
            marks = ", ".join("?" * len(step_columns(step)))
            db.execute(f"REPLACE INTO pikkupy_steps VALUES ({marks})", step_columns(step))
    db.close()


def swap_runs(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    a, b = runs["a"], runs["b"]
    runs["a"] = msgspec.structs.replace(a, input=b.input)
    runs["b"] = msgspec.structs.replace(b, input=a.input)


def swap_steps_of_runs(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    first, second = steps[runs["a"].number, 0], steps[runs["b"].number, 0]
    steps[first.run, 0] = msgspec.structs.replace(first, output=second.output)
    steps[second.run, 0] = msgspec.structs.replace(second, output=first.output)


def input_as_output(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    for run in (runs["a"], runs["b"]):
        steps[run.number, 0] = msgspec.structs.replace(steps[run.number, 0], output=run.input)


def rename_step(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    for run in (runs["a"], runs["b"]):
        steps[run.number, 0] = msgspec.structs.replace(steps[run.number, 0], name="Other")


def flip_a_bit(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    for run in (runs["a"], runs["b"]):
        output = json.loads(steps[run.number, 0].output)
        middle = len(output["v"]) // 2
        output["v"] = output["v"][:middle] + ("A" if output["v"][middle] != "A" else "B") + output["v"][middle + 1 :]
        text = json.dumps(output, separators=(",", ":"))
        steps[run.number, 0] = msgspec.structs.replace(steps[run.number, 0], output=text)


def cut_short(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    for run in (runs["a"], runs["b"]):
        output = steps[run.number, 0].output[:-7]
        steps[run.number, 0] = msgspec.structs.replace(steps[run.number, 0], output=output)


def other_key_id(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    for run in (runs["a"], runs["b"]):
        output = steps[run.number, 0].output.replace('"k":"new"', '"k":"old"')
        steps[run.number, 0] = msgspec.structs.replace(steps[run.number, 0], output=output)


@pytest.mark.parametrize(
    "change",
    [swap_runs, swap_steps_of_runs, input_as_output, rename_step, flip_a_bit, cut_short, other_key_id],
    ids=lambda change: change.__name__,
)
async def test_a_ciphertext_is_of_use_only_where_it_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[..., None]
) -> None:
    """Moved, changed or renamed with right checksums, it is refused: the runs are left alone."""
    path = tmp_path / "j.db"
    await encrypted(path, "a", "b")
    rewritten(path, change)

    async with program().open(path, payload_codec=aes()) as engine:
        with pytest.raises(PayloadUnreadable, match="cannot be decoded"):
            await engine.signal("a", "told", "x")
        statuses = [(await engine.get_run(run_id)).status for run_id in ("a", "b")]

    assert statuses == ["running", "running"]
    assert sum("run_damaged" in record.getMessage() for record in caplog.records) == 2


def plain_input(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    runs["a"] = msgspec.structs.replace(runs["a"], input='{"card":"forged"}')


def plain_output(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    steps[runs["a"].number, 0] = msgspec.structs.replace(steps[runs["a"].number, 0], output='"forged"')


def plain_error(runs: dict[str, Any], steps: dict[tuple[str, int], Any]) -> None:
    step = steps[runs["a"].number, 0]
    error = ErrorInfo("ValueError", "forged", "")
    failed = msgspec.structs.replace(step, status=StepStatus.FAILED, output=None, error=error)
    steps[runs["a"].number, 0] = failed


@pytest.mark.parametrize("change", [plain_input, plain_output, plain_error], ids=lambda change: change.__name__)
async def test_a_forged_plain_value_is_refused_where_none_is_accepted(
    tmp_path: Path, change: Callable[..., None]
) -> None:
    """And a whole run without a plain value is not."""
    path, strict = tmp_path / "j.db", AesGcm({"new": NEW}, "new", accept_plain=False)
    async with program().open(path, payload_codec=strict) as engine:
        await run_everything(engine)
        with pytest.raises(RunFailed):
            await engine.run("failing", "x", run_id="failing")
    await encrypted(path, "a")
    async with program().open(path, payload_codec=strict) as engine:
        await engine.fork("all", at="Child")
        assert len(await engine.history("failing")) == 2
        assert len([chunk async for chunk in engine.stream("all")]) == 2
        before = await engine.get_run("all")
    rewritten(path, change)

    async with program().open(path, payload_codec=strict) as engine:
        with pytest.raises(PayloadUnreadable, match=r"of run 'a' is not encoded, and the payload codec"):
            await engine.signal("a", "told", "x")
        assert (await engine.get_run("all")) == before
    async with program().open(path, payload_codec=aes()) as engine:
        await engine.signal("a", "told", "x")


async def test_what_looks_encoded_but_is_a_user_s_value_is_that_value(tmp_path: Path) -> None:
    """No payload can pretend to be encoded, with a codec and without."""
    looks = {"$t": "encoded", "k": "new", "v": "AAAA"}
    text = '{"$t":"encoded","k":"new","v":"AAAA"}'
    for codec in (None, aes()):
        pikku = Pikku()

        @pikku.workflow
        async def echo(workflow: Workflow, data: Any) -> Any:
            step = await workflow.do("Echo", lambda data=data: data)
            signal = await workflow.wait_for_signal("same")
            return [step, signal]

        @pikku.workflow
        async def raises(workflow: Workflow) -> None:
            raise ValueError(text)

        path = tmp_path / f"{codec is None}.db"
        async with pikku.open(path, payload_codec=codec) as engine:
            run = await engine.start("echo", looks, run_id="e")
            with pytest.raises(RunFailed, match="encoded"):
                await engine.run("raises", run_id="r")
            waiting = await engine.start("echo", looks, run_id="w")
            await waiting.cancel(text)
        async with pikku.open(path, payload_codec=codec) as engine:
            await engine.signal("e", "same", [looks, {"$t": "unreadable", "why": "x"}])
            assert await (await engine.handle("e")).result() == [looks, [looks, {"$t": "unreadable", "why": "x"}]]
            failed = (await engine.get_run("r")).error
            assert failed is not None and failed.message == text
        assert run.id == "e"


class Broken:
    """A codec that fails when it is told to."""

    def __init__(self) -> None:
        self.fails = False

    def encode(self, text: str, context: PayloadContext, /) -> Encoded:
        if self.fails:
            raise OSError("the key service is down")
        return Encoded("k", text.encode())

    def decode(self, encoded: Encoded, context: PayloadContext, /) -> str:
        return encoded.data.decode()


async def test_a_codec_that_raises_refuses_the_write_and_nothing_plain_is_written(tmp_path: Path) -> None:
    """The caller hears of it, and the engine goes on."""
    codec, path = Broken(), tmp_path / "j.db"
    async with program().open(path, payload_codec=codec) as engine:
        codec.fails = True
        with pytest.raises(JournalError, match=r"input of run 'a'.*the key service is down"):
            await engine.start("waits", CANARY, run_id="a")
        codec.fails = False
        await engine.start("waits", "x", run_id="a")

    assert CANARY.encode() not in in_file(path)


async def test_a_codec_that_fails_on_an_outcome_stops_the_engine_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """As a disk does that fails: nothing plain is written, and the file decides."""
    codec, path = Broken(), tmp_path / "j.db"
    pikku = Pikku()
    ran = []

    @pikku.workflow
    async def flow(workflow: Workflow) -> str:
        def step() -> str:
            ran.append(codec.fails)
            codec.fails = len(ran) == 1
            return CANARY

        return await workflow.do("Step", step)

    async with pikku.open(path, payload_codec=codec) as engine:
        run = await engine.start("flow", run_id="r")
        with pytest.raises(JournalError, match=r"output of step 'Step' of run 'r'.*the key service is down"):
            await run.result()
    assert CANARY.encode() not in in_file(path)
    codec.fails = False
    async with pikku.open(path, payload_codec=codec) as engine:
        assert await (await engine.handle("r")).result() == CANARY
    assert len(ran) == 2


async def test_contexts_name_run_step_and_kind() -> None:
    """What a codec is told, for keys by run or rules by step."""
    told: set[tuple[str, str, str | None]] = set()

    class Watching(Broken):
        def encode(self, text: str, context: PayloadContext, /) -> Encoded:
            told.add((context.run_id, context.kind, context.name))
            return super().encode(text, context)

    async with program().open(":memory:", payload_codec=Watching()) as engine:
        await run_everything(engine)
        with pytest.raises(RunFailed):
            await engine.run("failing", "x", run_id="f")

    assert {
        ("all", "input", None),
        ("all", "output", None),
        ("all", "progress", None),
        ("all", "reason", None),
        ("all", "step output", "Stream"),
        ("all", "step error", "Refuse"),
        ("all", "attempt error", None),
        ("all", "chunk", "Emit inline"),
        ("all/Child", "input", None),
        ("f", "error", None),
    } <= told


async def test_what_steps_are_handed_is_the_same_with_and_without(tmp_path: Path) -> None:
    """A clock that jumps, a run that leaves memory and comes back: in memory nothing changes."""
    results = []
    for codec in (None, aes()):
        pikku = Pikku()

        @pikku.workflow
        async def sleeper(workflow: Workflow, order: Order) -> tuple[Order, bytes]:
            made = await workflow.do("Make", lambda order=order: (order, b"\x00\xff"))
            await workflow.sleep("Sleep", "7d")
            return made

        clock = VirtualClock(autojump=True)
        async with pikku.open(tmp_path / f"{codec is None}.db", clock=clock, payload_codec=codec, resident_runs=0) as e:
            results.append(await e.run(sleeper, Order("x")))

    assert results == [(Order("x"), b"\x00\xff")] * 2


@pytest.mark.parametrize(
    ("keys", "current", "says"),
    [
        ({"a": b"short"}, "a", "key 'a' has 5 bytes"),
        ({"a": "x" * 32}, "a", "use bytes, not str"),
        ({"a": OLD}, "b", "current='b' is no key; there are 'a'"),
        ({}, "b", "there are none"),
        ({"": OLD}, "", "id of a key"),
    ],
)
def test_bad_keys_are_refused_without_showing_them(keys: Any, current: str, says: str) -> None:
    """At once, when the codec is made."""
    with pytest.raises(PikkuError, match=says):
        AesGcm(keys, current)


def test_keys_are_not_shown() -> None:
    """Neither by repr() nor by str()."""
    shown = repr(aes()) + str(aes()) + repr(vars(aes()))

    assert "AesGcm(keys=['new', 'old'], current='new')" in shown
    assert OLD.hex() not in shown and repr(OLD)[2:20] not in shown


def test_nonces_are_not_used_twice() -> None:
    """The same text is another one in the file each time."""
    context = PayloadContext(run_id="r", kind="input")
    texts = {aes().encode("same", context).data for _ in range(1000)}

    assert len({text[:12] for text in texts}) == 1000


def test_a_codec_has_to_be_one() -> None:
    """Not a class, not a function."""
    for wrong in (AesGcm, os.urandom, 7):
        with pytest.raises(TypeError, match="payload_codec"):
            Pikku().open(":memory:", payload_codec=wrong)  # type: ignore[arg-type]
