"""What is asked over HTTP, each operation by its route."""

from __future__ import annotations

import asyncio
import html
import json
import logging
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx2
import pytest

from pikkupy import Engine, Pikku, RunFailed, RunStateError, Services, StepFailed, Workflow, current_step
from pikkupy.codec import Outside
from pikkupy.console.pages import PAGES
from pikkupy.engine import asking
from pikkupy.http import Caller, Scope, asked
from pikkupy.http.application import all_operations
from pikkupy.http.operations import Operation
from pikkupy.http.tokens import FAILURES
from pikkupy.turns import ITEMS, PIECE, Turns
from tests.http.shop import HOST, TOKEN, caller, pikku


@asynccontextmanager
async def opened(db: Path, **settings: Any) -> AsyncIterator[tuple[Engine, httpx2.AsyncClient]]:
    """An open engine, and who calls it over HTTP."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, **settings)) as http:
        yield engine, http


async def started(http: httpx2.AsyncClient, workflow: str, data: Any = None, **fields: Any) -> str:
    """The id of a new run."""
    answer = await http.post("/api/runs", json={"workflow": workflow, "input": data, **fields})
    assert answer.status_code == 202, answer.text
    run_id: str = answer.json()["id"]
    return run_id


async def test_a_run_is_started_and_asked_for(db: Path) -> None:
    """202 with where to look for it; the input may be what its type can be made of."""
    async with opened(db) as (_, http):
        given = {"number": 21, "due": "2026-12-24T18:00:00Z"}
        answer = await http.post("/api/runs", json={"workflow": "order", "input": given, "tags": {"shop": "1"}})
        assert answer.status_code == 202
        place = answer.headers["location"]
        assert place == f"/api/runs/{answer.json()['id']}"
        run = (await http.get(place, headers={"prefer": "wait=30"})).json()
        assert run["status"] == "completed"
        assert run["input"] == given
        assert run["output"] == {"number": 21, "doubled": 42}
        assert run["tags"] == {"shop": "1"}
        steps = (await http.get(f"{place}/steps")).json()
        assert [(step["name"], step["output"]) for step in steps] == [("double", 42)]
        attempts = (await http.get(f"{place}/history")).json()
        assert [(one["step_name"], one["attempt"], one["status"]) for one in attempts] == [("double", 1, "succeeded")]


async def test_a_part_of_the_steps_is_listed(db: Path) -> None:
    """Of a run that may have very many."""
    async with opened(db) as (engine, http):
        await engine.start("pausing", run_id="r")
        while len(found := (await http.get("/api/runs/r/steps")).json()) < 3:
            pass
        for query, part in (
            ("first=1", found[1:]), ("limit=2", found[:2]), ("first=1&limit=1", found[1:2]), ("first=9", []),
            ("first=9&limit=9", []), ("limit=0", found),
        ):  # fmt: skip
            assert (await http.get(f"/api/runs/r/steps?{query}")).json() == part, query
        for query in ("first=-1", "limit=-1", "limit=501", "first=x", "last=1", "first=99999999999999999999"):
            assert (await http.get(f"/api/runs/r/steps?{query}")).status_code == 422, query
        assert (await http.get("/api/runs/nothing/steps?limit=1")).status_code == 404


async def test_who_prefers_to_wait_gets_the_end(db: Path) -> None:
    """RFC 7240: 200 with the run if it ends in time, else 202; the header says what was done."""
    async with opened(db) as (_, http):
        body = {"workflow": "order", "input": {"number": 2}}
        answer = await http.post("/api/runs", json=body, headers={"prefer": "wait=30"})
        assert (answer.status_code, answer.json()["status"]) == (200, "completed")
        assert answer.headers["preference-applied"] == "wait=30"
        failing = {"workflow": "failing", "input": "no stock"}
        answer = await http.post("/api/runs", json=failing, headers={"prefer": "respond-async, wait=30"})
        assert (answer.status_code, answer.json()["status"]) == (200, "failed")
        assert "no stock" in answer.json()["error"]["message"]
        answer = await http.post("/api/runs", json={"workflow": "waiting"}, headers={"prefer": "wait=0"})
        assert (answer.status_code, answer.json()["status"]) == (202, "running")


@pytest.mark.parametrize("prefer", ["wait", "wait=", "wait=x", "wait=-1", "wait=1e9", "handling=strict", "wait=²"])
async def test_a_preference_that_makes_no_sense_is_ignored(db: Path, prefer: str) -> None:
    async with opened(db) as (_, http):
        answer = await http.post(
            "/api/runs", json={"workflow": "waiting"}, headers={"prefer": prefer.encode("latin-1", "replace")}
        )
        assert answer.status_code == 202
        assert "preference-applied" not in answer.headers


async def test_the_same_key_starts_one_run(db: Path) -> None:
    """`Idempotency-Key` is the id of the run: the same request again is the same run, another one a conflict."""
    async with opened(db) as (engine, http):
        key = {"idempotency-key": "order 7/a"}
        body = {"workflow": "order", "input": {"number": 7}}
        answers = [await http.post("/api/runs", json=body, headers=key) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202] * 3
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert len((await engine.list_runs()).runs) == 1
        other = await http.post("/api/runs", json={"workflow": "order", "input": {"number": 8}}, headers=key)
        assert other.status_code == 409
        assert other.headers["content-type"] == "application/problem+json"
        assert other.json()["type"] == "urn:pikkupy:run-conflict"
        assert "another id" in other.json()["detail"] and "run_id" not in other.json()["detail"]
        both = await http.post("/api/runs", json={**body, "id": "x"}, headers=key)
        assert both.status_code == 422


async def test_a_key_is_read_as_it_was_meant(db: Path) -> None:
    """As UTF-8, in which ids are everywhere else; bytes that are none start nothing."""
    async with opened(db) as (engine, http):
        body = {"workflow": "order", "input": {"number": 7}}
        for key in ("order ü/€😀", "plain"):
            answer = await http.post("/api/runs", json=body, headers={"idempotency-key": key.encode()})
            assert (answer.status_code, answer.json()["id"]) == (202, key)
        for path in ("/api/runs", "/workflow/order/start"):
            sent = body if path == "/api/runs" else {"number": 7}
            answer = await http.post(path, json=sent, headers={"idempotency-key": "ü".encode("latin-1")})
            assert (answer.status_code, answer.json()["detail"]) == (422, "`Idempotency-Key`: send it as UTF-8")
        assert {run.id for run in (await engine.list_runs()).runs} == {"order ü/€😀", "plain"}


async def test_the_same_key_forks_once(db: Path) -> None:
    """Who asks again after a lost answer gets the fork that there is; another one of that id is a conflict."""
    async with opened(db) as (engine, http):
        await engine.run("order", {"number": 7}, run_id="source")
        await engine.run("order", {"number": 7}, run_id="other")
        await engine.start("pausing", run_id="steps")
        await engine.signal("steps", "go", 1)
        await (await engine.handle("steps")).result("30s")

        async def fork(source: str, key: str, **body: Any) -> tuple[int, str]:
            answer = await http.post(f"/api/runs/{source}/fork", json=body, headers={"idempotency-key": key})
            if answer.status_code == 409:
                said = answer.json()["detail"]
                assert "exists" in said and "another id" in said and "run_id" not in said
            return answer.status_code, answer.headers.get("location", "")

        for _ in range(3):
            assert await fork("source", "f", at="double") == (201, "/api/runs/f")
            assert await fork("source", "g", at="double", input={"number": 8}) == (201, "/api/runs/g")
            assert await fork("steps", "h", at="second", overrides={"first": 5}) == (201, "/api/runs/h")
            assert await fork("steps", "i", at="go") == (201, "/api/runs/i")
            await (await engine.handle("f")).result("30s")
        assert (await fork("source", "f", at="double", input={"number": 7}))[0] == 201  # what it has anyway
        for source, key, body in (
            ("other", "f", {"at": "double"}),
            ("source", "other", {"at": "double"}),
            ("source", "f", {"at": "double", "input": {"number": 8}}),
            ("source", "g", {"at": "double"}),
            ("steps", "h", {"at": "second"}),
            ("steps", "h", {"at": "second", "overrides": {"first": 6}}),
            ("steps", "h", {"at": "first"}),
            ("steps", "h", {"at": "go", "overrides": {"first": 5}}),
            ("steps", "i", {"at": "second"}),
        ):
            assert (await fork(source, key, **body))[0] == 409, (source, key, body)
        assert len((await engine.list_runs()).runs) == 7


async def test_null_is_a_value(db: Path) -> None:
    """Of a fork another input than none; a decision has to be there, as it cannot be taken back."""
    async with opened(db) as (engine, http):
        await engine.run("echo", {"a": 1}, run_id="source")
        at = (await engine.steps("source"))[0].name
        for name, body in {"null": {"input": None}, "same": {}}.items():
            assert (await http.post("/api/runs/source/fork", json={"at": at, "id": name, **body})).status_code == 201
        assert [(await engine.get_run(name)).input for name in ("null", "same")] == [None, {"a": 1}]

        await engine.start("asking", run_id="a")
        refused = await http.post("/api/runs/a/approve", json={"name": "ok"})
        assert refused.status_code == 422
        assert "`decision`" in refused.json()["detail"]


@pytest.mark.parametrize("run_id", ["a/b", "a b", "a/steps", "../x", "%2F", "ä€😀", "a?b#c", "api/runs/x", ".", ".."])
async def test_an_id_may_have_any_character(db: Path, run_id: str) -> None:
    """A slash in an id is no slash of the path; and dots, which clients take out of one (RFC 3986, 5.2.4), stay."""
    async with opened(db) as (_, http):
        await started(http, "order", {"number": 1}, id=run_id)
        page = (await http.get("/api/runs")).json()
        answer = await http.post("/api/runs", json={"workflow": "order", "input": {"number": 1}, "id": run_id})
        place = answer.headers["location"]
        assert page["runs"][0]["id"] == run_id
        assert (await http.get(f"{HOST}{place}")).json()["id"] == run_id
        assert [step["name"] for step in (await http.get(f"{HOST}{place}/steps")).json()] == ["double"]


async def test_runs_are_listed_by_filters_and_pages(db: Path) -> None:
    async with opened(db) as (_, http):
        for number in range(5):
            await started(http, "order", {"number": number}, id=f"order-{number}", tags={"odd": str(number % 2)})
        failed = await started(http, "failing", "kaputt")
        await http.get(f"/api/runs/{failed}", headers={"prefer": "wait=30"})
        page = (await http.get("/api/runs", params={"limit": 2, "workflow": "order"})).json()
        assert [run["id"] for run in page["runs"]] == ["order-4", "order-3"]
        rest = (await http.get("/api/runs", params={"workflow": "order", "cursor": page["next_cursor"]})).json()
        assert [run["id"] for run in rest["runs"]] == ["order-2", "order-1", "order-0"]
        assert rest["next_cursor"] is None
        odd = (await http.get("/api/runs", params={"tag": "odd:1"})).json()
        assert [run["id"] for run in odd["runs"]] == ["order-3", "order-1"]
        broken = (await http.get("/api/runs", params={"error": "kaputt", "status": ["failed", "cancelled"]})).json()
        assert [run["id"] for run in broken["runs"]] == [failed]
        assert (await http.get("/api/runs", params={"created_after": "2999-01-01T00:00:00Z"})).json()["runs"] == []
        assert (await http.get("/api/counts")).json()["failing"] == {"failed": 1}


@pytest.mark.parametrize(
    "query",
    [
        "limit=0", "limit=501", "limit=x", "limit=1&limit=2", "status=done", "tag=x", "tag=a:1&tag=a:2", "colour=red",
        "cursor=x", "created_after=yesterday", "created_after=2026-01-01T00:00:00", "id_prefix=", "error=",
    ],
)  # fmt: skip
async def test_a_filter_that_there_cannot_be_is_said(db: Path, query: str) -> None:
    async with opened(db) as (_, http):
        answer = await http.get(f"/api/runs?{query}")
        assert answer.status_code == 422, answer.text
        assert query.split("=", maxsplit=1)[0].split("&", maxsplit=1)[0] in answer.json()["detail"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("tag=x", "Expected `name:value` - at `$.tag[0]`"),
        ("cursor=x", "Expected the `next_cursor` of a page - at `$.cursor`"),
        ("workflow=a%01", "Expected a text without control characters - at `$.workflow`"),
    ],
)
async def test_a_pattern_is_told_in_words(db: Path, query: str, said: str) -> None:
    """The document has it as it is."""
    async with opened(db) as (_, http):
        assert (await http.get(f"/api/runs?{query}")).json()["detail"] == said


async def test_a_place_in_a_stream_is_a_number(db: Path) -> None:
    async with opened(db) as (_, http):
        answer = await http.get("/api/events", headers={"last-event-id": "x"})
        assert answer.json()["detail"] == "Expected the number of an event - at `$.Last-Event-ID`"
        answer = await http.get("/api/events?after=x")
        assert answer.json()["detail"] == "Expected the number of an event - at `$.after`"
        answer = await http.post("/api/runs", json={"workflow": "waiting", "id": "a\x01"})
        assert answer.json()["detail"] == "Expected a text without control characters - at `$.id`"


UNITS = "use a number with its unit, as 30s, 5min, 2h or 7d, and 100 years at most"


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ({"at": "2027-01-01T00:00:00Z", "delay": "5s"}, "`at` and `delay` say when it begins: give one of the two"),
        ({"delay": "soon"}, f"`delay`: {UNITS}, not 'soon'"),
        ({"delay": "5 weeks"}, f"`delay`: {UNITS}, not '5 weeks'"),
        ({"delay": 10**15}, f"`delay`: {UNITS}, not 1000000000000000"),
        ({"delay": "x" * 5_000}, f"`delay`: {UNITS}, not '{'x' * 79}"),
        ({"at": "2999-01-01T00:00:00Z"}, "at=2999-01-01T00:00:00+00:00: more than 100 years ahead"),
    ],
)
async def test_when_a_run_cannot_begin_is_told_in_words_of_http(db: Path, when: dict[str, Any], said: str) -> None:
    async with opened(db) as (engine, http):
        answer = await http.post("/api/runs", json={"workflow": "waiting", **when})
        assert (answer.status_code, answer.json()["detail"]) == (422, said)
        assert (await engine.list_runs()).runs == ()


async def test_runs_are_steered(db: Path) -> None:
    """Signal, cancel, approve, resume, retry, fork and delete: each answers with the run as it stands."""
    async with opened(db) as (engine, http):
        run_id = await started(http, "waiting")
        answer = await http.post(f"/api/runs/{run_id}/signal", json={"name": "go", "payload": {"a": [1]}})
        assert answer.status_code == 200
        assert await (await engine.handle(run_id)).result("30s") == {"a": [1]}

        run_id = await started(http, "waiting")
        assert (await http.get(f"/api/runs/{run_id}/approvals")).json() == {}
        answer = await http.post(f"/api/runs/{run_id}/cancel", json={"reason": "no longer wanted"})
        assert (answer.json()["status"], answer.json()["reason"]) == ("cancelled", "no longer wanted")
        again = await http.post(f"/api/runs/{run_id}/cancel", json={})
        assert (again.status_code, again.json()["type"]) == (409, "urn:pikkupy:run-state-error")

        run_id = await started(http, "asking")
        assert (await http.get(f"/api/runs/{run_id}/approvals")).json() == {"ok": {"type": "boolean"}}
        late = await http.post(f"/api/runs/{run_id}/approve", json={"name": "other", "decision": True})
        assert late.status_code == 409
        wrong = await http.post(f"/api/runs/{run_id}/approve", json={"name": "ok", "decision": "yes"})
        assert (wrong.status_code, wrong.json()["type"]) == (422, "urn:pikkupy:payload-error")
        await http.post(f"/api/runs/{run_id}/approve", json={"name": "ok", "decision": True})
        assert await (await engine.handle(run_id)).result("30s") == (True, "token")

        run_id = await started(http, "gated")
        while (await http.get(f"/api/runs/{run_id}")).json()["status"] != "suspended":
            await asyncio.sleep(0)
        assert (await http.post(f"/api/runs/{run_id}/resume", json={"accept": "old"})).status_code == 422
        await http.post(f"/api/runs/{run_id}/resume")
        assert await (await engine.handle(run_id)).result("30s") == "open"

        run_id = await started(http, "failing", "once")
        await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})
        assert (await http.post(f"/api/runs/{run_id}/retry", json={"step": "fail"})).status_code == 422
        assert (await http.post(f"/api/runs/{run_id}/retry")).status_code == 200
        failed = await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})
        assert failed.json()["status"] == "failed"

        source = await started(http, "order", {"number": 3})
        await http.get(f"/api/runs/{source}", headers={"prefer": "wait=30"})
        fork = await http.post(
            f"/api/runs/{source}/fork", json={"at": "double", "input": {"number": 4}, "id": "fork/1"}
        )
        assert (fork.status_code, fork.headers["location"]) == (201, "/api/runs/fork%2F1")
        assert (await (await engine.handle("fork/1")).result("30s")).doubled == 8
        assert (await http.get("/api/runs/fork%2F1")).json()["forked_from"] == source

        assert (await http.delete(f"/api/runs/{source}")).status_code == 204
        assert (await http.get(f"/api/runs/{source}")).status_code == 404


async def test_what_there_is_not_is_said(db: Path) -> None:
    """Problem details (RFC 9457), which say what is missing."""
    async with opened(db) as (_, http):
        for answer in (
            await http.get("/api/runs/nothing"),
            await http.get("/api/runs/nothing/steps"),
            await http.get("/api/runs/nothing/events"),
            await http.post("/api/runs/nothing/cancel", json={}),
            await http.delete("/api/runs/nothing"),
        ):
            assert answer.status_code == 404
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert problem["type"] == "urn:pikkupy:run-not-found"
            assert problem["title"] == "Run not found"
            assert "'nothing'" in problem["detail"]
        workflow = await http.post("/api/runs", json={"workflow": "nothing"})
        assert (workflow.status_code, workflow.json()["type"]) == (404, "urn:pikkupy:workflow-not-found")
        for path in ("/api/nothing", "/api/runs/a%2Fb/nothing"):
            route = await http.get(path)
            assert (route.status_code, route.json()["title"]) == (404, "No such route")
            assert route.json()["detail"].startswith(f"{unquote(path)} is none")
        method = await http.put("/api/runs/x", json={})
        assert (method.status_code, "GET" in method.headers["allow"]) == (405, True)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"{", 400, "truncated"),
        (b"[]", 422, "object"),
        (b"{}", 422, "workflow"),
        (b'{"workflow": 1}', 422, "$.workflow"),
        (b'{"workflow": "order", "inptu": 1}', 422, "inptu"),
        (b'{"workflow": "order", "input": {"number": "x"}}', 422, "$.number"),
        (b'{"workflow": "order", "input": {"number": 1}, "delay": "soon"}', 422, "soon"),
        (b'{"workflow": "order", "input": {"number": 1}, "at": "2026-01-01T00:00:00"}', 422, "$.at"),
        (b'{"workflow": "order", "input": {"number": 1}, "at": "2026-01-01T00:00:00Z", "delay": 5}', 422, "delay"),
        (b'{"workflow": "order", "input": {"number": 1}, "id": ""}', 422, "$.id"),
        (b'{"workflow": "order", "input": {"number": 1}, "tags": {"a": 1}}', 422, "$.tags"),
        (b'{"workflow": "\xff"}', 400, ""),
        (b'{"workflow": "\\ud800"}', 400, ""),
        (b'{"workflow": "echo", "input": ' + b"9" * 5000 + b"}", 422, "$.input"),
    ],
)
async def test_a_body_that_does_not_fit_starts_nothing(db: Path, body: bytes, status: int, said: str) -> None:
    async with opened(db) as (engine, http):
        answer = await http.post("/api/runs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == status, answer.text
        assert said in answer.json()["detail"]
        assert (await engine.list_runs()).runs == ()


async def test_values_are_plain_json_both_ways(db: Path) -> None:
    """What looks like the journal's own form for other values is a value like others; large integers are kept."""
    async with opened(db) as (engine, http):
        for value in (
            {"$t": "os:system", "v": ["id"]},
            {"$t": "tuple", "v": [1]},
            2**70,
            -(2**63),
            1.5,
            "x\u2028",
            [[]],
        ):
            run_id = await started(http, "echo", value)
            assert await (await engine.handle(run_id)).result("30s") == value
        answer = (await http.get(f"/api/runs/{run_id}")).json()
        assert answer["output"] == [[]]


