"""What to say of a value that cannot be kept: what it is, and what to hand over instead."""

from __future__ import annotations

import inspect
import types
from typing import Any

from pikkupy.codec.refusal import class_name
from pikkupy.codec.scalars import PACK

_BUILTINS: tuple[type, ...] = (bool, int, float, str, list, dict, tuple, set, frozenset, *PACK)


def advice(value: Any) -> str:
    """Why `value` is refused, in words that say what to do."""
    cls = type(value)
    name = class_name(cls)
    base = next((base for base in cls.__mro__ if base in _BUILTINS), None)
    if isinstance(value, types.GeneratorType | types.AsyncGeneratorType):
        return f"a generator ({name}) cannot be kept; hand over a list of its items"
    if inspect.isawaitable(value):
        return f"an awaitable ({name}) cannot be kept; await it and hand over its result"
    if isinstance(value, BaseException):
        return f"an exception ({name}) cannot be kept as a value; raise it, or hand over its message"
    if isinstance(value, type):
        return f"a class ({class_name(value)}) cannot be kept; hand over its name"
    if isinstance(value, types.ModuleType) or callable(value):
        return f"a {cls.__name__} cannot be kept; hand over data, and look the {cls.__name__} up where it is used"
    if base is not None:
        return (
            f"{name} is a subclass of {class_name(base)} and would not come back as itself; "
            f"hand over a plain {base.__name__}"
        )
    return (
        f"a value of type {name} cannot be kept; hand over plain data, or make the class a msgspec.Struct, "
        "a dataclass, an attrs or pydantic class, an Enum or a NamedTuple"
    )
