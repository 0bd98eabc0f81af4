"""A client has the engine's methods, over the socket."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pikkupy import (
    Client,
    Decided,
    Engine,
    EngineClosed,
    EventsLost,
    JournalLocked,
    PayloadError,
    Pikku,
    RunCancelled,
    RunFailed,
    RunNotFound,
    RunStateError,
    Workflow,
    WorkflowNotFound,
)
from pikkupy.control import answering, messages, places, seeing
from pikkupy.control.client import _unknown as unknown
from pikkupy.errors import BadType, BadValue
from pikkupy.registry import WorkflowFunction
from pikkupy.turns import Turns

pikku = Pikku()


class Order(msgspec.Struct):
    """Something that is kept with its type."""

    number: int
    parts: tuple[int, ...] = ()


@pikku.workflow
async def doubled(workflow: Workflow, data: Order) -> Order:
    """A value of a class in, one out."""
    number = await workflow.do("double", lambda: 2 * data.number)
    return Order(number, (1, 2))


@pikku.workflow
async def waiting(workflow: Workflow) -> Any:
    """Waits for a signal."""
    return await workflow.wait_for_signal("go")


@pikku.workflow
async def asking(workflow: Workflow) -> Any:
    """Waits for a decision."""
    decision = await workflow.approval("ok", Order)
    return decision.decision.number if isinstance(decision, Decided) else None


@pikku.workflow
async def failing(workflow: Workflow) -> None:
    """Fails."""

    def broken() -> None:
        raise ValueError("no")

    await workflow.do("broken", broken)


@pikku.workflow
async def stopped(workflow: Workflow) -> str:
    """Stops at a gate."""
    await workflow.suspend("gate")
    return "open"


@pikku.workflow
async def telling(workflow: Workflow) -> None:
    """Emits."""

    def tell() -> None:
        from pikkupy import current_step

        step = current_step()
        assert step is not None
        for number in range(3):
            step.emit(Order(number))

    await workflow.do("tell", tell)


@pytest.fixture
async def engine(db: Path) -> AsyncIterator[Engine]:
    async with pikku.open(db, shutdown_grace=0) as opened:
        yield opened


@pytest.fixture
async def client(db: Path, engine: Engine) -> AsyncIterator[Client]:
    async with pikku.connect(db, wait="1s") as opened:
        yield opened


@pikku.workflow
async def copying(workflow: Workflow, data: str) -> None:
    """Has its value many times."""
    for _ in range(20):
        await workflow.do("copy", lambda: data)


@pikku.workflow
async def keeping(workflow: Workflow, data: str) -> None:
    """Has a value, and waits."""
    await workflow.wait_for_signal("go")


async def test_values_keep_their_types(engine: Engine, client: Client) -> None:
    """Of input, output and steps, as if the engine were here."""
    handle = await client.start(doubled, Order(4, (9,)), run_id="r", tags={"a": "b"})

    assert await handle.result() == Order(8, (1, 2))
    assert await client.get_run("r") == await engine.get_run("r")
    assert await client.steps("r") == await engine.steps("r")
    assert await client.history("r") == await engine.history("r")
    assert await client.list_runs(tags={"a": "b"}) == await engine.list_runs(tags={"a": "b"})
    assert await client.counts() == await engine.counts()


async def test_a_client_that_knows_no_workflow_sees_plain_values_or_recorded_types(
    db: Path, engine: Engine, client: Client
) -> None:
    """It gives the name, and whatever JSON the type is made of."""
    async with Pikku().connect(db) as stranger:
        assert await stranger.run("doubled", {"number": 4, "parts": [1]}) == Order(8, (1, 2))
        with pytest.raises(WorkflowNotFound, match="doubled"):
            await stranger.start(doubled, Order(1))


SHAPES = """
import asyncio, sys
from enum import Enum
from typing import Any
import msgspec
from pikkupy import Pikku, Workflow, current_step

pikku = Pikku()

class Color(Enum):
    RED = "red"

class Thread(Enum):
    NONE = None