async def test_the_routes_of_the_original(db: Path) -> None:
    async with opened(db) as (_, http):
        run_id = (await http.post("/workflow/order/start", json={"number": 5})).json()["runId"]
        assert (await http.post("/workflow/order/run", json={"number": 6})).json() == {"number": 6, "doubled": 12}
        await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})
        status = (await http.get(f"/workflow/order/status/{run_id}")).json()
        assert (status["id"], status["status"], status["output"]) == (run_id, "completed", {"number": 5, "doubled": 10})
        assert [step["name"] for step in status["steps"]] == ["double"]
        assert (await http.get(f"/workflow/waiting/status/{run_id}")).status_code == 404
        failed = await http.post("/workflow/failing/run", json="sold out")
        assert (failed.status_code, failed.json()["type"]) == (409, "urn:pikkupy:run-failed")
        assert "sold out" in failed.json()["detail"]
        assert failed.json()["run_id"]
        asked = (await http.post("/workflow/asking/start")).json()["runId"]
        decided = await http.post(f"/workflow/asking/approve/{asked}", json={"name": "ok", "decision": False})
        assert decided.status_code == 200
        other = await http.post(f"/workflow/order/approve/{asked}", json={"name": "ok", "decision": False})
        assert other.status_code == 404


async def test_workflows_say_what_they_take(db: Path) -> None:
    async with opened(db) as (_, http):
        listed = {one["name"]: one for one in (await http.get("/api/workflows")).json()}
        assert set(listed) == {
            "order", "waiting", "asking", "failing", "gated", "echo", "judging", "talking", "pausing",
            "counting",
        }  # fmt: skip
        assert listed["order"]["description"] == "Double a number."
        assert listed["waiting"]["input"] is None
        assert "Order" in str(listed["order"]["input"])
        assert (await http.get("/api/workflows/failing")).json()["input"] == {"type": "string"}
        assert (await http.get("/api/workflows/nothing")).status_code == 404


