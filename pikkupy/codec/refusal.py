"""Why and where a value cannot be kept: the one exception inside this room, and how paths are written."""

from __future__ import annotations

from typing import Any, Self


class Refused(Exception):
    """A value that cannot be kept, fitted or read back. The path grows while it travels up through the value."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self._steps: list[str] = []

    def under(self, step: str) -> Self:
        """The same refusal, seen from one level further out."""
        self._steps.append(step)
        return self

    @property
    def path(self) -> str:
        """JSONPath-like place in the value: `$.order.items[1]`; `$` is the value itself."""
        return "$" + "".join(reversed(self._steps))


def key_step(key: object) -> str:
    """One level of a path: `.name` for keys that are names, `[...]` with the repr for other keys and for indexes."""
    if isinstance(key, str) and key.isidentifier():
        return f".{key}"
    try:
        shown = repr(key)
    except Exception:  # noqa: BLE001 - the repr of a user's class may raise anything, and the path matters more
        shown = f"<{type(key).__qualname__}>"
    shown = shown if len(shown) <= 40 else shown[:37] + "..."
    return f"[{shown.encode('utf-8', 'backslashreplace').decode()}]"


def class_name(cls: Any) -> str:
    """`module.QualName`, without `builtins.`; other annotations as they are written."""
    if not isinstance(cls, type):
        return str(cls).replace("typing.", "")
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
