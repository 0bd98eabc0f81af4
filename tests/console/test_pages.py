"""The console by requests alone: who gets in, what is served, and forms."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from pikkupy import Engine, EngineClosed, Pikku, Run, RunFailed, RunNotFound, StepFailed, Workflow
from pikkupy.clock import SystemClock
from pikkupy.console import CONSOLE, finding, pages, rendering, steering
from pikkupy.console.overview import at_most
from pikkupy.console.printing import LONGEST, printed
from pikkupy.console.rendering import STATIC
from pikkupy.core.commands import Policy, StepCall
from pikkupy.core.decide import mismatch
from pikkupy.core.model import StepKind, StepRow, StepStatus
from pikkupy.http import Caller, HttpConfig, Scope, application, tokens
from pikkupy.http.shown import Shown
from pikkupy.http.tokens import FAILURES, SESSION_S, Sessions
from pikkupy.showing.mismatch import mismatch_of
from pikkupy.showing.words import counted
from tests.http.shop import HOST, TOKEN, Order, caller, pikku, served
from tests.http.test_streams import listening

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
        basic = {"authorization": "Basic YTpi"}  # as a proxy may have asked for: the cookie is looked at all the same
        for headers in ({}, basic, {"origin": "http://a.b"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            answer = await http.post("/console/runs/r/cancel", data={}, headers=headers)
            assert answer.status_code == 403, headers
        assert (await engine.get_run("r")).status == "running"
        for headers in (SAME, {"sec-fetch-site": "same-origin"}, {"origin": "null", "sec-fetch-site": "same-origin"}):
            assert (await http.post("/console/runs/r/signal", data={"name": "x"}, headers=headers)).status_code == 303
        await http.get("/console/runs/r")  # which says what was done
        kept = dict(http.cookies)
        left = await http.post("/console/logout", headers=SAME)
        assert left.status_code == 303
        assert not http.cookies
        http.cookies.update(kept)
        assert (await http.get("/console/")).status_code == 401  # it is of no use to whoever has kept it
        for number in range(2 * FAILURES):
            last = await http.get("/console/", headers={"cookie": "; ".join(f"{name}=guess{number}" for name in kept)})
        assert last.status_code == 429


async def test_a_browser_that_was_left_open_locks_nobody_out(db: Path) -> None:
    """After the token was changed its cookie is one wrong guess, however often it comes, and it is taken away."""
    async with caller(pikku.open(db).asgi(token="the-token-of-before", console=True), token=None) as http:
        await http.post("/console/login", data={"token": "the-token-of-before"}, headers=SAME)
        [(name, session)] = http.cookies.items()
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        for path in ("/console/live", "/console/", "/api/runs") * FAILURES:
            answer = await http.get(path, headers={"cookie": f"{name}={session}"})
            assert (answer.status_code, answer.headers["set-cookie"].partition("; ")[0]) == (401, f'{name}=""')
            assert "Max-Age=0" in answer.headers["set-cookie"] and "Path=/;" in answer.headers["set-cookie"]
        answer = await http.post("/console/login", data={"token": TOKEN}, headers=SAME)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/")
        wrong = await http.get("/console/", headers={"authorization": "Bearer wrong"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (401, False)  # the session itself is a good one


def test_wrong_sessions_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_WRONG", 3)
    failures = tokens.Failures()
    for number in range(2 * FAILURES):
        failures.add(str(number), f"session {number}")
    assert len(failures._wrong) == 3


FROM_ELSEWHERE = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize("base", ["", "/a/b"])
async def test_who_logs_in_comes_to_what_was_asked_for(db: Path, base: str) -> None:
    """Also after a wrong token; to pages of the console alone, whatever the form says."""
    app = pikku.open(db).asgi(token=TOKEN, console=True)
    async with caller(Starlette(routes=[Mount(base, app)]) if base else app, token=None) as http:

        async def led(to: str) -> str:
            answer = await http.post(f"{base}/console/login", data={"token": TOKEN, "to": to}, headers=SAME)
            assert answer.status_code == 303
            http.cookies.clear()
            place: str = answer.headers["location"]
            assert place.startswith(f"{base}/console/")
            return place.removeprefix(base)

        def to_of(page: str) -> str:
            found = re.search(r'name="to" value="([^"]*)"', page)
            assert found is not None
            return html.unescape(found[1])

        for path in ("/console/?status=failed&workflow=order", "/console/runs/a%2Fb%22%3E?page=2", "/console/overview"):
            asked = await http.get(f"{base}{path}")
            assert (asked.status_code, to_of(asked.text)) == (401, path)
            wrong = await http.post(
                f"{base}/console/login", data={"token": "wrong", "to": to_of(asked.text)}, headers=SAME
            )
            assert (wrong.status_code, to_of(wrong.text)) == (401, path)
            assert await led(to_of(wrong.text)) == path
        assert to_of((await http.post(f"{base}/console/runs/r/cancel", headers=SAME)).text) == "/console/"
        for to in (
            "", "//evil.example/console/", "http://evil.example/console/", "/console//evil.example", "/\\evil.example",
            "/console/\\evil.example", "/console/../api/runs", "/console/%2e%2e/api/runs", "/api/runs", "/console",
            "/console/\r\nset-cookie: a=b", "/consoles/", "javascript:alert(1)", "/console/login", "/console/é",
            "/console/live", "/console/static/x", "/console/" + "x" * 3_000,
        ):  # fmt: skip
            assert await led(to) == "/console/", to


async def test_a_link_from_elsewhere_does_not_end_at_the_form(db: Path) -> None:
    """Browsers send the cookie to who comes from our own page alone: so there is one in between, and only one."""
    app = pikku.open(db).asgi(token=TOKEN, console=True)
    async with caller(app, token=None) as http:
        between = await http.get("/console/?status=failed", headers=FROM_ELSEWHERE)
        assert (between.status_code, "password" in between.text) == (401, False)
        place = "/console/login?to=%2Fconsole%2F%3Fstatus%3Dfailed"
        assert between.text.count(f'"{place}"') == 1 and f"0; url={place}" in between.text
        policy = between.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        for headers in (FROM_ELSEWHERE, {}):
            form = await http.get(place, headers=headers)
            assert (form.status_code, "password" in form.text) == (401, True)
            assert 'value="/console/?status=failed"' in form.text
    async with caller(app) as http:
        answer = await http.get(place)
        assert (answer.status_code, answer.headers["location"]) == (303, "/console/?status=failed")
        assert (await http.get("/console/login?to=//evil.example")).headers["location"] == "/console/"


BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("base", ["", "/a/b"])
async def test_a_person_is_led_to_the_console(db: Path, base: str) -> None:
    """Known or not, whatever a proxy is asked by; programs are told that there is nothing."""
    app = pikku.open(db).asgi(token=TOKEN, console=True)
    for token in (TOKEN, None):
        async with caller(Starlette(routes=[Mount(base, app)]) if base else app, token=token) as http:
            answer = await http.get(f"{base}/", headers=BROWSER)
            assert (answer.status_code, answer.headers["location"]) == (303, f"{base}/console/")
            answer = await http.get(f"{base}/")
            assert answer.status_code == (401 if token is None else 404)
            assert answer.headers["content-type"] == "application/problem+json"
    async with caller(Starlette(routes=[Mount(base, app)]) if base else app) as http:
        answer = await http.get(f"{base}/console?status=failed", headers={"x-forwarded-proto": "https"})
        assert (answer.status_code, answer.headers["location"]) == (307, f"{base}/console/?status=failed")
        answer = await http.get(f"{base}/api/runs/a%2Fb/")
        assert (answer.status_code, answer.headers["location"]) == (307, f"{base}/api/runs/a%2Fb")
        for path, method, status in (
            ("nothing", "GET", 404), ("runs/r/cancel", "GET", 405), ("nothing", "POST", 404), ("a%2Fb", "GET", 404),
        ):  # fmt: skip
            answer = await http.request(method, f"{base}/console/{path}", headers=SAME)
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (status, "text/html")
            assert 'role="alert"' in answer.text
    async with caller(pikku.open(db).asgi(token=TOKEN)) as http:
        for path in ("/", "/console/", "/console"):
            answer = await http.get(path, headers=BROWSER)
            assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")


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
    """S7: the form counts as every other way does, and lets in whoever was let in from there before."""
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        for _ in range(FAILURES):
            answer = await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
            assert answer.status_code == 401
        answer = await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
        assert (answer.status_code, "wait" in answer.text, "retry-after" in answer.headers) == (429, True, True)
        assert (await http.get("/console/")).status_code == 401
        assert (await http.post("/console/login", data={"token": TOKEN}, headers=SAME)).status_code == 429
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        assert (await http.post("/console/login", data={"token": TOKEN}, headers=SAME)).status_code == 303
        for _ in range(FAILURES):
            await http.post("/console/login", data={"token": "wrong"}, headers=SAME)
        assert (await http.post("/console/login", data={"token": "wrong"}, headers=SAME)).status_code == 429
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


@pytest.mark.parametrize("path", ["start", "start?workflow=order", "all/cancel", "runs/r/confirm/cancel"])
async def test_a_page_that_asks_says_why_nothing_can_be_done(db: Path, path: str) -> None:
    """It shows no button that would be refused."""
    async with pikku.open(db) as engine:
        reader = "may-only-look-at-things"
        await engine.start("waiting", run_id="r")
        for settings, why in (
            ({"tokens": {reader: "read"}}, "your token allows `read`; this needs `operate`"),
            ({"token": reader, "read_only": True}, "this console is read-only"),
        ):
            async with caller(engine.asgi(**settings, console=True), token=reader) as http:
                page = await http.get(f"/console/{path}")
                assert (page.status_code, f"That cannot be done now: {why}." in page.text) == (409, True)
                assert '<button class="do">' not in page.text


async def test_no_runs_are_looked_at_for_who_may_not_act_on_them(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To count all that match is work, for who may do it."""
    monkeypatch.setattr(steering, "MOST_LOOKED_AT", 0)
    async with pikku.open(db) as engine:
        await engine.start("waiting", run_id="r")
        for settings, status in (({}, 422), ({"read_only": True}, 409)):
            async with caller(engine.asgi(token=TOKEN, console=True, **settings)) as http:
                asked = await http.get("/console/all/cancel")
                assert (asked.status_code, "0 runs" in asked.text) == (status, False)