async def test_health_is_that_of_the_engine(db: Path) -> None:
    """Before it is open, and after it was left, 503 with the cure; mounted, it never opens it by itself."""
    engine = pikku.open(db)
    async with caller(engine.asgi(token=TOKEN)) as http:
        for path in ("/readyz", "/api/runs", "/api/runs/x"):
            answer = await http.get(path)
            assert answer.status_code == 503
            assert answer.json()["type"] == "urn:pikkupy:engine-closed"
            assert "lifespan=engine.lifespan" in answer.json()["cure"]
            assert answer.headers["retry-after"] == "5"
        assert not db.exists()
        assert (await http.get("/healthz")).json() == {"status": "ok"}
        async with engine:
            assert (await http.get("/readyz")).json() == {"status": "ready"}
        assert (await http.get("/readyz")).status_code == 503


async def test_a_client_serves_the_engine_of_another(db: Path) -> None:
    """What is mounted may be a client, or a member: the same routes."""
    async with pikku.open(db), pikku.connect(db) as client, caller(client.asgi(token=TOKEN)) as http:
        run_id = await started(http, "order", {"number": 1})
        run = (await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})).json()
        assert run["output"] == {"number": 1, "doubled": 2}
        assert (await http.get("/api/runs/nothing")).status_code == 404
    async with pikku.open(db, role="auto") as member, caller(member.asgi(token=TOKEN)) as http:
        assert (await http.get(f"/api/runs/{run_id}")).json()["output"] == {"number": 1, "doubled": 2}


