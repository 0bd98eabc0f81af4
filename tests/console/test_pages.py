"""The console by requests alone: who gets in, what is served, and forms."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from pikkupy import Pikku, RunNotFound, StepFailed, Workflow
from pikkupy.console import steering
from pikkupy.console.forms import decision_fields, decision_of, fields_of, value_of_fields
from pikkupy.console.rendering import STATIC
from pikkupy.http import Caller, tokens
from pikkupy.http.problems import Refused
from pikkupy.http.tokens import FAILURES, SESSION_S, Sessions
from pikkupy.schemas import schema_of
from tests.http.shop import HOST, TOKEN, caller, pikku

SAME = {"origin": HOST}


async def test_a_cookie_lets_in_from_its_own_pages_alone(db: Path) -> None:
    """S5: browsers send it by themselves, so a request that changes something has to say where it comes from."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True), token=None) as http:
        assert (await http.get("/console/")).status_code == 401
        wrong = await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
        assert (wrong.status_code, "That is not the token." in wrong.text) == (401, True)
        answer = await http.post("/console/login", data={"token": f" {TOKEN}\n"}, headers=SAME)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie and TOKEN not in cookie
        assert (await http.get("/console/")).status_code == 200
        assert (await http.get("/api/runs")).status_code == 200
        await engine.start("waiting", run_id="r")
        for headers in ({}, {"origin": "http://a.b"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            answer = await http.post("/console/runs/r/cancel", data={}, headers=headers)
            assert answer.status_code == 403, headers
        assert (await engine.get_run("r")).status == "running"
        for headers in (SAME, {"sec-fetch-site": "same-origin"}, {"origin": "null", "sec-fetch-site": "same-origin"}):
            assert (await http.post("/console/runs/r/signal", data={"name": "x"}, headers=headers)).status_code == 303
        kept = dict(http.cookies)
        left = await http.post("/console/logout", headers=SAME)
        assert left.status_code == 303
        assert not http.cookies
        http.cookies.update(kept)
        assert (await http.get("/console/")).status_code == 401  # it is of no use to whoever has kept it
        http.cookies.update(dict.fromkeys(kept, "guess"))
        for _ in range(2 * FAILURES):
            last = await http.get("/console/")
        assert last.status_code == 429


async def test_consoles_of_one_host_leave_each_other_alone(db: Path) -> None:
    """Browsers send cookies to all ports of a host: each server has one of its own name, below its own path."""
    ours, theirs = (engine.asgi(token=TOKEN, console=True) for engine in (pikku.open(db), pikku.open(f"{db}.other")))
    mounted = Starlette(routes=[Mount("/a/b", pikku.open(db).asgi(token=TOKEN, console=True))])
    hosts = (HOST, HOST, "http://127.0.0.1:8701", HOST)
    names = set()
    for app, host, base in zip((ours, theirs, ours, mounted), hosts, ("", "", "", "/a/b"), strict=True):
        async with caller(app, token=None, host=host) as http:
            answer = await http.post(f"{base}/console/login", data={"token": TOKEN}, headers={"origin": host})
            name, _, rest = answer.headers["set-cookie"].partition("=")
            assert f"; Path={base or '/'};" in rest
            names.add((name, base))
            assert (await http.get(f"{base}/console/static/console.js")).status_code == 200
    assert len(names) == 4


def test_a_session_ends() -> None:
    """A week after it began, or when it is left; another process with the same token knows it as well."""
    at = datetime(2026, 1, 5, tzinfo=UTC)
    ada, bob = Caller("ada"), Caller("bob")

    def process() -> Sessions:
        made = Sessions(lambda: at)
        made.know("ada's token", ada)
        made.know("bob's token", bob)
        return made

    one, other = process(), process()
    session, next_one = one.begin(bob), one.begin(bob)
    assert session != next_one
    assert one.caller_of(session) is other.caller_of(session) is bob
    for forged in ("", ".", "..", "x", session[:-1], "x" + session, session.replace(".", ".9", 1), "\udc80.1.\udc80"):
        assert one.caller_of(forged) is None
    one.leave(session)
    assert (one.caller_of(session), one.caller_of(next_one)) == (None, bob)
    at += timedelta(seconds=SESSION_S - 1)
    assert one.caller_of(next_one) is bob
    at += timedelta(seconds=1)
    assert one.caller_of(next_one) is None


def test_those_that_are_left_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_LEFT", 3)
    sessions, ada = Sessions(), Caller("ada")
    sessions.know("ada's token", ada)
    begun = [sessions.begin(ada) for _ in range(9)]
    for session in (*begun, "no session"):
        sessions.leave(session)
    assert len(sessions._left) == 3
    assert sessions.caller_of(begun[-1]) is None


async def test_a_cookie_over_tls_is_for_this_host_alone(db: Path) -> None:
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True, hosts=["shop.example"])
        async with caller(app, token=None, host="https://shop.example") as http:
            origin = {"origin": "https://shop.example"}
            answer = await http.post("/console/login", data={"token": TOKEN}, headers=origin)
            assert answer.headers["set-cookie"].startswith("__Host-pikku_")
            assert "Secure" in answer.headers["set-cookie"] and "; Path=/;" in answer.headers["set-cookie"]
            assert (await http.get("/console/")).status_code == 200


async def test_a_token_is_not_guessed_at_the_door(db: Path) -> None:
    """S7: the form counts as every other way does, and whoever has the token is let in."""
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        for _ in range(FAILURES):
            answer = await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
            assert answer.status_code == 401
        answer = await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
        assert (answer.status_code, "wait" in answer.text, "retry-after" in answer.headers) == (429, True, True)
        assert (await http.get("/console/")).status_code == 401
        assert (await http.post("/console/login", data={"token": TOKEN}, headers=SAME)).status_code == 303


async def test_a_reader_sees_no_way_to_do_more(db: Path) -> None:
    """S6: nor is there one."""
    async with pikku.open(db) as engine:
        reader = "may-only-look-at-things"
        app = engine.asgi(token=TOKEN, tokens={reader: "read"}, console=True)
        await engine.start("waiting", run_id="r")
        async with caller(app, token=None) as http:
            await http.post("/console/login", data={"token": reader}, headers=SAME)
            page = (await http.get("/console/runs/r")).text
            assert "your token allows `read`; this needs `operate`" in page
            assert "Start a run" not in page
            assert (await http.post("/console/runs/r/cancel", data={}, headers=SAME)).status_code == 403
            assert (await http.post("/console/all/cancel", data={}, headers=SAME)).status_code == 403
        assert (await engine.get_run("r")).status == "running"


async def test_secrets_are_taken_out_of_pages(db: Path) -> None:
    """S14: of values, errors, reasons and tags, also in what runs wait for."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True, redact=lambda text: text.replace("s3cret", "***"))
        await engine.run("echo", {"key": "s3cret"}, run_id="echoes", tags={"of": "s3cret"})
        failing = await engine.start("failing", "s3cret", run_id="fails")
        await engine.start("waiting", run_id="waits")
        await engine.cancel("waits", "s3cret")
        with pytest.raises(Exception, match="s3cret"):
            await failing.result()
        async with caller(app) as http:
            for path in ("", "runs/echoes", "runs/fails", "runs/waits", "runs/echoes/value/input",
                         "start?from_run=echoes",
                         "runs/echoes/confirm/fork", "runs/fails/confirm/retry"):  # fmt: skip
                answer = await http.get(f"/console/{path}")
                assert answer.status_code == 200
                assert "s3cret" not in answer.text, path


def test_what_is_vendored_is_what_it_says_it_is() -> None:
    """With version, licence and hash; nothing else is there."""
    known = json.loads((STATIC / "vendored.json").read_text())
    named = {"console.js", "console.css", "vendored.json"}
    for package in known.values():
        assert (STATIC / package["licence_file"]).read_text().startswith("Zero-Clause BSD")
        named.add(package["licence_file"])
        for name, facts in package["files"].items():
            digest = base64.b64encode(hashlib.sha384((STATIC / name).read_bytes()).digest()).decode()
            assert facts["hash"] == f"sha384-{digest}"
            named.add(name)
    assert {path.name for path in STATIC.iterdir()} == named


def test_it_is_small_and_loads_nothing_from_elsewhere() -> None:
    """Less than 150 KB in all, without a CDN; nothing of ours is evaluated from a text."""
    assert sum(path.stat().st_size for path in STATIC.iterdir()) < 150_000
    templates = STATIC.parent / "templates"
    for path in (*templates.iterdir(), STATIC / "console.js", STATIC / "console.css"):
        text = path.read_text(encoding="utf-8")
        assert "http://" not in text and "https://" not in text and "//cdn" not in text
        for word in ("|safe", "innerHTML", "eval(", "hx-on", "style=", "javascript:", "onclick", "Function("):
            assert word not in text.replace(" | ", "|"), (path.name, word)


async def test_no_file_but_its_own_is_served(db: Path) -> None:
    """S11."""
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True)) as http:
        for name in (
            "../pages.py",
            "..%2Fpages.py",
            "%2e%2e/pages.py",
            "/etc/passwd",
            "%2Fetc%2Fpasswd",
            "x",
            "console.css%00",
        ):
            assert (await http.get(f"/console/static/{name}")).status_code == 404
        answer = await http.get("/console/static/console.css")
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/css")


class Address(msgspec.Struct):
    """Nested."""

    street: str


class Given(msgspec.Struct):
    """One field of each kind."""

    name: str
    count: int
    ratio: float = 0.5
    sure: bool = False
    address: Address | None = None
    words: list[str] = []


def test_a_form_is_made_of_a_type() -> None:
    fields = fields_of(schema_of(Given), {"name": "ada", "count": 3, "words": ["a"]})
    assert fields is not None
    assert [(one.name, one.kind, one.required, one.value) for one in fields] == [
        ("name", "text", True, "ada"),
        ("count", "integer", True, "3"),
        ("ratio", "number", False, "0.5"),
        ("sure", "boolean", False, "false"),
        ("address", "json", False, ""),
        ("words", "json", False, '["a"]'),
    ]
    sent = {"field:name": "", "field:count": "7", "field:sure": "true", "field:address": '{"street": "x"}'}
    assert value_of_fields(fields, sent) == {"name": "", "count": 7, "sure": True, "address": {"street": "x"}}
    with pytest.raises(Refused) as refused:
        value_of_fields(fields, {"field:count": "many"})
    assert "count" in str(refused.value.problem.detail)


@pytest.mark.parametrize("annotation", [Any, str, int, list[int], dict[str, int], Given | Address, None])
def test_what_has_no_named_parts_is_written_as_json(annotation: Any) -> None:
    assert fields_of(schema_of(annotation)) is None


@pytest.mark.parametrize(
    ("annotation", "form", "decision"),
    [
        (bool, {"field:decision": "true"}, True), (bool, {"field:decision": "false"}, False),
        (str, {"field:decision": ""}, ""),
        (Literal["air", "sea"], {"field:decision": "sea"}, "sea"), (int, {"field:decision": "7"}, 7),
        (Given, {"field:name": "x", "field:count": "1"}, {"name": "x", "count": 1, "sure": False}),
        (Any, {"field:decision": '{"a": 1}'}, {"a": 1}), (list[int], {"field:decision": "[1]"}, [1]),
    ],
)  # fmt: skip
def test_a_decision_is_made_by_a_form_of_its_type(annotation: Any, form: dict[str, str], decision: object) -> None:
    fields, whole = decision_fields(schema_of(annotation))
    assert decision_of(fields, whole, form) == decision


async def test_what_is_to_be_decided_is_known_of_a_run_in_the_file(db: Path) -> None:
    """It is read for that; what was decided is asked for no more."""
    settings: dict[str, Any] = {"resident_runs": 0, "unload_after": 0}
    async with pikku.open(db, **settings) as engine, pikku.connect(db) as client:
        await engine.start("asking", run_id="r")
        while (found := await engine.approvals("r")) == {}:
            pass
        assert found == {"ok": {"type": "boolean"}}
        assert await client.approvals("r") == found
        await engine.approve("r", "ok", True)
        await (await engine.handle("r")).result("30s")
        assert await engine.approvals("r") == {}
        with pytest.raises(RunNotFound):
            await engine.approvals("nothing")


async def test_a_run_of_many_steps_comes_in_pages(db: Path) -> None:
    """The last ones first; those with errors by themselves."""
    many = Pikku()

    def fail() -> None:
        raise ValueError("odd")

    @many.workflow
    async def long(workflow: Workflow) -> None:
        for number in range(450):
            try:
                await workflow.do(f"step {number}", fail if number % 100 == 50 else lambda: None)
            except StepFailed:
                pass

    async with many.open(db, durability="process") as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.run(long, run_id="long")
        last = (await http.get("/console/runs/long")).text
        assert "page 3 of 3" in last and "step 449" in last and "step 399<" not in last
        first = (await http.get("/console/runs/long?page=1")).text
        assert "page 1 of 3" in first and "step 0" in first
        failed = (await http.get("/console/runs/long?failed=true")).text
        assert failed.count("✘") == 4 and "step 250" in failed


async def test_code_that_does_not_fit_is_shown_beside_what_is_recorded(db: Path) -> None:
    """With the cures, and the action that accepts it."""

    def shop(name: str) -> Pikku:
        made = Pikku()

        @made.workflow
        async def order(workflow: Workflow) -> None:
            await workflow.do(name, lambda: 1)
            await workflow.wait_for_signal("go")

        return made

    old, new = shop("Charge"), shop("Check <b>")
    async with old.open(db) as engine:
        await engine.start("order", run_id="r")
        while len(await engine.steps("r")) < 2:
            await asyncio.sleep(0)
    async with new.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        while (await engine.get_run("r")).status != "suspended":
            await asyncio.sleep(0)
        page = (await http.get("/console/runs/r")).text
        assert "The code does not fit what is recorded" in page
        assert "<code>&#39;Charge&#39; (inline)</code>" in page
        assert "&#39;Check &lt;b&gt;&#39; (inline)" in page
        assert "Accept the code as it is" in (await http.get("/console/runs/r/confirm/resume")).text
        await http.post("/console/runs/r/resume", data={"accept": "new"})
        while (await engine.get_run("r")).status != "running":
            await asyncio.sleep(0)


async def test_all_that_the_list_shows_are_meant_when_all_are_steered(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever they were found by; and what is more than a browser waits for is said."""
    monkeypatch.setattr(steering, "MOST_AT_ONCE", 4)
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for number in range(6):
            await engine.start("waiting", run_id=f"w{number}")
        await engine.start("asking", run_id="waiting for you")
        await engine.start("asking", run_id="other")
        assert (await http.get("/console/?q=waiting")).text.count('<tr id="row-') == 7
        asked = (await http.get("/console/all/cancel?q=waiting")).text
        assert "4 runs now, and then again: there are more after these" in asked
        done = (await http.post("/console/all/cancel?q=waiting", data={"reason": "enough"}, headers=SAME)).text
        assert "4 runs were cancelled." in done
        assert "There are more that match." in done
        done = (await http.post("/console/all/cancel?q=waiting", data={"reason": "enough"}, headers=SAME)).text
        assert "3 runs were cancelled." in done
        assert "There are more that match." not in done
        left = await engine.list_runs(status="running")
        assert [run.id for run in left.runs] == ["other"]


async def test_what_is_asked_wrongly_is_a_page(db: Path) -> None:
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for path, status in (
            ("?since=soon", 422), ("?status=lost", 422), ("?colour=red", 422), ("runs/x/confirm/explode", 404),
            ("runs/x", 404),
            ("all/delete", 404), ("start?workflow=x", 404), ("?cursor=x", 422), ("runs/x/value/input", 404),
        ):  # fmt: skip
            answer = await http.get(f"/console/{path}")
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (status, "text/html"), path
    async with caller(engine.asgi(token=TOKEN, console=True)) as http:
        answer = await http.get("/console/")
        assert (answer.status_code, "lifespan=engine.lifespan" in answer.text) == (503, True)