async def test_secrets_are_taken_out_of_pages(db: Path) -> None:
    """S14, I-50: of values, errors, reasons and tags, also in what runs wait for."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True, redact=lambda text: text.replace("s3cret", "***"))
        await engine.run("echo", {"key": "s3cret"}, run_id="echoes", tags={"of": "s3cret"})
        failing = await engine.start("failing", "s3cret", run_id="fails")
        await engine.start("waiting", run_id="waits")
        await engine.cancel("waits", "s3cret")
        with pytest.raises(Exception, match="s3cret"):
            await failing.result()
        async with caller(app) as http:
            for path in ("", "runs/echoes", "runs/fails", "runs/waits", "runs/fails/events", "runs/echoes/value/input",
                         "start?from_run=echoes",
                         "runs/echoes/confirm/fork", "runs/fails/confirm/retry"):  # fmt: skip
                answer = await http.get(f"/console/{path}")
                assert answer.status_code == 200
                assert "s3cret" not in answer.text, path


@dataclass
class Paid:
    """Part of it is secret."""

    amount: int
    key: str
    note: str | None = None


async def test_what_is_hidden_is_no_input_of_another_run(db: Path) -> None:
    """S14: a fork has the input of its run if nobody writes another one; a form begins with what is shown as it is."""
    shop = Pikku()

    @shop.workflow
    async def pay(workflow: Workflow, data: Paid) -> Paid:
        return await workflow.do("pay", lambda: data)

    @shop.workflow
    async def anything(workflow: Workflow, data: Any) -> Any:
        return await workflow.do("look", lambda: data)

    def hide(text: str) -> str:
        return text.replace("s3cret", "[hidden]")

    paid, odd = Paid(7, "s3cret", "a\nb"), {"pair": (1, 2), "at": datetime(2026, 1, 1, tzinfo=UTC), "some": b"x"}
    async with shop.open(db) as engine:
        await engine.run(pay, paid, run_id="paid")
        await engine.run(anything, {"key": "s3cret"}, run_id="secret")
        await engine.run(anything, odd, run_id="odd")
        await engine.run(anything, ["x\xa0" * 5], run_id="plain")
        async with caller(engine.asgi(token=TOKEN, console=True, redact=hide)) as http:

            async def text(path: str) -> str:
                answer = await http.get(f"/console/{path}")
                assert answer.status_code == 200
                return html.unescape(answer.text)

            for run_id, step, value in (("paid", "pay", paid), ("odd", "look", odd)):
                asked = await text(f"runs/{run_id}/confirm/fork?edit=true")
                assert 'spellcheck="false">\n</textarea>' in asked and "not to be edited here" in asked
                answer = await http.post(f"/console/runs/{run_id}/fork", data={"at": step, "value": ""}, headers=SAME)
                fork = await engine.handle(answer.headers["location"].partition("?")[0].rpartition("/")[2])
                assert await fork.result() == value
            assert "edit a copy" in await text("runs/plain/confirm/fork")
            assert '>\n[\n  "x\\u00a0x\\u00a0x\\u00a0x\\u00a0x\\u00a0"\n]</textarea>' in await text(
                "runs/plain/confirm/fork?edit=true"
            )

            anew = await text("start?from_run=paid")
            assert "it holds what is hidden here" in anew and "[hidden]" not in anew
            assert 'value="7"' in anew and ">\na\nb</textarea>" in anew
            for run_id, why in (
                ("secret", "what is hidden here"),
                ("odd", "what JSON has not"),
                ("odd", "a class not known here"),
            ):
                anew = await text(f"start?from_run={run_id}")
                assert why in anew and "autofocus>\n</textarea>" in anew
            assert '"x\\u00a0x\\u00a0x\\u00a0x\\u00a0x\\u00a0"' in await text("start?from_run=plain")
        async with caller(engine.asgi(token=TOKEN, console=True, max_body=20)) as http:
            assert "it is too large for a form" in (await http.get("/console/start?from_run=plain")).text


async def test_the_list_says_how_it_was_searched(db: Path) -> None:
    """By the beginning of an id and a part of a workflow's name or of an error; counts would be of all runs."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.run("order", {"number": 1}, run_id="o1")

        async def text(query: str) -> str:
            answer = await http.get(f"/console/?{query}")
            assert answer.status_code == 200
            return re.sub(r"<[^>]+>", "", html.unescape(answer.text))

        assert "all 1" in await text("") and "completed 1" in await text("workflow=order")
        found = await text("q=rdex")
        assert "There are no such runs." in found
        assert "with an id that begins with, or a workflow or an error that has “rdex”" in found
        assert "o1" in await text("q=rde")
        assert "“order”" in await text("q=order") and "o1" in await text("q=order")