class Shirt(msgspec.Struct, rename="camel", tag="shirt"):
    main_color: Color
    sizes: tuple[int, ...]

@pikku.workflow
async def sew(workflow: Workflow, data: Shirt) -> Color:
    def emit() -> Thread:
        current_step().emit(Shirt(Color.RED, (1, 2)))
        return Thread.NONE
    await workflow.do("plain", lambda: (1, 2))
    await workflow.do("sew", emit)
    await workflow.wait_for_signal("go")
    return data.main_color

async def main():
    async with pikku.open(sys.argv[1], shutdown_grace=0) as engine:
        await engine.start(sew, Shirt(Color.RED, (1, 2)), run_id="r")
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"""
SHIRT = {"type": "shirt", "mainColor": "red", "sizes": [1, 2]}


@pytest.fixture
async def sewing(db: Path) -> AsyncIterator[Client]:
    """A client without the classes of the engine's process."""
    engine = await life(db, SHAPES, stdin=subprocess.PIPE)
    async with Pikku().connect(db) as stranger:
        yield stranger
    assert engine.stdin is not None
    engine.stdin.close()
    await asyncio.to_thread(engine.wait)


@pytest.mark.parametrize("first", ["get_run", "list_runs", "stream", "steps"])
async def test_values_of_classes_that_are_not_here_are_shown_as_the_engine_takes_them(
    sewing: Client, first: str
) -> None:
    """By an enum's value and a field's JSON name, whichever is asked for first; such a value starts another run."""
    while len(await sewing.open_steps(["r"])) == 0 or len(await sewing.steps("r")) < 3:
        pass
    sewing._plain = False
    asked = {
        "get_run": lambda: sewing.get_run("r"),
        "list_runs": lambda: sewing.list_runs(),
        "stream": lambda: anext(sewing.stream("r")),
        "steps": lambda: sewing.steps("r"),
    }
    for name in [first, *asked]:
        got = await asked[name]()
        match name:
            case "get_run":
                assert got.input == SHIRT
            case "list_runs":
                assert [run.input for run in got.runs] == [SHIRT]
            case "stream":
                assert got.value == SHIRT
            case _:
                assert [step.output for step in got] == [(1, 2), None, None]
    page = await sewing.some_steps("r")
    assert page.steps == await sewing.steps("r")
    assert await sewing.has_input("r", SHIRT)
    again = await sewing.start("sew", SHIRT)
    await again.signal("go")
    with pytest.raises(PayloadError):
        await again.result()
    assert (await sewing.get_run(again.id)).output == "red"


async def test_values_are_sent_once_to_who_has_their_classes(engine: Engine, client: Client) -> None:
    """And twice only if they hold classes."""
    await client.run(doubled, Order(4, (9,)), run_id="r")
    asked, ask = list[Any](), client._way.ask

    async def told(call: Any) -> Any:
        asked.append(call)
        return await ask(call)

    client._way.ask = told  # type: ignore[method-assign]
    await client.get_run("r")
    assert [call.plain for call in asked] == [False]
    run = await ask(messages.GetRun("r", plain=True))
    [order] = msgspec.json.decode(run, type=messages.SentRun).plain_input
    assert msgspec.json.decode(order) == {"number": 4, "parts": [9]}
    some_steps = client._way.answers(messages.SomeSteps("r", 0, 50, False, plain=True))
    sent = [one.value async for one in some_steps if isinstance(one, messages.Item)]
    assert [msgspec.json.decode(step, type=messages.SentStep).plain_output for step in sent] == [()]


