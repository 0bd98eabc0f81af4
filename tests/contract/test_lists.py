"""Lists, counts, tags and later starts, as users ask for them."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from pikkupy import DurationError, Engine, Pikku, PikkuError, RunFailed, Workflow
from pikkupy.engine.looking import Look
from pikkupy.testing import VirtualClock
from tests.contract.waiting import BOTH


class Declined(Exception):
    pass


def application() -> Pikku:
    """Three workflows: one returns its input, one fails with it, one sleeps a day."""
    pikku = Pikku()

    @pikku.workflow
    async def echo(workflow: Workflow, data: Any = None) -> Any:
        return data

    @pikku.workflow
    async def fail(workflow: Workflow, data: str) -> None:
        raise Declined(data)

    @pikku.workflow
    async def sleeper(workflow: Workflow) -> None:
        await workflow.sleep("nap", "1d")

    return pikku


async def ids(engine: Engine, **filters: Any) -> list[str]:
    """The ids on the one page that there is."""
    page = await engine.list_runs(**filters)
    assert page.next_cursor is None
    return [run.id for run in page.runs]


async def fails(engine: Engine, message: str, run_id: str) -> None:
    with pytest.raises(RunFailed):
        await engine.run("fail", message, run_id=run_id)


# Lists


async def test_a_list_of_several_statuses() -> None:
    """One status, or any iterable of them; each run once, newest first."""
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        await engine.run("echo", run_id="completed")
        await fails(engine, "no", "failed")
        await engine.start("sleeper", run_id="running")
        await engine.start("sleeper", run_id="cancelled")
        await engine.cancel("cancelled", "enough")

        assert await ids(engine, status=["failed", "completed", "failed"]) == ["failed", "completed"]
        assert await ids(engine, status=(status for status in ("cancelled", "running"))) == ["cancelled", "running"]
        assert await ids(engine, status="running") == ["running"]
        assert await ids(engine, status={"running", "suspended"}, workflow="sleeper") == ["running"]
        assert await ids(engine, status={"running", "suspended"}, workflow="echo") == []


async def test_a_list_by_the_beginning_of_the_id() -> None:
    """Plain text: nothing in it is a wild card."""
    async with application().open(":memory:") as engine:
        for run_id in ("order:1", "order:2", "order%", "orders", "Order:3", "ord", "örder"):
            await engine.run("echo", run_id=run_id)

        assert await ids(engine, id_prefix="order:") == ["order:2", "order:1"]
        assert await ids(engine, id_prefix="order") == ["orders", "order%", "order:2", "order:1"]
        assert await ids(engine, id_prefix="order%") == ["order%"]
        assert await ids(engine, id_prefix="ö") == ["örder"]
        assert await ids(engine, id_prefix="x") == []


async def test_a_list_by_text_of_the_error() -> None:
    """In its type or its message, not in its traceback; upper and lower case differ."""
    async with application().open(":memory:") as engine:
        await fails(engine, 'card "4711" declined', "a")
        await fails(engine, "out of\nmoney", "b")
        await engine.run("echo", "card declined", run_id="c")

        assert await ids(engine, error="Declined") == ["b", "a"]
        assert await ids(engine, error='"4711"') == ["a"]
        assert await ids(engine, error="of\nmon") == ["b"]
        assert await ids(engine, error="declined") == ["a"]
        assert await ids(engine, error="await") == []
        assert await ids(engine, error="%") == []
        assert await ids(engine, error="declined", status="completed") == []
        assert await ids(engine, error="Declined", workflow="fail", status=["failed", "running"]) == ["b", "a"]


async def test_a_list_by_what_a_person_would_look_for() -> None:
    """The beginning of an id, or a part of a workflow's name or of the error; each run once, the newest first."""
    async with application().open(":memory:") as engine:
        await engine.run("echo", run_id="fail-1")
        await fails(engine, "no echo", "echo-2")
        await fails(engine, "out of money", "3")
        await engine.run("echo", run_id="4")

        assert await ids(engine, text="echo") == ["4", "echo-2", "fail-1"]
        assert await ids(engine, text="fail") == ["3", "echo-2", "fail-1"]
        assert await ids(engine, text="money") == ["3"]
        assert await ids(engine, text="cho") == ["4", "echo-2", "fail-1"]
        assert await ids(engine, text="cho", workflow="fail") == ["echo-2"]
        assert await ids(engine, text="cho-") == await ids(engine, text="Cho") == []
        assert await ids(engine, text="cho", status="completed") == ["4", "fail-1"]
        assert await ids(engine, text="echo", workflow="echo") == ["4", "fail-1"]
        assert await ids(engine, text="echo", status="failed", error="no") == ["echo-2"]
        assert await ids(engine, text="%") == []
        first = await engine.list_runs(text="echo", limit=2)
        assert [run.id for run in first.runs] == ["4", "echo-2"]
        assert await ids(engine, text="echo", cursor=first.next_cursor) == ["fail-1"]