async def test_chips_count_what_is_found_where_that_is_cheap(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs and those of a workflow always; others where all that are found are on the page."""
    monkeypatch.setattr(finding, "LIMIT", 3)
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for number in range(3):
            await engine.run("order", {"number": number}, run_id=f"o{number}", tags={"odd": str(number % 2)})
        await engine.start("waiting", run_id="w", tags={"odd": "1"})

        async def counts(query: str) -> dict[str, str]:
            chips = (await http.get(f"/console/?{query}")).text.partition('class="chips"')[2].partition("</ul>")[0]
            said = re.sub(r"<[^>]+>", "", chips)
            return dict(re.findall(r"(all|running|completed|failed)(?: (\d+))?\n", said))

        assert await counts("") == {"all": "4", "running": "1", "completed": "3", "failed": "0"}
        assert await counts("tag=odd:1") == {"all": "2", "running": "1", "completed": "1", "failed": "0"}
        assert await counts("since=1h") == {"all": "", "running": "", "completed": "", "failed": ""}
        for query in ("q=rde", "since=1h&workflow=order", "until=2999-01-01&tag=odd:0"):
            assert (await counts(query))["all"] in ("2", "3"), query
        some = await counts("tag=odd:1&status=running")
        assert some == {"all": "", "running": "1", "completed": "", "failed": ""}
        older = re.search(r"cursor=(\d+)", (await http.get("/console/?until=2999-01-01")).text)
        assert older is not None
        assert (await counts(f"until=2999-01-01&cursor={older[1]}"))["completed"] == ""


async def test_runs_are_found_by_tags_and_a_span_of_time(db: Path) -> None:
    """All of it is in the URL, stays in the form and in its links, and is meant by all that match."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for number in range(4):
            tags = {"shop": str(number % 2), "to": "a:b c" if number < 2 else "d"}
            await engine.start("waiting", run_id=f"w{number}", tags=tags)

        async def found(query: dict[str, Any]) -> list[str]:
            answer = await http.get("/console/", params=query)
            assert answer.status_code == 200, answer.text
            return re.findall(r'<tr id="row-([^"]*)"', answer.text)

        assert await found({"tag": ["shop:1"]}) == ["w3", "w1"]
        assert await found({"tag": ["", "shop:1", "to:a:b c", ""]}) == ["w1"]
        assert await found({"since": "1h", "until": ""}) == await found({"until": "2999-12-24 18:00"})
        assert await found({"since": "2999-12-24T18:00:00Z"}) == await found({"until": "1h"}) == []
        query = {"tag": ["shop:1", "to:a:b c"], "since": "3h", "until": "2999-12-24 18:00", "status": "running"}
        page = html.unescape((await http.get("/console/", params=query)).text)
        fields = re.findall(r'<input (?:type="hidden" )?name="(\w+)"[^>]*? value="([^"]*)"', page)
        assert [value for name, value in fields if name == "tag"] == ["shop:1", "to:a:b c", ""]
        assert {("since", "3h"), ("until", "2999-12-24 18:00"), ("status", "running")} <= set(fields)
        for place in re.findall(r'href="(/console/(?:all/cancel)?\?[^"]*)"', page):
            assert "tag=shop%3A1&tag=to%3Aa%3Ab+c" in place and "until=2999-12-24+18%3A00" in place
        asked = html.unescape((await http.get("/console/all/cancel", params=query)).text)
        assert (
            "1 unfinished run, running, with shop:1 and to:a:b c, started after 3h ago, before 2999-12-24 18:00."
            in asked
        )
        assert "1 run was cancelled." in await said(
            http, "/console/all/cancel?tag=shop:1&tag=to:a:b c&until=2999-01-01"
        )
        assert [run.id for run in (await engine.list_runs(status="running")).runs] == ["w3", "w2", "w0"]
        for query, why in (
            ({"tag": "shop"}, "`tag=shop`: use name:value"),
            ({"tag": [":x"]}, "name of a tag must have 1 to 256 characters"),
            ({"tag": ["a:1", "a:2"]}, "the tag 'a' has another value, too"),
            ({"until": "x"}, "`until`: use so long ago, as 2h or 30d, or a time, as 2026-12-24 18:00, not 'x'"),
        ):
            answer = await http.get("/console/", params=query)
            assert (answer.status_code, why in html.unescape(answer.text)) == (422, True), html.unescape(answer.text)
        assert 'href="/console/?tag=shop%3A1"' in (await http.get("/console/runs/w1")).text


@pytest.mark.parametrize(
    ("count", "percent", "place"),
    [(1, 50, 1), (2, 50, 1), (3, 50, 2), (4, 50, 2), (1, 95, 1), (19, 95, 19), (20, 95, 19), (500, 95, 475)],
)
def test_so_many_of_a_hundred_took_at_most_as_long(count: int, percent: int, place: int) -> None:
    """The shortest length for which that is true."""
    lengths = [timedelta(seconds=number) for number in range(1, count + 1)]
    assert at_most(lengths, percent) == timedelta(seconds=place)


async def test_the_overview_says_which_failed_runs_it_shows(db: Path) -> None:
    """Those started last: a run that began before them is not among them, even if it failed after them."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        assert "Failed, of those started last" in (await http.get("/console/overview")).text


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


async def test_what_is_to_be_decided_is_known_of_a_run_in_the_file(db: Path) -> None:
    """It is read for that; what was decided is asked for no more."""
    settings: dict[str, Any] = {"resident_runs": 0, "unload_after": 0}
    async with pikku.open(db, **settings) as engine, pikku.connect(db) as client:
        await engine.start("asking", run_id="r")
        while (found := await engine.approvals("r")) == {}:
            pass
        assert found == {"ok": {"type": "boolean"}}
        assert await client.approvals("r") == found
        assert await client.awaited_signals("r") == {}
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


async def test_each_attempt_says_what_went_wrong(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its traceback; of many attempts the last ones, and of many tracebacks too. Secrets are taken out."""
    many = Pikku()

    @many.workflow
    async def flaky(workflow: Workflow) -> None:
        tries = iter(range(30))

        def fail() -> None:
            number = next(tries)
            if number < 29:
                raise ValueError(f"try {number} of s3cret\nline two of {number}")

        await workflow.do("fail", fail, retries=30, retry_delay=0)

    hide: Any = {"redact": lambda text: text.replace("s3cret", "***")}
    async with many.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True, **hide)) as http:
        await engine.run(flaky, run_id="r")
        page = (await http.get("/console/runs/r")).text
        assert "20 last attempts" in page and "s3cret" not in page
        for number in range(30):
            assert (f"try {number} of ***</p>" in page) is (10 <= number < 29), number
            assert (f"line two of {number}\n" in page) is (10 <= number < 29), number
        monkeypatch.setattr(pages, "TRACEBACKS", 5)
        page = (await http.get("/console/runs/r")).text
        assert "try 20 of ***</p>" in page and "line two of 20\n" not in page
        assert page.count("Traceback (most recent") == 4


