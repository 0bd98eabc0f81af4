"""Values: at every door, the same in type and content on the first execution and on every replay."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import enum
import math
import uuid
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from pikkupy import PayloadError, Pikku, RunFailed, Services, StepFailed, Workflow
from pikkupy.testing import VirtualClock


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


class Order(msgspec.Struct):
    id: str
    amount: int = 0


class Point(NamedTuple):
    x: int
    y: int


class Text(str):
    pass


@dataclasses.dataclass
class Line:
    order: Order
    tags: tuple[str, ...] = ()


VALUES: list[Any] = [
    None,
    0,
    False,
    "",
    [],
    {},
    (),
    set(),
    b"",
    True,
    -1,
    2**100,
    0.0,
    -0.0,
    1e308,
    math.inf,
    "\x00 nul",
    "🐍",
    (1, (2, [3])),
    {"a": (1, 2), "b": {3, 4}},
    [Order("a", 1), {"k": Order("b")}],
    {"k": [Line(Order("x"), ("t",))]},
    frozenset({1}),
    b"\x00\xff",
    bytearray(b"x"),
    Decimal("1.10"),
    uuid.UUID(int=5),
    datetime(2030, 1, 1, 2, 3, 4, 5, UTC),
    datetime(2030, 1, 1),
    date(2030, 1, 1),
    time(1, 2),
    timedelta(days=1, microseconds=1),
    Colour.RED,
    Level.LOW,
    {1: "int key", 2: "other"},
    {(1, 2): "tuple key"},
    {"$type": "looks like a tag"},
    {"__pikku__": 1, "": 2},
    [None, [None]],
]


def same(one: Any, other: Any) -> bool:
    """True if both are equal in type and content, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return same(list(one.items()), list(other.items()))
    return bool(one == other)


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_a_value_is_kept_or_refused_at_every_door(value: Any, db: Path) -> None:
    """C74, C75, C76, C77: input, output and a step's value, live and on replay; if it is refused, then everywhere."""
    pikku = Pikku()
    seen: list[Any] = []

    @pikku.function
    async def pass_on(services: Services, data: Any) -> Any:
        return data

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        inline = await workflow.do("inline", lambda: value)
        passed = await workflow.do("function", pass_on, inline)
        await workflow.sleep("nap", "1d")
        seen.append([data, inline, passed])
        return passed

    clock = VirtualClock()
    async with pikku.open(db, clock=clock) as engine:
        try:
            await engine.start(flow, value, run_id="r")
        except PayloadError:
            assert isinstance(value, bytearray)
            return
        await clock.advance(0)
    for advance in ("1h", "1d"):
        async with pikku.open(db, clock=clock) as engine:
            await clock.advance(advance)
    async with pikku.open(db, clock=clock) as engine:
        run = await engine.get_run("r")
        assert run.status == "completed", (run.reason, run.error)
        outputs = [step.output for step in await engine.steps("r")][:2]

    assert len(seen) == 1
    for found in (*seen[0], run.input, run.output, *outputs):
        assert same(found, value), found


