"""Values as pages show them: as JSON in printable characters; of a long one the beginning, and no more is looked at."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, TypeVar

from pikkupy.http.shown import Shown
from pikkupy.plain import DEEP, members
from pikkupy.showing.words import clean

T = TypeVar("T")

LONGEST = 20_000  # characters of a value that are on a page; all of it is a file


class Printed(NamedTuple):
    """A value, or its beginning."""

    text: str
    is_whole: bool


def printed(shown: Shown, value: Any) -> Printed:
    """The value as who asks may see it."""
    beginning = _Beginning(shown)
    try:
        found = beginning.of(value)
    except RecursionError:
        found = DEEP
    text = json.dumps(found, ensure_ascii=False, indent=2, default=str)
    text = "\n".join(clean(line) for line in text.split("\n"))
    return Printed(text[:LONGEST], beginning.is_whole and len(text) <= LONGEST)


class _Beginning:
    """Takes of a value what comes first, up to more characters than are printed."""

    def __init__(self, shown: Shown) -> None:
        self.is_whole = True
        self._left = LONGEST
        self._shown = shown

    def of(self, value: Any) -> Any:
        """In plain JSON. A text is redacted before it is cut: nobody could tell what half of a secret is."""
        if (named := members(value)) is not None:
            return {self._text(self._shown.text(name)): self.of(item) for name, item in self._first(named)}
        if isinstance(value, list | tuple | AbstractSet):
            return [self.of(item) for item in self._first(value)]
        found = self._shown.value(value)
        self._left -= 1
        return self._text(found) if isinstance(found, str) else found

    def _first(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            if self._left <= 0:
                self.is_whole = False
                return
            yield item

    def _text(self, text: str) -> str:
        self._left -= len(text)
        return text[:LONGEST]