@pytest.mark.parametrize(
    ("message", "traceback", "whole"),
    [
        ("no money", "", "ValueError: no money"),
        ("no money\nat all", "", "ValueError: no money\nat all"),
        ("no money", "File x\nValueError: no money", "File x\nValueError: no money"),
        ("no <money>", "File x", "ValueError: no <money>\n\nFile x"),
    ],
    ids=["one line", "lines", "traceback", "traceback without it"],
)
def test_every_error_can_be_copied_whole(message: str, traceback: str, whole: str) -> None:
    """What is copied is what stands before the button: the type, the message, and the traceback if there is one."""
    macros: Any = rendering._templates().get_template("_macros.html").module
    shown = str(macros.error({"type": "ValueError", "message": message, "traceback": traceback}))
    before, button, after = shown.partition('<button type="button" class="copy"')
    assert button and "<button" not in after
    element = re.split(r"<(?:p|pre)\b[^>]*>", before)[-1].rstrip()
    assert element.endswith(("</p>", "</pre>"))
    assert html.unescape(re.sub(r"<[^>]*>", "", element)) == whole


async def test_a_value_is_taken_away_as_a_file_and_never_shown(db: Path) -> None:
    """S4: a browser keeps it, whatever stands in it, and does not guess what it is."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.run("echo", "<script>alert(1)</script>", run_id="r")
        await engine.run("order", {"number": 1}, run_id="o")
        for path in ("r/value/input", "r/value/output", "o/value/step:double"):
            answer = await http.get(f"/console/runs/{path}")
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "application/octet-stream"
            assert answer.headers["content-disposition"] == "attachment; filename=value.json"
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_run_under_way_is_sent_anew_only_when_it_has_changed(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server looks, and makes nothing of what it has seen before, although now moves on."""
    monkeypatch.setattr(pages, "LIVE_S", 0)
    monkeypatch.setattr(pages, "SHARE", 0)
    made, looked, enough = 0, 0, asyncio.Event()
    rendered, get_run = pages.rendered, Engine.get_run

    def render(*given: Any, **values: Any) -> str:
        nonlocal made
        made += 1
        return rendered(*given, **values)

    async def look(engine: Engine, run_id: str) -> Run:
        nonlocal looked
        looked += 1
        if looked == 20:
            enough.set()
        return await get_run(engine, run_id)

    async with pikku.open(db) as engine, served(engine.asgi(token=TOKEN, console=True)) as url:
        await engine.start("waiting", run_id="r")
        while not await engine.open_steps(["r"]):
            await asyncio.sleep(0)
        await engine.run("echo", 1)  # what the other one has written is on disk by then
        monkeypatch.setattr(pages, "rendered", render)
        monkeypatch.setattr(Engine, "get_run", look)
        async with listening(f"{url}/console/runs/r/live") as (answer, _):
            lines = answer.aiter_lines()
            while "waits for the signal go" not in await anext(lines):
                pass
            await enough.wait()
            assert made == 1
            await engine.signal("r", "go", {"said": "at last"})
            while "at last" not in await anext(lines):
                pass
            assert made <= 4


@dataclass
class Parcel:
    """With something secret inside."""

    name: str
    parts: list[str]


class Letter(msgspec.Struct, tag="letter"):
    """The same, of another kind."""

    name: str = msgspec.field(name="Name")


@pytest.mark.parametrize(
    "value",
    [
        None, True, 1.5, float("nan"), "text\n\x1b", b"bytes", [], {}, (1, [2, {"a": None}]), {"a": {"b": "c"}},
        {1: "one"}, {"one"}, 1 << 70, Parcel("a", ["b"]), Letter("x"), [Parcel("a", []), Letter("y")],
        datetime(2026, 1, 1, tzinfo=UTC), StepKind.SLEEP, "x" * 19_998,
    ],
)  # fmt: skip
def test_a_value_that_is_not_long_is_shown_whole(value: Any) -> None:
    """As it is sent, in lines and printable characters."""
    shown = Shown(lambda text: text.replace("b", "*"))
    found = printed(shown, value)
    assert found.is_whole
    text = json.dumps(shown.value(value), ensure_ascii=False, indent=2)
    assert found.text == text and all(line.isprintable() for line in found.text.split("\n"))


@pytest.mark.parametrize(
    "value",
    [
        ["s3cret"] * 1_000_000,
        {f"s3cret {number}": number for number in range(1_000_000)},
        {number: ["s3cret"] for number in range(1_000_000)},
        Parcel("s3cret", ["s3cret"] * 1_000_000),
        ["s3cret" * 5_000, ["s3cret"] * 1_000_000],
        list(range(1_000_000)),
        "x" * 19_996 + "s3cret" * 1_000_000,
        "x" * 19_999,
    ],
)
def test_of_a_long_value_only_the_beginning_is_looked_at(value: Any) -> None:
    """And is cut where nothing looks like an end; a secret is taken out as a whole."""
    asked = 0

    def hide(text: str) -> str:
        nonlocal asked
        asked += 1
        return text.replace("s3cret", "***")

    found = printed(Shown(hide), value)
    assert not found.is_whole
    assert len(found.text) == LONGEST and not found.text.endswith(("]", "}", '"\n'))
    assert asked <= LONGEST and "s3" not in found.text


@pytest.mark.parametrize("value", [list(range(20_000)), [[None]] * 20_000, [{"a": 1}] * 20_000])
def test_what_is_looked_at_of_a_long_value_is_what_is_printed(value: Any) -> None:
    """Each number counts with its digits, its indentation and the end of its line."""

    class Counting(Shown):
        looked_at = 0

        def value(self, value: Any, *, plain_already: bool = False) -> Any:
            self.looked_at += 1
            return super().value(value, plain_already=plain_already)

    shown = Counting(None)
    found = printed(shown, value)
    assert (len(found.text), found.is_whole) == (LONGEST, False)
    assert shown.looked_at <= len(found.text.split("\n"))


