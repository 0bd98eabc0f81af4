"""Values as pages show them: as JSON in printable characters; of a long one the beginning, and no more is looked at."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeVar

from pikkupy.http.shown import Shown
from pikkupy.plain import DEEP, members
from pikkupy.showing.words import clean

T = TypeVar("T")

INDENT = 2
LONGEST = 20_000  # characters of a value that are on a page; all of it is a file
LONGEST_PAGE = 400_000  # characters of all values on a page; the others are files alone


class Printed(NamedTuple):
    """A value, or its beginning."""

    text: str
    is_whole: bool


class Paper:
    """The values of one page, as long as there is room for them."""

    def __init__(self, shown: Shown) -> None:
        self._shown = shown
        self._left = LONGEST_PAGE

    async def printed(self, value: Any) -> Printed:
        """The value, or nothing of it if there is no room left. Others on the loop have a turn before it."""
        await asyncio.sleep(0)
        if self._left <= 0:
            return Printed("", is_whole=False)
        found = printed(self._shown, value)
        self._left -= len(found.text)
        return found


def printed(shown: Shown, value: Any) -> Printed:
    """The value as who asks may see it."""
    beginning = _Beginning(shown)
    try:
        found = beginning.of(value)
    except RecursionError:
        found = DEEP
    text = json.dumps(found, ensure_ascii=False, indent=INDENT, default=str)
    text = "\n".join(clean(line) for line in text.split("\n"))
    return Printed(text[:LONGEST], beginning.is_whole and len(text) <= LONGEST)


class _Beginning:
    """Takes of a value what comes first, up to as many characters as are printed."""

    def __init__(self, shown: Shown) -> None:
        self.is_whole = True
        self._left = LONGEST
        self._shown = shown

    def of(self, value: Any, indent: int = 0) -> Any:
        """In plain JSON. A text is redacted before it is cut: nobody could tell what half of a secret is."""
        within = indent + INDENT
        if (named := members(value)) is not None:
            items = self._first(named, within)
            return {self._text(self._shown.text(name)): self.of(item, within) for name, item in items}
        if isinstance(value, list | tuple | AbstractSet):
            return [self.of(item, within) for item in self._first(value, within)]
        found = self._shown.value(value)
        if isinstance(found, str):
            return self._text(found)
        self._left -= len(str(found))
        return found

    def _first(self, items: Iterable[T], indent: int) -> Iterator[T]:
        """Each has a line of its own, with a comma or before the line of the end."""
        for item in items:
            if self._left <= 0:
                self.is_whole = False
                return
            self._left -= len(",\n") + indent
            yield item

    def _text(self, text: str) -> str:
        room = max(0, self._left)
        self._left -= len(text) + len('""')
        self.is_whole = self.is_whole and len(text) <= room
        return text[:room]
