"""Events and chunks as they come, from a real server."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from pikkupy import Engine, Pikku, RunFailed, Workflow
from pikkupy.http.application import application
from pikkupy.http.streams import Pulse
from pikkupy.mounting import HttpConfig
from tests.http.shop import TOKEN, caller, pikku, served

Event = dict[str, str]

many = Pikku()


async def some_steps(workflow: Workflow, count: int) -> None:
    for number in range(count):
        await workflow.do(f"step {number}", lambda: None)


@many.workflow
async def stepping(workflow: Workflow, data: int) -> None:
    """Fail after some steps."""

    def fail() -> None:
        raise ValueError("no stock")

    await some_steps(workflow, data)
    await workflow.do("fail", fail)


@many.workflow
async def pausing(workflow: Workflow, data: int) -> Any:
    """Wait after some steps."""
    await some_steps(workflow, data)
    return await workflow.wait_for_signal("go")


@asynccontextmanager
async def listening(url: str, **headers: str) -> AsyncIterator[tuple[httpx2.Response, AsyncIterator[Event]]]:
    """The answer, and what comes in it."""
    known = {"authorization": f"Bearer {TOKEN}", **{name.replace("_", "-"): text for name, text in headers.items()}}
    async with httpx2.AsyncClient(headers=known, timeout=30) as http, http.stream("GET", url) as answer:
        yield answer, events_in(answer)


async def events_in(answer: httpx2.Response) -> AsyncIterator[Event]:
    event: Event = {}
    async for line in answer.aiter_lines():
        if line.startswith(":"):
            continue  # a comment: the connection is alive
        if line:
            name, _, text = line.partition(": ")
            event[name] = text
        elif event:
            yield event
            event = {}


async def all_of(url: str, **headers: str) -> list[Event]:
    async with listening(url, **headers) as (answer, events):
        assert answer.status_code == 200, answer.status_code
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [event async for event in events]


def kinds(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


async def test_no_line_ends_with_two_characters(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that gets the second one later may take it for a line of its own, which ends an event in its middle.

    htmx does: a page of the console showed the end of a list, and nothing else of it.
    """
    monkeypatch.setattr("pikkupy.http.streams.PING_S", 0.01)
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN, console=True)) as url:
        await engine.run("echo", 1, run_id="r")
        for path, last in (("/api/runs/r/events", b"event: end"), ("/console/runs/r/live", b"data: </table>")):
            async with listening(f"{url}{path}") as (answer, _):
                found, pinged = b"", False
                async for part in answer.aiter_raw():
                    found += part
                    pinged = pinged or b": ping" in part
                    if last in found and (pinged or path.startswith("/api")):
                        break
            assert b"\n" in found and b"\r" not in found


async def test_a_run_is_followed_to_its_end(db: Path) -> None:
    """From its beginning, each event with its place; who comes back goes on after the last; at last 204."""
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN)) as url:
        handle = await engine.start("waiting", run_id="a/b")
        place = f"{url}/api/runs/a%2Fb/events"
        async with listening(place) as (_, events):
            first = await anext(events)
            assert first["event"] == "run_started"
            assert json.loads(first["data"])["run_id"] == "a/b"
            await handle.signal("go", 1)
            rest = [event async for event in events]
        assert kinds(rest)[-2:] == ["run_ended", "end"]
        whole = await all_of(place)
        assert [event.get("id") for event in whole] == [event.get("id") for event in [first, *rest]]
        half = await all_of(place, last_event_id=whole[1]["id"])
        assert half == whole[2:]
        assert await all_of(f"{place}?after={whole[1]['id']}") == half
        async with listening(place, last_event_id=whole[-2]["id"]) as (answer, _):
            assert answer.status_code == 204


async def test_everything_is_followed_from_now_on(db: Path) -> None:
    """The engine's own events; what is not known any more is 410."""
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN)) as url:
        async with listening(f"{url}/api/events") as (_, events):
            await engine.run("order", {"number": 1}, run_id="one")
            seen = [await anext(events)]
            while seen[-1]["event"] != "run_ended":
                seen.append(await anext(events))
        assert {json.loads(event["data"])["run_id"] for event in seen} == {"one"}
        async with listening(f"{url}/api/events", last_event_id=seen[0]["id"]) as (_, events):
            again = [await anext(events) for _ in seen[1:]]
        assert again == seen[1:]
        async with listening(f"{url}/api/events", last_event_id="0") as (answer, _):
            assert answer.status_code == 410
            problem = json.loads(await answer.aread())
            assert f"from {seen[0]['id']} to " in problem["detail"]
        async with listening(f"{url}/api/events", last_event_id="x") as (answer, _):
            assert answer.status_code == 422


