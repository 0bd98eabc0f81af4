"""How a browser gets in: a form for the token, and a cookie that stands for it from then on.

The link that is printed has the token behind `#`, which browsers send to nobody; a script of the form puts it in.

Browsers do not send the cookie with a link from another site. Who follows one gets a page in between, which goes on to
the entrance by itself: that is a link of our own, so who has the cookie is led on, and others get the form there.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape
from typing import Any
from urllib.parse import parse_qs, quote, unquote

import msgspec
from starlette.responses import HTMLResponse, RedirectResponse, Response

from pikkupy.console.rendering import HOME, STATIC, problem_page
from pikkupy.http.asked import Ask
from pikkupy.http.guard import log_refused, quoted, route_of, segment
from pikkupy.http.operations import operation
from pikkupy.http.problems import Refused
from pikkupy.http.tokens import SESSION_S, value_in
from pikkupy.mounting import Connection, Scope

ENTRANCE = "/console/login"
LOGIN_BYTES = 4_096  # of the form with the token, which strangers send
LOGIN_S = 5.0  # that it may take to arrive
LONGEST_TO = 1_000  # characters of the place that somebody is led to


class PersonsDoor:
    """Shows the form to whoever asks for a page without being known."""

    entrance = ENTRANCE

    def ask(self, connection: Connection, refused: Refused) -> Response | None:
        """The form, with the status that the refusal has; `None` for programs, and for who must not get in at all."""
        route, base, status = route_of(connection), connection.get("root_path", ""), refused.problem.status
        if status not in (401, 429) and (status, route) != (503, ENTRANCE):
            return None
        if _leads_home(connection):
            return RedirectResponse(f"{base}{HOME}", 303)
        if not _is_page(route) or connection["method"] == "HEAD":
            return None
        to = _asked_for(connection)
        if status == 401 and route != ENTRANCE and _is_from_elsewhere(connection):
            return _own_page("between.html", refused, on=f"{base}{ENTRANCE}?to={quote(to, safe='')}")
        return login_page(base, refused, "" if status == 401 else refused.problem.detail or "", to)


def lost(ask: Ask, refused: Refused) -> Response | None:
    """What a person gets where there is no route; `None` for programs."""
    connection = ask.request.scope
    if _leads_home(connection):
        return RedirectResponse(f"{ask.base}{HOME}", 303)
    return problem_page(ask, refused) if _is_page(route_of(connection)) else None


def login_page(base: str, refused: Refused, said: str, to: str) -> Response:
    """The form. It is all in one: what it would load is not to be had without a token."""
    return _own_page("login.html", refused, base=base, said=said, to=to)


class To(msgspec.Struct):
    """Where somebody is to be led."""

    to: str = ""


@operation("GET", ENTRANCE, Scope.READ, {303: None}, problem=problem_page)
async def come_in(ask: Ask) -> Response:
    """Lead who is in already to what was asked for."""
    return RedirectResponse(f"{ask.base}{place_of(ask.query(To).to)}", 303)


def place_of(text: str) -> str:
    """A page of the console, below where it is mounted: the one that the text says, or the list if it says none."""
    path = text.partition("?")[0]
    *folders, name = path.split("/")[1:] or [""]
    is_whole = text.isascii() and text.isprintable() and len(text) <= LONGEST_TO and not {"\\", " ", "#"} & set(text)
    is_plain = "" not in folders and not {".", ".."} & {unquote(part) for part in (*folders, name)}
    is_own = path.startswith(HOME) and path != ENTRANCE and _is_page(path)
    return text if is_whole and is_plain and is_own else HOME


@operation("POST", ENTRANCE, Scope.READ, {303: None}, problem=problem_page)
async def login(ask: Ask) -> Response:
    """Let in whoever has the token, to what was asked for."""
    try:
        form = await ask.form(most=LOGIN_BYTES, longest_s=LOGIN_S)
    except Refused:
        form = {}  # what is no form holds none
    token, to = form.get("token", "").strip(), place_of(form.get("to", ""))
    callers = ask.api.callers
    caller = callers.caller_with(token)
    try:
        if caller is None:
            ask.api.failures.add(ask.address)
            raise Refused(401, "Who are you?", "That is not the token.", www_authenticate="Bearer")
        ask.api.failures.let_in(ask.address, caller)
    except Refused as refused:
        log_refused(refused, ask.address)
        return login_page(ask.base, refused, refused.problem.detail or "", to)
    ask.caller = caller
    ask.announce(login.name)
    answer = RedirectResponse(f"{ask.base}{to}", 303)
    answer.set_cookie(max_age=SESSION_S, value=callers.sessions.begin(caller), **cookie_of(ask))
    return answer


@operation("POST", "/console/logout", Scope.READ, {303: None}, problem=problem_page)
async def logout(ask: Ask) -> Response:
    """End the session of the browser."""
    answer = RedirectResponse(f"{ask.base}{HOME}", 303)
    cookie = cookie_of(ask)
    ask.api.callers.sessions.leave(value_in(ask.request.headers, cookie["key"]))
    answer.delete_cookie(**cookie)
    return answer


def cookie_of(ask: Ask, name: str = "") -> dict[str, Any]:
    """All of a session's cookie but its value; `name`: of another one beside it."""
    return ask.api.callers.cookie_of(ask.request.scope, name)


def _is_page(route: str) -> bool:
    return f"{route}/".startswith(HOME) and not route.startswith(("/console/static/", "/console/live"))


def _leads_home(connection: Connection) -> bool:
    """Whether a person asks for what is above the console."""
    is_root = route_of(connection) in ("", "/") and connection["method"] == "GET"
    return is_root and "text/html" in _header(connection, b"accept")


def _is_from_elsewhere(connection: Connection) -> bool:
    """Whether a browser follows a link of another site: then it has kept the cookie to itself."""
    return connection["method"] == "GET" and _header(connection, b"sec-fetch-site") in ("cross-site", "same-site")


def _asked_for(connection: Connection) -> str:
    """The page that somebody would see who is known."""
    query = connection.get("query_string", b"").decode("latin-1")
    route = route_of(connection)
    if connection["method"] != "GET":
        return HOME
    if route == ENTRANCE:
        return place_of(parse_qs(query).get("to", [""])[0])
    path = "/".join(quoted(segment(part)) for part in route.split("/"))
    return place_of(f"{HOME if path == '/console' else path}{'?' if query else ''}{query}")


def _header(connection: Connection, name: bytes) -> str:
    return (
        b",".join(value for key, value in connection.get("headers", []) if key.lower() == name)
        .decode("latin-1")
        .lower()
    )


def _own_page(name: str, refused: Refused, **texts: str) -> Response:
    """A page that is all in one, with these texts in it."""
    page, policy = _read(name)
    first, *rest = page.split("{{")
    made = first + "".join(escape(texts[key]) + then for key, _, then in (part.partition("}}") for part in rest))
    return HTMLResponse(made, refused.problem.status, {"content-security-policy": policy, **refused.headers})


@cache
def _read(name: str) -> tuple[str, str]:
    """A page, and the policy that lets its own style and script be, and nothing else."""
    page = (STATIC.parent / "templates" / name).read_text(encoding="utf-8")
    own = {tag: page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0] for tag in ("style", "script")}
    allowed = "".join(f"{tag}-src '{_hash(text)}'; " for tag, text in own.items() if text)
    typed = "require-trusted-types-for 'script'; trusted-types 'none'"
    return page, f"default-src 'none'; {allowed}form-action 'self'; base-uri 'none'; frame-ancestors 'none'; {typed}"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
