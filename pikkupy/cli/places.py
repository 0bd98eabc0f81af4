"""What commands are told on the command line: which file, which run, since when."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from pikkupy.durations import microseconds
from pikkupy.errors import BadValue, DurationError

ENV = "PIKKU_DB"

_FILE = Parameter(name="FILE", show_default=False, help=f"The journal. Left out: what {ENV} names.")
File: TypeAlias = Annotated[str | None, _FILE]
FirstFile: TypeAlias = Annotated[str, _FILE]  # of a command that is given more: it stands for that where it is alone
AsJson: TypeAlias = Annotated[
    bool, Parameter(name="--json", negative="", show_default=False, help="One JSON document instead of a table.")
]


def file_of(given: str | None) -> str:
    """The journal that was named. Raises `BadValue` if none was."""
    file = given or os.environ.get(ENV)
    if not file:
        raise BadValue(f"which journal? Name the FILE, or set {ENV}")
    return file


def file_and(given: str, other: str | None, what: str) -> tuple[str, str]:
    """The journal and one thing more; if only one was given, that is the other, and the environment has the file."""
    if other is not None:
        return file_of(given), other
    if not os.environ.get(ENV):
        raise BadValue(f"only {given!r} was given: give FILE and {what}, or set {ENV} and give {what}")
    return file_of(None), given


def file_and_two(given: str, one: str, other: str | None, what: tuple[str, str]) -> tuple[str, str, str]:
    """The journal and two things more; if only two were given, those are they, and the environment has the file."""
    if other is not None:
        return file_of(given), one, other
    if not os.environ.get(ENV):
        first, second = what
        raise BadValue(
            f"only {given!r} and {one!r} were given: give FILE, {first} and {second}, "
            f"or set {ENV} and give {first} and {second}"
        )
    return file_of(None), given, one


def file_and_perhaps(given: str | None, other: str | None) -> tuple[str, str | None]:
    """The journal and what was given besides, if anything was; what is alone and no file is that, as in `file_and`."""
    if other is None and given and os.environ.get(ENV) and not Path(given).exists():
        return file_of(None), given
    return file_of(given), other


def moment_of(option: str, text: str | None, now: datetime) -> datetime | None:
    """A duration means so long ago; else it is a time as RFC 3339 has it, local unless it says otherwise."""
    if text is None:
        return None
    try:
        return now - timedelta(microseconds=microseconds(text))
    except DurationError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadValue(
            f"{option}={text!r}: use a duration ('2h', '30d': so long ago) or a time ('2026-11-29T12:00Z')"
        ) from None


def tags_of(pairs: Sequence[str]) -> dict[str, str] | None:
    """`name=value` each, each name once."""
    tags = dict[str, str]()
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise BadValue(f"--tag={pair!r}: use name=value")
        if name in tags:
            raise BadValue(f"--tag={pair!r}: {name!r} has been given; give each tag once")
        tags[name] = value
    return tags or None
