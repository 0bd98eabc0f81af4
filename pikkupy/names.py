"""The rule for names: of steps, runs, signals, gates, functions and workflows."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pikkupy.errors import BadType, BadValue

MAX_NAME = 256  # characters; long enough for a sentence with an e-mail address, short enough for a table and an index
MAX_LISTED = 10  # names in an error

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_ORDINAL = re.compile(r"#[0-9]+\Z")


@lru_cache(maxsize=1_024)  # a step's name is checked at every call; most are written in the code
def _is_fine(name: str) -> bool:
    return len(name) <= MAX_NAME and bool(name) and not _CONTROL.search(name) and not _ORDINAL.search(name)


def check_name(name: object, what: str) -> str:
    """`name`, if it is 1 to 256 characters without control characters.

    Raises `BadType` naming the type, or `BadValue`.
    """
    if not isinstance(name, str):
        raise BadType(f"{what} must be a str, not {type(name).__name__}: {short(name)}")
    if not 1 <= len(name) <= MAX_NAME:
        raise BadValue(f"{what} must have 1 to {MAX_NAME} characters, not {len(name)}: {short(name)}")
    if _CONTROL.search(name):
        raise BadValue(f"{what} must not have control characters: {short(name)}")
    return name


def check_step_name(name: object, what: str = "step name") -> str:
    """As `check_name`; also refuses an end like `#1`, which names the repetitions of a step."""
    if type(name) is str and _is_fine(name):
        return name
    checked = check_name(name, what)
    if _ORDINAL.search(checked):
        raise BadValue(f"{what} must not end in '#' and digits, which number repeated steps: {short(checked)}")
    return checked


def short(value: object) -> str:
    """The value as an error quotes it: its beginning."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def some(names: Iterable[str]) -> str:
    """The names as an error lists them: the first ten."""
    listed = list(names)
    return ", ".join(map(repr, listed[:MAX_LISTED])) + (", …" if len(listed) > MAX_LISTED else "") or "none"


def without_ordinal(name: str) -> str:
    """The name that a step was called with."""
    return _ORDINAL.sub("", name)
