"""The table of what can be asked over HTTP: from it the routes are made, and the OpenAPI document."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from starlette.responses import Response

from pikkupy.http.asked import Ask
from pikkupy.mounting import Scope

Method = Literal["GET", "POST", "DELETE"]
Handler = Callable[[Ask], Awaitable[Response]]
About = Callable[[Ask], Awaitable[Mapping[str, str | int]]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route."""

    name: str
    method: Method
    path: str
    scope: Scope
    handler: Handler
    body: Any = None
    """The type of its body; `None`: it has none."""
    query: type[msgspec.Struct] | None = None
    """Its parameters."""
    returns: Mapping[int, Any] = field(default_factory=dict)
    """Statuses of answers that are no problem, with the type of what is in them."""
    problems: tuple[int, ...] = ()
    """Statuses of problems, beside those that every route has."""
    headers: type[msgspec.Struct] | None = None
    """Headers of the request that it looks at."""
    sends: tuple[str, ...] = ()
    """Headers of its answers that are no problem."""
    stream: bool = False
    """It answers with server-sent events."""
    is_export: bool = False
    """What it answers is a file that is taken away."""
    about: About | None = None
    """What the audit line says of it, beside what its path names; it is asked before the action."""
    problem: Callable[[Ask, Exception], Response] | None = None
    """How it says what is wrong; `None`: as problem details."""

    @property
    def acts(self) -> bool:
        """Whether it does something, or hands out a file: then it has an audit line."""
        return self.method != "GET" or self.is_export

    @property
    def summary(self) -> str:
        """The first line of what is said of it."""
        return self._said.split("\n", 1)[0].rstrip(".")

    @property
    def description(self) -> str:
        """All that is said of it."""
        return " ".join(self._said.split())

    @property
    def parameters(self) -> list[str]:
        """The names in its path."""
        return [part[1:-1] for part in self.path.split("/") if part.startswith("{")]

    @property
    def _said(self) -> str:
        return (self.handler.__doc__ or "").strip()


def operation(
    method: Method, path: str, scope: Scope, returns: Mapping[int, Any], **facts: Any
) -> Callable[[Handler], Operation]:
    """Declare a handler as one: it cannot be reached without saying who may."""

    def declared(handler: Handler) -> Operation:
        return Operation(handler.__name__, method, path, scope, handler, returns=returns, **facts)

    return declared
