"""Parameters of a query, and headers, as records."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, inspect, structs
from starlette.requests import Request

from pikkupy.durations import microseconds
from pikkupy.errors import DurationError
from pikkupy.http.kinds import ListRuns, holds, in_words
from pikkupy.http.problems import Refused

T = TypeVar("T", bound=msgspec.Struct)


def query_of(request: Request, kind: type[T]) -> T:
    """The parameters as `kind`. Raises `Refused`, naming the one that is wrong."""
    repeated = _repeated(kind)
    given: dict[str, Any] = {}
    for name, text in request.query_params.multi_items():
        if name in repeated:
            given.setdefault(name, []).append(text)
        elif name in given:
            raise Refused(422, "Unprocessable content", f"`{name}` was given twice")
        else:
            given[name] = text
    return _converted(given, kind)


def headers_of(request: Request, kind: type[T]) -> T:
    """The headers that `kind` names. Raises `Refused`."""
    names = [field.encode_name for field in structs.fields(kind)]
    return _converted({name: _header(request, name) for name in names if name in request.headers}, kind)


def arguments_of(query: ListRuns) -> dict[str, Any]:
    """Of `list_runs`. Raises `Refused`."""
    arguments = {name: value for name, value in structs.asdict(query).items() if value is not UNSET}
    if "tag" in arguments:
        arguments["tags"] = tags_of(arguments.pop("tag"))
    return arguments


def length_us(name: str, duration: str | int) -> int:
    """Of a duration that was sent. Raises `Refused`, in no words of Python's."""
    try:
        return microseconds(duration)
    except DurationError:
        cure = "use a number with its unit, as 30s, 5min, 2h or 7d, and 100 years at most"
        raise Refused(422, "Unprocessable content", f"`{name}`: {cure}, not {duration!r:.80}") from None


def _header(request: Request, name: str) -> str:
    try:
        return request.headers[name].encode("latin-1").decode()  # it was read as the former
    except UnicodeDecodeError:
        raise Refused(422, "Unprocessable content", f"`{name}`: send it as UTF-8") from None


@cache
def _repeated(kind: type[msgspec.Struct]) -> frozenset[str]:
    """Names of parameters that may come several times."""
    return frozenset(field.name for field in structs.fields(kind) if holds(field.type, inspect.ListType))


def _converted(given: dict[str, Any], kind: type[T]) -> T:
    try:
        for field in structs.fields(kind):
            if isinstance(field.default, int) and field.encode_name in given:  # a number, or true and false
                with_value = msgspec.convert({field.encode_name: given[field.encode_name]}, kind, strict=False)
                given[field.encode_name] = getattr(with_value, field.name)
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise Refused(422, "Unprocessable content", in_words(error)) from None


def tags_of(pairs: list[str]) -> dict[str, str]:
    """Names and values of `name:value` each. Raises `Refused`."""
    tags: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition(":")
        if not separator:
            raise Refused(422, "Unprocessable content", f"`tag={pair:.80}`: use name:value")
        if tags.get(name, value) != value:
            raise Refused(422, "Unprocessable content", f"`tag={pair}`: the tag {name!r} has another value, too")
        tags[name] = value
    return tags
