"""Untrusted text, values, times and durations as a terminal may get them.

Ids, names, errors and values may come from the internet. What is not printable (control characters, and so all ANSI
sequences; marks that turn the direction of text; what has no width) is written as an escape, in tables and in JSON.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import msgspec

from pikkupy.plain import DEEP, plain, printable


def clean(text: str) -> str:
    """The text on one line, with an escape for what is not printable: `\\x1b`, `\\u202e`, `\\n`."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in text)


def clean_lines(text: str) -> str:
    """The same for text of several lines, which stay apart."""
    return "\n".join(clean(line.expandtabs(4)) for line in text.split("\n"))


def first_line(text: str) -> str:
    """The first line that says anything."""
    return next((clean(line.strip()) for line in text.splitlines() if line.strip()), "")


def json_of(value: object, *, indent: int | None = None) -> str:
    """JSON text that says what `value` says, in plain JSON values and printable characters."""
    try:
        text = msgspec.json.encode(plain(value))
        shown = (text if indent is None else msgspec.json.format(text, indent=indent)).decode()
    except RecursionError:
        return json.dumps(DEEP)
    return printable(shown)


def record(value: object) -> msgspec.Raw:
    """What `json_of` makes of the value, for a place in a document: many of them take less memory so."""
    return msgspec.Raw(json_of(value).encode())


def short(value: object, most: int) -> str:
    """The value as JSON on one line, of at most so many characters."""
    text = json_of(value)
    return text if len(text) <= most else f"{text[:most]} … ({len(text):,} characters; --json shows them all)"


def counted(number: int, noun: str) -> str:
    """So many of them: `0 runs`, `1 run`, `1,200 runs`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def local(when: datetime) -> str:
    """For people: in the time zone of the machine, to the second."""
    try:
        return when.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError):
        return when.isoformat(" ", "seconds")


def relative(when: datetime, now: datetime) -> str:
    """How far it is, in whole minutes: `in 4 min`, `2 h 5 min ago`, `in less than a minute`."""
    minutes = abs(when - now) // timedelta(minutes=1)
    said = lasted(timedelta(minutes=minutes)) if minutes else "less than a minute"
    return f"in {said}" if when > now else f"{said} ago"


def exact(when: datetime) -> str:
    """In the time zone of the machine, with that zone: `2026-01-01T13:00:00.250+01:00 (CET)`."""
    try:
        here = when.astimezone()
    except (OverflowError, ValueError):
        return when.isoformat()
    return f"{here.isoformat(timespec='milliseconds')} ({here.tzname()})"


def lasted(span: timedelta) -> str:
    """A length of time in its two largest units: `340 ms`, `1.2 s`, `3 min 20 s`, `2 d 4 h`."""
    seconds = max(0.0, span.total_seconds())
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for size, large, small, other in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            rest = int(seconds % size // small)
            return f"{int(seconds // size):,} {large}" + (f" {rest} {other}" if rest else "")
    raise AssertionError(seconds)
