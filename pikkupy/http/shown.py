"""Runs, steps and events as they are sent: plain JSON, with the application's secrets taken out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from pikkupy.plain import plain

USERS = frozenset({"input", "output", "error", "reason", "progress", "value", "tags"})  # fields with users' texts


class Shown:
    """Makes what is sent of what the engine gives."""

    def __init__(self, redact: Callable[[str], str] | None) -> None:
        self._redact = redact

    def __call__(self, record: msgspec.Struct) -> dict[str, Any]:
        """One record."""
        found: dict[str, Any] = plain(record)
        if self._redact is not None:
            for name in USERS & found.keys():
                found[name] = self.value(found[name], plain_already=True)
        return found

    def text(self, text: str) -> str:
        """A text that may hold one."""
        return text if self._redact is None else self._redact(text)

    def value(self, value: Any, *, plain_already: bool = False) -> Any:
        """One of a user's values."""
        found = value if plain_already else plain(value)
        return found if self._redact is None else self._hidden(found, self._redact)

    def _hidden(self, value: Any, redact: Callable[[str], str]) -> Any:
        if isinstance(value, str):
            return redact(value)
        if isinstance(value, list):
            return [self._hidden(one, redact) for one in value]
        if isinstance(value, dict):
            return {redact(key): self._hidden(one, redact) for key, one in value.items()}
        return value
