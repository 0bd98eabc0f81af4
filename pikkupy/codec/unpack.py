"""From the tree of a JSON text back to the value. The opposite of `pack`, except that it trusts nothing.

The text chooses among known tags and among classes that are already imported and of a known shape. Nothing is imported
or evaluated because of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
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
        if type(node) is not dict or "$t" not in node:
            return self._inside(node)
        tag = node["$t"]
        unpack = self._instance if type(tag) is str and ":" in tag else self._builtin
        if not self.plain:
            return unpack(tag, node)
        try:
            return unpack(tag, node)
        except Refused:
            return node

    def _inside(self, content: Any) -> Any:
        """`content` with everything in it unpacked; a dict here is no tagged object, whatever its keys."""
        if type(content) is dict:
            entries: Iterable[tuple[Any, Any]] = content.items()
        elif type(content) is list:
            entries = enumerate(content)
        else:
            return content
        for key, item in entries:
            if type(item) is dict or type(item) is list:
                try:
                    content[key] = self.unpack(item)
                except Refused as refused:
                    refused.under(key_step(key))
                    raise
        return content

    def _builtin(self, tag: Any, node: dict[str, Any]) -> Any:
        try:
            if tag in UNPACK:
                return UNPACK[tag](node)
            if tag in _FROM_LIST:
                return _FROM_LIST[tag](_list(self._inside(node["v"])), node)
            if tag == "dict":
                content = node["v"]
                return self._inside(content) if type(content) is dict else dict(_list(self._inside(content)))
        except (Refused, RecursionError):
            raise
        except Exception as error:
            raise Refused(f"the recorded {tag} is malformed: {type(error).__name__}: {error}") from error
        if tag == "encoded":
            raise Refused(f"it is encoded with key {node.get('k')!r}; give the engine its payload_codec")
        if tag == "unreadable":
            raise Refused(str(node.get("why")))
        raise Refused(f"the recorded value has the unknown tag {tag!r}")

    def _instance(self, tag: str, node: dict[str, Any]) -> Any:
        before = self.losses
        fields = self._inside(node.get("v"))
        extra = self._inside(node.get("x"))
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
            reason = f"{tag} cannot be made again of what was recorded: {refused.reason}"
        except Exception as error:  # noqa: BLE001 - constructors and default factories are the user's code
            reason = f"{tag} cannot be made again of what was recorded: {error}"
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


_FROM_LIST: dict[str, Callable[[list[Any], dict[str, Any]], Any]] = {
    "tuple": lambda items, _: tuple(items),
    "set": lambda items, _: set(items),
    "frozenset": lambda items, _: frozenset(items),
    "deque": lambda items, node: deque(items, node.get("maxlen")),
}


def _list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise TypeError("its content is no list")
    return content
