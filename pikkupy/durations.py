"""Durations: one table of units, one parser, microseconds inside.

The grammar is the contract's: `<digits><unit>`, nothing else. A number is milliseconds, as on the page that pikkupy
translates (JavaScript's `setTimeout` counts in them too); a `timedelta` is itself.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from functools import lru_cache
from typing import TypeAlias

from pikkupy.errors import DurationError

Duration: TypeAlias = str | int | float | timedelta

MILLISECOND_US = 1_000
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US
WEEK_US = 7 * DAY_US

MAX_US = 36_525 * DAY_US  # 100 years of 365.25 days: every deadline stays far inside what a datetime can say

_UNITS_US: dict[str, int] = {
    unit: us
    for units, us in (
        (("ms", "millisecond", "milliseconds"), MILLISECOND_US),
        (("s", "sec", "second", "seconds"), SECOND_US),
        (("m", "min", "minute", "minutes"), MINUTE_US),
        (("h", "hour", "hours"), HOUR_US),
        (("d", "day", "days"), DAY_US),
        (("w", "week", "weeks"), WEEK_US),
    )
    for unit in units
}

_TEXT = re.compile(r"([0-9]{1,256})([a-z]{1,16})", re.ASCII)
_UNITS_HELP = ", ".join(_UNITS_US)


def microseconds(duration: Duration) -> int:
    """The length of `duration` in microseconds, fractions rounded up.

    Raises `DurationError` for anything but the forms above, for negative, NaN and infinite numbers, and beyond
    100 years.
    """
    if isinstance(duration, str):
        us = _from_text(duration)
    elif isinstance(duration, bool):
        raise _refused(duration, "a bool is no duration")
    elif isinstance(duration, int):
        us = duration * MILLISECOND_US
    elif isinstance(duration, float):
        if not math.isfinite(duration):
            raise _refused(duration, "not a finite number")
        us = math.ceil(max(-1.0, min(duration, float(MAX_US))) * MILLISECOND_US)  # beyond either end it is refused
    elif isinstance(duration, timedelta):
        us = duration // timedelta(microseconds=1)
    else:
        raise _refused(duration, f"{type(duration).__name__} is no duration")
    if us < 0:
        raise _refused(duration, "negative")
    if us > MAX_US:
        raise _refused(duration, "longer than 100 years")
    return us


def named_microseconds(name: str, duration: Duration) -> int:
    """As `microseconds`; the error says which argument it was."""
    try:
        return microseconds(duration)
    except DurationError as error:
        raise DurationError(f"{name}={error}") from None


@lru_cache(maxsize=256)
def _from_text(text: str) -> int:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise _refused(text, "not <digits><unit>")
    digits, unit = match.groups()
    if unit not in _UNITS_US:
        raise _refused(text, f"unknown unit {unit!r}")
    return int(digits) * _UNITS_US[unit]


def _refused(duration: object, why: str) -> DurationError:
    try:
        shown = repr(duration)
    except ValueError:  # an integer of more digits than Python writes
        shown = "an integer of very many digits"
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return DurationError(
        f"{shown}: {why}; write '<digits><unit>' with one of the units {_UNITS_HELP}, "
        "a number of milliseconds, or a timedelta"
    )