async def test_where_no_events_are_kept_it_is_said(db: Path) -> None:
    """The last one that was seen may be of another life of the engine."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN)) as http:
        answer = await http.get("/api/events", headers={"last-event-id": "7"})
        assert (answer.status_code, answer.json()["type"]) == (410, "urn:pikkupy:events-lost")
        assert "none are kept so far" in answer.json()["detail"]
        assert not re.search(r"\d{3}", answer.json()["detail"])


async def test_what_steps_emit_is_followed(db: Path) -> None:
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN)) as url:
        handle = await engine.start("talking", 3)
        async with listening(f"{url}/api/runs/{handle.id}/stream?step=talk") as (_, events):
            seen = [await anext(events) for _ in range(3)]
            await handle.signal("go")
            rest = [event async for event in events]
        assert [json.loads(event["data"])["value"] for event in seen] == [{"number": n} for n in range(3)]
        assert [event["id"] for event in seen] == ["0", "1", "2"]
        assert kinds(rest) == ["end"]
        later = await all_of(f"{url}/api/runs/{handle.id}/stream?current=true", last_event_id="1")
        assert [event.get("id") for event in later] == ["2", None]


async def test_the_status_is_followed_as_in_the_original(db: Path) -> None:
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN)) as url:
        handle = await engine.start("waiting")
        async with listening(f"{url}/workflow/waiting/status/{handle.id}/stream") as (_, events):
            first = json.loads((await anext(events))["data"])
            await handle.signal("go", "now")
            rest = [event async for event in events]
        assert first["status"] == "running"
        last = json.loads(rest[-2]["data"])
        assert (last["status"], last["output"]) == ("completed", "now")
        assert kinds(rest)[-1] == "end"


async def test_the_status_of_an_ended_run_is_told_once(db: Path) -> None:
    """However many steps it has; who has seen it gets 204, at which browsers stop, until it has changed."""
    async with many.open(db, durability="process") as engine, served(engine.asgi(token=TOKEN)) as url:
        handle = await engine.start(stepping, 60, run_id="r")
        place = f"{url}/workflow/stepping/status/r/stream"
        with pytest.raises(RunFailed):
            await handle.result("60s")
        whole = await all_of(place)
        assert kinds(whole) == ["status", "end"]
        status = json.loads(whole[0]["data"])
        assert (status["status"], len(status["steps"])) == ("failed", 61)
        async with listening(place, last_event_id=whole[0]["id"]) as (answer, _):
            assert answer.status_code == 204
        await engine.retry("r")
        with pytest.raises(RunFailed):
            await handle.result("60s")
        again = await all_of(place, last_event_id=whole[0]["id"])
        assert kinds(again) == ["status", "end"]
        assert again[0]["id"] != whole[0]["id"]


async def test_who_comes_back_to_a_status_gets_what_differs(db: Path) -> None:
    """Each with an id; what happens while one is made or sent is taken together."""
    async with many.open(db, durability="process") as engine, served(engine.asgi(token=TOKEN)) as url:
        await engine.start(pausing, 60, run_id="r")
        place = f"{url}/workflow/pausing/status/r/stream"
        async with listening(place) as (_, events):
            seen = [await anext(events)]
            while "go" not in [step["name"] for step in json.loads(seen[-1]["data"])["steps"]]:
                seen.append(await anext(events))
        assert len(seen) == len({event["id"] for event in seen}) == len({event["data"] for event in seen})
        async with listening(place, last_event_id=seen[-1]["id"]) as (_, events):
            await engine.signal("r", "go")
            rest = [event async for event in events]
        assert kinds(rest)[-2:] == ["status", "end"]
        told = [event["data"] for event in [seen[-1], *rest]]
        assert len(set(told)) == len(told)


async def test_a_stream_that_is_left_costs_nothing(db: Path) -> None:
    """Who goes away frees the place; so many at once, and 429 beyond; HEAD takes none."""
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN, max_streams=2)) as url:
        handle = await engine.start("waiting")
        place = f"{url}/api/runs/{handle.id}/events"
        for _ in range(5):
            async with listening(place) as (_, one), listening(place) as (_, two):
                await anext(one)
                await anext(two)
                async with listening(f"{url}/api/events") as (answer, _):
                    assert answer.status_code == 429
            async with httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}) as http:
                assert (await http.head(place)).status_code == 405
                while (await http.get(f"{url}/api/runs/{handle.id}/events?after=x")).status_code != 422:
                    pass
            await until_left(engine)


async def test_a_pulse_that_is_left_leaves_no_task() -> None:
    """Whoever listens to a status goes away while it waits for the next one."""

    async def silent() -> AsyncIterator[object]:
        await asyncio.Event().wait()
        yield None

    before = asyncio.all_tasks()
    pulse = Pulse(silent())
    beat = asyncio.ensure_future(pulse.beat(60))
    await asyncio.sleep(0)
    beat.cancel()
    await asyncio.gather(beat, return_exceptions=True)
    await pulse.leave()
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == before


async def test_people_who_share_a_token_have_streams_of_their_own(db: Path) -> None:
    """Each session of a browser so many; what is no session counts for the token."""
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN, console=True, max_streams=1)) as url:
        sessions = []
        for _ in range(2):
            async with httpx2.AsyncClient() as http:
                await http.post(f"{url}/console/login", data={"token": TOKEN}, headers={"origin": url})
                sessions.append("; ".join(f"{name}={text}" for name, text in http.cookies.items()))
        live = f"{url}/console/live"
        async with AsyncExitStack() as stack:
            for cookie in sessions:
                for status in (200, 429):
                    answer, _ = await stack.enter_async_context(listening(live, authorization="", cookie=cookie))
                    assert answer.status_code == status
            for headers, status in (({}, 200), ({"cookie": sessions[0].partition("=")[0] + "=made up"}, 429)):
                answer, _ = await stack.enter_async_context(listening(live, **headers))
                assert answer.status_code == status


async def test_who_logs_in_again_and_again_keeps_nobody_out(db: Path) -> None:
    """All sessions of a token together have four times as many streams as one, which take no places of requests."""
    tokens = {TOKEN: "admin", "another-token-of-others": "read"}
    settings: Any = {"tokens": tokens, "console": True, "max_streams": 1, "max_requests": 5}
    async with pikku.open(db) as engine, served(engine.asgi(**settings)) as url, AsyncExitStack() as stack:

        async def status(**headers: str) -> int:
            answer, _ = await stack.enter_async_context(listening(f"{url}/api/events", **headers))
            return answer.status_code

        for number in range(6):
            async with httpx2.AsyncClient() as http:
                await http.post(f"{url}/console/login", data={"token": TOKEN}, headers={"origin": url})
                cookie = "; ".join(f"{name}={text}" for name, text in http.cookies.items())
            assert await status(authorization="", cookie=cookie) == (200 if number < 4 else 429)
        other = {"authorization": "Bearer another-token-of-others"}
        assert await status(**other) == 200
        async with httpx2.AsyncClient(headers=other) as http:
            assert (await http.get(f"{url}/api/runs")).status_code == 200


async def test_so_many_streams_of_all(db: Path) -> None:
    """As many as requests, which are still answered."""
    http = httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"})
    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN, max_requests=1)) as url, http:
        place = f"{url}/api/events"
        async with listening(place) as (first, _), listening(place) as (second, _):
            assert (first.status_code, second.status_code) == (200, 503)
            assert (await http.get(f"{url}/api/runs")).status_code == 200


async def until_left(engine: Engine) -> None:
    """The server has seen that who listened has gone."""
    assert engine._parts is not None
    hub = engine._parts.residents.events
    while hub._of_runs or list(hub._everything):
        await asyncio.sleep(0.001)


async def test_the_server_ends_although_somebody_listens(db: Path) -> None:
    """Neither the server nor the engine waits for who only listens; what follows is told by the next engine."""
    async with pikku.open(db) as engine:
        async with served(engine.asgi(token=TOKEN)) as url:
            handle = await engine.start("waiting")
            began = asyncio.get_running_loop().time()
            http = httpx2.AsyncClient(headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
            stream = http.stream("GET", f"{url}/api/runs/{handle.id}/events")
            answer = await stream.__aenter__()
            assert (await anext(answer.aiter_lines())) != ""
        assert asyncio.get_running_loop().time() - began < 10
        await stream.__aexit__(None, None, None)
        await http.aclose()


async def test_who_listens_is_sent_away_when_the_engine_goes(db: Path) -> None:
    """Without a word: a browser asks again, with what it has seen last."""
    engine = pikku.open(db)
    async with served(engine.asgi(token=TOKEN)) as url:
        async with engine:
            handle = await engine.start("waiting")
            place = f"{url}/api/runs/{handle.id}/events"
            listener = listening(place)
            _, events = await listener.__aenter__()
            first = await anext(events)
        rest = [event async for event in events]
        await listener.__aexit__(None, None, None)
        assert "end" not in kinds(rest)
        async with listening(place) as (answer, _):
            assert answer.status_code == 503
        seen = [first, *rest][-1]["id"]
        async with engine:
            await engine.signal(handle.id, "go")
            assert kinds(await all_of(place, last_event_id=seen))[-2:] == ["run_ended", "end"]


async def test_a_source_that_fails_is_told_in_the_stream(db: Path) -> None:
    """After the headers are sent there is no status left to say it with."""

    class Failing(Engine):
        def events(self, *, after: int | None = None) -> Any:
            from pikkupy import EventsLost

            async def some() -> AsyncIterator[Any]:
                async for event in super(Failing, self).events(after=after):
                    yield event
                    raise EventsLost("the reader was too slow: s3cret")

            return some()

    async with pikku.open(db) as engine:
        engine.__class__ = Failing
        config = HttpConfig(token=TOKEN, redact=lambda text: text.replace("s3cret", "***"))
        app = application(engine, str(db), config)
        async with served(app) as url, listening(f"{url}/api/events") as (_, events):
            await engine.run("order", {"number": 1})
            told = [event async for event in events]
        engine.__class__ = Engine
    assert kinds(told)[-1] == "problem"
    assert json.loads(told[-1]["data"])["status"] == 410
    assert "***" in told[-1]["data"]
    async with caller(engine.asgi(token=TOKEN)) as http:
        assert (await http.get("/api/events")).status_code == 503
