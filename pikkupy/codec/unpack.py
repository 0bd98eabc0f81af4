"""From the tree of a JSON text back to the value. The opposite of `pack`, except that it trusts nothing.

The text chooses among known tags and among classes that are already imported and of a known shape. Nothing is imported
or evaluated because of it.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from pikkupy.codec.fit import mend_fields
from pikkupy.codec.lost import Lost
from pikkupy.codec.refusal import Refused, key_step
from pikkupy.codec.scalars import UNPACK
from pikkupy.codec.shapes import Shape, find_class, shape_of


class Unpacker:
    """Unpacks one tree, changing it in place. `losses` counts the instances that became a `Lost`.

    `plain`: for inspection; what cannot be unpacked is left in its JSON form, and nothing is refused.
    """

    __slots__ = ("losses", "plain", "shapes")

    def __init__(self, *, plain: bool = False) -> None:
        self.plain = plain
        self.losses = 0
        self.shapes: dict[str, Shape | None] = {}

    def unpack(self, node: Any) -> Any:
        """The value that `node` stands for. Raises `Refused` for a tag that is unknown or has wrong content."""
        if type(node) is list:
            return self._items(node)
        if type(node) is not dict:
            return node
        if "$t" not in node:
            return self._fields(node)
        if not self.plain:
            return self._tagged(node)
        try:
            return self._tagged(node)
        except Refused:
            return node

    def _items(self, node: list[Any]) -> list[Any]:
        for index, item in enumerate(node):
            if type(item) is dict or type(item) is list:
                try:
                    node[index] = self.unpack(item)
                except Refused as refused:
                    refused.under(f"[{index}]")
                    raise
        return node

    def _fields(self, node: dict[str, Any]) -> dict[str, Any]:
        for key, item in node.items():
            if type(item) is dict or type(item) is list:
                try:
                    node[key] = self.unpack(item)
                except Refused as refused:
                    refused.under(key_step(key))
                    raise
        return node

    def _tagged(self, node: dict[str, Any]) -> Any:
        tag = node["$t"]
        if type(tag) is not str:
            raise Refused("the tag `$t` of a recorded value is no text")
        if ":" in tag:
            return self._instance(tag, node)
        try:
            unpack = UNPACK.get(tag)
            return self._container(tag, node) if unpack is None else unpack(node)
        except (Refused, RecursionError):
            raise
        except Exception as error:
            raise Refused(f"the recorded {tag} is malformed: {type(error).__name__}: {error}") from error

    def _container(self, tag: str, node: dict[str, Any]) -> Any:
        content = node["v"]
        if tag == "dict":
            return self._fields(content) if type(content) is dict else self._pairs(content)
        if type(content) is not list:
            raise TypeError("its content is no list")
        match tag:
            case "tuple":
                return tuple(self._items(content))
            case "set":
                return set(self._items(content))
            case "frozenset":
                return frozenset(self._items(content))
            case "deque":
                return deque(self._items(content), node.get("maxlen"))
            case _:
                raise Refused(f"the recorded value has the unknown tag {tag!r}")

    def _pairs(self, content: list[list[Any]]) -> dict[Any, Any]:
        return {self.unpack(key): self.unpack(item) for key, item in content}

    def _instance(self, tag: str, node: dict[str, Any]) -> Any:
        before = self.losses
        fields = self._content(node.get("v"))
        extra = self._content(node.get("x"))
        if extra is not None and type(extra) is not dict:
            raise Refused(f"the recorded {tag} is malformed")
        try:
            shape = self._shape(tag)
            if shape is not None:
                if self.losses > before:
                    fields = mend_fields(shape.cls, fields)
                return shape.build(fields, extra)
            reason = f"the class {tag} was recorded and cannot be found; import its module, or annotate its new name"
        except RecursionError:
            raise
        except Refused as refused:
            reason = f"the recorded {tag} no longer fits its class: {refused.reason}"
        except Exception as error:  # noqa: BLE001 - constructors and default factories are the user's code
            reason = f"the recorded {tag} no longer fits its class: {error}"
        if self.plain:
            return fields
        self.losses += 1
        return Lost(tag, fields, extra, reason)

    def _shape(self, tag: str) -> Shape | None:
        """The shape of the class of that tag, None if there is no such class. Raises `Refused` as `shape_of` does."""
        if tag not in self.shapes:
            cls = find_class(tag)
            self.shapes[tag] = None if cls is None else shape_of(cls)
        return self.shapes[tag]

    def _content(self, content: Any) -> Any:
        """What an instance is made of: a dict here is the form of the fields, not a value."""
        if type(content) is dict:
            return self._fields(content)
        return self._items(content) if type(content) is list else content