@pytest.mark.parametrize("asked", ["list_runs", "steps", "some_steps", "open_steps"])
async def test_many_values_come_one_by_one(
    engine: Engine, client: Client, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So all of them may be longer than a message, and others on both loops have their turns meanwhile."""
    text = "x" * 100_000
    await engine.run(copying, text, run_id="r")
    for _ in range(20):
        await engine.start(keeping, text)
    ids = [run.id for run in (await engine.list_runs()).runs]
    while len(await engine.open_steps(ids)) < 20:
        await asyncio.sleep(0)
    turns, sizes, seen, see = 0, list[int](), list[int](), seeing._value

    class Watched(Turns):
        async def after(self, size: int) -> None:
            sizes.append(size)
            await super().after(size)

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def watched(*args: Any) -> Any:
        seen.append(turns)
        return see(*args)

    expected: Any = {
        "list_runs": await engine.list_runs(limit=20),
        "steps": await engine.steps("r"),
        "some_steps": await engine.some_steps("r", first=1, limit=18),
        "open_steps": await engine.open_steps(ids),
    }[asked]
    monkeypatch.setattr(messages, "LONGEST", 1_000_000)
    monkeypatch.setattr(answering, "Turns", Watched)
    monkeypatch.setattr(seeing, "_value", watched)
    counting = asyncio.ensure_future(count())
    match asked:
        case "list_runs":
            page = await client.list_runs(limit=20)
            assert [(run.id, run.input) for run in page.runs] == [(run.id, run.input) for run in expected.runs]
            assert page.next_cursor == expected.next_cursor
        case "steps":
            assert await client.steps("r") == expected
        case "some_steps":
            assert await client.some_steps("r", first=1, limit=18) == expected
        case _:
            assert await client.open_steps(ids) == expected
    counting.cancel()
    assert len(sizes) >= 18
    assert asked == "open_steps" or (sum(sizes) > 18 * 100_000 and len(set(seen)) >= 5)


async def test_starting_twice_is_one_run(client: Client) -> None:
    """With the same id, from any process."""
    first = await client.start(doubled, Order(1), run_id="r")
    again = await client.start(doubled, Order(1), run_id="r")

    assert first.id == again.id == "r"
    assert len((await client.list_runs()).runs) == 1


async def test_errors_are_the_engine_s(engine: Engine, client: Client) -> None:
    """Class and content."""
    await engine.start(failing, run_id="f")
    with pytest.raises(RunFailed) as here:
        await (await engine.handle("f")).result()
    with pytest.raises(RunFailed) as there:
        await (await client.handle("f")).result()
    assert (str(there.value), there.value.error) == (str(here.value), here.value.error)
    with pytest.raises(RunNotFound, match="'nobody'"):
        await client.get_run("nobody")
    with pytest.raises(RunStateError, match="failed"):
        await client.cancel("f", "late")
    with pytest.raises(WorkflowNotFound, match="nothing"):
        await client.start("nothing")
    with pytest.raises(PayloadError, match=r"doubled.*number"):
        await client.start("doubled", {"number": "x"})
    with pytest.raises(ValueError, match="limit=0"):
        await client.list_runs(limit=0)
    with pytest.raises(TypeError):
        await client.cancel("f", 3)  # type: ignore[arg-type]


async def test_a_text_that_cannot_be_sent_is_said(client: Client) -> None:
    """As bytes of a command line that are no UTF-8; nothing of it comes to the engine."""
    for call in (
        client.start("\udcff"), client.get_run("\udcff"), client.cancel("r", "\udcff"), client.list_runs(text="\udcff"),
        client.steps("\udcff"), client.signal("r", "\udcff"),
    ):  # fmt: skip
        with pytest.raises(BadValue, match=r"'\\udcff' cannot be sent"):
            await call
    assert (await client.list_runs()).runs == ()


async def test_after_a_call_that_makes_no_sense_the_next_is_carried_out(client: Client) -> None:
    """It was said that the engine had gone away, and that it may be done or not: which is no use to anybody."""
    handle = await client.start(waiting, run_id="r")
    wrong: Any = 5
    for _ in range(3):
        with pytest.raises(TypeError, match="run_id"):
            await client.get_run(wrong)
        with pytest.raises(RunNotFound):
            await client.signal("nobody", "go")
    await client.signal("r", "go", 1)
    assert await handle.result() == 1


async def test_a_call_that_is_too_long_is_not_sent(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine would close the connection in the midst of it: a start was sent again and again, for ever."""
    monkeypatch.setattr(messages, "LONGEST_CALL", 1_000)
    for call in (client.start("waiting", "x" * 1_000, run_id="r"), client.signal("r", "go", "x" * 1_000)):
        with pytest.raises(PayloadError, match=r"a call of 1,\d\d\d bytes is more than 1,000"):
            await call
    with pytest.raises(RunNotFound):
        await client.signal("r", "go", "x" * 500)


async def test_what_cannot_be_sent_is_a_wrong_argument(client: Client) -> None:
    """The error says which call, as one of the engine's says what is wrong."""
    wrong: Any = object()
    with pytest.raises(BadType, match="get_run: Encoding objects of type object is unsupported"):
        await client.get_run(wrong)
    for call in (client.start("waiting", tags="a=b"), client.list_runs(tags="a=b")):  # type: ignore[arg-type]
        with pytest.raises(BadType, match="tags='a=b': use a dict"):
            await call


async def test_runs_are_steered(client: Client) -> None:
    """Signal, decision, cancel, resume, retry, fork, delete, prune."""
    one = await client.start(waiting)
    await one.signal("go", Order(3))
    assert await one.result() == Order(3)
    two = await client.start(asking)
    while not (await client.steps(two.id)):
        await asyncio.sleep(0)
    with pytest.raises(PayloadError, match="number"):
        await two.approve("ok", {"number": "x"})
    await two.approve("ok", Order(5), decided_by="ada")
    assert await two.result() == 5
    three = await client.start(waiting)
    await three.cancel("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await three.result()
    four = await client.start(stopped)
    while await four.status() != "suspended":
        await asyncio.sleep(0)
    await client.resume(four.id)
    assert await four.result() == "open"
    five = await client.start(failing)
    with pytest.raises(RunFailed):
        await five.result()
    await client.retry(five.id)
    with pytest.raises(RunFailed):
        await five.result()
    assert [attempt.attempt for attempt in await client.history(five.id)] == [1, 2]
    six = await client.fork(one.id, at="go", new_run_id="six")
    await six.signal("go", "other")
    assert await six.result() == "other"
    await client.delete_run("six")
    with pytest.raises(RunNotFound):
        await six.status()
    told: list[int] = []
    assert await client.prune(older_than=0, progress=told.append) == 5
    assert told[-1] == 5


async def test_events_and_chunks_come_as_they_happen(engine: Engine, client: Client) -> None:
    """Of one run, and of all."""
    everything = client.events()
    first = asyncio.ensure_future(anext(everything))
    while not engine._parts.residents.events.listening:  # type: ignore[union-attr]
        await asyncio.sleep(0)
    handle = await client.start(telling, run_id="r")
    kinds = [(event.kind, event.step_name) async for event in handle.events()]

    assert kinds == [(event.kind, event.step_name) async for event in engine.run_events("r")]
    told = await client.some_events("r", limit=2)
    assert told == await engine.some_events("r", limit=2)
    assert (await client.some_events("r", after=told[-1].seq))[0].kind == kinds[2][0]
    for limit in (0, 501):
        with pytest.raises(ValueError, match=f"limit={limit}"):
            await client.some_events("r", limit=limit)
    assert (await first).kind == "run_started"
    assert [chunk async for chunk in handle.stream()] == [chunk async for chunk in engine.stream("r")]
    assert [chunk.value async for chunk in handle.stream(after=0)] == [Order(1), Order(2)]
    await everything.aclose()  # type: ignore[attr-defined]


async def test_open_steps_say_what_runs_wait_for(engine: Engine, client: Client) -> None:
    """Of runs in memory and in the file; those that wait for nothing, and ids that there are not, are left out."""
    await client.start(waiting, run_id="waits")
    await client.run(doubled, Order(1), run_id="done")
    while not (found := await client.open_steps(["waits", "done", "nothing"])):
        pass
    assert [(step.name, step.kind) for step in found["waits"]] == [("go", "signal")]
    assert list(found) == ["waits"]
    assert await engine.open_steps(["waits", "done", "nothing"]) == found


async def test_a_client_knows_what_the_engine_can_start(db: Path, engine: Engine) -> None:
    """With JSON Schema of inputs and outputs, whatever the client's own `Pikku` has."""
    async with Pikku().connect(db) as stranger:
        found = {one.name: one for one in await stranger.workflows()}

    assert msgspec.json.encode(list(found.values())) == msgspec.json.encode(await engine.workflows())
    assert list(found) == sorted([one.name for one in globals().values() if isinstance(one, WorkflowFunction)])
    assert found["waiting"].input is None
    assert found["doubled"].description == "A value of a class in, one out."
    assert "Order" in str(found["doubled"].input)
    assert "Order" in str(found["doubled"].output)


async def test_a_copy_of_an_input_is_told_from_one_that_has_lost_something(db: Path, engine: Engine) -> None:
    """By what a start would record; whatever the client's own `Pikku` has."""
    await engine.start(doubled, Order(1, (2, 3)), run_id="r")
    async with Pikku().connect(db) as stranger:
        for one in (engine, stranger):
            assert await one.has_input("r", {"number": 1, "parts": [2, 3]})
            assert not await one.has_input("r", {"number": 1, "parts": [2]})
            assert not await one.has_input("r", {"number": "one"})
            assert not await one.has_input("r", None)
            with pytest.raises(RunNotFound):
                await one.has_input("nobody", {})


async def test_result_takes_a_timeout(client: Client) -> None:
    """The run goes on."""
    handle = await client.start(waiting)
    with pytest.raises(TimeoutError, match="it goes on"):
        await handle.result(timeout="1ms")
    assert await handle.status() == "running"


async def test_a_call_that_is_cancelled_is_taken_back(engine: Engine, client: Client) -> None:
    """The engine does not wait for it any more, and the next call has another connection."""
    handle = await client.start(waiting)
    waiters = engine._parts.residents._waiting  # type: ignore[union-attr]
    call = asyncio.ensure_future(handle.result())
    while not waiters:
        await asyncio.sleep(0)
    call.cancel()
    while waiters:
        await asyncio.sleep(0)
    await handle.signal("go", 1)

    assert await handle.result() == 1


async def test_who_waits_is_told_when_the_engine_is_left(db: Path) -> None:
    """At once; and a result is waited for until the next engine, or until none has come in time."""
    async with pikku.open(db, shutdown_grace=0) as engine:
        await engine.start(waiting, run_id="r")
        client = pikku.connect(db, wait="200ms")
        await client.__aenter__()
        handle = await client.handle("r")
        result = asyncio.ensure_future(handle.result())
        while not engine._parts.residents._waiting:  # type: ignore[union-attr]
            await asyncio.sleep(0)
    with pytest.raises(EngineClosed, match=r"no engine has .*app\.db open"):
        await result
    with pytest.raises(EngineClosed, match="no engine"):
        await handle.signal("go")
    async with pikku.open(db, shutdown_grace=0):
        await handle.signal("go", 7)
        assert await handle.result() == 7
    await client.__aexit__(None, None, None)
    with pytest.raises(EngineClosed, match="closed"):
        await client.counts()


LIFE = """
import asyncio, sys
from tests.control.test_client import pikku

async def main():
    async with pikku.open(sys.argv[1]):
        print("open", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


async def life(db: Path, program: str = LIFE, stdin: int | None = None) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", program, str(db)], stdout=subprocess.PIPE, stdin=stdin)
    assert process.stdout is not None
    with process.stdout as said:
        assert await asyncio.to_thread(said.readline) == b"open\n"
    return process


async def test_a_result_is_waited_for_from_one_engine_to_the_next(db: Path) -> None:
    """The process of the first is killed; a start that it had not answered is asked again."""
    first = await life(db)
    async with pikku.connect(db, wait="30s") as client:
        handle = await client.start(waiting, run_id="r")
        events, result = handle.events(), asyncio.ensure_future(handle.result())
        seen = [(await anext(events)).kind for _ in range(2)]
        await asyncio.gather(*(client.counts() for _ in range(4)))  # so that there are connections to be sent on
        first.send_signal(signal.SIGSTOP)
        starting = asyncio.ensure_future(client.start(doubled, Order(2), run_id="s"))
        signalling = asyncio.ensure_future(client.signal("r", "go", "lost?"))
        for _ in range(20):
            await asyncio.sleep(0.001)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with pytest.raises(EngineClosed, match=r"signal of run 'r': it may be on disk, or not"):
            await signalling
        second = await life(db)
        assert await (await starting).result() == Order(4, (1, 2))
        await handle.signal("go", "again")
        assert await result in ("again", "lost?")
        seen += [event.kind async for event in events]
        second.kill()
        second.wait()

    assert seen[0] == "run_started"
    assert seen.count("run_started") == 1
    assert seen[-1] == "run_ended"


@pytest.mark.parametrize("seen", [0, 1])
async def test_a_gap_in_the_events_of_all_runs_is_told(db: Path, seen: int) -> None:
    """Whether anything came before it or not: the next engine does not know what there was."""
    async with asyncio.timeout(20), AsyncExitStack() as stack:
        async with pikku.open(db, shutdown_grace=0) as engine:
            events = (await stack.enter_async_context(pikku.connect(db, wait="20s"))).events()
            coming = asyncio.ensure_future(anext(events))
            while not engine._parts.residents.events.listening:  # type: ignore[union-attr]
                await asyncio.sleep(0)
            if seen:
                await engine.start(waiting)
                assert (await coming).kind == "run_started"
                coming = asyncio.ensure_future(anext(events))
        async with pikku.open(db, shutdown_grace=0):
            with pytest.raises(EventsLost, match="look at list_runs, and listen"):
                while True:
                    await coming
                    coming = asyncio.ensure_future(anext(events))


async def test_a_holder_who_does_not_answer_is_named(db: Path) -> None:
    """It has no control socket, or is stopped."""
    async with pikku.open(db, control_socket=False):
        with pytest.raises(JournalLocked, match=rf"held by process {os.getpid()} .*control_socket=False"):
            async with pikku.connect(db, wait="10ms"):
                pass


async def test_a_client_waits_no_longer_than_it_was_told_to(db: Path) -> None:
    """Not for an engine that is stopped either: its socket takes connections, and nobody says hello."""
    with places.bound_socket(str(db)) as listening:
        listening.listen()
        async with asyncio.timeout(2):
            with pytest.raises(EngineClosed, match=r"waited 0.01 s"):
                async with pikku.connect(db, wait="10ms"):
                    pass


async def test_nobody_is_there(db: Path) -> None:
    """Nothing is made by looking."""
    with pytest.raises(EngineClosed, match=r"no engine has .*app.db open \(waited 0.01 s\)"):
        async with pikku.connect(db, wait="10ms"):
            pass
    assert list(db.parent.iterdir()) == []


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_what_is_no_path_is_refused_at_once(path: str) -> None:
    with pytest.raises(ValueError, match="not a usable path"):
        pikku.connect(path)


async def test_a_client_waits_for_an_engine(db: Path) -> None:
    """As long as it was told to."""
    client = pikku.connect(db, wait="30s")
    entering = asyncio.ensure_future(client.__aenter__())
    await asyncio.sleep(0.001)
    async with pikku.open(db, shutdown_grace=0):
        assert (await entering) is client
        assert await client.counts() == {}
    await client.__aexit__(None, None, None)


def test_a_client_has_the_engine_s_public_methods() -> None:
    """With the same signatures."""
    import inspect

    names = {name for name in vars(Engine) if not name.startswith("_")}
    assert names == {name for name in vars(Client) if not name.startswith("_")}
    for name in names - {"run"}:
        assert inspect.signature(getattr(Engine, name)) == inspect.signature(getattr(Client, name)), name


def test_what_was_not_answered_is_named_in_the_words_of_its_caller() -> None:
    """A run, where it is of one: it may be on disk."""
    of_a_run = str(unknown(messages.DeleteRun("r")))
    of_many = str(unknown(messages.Prune(0)))

    assert "had answered delete_run of run 'r': it may be on disk, or not" in of_a_run
    assert "had answered prune: some of it may be done; call it again" in of_many
