"""Dates, times and time zones as JSON: ISO 8601 text, and beside it what the text cannot say.

A `ZoneInfo` is kept by its key and the wall time beside it, so that a later change of the zone's rules changes neither
the hour nor the day that was recorded.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import zoneinfo
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pikkupy.codec.refusal import Refused, class_name

Moment = TypeVar("Moment", datetime, time)

_ZONE_KEY = re.compile(r"[A-Za-z0-9_+\-]+(/[A-Za-z0-9_+\-]+)*", re.ASCII)


def pack_moment(moment: datetime | time) -> dict[str, Any]:
    """The fields beside `$t` of a `datetime` or `time`: `v`, and where needed `zone`, `name` and `fold`."""
    zone = _pack_zone(moment.tzinfo)  # first: it refuses the zones whose code `isoformat` would run
    packed: dict[str, Any] = {"v": moment.isoformat(), **zone}
    if moment.fold:
        packed["fold"] = moment.fold
    return packed


def unpack_datetime(node: dict[str, Any]) -> datetime:
    """The `datetime` that `pack_moment` wrote. Raises `ValueError` or `TypeError` for other content."""
    return _with_zone(datetime.fromisoformat(node["v"]), node)


def unpack_time(node: dict[str, Any]) -> time:
    """The `time` that `pack_moment` wrote. Raises `ValueError` or `TypeError` for other content."""
    return _with_zone(time.fromisoformat(node["v"]), node)


def pack_date(day: date) -> dict[str, Any]:
    return {"v": day.isoformat()}


def unpack_date(node: dict[str, Any]) -> date:
    return date.fromisoformat(node["v"])


def pack_timedelta(span: timedelta) -> dict[str, Any]:
    return {"v": [span.days, span.seconds, span.microseconds]}


def unpack_timedelta(node: dict[str, Any]) -> timedelta:
    days, seconds, microseconds = node["v"]
    return timedelta(days, seconds, microseconds)


def _pack_zone(zone: tzinfo | None) -> dict[str, str]:
    if zone is None:
        return {}
    if type(zone) is timezone:
        # `timezone(offset)` and `timezone(offset, name)` differ only in the name that they print.
        name, plain = zone.tzname(None), timezone(zone.utcoffset(None)).tzname(None)
        return {} if name == plain else {"name": name}
    if type(zone) is ZoneInfo and isinstance(zone.key, str):
        return {"zone": zone.key}
    if _is_pydantic_offset(type(zone)):
        return {"offset": "pydantic"}
    raise Refused(f"a time zone of type {class_name(type(zone))} cannot be kept; use zoneinfo.ZoneInfo or UTC")


def _with_zone(moment: Moment, node: dict[str, Any]) -> Moment:
    if len(node) == 2:
        return moment
    zone = moment.tzinfo
    if "zone" in node:
        zone = _zone(node["zone"])
    elif "name" in node and zone is not None:
        offset = zone.utcoffset(None)
        assert offset is not None
        zone = timezone(offset, node["name"])
    elif "offset" in node and zone is not None:
        zone = _pydantic_zone(zone)
    return moment.replace(tzinfo=zone, fold=node.get("fold", 0))


def _is_pydantic_offset(cls: type) -> bool:
    return cls.__name__ == "TzInfo" and cls.__module__.startswith("pydantic_core")


def _pydantic_zone(zone: tzinfo) -> tzinfo:
    """The fixed offset as pydantic makes it when it parses; the equal `timezone` where pydantic is not in use."""
    made_by = getattr(sys.modules.get("pydantic_core"), "TzInfo", None)
    offset = zone.utcoffset(None)
    if made_by is None or offset is None:
        return zone
    made: tzinfo = made_by(int(offset.total_seconds()))
    return made


@lru_cache(maxsize=256)
def _zone(key: str) -> ZoneInfo:
    """The zone of that key, if the system or the `tzdata` package has it.

    Asked before, because `ZoneInfo` looks for an unknown key by importing modules that are named after it.
    """
    if not _ZONE_KEY.fullmatch(key):
        raise ValueError(f"{key!r} is no key of a time zone")
    if not any(Path(root, key).is_file() for root in zoneinfo.TZPATH) and key not in _packaged_zones():
        raise ValueError(f"no time zone {key!r} on this machine; install the tzdata package")
    return ZoneInfo(key)


@lru_cache(maxsize=1)
def _packaged_zones() -> frozenset[str]:
    """The keys in the `tzdata` package, read without importing it."""
    spec = importlib.util.find_spec("tzdata")
    if spec is None or spec.origin is None:
        return frozenset()
    zones = Path(spec.origin).with_name("zones")
    return frozenset(zones.read_text("utf-8").split()) if zones.is_file() else frozenset()