async def test_the_values_of_a_page_have_a_limit_together(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it each is a link to its file, and others have their turn while a page is made."""
    many, turns, looked = Pikku(), 0, list[int]()

    async def turning() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def look(text: str) -> str:
        if text.startswith("value"):
            looked.append(turns)
        return text

    @many.workflow
    async def large(workflow: Workflow) -> None:
        for number in range(5):
            await workflow.do(f"step {number}", lambda: "value" + "x" * 1_000)

    monkeypatch.setattr("pikkupy.console.printing.LONGEST_PAGE", 2_500)
    async with many.open(db, durability="process") as engine:
        await engine.run(large, run_id="r")
        async with caller(engine.asgi(token=TOKEN, console=True, redact=look)) as http:
            await http.get("/console/overview")
            other = asyncio.ensure_future(turning())
            text = (await http.get("/console/runs/r")).text
            other.cancel()
    assert text.count("x" * 1_000) == 3 and text.count("all of it as a file") == 2
    assert len(set(looked)) == len(looked) == 3


def test_what_is_hidden_under_one_name_is_not_taken_for_all_that_there_is() -> None:
    """Members whose names are redacted take each other's place."""
    found = printed(Shown(lambda text: "***"), {f"{number}": "x" for number in range(10_000)})
    assert not found.is_whole


async def test_a_time_says_its_zone_and_a_wait_how_long_it_is(db: Path) -> None:
    """In the list and on the page of the run."""
    late = Pikku()

    @late.workflow
    async def sleeps(workflow: Workflow) -> None:
        await workflow.sleep("rest", "5430s")

    async with late.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start(sleeps, run_id="r")
        while not await engine.open_steps(["r"]):
            await asyncio.sleep(0)
        here = datetime.now(UTC).astimezone()
        for path in ("", "runs/r"):
            page = (await http.get(f"/console/{path}")).text
            assert "(in 1 h 30 min)" in page
            assert f"Times are those of the server: UTC{here.isoformat()[-6:]} ({here.tzname()})." in page
            assert f'{here.isoformat()[-6:]} ({here.tzname()})">' in page


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
        assert "<td>1: Charge</td>" in page
        assert "&#39;Check &lt;b&gt;&#39; (inline)" in page
        assert "Accept the code as it is" in (await http.get("/console/runs/r/confirm/resume")).text
        await http.post("/console/runs/r/resume", data={"accept": "new"})
        while (await engine.get_run("r")).status != "running":
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    "name", ["a, asked for b", "it's, asked for 'x' (inline)", '"a" (inline), asked for \\\'', "a\n\x00"]
)
def test_a_difference_is_taken_apart_whatever_the_steps_are_called(name: str) -> None:
    """The step is counted from 1, and called by its name."""
    recorded = StepRow(run=1, position=2, name=name, kind=StepKind.FUNCTION, target="charge", status=StepStatus.RUNNING)
    asked = StepCall(position=2, name=f"{name} anew", kind=StepKind.SLEEP, policy=Policy(max_delay_us=0))
    why = mismatch(recorded, asked)
    found = mismatch_of(f"ReplayMismatch: {why} at shop.py:7")
    assert found == (3, name, f"{name!r} (function charge)", f"{f'{name} anew'!r} (sleep) at shop.py:7")


def test_a_reason_that_tells_no_difference_is_none() -> None:
    """Nor does one whose names were hidden in part."""
    for reason in (None, "closed", "ReplayMismatch: timer 1: gone", "ReplayMismatch: step 1: recorded *** (inline)"):
        assert mismatch_of(reason) is None
    hidden = mismatch_of(r"ReplayMismatch: step 0: recorded '\x*** (inline)' (inline), asked for 'b' (inline)")
    assert hidden is not None and hidden.name == r"'\x*** (inline)'"


async def said(http: Any, path: str, **fields: str) -> str:
    """What is answered to who is asked and says yes."""
    return await sent(http, path, (await http.get(path)).text, **fields)


async def sent(http: Any, path: str, asked: str, **fields: str) -> str:
    """The same, when the question was asked before."""
    answer: str = (await http.post(path, data=hidden_in(asked) | fields, headers=SAME)).text
    return answer


def hidden_in(asked: str) -> dict[str, str]:
    """What a browser sends of a form that nobody sees."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', asked))


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
        assert "<p>7 unfinished runs, found by" in asked and "<p>4 at a time, the oldest first.</p>" in asked
        assert ">Cancel 4 unfinished runs</button>" in asked
        done = await sent(http, "/console/all/cancel?q=waiting", asked, reason="enough")
        assert "4 runs were cancelled." in done
        await engine.start("waiting", run_id="later")
        assert "3 runs are left that matched when you were asked." in done and ">Go on</button>" in done
        done = await sent(http, "/console/all/cancel?q=waiting", done)
        assert "3 runs were cancelled." in done
        assert "Go on" not in done
        left = await engine.list_runs(status="running")
        assert [run.id for run in left.runs] == ["later", "other"]
        assert {run.reason for run in (await engine.list_runs(status="cancelled")).runs} == {"enough"}


async def test_a_child_is_never_steered_before_a_run_above_it(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if there are more than are steered at once: its parent would make up for what has happened to it."""
    monkeypatch.setattr(steering, "MOST_AT_ONCE", 2)
    family, made_up = Pikku(), list[str]()

    @family.workflow
    async def child(workflow: Workflow) -> None:
        await workflow.wait_for_signal("go")

    @family.workflow
    async def parent(workflow: Workflow) -> None:
        try:
            await asyncio.gather(*(workflow.do(f"child {number}", child) for number in range(3)))
        except StepFailed:
            await workflow.do("make up", lambda: made_up.append(workflow.run_id))

    async with family.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start(parent, run_id="p")
        while len((await engine.list_runs()).runs) < 4:
            await asyncio.sleep(0)
        asked = (await http.get("/console/all/cancel")).text
        done = await sent(http, "/console/all/cancel", asked)
        assert "2 runs were cancelled." in done
        assert "Go on" in done
        done = await sent(http, "/console/all/cancel", done)
        assert "0 runs were cancelled." in done and "Go on" not in done
        assert {run.status for run in (await engine.list_runs()).runs} == {"cancelled"}
        assert made_up == []