async def test_every_action_has_its_audit_line(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: who, what, on which run, from where, and what came of it; also of what was refused."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with opened(db, tokens={"only-to-look-at-it": "read"}) as (_, http):
        run_id = await started(http, "waiting")
        await http.post(f"/api/runs/{run_id}/cancel", json={"reason": "x"})
        await http.post(f"/api/runs/{run_id}/fork", json={"at": "go", "id": "fork"})
        await http.delete(f"/api/runs/{run_id}")
        await http.delete(f"/api/runs/{run_id}")
        await http.delete("/api/runs/a%2Fb%0A%1B", headers={"authorization": "Bearer only-to-look-at-it"})
        await http.get("/api/runs")
    assert all(record.getMessage().isprintable() for record in caplog.records)
    lines = audit_lines(caplog)
    facts = [(line["action"], line.get("run_id"), line["by"], line["status"]) for line in lines]
    assert facts == [
        ("start_run", run_id, "token", 202),
        ("cancel_run", run_id, "token", 200),
        ("fork_run", run_id, "token", 201),
        ("delete_run", run_id, "token", 204),
        ("delete_run", run_id, "token", 404),
        ("delete_run", "a/b\n\x1b", "token:read", 403),
    ]
    assert {line["address"] for line in lines} == {"127.0.0.1"}
    assert [line.get("new_run_id") for line in lines] == [None, None, "fork", None, None, None]


async def test_who_decides_in_another_s_name_is_in_the_audit_line(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: an application may decide for its users, and says for whom; which caller that was is known all the same."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with opened(db, tokens={"of-a-shop-with-users": "operate"}) as (engine, http):
        http.headers["authorization"] = "Bearer of-a-shop-with-users"
        body = {"decision": True, "decided_by": "ada"}
        for run_id, path, sent in (
            ("a", "/api/runs/a/approve", {"name": "ok", **body}),
            ("b", "/workflow/asking/approve/b", {"name": "ok", **body}),
            ("c", "/api/runs/c/approve", {"name": "ok", "decision": True}),
        ):
            await started(http, "asking", id=run_id)
            caplog.clear()
            assert (await http.post(path, json=sent)).status_code == 200
            [line] = audit_lines(caplog)
            assert (line["by"], line["run_id"]) == ("token:operate", run_id)
            named = "token:operate" if run_id == "c" else "ada"
            assert await (await engine.handle(run_id)).result("30s") == (True, named)


async def test_no_signal_from_outside_makes_a_decision(db: Path) -> None:
    """409, and the way that says who decides; also of a run in the file. An application's own signal may, as ever."""
    forged = {"decision": True, "decided_by": "the boss"}
    origin = {"origin": HOST}
    async with opened(db, console=True) as (engine, http), pikku.connect(db) as client:
        await engine.start("asking", run_id="r")
        while not await engine.approvals("r"):
            await asyncio.sleep(0)
        answer = await http.post("/api/runs/r/signal", json={"name": "ok", "payload": forged})
        assert (answer.status_code, "`pikku runs approve`" in answer.text) == (409, True)
        form = {"name": "ok", "value": json.dumps(forged)}
        answer = await http.post("/console/runs/r/signal", data=form, headers=origin)
        assert (answer.status_code, "decide it with" in answer.text) == (409, True)
        with pytest.raises(RunStateError, match="pikku runs approve"):
            await client.signal("r", "ok", Outside(forged))
        assert (await engine.get_run("r")).status == "running" and "ok" in await engine.approvals("r")
    async with opened(db) as (engine, http):  # it waits in the file
        answer = await http.post("/api/runs/r/signal", json={"name": "ok", "payload": forged})
        assert answer.status_code == 409
        await engine.signal("r", "ok", forged)
        assert await (await engine.handle("r")).result("30s") == (True, "the boss")
        assert (await http.post("/api/runs/r/signal", json={"name": "ok", "payload": forged})).status_code == 409


async def test_a_run_that_is_suspended_takes_no_decision_from_a_signal(db: Path) -> None:
    """Nor does one whose code does not fit, as far as that has asked."""
    old, new = Pikku(), Pikku()

    @old.workflow(name="asks")
    async def asks(workflow: Workflow) -> None:
        ok = workflow.approval("ok", bool)
        await workflow.do("first", lambda: 1)
        await ok

    @new.workflow(name="asks")
    async def asks_otherwise(workflow: Workflow) -> None:
        ok = workflow.approval("ok", bool)
        await workflow.do("another", lambda: 1)
        await ok

    async with old.open(db) as engine:
        await engine.start("asks", run_id="r")
        while [one.status for one in await engine.steps("r")][1:] != ["succeeded"]:
            await asyncio.sleep(0)
    async with new.open(db) as engine, caller(engine.asgi(token=TOKEN)) as http:
        assert (await http.get("/api/runs/r")).json()["status"] == "suspended"
        for name, status in (("ok", 409), ("go", 200)):
            answer = await http.post("/api/runs/r/signal", json={"name": name, "payload": True})
            assert answer.status_code == status, answer.text


async def test_a_signal_of_the_wrong_type_is_refused_to_its_sender(db: Path) -> None:
    """If a step waits for it: the run waits on. One that comes before is kept; what an application sends is taken."""
    async with opened(db) as (engine, http):
        await engine.start("counting", run_id="r")
        while "r" not in await engine.open_steps(["r"]):
            await asyncio.sleep(0)

        async def sent(name: str, payload: object) -> tuple[int, str]:
            answer = await http.post("/api/runs/r/signal", json={"name": name, "payload": payload})
            return answer.status_code, answer.json().get("detail", "")

        status, said = await sent("count", "x")
        assert status == 422 and "payload of signal 'count' for run 'r': $: " in said and "int" in said
        assert (await engine.get_run("r")).status == "running"
        assert (await sent("count", 1))[0] == 200
        while [one.name for one in (await engine.open_steps(["r"])).get("r", ())] != ["change"]:
            await asyncio.sleep(0)
        status, said = await sent("change", {"number": 2, "nubmer": 3})
        assert status == 422 and "nubmer" in said
        assert (await sent("other", "kept"))[0] == 200
        assert (await sent("change", {"number": 2}))[0] == 200
        assert await (await engine.handle("r")).result("30s") == (1, 2)
        await engine.start("counting", run_id="s")
        await engine.signal("s", "count", "x")
        with pytest.raises(RunFailed):
            await (await engine.handle("s")).result("30s")


async def test_a_token_with_a_name_is_known_by_it(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: in its audit lines, in what it decides, and in the console, where a session goes by its name too."""
    caplog.set_level(logging.INFO, "pikkupy")
    ada, bob = "the-token-of-ada", "the-token-of-bob"
    tokens = {ada: Caller("ada", Scope.OPERATE), bob: Caller("bob", Scope.OPERATE)}
    async with opened(db, console=True, tokens=tokens) as (engine, http):
        await engine.start("asking", run_id="r")
        await engine.start("waiting", run_id="w")
        caplog.clear()
        decision = {"name": "ok", "decision": True}
        headers = {"authorization": f"Bearer {ada}"}
        assert (await http.post("/api/runs/r/approve", json=decision, headers=headers)).status_code == 200
        assert await (await engine.handle("r")).result("30s") == (True, "ada")
        del http.headers["authorization"]
        await http.post("/console/login", data={"token": bob}, headers={"origin": HOST})
        await http.post("/console/runs/w/cancel", headers={"origin": HOST})
        assert (await engine.get_run("w")).reason == "cancelled in the console by bob"
    lines = [(line["action"], line["by"]) for line in audit_lines(caplog)]
    assert lines == [("approve_run", "ada"), ("login", "bob"), ("cancel_in_console", "bob")]


def audit_lines(caplog: pytest.LogCaptureFixture, event: str = "http_action") -> list[dict[str, Any]]:
    """What was logged since the last time."""
    found = [record.pikku for record in caplog.records if getattr(record, "pikku", {}).get("event") == event]
    caplog.clear()
    return found


ACTING = [one for one in (*all_operations(), *PAGES) if one.method != "GET"]


@pytest.mark.parametrize("one", ACTING, ids=lambda one: one.name)
async def test_every_route_that_acts_has_its_audit_line(
    db: Path, caplog: pytest.LogCaptureFixture, one: Operation
) -> None:
    """S20: those of the console too, and a new one as well; whatever comes of it."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with opened(db, console=True) as (engine, http):
        await engine.start("waiting", run_id="r")
        path = one.path.format(run_id="r", workflow="order", verb="retry")
        form = {"data": {"token": TOKEN}} if path.startswith("/console") else {"json": {}}
        answer = await http.request(one.method, path, headers={"origin": HOST}, **form)
    [line] = audit_lines(caplog)
    assert (line["action"], line["by"], line["status"]) == (one.name, "token", answer.status_code)
    assert line["address"] == "127.0.0.1"
    for name, value in (("run_id", "r"), ("workflow", "order"), ("verb", "retry")):
        if f"{{{name}}}" in one.path:
            assert line[name] == value


async def test_an_action_on_many_runs_has_a_line_for_each(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: and one with what was asked for, and how many there were."""
    caplog.set_level(logging.INFO, "pikkupy")
    async with opened(db, console=True) as (engine, http):
        for number in range(3):
            await engine.start("waiting", run_id=f"w{number}")
        asked = (await http.get("/console/all/cancel?q=waiting&status=running")).text
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked))
        cancel = engine.cancel

        async def one_is_quicker(run_id: str, reason: str) -> None:
            if run_id == "w1":
                await cancel(run_id, "by itself")
            await cancel(run_id, reason)

        engine.cancel = one_is_quicker  # type: ignore[method-assign]
        await http.post("/console/all/cancel?q=waiting&status=running", data=hidden, headers={"origin": HOST})
    *lines, last = audit_lines(caplog)
    assert {(line["run_id"], line["status"]) for line in lines} == {("w0", 200), ("w1", 409), ("w2", 200)}
    assert {(line["action"], line["verb"], line["by"]) for line in lines} == {("act_on_all", "cancel", "token")}
    assert (last["verb"], last["status"], last["filter"]) == ("cancel", 200, "status=running&q=waiting")
    assert (last["done"], last["refused"], "run_id" in last) == (2, 1, False)


async def test_who_comes_in_and_goes_has_a_line(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S20: and so has a token that is none, as everywhere."""
    caplog.set_level(logging.INFO, "pikkupy")
    reader, origin = "only-to-look-at-it", {"origin": HOST}
    async with opened(db, console=True, tokens={reader: "read"}) as (_, http):
        del http.headers["authorization"]
        await http.post("/console/login", data={"token": "wrong"}, headers=origin)
        [line] = audit_lines(caplog, "http_refused")
        assert (line["status"], line["address"]) == (401, "127.0.0.1")
        for _ in range(FAILURES - 1):
            await http.post("/console/login", data={"token": "wrong"}, headers=origin)
        caplog.clear()
        await http.post("/console/login", data={"token": "wrong"}, headers=origin)
        [line] = audit_lines(caplog, "http_refused")
        assert line["status"] == 429
    async with opened(db, console=True, tokens={reader: "read"}) as (_, http):
        del http.headers["authorization"]
        caplog.clear()
        await http.post("/console/login", data={"token": reader}, headers=origin)
        await http.post("/console/logout", headers=origin)
        lines = [(line["action"], line["by"], line["status"]) for line in audit_lines(caplog)]
        assert lines == [("login", "token:read", 303), ("logout", "token:read", 303)]


async def test_a_key_that_the_input_has_no_place_for_is_refused(db: Path) -> None:
    """Not dropped, on every way from outside, and before there is a run."""
    given, said = {"number": 1, "numbr": 2}, "has no field 'numbr'; it has: 'number', 'due'"
    async with opened(db, console=True) as (engine, http):
        form = {"workflow": "order", "value": '{"number": 1, "numbr": 2}'}
        answers = [
            await http.post("/api/runs", json={"workflow": "order", "input": given}),
            await http.post("/workflow/order/start", json=given),
            await http.post("/workflow/order/run", json=given),
            await http.post("/console/start", data=form, headers={"origin": HOST}),
        ]
        assert (await engine.list_runs()).runs == ()
        run_id = await started(http, "order", {"number": 1})
        await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})
        fork = {"at": "double", "value": form["value"]}
        answers += [
            await http.post(f"/api/runs/{run_id}/fork", json={"at": "double", "input": given}),
            await http.post(f"/console/runs/{run_id}/fork", data=fork, headers={"origin": HOST}),
        ]
        assert [answer.status_code for answer in answers] == [422] * 6
        assert all(said in html.unescape(answer.text) for answer in answers)
        assert len((await engine.list_runs()).runs) == 1


async def test_secrets_are_taken_out_of_what_is_sent(db: Path) -> None:
    """S14, I-50: every text of users' values and errors goes through the hook; if that fails, the text is left out."""
    async with opened(db, redact=lambda text: text.replace("s3cret", "***")) as (_, http):
        run_id = await started(http, "echo", {"key s3cret": ["s3cret"]}, tags={"t": "s3cret"})
        run = await http.get(f"/api/runs/{run_id}", headers={"prefer": "wait=30"})
        assert run.json()["input"] == run.json()["output"] == {"key ***": ["***"]}
        failed = await started(http, "failing", "s3cret")
        await http.get(f"/api/runs/{failed}", headers={"prefer": "wait=30"})
        for path in ("/api/runs", f"/api/runs/{failed}/steps", f"/api/runs/{failed}/history"):
            answer = await http.get(path)
            assert "***" in answer.text
            assert "s3cret" not in answer.text
        assert "s3cret" not in (await http.post("/workflow/failing/run", json="s3cret")).text

    def broken(text: str) -> str:
        raise RuntimeError(text)

    async with opened(db, redact=broken) as (_, http):
        assert "s3cret" not in (await http.get("/api/runs")).text


async def test_free_texts_of_a_run_s_whole_life_are_taken_out(db: Path) -> None:
    """S14: reasons, progress, decisions, chunks and errors as well, wherever they are told; names alone stay."""
    app, secret = Pikku(), "s3cret"

    @app.function
    async def fails(services: Services, data: Any) -> None:
        step = current_step()
        assert step is not None
        step.emit({"told": data})
        raise ValueError(f"not {data}")

    @app.workflow
    async def flow(workflow: Workflow, data: Any) -> None:
        workflow.progress(data)
        with suppress(StepFailed):
            await workflow.do("fails", fails, data)
        await workflow.approval("ok", str)
        await workflow.wait_for_signal("go")

    def hide(text: str) -> str:
        return text.replace(secret, "***")

    async with app.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True, redact=hide)) as http:
        await engine.start("flow", secret, run_id="r", tags={"of": secret})
        while not await engine.approvals("r"):
            await asyncio.sleep(0)
        refused = await http.post("/api/runs/r/approve", json={"name": "ok", "decision": {secret: 1}})
        await http.post("/api/runs/r/approve", json={"name": "ok", "decision": secret, "decided_by": secret})
        await http.post("/api/runs/r/signal", json={"name": "go2", "payload": secret})
        cancelled = await http.post("/api/runs/r/cancel", json={"reason": secret})
        assert (refused.status_code, cancelled.json()["reason"]) == (422, "***")
        answers = [refused, cancelled]
        for one in (*all_operations(), *PAGES):
            path = one.path.format(run_id="r", workflow="flow", verb="retry", action="fork", which="input", file="x")
            if one.method == "GET" and "/live" not in path and path != "/api/events":
                answers.append(await http.get(path))
        answers.append(await http.get("/console/start?from_run=r"))
        assert [answer.url.path for answer in answers if secret in answer.text] == []
        assert sum("***" in answer.text for answer in answers) > 10


