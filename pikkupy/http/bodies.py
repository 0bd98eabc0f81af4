"""Bodies of requests, read within limits."""

from __future__ import annotations

import asyncio
import re
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import ClientDisconnect, Request

from pikkupy.http.kinds import in_words
from pikkupy.http.problems import Refused
from pikkupy.mounting import HttpConfig

T = TypeVar("T")

LONGEST_S = 30.0  # that a body may take to arrive
QUOTES = 'a text needs quotes: "text"'

# Each byte is looked at once, whatever stands there: a text that does not end goes to the end of the body.
_TOKENS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[\]{}:]', re.DOTALL)


async def read(request: Request, config: HttpConfig, kind: type[T]) -> T:
    """The body as `kind`. Raises `Refused`. No body is an empty object."""
    body = await _json(request, config)
    if not body:
        body = b"{}"
    return decoded(body, config, kind)


async def read_value(request: Request, config: HttpConfig) -> Any:
    """The body as any JSON value; no body is `None`. Raises `Refused`."""
    body = await _json(request, config)
    return decoded(body, config, object) if body else None


async def read_form(
    request: Request, config: HttpConfig, *, most: int | None = None, longest_s: float | None = None
) -> dict[str, str]:
    """The fields of a form that a browser has sent, with limits of its own if they are given. Raises `Refused`."""
    body = await _bytes(request, config, most, longest_s)
    if body and _kind_of(request) != "application/x-www-form-urlencoded":
        raise Refused(415, "Unsupported media type", "send a form")
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=config.max_keys, errors="strict")
    except ValueError as error:
        raise Refused(400, "Not a form", str(error)) from None
    return {name: text.replace("\r\n", "\n") for name, text in pairs}


def decoded(body: bytes, config: HttpConfig, kind: type[T]) -> T:
    """JSON as `kind`. Raises `Refused`, with the path of what is wrong."""
    _check_shape(body, config)
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise Refused(422, "Unprocessable content", in_words(error)) from None
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise Refused(400, "Not JSON", f"{error}; {QUOTES}") from None


async def _bytes(
    request: Request, config: HttpConfig, most: int | None = None, longest_s: float | None = None
) -> bytes:
    most = config.max_body if most is None else most
    longest_s = LONGEST_S if longest_s is None else longest_s
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Refused(415, "Unsupported media type", "send the body as it is, not compressed")
    found = bytearray()
    try:
        async with asyncio.timeout(longest_s):
            async for part in request.stream():
                found += part
                if len(found) > most:
                    raise Refused(413, "Content too large", f"a body may have {most:,} bytes: asgi(max_body=...)")
    except TimeoutError:
        raise Refused(408, "Request timeout", f"the body had not arrived after {longest_s:g} s") from None
    except ClientDisconnect:
        raise Refused(400, "Bad request", "the body did not arrive") from None
    return bytes(found)


async def _json(request: Request, config: HttpConfig) -> bytes:
    body, kind = await _bytes(request, config), _kind_of(request)
    if body and kind != "application/json" and not kind.endswith("+json"):
        raise Refused(415, "Unsupported media type", "send JSON, with `Content-Type: application/json`")
    return body


def _kind_of(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_shape(body: bytes, config: HttpConfig) -> None:
    """Refuse what nests too deeply or has too many keys, before anything is made of it."""
    if body.count(b"[") + body.count(b"{") <= config.max_depth and body.count(b":") <= config.max_keys:
        return  # as nearly always
    depth = keys = 0
    for token in _TOKENS.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
                if depth > config.max_depth:
                    raise Refused(
                        422, "Unprocessable content", f"nested more than {config.max_depth} levels: asgi(max_depth=...)"
                    )
            case b"]" | b"}":
                depth -= 1
            case b":":
                keys += 1
                if keys > config.max_keys:
                    raise Refused(
                        422, "Unprocessable content", f"more than {config.max_keys:,} keys: asgi(max_keys=...)"
                    )
            case _:
                pass  # a text
