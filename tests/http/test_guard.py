"""Nobody gets in: every route of the router is tried, so that a new one that is open fails here."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import select
import socket
import stat
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from starlette.routing import Route

from pikkupy import Pikku, PikkuError
from pikkupy.console.pages import PAGES
from pikkupy.http import Caller, HttpConfig, Scope
from pikkupy.http.application import all_operations
from pikkupy.http.guard import LOGINS
from pikkupy.http.limits import Rate, Streams
from pikkupy.http.problems import Refused
from pikkupy.http.tokens import FAILURES, LONGEST_WAIT_S, MOST_ADDRESSES, Failures, token_of_file, token_path
from pikkupy.mounting import HttpSettings
from tests.children import child
from tests.cli.shell import command, environment
from tests.http.shop import HOST, TOKEN, caller, pikku, served

READER = "may-look-at-everything"
OPERATOR = "may-start-and-steer-runs"
SCOPES = {READER: "read", OPERATOR: "operate"}


DECLARED = {(one.method, one.path): one for one in (*all_operations(), *PAGES)}


class Way(NamedTuple):
    """A way into the built application: what its router answers to, whatever is declared."""

    method: str
    path: str

    @property
    def scope(self) -> Scope:
        """What it is declared for."""
        return DECLARED[self].scope


def ways_in(app: Any) -> list[Way]:
    """All of them; HEAD is answered as GET is. Anything but a plain route would lead to more than is swept."""
    routes = app._inner.routes
    assert all(type(route) is Route for route in routes)
    return [Way(method, route.path) for route in routes for method in sorted(route.methods - {"HEAD"})]


EVERY = ways_in(pikku.open(":memory:").asgi(token=TOKEN, console=True))


def path_of(one: Way) -> str:
    """The route with something in its gaps."""
    path = one.path.replace("{run_id}", "x").replace("{workflow}", "order").replace("{verb}", "retry")
    return path.replace("{action}", "cancel").replace("{which}", "input").replace("{file}", "console.css")


async def ask(http: Any, one: Way, **headers: str) -> Any:
    body = {"content": b"{}", "headers": {"content-type": "application/json", **headers}}
    return await http.request(one.method, path_of(one), **(body if one.method == "POST" else {"headers": headers}))


@pytest.fixture
def app(db: Path) -> Any:
    """An application whose engine is not open: what gets through the guard gets 503, 404 or 422, or says it is well."""
    return pikku.open(db).asgi(token=TOKEN, tokens=SCOPES, console=True)


every_route = pytest.mark.parametrize("one", EVERY, ids=lambda one: f"{one.method} {one.path}")


def test_the_table_names_every_route() -> None:
    """The sweeps below try what the router has, and that is what is declared, with who may."""
    assert len(EVERY) >= 45
    assert sorted(EVERY) == sorted(DECLARED)
    changes_nothing = {"/console/login", "/console/logout"}
    for one in EVERY:
        assert (one.method == "GET" or one.path in changes_nothing) == (one.scope is Scope.READ), one.path


@every_route
async def test_without_a_token_nobody_gets_in(app: Any, one: Way) -> None:
    """S6: 401, and how to get in."""
    async with caller(app, token=None) as http:
        for headers in ({}, {"authorization": ""}, {"authorization": f"Basic {TOKEN}"}, {"authorization": "Bearer x"}):
            answer = await ask(http, one, **headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            page = one.path.startswith("/console") and not one.path.startswith(("/console/static", "/console/live"))
            assert answer.headers["content-type"].split(";")[0] == ("text/html" if page else "application/problem+json")


@every_route
async def test_another_host_is_refused(app: Any, one: Way) -> None:
    """S5: a name that was rebound to this machine is no name of it, whoever asks."""
    async with caller(app) as http:
        for host in (
            "evil.example:8700",
            "127.0.0.1",
            "127.0.0.1:80",
            "localhost:87000",
            "127.0.0.1.evil.example:8700",
            "",
        ):
            answer = await ask(http, one, host=host)
            assert answer.status_code == 421, host


@every_route
async def test_a_page_of_another_site_is_refused(app: Any, one: Way) -> None:
    """S5: whatever it knows."""
    async with caller(app) as http:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:8701", "https://localhost:8700", "file://", "",
                       "http://[", "http://a]"):  # fmt: skip
            answer = await ask(http, one, origin=origin)
            assert answer.status_code == 403, origin
        for site in ("cross-site", "same-site"):
            answer = await ask(http, one, **{"sec-fetch-site": site})
            assert answer.status_code == 403


@every_route
async def test_a_caller_may_do_what_its_scope_allows(app: Any, one: Way) -> None:
    """S6: the matrix of scopes."""
    async with caller(app) as http:
        for token, scope in ((READER, Scope.READ), (OPERATOR, Scope.OPERATE), (TOKEN, Scope.ADMIN)):
            answer = await ask(http, one, authorization=f"Bearer {token}")
            assert (answer.status_code == 403) == (not scope.allows(one.scope)), (scope, answer.text)


@every_route
async def test_read_only_is_for_everybody(db: Path, one: Way) -> None:
    async with caller(pikku.open(db).asgi(token=TOKEN, read_only=True, console=True)) as http:
        answer = await ask(http, one)
        assert (answer.status_code == 403) == (one.scope is not Scope.READ)


@every_route
async def test_every_answer_has_the_headers(app: Any, one: Way) -> None:
    """S4, S5: nothing is kept, framed or guessed at, and nothing lets other sites read it."""
    async with caller(app) as http:
        for token in (TOKEN, "wrong"):
            headers = (await ask(http, one, authorization=f"Bearer {token}")).headers
            fixed = token == TOKEN and one.path.startswith("/console/static")
            assert headers["cache-control"] == ("private, max-age=31536000, immutable" if fixed else "no-store")
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["content-security-policy"].startswith("default-src 'none'")
            assert not [name for name in headers if name.startswith("access-control")]


HOSTS = {"127.0.0.1:8700": True, "LOCALHOST:8700": True, "shop.example": True, "shop.example:8443": False, "a.b": False}
ORIGINS = {None: True, "same": True, "http://a.b": False, "null": False}


async def test_a_query_that_is_no_text_cannot_be_read(db: Path) -> None:
    """Not every server refuses it itself."""
    sent = list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True)
        for path in ("/console/", "/api/runs", "/api/nothing", "/console/nothing"):
            headers = [(b"host", b"127.0.0.1:8700"), (b"authorization", f"Bearer {TOKEN}".encode())]
            scope = {"type": "http", "method": "GET", "scheme": "http", "path": path, "raw_path": path.encode(),
                     "query_string": b"q=\xff", "headers": headers, "server": ("127.0.0.1", 8700)}  # fmt: skip
            sent.clear()
            await app(scope, never, send)
            assert sent[0]["status"] == 400, path


async def never() -> dict[str, Any]:
    raise AssertionError("nothing is read of it")


SITES = {None: True, "none": True, "same-origin": True, "same-site": False, "cross-site": False}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_hosts_origins_and_methods(db: Path, method: str) -> None:
    """S5: the table of who gets past the first door, for each method."""
    app = pikku.open(db).asgi(token=TOKEN, hosts=["shop.example"])
    async with caller(app) as http:
        for (host, at_home), (origin, fits), (site, near) in itertools.product(
            HOSTS.items(), ORIGINS.items(), SITES.items()
        ):
            headers = {"host": host, "content-type": "application/json"}
            if origin is not None:
                headers["origin"] = f"http://{host}" if origin == "same" else origin
            if site is not None:
                headers["sec-fetch-site"] = site
            path = "/api/runs/x" + ("/retry" if method == "POST" else "")
            status = (await http.request(method, path, headers=headers)).status_code
            fits = fits or (origin, site) == ("null", "same-origin")  # a form of a page without a referrer
            expected = 421 if not at_home else 403 if not (fits and near) else 503
            assert status == expected, headers


async def test_a_link_from_elsewhere_may_be_followed(app: Any) -> None:
    """A navigation by GET shows a page to the person who has the token, and nothing to the page that it came from."""
    async with caller(app) as http:
        link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        assert (await http.get("/healthz", headers=link)).status_code == 200
        for other in ({"sec-fetch-mode": "no-cors"}, {"sec-fetch-dest": "iframe"}, {"origin": "http://a.b"}):
            assert (await http.get("/healthz", headers={**link, **other})).status_code == 403
        assert (await http.post("/api/runs", headers=link, json={})).status_code == 403


async def test_health_may_be_open(db: Path) -> None:
    """For probes that have no token, if the application says so, and still to no other host."""
    async with caller(pikku.open(db).asgi(token=TOKEN, open_health=True), token=None) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/readyz")).status_code == 503
        assert (await http.get("/api/runs")).status_code == 401
        assert (await http.get("/healthz", headers={"host": "a.b"})).status_code == 421


async def test_who_fails_too_often_has_to_wait(db: Path) -> None:
    """S7: ten wrong tokens from one address, then 429, also for a right one, unless it was let in from there before."""
    other = "of-somebody-who-comes-late"
    app = pikku.open(db).asgi(token=TOKEN, tokens={other: "read"})
    right, late = {"authorization": f"Bearer {TOKEN}"}, {"authorization": f"Bearer {other}"}
    async with caller(app, token="wrong") as http:
        for _ in range(FAILURES):
            assert (await http.get("/healthz")).status_code == 401
            assert (await http.get("/healthz", headers=right)).status_code == 200
        for _ in range(2):
            answer = await http.get("/healthz")
            assert answer.status_code == 429
            assert 0 < int(answer.headers["retry-after"]) <= 61
            assert (await http.get("/healthz", headers=right)).status_code == 200
            assert (await http.get("/healthz", headers=late)).status_code == 429
        del http.headers["authorization"]
        assert (await http.get("/healthz")).status_code == 401
    async with caller(app, client=("10.0.0.2", 1)) as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/healthz", headers=late)).status_code == 200


async def test_who_says_nothing_has_not_guessed(db: Path) -> None:
    """Nor who comes with cookies of other applications on this machine: a page that is left open locks out nobody.

    Nor with what a proxy before us has asked for.
    """
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        for _ in range(2 * FAILURES):
            assert (await http.get("/console/", headers={"cookie": "other=1"})).status_code == 401
            assert (await http.get("/healthz")).status_code == 401
            assert (await http.get("/console/", headers={"authorization": "Basic YTpi"})).status_code == 401
        assert (await http.get("/healthz", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 200


def test_the_wait_doubles_and_is_forgotten() -> None:
    """S7: by the clock that is given, an hour after the last one; memory is bounded whatever addresses there are."""
    now = 0.0
    failures = Failures(lambda: now)
    for _ in range(FAILURES):
        assert failures.wait_s("a") == 0
        failures.add("a")
    assert failures.wait_s("a") == 60
    now = 60.0
    assert failures.wait_s("a") == 0
    failures.add("a")
    assert failures.wait_s("a") == 120
    with pytest.raises(Refused):
        failures.add("a")
    now += LONGEST_WAIT_S
    for _ in range(FAILURES - 1):
        failures.add("a")
    now += 61
    failures.add("a")  # a new window
    assert failures.wait_s("a") == 0
    for number in range(2 * MOST_ADDRESSES):
        failures.add(str(number))
        failures.let_in(str(number), Caller("ada", Scope.READ))
    assert len(failures._seen) == len(failures._let_in) == MOST_ADDRESSES


async def test_a_token_is_made_once_for_its_owner_alone(db: Path) -> None:
    """S6, S15: 256 random bits in a file of mode 0600; whoever opens the same journal finds the same one."""
    app = pikku.open(db).asgi()
    place = token_path(str(db))
    token = place.read_text().strip()
    assert len(token) == 43
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    assert token_of_file(str(db)) == token
    assert [path.name for path in db.parent.iterdir()] == [place.name]
    async with caller(app, token=token) as http:
        assert (await http.get("/healthz")).status_code == 200
    link = db.with_name("link.db")
    link.symlink_to(db)
    assert token_of_file(str(link)) == token


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
def test_a_token_that_others_can_read_is_no_token(db: Path) -> None:
    place = token_path(str(db))
    place.write_text(TOKEN)
    place.chmod(0o644)
    with pytest.raises(PermissionError, match="not this user's alone"):
        pikku.open(db).asgi()
    place.chmod(0o600)
    place.write_text("short")
    with pytest.raises(ValueError, match="holds no token"):
        pikku.open(db).asgi()
    place.unlink()
    place.symlink_to(db.with_name("elsewhere"))
    with pytest.raises(OSError):
        pikku.open(db).asgi()
    assert not db.with_name("elsewhere").exists()


def test_a_journal_in_memory_needs_a_token_that_is_given() -> None:
    with pytest.raises(ValueError, match="token="):
        pikku.open(":memory:").asgi()
    assert pikku.open(":memory:").asgi(token=TOKEN)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_an_application_may_say_who_calls(db: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    """Instead of tokens: by its own sessions, for instance."""

    def known(headers: Any) -> Caller | None:
        return Caller("ada", Scope.OPERATE) if headers.get("cookie") == "session=ada" else None

    async def known_later(headers: Any) -> Caller | None:
        return known(headers)

    app = pikku.open(db).asgi(authenticate=known if kind == "plain" else known_later)
    assert not token_path(str(db)).exists()
    async with caller(app) as http:
        assert (await http.get("/healthz")).status_code == 401
        http.cookies.set("session", "ada")
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.delete("/api/runs/x")).status_code == 403
    wrong: Any = lambda headers: "ada"  # noqa: E731
    async with caller(pikku.open(db).asgi(authenticate=wrong)) as http:
        assert (await http.get("/healthz")).status_code == 500
    assert "authenticate() returned str" in caplog.text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": "short"}, "16"), ({"token": "with a space in it"}, "spaces"), ({"token": 1}, "str"),
        ({"tokens": {"short": "read"}}, "16"), ({"tokens": {TOKEN: "owner"}}, "admin"),
        ({"tokens": {TOKEN: Caller("")}}, "1 to 256"), ({"tokens": {TOKEN: Caller("a\nb")}}, "control characters"),
        ({"tokens": {TOKEN: Caller("token:read")}}, "no name"), ({"tokens": {TOKEN: Caller("token")}}, "no name"),
        ({"tokens": {TOKEN: Caller(1)}}, "must be a str"),
        ({"tokens": {TOKEN: Caller("ci", "owner")}}, "admin"),
        ({"tokens": {TOKEN: Caller("ci"), READER: Caller("ci", Scope.READ)}}, "two tokens are named 'ci'"),
        ({"token": TOKEN, "tokens": {TOKEN: "read"}}, "among tokens="),
        ({"authenticate": 1}, "function"),
        ({"authenticate": print, "token": TOKEN}, "instead"),
        ({"hosts": "shop.example"}, "list"), ({"hosts": [""]}, "list"),
        ({"redact": 1}, "function"), ({"max_body": 0}, "max_body"), ({"max_streams": True}, "max_streams"),
        ({"starts_per_second": 0}, "starts"), ({"starts_per_second": float("nan")}, "starts"),
        ({"starts_per_second": "1"}, "number"), ({"colour": "red"}, "colour"),
    ],
)  # fmt: skip
def test_a_setting_that_makes_no_sense_is_said(db: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        pikku.open(db).asgi(**settings)
    assert not token_path(str(db)).exists()


def test_settings_are_the_fields_of_the_configuration() -> None:
    assert list(HttpSettings.__annotations__) == [field.name for field in msgspec.structs.fields(HttpConfig)]


async def test_a_body_is_counted_as_it_arrives(db: Path) -> None:
    """S8: whatever its header says; no compressed ones, and JSON alone."""
    async with caller(pikku.open(db).asgi(token=TOKEN, max_body=1000)) as http:
        seen = 0

        async def endless() -> Any:
            nonlocal seen
            while True:
                seen += 100
                yield b"x" * 100

        json = {"content-type": "application/json"}
        assert (await http.post("/api/runs", content=endless(), headers=json)).status_code == 413
        assert seen <= 1200
        lie = {**json, "content-length": "5"}
        assert (await http.post("/api/runs", content=b"x" * 1001, headers=lie)).status_code == 413
        assert (await http.post("/api/runs", content=b"x" * 1000, headers=json)).status_code == 400
        packed = {**json, "content-encoding": "gzip"}
        assert (await http.post("/api/runs", content=b"{}", headers=packed)).status_code == 415
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
            answer = await http.post("/api/runs", content=b"{}", headers={"content-type": kind})
            assert answer.status_code == 415


def test_no_body_takes_much_memory(tmp_path: Path) -> None:
    """S8: one without end, a wide one and a deep one are refused by a real server, which hardly grows meanwhile."""
    arguments = command("run", "tests.http.shop:pikku", "app.db", "--http", "127.0.0.1:0")
    with child(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        said = (json.loads(line) for line in process.stderr)
        next(line for line in said if line["event"] == "engine_opened")
        url = next(line["url"] for line in said if line["event"] == "http_serving")
        port, token = int(url.rpartition(":")[2]), (tmp_path / "app.db.token").read_text().strip()

        def status(parts: Iterable[bytes], length: int | None) -> int:
            """Of the answer to a body that is sent until there is one."""
            kind = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
            head = f"POST /api/runs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            with socket.create_connection(("127.0.0.1", port), 30) as line:
                line.sendall(f"{head}Content-Type: application/json\r\n{kind}\r\n\r\n".encode())
                with suppress(ConnectionError):  # once it has answered it need not listen
                    for part in parts:
                        line.sendall(part if length is not None else b"%x\r\n%b\r\n" % (len(part), part))
                        if select.select([line], [], [], 0.005)[0]:
                            break
                return int(line.recv(65_536).split()[1])

        def body(text: bytes) -> int:
            return status((text[at : at + 65_536] for at in range(0, len(text), 65_536)), len(text))

        def peak() -> int:
            """Bytes that it has had in memory at most."""
            facts = Path(f"/proc/{process.pid}/status").read_text()
            return int(facts.partition("VmHWM:")[2].split()[0]) * 1024

        start = b'{"workflow": "echo", "input": %b}'
        assert (body(start % b"1"), body(start % (b"[" * 100 + b"]" * 100)), body(start)) == (202, 422, 400)
        before = peak()
        assert status(itertools.repeat(b"[" * 65_536), None) == 413
        wide = b"{%b}" % b",".join(b'"%d":0' % number for number in range(1_000_000))
        assert body(start % wide) == 413
        assert body(start % (b"{%b}" % b",".join([b'"":0'] * 200_000))) == 422  # as wide as it may be long
        assert body(start % (b"[" * 100_000 + b"]" * 100_000)) == 422
        assert peak() - before <= 8 * HttpConfig().max_body
        assert body(start % b"2") == 202


@pytest.mark.parametrize(
    ("data", "fits"),
    [
        (b"[" * 62 + b"]" * 62, True), (b"[" * 64 + b"]" * 64, False), (b"[" * 100_000, False),
        (b'{"a":' * 100_000, False), (b'"' + b"[" * 100_000 + b'"', True), (b'"' + rb"\"[" * 50_000 + b'"', True),
        (b"[" + b"[]," * 1000 + b"0]", True), (b"{" + b",".join(b'"%d":0' % n for n in range(9_000)) + b"}", True),
        (b"{" + b",".join(b'"%d":0' % n for n in range(10_001)) + b"}", False), (b'"' + rb"\"" * 400_000, False),
    ],
    ids=["63 levels", "65 levels", "100,000 open", "100,000 objects", "in a text", "in a text with quotes", "wide",
         "9,000 keys", "10,001 keys", "quotes without end"],
)  # fmt: skip
async def test_json_has_limits_of_depth_and_width(db: Path, data: bytes, fits: bool) -> None:
    """S8, S10: seen before anything is made of it, and each byte is looked at once."""
    body = b'{"workflow": "echo", "id": "x", "input": ' + data + b"}"
    async with pikku.open(db, max_payload=10_000_000) as engine, caller(engine.asgi(token=TOKEN)) as http:
        answer = await http.post("/api/runs", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == (202 if fits else 400 if data.startswith(b'"') else 422), answer.text[:200]


async def test_so_many_new_runs_a_second(db: Path) -> None:
    """S8: beyond it 429, and when to come back; other callers go on."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, tokens=SCOPES, starts_per_second=1e-6)
        async with caller(app) as http:
            assert (await http.post("/workflow/waiting/start")).status_code == 200
            answer = await http.post("/workflow/waiting/start")
            assert answer.status_code == 429
            assert int(answer.headers["retry-after"]) > 1000
            assert (await http.get("/api/runs")).status_code == 200
        async with caller(app, token=OPERATOR) as http:
            assert (await http.post("/workflow/waiting/start")).status_code == 200