async def test_a_list_of_a_span_of_time() -> None:
    """After is inclusive, before is exclusive, in any time zone."""
    clock = VirtualClock()
    begun = clock.now()
    async with application().open(":memory:", clock=clock) as engine:
        for run_id in ("a", "b", "c"):
            await engine.run("echo", run_id=run_id)
            await clock.advance("1h")
        second = begun + timedelta(hours=1)

        assert await ids(engine, created_after=second) == ["c", "b"]
        assert await ids(engine, created_before=second) == ["a"]
        assert await ids(engine, created_after=begun, created_before=second) == ["a"]
        elsewhere = second.astimezone(timezone(timedelta(hours=5)))
        assert await ids(engine, created_after=elsewhere, workflow="echo") == ["c", "b"]
        assert await ids(engine, created_after=datetime.max.replace(tzinfo=UTC)) == []
        assert await ids(engine, created_before=datetime.min.replace(tzinfo=UTC)) == []


async def test_a_list_by_tags() -> None:
    """All of them have to be there."""
    async with application().open(":memory:") as engine:
        await engine.run("echo", run_id="a", tags={"customer": "7", "region": "eu"})
        await engine.run("echo", run_id="b", tags={"customer": "7", "region": "us"})
        await engine.run("echo", run_id="c", tags={"customer": "8"})
        await engine.run("echo", run_id="d")

        assert await ids(engine, tags={"customer": "7"}) == ["b", "a"]
        assert await ids(engine, tags={"customer": "7", "region": "eu"}) == ["a"]
        assert await ids(engine, tags={"customer": "8", "region": "eu"}) == []
        assert await ids(engine, tags={"7": "customer"}) == []
        assert await ids(engine, tags={}) == ["d", "c", "b", "a"]
        assert await ids(engine, tags={"customer": "7"}, status="completed", id_prefix="b") == ["b"]


async def test_a_list_without_values_is_the_same_but_for_these(db: Path) -> None:
    """In the engine, from another process, and from the file alone; nothing is decoded for it."""
    pikku = Pikku()

    @pikku.workflow
    async def flow(workflow: Workflow, data: list[int]) -> int:
        return sum(data)

    async with pikku.open(db) as engine, pikku.connect(db) as client, Look(db) as look:
        await engine.run(flow, [1, 2], run_id="r")
        await engine.run(flow, [3], run_id="s")
        for asked in (engine, client, look):
            whole = (await asked.list_runs()).runs
            assert [(run.input, run.output) for run in whole] == [([3], 3), ([1, 2], 3)]
            bare = (await asked.list_runs(values=False)).runs
            assert bare == tuple(structs.replace(run, input=None, output=None) for run in whole)