async def test_nan_is_kept() -> None:
    """C76: in depth, too."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        return await workflow.do("nan", lambda: [math.nan, {"x": math.nan}, -math.inf])

    async with pikku.open(":memory:") as engine:
        one, two, three = await engine.run(flow, math.nan)
    assert math.isnan(one)
    assert math.isnan(two["x"])
    assert three == -math.inf


@pytest.mark.parametrize(
    "value",
    [
        object(),
        lambda: 1,
        "lone \ud800",
        {"k": "\udfff"},
        Text("x"),
        collections.OrderedDict(a=1),
        collections.defaultdict(int),
        collections.Counter("a"),
        range(3),
        1j,
        memoryview(b"x"),
        (i for i in ()),
        iter([]),
        Order,
        msgspec,
        {"a": {"b": [1, object()]}},
        msgspec.defstruct("Made", [("a", int)])(1),
        open,
    ],
    ids=lambda value: type(value).__name__,
)
async def test_what_cannot_be_kept_is_refused_or_kept(value: Any, db: Path) -> None:
    """C77, C78, C85, C87: PayloadError with the path as input, from a step and as output; never something else."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any = None) -> str:
        try:
            kept = await workflow.do("step", lambda: value, retries=3)
        except StepFailed as failed:
            assert failed.is_a(PayloadError)
            assert "$" in failed.message
            assert failed.attempts == 1
            return "refused"
        assert same(kept, value)
        return "kept"

    @pikku.workflow
    async def giving(workflow: Workflow) -> Any:
        return value

    async with pikku.open(db) as engine:
        answer = await asyncio.wait_for(engine.run(flow, None), 5)
        if answer == "refused":
            with pytest.raises(PayloadError, match=r"\$"):
                await engine.start("flow", value, run_id="r")
            with pytest.raises(RunFailed) as failed:
                await asyncio.wait_for(engine.run(giving), 5)
            assert failed.value.error.type == "pikkupy.errors.PayloadError"
            assert "$" in failed.value.error.message
            assert len((await engine.list_runs()).runs) == 2
        else:
            assert same(await engine.run(giving), value)


async def test_a_value_that_contains_itself_is_refused() -> None:
    """C77: no endless recursion; nor for nesting beyond the limit."""
    circle: list[Any] = []
    circle.append(circle)
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        return data

    async with pikku.open(":memory:") as engine:
        for value in (circle, deep):
            with pytest.raises(PayloadError):
                await engine.start(flow, value)
        assert await engine.run(flow, 1) == 1
    while isinstance(deep, list):
        deep = deep.pop()


@pytest.mark.parametrize(
    ("annotation", "value", "kept"),
    [
        (int, 5, 5),
        (int, "5", PayloadError),
        (int, True, PayloadError),
        (int, 5.0, PayloadError),
        (float, 5, 5.0),
        (str, 5, PayloadError),
        (tuple[int, int], [1, 2], (1, 2)),
        (list[int], (1, 2), [1, 2]),
        (Order, {"id": "a"}, Order("a")),
        (Order, {"amount": 1}, PayloadError),
        (None, 5, PayloadError),
        (None, None, None),
        (Order | None, None, None),
        (Order | None, {"id": "a"}, Order("a")),
        (Colour, "red", Colour.RED),
        (Colour, "blue", PayloadError),
        (dict[str, Order], {"k": {"id": "a"}}, {"k": Order("a")}),
        (dict, {"a": (1,)}, {"a": (1,)}),
        (list, [(1,)], [(1,)]),
        (Any, (1,), (1,)),
    ],
)
async def test_an_annotation_converts_strictly_or_refuses(annotation: Any, value: Any, kept: Any) -> None:
    """C80, C81, C82, C84: msgspec's strict conversion, for input, data, function, inline and output alike."""
    pikku = Pikku()
    seen: list[Any] = []

    async def function(services: Services, data: Any) -> Any:
        seen.append(data)
        return value

    def inline() -> Any:
        return value

    async def flow(workflow: Workflow, data: Any) -> Any:
        for target in (pikku.find_function("function"), inline):
            given = (value,) if target is not inline else ()
            try:
                seen.append(await workflow.do("step", target, *given))
            except StepFailed as failed:
                assert failed.is_a(PayloadError)
                seen.append(PayloadError)
        return value

    async def only_input(workflow: Workflow, data: Any) -> None:
        seen.append(data)

    for fn in (function, inline):
        fn.__annotations__["return"] = annotation
    function.__annotations__["data"] = annotation
    only_input.__annotations__["data"] = annotation
    flow.__annotations__["return"] = annotation
    pikku.function(function)
    pikku.workflow(flow)
    pikku.workflow(only_input)
    async with pikku.open(":memory:") as engine:
        try:
            seen.append(await engine.run("flow", None))
        except RunFailed as failed:
            assert failed.error.type == "pikkupy.errors.PayloadError"
            seen.append(PayloadError)
        try:
            await engine.run("only_input", value)
        except PayloadError:
            seen.append(PayloadError)

    assert len(seen) == (4 if kept is PayloadError else 5)
    for found in seen:
        assert found is kept or same(found, kept), seen


