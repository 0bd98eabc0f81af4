"""From a value to a tree that JSON can say: plain values as they are, all others as tagged objects.

A tagged object is `{"$t": <tag>, "v": <content>}`, for some tags with more fields. Only the exact type counts: an
instance of a subclass of a built-in type is of another type, which JSON would silently turn into its base.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from typing import Any

import msgspec

from pikkupy.codec.lost import Lost
from pikkupy.codec.refusal import Refused, key_step
from pikkupy.codec.scalars import PACK, pack_float
from pikkupy.codec.shapes import find_class, shape_of
from pikkupy.codec.unkeepable import advice

MAX_DEPTH = 200  # levels of values inside values; the tags double them, and CPython's stack allows about 1,000
MAX_DIGITS = 4_300  # characters of an integer; what msgspec reads, and CPython's default limit for int(text)

_INT64 = 1 << 63


class TooLarge(Exception):
    """The value has more content than its limit; `size` is how much was seen of it, in bytes, at the least."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.size = size


class Packer:
    """Packs one value. Afterwards `classes` are the user's classes that were met, `nameless` those not found by name.

    `limit`: of the JSON's size, in bytes.
    """

    __slots__ = ("classes", "left", "limit", "nameless")

    def __init__(self, limit: int) -> None:
        self.limit = self.left = limit
        self.classes: set[type] = set()
        self.nameless: set[type] = set()

    def tree(self, value: Any) -> Any:
        """`value` as a tree of plain JSON values; parts in which nothing needs a tag are shared with it.

        Raises `Refused`, and `TooLarge` before a text is built that is larger than the limit for certain.
        """
        packed = self._pack(value, 0)
        self._spend(0)
        return packed

    def _pack(self, value: Any, depth: int) -> Any:
        cls = type(value)
        if cls is str:
            return self._text(value)
        if cls is int:
            return value if -_INT64 < value < _INT64 else _big_int(value)
        if cls is bool or value is None:
            return value
        if cls is float:
            return pack_float(value)
        if cls in _CONTAINERS:
            return _CONTAINERS[cls](self, value, _deeper(depth))
        if cls in PACK:
            return self._scalar(value, cls)
        return self._instance(value, cls, _deeper(depth))

    def _text(self, value: str) -> str:
        self.left -= len(value)
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise Refused(f"text with the surrogate {value[error.start]!a} has no UTF-8 form") from None
        return value

    def _scalar(self, value: Any, cls: type) -> dict[str, Any]:
        if (cls is bytes or cls is bytearray) and len(value) > self.left:
            raise TooLarge(len(value))  # before its text is built, which is a third longer
        tag, pack = PACK[cls]
        packed = {"$t": tag, **pack(value)}
        for content in packed.values():
            if type(content) is str:
                self._text(content)
        return packed

    def _instance(self, value: Any, cls: type, depth: int) -> dict[str, Any]:
        shape = shape_of(cls)
        if shape is None:
            raise Refused(value.reason if cls is Lost else advice(value))
        if cls not in self.classes:
            self.classes.add(cls)
            if find_class(shape.tag) is not cls:
                self.nameless.add(cls)
        content, extra = shape.take(value)
        if type(content) is dict:
            content = self._fields(content, depth)
        elif type(content) is list:
            content = self._items(content, depth)
        else:
            content = self._pack(content, depth)
        packed = {"$t": shape.tag, "v": content}
        if extra is not None:
            packed["x"] = self._fields(extra, depth)
        return packed

    def _tuple(self, value: tuple[Any, ...], depth: int) -> dict[str, Any]:
        return {"$t": "tuple", "v": self._items(value, depth)}

    def _deque(self, value: deque[Any], depth: int) -> dict[str, Any]:
        packed: dict[str, Any] = {"$t": "deque", "v": self._items(value, depth)}
        if value.maxlen is not None:
            packed["maxlen"] = value.maxlen
        return packed

    def _set(self, value: set[Any] | frozenset[Any], depth: int) -> dict[str, Any]:
        """Sorted by the text of the items: the order in memory is another one in the next process."""
        self._spend(len(value))
        try:
            items = [self._pack(item, depth) for item in value]
        except Refused as refused:
            refused.under("[*]")
            raise
        self._spend(0)
        return {"$t": type(value).__name__, "v": sorted(items, key=msgspec.json.encode)}

    def _dict(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        for key in value:
            if type(key) is not str:
                return self._pairs(value, depth)
        packed = self._fields(value, depth)
        return {"$t": "dict", "v": packed} if "$t" in value else packed

    def _pairs(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        self._spend(2 * len(value))
        pairs = []
        key: Any = None
        try:
            for key, item in value.items():
                pairs.append([self._pack(key, depth), self._pack(item, depth)])
        except Refused as refused:
            refused.under(key_step(key))
            raise
        return {"$t": "dict", "v": pairs}

    def _fields(self, value: dict[str, Any], depth: int) -> dict[str, Any]:
        self._spend(2 * len(value))
        packed = {}
        same = True
        key: Any = None
        try:
            for key, item in value.items():
                self._text(key)
                packed[key] = new = self._pack(item, depth)
                same = same and new is item
        except Refused as refused:
            refused.under(key_step(key))
            raise
        return value if same else packed

    def _items(self, value: Collection[Any], depth: int) -> list[Any]:
        packed = []
        same = type(value) is list
        self._spend(len(value))
        try:
            for item in value:
                new = self._pack(item, depth)
                same = same and new is item
                packed.append(new)
        except Refused as refused:
            refused.under(f"[{len(packed)}]")
            raise
        return value if same else packed  # type: ignore[return-value]

    def _spend(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise TooLarge(self.limit - self.left)


_CONTAINERS: dict[type, Callable[[Packer, Any, int], Any]] = {
    list: Packer._items,
    dict: Packer._dict,
    tuple: Packer._tuple,
    set: Packer._set,
    frozenset: Packer._set,
    deque: Packer._deque,
}


def _deeper(depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise Refused(f"nested more than {MAX_DEPTH} levels deep, or contains itself; keep it flat")
    return depth + 1


def _big_int(value: int) -> int:
    # The estimate comes first: to write a huge integer takes time that grows with the square of its length.
    if value.bit_length() < 4 * MAX_DIGITS:
        try:
            if len(str(value)) <= MAX_DIGITS:
                return value
        except ValueError:  # the process has lowered the limit
            pass
    raise Refused(f"an integer of more than {MAX_DIGITS} digits cannot be kept; keep it as text or bytes")