async def test_filtered_lists_come_in_pages() -> None:
    """Every fitting run once, though others start meanwhile, for every filter and all of them together."""
    clock = VirtualClock()
    filters: dict[str, Any] = {
        "workflow": "fail",
        "status": ["failed", "cancelled"],
        "tags": {"odd": "yes"},
        "id_prefix": "f",
        "error": "money",
        "created_after": clock.now(),
        "created_before": clock.now() + timedelta(days=1),
    }
    async with application().open(":memory:", clock=clock) as engine:

        async def start(number: int) -> None:
            odd = {"odd": "yes"} if number % 2 else None
            run = await engine.start("fail", "no money", run_id=f"f{number}", tags=odd)
            with pytest.raises(RunFailed):
                await run.result()
            await engine.run("echo", run_id=f"e{number}", tags=odd)

        for number in range(12):
            await start(number)
        everything: list[dict[str, Any]] = [{name: value} for name, value in filters.items()]
        for number, chosen in enumerate([*everything, filters], start=100):
            whole = await ids(engine, limit=500, **chosen)
            seen: list[str] = []
            cursor: str | None = None
            while True:
                page = await engine.list_runs(limit=2, cursor=cursor, **chosen)
                seen += [run.id for run in page.runs]
                cursor = page.next_cursor
                if cursor is None:
                    break
                if len(seen) == 2:
                    await start(number)
            assert seen == whole
        assert len(whole) >= 6


NAIVE = datetime(2030, 1, 1)


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("status", "gone", ValueError),
        ("status", ["failed", "gone"], ValueError),
        ("status", [], ValueError),
        ("status", 5, ValueError),
        ("status", [5], ValueError),
        ("tags", ["a"], TypeError),
        ("tags", {"a": 1}, TypeError),
        ("tags", {1: "a"}, TypeError),
        ("tags", {"": "a"}, ValueError),
        ("id_prefix", 5, TypeError),
        ("id_prefix", "", ValueError),
        ("text", 5, TypeError),
        ("text", "", ValueError),
        ("text", "\ud800", ValueError),
        ("id_prefix", "\ud800", ValueError),
        ("error", 5, TypeError),
        ("error", "", ValueError),
        ("error", "a\ud800", ValueError),
        ("created_after", NAIVE, ValueError),
        ("created_before", NAIVE, ValueError),
        ("created_after", "2030-01-01", TypeError),
        ("created_before", 1_900_000_000, TypeError),
        ("created_before", NAIVE.date(), TypeError),
        ("cursor", "x", ValueError),
        ("cursor", "", ValueError),
        ("limit", 0, ValueError),
    ],
)
async def test_a_bad_argument_of_a_list_is_named(argument: str, value: Any, error: type[Exception]) -> None:
    """With its value, as one of pikkupy's errors; the engine goes on."""
    async with application().open(":memory:") as engine:
        with pytest.raises(error, match=argument.removesuffix("s")) as raised:
            await engine.list_runs(**{argument: value})

        assert isinstance(raised.value, PikkuError)
        assert await engine.run("echo", 1) == 1


async def test_a_naive_time_is_told_what_to_do() -> None:
    """It names no moment."""
    async with application().open(":memory:") as engine:
        with pytest.raises(ValueError, match=r"created_after=datetime.*2030.*tzinfo"):
            await engine.list_runs(created_after=NAIVE)


# Counts


async def test_runs_are_counted_by_workflow_and_status() -> None:
    """What there is none of is left out."""
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        assert await engine.counts() == {}
        for number in range(3):
            await engine.run("echo", number)
        await fails(engine, "no", "f")
        for run_id in ("s", "t"):
            await engine.start("sleeper", run_id=run_id)
        await engine.cancel("t", "enough")

        assert await engine.counts() == {
            "echo": {"completed": 3},
            "fail": {"failed": 1},
            "sleeper": {"running": 1, "cancelled": 1},
        }
        await engine.delete_run("f")
        assert "fail" not in await engine.counts()


# Tags