async def test_tokens_of_one_scope_are_told_apart_by_their_names(db: Path) -> None:
    """Each has a rate of its own, and streams and waits; without names all of a scope are one caller."""
    ci, shop = Caller("ci", Scope.OPERATE), Caller("shop", Scope.OPERATE)
    tokens = {"the-token-of-the-ci": ci, "the-token-of-the-shop": shop, OPERATOR: "operate", OPERATOR[::-1]: "operate"}
    async with pikku.open(db) as engine, caller(engine.asgi(tokens=tokens, starts_per_second=0.5)) as http:

        async def started(token: str) -> int:
            headers = {"authorization": f"Bearer {token}"}
            body = {"workflow": "order", "input": {"number": 1}}
            return (await http.post("/api/runs", json=body, headers=headers)).status_code

        assert [await started(token) for token in (*tokens, *tokens)] == [202, 202, 202, 429, 429, 429, 429, 429]


async def test_a_fork_is_a_new_run(db: Path) -> None:
    """S8: wherever it is asked for."""
    async with pikku.open(db) as engine:
        await engine.run("order", {"number": 1}, run_id="r")
        for path, one in (
            ("/api/runs/r/fork", {"json": {"at": "double"}}),
            ("/console/runs/r/fork", {"data": {"at": "double"}}),
        ):
            app = engine.asgi(token=TOKEN, console=True, starts_per_second=1e-6)
            async with caller(app) as http:
                assert (await http.post(path, headers={"origin": HOST}, **one)).status_code in (201, 303)
                assert (await http.post(path, headers={"origin": HOST}, **one)).status_code == 429


