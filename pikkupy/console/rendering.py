"""Templates and the answers that are made of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jinja2
from markupsafe import Markup
from starlette.responses import HTMLResponse, Response

from pikkupy.clock import now
from pikkupy.console.printing import LONGEST
from pikkupy.http.asked import Ask
from pikkupy.http.guard import quoted
from pikkupy.http.problems import problem_of
from pikkupy.mounting import Scope
from pikkupy.plain import rfc3339
from pikkupy.showing.marks import SIGNS
from pikkupy.showing.words import clean, clean_lines, counted, exact, first_line, lasted, local

HOME = "/console/"
STATIC = Path(__file__).with_name("static")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types console"
)
SHORT = 400  # characters of a value that are shown at once


def page(ask: Ask, name: str, status: int = 200, **values: Any) -> Response:
    """A whole page."""
    return HTMLResponse(rendered(ask, name, **values), status, {"content-security-policy": POLICY})


def rendered(ask: Ask, name: str, **values: Any) -> str:
    """A template with these values, and with what all of them know."""
    base = ask.base
    return (
        _templates()
        .get_template(name)
        .render(
            base=base,
            url=lambda path, **query: _url(base, path, query),
            caller=ask.caller,
            may=lambda scope: barred(ask, Scope(scope)) is None,
            barred=barred(ask, Scope.OPERATE),
            read_only=ask.read_only,
            has_session=ask.session != "",
            zone=_zone(),
            away=ask.away,
            here=ask.request.url.path.removeprefix(base),
            **values,
        )
    )


def barred(ask: Ask, scope: Scope) -> str | None:
    """Why who asks can do nothing now that needs the scope; `None`: it can."""
    if ask.read_only:
        return "this console is read-only"
    if ask.away is not None:
        return "there is no engine just now"
    if not ask.caller.scope.allows(scope):
        return f"your token allows `{ask.caller.scope}`; this needs `{scope}`"
    return None


def problem_page(ask: Ask, error: Exception) -> Response:
    """What is wrong, for people."""
    problem, headers = problem_of(error, ask.api.redact, ask.cure)
    answer = page(ask, "problem.html", problem.status, problem=problem)
    answer.headers.update(headers)
    return answer


def static_version(name: str) -> str:
    """Of a file: it changes with what is in it."""
    return _versions()[name]


def _url(base: str, path: str, query: Mapping[str, Any]) -> str:
    pairs = [(name, value) for name, value in query.items() if value not in (None, "", [])]
    return f"{base}/console/{path}" + (f"?{urlencode(pairs, doseq=True)}" if pairs else "")


@cache
def _versions() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir()}


@cache
def _templates() -> jinja2.Environment:
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("pikkupy.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "clean": clean,
        "lines": clean_lines,
        "first_line": first_line,
        "lasted": lambda span: lasted(span).replace(" ", "\N{NO-BREAK SPACE}"),
        "moment": _moment,
        "quoted": quoted,
    }
    made.globals |= {
        "version_of": static_version,
        "signs": SIGNS,
        "SHORT": SHORT,
        "LONGEST": LONGEST,
        "counted": counted,
    }
    return made


def _zone() -> str:
    """Of the times on a page."""
    here = now().astimezone()
    return f"UTC{here.isoformat()[-6:]} ({here.tzname()})"


def _moment(when: datetime | None) -> Markup:
    if when is None:
        return Markup("")
    return Markup('<time datetime="{}" title="{}">{}</time>').format(rfc3339(when), exact(when), local(when))
