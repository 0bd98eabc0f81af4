"""The built-in types that JSON lacks and that hold no other values: how each is written and read.

Both tables are keyed the way they are looked up: by exact type when packing, by tag when unpacking. A packer gives the
fields that stand beside the tag; an unpacker gets the whole tagged object and raises whatever the constructor of its
type raises for wrong content.
"""

from __future__ import annotations

import base64
import pathlib
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

from pikkupy.codec import moments

PATHS: tuple[type[pathlib.PurePath], ...] = (
    pathlib.PurePosixPath,
    pathlib.PureWindowsPath,
    pathlib.PosixPath,
    pathlib.WindowsPath,
)


def _text(value: object) -> dict[str, Any]:
    return {"v": str(value)}


def _base64(value: bytes | bytearray) -> dict[str, Any]:
    return {"v": base64.b64encode(value).decode("ascii")}


def _from_base64(node: dict[str, Any]) -> bytes:
    return base64.b64decode(node["v"], validate=True)


def pack_float(value: float) -> Any:
    """A float as JSON: itself, and the three that JSON lacks as a tagged object."""
    if value - value == 0.0:
        return value
    return {"$t": "float", "v": repr(value)}


def _unpack_float(node: dict[str, Any]) -> float:
    if node["v"] not in ("nan", "inf", "-inf"):
        raise ValueError(f"{node['v']!r} is not nan, inf or -inf")
    return float(node["v"])


def _pack_complex(value: complex) -> dict[str, Any]:
    return {"v": [pack_float(value.real), pack_float(value.imag)]}


def _unpack_complex(node: dict[str, Any]) -> complex:
    real, imag = (_unpack_float(part) if isinstance(part, dict) else part for part in node["v"])
    if type(real) is not float or type(imag) is not float:
        raise ValueError("a complex number has two floats")
    return complex(real, imag)


PACK: dict[type, tuple[str, Callable[[Any], dict[str, Any]]]] = {
    bytes: ("bytes", _base64),
    bytearray: ("bytearray", _base64),
    datetime: ("datetime", moments.pack_moment),
    date: ("date", moments.pack_date),
    time: ("time", moments.pack_moment),
    timedelta: ("timedelta", moments.pack_timedelta),
    Decimal: ("decimal", _text),
    UUID: ("uuid", _text),
    complex: ("complex", _pack_complex),
    msgspec.UnsetType: ("unset", lambda _: {}),
    **{path: (path.__name__, _text) for path in PATHS},
}

UNPACK: dict[str, Callable[[dict[str, Any]], Any]] = {
    "float": _unpack_float,
    "bytes": _from_base64,
    "bytearray": lambda node: bytearray(_from_base64(node)),
    "datetime": moments.unpack_datetime,
    "date": moments.unpack_date,
    "time": moments.unpack_time,
    "timedelta": moments.unpack_timedelta,
    "decimal": lambda node: Decimal(_str(node)),
    "uuid": lambda node: UUID(_str(node)),
    "complex": _unpack_complex,
    "unset": lambda _: msgspec.UNSET,
    "PurePosixPath": lambda node: pathlib.PurePosixPath(_str(node)),
    "PureWindowsPath": lambda node: pathlib.PureWindowsPath(_str(node)),
    "PosixPath": lambda node: pathlib.PosixPath(_str(node)),
    "WindowsPath": lambda node: pathlib.WindowsPath(_str(node)),
}


def _str(node: dict[str, Any]) -> str:
    text = node["v"]
    if type(text) is not str:
        raise TypeError(f"expected text, got {type(text).__name__}")
    return text