async def test_more_than_can_be_looked_at_are_refused(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is done, with what can be done instead."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for number in range(3):
            await engine.start("waiting", run_id=f"w{number}")
        path = "/console/all/cancel"
        asked = (await http.get(path)).text
        monkeypatch.setattr(steering, "MOST_LOOKED_AT", 2)
        for answer in (await http.get(path), await http.post(path, data=hidden_in(asked), headers=SAME)):
            said = html.unescape(answer.text)
            assert answer.status_code == 422
            assert "more than 2 match, and nothing was done to any of them" in said and "`pikku runs cancel`" in said
        assert {run.status for run in (await engine.list_runs()).runs} == {"running"}
        monkeypatch.setattr(steering, "MOST_LOOKED_AT", 3)
        assert "3 runs were cancelled." in await sent(http, path, asked)


async def test_what_has_failed_again_is_not_retried_twice(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one question: those that come after it would never have their turn."""
    monkeypatch.setattr(steering, "MOST_AT_ONCE", 2)
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:

        async def ended() -> list[int]:
            found = list[int]()
            for number in range(5):
                handle = await engine.handle(f"f{number}")
                with pytest.raises(RunFailed):
                    await handle.result()
                found.append((await engine.steps(handle.id))[0].attempts)
            return found

        for number in range(5):
            await engine.start("failing", "no stock", run_id=f"f{number}")
        await ended()
        done = (await http.get("/console/all/retry")).text
        for tried in ([2, 2, 1, 1, 1], [2, 2, 2, 2, 1], [2, 2, 2, 2, 2]):
            done = await sent(http, "/console/all/retry", done)
            assert await ended() == tried
        assert "Go on" not in done


@pytest.mark.parametrize(("number", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1200, "1,200 runs")])
def test_one_is_not_many(number: int, said: str) -> None:
    assert counted(number, "run") == said


async def test_one_run_that_matches_is_one(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the question, on the button, in what was done, and of what could not be."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("waiting", run_id="w")
        asked = (await http.get("/console/all/cancel")).text
        assert "<p>1 unfinished run.</p>" in asked and ">Cancel 1 unfinished run</button>" in asked
        assert "1 run was cancelled." in await said(http, "/console/all/cancel")
        assert "<p>0 unfinished runs.</p>" in (await http.get("/console/all/cancel")).text
        await engine.start("waiting", run_id="other")

        async def refuse(*_: Any) -> None:
            raise RunNotFound("it is gone")

        monkeypatch.setattr(type(engine), "cancel", refuse)
        done = await said(http, "/console/all/cancel")
        assert "0 runs were cancelled." in done and "1 run was not:" in done


async def test_who_is_asked_about_some_runs_does_not_mean_those_that_come_later(
    db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the clock is set back in between, and the newest of them has ended or is gone."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for number in range(3):
            await engine.start("waiting", run_id=f"w{number}")
        path = "/console/all/cancel?workflow=waiting"
        forms = [(await http.get(path)).text for _ in range(2)]
        assert "3 unfinished runs" in forms[0]
        monkeypatch.setattr(SystemClock, "now_us", lambda _: time.time_ns() // 1_000 - 3_600_000_000)
        for number in range(3, 6):
            await engine.start("waiting", run_id=f"w{number}")
        await engine.cancel("w2", "by itself")
        done = await sent(http, path, forms[0])
        assert "2 runs were cancelled." in done
        await engine.delete_run("w2")
        assert "0 runs were cancelled." in await sent(http, path, forms[1])
        left = await engine.list_runs(status="running")
        assert [run.id for run in left.runs] == ["w5", "w4", "w3"]
        assert "0 runs were cancelled." in (await http.post(path, data={}, headers=SAME)).text


async def test_a_form_that_is_refused_comes_again_with_what_was_written(db: Path) -> None:
    """And with why, whatever it was for."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("waiting", run_id="r")
        await engine.start("judging", run_id="judged")
        await engine.run("order", {"number": 1}, run_id="order")
        for path, form, status, texts in (
            ("start", {"workflow": "order", "as": "fields", "id": "x", "field:number": "many", "field:due": "soon"},
             422,
             ("number: 'many' is no whole number; write it as 12", 'value="many"', 'value="soon"', 'value="x"')),
            ("start", {"workflow": "order", "as": "fields", "field:number": "1", "id": "r"}, 409, ('value="r"',)),
            ("start", {"workflow": "echo", "value": "\n{1}"}, 400, ("Not JSON", ">\n\n{1}</textarea>")),
            ("runs/r/signal", {"name": "go there", "value": "hello"}, 400,
             ("Not JSON", 'a text needs quotes: "text"', "hello</textarea>", "go there")),
            ("runs/order/fork", {"at": "double", "value": '{"number": "x"}'}, 422,
             ("Expected `int`", '{"number": "x"}</textarea>')),
            ("runs/order/fork", {"at": "nothing", "value": ""}, 422, ('value="nothing"',)),
            ("runs/order/cancel", {"reason": "late"}, 409, ("That cannot be done now",)),
            ("runs/judged/approve", {"name": "bad", "field:yes": "true"}, 409, ("does not wait for a decision 'bad'",)),
            ("runs/judged/approve", {"name": "good", "field:why": "so it is", "field:stars": "4"}, 422,
             ("yes: it has to be given", "so it is</textarea>", 'value="4"')),
        ):  # fmt: skip
            answer = await http.post(f"/console/{path}", data=form, headers=SAME)
            found = html.unescape(answer.text)
            assert answer.status_code == status, (path, found)
            assert 'role="alert"' in found
            for text in texts:
                assert text in found, (path, text, found)


async def test_null_is_decided_by_a_button_and_told_in_the_audit_line(
    db: Path, caplog: pytest.LogCaptureFixture
) -> None:
    many = Pikku()

    @many.workflow
    async def asks(workflow: Workflow) -> Any:
        first = await workflow.approval("order", Order | None)
        return first, await workflow.wait_for_signal("again", Order | None)

    caplog.set_level("INFO", "pikkupy")
    async with many.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start(asks, run_id="r")
        for verb, name, said in (("approve", "order", "Decide null"), ("signal", "again", "Send null")):
            while not (await engine.approvals("r") or await engine.awaited_signals("r")):
                await asyncio.sleep(0)
            assert (
                f'formnovalidate>{said}<span class="hidden">: {name}<'
                in (await http.get(f"/console/runs/r/confirm/{verb}")).text
            )
            form = {"name": name, "as": "fields", "field:number": "", "field:due": "", "null": "true"}
            assert (await http.post(f"/console/runs/r/{verb}", data=form, headers=SAME)).status_code == 303
        decided, sent = await (await engine.handle("r")).result("30s")
        assert (decided.decision, sent) == (None, None)
    facts = [getattr(record, "pikku", {}) for record in caplog.records]
    assert [one["decision"] for one in facts if one.get("action") == "approve_in_console"] == ["null"]


async def test_a_run_is_started_by_a_form_whatever_it_takes(db: Path) -> None:
    """A text needs no quotes, and what may be null can be; only what has no simple parts is written as JSON."""
    many = Pikku()

    @many.workflow
    async def text(workflow: Workflow, data: str) -> str:
        return data

    @many.workflow
    async def maybe(workflow: Workflow, data: Order | None = None) -> Order | None:
        return data

    @many.workflow
    async def several(workflow: Workflow, data: list[int]) -> list[int]:
        return data

    async with many.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:

        async def begun(**form: str) -> Any:
            answer = await http.post("/console/start", data=form, headers=SAME)
            assert answer.status_code == 303, answer.text
            run_id = answer.headers["location"].rpartition("/")[2]
            return run_id, await (await engine.handle(run_id)).result("30s")

        asked = (await http.get("/console/start?workflow=text")).text
        assert 'name="field:Input"' in asked and 'name="null"' not in asked
        run_id, found = await begun(**{"workflow": "text", "as": "fields", "field:Input": "ada@example.org"})
        assert found == "ada@example.org"
        assert ">\nada@example.org</textarea>" in (await http.get(f"/console/start?from_run={run_id}")).text
        asked = (await http.get("/console/start?workflow=maybe")).text
        assert 'name="field:number"' in asked
        assert '<button name="null" value="true" formnovalidate>Start with null</button>' in asked
        run_id, found = await begun(**{"workflow": "maybe", "as": "fields", "field:number": "", "null": "true"})
        assert found is None
        assert 'name="value"' in (await http.get(f"/console/start?from_run={run_id}")).text
        assert (await begun(**{"workflow": "maybe", "as": "fields", "field:number": "3"}))[1] == Order(3)
        asked = (await http.get("/console/start?workflow=several")).text
        assert 'name="value"' in asked and 'name="as"' not in asked
        assert (await begun(workflow="several", value="[1]"))[1] == [1]


@pytest.mark.parametrize(
    ("path", "to", "form", "other"),
    [
        ("/console/start?workflow=echo", "/console/start", {"value": "1"}, {"value": "2"}),
        ("/console/runs/r/confirm/fork", "/console/runs/r/fork", {"at": "look"}, {"at": "look", "value": "2"}),
    ],
)
async def test_a_form_that_is_sent_twice_makes_one_run(
    db: Path, path: str, to: str, form: dict[str, str], other: dict[str, str]
) -> None:
    """As by a double click. Each form is for another run, and so is one that is changed after it was sent."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.run("echo", 1, run_id="r")

        async def send(fields: dict[str, str]) -> Any:
            return await http.post(to, data=fields, headers=SAME)

        filled = hidden_in((await http.get(path)).text) | form
        one, two = await asyncio.gather(send(filled), send(filled))
        assert (one.status_code, two.status_code, one.headers["location"]) == (303, 303, two.headers["location"])
        assert len((await engine.list_runs()).runs) == 2
        again = hidden_in((await http.get(path)).text) | form
        assert (await send(again)).headers["location"] != one.headers["location"]
        changed = await send(again | other)
        assert changed.status_code == 409
        assert (await send(hidden_in(changed.text) | other)).status_code == 303
        assert len((await engine.list_runs()).runs) == 4


@pytest.mark.parametrize("base", ["", "/a/b"])
async def test_what_was_done_is_said_once_and_by_no_link(db: Path, base: str) -> None:
    """On the page that it leads to; nothing of a URL, and no cookie but ours, is told as the console's own words."""

    def told(answer: Any) -> list[str]:
        assert answer.status_code == 200
        return [html.unescape(text) for text in re.findall(r'<p class="done" role="status">(.*?)</p>', answer.text)]

    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True)
        async with caller(Starlette(routes=[Mount(base, app)]) if base else app) as http:
            for run_id in ("a/b?c ä€😀", "other"):
                await engine.start("waiting", run_id=run_id)
            path = f"{base}/console/runs/a%2Fb%3Fc%20%C3%A4%E2%82%AC%F0%9F%98%80"
            answer = await http.post(f"{path}/cancel", data={}, headers=SAME)
            assert (answer.status_code, answer.headers["location"]) == (303, path)
            kept = answer.headers["set-cookie"]
            assert "HttpOnly" in kept and "SameSite=strict" in kept and "Max-Age=" in kept
            sent = dict(http.cookies)
            assert told(await http.get(f"{base}/console/runs/other")) == []
            assert told(await http.get(path)) == ["cancelled"]
            assert told(await http.get(path)) == []
            assert not http.cookies
            answer = await http.post(f"{path}/delete", data={}, headers=SAME)
            assert answer.headers["location"] == f"{base}/console/"
            assert told(await http.get(f"{base}/console/")) == ["run a/b?c ä€😀 was deleted"]
            [(name, value)] = sent.items()
            for forged in (value.replace("cancelled", "call%20this%20number"), "x", ".", "é", f"x{value}", "\udc80"):
                cookie = f"{name}={forged}".encode("utf-8", "surrogateescape")
                assert told(await http.get(f"{base}/console/", headers={"cookie": cookie})) == []
            assert told(await http.get(f"{base}/console/runs/other?done=call+this+number")) == []
            assert "call this number" not in (await http.get(f"{base}/console/?done=call+this+number")).text


@pytest.mark.parametrize("run_id", [".", ".."])
async def test_a_run_whose_id_browsers_take_for_a_step_in_the_path_can_be_opened(db: Path, run_id: str) -> None:
    """Quoted they do so, too: a link to it would lead to the list, and nobody could cancel it."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("waiting", run_id=run_id)
        [link] = re.findall(r'<a href="(/console/runs/[^"]*)">', (await http.get("/console/")).text)
        assert unquote(link).rpartition("/")[2] not in (".", "..")
        shown = (await http.get(link)).text
        assert f"<span>{run_id}</span>" in shown
        cancel = re.search(r'href="([^"]*/confirm/cancel)"', shown)
        assert cancel is not None and (await http.get(cancel[1])).status_code == 200
        answer = await http.post(f"{link}/cancel", data={"reason": ""}, headers=SAME)
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, link)
        assert (await engine.get_run(run_id)).status == "cancelled"


async def test_only_what_waits_for_a_decision_is_decided(db: Path) -> None:
    """A signal is none."""
    async with pikku.open(db) as engine:
        await engine.start("waiting", run_id="waits")
        await engine.start("asking", run_id="asks")
        app = engine.asgi(token=TOKEN, console=True)
        async with caller(app) as http:
            for run_id, can in (("waits", False), ("asks", True)):
                while not (await engine.open_steps([run_id])):
                    await asyncio.sleep(0)
                shown = (await http.get(f"/console/runs/{run_id}")).text
                assert (f"/console/runs/{run_id}/confirm/approve" in shown) is can
                asked = await http.get(f"/console/runs/{run_id}/confirm/approve")
                assert asked.status_code == (200 if can else 409)


async def test_a_run_says_whether_it_waits_for_a_signal_or_a_decision(db: Path) -> None:
    """On its page, where the workflow is known; the list reads no run for it. No decision is offered as a signal."""
    both = Pikku()

    @both.workflow
    async def opens(workflow: Workflow) -> None:
        first = asyncio.ensure_future(workflow.wait_for_signal("papers", timeout="1h"))
        again = asyncio.ensure_future(workflow.wait_for_signal("papers", timeout="2h"))
        await asyncio.gather(first, again, workflow.approval("account", bool, timeout="3h"))

    reader = "may-only-look-at-things"
    async with both.open(db) as engine:
        app = engine.asgi(token=TOKEN, tokens={reader: "read"}, console=True)
        await engine.start(opens, run_id="r")
        while len((await engine.open_steps(["r"])).get("r", [])) < 3:
            await asyncio.sleep(0)
        async with caller(app) as http:
            shown = (await http.get("/console/runs/r")).text
            assert "waits for the signal papers until" in shown
            assert re.search(r"waits for a decision until [^;<]*: account", shown)
            asked = (await http.get("/console/runs/r/confirm/signal")).text
            assert re.findall(r'<option value="([^"]*)">', asked) == ["papers"]
            assert 'value="account"' not in asked
            assert "waits for the signal or decision" in (await http.get("/console/")).text
        async with caller(app, token=reader) as http:
            assert "waits for the signal or decision account until" in (await http.get("/console/runs/r")).text
    async with Pikku().open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        asked = (await http.get("/console/runs/r/confirm/signal")).text
        assert re.findall(r'<option value="([^"]*)">', asked) == ["papers", "account"]


async def test_a_signal_is_sent_by_a_form_of_the_type_of_the_step_that_waits_for_it(db: Path) -> None:
    """What anything may be, and what nobody waits for, is written as JSON."""
    many = Pikku()

    @many.workflow
    async def sells(workflow: Workflow) -> Any:
        paid, count = workflow.wait_for_signal("paid <b>", Order), workflow.wait_for_signal("count", int)
        anything, several = workflow.wait_for_signal("any"), workflow.wait_for_signal("several", list[int])
        found = await asyncio.gather(paid, count, anything, several, workflow.approval("ok", bool))
        return [*found[:4], await workflow.wait_for_signal("later", Order)]

    async with many.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start(sells, run_id="r")
        while len((await engine.open_steps(["r"])).get("r", [])) < 5:
            await asyncio.sleep(0)

        async def send(**form: str) -> tuple[int, str]:
            answer = await http.post("/console/runs/r/signal", data=form, headers=SAME)
            return answer.status_code, html.unescape(answer.text)

        asked = html.unescape((await http.get("/console/runs/r/confirm/signal")).text)
        assert re.findall(r'<input type="hidden" name="name" value="([^"]*)">', asked) == ["paid <b>", "count"]
        assert 'name="field:number"' in asked and 'name="field:payload"' in asked
        assert re.findall(r'<option value="([^"]*)"></option>', asked) == ["paid <b>", "count", "any", "several"]
        assert 'list="names" required maxlength="256" value="any"' in asked
        refused = {"as": "fields", "name": "paid <b>", "field:number": "many", "field:due": "soon"}
        status, shown = await send(**refused)
        assert (status, "number: 'many' is no whole number" in shown) == (422, True)
        assert 'name="field:number" value="many"' in shown and 'name="field:due" value="soon"' in shown
        assert (await send(**{**refused, "field:number": "7", "field:due": ""}))[0] == 303
        assert (await send(**{"as": "fields", "name": "count", "field:payload": "3"}))[0] == 303
        status, shown = await send(**{"as": "fields", "name": "count", "field:payload": "4"})
        assert (status, "does not wait for a signal 'count' any more" in shown) == (409, True)
        assert (await send(name="any", value='{"a": [1]}'))[0] == 303
        assert (await send(name="several", value="[1]"))[0] == 303
        assert (await send(name="later", value='{"number": 8}'))[0] == 303
        await engine.approve("r", "ok", True)
        assert await (await engine.handle("r")).result("30s") == [Order(7), 3, {"a": [1]}, [1], Order(8)]


async def test_the_events_of_a_run_are_shown_in_parts(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of one that goes on: those up to now."""
    monkeypatch.setattr(pages, "EVENTS", 3)
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("waiting", run_id="r", tags={})
        await engine.signal("r", "other <b>", None)
        while len(await engine.some_events("r")) < 3:
            await asyncio.sleep(0)
        first = (await http.get("/console/runs/r/events")).text
        assert [first.index(text) for text in ("run started", "step started", "other &lt;b&gt;")] == sorted(
            first.index(text) for text in ("run started", "step started", "other &lt;b&gt;")
        )
        more = re.search(r'href="(/console/runs/r/events\?after=\d+)">Further', first)
        assert more is not None and "hx-sse:connect" not in first
        last = (await http.get(more[1])).text
        assert "There are no more so far." in last
        assert f'hx-sse:connect="{more[1].replace("?", "/live?")}"' in last
        await engine.signal("r", "go", "done")
        await (await engine.handle("r")).result()
        rest = (await http.get(more[1])).text
        assert "step recorded" in rest and "run ended" in rest and "run started" not in rest
        assert 'href="/console/runs/r/events">Events' in (await http.get("/console/runs/r")).text
        assert (await http.get("/console/runs/nobody/events")).status_code == 404
        assert (await http.get("/console/runs/r/events?after=x")).status_code == 422


@pytest.mark.parametrize("path", ["runs/r/cancel", "all/cancel"])
async def test_who_has_no_application_is_given_no_cure_for_one(
    db: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """When the engine goes just while something is done in `pikku console`; and what is secret stays so."""
    async with pikku.open(db) as engine:
        await engine.start("waiting", run_id="r")
        config = HttpConfig(token=TOKEN, redact=lambda text: text.replace("secret", "***"))
        app = application(engine, str(db), config, CONSOLE, lambda: asyncio.sleep(0, (engine, None)))
        async with caller(app) as http:

            async def gone(*_: object) -> None:
                raise EngineClosed("no engine has secret.db open")

            asked = hidden_in((await http.get("/console/all/cancel")).text)
            monkeypatch.setattr(engine, "cancel", gone)
            answer = await http.post(f"/console/{path}", data=asked, headers=SAME)
            assert (answer.status_code, "no engine has ***.db open" in answer.text) == (503, True)
            assert "lifespan" not in answer.text


async def test_what_is_asked_wrongly_is_a_page(db: Path) -> None:
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        for path, status in (
            ("?since=soon", 422), ("?status=lost", 422), ("?colour=red", 422), ("runs/x/confirm/explode", 404),
            ("runs/x", 404),
            ("all/delete", 404), ("start?workflow=x", 404), ("?cursor=x", 422), ("runs/x/value/input", 404),
        ):  # fmt: skip
            answer = await http.get(f"/console/{path}")
            assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (status, "text/html"), path
        said = html.unescape((await http.get("/console/?since=soon")).text)
        assert "`since`: use so long ago, as 2h or 30d, or a time, as 2026-12-24 18:00, not 'soon'" in said
    async with caller(engine.asgi(token=TOKEN, console=True)) as http:
        answer = await http.get("/console/")
        assert (answer.status_code, "lifespan=engine.lifespan" in answer.text) == (503, True)


async def test_only_who_has_a_session_of_the_console_can_end_it(db: Path) -> None:
    """Whom the application lets in, or who sends a token, has none."""

    def known(_: Mapping[str, str]) -> Caller:
        return Caller("ada", Scope.ADMIN)

    async with pikku.open(db) as engine:
        async with caller(engine.asgi(authenticate=known, console=True), token=None) as http:
            assert "Log out" not in (await http.get("/console/")).text
        async with caller(engine.asgi(token=TOKEN, console=True), token=None) as http:
            await http.post("/console/login", data={"token": TOKEN}, headers=SAME)
            assert "Log out" in (await http.get("/console/")).text


async def test_a_gate_is_told_once(db: Path) -> None:
    """It is the reason as well."""
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("gated", run_id="r")
        while (await engine.get_run("r")).status != "suspended":
            await asyncio.sleep(0)
        page = (await http.get("/console/runs/r")).text
        assert "held by the gate closed" in page and '<p class="reason"' not in page


async def test_who_cancels_all_is_asked_about_those_that_are_unfinished(db: Path) -> None:
    async with pikku.open(db) as engine, caller(engine.asgi(token=TOKEN, console=True)) as http:
        await engine.start("waiting", run_id="r")
        await engine.run("order", {"number": 1})
        assert "Cancel 1 unfinished run<" in (await http.get("/console/all/cancel")).text
