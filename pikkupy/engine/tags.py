"""Tags: a few words that a run is started with, to find it by."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pikkupy.errors import BadType, BadValue, JournalError
from pikkupy.names import check_name

MAX_TAGS = 32  # of one run; each is a row to search by


def checked_tags(tags: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Names and values in the order of the names.

    Raises `BadType` or `BadValue` for more than 32 tags, for names that are not 1 to 256 characters, and for values
    that are not 0 to 256 characters, all without control characters.
    """
    if tags is None:
        return ()
    if not isinstance(tags, Mapping):
        raise BadType(f"tags={tags!r}: use a dict of names and values, both str")
    if len(tags) > MAX_TAGS:
        raise BadValue(f"tags: a run has at most {MAX_TAGS}, not {len(tags)}")
    return tuple(sorted((_exact(name, "name of a tag"), _value(name, value)) for name, value in tags.items()))


def tags_text(tags: tuple[tuple[str, str], ...]) -> str | None:
    """As the journal holds them."""
    return msgspec.json.encode(dict(tags)).decode() if tags else None


def tags_of(text: str | None) -> dict[str, str]:
    """From what the journal holds."""
    try:
        return {} if text is None else msgspec.json.decode(text, type=dict[str, str])
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise JournalError(f"the tags of a run are not what was written: {text!r:.100}; {error}") from error


def _value(name: object, value: object) -> str:
    return "" if isinstance(value, str) and not value else _exact(value, f"tags[{name!r}]")


def _exact(text: object, what: str) -> str:
    return str.__str__(check_name(text, what))  # of a subclass: what it holds, not what it shows