async def test_tags_are_kept(db: Path) -> None:
    """In every life, for `start` and `run`, with a generated id as well; a run without any has an empty dict."""
    pikku = application()
    tags = {"zone": "", "customer": "Zoë 🐍 'x' \"y\"", "a" * 256: "b" * 256}
    async with pikku.open(db) as engine:
        await engine.run("echo", run_id="a", tags=tags)
        await engine.run("echo", tags={"generated": "id"})
        started = await engine.start("echo", tags={"more": "x"})
        await started.result()
        await engine.run("echo", run_id="none")
    async with pikku.open(db) as engine:
        found = [run.tags for run in (await engine.list_runs()).runs]

        assert found == [{}, {"more": "x"}, {"generated": "id"}, tags]
        assert await ids(engine, tags=tags) == ["a"]


async def test_a_second_start_changes_no_tags() -> None:
    """They are not part of what makes two starts the same."""
    async with application().open(":memory:") as engine:
        first = await engine.start("echo", 1, run_id="a", tags={"a": "1"})
        again = await engine.start("echo", 1, run_id="a", tags={"b": "2"}, delay="1h")

        assert (first.id, again.id) == ("a", "a")
        assert (await engine.get_run("a")).tags == {"a": "1"}
        assert await ids(engine, tags={"b": "2"}) == []


async def test_the_tags_of_a_deleted_run_are_gone() -> None:
    """Also when its id is used again."""
    async with application().open(":memory:") as engine:
        await engine.run("echo", 1, run_id="a", tags={"a": "1"})
        await engine.delete_run("a")
        await engine.run("echo", 2, run_id="a")

        assert await ids(engine, tags={"a": "1"}) == []


@pytest.mark.parametrize(
    ("tags", "error"),
    [
        ({f"t{number}": "x" for number in range(33)}, ValueError),
        ({"": "x"}, ValueError),
        ({"a" * 257: "x"}, ValueError),
        ({"a": "x" * 257}, ValueError),
        ({"a\n": "x"}, ValueError),
        ({"a": "\x00"}, ValueError),
        ({"a": "\ud800"}, ValueError),
        ({"a": 7}, TypeError),
        ({"a": None}, TypeError),
        ({7: "a"}, TypeError),
        ("a=b", TypeError),
        ([("a", "b")], TypeError),
    ],
)
async def test_bad_tags_start_nothing(tags: Any, error: type[Exception]) -> None:
    """They are refused before anything happens."""
    async with application().open(":memory:") as engine:
        for call in (engine.start, engine.run):
            for run_id in (None, "r"):
                with pytest.raises(error, match="tag") as raised:
                    await call("echo", 1, run_id=run_id, tags=tags)
                assert isinstance(raised.value, PikkuError)

        assert (await engine.list_runs()).runs == ()


async def test_thirty_two_tags_are_allowed() -> None:
    """The limit is inclusive."""
    tags = {f"t{number}": str(number) for number in range(32)}
    async with application().open(":memory:") as engine:
        await engine.run("echo", run_id="a", tags=tags)

        assert (await engine.get_run("a")).tags == tags
        assert await ids(engine, tags=tags) == ["a"]


# Later starts


async def test_run_takes_the_same_times_as_start() -> None:
    """C118: and waits for the end, with an id of its own or without."""
    clock = VirtualClock()
    async with application().open(":memory:", clock=clock) as engine:
        later = asyncio.gather(
            engine.run("echo", 1, delay="1h"), engine.run("echo", 2, run_id="at", at=clock.now() + timedelta(hours=1))
        )
        await clock.advance("59min")
        assert not later.done()
        await clock.advance("1min")

        assert await later == [1, 2]


async def test_a_later_start_waits_on_disk(db: Path) -> None:
    """`at` as well as `delay`: it is on disk when `start` returns, and nothing of it runs before it is due."""
    clock = VirtualClock()
    due = clock.now() + timedelta(hours=2)
    async with application().open(db, clock=clock) as engine:
        run = await engine.start("echo", 1, run_id="at", at=due.astimezone(timezone(timedelta(hours=-3))))
        await engine.start("echo", 1, run_id="delay", delay="2h")
        await clock.advance("1h")
        found = (await engine.list_runs()).runs

        assert [(run.id, run.status, run.starts_at) for run in found] == [
            ("delay", "running", due),
            ("at", "running", due),
        ]
        assert {run.created_at for run in found} == {due - timedelta(hours=2)}
        with pytest.raises(TimeoutError):
            await run.result(timeout=0)
        await engine.cancel("at", "changed our mind")
        assert await run.status() == "cancelled"