async def test_result_type_goes_before_the_annotation() -> None:
    """C82: and one that is no type is refused, without harm to the engine."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        def body() -> dict[str, str]:
            return {"id": "a"}

        found = [await workflow.do("struct", body, result_type=Order)]
        for bad in (5, "Order", object(), [Order]):
            with pytest.raises((StepFailed, TypeError, PayloadError)):
                await workflow.do("bad", body, result_type=bad)  # type: ignore[call-overload]
        return found

    async with pikku.open(":memory:") as engine:
        assert await asyncio.wait_for(engine.run(flow, 1), 5) == [Order("a")]


async def test_the_size_limit_holds_at_every_door(caplog: pytest.LogCaptureFixture) -> None:
    """C88: `max_payload` bytes of one encoded value; a warning from `warn_payload`."""
    pikku = Pikku()
    big = "x" * 1_001

    @pikku.function
    async def take(services: Services, data: Any) -> None: ...

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        for call in (lambda: workflow.do("in", take, big), lambda: workflow.do("out", lambda: big)):
            with pytest.raises(StepFailed) as failed:
                await call()
            assert failed.value.is_a(PayloadError)
        await workflow.do("fits", lambda: "x" * 500)
        return big

    async with pikku.open(":memory:", max_payload=1_000, warn_payload=400) as engine:
        with pytest.raises(PayloadError):
            await engine.start(flow, big)
        with pytest.raises(RunFailed, match="PayloadError"):
            await engine.run(flow, 1)
    assert "payload_large" in caplog.text


async def test_everybody_gets_a_copy_of_their_own() -> None:
    """C89: function, workflow and caller do not share what they handed over."""
    pikku = Pikku()

    @pikku.function
    async def change(services: Services, data: dict[str, Any]) -> dict[str, Any]:
        data["changed"] = True
        return data

    @pikku.workflow
    async def flow(workflow: Workflow, data: dict[str, Any]) -> dict[str, Any]:
        data["workflow"] = True
        await workflow.do("change", change, data)
        await workflow.do("change", change, data, retries=1)
        return data

    given = {"a": 1}
    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow, given) == {"a": 1, "workflow": True}
    assert given == {"a": 1}


async def test_data_is_what_it_was_when_do_was_called() -> None:
    """C31, C89: `do` takes its place and its data in the call."""
    pikku = Pikku()

    @pikku.function
    async def echo(services: Services, data: list[int]) -> list[int]:
        return data

    @pikku.workflow
    async def flow(workflow: Workflow) -> list[int]:
        data = [1]
        step = workflow.do("echo", echo, data)
        data.append(2)
        return await step

    async with pikku.open(":memory:") as engine:
        assert await engine.run(flow) == [1]


async def test_types_that_are_gone_are_shown_as_plain_values(db: Path) -> None:
    """C86: a run of code that is gone can still be looked at."""
    global Gone

    class Gone(msgspec.Struct):
        id: str

    Gone.__qualname__ = "Gone"
    gone = Gone
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: Any) -> Any:
        return [await workflow.do("step", lambda: gone("a"))]

    async with pikku.open(db) as engine:
        await engine.run(flow, Gone("in"), run_id="r")
    del Gone
    async with Pikku().open(db) as engine:
        run = await engine.get_run("r")
        (step,) = await engine.steps("r")

    assert msgspec.to_builtins(run.input) == run.input
    assert "in" in str(run.input)
    assert "a" in str(step.output)
