"""What was done just now: said once, on the page that it leads to. A browser keeps it until then, in a cookie.

It is not in the URL, which anybody may write, and which is shared and loaded anew.
"""

from __future__ import annotations

from typing import Any

from starlette.responses import RedirectResponse, Response

from pikkupy.console.door import cookie_of
from pikkupy.console.rendering import page
from pikkupy.http.asked import Ask
from pikkupy.http.tokens import value_in

KEPT_S = 60  # if that page is never asked for


def led_to(ask: Ask, path: str, done: str) -> Response:
    """Leads to the page at that path below the console, which says what was done."""
    answer = RedirectResponse(f"{ask.base}/console/{path}", 303)
    sealed = ask.api.callers.sessions.sealed(f"{path}\n{done}")
    answer.set_cookie(value=sealed, max_age=KEPT_S, **cookie_of(ask, "_done"))
    return answer


def page_after(ask: Ask, path: str, name: str, **values: Any) -> Response:
    """The page at that path, with what was done if that has led there."""
    cookie = cookie_of(ask, "_done")
    kept = ask.api.callers.sessions.unsealed(value_in(ask.request.headers, cookie["key"]))
    place, separator, done = kept.partition("\n")
    is_meant = bool(separator) and place == path
    answer = page(ask, name, **values, done=done if is_meant else "")
    if is_meant:
        answer.delete_cookie(**cookie)
    return answer
