"""How a browser gets in: a form for the token, and a cookie that stands for it from then on.

The link that is printed has the token behind `#`, which browsers send to nobody; a script of the form puts it in.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from typing import Any

from starlette.responses import HTMLResponse, RedirectResponse, Response

from pikkupy.console.rendering import HOME, STATIC, problem_page
from pikkupy.http.asked import Ask
from pikkupy.http.guard import log_refused, route_of
from pikkupy.http.operations import operation
from pikkupy.http.problems import Refused
from pikkupy.http.tokens import SESSION_S, value_in
from pikkupy.mounting import Connection, Scope

ENTRANCE = "/console/login"
LOGIN_BYTES = 4_096  # of the form with the token, which strangers send
LOGIN_S = 5.0  # that it may take to arrive


class PersonsDoor:
    """Shows the form to whoever asks for a page without being known."""

    entrance = ENTRANCE

    def ask(self, connection: Connection, refused: Refused) -> Response | None:
        """The form, with the status that the refusal has; `None` for programs, and for who must not get in at all."""
        route = route_of(connection)
        asks_for_page = route.startswith("/console") and not route.startswith(("/console/static/", "/console/live"))
        lets_in = refused.problem.status in (401, 429) or (refused.problem.status == 503 and route == ENTRANCE)
        if not lets_in or not asks_for_page or connection["method"] == "HEAD":
            return None
        said = "" if refused.problem.status == 401 else refused.problem.detail or ""
        return login_page(connection.get("root_path", ""), refused, said)


def login_page(base: str, refused: Refused, said: str) -> Response:
    """The form. It is all in one: what it would load is not to be had without a token."""
    page, policy = _login()
    text = page.replace("{{base}}", base).replace("{{said}}", said)
    return HTMLResponse(text, refused.problem.status, {"content-security-policy": policy, **refused.headers})


@operation("POST", ENTRANCE, Scope.READ, {303: None}, problem=problem_page)
async def login(ask: Ask) -> Response:
    """Let in whoever has the token."""
    try:
        token = (await ask.form(most=LOGIN_BYTES, longest_s=LOGIN_S)).get("token", "").strip()
    except Refused:
        token = ""  # what is no form holds none
    callers = ask.api.callers
    caller = callers.caller_with(token)
    try:
        if caller is None:
            ask.api.failures.add(ask.address)
            raise Refused(401, "Who are you?", "That is not the token.", www_authenticate="Bearer")
        ask.api.failures.let_in(ask.address, caller)
    except Refused as refused:
        log_refused(refused, ask.address)
        return login_page(ask.base, refused, refused.problem.detail or "")
    ask.caller = caller
    answer = RedirectResponse(f"{ask.base}{HOME}", 303)
    answer.set_cookie(max_age=SESSION_S, value=callers.sessions.begin(caller), **_cookie(ask))
    return answer


@operation("POST", "/console/logout", Scope.READ, {303: None}, problem=problem_page)
async def logout(ask: Ask) -> Response:
    """End the session of the browser."""
    answer = RedirectResponse(f"{ask.base}{HOME}", 303)
    cookie = _cookie(ask)
    ask.api.callers.sessions.leave(value_in(ask.request.headers, cookie["key"]))
    answer.delete_cookie(**cookie)
    return answer


def _cookie(ask: Ask) -> dict[str, Any]:
    """All of a session's cookie but its value: no script, no other site and no other server of this host can use it.

    Where there is TLS it is for this host alone, and that has to be for all paths.
    """
    key, secure = ask.api.callers.cookie_for(ask.request.scope), ask.request.url.scheme == "https"
    path = "/" if secure else ask.base or "/"
    return {"key": key, "path": path, "secure": secure, "httponly": True, "samesite": "strict"}


@cache
def _login() -> tuple[str, str]:
    """The form, and the policy that lets its own style and script be, and nothing else."""
    page = (STATIC.parent / "templates" / "login.html").read_text(encoding="utf-8")
    style, script = (_hash(page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]) for tag in ("style", "script"))
    policy = f"default-src 'none'; style-src '{style}'; script-src '{script}'; form-action 'self'; "
    return page, policy + "base-uri 'none'; frame-ancestors 'none'"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
