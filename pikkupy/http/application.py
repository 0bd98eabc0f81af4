"""The composition root of the HTTP API: the guard, the routes, and what is done around each of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from typing import Any, NamedTuple

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Match, Route

from pikkupy.errors import EngineClosed
from pikkupy.http.api import OPERATIONS
from pikkupy.http.asked import NOBODY, Api, Ask, Meet, Steered, json_of
from pikkupy.http.audit import AuditLines
from pikkupy.http.guard import Door, Guard, quoted, segment
from pikkupy.http.operations import Operation, operation
from pikkupy.http.problems import Refused, response_to
from pikkupy.http.schemas import openapi
from pikkupy.http.tokens import Callers, Failures
from pikkupy.mounting import AsgiApp, HttpConfig, Scope


def application(
    engine: Steered, path: str, config: HttpConfig, pages: Pages | None = None, meet: Meet | None = None
) -> AsgiApp:
    """The ASGI application of an engine or client for the journal at `path`, with pages for people if there are any.

    `meet` is asked for each request who answers it, if that is not always the same.
    """
    audit = AuditLines(config.audit)  # before there is a token, which may be made for it
    callers, failures = Callers(config, path), Failures()
    api = Api(engine, config, callers, failures, audit, meet)
    by_path: dict[str, list[Operation]] = {}
    for one in (*all_operations(), *(() if pages is None else pages.operations)):
        by_path.setdefault(one.path, []).append(one)
    routes = [_route(path, operations, api) for path, operations in by_path.items()]
    no_route = _no_route(api, routes, pages)
    inner = Starlette(routes=routes, exception_handlers={404: no_route, 405: no_route})
    inner.router.redirect_slashes = False  # to a whole URL, of which a proxy knows better
    return Guard(inner, config, callers, failures, None if pages is None else pages.door)


class Pages(NamedTuple):
    """What a console adds."""

    operations: Sequence[Operation]
    door: Door
    lost: Callable[[Ask, Refused], Response | None]
    """What a person gets where there is no route; `None` for programs."""


def all_operations() -> tuple[Operation, ...]:
    """Everything that can be asked."""
    return (*OPERATIONS, openapi_document)


@operation("GET", "/openapi.json", Scope.READ, {200: dict[str, Any]})
async def openapi_document(ask: Ask) -> Response:
    """This document."""
    return json_of(openapi(all_operations(), metadata.version("pikkupy"), ask.base))


def _route(path: str, operations: list[Operation], api: Api) -> Route:
    """All that can be asked at a path: so that it knows what it allows."""
    by_method: dict[str, Operation] = {one.method: one for one in operations}

    async def endpoint(request: Request) -> Response:
        return await _answered(by_method["GET" if request.method == "HEAD" else request.method], Ask(api, request))

    route = Route(path, endpoint, methods=[one.method for one in operations])
    if route.methods is not None and by_method.get("GET", operations[0]).stream:
        route.methods.discard("HEAD")  # it would take a stream, and tell nothing
    return route


async def _answered(one: Operation, ask: Ask) -> Response:
    try:
        if one.scope is not Scope.READ and ask.read_only:
            raise Refused(403, "Read only", "nothing can be changed here: asgi(read_only=True)")
        if not ask.caller.scope.allows(one.scope):
            has = f"this needs the scope `{one.scope}`, and the caller has `{ask.caller.scope}`"
            raise Refused(403, "Not allowed", has)
        await ask.meet()
        if one.scope is not Scope.READ and ask.away is not None:
            raise EngineClosed(ask.away)
        if one.acts and ask.caller is not NOBODY:
            if one.about is not None:
                ask.facts |= await one.about(ask)
            ask.announce(one.name, **_named(ask), **ask.facts)
        answer = await one.handler(ask)
    except Exception as error:  # noqa: BLE001 - it is answered, and logged if it is a defect
        answer = ask.problem(error) if one.problem is None else one.problem(ask, error)
    if one.acts and ask.caller is not NOBODY:  # who is not let in has a line of another kind
        _audit(one, ask, answer.status_code)
    return answer


def _audit(one: Operation, ask: Ask, status: int) -> None:
    """An action, whatever came of it, with the run that it was on."""
    facts = _named(ask)
    if ask.made is not None:
        facts["new_run_id" if "run_id" in facts else "run_id"] = ask.made
    ask.audit(one.name, status, **facts, **ask.facts)


def _named(ask: Ask) -> dict[str, str | int]:
    """What its path names."""
    named = ask.request.path_params
    return {name: segment(named[name]) for name in ("run_id", "workflow", "verb", "which") if name in named}


def _no_route(
    api: Api, routes: Sequence[Route], pages: Pages | None
) -> Callable[[Request, Exception], Awaitable[Response]]:
    """What is answered where there is no route, or none of that method."""

    async def answered(request: Request, error: Exception) -> Response:
        if getattr(error, "status_code", 404) == 405:
            allowed = getattr(error, "headers", None) or {}
            headers = {name.lower(): text for name, text in allowed.items()}
            refused = Refused(405, "Method not allowed", None, **headers)
        elif (place := _with_other_slash(request, routes)) is not None:
            return RedirectResponse(place, 307)
        else:
            refused = Refused(404, "No such route", f"{segment(request.url.path)} is none; /openapi.json lists them")
        answer = None if pages is None else pages.lost(Ask(api, request), refused)
        return answer or response_to(refused)

    return answered


def _with_other_slash(request: Request, routes: Sequence[Route]) -> str | None:
    """The path without the slash at its end, or with one, if there is a route, and the query."""
    path: str = request.scope["path"]
    other = path.removesuffix("/") if path.endswith("/") else f"{path}/"
    if all(route.matches({**request.scope, "path": other})[0] is Match.NONE for route in routes):
        return None
    query = request.url.query
    return "/".join(quoted(segment(part)) for part in other.split("/")) + (f"?{query}" if query else "")