async def test_a_later_start_is_not_logged_as_begun(caplog: pytest.LogCaptureFixture) -> None:
    """`run_started` says that a run begins."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        await engine.start("echo", 1, run_id="later", delay="2h")

    assert not [line for line in caplog.messages if line.startswith("run_started")]


async def test_a_run_that_has_not_begun_is_left_in_the_file_by_signals() -> None:
    """However many come; it takes them in order once it begins, and one that is cancelled leaves nothing behind."""
    pikku, clock = Pikku(), VirtualClock()

    @pikku.workflow
    async def three(workflow: Workflow) -> list[int]:
        return [await workflow.wait_for_signal("s", int) for _ in range(3)]

    async with pikku.open(":memory:", clock=clock) as engine:
        run = await engine.start(three, run_id="r", delay="30d")
        gone = await engine.start(three, run_id="gone", delay="20d")
        await gone.signal("s", 9)
        assert engine._parts is not None
        host = engine._parts.host
        before = len(host.timers._heap)
        for number in range(100):
            await run.signal("s", number)
        assert len(host.timers._heap) == before
        starts_at = (await run.status(), (await host.journal.run("r")).wakes_at)  # type: ignore[union-attr]
        assert starts_at == ("running", host.now_us() + 30 * 86_400_000_000)
        await gone.cancel("no")
        await engine.delete_run("gone")

        await clock.advance("30d")
        assert await run.result() == [0, 1, 2]
        assert len(host.timers._heap) <= before


async def test_a_past_start_begins_at_once() -> None:
    """Also the present and no delay; `starts_at` is when it began."""
    clock = VirtualClock()
    now = clock.now()
    async with application().open(":memory:", clock=clock) as engine:
        for number, when in enumerate(({"at": now - timedelta(days=1)}, {"at": now}, {"delay": 0}, {})):
            run = await engine.start("echo", number, run_id=str(number), **when)  # type: ignore[arg-type]

            assert await run.result() == number
            assert (await engine.get_run(run.id)).starts_at == now


@pytest.mark.parametrize(
    ("when", "error", "named"),
    [
        ({"at": NAIVE}, DurationError, "at="),
        ({"at": "2030-01-01"}, DurationError, "at="),
        ({"at": 5}, DurationError, "at="),
        ({"at": datetime(2131, 1, 1, tzinfo=UTC)}, DurationError, "100 years"),
        ({"delay": "soon"}, DurationError, "delay='soon'"),
        ({"delay": -1}, DurationError, "delay=-1"),
        ({"delay": True}, DurationError, "delay=True"),
        ({"delay": timedelta(days=36_526)}, DurationError, "100 years"),
        ({"at": datetime(2031, 1, 1, tzinfo=UTC), "delay": "1h"}, TypeError, "one of the two"),
    ],
)
async def test_a_bad_time_starts_nothing(when: Any, error: type[Exception], named: str) -> None:
    """It is refused before anything happens."""
    async with application().open(":memory:", clock=VirtualClock()) as engine:
        with pytest.raises(error, match=named):
            await engine.start("echo", 1, run_id="r", **when)

        assert (await engine.list_runs()).runs == ()


@pytest.mark.parametrize("settings", BOTH)
async def test_a_short_delay_is_kept_whenever_the_file_was_looked_at_last(settings: dict[str, Any], db: Path) -> None:
    """Runs in the file are looked for about once a second; one that is due before the next look is not late."""
    clock = VirtualClock(autojump=True)
    pikku = application()
    async with pikku.open(db, clock=clock, **settings) as engine:
        for number in range(3):  # the first look is that of the opening, the next ones are of the runs before
            due = clock.now() + timedelta(milliseconds=100)
            run = await engine.start("echo", number, run_id=f"{number}", delay="100ms")
            await run.result()

            assert clock.now() == due
