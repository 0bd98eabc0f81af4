"""The OpenAPI document of the operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect, structs

from pikkupy.http.kinds import Name
from pikkupy.http.operations import Operation
from pikkupy.http.problems import MEDIA_TYPE, Problem
from pikkupy.schemas import say_moments

REF = "#/components/schemas/{name}"
EVERYWHERE = {
    400: "The request cannot be read.",
    401: "No valid token.",
    403: "The caller may not, or a page of another site has sent it.",
    408: "It took too long.",
    409: "The run, or its id, is in another state.",
    404: "There is no such run or workflow.",
    410: "It is not known any more.",
    413: "The body is too large.",
    415: "The body is no JSON.",
    421: "The header `Host` names another server.",
    422: "What was sent does not fit.",
    429: "Too many: `Retry-After` says when.",
    500: "A defect; the log says more under its `error_id`.",
    503: "The engine is not open, or its disk fails.",
}
HEADERS: dict[str, tuple[str, bool]] = {  # what they say, and whether they are always there
    "Location": ("Where the run is to be asked for.", True),
    "Preference-Applied": ("What of `Prefer` was done: `wait=` and the seconds.", False),
    "Retry-After": ("Seconds after which to try again.", True),
    "WWW-Authenticate": ("How to say who calls: `Bearer`.", True),
}
OF_PROBLEMS = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
ALWAYS = (401, 403, 421, 422, 429, 500, 503)
WITH_BODY = (400, 408, 413, 415)


def openapi(operations: Iterable[Operation], version: str, server: str) -> dict[str, Any]:
    """The document (OpenAPI 3.1.0)."""
    operations = tuple(operations)
    document, paths = _Document(_links(operations)), dict[str, dict[str, Any]]()
    for one in operations:
        paths.setdefault(one.path, {})[one.method.lower()] = document.operation(one)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pikkupy", "version": version, "summary": "Durable workflows on one SQLite file."},
        "servers": [{"url": server or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": document.components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


class NoMore(msgspec.Struct, forbid_unknown_fields=True):
    """With the event `end`: there is no more."""


class _Document:
    """Collects the types that operations name. `links`: what can be asked about a run that an answer tells of."""

    def __init__(self, links: dict[str, Any]) -> None:
        self.components: dict[str, Any] = {}
        self._links = links

    def operation(self, one: Operation) -> dict[str, Any]:
        """What stands under its path and method."""
        made: dict[str, Any] = {
            "operationId": one.name,
            "summary": one.summary,
            "description": f"{one.description} Scope: `{one.scope}`.",
            "responses": {str(status): self._answer(one, status) | _headers(one.sends) for status in one.returns},
        }
        for status in sorted({*ALWAYS, *one.problems, *(WITH_BODY if one.body is not None else ())}):
            content = {MEDIA_TYPE: {"schema": self._schema(Problem)}}
            answer = {"description": EVERYWHERE[status], "content": content}
            made["responses"][str(status)] = answer | _headers(OF_PROBLEMS.get(status, ()))
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": self._schema(Name)} for name in one.parameters
        ]
        parameters += [*self._fields("query", one.query), *self._fields("header", one.headers)]
        if parameters:
            made["parameters"] = parameters
        if one.body is not None:
            content = {"application/json": {"schema": self._schema(one.body)}}
            required = issubclass(one.body, msgspec.Struct) and any(
                field.required for field in structs.fields(one.body)
            )
            made["requestBody"] = {"content": content, "required": required}
        return made

    def _answer(self, one: Operation, status: int) -> dict[str, Any]:
        kind = one.returns[status]
        if kind is None:
            return {"description": "Nothing more."}
        if not one.stream:
            links = {"links": self._links} if "Location" in one.sends else {}
            return {"description": one.summary, "content": {"application/json": {"schema": self._schema(kind)}}} | links
        told = {
            "type": "string",
            "contentMediaType": "application/json",
            "contentSchema": {"anyOf": [self._schema(one) for one in (kind, Problem, NoMore)]},
        }
        event = {"type": "object", "properties": {"event": {"type": "string"}, "id": {"type": "string"}, "data": told}}
        return {"description": one.summary, "content": {"text/event-stream": {"schema": event}}}

    def _fields(self, where: str, kind: type[msgspec.Struct] | None) -> Iterator[dict[str, Any]]:
        """Those of a record as parameters, each of which may be left out."""
        for field in () if kind is None else structs.fields(kind):
            schema = self._schema(field.type)
            said = schema.pop("description", "")
            others = [other for other in schema.get("anyOf", []) if other != {"type": "null"}]
            if len(others) == 1:
                schema = others[0]
            yield {"name": field.encode_name, "in": where, "description": said, "schema": schema}

    def _schema(self, kind: Any) -> dict[str, Any]:
        [found], components = msgspec.json.schema_components([kind], ref_template=REF)
        for name, schema in components.items():
            if name not in self.components:
                self.components[name] = schema
        say_moments(inspect.type_info(kind), found, self.components)
        return found


def _links(operations: Iterable[Operation]) -> dict[str, Any]:
    """From an answer with a new run to all that can be asked about it."""
    of_it = {"parameters": {"run_id": "$response.body#/id"}}
    return {one.name: {"operationId": one.name, **of_it} for one in operations if one.parameters == ["run_id"]}


def _headers(names: Iterable[str]) -> dict[str, Any]:
    """Those of an answer, if it has any."""
    found = {name: HEADERS[name] for name in names}
    told = {
        name: {"description": said, "required": always, "schema": {"type": "string"}}
        for name, (said, always) in found.items()
    }
    return {"headers": told} if told else {}