def test_rates_are_kept_in_the_long_run() -> None:
    """So many a second, twice as many at once, whatever the callers."""
    now = 0.0
    rate = Rate(10, lambda: now)
    taken = 0
    for _ in range(1_000):
        now += 0.01
        try:
            rate.take("a")
            taken += 1
        except Refused:
            pass
    assert taken == 20 + 10 * 10 - 1  # 20 at once, and those of the ten seconds
    for number in range(30_000):
        rate.take(str(number))
    assert len(rate._due) == 10_000


def test_streams_are_counted() -> None:
    held = Streams(1)
    with held.one("a", ""), held.one("b", ""), pytest.raises(Refused), held.one("a", ""):
        pass
    with held.one("a", "one"), held.one("a", "two"), held.one("a", ""), held.one("a", "three"):
        with pytest.raises(Refused) as refused, held.one("a", "four"):
            pass
        assert "4 times" in (refused.value.problem.detail or "")
        with held.one("b", ""):
            pass
    with held.one("a", ""):
        pass
    assert not held._of_session._held and not held._of_caller._held


async def test_so_many_requests_at_once(db: Path) -> None:
    """S8: beyond it 503, at once; nobody waits in a queue without end. Probes are answered all the same."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, tokens=SCOPES, max_requests=2)
        async with caller(app) as http, caller(app, token=READER) as reader:
            handle = await engine.start("waiting")
            held = [
                asyncio.ensure_future(one.get(f"/api/runs/{handle.id}", headers={"prefer": "wait=60"}))
                for one in (http, reader)
            ]
            while app._requests.free > 0:
                await asyncio.sleep(0)
            answer = await http.get("/api/runs")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
            for probe in ("/healthz", "/readyz"):
                assert (await http.get(probe)).status_code == 200
            await handle.signal("go")
            assert [(await one).status_code for one in held] == [200, 200]
            assert (await http.get("/api/runs")).status_code == 200


class Slow:
    """A body of which the rest does not come."""

    def __init__(self, sent: bytes = b"token=") -> None:
        self.begun = asyncio.Event()
        self.over = asyncio.Event()
        self._sent = sent

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._sent
        self.begun.set()
        await self.over.wait()


FORM = {"content-type": "application/x-www-form-urlencoded", "origin": HOST}


async def test_who_has_no_token_takes_no_place_of_those_who_have(db: Path) -> None:
    """S8: logging in has a few places of its own, for a short body that has to come soon."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, console=True, open_health=True, max_requests=1)
        async with caller(app, token=None) as stranger, caller(app) as http:
            bodies = [Slow() for _ in range(LOGINS)]
            held = [
                asyncio.ensure_future(stranger.post("/console/login", content=body, headers=FORM)) for body in bodies
            ]
            for body in bodies:
                await body.begun.wait()
            for path in ("/api/runs", "/console/login", "/console/"):
                for body in (b"", b"x" * 100_000):
                    method = "GET" if path == "/api/runs" else "POST"
                    assert (await stranger.request(method, path, content=body, headers=FORM)).status_code in (401, 503)
            more = await stranger.post("/console/login", data={"token": TOKEN}, headers=FORM)
            assert (more.status_code, more.headers["retry-after"]) == (503, "5")
            assert "try again" in more.text and 'name="token"' in more.text
            assert (await http.get("/api/runs")).status_code == 200
            for probe in ("/healthz", "/readyz"):
                assert (await stranger.get(probe)).status_code == 200
            for body in bodies:
                body.over.set()
            assert [(await one).status_code for one in held] == [401] * LOGINS
            assert (await stranger.post("/console/login", data={"token": TOKEN}, headers=FORM)).status_code == 303