async def test_what_is_broken_here_is_not_told(db: Path, caplog: pytest.LogCaptureFixture) -> None:
    """S14: 500 has an id alone; the log has the rest under it."""

    class Broken(Engine):
        async def counts(self) -> Any:
            raise ZeroDivisionError("canary")

    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN)) as http:
        engine.__class__ = Broken
        answer = await http.get("/api/counts")
        engine.__class__ = Engine
    assert answer.status_code == 500
    assert "canary" not in answer.text
    [record] = [record for record in caplog.records if "http_call_failed" in record.getMessage()]
    assert answer.json()["error_id"] in record.getMessage()


@pytest.mark.parametrize("path", ["/api/runs/long/steps", "/api/runs/long/history", "/workflow/long/status/long"])
async def test_a_run_of_many_steps_is_answered_piece_by_piece(
    db: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others on the loop have their turns while a long list is made: when it is read, and when it is written."""
    many = Pikku()

    @many.workflow
    async def long(workflow: Workflow) -> int:
        for number in range(2_000):
            await workflow.do(f"step {number}", lambda number=number: number)
        return 1

    async with many.open(db, durability="process") as engine, caller(engine.asgi(token=TOKEN)) as http:
        await engine.run(long, run_id="long")
        with watched(monkeypatch) as sizes:
            found = (await http.get(path)).json()
        steps = found["steps"] if isinstance(found, dict) else found
        assert [step.get("output", number) for number, step in enumerate(steps)] == list(range(2_000))
        assert len(sizes) >= 2 * 2_000


@pytest.mark.parametrize("path", ["/api/runs?limit=25", "/api/runs/large/steps", "/workflow/echo/status/large"])
async def test_large_values_are_answered_piece_by_piece(db: Path, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some hundred kilobytes of text at a time."""
    many = Pikku()

    @many.workflow
    async def echo(workflow: Workflow, data: str) -> str:
        for number in range(20):
            await workflow.do(f"step {number}", lambda: data)
        return data

    async with many.open(db, durability="process") as engine, caller(engine.asgi(token=TOKEN)) as http:
        for number in range(20):
            await engine.run(echo, "x" * 300_000, run_id=f"r{number}")
        await engine.run(echo, "x" * 300_000, run_id="large")
        with watched(monkeypatch) as sizes:
            assert len((await http.get(path)).content) > 20 * 300_000
        assert sum(size > 300_000 for size in sizes) >= 2 * 20


async def test_runs_are_listed_without_their_values(db: Path) -> None:
    """As `engine.list_runs(values=False)`."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN)) as http:
        await engine.run("echo", {"a": 1}, run_id="r")
        for asked, value in (("", {"a": 1}), ("?values=true", {"a": 1}), ("?values=false", None)):
            [run] = (await http.get(f"/api/runs{asked}")).json()["runs"]
            assert (run["id"], run["input"], run["output"]) == ("r", value, value)


async def test_after_some_of_it_others_have_their_turn() -> None:
    """After so many characters, or so many small items."""
    had, turns = 0, Turns()

    async def count() -> None:
        nonlocal had
        while True:
            await asyncio.sleep(0)
            had += 1

    counting = asyncio.ensure_future(count())
    await asyncio.sleep(0)
    for size, items, times in ((0, ITEMS, 1), (PIECE, 3, 3), (PIECE // 4, 8, 2)):
        before = had
        for _ in range(items):
            await turns.after(size)
        assert had - before == times
    counting.cancel()


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The sizes of what is done piece by piece within the block."""
    sizes = list[int]()

    class Watched(Turns):
        async def after(self, size: int) -> None:
            sizes.append(size)
            await super().after(size)

    with monkeypatch.context() as patched:
        for room in (asking, asked):
            patched.setattr(room, "Turns", Watched)
        yield sizes
