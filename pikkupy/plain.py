"""Values of recorded runs, and the records of runs themselves, as JSON has them: for people, and for other programs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgspec

DEEP = "(nested too deeply to be shown)"


def printable(text: str) -> str:
    """JSON text of several lines that says the same in printable characters: others are escapes in it."""
    return "\n".join(line if line.isprintable() else _escaped(line) for line in text.split("\n"))


def _escaped(line: str) -> str:
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in line)


def plain(value: Any) -> Any:
    """The value in what JSON has.

    What JSON lacks is a text (times in UTC, NaN, large integers, bytes as base64); sets and tuples are lists.
    """
    match value:
        case None | bool() | msgspec.Raw():
            found: Any = value
        case Enum():
            found = plain(value.value)
        case str():
            found = value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
        case int():
            found = value if -(1 << 63) <= value < 1 << 63 else _digits(value)
        case float():
            found = value if math.isfinite(value) else str(value).replace("nan", "NaN").replace("inf", "Infinity")
        case datetime():
            found = rfc3339(value)
        case Mapping():
            found = {_key(plain(key)): plain(item) for key, item in value.items()}
        case msgspec.Struct():
            found = {name: _field(item) for name, item in _fields(value)}
        case list() | tuple() | AbstractSet():
            found = [plain(item) for item in value]
        case _ if _is_dataclass(value):
            found = {name: plain(item) for name, item in _attributes(value)}
        case _:
            found = _by_msgspec(value)
    return found


def members(value: Any) -> Iterator[tuple[str, Any]] | None:
    """Names and values of what JSON has as an object, each made when it is asked for; `None` for anything else."""
    match value:
        case Enum():
            return None
        case Mapping():
            return ((_key(plain(key)), item) for key, item in value.items())
        case msgspec.Struct():
            return _fields(value)
        case _:
            return _attributes(value) if _is_dataclass(value) else None


def _fields(value: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    """Under the names, and with the tag, that its class is read with."""
    config = value.__struct_config__
    if config.tag_field is not None:
        yield config.tag_field, config.tag
    for name, encoded in zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True):
        yield encoded, getattr(value, name)


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value))


def _field(value: Any) -> Any:
    """One that cannot be shown does not hide the others."""
    try:
        return plain(value)
    except RecursionError:
        return DEEP


def _key(key: Any) -> str:
    return key if isinstance(key, str) else msgspec.json.encode(key).decode()


def _digits(number: int) -> str:
    try:
        return str(number)
    except ValueError:  # of more digits than Python writes
        return hex(number)


def _by_msgspec(value: object) -> Any:
    try:
        found = msgspec.to_builtins(value)
    except Exception:  # noqa: BLE001 - it is only shown, and the others are to be seen
        return f"({type(value).__name__})"
    return plain(found) if type(found) is not type(value) else f"({type(value).__name__})"


def rfc3339(when: datetime) -> str:
    """For machines: in UTC. One without a time zone stays as it is."""
    if when.tzinfo is None:
        return when.isoformat()
    try:
        return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        return when.isoformat()