async def test_a_token_is_short_and_comes_soon(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """S8: of a form without one no more is read than a token can have, and it is not waited for."""
    monkeypatch.setattr("pikkupy.console.door.LOGIN_S", 0.05)
    async with caller(pikku.open(db).asgi(token=TOKEN, console=True), token=None) as http:
        long = {"token": TOKEN, "more": "x" * 5_000}
        assert (await http.post("/console/login", data=long, headers=FORM)).status_code == 401
        slow = await http.post("/console/login", content=Slow(), headers=FORM)
        assert slow.status_code == 401


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/runs/r"), ("POST", "/api/runs"), ("POST", "/workflow/waiting/run")]
)
async def test_who_has_gone_waits_no_longer(db: Path, method: str, path: str) -> None:
    """S8: its place is free, and the run goes on."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, max_requests=4)
        await engine.start("waiting", run_id="r")
        async with served(app) as url:
            host, port = url.removeprefix("http://").split(":")
            body = b'{"workflow": "waiting"}' if path == "/api/runs" else b""
            head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {TOKEN}\r\n"
            head += f"Prefer: wait=60\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(head.encode() + body)
            while app._requests.free == 4 or (method == "POST" and len((await engine.list_runs()).runs) < 2):
                await asyncio.sleep(0)
            writer.close()
            async with asyncio.timeout(20):
                while app._requests.free < 4:
                    await asyncio.sleep(0.001)
        assert {run.status for run in (await engine.list_runs()).runs} == {"running"}


async def test_so_many_waits_of_one_caller(db: Path) -> None:
    """S8: a quarter of what is answered at once; beyond it 429, which says what to do, and nothing is started."""
    async with pikku.open(db) as engine:
        app = engine.asgi(token=TOKEN, tokens=SCOPES, max_requests=8)
        async with caller(app) as http, caller(app, token=OPERATOR) as other:
            handle, wait = await engine.start("waiting", run_id="r"), {"prefer": "wait=60"}
            held = [asyncio.ensure_future(http.get("/api/runs/r", headers=wait)) for _ in range(2)]
            while app._requests.free > 6:
                await asyncio.sleep(0)
            for answer in (
                await http.get("/api/runs/r", headers=wait),
                await http.post("/api/runs", headers=wait, json={"workflow": "waiting"}),
                await http.post("/workflow/waiting/run"),
            ):
                assert (answer.status_code, answer.headers["retry-after"]) == (429, "5")
                problem = answer.json()
                assert problem["title"] == "Too many waits"
                for said in ("2 requests", "max_requests", "/api/runs/{run_id}/events"):
                    assert said in problem["detail"]
            assert len((await engine.list_runs()).runs) == 1
            assert (await http.get("/api/runs/r")).status_code == 200
            held.append(asyncio.ensure_future(other.get("/api/runs/r", headers=wait)))
            while app._requests.free > 5:
                await asyncio.sleep(0)
            await handle.signal("go")
            assert [(await one).status_code for one in held] == [200] * 3
            assert (await http.get("/api/runs/r", headers=wait)).status_code == 200


async def test_websockets_are_refused(app: Any) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket", "path": "/api/runs", "headers": []}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]


def test_only_what_pikku_has_made_can_be_mounted(db: Path) -> None:
    from pikkupy.config import Config
    from pikkupy.engine import Engine

    with pytest.raises(PikkuError, match=r"pikku\.open"):
        Engine(db, Pikku(), None, None, Config()).asgi()


def test_without_the_extra_it_is_said(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [name for name in sys.modules if name.startswith(("pikkupy.http", "starlette"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "starlette", None)
    with pytest.raises(PikkuError, match=r"pip install 'pikkupy\[http\]'"):
        pikku.open(db).asgi(token=TOKEN)
