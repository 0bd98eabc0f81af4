"""Text, values, times and durations as a terminal may get them."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any
from uuid import UUID

import msgspec
import pytest

from pikkupy.plain import DEEP, plain, rfc3339
from pikkupy.showing.words import (
    clean,
    clean_lines,
    exact,
    first_line,
    json_of,
    lasted,
    local,
    record,
    relative,
    short,
)

NASTY = {
    "C0": "\x00\x07\x08\x1b[2J\x1b]0;title\x07",
    "C1": "\x85\x9b31m\x9d0;title\x9c",
    "lines": "a\rb\nc\vd\fe\x1cf\u2028g\u2029h",
    "bidi": "\u202eevil\u202c \u2066x\u2069 \u200f\u061c",
    "no width": "\u200b\u200d\ufeff\u2060\u00ad",
    "tags": "\U000e0041\U000e007f",
    "private": "\ue000\U000f0000",
    "surrogates": "\ud800 \udcff",
    "spaces": "a\u00a0b\u3000c",
    "delete": "\x7f",
}


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    YES = "yes"


@dataclass
class Point:
    x: int


class Deep(msgspec.Struct):
    inside: Any


class Pair(msgspec.Struct):
    first: Any
    second: Any


class Car(msgspec.Struct, rename="camel", tag_field="kind", tag="car"):
    seat_count: int
    made_in: str = msgspec.field(name="made in", default="x")


@pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)
def test_nothing_that_is_not_printable_is_left(text: str) -> None:
    """In text it is an escape as Python writes it, in JSON one of JSON's, from which the text comes back."""
    assert clean(text).isprintable()
    assert clean_lines(text).replace("\n", "").isprintable()
    assert first_line(text).isprintable()
    for indent in (None, 2):
        shown = json_of({text: [text]}, indent=indent)
        assert shown.replace("\n", "").isprintable()
        kept = text.encode("utf-8", "backslashreplace").decode()
        assert json.loads(shown) == {kept: [kept]}


def test_printable_text_is_left_alone() -> None:
    """Letters of every script, symbols, emoji."""
    for text in ("", "plain", "é ü ñ", "日本語", "العربية", "😀", "a\\x1b"):
        assert clean(text) == text


def test_lines_stay_apart_where_they_may() -> None:
    """In tracebacks; the first line of an error is the first that says anything."""
    assert clean_lines("a\n\tb\r\n\x1b[1mc") == "a\n    b\\r\n\\x1b[1mc"
    assert first_line("\n  \n say \x1b\n more") == "say \\x1b"
    assert first_line("") == ""


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, None),
        (True, True),
        (1 << 62, 1 << 62),
        (1 << 80, str(1 << 80)),
        (1.5, 1.5),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
        ("\ud800", "\\ud800"),
        (b"\x00\xff", "AP8="),
        ((1, (2,)), [1, [2]]),
        ({3}, [3]),
        ({1: 2, None: 3, "a": {(1, 2): 4}}, {"1": 2, "null": 3, "a": {"[1,2]": 4}}),
        ({Word.YES: Word.YES}, {"yes": "yes"}),
        (Colour.RED, "red"),
        (Point(1), {"x": 1}),
        (Deep(Point(2)), {"inside": {"x": 2}}),
        (datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=1))), "2026-01-02T02:00:00Z"),
        (datetime(2026, 1, 2, 3), "2026-01-02T03:00:00"),
        (date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (object(), "(object)"),
        (Point, "(type)"),
    ],
)
def test_values_are_shown_as_plain_json(value: Any, shown: Any) -> None:
    """What JSON lacks is text."""
    assert plain(value) == shown
    assert json.loads(json_of(value)) == shown


def test_a_struct_is_shown_as_its_class_is_read() -> None:
    """Under its own names, and with its tag: who copies it can give it back."""
    car = Car(4)

    assert plain(car) == msgspec.to_builtins(car) == {"kind": "car", "seatCount": 4, "made in": "x"}
    assert plain([car]) == [plain(car)]


def test_what_is_too_large_or_too_deep_is_said_to_be() -> None:
    """Instead of an error of the whole command."""
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    assert "too deeply" in json_of(deep)
    assert json.loads(json_of(Pair(deep, 1))) == {"first": DEEP, "second": 1}
    assert json.loads(json_of({"all": [record(Pair(deep, "\x1b")), record(2)]})) == {
        "all": [{"first": DEEP, "second": "\x1b"}, 2]
    }
    assert plain(10**5000).startswith("0x")
    assert short("x" * 1000, 20) == '"' + "x" * 19 + " … (1,002 characters; --json shows them all)"
    assert short([1, 2], 20) == "[1,2]"


def test_times_at_the_end_of_the_calendar() -> None:
    """They are shown somehow."""
    for when in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        assert rfc3339(when) and local(when)
    west = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
    assert rfc3339(west).startswith("9999")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0 ms"),
        (0, "0 ms"),
        (0.34, "340 ms"),
        (1.25, "1.2 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (3_600, "1 h"),
        (7_500, "2 h 5 min"),
        (86_400 * 2 + 3_600 * 4, "2 d 4 h"),
        (86_400 * 1234, "1,234 d"),
    ],
)
def test_durations_have_two_units(seconds: float, words: str) -> None:
    """The largest two."""
    assert lasted(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (250, "in 4 min"), (59.9, "in less than a minute"), (0, "less than a minute ago"), (-60, "1 min ago"),
        (-7_520, "2 h 5 min ago"), (86_400 * 3 + 1, "in 3 d"),
    ],
)  # fmt: skip
def test_how_far_a_time_is_changes_once_a_minute(seconds: float, words: str) -> None:
    """A page that is live is not sent anew each second."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert relative(now + timedelta(seconds=seconds), now) == words


def test_an_exact_time_says_its_zone() -> None:
    """That of the machine."""
    when = datetime(2026, 7, 1, 12, 0, 0, 250_000, tzinfo=UTC)
    here = when.astimezone()
    assert exact(when) == f"{here.isoformat(timespec='milliseconds')} ({here.tzname()})"
    assert exact(datetime.max.replace(tzinfo=timezone(-timedelta(hours=12)))).startswith("9999-12-31T23:59:59")
