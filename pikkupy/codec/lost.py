"""A recorded instance whose class is gone: a place-holder until the value is fitted to its annotation."""

from __future__ import annotations

from collections import deque
from typing import Any


class Lost:
    """What was recorded of an instance: the tag, why no instance could be made of it, its fields and further state."""

    __slots__ = ("extra", "fields", "reason", "tag")

    def __init__(self, tag: str, fields: Any, extra: dict[str, Any] | None, reason: str) -> None:
        self.tag = tag
        self.fields = fields
        self.extra = extra
        self.reason = reason

    @property
    def simple_name(self) -> str:
        """The last part of the class's name: the part that stays when a class moves to another module."""
        return self.tag.rpartition(":")[2].rpartition(".")[2]


def holds_lost(value: Any) -> bool:
    """Is there a `Lost` in `value`, looking into containers but not into instances?"""
    cls = type(value)
    if cls is dict:
        return any(map(holds_lost, value)) or any(map(holds_lost, value.values()))
    return cls is Lost or (cls in (list, tuple, set, frozenset, deque) and any(map(holds_lost, value)))
